-- What may be done beyond what was asked for: retries and hedges, as a share of the requests of the
-- last minute, so that a server in trouble is not buried in them. Time is an argument.

local budget = {}

---@class orc.Budget
---@field share number of the requests
---@field always integer extras a minute that even an idle client may make
local Budget = {}
Budget.__index = Budget

local WINDOW = 60 -- seconds, and slots of one second

--- Counts requests and extras of the last minute, second by second.
---@param share number extras allowed per request
---@param always integer extras a minute that are allowed however few the requests
---@return orc.Budget
function budget.new(share, always)
  local self = { share = share, always = always, second = -math.huge, requests = {}, extras = {} }
  self.recent_requests, self.recent_extras = 0, 0
  for slot = 0, WINDOW - 1 do
    self.requests[slot], self.extras[slot] = 0, 0
  end
  return setmetatable(self, Budget)
end

-- The slot of `now`, after the slots that time has passed over were emptied.
local function slot_at(self, now)
  local second = math.max(math.floor(now), self.second)
  for passed = math.max(self.second, second - WINDOW) + 1, second do
    local slot = passed % WINDOW
    self.recent_requests = self.recent_requests - self.requests[slot]
    self.recent_extras = self.recent_extras - self.extras[slot]
    self.requests[slot], self.extras[slot] = 0, 0
  end
  self.second = second
  return second % WINDOW
end

--- Counts a request.
---@param now number monotonic seconds
function Budget:request(now)
  local slot = slot_at(self, now)
  self.requests[slot] = self.requests[slot] + 1
  self.recent_requests = self.recent_requests + 1
end

--- Whether one more fits the budget; counts it if so.
---@param now number monotonic seconds
---@return boolean
function Budget:allow(now)
  local slot = slot_at(self, now)
  if self.recent_extras >= math.max(self.always, self.share * self.recent_requests) then
    return false
  end
  self.extras[slot] = self.extras[slot] + 1
  self.recent_extras = self.recent_extras + 1
  return true
end

--- Takes back one that was allowed at `at` and was not made after all.
---@param at number monotonic seconds
---@param now number
function Budget:refund(at, now)
  slot_at(self, now)
  local second = math.floor(at)
  local slot = second % WINDOW
  if second > self.second - WINDOW and self.extras[slot] > 0 then
    self.extras[slot] = self.extras[slot] - 1
    self.recent_extras = self.recent_extras - 1
  end
end

return budget
