-- Rate limiters: pure functions of time that say when the next start is due. The bucket is GCRA,
-- the virtual scheduling form of a leaky bucket (ITU-T I.371): starts are evenly spaced, `burst` of
-- them may come at once. With a burst it lets up to limit + burst - 1 through in one window, as any
-- bucket does; the sliding window never lets more than `limit`.
--
-- A start may weigh more than one, or less. One that weighs more than the burst is due when the
-- bucket is full, and those after it wait until all of it is paid.

local rate = {}

---@class orc.Limiter
---@field name string what a person calls it
---@field most number the greatest weight a start can have
---@field wait fun(self, now: number, weight?: number): number seconds until it is due, 0 when it is
---@field take fun(self, now: number, weight?: number) counts a start, made when `wait` said 0
---@field refund fun(self, taken: number, weight?: number) a start that was not made after all
---@field pause fun(self, time: number) nothing is due before then

-- 0.1 + 0.2 > 0.3 in binary: a start this close to the time it is due is on time. Such sums miss
-- by less in years of uptime, and timers by more.
local SLACK = 1e-7

-- Likewise of weights, which may be fractions.
local CRUMB = 1e-6

local function wait_until(due, now)
  local wait = due - now
  return wait > SLACK and wait or 0
end

local Bucket = {}
Bucket.__index = Bucket

-- When the bucket is full again: `taken` intervals after `since`. A product, as a sum would drift.
local function full_at(self, taken)
  return self.since + taken * self.per / self.limit
end

function Bucket:wait(now, weight)
  local burst = self.burst
  weight = weight or 1
  local due = full_at(self, self.taken - burst + (weight < burst and weight or burst))
  local paused = self.paused
  return wait_until(due > paused and due or paused, now)
end

function Bucket:take(now, weight)
  if now - full_at(self, self.taken) > SLACK then -- late, so the schedule begins anew
    self.since, self.taken = now, 0
  end
  self.taken = self.taken + (weight or 1)
  self.last = now
end

-- What others took later they may have had to wait for: then nothing comes back, as a bucket that
-- was full meanwhile would have lost it anyway.
function Bucket:refund(taken, weight)
  if taken == self.last then self.taken = self.taken - (weight or 1) end
end

local Window = {}
Window.__index = Window

-- Start i was at times[i]; sums[i] is what it and all before it weigh. Those before `first` are
-- over, and weigh sums[first - 1].

function Window:wait(now, weight)
  local sums, first, last = self.sums, self.first, self.last
  local due = self.paused
  -- So much must be over: look for the start with which it is.
  local over = sums[last] + (weight or 1) - self.limit - CRUMB
  if over > sums[first - 1] then
    local low, high = math.min(first, last), last
    while low < high do
      local middle = math.floor((low + high) / 2)
      if sums[middle] >= over then high = middle else low = middle + 1 end
    end
    if sums[low] < over then return math.huge end -- heavier than the limit
    due = math.max(due, self.times[low] + self.per)
  end
  return wait_until(due, now)
end

-- Forgets what is over, once that is half of what is kept.
local function prune(self, now)
  local times, sums, first, last = self.times, self.sums, self.first, self.last
  while first <= last and times[first] + self.per <= now do first = first + 1 end
  self.first = first
  local kept = last - first + 1
  if first < 64 or first < kept then return end
  local base = sums[first - 1]
  sums[0] = 0
  for i = 1, kept do
    times[i], sums[i] = times[first + i - 1], sums[first + i - 1] - base
  end
  for i = kept + 1, last do times[i], sums[i] = nil, nil end
  self.first, self.last = 1, kept
end

function Window:take(now, weight)
  prune(self, now)
  local last = self.last
  local sum = self.sums[last] + (weight or 1)
  if last < self.first or self.times[last] ~= now then
    last = last + 1
    self.last, self.times[last] = last, now
  end
  self.sums[last] = sum
end

function Window:refund(taken, weight)
  local times, last = self.times, self.last
  local i = last
  while i >= self.first and times[i] > taken do i = i - 1 end
  if i < self.first or times[i] ~= taken then return end
  for k = i, last do self.sums[k] = self.sums[k] - (weight or 1) end
end

local function pause(self, time)
  if time > self.paused then self.paused = time end
end

Bucket.pause, Window.pause = pause, pause

--- A rate as text: "100/1m".
---@param given orc.Rate
---@return string
function rate.text(given)
  local per, unit = given.per, "s"
  if per < 1 then
    per, unit = per * 1000, "ms"
  elseif per % 3600 == 0 then
    per, unit = per / 3600, "h"
  elseif per % 60 == 0 then
    per, unit = per / 60, "m"
  end
  return string.format("%.10g/%.10g%s", given.limit, per, unit)
end

--- A limiter for a rate as `options.rate` gives it.
---@param given orc.Rate
---@return orc.Limiter
function rate.limiter(given)
  local self = {
    name = given.name or rate.text(given), limit = given.limit, per = given.per,
    paused = -math.huge,
  }
  if given.window == "sliding" then
    self.most = given.limit
    self.times, self.sums, self.first, self.last = {}, { [0] = 0 }, 1, 0
    return setmetatable(self, Window)
  end
  self.burst = given.burst or 1
  self.most = math.max(self.limit, self.burst, 1)
  self.since, self.taken, self.last = -math.huge, 0, -math.huge
  return setmetatable(self, Bucket)
end

local All = {}
All.__index = All

function All:wait(now, weight)
  local longest = 0
  for i = 1, #self do
    local wait = self[i]:wait(now, weight)
    if wait > longest then longest = wait end
  end
  return longest
end

for _, name in ipairs { "take", "refund", "pause" } do
  All[name] = function(self, time, weight)
    for i = 1, #self do self[i][name](self[i], time, weight) end
  end
end

--- Several limiters as one: a start is due when it is for all of them, and counts for all.
---@param limiters orc.Limiter[]
---@return orc.Limiter
function rate.all(limiters)
  local self, names = { most = math.huge }, {}
  for i, limiter in ipairs(limiters) do
    self[i], names[i] = limiter, limiter.name
    self.most = math.min(self.most, limiter.most)
  end
  self.name = table.concat(names, " and ")
  return setmetatable(self, All)
end

return rate
