-- Retry-After (lua/orchestrator/retry.lua). Input: a byte that chooses the time of day and policy,
-- then the field.
-- Properties: a wait is a number from 0 up; the three forms of a date mean the time they were made
-- from; what is decided is never to wait longer than the policy allows.

local retry = require "orchestrator.retry"
local kit = require "kit"

local WALLS = { 0, 951782400, 1700000000.25, 4102444799, 253402300799 }
local MAX = { 0, 1, 300, 1e9 }

local POLICIES = {}
for i, longest in ipairs(MAX) do
  POLICIES[i] = retry.policy { max_retry_after = longest, jitter = i % 2 == 0 and "full" }
end

local FORMS = {
  "!%a, %d %b %Y %H:%M:%S GMT", "!%A, %d-%b-%y %H:%M:%S GMT", "!%a %b %e %H:%M:%S %Y",
}

local function half()
  return 0.5
end

-- A date made of the input's first digits reads back as the time it was made of.
local function check_dates(input, wall)
  local time = tonumber(input:match "%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?") or 0
  time = time % 253402300800
  for i, form in ipairs(FORMS) do
    local near = i ~= 2 or math.abs(time - wall) < 49 * 31556952 -- two digits mean a near year
    local date = os.date(form, time)
    local wait = retry.after(date, wall)
    local expected = time > wall and time - wall or nil
    kit.check(not near or wait == expected, "%s at %.17g: %s, not %s", date, wall, wait, expected)
  end
end

return function(input)
  local reader = kit.reader(input)
  local wall = reader:pick(WALLS)
  local policy = reader:pick(POLICIES)
  local field = reader:rest()
  local wait = retry.after(field, wall)
  kit.check(wait == nil or type(wait) == "number" and wait >= 0, "it says %s", kit.show(wait))
  check_dates(field, wall)
  local decided, reason = retry.decide(policy, {
    attempt = 1, method = "GET", status = 503, retry_after = field, wall = wall, random = half,
  })
  if decided then
    local most = math.max(policy.max_retry_after, policy.wait_max)
    kit.check(decided >= 0 and decided <= most, "it waits %s of %s", decided, most)
  else
    kit.check(reason == "rate_limited" and wait > policy.max_retry_after, "no retry: %s", reason)
  end
end
