-- The circuit breakers of a client: one for each host (breaker.lua), and what is said of them.

local breaker = require "orchestrator.breaker"
local faults = require "orchestrator.faults"
local options = require "orchestrator.options"

local circuit = {}

local KEPT = 1000 -- hosts of which there is nothing to remember

local SCHEMA = {
  failures = { type = "number", min = 0, max = 1, default = 0.5 },
  min_requests = { type = "integer", min = 1, default = 20 },
  window = { type = "duration", min = 0.001, default = "30s" },
  cooldown = { type = "duration", min = 0.001, default = "30s" },
  probes = { type = "integer", min = 1, default = 3 },
  on_open = { type = { one_of = { "wait", "fail" } }, default = "wait" },
}

---@class orc.Circuits
---@field fails boolean who comes to an open circuit fails instead of waiting
local Circuits = {}
Circuits.__index = Circuits

--- The breakers of a client; nil when it wants none.
---@param given boolean|table|nil the option
---@param env table {sched, warn: fun(text)}
---@return orc.Circuits|nil
function circuit.new(given, env)
  if not given then return nil end
  local opts = options.check("client.circuit_breaker", given ~= true and given or nil, SCHEMA)
  return setmetatable({
    opts = opts, fails = opts.on_open == "fail",
    sched = env.sched, warn = env.warn,
    by_host = {}, count = 0, most = KEPT,
  }, Circuits)
end

local function sweep(self)
  local now = self.sched:now()
  for host, one in pairs(self.by_host) do
    if one:is_idle(now) then
      self.by_host[host] = nil
      self.count = self.count - 1
    end
  end
  self.most = math.max(KEPT, 2 * self.count)
end

local function described(one)
  return string.format("%d of %d attempts failed within %g s", one.failed, one.ended, one.window)
end

-- It has opened or closed.
local function changed(one)
  local self, now = one.circuits, one.circuits.sched:now()
  if one.state == "open" then
    one.since = now
    self.warn(string.format("circuit open: %s: %s, none starts for %g s", one.host, described(one),
      one.cooldown))
  else
    one.held, one.since = one.held + now - one.since, nil
    self.warn(string.format("circuit closed: %s answers again", one.host))
  end
end

---@param host string
---@return orc.Breaker
function Circuits:of(host)
  local one = self.by_host[host]
  if one then return one end
  if self.count >= self.most then sweep(self) end
  local opts = self.opts
  one = breaker.new {
    failures = opts.failures, min_requests = opts.min_requests, window = opts.window,
    cooldown = opts.cooldown, probes = opts.probes, on_change = changed,
  }
  one.circuits, one.host = self, host
  one.held, one.since = 0, nil -- how long it was not closed before, and since when it is not
  self.by_host[host] = one
  self.count = self.count + 1
  return one
end

--- Why an attempt may not start; nil when it may.
---@return string|nil
function Circuits:refusal(host, now)
  local one = self:of(host)
  local allowed, due = one:allow(now)
  if allowed then return nil end
  return string.format("the circuit is open: %s; %s", described(one),
    due and string.format("none starts for %.3g s", due - now) or "others are trying it")
end

--- How long the circuit of a host was not closed, in all.
---@return number seconds
function Circuits:held(host, now)
  local one = self.by_host[host]
  if not one then return 0 end
  return one.held + (one.since and now - one.since or 0)
end

-- Faults that are no sign of how the host does.
local OURS = {
  bad_url = true, bad_request = true, cannot_save = true, cannot_read = true,
  no_descriptors = true, out_of_memory = true, blocked_address = true, proxy_refused = true,
  head_too_large = true, body_too_large = true, too_many_codings = true, expands_too_fast = true,
}

--- Whether an outcome is a sign that the host is well (true) or not (false): a status below 500 is
--- one, another status or no answer is not; nil when it tells nothing.
---@param outcome table|nil {status: integer?, fault: string?}
---@return boolean|nil
function circuit.judge(outcome)
  if not outcome then return nil end
  local fault = outcome.fault
  if not fault then return outcome.status ~= nil and outcome.status < 500 end
  if OURS[fault] or faults.get(fault).kind == "cancelled" then return nil end
  return faults.get(fault).kind == "decode"
end

--- An attempt has ended, or its answer has begun.
---@param outcome table|nil nil when it was cancelled
---@param elapsed number|nil seconds since it started
function Circuits:report(host, now, outcome, elapsed)
  self:of(host):report(now, circuit.judge(outcome), elapsed)
end

return circuit
