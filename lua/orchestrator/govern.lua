-- What a host gets besides the numbers that a script gives: as many attempts at once as it is found
-- to take (adaptive.lua), and none while its circuit is open (circuit.lua).

local adaptive = require "orchestrator.adaptive"

local govern = {}

govern.MOST = 500 -- attempts in flight, of a client that is to find out how many

--- Makes the adaptive limits of hosts.
---@param most integer
---@return fun(host: string, limiters: orc.Limiter[]|nil): orc.Adaptive
function govern.adaptive(most)
  return function(host, limiters)
    local learned
    for _, limiter in ipairs(limiters or {}) do
      learned = learned or limiter.learned and limiter:learned(host)
    end
    return adaptive.new { max = most, learned = learned }
  end
end

--- Whether a host may get another attempt; `h.most` becomes how many it may have at once.
---@param pool orc.Pool
---@param h orc.HostState
---@return boolean
---@return number|nil when that may change by itself
function govern.allows(pool, h, now)
  local time
  if h.adaptive then
    local n, due = h.adaptive:limit(now, h.active)
    h.most, time = math.min(pool.slots.per_host, n), due
  end
  if not pool.circuits then return true, time end
  local allowed, due = pool.circuits:of(h.name):allow(now)
  if due and not (time and time < due) then time = due end
  return allowed, time
end

-- Signs that a host has too much to do.
local OVERLOAD = {
  [429] = true, [503] = true, [504] = true,
  connect_failed = true, connect_timeout = true, timeout = true, idle = true, too_slow = true,
}

-- How long the host took, without the time that connecting did.
local function latency_of(outcome)
  if not outcome.elapsed then return nil end
  return outcome.elapsed - (outcome.tls or outcome.connect or outcome.dns or 0)
end

-- How long ago an attempt started. What libcurl tells leaves out the time that results waited for
-- us, and in a burst of them that is the longest part.
local function age_of(outcome, now)
  return outcome.sent and now - outcome.sent or outcome.elapsed
end

local function learn(pool, h, outcome, now)
  local status, fault = outcome.status, outcome.fault
  local overload = OVERLOAD[fault or status] == true
  h.adaptive:report(now, {
    ok = not fault and not overload and (status or 500) < 500, overload = overload,
    elapsed = age_of(outcome, now), latency = latency_of(outcome),
  }, h.active + 1)
  local known = pool.limiters and h.adaptive:learned()
  if not known then return end
  for _, limiter in ipairs(pool.limiters) do
    if limiter.learn then limiter:learn(h.name, known) end
  end
end

--- An attempt has ended, or its answer has begun.
---@param outcome table|nil see Pool:answered
function govern.report(pool, h, outcome, now, sent)
  if outcome then h.used_at = now end
  if h.adaptive and outcome then learn(pool, h, outcome, now) end
  if pool.circuits then
    local age = outcome and age_of(outcome, now) or sent and now - sent
    pool.circuits:report(h.name, now, outcome, age)
  end
end

return govern
