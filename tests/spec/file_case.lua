-- What the specs of file sinks need: a directory, and the real host to write in it with.

local host = require "real_host"
local scheduler = require "orchestrator.scheduler"
local sink_file = require "orchestrator.sink_file"

local file_case = {}

local dir

--- The content of a file, nil when there is none.
function file_case.read(name)
  local file = io.open(dir .. "/" .. name, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

function file_case.write(name, text)
  local file = assert(io.open(dir .. "/" .. name, "wb"))
  file:write(text)
  file:close()
end

--- What a compressed file holds: its frames, by the programs that made the formats.
function file_case.unpacked(name)
  local program = name:find "gz$" and "gzip -dc " or "zstd -dcq "
  local pipe = assert(io.popen(program .. dir .. "/" .. name))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- Makes the directory.
function file_case.enter()
  dir = os.tmpname()
  os.remove(dir)
  os.execute("mkdir " .. dir)
  return dir
end

function file_case.leave()
  os.execute("rm -rf " .. dir)
end

--- Runs a function in a task, with the real host.
function file_case.run(fn)
  local sched = scheduler.new(host)
  local task = sched:run(fn, sched)
  if not task.ok then error(tostring(task.err) .. (task.err.traceback or ""), 0) end
  if sched.outstanding ~= 0 then error("a job is left", 0) end
  return unpack(task.results or {}, 1, task.results and task.results.n or 0)
end

--- Opens a sink of the directory.
function file_case.open(sched, given, ctx)
  ctx = ctx or {}
  ctx.sched, ctx.host, ctx.name, ctx.run_id, ctx.started = sched, host, "test", "r1", 0
  if ctx.durable == nil then ctx.durable = true end
  if type(given) == "table" then
    given[1] = dir .. "/" .. given[1]
  else
    given = dir .. "/" .. given
  end
  return sink_file.open(assert(sink_file.check(given)), ctx)
end

--- Commits a window of items, each a list of records.
function file_case.put(s, ...)
  local batches, count = {}, 0
  for i, records in ipairs { ... } do
    batches[i], count = assert(s:encode(records)), count + #records
  end
  return assert(s:commit { number = 1, batches = batches, records = count })
end

--- Appends records to a file with that text: its new text, and the warning; or false, the error.
function file_case.mended(name, text, ...)
  file_case.write(name, text)
  local records = { ... }
  return file_case.run(function(sched)
    local s, err = file_case.open(sched, name, { mode = "append" })
    if not s then return false, tostring(err) end
    file_case.put(s, records)
    assert(s:finish())
    s:close(false)
    return file_case.read(name), s.warning
  end)
end

return file_case
