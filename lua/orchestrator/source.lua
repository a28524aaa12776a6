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
-- Files are read in pieces and may be of any size. What takes their records apart is shared with
-- responses: lines.lua, jsonl.lua, csv.lua.

local csv = require "orchestrator.csv"
local errors = require "orchestrator.errors"
local jsonl = require "orchestrator.jsonl"
local lines = require "orchestrator.lines"
local options = require "orchestrator.options"

local byte, find, sub = string.byte, string.find, string.sub

local source = {}

local CHUNK = 64 * 1024

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

local function not_utf8(text)
  local bad = source.bad_utf8(text)
  return bad and string.format("not UTF-8 at byte %d", bad)
end

local FileReader = class()

function FileReader:next()
  local position, item, problem = self.records:next()
  if position == nil then
    self.ended = true
    if problem == nil then return nil end
    return nil, nil, invalid(string.format("cannot read %s: %s", self.path, problem))
  end
  self.count = self.count + 1
  return position, item, problem and invalid(problem)
end

function FileReader:where(position)
  return self.path .. ":" .. position
end

function FileReader:total()
  if self.ended then return self.count, true end
  local taken = self.records.lines:taken()
  if self.size and taken > 0 and self.count > 0 then
    return math.max(self.count, math.floor(self.count * self.size / taken + 0.5)), false
  end
end

function FileReader:close()
  if self.file then
    self.file:close()
    self.file = nil
  end
end

-- The lines that are items: without empty ones, and UTF-8. See lines.lua for what `next` gives.

local Texts = {}
Texts.__index = Texts

function Texts:next()
  while true do
    local number, line, problem = self.lines:next()
    if number == nil or problem then return number, line, problem end
    if line ~= "" then
      problem = not_utf8(line)
      if problem then line = sub(line, 1, lines.SHOWN) end
      return number, line, problem
    end
  end
end

-- For each kind of file: what reads its records, and the options that takes.
local KINDS = {
  lines = {
    new = function(read, opts) return setmetatable({ lines = lines.new(read, opts) }, Texts) end,
    options = lines.OPTIONS,
  },
  jsonl = { new = jsonl.new, options = jsonl.OPTIONS },
  csv = {
    new = function(read, opts) return csv.new(read, opts, not_utf8) end,
    options = csv.OPTIONS,
  },
}

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
    path = self.path, file = file,
    records = self.kind.new(function() return file:read(CHUNK) end, self.opts),
    size = size, -- nil for what cannot be sought, such as a pipe
    count = 0, ended = false, -- items so far; there are no more
  }, FileReader)
  if self.kind == KINDS.csv then
    local ok, _, message = reader.records:open()
    if not ok then
      reader:close()
      return nil, invalid(string.format("%s: the CSV header is bad: %s", self.path, message))
    end
  end
  return reader
end

local function file_source(name)
  local kind = KINDS[name]
  return function(path, opts)
    local where = "source." .. name
    if type(path) ~= "string" then
      options.fail(where, "expects the path of a file, got a " .. type(path))
    end
    opts = options.check(where, opts, kind.options)
    local file, problem = io.open(path, "rb")
    if not file then options.fail(where, "cannot read " .. problem) end
    -- Kept for the first run: what is a pipe can be opened but once.
    return setmetatable({ path = path, kind = kind, opts = opts, file = file }, Source)
  end
end

--- A source of the lines of a file; empty ones are passed over. Raises when it cannot be read.
---@type fun(path: string, opts?: table): orc.Source
source.lines = file_source "lines"

--- A source of the values of a JSON Lines file.
---@type fun(path: string, opts?: table): orc.Source
source.jsonl = file_source "jsonl"

--- A source of the rows of a CSV file (RFC 4180) as tables of strings, named by its first row.
---@type fun(path: string, opts?: table): orc.Source
source.csv = file_source "csv"

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
