-- What a run has done, in the state database (state.lua): which items are through, what was
-- counted, and how far each sink had come. It is told of a window of items (window.lua) after the
-- sinks have it, in one transaction, and so is never ahead of them.
--
-- An item is its place in the source and its identity (identity.lua). The source is divided into
-- chunks; when all items of one are through, the hash of their identities is kept, so that a
-- resumed run need not look up each (resume.lua).

local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local identity = require "orchestrator.identity"
local json = require "orchestrator.json"

local byte, char, floor = string.byte, string.char, math.floor

local journal = {}

journal.CHUNK = 1000 -- items
local PLACE = 5 -- bytes of a place in the source: 10^12 items
local ITEM = PLACE + identity.SIZE
local KEPT = 200 -- ended runs of a pipeline that are remembered
local BATCH = 500 -- windows read at once

---@class orc.Journal
---@field run_id string
---@field sessions integer how often the run was started, this time included
---@field started number unix seconds, of the first time
---@field number integer of the last window
---@field totals table|nil what was counted until then
---@field positions table by the sink's place, what its last commit returned
---@field finishing boolean all was committed, and the run was about to end
local Journal = {}
Journal.__index = Journal

-- Items as bytes -------------------------------------------------------------------------------

local function pack(place, id)
  return char(floor(place / 2 ^ 32) % 256, floor(place / 2 ^ 24) % 256, floor(place / 2 ^ 16) % 256,
    floor(place / 256) % 256, place % 256) .. id
end

local function place_at(items, at)
  local a, b, c, d, e = byte(items, at, at + PLACE - 1)
  return (((a * 256 + b) * 256 + c) * 256 + d) * 256 + e
end

local function unhex(text)
  return (text:gsub("%x%x", function(digits) return char(tonumber(digits, 16)) end))
end

-- Chunks -----------------------------------------------------------------------------------------

-- Keeps the identities of chunks until all of their items are through.
local function track(self, place, id)
  local number = floor((place - 1) / journal.CHUNK)
  local chunk = self.chunks[number]
  if not chunk then
    chunk = { left = journal.CHUNK }
    self.chunks[number] = chunk
  end
  chunk[(place - 1) % journal.CHUNK + 1] = id
  chunk.left = chunk.left - 1
  if chunk.left > 0 then return nil end
  self.chunks[number] = nil
  if self.hashed and number >= self.hashed then return nil end
  return { number, journal.hash(chunk) }
end

--- Of the identities of a whole chunk, in the source's order.
---@param ids string[]
function journal.hash(ids)
  return assert(crypto.hash("sha256", table.concat(ids, "", 1, journal.CHUNK)))
end

-- Opening ----------------------------------------------------------------------------------------

-- A run with its last window.
local LAST = "SELECT r.seq, r.id, r.started, r.status, r.sessions, coalesce(w.at & 4294967295, 0), "
  .. "coalesce(w.totals, r.totals), coalesce(w.positions, r.positions), r.targets, r.hashed "
  .. "FROM runs AS r LEFT JOIN windows AS w ON w.at = "
  .. "(SELECT max(at) FROM windows WHERE at BETWEEN r.seq << 32 AND (r.seq + 1 << 32) - 1) "

local function row_of(rows)
  local row = rows[1]
  if not row then return nil end
  local totals = json.decode(row[7])
  return { seq = row[1], id = row[2], started = row[3], status = row[4], sessions = row[5],
    number = row[6], totals = totals ~= json.null and totals or nil,
    positions = json.decode(row[8]), targets = json.decode(row[9]), hashed = row[10] }
end

local function trouble(err)
  return nil, errors.new("invalid", string.format("the journal cannot be written: %s; then go on "
    .. "with --resume", (err.message:gsub(", then run it again$", ""))), { fault = err.fault })
end

--- The run of a pipeline that has not ended, if there is one. Yields.
---@param kept orc.State
---@return table|nil unfinished {id, started, sessions, totals, targets, …}, orc.Error? err
function journal.unfinished(kept, pipeline)
  local result, err = kept:run { { LAST .. "WHERE r.pipeline = ?1 "
    .. "AND r.status IN ('running', 'finishing') ORDER BY r.seq DESC LIMIT 1", pipeline } }
  if not result then return trouble(err) end
  return row_of(result.rows)
end

-- What the ids of runs that began together have in common.
local function group_of(id)
  return id:match "^[^-]*%-?[^-]*"
end

--- The last run of a pipeline, if it ended well and one that began with it has not. Yields.
---@param others table names of pipelines → true
---@return table|nil ended, orc.Error? err
function journal.ended_first(kept, pipeline, others)
  local result, err = kept:run {
    { "SELECT id, pipeline FROM runs WHERE status IN ('running', 'finishing')" },
  }
  if not result then return trouble(err) end
  local begun = {}
  for _, row in ipairs(result.rows) do
    if others[row[2]] then begun[group_of(row[1])] = true end
  end
  if not next(begun) then return nil end
  result, err = kept:run { { LAST .. "WHERE r.pipeline = ?1 ORDER BY r.seq DESC LIMIT 1",
    pipeline } }
  if not result then return trouble(err) end
  local row = row_of(result.rows)
  if row and row.status == "finished" and row.totals and begun[group_of(row.id)] then return row end
end

local function of_row(kept, row)
  return setmetatable({
    state = kept, seq = row.seq, run_id = row.id, started = row.started, sessions = row.sessions,
    number = row.number, totals = row.totals, positions = row.positions,
    finishing = row.status == "finishing", hashed = row.hashed, chunks = {}, prepared = nil,
  }, Journal)
end

--- Begins a run; one of the pipeline that has not ended is given up. Yields.
---@param opts table {pipeline, script, run_id, started, targets: string[], pid}
---@return orc.Journal|nil, orc.Error? err
function journal.begin(kept, opts)
  local gone = "(SELECT seq FROM runs WHERE pipeline = ?1 AND status IN ('running', 'finishing'))"
  local result, err = kept:run {
    { "UPDATE runs SET totals = coalesce((SELECT totals FROM windows WHERE at BETWEEN seq << 32 "
      .. "AND (seq + 1 << 32) - 1 ORDER BY at DESC LIMIT 1), totals) WHERE seq IN " .. gone,
      opts.pipeline },
    { "DELETE FROM windows WHERE at >> 32 IN " .. gone, opts.pipeline },
    { "DELETE FROM chunks WHERE run IN " .. gone, opts.pipeline },
    { "DELETE FROM prepared WHERE run IN " .. gone, opts.pipeline },
    { "DELETE FROM steps WHERE run IN " .. gone, opts.pipeline },
    { "UPDATE runs SET status = 'given up', ended = ?2 WHERE seq IN " .. gone, opts.pipeline,
      opts.started },
    { "DELETE FROM runs WHERE pipeline = ?1 AND seq NOT IN (SELECT seq FROM runs "
      .. "WHERE pipeline = ?1 ORDER BY seq DESC LIMIT ?2)", opts.pipeline, KEPT },
    { "INSERT INTO runs(id, pipeline, script, started, status, sessions, pid, totals, "
      .. "positions, targets) VALUES(?1, ?2, ?3, ?4, 'running', 1, ?5, 'null', '{}', ?6)",
      opts.run_id, opts.pipeline, opts.script, opts.started, opts.pid,
      assert(json.encode(json.array(opts.targets))) },
    { LAST .. "WHERE r.id = ?1", opts.run_id },
  }
  if not result then return trouble(err) end
  return of_row(kept, row_of(result.rows))
end

-- The sinks' batches as one text. Some of them are bytes, which JSON has no form for.
local function freeze_all(batches)
  local all = {}
  for place, one in pairs(batches) do
    local plain = json.encode(one.batches) ~= nil
    all[place] = { records = one.records, batches = plain and one.batches or nil,
      bytes = not plain and crypto.hex(one.batches) or nil }
  end
  return assert(json.encode(all))
end

local function thaw_all(text)
  local all = assert(json.decode(text))
  for _, one in pairs(all) do one.batches = one.batches or unhex(one.bytes) end
  return all
end

--- Goes on with a run. Yields.
---@param row table from journal.unfinished
---@param pid integer
---@return orc.Journal|nil, orc.Error? err
function journal.continue(kept, row, pid)
  local result, err = kept:run {
    { "UPDATE runs SET sessions = sessions + 1, pid = ?2, reason = NULL WHERE seq = ?1",
      row.seq, pid },
    { "SELECT number, entry, batches FROM prepared WHERE run = ?1", row.seq },
  }
  if not result then return trouble(err) end
  row.sessions = row.sessions + 1
  local self = of_row(kept, row)
  local prepared = result.rows[1]
  if prepared and prepared[1] == self.number + 1 then
    self.prepared = { number = prepared[1], entry = prepared[2],
      batches = thaw_all(prepared[3]) }
  end
  return self
end

-- Writing ----------------------------------------------------------------------------------------

--- What a window does to the journal.
---@param jobs table[] {place, id}
---@param totals table what is counted with it
---@return table entry {number, high, items, chunks, totals, positions = {}}
function Journal:entry(jobs, totals)
  local entry = { number = self.number + 1, high = 0, chunks = {}, totals = totals,
    positions = {} }
  for place, position in pairs(self.positions) do entry.positions[place] = position end
  local items = {}
  for i, job in ipairs(jobs) do
    items[i] = pack(job.place, job.id)
    entry.high = math.max(entry.high, job.place)
    entry.chunks[#entry.chunks + 1] = track(self, job.place, job.id)
  end
  entry.items = table.concat(items)
  return entry
end

--- An entry as a text, for a sink that carries it.
function journal.pack(entry)
  local chunks = json.array {}
  for i, chunk in ipairs(entry.chunks) do
    chunks[i] = json.array { chunk[1], crypto.hex(chunk[2]) }
  end
  return assert(json.encode { number = entry.number, high = entry.high,
    items = crypto.hex(entry.items), chunks = chunks, totals = entry.totals,
    positions = entry.positions })
end

---@return table entry
function journal.unpack(text)
  local entry = assert(json.decode(text))
  entry.items = unhex(entry.items)
  for _, chunk in ipairs(entry.chunks) do chunk[2] = unhex(chunk[2]) end
  return entry
end

--- Notes where the sinks are before the next window. Yields.
---@return boolean|nil, orc.Error? err
function Journal:place()
  local result, err = self.state:run { { "UPDATE runs SET positions = ?2 WHERE seq = ?1", self.seq,
    assert(json.encode(self.positions)) } }
  if not result then return trouble(err) end
  return true
end

--- Notes down a window whole, before the sinks have it. Yields.
---@param entry table
---@param batches table by the sink's place: {batches = text, records}
---@return boolean|nil, orc.Error? err
function Journal:prepare(entry, batches)
  local result, err = self.state:run { {
    "INSERT INTO prepared(run, number, entry, batches) VALUES(?1, ?2, ?3, ?4) ON CONFLICT(run) "
      .. "DO UPDATE SET number = ?2, entry = ?3, batches = ?4",
    self.seq, entry.number, journal.pack(entry), freeze_all(batches) } }
  if not result then return trouble(err) end
  return true
end

--- Notes that the sinks have a window. Yields.
---@return boolean|nil, orc.Error? err
function Journal:commit(entry)
  local statements = { { "INSERT INTO windows(at, high, totals, positions, items) "
    .. "VALUES((?1 << 32) + ?2, ?3, ?4, ?5, ?6)", self.seq, entry.number, entry.high,
    assert(json.encode(entry.totals)), assert(json.encode(entry.positions)),
    { blob = entry.items } } }
  if #entry.chunks > 0 then
    local rows = {}
    for i, chunk in ipairs(entry.chunks) do
      rows[i] = { self.seq, chunk[1], { blob = chunk[2] } }
    end
    statements[2] = { "INSERT INTO chunks(run, number, hash) VALUES(?1, ?2, ?3)",
      rows = rows, width = 3 }
  end
  local result, err = self.state:run(statements)
  if not result then return trouble(err) end
  self.number, self.positions, self.totals = entry.number, entry.positions, entry.totals
  return true
end

--- The source is another one from a chunk on: the chunks kept from there on say nothing any more.
--- Yields.
---@return boolean|nil, orc.Error? err
function Journal:rebase(chunk)
  self.hashed = chunk
  local result, err = self.state:run {
    { "UPDATE runs SET hashed = ?2 WHERE seq = ?1", self.seq, chunk },
    { "DELETE FROM chunks WHERE run = ?1 AND number >= ?2", self.seq, chunk },
  }
  if not result then return trouble(err) end
  return true
end

--- Everything is committed; the sinks are about to be completed. Yields.
---@return boolean|nil, orc.Error? err
function Journal:finish()
  local result, err = self.state:run { { "UPDATE runs SET status = 'finishing' WHERE seq = ?1",
    self.seq } }
  if not result then return trouble(err) end
  return true
end

--- The run has ended and will not be resumed. Yields.
---@param status "finished"|"failed"
---@param at number unix seconds
---@return boolean|nil, orc.Error? err
function Journal:close(status, at, reason)
  local result, err = self.state:run {
    { "UPDATE runs SET status = ?2, ended = ?3, reason = ?4, totals = ?5 WHERE seq = ?1", self.seq,
      status, at, reason, assert(json.encode(self.totals or json.null)) },
    { "DELETE FROM windows WHERE at BETWEEN ?1 << 32 AND (?1 + 1 << 32) - 1", self.seq },
    { "DELETE FROM chunks WHERE run = ?1", self.seq },
    { "DELETE FROM prepared WHERE run = ?1", self.seq },
    { "DELETE FROM steps WHERE run = ?1", self.seq },
  }
  if not result then return trouble(err) end
  return true
end

--- Notes why the run stops for now. Yields.
function Journal:pause(reason)
  return self.state:run { { "UPDATE runs SET reason = ?2 WHERE seq = ?1", self.seq, reason } }
end

-- Reading ----------------------------------------------------------------------------------------

--- The hashes of the chunks that are through. Yields.
---@return table|nil hashes number → hash, orc.Error? err
function Journal:hashes()
  local result, err = self.state:run { { "SELECT number, hash FROM chunks WHERE run = ?1",
    self.seq } }
  if not result then return trouble(err) end
  local hashes = {}
  for _, row in ipairs(result.rows) do hashes[row[1]] = row[2] end
  return hashes
end

--- Calls `fn(place, id)` for the items that are through from a place of the source on. Yields.
---@return boolean|nil, orc.Error? err
function Journal:items(from, fn)
  local after = 0
  repeat
    local result, err = self.state:run { { "SELECT at & 4294967295, items FROM windows "
      .. "WHERE at > (?1 << 32) + ?2 AND at < (?1 + 1 << 32) AND high >= ?3 ORDER BY at LIMIT ?4",
      self.seq, after, from, BATCH } }
    if not result then return trouble(err) end
    for _, row in ipairs(result.rows) do
      local items = row[2]
      for at = 1, #items, ITEM do
        local place = place_at(items, at)
        if place >= from then fn(place, items:sub(at + PLACE, at + ITEM - 1)) end
      end
      after = row[1]
    end
  until #result.rows < BATCH
  return true
end

--- Takes note of an item that an earlier session has put through, so that its chunk can become
--- whole.
function Journal:known(place, id)
  track(self, place, id)
end

return journal
