-- The program: from a command line to an exit status.

local api = require "orchestrator.api"
local cli = require "orchestrator.cli"
local client = require "orchestrator.client"
local errors = require "orchestrator.errors"
local file = require "orchestrator.core.file"
local json = require "orchestrator.json"
local ledger = require "orchestrator.ledger"
local loader = require "orchestrator.loader"
local log = require "orchestrator.log"
local options = require "orchestrator.options"
local pipeline = require "orchestrator.pipeline"
local progress = require "orchestrator.progress"
local proxy = require "orchestrator.proxy"
local retry_dead = require "orchestrator.retry_dead"
local scheduler = require "orchestrator.scheduler"
local secret = require "orchestrator.secret"
local state = require "orchestrator.state"
local steps = require "orchestrator.steps"
local tasks = require "orchestrator.tasks"
local url = require "orchestrator.url"

local app = {}

local VERSION = "0.1.0"
local FAILED, COULD_NOT_START = 1, 2

local function to_stderr(text)
  io.stderr:write(text)
end

local function printable(text)
  return errors.escape(url.mask(secret.mask(text)))
end

local function say(text)
  to_stderr("orchestrator: " .. printable(text) .. "\n")
end

-- Called where an error was raised. A misuse of our functions tells its place itself; anything else
-- needs its traceback.
local function describe(raised)
  local err = scheduler.raised(raised, debug.traceback("", 2))
  return { err = err, misuse = err.kind == "script" and options.is_misuse(err.message) }
end

-- The frames of the script in a traceback; our own say nothing to its author.
local function show_traceback(err)
  local lines = {}
  for line in (err.traceback or ""):gmatch "[^\n]+" do
    local ours = line:find("^%s*orchestrator/") or line:find("/lua/orchestrator/", 1, true)
    if not ours and not line:find "^%s*%[C%]" and not line:find "^stack traceback" then
      lines[#lines + 1] = errors.escape(secret.mask(line:gsub("^%s*", ""))) .. "\n"
    end
  end
  for _, line in ipairs(lines) do to_stderr("  " .. line) end
end

local function show_error(err)
  if err.kind == "script" then -- Lua's own messages may have lines
    local lines = {}
    for line in secret.mask(err.message):gsub("\t", "  "):gmatch "[^\n]+" do
      lines[#lines + 1] = printable(line)
    end
    to_stderr("orchestrator: " .. table.concat(lines, "\n") .. "\n")
  else
    say(tostring(err))
  end
  show_traceback(err)
end

-- Messages and progress, which must not write over each other.
local function make_voice(host, opts)
  local columns = host.terminal()
  local colour = columns ~= nil and not os.getenv "NO_COLOR" and os.getenv "TERM" ~= "dumb"
  local voice = { colour = colour }
  local function write(text)
    if voice.progress then voice.progress:write(text) else to_stderr(text) end
  end
  voice.log = log.new {
    write = write, wall = host.wall, level = opts.log_level, format = opts.log_format,
    colour = colour,
  }
  if not opts.quiet then
    voice.progress = progress.new {
      now = host.now, write = to_stderr, columns = columns and host.terminal,
      say = not columns and function(text) voice.log:info(text) end or nil,
    }
  end
  voice.write = write
  return voice
end

local function new_run_id(host)
  return string.format("%s-%06x", os.date("!%Y%m%dT%H%M%SZ", math.floor(host.wall())),
    math.floor(host.random() * 2 ^ 24))
end

-- The pipelines a script returned; nil, problem when it returned something else.
local function pipelines_of(returned)
  if returned == nil then return {} end
  if pipeline.is(returned) then return { returned } end
  if type(returned) ~= "table" or #returned == 0 then
    return nil, "the script returned a " .. type(returned)
      .. "; it may return a pipeline, a list of pipelines, or nothing"
  end
  local names = {}
  for i, one in ipairs(returned) do
    if not pipeline.is(one) then
      return nil, string.format("element %d of the returned list is a %s, not a pipeline", i,
        type(one))
    elseif names[one.name] then
      return nil, string.format('two pipelines are named "%s"', one.name)
    end
    names[one.name] = true
  end
  local problem = pipeline.collision(returned)
  if problem then return nil, problem end
  return returned
end

local function write_summary(path, tables, is_list)
  local text = assert(json.encode(is_list and tables or tables[1]))
  local id, problem = file.open(path)
  if not id then return nil, problem end
  local ok
  ok, problem = file.write(id, text .. "\n")
  if ok then return file.commit(id) end
  file.abort(id)
  return nil, problem
end

-- What a run needs to know of the program (run.lua).
local function context_of(env, opts)
  local voice = env.voice
  return {
    sched = env.sched, host = env.host, env = env, log = voice.log, wall = env.host.wall,
    run_id = new_run_id(env.host), pid = env.host.pid, script = opts.script, resume = opts.resume,
    retry_dead = opts.retry_dead, sample = opts.sample,
    progress = voice.progress, colour = voice.colour,
    state = function() return state.open(env) end,
  }
end

-- Runs the pipelines at once, each a task. Their results are kept also when the run is interrupted.
local function run_pipelines(env, opts, list, is_list)
  local voice = env.voice
  for _, one in ipairs(opts.retry_dead and list or {}) do
    local ok, problem = retry_dead.check(one)
    if not ok then
      say(problem)
      return COULD_NOT_START
    end
  end
  local results = {}
  local ctx = env.run_context()
  ctx.interrupts, ctx.others = {}, {}
  for _, one in ipairs(list) do ctx.others[one.name] = true end
  env.interrupts = ctx.interrupts
  local function run(one, i)
    -- Each is a run of its own in the journal, and their ids say that they began together.
    local own = { run_id = #list > 1 and ctx.run_id .. "-" .. i or nil }
    results[i] = one:run(setmetatable(own, { __index = ctx }))
  end
  local ok, raised, broken = pcall(tasks.new(env.sched).map, list, run, { concurrency = #list })
  if not ok and not env.interrupted and not env.stopped then error(raised, 0) end
  local code, tables, cut_short = 0, {}, false
  for i = 1, #list do
    local result = results[i]
    if not result then -- a bug of ours, or an interruption before it began
      if ok then show_error(broken[i]) end
      return FAILED
    end
    if not opts.quiet then voice.write(result.text) end
    if result.failure then (opts.quiet and show_error or show_traceback)(result.failure) end
    tables[i] = result.summary
    if result.code == 1 or code == 0 then code = result.code end
    cut_short = cut_short or result.interrupted
  end
  if not cut_short then env.interrupted = nil end -- a signal that came too late
  if opts.summary then
    local written, problem = write_summary(opts.summary, tables, is_list)
    if not written then
      say("--summary: " .. problem)
      code = FAILED
    end
  end
  return code
end

-- The lines of a script, to give a hint; none when it cannot be read any more.
local function lines_of(script)
  local source = io.open(script, "rb")
  local text = source and source:read "*a" or ""
  if source then source:close() end
  return (text .. "\n"):gmatch "([^\n]*)\n"
end

-- A mistyped parameter would silently leave a script with its default. Those of a script that names
-- the ones it reads are told by their names.
local function warn_of_unread(voice, script, params)
  local names, words = {}, {}
  for line in lines_of(script) do
    for name in line:gmatch "params%.([%a_][%w_]*)" do names[#names + 1] = name end
    for word in line:gmatch "[%a_][%w_]*" do words[word] = true end
  end
  local unread = {}
  for name in pairs(params) do
    if #names > 0 and not words[name] then unread[#unread + 1] = name end
  end
  table.sort(unread)
  for _, name in ipairs(unread) do
    local nearest = options.suggest(name, names)
    voice.log:warn(string.format('%s reads no parameter "%s"%s', script, name,
      nearest and string.format(' (did you mean "%s"?)', nearest) or ""))
  end
end

-- `return orc.pipeline{…}` is a tail call, after which nothing tells the line it stood on: look for
-- the option that the message names.
local function placed(message, script)
  if message:find("^[^\n]-:%d+: ") then return message end
  local name = message:match '"([%w_]+)"'
  local number, found = 0, nil
  for line in lines_of(script) do
    number = number + 1
    if name and line:find("%f[%w_]" .. name .. "%f[^%w_]%s*=") then
      found = found == nil and number -- false where there are several such lines
    end
  end
  return script .. (found and ":" .. found or "") .. ": " .. message
end

local function run_script(env, opts, chunk)
  local ok, returned, err = xpcall(chunk, describe)
  if not ok then
    if type(returned) ~= "table" then -- describe is not called when memory ran out
      returned = { err = scheduler.raised(returned) }
    end
    if not env.interrupted and not env.stopped then
      if returned.misuse then
        say(placed(returned.err.message, opts.script))
        return COULD_NOT_START
      end
      show_error(returned.err)
    end
    return FAILED
  end
  if returned == nil and err ~= nil then -- the script failed as a task fails
    say(tostring(err))
    return FAILED
  end
  local list, problem = pipelines_of(returned)
  if not list then
    say(problem)
    return COULD_NOT_START
  end
  if #list > 0 then return run_pipelines(env, opts, list, list == returned) end
  if env.pipelines then
    say(opts.script .. ": made a pipeline but did not return it: write return orc.pipeline { … }")
    return COULD_NOT_START
  end
  if opts.summary or opts.sample or opts.retry_dead then
    local option = opts.summary and "--summary" or opts.sample and "--sample" or "--retry-dead"
    say(option .. " needs a script that returns a pipeline")
    return COULD_NOT_START
  end
  return 0
end

-- Writes down what is left of limits that outlive the program, and whether it ended well.
local function close_state(env)
  if env.cache_store then
    env.sched:run(env.cache_store.finish, env.cache_store)
    env.cache_store:close()
  end
  if not env.state then return end
  local well = env.code == 0 and not env.interrupted and not env.stopped
  function env.broken(err)
    env.voice.log:warn(tostring(err))
  end
  env.sched.on_signal = nil -- there is nothing to be stopped any more
  env.sched:run(function()
    ledger.close(env)
    local ok, err = env.steps:close(well)
    if ok and not well and env.steps.journal then
      env.voice.log:info "what its steps have done is remembered: --resume goes on with it"
    end
    if not ok then -- else the next run with --resume would have all its results from this one
      say(tostring(err))
      env.code = FAILED
    end
  end)
  env.state:close()
end

local function new_env(host, opts)
  return {
    sched = scheduler.new(host), host = host, voice = make_voice(host, opts), version = VERSION,
    params = opts.params, concurrency = opts.concurrency, limiters = {},
    state_dir = opts.state_dir,
    state = nil, -- opened when it is needed
    cache_mode = opts.cache, -- of every client, instead of its own
    pipelines = nil, -- how many the script made
    interrupted = nil, -- the number of a signal
    stopped = nil, -- the error that ends it, whatever tasks do
  }
end

-- Runs the task that everything is done in: `work` gives the exit status.
local function run_main(env, work)
  local sched = env.sched
  return sched:run(function()
    local main = sched:current()
    local function stop(reason)
      main:cancel(reason)
      if env.cache then env.cache.background:cancel(reason) end
    end
    sched.on_signal = function(signum)
      env.interrupted = signum
      if not env.interrupts then return stop "interrupted" end
      for _, interrupt in ipairs(env.interrupts) do interrupt() end
      if env.cache then env.cache.background:cancel "interrupted" end
    end
    function env.broken(err)
      env.stopped = env.stopped or err
      stop(err)
    end
    env.code = work()
    -- Nobody waits for what a failed run has begun.
    if env.code ~= 0 and env.cache then env.cache.background:cancel "the run failed" end
  end)
end

local function exit_status(env, root)
  if env.interrupted then return 128 + env.interrupted end
  if env.stopped then
    say(env.stopped.message)
    return FAILED
  end
  if env.code then return env.code end
  show_error(root.err)
  return FAILED
end

local function run_verb(host, opts)
  opts.log_level, opts.log_format, opts.quiet = "info", "text", true
  local env = new_env(host, opts)
  env.say = say
  return exit_status(env, run_main(env, function() return cli.verb(opts.verb).run(env, opts) end))
end

---@param host table see src/host.h
---@param args table the command line; `.exe` is the path of the binary
---@return integer exit status
function app.main(host, args)
  local opts, problem = cli.parse(args, VERSION)
  if not opts then
    to_stderr("orchestrator: " .. problem .. "\n")
    return COULD_NOT_START
  end
  if opts.verb then return run_verb(host, opts) end
  local env = new_env(host, opts)
  env.proxies = proxy.environment(os.getenv, host.idn) -- before the script can change it
  -- What a pipeline is called by default.
  env.name = opts.script:match "([^/]+)$":gsub("%.lua$", "")
  function env.client_of(given)
    return client.is(given) and given or client.new(env, given)
  end
  function env.run_context() return context_of(env, opts) end
  env.steps = steps.new(env)
  package.loaded["orchestrator"] = api.new(env)

  local chunk
  chunk, problem = loader.load(env.sched, opts.script,
    { arg = { [-1] = args.exe, [0] = opts.script } })
  if not chunk then
    say(problem)
    return COULD_NOT_START
  end
  warn_of_unread(env.voice, opts.script, opts.params)
  local root = run_main(env, function() return run_script(env, opts, chunk) end)
  close_state(env)
  return exit_status(env, root)
end

return app
