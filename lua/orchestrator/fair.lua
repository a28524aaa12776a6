-- Who waits, in the order they may go: those of a higher priority before all others; among those of
-- one priority round-robin between keys, so that one crowded host never holds up the others; and
-- within a key first come, first served. Every operation is O(1), with n priorities O(log n).
--
-- A key can be closed (its own limit is reached): its waiters keep their places but are passed
-- over until it is opened again.

local heap = require "orchestrator.heap"

local fair = {}
fair.__index = fair

-- A *lane* is a key with waiters. It has a *list* of them for each priority; the highest is `top`,
-- the others are in `lower`. A *ring* is the circle of the open lanes whose top has one priority;
-- its `cursor` goes next. Rings and lower lists stand in heaps, with the highest priority in front.

function fair.new()
  return setmetatable({ lanes = {}, rings = {}, order = heap.new(), count = 0 }, fair)
end

local function link(self, lane)
  local priority = lane.top.priority
  local ring = self.rings[priority]
  if not ring then
    ring = { cursor = nil, priority = priority, time = -priority, seq = 0, index = nil }
    self.rings[priority] = ring
  end
  local cursor = ring.cursor
  if cursor then
    lane.after, lane.before = cursor, cursor.before
    cursor.before.after = lane
    cursor.before = lane
  else
    lane.after, lane.before = lane, lane
    ring.cursor = lane
    self.order:push(ring)
  end
  lane.ring = ring
end

local function unlink(self, lane)
  local ring = lane.ring
  if lane.after == lane then
    ring.cursor = nil
    self.order:remove(ring)
    if ring.priority ~= 0 then self.rings[ring.priority] = nil end
  else
    lane.before.after, lane.after.before = lane.after, lane.before
    if ring.cursor == lane then ring.cursor = lane.after end
  end
  lane.after, lane.before, lane.ring = nil, nil, nil
end

local function new_list(lane, priority)
  return { lane = lane, priority = priority, first = nil, last = nil,
    time = -priority, seq = 0, index = nil }
end

-- The list for a priority that is not the top's.
local function other_list(self, lane, priority)
  local lower = lane.lower
  if not lower then
    lower = { lists = {}, order = heap.new() }
    lane.lower = lower
  end
  local top = lane.top
  local list = lower.lists[priority]
  if list then return list end
  list = new_list(lane, priority)
  local below = list
  if priority > top.priority then
    local ring = lane.ring
    if ring then unlink(self, lane) end
    lane.top, below = list, top
    if ring then link(self, lane) end
  end
  lower.lists[below.priority] = below
  lower.order:push(below)
  return list
end

-- The lane's list has nobody in it any more.
local function drop_list(self, lane, list)
  local lower = lane.lower
  if list ~= lane.top then
    lower.order:remove(list)
    lower.lists[list.priority] = nil
    return
  end
  local ring = lane.ring
  if ring then unlink(self, lane) end
  local following = lower and lower.order:peek()
  if not following then
    self.lanes[lane.key] = nil
    return
  end
  lower.order:remove(following)
  lower.lists[following.priority] = nil
  lane.top = following
  if ring then link(self, lane) end
end

--- Adds a waiter.
---@param waiter table gets the fields `list`, `next` and `prev`
---@param open boolean whether the key may go now
---@param priority number|nil 0 unless given; higher goes first
function fair:push(key, waiter, open, priority)
  priority = priority or 0
  local lane = self.lanes[key]
  local list
  if not lane then
    lane = { key = key, top = nil, lower = nil, ring = nil, after = nil, before = nil }
    list = new_list(lane, priority)
    lane.top = list
    self.lanes[key] = lane
  elseif lane.top.priority == priority then
    list = lane.top
  else
    list = other_list(self, lane, priority)
  end
  waiter.list, waiter.prev, waiter.next = list, list.last, nil
  if list.last then list.last.next = waiter else list.first = waiter end
  list.last = waiter
  self.count = self.count + 1
  if open and not lane.ring then link(self, lane) end
end

--- Takes a waiter out, wherever it stands.
function fair:remove(waiter)
  local list, prev, after = waiter.list, waiter.prev, waiter.next
  if prev then prev.next = after else list.first = after end
  if after then after.prev = prev else list.last = prev end
  waiter.list, waiter.prev, waiter.next = nil, nil, nil
  self.count = self.count - 1
  if not list.first then drop_list(self, list.lane, list) end
end

---@return table|nil waiter the one whose turn it is, left in place
function fair:peek()
  local ring = self.order:peek()
  return ring and ring.cursor.top.first
end

--- Takes out the one whose turn it is; the turn passes to the next key.
function fair:pop()
  local ring = self.order:peek()
  local lane = ring.cursor
  local waiter = lane.top.first
  ring.cursor = lane.after
  self:remove(waiter)
  return waiter
end

--- Lets a key's waiters go, or has them passed over.
function fair:set_open(key, open)
  local lane = self.lanes[key]
  if lane and (lane.ring ~= nil) ~= open then
    if open then link(self, lane) else unlink(self, lane) end
  end
end

return fair
