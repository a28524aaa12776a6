-- `orchestrator runs`: what the journal says of runs. The answer goes to stdout, what is wrong to
-- stderr.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local path_template = require "orchestrator.path_template"
local state = require "orchestrator.state"
local stdout = require "orchestrator.stdout"
local summary = require "orchestrator.summary"

local runs_command = {}

local FAILED, COULD_NOT_START = 1, 2
local SHOWN = 50 -- runs of the list
local RETRY = "--retry-dead" -- stands first among the targets of such a run (session.lua)

local EXIT_CODES = [[
exit status:
  0    done
  1    there is no such run
  2    could not start: usage, or the state cannot be opened]]

--- Adds commands and options to the verb's parser.
function runs_command.define(p, common)
  p:usage "Usage: orchestrator runs [show ID] [options]"
  p:epilog(EXIT_CODES):command_target "action":require_command(false)
  local show = p:command("show", "All about one run; the beginning of its id is enough.")
  common(show)
  show:argument "id"
end

local FIELDS = "id, pipeline, script, started, ended, status, reason, sessions, pid, targets, "
  .. "coalesce((SELECT totals FROM windows WHERE at BETWEEN seq << 32 AND (seq + 1 << 32) - 1 "
  .. "ORDER BY at DESC LIMIT 1), totals), "
  .. "(SELECT count(*) FROM steps WHERE run = seq)"

local function plain(value)
  if value == json.null then return nil end
  return value
end

local function moment(at)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(at))
end

-- A row as a table, as --json has it.
local function run_of(row)
  local totals = plain(json.decode(row[11])) or {}
  local unfinished = row[6] == "running" or row[6] == "finishing"
  local outputs, retries = json.array(json.decode(row[10])), nil
  if outputs[1] == RETRY then
    retries = true
    table.remove(outputs, 1)
  end
  for i, output in ipairs(outputs) do
    outputs[i] = path_template.expand(output, { name = row[2], run_id = row[1], started = row[4] })
      or output
  end
  return {
    id = row[1], pipeline = row[2], script = row[3], started_at = moment(row[4]),
    ended_at = row[5] and moment(row[5]), status = unfinished and "unfinished" or row[6],
    reason = row[7], sessions = row[8], pid = row[9], outputs = outputs, retries = retries,
    items = totals.items or 0, failed = totals.failed or 0,
    records = totals.records or {}, errors = totals.errors or {}, statuses = totals.statuses or {},
    requests = totals.requests or {}, attempts = totals.attempts or 0, steps = row[12],
  }
end

local grouped = summary.grouped

local function counted(n, noun)
  return grouped(n) .. " " .. noun .. (n == 1 and "" or "s")
end

local function done(run)
  if run.steps > 0 then return counted(run.steps, "step") end
  return counted(run.items, "item") .. (run.failed > 0 and ", " .. grouped(run.failed) .. " failed"
    or "")
end

-- Rows of texts as lines whose columns are as wide as they have to be.
local function write_table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, text in ipairs(row) do widths[i] = math.max(widths[i] or 0, #text) end
  end
  for _, row in ipairs(rows) do
    for i = 1, #row - 1 do row[i] = row[i] .. (" "):rep(widths[i] - #row[i]) end
    stdout.write(table.concat(row, "  ") .. "\n")
  end
end

local function list(work)
  local rows, problem = work.read("SELECT " .. FIELDS .. " FROM runs ORDER BY seq DESC LIMIT ?1",
    SHOWN)
  if not rows then error(problem, 0) end
  if work.opts.json then
    for _, row in ipairs(rows) do stdout.write_json(run_of(row)) end
    return 0
  end
  if not rows[1] then
    work.env.say("no run is known in " .. work.opts.state_dir)
    return 0
  end
  local lines = { { "id", "started", "status", "pipeline", "done" } }
  for _, row in ipairs(rows) do
    local run = run_of(row)
    lines[#lines + 1] = { run.id, run.started_at, run.status, errors.escape(run.pipeline),
      done(run) }
  end
  write_table(lines)
  return 0
end

local function counters(of)
  local names = {}
  for name, count in pairs(of) do
    if count > 0 then names[#names + 1] = name end
  end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = string.format("%s %s", grouped(of[name]), name) end
  return table.concat(names, ", ")
end

local EXPLAINED = {
  unfinished = "it did not come to its end; %s",
  finished = "it came to its end, and its outputs are complete",
  failed = "it came to its end, and every item had failed or every record was bad; its outputs are "
    .. "as they were",
  ["given up"] = "it did not come to its end, and a later run began anew",
}

local function explain(work, run)
  local text = EXPLAINED[run.status] or run.status
  if run.status ~= "unfinished" then return text end
  local file = io.open(string.format("/proc/%d/cmdline", run.pid or 0), "rb")
  local command = file and file:read "*a" or ""
  if file then file:close() end
  if command:find("orchestrator", 1, true) then
    return text:format(string.format("process %d may still be at it", run.pid))
  end
  local more = work.opts.state_dir ~= ".orchestrator" and " --state-dir " .. work.opts.state_dir
    or ""
  local how = run.retries and RETRY or "--resume"
  return text:format(string.format("orchestrator %s %s%s goes on with it",
    run.script or "SCRIPT", how, more))
end

local function show(work)
  local rows, problem = work.read("SELECT " .. FIELDS .. " FROM runs WHERE substr(id, 1, ?2) = ?1 "
    .. "ORDER BY seq DESC LIMIT 2", work.opts.id, #work.opts.id)
  if not rows then error(problem, 0) end
  if not rows[1] or rows[2] and rows[1][1] ~= work.opts.id then
    local why = rows[1] and "more than one run begins with %s" or "there is no run %s"
    work.env.say(why:format(work.opts.id))
    return FAILED
  end
  local run = run_of(rows[1])
  run.explanation = explain(work, run)
  if work.opts.json then
    stdout.write_json(run)
    return 0
  end
  local lines = {}
  local function add(label, text)
    if text and text ~= "" then
      lines[#lines + 1] = string.format("%-10s %s\n", label, errors.escape(tostring(text)))
    end
  end
  add("run", run.id)
  add("pipeline", run.pipeline)
  add("script", run.script)
  add("status", run.status .. ": " .. run.explanation)
  add("reason", run.reason)
  add("started", run.started_at .. (run.sessions > 1
    and string.format(", %d times in all", run.sessions) or ""))
  add("ended", run.ended_at)
  add("items", grouped(run.items) .. " done" .. (run.failed > 0
    and string.format(", %s of them failed (%s)", grouped(run.failed), counters(run.errors)) or ""))
  add("steps", run.steps > 0 and grouped(run.steps) .. " remembered")
  add("records", counters(run.records))
  add("requests", counters(run.requests))
  add("statuses", counters(run.statuses))
  for i, output in ipairs(run.outputs) do add(i == 1 and "outputs" or "", output) end
  stdout.write(table.concat(lines))
  return 0
end

--- Does it; a task.
---@param env table of the program
---@param opts table see `define`
---@return integer exit status
function runs_command.run(env, opts)
  local path = opts.state_dir .. "/state.db"
  local file, _, code = io.open(path, "rb")
  if file then file:close() end
  local kept, problem
  if file or code ~= 2 then -- ENOENT
    kept, problem = state.open(env)
    if not kept then
      env.say(problem)
      return COULD_NOT_START
    end
  end
  local work = { env = env, opts = opts }
  function work.read(sql, ...)
    if not kept then return {} end
    local rows, _, message = env.host.store_read(kept.id, sql, ...)
    return rows, message and errors.new("invalid", path .. ": " .. message)
  end
  local ok, status = pcall(stdout.guarded, opts.action == "show" and show or list, work)
  if kept then kept:close() end
  env.state = nil
  if not ok then error(status, 0) end
  return status or FAILED
end

return runs_command
