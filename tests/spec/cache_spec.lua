local fake_host = require "fake_host"

local URL = "https://a.test/x"

-- A program whose server answers one request after the other: each answer is a table as
-- fake_host.new's `serve` gives it. `fn(fetch, w)` runs in it; fetch(request, mode).
local function program(answers, fn, opts)
  local w = fake_host.world {
    serve = function(_, n) return answers[n] or error "asked too often" end,
  }
  local clients = {}
  local function fetch(request, mode)
    mode = mode or "default"
    if not clients[mode] then
      local all = { mode = mode }
      for name, value in pairs(opts or {}) do all[name] = value end
      clients[mode] = w.client { retry = false, cache = all }
    end
    return clients[mode]:fetch(request or URL)
  end
  w.run(function() fn(fetch, w) end)
  assert.equal(#answers, #w.host.ledger, "requests that reached the server")
  return w
end

local function sent(w, n)
  return w.host.ledger[n].spec.headers
end

local FRESH = { head = 'Cache-Control: max-age=60\r\nETag: "a"\r\n', body = "one" }

describe("the cache", function()
  it("answers what is fresh, without a request", function()
    program({ FRESH }, function(fetch, w)
      local first = assert(fetch())
      w.sched:sleep(10)
      local res = assert(fetch())
      assert.same({ "one", "fresh", 200, 0 },
        { res.body, res.from_cache, res.status, res.attempts })
      assert.same({ nil, "10" }, { first.headers.age, res.headers.age })
      assert.near(10, res.age, 0.5)
    end)
  end)

  it("asks whether what is stale is still good", function()
    local good = { status = 304, head = 'ETag: "a"\r\nX-A: 2\r\n' }
    local w = program({ FRESH, good }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(60)
      local res = assert(fetch())
      assert.same({ "one", "revalidated", "2" }, { res.body, res.from_cache, res.headers["x-a"] })
      assert.equal("fresh", assert(fetch()).from_cache)
    end)
    assert.matches('If%-None%-Match: "a"\n', sent(w, 2))
  end)

  it("drops what is no longer to be stored", function()
    for _, told in ipairs { "Cache-Control: no-store\r\n", "Vary: *\r\n" } do
      local w = program({ FRESH, { status = 304, head = told }, FRESH }, function(fetch, w)
        assert(fetch())
        w.sched:sleep(60)
        assert.equal("revalidated", assert(fetch()).from_cache)
        assert.is_nil(assert(fetch()).from_cache)
      end)
      assert.is_nil(sent(w, 3):find "If%-None%-Match")
    end
  end)

  it("learns nothing of what it has from a 304 to the request's own condition", function()
    program({ FRESH, { status = 304 }, FRESH }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(60)
      local other = { url = URL, headers = { ["If-None-Match"] = '"b"' }, accept = { 304 } }
      assert.equal(304, assert(fetch(other)).status)
      assert.is_nil(assert(fetch()).from_cache)
    end)
  end)

  it("takes a part that nobody asked for as it is", function()
    local part = { status = 206, body = "01234",
      head = 'Cache-Control: max-age=60\r\nContent-Range: bytes 0-4/10\r\n' }
    program({ part }, function(fetch)
      assert.equal(206, fetch().status)
      local res = fetch { url = URL, headers = { Range = "bytes=1-2" } }
      assert.same({ 206, "12", "fresh" }, { res.status, res.body, res.from_cache })
    end)
  end)

  it("takes what has changed", function()
    program({ FRESH, { head = FRESH.head, body = "two" } }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(60)
      assert.equal("two", assert(fetch()).body)
      assert.equal("two", assert(fetch()).body)
    end)
  end)

  it("keeps users apart", function()
    program({ FRESH, FRESH }, function(fetch)
      assert(fetch { url = URL, headers = { Authorization = "a" } })
      assert(fetch { url = URL, headers = { Authorization = "b" } })
      assert.equal("fresh",
        assert(fetch { url = URL, headers = { Authorization = "a" } }).from_cache)
    end)
  end)

  it("keeps what a redirect leads to, and the redirect", function()
    local moved = { status = 301, head = "Location: /y\r\nCache-Control: max-age=60\r\n" }
    program({ moved, FRESH }, function(fetch)
      assert.equal("https://a.test/y", assert(fetch()).url)
      local res = assert(fetch())
      assert.same({ "one", "https://a.test/y", 1, "fresh" },
        { res.body, res.url, #res.hops, res.from_cache })
    end)
  end)

  it("keeps an error that may be kept, and what the script refuses not at all", function()
    local gone = { status = 404, head = "Cache-Control: max-age=60\r\n" }
    program({ gone, FRESH, FRESH }, function(fetch)
      for _ = 1, 2 do
        local _, err = fetch()
        assert.same({ "http", 404 }, { err.kind, err.status })
      end
      local picky = { url = URL .. "?2", response_action = function() return "fail" end }
      assert.is_nil(fetch(picky))
      assert.is_nil(fetch(picky))
    end)
  end)

  it("drops what a POST made void", function()
    program({ FRESH, { status = 201 }, FRESH }, function(fetch)
      assert(fetch())
      assert(fetch { url = URL, body = "x" })
      assert.is_nil(assert(fetch()).from_cache)
    end)
  end)

  it("answers a HEAD and a range, and completes a part", function()
    local tag = 'ETag: "a"\r\n'
    local w = program({
      { status = 206, body = "01234", head = tag .. "Content-Range: bytes 0-4/10\r\n" },
      { status = 206, body = "56789", head = tag .. "Content-Range: bytes 5-9/10\r\n"
        .. "Cache-Control: max-age=60\r\n" },
    }, function(fetch)
      assert(fetch { url = URL, headers = { Range = "bytes=0-4" } })
      local res = assert(fetch())
      assert.same({ 200, "0123456789" }, { res.status, res.body })
      res = assert(fetch { url = URL, headers = { Range = "bytes=3-6" } })
      assert.same({ 206, "3456", "bytes 3-6/10" },
        { res.status, res.body, res.headers["content-range"] })
      res = assert(fetch { url = URL, method = "HEAD" })
      assert.same({ 200, "", "10" }, { res.status, res.body, res.headers["content-length"] })
    end)
    assert.matches("Range: bytes=5%-\n", sent(w, 2))
    assert.matches('If%-Range: "a"\n', sent(w, 2))
  end)

  it("asks again when a condition of ours goes wrong", function()
    program({ FRESH, { status = 304, head = 'ETag: "b"\r\n' } }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(60)
      local res = assert(fetch()) -- it may answer, but nothing was updated
      assert.same({ "one", "revalidated" }, { res.body, res.from_cache })
    end)
    program({
      { status = 206, body = "01234", head = 'ETag: "a"\r\nContent-Range: bytes 0-4/5\r\n' },
      { status = 416 }, FRESH,
    }, function(fetch)
      assert(fetch { url = URL, headers = { Range = "bytes=0-" } })
      assert.equal("one", assert(fetch()).body)
    end)
  end)

  it("uses what is stale instead of an error, where that is allowed", function()
    local answers = { FRESH, { fault = "reset" }, { status = 503 }, { status = 404 } }
    program(answers, function(fetch, w)
      assert(fetch())
      w.sched:sleep(100)
      for _ = 1, 2 do assert.equal("stale", assert(fetch()).from_cache) end
      assert.equal(404, select(2, fetch()).status)
    end, { stale_if_error = 60 })
    program({ FRESH, { fault = "reset" } }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(100)
      assert.equal("network", select(2, fetch()).kind)
    end)
  end)

  it("answers with what is stale while it asks", function()
    program({
      { head = "Cache-Control: max-age=1, stale-while-revalidate=60\r\n", body = "one" },
      { head = "Cache-Control: max-age=60\r\n", body = "two" },
    }, function(fetch, w)
      assert(fetch())
      w.sched:sleep(5)
      local res = assert(fetch())
      assert.same({ "one", "stale" }, { res.body, res.from_cache })
      w.sched:sleep(5)
      assert.equal("two", assert(fetch()).body)
    end)
  end)

  it("answers offline, or not at all", function()
    program({ FRESH }, function(fetch, w)
      local _, err = fetch(nil, "only-if-cached")
      assert.same({ "http", 504 }, { err.kind, err.status })
      assert(fetch())
      w.sched:sleep(1000)
      assert.equal("stale", assert(fetch(nil, "only-if-cached")).from_cache)
    end)
  end)

  it("leaves a GET with a body alone", function()
    program({ FRESH, FRESH }, function(fetch)
      for _ = 1, 2 do assert(fetch { url = URL, method = "GET", body = "{}" }) end
    end)
  end)
end)
