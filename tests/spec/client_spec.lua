local client = require "orchestrator.client"
local fake_host = require "fake_host"

describe("client", function()
  local w

  before_each(function()
    w = fake_host.world { serve = function() return { after = 1 } end }
  end)

  -- Fetches all the URLs at once; gives when each was started.
  local function starts(api, urls)
    w.run(w.orc.map, urls, function(u) return api:fetch(u) end, { concurrency = #urls })
    local at = {}
    for i, entry in ipairs(w.host.ledger) do at[i] = entry.at - 1000 end
    return at
  end

  local function many(n, url)
    local urls = {}
    for i = 1, n do urls[i] = url or "https://a/" .. i end
    return urls
  end

  describe("concurrency", function()
    it("is fifty unless told otherwise", function()
      starts(w.client(), many(120))
      assert.equal(50, w.host.most_in_flight)
      assert.equal(3, w.at())
    end)

    it("is a number, or a table of total and per_host", function()
      for given, most in pairs {
        [3] = 3, [{ total = 4 }] = 4, [{ per_host = 5 }] = 5, [{ total = 6, per_host = 8 }] = 6,
      } do
        w = fake_host.world()
        starts(w.client { concurrency = given }, many(60))
        assert.equal(most, w.host.most_in_flight)
      end
    end)

    it("counts per origin: scheme, host and port", function()
      local urls = { "https://a/1", "https://a/2", "https://a:444/", "http://a/", "https://b/" }
      assert.same({ 0, 0, 0, 0, 1 }, starts(w.client { concurrency = { per_host = 1 } }, urls))
    end)

    it("is the program's when that has one", function()
      w.env.concurrency = 2
      starts(w.client { concurrency = { total = 9, per_host = 9 } }, many(8))
      assert.equal(2, w.host.most_in_flight)
    end)

    it("is each client's own", function()
      local one, two = w.client { concurrency = 1 }, w.client { concurrency = 1 }
      w.run(w.orc.gather, {
        function() return one:fetch "https://a/" end, function() return two:fetch "https://a/" end,
      })
      assert.equal(2, w.host.most_in_flight)
    end)
  end)

  describe("rate_limit", function()
    it("is a text or a table", function()
      assert.same({ 0, 2, 4 }, starts(w.client { rate_limit = "30/1m" }, many(3)))
      w = fake_host.world()
      assert.same({ 0, 0, 2 },
        starts(w.client { rate_limit = { limit = 30, per = "1m", burst = 2 } }, many(3)))
    end)

    it("may be a strict window", function()
      assert.same({ 0, 0, 60 },
        starts(w.client { rate_limit = { limit = 2, per = "1m", window = "sliding" } }, many(3)))
    end)

    it("counts retries too", function()
      w = fake_host.world { serve = function(_, n) return { status = n == 1 and 503 or 200 } end }
      assert.same({ 0, 10 }, starts(w.client { rate_limit = "1/10s" }, many(1)))
    end)

    it("is one rate or a list, not both at once", function()
      for _, mixed in ipairs { { "2/s", name = "x" }, { limit = 2, per = "1s", "1000/s" } } do
        local ok, err = pcall(function() fake_host.world().client { rate_limit = mixed } end)
        assert.is_false(ok)
        assert.matches("belongs into an element", tostring(err))
      end
    end)

    it("is shared by name, and by nothing else", function()
      local function clients(one, two)
        w = fake_host.world()
        one, two = w.client { rate_limit = one }, w.client { rate_limit = two }
        w.run(w.orc.gather, {
          function() return one:fetch "https://a/" end,
          function() return two:fetch "https://b/" end,
        })
        return w.host.ledger[2].at - 1000
      end
      local named = { limit = 1, per = 10, name = "quota" }
      -- A little more: see share.lua.
      local shared = clients(named, named)
      assert.is_true(shared > 10 and shared < 10.11, shared)
      assert.equal(shared,
        clients(named, { limit = 1, per = "10s", name = "quota", burst = 1 }))
      assert.is_true(clients(named, { limit = 1, per = 10, name = "other" }) < 0.01)
      assert.equal(0, clients({ limit = 1, per = 10 }, { limit = 1, per = 10 }))
    end)

    it("of a name is one limit", function()
      local function second(given)
        given.name = "quota"
        local ok, raised = pcall(w.client, { rate_limit = given })
        return not ok and raised
      end
      w.client { rate_limit = { limit = 1, per = 10, name = "quota" } }
      for field, given in pairs {
        limit = { limit = 2, per = 10 },
        per = { limit = 1, per = 11 },
        burst = { limit = 1, per = 10, burst = 2 },
        window = { limit = 1, per = 10, window = "sliding" },
      } do
        assert.matches('client: the rate limit named "quota" was given before with another "'
          .. field .. '"', second(given))
      end
      assert.is_false(second { limit = 1, per = 10 })
    end)
  end)

  describe("several rate limits", function()
    it("are kept at once", function()
      local given = { "30/1m", { limit = 3, per = "1h", window = "sliding" } }
      assert.same({ 0, 2, 4, 3600, 3602 }, starts(w.client { rate_limit = given }, many(5)))
    end)

    it("may be shared by name one by one", function()
      local one = w.client { rate_limit = { "1/10s", { limit = 1, per = 60, name = "both" } } }
      local two = w.client { rate_limit = { { limit = 1, per = 60, name = "both" } } }
      assert.equal(one.pool.limiters[2], two.pool.limiters[1])
      assert.not_equal(one.pool.limiters[1], two.pool.limiters[1])
    end)
  end)

  describe("a pool", function()
    it("of one name is shared by clients", function()
      local given = { total = 3, per_host = 2, pool = "x" }
      local one, two = w.client { concurrency = given }, w.client { concurrency = given }
      local other = w.client { concurrency = { total = 3, pool = "y" } }
      w.run(w.orc.map, many(30), function(u)
        local api = u:match "[05]$" and other or u:match "[13579]$" and one or two
        return api:fetch(u)
      end, { concurrency = 30 })
      assert.equal(5, w.host.most_in_flight) -- two to the host, and three of the other pool
    end)

    it("is one pool", function()
      w.client { concurrency = { total = 3, pool = "x" } }
      w.client { concurrency = { total = 3, pool = "x" } }
      for field, given in pairs { total = { total = 4 }, per_host = { total = 3, per_host = 1 } } do
        given.pool = "x"
        local ok, raised = pcall(w.client, { concurrency = given })
        assert.is_false(ok)
        assert.matches('client.concurrency: the pool named "x" was given before with another "'
          .. field .. '"', raised)
      end
    end)

    it("has as many slots as the program says", function()
      w.env.concurrency = 2
      local one = w.client { concurrency = { total = 9, pool = "x" } }
      starts(one, many(8))
      assert.equal(2, w.host.most_in_flight)
    end)
  end)

  describe("a request's", function()
    it("weight is paid", function()
      local api = w.client { rate_limit = "10/10s" }
      w.run(w.orc.map, { 3, 1, 0.5, 1 }, function(weight)
        return api:fetch { url = "https://a/", weight = weight }
      end)
      assert.same({ 0, 3, 3.5, 4.5 }, (function()
        local at = {}
        for i, entry in ipairs(w.host.ledger) do at[i] = entry.at - 1000 end
        return at
      end)())
    end)

    it("weight is paid by redirects and retries, too", function()
      w = fake_host.world { serve = function(_, n)
        if n == 1 then return { status = 302, head = "Location: /x\r\n" } end
        return { status = n == 2 and 503 or 200 }
      end }
      local api = w.client { rate_limit = "10/10s" }
      w.run(function() return api:fetch { url = "https://a/", weight = 4 } end)
      assert.same({ 0, 4, 8 }, { w.host.ledger[1].at - 1000, w.host.ledger[2].at - 1000,
        w.host.ledger[3].at - 1000 })
    end)

    it("weight must be one that the limit can let through", function()
      local api = w.client { rate_limit = { "100/1m", { limit = 5, per = 1, window = "sliding" } } }
      w.run(function()
        local ok, raised = pcall(api.fetch, api, { url = "https://a/", weight = 6 })
        assert.is_false(ok)
        assert.matches("^tests/spec/client_spec.lua:%d+: request: "
          .. '"weight" is 6, and the rate limit lets no more than 5 through at once', raised)
        assert(api:fetch { url = "https://a/", weight = 5 })
      end)
    end)

    it("priority says who goes first", function()
      local api = w.client { concurrency = 1 }
      w.run(w.orc.map, { 0, 0, 1, -1, 2.5 }, function(priority)
        return api:fetch { url = "https://a/" .. priority, priority = priority }
      end)
      local order = {}
      for i, entry in ipairs(w.host.ledger) do order[i] = entry.url:match "[^/]+$" end
      assert.same({ "0", "2.5", "1", "0", "-1" }, order)
    end)
  end)

  describe("server_limits", function()
    local said

    -- A server that lets 5 requests through in 10 s and tells so, or not.
    local function limited(tells)
      local begun, used = 1000, 0
      w = fake_host.world { serve = function(_, _, now)
        if now >= begun + 10 then begun, used = now, 0 end
        used = used + 1
        local head = 'RateLimit-Policy: "p";q=5;w=10\r\n' .. string.format(
          'RateLimit: "p";r=%d;t=%d\r\n', math.max(0, 5 - used), math.ceil(begun + 10 - now))
        return { status = used > 5 and 429 or 200, head = tells and head or nil }
      end }
      said = {}
      w.env.voice = { log = {
        info = function(_, text) said[#said + 1] = text end, warn = function() end,
      } }
    end

    local function fetch_all(clients, n)
      local errs = select(2, w.run(w.orc.map, many(n), function(u)
        return clients[#u % #clients + 1]:fetch { url = u, retry = false }
      end, { concurrency = n }))
      local refused = 0
      for i = 1, n do
        if errs[i] then refused = refused + 1 end
      end
      return refused
    end

    it("slow all clients of the program down before a 429 does, and are told of once", function()
      limited(true)
      local clients = { w.client { concurrency = 1 }, w.client { concurrency = 1 } }
      assert.equal(0, fetch_all(clients, 30))
      assert.is_true(w.at() >= 50 and w.at() < 60)
      assert.same({ "a:443's own limit (5 per 10 s) governs now" }, said)
    end)

    it("can be ignored", function()
      limited(true)
      assert.is_true(fetch_all({ w.client { concurrency = 2, server_limits = false } }, 30) > 0)
      assert.is_true(w.at() < 10)
      assert.same({}, said)
    end)

    it("are not known when a server does not tell", function()
      limited(false)
      assert.is_true(fetch_all({ w.client { concurrency = 2 } }, 30) > 0)
    end)

    it("are also what a Retry-After asks for, of everybody", function()
      w = fake_host.world { serve = function(_, n)
        if n == 1 then return { status = 429, head = "Retry-After: 20\r\n", after = 1 } end
        return {}
      end }
      local one, two = w.client { concurrency = 1 }, w.client { concurrency = 1 }
      w.run(w.orc.gather, {
        function() return one:fetch "https://a/1" end,
        function() return one:fetch "https://a/2" end,
        function()
          w.sched:sleep(2)
          return two:fetch "https://a/3"
        end,
        function()
          w.sched:sleep(2)
          return two:fetch "https://b/4"
        end,
      })
      local at = {}
      for _, entry in ipairs(w.host.ledger) do at[entry.url:match "%d$"] = entry.at - 1000 end
      assert.equal(2, at["4"])
      for _, n in ipairs { "1", "2", "3" } do assert.is_true(at[n] >= 21, n) end
      assert.is_true(w.at() < 22)
    end)

    it("of a Retry-After that is not respected hold nobody up", function()
      for _, opts in ipairs {
        { retry = { respect_retry_after = false, jitter = false } },
        { retry = { max_retry_after = 19 } }, { server_limits = false },
      } do
        w = fake_host.world { serve = function(_, n)
          if n == 1 then return { status = 429, head = "Retry-After: 20\r\n", after = 1 } end
          return {}
        end }
        local api = w.client(opts)
        w.run(w.orc.gather, {
          function() return api:fetch "https://a/1" end,
          function()
            w.sched:sleep(2)
            return api:fetch "https://a/2"
          end,
        })
        local last = w.host.ledger[#w.host.ledger].url == "https://a/2" and #w.host.ledger or 2
        assert.is_true(w.host.ledger[last].at - 1000 <= 2)
      end
    end)
  end)

  it("tells who watches what was waited for", function()
    local api = w.client { rate_limit = "1/5s" }
    local told = {}
    local observer = {
      attempt = function() end, request = function() end,
      waited = function(_, origin, seconds, limit)
        told[#told + 1] = { origin, math.floor(seconds), limit }
      end,
    }
    w.run(w.orc.map, many(3), function(u) return api:fetch(u, observer) end)
    assert.same({ { "https://a:443", 5, "1/5s" }, { "https://a:443", 10, "1/5s" } }, told)
  end)

  it("knows itself", function()
    assert.is_true(client.is(w.client()))
    assert.is_false(client.is {})
    assert.is_false(client.is(nil))
  end)

  it("takes options in the request only", function()
    local api = w.client()
    for _, second in ipairs { {}, { timeout = 1 }, "GET", 5 } do
      w.run(function()
        local ok, message = pcall(api.fetch, api, "https://a/", second)
        assert.is_false(ok)
        assert.matches("client_spec.lua:%d+: fetch: expects one argument", message)
      end)
    end
    assert.equal(0, #w.host.ledger)
  end)

  it("leaves its options as they were given", function()
    local given = { timeout = { attempt = "5s" }, retry = { attempts = 2 }, headers = { A = "b" },
      auth = { type = "bearer", token = "client-spec-token" }, concurrency = { total = 3 } }
    local api = w.client(given)
    w.run(function()
      api:fetch { url = "https://a/", headers = { C = "d" }, retry = { factor = 3 } }
    end)
    assert.same({ timeout = { attempt = "5s" }, retry = { attempts = 2 }, headers = { A = "b" },
      auth = { type = "bearer", token = "client-spec-token" }, concurrency = { total = 3 } }, given)
  end)

  describe("misuse", function()
    for _, case in ipairs {
      { 'client: unknown option "tmeout" %(did you mean "timeout"%?%)', { tmeout = 1 } },
      { 'client: unknown option "url"', { url = "https://a/" } },
      { 'client: "base_url" must be a string', { base_url = 1 } },
      { 'client: "base_url" is not a URL: .* scheme "ftp"', { base_url = "ftp://a/" } },
      { 'client: "headers" must be a table', { headers = "A: b" } },
      { 'client: "auth" must be a table', { auth = "token" } },
      { 'client: "timeout" must be a duration such as "10s" or a table, got "ten"',
        { timeout = "ten" } },
      { 'client.timeout: unknown option "conect" %(did you mean "connect"%?%)',
        { timeout = { conect = 1 } } },
      { 'client.timeout: "idle" must be a duration', { timeout = { idle = "x" } } },
      { 'client: "retry" must be a table or false, got true', { retry = true } },
      { 'client.retry: unknown option "attempt" %(did you mean "attempts"%?%)',
        { retry = { attempt = 1 } } },
      { 'client.retry: "attempts" must be at least 1, got 0', { retry = { attempts = 0 } } },
      { 'client.retry: "jitter" must be "full" or false, got "half"',
        { retry = { jitter = "half" } } },
      { 'client: "concurrency" must be a whole number, "auto" or a table, got "many"',
        { concurrency = "many" } },
      { 'client.concurrency: "total" must be at least 1, got 0', { concurrency = 0 } },
      { 'client.concurrency: unknown option "perhost" %(did you mean "per_host"%?%)',
        { concurrency = { perhost = 1 } } },
      { 'client.concurrency: "per_host" must be at least 1', { concurrency = { per_host = 0 } } },
      { 'client: "rate_limit" must be a rate such as "100/1m", got "100"', { rate_limit = "100" } },
      { 'client: "rate_limit" must be a rate .*unknown option "brust" %(did you mean "burst"%?%)',
        { rate_limit = { limit = 1, per = 1, brust = 2 } } },
      { 'client: "rate_limit" element 1 must be a rate .*"limit" is missing',
        { rate_limit = { {}, {} } } },
      { 'client: "rate_limit" element 2 must be a rate such as "100/1m", got "x"',
        { rate_limit = { "1/s", "x" } } },
      { 'client: "rate_limit" must not name "a" twice',
        { rate_limit = { { limit = 1, per = 1, name = "a" },
          { limit = 2, per = 1, name = "a" } } } },
      { 'client: "server_limits" must be true or false', { server_limits = "yes" } },
      { 'client.concurrency: "pool" must be a string', { concurrency = { pool = 1 } } },
      { 'client: "accept" must list at least one status', { accept = {} } },
      { 'client: "response_action" must be a function', { response_action = {} } },
      { 'client: "max_body" must be at least 1', { max_body = 0 } },
      { 'client: "follow" must be at least 0', { follow = -1 } },
      { 'client: "cache" must be true or false or a table', { cache = "default" } },
      { 'client.cache: unknown option "tll"', { cache = { tll = 1 } } },
      { 'client.cache: "vary" must list names of header fields; element 1 is none',
        { cache = { vary = { "*" } } } },
      { "client: must be a table of options, got 12", 12 },
    } do
      it(case[1], function()
        local ok, raised = pcall(w.client, case[2])
        assert.is_false(ok)
        assert.matches("tests/spec/[%w_]+.lua:%d+: " .. case[1], raised)
      end)
    end
  end)
end)
