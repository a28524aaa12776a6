-- When an attempt is so slow that another is sent (race.lua), and how many of them a client may
-- send: a share of its requests, and none for a while to a host that said 429.

local body = require "orchestrator.body"
local budget = require "orchestrator.budget"
local histogram = require "orchestrator.histogram"
local options = require "orchestrator.options"

local hedge = {}

local CALM = 60 -- seconds without hedges after a 429
local HOSTS = 100 -- told apart; the others share what is known
local SAMPLES = 20 -- answers of a host before "p95" means anything

-- RFC 9110 section 9.2.2: two at once do what one does.
local METHODS = { GET = true, HEAD = true, OPTIONS = true, PUT = true, DELETE = true }

local SCHEMA = {
  after = {
    type = "any",
    required = true,
    check = function(given)
      local percent = type(given) == "string" and tonumber(given:match "^p(%d%d)$")
      if percent and percent >= 50 then return { quantile = percent / 100 } end
      local seconds = options.duration(given)
      if seconds then return { seconds = seconds } end
      return nil, 'must be a duration such as "800ms", or a percentile such as "p95"'
    end,
  },
  max = { type = "integer", min = 1, default = 1 },
  budget = { type = "number", min = 0, default = 0.05 },
}

---@class orc.HedgePolicy
---@field after table {seconds} or {quantile}
---@field max integer
---@field budget number

---@return orc.HedgePolicy
function hedge.policy(opts, where)
  return options.check(where, opts, SCHEMA)
end

--- Whether the attempts of a plan may be hedged: what may be asked for twice, and is in memory.
---@return boolean
function hedge.applies(plan)
  return plan.hedge and METHODS[plan.method] and not plan.stream and not plan.save
    and not body.is_streamed(plan) or false
end

-- What the hedges of a client share ----------------------------------------------------------

local Shared = {}
Shared.__index = Shared

--- That of a client, made when it is first needed.
function hedge.shared(client)
  local shared = client.hedges
  if not shared then
    local policy = client.defaults.__index.hedge
    shared = setmetatable({
      budget = budget.new(policy and policy.budget or SCHEMA.budget.default, 1),
      latencies = {}, host_count = 0, -- origin → histogram of its good answers
      calm = {}, calm_count = 0, -- origin → until when it is left alone
    }, Shared)
    client.hedges = shared
  end
  return shared
end

local function latencies_of(self, origin)
  local known = self.latencies[origin] or self.latencies.other
  if known then return known end
  if self.host_count >= HOSTS then origin = "other" end
  self.host_count = self.host_count + 1
  self.latencies[origin] = histogram.new()
  return self.latencies[origin]
end

--- Seconds after which an attempt is slow; nil when that is not known yet.
---@param policy orc.HedgePolicy
---@return number|nil
function Shared:patience(policy, origin)
  if policy.after.seconds then return policy.after.seconds end
  local latencies = latencies_of(self, origin)
  return latencies.count >= SAMPLES and latencies:quantile(policy.after.quantile) or nil
end

--- A good answer came after so many seconds.
function Shared:learn(policy, origin, seconds)
  if policy.after.quantile then latencies_of(self, origin):add(seconds) end
end

--- Whether one more may be sent; counts it if so.
---@return boolean
function Shared:allow(origin, now)
  local calm = self.calm[origin]
  return not (calm and now < calm) and self.budget:allow(now)
end

--- The host said 429: more of the same is the last thing it needs.
function Shared:overloaded(origin, now)
  if not self.calm[origin] then
    if self.calm_count >= (self.calm_most or HOSTS) then
      for host, ends in pairs(self.calm) do
        if ends <= now then self.calm[host], self.calm_count = nil, self.calm_count - 1 end
      end
      self.calm_most = math.max(HOSTS, 2 * self.calm_count)
    end
    self.calm_count = self.calm_count + 1
  end
  self.calm[origin] = now + CALM
end

return hedge
