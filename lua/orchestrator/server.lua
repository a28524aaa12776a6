-- What servers say of their own limits, for all clients of a program: how many requests are left
-- until when (quota.lua), and how long they ask to be left alone. While a server's own limit is
-- reached it is *shut*, and nobody who heeds it starts anything there.

local quota = require "orchestrator.quota"

local server = {}

local LONGEST = 3900 -- seconds; a reset that is farther away is not waited for
local KEPT = 1000 -- servers nobody needs at the moment
local PLENTY, FRESH = 64, 1 -- requests left, and seconds for which a report is believed then

---@class orc.Server
---@field origin string
---@field in_flight integer hops without an answer, of all pools
---@field shut boolean
---@field waiting table[] the pools in which somebody waits for it, in turn
---@field dead boolean|nil no longer the one of its origin

---@class orc.Servers
local Servers = {}
Servers.__index = Servers

---@param opts table {sched, wall: fun(): number?, random: fun(): number?, say: fun(text)?}
---@return orc.Servers
function server.new(opts)
  return setmetatable({
    sched = opts.sched, wall = opts.wall or os.time, random = opts.random or math.random,
    say = opts.say,
    by_origin = {}, count = 0, most = KEPT,
  }, Servers)
end

-- Drops those that nobody uses and of which there is nothing to know.
local function sweep(self)
  local now, many = self.sched:now(), self.count >= 10 * KEPT -- then it may say so twice
  for origin, one in pairs(self.by_origin) do
    local used = one.in_flight > 0 or one.waiting[1]
    local limited = one.paused and now < one.paused
      or one.quota and now < one.quota.ends and not (many and one.quota.guessed)
    if not used and not limited and (many or not one.said) then
      self.by_origin[origin], one.dead = nil, true
      self.count = self.count - 1
    end
  end
  self.most = math.max(KEPT, 2 * self.count)
end

---@param origin string
---@return orc.Server
function Servers:of(origin)
  local one = self.by_origin[origin]
  if one then return one end
  if self.count >= self.most then sweep(self) end
  one = {
    origin = origin, servers = self,
    in_flight = 0,
    shut = false,
    waiting = {},
    paused = nil, -- until when it wants nobody
    quota = nil, -- {remaining, limit, window, rest, at, ends, unread, guessed}
    timer = nil,
    held = 0, since = nil, -- how long it was shut before, and since when it is
    said = false,
    dead = nil,
  }
  self.by_origin[origin] = one
  self.count = self.count + 1
  return one
end

-- A new window has begun, of which nothing was heard: as many as the last one had, or one to find
-- out.
local function begin_window(known, now)
  known.remaining = math.max(1, math.min(known.limit or 1, known.rest or math.huge))
  known.at, known.ends, known.guessed = now, math.huge, true
end

-- Until when it must be shut; nil when it need not. Without end: until something is heard.
local function shut_until(self, now)
  if self.paused then
    if now < self.paused then return self.paused end
    self.paused = nil
  end
  local known = self.quota
  if not known then return nil end
  if now >= known.ends then begin_window(known, now) end
  if known.remaining > self.in_flight then return nil end
  return known.ends
end

local function described(known)
  if known.limit and known.window then
    return string.format("%d per %g s", known.limit, known.window)
  end
  return string.format("%s, the next in %.0f s", known.limit or "none left", known.reset)
end

--- Says, once, that somebody waits for this server's own limit.
---@param wait number|nil seconds that it asks to wait, if it is that
function server.say(self, wait)
  local say = self.servers.say
  if self.said or not say then return end
  self.said = true
  say(string.format("%s's own limit (%s) governs now", self.origin:match "://(.*)" or self.origin,
    wait and string.format("it asks to wait %.0f s", wait) or described(self.quota)))
end

--- Says, once, why it is shut: somebody waits for it.
function server.explain(self, now)
  if not self.said then server.say(self, self.paused and self.paused - now) end
end

--- Somebody in a pool waits for it: `pool:close(origin)` and `pool:reopen(origin)` are called when
--- it is shut and no longer is.
function server.attend(self, pool)
  table.insert(self.waiting, pool)
end

function server.ignore(self, pool)
  for i, one in ipairs(self.waiting) do
    if one == pool then return table.remove(self.waiting, i) end
  end
end

-- Lets the pools go on, in turn: as much as one takes, the next does not get.
local function open(self)
  local pools = {}
  for i, pool in ipairs(self.waiting) do pools[i] = pool end
  for _, pool in ipairs(pools) do
    if self.shut then return end
    if server.ignore(self, pool) then
      server.attend(self, pool)
      pool:reopen(self.origin)
    end
  end
end

--- Judges anew whether it must be shut, and tells who waits for it.
function server.settle(self, now)
  local time = shut_until(self, now)
  local timer = self.timer
  if timer and timer.time ~= time then
    timer:cancel()
    self.timer, timer = nil, nil
  end
  if time and time < math.huge and not timer then
    self.timer = self.servers.sched:at(time, server.wake, self)
  end
  if (time ~= nil) == self.shut then return end
  self.shut = time ~= nil
  if self.shut then
    self.since = now
    if self.waiting[1] then server.explain(self, now) end
    for _, pool in ipairs(self.waiting) do pool:close(self.origin) end
  else
    self.held, self.since = self.held + now - self.since, nil
    open(self)
  end
end

function server.wake(self)
  self.timer = nil
  server.settle(self, self.servers.sched:now())
end

--- How long it was shut, in all.
function server.held(self, now)
  return self.held + (self.since and now - self.since or 0)
end

--- Nobody is to start anything there before `time`.
function server.pause(self, time, now)
  if time <= (self.paused or now) then return end
  self.paused = time
  server.settle(self, now)
end

-- Whether a report is news. An answer that was on its way when another came may tell of a time
-- before that one.
local function is_news(known, told, now, sent)
  return not known or now >= known.ends or told.remaining <= known.remaining or sent >= known.at
end

-- Whether so many are left that not every answer has to be read.
local function has_plenty(self, known, now)
  if known.guessed or now - known.at > FRESH then return false end
  known.unread = known.unread + 1
  return known.remaining - known.unread > self.in_flight + PLENTY
end

--- A hop has ended, or its answer has begun. `in_flight` no longer counts it.
---@param outcome table {head: string?, status: integer?, elapsed: number?, sent: number? when}
function server.heed(self, outcome, now)
  local servers, head = self.servers, outcome.head
  local known = self.quota
  if known and head and has_plenty(self, known, now) then return end
  local told = head and quota.read(head, servers.wall())
  if told and told.reset <= LONGEST then
    if is_news(known, told, now, outcome.sent or now - (outcome.elapsed or 0)) then
      -- So that not all programs start again at the same moment.
      told.at, told.unread = now, 0
      told.ends = now + told.reset + servers.random() * math.min(1, told.reset / 10)
      self.quota = told
    end
  elseif known and not outcome.status then
    -- It may have been counted there. In a guessed window somebody has to go on asking.
    known.remaining = math.max(known.guessed and 1 or 0, known.remaining - 1)
  elseif known and known.guessed then
    self.quota = nil -- it speaks of no limit any more
  end
  server.settle(self, now)
end

return server
