-- The items that are through but for being written down for good. They are committed together: the
-- sinks first, each of them in its own way, then the journal. What is lost when the program is
-- killed is a window and what was in flight: a resumed run does those again.

local errors = require "orchestrator.errors"

local window = {}

window.ITEMS = 100 -- at most so many are not committed
window.SECONDS = 0.1 -- and for no longer, when the sinks keep up
local ENOUGH = window.ITEMS / 2 -- not waited for longer
local BYTES = 16e6 -- of records: more are not held either

---@class orc.Window
local Window = {}
Window.__index = Window

---@param opts table {sched, commit: fun(jobs): boolean|nil, err (yields; makes them last),
---  freed: fun() (there is room), failed: fun(err)}
---@return orc.Window
function window.new(opts)
  return setmetatable({
    sched = opts.sched, commit = opts.commit, freed = opts.freed, failed = opts.failed,
    jobs = {}, first = 1, last = 0, -- those that wait
    bytes = 0, -- held by them and those that are being committed
    committing = 0, -- how many those are
    since = nil, -- when the first of those that wait came
    task = nil, -- commits
    idle = false, -- that task waits for more
    closing = false, -- nothing more will come
    waiter = nil, -- the task in `drain`
    limit = nil, -- a timer, from `hurry` on
    broken = nil, -- the error that ended it
  }, Window)
end

--- Whether no more should be started.
function Window:is_full()
  return self.last - self.first + 1 + self.committing >= window.ITEMS or self.bytes >= BYTES
end

local function take(self)
  local jobs, n = {}, math.min(self.last - self.first + 1, window.ITEMS)
  for i = 1, n do
    jobs[i] = self.jobs[self.first]
    self.jobs[self.first] = nil
    self.first = self.first + 1
  end
  if self.first > self.last then self.first, self.last, self.since = 1, 0, nil end
  return jobs, n
end

local function rouse(self)
  if self.idle then self.sched:wake(self.task) end
end

-- Waits until there is a reason to commit; false when there never will be.
local function wait(self)
  while true do
    local waiting = self.last - self.first + 1
    if self.broken or (self.closing and waiting == 0) then return false end
    if self.closing or waiting >= ENOUGH or self.bytes >= BYTES then return true end
    local timer
    if waiting > 0 then
      local due = self.since + window.SECONDS
      if self.sched:now() >= due then return true end
      timer = self.sched:at(due, rouse, self)
    end
    self.idle = true
    self.sched:suspend()
    self.idle = false
    if timer then timer:cancel() end
  end
end

local function work(self)
  while wait(self) do
    local jobs, n = take(self)
    local bytes = 0
    for i = 1, n do bytes = bytes + jobs[i].size end
    self.committing = n
    local ok, err = self.commit(jobs)
    self.committing, self.bytes = 0, self.bytes - bytes
    if not ok then
      self.broken = err
      self.failed(err)
      break
    end
    self.freed()
  end
end

local function worked(task)
  local self = task.window
  self.task, self.idle = nil, false
  if self.limit then self.limit:cancel() end
  if task.cancelled then
    self.broken = task.err
  elseif not task.ok then
    self.broken = task.err
    self.failed(task.err)
  end
  if self.waiter then self.sched:wake(self.waiter) end
end

--- Takes an item. Does not wait.
---@param job table {size: bytes held, …}
function Window:add(job)
  if self.broken then return end
  self.last = self.last + 1
  self.jobs[self.last] = job
  self.bytes = self.bytes + job.size
  self.since = self.since or self.sched:now()
  if not self.task then
    self.task = self.sched:spawn(work, self)
    self.task.window, self.task.on_done = self, worked
  elseif self.idle and (self.last == self.first or self.last - self.first + 1 >= ENOUGH
    or self.bytes >= BYTES) then
    rouse(self)
  end
end

local function give_up(self)
  self.waiter = nil
  self:stop()
end

--- Waits until all is committed. Nothing may be added any more. Yields.
---@return boolean|nil, orc.Error? err
function Window:drain()
  self.closing = true
  while self.task do
    rouse(self)
    self.waiter = self.sched:current()
    self.sched:suspend(give_up, self)
    self.waiter = nil
  end
  if self.broken then return nil, self.broken end
  return true
end

local function give_up_late(self)
  self.limit = nil
  self.task:cancel(errors.new("cancelled", "interrupted, and what was through could not be written "
    .. "down in time", { fault = "cancelled" }))
end

--- Nothing may be added any more, and so many seconds are left to commit what there is.
function Window:hurry(seconds)
  self.closing = true
  if not self.task or self.limit then return end
  self.limit = self.sched:at(self.sched:now() + seconds, give_up_late, self)
  rouse(self)
end

--- Commits nothing more; what is being committed may go through or not.
function Window:stop()
  self.broken = self.broken or true
  if self.task then self.task:cancel() end
end

return window
