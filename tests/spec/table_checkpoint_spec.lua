local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local scheduler = require "orchestrator.scheduler"
local table_checkpoint = require "orchestrator.table_checkpoint"

describe("table_checkpoint", function()
  local host, sched, db, answers, ran, warnings

  before_each(function()
    host = fake_host.new()
    sched = scheduler.new(host)
    answers, ran, warnings = {}, {}, {}
    db = { tries = 4 }
    function db.statement(sql, ...) return { sql, ... } end
    db.read_checkpoint = db.statement
    function db.one_row(statement) return statement end
    function db.make_checkpoints() return { { "make" } } end
    -- Each answers what the test says, in order: rows, or "lost", or "refused".
    function db:run(statements)
      assert.equal(db, self)
      local first = statements[1][1]
      ran[#ran + 1] = first:match "^%a+" .. (first:find '"finished"' and "finish" or "")
      local answer = table.remove(answers, 1)
      if type(answer) == "table" then return { rows = answer } end
      return nil, errors.new("invalid", answer), answer == "lost"
    end
  end)

  local function checkpoint()
    return table_checkpoint.new {
      db = db, sched = sched, target = "x", pipeline = "p", table = "t", run_id = "run1",
      log = { warn = function(_, text) warnings[#warnings + 1] = text end },
    }
  end

  local function run(fn)
    local task = sched:run(fn)
    if not task.ok then error(task.err.message .. (task.err.traceback or ""), 0) end
    return unpack(task.results, 1, task.results.n)
  end

  local function advance(...)
    answers = { ... }
    return run(function()
      local self = checkpoint()
      local ok, err = self:advance({ number = 3, records = 5, entry = "e" }, {})
      return ok or false, err and err.message, self.window
    end)
  end

  local function row(name, window, state)
    return { { name, tostring(window), "7", state or "open", "entry" } }
  end

  it("commits a window once when nothing happens", function()
    assert.same({ true, nil, 3 }, { advance {} })
    assert.same({ "UPDATE" }, ran)
  end)

  it("does not send again what went through though the answer was lost", function()
    assert.same({ true, nil, 3 }, { advance("lost", row("run1", 3)) })
    assert.same({ "UPDATE", "SELECT" }, ran)
    assert.same({ "lost; trying again" }, warnings)
  end)

  it("sends again what did not", function()
    assert.same({ true, nil, 3 }, { advance("lost", row("run1", 2), {}) })
    assert.same({ "UPDATE", "SELECT", "UPDATE" }, ran)
  end)

  it("sends nothing again before it knows", function()
    assert.same({ true, nil, 3 }, { advance("lost", "lost", "lost", row("run1", 3)) })
    assert.same({ "UPDATE", "SELECT", "SELECT", "SELECT" }, ran)
  end)

  it("gives up after some tries, each after a longer pause", function()
    local began = host.time
    assert.same({ false, "lost", 0 }, { advance("lost", "lost", "lost", "lost") })
    assert.same({ "UPDATE", "SELECT", "SELECT", "SELECT" }, ran)
    assert.near(0.2 + 0.4 + 0.8, host.time - began, 1e-9)
  end)

  it("does not try again what was refused", function()
    assert.same({ false, "refused", 0 }, { advance "refused" })
    assert.same({ false, "refused", 0 }, { advance("lost", row("run1", 2), "refused") })
  end)

  it("takes no other run's window for its own", function()
    assert.same({ false, "refused", 0 }, { advance("lost", row("run2", 3), "refused") })
    assert.same({ false, "refused", 0 }, { advance("lost", {}, "refused") })
  end)

  it("looks up whether the end went through, too", function()
    answers = { "lost", row("run1", 3, "finished") }
    assert.is_true(run(function() return checkpoint():finish {} end))
    answers = { "lost", row("run1", 3, "open"), {} }
    assert.is_true(run(function() return checkpoint():finish {} end))
  end)

  it("goes on with its own run only", function()
    local function take_up(resumed, ...)
      answers, ran = { {}, ... }, {}
      return run(function()
        local self = checkpoint()
        local ok, err = self:look_up(resumed)
        if ok then ok, err = self:begin { { "DROP" } } end
        return ok and true or false, err and err.message or self.window, ran[3]
      end)
    end
    assert.same({ true, 4 }, { take_up(false, row("run1", 4)) })
    assert.same({ true, 4 }, { take_up(true, row("run1", 4)) })
    assert.same({ true, 0, "DROP" }, { take_up(false, row("run2", 4), {}) })
    assert.same({ true, 0, "DROP" }, { take_up(false, {}, {}) })
    local ok, message = take_up(true, row("run2", 4))
    assert.is_false(ok)
    assert.truthy(message:find 'another run has written to "t" since')
    ok, message = take_up(true, {})
    assert.is_false(ok)
    assert.truthy(message:find "knows nothing of run run1; put it back")
    -- When that cannot be told nothing is begun.
    ok, message = take_up(false, "refused")
    assert.same({ false, "refused" }, { ok, message })
  end)
end)
