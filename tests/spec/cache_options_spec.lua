-- The option `cache`, and what it is for a whole request.

local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local secret = require "orchestrator.secret"

local URL = "https://a.test/x"
local FRESH = { head = 'Cache-Control: max-age=60\r\nETag: "a"\r\n', body = "one" }
local PLAIN = { body = "plain" }

-- A program whose server gives one answer after the other, the last one for ever; `fn(w)` runs in
-- it. Gives how many requests reached the server.
local function program(answers, fn, mode)
  local w = fake_host.world {
    serve = function(_, n)
      local all = {}
      for name, value in pairs(answers[math.min(n, #answers)]) do all[name] = value end
      return all
    end,
  }
  w.env.cache_mode = mode
  w.run(fn, w)
  return #w.host.ledger, w
end

-- How the requests were answered, one after the other, and how many reached the server.
local function asked(requests, client, mode, answers)
  local froms = {}
  local count = program(answers or { FRESH }, function(w)
    local opts = { retry = false }
    for name, value in pairs(client or {}) do opts[name] = value end
    local api = w.client(opts)
    for i, one in ipairs(requests) do
      local res, err = api:fetch(one)
      froms[i] = res and (res.from_cache or "network") or err.fault
      w.sched:sleep(1)
    end
  end, mode)
  froms[#froms + 1] = count
  return froms
end

local function with(cache)
  return { url = URL, cache = cache }
end

describe("the option cache", function()
  it("is off unless it is given, by a client or a request", function()
    assert.same({ "network", "network", 2 }, asked { URL, URL })
    assert.same({ "network", "fresh", 1 }, asked({ URL, URL }, { cache = true }))
    assert.same({ "network", "fresh", "network", 2 }, asked { with(true), with(true), URL })
    assert.same({ "network", "network", "fresh", 2 },
      asked({ URL, with(false), URL }, { cache = true }))
    assert.same({ "network", "network", 2 }, asked({ URL, URL }, { cache = false }))
  end)

  it("of a request changes that of its client, option by option", function()
    local client = { cache = { ttl = "1h" } }
    assert.same({ "network", "fresh", "network", "fresh", 2 }, asked(
      { URL, with { stale_if_error = 1 }, with { ttl = 0.5 }, with(true) }, client, nil, { PLAIN }))
  end)

  it("has a ttl for answers that say nothing", function()
    assert.same({ "network", "network", 2 }, asked({ URL, URL }, { cache = true }, nil, { PLAIN }))
    assert.same({ "network", "fresh", "fresh", "network", 2 },
      asked({ URL, URL, URL, URL }, { cache = { ttl = "2500ms" } }, nil, { PLAIN }))
  end)

  it("has the modes of the fetch standard", function()
    local function three(mode)
      return asked({ URL, with { mode = mode }, URL }, { cache = true }, nil, {
        FRESH, { status = 304, head = FRESH.head }, FRESH,
      })
    end
    assert.same({ "network", "fresh", "fresh", 1 }, three "default")
    assert.same({ "network", "revalidated", "fresh", 2 }, three "no-cache")
    assert.same({ "network", "fresh", "fresh", 1 }, three "force-cache")
    assert.same({ "network", "fresh", "fresh", 1 }, three "only-if-cached")
    for _, mode in ipairs { "no-store", "reload" } do
      assert.same({ "network", "network", "fresh", 2 },
        asked({ URL, with { mode = mode }, URL }, { cache = true }))
    end
    assert.same({ "not_cached", "network", 1 },
      asked({ with { mode = "only-if-cached" }, URL }, { cache = true }))
  end)

  it("has a mode from the command line, instead of any other", function()
    local client = { cache = { mode = "reload" } }
    assert.same({ "network", "fresh", 1 }, asked({ URL, URL }, client, "default"))
    assert.same({ "not_cached", 0 }, asked({ URL }, { cache = true }, "only-if-cached"))
    assert.same({ "not_cached", 0 }, asked({ with { mode = "reload" } }, client, "only-if-cached"))
    assert.same({ "network", "network", 2 },
      asked({ with(true), with { mode = "default" } }, nil, "no-store"))
  end)

  it("offline lets nothing out, whatever it is", function()
    local all = {}
    for i, given in ipairs {
      { url = URL }, { url = URL, method = "POST", body = "x" }, { url = URL, method = "DELETE" },
      { url = URL, method = "GET", body = "x" }, { url = URL, stream = true },
      { url = URL, save = "/nowhere/x" }, { url = URL, body = function() end },
      { url = URL, stream = true, method = "POST" },
      { url = URL, headers = { ["If-Match"] = '"a"' } }, { url = URL, hedge = { after = 1 } },
      { url = URL, timeout = { total = 5 } },
    } do
      for _, cache in ipairs { true, false } do
        given.cache = cache
        all[1] = given
        assert.same({ "not_cached", 0 }, asked(all, nil, "only-if-cached"), i)
      end
    end
  end)

  it("offline fails as a 504, which a fallback may answer", function()
    program({ FRESH }, function(w)
      local seen = {}
      local observer = { attempt = error, request = function(_, info) seen[#seen + 1] = info end }
      local _, err = w.client({ cache = true }):fetch(URL, observer)
      assert.same({ "http", 504, "not_cached", 0 },
        { err.kind, err.status, err.fault, err.attempts })
      assert.same({ { url = URL, origin = "https://a.test:443", ok = false, attempts = 0,
        elapsed = 0, kind = "http" } }, seen)
      local api = w.client { fallback = function(e) return { body = e.fault } end }
      assert.equal("not_cached", assert(api:fetch(URL)).body)
    end, "only-if-cached")
  end)

  it("has a key, which stands for the URL", function()
    local described
    local function key(request)
      described = request
      return request.url:match "^[^?]+"
    end
    assert.same({ "network", "fresh", "network", 2 }, asked({
      { url = URL .. "?t=1", headers = { ["X-A"] = "b" } }, URL .. "?t=2", "https://a.test/y",
    }, { cache = { key = key } }))
    program({ FRESH }, function(w)
      assert(w.client({ cache = { key = key } }):fetch {
        url = URL .. "?t=1", headers = { ["X-A"] = "b", Authorization = secret.value "s3cret" },
      })
    end)
    assert.same({ URL .. "?t=1", "GET", "b", "***" }, { described.url, described.method,
      described.headers["x-a"], tostring(described.headers.authorization) })
  end)

  it("has a key that must be a text, and says where it is not", function()
    for _, case in ipairs {
      { "nil" }, { "nil: no user id in the URL", nil, "no user id in the URL" },
      { "an empty one", "" }, { "a number", 7 }, { "a boolean", false, "x" },
    } do
      local line = debug.getinfo(1, "l").currentline + 1
      local function key() return case[2], case[3] end
      local ok, problem = pcall(asked, { URL }, { cache = { key = key } })
      assert.is_false(ok)
      problem = type(problem) == "table" and problem.message or problem
      local said = "cache.key: must return a text to store by; it returned " .. case[1]
      assert.is_truthy(problem:find(said, 1, true), problem)
      assert.is_truthy(problem:find("cache_options_spec.lua:" .. line .. ": cache.key", 1, true))
    end
  end)

  it("drops what a POST to a URL of the same key made void", function()
    local function key() return "k" end
    assert.same({ "network", "network", "network", 3 }, asked(
      { URL, { url = URL .. "?2", body = "x" }, URL }, { cache = { key = key } }))
  end)

  it("has fields that each answer depends on", function()
    local function lang(text) return { url = URL, headers = { ["X-Lang"] = text } } end
    assert.same({ "network", "fresh", 1 }, asked({ lang "a", lang "b" }, { cache = true }))
    assert.same({ "network", "network", "fresh", 2 },
      asked({ lang "a", lang "b", lang "a" }, { cache = { vary = { "X-Lang" } } }))
  end)

  it("keeps those apart who do not reach the same", function()
    local settings = {
      {}, { tls = { insecure = true } }, { unix_socket = "/tmp/x" },
      { resolve = { ["a.test"] = "127.0.0.1" } }, { deny_private = true },
      { auth = { type = "basic", username = "a", password = "b" } },
      { auth = { type = "digest", username = "a", password = "b" } },
      { auth = { type = "digest", username = "a", password = "c" } },
      { auth = { { type = "bearer", token = "t1" }, { type = "bearer", token = "t2" } } },
      { auth = { type = "api_key", name = "X-Key", value = "k" } },
      { auth = { type = "api_key", name = "key", value = "k", place = "query" } },
    }
    local function each(w)
      for i, opts in ipairs(settings) do
        opts.cache = true
        local api = w.client(opts)
        assert.is_nil(assert(api:fetch(URL)).from_cache, i)
        assert.equal("fresh", assert(api:fetch(URL)).from_cache, i)
      end
      for i, opts in ipairs(settings) do -- another client of the same settings is no other
        assert.equal("fresh", assert(w.client(opts):fetch(URL)).from_cache, i)
      end
    end
    assert.equal(#settings, (program({ FRESH }, each)))
  end)

  it("keeps apart, by their cookies, what is not for everybody", function()
    local function cookie(text) return { url = URL, headers = { Cookie = text } } end
    local list = { cookie "a", cookie "b", cookie "a", URL }
    assert.same({ "network", "fresh", "fresh", "fresh", 1 }, asked(list, { cache = true }))
    local private = { head = "Cache-Control: private, max-age=60\r\n" }
    assert.same({ "network", "network", "fresh", "network", 3 },
      asked(list, { cache = true }, nil, { private }))
    assert.same({ "network", "network", "fresh", "network", 3 },
      asked(list, { cache = { ttl = 60 } }, nil, { PLAIN }))
    -- Whose cookies are in a jar nobody knows.
    local jar = { cookies = true, cache = { ttl = 60 } }
    assert.same({ "network", "network", 2 }, asked({ URL, URL }, jar, nil, { PLAIN }))
    assert.same({ "network", "network", 2 }, asked({ URL, URL }, jar, nil, { private }))
    assert.same({ "network", "fresh", 1 }, asked({ URL, URL }, jar))
    jar.cache.key = function() return "of user 7" end
    assert.same({ "network", "fresh", 1 }, asked({ URL, URL }, jar, nil, { PLAIN }))
  end)

  it("keeps no secret: not in the URL, and nothing that has one in its fields", function()
    local token = secret.value "t0ken-of-mine"
    program({ FRESH, { head = FRESH.head .. "Location: /?k=t0ken-of-mine\r\n" } }, function(w)
      local put = {}
      local store = w.env.cache_store
      local put_before = store.put
      function store:put(entry, ...)
        put[#put + 1] = entry.url
        return put_before(self, entry, ...)
      end
      local api = w.client { cache = true }
      assert(api:fetch { url = URL, query = { k = token } })
      assert.equal("fresh", assert(api:fetch { url = URL, query = { k = token } }).from_cache)
      assert(api:fetch(URL .. "/2"))
      assert.same({ URL .. "?k=***" }, put)
    end)
  end)

  it("does not go by what a client may not ask", function()
    program({ FRESH }, function(w)
      assert(w.client({ cache = true }):fetch(URL))
      local _, err = w.client({ cache = true, allow_hosts = { "b.test" } }):fetch(URL)
      assert.equal("host_not_allowed", err.fault)
      _, err = w.client({ cache = true, max_body = 2 }):fetch(URL)
      assert.equal("body_too_large", err.fault)
    end)
  end)
end)

describe("a request that the cache answers", function()
  it("takes no attempt, and is told of as such", function()
    local told = {}
    local observer = {
      attempt = function() told[#told + 1] = "attempt" end,
      request = function(_, info) told[#told + 1] = info end,
    }
    program({ FRESH }, function(w)
      local api = w.client { cache = true, rate_limit = "1/1h", hedge = { after = "p95" } }
      assert(api:fetch(URL, observer))
      local res = assert(api:fetch(URL, observer))
      assert.same({ 0, 3, 0, "one", "length", 0 },
        { res.attempts, res.size, res.wire, res.body, res.framing, res.timing.total })
      assert.same({ "max-age=60", "0" }, { res.headers["cache-control"], res.headers.age })
    end)
    assert.same({ 3, "attempt", nil, 1 }, { #told, told[1], told[2].from_cache, told[2].attempts })
    assert.same({ "fresh", 0, 0, true },
      { told[3].from_cache, told[3].attempts, told[3].elapsed, told[3].ok })
  end)

  it("is told of as such also when it is not accepted", function()
    local told = {}
    local observer = { attempt = function() end,
      request = function(_, info) told[#told + 1] = info end }
    local gone = { status = 404, head = 'Cache-Control: max-age=5\r\nETag: "a"\r\n' }
    program({ gone, { status = 304, head = gone.head } }, function(w)
      local api = w.client { cache = true, retry = false }
      assert(api:fetch { url = URL, accept = { 404 } })
      for _ = 1, 2 do
        assert.equal(404, select(2, api:fetch(URL, observer)).status)
        w.sched:sleep(10)
      end
    end)
    for i, from in ipairs { "fresh", "revalidated" } do
      assert.same({ from, 404, false, "http" },
        { told[i].from_cache, told[i].status, told[i].ok, told[i].kind })
    end
  end)

  it("is judged like any other, and asked for when it is to be tried again", function()
    local function judge(action)
      return { url = URL, response_action = function(res) return res.from_cache and action end }
    end
    assert.same({ "network", "fresh", 1 }, asked({ URL, judge "accept" }, { cache = true }))
    assert.same({ "network", "http_status", 1 }, asked({ URL, judge "fail" }, { cache = true }))
    assert.same({ "network", "network", "fresh", 2 },
      asked({ URL, judge "retry", URL }, { cache = true }))
    assert.same({ "network", "http_status", 1 },
      asked({ URL, { url = URL, accept = { 404 } } }, { cache = true }))
    local busy = { status = 503, head = FRESH.head }
    assert.same({ "network", "network", 2 }, asked({ { url = URL, accept = { 503 } }, URL },
      { cache = true }, nil, { busy, FRESH }))
    program({ FRESH }, function(w)
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      local res = assert(api:fetch { url = URL, response_action = function() return "ignore" end })
      assert.same({ "fresh", true }, { res.from_cache, res.ignored })
    end)
  end)

  it("is not tried again offline", function()
    program({ FRESH }, function(w)
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      local _, err = api:fetch { url = URL, cache = { mode = "only-if-cached" },
        response_action = function() return "retry" end }
      assert.same({ "http_status", 0 }, { err.fault, err.attempts })
    end)
  end)

  it("goes to a file", function()
    local path = os.tmpname()
    local function saved(more)
      local got
      program({ FRESH }, function(w)
        local api = w.client { cache = true }
        assert(api:fetch(URL))
        local request = { url = URL, save = path }
        for name, value in pairs(more or {}) do request[name] = value end
        local res, err = api:fetch(request)
        if not res then
          got = err.fault
          return
        end
        assert.same({ "fresh", path, nil, "on" },
          { res.from_cache, res.saved, res.body, res:peek(2) })
        local file = assert(io.open(path))
        got = file:read "*a"
        file:close()
      end)
      return got
    end
    assert.equal("one", saved())
    assert.equal("one", saved { accept = "any" })
    assert.is_nil(io.open(path .. ".new"))
    os.remove(path)
    assert.equal("cannot_save", saved { save = "/nowhere/at/all" })
  end)

  it("is read bit by bit", function()
    program({ { head = FRESH.head, body = "1\n2\n" } }, function(w)
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      local res = assert(api:fetch { url = URL, stream = true, timeout = { total = 9 } })
      assert.same({ "fresh", nil }, { res.from_cache, res.body })
      local lines = {}
      for line in res:lines() do lines[#lines + 1] = line end
      assert.same({ "1", "2" }, lines)
      assert.equal(4, res.size)
    end)
  end)

  it("is not kept when it is read bit by bit, or goes to a file; a POST makes void all the same",
    function()
      local path = os.tmpname()
      assert.same({ "network", "network", "fresh", "network", "network", 4 }, asked({
        { url = URL, save = path }, URL, URL, { url = URL, method = "POST", save = path }, URL,
      }, { cache = true }))
      os.remove(path)
    end)

  it("lets others have their turn", function()
    local turns = 0
    program({ FRESH }, function(w)
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      local other = w.sched:spawn(function()
        while true do
          w.sched:sleep(0)
          turns = turns + 1
        end
      end)
      for _ = 1, 1000 do assert(api:fetch(URL)) end
      other:cancel()
    end)
    assert.is_true(turns >= 9, turns)
  end)

  it("raises in a task that was cancelled", function()
    local fetched
    program({ FRESH }, function(w)
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      local task
      task = w.sched:spawn(function()
        task:cancel()
        fetched = { pcall(api.fetch, api, URL) }
      end)
      task:await()
    end)
    assert.is_false(fetched[1])
    assert.equal("cancelled", fetched[2].kind)
  end)
end)

describe("a stale response instead of an error", function()
  local SHORT = { head = "Cache-Control: max-age=1\r\n", body = "old" }
  local CLIENT = { cache = { stale_if_error = "1h" } }

  local instead_of -- of what it was

  local function after(failure, request, client)
    local got
    local seen
    local observer = { attempt = function() end, request = function(_, info) seen = info end }
    local count = program({ SHORT, failure }, function(w)
      local opts = { retry = false }
      for name, value in pairs(CLIENT) do opts[name] = value end
      for name, value in pairs(client or {}) do opts[name] = value end
      local api = w.client(opts)
      assert(api:fetch(URL))
      w.sched:sleep(10)
      local res, err = api:fetch(request or URL, observer)
      got = res and { res.from_cache, res.body, res.attempts } or { err.kind, err.status }
      assert.equal(res and res.instead_of, seen.instead_of)
      if res then
        instead_of = { res.instead_of.kind, res.instead_of.status, res.instead_of.attempts }
        assert.equal(URL, res.instead_of.url)
        assert.is_true(errors.is(res.instead_of))
      end
    end)
    got[4] = count
    return got
  end

  it("comes after the retries", function()
    assert.same({ "stale", "old", 1, 2 }, after { status = 503 })
    assert.same({ "http", 503, 1 }, instead_of)
    assert.same({ "stale", "old", 3, 4 },
      after({ fault = "reset" }, nil, { retry = { attempts = 3 } }))
    assert.same({ "network", nil, 3 }, instead_of)
    assert.same({ "stale", "old", 3, 4 },
      after({ status = 503 }, nil, { retry = { attempts = 3 } }))
    assert.same({ "http", 404, nil, 2 }, after { status = 404 })
  end)

  it("comes when there is no time left", function()
    assert.same({ "stale", "old", 1, 2 }, after({ after = 9 }, nil, { timeout = { total = 3 } }))
    assert.same({ "timeout", nil, 1 }, instead_of)
    assert.same({ "stale", "old", 1, 2 }, after({ after = 9 }, nil, { timeout = 3 }))
  end)

  it("comes also when errors are accepted", function()
    assert.same({ "stale", "old", 1, 2 }, after({ status = 503 }, { url = URL, accept = "any" }))
    assert.same({ "http", 503, 1 }, instead_of)
  end)

  it("goes to a file, too", function()
    local path = os.tmpname()
    assert.same({ "stale", nil, 1, 2 }, after({ status = 503 }, { url = URL, save = path }))
    os.remove(path)
  end)

  it("names that error also to those that waited for the answer, and in a line of its own",
    function()
      local said, errs = {}, {}
      program({ SHORT, { status = 503, after = 1 } }, function(w)
        w.env.voice = { log = {
          warn = error,
          debug = function(_, text, fields) said[#said + 1] = { text, fields } end,
        } }
        local api = w.client { cache = { stale_if_error = "1h" }, retry = false }
        local fresh = assert(api:fetch(URL))
        assert.is_nil(fresh.instead_of)
        w.sched:sleep(10)
        w.orc.map({ 1, 2, 3 }, function(i)
          errs[i] = assert(api:fetch(URL)).instead_of.status
        end)
      end)
      assert.same({ 503, 503, 503 }, errs)
      assert.equal(3, #said)
      assert.equal("answered from the cache instead of an error", said[1][1])
      assert.same({ 503, URL, 11 }, { said[1][2].error.status, said[1][2].url, said[1][2].age })
    end)

  it("is found for what a redirect leads to", function()
    program({
      { status = 302, head = "Location: /y\r\n" }, SHORT,
      { status = 302, head = "Location: /y\r\n" }, { status = 500 },
    }, function(w)
      local api = w.client { cache = { stale_if_error = "1h" }, retry = false }
      assert(api:fetch(URL))
      w.sched:sleep(10)
      local res = assert(api:fetch(URL))
      assert.same({ "stale", "https://a.test/y", 1 }, { res.from_cache, res.url, #res.hops })
    end)
  end)

  it("is not that of another hop", function()
    program({
      { status = 301, head = "Location: /y\r\nCache-Control: max-age=1\r\n" }, PLAIN,
      { status = 301, head = "Location: /y\r\n" }, { status = 500 },
    }, function(w)
      local api = w.client { cache = { stale_if_error = "1h" }, retry = false }
      assert(api:fetch(URL))
      w.sched:sleep(10)
      local _, err = api:fetch { url = URL, cache = { stale_if_error = 0 } }
      assert.equal(500, err.status)
    end)
  end)
end)

describe("asking in the background", function()
  local SHORT = { head = 'Cache-Control: max-age=1, stale-while-revalidate=600\r\nETag: "a"\r\n',
    body = "one" }

  local function world(answer)
    return fake_host.world {
      serve = function(spec, n)
        local all = {}
        for name, value in pairs(n == 1 and SHORT or answer(spec, n)) do all[name] = value end
        return all
      end,
    }
  end

  it("is done once, however many were answered meanwhile", function()
    local w = world(function() return { body = "two", head = FRESH.head, after = 1 } end)
    local attempts, requests = 0, 0
    local observer = {
      attempt = function() attempts = attempts + 1 end,
      request = function() requests = requests + 1 end,
    }
    w.run(function()
      local api = w.client { cache = true }
      assert(api:fetch(URL, observer))
      w.sched:sleep(10)
      for _ = 1, 20 do assert.equal("stale", assert(api:fetch(URL, observer)).from_cache) end
      w.sched:sleep(2)
      local res = assert(api:fetch(URL, observer))
      assert.same({ "fresh", "two" }, { res.from_cache, res.body })
    end)
    assert.same({ 2, 22 }, { attempts, requests })
    assert.equal(2, #w.host.ledger)
  end)

  it("is given up when the run is, and waited for at its end", function()
    local w = world(function() return { after = 20, head = FRESH.head } end)
    w.run(function()
      local api = w.client { cache = true }
      assert(api:fetch(URL))
      w.sched:sleep(10)
      assert(api:fetch(URL))
      w.env.cache.background:cancel "interrupted" -- before it has begun
      w.sched:sleep(0)
      assert(api:fetch(URL))
      w.sched:sleep(1)
      w.env.cache.background:cancel "interrupted"
      w.sched:sleep(0)
      assert(api:fetch(URL))
      local before = w.at()
      w.env.cache.background:join()
      assert.equal(20, w.at() - before)
      assert.equal("fresh", assert(api:fetch(URL)).from_cache)
    end)
    assert.equal(3, #w.host.ledger)
  end)

  it("is not done again at once when it failed, and is not stored when the script refuses it",
    function()
      local answers = { [2] = { status = 500 }, [3] = { body = "bad", head = FRESH.head },
        [4] = { body = "good", head = FRESH.head } }
      local w = world(function(_, n) return answers[n] end)
      w.run(function()
        local api = w.client { cache = true, response_action = function(res)
          return res.body == "bad" and "fail" or nil
        end }
        assert(api:fetch(URL))
        w.sched:sleep(10)
        local bodies = {}
        for _ = 1, 14 do
          local res = assert(api:fetch(URL))
          bodies[#bodies + 1] = res.from_cache .. " " .. res.body
          w.sched:sleep(1)
        end
        assert.same({ "stale one", "fresh good" }, { bodies[13], bodies[14] })
      end)
      assert.equal(4, #w.host.ledger)
    end)

  it("says what a function of the script raised", function()
    local w = world(function() return { head = FRESH.head } end)
    local said = {}
    w.env.voice = { log = { warn = function(_, text) said[#said + 1] = text end } }
    w.run(function()
      local api = w.client { cache = true, accept = function(res)
        if #w.host.ledger > 1 and not res.from_cache then error "of the script" end
        return true
      end }
      assert(api:fetch(URL))
      w.sched:sleep(10)
      assert.equal("stale", assert(api:fetch(URL)).from_cache)
      w.sched:sleep(10)
    end)
    assert.equal(1, #said)
    assert.matches("^cache: .*of the script", said[1])
    assert.is_true(errors.is(errors.new("script", "x")))
  end)
end)
