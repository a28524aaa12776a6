-- Tasks, timers and the run loop. Knows nothing of HTTP: it is handed a `host` (see src/host.c)
-- that tells the time, starts transfers and says which of them ended. The specs hand it a host
-- with a virtual clock, so the file that runs in production is the one that is tested.
--
-- A task is a coroutine. It waits by `suspend`, which yields to the loop; `wake` makes it ready
-- again. Cancelling a task runs the canceller its wait was given, then raises in the task, and
-- raises again at every later wait.

local errors = require "orchestrator.errors"
local heap = require "orchestrator.heap"
local options = require "orchestrator.options"

local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local isyieldable = coroutine.isyieldable
local traceback = debug.traceback

local scheduler = {}

-- What a task yields to reach the loop. Coroutines a script makes itself pass it on (loader.lua).
local PARK = setmetatable({}, { __tostring = function() return "orchestrator: park" end })
scheduler.PARK = PARK

---@class orc.Scheduler
local Scheduler = {}
Scheduler.__index = Scheduler

local Task = {}
Task.__index = Task
scheduler.Task = Task

local Timer = {}
Timer.__index = Timer

function scheduler.new(host)
  return setmetatable({
    host = host,
    ready = {}, head = 1, tail = 0, -- FIFO of tasks to step
    timers = heap.new(),
    seq = 0,
    transfers = {}, -- id → the task that waits for it, or who is told (stream.lua)
    outstanding = 0, -- how many ids that is
    live = 0, -- tasks spawned and not ended
    idle = {}, -- coroutines whose task ended, ready for another
    running = nil, -- the task being stepped
    on_signal = nil, -- function(number), called between steps
  }, Scheduler)
end

function Scheduler:now()
  return self.host.now()
end

---@return table|nil task the one that runs now
function Scheduler:current()
  return self.running
end

-- Tasks ------------------------------------------------------------------------------------

local function enqueue(self, task)
  local tail = self.tail + 1
  self.tail = tail
  self.ready[tail] = task
end

--- Makes a task that will run `fn(...)`. The caller owns it: it must see that the task ends
--- before its own scope does (tasks.lua does this for everything a script can reach).
function Scheduler:spawn(fn, ...)
  local n = select("#", ...)
  local task = setmetatable({
    sched = self,
    fn = fn,
    args = n > 0 and { n = n, ... } or nil,
    co = nil, -- given when it is first stepped
    done = false,
    ok = nil, -- when done: it neither raised, nor returned nil, err
    results = nil, -- when done and ok: {n=…, …}
    err = nil, -- when done and not ok
    cancelled = nil, -- the error its waits raise from now on
    waiting = false,
    on_cancel = nil, cancel_arg = nil, -- how to leave what it waits for
    value = nil, extra = nil, -- what wake handed over
    on_done = nil, -- function(task), by its owner
    streams = nil, -- the open ones it owns (stream.lua)
    joiners = nil, -- tasks in await(); false where one gave up
  }, Task)
  task.falling = self.running and self.running.falling -- see fallback.lua
  task.request = self.running and self.running.request -- see cache_flights.lua
  self.live = self.live + 1
  enqueue(self, task)
  return task
end

local function wake_joiners(self, task)
  local joiners = task.joiners
  if joiners then
    task.joiners = nil
    for i = 1, #joiners do
      if joiners[i] then self:wake(joiners[i]) end
    end
  end
end

local function finish(self, task)
  task.done = true
  task.co, task.fn, task.args = nil, nil, nil
  self.live = self.live - 1
  local streams = task.streams
  while streams and streams[1] do streams[#streams]:close() end
  if task.on_done then task.on_done(task) end
  wake_joiners(self, task)
end

local function failed(self, task, err)
  task.ok, task.err = false, err
  finish(self, task)
end

local function returned(self, task, ...)
  local first, second = ...
  if task.cancelled then return failed(self, task, task.cancelled) end
  if first == nil and second ~= nil then
    if not errors.is(second) then second = errors.new("script", tostring(second)) end
    return failed(self, task, second)
  end
  local n = select("#", ...)
  task.ok = true
  task.results = n > 0 and { n = n, ... } or nil
  finish(self, task)
end

-- The body of every coroutine: runs one task after another.
local function body(self, task)
  while true do
    local args = task.args
    if args then
      returned(self, task, task.fn(unpack(args, 1, args.n)))
    else
      returned(self, task, task.fn())
    end
    local idle = self.idle
    idle[#idle + 1] = coroutine.running()
    self, task = yield(nil)
  end
end

--- Turns whatever was raised into an error object that knows where it came from.
---@param trace string|nil the traceback of the coroutine it was raised in
function scheduler.raised(raised, trace)
  local err = raised
  if not errors.is(raised) then
    local ok, text = pcall(tostring, raised) -- its __tostring may raise, too
    err = errors.new("script", ok and text or "an error that cannot be shown")
  end
  if not err.traceback then err.traceback = trace end
  return err
end

--- For xpcall: what was raised, with the traceback of the place.
function scheduler.trace(raised)
  return scheduler.raised(raised, debug.traceback("", 2):sub(2))
end

local function step(self, task)
  local co = task.co
  local ok, problem
  self.running = task
  if co then
    ok, problem = resume(co)
  elseif task.cancelled then
    self.running = nil
    return failed(self, task, task.cancelled)
  else
    local idle = self.idle
    local n = #idle
    if n > 0 then
      co = idle[n]
      idle[n] = nil
    else
      co = create(body)
    end
    task.co = co
    ok, problem = resume(co, self, task)
  end
  self.running = nil
  if not ok then
    if task.done then error(problem, 0) end -- in finish, for want of memory: nothing holds any more
    local err = scheduler.raised(problem, traceback(co))
    failed(self, task, task.cancelled or err)
  elseif not task.done and problem ~= PARK then
    -- a bare coroutine.yield in a task: nobody would ever wake it
    failed(self, task, errors.new("script",
      "coroutine.yield outside a coroutine of the script's own", { traceback = traceback(co) }))
  end
end

-- Waiting ----------------------------------------------------------------------------------

local CANNOT_WAIT = "cannot wait here: Lua does not let table.sort, string.gsub and other C "
  .. "functions wait in their callbacks; fetch first, then sort"

-- What keeps a task from waiting: an error or a text; nil when nothing does.
local function refusal(task)
  if not task then return "this can only wait inside a task" end
  return task.cancelled or (not isyieldable() and CANNOT_WAIT) or nil
end

local function refuse(problem)
  if errors.is(problem) then error(problem, 0) end
  options.fail(nil, problem)
end

-- Yields until the task is woken or cancelled. A wait that cannot begin is left like one that is
-- cancelled, then raises.
local function park(self, on_cancel, arg)
  local task = self.running
  local problem = refusal(task)
  if not problem then
    task.waiting, task.on_cancel, task.cancel_arg = true, on_cancel, arg
    -- A coroutine of the script's that could not pass it on says so (loader.lua).
    problem = yield(PARK) and CANNOT_WAIT
    task.on_cancel, task.cancel_arg = nil, nil
  end
  if problem then
    if task then task.waiting = false end
    if on_cancel then on_cancel(arg, task) end
    refuse(problem)
  end
  return task
end

--- Yields the running task until `wake`. `on_cancel(arg, task)` runs if the task is cancelled
--- before it goes on, even when it was woken already: it must see to it that nobody wakes the
--- task for this wait any more, or give back what the wake handed over.
--- Raises the cancellation, now and in every later wait of a cancelled task.
---@return any value, any extra as given to wake
function Scheduler:suspend(on_cancel, arg)
  local task = park(self, on_cancel, arg)
  local value, extra = task.value, task.extra
  task.value, task.extra = nil, nil
  if task.cancelled then error(task.cancelled, 0) end
  return value, extra
end

--- Makes a suspended task ready; a no-op for one that does not wait.
function Scheduler:wake(task, value, extra)
  if not task.waiting then return end
  task.waiting = false
  task.value, task.extra = value, extra
  enqueue(self, task)
end

--- Waits for the task to end. When it has, there is nothing to wait for: then even a cancelled
--- task learns the outcome.
---@return any ... its results, or nil, err
function Task:await()
  if not self.done then
    local joiners = self.joiners or {}
    self.joiners = joiners
    local me = #joiners + 1
    joiners[me] = self.sched.running
    local waiter = park(self.sched, function() joiners[me] = false end)
    if waiter.cancelled and not self.done then error(waiter.cancelled, 0) end
  end
  if not self.ok then return nil, self.err end
  local results = self.results
  if results then return unpack(results, 1, results.n) end
end

--- Cancels the task: what it waits for is aborted, its waits raise. A no-op once it ended.
---@param reason? string|table a text, or the error to raise
function Task:cancel(reason)
  if self.done or self.cancelled then return end
  if not errors.is(reason) then
    reason = errors.new("cancelled", reason or "cancelled", { fault = "cancelled" })
  end
  self.cancelled = reason
  if self.on_cancel then self.on_cancel(self.cancel_arg, self) end
  self.sched:wake(self)
end

-- Time -------------------------------------------------------------------------------------

--- Calls `fn(arg, timer)` at `time`. It runs between steps and must not wait.
function Scheduler:at(time, fn, arg)
  self.seq = self.seq + 1
  local timer = setmetatable(
    { time = time, seq = self.seq, fn = fn, arg = arg, heap = self.timers }, Timer)
  self.timers:push(timer)
  return timer
end

function Timer:cancel()
  self.heap:remove(self)
end

local function wake_sleeper(task, timer)
  if task.cancel_arg == timer then task.sched:wake(task) end -- else its wait never began
end

--- Suspends the running task for `seconds`; zero lets the others go first.
function Scheduler:sleep(seconds)
  local timer = self:at(self.host.now() + seconds, wake_sleeper, self.running)
  self:suspend(Timer.cancel, timer)
end

local function fire_due(self)
  local timers = self.timers
  local timer = timers:peek()
  if not timer then return end
  local now = self.host.now()
  while timer and timer.time <= now do
    timers:remove(timer)
    timer.fn(timer.arg, timer)
    timer = timers:peek()
  end
end

-- Transfers --------------------------------------------------------------------------------

--- Has `listener:told(result)` called for all that host.poll delivers of a transfer.
function Scheduler:attach(id, listener)
  self.transfers[id] = listener
  self.outstanding = self.outstanding + 1
end

--- Aborts a transfer, unless it has ended.
function Scheduler:detach(id)
  if not self.transfers[id] then return end
  self.transfers[id] = nil
  self.outstanding = self.outstanding - 1
  self.host.cancel(id)
end

local function abort(id, task)
  task.sched:detach(id)
end

--- Performs one hop. Cancelling the task aborts it.
---@param spec table what host.start takes
---@return table result what host.poll delivers, or {fault=…, message=…} when it never started
function Scheduler:perform(spec)
  local problem = refusal(self.running)
  if problem then refuse(problem) end
  local id, fault, message = self.host.start(spec)
  if not id then return { fault = fault, message = message, elapsed = 0 } end
  self:attach(id, self.running)
  return (self:suspend(abort, id))
end

--- Runs statements in a store (src/lua_store.h), in one transaction. Once begun they are run, also
--- when the task is cancelled.
---@return table result {rows, changes} or {fault = "state", code, message}
function Scheduler:run_job(store, statements)
  local problem = refusal(self.running)
  if problem then refuse(problem) end
  local id = self.host.store_run(store, statements)
  self:attach(id, self.running)
  return (self:suspend(abort, id))
end

--- Has an output file do a job (src/lua_writer.h). Once begun it is done, also when the task is
--- cancelled.
---@return table result or {fault, code, message}
function Scheduler:run_output(output, job)
  local problem = refusal(self.running)
  if problem then refuse(problem) end
  local id = self.host.output_run(output, job)
  self:attach(id, self.running)
  return (self:suspend(abort, id))
end

--- Runs statements at a PostgreSQL server (src/lua_postgres.h), in one transaction. Once begun they
--- are run, also when the task is cancelled.
---@return table result {rows} or {fault, code, message}
function Scheduler:run_postgres(database, steps)
  local problem = refusal(self.running)
  if problem then refuse(problem) end
  local id = self.host.postgres_run(database, steps)
  self:attach(id, self.running)
  return (self:suspend(abort, id))
end

local function complete(self, id, result)
  local waiting = self.transfers[id]
  if not waiting then return end
  if not result.event then
    self.transfers[id] = nil
    self.outstanding = self.outstanding - 1
  end
  if waiting.told then
    waiting:told(result)
  elseif waiting.cancel_arg == id then -- else its wait never began, for want of memory
    self:wake(waiting, result)
  end
end

-- The loop ---------------------------------------------------------------------------------

local function drain(self)
  local ready = self.ready
  while self.head <= self.tail do
    local head = self.head
    local task = ready[head]
    ready[head] = nil
    self.head = head + 1
    if self.head > self.tail then self.head, self.tail = 1, 0 end
    step(self, task)
  end
end

--- Runs `main(...)` as the first task, until it and every task under it has ended.
---@return table task the main task, done
function Scheduler:run(main, ...)
  local root = self:spawn(main, ...)
  local host, timers = self.host, self.timers
  local function deliver(id, result)
    complete(self, id, result)
    drain(self)
  end
  drain(self)
  while self.live > 0 do
    local signal
    local timer = timers:peek()
    if timer then
      local wait = timer.time - host.now()
      signal = host.poll(wait > 0 and wait or 0, deliver)
    elseif self.outstanding > 0 then
      signal = host.poll(nil, deliver)
    else
      -- Nothing outside can wake anybody any more.
      root:cancel(errors.new("script", string.format(
        self.live == 1 and "deadlock: %d task waits for what nobody else is to do"
          or "deadlock: %d tasks wait for each other", self.live)))
      if self.head > self.tail then break end
    end
    if signal and self.on_signal then self.on_signal(signal) end
    fire_due(self)
    drain(self)
  end
  return root
end

return scheduler
