-- How many attempts a host takes at once, found out by trying: additive increase, multiplicative
-- decrease. Pure: time, outcomes and how many are in flight are arguments.
--
-- It starts with a few and doubles every round trip until the first sign of overload. There are two
-- kinds of signs:
--
-- * Refusals (429, 503, a timeout, no connection). The level is lowered at once, by a tenth and by
--   as many as were refused, at most once a round trip, and the level that failed is remembered as
--   its ceiling. It climbs back to just below that, stays for a while that doubles whenever the
--   ceiling turns out to be where it was, and tries one more. A refusal below the ceiling tells
--   that there is no such level: then it climbs by one a round trip.
-- * Latency that grows with the level. By Little's law the latency of a saturated server is
--   proportional to what is in flight, so the level is lowered for a moment: when the latency falls
--   with it, the level that the server can use follows; when it does not, the server has become
--   slower by itself, and the level is what it was.
--
-- Latencies are compared by the means of their logarithms, with their standard errors: those of a
-- steady server tell after a few answers, those that scatter take more.

local adaptive = {}

local exp, floor, log, max, min, sqrt =
  math.exp, math.floor, math.log, math.max, math.min, math.sqrt

local INITIAL, MOST = 4, 1000
local SOONEST = 1e-4 -- seconds; sooner than that might be now
local IDLE = 60 -- seconds after which what was learned counts for nothing

-- Refusals
local BACK = 0.9 -- what is left of the level after one
local LEAST = 0.5 -- what is left of it at least in one round trip
local STAY, TURNS = 100, 4 -- answers, or turns of the level if that is more, below the ceiling
local LONGEST = 16 -- times that
local AGREE = 0.15 -- two ceilings are the same one
local GROWTH = 8 -- above a ceiling the step is a part of the way from it

-- Latency
local TOLERANCE = log(1.25)
local SURE = 3 -- standard errors
local FIRST, FEW, MANY = 4, 8, 64 -- answers that are compared: at first, while it doubles, most
local NOISE = 0.1 -- variance that is expected before any is seen
local FINE = 0.02 -- the standard error that is good enough, squared
local SETTLE = 1.5 -- latencies until those of another level come
local DIP, DEEP = 0.75, 0.6 -- to what the level is lowered for a moment
local DOUBT = 12 -- means after which it looks again; twice as many each time
local ROOM = 0.8 -- of a level that was too high, at least

---@class orc.Adaptive
local Adaptive = {}
Adaptive.__index = Adaptive

-- A new set of answers to compare: all that come from then on. (Not those of the attempts that
-- start from then on: of these the fast ones come first.)
local function compare_anew(self, since)
  self.count, self.sum, self.squares, self.since = 0, 0, 0, since
end

local function begin(self)
  self.level = max(self.min, min(self.max, self.initial))
  self.doubling = true
  self.credit, self.paced_at = 0, 0 -- what the level will grow by, bit by bit within a round trip
  self.ceiling = nil -- the lowest level that failed
  self.known = nil -- the last ceiling there was
  self.stayed, self.patience = 0, 1
  self.origin = self.level -- where it climbs from without a ceiling
  self.lowered_at, self.falling, self.top, self.refused = -math.huge, false, 0, 0
  self.peak, self.peak_before, self.peak_until = 0, 0, -math.huge
  self.exact = false
  self.latency = nil -- seconds, a moving average
  self.baseline = nil -- the mean logarithm of latencies when there is no queue
  self.spread = 0 -- variance of these logarithms
  self.last, self.wander = nil, 0 -- the last mean, and the variance of means
  self.check = nil -- {doubling, level, mean, bad, bad_mean}: a sign is looked into
  self.doubt, self.doubts = nil, DOUBT -- after so many means it looks again
  compare_anew(self, -math.huge)
end

-- The level as a whole number; sums of fractions fall short by less.
local function whole(level)
  return floor(level + 1e-6)
end

local function set_ceiling(self, level)
  level = max(self.min + 1, whole(level))
  local known = self.known
  local same = known and math.abs(level - known) <= AGREE * known
  self.patience = same and min(LONGEST, 2 * self.patience) or 1
  self.ceiling, self.known, self.stayed = level, level, 0
end

---@param opts table|nil {min: integer?, max: integer?, initial: integer?,
---  learned: integer? what an earlier one told by `learned`}
---@return orc.Adaptive
function adaptive.new(opts)
  opts = opts or {}
  local most = opts.max or MOST
  local self = setmetatable({
    min = opts.min or 1, max = most, initial = min(most, opts.initial or INITIAL), used_at = nil,
  }, Adaptive)
  begin(self)
  if opts.learned then
    self.level = max(self.min, min(most, DIP * opts.learned))
    self.doubling = false
    set_ceiling(self, opts.learned + 1)
  end
  return self
end

--- How many the host was found to take; nil as long as that is not known.
---@return integer|nil
function Adaptive:learned()
  if self.doubling then return nil end
  return self.ceiling and self.ceiling - 1 or whole(self.level)
end

-- What is to be grown by is spread over a round trip: a burst of starts would be refused as a
-- burst, before the first refusal is heard of.
local function grow(self, now)
  if self.credit > 0 then
    local amount = min(self.credit, (now - self.paced_at) * self.level / self.latency)
    self.credit = self.credit - amount
    self.level = min(self.max, self.level + amount)
  end
  self.paced_at = now
end

--- How many attempts may be in flight at once.
---@param now number monotonic seconds
---@param in_flight integer|nil
---@return integer
---@return number|nil when it grows by itself, without an answer
function Adaptive:limit(now, in_flight)
  if in_flight == 0 and self.used_at and now - self.used_at > IDLE then begin(self) end
  self.used_at = now
  if self.credit <= 0 then return whole(self.level) end
  grow(self, now)
  local n = whole(self.level)
  if self.level >= self.max or whole(self.level + self.credit) == n then return n end
  return n, now + max(SOONEST, (n + 1 - self.level) * self.latency / self.level)
end

local function lower(self, now, level)
  self.level = max(self.min, min(self.level, level))
  self.doubling, self.credit, self.stayed = false, 0, 0
  self.lowered_at = now
  self.last = nil
  compare_anew(self, now + SETTLE * (self.latency or 0))
end

-- Refusals -------------------------------------------------------------------------------------

local function fall(self, now, started)
  if started > self.lowered_at then
    local level = max(1, min(whole(self.level), max(self.peak, self.peak_before)))
    local ceiling = self.ceiling
    self.check = nil
    self.top, self.refused, self.falling = level, 0, true
    lower(self, now, self.level)
    -- One below the ceiling tells that there is no such level.
    self.exact = not ceiling or level >= ceiling
    if self.exact then set_ceiling(self, level) end
  elseif not self.falling then
    return -- a late one: the level has been lowered for it, and has proved good since
  end
  self.refused = self.refused + 1
  local left = self.top - self.refused
  self.level = max(self.min, min(self.level, max(LEAST * self.top, BACK * left)))
  if self.refused > 0.5 * self.top then -- it is not that these are too many
    self.ceiling, self.known, self.doubling, self.origin = nil, nil, true, self.level
  elseif self.exact then
    self.ceiling = max(self.min + 1, left + 1)
    self.known = self.ceiling
  else
    self.ceiling, self.origin = nil, self.level
  end
end

-- Latency --------------------------------------------------------------------------------------

-- To what part of the level it is lowered for a moment.
local function depth(excess)
  return max(DEEP, min(DIP, exp(-excess)))
end

-- Lowers the level for a moment, to see what becomes of the latency.
local function dip(self, now, mean, excess)
  self.check = { level = self.level, mean = mean }
  self.doubt = nil
  lower(self, now, self.level * depth(excess))
end

-- The end of a dip: the latency has the mean `mean` at this level, and had another at the one
-- before.
local function end_dip(self, now, mean)
  local check = self.check
  local fell, expected = check.mean - mean, log(check.level / self.level)
  self.baseline = mean
  if fell > 0.5 * expected then check.bad, check.bad_mean = check.level, check.mean end
  if fell > 0.8 * expected and self.level > self.min then -- this is too much as well
    check.level, check.mean = self.level, mean
    return lower(self, now, self.level * DIP)
  end
  self.check = nil
  if check.bad then
    local room = check.bad * max(ROOM, exp(mean - check.bad_mean))
    set_ceiling(self, 1.1 * room + 1)
    self.level = max(self.level, min(room, self.ceiling - 1))
  else -- it is not for the level
    self.level = max(self.level, check.level)
    self.ceiling, self.origin = nil, self.level
  end
  self.doubt, self.doubts = self.doubts, 2 * self.doubts
end

-- Enough latencies to compare.
local function compare(self, now)
  local n = self.count
  local mean = self.sum / n
  self.spread = max(0, self.squares - self.sum * mean) / (n - 1) + NOISE / n
  local err = sqrt(self.spread / n) * (1 + 4 / n)
  if not self.doubling then
    -- Means scatter more than that when what slows one answer slows its neighbours as well.
    local last = self.last
    if last then self.wander = self.wander + ((mean - last) ^ 2 / 2 - self.wander) / 8 end
    self.last = mean
    err = sqrt(err ^ 2 + self.wander)
  end
  compare_anew(self, now)
  local check = self.check
  if check and check.level then return end_dip(self, now, mean) end
  if not self.baseline or mean + err < self.baseline then self.baseline = mean + err end
  local excess = mean - self.baseline - TOLERANCE
  if self.doubt and not check and self.level > self.min then
    self.doubt = self.doubt - 1
    if self.doubt == 0 then return dip(self, now, mean, 0) end
  end
  if excess <= (check and 2 or SURE) * err then
    if check then self.doubling = check.doubling end
    self.check = nil
  elseif self.level <= self.min then
    self.baseline, self.check = mean, nil
  elseif not check then -- wait for a second sign, at a steady level
    self.check = { doubling = self.doubling }
    self.credit, self.doubts = 0, DOUBT
    if self.doubling then lower(self, now, self.level * depth(excess)) end
  else
    dip(self, now, mean, excess)
  end
end

local function measure(self, now, latency, in_flight)
  self.latency = self.latency and self.latency + (latency - self.latency) / 8 or latency
  if now < self.since or in_flight < 0.8 * whole(self.level) then return end
  local x = log(latency)
  self.count, self.sum, self.squares = self.count + 1, self.sum + x, self.squares + x * x
  local enough
  if self.doubling then
    enough = self.baseline and FEW or FIRST
  else
    enough = min(max(MANY, 2 * self.level), max(2 * FEW, self.level, self.spread / FINE))
  end
  if self.count >= enough then compare(self, now) end
end

-- Growth ---------------------------------------------------------------------------------------

local function rise(self, now, in_flight)
  if self.level >= self.max then
    self.doubling, self.origin = false, self.level
    return
  elseif self.check then
    return
  end
  local n = whole(self.level)
  if in_flight + 1 < 0.9 * n then return end -- it is not used up, so nothing is learned from it
  grow(self, now)
  local step -- for a round trip
  if self.doubling then
    step = self.level
  elseif not self.ceiling then
    step = max(1, (self.level - self.origin) / GROWTH)
  elseif self.level < self.ceiling - 1 then
    local room = self.ceiling - 1 - self.level
    self.credit = min(room, self.credit + max(1, room / 2) / self.level)
    return
  else
    self.stayed = self.stayed + 1
    if self.level < self.ceiling then
      if self.stayed >= max(STAY, TURNS * n) * self.patience then
        self.level, self.stayed = self.ceiling, 0
      end
    elseif self.stayed >= 2 * n then
      self.origin, self.ceiling = self.level, nil
    end
    return
  end
  self.credit = self.credit + step / self.level
end

--- An attempt has ended.
---@param now number monotonic seconds
---@param outcome table {ok: boolean?, overload: boolean? it was refused, elapsed: number? seconds
---  since it started, latency: number? what of that the host took, if not all}; what is neither ok
---  nor overload tells nothing
---@param in_flight integer attempts, this one included
function Adaptive:report(now, outcome, in_flight)
  local started = now - (outcome.elapsed or 0)
  self.used_at = now
  if now >= self.peak_until then
    self.peak, self.peak_before, self.peak_until = 0, self.peak, now + (self.latency or 0)
  end
  self.peak = max(self.peak, in_flight)
  if outcome.overload then
    fall(self, now, started)
  elseif outcome.ok then
    local latency = outcome.latency or outcome.elapsed
    if latency and latency > 0 then measure(self, now, latency, in_flight) end
    if started >= self.lowered_at and self.latency then
      self.falling = false
      rise(self, now, in_flight)
    end
  end
end

return adaptive
