-- An entry of the cache as bytes, for cache_store.lua. What is asked of each hit takes no time to
-- read; LuaJIT's own serialization (of 2022) crashes on what is spoilt.
--
--   the numbers of NUMBERS, each a double of the machine, NaN for none
--   the Range that a 206 was the answer to, then, if a script gave it a key, a NUL and that, and a
--   line end; what Vary lists, and a line end
--   "name:value" lines of what the request sent, and an empty one
--   "Name:value" lines of the response's header
--
-- Values have no line ends (headers.lua). The header is read when somebody asks for it: what is
-- fresh is mostly used without (cache_quick.lua), and its tables cost more than all the rest.

local cache_entry = require "orchestrator.cache_entry"
local cache_quick = require "orchestrator.cache_quick"
local ffi = require "ffi"

local cache_document = {}

-- The size is that of all that follows the numbers, then the entry's, and those of its range.
local NUMBERS = 10
local numbers = ffi.new("double[?]", NUMBERS)
local BYTES = ffi.sizeof(numbers)

local NONE = 0 / 0
local NO_RANGE = {}
local FAR = 1e11 -- seconds: there are dates for these times
local NEW_LINE = ("\n"):byte()

---@param entry orc.CacheEntry
---@return string
function cache_document.encode(entry)
  local range = entry.range or NO_RANGE
  local named = entry.named and "\0" .. entry.named or ""
  local text = (entry.asked or "") .. named .. "\n" .. (entry.on or "") .. "\n"
    .. cache_quick.lines(entry.vary) .. "\n" .. cache_entry.lines(entry)
  numbers[0], numbers[1], numbers[2] = #text, entry.status, entry.size
  numbers[3], numbers[4] = entry.request_time, entry.response_time
  numbers[5], numbers[6] = entry.plain or NONE, entry.born or NONE
  numbers[7], numbers[8] = range.first or NONE, range.last or NONE
  numbers[9] = range.size or NONE
  return ffi.string(numbers, BYTES) .. text
end

-- The lines that begin at `from`, and where the empty one after them ends.
local function read_lines(text, from)
  local list = {}
  while true do
    local name, value, after = text:match("^([^:\n]+):([^\n]*)\n()", from)
    if not name then return list, from + 1 end
    list[#list + 1], from = { name, value }, after
  end
end

local Entry = {}

function Entry.__index(self, name)
  if name == "fields" then
    self.fields = read_lines(self.document, self.header_at)
    self.document, self.header_at = nil, nil
    return self.fields
  elseif name == "vary" then
    local vary = {}
    for _, field in ipairs((read_lines(self.sent, 1))) do vary[field[1]] = field[2] end
    self.vary = vary
    return vary
  end
end

local function given(number)
  if number == number then return number end
end

-- A part without its range would pass for the whole.
local function is_sound(entry)
  return entry.status >= 200 and entry.status <= 599 and entry.size >= 0
    and math.abs(entry.request_time) < FAR and math.abs(entry.response_time) < FAR
    and (entry.status == 206) == (entry.range ~= nil)
end

--- An entry; nil when these are not the bytes of one.
---@param document string
---@param url string
---@return orc.CacheEntry|nil
function cache_document.decode(document, url)
  if #document < BYTES then return nil end
  ffi.copy(numbers, document, BYTES)
  if numbers[0] ~= #document - BYTES then return nil end
  local entry = {
    url = url, status = numbers[1], size = numbers[2], request_time = numbers[3],
    response_time = numbers[4], plain = given(numbers[5]), born = given(numbers[6]),
    range = nil, asked = nil, named = nil, on = nil, sent = "",
    document = document, header_at = nil,
  }
  local at = BYTES + 1
  local first = numbers[7]
  if first == first then
    entry.range = { first = first, last = numbers[8], size = given(numbers[9]) }
  end
  -- Most have none of these.
  if document:sub(at, at + 2) == "\n\n\n" then
    at = at + 3
  else
    local asked, on
    asked, on, at = document:match("^([^\n]*)\n([^\n]*)\n()", at)
    local ends = at and (document:byte(at) == NEW_LINE and at or document:find("\n\n", at, true))
    if not ends then return nil end
    local named = asked:find("\0", 1, true)
    if named then entry.named, asked = asked:sub(named + 1), asked:sub(1, named - 1) end
    entry.asked, entry.on = asked ~= "" and asked or nil, on ~= "" and on or nil
    if ends > at then entry.sent, at = document:sub(at, ends), ends + 2 else at = at + 1 end
  end
  if entry.plain and not entry.born then return nil end
  if not is_sound(entry) then return nil end
  entry.header_at = at
  return setmetatable(entry, Entry)
end

return cache_document
