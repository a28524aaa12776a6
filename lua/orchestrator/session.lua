-- The journal of a run as a process has it: a new run, or one that is gone on with. One process at
-- a time works on a pipeline in a state directory.

local errors = require "orchestrator.errors"
local file = require "orchestrator.core.file"
local journal = require "orchestrator.journal"
local outputs = require "orchestrator.outputs"
local presentable = require "orchestrator.presentable"

local session = {}

local function time_of(seconds)
  return os.date("!%Y-%m-%d %H:%M:%S UTC", math.floor(seconds))
end

local function lock(p, ctx, kept)
  local path = string.format("%s/%s.lock", kept.path:match "^(.*)/", p.name)
  local id, holder, problem = file.lock(path, string.format("%d %s", ctx.pid, time_of(ctx.wall())))
  if id then return id end
  if problem then
    return nil, errors.new("invalid", problem .. "; see to that, or name another directory with "
      .. "--state-dir")
  end
  local pid, since = holder:match "^(%d+) (.+)$"
  if not pid then -- it is just beginning
    return nil, errors.new("invalid", path .. " cannot be locked: another process has it")
  end
  return nil, errors.new("invalid", string.format(
    'the pipeline "%s" is being run already, by process %s since %s; wait for it', p.name, pid,
    since))
end

local RETRY = "--retry-dead" -- stands first among the targets of such a run (retry_dead.lua)

-- What the sinks' positions are positions in. A file that is appended to is another one than what
-- is beside it and is to take its place.
local function targets_of(p)
  local targets = { p.retries and RETRY or nil }
  local function add(spec)
    local text = presentable.of(spec.target)
    text = outputs.table_of(text, spec.kind == "table" and (spec.table or p.name))
    local mode = spec.mode or p.mode
    targets[#targets + 1] = mode == "replace" and text or string.format("%s (%s)", text, mode)
  end
  for _, spec in ipairs(p.sink) do add(spec) end
  if p.dead then add(p.dead) end
  return targets
end

local function same(one, other)
  return table.concat(one, "\n") == table.concat(other, "\n")
end

local function replaces_all(p)
  for _, spec in ipairs(p.sink) do
    if (spec.mode or p.mode) ~= "replace" then return false end
  end
  return true
end

-- Why a run cannot begin beside an unfinished one of the other kind, of which one adds to what the
-- other writes: the err. nil when it can, since it writes everything anew.
local function conflict(p, unfinished)
  local retries = unfinished.targets[1] == RETRY
  if retries == (p.retries == true) then return nil end
  if p.retries then
    return errors.new("invalid", string.format('run %s of "%s" is unfinished, and so are its dead '
      .. "letters: go on with it by --resume first", unfinished.id, p.name))
  elseif not replaces_all(p) then
    return errors.new("invalid", string.format('run %s, which retries the dead letters of "%s", is '
      .. "unfinished: go on with it by --retry-dead first", unfinished.id, p.name))
  end
end

-- What there is to say of a run's items; programs have none.
local function done(totals)
  local n = totals and totals.items or 0
  return n == 1 and "1 item is done" or string.format("%d items are done", n)
end

local function open(p, ctx, kept)
  local unfinished, err = journal.unfinished(kept, p.name)
  if err then return nil, err end
  local targets = targets_of(p)
  local wants = ctx.resume or p.resume
  if unfinished then
    err = conflict(p, unfinished)
    if err then return nil, err end
    wants = wants and (unfinished.targets[1] == RETRY) == (p.retries == true)
  end
  if unfinished and wants then
    if not same(unfinished.targets, targets) then
      return nil, errors.new("invalid", string.format(
        "run %s wrote to %s: it cannot go on with other sinks or modes; put them back, or start "
          .. "anew without --resume", unfinished.id, table.concat(unfinished.targets, ", ")))
    end
    local self
    self, err = journal.continue(kept, unfinished, ctx.pid)
    if self then
      ctx.log:info(string.format("going on with run %s of %s%s", self.run_id, time_of(self.started),
        self.totals and ": " .. done(self.totals) or ""))
    end
    return self, err
  end
  if wants and ctx.others and not p.retries and not unfinished then
    local ended
    ended, err = journal.ended_first(kept, p.name, ctx.others)
    if ended or err then return nil, err, ended end
  end
  if unfinished then
    ctx.log:warn(string.format("run %s of %s is unfinished (%s) and is given up: "
      .. "%s would have gone on with it", unfinished.id, time_of(unfinished.started),
      done(unfinished.totals),
      unfinished.targets[1] == RETRY and RETRY or "--resume"))
  end
  return journal.begin(kept, { pipeline = p.name, script = ctx.script, run_id = ctx.run_id,
    started = ctx.wall(), targets = targets, pid = ctx.pid })
end

--- Begins a session of a pipeline's run. Yields.
---@param p orc.Pipeline
---@param ctx table see run.lua
---@return orc.Journal|nil, orc.Error? err, table? ended there is nothing to do: the run that had
---  ended when others of its script were stopped
function session.begin(p, ctx)
  local kept, problem = ctx.state()
  if not kept then return nil, errors.new("invalid", problem, { could_not_start = true }) end
  local id, err = lock(p, ctx, kept)
  if not id then return nil, err end
  local self, ended
  self, err, ended = open(p, ctx, kept)
  if not self then
    file.unlock(id)
    return nil, err, ended
  end
  self.lock = id
  return self
end

--- Ends it. Does not wait.
function session.finish(self)
  file.unlock(self.lock)
end

return session
