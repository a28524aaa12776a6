local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local scheduler = require "orchestrator.scheduler"

describe("scheduler", function()
  local w, sched, host, log

  before_each(function()
    w = fake_host.world { serve = function(spec) return spec.answer end }
    sched, host, log = w.sched, w.host, {}
  end)

  local function say(text) log[#log + 1] = string.format("%g %s", w.at(), text) end

  -- A task that says when it starts and ends.
  local function sleeper(name, seconds)
    return sched:spawn(function()
      say(name .. " starts")
      sched:sleep(seconds)
      say(name .. " ends")
      return name
    end)
  end

  describe("tasks", function()
    it("run in the order they were made, and wait side by side", function()
      w.run(function()
        local a, b = sleeper("a", 2), sleeper("b", 1)
        say "main"
        assert.equal("a", (a:await()))
        assert.equal("b", (b:await()))
      end)
      assert.same({ "0 main", "0 a starts", "0 b starts", "1 b ends", "2 a ends" }, log)
    end)

    it("get their arguments and give all their results, nils included", function()
      local n, a, b, c = w.run(function()
        local task = sched:spawn(function(...) return select("#", ...), false, ... end, nil, 7, nil)
        local function count(...) return select("#", ...), select(3, ...) end
        return count(task:await())
      end)
      assert.same({ 5, nil, 7, nil }, { n, a, b, c })
    end)

    it("fail when they raise, with where from and a traceback of their own", function()
      local err = w.run(function()
        local function broken_helper() error "boom" end
        local _, err = sched:spawn(function() broken_helper() end):await()
        return err
      end)
      assert.is_true(errors.is(err))
      assert.equal("script", err.kind)
      assert.matches("scheduler_spec.lua:%d+: boom$", err.message)
      assert.matches("broken_helper", err.traceback)
    end)

    it("fail when they return nil, err", function()
      local given = errors.new("http", "status 500")
      local first, second, third, results = w.run(function()
        local _, a = sched:spawn(function() return nil, given end):await()
        local _, b = sched:spawn(function() return nil, "just a text" end):await()
        local c = sched:spawn(function() return nil end)
        return a, b, (c:await()), c.ok
      end)
      assert.equal(given, first)
      assert.equal("script: just a text", tostring(second))
      assert.is_nil(third)
      assert.is_true(results)
    end)

    it("keep an error object that was raised as it is, but for its traceback", function()
      local given = errors.new("dns", "no such host")
      local err = w.run(function()
        local _, err = sched:spawn(function() error(given) end):await()
        return err
      end)
      assert.equal(given, err)
      assert.equal("dns", err.kind)
      assert.matches("scheduler_spec", err.traceback)
    end)

    it("may raise anything", function()
      local function raised(value)
        return w.run(function()
          local _, err = sched:spawn(function() error(value) end):await()
          return err
        end)
      end
      assert.equal("script", raised(nil).kind)
      assert.matches("^script: .*: 12$", tostring(raised(12)))
      assert.matches("^script: table", tostring(raised {}))
    end)

    it("can be awaited by several, before and after they end", function()
      local seen = w.run(function()
        local task, seen = sleeper("t", 1), {}
        local joiners = {}
        for i = 1, 3 do
          joiners[i] = sched:spawn(function() seen[i] = task:await() end)
        end
        for i = 1, 3 do joiners[i]:await() end
        seen[4] = task:await()
        return seen
      end)
      assert.same({ "t", "t", "t", "t" }, seen)
    end)

    it("use their coroutines again", function()
      local threads = {}
      w.run(function()
        for i = 1, 50 do
          sched:spawn(function() threads[coroutine.running()] = i end):await()
        end
      end)
      local count = 0
      for _ in pairs(threads) do count = count + 1 end
      assert.equal(1, count)
    end)

    it("that yield by themselves fail at once", function()
      local got = w.run(function()
        local got = {}
        for i = 1, 2 do
          local task = sched:spawn(function() coroutine.yield(i == 1 and "x" or nil) end)
          local _, err = task:await()
          got[i] = err.kind .. ": " .. err.message
          assert.matches("scheduler_spec", err.traceback)
        end
        return got
      end)
      local expected = "script: coroutine.yield outside a coroutine of the script's own"
      assert.same({ expected, expected }, got)
    end)

    it("fail alone: an uncaught error does not touch the others", function()
      w.run(function()
        local bad = sched:spawn(function() sched:sleep(1); error "bad" end)
        local good = sleeper("good", 2)
        assert.equal("good", (good:await()))
        assert.equal(false, bad.ok)
      end)
      assert.same({ "0 good starts", "2 good ends" }, log)
    end)
  end)

  describe("time", function()
    it("wakes sleepers in order, first come first at equal times", function()
      w.run(function()
        local tasks = {}
        for i, seconds in ipairs { 3, 1, 2, 1, 0 } do
          tasks[i] = sched:spawn(function()
            sched:sleep(seconds)
            say(tostring(i))
          end)
        end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 5", "1 2", "1 4", "2 3", "3 1" }, log)
    end)

    it("lets the others go first when it sleeps for nothing", function()
      w.run(function()
        local other = sched:spawn(say, "other")
        sched:sleep(0)
        say "main"
        other:await()
      end)
      assert.same({ "0 other", "0 main" }, log)
    end)

    it("calls timers, which can be cancelled, before and after they fired", function()
      w.run(function()
        sched:at(1001, say, "one")
        local two = sched:at(1002, say, "two")
        local three = sched:at(1003, say, "three")
        sched:at(1002.5, function() three:cancel() end)
        sched:sleep(5)
        two:cancel()
      end)
      assert.same({ "1 one", "2 two" }, log)
    end)

    it("needs no more polls than there are things that happen", function()
      w.run(function()
        for _ = 1, 10 do sched:sleep(3600) end
        assert.equal(0, sched.tail) -- nor a longer queue
      end)
      assert.equal(36000, w.at())
      assert.is_true(host.polls <= 11)
    end)
  end)

  describe("transfers", function()
    local function get(answer) return sched:perform { url = "http://a/", answer = answer } end

    it("give what the host gives", function()
      local result = w.run(get, { body = "hello", after = 2 })
      assert.equal("hello", result.body)
      assert.equal(2, w.at())
    end)

    it("that are refused give the kind at once", function()
      local result = w.run(get, { refuse = "network" })
      assert.same({ fault = "network", message = "refused", elapsed = 0 }, result)
    end)

    it("run side by side", function()
      w.run(function()
        local tasks = {}
        for i = 1, 10 do tasks[i] = sched:spawn(get, { after = i }) end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.equal(10, w.at())
      assert.equal(10, host.most_in_flight)
    end)

    it("do not give their results to a later wait, when theirs could not begin", function()
      local suspend = sched.suspend
      local results = w.run(function()
        sched.suspend = function() error "not enough memory" end
        pcall(sched.perform, sched, { answer = { body = "first", after = 1 } })
        pcall(sched.sleep, sched, 2)
        sched.suspend = suspend
        return { sched:perform { answer = { body = "second", after = 3 } } }
      end)
      assert.equal("second", results[1].body)
    end)

    it("are aborted when their task is cancelled", function()
      local err = w.run(function()
        local task = sched:spawn(get, { after = 100 })
        sched:sleep(1)
        task:cancel()
        local _, err = task:await()
        return err
      end)
      assert.equal("cancelled", err.kind)
      assert.equal(1001, host.ledger[1].cancelled)
      assert.equal(1, w.at())
    end)

    it("can be aborted inside the completion of another that ends at the same time", function()
      local err = w.run(function()
        local second
        local first = sched:spawn(function()
          get { after = 1 }
          second:cancel()
        end)
        second = sched:spawn(get, { after = 1 })
        first:await()
        local _, err = second:await()
        return err
      end)
      assert.equal("cancelled", err.kind)
      assert.same({ 1001, nil, 1001 },
        { host.ledger[1].ended, host.ledger[2].ended, host.ledger[2].cancelled })
    end)

    it("are not started by a cancelled task", function()
      w.run(function()
        local task = sched:spawn(function()
          pcall(sched.sleep, sched, 10)
          get()
        end)
        sched:sleep(1)
        task:cancel()
        task:await()
      end)
      assert.same({}, host.ledger)
    end)
  end)

  describe("cancelling", function()
    it("raises in the wait, with the reason, and again after a pcall", function()
      local err = w.run(function()
        local task = sched:spawn(function()
          for _ = 1, 3 do
            local ok, raised = pcall(sched.sleep, sched, 10)
            say(tostring(ok) .. " " .. tostring(raised))
          end
          return "swallowed"
        end)
        sched:sleep(1)
        task:cancel "enough"
        local value, err = task:await()
        assert.is_nil(value)
        return err
      end)
      assert.equal("cancelled: enough", tostring(err))
      local line = "1 false cancelled: enough"
      assert.same({ line, line, line }, log)
      assert.equal(1, w.at())
    end)

    it("raises the error it was given", function()
      local reason = errors.new("timeout", "too late")
      w.run(function()
        local task = sleeper("t", 10)
        task:cancel(reason)
        local _, err = task:await()
        assert.equal(reason, err)
      end)
    end)

    it("is what the task failed of, whatever it raises on its way out", function()
      local err = w.run(function()
        local task = sched:spawn(function()
          local _, raised = pcall(sched.sleep, sched, 10)
          error("clean-up: " .. tostring(raised))
        end)
        sched:sleep(1)
        task:cancel()
        local _, err = task:await()
        return err
      end)
      assert.equal("cancelled: cancelled", tostring(err))
    end)

    it("of a task that has not started keeps it from running", function()
      w.run(function()
        local task = sleeper("t", 1)
        task:cancel()
        local _, err = task:await()
        assert.equal("cancelled", err.kind)
      end)
      assert.same({}, log)
    end)

    it("does nothing to a task that has ended, or was cancelled before", function()
      w.run(function()
        local task = sleeper("t", 1)
        task:await()
        task:cancel()
        assert.equal("t", (task:await()))
        local other = sleeper("o", 1)
        other:cancel "first"
        other:cancel "second"
        local _, err = other:await()
        assert.equal("first", err.message)
      end)
    end)

    it("of oneself raises in the next wait", function()
      w.run(function()
        local task
        task = sched:spawn(function()
          task:cancel "by myself"
          say "still here"
          sched:sleep(1)
          say "never"
        end)
        local _, err = task:await()
        assert.equal("by myself", err.message)
      end)
      assert.same({ "0 still here" }, log)
    end)

    it("leaves an awaited task alone", function()
      w.run(function()
        local slow = sleeper("slow", 5)
        local raised
        local waiter = sched:spawn(function() raised = { pcall(slow.await, slow) } end)
        sched:sleep(1)
        waiter:cancel "enough"
        local _, err = waiter:await()
        assert.equal("cancelled", err.kind)
        assert.same({ false, err }, raised)
        assert.equal("slow", (slow:await()))
      end)
    end)

    it("takes the timer of a sleep away", function()
      w.run(function()
        local task = sleeper("t", 1000)
        sched:sleep(1)
        task:cancel()
        task:await()
      end)
      assert.equal(0, sched.timers.n)
    end)
  end)

  describe("a wait where Lua cannot wait", function()
    -- Calls fn inside a callback of table.sort; gives what it raised there.
    local function inside_sort(fn)
      local raised
      table.sort({ 2, 1 }, function(a, b)
        local ok, err = pcall(fn)
        if not ok then raised = err end
        return a < b
      end)
      return tostring(raised)
    end

    local MESSAGE = "scheduler_spec.lua:%d+: cannot wait here: .*table.sort, string.gsub"

    it("raises a clear error that names the place", function()
      local sort, gsub = w.run(function()
        local _, gsub = pcall(string.gsub, "x", "x", function() sched:sleep(1) end)
        return inside_sort(function() sched:sleep(1) end), gsub
      end)
      assert.matches(MESSAGE, sort)
      assert.matches(MESSAGE, gsub)
    end)

    it("leaves nothing that would wake the task later", function()
      w.run(function()
        local other = sleeper("other", 1)
        inside_sort(function() sched:sleep(2) end)
        inside_sort(function() other:await() end)
        inside_sort(function() sched:perform { url = "http://a/", answer = { after = 3 } } end)
        sched:sleep(10)
        say "main"
        other:await()
      end)
      assert.same({ "0 other starts", "1 other ends", "10 main" }, log)
      assert.equal(0, sched.timers.n)
      assert.equal(0, host.in_flight)
    end)

    it("outside of any task is an error too", function()
      local ok, raised = pcall(sched.sleep, sched, 1)
      assert.is_false(ok)
      assert.matches("can only wait inside a task", raised)
      assert.equal(0, sched.timers.n)
    end)
  end)

  describe("suspend and wake", function()
    it("hand over two values", function()
      local a, b = w.run(function()
        local task = sched:spawn(function() return sched:suspend() end)
        sched:sleep(1)
        sched:wake(task, "value", "extra")
        sched:wake(task, "a second wake", "is ignored")
        return task:await()
      end)
      assert.same({ "value", "extra" }, { a, b })
    end)

    it("do not give a value twice", function()
      local first, second = w.run(function()
        local task = sched:spawn(function() return sched:suspend(), (sched:suspend()) end)
        sched:sleep(1)
        sched:wake(task, "value")
        sched:sleep(1)
        sched:wake(task)
        return task:await()
      end)
      assert.same({ "value" }, { first, second })
    end)

    it("call the canceller also when the task was woken and has not run yet", function()
      local arg_seen
      w.run(function()
        local task = sched:spawn(function()
          sched:suspend(function(arg) arg_seen = arg end, "arg")
        end)
        sched:sleep(1)
        sched:wake(task)
        task:cancel()
        task:await()
      end)
      assert.equal("arg", arg_seen)
    end)

    it("do not call the canceller once the wait is over", function()
      local calls = 0
      w.run(function()
        local task = sched:spawn(function()
          sched:suspend(function() calls = calls + 1 end)
          sched:sleep(10)
        end)
        sched:sleep(1)
        sched:wake(task)
        sched:sleep(1)
        task:cancel()
        task:await()
        task = sched:spawn(function()
          sched:suspend(function() calls = calls + 1 end)
          task:cancel()
        end)
        sched:sleep(1)
        sched:wake(task)
        task:await()
      end)
      assert.equal(0, calls)
    end)
  end)

  describe("run", function()
    it("goes on until the last task has ended", function()
      local root = sched:run(function() sleeper("left behind", 7) end)
      assert.is_true(root.ok)
      assert.equal(7, w.at())
    end)

    it("sees a deadlock and ends it", function()
      local root = sched:run(function()
        local a, b
        a = sched:spawn(function() return b:await() end)
        b = sched:spawn(function() return a:await() end)
        sched:suspend(function() a:cancel(); b:cancel() end)
      end)
      assert.equal("script: deadlock: 3 tasks wait for each other", tostring(root.err))
      assert.matches("scheduler_spec", root.err.traceback)
      assert.equal(0, sched.live)
    end)

    it("does not take sleeping or fetching tasks for a deadlock", function()
      w.run(function()
        local main = sched:current()
        sched:spawn(function()
          sched:perform { url = "http://a/", answer = { after = 50 } }
          sched:sleep(50)
          sched:wake(main)
        end)
        sched:suspend()
      end)
      assert.equal(100, w.at())
    end)

    it("gives up on tasks that nobody can wake or cancel", function()
      local root = sched:run(function()
        sched:spawn(function() sched:suspend() end)
      end)
      assert.is_true(root.ok)
    end)

    it("hands signals over between steps", function()
      host.signals = { { 1003, 2 } }
      local root = sched:run(function()
        local main = sched:current()
        sched.on_signal = function(number)
          say("signal " .. number)
          main:cancel "interrupted"
        end
        sched:sleep(3600)
      end)
      assert.equal("cancelled: interrupted", tostring(root.err))
      assert.same({ "3 signal 2" }, log)
    end)

    it("may be many: two schedulers know nothing of each other", function()
      local other = fake_host.world()
      w.run(function()
        other.run(function() other.sched:sleep(5) end)
        sched:sleep(1)
      end)
      assert.same({ 5, 1 }, { other.at(), w.at() })
    end)
  end)

  it("turns a bare value into an error object, once", function()
    local err = scheduler.raised("text", "the trace")
    assert.same({ "script", "text", "the trace" }, { err.kind, err.message, err.traceback })
    assert.equal(err, scheduler.raised(err, "another"))
    assert.equal("the trace", err.traceback)
  end)
end)
