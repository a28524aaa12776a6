-- The header fields that a cache goes by, read as RFC 9111 and RFC 9110 say. Pure. What a server
-- sends is not always well-formed; what is not never makes a response fresher than it would be
-- without.

local date = require "orchestrator.date"

local fields = {}

local TOKEN = "^[!#$%%&'*+.^_`|~%w-]+"
local MOST = 2 ^ 31 -- seconds: RFC 9111 section 1.2.2
local LARGEST = 2 ^ 53 -- bytes; beyond that they cannot be told apart

-- Where the element of a list that begins at `from` ends: before the next comma outside of quotes.
local function element_end(text, from)
  local quoted, at = false, from
  while true do
    at = text:find(quoted and '["\\]' or '[",]', at)
    local char = at and text:sub(at, at)
    if not char then return #text end
    if char == "," then return at - 1 end
    if char == '"' then quoted = not quoted end
    at = at + (char == "\\" and 2 or 1)
  end
end

--- Iterates over the elements of a comma-separated list (RFC 9110 section 5.6.1), without the empty
--- ones and the white space around them.
---@param text string|nil
---@return fun(): string|nil
function fields.elements(text)
  local at = 1
  return function()
    while text and at <= #text do
      local finish = element_end(text, at)
      local element = text:sub(at, finish):match "^[ \t]*(.-)[ \t]*$"
      at = finish + 2
      if element ~= "" then return element end
    end
  end
end

local function unquoted(text)
  local inner = text:match '^"(.*)"$'
  return inner and inner:gsub("\\(.)", "%1") or text
end

--- Directives of Cache-Control (RFC 9111 section 5.2): name in lower case → its argument, without
--- quotes, or true where it has none. Of several the first counts (section 4.2.1). What follows a
--- name and is no argument makes it "", which no directive takes.
---@param text string|nil
---@return table<string, string|true>
function fields.directives(text)
  local found = {}
  if not text then return found end
  for element in fields.elements(text) do
    local name = element:match(TOKEN)
    if name then
      local rest = element:sub(#name + 1)
      local argument = true
      if rest ~= "" then
        local value = rest:sub(2)
        local good = rest:sub(1, 1) == "="
          and (value:match(TOKEN) == value or value:find '^"[^"\\]*"$' or value:find '^".*[^\\]"$')
        argument = good and unquoted(value) or ""
      end
      name = name:lower()
      if found[name] == nil then found[name] = argument end
    end
  end
  return found
end

--- A number of seconds (RFC 9111 section 1.2.2); nil when it is none.
---@param argument string|true|nil
---@return number|nil
function fields.seconds(argument)
  if type(argument) ~= "string" or not argument:find "^%d+$" then return nil end
  return math.min(tonumber(argument), MOST)
end

--- The field names that a directive lists (`no-cache="set-cookie, x-id"`), in lower case, as a set;
--- nil when it lists none.
---@param argument string|true|nil
---@return table<string, true>|nil
function fields.names(argument)
  if type(argument) ~= "string" then return nil end
  local set
  for name in fields.elements(argument) do
    set = set or {}
    set[name:lower()] = true
  end
  return set
end

--- Age (RFC 9111 section 5.1): of a list the first counts; what is no number is no Age. Parameters
--- make it no fresher.
---@param text string|nil
---@return number|nil
function fields.age(text)
  if not text then return nil end
  local first = fields.elements(text)()
  return first and fields.seconds(first:match "^(%d+)[ \t]*;" or first)
end

-- RFC 9111 section 4.2: a cache goes by dates whatever their case.
local function proper(word)
  if #word == 3 and word:upper() == "GMT" then return "GMT" end
  return word:sub(1, 1):upper() .. word:sub(2):lower()
end

local dates, date_count = {}, 0 -- text → unix time: many have the same
local MOST_DATES = 1000
local LONG = #"Sun, 06 Nov 1994 08:49:37 GMT"

--- A date in any of the three forms of RFC 9110 section 5.6.7, in any case. A zone that is not GMT
--- makes it none (RFC 9111 section 4.2).
---@param text string|nil
---@param wall number unix time now
---@return number|nil
function fields.date(text, wall)
  if not text then return nil end
  local time = dates[text]
  if time then return time end
  time = date.http(text, wall) or date.http((text:gsub("%a+", proper)), wall)
  -- All but the old form with two digits for the year (section 5.6.7) are the same for ever.
  if time and #text == LONG then
    if date_count == MOST_DATES then dates, date_count = {}, 0 end
    dates[text], date_count = time, date_count + 1
  end
  return time
end

--- The names that Vary lists, in lower case and sorted; "*" when it lists that.
---@param text string|nil
---@return string[]|"*"
function fields.vary(text)
  if not text then return {} end
  local names, seen = {}, {}
  for name in fields.elements(text) do
    name = name:lower()
    if name == "*" then return "*" end
    if not seen[name] then names[#names + 1] = name end
    seen[name] = true
  end
  table.sort(names)
  return names
end

-- Fields whose elements are words without case, and in no order but that of their weights.
local PREFERENCES = {
  ["accept-charset"] = true, ["accept-encoding"] = true, ["accept-language"] = true,
}

local function weighed(text)
  text = text:gsub("[ \t]+", ""):lower()
  local word, weight = text:match "^(.-);q=([%d.]+)$"
  weight = tonumber(weight)
  if not weight then return text, 1 end
  return word, weight
end

local function preference(text)
  local word, weight = weighed(text)
  return weight == 1 and word or string.format("%s;q=%g", word, weight)
end

--- Which of the words that a request lists it likes best, in lower case; nil when there is no such
--- one.
---@param text string|nil
---@return string|nil
function fields.favourite(text)
  local best, most = nil, 0
  for element in fields.elements(text) do
    local word, weight = weighed(element)
    if weight > 1 then return nil end -- RFC 9110 section 12.4.2
    if weight > most then
      best, most = word, weight
    elseif weight == most then
      best = nil
    end
  end
  return best
end

--- A request's field as it is compared when Vary names it: those alike mean the same (RFC 9111
--- section 4.1).
---@param name string in lower case
---@param value string|nil
---@return string|nil
function fields.selecting(name, value)
  if not value then return nil end
  local elements, is_preference = {}, PREFERENCES[name]
  for element in fields.elements(value) do
    elements[#elements + 1] = is_preference and preference(element) or element
  end
  if is_preference then table.sort(elements) end
  return table.concat(elements, ",")
end

local MOST_JUDGED = 1000 -- names that are remembered
local judged, judged_count = {}, 0 -- name → whether it is one
local WORDS = { "auth", "token", "secret", "passw", "session", "credential", "apikey" }

--- Whether a request's field says who asks, by its name: APIs have many for it, and hardly one says
--- `Vary`.
---@param name string in lower case
---@return boolean
function fields.is_credential(name)
  local known = judged[name]
  if known ~= nil then return known end
  if judged_count == MOST_JUDGED then judged, judged_count = {}, 0 end
  known = name ~= "idempotency-key" and name:find "%f[%w]key%f[%W]" ~= nil
  for _, word in ipairs(WORDS) do known = known or name:find(word, 1, true) ~= nil end
  judged[name], judged_count = known, judged_count + 1
  return known
end

--- Whether an entity tag is a strong one (RFC 9110 section 8.8.3).
---@param tag string|nil
---@return boolean
function fields.is_strong(tag)
  return tag ~= nil and tag:find '^"[^"]*"$' ~= nil
end

local function opaque(tag)
  return tag:match "^W/(.*)" or tag
end

--- Whether two entity tags are the same but for their strength (RFC 9110 section 8.8.3.2).
---@param a string
---@param b string
---@return boolean
function fields.same_tag(a, b)
  return opaque(a) == opaque(b)
end

--- Whether the If-None-Match of a request finds a response with this entity tag (RFC 9110 section
--- 13.1.2).
---@param text string
---@param tag string|nil
---@return boolean
function fields.none_match(text, tag)
  if text == "*" then return true end
  for element in fields.elements(text) do
    if tag and fields.same_tag(element, tag) then return true end
  end
  return false
end

---@class orc.ByteRange both ends included, from 0
---@field first integer
---@field last integer

--- What a Range asks for: { first =, last = } (`last` may be missing), or { suffix = }; nil when it
--- is anything but one range of bytes (RFC 9110 section 14.1.2).
---@param text string|nil
---@return table|nil
function fields.range(text)
  local first, last = (text or ""):match "^[Bb][Yy][Tt][Ee][Ss]=[ \t]*(%d*)%-(%d*)[ \t]*$"
  first, last = tonumber(first), tonumber(last)
  if first then
    if last and last < first then return nil end
    return { first = first, last = last }
  end
  return last and { suffix = last }
end

--- The bytes that are asked for, of so many; nil when there are none.
---@param asked table from fields.range
---@param size integer
---@return integer|nil first, integer? last both included, from 0
function fields.resolve(asked, size)
  local first, last = asked.first, asked.last
  if asked.suffix then
    first, last = math.max(0, size - asked.suffix), size - 1
  end
  if first >= size or (asked.suffix == 0) then return nil end
  return first, math.min(last or size - 1, size - 1)
end

--- Content-Range of one range of bytes (RFC 9110 section 14.4); nil when it is malformed.
---@param text string|nil
---@return integer|nil first, integer? last, integer? size nil when the server does not know
function fields.content_range(text)
  local first, last, size = (text or ""):match "^[Bb][Yy][Tt][Ee][Ss] +(%d+)%-(%d+)/([%d*]+)$"
  first, last = tonumber(first), tonumber(last)
  if not first or last < first or last >= LARGEST then return nil end
  if size == "*" then return first, last end
  size = tonumber(size)
  if not size or size <= last or size >= LARGEST then return nil end
  return first, last, size
end

return fields
