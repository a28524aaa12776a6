-- The state directory: what outlives the process. One SQLite database with a writer thread of its
-- own (src/store.h), opened when something first needs it.

local errors = require "orchestrator.errors"

local state = {}

local APPLICATION_ID = 0x6f726368 -- "orch"

-- The i-th brings a database of version i - 1 to version i. Never change one that was released.
local MIGRATIONS = {
  -- A limit by its name: a document of ledger.lua, and how often it was written.
  [[CREATE TABLE limits(
      name TEXT PRIMARY KEY,
      version INTEGER NOT NULL,
      document TEXT NOT NULL
    ) STRICT, WITHOUT ROWID]],
  -- Runs of pipelines and programs: see journal.lua and steps.lua. `totals`, `positions` and
  -- `targets` are JSON; status is "running", "finishing", "finished", "failed" or "given up". What
  -- a run that has not ended has counted, and where its sinks are, is with its last window.
  [[CREATE TABLE runs(
      seq INTEGER PRIMARY KEY,
      id TEXT NOT NULL UNIQUE,
      pipeline TEXT NOT NULL,
      script TEXT,
      started REAL NOT NULL,
      ended REAL,
      status TEXT NOT NULL,
      reason TEXT,
      sessions INTEGER NOT NULL,
      pid INTEGER,
      totals TEXT NOT NULL,
      positions TEXT NOT NULL,
      targets TEXT NOT NULL,
      hashed INTEGER
    ) STRICT;
    CREATE INDEX runs_of_pipeline ON runs(pipeline, seq);
    -- The key is run * 2^32 + number, so that a window is added at the end: two pages a commit.
    CREATE TABLE windows(
      at INTEGER PRIMARY KEY,
      high INTEGER NOT NULL,
      totals TEXT NOT NULL,
      positions TEXT NOT NULL,
      items BLOB NOT NULL
    ) STRICT;
    CREATE TABLE chunks(
      run INTEGER NOT NULL,
      number INTEGER NOT NULL,
      hash BLOB NOT NULL,
      PRIMARY KEY(run, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE prepared(
      run INTEGER PRIMARY KEY,
      number INTEGER NOT NULL,
      entry TEXT NOT NULL,
      batches TEXT NOT NULL
    ) STRICT;
    CREATE TABLE steps(
      run INTEGER NOT NULL,
      key TEXT NOT NULL,
      value TEXT NOT NULL,
      PRIMARY KEY(run, key)
    ) STRICT, WITHOUT ROWID]],
}

local ELSEWHERE = " or name another directory with --state-dir"

-- What to do when it cannot be opened.
local ADVICE = {
  read_only = "make the directory and the files in it writable," .. ELSEWHERE,
  not_a_database = "move it away," .. ELSEWHERE,
  corrupt = "put a copy of it back, or move it away to start anew (what it kept is forgotten)",
  foreign = "it belongs to another program:" .. ELSEWHERE:sub(4),
  newer = "use the version of orchestrator that wrote it," .. ELSEWHERE,
  busy = "end the process that keeps it," .. ELSEWHERE,
  failed = "see to that," .. ELSEWHERE,
}

-- And when it fails later; the codes are those of src/lua_store.h.
local LATER = {
  full = "make room on the disk, then run it again",
  read_only = ADVICE.read_only,
  corrupt = ADVICE.corrupt,
  busy = ADVICE.busy,
  moved = "put it back",
}

---@class orc.State
---@field path string of the database
---@field boot string|nil tells one start of the system from another
local State = {}
State.__index = State

local function trouble(self, code, message)
  return string.format("%s: %s; %s", self.path, message, LATER[code] or ADVICE.failed)
end

-- Linux's number for this start of the system; containers may have a clock of their own.
local function boot_of()
  local texts = {}
  for i, path in ipairs { "/proc/sys/kernel/random/boot_id", "/proc/self/timens_offsets" } do
    local file = io.open(path, "r")
    texts[i] = file and file:read "*a" or ""
    if file then file:close() end
  end
  if texts[1] == "" then return nil end
  return (table.concat(texts, " "):gsub("%s+", " "))
end

--- The state of the program, opened or made when it is not yet.
---@param env table {sched, host, state_dir, state} of the program
---@return orc.State|nil, string? problem one line that says what to do
function state.open(env)
  if env.state then return env.state end
  local host, directory = env.host, env.state_dir
  local made, problem = host.store_directory(directory)
  if not made then
    return nil, string.format("the state directory %s cannot be made: %s; %s", directory, problem,
      ADVICE.failed)
  end
  local path = directory .. "/state.db"
  local id, reason, message = host.store_open(path,
    { application_id = APPLICATION_ID, migrations = MIGRATIONS, durable = true })
  if not id then return nil, string.format("%s: %s; %s", path, message, ADVICE[reason]) end
  env.state = setmetatable({ sched = env.sched, host = host, id = id, path = path,
    boot = boot_of() }, State)
  return env.state
end

--- Runs statements (src/lua_store.h) in one transaction. Yields.
---@return table|nil result {rows, changes}, orc.Error? err
function State:run(statements)
  local result = self.sched:run_job(self.id, statements)
  if not result.fault then return result end
  return nil, errors.new("invalid", trouble(self, result.code, result.message),
    { fault = result.fault })
end

--- The document of a limit, nil when there is none yet, and its version. At once.
---@return string|nil document, integer|nil version, string? problem
function State:load(name)
  local rows, code, message = self.host.store_read(self.id,
    "SELECT document, version FROM limits WHERE name = ?1", name)
  if not rows then return nil, nil, trouble(self, code, message) end
  if not rows[1] then return nil, 0 end
  return rows[1][1], rows[1][2]
end

--- Writes it, when its version is still this one. `done(saved, problem)` is called later, unless
--- the state is closed before.
function State:save(name, version, document, done)
  local statement
  if version == 0 then
    statement = { "INSERT INTO limits VALUES(?1, 1, ?2) ON CONFLICT DO NOTHING", name, document }
  else
    statement = { "UPDATE limits SET version = version + 1, document = ?3 "
      .. "WHERE name = ?1 AND version = ?2", name, version, document }
  end
  local job = self.host.store_run(self.id, { statement })
  self.sched:attach(job, { told = function(_, result)
    if result.fault then return done(false, trouble(self, result.code, result.message)) end
    return done(result.changes > 0)
  end })
end

--- Waits until everything is written.
function State:close()
  self.host.store_close(self.id)
end

return state
