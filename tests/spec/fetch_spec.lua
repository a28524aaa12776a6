local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local secret = require "orchestrator.secret"

local OK = { status = 200 }
local BUSY = { status = 503 }

describe("fetch", function()
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

  local function fetch(given, observer)
    return w.run(function()
      local res, err = api:fetch(given, observer)
      return res, err
    end)
  end

  -- Fetches once in a new world.
  local function once(given, answers, client_opts, seed)
    world(answers, client_opts, seed)
    return fetch(given)
  end

  local function with(opts)
    opts.url = opts.url or "https://a/"
    return opts
  end

  -- What the transfers had in common, as a list.
  local function started(field)
    local list = {}
    for i, entry in ipairs(w.host.ledger) do
      list[i] = field and entry.spec[field] or not field and entry.at - 1000
    end
    return list
  end

  local function location(status, to, fields)
    local answer = { status = status, head = "Location: " .. to .. "\r\n" }
    for k, v in pairs(fields or {}) do answer[k] = v end
    return answer
  end

  describe("retries", function()
    local EVEN = { jitter = false } -- waits of exactly 0.5 s, 1 s, 2 s …

    it("until it succeeds", function()
      local res = once("https://a/", { BUSY, BUSY, { status = 200, body = "hello" } })
      assert.same({ 200, "hello", 3 }, { res.status, res.body, res.attempts })
      assert.equal(3, #w.host.ledger)
    end)

    it("or its attempts are used up", function()
      local res, err = once("https://a/", { BUSY })
      assert.is_nil(res)
      assert.same({ "http", "status 503", 503, "https://a/", 5 },
        { err.kind, err.message, err.status, err.url, err.attempts })
      assert.equal(503, err.response.status)
      assert.equal("http: status 503 (GET https://a/, after 5 attempts)", tostring(err))
      assert.equal(5, #w.host.ledger)
    end)

    it("these statuses and no others", function()
      for _, status in ipairs { 408, 425, 429, 500, 502, 503, 504, 522, 524 } do
        assert.equal(2, once("https://a/", { { status = status }, OK }).attempts)
      end
      for _, status in ipairs { 300, 400, 401, 404, 418, 501, 505 } do
        local _, err = once("https://a/", { { status = status }, OK })
        assert.same({ "http", status, 1 }, { err.kind, err.status, err.attempts })
      end
    end)

    it("these kinds and no others", function()
      for _, kind in ipairs { "connect", "timeout", "network", "protocol" } do
        assert.equal(2, once("https://a/", { { error = kind }, OK }).attempts)
      end
      assert.equal(2, once("https://a/", { { fault = "dns_no_answer" }, OK }).attempts)
      assert.equal(2, once("https://a/", { { refuse = "network" }, OK }).attempts)
      for _, kind in ipairs { "dns", "tls", "too_large", "decode", "blocked" } do
        local _, err = once("https://a/", { { error = kind, message = "why", status = 206 }, OK })
        assert.same({ kind, "why", 1, "https://a/", "GET", 206 },
          { err.kind, err.message, err.attempts, err.url, err.method, err.status })
      end
    end)

    it("only what may be repeated", function()
      for method, attempts in pairs { GET = 2, HEAD = 2, OPTIONS = 2, PUT = 2, DELETE = 2,
        POST = 1, PATCH = 1 } do
        for _, answer in ipairs { BUSY, { fault = "network" } } do
          local res, err = once(with { method = method }, { answer, OK })
          assert.equal(attempts, (res or err).attempts)
        end
      end
    end)

    it("never with retry = false", function()
      local _, err = once(with { retry = false }, { BUSY, OK })
      assert.equal(1, err.attempts)
      _, err = once("https://a/", { BUSY, OK }, { retry = false })
      assert.equal(1, err.attempts)
      local res = once(with { retry = { attempts = 2 } }, { BUSY, OK }, { retry = false })
      assert.equal(2, res.attempts)
    end)

    it("as its options say", function()
      local function times(retry, answers)
        once(with { retry = retry }, answers or { BUSY, BUSY, BUSY, OK })
        local list = started()
        for i = #list, 2, -1 do list[i] = list[i] - list[i - 1] - 0.125 end
        for i = 1, #list do list[i] = math.floor(list[i] * 1000 + 0.5) / 1000 end
        return list
      end
      assert.same({ 0, 0.5, 1, 2 }, times { jitter = false })
      assert.same({ 0, 0.5 }, times { jitter = false, attempts = 2 })
      assert.same({ 0, 3, 6, 12 }, times { jitter = false, wait_initial = "3s" })
      assert.same({ 0, 0.5, 1.5, 4.5 }, times { jitter = false, factor = 3 })
      assert.same({ 0, 0.5, 0.7, 0.7 }, times { jitter = false, wait_max = "700ms" })
      assert.same({ 0 }, times { statuses = { 500 } })
      local lost = { status = 404 }
      assert.same({ 0, 0.5 }, times({ jitter = false, statuses = { 404 } }, { lost, OK }))
      assert.same({ 0 }, times { methods = { "POST" } })
      local later = { status = 503, head = "Retry-After: 7\r\n" }
      assert.same({ 0, 7 }, times({ jitter = false }, { later, OK }))
      assert.same({ 0, 0.5 }, times({ jitter = false, respect_retry_after = false }, { later, OK }))
      assert.same({ 0 }, times({ max_retry_after = 6 }, { later, OK }))
      assert.same({ 0, 7 }, times({ max_retry_after = 7 }, { later, OK }))
    end)

    it("by a request's options over the client's", function()
      once(with { retry = { attempts = 3 } }, { BUSY },
        { retry = { attempts = 9, jitter = false } })
      assert.same({ 0, 0.625, 1.75 }, started())
    end)

    it("after a full jitter, the same for the same seed", function()
      local function waits(seed)
        once("https://a/", { BUSY }, nil, seed)
        local at = started()
        for i = #at, 2, -1 do at[i] = at[i] - at[i - 1] - 0.125 end
        return at
      end
      local first = waits(1)
      assert.same(first, waits(1))
      assert.not_same(first, waits(2))
      local sum = 0
      for seed = 1, 40 do
        for i, wait in ipairs(waits(seed)) do
          local cap = i == 1 and 1e-9 or 0.5 * 2 ^ (i - 2)
          assert(wait >= -1e-9 and wait < cap, "seed " .. seed)
          sum = sum + (i > 1 and wait / cap or 0)
        end
      end
      assert(sum > 0.4 * 160 and sum < 0.6 * 160, "not evenly spread")
    end)

    it("for hours without taking any time", function()
      local res = once(with { retry = { attempts = 10, wait_initial = "10m", wait_max = "10m" } },
        { BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, OK })
      assert.equal(10, res.attempts)
      assert(w.at() > 1800 and w.at() < 5400)
      assert(w.host.polls < 40)
    end)

    it("when the server says, by a date", function()
      local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", 1.7e9 + 1030)
      local later = { status = 503, after = 0, head = "Retry-After: " .. date .. "\r\n" }
      once(with { retry = EVEN }, { later, OK })
      assert.same({ 0, 30 }, started())
    end)

    it("after the backoff when what the server says makes no sense", function()
      for _, value in ipairs { "-5", "-1.5", "soon", "", "Sun, 06 Nov 1994 08:49:37 GMT" } do
        once(with { retry = EVEN }, { { status = 503, after = 0,
          head = "Retry-After: " .. value .. "\r\n" }, OK })
        assert.same({ 0, 0.5 }, started())
      end
    end)

    it("not when it is asked to wait too long", function()
      local _, err = once("https://a/", { { status = 429, head = "Retry-After: 3600\r\n" }, OK })
      assert.same({ "rate_limited", 429, 1, "https://a/" },
        { err.kind, err.status, err.attempts, err.url })
      assert.matches("max_retry_after %(Retry%-After: 3600%)", err.message)
      assert.equal(429, err.response.status)
      assert.equal(0.125, w.at())
    end)

    it("of a 429 that lasts end as http", function()
      local _, err = once("https://a/", { { status = 429, head = "Retry-After: 1\r\n" } })
      assert.same({ "http", 429, 5 }, { err.kind, err.status, err.attempts })
      _, err = once(with { retry = false }, { { status = 429, head = "Retry-After: 3600\r\n" } })
      assert.equal("http", err.kind)
    end)

    it("hold no slot while they wait", function()
      world({ BUSY, OK, OK }, { concurrency = 1, retry = { jitter = false, wait_initial = 10 } })
      w.run(function()
        w.orc.map({ "https://a/1", "https://a/2" }, function(u) return api:fetch(u) end)
      end)
      assert.same({ "https://a/1", "https://a/2", "https://a/1" }, started "url")
      assert.same({ 0, 0.125, 10.125 }, started())
    end)

    describe("budget", function()
      -- How many retries n requests that always fail make together.
      local function retries(n, budget)
        world({ BUSY }, { retry = { attempts = 3, budget = budget } })
        local last
        w.run(function()
          for i = 1, n do last = select(2, api:fetch(with { url = "https://a/" .. i })) end
        end)
        return #w.host.ledger - n, last
      end

      it("lets ten through, and then a fifth of the requests", function()
        assert.equal(10, (retries(10)))
        local n, err = retries(100)
        assert.equal(20, n)
        assert.equal("status 503 (not retried: the retry budget is used up)", err.message)
        assert.equal(1, err.attempts)
      end)

      it("is an option", function()
        assert.equal(10, (retries(50, 0)))
        assert.equal(50, (retries(50, 1)))
      end)

      it("is the client's own, and is filled again", function()
        world({ BUSY }, { retry = { attempts = 2, jitter = false } })
        w.run(function()
          for _ = 1, 20 do api:fetch "https://a/" end
          assert.equal(30, #w.host.ledger)
          w.client({ retry = { attempts = 2 } }):fetch "https://a/"
          assert.equal(32, #w.host.ledger)
          w.orc.sleep "61s"
          api:fetch "https://a/"
          assert.equal(34, #w.host.ledger)
        end)
      end)
    end)
  end)

  describe("timeouts", function()
    local SLOW = { after = 20 }

    it("end an attempt, which is tried again", function()
      local res = once(with { timeout = 5, retry = { jitter = false } }, { SLOW, { after = 3 } })
      assert.same({ 0, 5.5 }, started())
      assert.equal(2, res.attempts)
      local _, err = once(with { timeout = 5, retry = false }, { SLOW })
      assert.same({ "timeout", 1 }, { err.kind, err.attempts })
    end)

    it("do not count waiting for a slot", function()
      world({ SLOW }, { concurrency = 1, timeout = { attempt = 30, total = 35 } })
      local results = w.run(w.orc.map, { "https://a/1", "https://b/2", "https://a/3" },
        function(u) return api:fetch(u) end)
      assert.same({ 0, 20, 40 }, started())
      assert.equal(200, results[3].status)
    end)

    it("of the whole span attempts and waits", function()
      local _, err = once(with { timeout = { total = 9 }, retry = { jitter = false } },
        { { status = 503, after = 4 } })
      assert.same({ "timeout", 2, "https://a/", "GET" },
        { err.kind, err.attempts, err.url, err.method })
      assert.equal("timeout: no answer within 9s in total (GET https://a/, after 2 attempts)",
        tostring(err))
      assert.same({ 0, 4.5 }, started())
      assert.equal(9, w.at())
    end)

    it("of the whole abort a transfer", function()
      once(with { timeout = { total = 10 } }, { SLOW })
      assert.equal(1010, w.host.ledger[1].cancelled)
    end)

    it("of the whole are a client's option too, and no matter to a quick answer", function()
      local res = once("https://a/", { BUSY, OK }, { timeout = { total = "1m" } })
      assert.equal(2, res.attempts)
      assert.equal(0, w.sched.timers.n)
      local _, err = once("https://a/", { SLOW }, { timeout = { total = "1s" } })
      assert.equal("timeout", err.kind)
    end)

    it("of the whole end the wait for a second slot", function()
      world({ BUSY, SLOW }, { concurrency = 1, retry = { jitter = false } })
      local _, errs = w.run(function()
        return w.orc.gather {
          function() return api:fetch(with { timeout = { total = 5 } }) end,
          function()
            w.orc.sleep(0.1)
            return api:fetch "https://b/"
          end,
        }
      end)
      assert.same({ "timeout", 1 }, { errs[1].kind, errs[1].attempts })
      assert.same({ "https://a/", "https://b/" }, started "url")
    end)

    it("of the whole leave errors as they are", function()
      local _, err = once(with { timeout = { total = 60 } }, { { status = 404 } })
      assert.same({ "http", 404, 1 }, { err.kind, err.status, err.attempts })
    end)
  end)

  describe("judges", function()
    it("a 2xx as good, and nothing else", function()
      for _, status in ipairs { 201, 204, 299 } do
        assert.equal(status, once("https://a/", { { status = status } }).status)
      end
      local _, err = once("https://a/", { { status = 404, body = "not here" } })
      assert.equal("http: status 404 (GET https://a/)", tostring(err))
      assert.equal("not here", err.response.body)
    end)

    it("by accept: a list, any, or a function", function()
      local lost = { status = 404, head = "X: y\r\n" }
      assert.equal(404, once(with { accept = { 200, 404 } }, { lost }).status)
      assert.is_false(once(with { accept = { 404 } }, { lost }).ok)
      assert.equal("http", select(2, once(with { accept = { 404 } }, { OK })).kind)
      assert.equal(404, once(with { accept = "any" }, { lost }).status)
      assert.equal(503, once(with { accept = "any" }, { BUSY }).status)
      local function has_y(res) return res.headers.x == "y" end
      assert.equal(404, once(with { accept = has_y }, { lost }).status)
      assert.equal("http", select(2, once(with { accept = has_y }, { OK })).kind)
      assert.equal(404, once("https://a/", { lost }, { accept = { 404 } }).status)
      assert.equal(404, once(with { accept = { 404 } }, { lost }, { accept = { 200 } }).status)
    end)

    it("by accept before the statuses to retry", function()
      assert.equal(1, once(with { accept = { 503 } }, { BUSY }).attempts)
      assert.equal(2, once(with { accept = { 200 } }, { BUSY, OK }).attempts)
    end)

    it("by response_action, which has the last word", function()
      local seen = {}
      local function says(action)
        return function(res)
          seen[#seen + 1] = res.status
          return action
        end
      end
      local res = once(with { response_action = says "accept" }, { BUSY })
      assert.same({ 503, 1 }, { res.status, res.attempts })
      res = once(with { response_action = says "ignore" }, { { status = 404 } })
      assert.same({ 404, true }, { res.status, res.ignored })
      local _, err = once(with { response_action = says "fail" }, { OK })
      assert.same({ "http", 200, "response_action failed a 200", 1 },
        { err.kind, err.status, err.message, err.attempts })
      _, err = once(with { response_action = says "fail" }, { BUSY })
      assert.equal(1, err.attempts)
      res = once(with { response_action = says(nil) }, { BUSY, OK })
      assert.same({ 2, nil }, { res.attempts, res.ignored })
      assert.same({ 503, 404, 200, 503, 503, 200 }, seen)
      assert.equal(503, once("https://a/", { BUSY }, { response_action = says "accept" }).status)
    end)

    it("by response_action that asks for a retry, of any status and method", function()
      local function unless_done(res)
        if res.body ~= "done" then return "retry" end
      end
      local working, done = { body = "working" }, { body = "done" }
      local res = once(with { method = "POST", response_action = unless_done }, { working, done })
      assert.same({ "done", 2 }, { res.body, res.attempts })
      local _, err = once(with { response_action = unless_done }, { working })
      assert.same({ "http", 200, 5 }, { err.kind, err.status, err.attempts })
      assert.matches("still asked for a retry", err.message)
      _, err = once(with { response_action = unless_done, retry = false }, { working })
      assert.equal(1, err.attempts)
    end)

    it("by functions that wait or fetch", function()
      local res = once(with {
        accept = function()
          w.orc.sleep(1)
          return api:fetch("https://b/").status == 200
        end,
      }, { OK }, { concurrency = 1 })
      assert.equal(200, res.status)
      assert.equal(2, #w.host.ledger)
    end)

    it("by functions whose errors are raised, with or without a total timeout", function()
      for _, name in ipairs { "accept", "response_action" } do
        for _, timeout in ipairs { 30, { total = 60 } } do
          world({ OK })
          local function broken() error "oh" end
          local ok, raised = pcall(fetch, with { timeout = timeout, [name] = broken })
          assert.is_false(ok)
          assert.matches("fetch_spec.lua:%d+: oh\n.*in function 'error'\n.*fetch_spec.lua", raised)
          assert.equal(0, api.pool:state().active)
        end
      end
    end)

    it("by nothing that response_action may not say", function()
      world({ OK })
      local ok, raised = pcall(fetch, with { response_action = function() return "acept" end })
      assert.is_false(ok)
      assert.matches('must return "accept", "retry", "fail", "ignore" or nil, got acept', raised)
    end)
  end)

  describe("follows redirects", function()
    it("and tells where it came through", function()
      local res = once("https://a/x", {
        location(301, "/y", { after = 1 }), location(302, "https://b/z", { after = 2 }), OK,
      })
      assert.same({ 200, "https://b/z", 1 }, { res.status, res.url, res.attempts })
      assert.same({ { url = "https://a/x", status = 301 }, { url = "https://a/y", status = 302 } },
        res.hops)
      assert.equal(3.125, res.timing.total)
      assert.same({ "https://a:443", "https://a:443", "https://b:443" }, started "origin")
      assert.same({ "a", "a", "b" }, started "host")
    end)

    it("but not too many", function()
      local loop = { location(302, "/again") }
      local _, err = once("https://a/", loop)
      assert.same({ "too_many_redirects", "more than 10 redirects", 1, "https://a/again" },
        { err.kind, err.message, err.attempts, err.url })
      assert.equal(11, #w.host.ledger)
      once(with { follow = 2 }, loop)
      assert.equal(3, #w.host.ledger)
      once("https://a/", loop, { follow = 1 })
      assert.equal(2, #w.host.ledger)
      assert.equal(200, once(with { follow = 2 }, { loop[1], loop[1], OK }).status)
    end)

    it("or not at all", function()
      local _, err = once(with { follow = 0 }, { location(302, "/y"), OK })
      assert.same({ "http", 302, 1 }, { err.kind, err.status, #w.host.ledger })
      local res = once(with { follow = 0, accept = { 302 } }, { location(302, "/y"), OK })
      assert.equal("/y", res.headers.location)
    end)

    it("only where they lead somewhere", function()
      local _, err = once("https://a/", { { status = 302 }, OK })
      assert.same({ "http", 302 }, { err.kind, err.status })
      _, err = once("https://a/", { { status = 304, head = "Location: /x\r\n" }, OK })
      assert.same({ "http", 304 }, { err.kind, err.status })
    end)

    it("never from https to http, nor to another scheme", function()
      for _, to in ipairs { "http://a/", "file:///etc/passwd", "gopher://a/", "https://a:0/" } do
        local _, err = once("https://a/", { location(302, to), OK })
        assert.same({ "blocked", 1, 1 }, { err.kind, err.attempts, #w.host.ledger })
      end
      assert.equal(200, once("http://a/", { location(302, "https://a/"), OK }).status)
    end)

    it("with a body or without, as the status wants it", function()
      local function second(status, method)
        once(with { method = method, json = { a = 1 } }, { location(status, "/y"), OK })
        local spec = w.host.ledger[2].spec
        return { spec.method, spec.body, spec.headers:match "Content%-Type: [^\n]*" }
      end
      assert.same({ "GET" }, second(302, "POST"))
      assert.same({ "GET" }, second(303, "PUT"))
      assert.same({ "POST", '{"a":1}', "Content-Type: application/json" }, second(307, "POST"))
      assert.same({ "PUT", '{"a":1}', "Content-Type: application/json" }, second(301, "PUT"))
    end)

    it("and leaves credentials behind when it leaves the origin", function()
      local client = {
        headers = { Cookie = "c=1", ["X-Odd"] = "1", ["Accept-Language"] = "de" },
        auth = { type = "api_key", name = "X-Key", value = "fetch-spec-key" },
      }
      local function second(to)
        once(with { url = "https://u:p@a/", headers = { ["X-Mine"] = "m" } },
          { location(307, to), OK }, client)
        return w.host.ledger[2].spec.headers
      end
      local all = w and second "/y"
      for _, name in ipairs { "Cookie", "X%-Odd", "X%-Key", "X%-Mine", "Authorization" } do
        assert.matches(name, all)
        for _, to in ipairs { "https://b/", "https://a:444/", "https://sub.a/" } do
          assert.not_matches(name, second(to))
        end
      end
      assert.matches("Accept%-Language: de", second "https://b/")
      second "https://x:y@b/"
      assert.not_matches("Authorization", w.host.ledger[2].spec.headers)
      assert.equal("https://b/", w.host.ledger[2].url)
    end)

    it("never carrying a secret body elsewhere", function()
      local given = with { json = { key = secret.value "fetch-spec-body" } }
      local _, err = once(given, { location(307, "https://b/"), OK })
      assert.same({ "blocked", 1 }, { err.kind, #w.host.ledger })
      assert.equal(200, once(given, { location(307, "/y"), OK }).status)
      once(with { json = { a = { 1 } } }, { location(307, "https://b/"), OK })
      assert.equal('{"a":[1]}', w.host.ledger[2].spec.body)
    end)

    it("each with a slot and a start of its own", function()
      local hop = location(302, "/y")
      once("https://a/", { hop, hop, OK }, { rate_limit = "1/10s" })
      assert.same({ 0, 10, 20 }, started())
      world({ location(302, "https://b/"), OK, OK }, { concurrency = 1 })
      w.run(w.orc.map, { "https://a/1", "https://a/2" }, function(u) return api:fetch(u) end)
      assert.same({ "https://a/1", "https://a/2", "https://b/" }, started "url")
      world({ location(302, "https://b/"), { after = 5 } }, { concurrency = { per_host = 1 } })
      w.run(w.orc.map, { "https://a/1", "https://b/2" }, function(u) return api:fetch(u) end)
      assert.same({ 0, 0, 5 }, started())
    end)

    it("within the time of one attempt", function()
      local hop = location(302, "/y", { after = 0.4 })
      local _, err = once(with { timeout = 1, retry = false }, { hop })
      assert.same({ "timeout", 1, 1 }, { err.kind, err.attempts, w.at() })
      local times = started "timeout"
      assert.same({ 1, 0.6, 20 }, { times[1], times[2], math.floor(times[3] * 100 + 0.5) })
      _, err = once(with { timeout = 0.4, retry = false }, { hop, OK })
      assert.same({ "timeout", 1 }, { err.kind, #w.host.ledger })
      once(with { timeout = 1 }, { hop, BUSY, OK }, { retry = { jitter = false } })
      assert.equal(1, started("timeout")[3]) -- the next attempt has all its time again
    end)

    it("or without end, when that has none", function()
      local res = once(with { save = "x.bin" }, { location(302, "/y", { after = 900 }), OK })
      assert.equal(200, res.status)
      assert.same({ 0, 0 }, started "timeout")
    end)

    it("whose waits for a slot are not the attempt's time", function()
      local hop = location(302, "/y", { after = 0.4 })
      assert.equal(200, once(with { timeout = 1 }, { hop, OK }, { rate_limit = "1/1h" }).status)
      assert.same({ 0, 3600 }, started())
    end)

    it("again from the start when it tries again", function()
      local res = once("https://a/x", { location(302, "/y"), BUSY, location(302, "/z"), OK })
      assert.same({ "https://a/x", "https://a/y", "https://a/x", "https://a/z" }, started "url")
      assert.same({ 2, 1 }, { res.attempts, #res.hops })
    end)
  end)

  describe("when its task is cancelled", function()
    -- Cancels a fetch after so many seconds; gives what awaiting it gives.
    local function cancelled_after(seconds, given)
      return w.run(function()
        local result
        w.orc.group(function(g)
          local task = g:spawn(function() return api:fetch(given or "https://a/") end)
          w.orc.sleep(seconds)
          task:cancel "enough"
          result = { task:await() }
        end)
        return result[2]
      end)
    end

    it("aborts the transfer and frees the slot", function()
      world({ { after = 100 } })
      assert.equal("cancelled: enough", tostring(cancelled_after(1)))
      assert.equal(1001, w.host.ledger[1].cancelled)
    end)

    it("stops waiting for a slot", function()
      world({ { after = 100 } }, { concurrency = 1 })
      w.run(w.orc.group, function(g)
        local first = g:spawn(function() return api:fetch "https://a/" end)
        local second = g:spawn(function() return api:fetch "https://a/" end)
        w.orc.sleep(1)
        assert.equal(1, api.pool:state().waiting)
        second:cancel()
        assert.equal(0, api.pool:state().waiting)
        first:cancel()
      end)
      assert.equal(1, #w.host.ledger)
    end)

    it("stops sleeping before a retry", function()
      world({ BUSY }, { retry = { jitter = false, wait_initial = 100 } })
      assert.equal("cancelled", cancelled_after(1).kind)
      assert.same({ 1, 1 }, { #w.host.ledger, w.at() })
    end)

    it("raises also with a total timeout", function()
      world({ { after = 100 } })
      assert.equal("cancelled", cancelled_after(1, with { timeout = { total = 50 } }).kind)
      assert.equal(1001, w.host.ledger[1].cancelled)
      assert.equal(0, w.sched.timers.n)
    end)
  end)

  it("cannot wait in a callback of table.sort, and starts nothing there", function()
    world({ OK })
    w.run(function()
      local raised
      table.sort({ 2, 1 }, function(a, b)
        raised = raised or select(2, pcall(api.fetch, api, "https://a/"))
        return a < b
      end)
      assert.matches("fetch_spec.lua:%d+: cannot wait here: .*fetch first, then sort", raised)
      assert.equal(200, api:fetch("https://b/").status)
    end)
    assert.same({ "https://b/" }, started "url")
  end)

  describe("an observer", function()
    local seen

    local function new_observer()
      local lists = { attempt = {}, request = {} }
      return {
        attempt = function(_, info) table.insert(lists.attempt, info) end,
        request = function(_, info) table.insert(lists.request, info) end,
      }, lists
    end

    -- Fetches once in a new world, and keeps in `seen` what an observer was told.
    local function watch(given, answers, client_opts)
      local observer
      observer, seen = new_observer()
      world(answers, client_opts)
      fetch(given, observer)
    end

    -- Times as whole milliseconds.
    local function rounded(list)
      for _, info in ipairs(list) do info.elapsed = math.floor(info.elapsed * 1000 + 0.5) end
      return list
    end

    local URL = "https://a/?k=v"

    local function attempt(fields)
      local info = { url = URL, origin = "https://a:443", size = 0, wire = 0, retried = false }
      for k, v in pairs(fields) do info[k] = v end
      return info
    end

    local function request(fields)
      local info = { url = URL, origin = "https://a:443", ok = false }
      for k, v in pairs(fields) do info[k] = v end
      return info
    end

    it("is told of every attempt, and of the end", function()
      watch(URL,
        { BUSY, { fault = "network", after = 2 }, { status = 200, body = "hello", after = 1 } })
      assert.same({
        attempt { attempt = 1, status = 503, kind = "http", elapsed = 125, retried = true },
        attempt { attempt = 2, kind = "network", elapsed = 2000, retried = true },
        attempt { attempt = 3, status = 200, elapsed = 1000, size = 5, wire = 5 },
      }, rounded(seen.attempt))
      assert.same({ request { attempts = 3, ok = true, status = 200, elapsed = 3125 } },
        rounded(seen.request))
    end)

    it("is told why it failed", function()
      watch(URL, { { status = 429, head = "Retry-After: 9999\r\n" } })
      assert.same({ attempt { attempt = 1, status = 429, kind = "rate_limited", elapsed = 125 } },
        rounded(seen.attempt))
      assert.same({ request { attempts = 1, status = 429, kind = "rate_limited", elapsed = 125 } },
        rounded(seen.request))
    end)

    it("counts a redirect once, under the URL that was asked for", function()
      watch(URL, { location(302, "https://b/", { after = 1 }), { after = 2 } })
      assert.same({ attempt { attempt = 1, status = 200, elapsed = 3000 } }, rounded(seen.attempt))
      assert.same({ request { attempts = 1, ok = true, status = 200, elapsed = 3000 } },
        rounded(seen.request))
    end)

    it("is told also of what a total timeout cuts short", function()
      watch({ url = URL, timeout = { total = 9 } }, { { status = 503, after = 4 } },
        { retry = { jitter = false } })
      assert.same({
        attempt { attempt = 1, status = 503, kind = "http", elapsed = 4000, retried = true },
        attempt { attempt = 2, status = 503, kind = "http", elapsed = 4000, retried = true },
      }, { rounded(seen.attempt)[1], seen.attempt[2] })
      assert.same({ request { attempts = 2, kind = "timeout", elapsed = 8000 } },
        rounded(seen.request))
      watch({ url = URL, timeout = { total = 10, attempt = 60 } }, { { after = 100 } })
      assert.same({ attempt { attempt = 1, kind = "timeout", elapsed = 10000 } },
        rounded(seen.attempt))
      assert.same({ request { attempts = 1, kind = "timeout", elapsed = 10000 } },
        rounded(seen.request))
    end)

    it("is not told of what was never sent", function()
      watch("not a URL", { OK })
      assert.same({ attempt = {}, request = {} }, seen)
    end)

    it("belongs to its request, not to the client", function()
      world { { after = 1 } }
      local first, first_seen = new_observer()
      local second, second_seen = new_observer()
      w.run(w.orc.gather, {
        function() return api:fetch("https://a/1", first) end,
        function() return api:fetch("https://a/2", second) end,
        function() return api:fetch "https://a/3" end,
      })
      assert.equal(3, #w.host.ledger)
      for i, lists in ipairs { first_seen, second_seen } do
        assert.same({ 1, 1 }, { #lists.attempt, #lists.request })
        assert.equal("https://a/" .. i, lists.attempt[1].url)
        assert.equal("https://a/" .. i, lists.request[1].url)
      end
    end)
  end)

  it("gives errors that hide secrets in their line", function()
    local key = secret.value "fetch-spec-query"
    local _, err = once(with { query = { key = key } }, { { status = 404 } })
    assert.equal("http: status 404 (GET https://a/?key=***)", tostring(err))
    assert.is_true(errors.is(err))
  end)
end)
