local fake_host = require "fake_host"
local limits = require "orchestrator.limits"
local rate = require "orchestrator.rate"
local server = require "orchestrator.server"

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
    for _, h in pairs(pool.hosts) do
      if h.active ~= 0 or h.server.in_flight ~= 0 or h.server.waiting[1] then return false end
    end
    return pool:state().active == 0 and pool.queue.count == 0 and next(pool.queue.lanes) == nil
      and not pool.slots.pools[1] and not (pool.in_line and not pool.listeners)
  end

  -- A task per name that holds a slot for so long, until it has such an outcome: "a1" goes to host
  -- "a", "a2*5" weighs 5, and "a3+2" has priority 2.
  local function start(pool, names, seconds, outcome)
    local tasks = {}
    for text in names:gmatch "%S+" do
      local name = text:match "^%w+"
      local host = name:sub(1, 1)
      tasks[#tasks + 1] = sched:spawn(function()
        local waited = pool:acquire(host, tonumber(text:match "%*([%d.]+)"),
          tonumber(text:match "%+(-?%d+)"), pool.observer)
        log[#log + 1] = string.format("%g %s", w.at(), name)
        local ok, raised = pcall(sched.sleep, sched, seconds or 1)
        pool:release(host, ok and outcome or nil)
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

  -- Runs tasks of several pools, given as pool, names, seconds of each.
  local function run_all(...)
    local given, n = { ... }, select("#", ...)
    w.run(function()
      local tasks = {}
      for i = 1, n, 3 do
        for _, task in ipairs(start(given[i], given[i + 1], given[i + 2])) do
          tasks[#tasks + 1] = task
        end
      end
      for _, task in ipairs(tasks) do task:await() end
    end)
    for i = 1, n, 3 do assert.is_true(idle(given[i])) end
    return table.concat(log, " ")
  end

  local function later(seconds, fn)
    sched:at(sched:now() + seconds, fn)
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
          assert.equal(0, pool:state().active)
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

  describe("with weights", function()
    it("has heavy starts pay more", function()
      assert.equal("0 a1 5 a2 6 a3",
        run(pool_of { total = 9, rate = { limit = 1, per = 1 } }, "a1*5 a2 a3"))
    end)

    it("keeps the turn of a heavy one, however light those behind it are", function()
      local window = { limit = 4, per = 10, window = "sliding" }
      assert.equal("0 a1 0 a2 0 a3 10 b1 20 a4 20 a5",
        run(pool_of { total = 9, rate = window }, "a1 a2 a3 b1*4 a4 a5"))
    end)

    it("keeps it also among pools", function()
      local limiter = rate.limiter { limit = 4, per = 10, window = "sliding" }
      local one, two = pool_of { total = 9, limiter = limiter },
        pool_of { total = 9, limiter = limiter }
      assert.equal("0 a1 0 a2 10 a3 20 b1 20 b2", run_all(one, "a1*2 a2 a3*4", 1, two, "b1 b2", 1))
    end)

    it("lets those behind go when a heavy one leaves", function()
      local pool = pool_of { total = 9, rate = { limit = 4, per = 10, window = "sliding" } }
      w.run(function()
        local tasks = start(pool, "a1*3 a2*4 a3")
        sched:sleep(2)
        tasks.a2:cancel()
        tasks.a3:await()
      end)
      assert.same({ "0 a1", "2 a3" }, log)
      assert.is_true(idle(pool))
    end)

    it("takes fractions", function()
      assert.equal("0 a1 0 a2 1 a3",
        run(pool_of { total = 9, rate = { limit = 1, per = 1 } }, "a1*0.5 a2*0.5 a3"))
    end)

    it("refuses what could never start", function()
      local pool = pool_of { total = 9, rate = { limit = 4, per = 10 } }
      pool:check_weight(4)
      pool:check_weight(nil)
      assert.matches('request: "weight" is 5, and the rate limit lets no more than 4 through',
        select(2, pcall(pool.check_weight, pool, 5)))
      pool_of { total = 9 }:check_weight(1e9)
    end)
  end)

  describe("with several rate limits", function()
    local function limiter(limit, per, window)
      return rate.limiter { limit = limit, per = per, window = window or nil }
    end

    it("keeps all of them", function()
      local pool = pool_of { total = 9, limiters = { limiter(1, 1), limiter(3, 60, "sliding") } }
      assert.equal("0 a1 1 a2 2 a3 60 a4 61 a5", run(pool, "a1 a2 a3 a4 a5"))
    end)

    it("lets others pass who share one of them while it waits for the other", function()
      local fast, slow = limiter(1, 1), limiter(1, 10)
      local both = pool_of { total = 9, limiters = { fast, slow } }
      local one = pool_of { total = 9, limiters = { fast } }
      assert.equal("0 a1 1 b1 2 b2 3 b3 4 b4 10 a2",
        run_all(both, "a1 a2", 1, one, "b1 b2 b3 b4", 1))
    end)

    it("lets nobody pass who would make it wait even longer", function()
      -- Half a second after each other, so that whenever one is free the other is not.
      local x, y = limiter(1, 1), limiter(1, 1)
      local both = pool_of { total = 9, limiters = { x, y } }
      local only_x = pool_of { total = 9, limiters = { x } }
      local only_y = pool_of { total = 9, limiters = { y } }
      w.run(function()
        local tasks = { start(only_x, "a1 a2 a3 a4")[1] }
        sched:sleep(0.5)
        tasks[2] = start(only_y, "b1 b2 b3 b4")[1]
        tasks[3] = start(both, "c1")[1]
        tasks[3]:await()
        for _, task in ipairs(tasks) do task:await() end
        sched:sleep(9)
      end)
      -- c1 stands behind a2 and b2 and in front of the others.
      assert.same({ "0 a1", "0.5 b1", "1 a2", "1.5 b2", "2.5 c1" },
        { log[1], log[2], log[3], log[4], log[5] })
      assert.equal(9, #log)
    end)

    it("does not make pools wait for each other", function()
      local x, y = limiter(1, 1), limiter(1, 1)
      local one = pool_of { total = 9, limiters = { x, y } }
      local two = pool_of { total = 9, limiters = { y, x } }
      assert.equal("0 a1 1 a2 2 b1 3 a3 4 b2 5 b3",
        run_all(one, "a1 a2 a3", 1, two, "b1 b2 b3", 1))
    end)

    it("is told when a limit says anew what it lets through", function()
      local allowed = false
      local given = {
        wait = function() return allowed and 0 or math.huge end, take = function() end,
      }
      local pool = pool_of { total = 9, limiter = given }
      w.run(function()
        later(7, function()
          allowed = true
          given.on_change(given)
        end)
        start(pool, "a1")[1]:await()
      end)
      assert.same({ "7 a1" }, log)
    end)
  end)

  describe("a pause", function()
    it("of a rate limit holds up all who share it", function()
      local limiter = rate.limiter { limit = 1, per = 1 }
      local one, two = pool_of { total = 9, limiter = limiter },
        pool_of { total = 9, limiter = limiter }
      later(0.5, function() limiter:pause(1008) end)
      assert.equal("0 a1 8 a2 9 b1 10 b2", run_all(one, "a1 a2", 1, two, "b1 b2", 1))
    end)

    local function busy(status, after)
      return { status = status, elapsed = 1,
        head = string.format("HTTP/1.1 %d X\r\nRetry-After: %s\r\n\r\n", status, after) }
    end

    it("is what a Retry-After asks for, of all rate limits that were paid", function()
      for _, status in ipairs { 429, 503 } do
        w = fake_host.world()
        sched, log = w.sched, {}
        local limiter = rate.limiter { limit = 1, per = 1 }
        local one, two = pool_of { total = 9, limiter = limiter },
          pool_of { total = 9, limiter = limiter }
        w.run(function()
          start(one, "a1", 0.5, busy(status, "20"))
          for _, task in ipairs(start(two, "b1 c1")) do task:await() end
        end)
        assert.same({ "0 a1", "20.5 b1", "21.5 c1" }, log)
      end
    end)

    it("is one of the host where there is no rate limit, in all pools", function()
      local servers = server.new { sched = sched, wall = function() return 0 end }
      local one = pool_of { total = 1, servers = servers }
      local two = pool_of { total = 1, servers = servers }
      w.run(function()
        start(one, "a1", 0.5, busy(503, "20"))
        sched:sleep(1)
        local tasks = start(one, "a2 b1")
        for _, task in ipairs(start(two, "a3 b2")) do tasks[#tasks + 1] = task end
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 b1", "1 b2", "20.5 a2", "20.5 a3" }, log)
      assert.is_true(idle(one) and idle(two))
    end)

    it("is not what other answers ask for, nor what is asked of who does not heed it", function()
      for _, case in ipairs {
        { busy(200, "20") }, { busy(500, "20") }, { busy(301, "20") }, { busy(429, "soon") },
        { busy(429, "301") }, { busy(429, "20"), { heeds = false } },
        { busy(429, "20"), nil, { respect_retry_after = false, max_retry_after = 300 } },
        { busy(429, "20"), nil, { respect_retry_after = true, max_retry_after = 19 } },
      } do
        local pool = pool_of(case[2] or {})
        pool.slots.total = 1
        w.run(function()
          pool:acquire "a"
          pool:release("a", case[1], case[3])
          assert.equal(0, pool:acquire "a")
          pool:release "a"
        end)
      end
    end)
  end)

  describe("a server's own limit", function()
    -- A server that lets 4 hops through in 10 s, tells so, and refuses more.
    local function limited_server()
      local begun, used = 0, 0
      return function()
        local now = w.at()
        if now >= begun + 10 then begun, used = now, 0 end
        used = used + 1
        return {
          status = used > 4 and 429 or 200, elapsed = 1,
          head = string.format("HTTP/1.1 200 X\r\nX-RateLimit-Limit: 4\r\n"
            .. "X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n\r\n",
            math.max(0, 4 - used), math.ceil(begun + 10 - now)),
        }
      end
    end

    local function fetch_all(pools, n, answer)
      local tasks, refused = {}, 0
      w.run(function()
        for i = 1, n do
          tasks[i] = sched:spawn(function()
            local pool = pools[i % #pools + 1]
            pool:acquire "a"
            sched:sleep(0.5)
            local outcome = answer()
            sched:sleep(0.5)
            if outcome.status == 429 then refused = refused + 1 end
            pool:release("a", outcome)
          end)
        end
        for _, task in ipairs(tasks) do task:await() end
      end)
      return refused
    end

    it("slows all pools down before it is reached", function()
      local servers = server.new { sched = sched, wall = function() return 0 end }
      local answer = limited_server()
      local pools = {
        pool_of { total = 2, servers = servers }, pool_of { total = 2, servers = servers },
      }
      assert.equal(0, fetch_all(pools, 24, answer))
      assert.is_true(w.at() >= 50 and w.at() < 60, w.at())
      assert.is_true(idle(pools[1]) and idle(pools[2]))
    end)

    it("is kept also when many wait for it", function()
      local answer = limited_server()
      local pool = pool_of { total = 9 }
      fetch_all({ pool }, 1, answer)
      assert.equal(0, fetch_all({ pool }, 30, answer))
    end)

    it("is nothing to those who do not heed it", function()
      local servers = server.new { sched = sched, wall = function() return 0 end }
      local heedless = pool_of { total = 1, servers = servers, heeds = false }
      local other = pool_of { total = 1, servers = servers }
      local none_left = { status = 200, head = "HTTP/1.1 200 X\r\nX-RateLimit-Remaining: 0\r\n"
        .. "X-RateLimit-Reset: 100\r\n\r\n" }
      w.run(function()
        heedless:acquire "a"
        heedless:release("a", none_left) -- nor do they tell the others
        local tasks = start(heedless, "a1 a2", 2)
        assert.equal(0, other:acquire "a")
        sched:sleep(1)
        other:release("a", none_left) -- while one waits
        assert.is_true(other.hosts.a.server.shut)
        for _, task in ipairs(tasks) do task:await() end
        start(heedless, "a3")[1]:await()
      end)
      assert.same({ "0 a1", "2 a2", "4 a3" }, log)
    end)

    it("does not slow who does not heed it", function()
      assert.is_true(fetch_all({ pool_of { total = 2, heeds = false } }, 12, limited_server()) > 5)
      assert.is_true(w.at() < 10)
    end)

    it("of one host does not slow others", function()
      local pool = pool_of { total = 2 }
      w.run(function()
        pool:acquire "a"
        pool:release("a", { status = 200, head = "HTTP/1.1 200 X\r\nX-RateLimit-Remaining: 0\r\n"
          .. "X-RateLimit-Reset: 100\r\n\r\n" })
        for _, task in ipairs(start(pool, "a1 b1 a2 b2 b3")) do task:await() end
      end)
      assert.same({ "0 b1", "0 b2", "1 b3" }, { log[1], log[2], log[3] })
      assert.is_true(tonumber(log[4]:match "^%S+") >= 100)
    end)

    it("counts what is in flight but streams whose answer has begun", function()
      local pool = pool_of { total = 9 }
      local function told(remaining)
        return { status = 200, head = string.format("HTTP/1.1 200 X\r\n"
          .. "X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: 100\r\n\r\n", remaining) }
      end
      w.run(function()
        for _ = 1, 3 do pool:acquire "a" end
        pool:answered("a", told(2))
        assert.is_true(pool.hosts.a.server.shut)
        pool:answered("a", told(2))
        assert.is_false(pool.hosts.a.server.shut)
        assert.equal(3, pool:state().active)
        pool:release("a", nil, nil, true)
        pool:release("a", nil, nil, true)
        pool:release "a"
      end)
      assert.is_true(idle(pool))
    end)
  end)

  describe("priorities", function()
    it("go before what waits already, also to other hosts", function()
      assert.equal("0 a1 1 b2 2 a3 3 b1 4 a2", run(pool_of { total = 1 }, "a1 a2 b1 b2+2 a3+1"))
    end)

    it("can starve what is below them", function()
      local pool = pool_of { total = 1 }
      w.run(function()
        local tasks = start(pool, "a1 a2 b1+1 b2+1 b3+1")
        sched:sleep(2.5)
        for _, task in ipairs(start(pool, "b4+1 b5+1")) do task:await() end
        tasks.a2:await()
      end)
      assert.equal("a2", log[#log]:match "%w+$")
    end)

    it("go before a heavy one that waits for a rate limit", function()
      local pool = pool_of { total = 9, rate = { limit = 4, per = 10, window = "sliding" } }
      w.run(function()
        local tasks = start(pool, "a1*3 a2*4")
        sched:sleep(1)
        tasks[3] = start(pool, "a3+1")[1]
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 a3", "11 a2" }, log)
    end)
  end)

  describe("slots that pools share", function()
    local function sharing(opts, ...)
      local slots, pools = limits.slots(opts), {}
      for i, more in ipairs { ... } do
        more.slots = slots
        pools[i] = pool_of(more)
      end
      return unpack(pools)
    end

    it("are no more than there are, and go to the pools in turn", function()
      local one, two = sharing({ total = 2 }, {}, {})
      assert.equal("0 a1 0 a2 1 a3 1 b1 2 a4 2 b2", run_all(one, "a1 a2 a3 a4", 1, two, "b1 b2", 1))
      assert.equal(2, one:state().total)
    end)

    it("are no more for a host than there may be", function()
      local one, two = sharing({ total = 9, per_host = 1 }, {}, {})
      assert.equal("0 a1 0 b1 1 a2 1 b2 2 a3", run_all(one, "a1 a2 b1", 1, two, "a3 b2", 1))
    end)

    it("go to the highest priority of all pools", function()
      local one, two = sharing({ total = 1 }, {}, {})
      assert.equal("0 a1 1 b2 2 a2 3 b1", run_all(one, "a1 a2", 1, two, "b1 b2+1", 1))
    end)

    it("go on to others while one waits for its rate limit", function()
      local one, two = sharing({ total = 1 }, { rate = { limit = 1, per = 3 } }, {})
      assert.equal("0 a1 1 b1 2 b2 3 a2 4 b3", run_all(one, "a1 a2", 1, two, "b1 b2 b3", 1))
    end)

    it("are offered to those who listen, when they could use them", function()
      local one, two = sharing({ total = 2 }, { rate = { limit = 1, per = 10 } }, {})
      local calls = { [one] = {}, [two] = {} }
      for pool, list in pairs(calls) do
        pool:listen { wake = function() list[#list + 1] = w.at() end }
      end
      run_all(one, "a1", 1, two, "b1", 2)
      w.run(function() sched:sleep(20) end)
      assert.same({ { 10 }, { 1, 2 } }, { calls[one], calls[two] })
    end)
  end)

  describe("whoever asked for it is told of waits", function()
    local function observed(opts)
      local pool, told = pool_of(opts), {}
      pool.observer = {
        waited = function(_, host, seconds, limit)
          told[#told + 1] = string.format("%s %g %s", host, seconds, limit)
        end,
      }
      return pool, told
    end

    it("and of what there was to wait for", function()
      local pool, told = observed { total = 1 }
      run(pool, "a1 a2 b1", 2)
      assert.same({ "a 2 concurrency", "b 4 concurrency" }, told)

      pool, told = observed { slots = limits.slots { total = 1, name = "pool x" } }
      run(pool, "a1 a2", 2)
      assert.same({ "a 2 pool x" }, told)

      pool, told = observed { total = 1, rate = { limit = 1, per = 5, name = "quota" } }
      run(pool, "a1 a2 a3", 2)
      assert.same({ "a 5 quota", "a 10 quota" }, told)

      pool, told = observed { total = 1, rate = { limit = 1, per = 5 } }
      run(pool, "a1 a2 a3", 4) -- most of the time there is no slot
      assert.same({ "a 5 concurrency", "a 10 concurrency" }, told)

      pool, told = observed {
        total = 9,
        limiters = { rate.limiter { limit = 1, per = 1 }, rate.limiter { limit = 1, per = 60 } },
      }
      run(pool, "a1 a2", 1)
      assert.same({ "a 60 1/1m" }, told)
    end)

    it("when a server's own limit was it", function()
      local pool, told = observed { total = 1 }
      w.run(function()
        pool:acquire "a"
        pool:release("a", { status = 503, head = "HTTP/1.1 503 X\r\nRetry-After: 9\r\n\r\n" })
        for _, task in ipairs(start(pool, "a1 b1")) do task:await() end
      end)
      assert.same({ "a 9 server" }, told)
    end)

    it("also when they gave up", function()
      local pool, told = observed { total = 1, rate = { limit = 1, per = 60 } }
      w.run(function()
        local tasks = start(pool, "a1 a2")
        sched:sleep(7)
        tasks.a2:cancel()
      end)
      assert.same({ "a 7 1/1m" }, told)
    end)
  end)

  describe("what governs a host", function()
    it("is asked how many may be in flight, and told what became of them", function()
      local most, heard = 1, {}
      local pool = pool_of { total = 9, adaptive = function()
        return {
          limit = function() return most end,
          report = function(_, now, outcome, in_flight)
            heard[#heard + 1] = { now, outcome.ok, outcome.overload, outcome.elapsed, in_flight }
            most = most + 1
          end,
        }
      end }
      w.run(function()
        local tasks = start(pool, "a1 a2 a3 a4", 1, { status = 200, elapsed = 1 })
        for _, task in ipairs(tasks) do task:await() end
      end)
      assert.same({ "0 a1", "1 a2", "1 a3", "2 a4" }, log)
      assert.same({ 1001, true, false, 1, 1 }, heard[1])
      assert.equal(4, #heard)
    end)

    it("hears of every outcome but none", function()
      local heard
      local pool = pool_of { total = 9, adaptive = function()
        return {
          limit = function() return 9 end,
          report = function(_, _, outcome) heard = { outcome.ok, outcome.overload } end,
        }
      end }
      for _, case in ipairs {
        { { status = 200 }, { true, false } }, { { status = 404 }, { true, false } },
        { { status = 500 }, { false, false } }, { { status = 429 }, { false, true } },
        { { status = 503 }, { false, true } }, { { fault = "timeout" }, { false, true } },
        { { fault = "connect_failed" }, { false, true } },
        { { fault = "reset" }, { false, false } },
        { { fault = "reset", status = 200 }, { false, false } }, { nil, nil },
      } do
        heard = nil
        pool:acquire "a"
        pool:release("a", case[1])
        assert.same(case[2], heard)
      end
    end)

    it("may let more go as time goes by", function()
      local pool = pool_of { total = 9, adaptive = function()
        return {
          limit = function(_, now)
            local n = now < 1003 and 1 or 2
            return n, n == 1 and 1003 or nil
          end,
          report = function() end,
        }
      end }
      assert.equal("0 a1 3 a2", run(pool, "a1 a2", 5))
    end)
  end)

  it("forgets hosts that have nothing in flight", function()
    local pool = pool_of { total = 9 }
    pool:acquire "kept"
    for i = 1, 5000 do
      pool:acquire("host " .. i)
      pool:release("host " .. i)
    end
    local count = 0
    for _ in pairs(pool.hosts) do count = count + 1 end
    assert.is_true(count <= 1001)
    assert.equal(1, pool.hosts.kept.active)
    pool:release "kept"
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

    it("gives back also what it paid", function()
      local pool = pool_of { total = 1, rate = { limit = 2, per = 60, window = "sliding" } }
      w.run(function()
        local tasks = start(pool, "b1 b2 b3")
        sched:sleep(0)
        sched:sleep(1)
        assert.is_false(tasks.b2.waiting)
        tasks.b2:cancel()
        tasks.b3:await()
      end)
      assert.same({ "0 b1", "1 b3" }, log)
      assert.is_true(idle(pool))
    end)

    it("gives back what it paid to all who share the limit", function()
      local limiter = rate.limiter { limit = 2, per = 60, window = "sliding" }
      local one = pool_of { total = 1, limiter = limiter }
      local two = pool_of { total = 9, limiter = limiter }
      w.run(function()
        local tasks = start(one, "b1 b2")
        sched:sleep(0)
        local other = start(two, "c1*2")[1]
        sched:sleep(1)
        tasks.b2:cancel()
        other:await()
      end)
      assert.same({ "0 b1", "60 c1" }, log)
      assert.is_true(idle(one) and idle(two))
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

  describe("a listener", function()
    local calls

    local function watched(opts)
      local pool = pool_of(opts)
      calls = {}
      pool:listen { wake = function() calls[#calls + 1] = w.at() end }
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

    it("is called for the next start after one that did not wait", function()
      run(watched { total = 9, rate = { limit = 1, per = 10 } }, "a1", 100)
      assert.same({ 10, 100 }, calls)
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
      assert.is_nil(pool.listeners)
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

  it("keeps a slow host from holding all slots while there are others", function()
    local pool = pool_of { total = 50 }
    local most, done, fast_ended = 0, 0, 0
    w.run(function()
      local list = {}
      for i = 1, 400 do
        local host = i % 2 == 0 and "slow" or "fast"
        list[i] = sched:spawn(function()
          pool:acquire(host)
          local slow = pool.hosts.slow
          most = math.max(most, slow and slow.active or 0)
          sched:sleep(host == "slow" and 30 or 0.1)
          pool:release(host)
          done = done + 1
          if host == "fast" then fast_ended = w.at() end
        end)
      end
      for _, task in ipairs(list) do task:await() end
    end)
    assert.equal(400, done)
    assert.is_true(most <= 45, "the slow host got " .. most)
    assert.is_true(fast_ended < 10, "the fast one had to wait for " .. fast_ended .. " s")
    assert.is_true(idle(pool))
  end)

  it("lets the only host have all slots, again once the others are gone", function()
    local pool = pool_of { total = 50 }
    w.run(function()
      local function ask(host, n)
        local most, list = 0, {}
        for i = 1, n do
          list[i] = sched:spawn(function()
            pool:acquire(host)
            most = math.max(most, pool:state().active)
            sched:sleep(1)
            pool:release(host)
          end)
        end
        for _, task in ipairs(list) do task:await() end
        return most
      end
      assert.equal(50, ask("a", 100))
      ask("b", 1)
      assert.equal(45, ask("a", 100))
      ask("a", 200)
      assert.equal(50, ask("a", 100))
    end)
  end)
end)
