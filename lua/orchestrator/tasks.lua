-- Structured concurrency for scripts: map, gather, group, deadline, semaphore, channel.
-- Everything is built on one thing, the scope: it owns tasks and does not end before they do.

local errors = require "orchestrator.errors"
local options = require "orchestrator.options"
local scheduler = require "orchestrator.scheduler"

local tasks = {}

-- Scopes -----------------------------------------------------------------------------------

local Scope = {}
Scope.__index = Scope

local function child_done(task)
  local scope = task.scope
  local children, i = scope.children, task.scope_index
  local last = children[#children]
  children[i], last.scope_index = last, i
  children[#children] = nil
  -- A task that was cancelled has not failed by itself.
  if not task.ok and not task.cancelled and not scope.err then
    scope.err = task.err
    scope:cancel("cancelled because a sibling failed: " .. tostring(task.err))
  end
  if #children == 0 and scope.owner then scope.sched:wake(scope.owner) end
end

local function scope_new(sched)
  return setmetatable(
    { sched = sched, children = {}, cancelled = false, err = nil, owner = nil }, Scope)
end

function Scope:spawn(fn, ...)
  local task = self.sched:spawn(fn, ...)
  local children = self.children
  children[#children + 1] = task
  task.scope, task.scope_index = self, #children
  task.on_done = child_done -- when nothing can fail any more: there may be no memory
  return task
end

--- Cancels all that still run, and all that will be spawned.
function Scope:cancel(reason)
  self.cancelled = true
  for i = #self.children, 1, -1 do self.children[i]:cancel(reason) end
end

-- The owner raises only after the children, which stand before it in the queue, have ended.
local function cancel_scope(scope)
  scope.owner = nil
  scope:cancel()
end

--- Waits until every child has ended. Another task may spawn one between the end of the last and
--- the owner's turn.
function Scope:join()
  while #self.children > 0 do
    self.owner = self.sched:current()
    self.sched:suspend(cancel_scope, self)
    self.owner = nil
  end
end

-- Groups and deadlines ---------------------------------------------------------------------

---@class orc.Group
local Group = {}
Group.__index = Group

--- Starts a task in the group.
---@return table task with await() and cancel()
function Group:spawn(fn, ...)
  if type(fn) ~= "function" then options.fail("group:spawn", "expects a function") end
  if self.scope.closed then options.fail("group:spawn", "the group has ended") end
  local task = self.scope:spawn(fn, ...)
  if self.scope.cancelled then task:cancel("cancelled because the group ends") end
  return task
end

-- Waits for the scope and gives what its body returned.
local function run_scope(scope, body)
  local ok, raised = pcall(scope.join, scope)
  if scope.timer then scope.timer:cancel() end
  scope.closed = true
  if not ok then error(raised, 0) end
  if scope.err then return nil, scope.err end
  return body:await()
end

local function expire(scope)
  local message = string.format("the deadline of %gs passed", scope.seconds)
  scope.err = scope.err or errors.new("timeout", message)
  scope:cancel(message)
end

function Scope:limit(seconds)
  self.seconds = seconds
  self.timer = self.sched:at(self.sched:now() + seconds, expire, self)
end

--- Runs `fn(arm)`, and cancels it `seconds` after it has called `arm(seconds)`.
---@return any ... what fn returned, or nil, err (kind "timeout")
function tasks.limited(sched, fn)
  local scope = scope_new(sched)
  return run_scope(scope, scope:spawn(fn, function(seconds) scope:limit(seconds) end))
end

---@param sched orc.Scheduler
---@return table api the functions a script sees
function tasks.new(sched)
  local api = {}
  local group_schema = { deadline = { type = "duration" } }
  local on_error = { type = { one_of = { "collect", "fail" } }, default = "collect" }
  local map_schema = {
    concurrency = { type = "integer", min = 1, default = 20 }, on_error = on_error,
  }
  local gather_schema = { concurrency = { type = "integer", min = 1 }, on_error = on_error }

  --- Runs `fn(g)`; every task it spawns by `g:spawn` ends before this returns. The first that
  --- fails cancels the others.
  ---@return any ... what fn returned, or nil, err
  function api.group(fn, opts)
    if type(fn) ~= "function" then options.fail("group", "expects a function") end
    opts = options.check("group", opts or {}, group_schema)
    local scope = scope_new(sched)
    local body = scope:spawn(fn, setmetatable({ scope = scope }, Group))
    if opts.deadline then scope:limit(opts.deadline) end
    return run_scope(scope, body)
  end

  --- Runs `fn()`, and cancels it when `duration` has passed.
  ---@return any ... what fn returned, or nil, err (kind "timeout")
  function api.deadline(duration, fn)
    local seconds, problem = options.duration(duration)
    if not seconds then options.fail("deadline", problem) end
    if type(fn) ~= "function" then options.fail("deadline", "expects a function") end
    return tasks.limited(sched, function(arm)
      arm(seconds)
      return fn()
    end)
  end

  -- Map ------------------------------------------------------------------------------------

  local function trace(raised)
    return scheduler.raised(raised, debug.traceback("", 2):sub(2))
  end

  -- The source of a map as a function that gives (index, item), and nil at the end.
  local function puller(items)
    local index = 0
    if type(items) == "table" then
      return function()
        index = index + 1
        if items[index] ~= nil then return index, items[index] end
      end
    end
    -- An iterator may wait (fetch the next page), so one worker at a time may be inside it.
    local lock, ended = api.semaphore(1), false
    return function()
      lock:acquire()
      local ok, item = true, nil
      if not ended then ok, item = xpcall(items, trace) end
      if item == nil or not ok then ended = true end
      if ok and not ended then index = index + 1 end
      local at = index
      lock:release()
      if not ok then error(item, 0) end
      if not ended then return at, item end
    end
  end

  --- Calls `fn(item, index)` for every item, so many at a time.
  ---@param items table|function a list, or an iterator function
  ---@return table|nil results, table errors aligned with the items; `.n` says how many
  function api.map(items, fn, opts)
    if type(items) ~= "table" and type(items) ~= "function" then
      options.fail("map", "expects a list or an iterator function, got " .. type(items))
    end
    if type(fn) ~= "function" then options.fail("map", "expects a function after the items") end
    opts = options.check("map", opts or {}, map_schema)
    local fail = opts.on_error == "fail"
    local pull = puller(items)
    local results, errs, n = {}, {}, 0

    local function worker()
      local me = sched:current()
      while true do
        local index, item = pull()
        if not index then return end
        if index > n then n = index end
        local ok, value, err = xpcall(fn, trace, item, index)
        if me.cancelled then error(me.cancelled, 0) end
        if not ok then
          value, err = nil, scheduler.raised(value) -- it is a text when memory ran out
        elseif value == nil and err ~= nil and not errors.is(err) then
          err = errors.new("script", tostring(err))
        elseif value ~= nil then
          err = nil
        end
        results[index], errs[index] = value, err
        if err and fail then return nil, err end
      end
    end

    local scope = scope_new(sched)
    local count = opts.concurrency
    if type(items) == "table" then count = math.min(count, #items) end
    for _ = 1, count do scope:spawn(worker) end
    scope:join()
    if scope.err then return nil, scope.err end
    results.n, errs.n = n, n
    return results, errs
  end

  --- Runs the functions, all at once unless `concurrency` says otherwise.
  ---@return table|nil results, table errors as map
  function api.gather(fns, opts)
    if type(fns) ~= "table" then options.fail("gather", "expects a list of functions") end
    for i = 1, #fns do
      if type(fns[i]) ~= "function" then
        options.fail("gather", string.format("element %d is a %s, not a function", i, type(fns[i])))
      end
    end
    opts = options.check("gather", opts or {}, gather_schema)
    if #fns == 0 then return { n = 0 }, { n = 0 } end
    return api.map(fns, function(fn) return fn() end,
      { concurrency = opts.concurrency or #fns, on_error = opts.on_error })
  end

  -- Time -----------------------------------------------------------------------------------

  --- Waits; others run meanwhile.
  function api.sleep(duration)
    local seconds, problem = options.duration(duration)
    if not seconds then options.fail("sleep", problem) end
    sched:sleep(seconds)
  end

  ---@return number seconds on a clock that only goes forward
  function api.now()
    return sched:now()
  end

  -- Semaphores and channels ------------------------------------------------------------------

  local function queue_leave(waiter)
    waiter.gone = true
  end

  -- Takes the first waiter that is still there off a FIFO {head, tail, …}.
  local function queue_pop(queue)
    while queue.head <= queue.tail do
      local waiter = queue[queue.head]
      queue[queue.head] = nil
      queue.head = queue.head + 1
      if not waiter.gone then return waiter end
    end
    queue.head, queue.tail = 1, 0
  end

  local function queue_push(queue, waiter)
    queue.tail = queue.tail + 1
    queue[queue.tail] = waiter
  end

  local Semaphore = {}
  Semaphore.__index = Semaphore

  local function semaphore_leave(waiter)
    waiter.gone = true
    if waiter.given then waiter.semaphore:release() end
  end

  --- Waits for a permit.
  function Semaphore:acquire()
    if self.free > 0 then
      self.free = self.free - 1
      return
    end
    local waiter = { task = sched:current(), semaphore = self }
    queue_push(self.waiters, waiter)
    sched:suspend(semaphore_leave, waiter)
  end

  --- Gives a permit back.
  function Semaphore:release()
    local waiter = queue_pop(self.waiters)
    if waiter then
      waiter.given = true
      sched:wake(waiter.task)
    elseif self.free < self.n then
      self.free = self.free + 1
    else
      options.fail("semaphore:release", "released more than acquired")
    end
  end

  --- Runs `fn()` holding a permit, which is given back however it ends.
  function Semaphore:with(fn)
    self:acquire()
    local function done(ok, ...)
      self:release()
      if not ok then error((...), 0) end
      return ...
    end
    return done(xpcall(fn, trace))
  end

  ---@param n integer how many may hold it at once
  function api.semaphore(n)
    if type(n) ~= "number" or n < 1 or n % 1 ~= 0 then
      options.fail("semaphore", "expects a whole number ≥ 1, got " .. tostring(n))
    end
    return setmetatable({ n = n, free = n, waiters = { head = 1, tail = 0 } }, Semaphore)
  end

  local Channel = {}
  Channel.__index = Channel

  -- A value handed to a receiver that was cancelled before it could take it goes to the next one,
  -- or back to the front.
  local function receiver_leave(receiver)
    receiver.gone = true
    local self, value = receiver.channel, receiver.given
    if value == nil then return end
    local other = queue_pop(self.receivers)
    if other then
      other.given = value
      sched:wake(other.task, value)
    else
      self.count = self.count + 1
      self.values.head = self.values.head - 1
      self.values[self.values.head] = { value = value }
    end
  end

  --- Hands a value over; waits while the channel is full. Sending nil, or into a closed channel,
  --- is misuse.
  function Channel:send(value)
    if value == nil then options.fail("channel:send", "nil cannot be sent") end
    if self.closed then options.fail("channel:send", "the channel is closed") end
    local receiver = queue_pop(self.receivers)
    if receiver then
      receiver.given = value
      sched:wake(receiver.task, value)
    elseif self.count < self.size then
      self.count = self.count + 1
      queue_push(self.values, { value = value })
    else
      local sender = { task = sched:current(), value = value }
      queue_push(self.senders, sender)
      if sched:suspend(queue_leave, sender) == "closed" then
        options.fail("channel:send", "the channel was closed")
      end
    end
  end

  --- Takes the next value; waits while there is none.
  ---@return any value nil when the channel is closed and empty
  function Channel:recv()
    local entry = queue_pop(self.values)
    local sender = queue_pop(self.senders)
    if entry then
      if sender then
        queue_push(self.values, { value = sender.value })
        sched:wake(sender.task)
      else
        self.count = self.count - 1
      end
      return entry.value
    end
    if sender then
      sched:wake(sender.task)
      return sender.value
    end
    if self.closed then return nil end
    local receiver = { task = sched:current(), channel = self }
    queue_push(self.receivers, receiver)
    return (sched:suspend(receiver_leave, receiver))
  end

  --- `for value in channel:iter() do` until it is closed and empty.
  function Channel:iter()
    return function() return self:recv() end
  end

  --- No more values will be sent; those sent already are still received.
  function Channel:close()
    if self.closed then return end
    self.closed = true
    for receiver in queue_pop, self.receivers do sched:wake(receiver.task, nil) end
    for sender in queue_pop, self.senders do sched:wake(sender.task, "closed") end
  end

  ---@param n? integer how many values it holds before send waits (default 0: until received)
  function api.channel(n)
    n = n or 0
    if type(n) ~= "number" or n < 0 or n % 1 ~= 0 then
      options.fail("channel", "expects a whole number ≥ 0, got " .. tostring(n))
    end
    return setmetatable({
      size = n, count = 0, closed = false,
      values = { head = 1, tail = 0 },
      senders = { head = 1, tail = 0 },
      receivers = { head = 1, tail = 0 },
    }, Channel)
  end

  return api
end

return tasks
