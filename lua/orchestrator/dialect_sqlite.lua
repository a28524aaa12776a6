-- SQLite, for tables (sink_table.lua): its SQL, its types, its errors. Statements are those of
-- src/lua_store.h; a list of them is one transaction, on a thread of its own.

local columns = require "orchestrator.table_columns"
local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local file = require "orchestrator.core.file"
local path_template = require "orchestrator.path_template"
local table_sql = require "orchestrator.table_sql"

local dialect = {}

---@class orc.SqliteTables
local Database = {
  loose = true, -- a boolean is an integer
  flags = "", -- of orchestrator.core.rows
  most = 2000, -- columns of a table
  longest = nil, -- bytes of a name
  product = "SQLite",
  tries = 3, -- of a transaction that could not begin; each waits for 10 seconds
}
Database.__index = Database

local TYPES = {
  boolean = "BOOLEAN", integer = "INTEGER", real = "REAL", text = "TEXT", json = "TEXT",
  timestamp = "TEXT", date = "TEXT",
}

local PATIENCE, PAUSE = 30, 0.2 -- seconds, for a database that another process keeps

local RESUME = "then go on with --resume"

-- What to do when it cannot be opened, by the reasons of src/lua_store.h.
local OPENING = {
  read_only = "make it and its directory writable",
  not_a_database = "move it away, or name another file",
  corrupt = "put a copy of it back, or move it away",
  busy = "end the process that keeps it",
  failed = "see to that",
}

-- And when a transaction fails.
local LATER = {
  full = "make room on the disk, " .. RESUME,
  read_only = "make it and its directory writable, " .. RESUME,
  corrupt = "put a copy of it back, or move it away and begin anew",
  busy = "end the process that keeps it, " .. RESUME,
  io = "see to the disk, " .. RESUME,
}

local quote, quoted = table_sql.quote, table_sql.quoted

--- Names that are equal by this are one column.
function dialect.fold(name)
  return (name:gsub("%u", string.lower))
end

-- Opening ------------------------------------------------------------------------------------

local function failure(self, message, advice)
  return errors.new("invalid", string.format("%s: %s; %s", self.path, message, advice))
end

local function is_there(path)
  local found = io.open(path, "r")
  if found then found:close() end
  return found ~= nil
end

--- Looks a target over: a path, maybe a template.
---@param target string
---@return string|nil shown, string? problem
function dialect.check(target)
  local ok, problem = path_template.check(target)
  if not ok then return nil, problem end
  return target
end

-- Opens it, as soon as another process lets go of it. Yields.
local function open_store(path, ctx)
  local last = ctx.sched:now() + PATIENCE
  while true do
    local id, reason, message = ctx.host.store_open(path,
      { output = true, durable = ctx.durable ~= false })
    if id or reason ~= "busy" or ctx.sched:now() >= last then return id, reason, message end
    ctx.sched:sleep(PAUSE)
  end
end

---@param target string
---@param ctx table {sched, host, durable, resume, name, run_id, started}
---@return orc.SqliteTables|nil, orc.Error? err
function dialect.open(target, ctx)
  local path, problem = path_template.expand(target, ctx)
  local self = setmetatable({
    path = path or target, sched = ctx.sched, host = ctx.host, fold = dialect.fold,
  }, Database)
  if not path then return nil, failure(self, problem, "see to the names in it") end
  if ctx.resume ~= nil and not is_there(path) then
    return nil, failure(self, "it is not there any more, and the run has written to it",
      "put it back, or run it without --resume")
  end
  local id, reason, message = open_store(path, ctx)
  if not id then
    return nil, failure(self, message, OPENING[reason] or OPENING.failed)
  end
  self.id = id
  return self
end

--- Runs statements in one transaction. Yields.
---@return table|nil result {rows, changes}, orc.Error? err, boolean? again it may work later
function Database:run(statements)
  local result = self.sched:run_job(self.id, statements)
  if not result.fault then return result end
  return nil, failure(self, result.message, LATER[result.code] or "see to that, " .. RESUME),
    result.code == "busy"
end

-- A file for each table: there is nothing in a database that others see, and that goes with the
-- process.
local function lock_of(path, name)
  name = dialect.fold(name):gsub("[^%w_-]", function(c) return ("%%%02X"):format(c:byte()) end)
  if #name > 100 then name = crypto.hex(assert(crypto.hash("sha256", name)):sub(1, 16)) end
  return string.format("%s-%s.lock", path, name)
end

--- Keeps other runs from a table until the database is closed or the process ends.
---@param name string
---@return boolean|nil, orc.Error? err
function Database:lock(name)
  local path = lock_of(self.path, name)
  local id, holder, problem = file.lock(path, string.format("%d %s", self.host.pid,
    os.date("!%Y-%m-%d %H:%M:%S UTC")))
  if id then
    self.locked, self.lock_path = id, path
    return true
  elseif problem then
    return nil, failure(self, problem, OPENING.failed)
  end
  local pid, since = holder:match "^(%d+) (.+)$"
  return nil, failure(self, string.format('another run is writing to the table "%s"%s', name,
    pid and string.format(": process %s since %s", pid, since) or ""),
    "wait for it, or name another table")
end

function Database:close()
  if self.locked then file.unlock(self.locked, self.lock_path) end
  self.locked = nil
  if not self.id then return end
  self.host.store_close(self.id)
  self.id = nil
end

-- SQL ----------------------------------------------------------------------------------------

--- A statement that must change one row, or the transaction fails.
function Database.one_row(statement, message)
  return statement,
    { "SELECT orchestrator_check(changes() = 1, ?1)", message }
end

--- The statement that makes the table of the checkpoints, unless it is there.
function Database.make_checkpoints()
  return { { [[CREATE TABLE IF NOT EXISTS "_orchestrator" ("pipeline" TEXT NOT NULL,
    "table" TEXT NOT NULL, "run" TEXT NOT NULL, "window" INTEGER NOT NULL,
    "records" INTEGER NOT NULL, "state" TEXT NOT NULL, "entry" TEXT,
    PRIMARY KEY ("pipeline", "table"))]] } }
end

--- A statement with ?1, ?2 …
function Database.statement(sql, ...)
  return { sql, ... }
end

--- Reads the checkpoint; nothing else changes it until the transaction ends.
function Database.read_checkpoint(sql, ...)
  return { sql, ... }
end

local function definition(column, keys)
  local key = false
  for _, name in ipairs(keys) do key = key or name == column.name end
  return quote(column.name) .. " " .. (column.type or TYPES[column.kind])
    .. (key and " NOT NULL" or "")
end

local function create(name, list, keys)
  local parts = {}
  for i, column in ipairs(list) do parts[i] = definition(column, keys) end
  if #keys > 0 then parts[#parts + 1] = "PRIMARY KEY (" .. quoted(keys) .. ")" end
  return string.format("CREATE TABLE %s (%s)", quote(name), table.concat(parts, ", "))
end

--- Statements that make a table.
---@param name string
---@param list table[] {name, kind}
---@param keys string[] names
function Database.create(name, list, keys)
  return { { create(name, list, keys) } }
end

function Database.drop(name)
  return { { "DROP TABLE IF EXISTS " .. quote(name) } }
end

-- SQLite's own rules for declared types (datatype3.html, 3.1).
local function kind_of(declared)
  local upper = declared:upper()
  if upper == "BOOLEAN" then return "boolean" end
  if upper:find("INT", 1, true) then return "integer" end
  if upper:find "CHAR" or upper:find "CLOB" or upper:find "TEXT" then return "text" end
  if upper:find "REAL" or upper:find "FLOA" or upper:find "DOUB" then return "real" end
  return "other"
end

--- What is known of a table, nil when there is none. Yields.
---@return table|nil description {columns: {name, kind, type, default}[], keys: string[], sql}
---@return orc.Error? err, boolean? again
function Database:describe(name)
  local found, err, again = self:run { { [[SELECT type, name, sql FROM sqlite_schema
    WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')]], name } }
  if not found then return nil, err, again end
  local row = found.rows[1]
  if not row then return nil end
  if row[1] == "view" then
    return nil, failure(self, string.format("%s is a view", quote(name)), "name another table")
  end
  local info
  info, err, again = self:run { { [[SELECT name, type, pk, dflt_value IS NOT NULL, hidden
    FROM pragma_table_xinfo(?1)]], name } }
  if not info then return nil, err, again end
  local list, keys = {}, {}
  for _, one in ipairs(info.rows) do
    local column = { name = one[1], type = one[2], kind = kind_of(one[2]), default = one[4] == 1 }
    if one[5] == 0 then list[#list + 1] = column end
    if one[3] > 0 then keys[one[3]] = one[1] end
  end
  return { name = row[2], columns = list, keys = keys, sql = row[3] }
end

function Database.add(name, column)
  return { { string.format("ALTER TABLE %s ADD COLUMN %s", quote(name), definition(column, {})) } }
end

-- The values of a column as those of another kind; an integer that no double holds fails.
local function converted(column, kind)
  local name = quote(column.name)
  if kind == "text" then
    return "CAST(orchestrator_text(" .. name .. ") AS TEXT)"
  elseif kind == "real" then
    return "CASE WHEN typeof(" .. name .. ") <> 'integer' OR " .. name
      .. " BETWEEN -9007199254740992 AND 9007199254740992 THEN " .. name
      .. " ELSE orchestrator_check(0, 'an integer that no double holds: ' || " .. name .. ") END"
  end
  return name
end

--- Statements that give columns other kinds: the table is made anew, with its indexes and triggers.
--- Yields.
---@param description table
---@param kinds table<string, string> by name
---@return table[]|nil statements, orc.Error? err
function Database:widen(description, kinds)
  local name = description.name
  if description.sql ~= create(name, description.columns, description.keys) then
    local first
    for _, column in ipairs(description.columns) do
      if kinds[column.name] then first = first or column end
    end
    return nil, failure(self, string.format('the column %s of %s is %s, and there are values for '
      .. 'it of another type', quote(first.name), quote(name), first.type), "change the table's "
      .. "definition, which is not one that can be made anew without loss, or convert the values "
      .. "in map")
  end
  local around, err = self:run { { [[SELECT sql FROM sqlite_schema
    WHERE tbl_name = ?1 COLLATE NOCASE
    AND type IN ('index', 'trigger') AND sql IS NOT NULL]], name } }
  if not around then return nil, err end
  local made, from, to = {}, {}, {}
  for i, column in ipairs(description.columns) do
    local kind = kinds[column.name]
    made[i] = kind and { name = column.name, kind = kind } or column
    from[i], to[i] = kind and converted(column, kind) or quote(column.name), quote(column.name)
  end
  local temporary = "_orchestrator_wider"
  local statements = {
    { "DROP TABLE IF EXISTS " .. quote(temporary) },
    { create(temporary, made, description.keys) },
    { string.format("INSERT INTO %s (%s) SELECT %s FROM %s", quote(temporary),
      table.concat(to, ", "), table.concat(from, ", "), quote(name)) },
    { "DROP TABLE " .. quote(name) },
    { string.format("ALTER TABLE %s RENAME TO %s", quote(temporary), quote(name)) },
  }
  for _, one in ipairs(around.rows) do statements[#statements + 1] = { one[1] } end
  return statements
end

-- What follows the values when a row with the same key takes the place of another.
local function upsert(names, keys)
  if #keys == 0 then return "" end
  local is_key, sets = {}, {}
  for _, name in ipairs(keys) do is_key[name] = true end
  for _, name in ipairs(names) do
    if not is_key[name] then
      sets[#sets + 1] = string.format("%s = excluded.%s", quote(name), quote(name))
    end
  end
  return string.format(" ON CONFLICT (%s) DO %s", quoted(keys),
    #sets > 0 and "UPDATE SET " .. table.concat(sets, ", ") or "NOTHING")
end

--- Statements that write packed rows.
---@param name string
---@param list table[] {name, kind} by the number of the column in the rows; false where none is
---@param keys string[] rows with these are replaced
---@param packed string[]
function Database.insert(name, list, keys, packed)
  local names, places, letters = {}, {}, {}
  for i, column in ipairs(list) do
    letters[i] = columns.letter(column)
    if column then names[#names + 1], places[#places + 1] = column.name, "?" .. i end
  end
  return { {
    string.format("INSERT INTO %s (%s) VALUES (%s)%s", quote(name), quoted(names),
      table.concat(places, ", "), upsert(names, keys)),
    packed = packed, kinds = table.concat(letters),
  } }
end

Database.swap = table_sql.swap

return dialect
