-- The columns of a table that records are written to: which names have which, what they hold, and
-- which records do not go in. Nothing here waits, or knows SQL.

local columns = require "orchestrator.table_columns"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local rows = require "orchestrator.core.rows"

local table_shape = {}

local MASKS = 1000 -- remembered

---@class orc.TableColumn
---@field name string
---@field kind string|nil table_columns.lua; nil when it is not there yet
---@field declared string|nil the kind by the schema
---@field type string|nil as the database calls it
---@field default boolean|nil the table has a value for rows without one

---@class orc.TableShape
---@field columns orc.TableColumn[] by number
local Shape = {}
Shape.__index = Shape

local function show(name)
  return '"' .. name .. '"'
end

---@param opts table {db: of a dialect, table: string, keys: string[], schema: orc.Schema|nil}
---@return orc.TableShape
function table_shape.new(opts)
  local schema = opts.schema
  return setmetatable({
    db = opts.db, table = opts.table, key_names = opts.keys, keys = #opts.keys,
    schema = schema, contract = schema and schema.contract or "evolve",
    columns = {},
    ids = {}, -- name → number of its column; 0: values of that name are left out
    folded = {}, -- the same by what tells columns apart
    present = {}, -- columns of the table, by that
    fine = { count = 0 }, -- mask → whether all columns take such values
  }, Shape)
end

-- Numbers ------------------------------------------------------------------------------------

-- Gives a name the number of a column, a new one unless there is one.
local function register(self, name)
  local folded = self.db.fold(name)
  local id = self.folded[folded]
  if not id then
    id = #self.columns + 1
    self.columns[id] = self.present[folded] or { name = name }
    self.folded[folded] = id
  end
  self.ids[name] = id
  return id
end

local function declared_kind(self, name)
  local column = self.schema and self.schema.column[name]
  return column and columns.declared(column.type)
end

--- Takes the columns of a table that is there. Those with a default are left alone until a record
--- has them.
---@param list orc.TableColumn[]
function Shape:begin(list)
  for _, column in ipairs(list) do self.present[self.db.fold(column.name)] = column end
  for _, name in ipairs(self.key_names) do register(self, name) end
  for _, column in ipairs(self.schema and self.schema.columns or {}) do
    if columns.declared(column.type) then
      self.columns[register(self, column.name)].declared = columns.declared(column.type)
    end
  end
  for _, column in ipairs(list) do
    if not column.default then register(self, column.name) end
  end
end

-- What is wrong with a new column's name, in words; nil when nothing is.
local function name_problem(self, name)
  if name == "" then return "a column cannot have an empty name" end
  if name:find "%z" then return "a column's name cannot have a NUL byte" end
  if not json.encode(name) then return "a column's name must be UTF-8" end
  local longest = self.db.longest
  if longest and #name > longest then
    return string.format("the name %s has %d bytes, and %s takes %d: give it another one in map",
      show(name), #name, self.db.product, longest)
  end
end

-- A record that cannot be in the table; `fatal`: so the run fails.
local function bad(message, fatal)
  return errors.new("validation", message, fatal and { fatal = true } or nil)
end

-- Gives numbers to the names of a record that have none, or to none of them if one is bad: it would
-- be in the way of those of other records. In order: that of `pairs` is no order.
local function meet(self, record)
  local names, wanted, room = {}, {}, self.db.most - #self.columns
  for name, value in pairs(record) do
    if self.ids[name] == nil and value ~= json.null then names[#names + 1] = name end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local folded = self.db.fold(name)
    local known = self.folded[folded] or self.present[folded]
    local problem = not known and name_problem(self, name)
    if problem then return nil, bad(problem) end
    wanted[name] = known or self.contract == "evolve" or declared_kind(self, name)
    if wanted[name] and not known then room = room - 1 end
    if room < 0 then
      return nil, bad(string.format("there are more than %d different names, and no table has so "
        .. "many columns: %s", self.db.most, show(name)))
    elseif not wanted[name] and self.contract ~= "discard_value" then
      return nil, bad(string.format("the table %s has no column %s", show(self.table), show(name)),
        self.contract == "freeze")
    end
  end
  for _, name in ipairs(names) do
    if wanted[name] then register(self, name) else self.ids[name] = 0 end
  end
  return true
end

-- Records ------------------------------------------------------------------------------------

-- The kind a column has, or, when it is not there yet, must have; nil when that is to be found out.
local function kind_of(column)
  return column.kind or column.declared
end

-- The numbers of the columns that do not take what a mask says, and cannot be made to; nil when
-- there are none.
local function misfits(self, mask)
  local list
  for id = 1, #mask do
    local bits, column = mask:byte(id), self.columns[id]
    local kind = bits ~= 0 and kind_of(column)
    if kind and (column.declared or self.contract ~= "evolve")
      and not columns.takes(kind, bits, self.db.loose, column.declared ~= nil) then
      list = list or {}
      list[#list + 1] = id
    end
  end
  return list
end

-- The same, remembered: most records are alike.
local function is_fine(self, mask)
  local fine = self.fine
  local known = fine[mask]
  if known ~= nil then return known end
  known = not misfits(self, mask)
  if fine.count >= MASKS then
    fine = { count = 0 }
    self.fine = fine
  end
  fine[mask], fine.count = known, fine.count + 1
  return known
end

local function without(self, record, wrong)
  local copy, out = {}, {}
  for _, id in ipairs(wrong) do out[id] = true end
  for name, value in pairs(record) do
    if not out[self.ids[name]] then copy[name] = value end
  end
  return copy
end

-- The records without the values that do not fit; or nil, err.
local function judge_each(self, records)
  local list = {}
  for i, record in ipairs(records) do
    local _, mask = rows.pack({ record }, self.ids, self.keys, self.db.flags)
    local wrong = misfits(self, mask)
    if wrong and self.contract ~= "discard_value" then
      local column = self.columns[wrong[1]]
      return nil, bad(string.format("%s is %s, and its column in %s holds %s", show(column.name),
        columns.describe(mask:byte(wrong[1])), show(self.table), kind_of(column)),
        self.contract == "freeze")
    end
    list[i] = wrong and without(self, record, wrong) or record
  end
  return list
end

-- The err of what `pack` refused.
local function refusal(self, name, problem)
  if type(name) == "number" then
    return bad(string.format("the key %s %s", show(self.columns[name].name), problem))
  elseif name then
    return bad(string.format("at .%s: %s", tostring(name), problem))
  end
  return bad(problem)
end

--- Packs records.
---@return table|nil batch {packed, mask}, integer|orc.Error size in bytes; or the err, of kind
---  "validation" when a record is bad, and `fatal` when the contract says that the run fails then
function Shape:encode(records)
  while true do
    local packed, mask, name, problem = rows.pack(records, self.ids, self.keys, self.db.flags)
    if packed and is_fine(self, mask) then
      return { packed = packed, mask = mask }, #packed
    elseif packed then
      local err
      records, err = judge_each(self, records)
      if not records then return nil, err end
    elseif problem then
      return nil, refusal(self, name, problem)
    else -- records[mask] has a name that was not met before
      local ok, err = meet(self, records[mask])
      if not ok then return nil, err end
    end
  end
end

--- The names of all columns, by their numbers.
function Shape:names()
  local names = {}
  for i, column in ipairs(self.columns) do names[i] = column.name end
  return names
end

--- The numbers of columns by their names, for batches in which they had other numbers.
function Shape:places(names)
  local places = {}
  for i, name in ipairs(names) do places[i] = register(self, name) end
  return places
end

-- Windows ------------------------------------------------------------------------------------

--- What a window's values make of the columns.
---@param batches table[] {mask, places}
---@param exists boolean the table is there; if not, it gets what the schema declares, too
---@return table[] new {id, name, kind, type}
---@return table<string, string>|nil wider the kinds that columns are to have, by their names
function Shape:plan(batches, exists)
  local sum, new, wider = {}, {}, nil
  for _, batch in ipairs(batches) do columns.add(sum, batch.mask, batch.places) end
  for id, column in ipairs(self.columns) do
    local bits = sum[id] or 0
    local kind = kind_of(column)
    if bits ~= 0 and not column.declared then kind = columns.join(kind, bits, self.db.loose) end
    if not column.kind and (bits ~= 0 or (column.declared and not exists)) then
      new[#new + 1] = { id = id, name = column.name, kind = kind, type = column.type }
    elseif column.kind and not column.declared and kind ~= column.kind then
      wider = wider or {}
      wider[column.name] = kind
    end
  end
  return new, wider
end

--- The columns as a window's transaction has them.
---@param places integer[]|nil by these numbers
---@return table[] list {name, kind, json: whatever the value, it is to be JSON}; false for those
---  that are not there
function Shape:layout(places, new, wider)
  local kinds, list = {}, {}
  for _, column in ipairs(new) do kinds[column.id] = column.kind end
  for i = 1, places and #places or #self.columns do
    local id = places and places[i] or i
    local column = self.columns[id]
    local kind = wider and wider[column.name] or kinds[id] or column.kind
    local is_json = column.declared == "json"
    list[i] = kind and { name = column.name, kind = kind, json = is_json } or false
  end
  return list
end

--- It is done.
function Shape:settle(new, wider)
  for _, column in ipairs(new) do self.columns[column.id].kind = column.kind end
  for _, column in ipairs(self.columns) do
    if wider and wider[column.name] then column.kind = wider[column.name] end
  end
  if wider or new[1] then self.fine = { count = 0 } end
end

--- What has to be done to a table so that it takes the rows of another one.
---@param to orc.TableColumn[]
---@param from orc.TableColumn[]
---@return orc.TableColumn[] new, table<string, string>|nil wider
function Shape:difference(to, from)
  local has, new, wider = {}, {}, nil
  for _, column in ipairs(to) do has[self.db.fold(column.name)] = column end
  for _, column in ipairs(from) do
    local old = has[self.db.fold(column.name)]
    local kind = old and columns.widest(old.kind, column.kind, self.db.loose)
    if not old then
      new[#new + 1] = column
    elseif kind ~= old.kind then
      wider = wider or {}
      wider[old.name] = kind
    end
  end
  return new, wider
end

--- Whether a table can be made of these columns: it has some, and the keys are among them.
function Shape:is_enough(list)
  local has = {}
  for _, column in ipairs(list) do has[column.name] = true end
  for _, name in ipairs(self.key_names) do
    if not has[name] then return false end
  end
  return #list > 0
end

return table_shape
