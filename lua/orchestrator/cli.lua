-- The command line: a script to run, or a verb.

local argparse = require "argparse"
local cache_options = require "orchestrator.cache_options"
local stdout = require "orchestrator.stdout"
local window = require "orchestrator.window"

local cli = {}

-- What else the program does. A verb's module has `define(parser, common)`, which adds its commands
-- and options (`common` adds those that all verbs have, also to a command), and `run(env, opts)`, a
-- task that gives the exit status. Only the one that is used is loaded.
local VERBS = {
  { name = "cache", module = "orchestrator.cache_command",
    summary = "Shows, checks and clears what is cached." },
  { name = "runs", module = "orchestrator.runs_command",
    summary = "Lists runs, and says what became of one." },
}

local EXIT_CODES = [[
exit status:
  0    done, also when some items ended as dead letters
  1    the run failed: an error in the script, on_error = "fail", or nothing came of it
  2    could not start: usage, missing file, syntax, options, state that cannot be used
  3    a threshold was missed
  130  stopped by SIGINT (once: stops and sums up; twice: at once)
  143  stopped by SIGTERM]]

local STATE_DIR = ".orchestrator"

local function whole(option)
  return function(text)
    local n = text:find "^%d+$" and tonumber(text)
    if n and n >= 1 then return n end
    return nil, string.format("%s: '%s' is not a whole number ≥ 1", option, text)
  end
end

-- Writes what was asked for, and ends the program.
local function answer(text)
  local ok, problem = pcall(stdout.guarded, stdout.write, text)
  if ok then os.exit(0) end
  io.stderr:write("orchestrator: ", problem.message, "\n")
  os.exit(1)
end

local function add_help(p)
  p:add_help { action = function() answer(p:get_help() .. "\n") end }
end

local function list_of_verbs()
  local lines = { "other commands, each has its own -h:" }
  for _, verb in ipairs(VERBS) do
    lines[#lines + 1] = string.format("  orchestrator %-15s %s", verb.name, verb.summary)
  end
  return table.concat(lines, "\n")
end

-- The parser of a run, and the names of the options that take a word.
local function run_parser()
  local p = argparse("orchestrator", "Runs a pipeline: a Lua script that says what to fetch, "
    .. "how hard to try, how fast to go, what to keep and where to put it.",
    list_of_verbs() .. "\n\n" .. EXIT_CODES)
  local with_word = {}
  local function option(name, ...)
    with_word[name] = true
    return p:option(name, ...)
  end
  p:usage "Usage: orchestrator [run] SCRIPT [key=value …] [options]"
  p:help_max_width(90):help_description_margin(30)
  add_help(p)
  p:argument("script", "The Lua script to run ('run SCRIPT' is the same).")
  p:argument("params", "key=value: what the script sees as orc.params.key."):args "*"
  option("-j", "At most N requests in flight, for every client.")
    :argname "N":target "concurrency":convert(whole "-j")
  option("--sample", "Stop after N records a pipeline, and write them to stdout instead of the "
    .. "sinks."):argname "N":convert(whole "--sample")
  option("--summary", "Write the run's summary to FILE as JSON."):argname "FILE"
  p:flag("--resume", "Go on with the run that did not come to its end, if there is one.")
  p:flag("--retry-dead", "Run the items of the dead letters again, and keep those that fail again.")
  option("--cache", "How what is cached is used, whatever the script says: "
    .. table.concat(cache_options.MODES, ", ") .. "."):argname "MODE"
    :choices(cache_options.MODES)
  option("--state-dir", "Where what runs have done, limits with a name and what is cached are "
    .. "kept.", STATE_DIR):argname "DIR":convert(function(text)
      if text ~= "" then return text end
      return nil, "--state-dir: '' is no directory"
    end)
  option("--log-level", "The least important messages to show.", "info")
    :choices { "debug", "info", "warn", "error" }
  option("--log-format", "How messages look.", "text"):choices { "text", "json" }
  p:flag("-q --quiet", "No progress and no summary on stderr.")
  p:flag("--version", "Show the version; with -v also what is fixed in it.")
  return p, with_word
end

-- The verb that a command line begins with, besides options, and where it stands; nil when it runs
-- a script.
local function verb_of(args, with_word)
  local i = 1
  while args[i] and args[i]:find "^%-" and args[i] ~= "--" do
    i = i + (with_word[args[i]] and 2 or 1)
  end
  for _, verb in ipairs(VERBS) do
    if args[i] == verb.name then return verb, i end
  end
end

-- A verb's parser, and the table in which options that stand before or after its command end up;
-- argparse would forget what was said before.
local function verb_parser(verb)
  local given = { verb = verb.name, state_dir = STATE_DIR }
  local function common(p)
    add_help(p)
    p:option("--state-dir", "The state directory. (default: " .. STATE_DIR .. ")"):argname "DIR"
      :action(function(_, _, directory) given.state_dir = directory end)
    p:flag("--json", "As JSON, for machines."):action(function() given.json = true end)
  end
  local p = argparse("orchestrator " .. verb.name, verb.summary)
  p:help_max_width(90):help_description_margin(30)
  common(p)
  require(verb.module).define(p, common)
  return p, given
end

local function version_text(version, verbose)
  local text = "orchestrator " .. version .. "\n"
  if not verbose then return text end
  return text .. string.format("window: at most %d items, or %g ms, are not yet in the sinks and "
    .. "the journal\n", window.ITEMS, window.SECONDS * 1000)
end

local function params_of(list)
  local params = {}
  for _, text in ipairs(list) do
    local key, value = text:match "^([^=]+)=(.*)$"
    if not key then
      return nil, string.format("'%s' is no parameter: expected key=value", text)
    end
    if params[key] ~= nil then
      return nil, string.format("the parameter '%s' is given twice", key)
    end
    params[key] = value
  end
  return params
end

local function refused(p, problem)
  return nil, problem .. "\n\n" .. p:get_usage()
end

local function parse_run(p, list)
  local ok, opts = p:pparse(list)
  if not ok and opts:find "'%-v'" then
    return refused(p, "unknown option '-v': --version -v tells all about the version")
  end
  if not ok then return refused(p, opts) end
  if opts.script == "run" then
    opts.script = table.remove(opts.params, 1)
    if not opts.script then return refused(p, "missing argument 'script'") end
  end
  if opts.retry_dead and opts.sample then
    return refused(p, "option '--retry-dead' can not be used together with option '--sample'")
  end
  local params, problem = params_of(opts.params)
  if not params then return refused(p, problem) end
  opts.params = params
  return opts
end

--- Parses a command line; `-h` and `--version` print and exit.
---@param args string[]
---@return table|nil opts {script, params, concurrency, sample, summary, resume, retry_dead,
--- cache, state_dir, log_level, log_format, quiet}; or {verb, state_dir, json} and what the verb's
--- module adds
---@return string? problem
function cli.parse(args, version)
  local list, asked = {}, {}
  for i = 1, #args do
    list[i] = args[i]
    if args[i] == "--" then break end
    asked[args[i]] = true
  end
  if asked["--version"] then
    answer(version_text(version, asked["-v"] or asked["--verbose"]))
  end
  for i = #list + 1, #args do list[i] = args[i] end
  local p, with_word = run_parser()
  local verb, at = verb_of(list, with_word)
  if not verb then return parse_run(p, list) end
  table.remove(list, at)
  local given
  p, given = verb_parser(verb)
  local ok, opts = p:pparse(list)
  if not ok then return refused(p, opts) end
  for name, value in pairs(given) do opts[name] = value end
  return opts
end

--- What does it, see VERBS.
---@param name string
---@return table
function cli.verb(name)
  for _, verb in ipairs(VERBS) do
    if verb.name == name then return require(verb.module) end
  end
  error("no such verb: " .. name)
end

return cli
