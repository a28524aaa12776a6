local errors = require "orchestrator.errors"
local fake_host = require "fake_host"

describe("tasks", function()
  local w, orc, host, log

  before_each(function()
    w = fake_host.world { serve = function(spec) return spec.answer end }
    orc, host, log = w.orc, w.host, {}
  end)

  local function say(text) log[#log + 1] = string.format("%g %s", w.at(), text) end

  -- A function that says how it ends: by itself after so many seconds, or cancelled.
  local function job(name, seconds, ...)
    local results, n = { ... }, select("#", ...)
    return function()
      local ok, raised = pcall(orc.sleep, seconds)
      say(name .. (ok and " done" or " " .. raised.kind))
      if not ok then error(raised, 0) end
      return unpack(results, 1, n)
    end
  end

  local function transfer(seconds)
    return w.sched:perform { url = "http://a/", answer = { after = seconds } }
  end

  local function boom() error "boom" end
  local IN_BOOM = "^stack traceback:\n%s+%[C%]: in function 'error'\n.*tasks_spec.lua:"
    .. debug.getinfo(boom).linedefined

  -- Runs fn, which must raise; gives the message.
  local function raised_by(fn)
    local ok, raised = pcall(w.run, fn)
    assert.is_false(ok)
    return tostring(raised)
  end

  local function texts(list)
    local shown = {}
    for i = 1, list.n do shown[i] = list[i] == nil and "-" or tostring(list[i]) end
    return table.concat(shown, " ")
  end

  describe("map", function()
    it("gives results in the order of the items, so many at a time", function()
      local most, running = 0, 0
      local results, errs = w.run(orc.map, { 5, 1, 4, 2, 3 }, function(n, index)
        running = running + 1
        most = math.max(most, running)
        orc.sleep(n)
        running = running - 1
        return index * 100 + n
      end, { concurrency = 2 })
      assert.same({ 105, 201, 304, 402, 503, n = 5 }, results)
      assert.same({ n = 5 }, errs)
      assert.equal(2, most)
    end)

    it("runs twenty at a time unless told otherwise", function()
      local items = {}
      for i = 1, 40 do items[i] = i end
      w.run(orc.map, items, function() orc.sleep(1) end)
      assert.equal(2, w.at())
    end)

    it("collects failures of every sort, aligned with the items", function()
      local given = errors.new("http", "status 500")
      local results, errs = w.run(orc.map, { 1, 2, 3, 4, 5, 6 }, function(n)
        if n == 1 then return nil, given end
        if n == 2 then boom() end
        if n == 3 then return nil end
        if n == 4 then return nil, "a text" end
        if n == 5 then return false, "not an error" end
        return "fine", "nor this"
      end)
      assert.same({ [5] = false, [6] = "fine", n = 6 }, results)
      assert.equal(given, errs[1])
      assert.matches("tasks_spec.lua:%d+: boom", errs[2].message)
      assert.matches(IN_BOOM, errs[2].traceback)
      assert.equal("script: a text", tostring(errs[4]))
      assert.equal(6, errs.n)
      assert.is_nil(errs[3] or errs[5] or errs[6])
    end)

    it("with fail ends at the first failure and cancels the others", function()
      local results, err = w.run(orc.map, { 3, 1, 5 }, function(n)
        if n == 1 then
          orc.sleep(1)
          return nil, errors.new("http", "status 500")
        end
        return job("item " .. n, n)()
      end, { on_error = "fail" })
      assert.is_nil(results)
      assert.equal("http: status 500", tostring(err))
      assert.same({ "1 item 5 cancelled", "1 item 3 cancelled" }, log)
    end)

    it("with fail starts no further items, and aborts transfers", function()
      local started = 0
      w.run(function()
        local _, err = orc.map({ 10, 20, 1, 40, 50 }, function(n)
          started = started + 1
          if n == 1 then boom() end
          transfer(n)
        end, { concurrency = 3, on_error = "fail" })
        assert.matches("boom", err.message)
        assert.matches(IN_BOOM, err.traceback)
      end)
      assert.equal(3, started)
      assert.is_truthy(host.ledger[1].cancelled and host.ledger[2].cancelled)
      assert.equal(0, w.at())
    end)

    it("takes an iterator that waits, one worker inside it at a time", function()
      local inside, most = 0, 0
      local function pages()
        local page, rest = 0, {}
        return function()
          inside = inside + 1
          most = math.max(most, inside)
          if #rest == 0 and page < 3 then
            page = page + 1
            transfer(1)
            rest = { page * 10 + 2, page * 10 + 1 }
          end
          inside = inside - 1
          return table.remove(rest)
        end
      end
      local results = w.run(orc.map, pages(), function(n)
        orc.sleep(0.5)
        return n
      end, { concurrency = 4 })
      assert.same({ 11, 12, 21, 22, 31, 32, n = 6 }, results)
      assert.equal(1, most)
      assert.equal(3.5, w.at())
    end)

    it("never calls an iterator again after its end", function()
      local calls = 0
      local results = w.run(orc.map, function()
        calls = calls + 1
        orc.sleep(1)
        if calls <= 2 then return calls end
      end, function(n) orc.sleep(10); return n end, { concurrency = 5 })
      assert.same({ 1, 2, n = 2 }, results)
      assert.equal(3, calls)
    end)

    it("fails when its iterator raises", function()
      local function broken() error "no more pages" end
      local calls = 0
      local results, err = w.run(function()
        local results, err = orc.map(function()
          calls = calls + 1
          if calls == 2 then broken() end
          return calls
        end, job("item", 5))
        return results == nil, err
      end)
      assert.is_true(results)
      assert.matches("tasks_spec.lua:%d+: no more pages", err.message)
      assert.matches("in function 'error'\n.*tasks_spec.lua:%d+: in function", err.traceback)
      assert.same({ "0 item cancelled" }, log)
    end)

    it("of nothing is nothing", function()
      assert.same({ n = 0 }, (w.run(orc.map, {}, boom)))
      assert.same({ n = 0 }, (w.run(orc.map, function() end, boom)))
    end)

    it("can be cancelled, and takes its items with it", function()
      w.run(orc.group, function(g)
        local task = g:spawn(function()
          orc.map({ 10, 20 }, function(n) return transfer(n) end)
          say "never"
        end)
        orc.sleep(1)
        task:cancel()
        local _, err = task:await()
        assert.equal("cancelled", err.kind)
      end)
      assert.same({}, log)
      assert.equal(1001, host.ledger[1].cancelled)
      assert.equal(1001, host.ledger[2].cancelled)
    end)

    it("starts no further items when it is cancelled", function()
      local started = 0
      w.run(function()
        orc.deadline(1, function()
          orc.map({ 1, 2, 3 }, function()
            started = started + 1
            orc.sleep(10)
          end, { concurrency = 1 })
        end)
      end)
      assert.equal(1, started)
    end)

    it("can be nested", function()
      local results = w.run(orc.map, { 1, 2 }, function(a)
        return orc.map({ 1, 2, 3 }, function(b)
          orc.sleep(1)
          return a * b
        end)
      end)
      assert.same({ { 1, 2, 3, n = 3 }, { 2, 4, 6, n = 3 }, n = 2 }, results)
      assert.equal(1, w.at())
    end)

    it("in a callback of table.sort raises, and runs nothing", function()
      w.run(function()
        local raised
        table.sort({ 2, 1 }, function(a, b)
          raised = raised or select(2, pcall(orc.map, { 1 }, function() say "ran" end))
          return a < b
        end)
        assert.matches("cannot wait here", tostring(raised))
        orc.sleep(5)
        say "slept"
      end)
      assert.same({ "5 slept" }, log)
    end)
  end)

  describe("gather", function()
    it("runs all its functions at once", function()
      local fns = {}
      for i = 1, 30 do fns[i] = job("f", i, i) end
      local results, errs = w.run(orc.gather, fns)
      assert.equal(30, results.n)
      assert.equal(30, results[30])
      assert.same({ n = 30 }, errs)
      assert.equal(30, w.at())
    end)

    it("collects, or fails with the first", function()
      local fns = { job("a", 1, nil, "broken"), job("b", 2, "b"), function() boom() end }
      local results, errs = w.run(orc.gather, fns)
      assert.equal("- b -", texts(results))
      assert.matches("^script: broken %- script: .*boom", texts(errs))
      local none, err = w.run(function()
        local results2, err = orc.gather({ fns[1], fns[2] }, { on_error = "fail" })
        return results2 == nil, err
      end)
      assert.is_true(none)
      assert.equal("script: broken", tostring(err))
    end)

    it("takes fewer at a time when told", function()
      w.run(orc.gather, { job("a", 1), job("b", 1), job("c", 1) }, { concurrency = 1 })
      assert.equal(3, w.at())
    end)

    it("of nothing is nothing", function()
      assert.same({ n = 0 }, (w.run(orc.gather, {})))
    end)
  end)

  describe("group", function()
    it("gives what its function returns, when all its children have ended", function()
      local a, b = w.run(orc.group, function(g)
        g:spawn(job("late", 5))
        return g:spawn(function(...) return ... end, "x", "y"):await()
      end)
      assert.same({ "x", "y" }, { a, b })
      assert.same({ "5 late done" }, log)
    end)

    it("fails with the first failure, which cancels the others and the body", function()
      local _, err = w.run(orc.group, function(g)
        g:spawn(job("slow", 10))
        g:spawn(job("bad", 1, nil, errors.new("dns", "no such host")))
        job("body", 20)()
      end)
      assert.equal("dns: no such host", tostring(err))
      assert.equal(1, w.at())
      table.sort(log)
      assert.same({ "1 bad done", "1 body cancelled", "1 slow cancelled" }, log)
    end)

    it("fails when its body does", function()
      local _, err = w.run(orc.group, function(g)
        g:spawn(job("child", 10))
        return nil, errors.new("validation", "no good")
      end)
      assert.equal("validation: no good", tostring(err))
      assert.same({}, log)
    end)

    it("carries the traceback of the child that raised", function()
      local err = w.run(function()
        local _, err = orc.group(function(g)
          g:spawn(function() orc.sleep(1); boom() end)
        end)
        return err
      end)
      assert.matches("boom$", err.message)
      assert.matches(IN_BOOM, err.traceback)
    end)

    it("lets the body see the failure it awaits, and wait no more after that", function()
      local seen
      local _, err = w.run(orc.group, function(g)
        local bad = g:spawn(job("bad", 1, nil, errors.new("dns", "no such host")))
        seen = select(2, bad:await())
        local ok = pcall(orc.sleep, 100)
        say(tostring(ok))
        return "all is well"
      end)
      assert.equal("dns", seen.kind)
      assert.equal(seen, err)
      assert.same({ "1 bad done", "1 false" }, log)
    end)

    it("does not fail because a child was cancelled on purpose", function()
      local result = w.run(orc.group, function(g)
        local slow, fast = g:spawn(job("slow", 100)), g:spawn(job("fast", 1, "won"))
        local winner = fast:await()
        slow:cancel "lost the race"
        assert.equal("cancelled: lost the race", tostring(select(2, slow:await())))
        return winner
      end)
      assert.equal("won", result)
      assert.equal(1, w.at())
    end)

    it("when cancelled, cancels everything inside, however deep, before it raises", function()
      w.run(orc.group, function(g)
        local outer = g:spawn(function()
          local ok, raised = pcall(orc.group, function(inner)
            inner:spawn(function()
              orc.map({ 1 }, function()
                local fine = pcall(transfer, 1000)
                say("transfer " .. tostring(fine))
                orc.sleep(1)
              end)
            end)
            local waited = inner:spawn(job("awaited", 1000))
            waited:await()
            say "the body goes on"
            orc.sleep(1000)
            say "never"
          end)
          say("group " .. tostring(ok) .. " " .. raised.kind)
          error(raised, 0)
        end)
        orc.sleep(1)
        outer:cancel()
        outer:await()
      end)
      assert.equal(1, w.at())
      assert.equal(1001, host.ledger[1].cancelled)
      assert.equal("1 group false cancelled", log[#log])
      local all = table.concat(log, "\n")
      assert.matches("1 transfer false", all)
      assert.matches("1 awaited cancelled", all)
      assert.not_matches("never", all)
    end)

    it("runs nothing that a cancelled child spawns", function()
      w.run(function()
        orc.deadline(1, function()
          orc.group(function(g)
            g:spawn(function()
              pcall(orc.sleep, 10)
              g:spawn(say, "orphan")
            end)
          end)
        end)
        orc.sleep(5)
      end)
      assert.same({}, log)
    end)

    it("waits also for what is spawned after its last child ended, before its own turn", function()
      w.run(orc.group, function(outer)
        local inner
        outer:spawn(function()
          orc.group(function(g)
            inner = g
            g:spawn(orc.sleep, 1)
          end)
          say "over"
        end)
        outer:spawn(function()
          orc.sleep(0)
          orc.sleep(1) -- due with the one above, and right after it
          inner:spawn(job("late", 5))
        end)
      end)
      assert.same({ "6 late done", "6 over" }, log)
    end)

    it("cannot be spawned into once it has ended", function()
      local escaped
      w.run(orc.group, function(g) escaped = g end)
      assert.matches("tasks_spec.lua:%d+: group:spawn: the group has ended",
        raised_by(function() escaped:spawn(boom) end))
    end)

    it("has a deadline, for its body and its children", function()
      local _, err = w.run(orc.group, function(g)
        g:spawn(job("child", 200))
        job("body", 300)()
      end, { deadline = "2m" })
      assert.equal("timeout: the deadline of 120s passed", tostring(err))
      assert.equal(120, w.at())
      assert.same({ "120 body cancelled", "120 child cancelled" }, { log[2], log[1] })
    end)

    it("passes its deadline also when only children are late", function()
      local _, err = w.run(orc.group, function(g)
        g:spawn(job("child", 200))
        return "body"
      end, { deadline = 120 })
      assert.equal("timeout", err.kind)
    end)

    it("forgets a deadline it met", function()
      assert.equal("body", (w.run(orc.group, function() return "body" end, { deadline = 120 })))
      assert.equal(0, w.at())
      assert.equal(0, w.sched.timers.n)
    end)

    it("takes many children", function()
      local sum = 0
      w.run(orc.group, function(g)
        for i = 1, 1000 do
          g:spawn(function() orc.sleep(i % 7); sum = sum + i end)
        end
      end)
      assert.equal(500500, sum)
    end)
  end)

  describe("deadline", function()
    it("gives what its function returns in time", function()
      local a, b = w.run(orc.deadline, "10s", job("f", 5, 1, 2))
      assert.same({ 1, 2 }, { a, b })
      assert.equal(0, w.sched.timers.n)
    end)

    it("aborts what takes longer", function()
      local _, err = w.run(orc.deadline, "10s", function() transfer(50) end)
      assert.equal("timeout: the deadline of 10s passed", tostring(err))
      assert.equal(1010, host.ledger[1].cancelled)
    end)

    it("returns failures of its function and never raises them", function()
      local err = w.run(function()
        local ok, none, err = pcall(orc.deadline, 10, boom)
        assert.is_true(ok)
        assert.is_nil(none)
        return err
      end)
      assert.matches(IN_BOOM, err.traceback)
      local _, given = w.run(orc.deadline, 10, job("f", 1, nil, errors.new("http", "status 500")))
      assert.equal("http", given.kind)
    end)

    it("is not outrun by swallowing it", function()
      local _, err = w.run(orc.deadline, 1, function()
        while not pcall(orc.sleep, 10) do
          if #log > 3 then return "swallowed" end
          say "again"
        end
      end)
      assert.equal("timeout", err.kind)
      assert.equal(1, w.at())
    end)

    it("ends at the inner one or the outer one, whichever comes first", function()
      local inner, outer = w.run(function()
        local _, inner = orc.deadline(10, function() return orc.deadline(1, job("a", 50)) end)
        local _, outer = orc.deadline(1, function() return orc.deadline(10, job("b", 50)) end)
        return inner, outer
      end)
      assert.equal("the deadline of 1s passed", inner.message)
      assert.equal("the deadline of 1s passed", outer.message)
      assert.equal(2, w.at())
    end)

    it("raises when the task around it is cancelled", function()
      w.run(orc.group, function(g)
        local task = g:spawn(function()
          local ok, raised = pcall(orc.deadline, 100, job("inner", 50))
          say(tostring(ok) .. " " .. raised.kind)
        end)
        orc.sleep(1)
        task:cancel()
      end)
      assert.same({ "1 inner cancelled", "1 false cancelled" }, log)
      assert.equal(0, w.sched.timers.n)
    end)
  end)

  describe("await", function()
    it("returns nil, err of a cancelled task and never raises", function()
      w.run(orc.group, function(g)
        local task = g:spawn(orc.sleep, 100)
        task:cancel()
        local ok, none, err = pcall(task.await, task)
        assert.same({ true, nil, "cancelled" }, { ok, none, err.kind })
      end)
    end)

    it("in a circle is seen as a deadlock", function()
      local root = w.sched:run(function()
        orc.group(function(g)
          local a
          local b = g:spawn(function() return a:await() end)
          a = g:spawn(function() return b:await() end)
        end)
      end)
      assert.matches("deadlock: 3 tasks", root.err.message)
      assert.equal(0, w.sched.live)
    end)
  end)

  describe("sleep and now", function()
    it("understand durations", function()
      local before, after = w.run(function()
        local before = orc.now()
        orc.sleep "1h"
        orc.sleep(0.5)
        return before, orc.now()
      end)
      assert.equal(3600.5, after - before)
    end)
  end)

  describe("semaphore", function()
    -- Starts n tasks that hold a permit for a second each.
    local function holders(g, semaphore, n)
      local started = {}
      for i = 1, n do
        started[i] = g:spawn(function()
          semaphore:acquire()
          say("got " .. i)
          orc.sleep(1)
          semaphore:release()
        end)
      end
      return started
    end

    it("lets so many in, first come, first served", function()
      w.run(orc.group, function(g) holders(g, orc.semaphore(2), 5) end)
      assert.same({ "0 got 1", "0 got 2", "1 got 3", "1 got 4", "2 got 5" }, log)
    end)

    it("forgets those who are cancelled while they wait", function()
      w.run(orc.group, function(g)
        local started = holders(g, orc.semaphore(1), 4)
        orc.sleep(0.5)
        started[2]:cancel()
        started[3]:cancel()
      end)
      assert.same({ "0 got 1", "1 got 4" }, log)
    end)

    it("passes on the permit of one who was cancelled in the moment he got it", function()
      w.run(orc.group, function(g)
        local semaphore = orc.semaphore(1)
        semaphore:acquire()
        local started = holders(g, semaphore, 3)
        orc.sleep(1)
        semaphore:release()
        started[1]:cancel()
        started[2]:cancel()
      end)
      assert.same({ "1 got 3" }, log)
    end)

    it("gives the permit back however `with` ends", function()
      w.run(orc.group, function(g)
        local semaphore = orc.semaphore(1)
        local a, b = semaphore:with(function() return 1, nil end)
        assert.same({ 1, nil }, { a, b })
        local ok, raised = pcall(semaphore.with, semaphore, boom)
        assert.is_false(ok)
        assert.matches("boom", raised.message)
        assert.matches(IN_BOOM, raised.traceback)
        local task = g:spawn(function() semaphore:with(function() orc.sleep(100) end) end)
        orc.sleep(1)
        task:cancel()
        task:await()
        semaphore:acquire()
      end)
      assert.equal(1, w.at())
    end)

    it("refuses to be released more often than acquired", function()
      assert.matches("tasks_spec.lua:%d+: semaphore:release: released more", raised_by(function()
        orc.semaphore(1):release()
      end))
    end)

    it("leaves no one in line who could not wait there", function()
      w.run(orc.group, function(g)
        local semaphore = orc.semaphore(1)
        semaphore:acquire()
        table.sort({ 2, 1 }, function(a, b)
          pcall(semaphore.acquire, semaphore)
          return a < b
        end)
        holders(g, semaphore, 1)
        orc.sleep(1)
        semaphore:release()
      end)
      assert.same({ "1 got 1" }, log)
    end)
  end)

  describe("channel", function()
    local function receiver(g, channel, name)
      return g:spawn(function()
        for value in channel:iter() do say(name .. " " .. tostring(value)) end
        say(name .. " closed")
      end)
    end

    it("without room hands over from hand to hand", function()
      w.run(orc.group, function(g)
        local channel = orc.channel()
        g:spawn(function()
          for i = 1, 3 do
            channel:send(i)
            say("sent " .. i)
          end
          channel:close()
        end)
        for _ = 1, 3 do
          orc.sleep(1)
          say("received " .. channel:recv())
        end
        assert.is_nil(channel:recv())
      end)
      assert.same({
        "1 received 1", "1 sent 1", "2 received 2", "2 sent 2", "3 received 3", "3 sent 3",
      }, log)
    end)

    it("with room makes the sender wait only when it is full", function()
      w.run(orc.group, function(g)
        local channel = orc.channel(2)
        g:spawn(function()
          for i = 1, 4 do
            channel:send(i)
            say("sent " .. i)
          end
        end)
        orc.sleep(1)
        local got = {}
        for i = 1, 4 do got[i] = channel:recv() end
        assert.same({ 1, 2, 3, 4 }, got)
      end)
      assert.same({ "0 sent 1", "0 sent 2", "1 sent 3", "1 sent 4" }, log)
    end)

    it("has room again for every value that is taken", function()
      w.run(function()
        local channel = orc.channel(1)
        for i = 1, 5 do
          channel:send(i)
          assert.equal(i, channel:recv())
        end
      end)
    end)

    it("carries false, and goes to receivers in turn", function()
      w.run(orc.group, function(g)
        local channel = orc.channel()
        receiver(g, channel, "a")
        receiver(g, channel, "b")
        orc.sleep(1)
        channel:send(false)
        channel:send(2)
        orc.sleep(1)
        channel:close()
      end)
      assert.same({ "1 a false", "1 b 2", "2 a closed", "2 b closed" }, log)
    end)

    it("gives what it holds after it was closed", function()
      w.run(function()
        local channel = orc.channel(3)
        channel:send(1)
        channel:send(2)
        channel:close()
        channel:close()
        assert.same({ 1, 2 }, { channel:recv(), channel:recv() })
        assert.is_nil(channel:recv())
      end)
    end)

    it("forgets those who are cancelled while they wait", function()
      w.run(orc.group, function(g)
        local channel = orc.channel()
        local first = receiver(g, channel, "a")
        receiver(g, channel, "b")
        orc.sleep(1)
        first:cancel()
        channel:send "x"
        channel:close()
        channel = orc.channel()
        local sender = g:spawn(channel.send, channel, "lost")
        g:spawn(channel.send, channel, "kept")
        orc.sleep(1)
        sender:cancel()
        assert.equal("kept", channel:recv())
      end)
      assert.same({ "1 b x", "1 b closed" }, log)
    end)

    it("loses no value whose receiver was cancelled in the moment it got it", function()
      w.run(orc.group, function(g)
        local channel = orc.channel(2)
        local first = receiver(g, channel, "a")
        local second = receiver(g, channel, "b")
        local third = receiver(g, channel, "c")
        orc.sleep(1)
        channel:send "x"
        first:cancel()
        second:cancel()
        orc.sleep(1)
        channel:send "y"
        third:cancel()
        channel:send "z"
        g:spawn(function() -- y and z fill it
          channel:send "last"
          say "sent"
        end)
        orc.sleep(1)
        assert.same({ "y", "z", "last" }, { channel:recv(), channel:recv(), channel:recv() })
      end)
      assert.same({ "1 c x", "3 sent" }, log)
    end)

    it("keeps a value whose sender was cancelled after it was taken", function()
      w.run(orc.group, function(g)
        local channel = orc.channel()
        local sender = g:spawn(channel.send, channel, "x")
        orc.sleep(1)
        say(channel:recv())
        sender:cancel()
      end)
      assert.same({ "1 x" }, log)
    end)

    it("refuses nil, and sending when closed", function()
      local channel = orc.channel(1)
      assert.matches("tasks_spec.lua:%d+: channel:send: nil cannot be sent",
        raised_by(function() channel:send(nil) end))
      channel:close()
      assert.matches("channel:send: the channel is closed", raised_by(function()
        channel:send(1)
      end))
      local waiting = orc.channel()
      assert.matches("channel:send: the channel was closed", raised_by(function()
        local _, err = orc.group(function(g)
          g:spawn(waiting.send, waiting, 1)
          orc.sleep(1)
          waiting:close()
        end)
        error(err.message)
      end))
    end)

    it("that nobody serves is seen as a deadlock", function()
      local root = w.sched:run(function() orc.channel():recv() end)
      assert.matches("deadlock", root.err.message)
    end)
  end)

  describe("misuse", function()
    local cases = {
      { 'map: expects a list or an iterator function, got nil', function() orc.map(nil, boom) end },
      { "map: expects a function after the items", function() orc.map({}) end },
      { 'map: unknown option "concurency" %(did you mean "concurrency"%?%)',
        function() orc.map({}, boom, { concurency = 1 }) end },
      { 'map: "concurrency" must be at least 1',
        function() orc.map({}, boom, { concurrency = 0 }) end },
      { 'map: "on_error" must be "collect" or "fail", got "skip"',
        function() orc.map({}, boom, { on_error = "skip" }) end },
      { "gather: expects a list of functions", function() orc.gather(boom) end },
      { "gather: element 2 is a number, not a function", function() orc.gather { boom, 2 } end },
      { 'gather: unknown option "on_eror" %(did you mean "on_error"%?%)',
        function() orc.gather({}, { on_eror = 1 }) end },
      { "group: expects a function", function() orc.group({}) end },
      { 'group: unknown option "dedline" %(did you mean "deadline"%?%)',
        function() orc.group(boom, { dedline = 1 }) end },
      { 'group: "deadline" must be a duration',
        function() orc.group(boom, { deadline = "2x" }) end },
      { "group:spawn: expects a function", function()
        error(select(2, orc.group(function(g) g:spawn(1) end)))
      end },
      { 'deadline: must be a duration such as "10s", got "soon"',
        function() orc.deadline("soon", boom) end },
      { "deadline: expects a function", function() orc.deadline(1) end },
      { 'sleep: must be a duration such as "10s", got %-1', function() orc.sleep(-1) end },
      { "semaphore: expects a whole number ≥ 1, got 0", function() orc.semaphore(0) end },
      { "channel: expects a whole number ≥ 0, got 1.5", function() orc.channel(1.5) end },
      { "channel: expects a whole number ≥ 0, got %-1", function() orc.channel(-1) end },
      { "channel: expects a whole number ≥ 0, got many", function() orc.channel "many" end },
    }
    for _, case in ipairs(cases) do
      it(case[1], function()
        assert.matches("tasks_spec.lua:%d+: " .. case[1], raised_by(case[2]))
      end)
    end
  end)
end)
