-- Stored responses that outlive the program: a SQLite database beside the state (src/store.h),
-- which several programs may use at once. The interface is that of cache_memory.lua.
--
-- Bodies are kept once, by what they hash to, and an entry names its body: both come and go in one
-- transaction.
--
-- What is to be written waits for a moment, so that many responses go into one transaction, and
-- until that is committed it is found in the batch (cache_batch.lua). Nobody waits for it.

local cache_batch = require "orchestrator.cache_batch"
local cache_document = require "orchestrator.cache_document"
local cache_filter = require "orchestrator.cache_filter"
local cache_trouble = require "orchestrator.cache_trouble"
local crypto = require "orchestrator.core.crypto"

local cache_store = {}

local APPLICATION_ID = 0x6f726363 -- "orcc"

-- The i-th brings a database of version i - 1 to version i. Never change one that was released.
--
--   bodies   hash is the SHA-256 of the body; data is the body itself when it is `size` long,
--            otherwise a zstd frame: unzstd(data, size) gives the body, NULL when it is spoilt
--   entries  a response by its key and, as a key may have several, a random stamp. The document is
--            the entry (cache_document.lua), `used` the unix time of its last use, roughly. Keys
--            are hashes.
--   changes  how many entries were removed or changed, ever, and before the last batch; how many
--            batches were written
-- Indexes have the beginnings of hashes only, as every page of an index is written again and again.
-- Should two bodies have the same one, then only the first is stored.
local MIGRATIONS = {
  [[CREATE TABLE bodies(
      id INTEGER PRIMARY KEY,
      hash BLOB NOT NULL,
      size INTEGER NOT NULL,
      data BLOB NOT NULL
    ) STRICT;
    CREATE TABLE entries(
      id INTEGER PRIMARY KEY,
      key BLOB NOT NULL,
      stamp INTEGER NOT NULL,
      url TEXT NOT NULL,
      document BLOB NOT NULL,
      body INTEGER NOT NULL,
      used INTEGER NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX bodies_hash ON bodies(substr(hash, 1, 8));
    CREATE INDEX entries_key ON entries(substr(key, 1, 8));
    CREATE INDEX entries_url ON entries(url);
    CREATE INDEX entries_body ON entries(body);
    CREATE INDEX entries_used ON entries(used);
    CREATE TABLE changes(
      count INTEGER NOT NULL,
      before INTEGER NOT NULL,
      batches INTEGER NOT NULL
    ) STRICT;
    INSERT INTO changes VALUES(0, 0, 0);
    CREATE TRIGGER entries_gone AFTER DELETE ON entries BEGIN
      DELETE FROM bodies WHERE id = old.body
        AND NOT EXISTS (SELECT 1 FROM entries WHERE body = old.body);
      UPDATE changes SET count = count + 1;
    END;
    CREATE TRIGGER entries_changed AFTER UPDATE OF document ON entries BEGIN
      UPDATE changes SET count = count + 1;
    END]],
}

cache_store.APPLICATION_ID, cache_store.MIGRATIONS = APPLICATION_ID, MIGRATIONS

local SIZE = 1e9 -- bytes of the database when nobody says how many
local LARGEST = 5e8 -- bytes of a body: SQLite holds up to twice that in a row
local AT_ONCE = 65536 -- bytes of a body, compressed, up to which it is read together with its entry
local CROWD = 32 -- responses of one key that are looked at

local DELAY = 0.1 -- seconds that what is to be written waits for more
local FULL = { count = 1000, bytes = 4e6 } -- a batch that does not wait
local HELD = 64e6 -- bytes of bodies that wait in memory; beyond that nothing is stored
local TRIES = 1 -- to write what is left at the end, while another program keeps it
local STEPS = 100 -- of tidying up, at most, for which the end of the program waits
local LOOK = 0.1 -- seconds between looks whether another program has changed something
local NONE = {}

local IDLE = 60 -- seconds after which the use of a response is written down again

local PAGES = { read = "-24000", write = "-8000" } -- kB at most that the connections keep
local LOG = { pages = 4000, bytes = 16e6 } -- when it is put into the database, what is kept of it

local READ = "SELECT e.stamp, e.url, e.document, e.used, b.hash, b.size, "
  .. "CASE WHEN length(b.data) <= " .. AT_ONCE .. " THEN unzstd(b.data, b.size) ELSE 0 END "
  .. "FROM entries e JOIN bodies b ON b.id = e.body WHERE " .. cache_batch.IS_KEY
  .. " ORDER BY e.id DESC"
local READ_BODY = "SELECT unzstd(b.data, b.size) FROM entries e JOIN bodies b ON b.id = e.body "
  .. "WHERE " .. cache_batch.IS_KEY .. " AND stamp = ?2"

---@class orc.CacheStore
---@field path string of the database
---@field id integer see src/lua_store.h
local Store = {}
Store.__index = Store

local function pragmas(host, id)
  host.store_run(id, {
    { "PRAGMA cache_size=" .. PAGES.write },
    { "PRAGMA wal_autocheckpoint=" .. LOG.pages },
    { "PRAGMA journal_size_limit=" .. string.format("%d", LOG.bytes) },
  })
  return host.store_read(id, "PRAGMA cache_size=" .. PAGES.read)
end

local function path_of(env)
  return env.state_dir .. "/cache.db"
end

--- Whether there may be one; what cannot be looked at is for the opening to complain about.
---@param env table {state_dir} of the program
---@return boolean
function cache_store.is_there(env)
  local file, _, code = io.open(path_of(env), "rb")
  if file then file:close() end
  return file ~= nil or code ~= 2 -- ENOENT
end

--- The store of the program, opened or made when it is not yet.
---@param env table {sched, host, voice, state_dir, cache_store} of the program
---@param hurried boolean|nil it is for a moment only: nothing has to wait for another program that
---  keeps it, unless it is to be changed
---@return orc.CacheStore|nil, string? problem one line that says what to do
function cache_store.open(env, hurried)
  if env.cache_store then return env.cache_store end
  local host, directory = env.host, env.state_dir
  local made, problem = host.store_directory(directory)
  if not made then
    return nil, cache_trouble.directory(directory, problem)
  end
  local path = path_of(env)
  local id, reason, message = host.store_open(path, {
    application_id = APPLICATION_ID, migrations = MIGRATIONS,
    functions = true, snapshots = true, shrinks = true,
  })
  if not id then return nil, cache_trouble.opening(path, reason, message) end
  if not hurried then pragmas(host, id) end
  env.cache_store = setmetatable({
    sched = env.sched, host = host, id = id, path = path, log = env.voice and env.voice.log,
    most = nil, -- bytes, when somebody said
    batch = cache_batch.new(), -- that waits
    flying = nil, -- the batch that is being written
    timer = nil, -- when `batch` is written
    shrink = false, -- whether the file has too many pages
    work = false, -- whether there is something to do that no batch asks for
    over = math.huge, -- bytes that were too many when it was last written
    count = nil, -- of `changes`, as far as this program knows
    foreign = false, -- whether others have changed something
    looked = -math.huge, -- when that was last looked for
    failed = false, -- nothing is written any more
    failures = 0, -- batches that could not be written
    warned = false,
    finisher = nil, -- the task that waits until all is written
    reading = { blob = nil }, -- the key of a read, in a table that is used again
    filter = cache_filter.new(env.sched, host, id, hurried),
  }, Store)
  return env.cache_store
end

--- Lets it have so many bytes. It has as many as anybody in the program lets it have.
---@param size number|nil the usual number unless given
function Store:limit(size)
  self.most = math.max(self.most or 0, size or SIZE)
end

-- Said once: a cache that fails costs time, not results.
local function warn(self, code, message, what)
  if self.warned then return end
  self.warned = true
  if not self.log then return end
  self.log:warn(cache_trouble.later(self.path, code, message, what))
end

-- Writing ------------------------------------------------------------------------------------

local flush

-- What to do next: what is too much is evicted in steps, as is what the file has too many pages.
local function take_stock(self, row)
  local over, spare, count, before, batches = unpack(row)
  -- When nothing is left to evict it is at its smallest.
  self.work = over > 0 and over < self.over or spare > 0
  self.shrink = spare > 0
  self.over = over > 0 and over or math.huge
  self.foreign = self.foreign or before ~= self.count
  self.count = count
  self.filter:written(batches)
end

-- Another program keeps it, so what is void must be written later. Of other failures nobody knows
-- when they end: then this program at least does not see what should be gone.
local function written(self, batch, result)
  self.flying = nil
  if result.fault then
    warn(self, result.code, result.message, "responses are not cached")
    self.failures = self.failures + 1
    self.failed = self.failed or result.code ~= "busy"
    local kept = self.failed and cache_batch.new() or self.batch
    kept:inherit(batch)
    if kept ~= self.batch then kept:inherit(self.batch) end
    self.batch = kept
  else
    take_stock(self, result.rows[1])
  end
  if self.finisher then
    self.sched:wake(self.finisher)
  elseif self.work then
    flush(self)
  else
    self:soon()
  end
end

function flush(self)
  if self.timer then self.timer:cancel() end
  self.timer = nil
  if self.failed or self.flying or (self.batch:is_empty() and not self.work) then return end
  local batch = self.batch
  self.flying, self.batch, self.work = batch, cache_batch.new(), false
  local job = self.host.store_run(self.id, batch:statements(self.most or SIZE, self.shrink))
  self.sched:attach(job, { told = function(_, result) written(self, batch, result) end })
end

local function on_timer(self)
  self.timer = nil
  flush(self)
end

--- Sees to it that what waits is written.
function Store:soon()
  if self.failed or self.flying or self.batch:is_empty() then return end
  if self.batch:is_full(FULL) then
    flush(self)
  elseif not self.timer then
    self.timer = self.sched:at(self.sched:now() + DELAY, on_timer, self)
  end
end

--- Waits until everything is written, and what is too much is gone; not for another program that
--- does not let go of it. Yields.
function Store:finish()
  local steps, failures = 0, self.failures
  while not self.failed and (self.flying or self.filter.filling or not self.batch:is_empty()
    or self.work and steps < STEPS) do
    steps = steps + 1
    flush(self)
    local task = self.sched:current()
    self.finisher = task
    self.filter.on_filled = function() self.sched:wake(task) end
    self.sched:suspend(function() self.finisher, self.filter.on_filled = nil, nil end)
    self.finisher, self.filter.on_filled = nil, nil
    self.failed = self.failed or self.failures >= failures + TRIES
  end
end

--- Writes what is still to be written, and closes it.
function Store:close()
  if not self.failed and not self.batch:is_empty() then
    self.host.store_run(self.id, self.batch:statements(self.most or SIZE, false))
  end
  self.host.store_close(self.id)
end

-- Reading ------------------------------------------------------------------------------------

local function is_hidden(self, stamp, url)
  local flying = self.flying
  return self.batch:hides(stamp, url) or flying and flying:hides(stamp, url) or false
end

local function renewed(self, stamp)
  return self.batch.renewed[stamp] or self.flying and self.flying.renewed[stamp]
end

-- Adds what a batch puts, the newest first; gives the set of its stamps when there is any.
local function add_waiting(self, batch, key, entries, known)
  local waiting = batch and batch:entries(key)
  if not waiting then return known end
  known = known or {}
  for _, entry in ipairs(waiting) do
    local stamp = entry.row.stamp
    known[stamp] = true
    -- What undoes it later in the same batch has taken it out.
    if batch == self.batch or not self.batch:hides(stamp, entry.url) then
      entries[#entries + 1] = self.batch.renewed[stamp] or entry
    end
  end
  return known
end

local function entry_of(self, key, row)
  local stamp, url = row[1], row[2]
  local entry = renewed(self, stamp)
  if entry then return entry end
  entry = cache_document.decode(row[3], url)
  local text = row[7]
  if not entry then
    self.batch:remove(key, stamp)
    return nil
  end
  entry.key = key
  entry.row = {
    stamp = stamp, used = row[4], hash = row[5], size = row[6],
    text = text ~= 0 and text or nil, -- 0 is a long one, that is read when it is needed
    spoilt = text == nil,
  }
  return entry
end

--- What is stored for a key, the newest first. Each call makes new entries. The list is not to be
--- changed.
---@param key string
---@return orc.CacheEntry[]
function Store:get(key)
  if self.filter:is_absent(key, self.flying ~= nil) then return NONE end
  local entries = {}
  local known = add_waiting(self, self.batch, key, entries)
  known = add_waiting(self, self.flying, key, entries, known)
  if self.broken then return entries end
  self.reading.blob = key
  local rows, code, message = self.host.store_read(self.id, READ, self.reading)
  if not rows then
    warn(self, code, message, "nothing is read from the cache")
    self.broken = code ~= "busy"
    return entries
  end
  if not rows[1] and not self.failed then self.filter:missed(self.batch) end
  for i = 1, #rows do
    local row = rows[i]
    local stamp = row[1]
    if not (known and known[stamp]) and not is_hidden(self, stamp, row[2]) then
      if i > CROWD then
        self.batch:remove(key, stamp)
      else
        entries[#entries + 1] = entry_of(self, key, row)
      end
    end
  end
  return entries
end

-- A body out of the database; nil when it is not what was stored.
local function checked(self, entry, row)
  local text = row.text
  if not text and not row.spoilt then
    self.reading.blob = entry.key
    local rows, code, message = self.host.store_read(self.id, READ_BODY, self.reading, row.stamp)
    if not rows then
      warn(self, code, message, "nothing is read from the cache")
      return nil
    end
    if not rows[1] then return nil end -- another program has removed it
    text = rows[1][1]
  end
  if text and crypto.hash("sha256", text) == row.hash then return text end
  self.batch:spoilt(entry.key, row.stamp)
  self:soon()
  return nil
end

--- Its body, checked against its hash.
---@param entry orc.CacheEntry
---@return string|nil nil when it is gone
function Store:body(entry)
  local row = entry.row
  if not row then return nil end
  local text = row.text
  if row.hash then
    text = checked(self, entry, row)
    if not text then return nil end
  end
  self:touch(entry)
  return text
end

--- Tells that it was used.
function Store:touch(entry)
  local row, now = entry.row, self.host.wall()
  if math.abs(now - row.used) < IDLE then return end
  row.used = now
  self.batch:use(entry.key, row.stamp, now)
  self:soon()
end

--- Whether something that was read may have changed since this was asked the last time, though not
--- by this program. It notices that after a tenth of a second.
---@return boolean
function Store:is_changed()
  local now = self.sched:now()
  if now - self.looked >= LOOK then
    self.looked = now
    local rows = self.host.store_read(self.id, "SELECT count FROM changes")
    local count = rows and rows[1] and rows[1][1]
    if count ~= self.count then self.foreign, self.count = true, count end
  end
  local foreign = self.foreign
  self.foreign = false
  return foreign
end

-- Changing -----------------------------------------------------------------------------------

--- Stores a response, and drops those it replaces.
---@param entry orc.CacheEntry with its key
---@param body string
---@param replaced orc.CacheEntry[]
---@return boolean whether there is a place for it
function Store:put(entry, body, replaced)
  for _, other in ipairs(replaced) do self:remove(other) end
  local size = #body
  if self.failed or size > LARGEST or size > (self.most or SIZE)
    or self.batch.bytes + size > HELD and self.batch.bytes > 0 then
    return false
  end
  entry.row = {
    stamp = math.floor(self.host.random() * 2 ^ 53), used = self.host.wall(), size = size,
    text = body,
  }
  self.batch:put(entry)
  self.filter:put(entry.key)
  self:soon()
  return true
end

--- Puts an entry in the place of another one, with its body.
function Store:update(old, new)
  local row = old.row
  if not row then return end
  new.key, new.row = old.key, row
  self.batch:update(new)
  self:soon()
end

function Store:remove(entry)
  if not entry.row then return end
  self.batch:remove(entry.key, entry.row.stamp)
  self:soon()
end

--- Drops all that is stored for a URL, by whatever keys.
function Store:void(url)
  self.batch:void(url)
  self:soon()
end

return cache_store
