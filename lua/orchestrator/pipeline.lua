-- One named job: source → request → fetch → records → filter → map → sinks. Its options are checked
-- here; what happens when it runs is in run.lua.

local dead_letter = require "orchestrator.dead_letter"
local options = require "orchestrator.options"
local outputs = require "orchestrator.outputs"
local path_template = require "orchestrator.path_template"
local retry_dead = require "orchestrator.retry_dead"
local run = require "orchestrator.run"
local schema = require "orchestrator.schema"
local secret = require "orchestrator.secret"
local selector = require "orchestrator.selector"
local sink = require "orchestrator.sink"
local source = require "orchestrator.source"
local thresholds = require "orchestrator.thresholds"

local pipeline = {}

local function check_name(name)
  local plain = name:find "^[^%c/.][^%c/]*$" and #name <= 100 and not source.bad_utf8(name)
  if plain then return name end
  return nil, "must be a plain name, since files are named after it"
end

local SCHEMA = {
  name = { type = "string", check = check_name },
  client = { type = "table", default = {} },
  source = { type = "any", required = true, check = source.of },
  request = { type = "function" },
  key = { type = "function" },
  data_selector = { type = "string", check = selector.compile },
  filter = { type = "function" },
  map = { type = "function" },
  schema = { type = "table", check = schema.compile },
  validate = { type = "function" },
  sink = { type = "any", default = "-", check = outputs.check },
  mode = { type = { one_of = { "replace", "append", "merge" } }, default = "replace" },
  ordered = { type = "boolean", default = false },
  on_error = {
    type = { { one_of = { "dead_letter", "skip", "fail" } }, "function" },
    default = "dead_letter",
  },
  dead_letters = { type = "any" },
  thresholds = { type = "table", default = {}, check = thresholds.parse },
  journal = { type = "boolean", default = true },
  resume = { type = "boolean", default = false },
  provenance = { type = "boolean", default = false },
}

---@class orc.Pipeline
local Pipeline = {}
Pipeline.__index = Pipeline

-- Options of others that are easily looked for here.
local ELSEWHERE = {
  client = { "allow_hosts", "auth", "base_url", "cache", "circuit_breaker", "concurrency",
    "cookies", "fallback", "headers", "proxy", "rate_limit", "retry", "server_limits", "timeout",
    "tls" },
  csv = { "columns", "delimiter", "formula_escape" },
}
local SHOWN = {
  client = "client = { %s = … }", csv = 'sink = { "x.csv", csv = { %s = … } }',
}

local function refuse_misplaced(opts)
  for place, names in pairs(ELSEWHERE) do
    for _, name in ipairs(names) do
      if type(opts) == "table" and opts[name] ~= nil then
        options.fail("pipeline", string.format('"%s" is an option of %s: %s', name, place,
          SHOWN[place]:format(name)))
      end
    end
  end
end

--- Checks the options; raises on misuse.
---@param env table {name: string the default name, client_of: fun(opts_or_client): client}
---@return orc.Pipeline
function pipeline.new(env, opts)
  refuse_misplaced(opts)
  local self = options.check("pipeline", opts, SCHEMA)
  self.name = self.name or env.name
  self.client = env.client_of(self.client)
  self.select = self.data_selector or selector.compile()
  self.selected = opts.data_selector
  local problem
  self.dead, problem = dead_letter.spec(self.dead_letters, self.name, self.sink, self.mode)
  if not self.dead then options.fail("pipeline", '"dead_letters" ' .. problem) end
  for _, spec in ipairs(self.sink) do sink.bind(spec, env, self.mode) end
  sink.bind(self.dead, env)
  if self.resume and not self.journal then
    options.fail("pipeline", '"resume" needs the journal, which "journal" = false leaves out')
  end
  return setmetatable(self, Pipeline)
end

---@return boolean
function pipeline.is(value)
  return getmetatable(value) == Pipeline
end

-- What tells the places apart that sinks write to; nil for those that several may.
local function place_of(spec, name)
  local target = secret.reveal(spec.url or spec.target)
  if target == "-" or spec.kind == "http" or target:find("{run_id}", 1, true) then return nil end
  local table_name = spec.kind == "table" and (spec.table or name)
  if not target:find "^postgres" then
    target = path_template.expand(target, { name = name, run_id = "", started = 0 }) or target
  end
  return outputs.table_of(target:gsub("^%./+", ""), table_name)
end

--- Whether pipelines of one script would write to the same file or table.
---@param list orc.Pipeline[]
---@return string|nil problem
function pipeline.collision(list)
  local owners = {}
  for _, one in ipairs(list) do
    for i = 1, #one.sink + 1 do
      local spec = one.sink[i] or one.dead
      local place = place_of(spec, one.name)
      local other = place and owners[place]
      if other and other ~= one then
        return string.format('the pipelines "%s" and "%s" both write to %s', other.name, one.name,
          outputs.table_of(spec.target, spec.kind == "table" and (spec.table or one.name)))
      end
      if place then owners[place] = one end
    end
  end
end

--- Runs the pipeline to its end, inside a task: see run.lua.
---@param ctx table
---@return table result
function Pipeline:run(ctx)
  if ctx.retry_dead then return retry_dead.start(self, ctx) end
  return run.start(self, ctx)
end

return pipeline
