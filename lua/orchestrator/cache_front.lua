-- What was last read from a store of responses, in memory: at most so many bytes, the least
-- recently used go first. It wraps a cache_store.lua and has its interface.
--
-- A body is checked when it is read from the disk, and not again. What other programs remove or
-- change is noticed after a tenth of a second; then all of it is read anew.

local cache_front = {}

local OVERHEAD = 1500 -- bytes, roughly, of an entry besides its header and body
local LARGEST = 1 / 4 -- of the size, for one key

---@class orc.CacheFront
local Front = {}
Front.__index = Front

---@param store orc.CacheStore
---@param size number bytes
---@return orc.CacheFront
function cache_front.new(store, size)
  local front = setmetatable({ store = store, size = size }, Front)
  front:clear()
  return front
end

-- A ring of nodes, from the most to the least recently used one: { key, entries, bytes }.

local function unlink(node)
  node.before.after, node.after.before = node.after, node.before
end

local function link(self, node)
  local ring = self.ring
  node.before, node.after = ring, ring.after
  ring.after.before = node
  ring.after = node
end

--- Forgets all of it.
function Front:clear()
  local ring = {}
  ring.before, ring.after = ring, ring
  self.ring = ring
  self.nodes = {} -- key → node
  self.urls = {} -- url → { key → true }
  self.bytes = 0
end

local function drop(self, key)
  local node = self.nodes[key]
  if not node then return end
  unlink(node)
  self.nodes[key] = nil
  self.bytes = self.bytes - node.bytes
  for _, entry in ipairs(node.entries) do
    local keys = self.urls[entry.url]
    if keys then
      keys[key] = nil
      if next(keys) == nil then self.urls[entry.url] = nil end
    end
  end
end

local function add(self, node, bytes)
  node.bytes = node.bytes + bytes
  self.bytes = self.bytes + bytes
  if node.bytes > self.size * LARGEST then drop(self, node.key) end
  while self.bytes > self.size do drop(self, self.ring.before.key) end
end

-- What it takes without its body.
local function weight_of(entry)
  local document, bytes = rawget(entry, "document"), OVERHEAD
  if document then return bytes + #document end
  for _, field in ipairs(rawget(entry, "fields") or {}) do bytes = bytes + #field[1] + #field[2] end
  return bytes
end

local function keep(self, key, entries)
  local bytes = 0
  for _, entry in ipairs(entries) do
    bytes = bytes + weight_of(entry) + (entry.row.text and #entry.row.text or 0)
    local keys = self.urls[entry.url] or {}
    self.urls[entry.url] = keys
    keys[key] = true
  end
  local node = { key = key, entries = entries, bytes = 0 }
  self.nodes[key] = node
  link(self, node)
  add(self, node, bytes)
end

--- What is stored for a key, the newest first: not to be changed.
---@param key string
---@return orc.CacheEntry[]
function Front:get(key)
  if self.store:is_changed() then self:clear() end
  local node, ring = self.nodes[key], self.ring
  if node then
    if ring.after ~= node then
      unlink(node)
      link(self, node)
    end
    return node.entries
  end
  local entries = self.store:get(key)
  if entries[1] then keep(self, key, entries) end
  return entries
end

---@return string|nil nil when it is gone
function Front:body(entry)
  local row = entry.row
  if not row then return nil end
  if row.checked then
    self.store:touch(entry)
    return row.text
  end
  local text = self.store:body(entry)
  if not text then return nil end
  local had = row.text
  row.checked, row.text = true, text
  local node = not had and self.nodes[entry.key]
  if node then add(self, node, #text) end
  return text
end

function Front:put(entry, body, replaced)
  local stored = self.store:put(entry, body, replaced)
  drop(self, entry.key)
  return stored
end

function Front:update(old, new)
  self.store:update(old, new)
  drop(self, old.key)
end

function Front:remove(entry)
  self.store:remove(entry)
  drop(self, entry.key)
end

function Front:void(url)
  self.store:void(url)
  for key in pairs(self.urls[url] or {}) do drop(self, key) end
end

function Front:touch(entry)
  self.store:touch(entry)
end

function Front:limit(size)
  self.store:limit(size)
end

function Front:finish()
  self.store:finish()
end

function Front:close()
  self.store:close()
end

return cache_front
