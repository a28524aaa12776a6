-- Tasks that ask for what was answered with something stale meanwhile. They belong to the program:
-- who started one does not wait for it, but its run does, and an interruption ends it.

local cache_flights = require "orchestrator.cache_flights"
local faults = require "orchestrator.faults"
local response = require "orchestrator.response"
local verdict = require "orchestrator.verdict"

local cache_background = {}

local LONGEST = 30 -- seconds that something takes at most, unless the request has a timeout
local CALM = 5 -- seconds until something is tried again that failed
local MOST_CALM = 1000 -- that are remembered

---@class orc.CacheBackground
local Background = {}
Background.__index = Background

---@param sched orc.Scheduler
---@param say fun(err: orc.Error) told of what a function of the script raised
function cache_background.new(sched, say)
  return setmetatable({
    sched = sched, say = say,
    tasks = {}, count = 0, -- running: task → true
    waiters = {}, -- tasks that wait for their end
    asked = {}, -- keys of flights that are asked for
    calm = {}, calm_count = 0, -- key → until when it is not asked for
  }, Background)
end

local function over(task)
  local self = task.background
  self.tasks[task], self.count = nil, self.count - 1
  self.asked[task.lookup.flight] = nil
  task.timer:cancel()
  task.cache.flights:abandon(task.root)
  task.root.over = true
  if not task.ok and not task.cancelled and task.err.kind == "script" then self.say(task.err) end
  if self.count == 0 then
    for waiter in pairs(self.waiters) do self.sched:wake(waiter) end
  end
end

-- The plan of a request that nobody waits for.
local function detached(plan)
  local own = setmetatable({}, getmetatable(plan))
  for name, value in pairs(plan) do own[name] = value end
  own.root = cache_flights.root()
  own.clock, own.stream, own.save, own.place, own.lookup = nil, nil, nil, nil, nil
  if (own.timeout or 0) == 0 then own.timeout = LONGEST end
  if (own.total or 0) > 0 then own.timeout = math.min(own.timeout, own.total) end
  return own
end

local function observe(plan, result)
  local observer = plan.observer
  if not observer or result.unsent then return end
  observer:attempt {
    url = plan.url, origin = plan.origin, status = result.status,
    kind = result.error or result.fault and faults.get(result.fault).kind,
    elapsed = result.elapsed, size = result.size or 0, wire = result.wire or 0,
    attempt = 1, retried = false,
  }
end

-- After a failure nobody asks for a while.
local function calm_down(self, key, failed)
  if self.calm[key] then self.calm[key], self.calm_count = nil, self.calm_count - 1 end
  if not failed then return end
  if self.calm_count == MOST_CALM then self.calm, self.calm_count = {}, 0 end
  self.calm[key], self.calm_count = self.sched:now() + CALM, self.calm_count + 1
end

-- One attempt, judged as if somebody had waited for it.
local function refresh(self, cache, client, plan, lookup, send)
  local result = cache:ask(client, plan, lookup, send)
  observe(plan, result)
  local action
  if result.offered then
    action = verdict.of(plan, response.of(result, plan.url, 1))
    if action ~= "retry" and action ~= "fail" then cache:settle(client, result, action ~= nil) end
  end
  local failed = not result.status or result.status >= 500 or action == "retry" or action == "fail"
  calm_down(self, lookup.key, failed)
end

--- Asks for what has just answered though it is stale, unless somebody does already.
---@param cache orc.Cache
---@param client table
---@param plan table that of the request
---@param lookup table what was found for it
---@param send function see Cache:hop
function Background:refresh(cache, client, plan, lookup, send)
  local key = cache_flights.key_of(plan, lookup)
  if not key or self.asked[key] or cache.flights:is_open(key) then return end
  if (self.calm[lookup.key] or 0) > self.sched:now() then return end
  local own = detached(plan)
  cache.flights:join(key, own.root)
  lookup.flight, self.asked[key] = key, true
  local task = self.sched:spawn(refresh, self, cache, client, own, lookup, send)
  task.background, task.on_done = self, over
  task.cache, task.lookup, task.root, task.request = cache, lookup, own.root, own.root
  -- It may have to wait for its turn, and a run waits for it.
  task.timer = self.sched:at(self.sched:now() + own.timeout, task.cancel, task)
  self.tasks[task], self.count = true, self.count + 1
end

local function leave(waiting)
  waiting.background.waiters[waiting.task] = nil
end

--- Waits until all have ended. Yields.
function Background:join()
  while self.count > 0 do
    local task = self.sched:current()
    self.waiters[task] = true
    self.sched:suspend(leave, { background = self, task = task })
    self.waiters[task] = nil
  end
end

--- Ends them.
---@param reason string|table
function Background:cancel(reason)
  for task in pairs(self.tasks) do task:cancel(reason) end
end

return cache_background
