-- What is to be written to a cache_store.lua in one transaction. The order in which things were
-- asked for does not matter to it: what undoes something of the same batch takes it out here.

local cache_document = require "orchestrator.cache_document"

local cache_batch = {}

local STEP = 500 -- entries at most that a transaction evicts
local KEPT = 0.95 -- of the size, when something has to be evicted: so that it is not each time
local OVERHEAD = 250 -- bytes, roughly, of an entry and its body besides the two texts

--- Of which key an entry is, the way the index knows it.
cache_batch.IS_KEY = "key = ?1 AND substr(key, 1, 8) = substr(?1, 1, 8)"
local IS_ENTRY = cache_batch.IS_KEY .. " AND stamp = ?2"

local VOID = "DELETE FROM entries WHERE url = ?1"
-- All that have the same body have none.
local SPOILT = "DELETE FROM entries WHERE body IN "
  .. "(SELECT body FROM entries WHERE " .. IS_ENTRY .. ")"
local REMOVE = "DELETE FROM entries WHERE " .. IS_ENTRY
-- An entry and its body, which may be there already. Both get the same row.
local PUT_BODY = "INSERT INTO bodies(hash, size, data) VALUES(sha256(?1), length(?1), zstd(?1)) "
  .. "ON CONFLICT DO NOTHING"
local PUT = "INSERT OR IGNORE INTO entries(key, stamp, url, document, used, body) "
  .. "VALUES(?2, ?3, ?4, ?5, ?6, CASE WHEN changes() > 0 THEN last_insert_rowid() ELSE "
  .. "(SELECT id FROM bodies WHERE substr(hash, 1, 8) = substr(sha256(?1), 1, 8) "
  .. "AND hash = sha256(?1)) END)"
local UPDATE = "UPDATE entries SET document = ?3 WHERE " .. IS_ENTRY
local USE = "UPDATE entries SET used = ?3 WHERE " .. IS_ENTRY

-- The pages that are in use. Those of what was deleted are free: they are used again before the
-- file grows. Only when it has far too many of them they are given back.
local LIVE = "(SELECT (page_count - freelist_count) * page_size "
  .. "FROM pragma_page_count, pragma_freelist_count, pragma_page_size)"
local SPARE = "(SELECT (freelist_count - page_count / 4) * page_size - 16000000 "
  .. "FROM pragma_page_count, pragma_freelist_count, pragma_page_size)"
local SHRINK = "PRAGMA incremental_vacuum(1000)"
-- The least recently used, as many as make up for what is too much.
local EVICT = [[DELETE FROM entries WHERE id IN (
  SELECT id FROM (
    SELECT id, sum(cost) OVER (ROWS UNBOUNDED PRECEDING) - cost AS before FROM (
      SELECT e.id, length(b.data) + length(e.document) + length(e.url) + %d AS cost
      FROM entries e LEFT JOIN bodies b ON b.id = e.body
      WHERE LIVE > ?1 ORDER BY e.used, e.id LIMIT %d))
  WHERE before < LIVE - ?1 * %s)]]
EVICT = EVICT:format(OVERHEAD, STEP, KEPT):gsub("LIVE", LIVE)
local BEGIN = "UPDATE changes SET before = count, batches = batches + 1"
local STOCK = "SELECT " .. LIVE .. " - ?1, " .. SPARE .. ", count, before, batches FROM changes"

-- The columns of what is put, as PUT has them; which of them are blobs.
local BODY, KEY, STAMP, URL, DOCUMENT, USED, WIDTH = 1, 2, 3, 4, 5, 6, 6
local BLOBS = "bb--b-"

---@class orc.CacheBatch
---@field renewed table<integer, orc.CacheEntry> stamp → what is in its place
---@field bytes number of the bodies that are put
local Batch = {}
Batch.__index = Batch

function cache_batch.new()
  return setmetatable({
    puts = {}, -- the values of all rows, one after the other: texts are no work for the collector
    count = 0, bytes = 0,
    keys = {}, -- key → where its row begins in `puts`, or a list of that
    stamps = {}, -- stamp → where its row begins
    dropped = nil, -- set of where rows begin that are not to be put after all
    renewed = {},
    gone = {}, urls = {}, -- sets of stamps and URLs
    removals = {}, spoils = {}, voids = {}, uses = {}, -- rows
    updates = {}, -- stamps
  }, Batch)
end

function Batch:is_empty()
  return self.count == 0
end

---@param full table {count, bytes}
function Batch:is_full(full)
  return self.count >= full.count or self.bytes >= full.bytes
end

--- Whether what is stored already is no longer there.
function Batch:hides(stamp, url)
  return self.gone[stamp] or self.urls[url] or false
end

---@param entry orc.CacheEntry with its key and row {stamp, used, text}
function Batch:put(entry)
  local puts, row, key = self.puts, entry.row, entry.key
  local at = #puts
  puts[at + BODY], puts[at + KEY], puts[at + STAMP] = row.text, key, row.stamp
  puts[at + URL], puts[at + DOCUMENT] = entry.url, cache_document.encode(entry)
  puts[at + USED] = math.floor(row.used)
  self.stamps[row.stamp] = at
  local others = self.keys[key]
  if not others then
    self.keys[key] = at
  elseif type(others) == "table" then
    others[#others + 1] = at
  else
    self.keys[key] = { others, at }
  end
  self.count, self.bytes = self.count + 1, self.bytes + #row.text
end

local function is_dropped(self, at)
  return self.dropped ~= nil and self.dropped[at]
end

-- The entry of a row, made anew.
local function entry_at(self, at)
  local puts = self.puts
  local text = puts[at + BODY]
  local entry = assert(cache_document.decode(puts[at + DOCUMENT], puts[at + URL]))
  entry.key = puts[at + KEY]
  entry.row = { stamp = puts[at + STAMP], used = puts[at + USED], size = #text, text = text }
  return entry
end

--- What is put for a key, the newest first.
---@return orc.CacheEntry[]|nil
function Batch:entries(key)
  local places = self.keys[key]
  if not places then return nil end
  if type(places) == "number" then places = { places } end
  local entries = {}
  for i = #places, 1, -1 do
    if not is_dropped(self, places[i]) then entries[#entries + 1] = entry_at(self, places[i]) end
  end
  return entries
end

local function drop(self, at)
  if is_dropped(self, at) then return end
  self.dropped = self.dropped or {}
  self.dropped[at] = true
  self.stamps[self.puts[at + STAMP]] = nil
  self.bytes = self.bytes - #self.puts[at + BODY]
end

---@param new orc.CacheEntry with the key and row of the one it replaces
function Batch:update(new)
  local stamp = new.row.stamp
  local at = self.stamps[stamp]
  if at then
    self.puts[at + DOCUMENT] = cache_document.encode(new)
  elseif not self.gone[stamp] then
    if not self.renewed[stamp] then
      self.updates[#self.updates + 1] = stamp
      self.count = self.count + 1
    end
    self.renewed[stamp] = new
  end
end

local function go(self, rows, key, stamp)
  if self.gone[stamp] then return end
  self.gone[stamp] = true
  rows[#rows + 1] = { { blob = key }, stamp }
  self.count = self.count + 1
end

function Batch:remove(key, stamp)
  local at = self.stamps[stamp]
  if at then drop(self, at) else go(self, self.removals, key, stamp) end
end

--- Removes it with all that share its body, which cannot be read.
function Batch:spoilt(key, stamp)
  go(self, self.spoils, key, stamp)
end

function Batch:use(key, stamp, now)
  self.uses[#self.uses + 1] = { { blob = key }, stamp, math.floor(now) }
  self.count = self.count + 1
end

function Batch:void(url)
  for at = 0, #self.puts - 1, WIDTH do
    if self.puts[at + URL] == url then drop(self, at) end
  end
  if self.urls[url] then return end
  self.urls[url] = true
  self.voids[#self.voids + 1] = { url }
  self.count = self.count + 1
end

--- Takes over from a batch that could not be written what must not be forgotten.
---@param other orc.CacheBatch
function Batch:inherit(other)
  for _, row in ipairs(other.voids) do
    if not self.urls[row[1]] then
      self.urls[row[1]] = true
      self.voids[#self.voids + 1] = row
    end
  end
  for _, row in ipairs(other.spoils) do go(self, self.spoils, row[1].blob, row[2]) end
  for _, row in ipairs(other.removals) do go(self, self.removals, row[1].blob, row[2]) end
  for _, stamp in ipairs(other.updates) do
    if not self.renewed[stamp] then self:update(other.renewed[stamp]) end
  end
  self.count = self.count + #other.voids
end

-- The rows that are still to be put.
local function kept_puts(self)
  if not self.dropped then return self.puts end
  local kept = {}
  for at = 0, #self.puts - 1, WIDTH do
    if not is_dropped(self, at) then
      for i = 1, WIDTH do kept[#kept + 1] = self.puts[at + i] end
    end
  end
  return kept
end

local function rows_of_updates(self)
  local rows = {}
  for _, stamp in ipairs(self.updates) do
    local entry = self.renewed[stamp]
    rows[#rows + 1] = { { blob = entry.key }, stamp, { blob = cache_document.encode(entry) } }
  end
  return rows
end

--- What src/lua_store.h takes: all of it, then evicts until no more than `size` bytes are left, or
--- the step is done. It gives how many bytes are still too many, how many the file has too many,
--- and the counts of `changes`.
---@param size number
---@param shrink boolean whether the file has too many
---@return table[]
function Batch:statements(size, shrink)
  local statements = { { BEGIN } }
  local function add(sql, rows, width, blobs, also)
    if rows[1] then
      statements[#statements + 1] = { sql, also = also, rows = rows, width = width, blobs = blobs }
    end
  end
  add(VOID, self.voids, 1)
  add(SPOILT, self.spoils, 2)
  add(REMOVE, self.removals, 2)
  add(PUT_BODY, kept_puts(self), WIDTH, BLOBS, PUT)
  add(UPDATE, rows_of_updates(self), 3)
  add(USE, self.uses, 3)
  statements[#statements + 1] = { EVICT, size }
  if shrink then statements[#statements + 1] = { SHRINK } end
  statements[#statements + 1] = { STOCK, size }
  return statements
end

return cache_batch
