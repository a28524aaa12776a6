-- Runs the items of a pipeline's dead letters again: `--retry-dead`. It is a run of its own in the
-- journal, whose source are the letters. Records are added to the finished output. What fails again
-- is a letter again, in a new file or table that takes the place of the old one when the run is
-- complete: until then nothing is lost, and after it nothing is done twice.

local journal = require "orchestrator.journal"
local letters = require "orchestrator.letters"
local path_template = require "orchestrator.path_template"
local run = require "orchestrator.run"
local summary = require "orchestrator.summary"

local retry_dead = {}

-- The file of the letters; nil and a problem where there is none; nil for a table.
local function file_of(p)
  local spec = p.dead
  local target = spec.target
  if target:find "{date}" or target:find "{hour}" or target:find "{run_id}" then
    return nil, string.format('--retry-dead cannot tell where the dead letters of "%s" are: every '
      .. "run has its own, %s", p.name, target)
  elseif spec.kind == "table" then
    return nil
  elseif spec.kind ~= "file" or not target:find "%.jsonl$" then
    return nil, string.format("--retry-dead reads .jsonl files and tables, and the dead letters "
      .. 'of "%s" are in %s', p.name, target)
  end
  return path_template.expand(target, { name = p.name, run_id = "", started = 0 })
end

--- Whether a pipeline's letters can be tried again, to be told before anything runs.
---@param p orc.Pipeline
---@return boolean|nil, string? problem
function retry_dead.check(p)
  local _, problem = file_of(p)
  if problem then return nil, problem end
  return true
end

local function with(spec, fields)
  local copy = {}
  for name, value in pairs(spec) do copy[name] = value end
  for name, value in pairs(fields) do copy[name] = value end
  return copy
end

-- The pipeline as it is run again.
local function derive(p, ctx, path)
  local sinks = {}
  for i, spec in ipairs(p.sink) do
    sinks[i] = with(spec, { mode = spec.primary_key and "merge" or "append" })
  end
  return setmetatable({
    retries = true,
    source = path and letters.of_file(path)
      or letters.of_table(p.dead, { sched = ctx.sched, host = ctx.host, name = p.name }),
    sink = sinks, mode = "append",
    dead = with(p.dead, { mode = "replace" }),
    thresholds = {}, -- they are for whole runs
    resume = true, -- what it had added would be added again
  }, { __index = p })
end

-- Whether there is anything to be done. Yields.
local function is_idle(p, ctx, path)
  if not path or letters.exist(path) ~= false then return false end
  local kept = p.journal and ctx.state and ctx.state()
  return not kept or not (journal.unfinished(kept, p.name))
end

--- Runs them, as `run.start` does. Yields.
---@param p orc.Pipeline
---@param ctx table see run.lua
---@return table result
function retry_dead.start(p, ctx)
  local path = file_of(p)
  if not is_idle(p, ctx, path) then return run.start(derive(p, ctx, path), ctx) end
  local counts = summary.new { pipeline = p.name, run_id = ctx.run_id, started_at = ctx.wall() }
  return {
    ok = true, code = 0, interrupted = false,
    summary = counts:table { elapsed = 0, verdicts = {} },
    text = string.format("%s: there are no dead letters in %s\n", p.name, path),
  }
end

return retry_dead
