-- Which keys are certainly not in the database: a Bloom filter, so that a run that fills a cache
-- need not look each of its keys up. It is of fixed size, and made when reads find nothing again
-- and again; while another program writes there is none.

local bit = require "bit"
local ffi = require "ffi"

local cache_filter = {}

local VAIN = 100 -- reads that find nothing, before there is a filter
local FEW = 5000 -- entries of which one is made
local MOST = 80000 -- keys; then one of a hundred others passes for one of them
local BITS = 2 ^ 20
local BYTES = 8 -- of a key, by which it is known
local LOOK = 0.1 -- seconds between looks whether another program has written

-- How many batches were written, and the beginnings of all keys, of few.
local KEYS = string.format("SELECT batches, CASE WHEN coalesce("
  .. "(SELECT max(id) FROM entries) - (SELECT min(id) FROM entries), 0) < %d THEN "
  .. "(SELECT coalesce(group_concat(hex(substr(key, 1, %d)), ''), '') FROM entries) END "
  .. "FROM changes", FEW, BYTES)

---@class orc.CacheFilter
---@field bytes ffi.cdata*|nil the filter, when there is one
---@field batches integer|nil of the table `changes`, as far as is known
local Filter = {}
Filter.__index = Filter

---@param sched orc.Scheduler
---@param host table
---@param id integer see src/lua_store.h
---@param never boolean|nil it is not to be made, as that may have to wait for another program
function cache_filter.new(sched, host, id, never)
  return setmetatable({
    sched = sched, host = host, id = id,
    bytes = nil, count = 0, -- keys
    filling = nil, -- the keys that were put since they were asked for
    on_filled = nil, -- called then
    vain = never and -math.huge or 0, -- reads that found nothing since there was one
    batches = nil,
    looked = -math.huge, -- when that was last looked at
  }, Filter)
end

-- Three places of twenty bits: a byte and a bit in it. Keys are hashes.
local function places(key)
  local a, b, c, d, e, f, g, h = key:byte(1, BYTES)
  if not h then a, b, c, d, e, f, g, h = (key .. ("\0"):rep(BYTES)):byte(1, BYTES) end
  return a * 512 + b * 2 + c % 2, d * 512 + e * 2 + f % 2, g * 512 + h * 2 + math.floor(c / 128),
    bit.lshift(1, math.floor(c / 2) % 8), bit.lshift(1, math.floor(c / 16) % 8),
    bit.lshift(1, math.floor(f / 2) % 8)
end

local function add(self, key)
  local bytes = self.bytes
  local first, second, third, x, y, z = places(key)
  bytes[first] = bit.bor(bytes[first], x)
  bytes[second] = bit.bor(bytes[second], y)
  bytes[third] = bit.bor(bytes[third], z)
  self.count = self.count + 1
end

local function give_up(self)
  self.bytes, self.vain = nil, -math.huge
end

local function byte_of(digits)
  return string.char(tonumber(digits, 16))
end

local function filled(self, result)
  local keys, row = self.filling, not result.fault and result.rows[1]
  local text = row and row[2]
  self.filling = nil
  if text then
    self.batches, self.looked = row[1], self.sched:now()
    self.bytes, self.count = ffi.new("uint8_t[?]", BITS / 8), 0
    for at = 1, #text, 2 * BYTES do
      add(self, (text:sub(at, at + 2 * BYTES - 1):gsub("%x%x", byte_of)))
    end
    for _, key in ipairs(keys) do add(self, key) end
  else
    give_up(self)
  end
  if self.on_filled then self.on_filled() end
end

--- A read has found nothing. A filter is made of what the database has when it has written all that
--- was given to it.
---@param batch orc.CacheBatch that was not
function Filter:missed(batch)
  self.vain = self.vain + 1
  if self.vain < VAIN or self.filling then return end
  self.vain, self.filling = 0, {}
  for key in pairs(batch.keys) do self.filling[#self.filling + 1] = key end
  local job = self.host.store_run(self.id, { { KEYS } })
  self.sched:attach(job, { told = function(_, result) filled(self, result) end })
end

--- A key is put.
function Filter:put(key)
  if self.filling then self.filling[#self.filling + 1] = key end
  if not self.bytes then return end
  add(self, key)
  if self.count >= MOST then give_up(self) end
end

--- A batch of this program's is written.
---@param batches integer
function Filter:written(batches)
  if batches ~= (self.batches or 0) + 1 then self.bytes = nil end
  self.batches = batches
end

--- Whether a key is certainly not there. What another program puts is seen a tenth of a second
--- later, or when what is being written is.
---@param key string
---@param writing boolean
---@return boolean
function Filter:is_absent(key, writing)
  local bytes = self.bytes
  if not bytes then return false end
  local now = self.sched:now()
  if now - self.looked >= LOOK and not writing then
    self.looked = now
    local rows = self.host.store_read(self.id, "SELECT batches FROM changes")
    if not rows or not rows[1] or rows[1][1] ~= self.batches then
      self.bytes = nil
      return false
    end
  end
  local first, second, third, x, y, z = places(key)
  return bit.band(bytes[first], x) == 0 or bit.band(bytes[second], y) == 0
    or bit.band(bytes[third], z) == 0
end

return cache_filter
