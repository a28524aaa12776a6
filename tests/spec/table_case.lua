-- Sinks of tables in databases, for the specs: on the real host, since the SQL is what is tested.

local host = require "real_host"
local log = require "orchestrator.log"
local scheduler = require "orchestrator.scheduler"
local sink_table = require "orchestrator.sink_table"

local case = {}

--- Runs a function as a task; it must neither raise nor leave anything open.
function case.run(fn)
  local sched = scheduler.new(host)
  local task = sched:run(fn, sched)
  if not task.ok then error(task.err.message .. (task.err.traceback or ""), 0) end
  assert(sched.outstanding == 0, "a job is still out")
  if task.results then return unpack(task.results, 1, task.results.n) end
end

--- What a sink is opened with.
function case.context(sched, more)
  local ctx = {
    sched = sched, host = host, name = "items", run_id = "run1", mode = "replace", durable = true,
    warnings = {},
  }
  ctx.log = { warn = function(_, text) ctx.warnings[#ctx.warnings + 1] = text end }
  for name, value in pairs(more or {}) do ctx[name] = value end
  return ctx
end

--- Opens a sink.
function case.open(sched, given, more)
  local spec = assert(sink_table.check(given))
  local sink, err = sink_table.open(spec, case.context(sched, more))
  if not sink then return nil, err end
  local ok
  ok, err = sink:claim()
  if ok then return sink end
  sink:close()
  return nil, err
end

--- Commits windows of records, one after another; the number of the first is that after the last.
function case.put(sink, ...)
  local position
  for i = 1, select("#", ...) do
    local records = select(i, ...)
    local batch = assert(sink:encode(records))
    position = assert(sink:commit {
      number = sink:carried() + 1, batches = { batch }, records = #records, entry = "entry",
    })
  end
  return position
end

--- A whole run: windows of records, then the end.
function case.load(given, more, ...)
  local windows = { ... }
  case.run(function(sched)
    local sink = assert(case.open(sched, given, more))
    for _, window in ipairs(windows) do case.put(sink, window) end
    assert(sink:finish())
    assert(sink:close())
  end)
end

--- The rows of a query to a SQLite file.
function case.query(path, sql, ...)
  local id = assert(host.store_open(path, { shared = true }))
  local rows, code, message = host.store_read(id, sql, ...)
  host.store_close(id)
  return assert(rows, code and code .. ": " .. message)
end

case.host, case.log = host, log

return case
