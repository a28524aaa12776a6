-- Quantiles of any number of durations in constant memory: a count for every bucket of values
-- within 2 % of each other, so that an answer is at most 1 % off. Count, sum, least and most are
-- exact.

local ffi = require "ffi"

local floor, log, max, min = math.floor, math.log, math.max, math.min

local histogram = {}

---@class orc.Histogram
---@field count integer
---@field sum number seconds
---@field least number|nil seconds
---@field most number|nil seconds
local Histogram = {}
Histogram.__index = Histogram

local LEAST = 1e-6 -- seconds; what is shorter shares the first bucket
local MOST = 1e6 -- about 11 days; what is longer shares the last
local STEP = log(1.02)
local BUCKETS = floor(log(MOST / LEAST) / STEP) + 1

local counts = ffi.typeof("double[?]")

---@return orc.Histogram
function histogram.new()
  return setmetatable(
    { count = 0, sum = 0, least = nil, most = nil, counts = counts(BUCKETS) }, Histogram)
end

---@param seconds number
function Histogram:add(seconds)
  self.count = self.count + 1
  self.sum = self.sum + seconds
  if not self.least or seconds < self.least then self.least = seconds end
  if not self.most or seconds > self.most then self.most = seconds end
  local bucket = floor(log(max(LEAST, min(MOST, seconds)) / LEAST) / STEP)
  bucket = min(bucket, BUCKETS - 1)
  self.counts[bucket] = self.counts[bucket] + 1
end

--- The value that `fraction` of all values do not exceed.
---@param fraction number 0 to 1
---@return number|nil seconds nil when there are none
function Histogram:quantile(fraction)
  if self.count == 0 then return nil end
  local rank = max(1, math.ceil(fraction * self.count))
  if rank >= self.count then return self.most end
  local seen = 0
  for bucket = 0, BUCKETS - 1 do
    seen = seen + self.counts[bucket]
    if seen >= rank then
      local middle = LEAST * math.exp((bucket + 0.5) * STEP)
      return max(self.least, min(self.most, middle))
    end
  end
end

---@return number|nil seconds
function Histogram:average()
  return self.count > 0 and self.sum / self.count or nil
end

return histogram
