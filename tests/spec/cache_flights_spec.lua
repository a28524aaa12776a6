local fake_host = require "fake_host"

local URL = "https://a.test/x"
local FRESH = { head = "Cache-Control: max-age=60\r\n", body = "one", after = 1 }

local function copy(answer)
  local all = {}
  for name, value in pairs(answer) do all[name] = value end
  return all
end

-- A program whose server answers by `serve(spec, n)`, and a client with a cache.
local function world(serve, opts)
  local w = fake_host.world { serve = function(spec, n) return copy(serve(spec, n)) end }
  local all = { retry = false, cache = true, concurrency = 1000 }
  for name, value in pairs(opts or {}) do all[name] = value end
  w.api = w.client(all)
  return w
end

-- `n` tasks ask at once for what `given(i)` says; how often each `res.from_cache` or error came.
local function together(w, n, given)
  local counts = {}
  local function count(name) counts[name] = (counts[name] or 0) + 1 end
  w.run(function()
    local list = {}
    for i = 1, n do list[i] = i end
    w.orc.map(list, function(i)
      local res, err = w.api:fetch(given and given(i) or URL)
      count(res and (res.from_cache or "network") or err.kind .. " " .. (err.status or ""))
    end, { concurrency = n })
  end)
  return counts, #w.host.ledger
end

describe("single flight", function()
  it("makes one request of a hundred for the same", function()
    local w = world(function() return FRESH end)
    assert.same({ network = 1, fresh = 99 }, together(w, 100))
    assert.same({ 1, 1 }, { #w.host.ledger, w.at() })
  end)

  it("takes no slot, no limit and no attempt for those who wait", function()
    local w = world(function() return FRESH end, { concurrency = 1, rate_limit = "1/1h" })
    assert.same({ network = 1, fresh = 99 }, together(w, 100))
    assert.equal(1, w.at())
  end)

  it("is one across the clients of a program", function()
    local w = world(function() return FRESH end)
    local other = w.client { cache = true }
    local counts = {}
    w.run(w.orc.map, { w.api, other, w.api, other }, function(api)
      local from = assert(api:fetch(URL)).from_cache or "network"
      counts[from] = (counts[from] or 0) + 1
    end)
    assert.same({ { network = 1, fresh = 3 }, 1 }, { counts, #w.host.ledger })
  end)

  it("keeps those apart who have other credentials", function()
    local w = world(function() return FRESH end)
    local _, asked = together(w, 10, function(i)
      return { url = URL, headers = { Authorization = "t" .. i % 2 } }
    end)
    assert.equal(2, asked)
  end)

  it("lets those go together for whom the answer is not", function()
    local w = world(function() return { head = "Cache-Control: no-store\r\n", after = 1 } end)
    assert.same({ network = 100 }, together(w, 100))
    assert.equal(2, w.at(), "one, then all at once")
    assert.same({ network = 100 }, together(w, 100))
    assert.equal(3, w.at(), "it is known by then")
  end)

  it("lets those go together who have to ask each time", function()
    local w = world(function(spec)
      local asks = spec.headers:find "If%-None%-Match"
      return { status = asks and 304 or 200, after = 1,
        head = 'Cache-Control: no-cache\r\nETag: "a"\r\n' }
    end)
    assert.same({ network = 1, revalidated = 99 }, together(w, 100))
    assert.equal(2, w.at())
  end)

  it("asks once whether what is stale is still good", function()
    local w = world(function(spec)
      local asks = spec.headers:find "If%-None%-Match"
      return { status = asks and 304 or 200, after = 1,
        head = 'Cache-Control: max-age=60\r\nETag: "a"\r\n' }
    end)
    together(w, 1)
    w.run(w.sched.sleep, w.sched, 100)
    assert.same({ revalidated = 1, fresh = 49 }, together(w, 50))
    assert.equal(2, #w.host.ledger)
  end)

  it("asks once for each of the responses that Vary tells apart", function()
    local w = world(function()
      return { head = "Cache-Control: max-age=60\r\nVary: X-A\r\n", after = 1 }
    end)
    local counts = together(w, 90, function(i)
      return { url = URL, headers = { ["X-A"] = tostring(i % 3) } }
    end)
    assert.same({ network = 3, fresh = 87 }, counts)
    assert.equal(2, w.at(), "the others, when it is known what tells them apart, at once")
  end)

  it("answers a HEAD with what a GET brings, but not the other way round", function()
    local function counts(first, others)
      return together(world(function() return FRESH end), 10, function(i)
        return { url = URL, method = i == 1 and first or others }
      end)
    end
    assert.same({ network = 1, fresh = 9 }, counts("GET", "HEAD"))
    assert.same({ network = 2, fresh = 8 }, counts("HEAD", "GET"))
    assert.same({ network = 10 }, counts("HEAD", "HEAD"))
  end)

  it("has the same range asked for once", function()
    local w = world(function()
      return { status = 206, body = "01", after = 1,
        head = 'Cache-Control: max-age=60\r\nETag: "a"\r\nContent-Range: bytes 0-1/9\r\n' }
    end)
    local counts = together(w, 10, function()
      return { url = URL, headers = { Range = "bytes=0-1" } }
    end)
    assert.same({ network = 1, fresh = 9 }, counts)
  end)

  it("waits for an answer that comes at the second attempt", function()
    local w = world(function(_, n) return n == 1 and { status = 503, after = 1 } or FRESH end,
      { retry = { wait_initial = 1, jitter = false } })
    assert.same({ network = 1, fresh = 9 }, together(w, 10))
    assert.equal(2, #w.host.ledger)
  end)

  it("goes with hedges, which do not wait for the attempt they are to overtake", function()
    local w = world(function(_, n)
      local answer = copy(FRESH)
      answer.after = n == 1 and 20 or 1
      return answer
    end, { hedge = { after = 2, budget = 1 } })
    assert.same({ network = 1, fresh = 9 }, together(w, 10))
    assert.same({ 2, 3 }, { #w.host.ledger, w.at() })
  end)

  it("is not waited for with a mode, or a Cache-Control, that wants its own answer", function()
    for _, given in ipairs {
      { url = URL, cache = { mode = "reload" } }, { url = URL, cache = { mode = "no-cache" } },
      { url = URL, cache = { mode = "no-store" } }, { url = URL, cache = false },
      { url = URL, headers = { ["Cache-Control"] = "no-cache" } },
      { url = URL, headers = { ["If-None-Match"] = '"b"' } },
      { url = URL, stream = true }, { url = URL, method = "POST" },
    } do
      local w = world(function() return FRESH end)
      w.run(w.orc.map, { 1, 2, 3 }, function()
        local all = copy(given)
        local res = assert(w.api:fetch(all))
        if res.stream then res:close() end
      end)
      assert.equal(3, #w.host.ledger)
    end
  end)

  describe("that fails", function()
    it("is taken over by one, then by more: neither by all at once, nor one by one", function()
      local w = world(function() return { status = 404, after = 1 } end,
        { response_action = function() return "fail" end })
      assert.same({ ["http 404"] = 16 }, together(w, 16))
      local starts = {}
      for i, entry in ipairs(w.host.ledger) do starts[i] = entry.at - 1000 end
      -- One, one, two, four, and the eight that are left.
      assert.same({ 0, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4 }, starts)
    end)

    it("is over when one of them succeeds", function()
      local w = world(function(_, n) return n <= 3 and { fault = "reset", after = 1 } or FRESH end)
      assert.same({ network = 1, ["network "] = 3, fresh = 96 }, together(w, 100))
      assert.equal(4, #w.host.ledger)
    end)

    it("is taken over by one when it was cancelled, as is that", function()
      local w = world(function() return FRESH end)
      local out = {}
      w.run(w.orc.group, function(g)
        local tasks = {}
        for i = 1, 5 do
          tasks[i] = g:spawn(function()
            out[i] = assert(w.api:fetch(URL)).from_cache or "network"
          end)
        end
        w.sched:sleep(0.5)
        tasks[1]:cancel()
        tasks[2]:cancel() -- before it could go on
        w.sched:sleep(0)
        tasks[4]:cancel() -- while it waits
      end)
      assert.same({ nil, nil, "network", nil, "fresh" }, out)
      assert.equal(2, #w.host.ledger)
      assert.equal(1.5, w.at())
    end)

    it("is told to those who have something stale, without asking again", function()
      local w = world(function(_, n)
        if n == 1 then return { head = "Cache-Control: max-age=1\r\n" } end
        return { fault = "reset", after = 1 }
      end, { cache = { stale_if_error = "1h" } })
      together(w, 1)
      w.run(w.sched.sleep, w.sched, 10)
      assert.same({ stale = 50 }, together(w, 50))
      assert.equal(2, #w.host.ledger)
    end)
  end)

  it("counts for the total timeout, and not for that of an attempt", function()
    local w = world(function() return { head = FRESH.head, after = 5 } end)
    local results = {}
    w.run(w.orc.map, { 0, 2, 3 }, function(total)
      local given = { url = URL, timeout = { total = total > 0 and total or nil } }
      if total == 3 then given.timeout = { attempt = 1 } end
      local res, err = w.api:fetch(given)
      results[total] = { res and res.from_cache or err and err.kind or "network", w.at() }
    end)
    assert.same({ [0] = { "network", 5 }, [2] = { "timeout", 2 }, [3] = { "fresh", 5 } }, results)
  end)

  it("does not wait for itself when a function of the script asks for the same", function()
    local w = world(function() return FRESH end)
    w.run(function()
      local inner
      assert(w.api:fetch { url = URL, accept = function(res)
        inner = inner or assert(w.api:fetch(URL))
        return res.ok
      end })
    end)
    assert.equal(2, #w.host.ledger)
  end)

  it("keeps nothing when all is over", function()
    local w = world(function(_, n) return n % 3 == 0 and { fault = "reset" } or FRESH end)
    together(w, 50, function(i) return URL .. i % 7 end)
    local flights = w.env.cache.flights
    assert.same({ nil, 0 }, { next(flights.flights), flights.count })
  end)
end)
