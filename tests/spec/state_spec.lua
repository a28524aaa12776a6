local fake_host = require "fake_host"
local scheduler = require "orchestrator.scheduler"
local state = require "orchestrator.state"

describe("state", function()
  local host, sched, env, calls, answers

  before_each(function()
    host = fake_host.new()
    sched = scheduler.new(host)
    env = { sched = sched, host = host, state_dir = "some/dir" }
    calls, answers = {}, {}
    local jobs, count = {}, 0

    -- The functions of src/lua_store.h: each answers what the test says.
    for name, default in pairs {
      store_directory = { true }, store_open = { 7 }, store_read = { {} }, store_close = {},
    } do
      host[name] = function(...)
        calls[#calls + 1] = { name, ... }
        return unpack(answers[name] or default, 1, 3)
      end
    end
    function host.store_run(id, statements)
      calls[#calls + 1] = { "store_run", id, statements }
      count = count - 1
      jobs[#jobs + 1] = { count, answers.store_run }
      return count
    end
    function host.cancel(id) calls[#calls + 1] = { "cancel", id } end
    local poll = host.poll
    function host.poll(timeout, deliver)
      local job = table.remove(jobs, 1)
      if not job then return poll(timeout, deliver) end
      host.time = host.time + 0.5
      deliver(unpack(job))
    end
  end)

  local function run(fn)
    local task = sched:run(fn)
    if not task.ok then error(task.err.message .. (task.err.traceback or ""), 0) end
    assert.equal(0, sched.outstanding)
  end

  it("is opened once, in its directory", function()
    local opened = assert(state.open(env))
    assert.equal(opened, state.open(env))
    assert.equal(2, #calls)
    assert.same({ "store_directory", "some/dir" }, calls[1])
    assert.same({ "store_open", "some/dir/state.db" }, { calls[2][1], calls[2][2] })
    local options = calls[2][3]
    assert.equal(0x6f726368, options.application_id)
    assert.is_true(#options.migrations >= 1)
    assert.equal("some/dir/state.db", opened.path)
    opened:close()
    assert.same({ "store_close", 7 }, calls[3])
  end)

  it("tells one start of the system from another", function()
    local opened = assert(state.open(env))
    assert.matches("^%x+%-[%x-]+ monotonic [%d-]+ [%d-]+ boottime", opened.boot)
  end)

  it("says what to do when it cannot be opened", function()
    local function problem_with(answer)
      answers.store_open = answer
      local opened, problem = state.open(env)
      assert.is_nil(opened)
      assert.is_nil(env.state)
      return problem
    end
    for reason, advice in pairs {
      read_only = "make the directory and the files in it writable, or name another directory",
      not_a_database = "move it away, or name another directory with %-%-state%-dir$",
      corrupt = "put a copy of it back, or move it away to start anew %(what it kept is forgot",
      foreign = "it belongs to another program: name another directory with %-%-state%-dir$",
      newer = "use the version of orchestrator that wrote it, or name another directory",
      busy = "end the process that keeps it, or name another directory",
      failed = "see to that, or name another directory",
    } do
      assert.matches("^some/dir/state%.db: it is so; " .. advice,
        problem_with { nil, reason, "it is so" })
    end
    answers.store_directory = { nil, "No space left on device" }
    assert.equal("the state directory some/dir cannot be made: No space left on device; see to "
      .. "that, or name another directory with --state-dir", problem_with {})
  end)

  it("runs statements", function()
    local opened = assert(state.open(env))
    answers.store_run = { rows = { { 1 } }, changes = 2 }
    run(function()
      local began = sched:now()
      assert.equal(answers.store_run, opened:run { { "SELECT 1" } })
      assert.equal(0.5, sched:now() - began)
    end)
    assert.same({ "store_run", 7, { { "SELECT 1" } } }, calls[3])

    for code, advice in pairs {
      full = "make room on the disk, then run it again",
      corrupt = "put a copy of it back, or move it away",
      read_only = "make the directory",
      busy = "end the process that keeps it",
      io = "see to that",
    } do
      answers.store_run = { fault = "state", code = code, message = "oh dear" }
      run(function()
        local result, err = opened:run {}
        assert.is_nil(result)
        assert.equal("invalid state", err.kind .. " " .. err.fault)
        assert.matches("^some/dir/state.db: oh dear; " .. advice, err.message)
      end)
    end
  end)

  it("does not take statements back when a task is cancelled", function()
    local opened = assert(state.open(env))
    answers.store_run = { rows = {}, changes = 1 }
    run(function()
      local task = sched:spawn(function() opened:run { { "DELETE FROM t" } } end)
      sched:spawn(function() task:cancel() end):await() -- before it is delivered
      local _, err = task:await()
      assert.equal("cancelled", err.kind)
      assert.is_true(opened:run {} ~= nil) -- what was cancelled is delivered, to nobody
    end)
  end)

  it("keeps documents, each with a version", function()
    local opened = assert(state.open(env))
    assert.same({ nil, 0 }, { opened:load "api" })
    assert.same({ "store_read", 7, "SELECT document, version FROM limits WHERE name = ?1", "api" },
      calls[3])
    answers.store_read = { { { "text", 3 } } }
    assert.same({ "text", 3 }, { opened:load "api" })
    answers.store_read = { nil, "io", "disk I/O error" }
    local document, version, problem = opened:load "api"
    assert.is_nil(document)
    assert.is_nil(version)
    assert.equal("some/dir/state.db: disk I/O error; see to that, or name another directory with "
      .. "--state-dir", problem)

    local outcomes = {}
    local function saved(...) outcomes[#outcomes + 1] = { ... } end
    run(function()
      for _, answer in ipairs {
        { changes = 1 }, { changes = 0 }, { fault = "state", code = "full", message = "full" },
      } do
        answers.store_run = answer
        opened:save("api", #outcomes, "text", saved)
        assert.matches(#outcomes == 0 and "^INSERT INTO" or "^UPDATE", calls[#calls][3][1][1])
        sched:sleep(1)
      end
    end)
    assert.same({ { true }, { false }, { false, "some/dir/state.db: full; make room on the disk, "
      .. "then run it again" } }, outcomes)
  end)
end)
