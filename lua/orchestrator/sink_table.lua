-- Tables: the sinks *.sqlite, *.db and postgres://… A window is one transaction, which has its
-- records and says in the table _orchestrator which window it was, with the journal's entry of it
-- (table_checkpoint.lua). So the journal can catch up with what is in the table.
--
--   append   rows are added to the table
--   merge    so are they, and take the place of those with the same primary key
--   replace  rows go to another table beside; when the run is complete it becomes the table, or,
--            where there is one, gives it its rows, in one transaction
--
-- The SQL is the dialects' (dialect_sqlite.lua, dialect_postgres.lua), the columns are those of
-- table_shape.lua, rows are packed by orchestrator.core.rows.

local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local table_checkpoint = require "orchestrator.table_checkpoint"
local table_shape = require "orchestrator.table_shape"

local sink_table = {}

local STAGING = "_staging_"
local LONGEST = 63 -- bytes of a staging table's name, in every dialect

---@class orc.TableSink : orc.Sink
local Sink = {}
Sink.__index = Sink

-- Options ------------------------------------------------------------------------------------

local function check_table(name)
  if name == "" or name:find "%z" then return nil, "must be a name" end
  if name:lower():find("^" .. table_checkpoint.TABLE) or name:find("^" .. STAGING) then
    return nil, string.format('must not begin with "%s" or "%s"', table_checkpoint.TABLE, STAGING)
  end
  return name
end

local function check_key(given)
  local list, seen = type(given) == "table" and given or { given }, {}
  for key, name in pairs(list) do
    if type(key) ~= "number" or type(name) ~= "string" or name == "" or seen[name] then
      return nil, "must be a list of different names"
    end
    seen[name] = true
  end
  if #list == 0 then return nil, "must name at least one column" end
  return list
end

local OPTIONS = {
  target = { type = "secret", required = true },
  table = { type = "string", check = check_table },
  primary_key = { type = { "table", "string" }, check = check_key },
  mode = { type = { { one_of = { "replace", "append", "merge" } } } },
}

local function dialect_of(text)
  local name = text:find "^postgres" and "dialect_postgres" or "dialect_sqlite"
  return require("orchestrator." .. name)
end

-- Raises when the mode and the key do not go together.
local function check_mode(mode, key)
  if mode == "merge" and not key then
    options.fail("sink", '"mode" is "merge", so "primary_key" must say what tells rows apart')
  elseif mode == "append" and key then
    options.fail("sink", '"primary_key" is for the modes "merge" and "replace"')
  end
end

--- Reads what is given as a sink. Raises when its options are misused.
---@param given string|orc.Secret|table {target, table=, primary_key=, mode=}
---@return table|nil spec, string|nil problem
function sink_table.check(given)
  local named = {}
  if type(given) == "table" and not secret.is(given) then
    for name, value in pairs(given) do named[name == 1 and "target" or name] = value end
  else
    named.target = given
  end
  local opts = options.check("sink", named, OPTIONS)
  local dialect = dialect_of(secret.reveal(opts.target))
  local shown, problem = dialect.check(opts.target)
  if not shown then return nil, problem end
  check_mode(opts.mode, opts.primary_key)
  return {
    kind = "table", target = shown, url = opts.target,
    table = opts.table, primary_key = opts.primary_key, mode = opts.mode,
  }
end

--- Looks at the options once more when the pipeline's mode is known. Raises on misuse.
---@param spec table
---@param mode string|nil the pipeline's
function sink_table.bind(spec, _, mode)
  check_mode(spec.mode or mode, spec.primary_key)
end

-- Opening ------------------------------------------------------------------------------------

local function failure(self, message)
  return errors.new("invalid", self.target .. ": " .. message)
end

-- Where the rows of a table that is replaced go. A name that is too long keeps its beginning.
local function staging_of(name)
  if #STAGING + #name <= LONGEST then return STAGING .. name end
  local hash = crypto.hex(assert(crypto.hash("sha256", name)):sub(1, 8))
  local kept = name:sub(1, LONGEST - #STAGING - #hash - 1)
  kept = kept:gsub("[\192-\255][\128-\191]*$", "")
  return STAGING .. kept .. "_" .. hash
end

-- Under a contract the table that is replaced says what columns the new one has.
local function copy_columns(old)
  local list = {}
  for i, column in ipairs(old.columns) do
    list[i] = { name = column.name, kind = column.kind, type = column.type }
  end
  return list
end

-- What the table looks like that rows go to. Yields.
local function look(self)
  local shape = self.shape
  local into, err = self.checkpoint:describe(self.into)
  if err then return nil, err end
  self.exists = into ~= nil
  local list = into and into.columns or {}
  if self.staged and not into then
    local old
    old, err = self.checkpoint:describe(self.name)
    if err then return nil, err end
    if old and shape.contract ~= "evolve" then
      list = copy_columns(old)
      self.made = list
    end
  end
  shape:begin(list)
  if shape.contract ~= "evolve" and not shape.columns[1] then
    return nil, failure(self, string.format('there is no table "%s" yet, and by the contract "%s" '
      .. "it cannot get columns: name them in the schema, or make the table", self.name,
      shape.contract))
  end
  return true
end

-- Changes nothing yet of the table, which may be another run's. Yields.
local function prepare(self, ctx)
  local longest = self.db.longest
  if longest and #self.name > longest then
    return nil, failure(self, string.format('the table\'s name "%s" has %d bytes, and %s takes '
      .. '%d: set "table"', self.name, #self.name, self.db.product, longest))
  end
  local ok, err = self.checkpoint:persist(function() return self.db:lock(self.name) end)
  if not ok then return nil, err end
  ok, err = self.checkpoint:look_up(ctx.resume ~= nil)
  if not ok then return nil, err end
  self.count = self.checkpoint.records
  return true
end

--- Takes the table over, when all that the run writes is open. Yields.
---@return boolean|nil, orc.Error? err
function Sink:claim()
  local ok, err = self.checkpoint:begin(self.staged and self.db.drop(self.into) or {})
  if not ok then return nil, err end
  if self.checkpoint.finished then return true end
  return look(self)
end

--- Opens it and keeps other runs from the table until it is closed. It is to be claimed before it
--- is used. Yields.
---@param spec table
---@param ctx table
---@return orc.TableSink|nil, orc.Error? err
function sink_table.open(spec, ctx)
  local target = secret.reveal(spec.url)
  local db, err = dialect_of(target).open(target, ctx)
  if not db then return nil, err end
  local mode, name = spec.mode or ctx.mode or "replace", spec.table or ctx.name
  local self = setmetatable({
    target = db.path or spec.target, name = name, mode = mode,
    format = {}, goes_back = false, carries = true,
    db = db, count = 0,
    checkpoint = nil, shape = nil,
    staged = mode == "replace", into = mode == "replace" and staging_of(name) or name,
    exists = false, -- the table that rows go to
    made = {}, -- columns that it gets whatever comes
  }, Sink)
  self.checkpoint = table_checkpoint.new {
    db = db, sched = ctx.sched, log = ctx.log, target = self.target, pipeline = ctx.name,
    table = name, run_id = ctx.run_id,
  }
  self.shape = table_shape.new {
    db = db, table = name, keys = spec.primary_key or {}, schema = ctx.schema,
  }
  local ok
  ok, err = prepare(self, ctx)
  if not ok then
    self:close()
    return nil, err
  end
  return self
end

-- Windows ------------------------------------------------------------------------------------

--- Packs records. Nothing is written.
---@param records table[]
---@return table|nil batch, integer|orc.Error size in bytes; or the err, see table_shape.lua
function Sink:encode(records)
  return self.shape:encode(records)
end

local function append(list, more)
  for _, one in ipairs(more) do list[#list + 1] = one end
end

-- Statements that make the table fit. Yields.
local function evolve(self, statements, new, wider)
  if not self.exists then
    local list = {}
    append(list, self.made)
    append(list, new)
    append(statements, self.db.create(self.into, list, self.shape.key_names))
    return true
  end
  if wider then
    local description, err = self.checkpoint:describe(self.into)
    if not description then
      return nil, err or failure(self, string.format('the table "%s" is gone', self.into))
    end
    local list
    list, err = self.db:widen(description, wider)
    if not list then return nil, err end
    append(statements, list)
  end
  for _, column in ipairs(new) do append(statements, self.db.add(self.into, column)) end
  return true
end

local function insert(self, statements, batches, new, wider)
  local groups, order = {}, {} -- of batches that number the columns alike
  for _, batch in ipairs(batches) do
    local key = batch.places or self
    if not groups[key] then
      groups[key] = { places = batch.places }
      order[#order + 1] = groups[key]
    end
    table.insert(groups[key], batch.packed)
  end
  for _, group in ipairs(order) do
    append(statements, self.db.insert(self.into, self.shape:layout(group.places, new, wider),
      self.shape.key_names, group))
  end
end

local function position(self)
  return { window = self.checkpoint.window, count = self.count }
end

--- Makes a window's records last, with the journal's entry. Yields.
---@param window table {number, batches, records, entry}
---@return table|nil position, orc.Error? err
function Sink:commit(window)
  if window.number <= self.checkpoint.window then return position(self) end
  local statements, new, wider = {}, {}, nil
  local written = #window.batches > 0
  if written then
    new, wider = self.shape:plan(window.batches, self.exists)
    local ok, err = evolve(self, statements, new, wider)
    if not ok then return nil, err end
    insert(self, statements, window.batches, new, wider)
  end
  local ok, err = self.checkpoint:advance(window, statements)
  if not ok then return nil, err end
  self.shape:settle(new, wider)
  self.exists = self.exists or written
  self.count = self.checkpoint.records
  return position(self)
end

--- The last window that was committed for this run, and its entry.
---@return integer number, string|nil entry
function Sink:carried()
  return self.checkpoint.window, self.checkpoint.entry
end

--- The batches as a text, for a window that is noted down before it is committed.
---@return string
function Sink:freeze(batches)
  local packed, masks = {}, {}
  for i, batch in ipairs(batches) do
    packed[i] = batch.packed
    masks[i] = { #batch.packed, batch.mask:byte(1, -1) }
  end
  local head = { names = json.array(self.shape:names()), masks = json.array(masks) }
  return assert(json.encode(head)) .. "\n" .. table.concat(packed)
end

---@return table[] batches
function Sink:thaw(text)
  local head, at = text:match "^([^\n]*)\n()"
  head = assert(json.decode(head))
  local places, batches = self.shape:places(head.names), {}
  for i, mask in ipairs(head.masks) do
    batches[i] = {
      packed = text:sub(at, at + mask[1] - 1), mask = string.char(unpack(mask, 2)), places = places,
    }
    at = at + mask[1]
  end
  return batches
end

-- Ending -------------------------------------------------------------------------------------

-- Statements that give the table its new rows. Yields.
local function replace(self, statements)
  local from, to, err
  from, err = self.checkpoint:describe(self.into)
  if err then return nil, err end
  to, err = self.checkpoint:describe(self.name)
  if err then return nil, err end
  local list = from and from.columns
  if not from and not to then -- there was no record: it has the columns that are known, if any
    local known = {}
    append(known, self.made)
    append(known, (self.shape:plan({}, false)))
    if self.shape:is_enough(known) then
      append(statements, self.db.create(self.name, known, self.shape.key_names))
    end
    return true
  elseif from and to then
    local new, wider = self.shape:difference(to.columns, list)
    if wider then
      local more
      more, err = self.db:widen(to, wider)
      if not more then return nil, err end
      append(statements, more)
    end
    for _, column in ipairs(new) do append(statements, self.db.add(self.name, column)) end
  end
  append(statements, self.db.swap(self.into, list, self.name, to ~= nil))
  return true
end

--- Completes the table. Yields. Done before, it does nothing.
---@return boolean|nil, orc.Error? err
function Sink:finish()
  if self.checkpoint.finished then return true end
  local statements = {}
  if self.staged then
    local ok, err = replace(self, statements)
    if not ok then return nil, err end
  end
  return self.checkpoint:finish(statements)
end

--- Gives up the connection. What is committed stays for a resume.
function Sink:close()
  self.db:close()
  return true
end

return sink_table
