-- How hard one request tries: what is not about when an attempt counts as good (fetch_spec.lua) nor
-- about a single decision (retry_spec.lua).

local fake_host = require "fake_host"

local OK = { status = 200 }
local BUSY = { status = 503 }

describe("fetch tries again", function()
  local w, api

  -- A world in which the n-th transfer gives the n-th answer, and those after the last the last.
  local function world(answers, client_opts, seed)
    w = fake_host.world {
      seed = seed,
      serve = function(_, n)
        local copy = {}
        for k, v in pairs(answers[math.min(n, #answers)] or OK) do copy[k] = v end
        return copy
      end,
    }
    api = w.client(client_opts)
  end

  local function fetch(given)
    return w.run(function()
      local res, err = api:fetch(given)
      return res, err
    end)
  end

  local function once(given, answers, client_opts)
    world(answers, client_opts)
    return fetch(given)
  end

  local function with(opts)
    opts.url = opts.url or "https://a/"
    return opts
  end

  local function starts()
    local list = {}
    for i, entry in ipairs(w.host.ledger) do list[i] = entry.at - 1000 end
    return list
  end

  describe("until its deadline", function()
    local EVEN = { jitter = false, wait_initial = 1, deadline = "10s" }

    it("and begins no wait that would end after it", function()
      local _, err = once(with { retry = EVEN }, { { status = 503, after = 1 } })
      assert.same({ 0, 2, 5, 10 }, starts())
      assert.same({ "http", 503, 4, "status 503 (not retried: the wait would end after "
        .. "retry.deadline)" }, { err.kind, err.status, err.attempts, err.message })
      assert.equal(11, w.at()) -- what was begun is not cut off
    end)

    it("which counts from the start of the first attempt, not of the wait for a slot", function()
      world({ { after = 25 }, { status = 503, after = 1 } }, { concurrency = 1 })
      w.run(w.orc.gather, {
        function() return api:fetch "https://a/1" end,
        function() return api:fetch(with { retry = EVEN }) end,
      })
      assert.same({ 0, 25, 27, 30, 35 }, starts())
    end)

    it("and does not wait as long as asked if that is longer", function()
      local later = { status = 429, after = 1, head = "Retry-After: 9\r\n" }
      assert.equal(200, once(with { retry = EVEN }, { later, OK }).status)
      assert.same({ 0, 10 }, starts())
      later.head = "Retry-After: 9.5\r\n"
      local _, err = once(with { retry = EVEN }, { later, OK })
      assert.same({ "rate_limited", "retry_after_too_long", 1,
        "the server asks to wait longer than retry.deadline (Retry-After: 9.5)" },
        { err.kind, err.fault, err.attempts, err.message })
      assert.equal(1, w.at())
    end)

    it("which is the client's or the request's", function()
      once(with { retry = { deadline = 3 } }, { { status = 503, after = 1 } }, { retry = EVEN })
      assert.same({ 0, 2 }, starts())
      once("https://a/", { { status = 503, after = 1 } }, { retry = EVEN })
      assert.same({ 0, 2, 5, 10 }, starts())
    end)

    it("while a total timeout cuts off what was begun", function()
      local _, err = once(with { retry = EVEN, timeout = { total = 10.5 } },
        { { status = 503, after = 1 } })
      assert.same({ "timeout", 4, 10.5 }, { err.kind, err.attempts, w.at() })
    end)
  end)

  describe("and tells on_retry", function()
    it("before every wait", function()
      local seen = {}
      once(with { retry = { jitter = false, attempts = 3, on_retry = function(info)
        info.at, info.active = w.at(), api.pool:state().active
        seen[#seen + 1] = info
      end } }, { { status = 503, after = 1 }, { fault = "reset", after = 1 }, { after = 1 } })
      assert.same({ 2, "http", "network" }, { #seen, seen[1].error.kind, seen[2].error.kind })
      assert.equal(503, seen[1].error.response.status)
      seen[1].error, seen[2].error = nil, nil
      assert.same({
        { url = "https://a/", method = "GET", attempt = 1, wait = 0.5, status = 503, at = 1,
          active = 0 },
        { url = "https://a/", method = "GET", attempt = 2, wait = 1, at = 2.5, active = 0 },
      }, seen)
    end)

    it("but not of the last attempt, nor of what is not tried again", function()
      local calls = 0
      local function count() calls = calls + 1 end
      once(with { retry = { attempts = 3, on_retry = count } }, { BUSY })
      assert.equal(2, calls)
      once(with { retry = { on_retry = count } }, { { status = 404 } })
      once(with { method = "POST", retry = { on_retry = count } }, { BUSY })
      once(with { retry = { on_retry = count, deadline = 0 } }, { BUSY })
      assert.equal(2, calls)
    end)

    it("which may wait and fetch, and is the client's or the request's", function()
      local calls = {}
      local function hook(name)
        return function(info)
          calls[#calls + 1] = name .. info.attempt
          w.orc.sleep(5)
          assert.equal(503, select(2, api:fetch { url = "https://b/", retry = false }).status)
        end
      end
      once("https://a/", { BUSY, BUSY, OK },
        { concurrency = 1, retry = { jitter = false, on_retry = hook "client" } })
      once(with { retry = { on_retry = hook "request" } }, { BUSY, BUSY, OK },
        { retry = { jitter = false, on_retry = hook "client" } })
      assert.same({ "client1", "request1" }, calls)
      assert.same({ 0, 5.125, 5.75 }, starts())
    end)

    it("whose errors are raised, as those of other functions", function()
      for _, timeout in ipairs { 30, { total = 60 } } do
        world { BUSY }
        local ok, raised = pcall(fetch,
          with { timeout = timeout, retry = { on_retry = function() error "oh" end } })
        assert.is_false(ok)
        assert.matches("fetch_retry_spec.lua:%d+: oh\n.*fetch_retry_spec.lua", raised)
        assert.same({ 0, 0 }, { api.pool:state().active, w.sched.timers.n })
      end
    end)
  end)

  describe("what is not idempotent", function()
    local KEYED = { ["Idempotency-Key"] = "8e03978e-40d5-43dd-bc93-6894a57f9324" }

    it("when it has an Idempotency-Key, the same each time", function()
      for _, method in ipairs { "POST", "PATCH" } do
        for _, failure in ipairs { BUSY, { fault = "reset" } } do
          local res = once(with { method = method, json = { 1 }, headers = KEYED }, { failure, OK })
          assert.equal(2, res.attempts)
          local first, second = w.host.ledger[1].spec, w.host.ledger[2].spec
          assert.equal(first.headers, second.headers)
          assert.equal(first.body, second.body)
          assert.matches("Idempotency%-Key: 8e03978e", first.headers)
        end
      end
    end)

    it("whether the request or the client has it, in any spelling", function()
      local key = { ["idempotency-key"] = "k" }
      assert.equal(2, once(with { method = "POST", headers = key }, { BUSY, OK }).attempts)
      assert.equal(2, once(with { method = "POST" }, { BUSY, OK }, { headers = key }).attempts)
    end)

    it("not without one", function()
      for _, headers in ipairs { {}, { ["Idempotency-Key"] = false }, { ["Idempotency-Key"] = "" },
        { ["X-Idempotency-Key"] = "k" } } do
        local _, err = once(with { method = "POST", headers = headers }, { BUSY, OK })
        assert.equal(1, err.attempts)
      end
      local _, err = once(with { method = "POST", headers = { ["Idempotency-Key"] = false } },
        { BUSY, OK }, { headers = KEYED })
      assert.equal(1, err.attempts)
      _, err = once(with { method = "REPORT", headers = KEYED }, { BUSY, OK })
      assert.equal(1, err.attempts)
      -- another origin is not sent the client's headers
      _, err = once({ url = "https://b/", method = "POST" }, { BUSY, OK },
        { base_url = "https://a/", headers = KEYED })
      assert.equal(1, err.attempts)
    end)

    it("when it is told to", function()
      local methods = { "POST" }
      assert.equal(2, once(with { method = "POST", retry = { methods = methods } },
        { BUSY, OK }).attempts)
      assert.equal(2, once(with { method = "POST" }, { BUSY, OK },
        { retry = { methods = methods } }).attempts)
    end)
  end)

  describe("when a server asks to wait", function()
    -- When the second attempt starts, and the error if there is none.
    local function second(fields)
      local _, err = once(with { retry = { jitter = false } },
        { { status = 429, after = 0, head = fields }, OK })
      return starts()[2] or err.kind
    end

    it("as long, be it a fraction", function()
      assert.equal(7, second "Retry-After: 7\r\n")
      assert.equal(1.5, second "Retry-After: 1.5\r\n")
      assert.equal(0, second "Retry-After: 0\r\n")
      assert.equal(300, second "Retry-After: 300\r\n")
    end)

    it("as long as the longest of several fields says", function()
      assert.equal(9, second "Retry-After: 2\r\nRetry-After: 9\r\nRetry-After: soon\r\n")
      local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", 1.7e9 + 1030)
      assert.equal(30, second("Retry-After: 2\r\nRetry-After: " .. date .. "\r\n"))
    end)

    it("but not for ever, nor for nothing", function()
      assert.equal("rate_limited", second "Retry-After: 1000000000000\r\n")
      assert.equal("rate_limited", second("Retry-After: " .. ("9"):rep(400) .. "\r\n"))
      assert.equal("rate_limited", second "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n")
      for _, value in ipairs { "-5", "-0.5", "soon", "", "1e3", "NaN", "inf", "0x10",
        ("x"):rep(1e5), "Sun, 06 Nov 1994 08:49:37 GMT", "Thu, 99 Xyz 2099 99:99:99 GMT" } do
        assert.equal(0.5, second("Retry-After: " .. value .. "\r\n"))
      end
    end)
  end)

  describe("no more often than an outage stands", function()
    -- Twenty requests come a second for four minutes, to a server that is down in the middle two:
    -- the number of requests and of attempts in all, and of those that began in the outage.
    local function outage(failure, opts, seed)
      w = fake_host.world {
        seed = seed,
        serve = function(_, _, now)
          local down = now >= 1060 and now < 1180
          local answer = { after = 0.1, status = 200 }
          for k, v in pairs(down and failure or {}) do answer[k] = v end
          return answer
        end,
      }
      opts.concurrency, opts.server_limits = 500, false -- pauses are the business of limits.lua
      api = w.client(opts)
      local all = { requests = 0, attempts = 0, failed = 0 }
      local down = { requests = 0, attempts = 0 }
      local function is_down() return w.at() >= 60 and w.at() < 180 end
      w.run(w.orc.group, function(g)
        while w.at() < 240 do
          all.requests = all.requests + 1
          if is_down() then down.requests = down.requests + 1 end
          g:spawn(function()
            if not api:fetch "https://a/" then all.failed = all.failed + 1 end
          end)
          w.orc.sleep(w.host.random() / 10)
        end
      end)
      for _, entry in ipairs(w.host.ledger) do
        all.attempts = all.attempts + 1
        if entry.at >= 1060 and entry.at < 1180 then down.attempts = down.attempts + 1 end
      end
      return all, down
    end

    it("so attempts are at most 1.3 times the requests", function()
      for seed, failure in ipairs {
        { status = 503 }, { fault = "reset", message = "reset", after = 0.01 },
        { status = 500, after = 2 },
        { status = 429, head = "Retry-After: 0\r\n" },
      } do
        local all, down = outage(failure, {}, seed)
        assert(down.requests > 2000 and all.failed > 1000, "no outage")
        for _, count in ipairs { all, down } do
          assert(count.attempts <= 1.3 * count.requests, string.format(
            "seed %d: %d attempts for %d requests", seed, count.attempts, count.requests))
        end
      end
    end)

    it("and without a budget they would be many more", function()
      local _, down = outage({ status = 503 }, { retry = { budget = 100 } }, 1)
      assert(down.attempts > 2 * down.requests, down.attempts .. " for " .. down.requests)
    end)
  end)
end)
