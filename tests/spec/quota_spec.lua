local fake_host = require "fake_host"
local quota = require "orchestrator.quota"

local NOW = 1700000000 -- 2023-11-14T22:13:20Z

-- What is read from these lines; fields that are nil are left out.
local function read(...)
  local lines = { "HTTP/1.1 200 OK", "Server: x", ... }
  return quota.read(table.concat(lines, "\r\n") .. "\r\n\r\n", NOW)
end

local function says(remaining, reset, limit, window, rest)
  return { remaining = remaining, reset = reset, limit = limit, window = window, rest = rest }
end

describe("quota", function()
  it("reads RateLimit with RateLimit-Policy", function()
    assert.same(says(50, 30, 100, 60),
      read('RateLimit-Policy: "default";q=100;w=60', 'RateLimit: "default";r=50;t=30'))
    assert.same(says(50, 30), read 'RateLimit: "default";r=50;t=30')
    assert.same(says(0, 30), read 'ratelimit: default ; t=30 ;r=0')
    assert.same(says(7, 60, 100, 60), -- how long is not told: a window at most
      read('RateLimit-Policy: "a,b;c";q=100;w=60', 'RateLimit: "a,b;c";r=7'))
    assert.same(says(1, 2, 10, 1),
      read('RateLimit-Policy: "x";q=10;w=1;pk=:dXNlcg==:', 'RateLimit: "x";r=1;t=2;pk=:a=:'))
  end)

  it("takes the tightest of several policies", function()
    local policies = 'RateLimit-Policy: "burst";q=10;w=1, "day";q=1000;w=86400'
    assert.same(says(3, 3600, 1000, 86400),
      read(policies, 'RateLimit: "burst";r=9;t=1, "day";r=3;t=3600'))
    -- Three are left of the day when the second is over.
    assert.same(says(2, 1, 10, 1, 3), read(policies, 'RateLimit: "burst";r=2;t=1,"day";r=3;t=3600'))
    assert.same(says(2, 1, 10, 1, 3),
      read(policies, 'RateLimit: "burst";r=2;t=1', 'RateLimit: "day";r=3;t=3600'))
    assert.same(says(0, 3600, 1000, 86400), -- of two that are used up the one that lasts longer
      read(policies, 'RateLimit: "burst";r=0;t=1, "day";r=0;t=3600'))
  end)

  it("leaves out policies that do not count requests", function()
    assert.same(says(50, 30, 100, 60), read(
      'RateLimit-Policy: "bytes";q=100;w=60;qu="content-bytes", "r";q=100;w=60;qu="requests"',
      'RateLimit: "bytes";r=1;t=30, "r";r=50;t=30'))
  end)

  it("reads the form of the seventh draft", function()
    assert.same(says(50, 5, 100, 60),
      read("RateLimit: limit=100, remaining=50, reset=5", "RateLimit-Policy: 100;w=60"))
    assert.same(says(50, 5, 100), read "RateLimit: limit=100, remaining=50, reset=5")
    assert.is_nil(read "RateLimit: limit=100, remaining=, reset=5")
    assert.is_nil(read "RateLimit: limit=100, remaining=4")
  end)

  it("reads that of the first ones", function()
    assert.same(says(4, 2, 10), read("RateLimit-Limit: 10", "RateLimit-Remaining: 4",
      "RateLimit-Reset: 2"))
    assert.same(says(4, 2, 10, 1), read("RateLimit-Limit: 10, 10;w=1;burst=20, 50;w=60",
      "RateLimit-Remaining: 4", "RateLimit-Reset: 2"))
  end)

  it("reads the families with X-, however they are written", function()
    for _, family in ipairs {
      "X-RateLimit-", "x-ratelimit-", "X-Rate-Limit-", "X-RATELIMIT-", "X-Ratelimit-",
      "X-Api-RateLimit-", "Acme-RateLimit-",
    } do
      local function named(what)
        return family .. (family == family:upper() and what:upper() or what)
      end
      assert.same(says(0, 7, 60), read(named "Limit" .. ": 60", named "Remaining" .. ":0",
        named "Reset" .. ":\t7 "), family)
    end
  end)

  it("reads families with a unit", function()
    assert.same(says(10, 360, 60), read("x-ratelimit-limit-requests: 60",
      "x-ratelimit-remaining-requests: 10", "x-ratelimit-reset-requests: 6m0s",
      "x-ratelimit-remaining-tokens: 0", "x-ratelimit-reset-tokens: 1s"))
    assert.same(says(10, 40, 60), read("acme-ratelimit-requests-limit: 60",
      "acme-ratelimit-requests-remaining: 10",
      "acme-ratelimit-requests-reset: 2023-11-14T22:14:00Z"))
    -- Each has a window by its name, and a reset if it is told.
    local per_unit = { "X-RateLimit-Limit-Second: 5", "X-RateLimit-Remaining-Second: 4",
      "X-RateLimit-Limit-Hour: 50", "X-RateLimit-Remaining-Hour: 3" }
    assert.same(says(3, 3600, 50, 3600), read(unpack(per_unit)))
    per_unit[5] = "RateLimit-Reset: 12"
    assert.same(says(3, 12, 50, 3600), read(unpack(per_unit)))
  end)

  describe("reset", function()
    local function reset(value, ...)
      local told = read("X-RateLimit-Remaining: 1", "X-RateLimit-Reset: " .. value, ...)
      return told and told.reset
    end

    it("may be seconds, unix time in seconds or milliseconds, or a date", function()
      for value, seconds in pairs {
        ["0"] = 0, ["30"] = 30, ["1.5"] = 1.5, ["86400"] = 86400,
        ["1700000060"] = 60, ["1700000000.5"] = 0.5, ["1700000060250"] = 60.25,
        ["Tue, 14 Nov 2023 22:14:20 GMT"] = 60, ["2023-11-14T22:14:20Z"] = 60,
        ["1s"] = 1, ["20ms"] = 0.02, ["1h2m3s"] = 3723, ["1.5s"] = 1.5,
      } do
        assert.is_near(seconds, reset(value), 1e-6, value)
      end
    end)

    it("that is past is now", function()
      assert.equal(0, reset "1699999999")
      assert.equal(0, reset "Tue, 14 Nov 2023 22:13:00 GMT")
    end)

    it("goes by the server's clock where that is told", function()
      assert.equal(60, reset("1700003660", "Date: Tue, 14 Nov 2023 23:13:20 GMT"))
      assert.equal(60, reset("Tue, 14 Nov 2023 23:14:20 GMT",
        "Date: Tue, 14 Nov 2023 23:13:20 GMT"))
      assert.equal(60, reset("1700000060", "Date: yesterday"))
      assert.equal(60, reset("60", "Date: Tue, 14 Nov 2023 23:13:20 GMT"))
    end)

    it("may be told twice: after so long is exact", function()
      assert.equal(0.25, reset("1700000060", "X-RateLimit-Reset-After: 0.25"))
    end)
  end)

  it("of a field that comes twice takes the least", function()
    assert.same(says(2, 7), read("X-RateLimit-Remaining: 9", "X-RateLimit-Remaining: 2",
      "X-RateLimit-Reset: 7"))
    assert.same(says(2, 7), read("X-RateLimit-Remaining: 9, 2", "X-RateLimit-Reset: 7"))
  end)

  it("rounds down what is left", function()
    assert.equal(598, read("X-Ratelimit-Remaining: 598.9", "X-Ratelimit-Reset: 345").remaining)
  end)

  describe("says nothing of", function()
    local function silent(...)
      assert.is_nil(read(...), (...))
    end

    it("heads without such fields", function()
      silent()
      silent "X-Limit: 5"
      silent "X-Frame-Options: limit"
      silent("Retry-After: 5", "X-Rate: 5")
      assert.is_false(quota.mentioned "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n")
    end)

    it("half of what it takes", function()
      silent("X-RateLimit-Remaining: 5", "X-RateLimit-Limit: 10")
      silent("X-RateLimit-Reset: 5", "X-RateLimit-Limit: 10")
      silent 'RateLimit-Policy: "default";q=100;w=60'
      silent 'RateLimit: "default";t=30'
      silent("X-RateLimit-Used: 5", "X-RateLimit-Resource: core", "X-RateLimit-Reset: 1")
      silent("X-RateLimit-Remaining-Tokens: 0", "X-RateLimit-Reset-Tokens: 9")
    end)

    it("what makes no sense", function()
      for _, value in ipairs {
        "-1", "", "many", "1e3", "0x10", "NaN", "inf", "1.2.3", ("9"):rep(400), "5;w=1", "\1",
      } do
        silent("X-RateLimit-Remaining: " .. value, "X-RateLimit-Reset: 30")
      end
      for _, value in ipairs {
        "-1", "", "soon", "1e3", "0x10", ("9"):rep(400), "99999999999999999999", "5 minutes",
        "1s2", "s", "5x", "Tue, 99 Nov 2023 22:13:00 GMT", "999999999", "4000000000",
      } do
        silent("X-RateLimit-Remaining: 5", "X-RateLimit-Reset: " .. value)
      end
      for _, value in ipairs {
        '"default"', '"default";r=-5;t=30', '"default";r=x;t=30', '"default;r=5;t=30',
        '"a";r=5;t=99999999999', ";;;;", ",,,,", "r=5;t=30", '"\\"";r=',
      } do
        silent("RateLimit: " .. value)
      end
    end)

    it("a limit or window that makes no sense, but of the rest", function()
      assert.same(says(5, 3), read("X-RateLimit-Limit: -5", "X-RateLimit-Remaining: 5",
        "X-RateLimit-Reset: 3"))
      assert.same(says(5, 3), read('RateLimit-Policy: "a";q=0;w=0', 'RateLimit: "a";r=5;t=3'))
      assert.same(says(5, 3), read('RateLimit-Policy: "a";q=1e9;w=-1', 'RateLimit: "a";r=5;t=3'))
    end)
  end)

  it("stands whatever comes, in time (random)", function()
    local random = fake_host.generator(7)
    local pieces = { "X-RateLimit-", "RateLimit", "-Remaining", "-Reset", "-Limit", "-Policy", ": ",
      '"', ";", "r=", "t=", "q=", "w=", ",", "5", "-", "99999999999", "\r\n", " ", "\0", "\255",
      "Tue, 14 Nov 2023 22:14:20 GMT", "remaining=", "reset=", "1.5", "\\", "#1", "date: " }
    for _ = 1, 3000 do
      local parts = { "HTTP/1.1 200 OK\r\n" }
      for i = 2, 40 do parts[i] = pieces[math.floor(random() * #pieces) + 1] end
      local told = quota.read(table.concat(parts), NOW)
      if told then
        assert(told.remaining >= 0 and told.remaining % 1 == 0 and told.remaining <= 1e9)
        assert(told.reset >= 0 and told.reset <= 366 * 86400)
        assert(not told.limit or told.limit >= 1)
        assert(not told.window or told.window > 0)
        assert(not told.rest or told.rest >= told.remaining)
      end
    end
    local began = os.clock()
    quota.read("HTTP/1.1 200 OK\r\nRateLimit: " .. ('"a";r=1;t=1,'):rep(2e4), NOW)
    quota.read("HTTP/1.1 200 OK\r\n" .. ("ratelimit"):rep(3e4), NOW)
    quota.read("HTTP/1.1 200 OK\r\n" .. ("x-ratelimit-limit"):rep(1e4) .. ": 5\r\n", NOW)
    quota.read("HTTP/1.1 200 OK\r\nX-RateLimit-Limit: " .. ('"'):rep(3e5), NOW)
    quota.read("HTTP/1.1 200 OK\r\nX-RateLimit-Limit: " .. (" "):rep(3e5) .. "x", NOW)
    assert.is_true(os.clock() - began < 2)
  end)
end)
