-- Where items come from: a list, an iterator function, or a file of lines, JSON Lines or CSV.
--
-- A source describes; `open` gives a reader, which is asked for one item after another:
--   reader:next()          position, item       an item
--                          position, item, err  a bad one, which fails alone
--                          nil                  the end
--                          nil, nil, err        the source itself failed
--   reader:where(position) text for people: "urls.txt:17", "item 3"
--   reader:total()         how many items there will be, and whether that is exact; nil unknown
--   reader:ack(position)   the item is through: a seam for sources that keep count elsewhere
--   reader:close()
-- Files are read in pieces and may be of any size; a line over 1 MB is a bad item.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"

local byte, find, sub = string.byte, string.find, string.sub

local source = {}

local LINE_MAX = 1000 * 1000
local CHUNK = 64 * 1024
local SHOWN = 200 -- bytes of a bad line that are kept

---@class orc.Source
local Source = {}
Source.__index = Source

---@class orc.Reader
local Reader = {}
Reader.__index = Reader

function Reader.ack() end

function Reader.close() end

function Reader.total() end

function Reader.where(_, position)
  return "item " .. position
end

local function class()
  local methods = setmetatable({}, Reader)
  methods.__index = methods
  return methods
end

local function invalid(message)
  return errors.new("invalid", message)
end

-- Lists and functions ----------------------------------------------------------------------

local ListReader = class()

function ListReader:next()
  local at = self.at + 1
  if at > self.n then return nil end
  self.at = at
  local item = self.items[at]
  if item == nil then return at, nil, invalid "the list has a hole here" end
  return at, item
end

function ListReader:total()
  return self.n, true
end

local FunctionReader = class()

function FunctionReader:next()
  local item, err = self.fn()
  if item ~= nil then
    self.at = self.at + 1
    return self.at, item
  elseif err ~= nil then
    return nil, nil, errors.is(err) and err or errors.new("script", tostring(err))
  end
end

-- Files ------------------------------------------------------------------------------------

-- Continuation bytes after the second of a UTF-8 sequence, by how many there are.
local REST = { [0] = "^", "^[\128-\191]", "^[\128-\191][\128-\191]" }

--- Where a text, read from `from` on, stops being UTF-8 (Unicode table 3-7); nil when it does not.
---@return integer|nil
function source.bad_utf8(text, from)
  local at = find(text, "[\128-\255]", from)
  while at do
    local lead, second = byte(text, at, at + 1)
    if lead < 0xC2 or lead > 0xF4 or not second then return at end
    -- The second byte's range is what rules out overlong forms and surrogates.
    local low = lead == 0xE0 and 0xA0 or lead == 0xF0 and 0x90 or 0x80
    local high = lead == 0xED and 0x9F or lead == 0xF4 and 0x8F or 0xBF
    local rest = lead < 0xE0 and 0 or lead < 0xF0 and 1 or 2
    if second < low or second > high or not find(text, REST[rest], at + 2) then return at end
    at = find(text, "[\128-\255]", at + rest + 2)
  end
end

local FileReader = class()

-- The next line without its "\n"; false when it is too long (then with its beginning); nil at
-- the end of the file or, with a message, when reading fails.
local function read_line(self)
  local again = table.remove(self.back)
  if again then
    self.line = self.line + 1
    if type(again) == "table" then return false, again.beginning end
    return again
  end
  local from = self.at
  local beginning -- of a line that is too long
  while true do
    local stop = find(self.buffer, "\n", self.at, true)
    if stop and stop - from > LINE_MAX then
      beginning = beginning or sub(self.buffer, from, from + SHOWN)
    end
    if stop then
      self.line, self.at = self.line + 1, stop + 1
      if beginning then return false, beginning end
      return sub(self.buffer, from, stop - 1)
    end
    if #self.buffer - from >= LINE_MAX then
      beginning = beginning or sub(self.buffer, from, from + SHOWN)
      self.buffer, from = "", 1
    end
    local chunk, problem = self.file:read(CHUNK)
    if problem then return nil, problem end
    if not chunk then
      self.ended = true
      break
    end
    self.offset = self.offset + #chunk
    self.buffer = sub(self.buffer, from) .. chunk
    self.at, from = 1, 1
  end
  local rest = sub(self.buffer, from)
  self.buffer, self.at = "", 1
  if beginning or rest ~= "" then self.line = self.line + 1 end
  if beginning then return false, beginning end
  if rest ~= "" then return rest end
end

local function without_cr(line)
  return byte(line, -1) == 13 and sub(line, 1, -2) or line
end

function FileReader:next()
  while true do
    local line, note = read_line(self)
    if line == nil then
      if not note then return nil end
      return nil, nil, invalid(string.format("cannot read %s: %s", self.path, note))
    end
    local position = self.line
    if line == false then
      self.count = self.count + 1
      return position, note, invalid "the line is longer than 1 MB"
    end
    local item, err = self.parse(self, line)
    if item ~= nil or err then
      self.count = self.count + 1
      if err then item = sub(line, 1, SHOWN) end
      return position, item, err
    end
  end
end

function FileReader:where(position)
  return self.path .. ":" .. position
end

function FileReader:total()
  if self.ended and #self.back == 0 then return self.count, true end
  local read = self.offset - #self.buffer + self.at - 1
  if self.size and read > 0 and self.count > 0 then
    return math.max(self.count, math.floor(self.count * self.size / read + 0.5)), false
  end
end

function FileReader:close()
  if self.file then
    self.file:close()
    self.file = nil
  end
end

-- The parsers of a line: an item; nil for a line that holds none; nil, err for a bad one.

local function parse_text(_, line)
  line = without_cr(line)
  if line == "" then return nil end
  local bad = source.bad_utf8(line)
  if bad then return nil, invalid(string.format("not UTF-8 at byte %d", bad)) end
  return line
end

local function parse_json(_, line)
  if not find(line, "%S") then return nil end
  local value, err = json.decode(line)
  if err then return nil, invalid("not JSON: " .. err.message) end
  return value
end

-- CSV (RFC 4180) -----------------------------------------------------------------------------

local function quotes_balance(line)
  local balanced, at = true, find(line, '"', 1, true)
  while at do
    balanced, at = not balanced, find(line, '"', at + 1, true)
  end
  return balanced
end

-- One quoted field that begins at `at`: its value and the place after it.
local function quoted_field(text, at)
  local from = at + 1
  local stop = find(text, '"', from, true)
  while stop and byte(text, stop + 1) == 34 do
    stop = find(text, '"', stop + 2, true)
  end
  if not stop then return nil, "a quoted field is never closed" end
  local after = byte(text, stop + 1)
  if after and after ~= 44 then return nil, "something follows a closing quote" end
  return (sub(text, from, stop - 1):gsub('""', '"')), stop + 1
end

local function split_fields(text)
  local fields, n, at = {}, 0, 1
  repeat
    local field
    if byte(text, at) == 34 then
      field, at = quoted_field(text, at)
      if not field then return nil, at end
    else
      local comma = find(text, ",", at, true) or #text + 1
      field, at = sub(text, at, comma - 1), comma
      if find(field, '"', 1, true) then return nil, "there is a quote in an unquoted field" end
    end
    n = n + 1
    fields[n] = field
    at = at + 1
  until at > #text + 1
  return fields
end

-- The fields of the record that begins with `line`, which may go on over more lines. When it is
-- bad, only this line is: the others are read again as records of their own.
local function read_fields(self, line)
  local lines, size, open = { line }, #line, not quotes_balance(line)
  local too_long
  while open and size <= LINE_MAX do
    local more, beginning = read_line(self)
    if not more then
      too_long = more == false and { beginning = beginning }
      break
    end
    lines[#lines + 1] = more
    size = size + #more + 1
    if not quotes_balance(more) then open = false end
  end
  local text = without_cr(table.concat(lines, "\n"))
  local fields, problem = split_fields(text)
  local bad = fields and source.bad_utf8(text)
  if bad then fields, problem = nil, string.format("not UTF-8 at byte %d", bad) end
  if fields then return fields end
  if too_long then lines[#lines + 1] = too_long end
  for i = #lines, 2, -1 do
    self.back[#self.back + 1] = lines[i]
    self.line = self.line - 1
  end
  return nil, problem
end

local function parse_csv(self, line)
  if without_cr(line) == "" then return nil end
  local fields, problem = read_fields(self, line)
  if not fields then return nil, invalid("not CSV: " .. problem) end
  local names = self.names
  if #fields ~= #names then
    return nil, invalid(string.format("not CSV: %d fields where the header has %d",
      #fields, #names))
  end
  local item = {}
  for i = 1, #names do item[names[i]] = fields[i] end
  return item
end

local function read_header(self)
  local line, problem
  repeat line, problem = read_line(self) until not line or without_cr(line) ~= ""
  if line == nil and not problem then return {} end
  local names
  if line then names, problem = read_fields(self, line) end
  if line == false then problem = "the line is longer than 1 MB" end
  if not names then return nil, problem end
  local seen = {}
  for _, name in ipairs(names) do
    if seen[name] then return nil, string.format('two columns are named "%s"', name) end
    seen[name] = true
  end
  return names
end

-- Sources ------------------------------------------------------------------------------------

--- Starts from the first item.
---@return orc.Reader|nil, table|nil err
function Source:open()
  if self.items then
    return setmetatable({ items = self.items, n = table.maxn(self.items), at = 0 }, ListReader)
  elseif self.fn then
    return setmetatable({ fn = self.fn, at = 0 }, FunctionReader)
  end
  local file, problem = self.file, nil
  self.file = nil
  if not file then file, problem = io.open(self.path, "rb") end
  if not file then return nil, invalid("cannot read " .. problem) end
  local size = file:seek "end"
  if size then file:seek "set" end
  local reader = setmetatable({
    path = self.path, file = file, parse = self.parse,
    size = size, -- nil for what cannot be sought, such as a pipe
    buffer = "", at = 1, -- what has been read, and where in it the next line begins
    back = {}, -- lines to be read again, the next one last
    ended = false, -- all has been read
    offset = 0, line = 0, count = 0, -- bytes, lines and items so far
  }, FileReader)
  local bom = file:read(3)
  if bom and bom ~= "\239\187\191" then reader.buffer = bom end
  reader.offset = bom and #bom or 0
  if self.parse == parse_csv then
    reader.names, problem = read_header(reader)
    if not reader.names then
      reader:close()
      return nil, invalid(string.format("%s: the CSV header is bad: %s", self.path, problem))
    end
  end
  return reader
end

local function file_source(name, parse)
  return function(path)
    if type(path) ~= "string" then
      options.fail("source." .. name, "expects the path of a file, got a " .. type(path))
    end
    local file, problem = io.open(path, "rb")
    if not file then options.fail("source." .. name, "cannot read " .. problem) end
    -- Kept for the first run: what is a pipe can be opened but once.
    return setmetatable({ path = path, parse = parse, file = file }, Source)
  end
end

--- A source of the lines of a file; empty ones are passed over. Raises when it cannot be read.
---@type fun(path: string): orc.Source
source.lines = file_source("lines", parse_text)

--- A source of the values of a JSON Lines file.
---@type fun(path: string): orc.Source
source.jsonl = file_source("jsonl", parse_json)

--- A source of the rows of a CSV file (RFC 4180) as tables of strings, named by its first row.
---@type fun(path: string): orc.Source
source.csv = file_source("csv", parse_csv)

--- The source that a pipeline's option stands for.
---@param value any a list, an iterator function or a source
---@return orc.Source|nil, string|nil message
function source.of(value)
  if getmetatable(value) == Source then return value end
  if type(value) == "function" then return setmetatable({ fn = value }, Source) end
  if type(value) == "table" then
    if next(value) == nil or table.maxn(value) > 0 then
      return setmetatable({ items = value }, Source)
    end
    return nil, "must be a list, but has no element 1"
  end
  return nil, "must be a list, an iterator function or orc.source.lines, .jsonl or .csv, got a "
    .. type(value)
end

return source
