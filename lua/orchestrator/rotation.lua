-- Several credentials for one API. Each hop goes with the one that has the most left of what the
-- server allows it (server.lua, for a credential instead of a host); equal ones take turns. One
-- that is used up (429) or refused (401) is passed over, and the hop that found out is sent again
-- at once with another. When all are used up, hops wait here, first come, first served.
--
-- A hop claims a credential before it waits for its slot, so that no more wait there than may go.
-- By the time it has its slot more may be known: then its claim is confirmed, or moved to another
-- credential, or it comes back here.

local credential = require "orchestrator.credential"
local headers = require "orchestrator.headers"
local quota = require "orchestrator.quota"
local retry = require "orchestrator.retry"
local server = require "orchestrator.server"
local url = require "orchestrator.url"

local rotation = {}

local REFUSED_FOR = 60 -- seconds in which one that met a 401 is passed over
local UNTOLD = 1 -- seconds that one which met a 429 rests when the server does not say how long

---@class orc.Rotation an orc.Authenticator (auth.lua)
---@field entries table[] {static or object, label …}
---@field beside boolean they have nothing to do with Authorization
local Rotation = {}
Rotation.__index = Rotation
Rotation.rotates = true -- what the server says of a limit is about a credential

---@param list table[] {static: orc.StaticAuth?, object: orc.Authenticator?}
---@param context table see auth.check
---@return orc.Rotation
function rotation.new(list, context)
  local self = setmetatable({
    sched = context.sched, wall = context.wall, warn = context.warn, heeds = context.heeds,
    servers = server.new { sched = context.sched, wall = context.wall, random = context.random,
      say = context.say },
    entries = {},
    turn = 0,
    queues = {}, -- origin → those who wait for one of its credentials
    beside = true,
  }, Rotation)
  for i, one in ipairs(list) do
    local static = one.static
    if not static or (static.place == "header" and static.name:lower() == "authorization") then
      self.beside = false
    end
    self.entries[i] = {
      static = one.static, object = one.object, used = 0, -- the turn in which it was last taken
      suffix = " with credential " .. i, label = string.format("credential %d of %d", i, #list),
      rests = -math.huge, -- until when it is passed over
      warned = false,
    }
  end
  return self
end

-- Choosing --------------------------------------------------------------------------------------

local function server_of(self, origin, entry)
  return self.servers:of(origin .. entry.suffix)
end

-- How much of a credential nobody has claimed; nil when it must not be used now.
local function left_of(one)
  if one.shut then return nil end
  local left = one.quota and one.quota.remaining - one.in_flight - (one.claims or 0) or math.huge
  return left > 0 and left or nil
end

-- The credential for the next hop to an origin; nil when all are used up. When all rest, the server
-- may say once more what is wrong.
local function pick(self, origin, now)
  local best, most
  local rested, all_rest = nil, true
  for _, entry in ipairs(self.entries) do
    local left = left_of(server_of(self, origin, entry))
    if now < entry.rests then
      if not rested or entry.rests < rested.rests then rested = entry end
    else
      all_rest = false
      if left and (not best or left > most or (left == most and entry.used < best.used)) then
        best, most = entry, left
      end
    end
  end
  return best or all_rest and rested or nil
end

local function claim(self, origin, entry)
  self.turn = self.turn + 1
  entry.used = self.turn
  local one = server_of(self, origin, entry)
  one.claims = (one.claims or 0) + 1
  return entry
end

local function unclaim(self, origin, entry)
  local one = server_of(self, origin, entry)
  one.claims = (one.claims or 1) - 1
end

-- Something is known, or given back, that those who wait may have waited for.
local function go_on(self, origin)
  local queue = self.queues[origin]
  if queue then queue:reopen() end
end

-- Waiting ---------------------------------------------------------------------------------------

-- Those who wait for a credential of one origin. The servers see it as a pool.
local Queue = {}
Queue.__index = Queue

local function dissolve(queue)
  local self = queue.rotation
  for _, entry in ipairs(self.entries) do
    server.ignore(server_of(self, queue.origin, entry), queue)
  end
  if queue.timer then queue.timer:cancel() end
  self.queues[queue.origin] = nil
end

function Queue.close() end

--- One of the credentials may be used again.
function Queue:reopen()
  local of = self.rotation
  while self.first <= self.last do
    local waiter = self[self.first]
    local now = of.sched:now()
    local entry = not waiter.gone and pick(of, self.origin, now)
    if not waiter.gone and not entry then return end
    self[self.first] = nil
    self.first = self.first + 1
    if entry then
      waiter.entry = claim(of, self.origin, entry)
      of.sched:wake(waiter.task)
    end
  end
  dissolve(self)
end

local function leave(waiter)
  waiter.gone = true
  local queue = waiter.queue
  if waiter.entry then unclaim(queue.rotation, queue.origin, waiter.entry) end
  go_on(queue.rotation, queue.origin) -- it may have been the last one
end

-- One that rested may be used again, which no server tells of.
local function rested(queue)
  queue.timer = nil
  queue:reopen()
end

local function open_queue(self, origin, now)
  local queue = setmetatable({
    rotation = self, origin = origin, first = 1, last = 0, timer = nil,
  }, Queue)
  self.queues[origin] = queue
  local ends = math.huge
  for _, entry in ipairs(self.entries) do
    local one = server_of(self, origin, entry)
    server.attend(one, queue)
    if one.shut then server.explain(one, now) end
    if now < entry.rests then ends = math.min(ends, entry.rests) end
  end
  if ends < math.huge then queue.timer = self.sched:at(ends, rested, queue) end
  return queue
end

local function wait(self, plan)
  local now = self.sched:now()
  local queue = self.queues[plan.origin] or open_queue(self, plan.origin, now)
  local waiter = { queue = queue, task = self.sched:current(), entry = nil, gone = false }
  queue.last = queue.last + 1
  queue[queue.last] = waiter
  self.sched:suspend(leave, waiter)
  local observer, waited = plan.observer, self.sched:now() - now
  if observer and observer.waited and waited > 0 then
    observer:waited(plan.origin, waited, "server")
  end
  return waiter.entry
end

-- Hops ------------------------------------------------------------------------------------------

local function choose(self, plan)
  local entry = not self.queues[plan.origin] and pick(self, plan.origin, self.sched:now())
  return entry and claim(self, plan.origin, entry) or wait(self, plan)
end

local function rest(entry, ends)
  entry.rests = math.max(entry.rests, ends)
end

-- Has an entry that obtains its credentials ready; true, or nil, err.
local function prepare(self, plan, entry)
  if not entry.object then return true end
  local ok, ready, err = pcall(entry.object.ready, entry.object, plan)
  if ok and ready then return true end
  unclaim(self, plan.origin, entry)
  go_on(self, plan.origin)
  if not ok then error(ready, 0) end -- the task was cancelled
  rest(entry, self.sched:now() + REFUSED_FOR)
  return nil, err
end

--- Chooses a credential; waits until one has something left. Yields.
---@param plan table
---@return boolean|nil
---@return orc.Error|nil
function Rotation:ready(plan)
  local state = plan.refusals and plan.rotation
  if not state then
    state = { moves = 0, base = 0, entry = nil, again = false, claimed = false, started = false }
    plan.rotation = state
  end
  local ok, err
  state.claimed, state.started = false, false
  for _ = 1, #self.entries do
    state.entry = state.again and claim(self, plan.origin, state.entry) or choose(self, plan)
    state.again = false
    ok, err = prepare(self, plan, state.entry)
    if ok then break end
  end
  state.claimed = ok ~= nil
  return ok, err
end

--- Whether the hop, which has its slot, may start.
---@param plan table
---@return boolean
function Rotation:confirm(plan)
  local state, now = plan.rotation, self.sched:now()
  local entry = state.entry
  local one = server_of(self, plan.origin, entry)
  unclaim(self, plan.origin, entry)
  state.claimed = false
  if one.shut or now < entry.rests then
    local other = pick(self, plan.origin, now)
    if not other or (other ~= entry and other.object) then return false end
    entry, one = other, server_of(self, plan.origin, other)
  end
  state.entry, state.started = entry, true
  one.in_flight = one.in_flight + 1
  if one.quota then server.settle(one, now) end
  return true
end

-- The hop's URL without a credential of an earlier attempt.
local function bare(plan)
  local before = plan.bare
  if not before or before.made ~= plan.u then
    before = { u = plan.u, made = nil }
    plan.bare = before
  end
  return before
end

local function put_in_query(plan, static)
  local before = bare(plan)
  local query = "&" .. (before.u.target:match "%?(.*)" or "")
  before.made = before.u
  if not query:find("&" .. url.escape(static.name) .. "=", 1, true) then
    before.made = assert(url.parse(url.add_query(before.u.text, { [static.name] = static.value })))
  end
  plan.u, plan.url = before.made, before.made.text
end

--- Puts the chosen credential on a hop that is about to start. What the script set by the same name
--- stays.
---@param plan table
function Rotation.authorize(_, plan)
  local entry = plan.rotation.entry
  local static = entry.static
  if plan.bare and plan.bare.made == plan.u then
    plan.u, plan.url = plan.bare.u, plan.bare.u.text
  end
  if entry.object then
    entry.object:authorize(plan)
  elseif static.place == "query" then
    put_in_query(plan, static)
  elseif not plan.fields[static.name:lower()] then
    credential.put(plan, { [static.name] = static.value })
  end
end

-- Whether an answer says that the credential is used up: 429, and what some send instead.
local function is_used_up(result, told)
  if result.status == 429 then return true end
  return result.status == 403
    and (headers.get(result.head, "retry-after") ~= nil or told ~= nil and told.remaining == 0)
end

-- Takes note of what the server says of its limit. Whether the credential is used up.
local function heed(self, plan, entry, result, now)
  local one = server_of(self, plan.origin, entry)
  local head = result.head
  local told = head and self.heeds and quota.read(head, self.wall()) or nil
  local used_up = is_used_up(result, told)
  if used_up then
    local after = retry.after(headers.get(head, "retry-after"), self.wall())
    if after and after > plan.retry.max_retry_after then
      rest(entry, now + after) -- too long to wait for
    elseif after then
      server.pause(one, now + after, now)
    elseif not told or told.remaining > 0 then
      server.pause(one, now + UNTOLD, now)
    end
  end
  if self.heeds then server.heed(one, result, now) else server.settle(one, now) end
  return used_up
end

-- Whether there is another credential for a hop whose own has failed.
local function can_move(self, plan, now, at_once)
  local state = plan.rotation
  if state.moves >= #self.entries - 1 then return false end
  for _, entry in ipairs(self.entries) do
    if entry ~= state.entry and now >= entry.rests
      and (not at_once or left_of(server_of(self, plan.origin, entry))) then
      return true
    end
  end
  return false
end

-- Seconds until the first of them may be used again.
local function opens(self, origin, now)
  local first = math.huge
  for _, entry in ipairs(self.entries) do
    local one = server_of(self, origin, entry)
    local time = one.shut and one.timer and one.timer.time or now
    first = math.min(first, math.max(time, entry.rests))
  end
  return first - now
end

local function refused(self, entry, now)
  rest(entry, now + REFUSED_FOR)
  if entry.warned then return end
  entry.warned = true
  self.warn(entry.label .. " is refused (401)")
end

--- Takes note of an answer.
---@param plan table
---@param result table|nil nil when the hop was cancelled
---@return boolean again whether to send the hop again
function Rotation:answered(plan, result)
  local state = plan.rotation
  local entry, now = state.entry, self.sched:now()
  local again, used_up = false, false
  if not entry then return false end -- it was cancelled while it waited for another
  if entry.object then
    local refusals = plan.refusals -- those of this credential are what it asks for
    plan.refusals = (refusals or 0) - state.base
    again = entry.object:answered(plan, result)
    plan.refusals = refusals
  end
  if state.started then
    local one = server_of(self, plan.origin, entry)
    one.in_flight = one.in_flight - 1
    if result and result.status then
      used_up = heed(self, plan, entry, result, now)
    else
      server.settle(one, now)
    end
  elseif state.claimed then
    unclaim(self, plan.origin, entry)
  end
  local is_refused = not again and result ~= nil and result.status == 401
  if is_refused then refused(self, entry, now) end
  go_on(self, plan.origin)
  state.again = again
  if not again and (used_up or is_refused) and can_move(self, plan, now, used_up) then
    state.moves, state.base = state.moves + 1, (plan.refusals or 0) + 1
    return true
  end
  -- What one was told is not what a retry has to wait for.
  if used_up and plan.retry.respect_retry_after then
    result.retry_in = opens(self, plan.origin, now)
  end
  return again
end

return rotation
