-- When to try again and how long to wait first: exponential backoff with full jitter, or as long
-- as Retry-After says (RFC 9110 section 10.2.3). Nothing here sleeps or reads a clock: time, chance
-- and the outcome of the attempt are arguments.

local budget = require "orchestrator.budget"
local date = require "orchestrator.date"
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
---@field deadline? number from the start of the first attempt
---@field on_retry? fun(info: table)

---@class orc.Attempt
---@field attempt integer how many there were, this one included
---@field method string
---@field kind? string the error's kind; nil when there was a response
---@field fault? string see faults.lua; the error's kind decides without one
---@field status? integer
---@field retry_after? string the raw field; several are joined by ", "
---@field retry_in? number seconds to wait, when more is known than the field says (rotation.lua)
---@field wall number unix time
---@field random fun(): number from [0, 1)
---@field asked? boolean the script asked for a retry, whatever the status and method
---@field keyed? boolean the request has an Idempotency-Key
---@field elapsed? number seconds since the first attempt began; 0 when none did

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
  deadline = { type = "duration" },
  on_retry = { type = "function" },
}

local ALWAYS = 10 -- retries a minute that even an idle client may make

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

-- Seconds. RFC 9110 has whole ones only, but there are servers that send "0.5", and what they mean
-- is plain.
local function parse_seconds(text)
  return (text:find "^%d+$" or text:find "^%d+%.%d+$") and tonumber(text) or nil
end

local function wait_of(text, wall)
  local time = date.http(text, wall)
  return parse_seconds(text) or (time and time > wall and time - wall or nil)
end

--- How long a Retry-After field asks to wait: delta-seconds or an HTTP date. What is past, negative
--- or junk says nothing. When there are several the longest counts: the server and the gateway
--- before it may each have their reason.
---@param value string|nil several fields joined by ", "
---@param wall number unix time
---@return number|nil seconds
function retry.after(value, wall)
  if not value then return nil end
  local longest
  local day = "" -- a date has a comma of its own
  for part in (value .. ", "):gmatch "(.-),%s+" do
    part = part:match "^%s*(.-)%s*$"
    local wait = wait_of(day .. part, wall) or wait_of(part, wall)
    day = part:find "^%a+$" and part .. ", " or ""
    if wait and wait > (longest or -1) then longest = wait end
  end
  return longest
end

-- POST and PATCH may be sent again when the server can tell that it is the same request:
-- draft-ietf-httpapi-idempotency-key-header.
local KEYED = { POST = true, PATCH = true }

--- Whether the outcome may be better next time.
---@param policy orc.RetryPolicy
---@param a table {kind, fault, status, asked} of an orc.Attempt
---@return boolean
function retry.may_pass(policy, a)
  if a.asked then return true end
  if a.kind and a.kind ~= "http" then
    if a.fault then return faults.get(a.fault).retried == true end
    return RETRIED[a.kind] == true
  end
  return policy.statuses[a.status] == true
end

-- Why not to try again, whatever the wait would be.
local function refusal(policy, a)
  if not retry.may_pass(policy, a) then
    return "permanent"
  elseif a.asked or policy.methods[a.method] or (a.keyed and KEYED[a.method]) then
    return a.attempt >= policy.attempts and "attempts" or nil
  end
  return "method"
end

--- How long to wait before the next attempt; or nil and why there is none: "permanent" (a kind or
--- status that is not retried), "method", "attempts", "deadline" (the wait would end after it), or
--- "rate_limited" (asked to wait longer than `max_retry_after`, or than the deadline lets us).
---@param policy orc.RetryPolicy
---@param a orc.Attempt
---@return number|nil seconds
---@return string|nil reason
function retry.decide(policy, a)
  local reason = refusal(policy, a)
  if reason then return nil, reason end
  local left = policy.deadline and policy.deadline - (a.elapsed or 0) or math.huge
  local asked_wait = a.retry_in
    or policy.respect_retry_after and retry.after(a.retry_after, a.wall)
  if asked_wait then
    if asked_wait > policy.max_retry_after or asked_wait > left then return nil, "rate_limited" end
    return asked_wait
  end
  local wait = math.min(policy.wait_max, policy.wait_initial * policy.factor ^ (a.attempt - 1))
  if policy.jitter == "full" then wait = a.random() * wait end
  if wait > left then return nil, "deadline" end
  return wait
end

--- What retries a client may make.
---@param share number for each request of the last minute
---@return orc.Budget
function retry.budget(share)
  return budget.new(share, ALWAYS)
end

return retry
