-- Who waits, in the order they may go: first come, first served within a key, and round-robin
-- between keys, so that one crowded host never holds up the others. Every operation is O(1).
--
-- A key can be closed (its own limit is reached): its waiters keep their places but are passed
-- over until it is opened again.

local fair = {}
fair.__index = fair

function fair.new()
  -- `ring` is the circle of lanes that have waiters and are open; `cursor` goes next.
  return setmetatable({ lanes = {}, cursor = nil, count = 0 }, fair)
end

local function link(self, lane)
  local cursor = self.cursor
  if cursor then
    lane.after, lane.before = cursor, cursor.before
    cursor.before.after = lane
    cursor.before = lane
  else
    lane.after, lane.before = lane, lane
    self.cursor = lane
  end
  lane.linked = true
end

local function unlink(self, lane)
  if lane.after == lane then
    self.cursor = nil
  else
    lane.before.after, lane.after.before = lane.after, lane.before
    if self.cursor == lane then self.cursor = lane.after end
  end
  lane.after, lane.before, lane.linked = nil, nil, false
end

--- Adds a waiter.
---@param waiter table gets the fields `lane`, `next` and `prev`
---@param open boolean whether the key may go now
function fair:push(key, waiter, open)
  local lane = self.lanes[key]
  if not lane then
    lane = { key = key, first = nil, last = nil, linked = false }
    self.lanes[key] = lane
  end
  waiter.lane, waiter.prev, waiter.next = lane, lane.last, nil
  if lane.last then lane.last.next = waiter else lane.first = waiter end
  lane.last = waiter
  self.count = self.count + 1
  if open and not lane.linked then link(self, lane) end
end

--- Takes a waiter out, wherever it stands.
function fair:remove(waiter)
  local lane, prev, after = waiter.lane, waiter.prev, waiter.next
  if prev then prev.next = after else lane.first = after end
  if after then after.prev = prev else lane.last = prev end
  waiter.lane, waiter.prev, waiter.next = nil, nil, nil
  self.count = self.count - 1
  if not lane.first then
    if lane.linked then unlink(self, lane) end
    self.lanes[lane.key] = nil
  end
end

---@return table|nil waiter the one whose turn it is, left in place
function fair:peek()
  return self.cursor and self.cursor.first
end

--- Takes out the one whose turn it is; the turn passes to the next key.
function fair:pop()
  local lane = self.cursor
  local waiter = lane.first
  self.cursor = lane.after
  self:remove(waiter)
  return waiter
end

--- Lets a key's waiters go, or has them passed over.
function fair:set_open(key, open)
  local lane = self.lanes[key]
  if lane and lane.linked ~= open then
    if open then link(self, lane) else unlink(self, lane) end
  end
end

return fair
