-- The row of the table _orchestrator that says how far a run has come with a table: it is written
-- in the transaction that has the records, so it is true of them whenever the program dies. And the
-- transactions are tried again: when a connection is lost the row tells whether one went through.

local errors = require "orchestrator.errors"

local table_checkpoint = {}

table_checkpoint.TABLE = "_orchestrator"

local PAUSE = 0.2 -- seconds, before the second try; doubled each time
local LONGEST = 10 -- of such pauses

local TAKEN = "another run has taken the table over"

local READ = 'SELECT "run", "window", "records", "state", "entry" FROM "_orchestrator" '
  .. 'WHERE "pipeline" = ?1 AND "table" = ?2'

local BEGIN = 'INSERT INTO "_orchestrator" ("pipeline", "table", "run", "window", "records", '
  .. '"state", "entry") VALUES (?1, ?2, ?3, 0, 0, \'open\', NULL) '
  .. 'ON CONFLICT ("pipeline", "table") DO UPDATE SET "run" = excluded."run", "window" = 0, '
  .. '"records" = 0, "state" = \'open\', "entry" = NULL'

local ADVANCE = 'UPDATE "_orchestrator" SET "window" = ?4, "records" = ?5, "entry" = ?6 '
  .. 'WHERE "pipeline" = ?1 AND "table" = ?2 AND "run" = ?3 AND "window" < ?4 '
  .. 'AND "state" = \'open\''

local FINISH = 'UPDATE "_orchestrator" SET "state" = \'finished\' '
  .. 'WHERE "pipeline" = ?1 AND "table" = ?2 AND "run" = ?3 AND "state" = \'open\''

---@class orc.TableCheckpoint
---@field window integer the last one that was committed for the run
---@field records integer until then
---@field entry string|nil the journal's, of that window
---@field begun boolean it has a row
---@field finished boolean
local Checkpoint = {}
Checkpoint.__index = Checkpoint

---@param opts table {db: of a dialect, sched, log, target, pipeline: string, table: string, run_id}
---@return orc.TableCheckpoint
function table_checkpoint.new(opts)
  return setmetatable({
    db = opts.db, sched = opts.sched, log = opts.log, target = opts.target,
    pipeline = opts.pipeline, table = opts.table, run_id = opts.run_id,
    window = 0, records = 0, entry = nil, begun = false, finished = false,
  }, Checkpoint)
end

-- Transactions -------------------------------------------------------------------------------

--- Does something until it has gone through, or that is of no use. Yields.
---@param run fun(): any|nil, orc.Error?, boolean? the last: it may go through later
---@param done? fun(): boolean|nil whether what may be lost has gone through after all, nil when
---  that cannot be told; nil when it does no harm to do it twice
---@return any|nil result, orc.Error? err
function Checkpoint:persist(run, done)
  local pause, lost, err = PAUSE, false, nil
  for attempt = 1, self.db.tries do
    local again = not (lost and done)
    if lost and done then
      local gone = done()
      if gone then return true end
      again = gone == false
    end
    if again then
      local result, possible
      result, err, possible = run()
      if not err then return result end
      if not possible then return nil, err end
      lost = true
    end
    if attempt == self.db.tries then break end
    local message = err.message:gsub(",? ?then go on with %-%-resume$", "")
    self.log:warn(message:gsub(";$", "") .. "; trying again")
    self.sched:sleep(pause)
    pause = math.min(pause * 2, LONGEST)
  end
  return nil, err
end

--- Runs statements in one transaction. Yields.
---@return table|nil result, orc.Error? err
function Checkpoint:transact(statements, done)
  return self:persist(function() return self.db:run(statements) end, done)
end

--- Asks for a description of a table, nil when there is none. Yields.
---@return table|nil description, orc.Error? err
function Checkpoint:describe(name)
  return self:persist(function() return self.db:describe(name) end)
end

-- The row ------------------------------------------------------------------------------------

-- It, false when there is none; or nil, err. Yields.
local function read(self)
  local result, err, possible = self.db:run {
    self.db.read_checkpoint(READ, self.pipeline, self.table),
  }
  if not result then return nil, err, possible end
  local row = result.rows[1]
  return row and {
    run = row[1], window = tonumber(row[2]), records = tonumber(row[3]), state = row[4],
    entry = row[5],
  } or false
end

--- Finds out how far the run has come. Changes nothing of what another run may have there. Yields.
---@param resumed boolean the journal knows of commits
---@return boolean|nil, orc.Error? err
function Checkpoint:look_up(resumed)
  local ok, err = self:transact(self.db.make_checkpoints())
  if not ok then return nil, err end
  local found
  found, err = self:persist(function() return read(self) end)
  if err then return nil, err end
  if found and found.run == self.run_id then
    self.window, self.records, self.entry = found.window, found.records, found.entry
    self.finished, self.begun = found.state == "finished", true
    return true
  elseif resumed then
    return nil, errors.new("invalid", string.format("%s: the table %s knows nothing of run %s%s; "
      .. "put it back as it was, or run it without --resume", self.target, table_checkpoint.TABLE,
      self.run_id, found and string.format(', and another run has written to "%s" since',
      self.table) or ""))
  end
  return true
end

--- Begins the run, unless that has been done. Yields.
---@param before table[] statements
---@return boolean|nil, orc.Error? err
function Checkpoint:begin(before)
  if self.begun then return true end
  before[#before + 1] = self.db.statement(BEGIN, self.pipeline, self.table, self.run_id)
  local ok, err = self:transact(before)
  if not ok then return nil, err end
  self.begun = true
  return true
end

-- Runs statements after one that changes the row, which so keeps others from it until the
-- transaction has ended. `done(row)` says of the row whether they went through.
local function change(self, sql, statements, done, ...)
  local first = { self.db.one_row(self.db.statement(sql, self.pipeline, self.table, self.run_id,
    ...), TAKEN) }
  for i = #first, 1, -1 do table.insert(statements, 1, first[i]) end
  return self:transact(statements, function()
    local row = read(self)
    if row == nil then return nil end
    return row ~= false and row.run == self.run_id and done(row)
  end)
end

--- Runs statements as a window of the run. Yields.
---@param window table {number, records, entry}
---@return boolean|nil, orc.Error? err
function Checkpoint:advance(window, statements)
  local records = self.records + window.records
  local ok, err = change(self, ADVANCE, statements, function(row)
    return row.window == window.number
  end, window.number, records, window.entry)
  if not ok then return nil, err end
  self.window, self.records, self.entry = window.number, records, window.entry
  return true
end

--- Runs statements as the end of the run. Yields.
---@return boolean|nil, orc.Error? err
function Checkpoint:finish(statements)
  local ok, err = change(self, FINISH, statements, function(row)
    return row.state == "finished"
  end)
  if not ok then return nil, err end
  self.finished = true
  return true
end

return table_checkpoint
