-- What a server says of its own limits in the fields of a response: how many requests are left, and
-- for how long that is all. Pure. Whatever is not understood, or makes no sense, says nothing.
--
-- The fields are those of the IETF drafts — RateLimit with RateLimit-Policy, in the form of a list
-- ("default";r=50;t=30) and in the one before (limit=100, remaining=50, reset=30), and before that
-- RateLimit-Limit, -Remaining and -Reset — and the families of their kind that came first:
-- X-RateLimit-*, X-Rate-Limit-*, and those with another word before or a unit behind.

local date = require "orchestrator.date"

local quota = {}

local MOST = 1e9 -- requests; whoever has that many left has no limit
local FARTHEST = 366 * 86400 -- seconds
local FIELDS, NAME, VALUE = 32, 100, 500 -- fields that are read, and bytes of each

---@class orc.Quota
---@field remaining integer requests
---@field reset number seconds until there are more
---@field limit? integer requests of a whole window
---@field window? number its seconds
---@field rest? integer the least that other limits leave after that

--- Whether it is worth the while to read a head.
---@param head string
---@return boolean
function quota.mentioned(head)
  return head:find("imit", 1, true) ~= nil or head:find("IMIT", 1, true) ~= nil
end

local function number_of(text)
  return text:find "^%d+%.?%d*$" and tonumber(text) or nil
end

-- The least of a list of numbers; of two fields of a name the stricter one counts.
local function least(text)
  local found
  for element in text:gmatch "[^,]+" do
    local n = number_of(element:match "^%s*(.-)%s*$")
    if n and n <= MOST then found = math.min(found or n, math.floor(n)) end
  end
  return found
end

-- "100", "100;w=60", and "10, 10;w=1, 50;w=60": the first number, and the window told with it.
local function limit_of(text)
  local limit, window
  for element in text:gmatch "[^,]+" do
    local n = number_of(element:match "^%s*([%d.]+)" or "")
    limit = limit or n
    if n and n == limit then
      window = window or number_of(element:match ";%s*w%s*=%s*([%d.]+)" or "")
    end
  end
  return limit and math.floor(limit), window
end

local UNITS = { h = 3600, m = 60, s = 1, ms = 0.001 }

-- "6m0s", "1.5s", "20ms"
local function elapse(text)
  local seconds, rest = 0, text
  repeat
    local count, unit, more = rest:match "^(%d+%.?%d*)(%a+)(.*)$"
    if not UNITS[unit] then return nil end
    seconds, rest = seconds + tonumber(count) * UNITS[unit], more
  until rest == ""
  return seconds
end

-- Seconds from now, however a reset is told: seconds, unix time in seconds or milliseconds, a date.
local function reset_of(text, now)
  local n = number_of(text)
  local time
  if not n then
    time = date.http(text, now) or date.rfc3339(text)
    if not time then return elapse(text) end
  elseif n >= 1e12 then
    time = n / 1000
  elseif n >= 1e9 then
    time = n
  else
    return n
  end
  return math.max(0, time - now)
end

local WORDS = { limit = true, remaining = true, reset = true }
local WINDOWS = { second = 1, minute = 60, hour = 3600, day = 86400 }

-- Adds what one field of a family says to its group: those that differ in one word alone.
local function add_member(groups, name, value, now)
  local family, rest = name:match "^(.-rate%-?limit)%-(.*)$"
  if not family then return end
  local what, window, after, other = nil, nil, false, {}
  for word in rest:gmatch "[^-]+" do
    if WORDS[word] and not what then
      what = word
    elseif word == "after" then
      after = true
    else
      window = window or WINDOWS[word]
      other[#other + 1] = word
    end
  end
  local unit = table.concat(other, "-")
  if not what or unit:find "token" then return end -- tokens are no requests
  local key = family .. " " .. unit
  local group = groups[key]
  if not group then
    group = { plain = unit == "", window = window }
    groups[key], groups[#groups + 1] = group, group
  end
  if what == "remaining" then
    group.remaining = least(value)
  elseif what == "limit" then
    group.limit, window = limit_of(value)
    group.window = group.window or window
  elseif after then
    group.after = number_of(value)
  else
    group.reset = reset_of(value, now)
  end
end

-- The items of a structured list (RFC 9651) with their numbers: {name, r =, t =, …}.
local function items_of(text)
  local names, items = {}, {}
  text = text:gsub('"([^"\\]*)"', function(name)
    names[#names + 1] = name
    return "#" .. #names
  end)
  if text:find('"', 1, true) then return items end
  local function plain(token)
    local index = token:match "^#(%d+)$"
    return index and names[tonumber(index)] or token
  end
  for member in text:gmatch "[^,]+" do
    local item = { plain(member:match "^%s*([^;%s]*)") }
    for key, value in member:gmatch ";%s*([%l*][%w_.*-]*)=([^;%s]*)" do
      item[key] = number_of(value) or plain(value)
    end
    items[#items + 1] = item
  end
  return items
end

local function counted(value)
  return type(value) == "number" and value or nil
end

-- RateLimit and RateLimit-Policy.
local function add_items(groups, current, policies)
  local known = {}
  for _, item in ipairs(items_of(policies or "")) do known[item[1]] = item end
  local limit = current:match "limit=(%d+)"
  if current:find "remaining=" then -- one limit, as a dictionary
    local policy = known[limit] or {}
    groups[#groups + 1] = {
      plain = true, limit = tonumber(limit), window = counted(policy.w),
      remaining = least(current:match "remaining=(%d+)" or ""),
      reset = tonumber(current:match "reset=(%d+)"),
    }
    return
  end
  for _, item in ipairs(items_of(current)) do
    local policy = known[item[1]] or {}
    local unit = policy.qu or "requests"
    if type(item.r) == "number" and item.r <= MOST and unit == "requests" then
      groups[#groups + 1] = {
        plain = true, remaining = math.floor(item.r), reset = counted(item.t),
        limit = counted(policy.q), window = counted(policy.w),
      }
    end
  end
end

-- Calls `each(name, value)` for the fields of a head that may be about limits.
local function each_field(head, lower, each)
  local count = 0
  for name, from, to in lower:gmatch "\n([%w_-]+)[ \t]*:()[^\n]*()" do
    if #name <= NAME and name:find "rate%-?limit" and to - from <= VALUE then
      each(name, head:sub(from, to - 1):match "^%s*(.-)%s*$")
      count = count + 1
      if count == FIELDS then return end
    end
  end
end

-- What the server's clock says, where it is told: ours may be wrong.
local function server_time(head, lower, wall)
  local from, to = lower:match "\ndate:[ \t]*()[^\r\n]*()"
  return from and to - from <= NAME and date.http(head:sub(from, to - 1), wall) or wall
end

-- All limits that a head tells of, in no particular order.
local function groups_of(head, wall)
  local lower = head:lower()
  local now = server_time(head, lower, wall)
  local groups, current, policies = {}, nil, nil
  each_field(head, lower, function(name, value)
    if name == "ratelimit" then
      current = current and current .. "," .. value or value
    elseif name == "ratelimit-policy" then
      policies = policies and policies .. "," .. value or value
    else
      add_member(groups, name, value, now)
    end
  end)
  if current then add_items(groups, current, policies) end
  return groups
end

-- Whether limit a leaves less than b; of two that leave as much, for longer.
local function tighter(a, b)
  if a.remaining ~= b.remaining then return a.remaining < b.remaining end
  return a.reset > b.reset
end

--- The tightest of the limits that a response tells of.
---@param head string the status line and the fields, as received
---@param wall number unix time
---@return orc.Quota|nil
function quota.read(head, wall)
  if not quota.mentioned(head) then return nil end
  local groups = groups_of(head, wall)
  local common -- the reset of who tells it once for all units
  for _, group in ipairs(groups) do
    if group.plain then common = common or group.after or group.reset end
  end
  local tightest, all = nil, {}
  for _, group in ipairs(groups) do
    local reset = group.after or group.reset or common or group.window
    if group.remaining and reset and reset <= FARTHEST then
      local limit, window = group.limit, group.window
      local one = {
        remaining = group.remaining, reset = reset,
        limit = limit and limit >= 1 and limit <= MOST and limit or nil,
        window = window and window > 0 and window <= FARTHEST and window or nil,
      }
      all[#all + 1] = one
      if not tightest or tighter(one, tightest) then tightest = one end
    end
  end
  for _, other in ipairs(all) do
    if other.reset > tightest.reset + 1 then
      tightest.rest = math.min(tightest.rest or other.remaining, other.remaining)
    end
  end
  return tightest
end

return quota
