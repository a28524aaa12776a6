-- Rate limiters: pure functions of time that say when the next start is due. The bucket is GCRA,
-- the virtual scheduling form of a leaky bucket (ITU-T I.371): starts are evenly spaced, `burst` of
-- them may come at once. With a burst it lets up to limit + burst - 1 through in one window, as any
-- bucket does; the sliding window never lets more than `limit`.

local rate = {}

---@class orc.Limiter
---@field wait fun(self, now: number): number seconds until a start is due, 0 when one is
---@field take fun(self, now: number) counts a start, made when `wait` said 0

-- 0.1 + 0.2 > 0.3 in binary: a start this close to the time it is due is on time. Such sums miss
-- by less in years of uptime, and timers by more.
local SLACK = 1e-7

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

function Bucket:wait(now)
  return wait_until(full_at(self, self.taken - self.burst + 1), now)
end

function Bucket:take(now)
  if now - full_at(self, self.taken) > SLACK then -- late, so the schedule begins anew
    self.since, self.taken = now, 0
  end
  self.taken = self.taken + 1
end

local Window = {}
Window.__index = Window

-- `starts` is a ring of the last `limit` starts; the next one replaces the oldest.
function Window:wait(now)
  local oldest = self.starts[self.next]
  return oldest and wait_until(oldest + self.per, now) or 0
end

function Window:take(now)
  self.starts[self.next] = now
  self.next = self.next % self.limit + 1
end

--- A limiter for a rate as `options.rate` gives it.
---@param given orc.Rate
---@return orc.Limiter
function rate.limiter(given)
  if given.window == "sliding" then
    return setmetatable({ limit = given.limit, per = given.per, starts = {}, next = 1 }, Window)
  end
  return setmetatable({
    limit = given.limit,
    per = given.per,
    burst = given.burst or 1,
    since = -math.huge,
    taken = 0,
  }, Bucket)
end

return rate
