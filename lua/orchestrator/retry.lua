-- When to try again and how long to wait first: exponential backoff with full jitter, Retry-After
-- (RFC 9110 section 10.2.3) and a budget, so that a broken server is not buried in retries. Nothing
-- here sleeps or reads a clock: time, chance and the outcome of the attempt are arguments.

local faults = require "orchestrator.faults"
local options = require "orchestrator.options"

local retry = {}

---@class orc.RetryPolicy
---@field attempts integer counts the first
---@field wait_initial number
---@field wait_max number
---@field factor number
---@field jitter "full"|false
---@field statuses table<integer, true>
---@field methods table<string, true>
---@field respect_retry_after boolean
---@field max_retry_after number
---@field budget number

---@class orc.Attempt
---@field attempt integer how many there were, this one included
---@field method string
---@field kind? string the error's kind; nil when there was a response
---@field fault? string see faults.lua; the error's kind decides without one
---@field status? integer
---@field retry_after? string the raw field
---@field wall number unix time
---@field random fun(): number from [0, 1)
---@field asked? boolean the script asked for a retry, whatever the status and method

-- The lists of a policy become sets. A set given instead would pass for an empty list: refused.
local function set_of(accepts, requirement)
  return function(list)
    local set = {}
    for key, element in pairs(list) do
      if type(key) ~= "number" or not accepts(element) then
        return nil, "must be a list of " .. requirement
      end
      set[element] = true
    end
    return set
  end
end

local function is_status(v)
  return type(v) == "number" and v % 1 == 0 and v >= 100 and v <= 599
end

local function is_method(v)
  return type(v) == "string" and v:find "^[%u-]+$" ~= nil
end

local SCHEMA = {
  attempts = { type = "integer", min = 1, default = 5 },
  wait_initial = { type = "duration", default = "500ms" },
  wait_max = { type = "duration", default = "60s" },
  factor = { type = "number", min = 1, default = 2 },
  jitter = { type = { one_of = { "full", false } }, default = "full" },
  statuses = {
    type = "table",
    default = { 408, 425, 429, 500, 502, 503, 504, 522, 524 },
    check = set_of(is_status, "statuses such as 503"),
  },
  respect_retry_after = { type = "boolean", default = true },
  max_retry_after = { type = "duration", default = "5m" },
  methods = {
    type = "table",
    default = { "GET", "HEAD", "OPTIONS", "PUT", "DELETE" },
    check = set_of(is_method, 'methods such as "GET"'),
  },
  budget = { type = "number", min = 0, default = 0.2 },
}

local RETRIED = { connect = true, timeout = true, network = true, protocol = true }

--- The policy of a client or request. `false` is a policy of one attempt.
---@param opts table|false|nil
---@param where? string names the options in a message
---@return orc.RetryPolicy
function retry.policy(opts, where)
  if opts == false then
    opts = { attempts = 1 }
  end
  return options.check(where or "retry", opts, SCHEMA)
end

-- Proleptic Gregorian date → days since 1970-01-01, counting years from March.
local function days_since_epoch(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  local leap_days = math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
  return 365 * year + leap_days + math.floor((153 * month - 457) / 5) + day - 719469
end

local MONTHS = {
  Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6,
  Jul = 7, Aug = 8, Sep = 9, Oct = 10, Nov = 11, Dec = 12,
}
local WEEKDAYS = {
  Mon = true, Tue = true, Wed = true, Thu = true, Fri = true, Sat = true, Sun = true,
}
local AVERAGE_YEAR = 31556952 -- seconds

local function unix_time(year, month, day, hour, minute, second)
  local first = days_since_epoch(year, month, 1)
  local length = days_since_epoch(year, month + 1, 1) - first
  if day < 1 or day > length or hour > 23 or minute > 59 or second > 60 then
    return nil
  end
  return (first + day - 1) * 86400 + hour * 3600 + minute * 60 + second
end

-- The year of two digits that is no more than fifty years ahead.
local function full_year(digits, wall)
  local earliest = 1970 + math.floor(wall / AVERAGE_YEAR) - 49
  return earliest + (digits - earliest) % 100
end

-- Any of the three forms of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime.
local function parse_date(text, wall)
  local name, day, month, year, hour, minute, second =
    text:match "^(%a%a%a), (%d%d) (%a%a%a) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT$"
  if not name then
    name, day, month, year, hour, minute, second =
      text:match "^(%a%a%a)%a-day, (%d%d)%-(%a%a%a)%-(%d%d) (%d%d):(%d%d):(%d%d) GMT$"
    year = name and full_year(tonumber(year), wall)
  end
  if not name then
    name, month, day, hour, minute, second, year =
      text:match "^(%a%a%a) (%a%a%a) ([ %d]%d) (%d%d):(%d%d):(%d%d) (%d%d%d%d)$"
  end
  if not WEEKDAYS[name] or not MONTHS[month] then
    return nil
  end
  return unix_time(tonumber(year), MONTHS[month], tonumber(day), tonumber(hour),
    tonumber(minute), tonumber(second))
end

--- How long a Retry-After field asks to wait: delta-seconds or an HTTP date. What is past,
--- negative, fractional or junk says nothing.
---@param value string|nil
---@param wall number unix time
---@return number|nil seconds
function retry.after(value, wall)
  local text = value and value:match "^%s*(.-)%s*$"
  if not text then
    return nil
  elseif text:find "^%d+$" then
    return tonumber(text)
  end
  local time = parse_date(text, wall)
  return time and time > wall and time - wall or nil
end

-- Whether the outcome may be better next time; or the reason why not to try.
local function refusal(policy, a)
  if a.asked then
    return nil
  end
  local passes
  if a.kind and a.kind ~= "http" then
    passes = a.fault and faults.get(a.fault).retried == true or not a.fault and RETRIED[a.kind]
  else
    passes = policy.statuses[a.status]
  end
  if not passes then
    return "permanent"
  end
  return not policy.methods[a.method] and "method" or nil
end

--- How long to wait before the next attempt; or nil and why there is none: "permanent" (a kind or
--- status that is not retried), "method", "attempts", or "rate_limited" (asked to wait too long).
---@param policy orc.RetryPolicy
---@param a orc.Attempt
---@return number|nil seconds
---@return string|nil reason
function retry.decide(policy, a)
  local reason = refusal(policy, a)
  if reason then
    return nil, reason
  elseif a.attempt >= policy.attempts then
    return nil, "attempts"
  end
  local asked_wait = policy.respect_retry_after and retry.after(a.retry_after, a.wall)
  if asked_wait then
    if asked_wait > policy.max_retry_after then
      return nil, "rate_limited"
    end
    return asked_wait
  end
  local cap = math.min(policy.wait_max, policy.wait_initial * policy.factor ^ (a.attempt - 1))
  return policy.jitter == "full" and a.random() * cap or cap
end

---@class orc.RetryBudget
local Budget = {}
Budget.__index = Budget

local WINDOW = 60 -- seconds, and slots of one second
local ALWAYS = 10 -- retries a window that even an idle client may make

--- Counts requests and retries of the last minute, second by second.
---@param fraction number retries allowed per request
---@return orc.RetryBudget
function retry.budget(fraction)
  local self = { fraction = fraction, second = -math.huge, requests = {}, retries = {} }
  self.recent_requests, self.recent_retries = 0, 0
  for slot = 0, WINDOW - 1 do
    self.requests[slot], self.retries[slot] = 0, 0
  end
  return setmetatable(self, Budget)
end

-- The slot of `now`, after the slots that time has passed over were emptied.
local function slot_at(self, now)
  local second = math.max(math.floor(now), self.second)
  for passed = math.max(self.second, second - WINDOW) + 1, second do
    local slot = passed % WINDOW
    self.recent_requests = self.recent_requests - self.requests[slot]
    self.recent_retries = self.recent_retries - self.retries[slot]
    self.requests[slot], self.retries[slot] = 0, 0
  end
  self.second = second
  return second % WINDOW
end

--- Counts a request (its first attempt).
---@param now number monotonic seconds
function Budget:request(now)
  local slot = slot_at(self, now)
  self.requests[slot] = self.requests[slot] + 1
  self.recent_requests = self.recent_requests + 1
end

--- Whether one more retry fits the budget; counts it if so.
---@param now number monotonic seconds
---@return boolean
function Budget:allow(now)
  local slot = slot_at(self, now)
  if self.recent_retries >= math.max(ALWAYS, self.fraction * self.recent_requests) then
    return false
  end
  self.retries[slot] = self.retries[slot] + 1
  self.recent_retries = self.recent_retries + 1
  return true
end

return retry
