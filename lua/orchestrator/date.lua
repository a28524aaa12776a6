-- HTTP dates (RFC 9110 section 5.6.7) and those of RFC 3339, to unix time.

local date = {}

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
  if month < 1 or month > 12 then return nil end
  local first = days_since_epoch(year, month, 1)
  local length = days_since_epoch(year, month + 1, 1) - first
  if day < 1 or day > length or hour > 23 or minute > 59 or second >= 61 then
    return nil
  end
  return (first + day - 1) * 86400 + hour * 3600 + minute * 60 + second
end

-- The year of two digits that is no more than fifty years ahead.
local function full_year(digits, wall)
  local earliest = 1970 + math.floor(wall / AVERAGE_YEAR) - 49
  return earliest + (digits - earliest) % 100
end

--- Any of the three forms of an HTTP date: IMF-fixdate, RFC 850, asctime.
---@param text string
---@param wall number unix time now, which tells the century of a year of two digits
---@return number|nil unix time
function date.http(text, wall)
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

--- A date and time of RFC 3339: "2026-11-22T05:30:15.25Z", "2026-11-22T06:30:15+01:00".
---@param text string
---@return number|nil unix time
function date.rfc3339(text)
  local year, month, day, hour, minute, second, zone =
    text:match "^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d%.?%d*)([Zz+%-].*)$"
  if not year then return nil end
  local offset = 0
  if zone ~= "Z" and zone ~= "z" then
    local sign, hours, minutes = zone:match "^([+%-])(%d%d):(%d%d)$"
    if not sign or tonumber(hours) > 23 or tonumber(minutes) > 59 then return nil end
    offset = (hours * 60 + minutes) * (sign == "+" and 60 or -60)
  end
  local time = unix_time(tonumber(year), tonumber(month), tonumber(day), tonumber(hour),
    tonumber(minute), tonumber(second))
  return time and time - offset
end

return date
