-- A process's share of a limit that several processes use: what it may start by itself, without
-- asking each time. It is drawn from a document that all of them read and write in turn
-- (ledger.lua), and which counts all of it as used from then on; so a process that dies leaves the
-- limit intact and wastes a share at most. Pure functions of time.
--
-- Both kinds keep a little distance from the limit: a window is up to one percent longer, because a
-- start reaches the server a little later than we made it, and not always by as much.

local share = {}

local SLACK = 1e-7 -- see rate.lua
local AHEAD = 1 -- seconds: as long as a share is good for, and before it is good for anything
local SLOWEST = 20 -- seconds that a save may take
local PARTS = 20 -- a share is that part of the limit at most
local GRID = 512 -- starts in a document are told apart no better than by that part of a window

-- How much longer a window is, in seconds: 0.1; more when starts are seconds apart.
local function margin(given)
  local between = given.per / given.limit
  return math.min(given.per * 0.01, math.max(0.1, math.min(between * 0.1, 1)))
end

-- The size of the next share: more when the last one was used up, less when it was not.
local function adapt(self)
  if self.granted > 0 then
    if self.spent >= self.granted * 0.75 then
      self.size = math.min(self.size * 2, self.most)
    elseif self.spent <= self.granted * 0.25 then
      self.size = math.max(math.floor(self.size / 2), 1)
    end
  end
end

-- What a save may take, after one that did take so long.
local function learn_delay(self, took)
  self.delay = math.min(math.max(2 * took, 0.9 * self.delay), SLOWEST)
end

---@class orc.Share
---@field wait fun(self, now: number, weight: number): number|nil, boolean seconds until a start is
---  due, nil when that is known with more in the share only; and whether to draw more now
---@field take fun(self, now: number, weight: number) counts a start, made when `wait` said 0
---@field refund fun(self, taken: number, weight: number) a start that was not made after all
---@field draw fun(self, doc: table, now: number, need: number): fun(now: number)|nil takes more out
---  of the document, enough for a start of weight `need` (0: only says what was used); what to call
---  when the document is saved, nil when it is as it was
---@field leave fun(self, doc: table, now: number): fun()|nil puts back what is left; as `draw`
---@field due fun(self): number|nil when to draw at the latest, though nobody waits

-- Bucket --------------------------------------------------------------------------------------

-- The bucket of rate.lua, whose schedule is handed out in blocks of time. `doc.free_at` is when the
-- bucket is full again, that is, where the next block begins.
local Bucket = {}
Bucket.__index = Bucket

local function bucket(given)
  local spare = margin(given)
  local interval = (given.per + spare) / given.limit
  return setmetatable({
    limit = given.limit,
    interval = interval,
    burst = given.burst or 1,
    -- So late a start is not late yet: the schedule waits. It costs half of the distance.
    late = math.min(spare, interval) / 2,
    blocks = {}, -- {from, to}, ours, in order
    at = 0, -- how far the first one is used
    delay = 0.005, -- what a save may take
    last = nil, before = 0, -- when the last start was made, and how far it was used before that
    size = 1,
    most = math.max(math.floor(math.min(given.limit / PARTS, AHEAD / interval)), 1),
    granted = 0, spent = 0,
    not_before = -math.huge, -- nothing is to be had until then
  }, Bucket)
end

-- Where a start goes; nil when no block has room for it.
local function place(self, now, weight)
  local blocks = self.blocks
  while blocks[1] do
    local at = math.max(self.at, now - self.late)
    if at + weight * self.interval <= blocks[1].to + SLACK then return at end
    if not blocks[2] then return nil end -- the first may grow
    table.remove(blocks, 1)
    self.at = blocks[1].from
  end
end

-- When a start may be made that goes to `at`. One heavier than the burst waits for a full bucket.
local function due_at(self, at, weight)
  return at - (self.burst - math.min(weight, self.burst)) * self.interval
end

function Bucket:wait(now, weight)
  local at = place(self, now, weight)
  if at then
    local wait = due_at(self, self.at, weight) - now
    local left = (self.blocks[#self.blocks].to - at) / self.interval - weight
    return wait > SLACK and wait or 0,
      self.most > 1 and left < self.size / 2 and now >= self.not_before
  end
  local known = self.not_before
  if self.blocks[1] then known = math.max(known, due_at(self, self.at, weight) - AHEAD) end
  if now < known then return known - now, false end
  return nil, true
end

function Bucket:take(now, weight)
  self.last, self.before = now, self.at
  self.at = math.max(self.at, now - self.late) + weight * self.interval
  self.spent = self.spent + weight
end

function Bucket:refund(taken, weight)
  if taken ~= self.last then return end -- see rate.lua
  -- What lies before the block was another one, and maybe others' since.
  local first = self.blocks[1]
  self.at, self.last = math.max(self.before, first and first.from or self.before), nil
  self.spent = self.spent - weight
end

-- What a document says when it was written for a window: those starts, one after the other.
local function from_window(self, doc, now)
  local gone = now - self.interval * self.limit
  local count, newest = 0, -math.huge
  local function add(time, weight)
    if time <= gone then return end
    count, newest = count + weight, math.max(newest, time)
  end
  for _, start in ipairs(doc.starts) do add(start[1], start[2]) end
  for _, lease in ipairs(doc.leases or {}) do add(lease[2], lease[3]) end
  doc.starts, doc.leases = nil, nil
  if count > 0 then return newest + count * self.interval end
end

function Bucket:draw(doc, now, need)
  if need <= 0 then return nil end
  if doc.starts then doc.free_at = from_window(self, doc, now) end
  local blocks = self.blocks
  local newest = blocks[#blocks]
  local from = math.max(doc.free_at or now, now)
  local grows = newest ~= nil and newest.to == doc.free_at
  if grows and not place(self, now, need) then -- what was not used in time is the next one's
    from = math.min(math.max(self.at, now - self.late), newest.to)
  end
  local due = due_at(self, from, need)
  self.not_before = due - AHEAD
  if now < self.not_before then return nil end
  local tokens = math.max(self.size, need)
  -- What can be used when this is saved must not be over by then.
  local to = math.max(from, now + self.delay) + tokens * self.interval
  doc.free_at = to
  return function(saved)
    if not newest then self.at = from end
    if grows then
      newest.to = to
    else
      blocks[#blocks + 1] = { from = from, to = to }
    end
    learn_delay(self, saved - now)
    adapt(self)
    self.granted, self.spent = tokens, 0
  end
end

function Bucket:leave(doc)
  local newest = self.blocks[#self.blocks]
  if not newest or newest.to ~= doc.free_at then return nil end -- others have gone on from there
  doc.free_at = self.blocks[2] and newest.from or math.min(self.at, newest.to)
  return function() self.blocks = {} end
end

-- What is not used in time is lost by itself.
function Bucket.due() return nil end

-- Window --------------------------------------------------------------------------------------

-- The sliding window of rate.lua. `doc.starts` are those that were made, {time, weight} by time;
-- `doc.leases` the shares, {holder, good until, weight}, which count as if used at their end.
local Window = {}
Window.__index = Window

local function window(given, holder)
  return setmetatable({
    limit = given.limit,
    per = given.per + margin(given),
    holder = holder,
    tokens = 0, good_until = -math.huge,
    delay = 0.005,
    made = {}, -- starts that no document tells of: {time, weight}
    telling = {}, -- those that the document does that is being saved
    size = 1,
    most = math.max(math.floor(given.limit / PARTS), 1),
    granted = 0, spent = 0,
    not_before = -math.huge,
  }, Window)
end

function Window:wait(now, weight)
  if now < self.good_until and self.tokens >= weight then
    return 0, self.most > 1 and self.tokens - weight < self.size / 2 and now >= self.not_before
  end
  if now < self.not_before then return self.not_before - now, false end
  return nil, true
end

function Window:take(now, weight)
  self.tokens = self.tokens - weight
  self.made[#self.made + 1] = { now, weight }
  self.spent = self.spent + weight
end

-- One that is told of stays counted.
function Window:refund(taken, weight)
  for i = #self.made, 1, -1 do
    local start = self.made[i]
    if start[1] == taken and start[2] == weight then
      table.remove(self.made, i)
      self.tokens = self.tokens + weight
      self.spent = self.spent - weight
      return
    end
  end
end

-- Adds starts, in order; those that are too close to be told apart count at the later time.
local function add_starts(self, doc, made)
  local grid = self.limit > GRID and self.per / GRID or 0
  local starts = doc.starts
  for _, start in ipairs(made) do
    local time = grid > 0 and math.ceil(start[1] / grid) * grid or start[1]
    local at = #starts
    while at > 0 and starts[at][1] > time do at = at - 1 end
    if at > 0 and starts[at][1] == time then
      starts[at][2] = starts[at][2] + start[2]
    else
      table.insert(starts, at + 1, { time, start[2] })
    end
  end
end

-- Drops what is over from a document, and our own lease; returns whether there was one.
local function prune(self, doc, now)
  local gone = now - self.per
  if doc.free_at then -- it was written for a bucket: count a whole window up to there
    doc.starts = doc.free_at > gone and { { math.min(doc.free_at, now), self.limit } } or {}
    doc.free_at = nil
  end
  local starts, leases, mine = {}, {}, false
  for _, start in ipairs(doc.starts or {}) do
    if start[1] > gone then starts[#starts + 1] = start end
  end
  for _, lease in ipairs(doc.leases or {}) do
    if lease[1] == self.holder then
      mine = true
    elseif lease[2] > gone then
      leases[#leases + 1] = lease
    end
  end
  doc.starts, doc.leases = starts, leases
  return mine
end

-- When as much as is missing will be free again, from what the document knows.
local function free_again(self, doc, now, missing)
  local soonest = math.huge
  for _, lease in ipairs(doc.leases) do -- what its holder did not use, it gives back by then
    soonest = math.min(soonest, math.max(lease[2], now) + 0.05)
  end
  for _, start in ipairs(doc.starts) do
    missing = missing - start[2]
    if missing <= 0 then return math.min(soonest, start[1] + self.per) end
  end
  return math.min(soonest, now + self.per)
end

-- Has the document tell of our starts; returns whether there were any.
local function tell(self, doc)
  for _, start in ipairs(self.made) do self.telling[#self.telling + 1] = start end
  self.made = {}
  add_starts(self, doc, self.telling)
  return self.telling[1] ~= nil
end

function Window:draw(doc, now, need)
  local mine = prune(self, doc, now)
  if now >= self.good_until then self.tokens = 0 end
  local told = tell(self, doc)
  local free = self.limit - self.tokens
  for _, start in ipairs(doc.starts) do free = free - start[2] end
  for _, lease in ipairs(doc.leases) do free = free - lease[3] end
  local more = 0
  if need > 0 then
    local least = math.max(need - self.tokens, 1)
    if free >= least then
      more = math.min(math.max(self.size, least), free)
    else
      self.not_before = free_again(self, doc, now, least - free)
    end
  end
  local good_until = now + self.delay + AHEAD
  if self.tokens + more > 0 then
    table.insert(doc.leases, { self.holder, good_until, self.tokens + more })
  elseif not told and not mine then
    return nil
  end
  local held = self.tokens
  return function(saved)
    learn_delay(self, saved - now)
    self.telling = {}
    if held + more > 0 then self.good_until = good_until end
    self.tokens = self.tokens + more
    if more > 0 then
      adapt(self)
      self.granted, self.spent = more, 0
    end
  end
end

function Window:leave(doc, now)
  local mine = prune(self, doc, now)
  local told = tell(self, doc)
  if not mine and not told then return nil end
  return function() self.telling, self.tokens = {}, 0 end
end

function Window:due()
  if self.tokens > 0 or #self.made > 0 then return self.good_until end
end

--- A share of a rate as `options.rate` gives it.
---@param given orc.Rate
---@param holder string a name that no other process has
---@return orc.Share
function share.new(given, holder)
  if given.window == "sliding" then return window(given, holder) end
  return bucket(given)
end

return share
