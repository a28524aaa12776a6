-- One attempt and its hedges (hedge.lua): the first good answer wins, and the others are
-- cancelled. Each is a task that waits for a slot and pays the limits like any other attempt, and
-- none outlives the race.
--
-- A hedge only ever helps: what is not a good answer counts when it is the first one's.

local attempt = require "orchestrator.attempt"
local hedge = require "orchestrator.hedge"
local retry = require "orchestrator.retry"

local race = {}

local Race = {}
Race.__index = Race

-- One of the attempts. It stands in for the plan's clock, and so hears when a hop starts.
local Contestant = {}
Contestant.__index = Contestant

function Contestant:start()
  local of = self.race
  if of.clock then of.clock:start() end
  if self.began then return end
  self.began = of.sched:now()
  if not self.is_hedge then
    of.began = self.began
    of:arm()
  end
end

-- Neither has it started, nor does it wait for its turn.
function Contestant:wait()
  if self.race.clock then self.race.clock:wait() end
end

function Contestant:is_over(deadline)
  local clock = self.race.clock
  return clock ~= nil and clock:is_over(deadline)
end

local function compete(self)
  local of = self.race
  self.res, self.err, self.elapsed = attempt.make(of.client, self.plan, of.number)
  self.answered = of.sched:now()
  if self.res then self.action = of.judge(of.plan, self.res) end
end

local function is_good(contestant)
  return contestant.action == "accept" or contestant.action == "ignore"
end

-- Whether nothing better is to be had by waiting for the hedges.
local function is_final(self, contestant)
  local res, err = contestant.res, contestant.err
  if contestant.action == "fail" or (err and err.final) then return true end
  return not retry.may_pass(self.plan.retry, {
    asked = contestant.action == "retry", status = res and res.status,
    kind = err and err.kind, fault = err and err.fault,
  })
end

-- A contestant's task has ended. Those that are now for nothing are cancelled before any of them
-- runs again: it may just have been given the slot of this one.
local function over(task)
  local self = task.contestant
  local of = self.race
  local now = of.sched:now()
  of.running = of.running - 1
  if self.res and self.res.status == 429 then of.shared:overloaded(of.origin, now) end
  if self.charged and not self.began then
    of.shared.budget:refund(self.charged, now) -- it waited for a slot in vain
  end
  if not of.decided and not task.cancelled then
    if not task.ok then
      of.decided, of.raised = true, task.err
    elseif is_good(self) or (self == of.first and is_final(of, self)) then
      of.decided, of.winner = true, self
    end
    if of.decided then of:cancel() end
  end
  if of.running == 0 then of.sched:wake(of.owner) end
end

function Race:enter(is_hedge)
  local plan = setmetatable({}, getmetatable(self.plan))
  for name, value in pairs(self.plan) do plan[name] = value end
  self.plan.lookup = nil -- what was found in the cache is for the first: later there may be more
  local contestant = setmetatable({ race = self, plan = plan, is_hedge = is_hedge }, Contestant)
  plan.clock = contestant
  local task = self.sched:spawn(compete, contestant)
  contestant.task, task.contestant, task.on_done = task, contestant, over
  self.running = self.running + 1
  table.insert(self.entered, contestant)
  return contestant
end

-- The attempt is slow.
local function due(self)
  self.timer = nil
  self.chances = self.chances - 1
  local now = self.sched:now()
  local timeout = self.plan.timeout
  local left = timeout > 0 and timeout - (now - self.began) or math.huge
  if left > 0 and self.shared:allow(self.origin, now) then
    local contestant = self:enter(true)
    contestant.charged = now
    if timeout > 0 then contestant.plan.timeout = left end -- the attempt as a whole has it once
  end
  self:arm()
end

function Race:arm()
  local after = self.chances > 0 and self.shared:patience(self.plan.hedge, self.origin)
  if after then self.timer = self.sched:at(self.sched:now() + after, due, self) end
end

-- Nothing more is to come of it.
function Race:cancel()
  if self.timer then self.timer:cancel() end
  self.timer, self.chances = nil, 0
  for _, contestant in ipairs(self.entered) do
    contestant.task:cancel "another attempt was faster"
  end
end

-- When the task is cancelled, the contestants are before it in the queue, and have ended when it
-- goes on.
function Race:run()
  self.first = self:enter(false)
  while self.running > 0 do self.sched:suspend(Race.cancel, self) end
  self:cancel()
end

-- Tells of those whose outcome does not count. When there is no winner the request was cut short,
-- and its first attempt is told of by who did that.
local function tell(self, winner)
  local observer = self.plan.observer
  if not observer then return end
  for _, contestant in ipairs(self.entered) do
    if contestant ~= winner and contestant.began and (winner or contestant.is_hedge) then
      local res, err = contestant.res, contestant.err
      local kind = err and err.kind or res and not is_good(contestant) and "http" or nil
      if not contestant.task.ok then res, kind = nil, "cancelled" end
      observer:attempt {
        url = self.plan.url, origin = self.origin, attempt = self.number, retried = false,
        hedge = contestant.is_hedge or nil, lost = true, status = res and res.status, kind = kind,
        elapsed = contestant.elapsed or self.sched:now() - contestant.began,
        size = res and res.size or 0, wire = res and res.wire or 0,
      }
    end
  end
end

--- As attempt.make, with hedges. Yields.
---@param judge fun(plan: table, res: table): string|nil what to make of a response
---@return table|nil res, table|nil err
---@return number elapsed seconds
---@return string|nil action what `judge` said
function race.make(client, plan, number, judge)
  local self = setmetatable({
    client = client, sched = client.sched, owner = client.sched:current(),
    plan = plan, number = number, judge = judge, origin = plan.origin, clock = plan.clock,
    shared = hedge.shared(client),
    chances = plan.hedge.max, -- hedges that may still be started
    began = nil, -- when the first hop started
    timer = nil,
    entered = {}, first = nil, running = 0, -- contestants
    decided = false, winner = nil, raised = nil, -- the one whose outcome counts, or an error
  }, Race)
  local ok, raised = pcall(self.run, self)
  local winner
  if ok and not self.raised then winner = self.winner or self.first end
  tell(self, winner)
  if not winner then error(self.raised or raised, 0) end
  local res, elapsed = winner.res, winner.elapsed
  if winner.is_hedge then
    res.hedged = true
    elapsed = winner.answered - self.began
  end
  if is_good(winner) and not res.unsent then
    self.shared:learn(plan.hedge, self.origin, elapsed)
  end
  return res, winner.err, elapsed, winner.action
end

return race
