-- What is in a store of responses, for `orchestrator cache`: the SQL that goes through all of it.
-- The schema is cache_store.lua's. Everything goes page by page, so that a million responses take
-- no more memory than a thousand, no other program waits for long, and a signal is noticed in
-- between. What SQLite refuses is raised, as an orc.Error with its `code` and, as `reason`, what
-- SQLite says.

local cache_document = require "orchestrator.cache_document"
local cache_policy = require "orchestrator.cache_policy"
local cache_trouble = require "orchestrator.cache_trouble"
local errors = require "orchestrator.errors"

local cache_catalogue = {}

local PAGE = 500 -- rows
local BODIES = 50 -- that are checked at once
local HOSTS = 10 -- that are told apart
local SHOWN = 20 -- responses for one URL

local ROW = "SELECT e.id, e.used, e.url, e.document, e.body, length(b.data), hex(b.hash), b.size "
  .. "FROM entries e LEFT JOIN bodies b ON b.id = e.body "

-- Whether a body is what was stored.
local SOUND = "(length(unzstd(data, size)) IS size AND sha256(unzstd(data, size)) = hash)"

---@class orc.CacheCatalogue
---@field path string
local Catalogue = {}
Catalogue.__index = Catalogue

---@param store table an open one: {id, host, sched, path}, see cache_store.lua
---@return orc.CacheCatalogue
function cache_catalogue.new(store)
  return setmetatable({ id = store.id, host = store.host, sched = store.sched, path = store.path },
    Catalogue)
end

local function fail(self, code, message)
  error(errors.new("invalid", cache_trouble.later(self.path, code, message),
    { code = code, reason = message }), 0)
end

local function read(self, sql, ...)
  self.sched:sleep(0)
  local rows, code, message = self.host.store_read(self.id, sql, ...)
  if not rows then fail(self, code, message) end
  return rows
end

-- One transaction; gives how many rows it changed.
local function write(self, ...)
  local result = self.sched:run_job(self.id, { ... })
  if result.fault then fail(self, result.code, result.message) end
  return result.changes
end

local function row_of(cells)
  local entry = cache_document.decode(cells[4], cells[3])
  return entry and {
    id = cells[1], used = cells[2], entry = entry, body = cells[8] and cells[5],
    stored = cells[6] or 0, hash = cells[8] and cells[7]:lower(),
  }
end

-- Iterates over rows. `sql` gives those behind a place, in order, at most so many: its parameters
-- are the place, their number, and the others. The place of a row are its first cells.
local function pages(self, sql, place, ...)
  local page, at, others, count = {}, PAGE, { ... }, select("#", ...)
  return function()
    if at == PAGE then
      local width = #place
      place[width + 1] = PAGE
      for i = 1, count do place[width + 1 + i] = others[i] end
      page, at = read(self, sql, unpack(place, 1, width + 1 + count)), 0
      place = { unpack(page[#page] or {}, 1, width) }
    end
    at = at + 1
    return page[at]
  end
end

-- For listing ---------------------------------------------------------------------------------

local LISTED = ROW:gsub("SELECT e.id, e.used,", "SELECT e.used, e.id,")
  .. "WHERE (e.used, e.id) < (?1, ?2) AND (?4 IS NULL OR e.url GLOB ?4) "
  .. "ORDER BY e.used DESC, e.id DESC LIMIT ?3"

--- Iterates over what is stored, the last used first.
---@param glob string|nil of which URLs
---@return fun(): orc.CacheRow|nil
function Catalogue:rows(glob)
  local next_cells = pages(self, LISTED, { 2 ^ 53, 2 ^ 53 }, glob)
  return function()
    for cells in next_cells do
      cells[1], cells[2] = cells[2], cells[1]
      local row = row_of(cells)
      if row then return row end
    end
  end
end

--- What is stored for a URL, or, when there is nothing, for those that it stands for as a pattern:
--- the last used, at most 20.
---@param url string
---@return orc.CacheRow[], boolean more whether there are others
function Catalogue:find(url)
  for _, operator in ipairs { "=", "GLOB" } do
    local rows = {}
    local page = read(self, ROW .. "WHERE e.url " .. operator
      .. " ?1 ORDER BY e.used DESC, e.id DESC LIMIT ?2", url, SHOWN + 1)
    for i = 1, math.min(#page, SHOWN) do rows[#rows + 1] = row_of(page[i]) end
    if rows[1] then return rows, #page > SHOWN end
  end
  return {}, false
end

--- A body; nil when it is gone or not what was stored.
---@param row orc.CacheRow
---@return string|nil
function Catalogue:body(row)
  if not row.body then return nil end
  local rows = read(self, "SELECT unzstd(data, size) FROM bodies WHERE id = ?1 AND " .. SOUND,
    row.body)
  return rows[1] and rows[1][1]
end

-- For counting --------------------------------------------------------------------------------

-- Keeps the largest few.
local function keep(hosts, host)
  local place = #hosts + 1
  while place > 1 and hosts[place - 1].entries < host.entries do place = place - 1 end
  if place <= HOSTS then
    table.insert(hosts, place, host)
    hosts[HOSTS + 1] = nil
  end
end

--- How much there is.
---@param now number unix time
---@return orc.CacheStats
function Catalogue:stats(now)
  local bodies = read(self, "SELECT count(*), total(size), total(length(data)) FROM bodies")[1]
  local stats = { entries = 0, fresh = 0, bodies = bodies[1], decoded = bodies[2],
    stored = bodies[3], hosts = {}, host_count = 0 }
  local host
  -- In order of their URLs those of one host come together.
  for cells in pages(self, "SELECT url, id, document FROM entries WHERE (url, id) > (?1, ?2) "
    .. "ORDER BY url, id LIMIT ?3", { "", 0 }) do
    local entry = cache_document.decode(cells[3], cells[1])
    if entry then
      stats.entries = stats.entries + 1
      if cache_policy.left(entry, now) > 0 then stats.fresh = stats.fresh + 1 end
      stats.oldest = math.min(stats.oldest or math.huge, entry.response_time)
      stats.newest = math.max(stats.newest or 0, entry.response_time)
      local origin = entry.url:match "^[^/]*//[^/?#]*" or ""
      if not host or host.origin ~= origin then
        if host then keep(stats.hosts, host) end
        host = { origin = origin, entries = 0, size = 0 }
        stats.host_count = stats.host_count + 1
      end
      host.entries, host.size = host.entries + 1, host.size + entry.size
    end
  end
  if host then keep(stats.hosts, host) end
  return stats
end

-- For clearing ----------------------------------------------------------------------------------

local function stored_bytes(self)
  return read(self, "SELECT total(length(data)) FROM bodies")[1][1]
end

-- Everything at once: without the trigger, which takes away bodies that nobody needs any more,
-- SQLite drops whole tables instead of rows, which is ten times as fast.
local function clear_all(self)
  local entries = read(self, "SELECT count(*) FROM entries")[1][1]
  local trigger = read(self, "SELECT sql FROM sqlite_schema WHERE name = 'entries_gone'")[1]
  if not trigger then fail(self, "corrupt", "it has lost its schema") end
  write(self, { "DROP TRIGGER entries_gone" }, { "DELETE FROM entries" }, { "DELETE FROM bodies" },
    { trigger[1] })
  return entries
end

local function clear_some(self, glob)
  local entries = 0
  repeat
    local page = read(self, "SELECT id, url FROM entries WHERE url GLOB ?1 LIMIT ?2", glob, PAGE)
    if page[1] then
      entries = entries + write(self, { "DELETE FROM entries WHERE id = ?1 AND url = ?2",
        rows = page, width = 2 })
    end
  until #page < PAGE
  return entries
end

--- Removes what is stored, and gives the room back to the system.
---@param glob string|nil of which URLs
---@return { entries: integer, stored: integer } removed
function Catalogue:clear(glob)
  local before = stored_bytes(self)
  local entries = glob and clear_some(self, glob) or clear_all(self)
  write(self, { "PRAGMA incremental_vacuum" })
  return { entries = entries, stored = math.max(0, before - stored_bytes(self)) }
end

-- For checking ----------------------------------------------------------------------------------

--- What SQLite finds wrong with the file; nil when it is fine.
---@return string|nil
function Catalogue:damage()
  local rows = read(self, "PRAGMA integrity_check(1)")
  if rows[1][1] == "ok" then return nil end
  return rows[1][1]
end

---@class orc.CacheFindings
---@field entries integer looked at
---@field bodies integer looked at
---@field spoilt integer bodies that were not what was stored; they were removed, with …
---@field lost integer … the entries whose body this was, or that had none
---@field unreadable integer entries that could not be read, and were removed
---@field orphans integer bodies that no entry named, and that were removed

local function check_bodies(self, found)
  local last = 0
  repeat
    local page = read(self, "SELECT id, " .. SOUND .. " FROM bodies WHERE id > ?1 ORDER BY id "
      .. "LIMIT ?2", last, BODIES)
    for _, body in ipairs(page) do
      last, found.bodies = body[1], found.bodies + 1
      if body[2] ~= 1 then
        found.spoilt = found.spoilt + 1
        found.lost = found.lost + write(self, { "DELETE FROM entries WHERE body = "
          .. "(SELECT id FROM bodies WHERE id = ?1 AND NOT " .. SOUND .. ")", last })
        write(self, { "DELETE FROM bodies WHERE id = ?1 AND NOT " .. SOUND, last })
      end
    end
  until #page < BODIES
end

--- Checks every body against its hash, and every entry, and removes what is wrong.
---@return orc.CacheFindings
function Catalogue:verify()
  local found = { entries = 0, bodies = 0, spoilt = 0, lost = 0, unreadable = 0, orphans = 0 }
  check_bodies(self, found)
  for cells in pages(self, "SELECT id, url, document FROM entries WHERE id > ?1 ORDER BY id "
    .. "LIMIT ?2", { 0 }) do
    found.entries = found.entries + 1
    if not cache_document.decode(cells[3], cells[2]) then
      found.unreadable = found.unreadable
        + write(self, { "DELETE FROM entries WHERE id = ?1 AND document = ?2", cells[1],
          { blob = cells[3] } })
    end
  end
  found.lost = found.lost + write(self, { "DELETE FROM entries WHERE NOT EXISTS "
    .. "(SELECT 1 FROM bodies b WHERE b.id = entries.body)" })
  found.orphans = write(self, { "DELETE FROM bodies WHERE NOT EXISTS "
    .. "(SELECT 1 FROM entries e WHERE e.body = bodies.id)" })
  return found
end

return cache_catalogue
