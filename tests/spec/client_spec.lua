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
      assert.equal(10, clients(named, named))
      assert.equal(10, clients(named, { limit = 1, per = "10s", name = "quota", burst = 1 }))
      assert.equal(0, clients(named, { limit = 1, per = 10, name = "other" }))
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
      { 'client: "concurrency" must be a whole number or a table, got "many"',
        { concurrency = "many" } },
      { 'client.concurrency: "total" must be at least 1, got 0', { concurrency = 0 } },
      { 'client.concurrency: unknown option "perhost" %(did you mean "per_host"%?%)',
        { concurrency = { perhost = 1 } } },
      { 'client.concurrency: "per_host" must be at least 1', { concurrency = { per_host = 0 } } },
      { 'client: "rate_limit" must be a rate such as "100/1m", got "100"', { rate_limit = "100" } },
      { 'client: "rate_limit" must be a rate .*unknown option "brust" %(did you mean "burst"%?%)',
        { rate_limit = { limit = 1, per = 1, brust = 2 } } },
      { 'client: "accept" must list at least one status', { accept = {} } },
      { 'client: "response_action" must be a function', { response_action = {} } },
      { 'client: "max_body" must be at least 1', { max_body = 0 } },
      { 'client: "follow" must be at least 0', { follow = -1 } },
      { 'client: "cache" can only be false', { cache = { mode = "default" } } },
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
