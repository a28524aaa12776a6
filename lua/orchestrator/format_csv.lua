-- CSV (RFC 4180): a header, then a row a record. A field that is null or absent is empty, an empty
-- text is "", what is nested is JSON.
--
-- The columns are the union of the records' fields. In a file that is replaced later ones are added
-- behind the others, and the rows before them are completed when the run is. A file that is
-- appended to has its columns already, and `columns` says them: then a record with another field is
-- an error, for no field is ever dropped.

local csv = require "orchestrator.csv"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"

local find, format = string.find, string.format

local format_csv = {}

local MOST_COLUMNS = 10000 -- more are no columns but data in the names of fields
local EXACT = 2 ^ 53

---@class orc.FormatCsv
---@field columns string[] never changed, but replaced by a longer one
---@field index table<string, integer> their places
---@field fixed boolean there will be no others
---@field written integer|nil how many the header has; nil while there is none
local Csv = {}
Csv.__index = Csv

local function set_columns(self, columns)
  local index = {}
  for i = 1, #columns do index[columns[i]] = i end
  self.columns, self.index = columns, index
end

---@param mode "replace"|"append"
---@param opts table {delimiter, formula_escape, columns}
---@param position table|nil what a resumed file goes on from
function format_csv.new(mode, opts, position)
  local self = setmetatable({
    delimiter = opts.delimiter, escapes = opts.formula_escape,
    special = '["\r\n%z\128-\255' .. (opts.delimiter:gsub("%p", "%%%0")) .. "]",
    columns = nil, index = nil, written = nil,
    eol = "\r\n",
    appends = mode == "append",
    given = opts.columns, -- by the script
    fixed = opts.columns ~= nil,
  }, Csv)
  set_columns(self, position and position.columns or opts.columns or {})
  if position and position.size > 0 then
    self.written, self.eol = position.header, position.eol or self.eol
    self.fixed = self.fixed or self.appends
  end
  return self
end

-- Encoding -------------------------------------------------------------------------------------

local function invalid(name, problem)
  return nil, errors.new("invalid", format('in column "%s": %s', name, problem))
end

local function quoted(text)
  return '"' .. text:gsub('"', '""') .. '"'
end

-- A text as a field. In a spreadsheet what begins like a formula is one; a quote says that it is
-- text (OWASP: CSV injection).
local function field_of(self, name, text)
  if text == "" then return '""' end
  if self.escapes and find(text, "^[=+%-@\t\r]") then text = "'" .. text end
  if not find(text, self.special) then return text end
  if find(text, "%z") then return invalid(name, "a NUL byte has no place in CSV") end
  local bad = source.bad_utf8(text)
  if bad then return invalid(name, format("the text is not UTF-8 at byte %d", bad)) end
  return quoted(text)
end

local function cell(self, name, value)
  local kind = type(value)
  if kind == "string" then
    return field_of(self, name, value)
  elseif kind == "number" and value % 1 == 0 and value <= EXACT and value >= -EXACT
    and (value ~= 0 or 1 / value > 0) then
    return format("%d", value)
  elseif value == json.null then
    return ""
  elseif secret.is(value) then
    return "***"
  end
  local text, err = json.encode(value)
  if not text then return invalid(name, err.message) end
  return kind == "table" and quoted(text) or text
end

-- A field that is not among the columns that are known.
local function unknown(self, record)
  for key in pairs(record) do
    if type(key) ~= "string" then
      return nil, errors.new("invalid", "a row of CSV is a table with names, got a list")
    end
  end
  local names = {}
  for key in pairs(record) do
    if not self.index[key] then names[#names + 1] = key end
  end
  table.sort(names)
  if #names > 0 and self.fixed then
    return nil, errors.new("invalid", format(
      'the column "%s" is not in the CSV file, whose columns are fixed by %s', names[1],
      self.given and "the option columns" or "its header: write it anew with mode = \"replace\""))
  elseif #self.columns + #names > MOST_COLUMNS then
    return nil, errors.new("invalid", format("CSV files have at most %d columns", MOST_COLUMNS))
  end
  local fields = {}
  for _, name in ipairs(names) do
    local ok, err = field_of(self, name, name)
    if ok then ok, err = cell(self, name, record[name]) end
    if not ok then return nil, err end
    fields[name] = ok
  end
  return fields
end

-- The text of a row with the columns that are known, and {name = field} of those that are not.
local function encode_row(self, record)
  if type(record) ~= "table" or secret.is(record)
    or getmetatable(record) and next(record) == nil then
    return nil, errors.new("invalid", "a row of CSV is a table with names, got a "
      .. (type(record) == "table" and "list" or type(record)))
  end
  local columns, cells, known = self.columns, {}, 0
  for i = 1, #columns do
    local name = columns[i]
    local value = record[name]
    if value == nil then
      cells[i] = ""
    else
      local text, err = cell(self, name, value)
      if not text then return nil, err end
      cells[i] = text
      known = known + 1
    end
  end
  local row, count = table.concat(cells, self.delimiter), 0
  for _ in pairs(record) do count = count + 1 end
  if count == known then return row end
  local late, err = unknown(self, record)
  if not late then return nil, err end
  return row, late
end

-- Names in the order of their bytes, as there is none in a Lua table.
local function with_names(self, names)
  table.sort(names)
  local columns, before = {}, self.columns
  for i = 1, #before do columns[i] = before[i] end
  for _, name in ipairs(names) do columns[#columns + 1] = name end
  set_columns(self, columns)
end

-- The first item says the columns of a new file that is to be appended to.
local function define(self, records)
  local names, seen = {}, {}
  for _, record in ipairs(records) do
    for name in pairs(type(record) == "table" and not secret.is(record) and record or {}) do
      if type(name) == "string" and not seen[name] and #names < MOST_COLUMNS then
        names[#names + 1], seen[name] = name, true
      end
    end
  end
  if #names == 0 then return false end
  with_names(self, names)
  return true
end

--- A batch is {width = columns that were known, rows = texts, late = {[row] = {name = field}}}:
--- which columns there are is settled when it is written, as not all that is encoded may be.
function Csv:encode(records)
  local before, before_index = self.columns, self.index
  local defined = self.appends and not self.fixed and define(self, records)
  self.fixed = self.fixed or defined
  local rows, late, size = {}, nil, 0
  for i = 1, #records do
    local row, extra = encode_row(self, records[i])
    if not row then
      if defined then self.columns, self.index, self.fixed = before, before_index, false end
      return nil, extra
    end
    rows[i] = row
    size = size + #row + 2
    if extra then
      late = late or {}
      late[i] = extra
      for name, text in pairs(extra) do size = size + #name + #text end
    end
  end
  return { width = #self.columns, rows = rows, late = late }, size
end

-- Writing --------------------------------------------------------------------------------------

local function add_late(self, late, rows)
  local names, seen = {}, {}
  for i = 1, rows do
    for name in pairs(late[i] or {}) do
      if not self.index[name] and not seen[name] then
        names[#names + 1], seen[name] = name, true
      end
    end
  end
  if #names > 0 then with_names(self, names) end
end

-- A row that was made when there were fewer columns.
local function completed(self, row, width, late)
  local columns = self.columns
  local parts = { width > 0 and row or nil }
  for i = width + 1, #columns do
    parts[#parts + 1] = late and late[columns[i]] or ""
  end
  return table.concat(parts, self.delimiter)
end

local function header(self)
  local names = {}
  for i, name in ipairs(self.columns) do names[i] = assert(field_of(self, name, name)) end
  return table.concat(names, self.delimiter) .. self.eol
end

local function text_of(self, batch)
  local rows, width = batch.rows, batch.width
  if #self.columns > width or batch.late then
    rows = {}
    for i, row in ipairs(batch.rows) do
      rows[i] = completed(self, row, width, batch.late and batch.late[i])
    end
  end
  if #self.columns == 1 then
    local own = {}
    for i, row in ipairs(rows) do own[i] = row == "" and '""' or row end -- readers skip blank lines
    rows = own
  end
  return table.concat(rows, self.eol) .. self.eol
end

function Csv:compose(batches)
  for _, batch in ipairs(batches) do
    if batch.late then add_late(self, batch.late, #batch.rows) end
  end
  local texts = {}
  for _, batch in ipairs(batches) do
    if #batch.rows > 0 then
      if not self.written then
        texts[1] = header(self)
        self.written = #self.columns
      end
      texts[#texts + 1] = text_of(self, batch)
    end
  end
  return texts
end

-- Appending, resuming, ending ------------------------------------------------------------------

-- The fields of one line; or nil, problem.
local function fields_of(self, line)
  local given = false
  local reader = csv.new(function()
    if given then return nil end
    given = true
    return line
  end, { max_line = 2 ^ 24, separator = self.delimiter, header = false }, nil, true)
  local _, fields, problem = reader:next()
  if problem then return nil, problem end
  return fields or {}
end

-- Removes what formula_escape has put in front of a name.
local function plain_name(self, name)
  return self.escapes and name:match "^'([=+%-@\t\r].*)$" or name
end

function Csv:adopt(found)
  local head = found.head:gsub("^\239\187\191", "")
  self.eol = head:find "\r$" and "\r\n" or "\n"
  local names, problem = fields_of(self, head)
  if not names then return nil, "its header is bad: " .. problem end
  local seen = {}
  for i, name in ipairs(names) do
    names[i] = plain_name(self, name)
    if seen[names[i]] then return nil, format('its header has "%s" twice', name) end
    seen[names[i]] = true
  end
  if self.given and table.concat(self.given, "\0") ~= table.concat(names, "\0") then
    return nil, "its header is not what the option columns says"
  end
  set_columns(self, names)
  self.written, self.fixed = #names, true
  local tail = found.tail
  if found.row >= 0 and found.row ~= found.whole - #tail then
    return nil, format("its last row, from byte %d on, has a quoted field of several lines and no "
      .. "end, so it may be torn: complete it, or remove it", found.row + 1)
  end
  if tail == "" then return { keep = found.whole } end
  local fields = fields_of(self, tail)
  if found.compressed or fields and #fields >= #names then
    return nil, "its last row has no line end, so it may be torn: complete it, or remove it"
  end
  return {
    keep = found.whole - #tail,
    warning = format("cut a torn last row of %d bytes, left by a run that was killed", #tail),
  }
end

function Csv:state(position)
  position.columns, position.header = self.columns, self.written
  if self.eol ~= "\r\n" then position.eol = self.eol end
end

function Csv.ending()
  return ""
end

function Csv:widening()
  if not self.written or self.written == #self.columns then return nil end
  return header(self), #self.columns, self.delimiter
end

--- Late fields are kept as {row, {name = field}}, for JSON has no tables with holes. The columns
--- of a new file that is appended to are known before its position says them.
function Csv:freeze(batches)
  local list = json.array {}
  for i, batch in ipairs(batches) do
    local late = json.array {}
    for row, fields in pairs(batch.late or {}) do late[#late + 1] = json.array { row, fields } end
    list[i] = { width = batch.width, rows = json.array(batch.rows), late = late }
  end
  return (assert(json.encode { columns = json.array(self.columns), batches = list }))
end

function Csv:thaw(text)
  local frozen = assert(json.decode(text))
  local list = frozen.batches
  if #frozen.columns > #self.columns then
    set_columns(self, frozen.columns)
    self.fixed = self.fixed or self.appends
  end
  for _, batch in ipairs(list) do
    local late
    for _, one in ipairs(batch.late) do
      late = late or {}
      late[one[1]] = one[2]
    end
    batch.late = late
  end
  return list
end

return format_csv
