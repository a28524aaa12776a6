-- Adaptive concurrency and circuit breakers, in clients on a virtual clock.

local capacity = require "capacity"
local circuit = require "orchestrator.circuit"
local fake_host = require "fake_host"
local govern = require "orchestrator.govern"
local limits = require "orchestrator.limits"

local A, B = "http://a.test/", "http://b.test/"

describe("govern", function()
  local w, warnings, serve

  -- `serve(spec, now, n)` gives the result of a transfer.
  before_each(function()
    w = fake_host.world { serve = function(spec, n, now) return serve(spec, now, n) end }
    warnings = {}
    w.env.voice = { log = {
      warn = function(_, text) warnings[#warnings + 1] = string.format("%g %s", w.at(), text) end,
      info = function() end,
    } }
  end)

  -- So many fetches at once; their statuses or kinds, counted.
  local function fetch_all(client, url, times, tasks)
    local urls, counts = {}, {}
    for i = 1, times do urls[i] = url end
    w.orc.map(urls, function(one)
      local res, err = client:fetch(one)
      local what = res and res.status or err.status or err.kind
      counts[what] = (counts[what] or 0) + 1
    end, { concurrency = tasks or times })
    return counts
  end

  -- When transfers to a host started, and the most of them in flight at once.
  local function starts(url)
    local times, most, ends = {}, 0, {}
    for _, entry in ipairs(w.host.ledger) do
      if entry.url:sub(1, #url) == url then
        times[#times + 1] = entry.at - 1000
        local there = 1
        for _, ended in ipairs(ends) do
          if ended > entry.at then there = there + 1 end
        end
        ends[#ends + 1] = entry.ended or entry.cancelled or math.huge
        most = math.max(most, there)
      end
    end
    return times, most
  end

  describe('concurrency = "auto"', function()
    -- Servers that refuse what is too much: origin → capacity.
    local function servers(capacities)
      local by_host = {}
      serve = function(spec, now)
        local host = spec.url:match "^(http://[^/]+/)"
        local one = by_host[host]
        if not one then
          one = capacity.server { capacity = capacities[host], service = 0.02, beyond = "refuse",
            jitter = 0.2 }
          by_host[host] = one
        end
        local after, refused = one(now)
        return { after = after, status = refused and 503 or 200 }
      end
    end

    it("finds out how many a host takes", function()
      servers { [A] = 30 }
      w.run(function()
        local client = w.client { concurrency = "auto", retry = false }
        local counts = fetch_all(client, A, 6000, 200)
        assert.is_true(counts[503] < 60)
        assert.is_true(w.at() < 6000 * 0.02 / 30 / 0.9)
        local learned = client.pool.hosts["http://a.test:80"].adaptive:learned()
        assert.is_true(learned >= 28 and learned <= 31)
      end)
    end)

    it("does so for each host", function()
      servers { [A] = 5, [B] = 60 }
      w.run(function()
        local client = w.client { concurrency = "auto", retry = false }
        w.orc.gather {
          function() fetch_all(client, A, 500, 100) end,
          function() fetch_all(client, B, 5000, 100) end,
        }
      end)
      local _, most = starts(A)
      assert.is_true(most <= 7)
      _, most = starts(B)
      assert.is_true(most >= 60 and most <= 80)
    end)

    it("goes no higher than per_host, and -j", function()
      servers { [A] = 1e6 }
      local function most_of(given)
        w.run(function() fetch_all(w.client(given), A, 2000) end)
        local most = w.host.most_in_flight
        w.host.most_in_flight = 0
        return most
      end
      assert.equal(12, most_of { concurrency = { total = "auto", per_host = 12 } })
      assert.equal(govern.MOST, most_of { concurrency = "auto" })
      w.env.concurrency = 7
      assert.equal(7, most_of { concurrency = "auto" })
    end)

    it("is shared by the clients of a pool", function()
      servers { [A] = 10 }
      w.run(function()
        local one = w.client { concurrency = { total = "auto", pool = "x" }, retry = false }
        local two = w.client { concurrency = { total = "auto", pool = "x" }, retry = false }
        w.orc.gather {
          function() fetch_all(one, A, 500, 100) end, function() fetch_all(two, A, 500, 100) end,
        }
        assert.error_matches(function() w.client { concurrency = { total = 10, pool = "x" } } end,
          'pool named "x" was given before with another "total"')
      end)
      local _, most = starts(A)
      assert.is_true(most >= 10 and most <= 13)
    end)

    it("measures the time a host takes without that of connecting", function()
      serve = function(_, _, n)
        local connect = n <= 100 and 0.5 or 0
        return { after = 0.02 + connect, connect = connect > 0 and connect or nil }
      end
      w.run(function()
        local client = w.client { concurrency = "auto" }
        fetch_all(client, A, 200)
        local level = client.pool.hosts["http://a.test:80"].adaptive
        assert.is_true(math.abs(level.latency - 0.02) < 1e-6)
      end)
    end)

    it("starts from what a limit's state knows, and keeps it there", function()
      servers { [A] = 20 }
      local lessons = {}
      local limiter = {
        name = "x", most = math.huge,
        wait = function() return 0 end, take = function() end, refund = function() end,
        learned = function(_, host) return lessons[host] end,
        learn = function(_, host, n) lessons[host] = n end,
      }
      local function run()
        local before = w.at()
        w.run(function()
          local client = w.client { retry = false }
          client.pool = limits.pool(w.sched, { total = 100, adaptive = govern.adaptive(100),
            limiter = limiter })
          fetch_all(client, A, 400, 100)
        end)
        return w.at() - before
      end
      local first = run()
      local known = lessons["http://a.test:80"]
      assert.is_true(known >= 18 and known <= 21)
      assert.is_true(run() < first)
    end)
  end)

  describe("circuit_breaker", function()
    local BREAKER = { min_requests = 4, window = "10s", cooldown = "30s", probes = 2 }

    local function with(given)
      local opts = {}
      for name, value in pairs(BREAKER) do opts[name] = value end
      for name, value in pairs(given or {}) do opts[name] = value end
      return opts
    end

    -- A fails before a time, and takes a second for each.
    local function failing_until(time)
      serve = function(spec, now)
        local bad = spec.url:sub(1, #A) == A and now - 1000 < time
        return { after = 1, status = bad and 500 or 200 }
      end
    end

    it("is none unless asked for", function()
      failing_until(math.huge)
      w.run(function()
        local client = w.client { retry = false, concurrency = 1 }
        assert.same({ [500] = 50 }, fetch_all(client, A, 50))
        assert.is_nil(client.pool.circuits)
      end)
      assert.same({}, warnings)
    end)

    it("keeps who waits until the host is back, and lets some try first", function()
      failing_until(40)
      w.run(function()
        local client = w.client { retry = false, concurrency = 4, circuit_breaker = BREAKER }
        assert.same({ [500] = 9, [200] = 11 }, fetch_all(client, A, 20))
      end)
      -- Three more started as three had failed, and the fourth had not.
      assert.same({ 0, 0, 0, 0, 1, 1, 1, 31, 31, 62, 62, 63, 63, 63, 63 },
        { unpack(starts(A), 1, 15) })
      assert.same({
        "1 circuit open: http://a.test:80: 4 of 4 attempts failed within 10 s, "
          .. "none starts for 30 s",
        "63 circuit closed: http://a.test:80 answers again",
      }, warnings)
    end)

    it("opens for the share of failures that it is told", function()
      serve = function(_, _, n) return { after = 1, status = n % 4 == 0 and 500 or 200 } end
      w.run(function()
        local function try(failures)
          warnings = {}
          fetch_all(w.client { retry = false, concurrency = 1,
            circuit_breaker = with { failures = failures } }, A, 12)
          return #warnings
        end
        assert.equal(0, try(0.4))
        assert.is_true(try(0.25) > 0)
      end)
    end)

    it("leaves other hosts alone", function()
      failing_until(40)
      w.run(function()
        local client = w.client { retry = false, concurrency = 4, circuit_breaker = BREAKER }
        local counts
        w.orc.gather {
          function() fetch_all(client, A, 20) end,
          function()
            w.orc.sleep(2)
            counts = fetch_all(client, B, 40)
            assert.equal(12, w.at())
          end,
        }
        assert.same({ [200] = 40 }, counts)
      end)
    end)

    it("leaves other clients alone, also those that share its slots", function()
      failing_until(40)
      w.run(function()
        local slots = { total = 4, pool = "x" }
        local one = w.client { retry = false, concurrency = slots, circuit_breaker = BREAKER }
        local two = w.client { retry = false, concurrency = slots }
        assert.same({ [500] = 4 }, fetch_all(one, A, 4))
        assert.same({ [500] = 8 }, fetch_all(two, A, 8))
        assert.equal(3, w.at())
      end)
    end)

    it("has requests fail instead, at once and for good", function()
      failing_until(40)
      w.run(function()
        local client = w.client {
          concurrency = 4, circuit_breaker = with { on_open = "fail" }, retry = { attempts = 9 },
        }
        local counts = fetch_all(client, A, 20)
        assert.same({ circuit_open = 20 }, counts)
        assert.equal(7, #w.host.ledger)
        assert.is_true(w.at() < 3)
        w.orc.sleep(10)
        local _, err = client:fetch(A)
        assert.same({ "circuit_open", "circuit_open", 1 }, { err.kind, err.fault, err.attempts })
        assert.matches("^the circuit is open: 4 of 4 attempts failed within 10 s; "
          .. "none starts for [%d.]+ s$", err.message)
        w.orc.sleep(30)
        assert.same({ [200] = 1 }, fetch_all(client, A, 1))
      end)
      assert.equal(1, #warnings)
    end)

    it("lets only so many try when the others fail", function()
      failing_until(5)
      w.run(function()
        local client = w.client {
          retry = false, concurrency = 4, circuit_breaker = with { on_open = "fail" },
        }
        fetch_all(client, A, 4)
        w.orc.sleep(31)
        assert.same({ [200] = 2, circuit_open = 8 }, fetch_all(client, A, 10))
        assert.same({ [200] = 10 }, fetch_all(client, A, 10))
      end)
    end)

    it("tells no attempts that were not made", function()
      failing_until(40)
      local attempts, requests = 0, 0
      local observer = {
        attempt = function() attempts = attempts + 1 end,
        request = function() requests = requests + 1 end,
        waited = function() end, fell_back = function() end,
      }
      w.run(function()
        local client = w.client {
          retry = false, concurrency = 1, circuit_breaker = with { on_open = "fail" },
        }
        for _ = 1, 10 do client:fetch(A, observer) end
      end)
      assert.same({ 4, 10 }, { attempts, requests })
    end)

    it("answers by the fallback", function()
      failing_until(40)
      w.run(function()
        local client = w.client {
          retry = false, concurrency = 4, circuit_breaker = with { on_open = "fail" },
          fallback = function(err) return { json = { kind = err.kind } } end,
        }
        for _ = 1, 4 do client:fetch(A) end
        assert.equal("circuit_open", client:fetch(A):json().kind)
      end)
    end)

    it("says what was waited for", function()
      failing_until(20)
      local waits = {}
      local observer = {
        attempt = function() end, request = function() end,
        waited = function(_, host, seconds, name)
          waits[#waits + 1] = string.format("%s %g %s", host, seconds, name)
        end,
      }
      w.run(function()
        local client = w.client { retry = false, concurrency = 4, circuit_breaker = BREAKER }
        fetch_all(client, A, 4)
        assert(client:fetch(A, observer))
      end)
      assert.same({ "http://a.test:80 30 circuit breaker" }, waits)
    end)

    it("loses nobody who is cancelled", function()
      failing_until(40)
      w.run(function()
        local client = w.client {
          retry = false, concurrency = 4, circuit_breaker = with { on_open = "fail" },
        }
        local waiting = {}
        for i = 1, 12 do waiting[i] = w.sched:spawn(function() return client:fetch(A) end) end
        w.sched:at(1001, function() -- they were turned away, and have not heard of it yet
          for i = 1, 12 do waiting[i]:cancel() end
        end)
        for i = 1, 12 do waiting[i]:await() end
        w.orc.sleep(40)
        for i = 1, 4 do -- probes that are cancelled make room for others
          waiting[i] = w.sched:spawn(function() return client:fetch(A) end)
          w.orc.sleep(0.25)
          waiting[i]:cancel()
        end
        w.orc.sleep(1)
        assert.same({ [200] = 2 }, fetch_all(client, A, 2))
        assert.same({ [200] = 9 }, fetch_all(client, A, 9))
      end)
    end)

    it("takes what the network does for a failure, and what is ours for nothing", function()
      local cases = {
        [200] = true, [204] = true, [302] = true, [404] = true, [429] = true,
        [500] = false, [503] = false, [504] = false,
        connect_failed = false, timeout = false, reset = false, tls = false,
        dns_no_such_host = false, dns_no_answer = false, not_http = false, too_slow = false,
        corrupt_coding = true,
      }
      for what, well in pairs(cases) do
        local name = type(what) == "string" and "fault" or "status"
        assert.equal(well, circuit.judge { [name] = what }, what)
      end
      for _, fault in ipairs { "cannot_save", "no_descriptors", "body_too_large" } do
        assert.is_nil(circuit.judge { fault = fault, status = 200 })
      end
      assert.is_nil(circuit.judge(nil))
      assert.is_false(circuit.judge { fault = "reset", status = 200 })
    end)

    it("keeps no host of which there is nothing to remember", function()
      local circuits = circuit.new(true, { sched = w.sched, warn = function() end })
      for i = 1, 20 do circuits:report("bad", w.host.now(), { status = 500 }, i * 0) end
      for i = 1, 5000 do
        w.host.time = w.host.time + 0.1
        circuits:report("host " .. i, w.host.now(), { status = 200 }, 0)
      end
      assert.is_true(circuits.count < 2000)
      assert.is_string(circuits:refusal("bad", 1000))
    end)

    for _, case in ipairs {
      { 7, '"circuit_breaker" must be true or false or a table, got 7' },
      { { failures = 2 }, '"failures" must be at most 1, got 2' },
      { { min_requests = 0 }, '"min_requests" must be at least 1' },
      { { window = 0 }, '"window" must be at least' },
      { { probes = 0.5 }, '"probes" must be a whole number' },
      { { on_open = "stop" }, '"on_open" must be "wait" or "fail", got "stop"' },
      { { cool_down = 1 }, 'client.circuit_breaker: unknown option "cool_down" %(did you mean' },
    } do
      it("says " .. case[2], function()
        assert.error_matches(function() w.client { circuit_breaker = case[1] } end, case[2])
      end)
    end
  end)
end)
