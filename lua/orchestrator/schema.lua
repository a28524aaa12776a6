-- What the records of a pipeline must look like: the option `schema`, compiled once. Pure.
--
-- A column has a type and rules. The contract says what becomes of a record with a column that is
-- not among them, or with a value of another type:
--   evolve         another column is a new one; a value of another type makes the record bad
--   freeze         the run fails
--   discard_row    the record is bad
--   discard_value  that value is left out, and the rest of the record goes on
-- A record that breaks a rule (required, nullable, enum, min, max, pattern, max_length) is bad
-- under any of them. Without `columns` the schema names none, and only sinks that have columns of
-- their own (tables) can tell another one.

local date = require "orchestrator.date"
local json = require "orchestrator.json"
local options = require "orchestrator.options"

local schema = {}

---@class orc.Schema
---@field contract "evolve"|"freeze"|"discard_row"|"discard_value"
---@field columns orc.Column[] by name
---@field column table<string, orc.Column>
---@field closed boolean another column than these is against the contract
local Schema = {}
Schema.__index = Schema

---@class orc.Column
---@field name string
---@field type string|nil one of schema.types; nil for any
---@field required boolean
---@field nullable boolean
---@field rules (fun(v: any): string|nil)[] each says what is wrong with a value of the type

local SHOWN = 40 -- bytes of a value in a reason
local NULL = json.null
local ARRAY = getmetatable(json.array {}) -- what tells an empty list from an empty object

local function is_list(value)
  return value[1] ~= nil or getmetatable(value) == ARRAY
end

local function show(value)
  local kind = type(value)
  if kind == "string" then
    if #value <= SHOWN then return '"' .. value .. '"' end
    local last = SHOWN
    while last > 0 and value:find("^[\128-\191]", last + 1) do last = last - 1 end
    return '"' .. value:sub(1, last) .. '..."'
  elseif kind == "number" then
    return json.encode(value) or tostring(value)
  elseif value == NULL then
    return "null"
  elseif kind == "table" then
    return is_list(value) and "a list" or "an object"
  end
  return tostring(value)
end

-- Types --------------------------------------------------------------------------------------

local LARGEST = 2 ^ 53

-- JSON's integers beyond 2^53 are decimal texts here (json.lua). Those of 64 bits are integers.
local function is_long(text)
  local sign, digits = text:match "^(%-?)([1-9]%d*)$"
  if not digits or #digits < 16 or #digits > 19 then return false end
  if #digits == 16 then return digits > "9007199254740992" end
  return #digits < 19 or digits <= (sign == "" and "9223372036854775807" or "9223372036854775808")
end

-- The same of numbers that no double holds.
local function is_large(text)
  if not text:find "^%-?%d+%.?%d*[eE]?[+-]?%d*$" then return false end
  local number = tonumber(text)
  return number ~= nil and math.abs(number) >= LARGEST
end

local function is_timestamp(v)
  return type(v) == "string" and date.rfc3339(v) ~= nil
end

-- What a value must be: a function, and the words for it.
local TYPES = {
  integer = { "a whole number", function(v)
    if type(v) == "number" then return v % 1 == 0 and v <= LARGEST and v >= -LARGEST end
    return type(v) == "string" and is_long(v)
  end },
  number = { "a number", function(v)
    if type(v) == "number" then return v - v == 0 end
    return type(v) == "string" and is_large(v)
  end },
  string = { "a string", function(v) return type(v) == "string" end },
  boolean = { "true or false", function(v) return type(v) == "boolean" end },
  timestamp = { "a date and time such as 2026-11-22T05:30:15Z", is_timestamp },
  date = { "a date such as 2026-11-22", function(v)
    return type(v) == "string" and #v == 10 and is_timestamp(v .. "T00:00:00Z")
  end },
  json = { "a value", function(v) return v ~= nil end },
}

--- The names of the types, in order.
schema.types = { "boolean", "date", "integer", "json", "number", "string", "timestamp" }

-- Columns ------------------------------------------------------------------------------------

local function pattern_of(pattern)
  -- Each finds what is malformed where the other one never gets.
  for _, text in ipairs { "", pattern } do
    local ok, problem = pcall(string.find, text, pattern)
    if not ok then
      return nil, "is no Lua pattern: " .. tostring(problem):gsub("^[^\n]-:%d+: ", "")
    end
  end
  return pattern
end

local COLUMN = {
  type = { type = { { one_of = schema.types } } },
  required = { type = "boolean", default = false },
  nullable = { type = "boolean" },
  enum = { type = "table" },
  min = { type = "number" },
  max = { type = "number" },
  pattern = { type = "string", check = pattern_of },
  max_length = { type = "integer", min = 0 },
}

local function is_kind(column, ...)
  if column.type == nil then return true end
  for i = 1, select("#", ...) do
    if column.type == select(i, ...) then return true end
  end
  return false
end

-- A check of one bound. A value that is no number breaks it when the column has no type.
local function bound(limit, words, fits)
  return function(v)
    local number = (type(v) == "number" or type(v) == "string" and (is_long(v) or is_large(v)))
      and tonumber(v)
    if number and fits(number, limit) then return nil end
    return string.format("must be %s %s", words, show(limit))
  end
end

local function enum_rule(where, column, list)
  local set, names = {}, {}
  for key in pairs(list) do
    if type(key) ~= "number" or key < 1 or key > #list or key % 1 ~= 0 then
      options.fail(where, '"enum" must be a list of values')
    end
  end
  if #list == 0 then options.fail(where, '"enum" must list at least one value') end
  for i, value in ipairs(list) do
    local kind = type(value)
    if kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
      options.fail(where, string.format('"enum" must list strings, numbers or booleans; '
        .. "element %d is %s", i, show(value)))
    elseif column.type and not TYPES[column.type][2](value) then
      options.fail(where, string.format('"enum" must list values of type %s; element %d is %s',
        column.type, i, show(value)))
    end
    set[value], names[i] = true, show(value)
  end
  local text = "must be one of " .. table.concat(names, ", ")
  return function(v)
    if not set[v] then return text end
  end
end

local function pattern_rule(pattern)
  return function(v)
    if type(v) ~= "string" or not v:find(pattern) then
      return string.format('must match "%s"', pattern)
    end
  end
end

-- Characters, not bytes.
local function length_rule(most)
  return function(v)
    if type(v) ~= "string" then return "must be a string" end
    if #v <= most then return nil end
    local _, count = v:gsub("[^\128-\191]", "")
    if count > most then return string.format("must have at most %d characters", most) end
  end
end

local function column_of(name, given)
  local where = "schema.columns." .. name
  if type(given) == "string" then given = { type = given } end
  local opts = options.check(where, given, COLUMN)
  local column = {
    name = name, type = opts.type, required = opts.required, nullable = opts.nullable, rules = {},
  }
  if column.nullable == nil then column.nullable = not column.required end
  local rules = column.rules
  if opts.enum then rules[#rules + 1] = enum_rule(where, column, opts.enum) end
  if opts.min or opts.max then
    if not is_kind(column, "integer", "number") then
      options.fail(where, string.format('"%s" is for the types integer and number',
        opts.min and "min" or "max"))
    elseif opts.min and opts.max and opts.min > opts.max then
      options.fail(where, '"min" is above "max"')
    end
  end
  if opts.min then
    rules[#rules + 1] = bound(opts.min, "at least", function(v, limit) return v >= limit end)
  end
  if opts.max then
    rules[#rules + 1] = bound(opts.max, "at most", function(v, limit) return v <= limit end)
  end
  if (opts.pattern or opts.max_length) and not is_kind(column, "string", "date", "timestamp") then
    options.fail(where, string.format('"%s" is for the type string',
      opts.pattern and "pattern" or "max_length"))
  end
  if opts.pattern then rules[#rules + 1] = pattern_rule(opts.pattern) end
  if opts.max_length then rules[#rules + 1] = length_rule(opts.max_length) end
  return column
end

local CONTRACTS = { "evolve", "freeze", "discard_row", "discard_value" }

local SCHEMA = {
  columns = { type = "table", default = {} },
  contract = { type = { { one_of = CONTRACTS } }, default = "evolve" },
}

--- Reads the option. Raises on misuse.
---@param given table {columns, contract}
---@return orc.Schema
function schema.compile(given)
  local opts = options.check("schema", given, SCHEMA)
  local columns, column = {}, {}
  for name, value in pairs(opts.columns) do
    if type(name) ~= "string" then
      options.fail("schema", '"columns" must be named: { id = { type = "integer" } }')
    elseif type(value) ~= "table" and type(value) ~= "string" then
      options.fail("schema.columns." .. name, "must be a type or a table of options, got "
        .. show(value))
    end
    columns[#columns + 1] = name
  end
  table.sort(columns)
  for i, name in ipairs(columns) do
    column[name] = column_of(name, opts.columns[name])
    columns[i] = column[name]
  end
  return setmetatable({
    contract = opts.contract, columns = columns, column = column,
    closed = #columns > 0 and opts.contract ~= "evolve",
  }, Schema)
end

-- Records ------------------------------------------------------------------------------------

-- What is wrong with the value of a column, and whether that is its type.
local function judge(column, value)
  if value == nil then
    if column.required then return "is missing" end
    return nil
  elseif value == NULL then
    if not column.nullable then return "is null" end
    return nil
  end
  local kind = column.type and TYPES[column.type]
  if kind and not kind[2](value) then
    return string.format("must be %s, got %s", kind[1], show(value)), true
  end
  local rules = column.rules
  for i = 1, #rules do
    local problem = rules[i](value)
    if problem then return string.format("%s, got %s", problem, show(value)) end
  end
end

-- The first name, in order, that is no column's.
local function unknown_name(self, record)
  local unknown
  for name in pairs(record) do
    if not self.column[name] and (unknown == nil or tostring(name) < tostring(unknown)) then
      unknown = name
    end
  end
  return unknown
end

-- A copy with the columns alone, but for one.
local function without(self, record, left_out)
  local copy = {}
  for _, column in ipairs(self.columns) do
    if column.name ~= left_out then copy[column.name] = record[column.name] end
  end
  return copy
end

--- Judges a record.
---@param record any
---@return any|nil record to be written: a copy where a value was discarded; nil when it is bad
---@return string|nil reason
---@return boolean|nil frozen the contract says that the run fails
function Schema:check(record)
  if type(record) ~= "table" or is_list(record) then
    return nil, "the record must be an object, got " .. show(record)
  end
  local contract = self.contract
  if self.closed then
    local name = unknown_name(self, record)
    if name ~= nil then
      if contract ~= "discard_value" then
        return nil, "the schema has no column " .. show(name), contract == "freeze"
      end
      record = without(self, record)
    end
  end
  local columns = self.columns
  for i = 1, #columns do
    local column = columns[i]
    local problem, of_type = judge(column, record[column.name])
    if problem and of_type and contract == "discard_value" and not column.required then
      record = without(self, record, column.name)
    elseif problem then
      return nil, string.format('"%s" %s', column.name, problem), of_type and contract == "freeze"
    end
  end
  return record
end

return schema
