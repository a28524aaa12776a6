-- What `require "orchestrator"` gives a script: everything public, wired to one scheduler.

local client = require "orchestrator.client"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local pipeline = require "orchestrator.pipeline"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"
local tasks = require "orchestrator.tasks"

local api = {}

--- An undefined name is an error, as it is for globals: `orc.fecth` would be nil.
local function undefined(self, name)
  local names = {}
  for known in pairs(self) do names[#names + 1] = known end
  local nearest = options.suggest(tostring(name), names)
  options.fail("orchestrator", string.format('has no "%s"%s', tostring(name),
    nearest and string.format(' (did you mean "%s"?)', nearest) or ""))
end

---@param env table {sched, host, limiters, version, params, concurrency}
---@return table orc
function api.new(env)
  local orc = tasks.new(env.sched)
  local default

  --- Fetches with a client of default settings.
  function orc.fetch(given)
    default = default or client.new(env)
    return default:fetch(given)
  end

  function orc.client(opts) return client.new(env, opts) end

  function orc.pipeline(opts)
    env.pipelines = (env.pipelines or 0) + 1
    return pipeline.new(env, opts)
  end

  function orc.step(key, fn) return env.steps:step(key, fn) end

  orc.json, orc.null = json, json.null
  orc.secret = { env = secret.env, value = secret.value }
  orc.source = source
  orc.params = env.params
  return setmetatable(orc, { __index = undefined })
end

return api
