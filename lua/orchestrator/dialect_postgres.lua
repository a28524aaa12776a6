-- PostgreSQL, for tables (sink_table.lua): its SQL, its types, its errors. Statements are the
-- steps of src/lua_postgres.h; a list of them is one transaction, on a thread of its own. Rows go
-- by COPY.

local columns = require "orchestrator.table_columns"
local core = require "orchestrator.core.postgres"
local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local secret = require "orchestrator.secret"
local table_sql = require "orchestrator.table_sql"
local url = require "orchestrator.url"

local dialect = {}

---@class orc.PostgresTables
local Database = {
  loose = false,
  flags = "0", -- no NUL bytes
  most = 1600, -- columns of a table
  longest = 63, -- bytes of a name; the server would cut longer ones, which then may be equal
  product = "PostgreSQL",
  tries = 8, -- of a transaction whose connection was lost: half a minute
}
Database.__index = Database

local TYPES = {
  boolean = "boolean", integer = "bigint", real = "double precision", text = "text",
  json = "jsonb", timestamp = "timestamp with time zone", date = "date",
}

local KINDS = {
  boolean = "boolean", bigint = "integer", ["double precision"] = "real", text = "text",
  jsonb = "json",
}

local RESUME = "then go on with --resume"

-- What to do, by SQLSTATE or its class.
local ADVICE = {
  connection = "see that the server can be reached, " .. RESUME,
  ["08"] = "see that the server can be reached, " .. RESUME,
  ["28"] = "see to the user and the password in the URL",
  ["3D"] = "make the database, or name another one",
  ["42501"] = "grant the user the right, " .. RESUME,
  ["42P10"] = "give the table a unique index on the columns of primary_key, " .. RESUME,
  ["53100"] = "make room on the server's disk, " .. RESUME,
  ["53"] = "see to the server, " .. RESUME,
  ["55P03"] = "end the transaction that keeps the table, " .. RESUME,
  ["57"] = "see to the server, " .. RESUME,
  ["22"] = "see to the value or the column's type, " .. RESUME,
  ["23"] = "see to the records or the table's constraints, " .. RESUME,
}

-- Those after which a later try may do. "rows" and the like are for good.
local AGAIN = {
  connection = true, ["08000"] = true, ["08003"] = true, ["08006"] = true, ["40"] = true,
  ["53300"] = true, ["55P03"] = true, ["57P01"] = true, ["57P02"] = true, ["57P03"] = true,
}

local LOCK_TRIES = 40 -- as long as a statement is at it
local LOCK_IDLE = 5 -- of them, when whoever has the lock does nothing
local LOCK_PAUSE = 0.25 -- seconds

local quote, quoted = table_sql.quote, table_sql.quoted

-- Opening ------------------------------------------------------------------------------------

-- Whether libpq would take a part of the password for a port, and say it.
local function has_slash(text)
  local port = text:match "^%a+://[^/?@%[]*:([^/@,:]*)/.*@"
  return port ~= nil and not port:find "^%d*$" and not port:find "^%d*%?"
end

--- Looks a target over.
---@param target string|orc.Secret
---@return string|nil shown without the password, string? problem
function dialect.check(target)
  local text = secret.reveal(target)
  if has_slash(text) then
    return nil, 'is no URL of a PostgreSQL database: in a password "/" is written %2F'
  end
  local ok, found = core.check(text)
  if not ok then
    local password = text:match "^%a+://[^:@/]*:([^@/]+)@"
    if password then found = found:gsub(password:gsub("%p", "%%%0"), "***") end
    return nil, "is no URL of a PostgreSQL database: " .. url.mask(secret.mask(found))
  end
  if found then secret.value(found) end
  local shown = text:gsub("^(%a+://)[^@/]*@", "%1***@"):match "^[^?]*"
  return secret.mask(url.mask(shown))
end

---@param text string the URL
---@param ctx table {sched, host, durable}
---@return orc.PostgresTables|nil, orc.Error? err
function dialect.open(text, ctx)
  local shown = dialect.check(text)
  local id, message = ctx.host.postgres_open(text, ctx.durable ~= false)
  if not id then
    return nil, errors.new("invalid", string.format("%s: %s", shown, message))
  end
  return setmetatable({ id = id, target = shown, sched = ctx.sched, host = ctx.host }, Database)
end

local function failure(self, message, advice)
  return errors.new("invalid", string.format("%s: %s; %s", self.target,
    url.mask(secret.mask(message)), advice or "see to that, " .. RESUME))
end

-- A lock of the connection's, which the server gives up with it.
local KEY = "hashtextextended('orchestrator ' || coalesce((SELECT n.nspname FROM pg_class c "
  .. "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($2)), "
  .. "current_schema(), '') || '.' || $1, 0)"

local LOCK = "SELECT 1 WHERE pg_try_advisory_lock(" .. KEY .. ")"

local HOLDER = "SELECT l.pid, coalesce(a.state, 'idle') = 'idle', "
  .. "to_char(a.backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS \"UTC\"') "
  .. "FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' "
  .. "AND l.granted AND l.objsubid = 1 AND l.database = (SELECT oid FROM pg_database "
  .. "WHERE datname = current_database()) AND (l.classid::bigint << 32 | l.objid::bigint) = " .. KEY

local function lock_step(name)
  return { LOCK, name, quote(name), expect = 1,
    message = string.format('another run is writing to the table "%s"', name) }
end

-- What a failed transaction gives.
local function fault(self, result)
  local code = result.code
  local class = code:sub(1, 2)
  return nil, failure(self, result.message, ADVICE[code] or ADVICE[class]),
    AGAIN[code] or AGAIN[class] or false
end

--- Runs statements in one transaction. Yields.
---@return table|nil result {rows}, orc.Error? err, boolean? again it may work later
function Database:run(statements)
  local result
  if self.lost then
    -- A connection that was lost may keep the lock until the server notices.
    result = self.sched:run_postgres(self.id, { lock_step(self.locked) })
    if result.code == "rows" then
      return nil, failure(self, result.message, "wait for it, " .. RESUME), true
    end
    self.lost = result.fault ~= nil
  end
  if not self.lost then result = self.sched:run_postgres(self.id, statements) end
  if not result.fault then return result end
  self.lost = self.locked ~= nil
  return fault(self, result)
end

-- Who has the lock: text, and whether it is waiting for its client; nil when nobody has. Yields.
local function holder_of(self, name)
  local found, err, again = self:run { { HOLDER, name, quote(name) } }
  if not found then return nil, err, again end
  local row = found.rows[1]
  if not row then return false end
  return string.format("process %s of the server%s", row[1],
    row[3] and ", connected since " .. row[3] or ""), row[2] == "t"
end

--- Keeps other runs from a table until the connection is closed. What the server does yet for a
--- process that was killed is waited for. Yields.
---@param name string
---@return boolean|nil, orc.Error? err, boolean? again
function Database:lock(name)
  local idle, who = 0, nil
  for _ = 1, LOCK_TRIES do
    local result = self.sched:run_postgres(self.id, { lock_step(name) })
    if not result.fault then
      self.locked = name
      return true
    elseif result.code ~= "rows" then
      return fault(self, result)
    end
    local found, waits, again = holder_of(self, name)
    if found == nil then return nil, waits, again end
    who, idle = found or who, idle + (waits and 1 or 0)
    if idle == LOCK_IDLE then break end
    self.sched:sleep(LOCK_PAUSE)
  end
  return nil, failure(self, string.format('another run is writing to the table "%s"%s', name,
    who and ": " .. who or ""), "wait for it, or name another table")
end

function Database:close()
  if not self.id then return end
  self.host.postgres_close(self.id)
  self.id = nil
end

-- SQL ----------------------------------------------------------------------------------------

--- Names that are equal by this are one column.
function Database.fold(name)
  return name
end

--- A statement with ?1, ?2 …
function Database.statement(sql, ...)
  return { (sql:gsub("%?(%d)", "$%1")), n = select("#", ...), ... }
end

--- A statement that must change one row, or the transaction fails.
function Database.one_row(statement, message)
  statement.expect, statement.message = 1, message
  return statement
end

--- Makes the table of the checkpoints, unless it is there: then that takes no right to make one.
function Database.make_checkpoints()
  return { { [[DO $$ BEGIN
    IF to_regclass('"_orchestrator"') IS NULL THEN
      PERFORM pg_advisory_xact_lock(1869767528);
      CREATE TABLE IF NOT EXISTS "_orchestrator" ("pipeline" text NOT NULL, "table" text NOT NULL,
        "run" text NOT NULL, "window" bigint NOT NULL, "records" bigint NOT NULL,
        "state" text NOT NULL, "entry" text, PRIMARY KEY ("pipeline", "table"));
    END IF; END $$]] } }
end

--- Reads the checkpoint. A transaction that has it, which an earlier process may have left at the
--- server, is waited for.
function Database.read_checkpoint(sql, ...)
  return Database.statement(sql .. " FOR UPDATE", ...)
end

local function definition(column, keys)
  local key = false
  for _, name in ipairs(keys) do key = key or name == column.name end
  return quote(column.name) .. " " .. (column.type or TYPES[column.kind])
    .. (key and " NOT NULL" or "")
end

--- Statements that make a table.
---@param name string
---@param list table[] {name, kind}
---@param keys string[] names
function Database.create(name, list, keys)
  local parts = {}
  for i, column in ipairs(list) do parts[i] = definition(column, keys) end
  if #keys > 0 then parts[#parts + 1] = "PRIMARY KEY (" .. quoted(keys) .. ")" end
  return { { string.format("CREATE TABLE %s (%s)", quote(name), table.concat(parts, ", ")) } }
end

function Database.drop(name)
  return { { "DROP TABLE IF EXISTS " .. quote(name) } }
end

--- What is known of a table, nil when there is none. Yields.
---@return table|nil description {columns: {name, kind, type, default}[]}
---@return orc.Error? err, boolean? again
function Database:describe(name)
  local found, err, again = self:run { { [[SELECT a.attname, format_type(a.atttypid, a.atttypmod),
      a.atthasdef OR a.attidentity <> '', a.attgenerated <> '', c.relkind
    FROM pg_class c LEFT JOIN pg_attribute a
      ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = to_regclass($1) ORDER BY a.attnum]], quote(name) } }
  if not found then return nil, err, again end
  if not found.rows[1] then return nil end
  local kind = found.rows[1][5]
  if kind ~= "r" and kind ~= "p" then
    return nil, failure(self, quote(name) .. " is no table", "name another one")
  end
  local list = {}
  for _, row in ipairs(found.rows) do
    if row[1] and row[4] == "f" then
      list[#list + 1] = {
        name = row[1], type = row[2], kind = KINDS[row[2]] or "other", default = row[3] == "t",
      }
    end
  end
  return { name = name, columns = list }
end

function Database.add(name, column)
  return { { string.format("ALTER TABLE %s ADD COLUMN %s", quote(name), definition(column, {})) } }
end

-- An integer that no double holds fails, with a message that says so.
local EXACT = "CASE WHEN %s BETWEEN -9007199254740992 AND 9007199254740992 "
  .. "THEN %s::double precision "
  .. "ELSE ('an integer that no double holds: ' || %s)::double precision END"

--- Statements that give columns other kinds.
---@param description table
---@param kinds table<string, string> by name
function Database.widen(_, description, kinds)
  local parts = {}
  for _, column in ipairs(description.columns) do
    local kind, name = kinds[column.name], quote(column.name)
    if kind then
      local using = name .. "::" .. TYPES[kind]
      if kind == "real" then using = EXACT:gsub("%%s", (name:gsub("%%", "%%%%"))) end
      parts[#parts + 1] = string.format("ALTER COLUMN %s TYPE %s USING %s", name, TYPES[kind],
        using)
    end
  end
  return { { string.format("ALTER TABLE %s %s", quote(description.name),
    table.concat(parts, ", ")) } }
end

-- Whether the types of all columns are ours, for which there is a format that costs less.
local function is_binary(list)
  for _, column in ipairs(list) do
    if column and (columns.letter(column) == "o" or (column.json and column.kind ~= "json")) then
      return false
    end
  end
  return true
end

local function literal(text)
  return "'" .. text:gsub("'", "''") .. "'"
end

-- Binary values are the bytes of a type, which another one takes for other values. So the columns
-- must have these types still, until the transaction ends.
local CHECK = [[BEGIN LOCK TABLE %s IN ROW EXCLUSIVE MODE;
  IF %d <> (SELECT count(*) FROM pg_attribute a JOIN (VALUES %s) AS v(name, type)
      ON a.attname = v.name AND a.atttypid = v.type WHERE a.attrelid = to_regclass(%s))
  THEN RAISE EXCEPTION USING MESSAGE = %s, ERRCODE = '55000'; END IF; END]]

local function check_types(name, rows)
  local types = {}
  for _, column in ipairs(rows.list) do
    if column then
      types[#types + 1] = string.format("(%s::name, %s::regtype)", literal(column.name),
        literal(TYPES[column.kind]))
    end
  end
  local changed = "the columns of " .. quote(rows.table) .. " were changed meanwhile"
  return { "DO " .. literal(CHECK:format(quote(name), #types, table.concat(types, ", "),
    literal(quote(name)), literal(changed))) }
end

-- Statements that copy rows.
local function copy(name, names, rows)
  local into = {
    string.format("COPY %s (%s) FROM STDIN%s", quote(name), quoted(names),
      rows.binary and " (FORMAT binary)" or ""),
    packed = rows.packed, kinds = rows.kinds, binary = rows.binary,
  }
  if rows.binary then return check_types(name, rows), into end
  return into
end

-- Rows with a key: they are copied to a table of the session beside, the last one of each key takes
-- the place of what is there.
local function merge(name, names, keys, rows)
  local beside = "_rows_" .. crypto.hex(assert(crypto.hash("sha256",
    table.concat({ name, rows.kinds, unpack(names) }, "\0"))):sub(1, 8))
  local is_key, sets = {}, {}
  for _, key in ipairs(keys) do is_key[key] = true end
  for _, one in ipairs(names) do
    if not is_key[one] then
      sets[#sets + 1] = string.format("%s = EXCLUDED.%s", quote(one), quote(one))
    end
  end
  local list = quoted(names)
  local statements = { { string.format("CREATE TEMPORARY TABLE IF NOT EXISTS %s "
    .. "ON COMMIT DELETE ROWS AS SELECT %s FROM %s WITH NO DATA", quote(beside), list,
    quote(name)) } }
  for _, one in ipairs { copy(beside, names, rows) } do statements[#statements + 1] = one end
  statements[#statements + 1] = { string.format("INSERT INTO %s (%s) SELECT DISTINCT ON (%s) %s "
    .. "FROM %s ORDER BY %s, ctid DESC ON CONFLICT (%s) DO %s", quote(name), list, quoted(keys),
    list, quote(beside), quoted(keys), quoted(keys),
    #sets > 0 and "UPDATE SET " .. table.concat(sets, ", ") or "NOTHING") }
  return statements
end

--- Statements that write packed rows.
---@param name string
---@param list table[] {name, kind} by the number of the column in the rows; false where none is
---@param keys string[] rows with these are replaced
---@param packed string[]
function Database.insert(name, list, keys, packed)
  local names, letters = {}, {}
  for i, column in ipairs(list) do
    letters[i] = columns.letter(column)
    if column then names[#names + 1] = column.name end
  end
  local rows = {
    packed = packed, kinds = table.concat(letters), binary = is_binary(list), list = list,
    table = name,
  }
  if #keys > 0 then return merge(name, names, keys, rows) end
  return { copy(name, names, rows) }
end

Database.swap = table_sql.swap

return dialect
