-- What the columns of a table hold, inferred from the values they are given. Pure.
--
-- A column has a kind. What does not fit it makes it wider, up to text, which holds everything:
--   boolean                                  (not in SQLite, where it is an integer)
--   integer → real
--   json      objects and lists
--   text      the widest
--   other     a type that we do not make, such as a timestamp: the database judges what fits
-- Which values came first makes no difference to the kind in the end.

local bit = require "bit"

local band, bor, bnot = bit.band, bit.bor, bit.bnot

local columns = {}

-- What values are, as orchestrator.core.rows tells it.
local BOOLEAN, INTEGER, REAL, TEXT, JSON = 1, 2, 4, 8, 16
local ALL = 31

local OWN = { boolean = BOOLEAN, integer = INTEGER, real = REAL, text = TEXT, json = JSON }

-- What a column takes as it is.
local TAKES = {
  boolean = BOOLEAN, integer = INTEGER, real = INTEGER + REAL, json = JSON, text = ALL, other = ALL,
}
local LOOSE = { -- where a boolean is an integer
  boolean = BOOLEAN, integer = BOOLEAN + INTEGER, real = BOOLEAN + INTEGER + REAL, json = JSON,
  text = ALL, other = ALL,
}
local NARROW = { "boolean", "integer", "real", "json" }

-- The letters of src/rows.h.
local LETTERS = {
  boolean = "b", integer = "i", real = "r", text = "t", json = "j", other = "o",
}

-- The types of a schema (schema.lua).
local DECLARED = {
  boolean = "boolean", integer = "integer", number = "real", string = "text", json = "json",
  timestamp = "timestamp", date = "date",
}

--- The kind of a column that a schema declares: one of ours, or "timestamp" or "date".
---@param type string|nil
---@return string|nil
function columns.declared(type)
  return DECLARED[type]
end

--- The letter of a column for packed rows; "-" for one that is not there.
---@param column {kind: string, json: boolean?}|false
function columns.letter(column)
  if not column then return "-" end
  return column.json and "j" or LETTERS[column.kind] or "o"
end

--- The narrowest kind that holds what is in a column and is to come.
---@param kind string|nil of the column, nil when it is new
---@param mask integer of the values
---@param loose boolean booleans are integers
---@return string
function columns.join(kind, mask, loose)
  local takes = loose and LOOSE or TAKES
  if kind and not OWN[kind] then return kind end
  mask = bor(mask, kind and OWN[kind] or 0)
  for _, candidate in ipairs(NARROW) do
    if band(mask, bnot(takes[candidate])) == 0 then return candidate end
  end
  return "text"
end

--- The kind of a column of one kind that is to have the values of another.
---@return string
function columns.widest(kind, other, loose)
  if not OWN[kind] then return kind end
  return columns.join(kind, OWN[other] or TEXT, loose)
end

--- Whether a column takes values as it is.
---@param kind string
---@param mask integer
---@param loose boolean
---@param declared boolean by a schema, which has looked at the values: long integers are texts
---@return boolean
function columns.takes(kind, mask, loose, declared)
  local takes = (loose and LOOSE or TAKES)[kind] or ALL
  if declared and kind == "integer" then takes = bor(takes, TEXT) end
  if declared and kind == "json" then takes = ALL end
  return band(mask, bnot(takes)) == 0
end

--- What values are, for people.
---@param mask integer
---@return string
function columns.describe(mask)
  local words = {}
  for _, one in ipairs {
    { BOOLEAN, "true or false" }, { INTEGER, "a whole number" }, { REAL, "a fraction" },
    { TEXT, "a text" }, { JSON, "an object or a list" },
  } do
    if band(mask, one[1]) ~= 0 then words[#words + 1] = one[2] end
  end
  return table.concat(words, " or ")
end

--- Adds up masks, by column.
---@param sum integer[]
---@param mask string a byte for each column
---@param places? integer[] the columns' numbers in `sum`, where they are others
function columns.add(sum, mask, places)
  for i = 1, #mask do
    local at = places and places[i] or i
    sum[at] = bor(sum[at] or 0, mask:byte(i))
  end
end

return columns
