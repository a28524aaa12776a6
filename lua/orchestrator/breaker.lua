-- A circuit breaker: when too many attempts at a host fail, it gets none for a while, then a few to
-- see whether it is back. Pure: time and outcomes are arguments.
--
-- It is closed (attempts may start) until enough of those that ended within the window failed.
-- Then it is open for the cooldown, then half open: a few attempts may start. When all of them
-- succeed it is closed again, and what was before is forgotten; when one fails it is open for
-- another cooldown.

local breaker = {}

local PARTS = 10 -- of the window; what is counted is as much too old at most
local EARLIER = 1e-6 -- seconds by which `now - elapsed` may miss

---@class orc.Breaker
---@field state "closed"|"open"|"half_open"
---@field failed integer in the window, or when it opened
---@field ended integer likewise, with those that succeeded
local Breaker = {}
Breaker.__index = Breaker

local function clear(self)
  self.ended, self.failed = 0, 0
  self.part = -math.huge -- the number of the newest one
  for i = 0, PARTS - 1 do self.parts[i].ended, self.parts[i].failed = 0, 0 end
end

---@param opts table {failures: number share, min_requests: integer, window: number, cooldown:
---  number, probes: integer, on_change: fun(self: orc.Breaker)? called when it opens or closes, but
---  not when it opens again}
---@return orc.Breaker
function breaker.new(opts)
  local parts = {}
  for i = 0, PARTS - 1 do parts[i] = { ended = 0, failed = 0 } end
  local self = setmetatable({
    failures = opts.failures, min_requests = opts.min_requests, window = opts.window,
    cooldown = opts.cooldown, probes = opts.probes, on_change = opts.on_change,
    state = "closed",
    parts = parts,
    changed_at = -math.huge, -- since when it is in this state
    probing = 0, passed = 0, -- half open: attempts in flight, and those that succeeded
  }, Breaker)
  clear(self)
  return self
end

-- Drops what is older than the window.
local function advance(self, now)
  local part = math.floor(now * PARTS / self.window)
  if part <= self.part then return end
  for passed = math.max(self.part, part - PARTS) + 1, part do
    local old = self.parts[passed % PARTS]
    self.ended, self.failed = self.ended - old.ended, self.failed - old.failed
    old.ended, old.failed = 0, 0
  end
  self.part = part
end

local function change(self, state, now)
  self.state, self.changed_at = state, now
  self.probing, self.passed = 0, 0
end

--- Whether an attempt may start.
---@param now number monotonic seconds
---@return boolean
---@return number|nil when one may, if that does not depend on attempts in flight
function Breaker:allow(now)
  if self.state == "closed" then return true end
  if self.state == "open" then
    local due = self.changed_at + self.cooldown
    if now < due then return false, due end
    change(self, "half_open", now)
  end
  return self.probing + self.passed < self.probes
end

--- An attempt starts; `allow` said that it may.
function Breaker:start()
  if self.state == "half_open" then self.probing = self.probing + 1 end
end

-- Whether what has ended now began in the state that there is. What began before tells nothing.
local function belongs(self, now, elapsed)
  return now - (elapsed or 0) >= self.changed_at - EARLIER
end

--- An attempt has ended.
---@param now number
---@param ok boolean|nil whether the host is well; nil when that is not known, as of one that was
---  cancelled
---@param elapsed number|nil seconds
function Breaker:report(now, ok, elapsed)
  if self.state == "closed" then
    if ok == nil or not belongs(self, now, elapsed) then return end
    advance(self, now)
    local part = self.parts[self.part % PARTS]
    self.ended, part.ended = self.ended + 1, part.ended + 1
    if ok then return end
    self.failed, part.failed = self.failed + 1, part.failed + 1
    if self.ended < self.min_requests or self.failed < self.failures * self.ended then return end
    change(self, "open", now)
    if self.on_change then self:on_change() end
  elseif self.state == "half_open" and belongs(self, now, elapsed) then
    self.probing = math.max(0, self.probing - 1)
    if ok == false then
      change(self, "open", now)
    elseif ok then
      self.passed = self.passed + 1
      if self.passed < self.probes then return end
      change(self, "closed", now)
      clear(self)
      if self.on_change then self:on_change() end
    end
  end
end

--- Whether there is nothing to remember.
---@return boolean
function Breaker:is_idle(now)
  if self.state ~= "closed" then return false end
  advance(self, now)
  return self.ended == 0
end

return breaker
