-- Slots: the right to have an attempt in flight. There are so many in total and so many per host;
-- pools of one name share them. A pool is what a client holds: it has a queue of its own, may have
-- rate limiters (rate.lua) that say when its next attempt may start, perhaps shared with other
-- pools (line.lua), heeds what servers say of their own limits (server.lua), and may have circuit
-- breakers (circuit.lua). How many a host takes may be found out by trying (adaptive.lua). A task
-- that gets its slot starts at once: none is held while waiting for anything but the attempt.
--
-- Those who may go do so in this order: by priority; then pools of one name in turn; then hosts in
-- turn; then first come, first served (fair.lua). A slow host would nevertheless come to hold all
-- slots, so the more of them are taken, the fewer one host may have while there are others.

local fair = require "orchestrator.fair"
local govern = require "orchestrator.govern"
local headers = require "orchestrator.headers"
local line = require "orchestrator.line"
local options = require "orchestrator.options"
local quota = require "orchestrator.quota"
local rate = require "orchestrator.rate"
local retry = require "orchestrator.retry"
local server = require "orchestrator.server"

local limits = {}

local KEPT = 1000 -- hosts without attempts
local REMEMBERED = 60 -- seconds that what was learned about one of them counts for something
-- A host may have so many times the slots that are free (dynamic thresholds, Choudhury and Hahne
-- 1998): of 50 slots one host gets 45 at most, two get 24 each, and so on.
local CROWD = 8
local POLICY = { respect_retry_after = true, max_retry_after = 300 } -- see retry.lua

-- Slots ----------------------------------------------------------------------------------------

---@class orc.Slots
---@field total integer
---@field per_host integer|nil
---@field active integer attempts in flight
---@field hosts table<string, orc.HostState>
local Slots = {}
Slots.__index = Slots

-- What is known of a host.
---@class orc.HostState
---@field name string
---@field active integer attempts in flight
---@field most number attempts that may be
---@field server orc.Server
---@field adaptive orc.Adaptive|nil
---@field used_at number|nil when an attempt last ended, if there is something to remember
---@field timer table|nil when it has to be looked at again

---@param opts table {total: integer, per_host: integer?, name: string?,
---  adaptive: fun(host: string, limiters: orc.Limiter[]?): orc.Adaptive ?}
---@return orc.Slots
function limits.slots(opts)
  return setmetatable({
    name = opts.name or "concurrency",
    total = opts.total,
    per_host = opts.per_host or math.huge,
    adaptive = opts.adaptive,
    active = 0,
    hosts = {}, known = 0, most_known = KEPT,
    last = nil, -- the host somebody asked for last
    mixed = 0, -- how many may follow for the same host until it passes for the only one
    crowding = {}, -- hosts that have as many slots as they may, for the others' sake
    pools = {}, -- those in which somebody waits, in turn
    listening = {}, -- those that want to hear of spare slots
  }, Slots)
end

local function sweep(slots, now)
  for name, h in pairs(slots.hosts) do
    local remembered = h.used_at and now - h.used_at < REMEMBERED
    if h.active == 0 and not remembered and not h.server.waiting[1] then
      if h.timer then h.timer:cancel() end
      slots.hosts[name] = nil
      slots.known = slots.known - 1
    end
  end
  slots.most_known = math.max(KEPT, 2 * slots.known)
end

local function host_of(pool, name)
  local slots = pool.slots
  local its_server = pool.servers:of(name) -- first: there may be no memory for it
  local h = slots.hosts[name]
  if not h then
    if slots.known >= slots.most_known then sweep(slots, pool.sched:now()) end
    h = {
      name = name, active = 0, most = slots.per_host, server = its_server,
      adaptive = slots.adaptive and slots.adaptive(name, pool.limiters) or nil,
      used_at = nil, timer = nil,
    }
    slots.hosts[name] = h
    slots.known = slots.known + 1
  end
  h.server = its_server
  return h
end

local function remove(list, value)
  for i = 1, #list do
    if list[i] == value then return table.remove(list, i) end
  end
end

-- A host's gate ---------------------------------------------------------------------------------

local look_again

-- What the adaptive limit and the breaker say. Where time alone may change that, they are asked
-- again.
local function is_allowed(pool, h)
  local now = pool.sched:now()
  local allowed, time = govern.allows(pool, h, now)
  if time and (not h.timer or h.timer.time > time) then
    if h.timer then h.timer:cancel() end
    h.timer = pool.sched:at(math.max(time, now), look_again, { pool.slots, h })
  end
  return allowed
end

-- Whether the host has as many slots as it may while there are others.
local function crowds(slots, h)
  local free = slots.total - slots.active
  if slots.mixed == 0 or free <= 0 or h.active < CROWD * free then return false end
  if not h.crowds then
    h.crowds = true
    table.insert(slots.crowding, h)
  end
  return true
end

-- Whether an attempt may start, as far as the host goes.
local function admits(pool, h)
  if crowds(pool.slots, h) then return false end
  if (h.adaptive or pool.circuits) and not is_allowed(pool, h) then return false end
  return h.active < h.most and not (h.server.shut and pool.heeds)
end

-- Has those who wait for a host passed over, or not, as it should be.
local function set_gates(slots, h)
  for _, pool in ipairs(slots.pools) do
    local queue = pool.queue
    local first = pool.in_line and queue:peek()
    queue:set_open(h.name, admits(pool, h))
    if first and queue:peek() ~= first then line.look(pool) end -- who is first now may weigh less
  end
end

-- There is a slot more: the host that has waited longest for that may have another.
local function uncrowd(slots)
  local h = slots.crowding[1]
  if not h or (slots.mixed > 0 and h.active >= CROWD * (slots.total - slots.active)) then return end
  table.remove(slots.crowding, 1)
  h.crowds = false
  set_gates(slots, h)
end

-- Notes that somebody asks for a host.
local function note(slots, h)
  if slots.last ~= h then
    slots.last, slots.mixed = h, slots.last and 4 * slots.total or 0
  elseif slots.mixed > 0 then
    slots.mixed = slots.mixed - 1
  end
end

-- Pools ----------------------------------------------------------------------------------------

---@class orc.Pool
---@field slots orc.Slots
---@field hosts table<string, orc.HostState> of the slots
---@field heaviest number the greatest weight that its rate limits let through
local Pool = {}
Pool.__index = Pool

---@param opts table {slots: orc.Slots?, or what limits.slots takes; circuits: orc.Circuits?;
---  limiter: orc.Limiter?, or limiters: orc.Limiter[]?;
---  servers: orc.Servers?; heeds: boolean? whether it heeds what servers say (true unless given)}
---@return orc.Pool
function limits.pool(sched, opts)
  local slots = opts.slots or limits.slots(opts)
  local limiters = opts.limiters or { opts.limiter }
  if not limiters[1] then limiters = nil end
  local all = limiters and (limiters[2] and rate.all(limiters) or limiters[1])
  for _, limiter in ipairs(limiters or {}) do
    limiter.line = limiter.line or {}
    limiter.on_change = line.changed
  end
  return setmetatable({
    sched = sched,
    slots = slots,
    hosts = slots.hosts,
    servers = opts.servers or server.new { sched = sched },
    heeds = opts.heeds ~= false,
    circuits = opts.circuits,
    limiters = limiters,
    rate = all, -- the limiters as one
    heaviest = all and all.most or math.huge,
    in_line = false,
    held = {}, -- see line.lua
    queue = fair.new(),
    listeners = nil,
  }, Pool)
end

-- Takes a slot, and pays the rate limits.
local function take(self, h, weight, now)
  local slots, one = self.slots, h.server
  slots.active = slots.active + 1
  h.active = h.active + 1
  one.in_flight = one.in_flight + 1
  if self.rate then self.rate:take(now, weight) end
  if self.circuits then self.circuits:of(h.name):start() end
  if h.active >= h.most or self.circuits then set_gates(slots, h) end
  if one.quota then server.settle(one, now or self.sched:now()) end
end

-- Which limit made somebody wait: the one that did so for the longest part of the time.
local function blamed(waiter, now, waited)
  local self, name, most = waiter.pool, nil, 0
  local rest = waited
  local shut = self.heeds and server.held(waiter.h.server, now) - waiter.shut or 0
  if shut > 0 then
    name, most, rest = "server", shut, rest - shut
  end
  local cut = self.circuits and self.circuits:held(waiter.h.name, now) - waiter.cut or 0
  rest = rest - cut
  if cut > most then name, most = "circuit breaker", cut end
  local limiters, marks = self.limiters, waiter.marks
  for i = 1, limiters and #limiters or 0 do
    local held = line.held(self, limiters[i], now) - marks[i]
    rest = rest - held
    if held > most then name, most = limiters[i].name, held end
  end
  return rest > most and self.slots.name or name or self.slots.name
end

-- Tells who asked for it how long somebody waited, and for what.
local function tell(waiter, now)
  local waited, observer = now - waiter.since, waiter.observer
  if waited > 0 and observer and observer.waited then
    observer:waited(waiter.h.name, waited, blamed(waiter, now, waited))
  end
end

-- After somebody has left the queue.
local function tidy(self, h)
  local queue = self.queue
  if not queue.lanes[h.name] then server.ignore(h.server, self) end
  if queue.count == 0 then remove(self.slots.pools, self) end
end

-- Hands the one whose turn it is a slot.
local function grant(self, now)
  local waiter = self.queue:pop()
  local h, pools = waiter.h, self.slots.pools
  line.leave(self, now)
  tidy(self, h)
  if pools[2] and remove(pools, self) then table.insert(pools, self) end
  waiter.granted = now
  note(self.slots, h) -- those who asked long ago may be all there are
  take(self, h, waiter.weight, now)
  tell(waiter, now)
  self.sched:wake(waiter.task, true)
end

-- Whether the rate limits let a pool make a start; it hears of it when they do.
local function may_go(self, weight, now)
  return not self.limiters or line.may_go(self, now, weight)
end

-- The pool whose turn it is; nil when nobody may go.
local function next_pool(slots, now)
  local best, priority
  for _, pool in ipairs(slots.pools) do
    local waiter = pool.queue:peek()
    while waiter and crowds(slots, waiter.h) do
      pool.queue:set_open(waiter.h.name, false)
      waiter = pool.queue:peek()
    end
    if waiter and (not best or waiter.priority > priority) and may_go(pool, waiter.weight, now) then
      best, priority = pool, waiter.priority
    end
  end
  return best
end

local function wake_listeners(self)
  for _, listener in ipairs(self.listeners) do listener:wake() end
end

-- Hands free slots to those who wait, in turn.
local function pump(slots, sched)
  local listening = slots.listening
  if not slots.pools[1] and not listening[1] then return end
  local now = sched:now()
  while slots.active < slots.total do
    local pool = next_pool(slots, now)
    if not pool then break end
    grant(pool, now)
  end
  for i = 1, #listening do
    local pool = listening[i]
    if slots.active >= slots.total then return end
    if not pool.queue:peek() and may_go(pool, 1, now) then wake_listeners(pool) end
  end
end

function look_again(what)
  local slots, h = what[1], what[2]
  h.timer = nil
  set_gates(slots, h)
  local first = slots.pools[1]
  if first then pump(slots, first.sched) end
end

--- What the pool's next start weighs; nil when it can make none, whatever the rate limits say.
function Pool:wants()
  if self.slots.active >= self.slots.total then return nil end
  local waiter = self.queue:peek()
  if waiter then return waiter.weight end
  return self.listeners and 1 or nil
end

--- Makes the next start: the rate limits let it.
function Pool:go(now)
  if self.queue:peek() then
    grant(self, now)
    pump(self.slots, self.sched)
  else
    wake_listeners(self)
  end
end

--- The server wants nobody any more (see server.lua).
function Pool:close(name)
  if not self.heeds then return end
  self.queue:set_open(name, false)
  if self.in_line then line.look(self) end
end

--- The server takes somebody again.
function Pool:reopen(name)
  local h = self.hosts[name]
  self.queue:set_open(name, admits(self, h))
  pump(self.slots, self.sched)
end

-- What a start that is not made has paid.
local function pay_back(self, granted, weight)
  if not self.rate then return end
  self.rate:refund(granted, weight)
  for _, limiter in ipairs(self.limiters) do line.changed(limiter) end
end

local function leave(waiter)
  local self = waiter.pool
  local now = self.sched:now()
  if waiter.list then
    self.queue:remove(waiter)
    tidy(self, waiter.h)
    tell(waiter, now)
    if self.in_line then line.look(self) end -- who is behind may weigh less
  elseif waiter.granted then
    -- It was handed its slot and never ran again.
    pay_back(self, waiter.granted, waiter.weight)
    self:release(waiter.h.name)
  end
end

-- Nobody is to wait for a host whose circuit is open.
local function turn_away(self, h, now)
  local problem = self.circuits:refusal(h.name, now)
  local lane = self.queue.lanes[h.name]
  if not problem or not lane then return end
  while lane do
    local waiter = lane.top.first
    self.queue:remove(waiter)
    tell(waiter, now)
    self.sched:wake(waiter.task, nil, problem)
    lane = self.queue.lanes[h.name]
  end
  tidy(self, h)
  if self.in_line then line.look(self) end
end

local function wait(self, h, weight, priority, observer)
  local sched, slots, queue = self.sched, self.slots, self.queue
  local now = sched:now()
  local waiter = {
    pool = self, h = h, task = sched:current(), weight = weight, priority = priority,
    observer = observer, since = now, granted = nil,
    shut = server.held(h.server, now), marks = nil,
    cut = self.circuits and self.circuits:held(h.name, now),
    list = nil, next = nil, prev = nil,
  }
  if self.limiters then
    waiter.marks = {}
    for i, limiter in ipairs(self.limiters) do waiter.marks[i] = line.held(self, limiter, now) end
  end
  if queue.count == 0 then table.insert(slots.pools, self) end
  if not queue.lanes[h.name] then server.attend(h.server, self) end
  queue:push(h.name, waiter, admits(self, h), priority)
  if h.server.shut and self.heeds then server.explain(h.server, now) end
  if queue:peek() == waiter then pump(slots, sched) end
  if not waiter.granted then
    local granted, problem = sched:suspend(leave, waiter)
    if not granted then return nil, problem end
  end
  return sched:now() - now, waiter.granted
end

--- Raises when a start of that weight could never be made.
---@param weight number|nil
function Pool:check_weight(weight)
  if not weight or weight <= self.heaviest then return end
  options.fail("request", string.format('"weight" is %g, and the rate limit lets no more than %g '
    .. "through at once", weight, self.heaviest))
end

--- Waits until an attempt to `host` may start, and takes its slot.
---@param host string
---@param weight number|nil what it costs of every rate limit, 1 unless given
---@param priority number|nil 0 unless given; higher goes first
---@param observer table|nil `observer:waited(host, seconds, limit's name)` is called after a wait
---@return number|nil waited seconds; nil when the circuit is open and nobody waits for that
---@return number|string|nil granted when it was given the slot, for `decline`; or why not
function Pool:acquire(host, weight, priority, observer)
  weight = weight or 1
  local slots = self.slots
  if self.circuits and self.circuits.fails then
    local problem = self.circuits:refusal(host, self.sched:now())
    if problem then return nil, problem end
  end
  local h = slots.hosts[host]
  if not h or h.server.dead then h = host_of(self, host) end
  note(slots, h)
  if slots.active < slots.total and not self.queue:peek() and admits(self, h) then
    if not self.limiters then
      take(self, h, weight)
      return 0
    end
    local now = self.sched:now()
    if line.may_go(self, now, weight) then
      line.leave(self, now)
      take(self, h, weight, now)
      -- So that it hears of the next start.
      if self.listeners and slots.active < slots.total then line.may_go(self, now, 1) end
      return 0, now
    end
  end
  return wait(self, h, weight, priority or 0, observer)
end

-- A server that says when to come again means all who share the limit.
local function heed_retry_after(self, h, outcome, policy, now)
  local after = policy.respect_retry_after
    and retry.after(headers.get(outcome.head, "retry-after"), self.servers.wall())
  if not after or after > policy.max_retry_after then return end
  if not self.rate then return server.pause(h.server, now + after, now) end
  self.rate:pause(now + after)
  server.say(h.server, after)
  for _, limiter in ipairs(self.limiters) do line.changed(limiter) end
end

--- The answer to a hop has begun to come, though it keeps its slot: `release` is not to be told of
--- it again.
---@param outcome table|nil {status: integer?, head: string?, fault: string?, elapsed: number?}; nil
---  when there is nothing to learn from it, as when it was cancelled
---@param policy table|nil {respect_retry_after, max_retry_after} of the request
function Pool:answered(host, outcome, policy, sent)
  local h = self.hosts[host]
  local one = h.server
  one.in_flight = one.in_flight - 1
  if h.adaptive or self.circuits then
    local now = self.sched:now()
    govern.report(self, h, outcome, now, sent)
    if self.circuits and self.circuits.fails then turn_away(self, h, now) end
    set_gates(self.slots, h) -- the slot may be kept for long
  end
  if not outcome then
    if one.quota then server.settle(one, self.sched:now()) end
    return
  end
  local status, head = outcome.status, outcome.head
  local busy = status == 429 or status == 503
  if self.heeds and (one.quota or busy or head and quota.mentioned(head)) then
    local now = self.sched:now()
    if busy and head then heed_retry_after(self, h, outcome, policy or POLICY, now) end
    server.heed(one, outcome, now)
  elseif one.quota then -- others heed it, and may have waited for this answer
    server.settle(one, self.sched:now())
  end
end

--- Gives a slot back.
---@param outcome table|nil see `answered`
---@param policy table|nil see `answered`
---@param answered boolean|nil `answered` was called
function Pool:release(host, outcome, policy, answered, sent)
  local slots = self.slots
  local h = slots.hosts[host]
  slots.active = slots.active - 1
  h.active = h.active - 1
  if not answered then self:answered(host, outcome, policy, sent) end
  if self.circuits or h.most < math.huge then set_gates(slots, h) end
  if slots.crowding[1] then uncrowd(slots) end
  pump(slots, self.sched)
end

--- Gives a slot back with which nothing is started, and takes back what it has paid.
---@param granted number|nil as told by `acquire`
function Pool:decline(host, weight, granted)
  pay_back(self, granted, weight or 1)
  self:release(host)
end

-- Spare slots ----------------------------------------------------------------------------------

--- Has `listener:wake()` called when a slot is free, and the rate limits let an attempt start, that
--- nobody waits for. It must not wait. Several may listen: pipelines may share a client.
function Pool:listen(listener)
  if not self.listeners then
    self.listeners = {}
    table.insert(self.slots.listening, self)
  end
  table.insert(self.listeners, listener)
end

function Pool:unlisten(listener)
  remove(self.listeners, listener)
  if #self.listeners == 0 then
    self.listeners = nil
    remove(self.slots.listening, self)
  end
end

---@return integer slots that an attempt could have at once, beyond those that wait for one
function Pool:spare()
  if self.queue:peek() or (self.rate and self.rate:wait(self.sched:now()) > 0) then return 0 end
  return self.slots.total - self.slots.active
end

---@return table state {active, waiting, total}
function Pool:state()
  local slots = self.slots
  return { active = slots.active, waiting = self.queue.count, total = slots.total }
end

return limits
