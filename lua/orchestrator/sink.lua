-- Where records go. The target says what kind of sink it is: "-" is stdout, the extension of a
-- file's name picks its format, a URL is a server or a database. What all kinds have is this:
--
--   kind.check(given)           at load: spec {target, kind, …}, or nil, problem
--   kind.open(spec, ctx)        a sink, or nil, err; may wait. ctx.resume is the position that its
--                               last commit gave, nil at the start of a run
--   sink:claim()                of those that have it: all sinks of the run are open, so it may
--                               change what a run before has left
--   sink:encode(records)        batch, size in bytes; or nil, err, and then nothing is written of
--                               the item. Sinks with the same `format` share batches.
--   sink:commit(window)         position, or nil, err; waits until the records are there to stay.
--                               window = {number, batches, records, entry}
--   sink:finish()               the run is complete. Can be repeated after a crash.
--   sink:close(keep)            the run is not; `keep`: it may be resumed
--   sink.goes_back              it can return to a position; if not, it may carry the journal's
--                               entry in its own transaction (`carries`), which `sink:carried()`
--                               gives back with its number; a window that it has already is not
--                               added again
--   sink:freeze(batches)        a text of which sink:thaw(text) makes the same batches

local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local sink_file = require "orchestrator.sink_file"
local sink_http = require "orchestrator.sink_http"

local sink = {}

-- Which kinds there are, by what their targets look like; what is left is a file.
local KINDS = {
  { like = "^postgres:", module = "orchestrator.sink_table" },
  { like = "^postgresql:", module = "orchestrator.sink_table" },
  { like = "%.sqlite$", module = "orchestrator.sink_table" },
  { like = "%.db$", module = "orchestrator.sink_table" },
  { like = "^https?://", module = "orchestrator.sink_http" },
}

local function kind_of(target)
  for _, kind in ipairs(KINDS) do
    if target:find(kind.like) then return require(kind.module) end
  end
  return sink_file
end

local function target_of(given)
  local target = given
  if type(given) == "table" and not secret.is(given) then target = given[1] or given.target end
  return secret.is(target) and secret.reveal(target) or target
end

-- What is wrong with what is to be a path.
local function problem_of(target)
  local scheme = target:match "^(%a[%w+.-]*)://"
  if scheme == "file" then
    return 'is a path alone, without "file://"'
  elseif scheme then
    local nearest = options.suggest(scheme, { "postgres", "postgresql", "http", "https" })
    return string.format('"%s://" is no target that is known%s (there are %s)', scheme,
      nearest and string.format(' (did you mean "%s://"?)', nearest) or "", sink_file.KNOWN)
  elseif target:find "^~" then
    return string.format('"%s": only a shell knows "~", so write os.getenv "HOME" .. "%s"',
      target:match "^[^/]*", target:match "/.*" or "")
  end
end

--- Whether it can be one, to be told before anything runs.
---@param given string|table|orc.Secret
---@return table|nil spec {target, kind, goes_back, …}, string|nil problem
function sink.check(given)
  local target = target_of(given)
  if type(target) ~= "string" then
    return nil, "must be the path of a file, got a " .. type(target)
  end
  local kind = kind_of(target)
  local foreign = kind ~= sink_http and not target:find "^postgres" and problem_of(target)
  if foreign then return nil, foreign end
  local spec, problem = kind.check(given)
  if not spec then return nil, problem end
  spec.goes_back = kind == sink_file
  return spec
end

--- Gives it what it needs of the program; raises when options are misused.
---@param spec table
---@param env table of the program
---@param mode string|nil the pipeline's
function sink.bind(spec, env, mode)
  local kind = kind_of(target_of(spec))
  if kind == sink_file and mode == "merge" and not spec.mode and spec.target ~= "-" then
    options.fail("sink", string.format('"mode" is "merge", which files do not have: give "%s" one '
      .. "of its own", spec.target))
  end
  if kind.bind then kind.bind(spec, env, mode) end
end

--- Opens it. Yields.
---@param spec table
---@param ctx table
---@return orc.Sink|nil, orc.Error? err
function sink.open(spec, ctx)
  return kind_of(target_of(spec)).open(spec, ctx)
end

return sink
