-- orc.step(key, fn): results of a program that are remembered, so that a program which was killed
-- goes on with --resume where it was. They are kept with a run of the program's in the journal
-- until it has ended well.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local session = require "orchestrator.session"

local steps = {}

local KEY = 500 -- bytes

---@class orc.Steps
local Steps = {}
Steps.__index = Steps

---@param env table of the program; its `ctx` is the one of run.lua
function steps.new(env)
  return setmetatable({
    env = env,
    journal = nil, -- begun with the first step
    begun = {}, -- key → the tasks that wait for the one that runs it
    opening = nil, -- likewise for the journal
    seen = {}, -- key → true: done in this process
  }, Steps)
end

-- The tasks that wait for a task which does something once. Yields.
local function wait(self, waiting)
  local sched = self.env.sched
  waiting[#waiting + 1] = sched:current()
  sched:suspend()
end

local function wake(self, waiting)
  for _, task in ipairs(waiting) do self.env.sched:wake(task) end
end

-- The journal, begun by who comes first. Yields.
local function journal_of(self)
  while self.opening do wait(self, self.opening) end
  if self.journal then return self.journal end
  self.opening = {}
  local ctx = self.env.run_context()
  local ok, kept, err = pcall(session.begin, {
    name = self.env.name .. " (program)", sink = {}, resume = false,
  }, ctx)
  local waiting = self.opening
  self.opening, self.journal = nil, ok and kept or nil
  wake(self, waiting)
  if not ok then error(kept, 0) end
  return kept, err
end

-- The text that was remembered, nil when there is none.
local function recall(kept, key)
  local rows, _, message = kept.state.host.store_read(kept.state.id,
    "SELECT value FROM steps WHERE run = ?1 AND key = ?2", kept.seq, key)
  if not rows then return nil, errors.new("invalid", "the journal cannot be read: " .. message) end
  return rows[1] and rows[1][1]
end

local function first(kept, key, fn)
  local value, err = fn()
  if value == nil and err ~= nil then return nil, err end
  local text, problem = json.encode(value == nil and json.null or value)
  if not text then
    options.fail("step", string.format('"%s" returned what JSON cannot hold: %s', key,
      problem.message))
  end
  local ok
  ok, err = kept.state:run { { "INSERT INTO steps(run, key, value) VALUES(?1, ?2, ?3)", kept.seq,
    key, text } }
  if not ok then error(err, 0) end
  return text
end

local function value_of(text)
  local value, err = json.decode(text)
  if err then error(err, 0) end
  if value == json.null then return nil end
  return value
end

--- Runs `fn` and remembers what it returns; when it was remembered, gives that. Yields.
---@param key string tells the steps of a program apart
---@param fn fun(): any, any what JSON can hold, or nil, err, which is not remembered
---@return any value, any err
function Steps:step(key, fn)
  if type(key) ~= "string" or key == "" or #key > KEY then
    options.fail("step", string.format("expects a text of at most %d bytes and a function", KEY))
  elseif type(fn) ~= "function" then
    options.fail("step", "expects a function after the key")
  end
  local kept, err = journal_of(self)
  if not kept then error(err, 0) end
  while self.begun[key] do wait(self, self.begun[key]) end
  local text, problem = recall(kept, key)
  if problem then error(problem, 0) end
  if text then return value_of(text) end
  self.begun[key] = {}
  local ok
  ok, text, err = xpcall(first, require("orchestrator.scheduler").trace, kept, key, fn)
  local waiting = self.begun[key]
  self.begun[key] = nil
  wake(self, waiting)
  if not ok then error(text, 0) end
  if text == nil then return nil, err end
  return value_of(text)
end

--- The program has ended. Yields.
---@param well boolean
---@return boolean|nil, orc.Error? err when that could not be written down
function Steps:close(well)
  local kept = self.journal
  if not kept then return true end
  local ok, err = true, nil
  if well then
    ok, err = kept:close("finished", self.env.host.wall())
  else
    kept:pause(self.env.interrupted and "interrupted" or "failed")
  end
  session.finish(kept)
  return ok, err
end

return steps
