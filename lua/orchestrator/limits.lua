-- Slots: the right to have an attempt in flight. A pool has so many in total, so many per host,
-- and may have rate limiters (rate.lua) that say when the next attempt may start. A task that
-- gets its slot starts at once: a slot is never held while waiting for anything but the attempt.

local fair = require "orchestrator.fair"

local limits = {}

---@class orc.Pool
local Pool = {}
Pool.__index = Pool

---@param opts table {total: integer, per_host: integer?, limiter: table?}
function limits.pool(sched, opts)
  local limiter = opts.limiter -- {wait(now), take(now)}, perhaps shared with other pools
  if limiter then limiter.line = limiter.line or {} end -- pools that wait for it, in turn
  return setmetatable({
    sched = sched,
    total = opts.total,
    per_host = opts.per_host,
    limiter = limiter,
    in_line = false,
    active = 0,
    hosts = {}, -- host → attempts in flight, nil for none
    queue = fair.new(),
    on_spare = nil, -- function(): a slot is free and nobody who could use it waits
  }, Pool)
end

local function host_open(self, host)
  return not self.per_host or (self.hosts[host] or 0) < self.per_host
end

local function take(self, host, now)
  if self.limiter then self.limiter:take(now) end
  self.active = self.active + 1
  local n = (self.hosts[host] or 0) + 1
  self.hosts[host] = n
  if n == self.per_host then self.queue:set_open(host, false) end
end

-- The limiter lets somebody go: a start for each pool in line, so that none starves the others.
local function limiter_due(limiter)
  limiter.timer = nil
  local line = limiter.line
  while line[1] and limiter:wait(line[1].sched:now()) <= 0 do
    local pool = table.remove(line, 1)
    pool.in_line = false
    pool:pump(true)
  end
  if line[1] then line[1]:limited(line[1].sched:now()) end
end

--- Whether the limiter makes the next attempt wait; then the pool is pumped when it no longer does.
function Pool:limited(now)
  local limiter = self.limiter
  if not limiter then return false end
  local wait = limiter:wait(now)
  if wait <= 0 and not limiter.line[1] then return false end
  if not self.in_line then
    self.in_line = true
    table.insert(limiter.line, self)
  end
  if not limiter.timer then limiter.timer = self.sched:at(now + wait, limiter_due, limiter) end
  return true
end

--- Hands free slots to those who wait, in turn.
---@param due boolean|nil the limiter lets one go now
function Pool:pump(due)
  local queue = self.queue
  local now = self.limiter and self.sched:now() or 0
  while self.active < self.total do
    local waiter = queue:peek()
    if not waiter and not self.on_spare then return end
    if not due and self:limited(now) then return end
    if not waiter then return self.on_spare() end
    due = false
    queue:pop()
    take(self, waiter.host, now)
    self.sched:wake(waiter.task, true)
  end
end

local function leave(waiter)
  local self = waiter.pool
  if waiter.lane then
    self.queue:remove(waiter)
  else
    self:release(waiter.host) -- it was handed its slot and never ran again
  end
end

--- Waits until an attempt to `host` may start, and takes its slot.
---@return number waited seconds
function Pool:acquire(host)
  if self.active < self.total and not self.queue:peek() and host_open(self, host) then
    local now = self.limiter and self.sched:now() or 0
    if not self:limited(now) then
      take(self, host, now)
      if self.on_spare then self:limited(now) end -- so that it hears of the next start
      return 0
    end
  end
  local sched = self.sched
  local began = sched:now()
  local waiter = { pool = self, host = host, task = sched:current() }
  self.queue:push(host, waiter, host_open(self, host))
  sched:suspend(leave, waiter)
  return sched:now() - began
end

--- Gives a slot back.
function Pool:release(host)
  self.active = self.active - 1
  local n = self.hosts[host]
  self.hosts[host] = n > 1 and n - 1 or nil
  if n == self.per_host then self.queue:set_open(host, true) end
  self:pump()
end

-- Several who want to hear of spare slots: pipelines may share a client.
local Listeners = {}

function Listeners:__call()
  for i = 1, #self do self[i]:wake() end
end

--- Has `listener:wake()` called as `on_spare` is. It must not wait.
function Pool:listen(listener)
  self.on_spare = self.on_spare or setmetatable({}, Listeners)
  table.insert(self.on_spare, listener)
end

function Pool:unlisten(listener)
  local listeners = self.on_spare
  for i = #listeners, 1, -1 do
    if listeners[i] == listener then table.remove(listeners, i) end
  end
  if #listeners == 0 then self.on_spare = nil end
end

---@return integer slots that an attempt could have at once, beyond those that wait for one
function Pool:spare()
  if self.queue:peek() or (self.limiter and self.limiter:wait(self.sched:now()) > 0) then
    return 0
  end
  return self.total - self.active
end

---@return table state {active, waiting, total}
function Pool:state()
  return { active = self.active, waiting = self.queue.count, total = self.total }
end

return limits
