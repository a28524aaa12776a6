-- The cache where several things meet that are right each for itself.

local fake_host = require "fake_host"
local provenance = require "orchestrator.provenance"
local secret = require "orchestrator.secret"

local URL = "https://a.test/x"
local FRESH = "Cache-Control: max-age=60\r\n"

local function world(serve, opts)
  local w = fake_host.world { serve = serve }
  local all = { retry = false, cache = true }
  for name, value in pairs(opts or {}) do all[name] = value end
  w.api = w.client(all)
  return w
end

local function from(res, err)
  return res and (res.from_cache or "network") or err.fault or err.kind
end

describe("max_body", function()
  local function validated(spec)
    if spec.headers:find "If%-None%-Match" then return { status = 304, head = 'ETag: "a"\r\n' } end
    return { head = 'ETag: "a"\r\nCache-Control: max-age=1\r\n', body = ("x"):rep(2000) }
  end

  it("holds for what a server has confirmed", function()
    local w = world(validated)
    local res, err = w.run(function()
      assert(w.api:fetch(URL))
      w.sched:sleep(5)
      return w.api:fetch { url = URL, max_body = 1000 }
    end)
    assert.equal("body_too_large", from(res, err))
  end)

  it("holds for what is stale and would be used instead of an error", function()
    local w = world(function(spec, n)
      if n > 1 then return { status = 503 } end
      return validated(spec)
    end, { cache = { stale_if_error = "1h" } })
    local res, err = w.run(function()
      assert(w.api:fetch(URL))
      w.sched:sleep(5)
      return w.api:fetch { url = URL, max_body = 1000 }
    end)
    assert.same({ nil, "http", 503 }, { res, err.kind, err.status })
  end)

  it("holds for parts that were put together", function()
    local w = world(function(spec, n)
      local rest = spec.headers:match "Range: bytes=(%d+)%-"
      if n == 1 then
        return { status = 206, body = ("x"):rep(2000), head = FRESH .. 'ETag: "a"\r\n'
          .. "Content-Range: bytes 0-1999/2010\r\n" }
      end
      assert.equal("2000", rest)
      return { status = 206, body = ("y"):rep(10), head = FRESH .. 'ETag: "a"\r\n'
        .. "Content-Range: bytes 2000-2009/2010\r\n" }
    end)
    local res, err = w.run(function()
      assert(w.api:fetch { url = URL, headers = { Range = "bytes=0-1999" } })
      return w.api:fetch { url = URL, max_body = 1000 }
    end)
    assert.equal("body_too_large", from(res, err))
  end)
end)

describe("a client with a jar", function()
  it("is not answered by what others without its cookies got", function()
    local personal = "Cache-Control: private, max-age=60\r\n"
    for _, head in ipairs { personal, FRESH .. "Vary: Cookie\r\n" } do
      local w = world(function(_, n) return { head = head, body = "for " .. n } end)
      local jar = w.client { retry = false, cache = true, cookies = true }
      local own = w.client { retry = false, cookies = true,
        cache = { key = function(r) return r.url .. " of me" end } }
      w.run(function()
        assert.equal("network", from(w.api:fetch(URL)))
        assert.equal("fresh", from(w.api:fetch(URL)))
        assert.equal("network", from(jar:fetch(URL)))
        assert.equal("network", from(own:fetch(URL)))
        assert.equal("fresh", from(own:fetch(URL)))
      end)
    end
  end)

  it("shares what is for everybody", function()
    local w = world(function() return { head = FRESH } end)
    local jar = w.client { retry = false, cache = true, cookies = true }
    w.run(function()
      assert(w.api:fetch(URL))
      assert.equal("fresh", from(jar:fetch(URL)))
    end)
  end)
end)

describe("a secret", function()
  it("is not stored out of a 304 or a HEAD either", function()
    local token = "s3cret-0123456789"
    for _, method in ipairs { "GET", "HEAD" } do
      local w = world(function(spec, n)
        if n == 1 then return { head = 'ETag: "a"\r\nCache-Control: max-age=1\r\n', body = "x" } end
        return { status = spec.method == "HEAD" and 200 or 304,
          head = 'ETag: "a"\r\nX-You: ' .. token .. "\r\n" .. FRESH }
      end, { headers = { ["X-Token"] = secret.value(token) } })
      w.run(function()
        assert(w.api:fetch(URL))
        w.sched:sleep(5)
        assert(w.api:fetch { url = URL, method = method, cache = { mode = "no-cache" } })
      end)
      for _, entries in pairs(w.env.cache.store.keys) do
        for _, entry in ipairs(entries) do
          for _, field in ipairs(entry.fields) do assert.not_equal(token, field[2]) end
        end
      end
    end
  end)

  it("within what a request sends is not stored either", function()
    secret.value "s3cret-within"
    local w = world(function() return { head = FRESH .. "Vary: X-A\r\n" } end)
    w.run(function()
      assert(w.api:fetch { url = URL, headers = { ["X-A"] = "a s3cret-within" } })
    end)
    assert.is_nil(next(w.env.cache.store.keys))
  end)

  it("keeps apart what is sent in a header whose name tells that it is one", function()
    local w = world(function(_, n)
      return { head = FRESH .. "Vary: X-Api-Key\r\n", body = tostring(n) }
    end)
    w.run(function()
      for _, key in ipairs { "k-of-one", "k-of-two" } do
        assert.equal("network", from(w.api:fetch { url = URL, headers = { ["X-Api-Key"] = key } }))
        assert.equal("fresh", from(w.api:fetch { url = URL, headers = { ["X-Api-Key"] = key } }))
      end
    end)
    for _, entries in pairs(w.env.cache.store.keys) do
      for _, entry in ipairs(entries) do
        assert.is_nil(entry.vary["x-api-key"]:find "k-of")
      end
    end
    w = world(function() return { head = FRESH } end)
    w.run(function()
      for _, name in ipairs { "X-Api-Key", "X-Auth-Token", "apikey", "X-Session-Id",
        "Client-Secret", "X-Authorization", "X-Password" } do
        for _, value in ipairs { "1", "2" } do
          local given = { url = URL, headers = { [name] = value } }
          assert.equal("network", from(w.api:fetch(given)), name)
        end
      end
    end)
  end)
end)

describe("an unsafe method", function()
  it("outdates what was asked for before it and comes after it", function()
    local w = world(function(_, n)
      return { head = FRESH, body = "answer " .. n, after = n == 1 and 10 or 1 }
    end)
    w.run(function()
      local before = w.sched:spawn(function() return w.api:fetch(URL) end)
      w.sched:sleep(1)
      assert(w.api:fetch { url = URL, method = "PUT", body = "new" })
      local res = assert(w.api:fetch(URL))
      assert.same({ "answer 3", 3 }, { res.body, w.at() })
      assert.equal("answer 1", before:await().body)
      assert.equal("answer 3", assert(w.api:fetch(URL)).body)
    end)
  end)
end)

describe("functions of a script", function()
  it("may ask for the same in tasks of their own", function()
    local w = world(function() return { head = FRESH } end)
    w.run(function()
      local asked
      local res = assert(w.api:fetch { url = URL, accept = function(res)
        if not asked then
          asked = true
          assert(w.orc.map({ 1, 2 }, function() return w.api:fetch(URL) end))
        end
        return res.ok
      end })
      assert.equal(200, res.status)
    end)
  end)

  it("may ask for what another asks for whose functions ask for theirs", function()
    local w = world(function() return { head = FRESH, after = 1 } end)
    w.run(function()
      assert(w.orc.map({ 1, 2 }, function(i)
        local asked
        return w.api:fetch { url = URL .. i, accept = function(res)
          if not asked then
            asked = true
            assert(w.api:fetch(URL .. 3 - i))
          end
          return res.ok
        end }
      end))
      assert.is_true(w.at() < 10)
    end)
  end)

  it("leave nothing behind in tasks that outlive the request", function()
    local w = world(function() return { head = "Cache-Control: no-store\r\n" } end)
    local deepest = 0
    w.run(function()
      w.orc.group(function(group)
        local function ask(n)
          return w.api:fetch { url = URL .. n, accept = function(res)
            if n < 20 then
              group:spawn(function()
                w.sched:sleep(1)
                local outer, depth = w.sched:current().request, 0
                while outer do outer, depth = outer.outer, depth + 1 end
                deepest = math.max(deepest, depth)
                return ask(n + 1)
              end)
            end
            return res.ok
          end }
        end
        ask(1)
      end)
    end)
    assert.equal(1, deepest)
  end)

  it("may do so at a later attempt that is hedged", function()
    local w = world(function(_, n) return { status = n == 1 and 500 or 200, head = FRESH } end,
      { retry = { attempts = 2 }, hedge = { after = "10s" } })
    w.run(function()
      local asked
      assert(w.api:fetch { url = URL, accept = function(res)
        if res.ok and not asked then
          asked = true
          assert(w.api:fetch { url = URL, hedge = false })
        end
        return res.ok
      end })
    end)
  end)
end)

describe("what is asked for in the background", function()
  it("does not keep a run for longer than its time, whatever it waits for", function()
    local w = world(function() return { head = "Cache-Control: max-age=1\r\n" } end,
      { rate_limit = "1/5h", cache = { stale_while_revalidate = "1h" } })
    w.run(function()
      assert(w.api:fetch(URL))
      w.sched:sleep(5)
      assert.equal("stale", from(w.api:fetch(URL)))
    end)
    assert.is_true(w.at() < 120, w.at())
    w = world(function(_, n)
      return { head = "Cache-Control: max-age=1\r\n", after = n > 1 and 9 or nil }
    end, { timeout = { total = 2 }, cache = { stale_while_revalidate = "1h" } })
    w.run(function()
      assert(w.api:fetch(URL))
      w.sched:sleep(5)
      assert.equal("stale", from(w.api:fetch(URL)))
    end)
    assert.is_true(w.at() < 8, w.at())
  end)
end)

describe("a response that cannot be stored", function()
  it("makes nobody wait in vain", function()
    local w = world(function() return { head = FRESH, after = 1 } end, { concurrency = 100 })
    w.env.cache.store.put = function() return false end
    w.run(function()
      local list = {}
      for i = 1, 20 do list[i] = i end
      w.orc.map(list, function() return w.api:fetch(URL) end, { concurrency = 20 })
    end)
    assert.equal(2, w.at())
  end)
end)

describe("who gives up waiting", function()
  it("is not remembered for as long as the others wait", function()
    local w = world(function() return { head = FRESH, after = 1000 } end, { timeout = 2000 })
    w.run(function()
      local leader = w.sched:spawn(function() return w.api:fetch(URL) end)
      w.sched:sleep(1)
      for _ = 1, 3 do assert.is_nil(w.api:fetch { url = URL, timeout = { total = 1 } }) end
      local _, flight = next(w.env.cache.flights.flights)
      assert.same({ 3, nil }, { #flight.waiters, flight.waiters[1].root })
      leader:await()
    end)
  end)
end)

describe("a stored document", function()
  local document = require "orchestrator.cache_document"

  local function decoded(changes)
    local entry = { url = "u", status = 200, fields = {}, vary = {}, size = 4, request_time = 1,
      response_time = 2 }
    for name, value in pairs(changes) do entry[name] = value end
    return document.decode(document.encode(entry), "u")
  end

  it("has the key of a script", function()
    assert.is_nil(decoded({}).named)
    for _, more in ipairs {
      {}, { vary = { accept = "x" } }, { on = "accept" },
      { status = 206, range = { first = 0, last = 3 }, asked = "bytes=0-3" },
    } do
      more.named = "the k\195\182y: 1"
      local entry = decoded(more)
      assert.same({ more.named, more.asked, more.on, more.vary or {} },
        { entry.named, entry.asked, entry.on, entry.vary })
    end
  end)

  it("is none when it says what cannot be", function()
    assert.is_table(decoded {})
    assert.is_table(decoded { status = 206, range = { first = 0, last = 3 } })
    for _, changes in ipairs {
      { status = 206 }, { range = { first = 0, last = 3 } }, { status = 0 / 0 }, { status = 99 },
      { size = -1 }, { request_time = 0 / 0 }, { response_time = 1e300 },
    } do
      assert.is_nil(decoded(changes))
    end
  end)
end)

describe("the short way", function()
  it("is for several names in Vary, too", function()
    local quick = require "orchestrator.cache_quick"
    assert.equal("a:1\na-b:2\n", quick.lines { ["a-b"] = "2", a = "1" })
  end)
end)

describe("a proxy that refuses", function()
  it("is told of as such when the server is asked whether something is still good", function()
    local w = world(function(_, n)
      if n > 1 then return { status = 407 } end
      return { head = 'ETag: "a"\r\nCache-Control: no-cache\r\n' }
    end, { proxy = "http://proxy.test:3128" })
    local res, err = w.run(function()
      assert(w.api:fetch "http://a.test/x")
      return w.api:fetch "http://a.test/x"
    end)
    assert.equal("proxy_refused", from(res, err))
  end)
end)

describe("hostile fields", function()
  it("make no whole body of a part", function()
    for _, range in ipairs { "0-99999999999999999999/*", "100000000000000000-100000000000000009/*",
      ("9"):rep(400) .. "-" .. ("9"):rep(400) .. "/*" } do
      local w = world(function(_, n)
        if n > 1 then return { head = FRESH, body = "whole" } end
        return { status = 206, body = "0123456789", head = FRESH .. 'ETag: "a"\r\n'
          .. "Content-Range: bytes " .. range .. "\r\n" }
      end)
      w.run(function()
        w.api:fetch(URL)
        assert.equal("whole", assert(w.api:fetch(URL)).body)
      end)
    end
  end)

  it("leave provenance a number", function()
    for age, expected in pairs { nan = 0, inf = 0, ["-5"] = 0, ["0x10"] = 0, ["7, 8"] = 7,
      [("9"):rep(400)] = 2 ^ 31, ["1e3"] = 0 } do
      local w = world(function() return { head = "Age: " .. age .. "\r\n" } end, { cache = false })
      local res = w.run(function() return assert(w.api:fetch(URL)) end)
      assert.equal(expected, provenance.of(res, 0).age, age)
    end
  end)
end)
