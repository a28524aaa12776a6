local fake_host = require "fake_host"
local server = require "orchestrator.server"

describe("server", function()
  local w, servers, said, one

  before_each(function()
    w, said = fake_host.world(), {}
    servers = server.new {
      sched = w.sched, wall = function() return 1.7e9 end, random = function() return 0.5 end,
      say = function(text) said[#said + 1] = text end,
    }
    one = servers:of "https://a:443"
  end)

  -- A hop that took so long has ended; so many others are in flight. Such fields came with it.
  local function ended(in_flight, remaining, reset, fields)
    fields = fields or {}
    one.in_flight = in_flight
    local lines = { "HTTP/1.1 200 OK" }
    if remaining then
      lines[2] = "X-RateLimit-Remaining: " .. remaining
      lines[3] = "X-RateLimit-Reset: " .. reset
      lines[4] = fields.limit and "X-RateLimit-Limit: " .. fields.limit
    end
    server.heed(one, {
      status = 200, head = table.concat(lines, "\r\n") .. "\r\n\r\n", elapsed = fields.elapsed,
    }, w.sched:now())
  end

  local function at(time)
    w.run(function() w.sched:sleep(time - w.at()) end)
  end

  -- A pool that writes down what it is told.
  local function pool_of(name, log)
    local function note(sign)
      return function(_, origin)
        log[#log + 1] = string.format("%g %s %s %s", w.at(), name, sign, origin)
      end
    end
    return { close = note "-", reopen = note "+" }
  end

  it("is one for each origin", function()
    assert.equal(one, servers:of "https://a:443")
    assert.not_equal(one, servers:of "http://a:80")
    assert.is_false(one.shut)
  end)

  it("is shut while those in flight may need all that is left", function()
    ended(2, 3, 60)
    assert.is_false(one.shut)
    ended(3, 3, 60)
    assert.is_true(one.shut)
    ended(2, 3, 60) -- one of them was counted in it
    assert.is_false(one.shut)
    ended(0, 0, 60)
    assert.is_true(one.shut)
  end)

  it("opens when the window is over, with a little jitter", function()
    local log = {}
    server.attend(one, pool_of("p", log))
    ended(0, 0, 4)
    at(10)
    assert.same({ "0 p - https://a:443", "4.2 p + https://a:443" }, log)
    for reset, later in pairs { [0.5] = 0.525, [10] = 10.5, [600] = 600.5 } do
      ended(0, 0, reset)
      assert.is_near(w.sched:now() + later, one.timer.time, 1e-9)
      at(w.at() + reset + 1)
      assert.is_false(one.shut)
    end
  end)

  it("takes as many in a window it knows nothing of as the last one had", function()
    ended(0, 0, 4, { limit = 3 })
    at(5)
    assert.is_false(one.shut)
    one.in_flight = 3
    server.settle(one, w.sched:now())
    assert.is_true(one.shut)
    ended(2) -- and none is spoken of any more
    assert.is_nil(one.quota)
    assert.is_false(one.shut)
  end)

  it("takes one at a time when that was not told", function()
    ended(0, 0, 4)
    at(5)
    one.in_flight = 1
    server.settle(one, w.sched:now())
    assert.is_true(one.shut)
    ended(0, 7, 60)
    assert.is_false(one.shut)
    assert.equal(7, one.quota.remaining)
  end)

  it("takes no more in it than other limits leave", function()
    server.heed(one, { status = 200, head = "HTTP/1.1 200 OK\r\n"
      .. 'RateLimit-Policy: "s";q=10;w=1, "h";q=100;w=3600\r\n'
      .. 'RateLimit: "s";r=0;t=1, "h";r=2;t=900\r\n\r\n' }, w.sched:now())
    at(2)
    assert.is_false(one.shut)
    one.in_flight = 2
    server.settle(one, w.sched:now())
    assert.is_true(one.shut)
  end)

  it("is not misled by an answer that was overtaken", function()
    ended(2, 4, 60)
    at(1)
    ended(1, 5, 60, { elapsed = 2 }) -- began before the other came
    assert.equal(4, one.quota.remaining)
    ended(1, 3, 60, { elapsed = 2 })
    assert.equal(3, one.quota.remaining)
    at(3)
    ended(1, 8, 60, { elapsed = 1 }) -- began after it: the server gives back bit by bit
    assert.equal(8, one.quota.remaining)
    at(70)
    ended(1, 9, 60, { elapsed = 100 }) -- that window is over
    assert.equal(9, one.quota.remaining)
  end)

  it("counts hops that had no answer", function()
    ended(2, 3, 60)
    one.in_flight = 1
    server.heed(one, { fault = "timeout" }, w.sched:now())
    assert.equal(2, one.quota.remaining)
    server.heed(one, { fault = "timeout" }, w.sched:now())
    assert.is_true(one.shut)
  end)

  it("does not read every answer while plenty are left", function()
    ended(0, 1000, 60)
    ended(0, 500, 60)
    assert.equal(1000, one.quota.remaining)
    at(2)
    ended(0, 400, 60)
    assert.equal(400, one.quota.remaining)
    for _ = 1, 335 do ended(0, 100, 60) end
    assert.equal(400, one.quota.remaining)
    ended(0, 64, 60)
    assert.equal(64, one.quota.remaining)
  end)

  it("does not wait for what is too far away", function()
    ended(0, 0, 3901)
    assert.is_false(one.shut)
    ended(0, 0, 3900)
    assert.is_true(one.shut)
  end)

  it("is shut while it is paused", function()
    local log = {}
    server.attend(one, pool_of("p", log))
    server.pause(one, 1010, 1000)
    server.pause(one, 1005, 1000) -- shorter: nothing changes
    server.pause(one, 1020, 1000)
    ended(0, 0, 5)
    at(30)
    assert.same({ "0 p - https://a:443", "20 p + https://a:443" }, log)
    server.pause(one, 1030, 1030) -- over before it begins
    assert.is_false(one.shut)
  end)

  it("opens to one pool after the other", function()
    local log
    for i = 1, 3 do
      server.attend(one, {
        close = function() end,
        reopen = function() -- each makes one start
          log[#log + 1] = i
          one.in_flight = one.in_flight + 1
          server.settle(one, w.sched:now())
        end,
      })
    end
    local function opened(remaining)
      ended(0, 0, 10)
      log = {}
      ended(0, 0, 0, { limit = remaining })
      return table.concat(log, " ")
    end
    assert.equal("1 2", opened(2))
    assert.equal("3 1", opened(2))
    assert.equal("2 3 1", opened(5))
  end)

  it("says once that its own limit governs", function()
    ended(0, 0, 4)
    assert.same({}, said) -- nobody waits
    local pool = pool_of("p", {})
    server.attend(one, pool)
    at(10)
    ended(0, 0, 4)
    assert.same({ "a:443's own limit (none left, the next in 4 s) governs now" }, said)
    at(20)
    ended(0, 0, 4)
    server.explain(one, w.sched:now())
    assert.equal(1, #said)
  end)

  it("says what its limit is, if that is known", function()
    local pool = pool_of("p", {})
    local function text(fn)
      one, said[#said + 1] = servers:of("http://" .. #said .. ".test:80"), nil
      server.attend(one, pool)
      fn()
      return (said[#said]:gsub("^[^(]*%((.*)%).*$", "%1"))
    end
    assert.equal("60, the next in 4 s", text(function() ended(0, 0, 4, { limit = 60 }) end))
    assert.equal("60 per 30 s", text(function()
      server.heed(one, { status = 200, head = "HTTP/1.1 200 OK\r\n"
        .. 'RateLimit-Policy: "s";q=60;w=30\r\nRateLimit: "s";r=0;t=1\r\n\r\n' }, w.sched:now())
    end))
    assert.equal("it asks to wait 12 s", text(function() server.pause(one, 1012, 1000) end))
  end)

  it("tells how long it was shut", function()
    server.pause(one, 1010, 1000)
    at(4)
    assert.equal(4, server.held(one, w.sched:now()))
    at(20)
    assert.equal(10, server.held(one, w.sched:now()))
    server.pause(one, 1025, 1020)
    at(21)
    assert.equal(11, server.held(one, w.sched:now()))
  end)

  it("forgets servers nobody needs, and no others", function()
    one.in_flight = 1
    local limited, waited = servers:of "http://limited:80", servers:of "http://waited:80"
    server.pause(limited, 5000, 1000)
    server.attend(waited, pool_of("p", {}))
    local first = servers:of "http://0:80"
    for i = 1, 5000 do servers:of("http://" .. i .. ":80") end
    assert.is_true(servers.count < 2100)
    assert.is_true(first.dead)
    assert.not_equal(first, servers:of "http://0:80")
    assert.equal(one, servers:of "https://a:443")
    assert.equal(limited, servers:of "http://limited:80")
    assert.equal(waited, servers:of "http://waited:80")
  end)
end)
