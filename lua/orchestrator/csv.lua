-- CSV (RFC 4180): records of quoted and unquoted fields, named by the first one unless there is no
-- header. Blank lines are passed over. See lines.lua for what `next` gives.
--
-- A record may go on over lines, so a quote that is never closed could swallow all the rest. When
-- a record is bad only its first line is: the others are read again as records of their own.

local lines = require "orchestrator.lines"

local byte, find, sub = string.byte, string.find, string.sub

local csv = {}

--- What a script can say about it.
csv.OPTIONS = {
  max_line = lines.OPTIONS.max_line,
  header = { type = "boolean", default = true },
  separator = {
    type = "string", default = ",",
    check = function(text)
      if #text == 1 and not find(text, '["\r\n\128-\255]') then return text end
      return nil, 'must be one ASCII character other than a quote or line break, such as ";"'
    end,
  },
}

---@class orc.CsvReader
---@field lines orc.LineReader
---@field names string[]|nil of the fields, once the header was read
---@field back table[] lines to be read again, the next one last
local Csv = {}
Csv.__index = Csv

---@param read fun(): string|nil, any
---@param opts {max_line: integer, separator: string, header: boolean} checked. A record is not
---  much longer than a line may be
---@param check? fun(record: string): string|nil what else is wrong with a record
---@param once? boolean nobody reads on after a bad record
---@return orc.CsvReader
function csv.new(read, opts, check, once)
  return setmetatable({
    lines = lines.new(read, opts, true),
    separator = opts.separator,
    header = opts.header,
    check = check,
    once = once,
    names = nil,
    back = {},
  }, Csv)
end

local function next_line(self)
  local back = self.back
  if #back == 0 then return self.lines:next() end
  return unpack(table.remove(back))
end

local function without_cr(line)
  return byte(line, -1) == 13 and sub(line, 1, -2) or line
end

local function quotes_balance(line)
  local balanced, at = true, find(line, '"', 1, true)
  while at do
    balanced, at = not balanced, find(line, '"', at + 1, true)
  end
  return balanced
end

-- One quoted field that begins at `at`: its value and the place after it; or nil and why not.
local function quoted_field(text, at, separator)
  local from = at + 1
  local stop = find(text, '"', from, true)
  while stop and byte(text, stop + 1) == 34 do
    stop = find(text, '"', stop + 2, true)
  end
  if not stop then return nil, "a quoted field is never closed" end
  if stop < #text and sub(text, stop + 1, stop + 1) ~= separator then
    return nil, "something follows a closing quote"
  end
  return (sub(text, from, stop - 1):gsub('""', '"')), stop + 1
end

local function split_fields(text, separator)
  local fields, n, at = {}, 0, 1
  repeat
    local field
    if byte(text, at) == 34 then
      field, at = quoted_field(text, at, separator)
      if not field then return nil, at end
    else
      local stop = find(text, separator, at, true) or #text + 1
      field, at = sub(text, at, stop - 1), stop
      if find(field, '"', 1, true) then return nil, "there is a quote in an unquoted field" end
    end
    n = n + 1
    fields[n] = field
    at = at + 1
  until at > #text + 1
  return fields
end

-- The lines a record with line breaks in it consists of, and the bad line it was ended by, if any;
-- or nil and what went wrong when no more came.
local function join_lines(self, first)
  local parts, size = { first }, #first
  while size <= self.lines.max do
    local number, line, problem, kind = next_line(self)
    if number == nil and problem ~= nil then return nil, problem end
    if number == nil then return parts end
    if problem then return parts, { number, line, problem, kind } end
    parts[#parts + 1] = line
    size = size + #line + 1
    if not quotes_balance(line) then return parts end
  end
  return parts
end

-- The fields of the record that begins with `line`, as `next` gives them, and its first line.
local function read_fields(self, number, line)
  local parts, bad = nil, nil
  local text = line
  if not quotes_balance(line) then
    parts, bad = join_lines(self, line)
    if not parts then return nil, nil, bad end
    text = table.concat(parts, "\n")
  end
  text = without_cr(text)
  local fields, problem = split_fields(text, self.separator)
  if fields and self.check then problem = self.check(text) end
  if not problem then return number, fields, nil, nil, line end
  local back = self.back
  if not self.once then
    back[#back + 1] = bad
    for i = parts and #parts or 0, 2, -1 do
      back[#back + 1] = { number + i - 1, parts[i] }
    end
  end
  return number, sub(line, 1, lines.SHOWN), problem
end

local function next_fields(self)
  while true do
    local number, line, problem, kind = next_line(self)
    if number == nil or problem then return number, line, problem, kind end
    if line ~= "" and line ~= "\r" then return read_fields(self, number, line) end
  end
end

--- Reads the header, unless that was done. A text without a line has none.
---@return boolean|nil ok, integer? number, any problem, string? kind as `next`
function Csv:open()
  if self.names or not self.header then return true end
  local number, names, problem, kind = next_fields(self)
  if problem ~= nil then return nil, number, problem, kind end
  local seen = {}
  for _, name in ipairs(names or seen) do
    if seen[name] then
      return nil, number, string.format('two columns are named "%s"', name)
    end
    seen[name] = true
  end
  self.names = names or {}
  return true
end

local function named(names, fields)
  local record = {}
  for i = 1, #names do record[names[i]] = fields[i] end
  return record
end

function Csv:next()
  if self.header and not self.names then
    local ok, number, problem, kind = self:open()
    if not ok and number then problem = "the CSV header is bad: " .. problem end
    if not ok then return number, nil, problem, kind end
  end
  local names = self.names
  local number, fields, problem, kind, line = next_fields(self)
  if number == nil or kind then return number, fields, problem, kind end
  if not problem and names and #fields ~= #names then
    problem = string.format("%d field%s where the header has %d", #fields,
      #fields == 1 and "" or "s", #names)
    fields = sub(line, 1, lines.SHOWN)
  end
  if problem then return number, fields, "not CSV: " .. problem end
  return number, names and named(names, fields) or fields
end

return csv
