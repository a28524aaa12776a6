-- The command line.

local argparse = require "argparse"

local cli = {}

local EXIT_CODES = [[
exit status:
  0    done, also when some items ended as dead letters
  1    the run failed: an error in the script, on_error = "fail", or every item failed
  2    could not start: usage, missing file, syntax, options
  3    a threshold was missed
  130  stopped by SIGINT (once: stops and sums up; twice: at once)
  143  stopped by SIGTERM]]

local function whole(option)
  return function(text)
    local n = text:find "^%d+$" and tonumber(text)
    if n and n >= 1 then return n end
    return nil, string.format("%s: '%s' is not a whole number ≥ 1", option, text)
  end
end

local function parser(version)
  local p = argparse("orchestrator", "Runs a pipeline: a Lua script that says what to fetch, "
    .. "how hard to try, how fast to go, what to keep and where to put it.", EXIT_CODES)
  p:usage "Usage: orchestrator [run] SCRIPT [key=value …] [options]"
  p:help_max_width(90):help_description_margin(30)
  p:argument("script", "The Lua script to run ('run SCRIPT' is the same).")
  p:argument("params", "key=value: what the script sees as orc.params.key."):args "*"
  p:option("-j", "At most N requests in flight, for every client.")
    :argname "N":target "concurrency":convert(whole "-j")
  p:option("--sample", "Stop after N records a pipeline, and write them to stdout instead of the "
    .. "sinks."):argname "N":convert(whole "--sample")
  p:option("--summary", "Write the run's summary to FILE as JSON."):argname "FILE"
  p:option("--state-dir", "Where limits with a name are kept between runs.", ".orchestrator")
    :argname "DIR"
  p:option("--log-level", "The least important messages to show.", "info")
    :choices { "debug", "info", "warn", "error" }
  p:option("--log-format", "How messages look.", "text"):choices { "text", "json" }
  p:flag("-q --quiet", "No progress and no summary on stderr.")
  p:flag("--version", "Show the version."):action(function()
    io.stdout:write("orchestrator ", version, "\n")
    os.exit(0)
  end)
  return p
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

--- Parses a command line; `-h` and `--version` print and exit.
---@param args string[]
---@return table|nil opts {script, params, concurrency, sample, summary, state_dir,
--- log_level, log_format, quiet}
---@return string? problem
function cli.parse(args, version)
  local p = parser(version)
  local function refuse(problem) return nil, problem .. "\n\n" .. p:get_usage() end
  local list = {}
  for i = 1, #args do list[i] = args[i] end
  local ok, opts = p:pparse(list)
  if not ok then return refuse(opts) end
  if opts.script == "run" then
    opts.script = table.remove(opts.params, 1)
    if not opts.script then return refuse "missing argument 'script'" end
  end
  local params, problem = params_of(opts.params)
  if not params then return refuse(problem) end
  opts.params = params
  return opts
end

return cli
