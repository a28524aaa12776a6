local fake_host = require "fake_host"
local limits = require "orchestrator.limits"
local rate = require "orchestrator.rate"

describe("limits", function()
  local w, sched, log

  before_each(function()
    w = fake_host.world()
    sched, log = w.sched, {}
  end)

  local function pool_of(opts)
    if opts.rate then opts.limiter = rate.limiter(opts.rate) end
    return limits.pool(sched, opts)
  end

  local function idle(pool)
    return pool.active == 0 and pool.queue.count == 0 and next(pool.hosts) == nil
      and next(pool.queue.lanes) == nil
  end

  -- A task per name ("a1" goes to host "a") that holds a slot for so long.
  local function start(pool, names, seconds)
    local tasks = {}
    for name in names:gmatch "%S+" do
      local host = name:sub(1, 1)
      tasks[#tasks + 1] = sched:spawn(function()
        local waited = pool:acquire(host)
        log[#log + 1] = string.format("%g %s", w.at(), name)
        local ok, raised = pcall(sched.sleep, sched, seconds or 1)
        pool:release(host)
        if not ok then error(raised, 0) end
        return waited
      end)
      tasks[name] = tasks[#tasks]
    end
    return tasks
  end

  local function run(pool, names, seconds)
    w.run(function()
      for _, task in ipairs(start(pool, names, seconds)) do task:await() end
    end)
    assert.is_true(idle(pool))
    return table.concat(log, " ")
  end

  it("lets so many in, in turn", function()
    assert.equal("0 a1 0 a2 1 a3 1 a4 2 a5", run(pool_of { total = 2 }, "a1 a2 a3 a4 a5"))
  end)

  it("goes round the hosts, first come first served within one", function()
    assert.equal("0 a1 1 a2 2 b1 3 c1 4 a3 5 b2 6 a4",
      run(pool_of { total = 1 }, "a1 a2 a3 a4 b1 b2 c1"))
  end)

  it("lets so many in per host, passing over the full ones", function()
    assert.equal("0 a1 0 a2 0 b1 1 b2 1 a3",
      run(pool_of { total = 3, per_host = 2 }, "a1 a2 a3 b1 b2"))
  end)

  it("tells how long was waited", function()
    w.run(function()
      local tasks = start(pool_of { total = 1 }, "a1 a2 a3", 2.5)
      assert.same({ 0, 2.5, 5 }, { tasks[1]:await(), (tasks[2]:await()), (tasks[3]:await()) })
    end)
  end)

  it("tells its state", function()
    w.run(function()
      local pool = pool_of { total = 2, per_host = 1 }
      local tasks = start(pool, "a1 a2 b1 b2 b3")
      sched:sleep(0.5)
      assert.same({ active = 2, waiting = 3, total = 2 }, pool:state())
      for _, task in ipairs(tasks) do task:await() end
      assert.same({ active = 0, waiting = 0, total = 2 }, pool:state())
    end)
  end)

  describe("with a rate limit", function()
    it("spaces starts evenly and holds no slot meanwhile", function()
      local pool = pool_of { total = 2, rate = { limit = 1, per = 10 } }
      w.run(function()
        local tasks = start(pool, "a1 b1 a2")
        for _, at in ipairs { 5, 15, 19 } do
          sched:sleep(at - w.at())
          assert.equal(0, pool.active)
        end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "10 b1", "20 a2" }, log)
    end)

    it("needs both a slot and the limit", function()
      assert.equal("0 a1 8 a2 16 a3",
        run(pool_of { total = 1, rate = { limit = 1, per = 5 } }, "a1 a2 a3", 8))
    end)

    it("lets a burst go at once", function()
      assert.equal("0 a1 0 a2 0 b1 1 a3 2 b2",
        run(pool_of { total = 9, rate = { limit = 1, per = 1, burst = 3 } }, "a1 a2 b1 a3 b2"))
    end)

    it("keeps a strict window", function()
      assert.equal("0 a1 0 a2 10 a3 10 a4",
        run(pool_of { total = 9, rate = { limit = 2, per = 10, window = "sliding" } },
          "a1 a2 a3 a4"))
    end)

    it("does not count the time before a slot was free", function()
      local pool = pool_of { total = 9, rate = { limit = 1, per = 10 } }
      w.run(function()
        sched:sleep(100)
        for _, task in ipairs(start(pool, "a1 a2")) do task:await() end
      end)
      assert.same({ "100 a1", "110 a2" }, log)
    end)

    it("loses no start to a waiter that leaves", function()
      local pool = pool_of { total = 9, rate = { limit = 1, per = 10 } }
      w.run(function()
        local tasks = start(pool, "a1 a2 a3")
        sched:sleep(5)
        tasks.a2:cancel()
        tasks.a3:await()
      end)
      assert.same({ "0 a1", "10 a3" }, log)
      assert.is_true(idle(pool))
    end)

    it("is shared by pools in turn, so that neither starves", function()
      local limiter = rate.limiter { limit = 1, per = 1 }
      local one = limits.pool(sched, { total = 9, limiter = limiter })
      local two = limits.pool(sched, { total = 9, limiter = limiter })
      w.run(function()
        local tasks = start(one, "a1 a2 a3 a4")
        for _, task in ipairs(start(two, "b1 b2")) do tasks[#tasks + 1] = task end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 a2", "2 b1", "3 a3", "4 b2", "5 a4" }, log)
    end)

    it("is shared also with a pool that needs no more starts", function()
      local limiter = rate.limiter { limit = 1, per = 1 }
      local one = limits.pool(sched, { total = 9, limiter = limiter })
      local two = limits.pool(sched, { total = 9, limiter = limiter })
      w.run(function()
        local tasks = start(one, "a1 a2")
        tasks[3] = start(two, "b1")[1]
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 a2", "2 b1" }, log)
    end)

    it("is shared also with a pool that has no slot free when its turn comes", function()
      local limiter = rate.limiter { limit = 1, per = 1 }
      local one = limits.pool(sched, { total = 1, limiter = limiter })
      local two = limits.pool(sched, { total = 9, limiter = limiter })
      w.run(function()
        local tasks = start(one, "a1 a2", 3.5)
        for _, task in ipairs(start(two, "b1 b2 b3")) do tasks[#tasks + 1] = task end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 b1", "2 b2", "3 b3", "4 a2" }, log)
    end)
  end)

  describe("cancelling", function()
    it("takes a waiter out of the line", function()
      local pool = pool_of { total = 1 }
      w.run(function()
        local tasks = start(pool, "a1 a2 b1 a3")
        sched:sleep(0.5)
        tasks.a2:cancel()
        tasks.b1:cancel()
        assert.equal(1, pool.queue.count)
        tasks.a3:await()
      end)
      assert.same({ "0 a1", "1 a3" }, log)
      assert.is_true(idle(pool))
    end)

    it("passes on the slot of one that was handed it and has not run yet", function()
      local pool = pool_of { total = 1, per_host = 1 }
      w.run(function()
        local tasks = start(pool, "b1 b2 b3")
        sched:sleep(0)
        sched:sleep(1) -- ends after b1 does and before b2 runs
        assert.is_false(tasks.b2.waiting)
        tasks.b2:cancel()
        tasks.b3:await()
      end)
      assert.same({ "0 b1", "1 b3" }, log)
      assert.is_true(idle(pool))
    end)

    it("gives back the slot of one that works", function()
      local pool = pool_of { total = 1 }
      w.run(function()
        local tasks = start(pool, "a1 a2", 100)
        sched:sleep(1)
        tasks.a1:cancel()
        sched:sleep(1)
        tasks.a2:cancel()
        tasks.a2:await()
      end)
      assert.same({ "0 a1", "1 a2" }, log)
      assert.is_true(idle(pool))
    end)

    it("leaves no one in line who could not wait there", function()
      local pool = pool_of { total = 1 }
      w.run(function()
        local tasks = start(pool, "a1")
        sched:sleep(0.5)
        table.sort({ 2, 1 }, function(a, b)
          assert.matches("cannot wait here", select(2, pcall(pool.acquire, pool, "a")))
          return a < b
        end)
        tasks.a1:await()
      end)
      assert.is_true(idle(pool))
    end)
  end)

  describe("on_spare", function()
    local calls

    local function watched(opts)
      local pool = pool_of(opts)
      calls = {}
      pool.on_spare = function() calls[#calls + 1] = w.at() end
      return pool
    end

    it("is called when a slot is free that nobody waits for", function()
      run(watched { total = 1 }, "a1 a2")
      assert.same({ 2 }, calls)
    end)

    it("is called when those who wait may not go, since their host is full", function()
      run(watched { total = 3, per_host = 1 }, "a1 a2 b1")
      assert.same({ 1, 1, 2 }, calls)
    end)

    it("is called when the rate limit lets one go, and not before", function()
      local pool = watched { total = 9, rate = { limit = 1, per = 10 } }
      run(pool, "a1")
      assert.same({}, calls)
      w.run(function() sched:sleep(50) end)
      assert.same({ 10 }, calls)
    end)

    it("is called for the next start also when no slot is given back meanwhile", function()
      run(watched { total = 9, rate = { limit = 1, per = 10 } }, "a1 a2", 100)
      assert.same({ 20, 100, 110 }, calls)
    end)

    it("wakes all who listen, until they no longer do", function()
      local pool = pool_of { total = 1 }
      local woken = { a = 0, b = 0 }
      local function listener(name)
        return { wake = function() woken[name] = woken[name] + 1 end }
      end
      local a, b = listener "a", listener "b"
      pool:listen(a)
      pool:listen(b)
      run(pool, "a1")
      assert.same({ a = 1, b = 1 }, woken)
      pool:unlisten(a)
      run(pool, "a1")
      assert.same({ a = 1, b = 2 }, woken)
      pool:unlisten(b)
      run(pool, "a1")
      assert.same({ a = 1, b = 2 }, woken)
      assert.is_nil(pool.on_spare)
    end)

    it("may be taken away", function()
      local pool = watched { total = 1 }
      pool.on_spare = nil
      run(pool, "a1 a2")
      assert.same({}, calls)
    end)

    it("goes with spare()", function()
      local pool = watched { total = 3, per_host = 1, rate = { limit = 1, per = 2, burst = 2 } }
      local seen = {}
      local function look() seen[#seen + 1] = pool:spare() end
      w.run(function()
        look() -- all free
        local tasks = start(pool, "a1", 5)
        sched:sleep(1)
        look() -- one taken, and the rate lets another go
        tasks[2] = start(pool, "b1", 5)[1]
        sched:sleep(0.5)
        look() -- the rate lets nobody go
        sched:sleep(0.5)
        look()
        tasks[3] = start(pool, "a2", 5)[1]
        sched:sleep(2)
        look() -- a2 waits for its host, others may go
        for _, task in ipairs(tasks) do task:await() end
        look()
      end)
      assert.same({ 3, 2, 0, 1, 1, 3 }, seen)
    end)
  end)

  -- Many tasks that come, hold a slot, leave or are cancelled at random times.
  describe("whatever happens (random)", function()
    local function must(ok, message) -- faster than busted's assert
      if not ok then error(message, 2) end
    end

    local HOSTS = { "a", "b", "c" }

    local function case_of(random)
      local function up_to(n) return math.floor(random() * n) + 1 end
      local case = { total = up_to(6), per_host = random() < 0.5 and up_to(3) or nil }
      local kind = random()
      if kind < 0.3 then
        case.rate = { limit = up_to(3), per = 1, window = "sliding" }
      elseif kind < 0.6 then
        case.rate = { limit = up_to(4), per = 1, burst = up_to(2) }
      end
      return case
    end

    -- What must hold of the starts of a rate.
    local function check_rate(starts, given)
      local behind = given.window and given.limit or given.burst
      local apart = given.window and given.per or given.per / given.limit
      for i = behind + 1, #starts do
        must(starts[i] - starts[i - behind] >= apart - 1e-6, "starts too close")
      end
    end

    local function play(seed)
      local random = fake_host.generator(seed)
      local world = fake_host.world()
      local case = case_of(random)
      case.limiter = case.rate and rate.limiter(case.rate)
      local pool = limits.pool(world.sched, case)
      local waiting, starts, granted, cancelled = { a = {}, b = {}, c = {} }, {}, 0, 0

      local function one(arrival, host, hold)
        world.sched:sleep(arrival)
        local ticket = {}
        table.insert(waiting[host], ticket)
        local ok, raised = pcall(pool.acquire, pool, host)
        local line = waiting[host]
        local place = 1
        while line[place] ~= ticket do place = place + 1 end
        table.remove(line, place)
        if not ok then error(raised, 0) end
        must(place == 1, "not first come, first served")
        must(pool.active <= case.total, "more than total")
        must(pool.hosts[host] <= (case.per_host or case.total), "more than per_host")
        granted = granted + 1
        starts[granted] = world.sched:now()
        ok, raised = pcall(world.sched.sleep, world.sched, hold)
        pool:release(host)
        if not ok then error(raised, 0) end
      end

      -- No slot is free while somebody could use it.
      local function look()
        if pool.active == case.total then return end
        if case.limiter and case.limiter:wait(world.sched:now()) > 0 then return end
        for _, host in ipairs(HOSTS) do
          local full = case.per_host and (pool.hosts[host] or 0) == case.per_host
          must(full or not waiting[host][1], "a slot is free and somebody waits")
        end
      end

      world.run(function()
        local tasks = {}
        for i = 1, 40 do
          local host = HOSTS[math.floor(random() * #HOSTS) + 1]
          tasks[i] = world.sched:spawn(one, random() * 5, host, random() * 1.5)
          if random() < 0.3 then
            cancelled = cancelled + 1
            world.sched:at(1000 + random() * 8, function() tasks[i]:cancel() end)
          end
        end
        for _ = 1, 60 do
          world.sched:sleep(0.1234567)
          look()
        end
        for i = 1, 40 do
          local _, err = tasks[i]:await()
          if err and err.kind ~= "cancelled" then error(err.message, 0) end
        end
      end)
      must(idle(pool), "something is left over")
      must(granted >= 40 - cancelled, "somebody was forgotten")
      if case.rate then check_rate(starts, case.rate) end
    end

    it("keeps its promises", function()
      for seed = 1, 300 do
        local ok, problem = pcall(play, seed)
        if not ok then error("seed " .. seed .. ": " .. tostring(problem), 0) end
      end
    end)
  end)
end)
