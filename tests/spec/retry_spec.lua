local retry = require "orchestrator.retry"

local NOW = 1700000000 -- Tue, 14 Nov 2023 22:13:20 GMT

local function attempt(fields)
  local a = {
    attempt = 1, method = "GET", status = 503, wall = NOW, random = function() return 0.5 end,
  }
  for name, value in pairs(fields or {}) do
    a[name] = value
  end
  if a.kind then
    a.status = nil
  end
  return a
end

local function decide(opts, fields)
  return retry.decide(retry.policy(opts), attempt(fields))
end

local function reason(opts, fields)
  local wait, why = decide(opts, fields)
  assert.is_nil(wait)
  return why
end

describe("retry.policy", function()
  it("has the contract's defaults", function()
    local set = function(list)
      local s = {}
      for _, element in ipairs(list) do
        s[element] = true
      end
      return s
    end
    assert.same({
      attempts = 5, wait_initial = 0.5, wait_max = 60, factor = 2, jitter = "full",
      statuses = set { 408, 425, 429, 500, 502, 503, 504, 522, 524 },
      respect_retry_after = true, max_retry_after = 300,
      methods = set { "GET", "HEAD", "OPTIONS", "PUT", "DELETE" },
      budget = 0.2,
    }, retry.policy(nil))
    assert.same(retry.policy(nil), retry.policy {})
  end)

  it("is one attempt when it is off", function()
    assert.equal("attempts", reason(false))
    assert.equal("attempts", reason(false, { asked = true }))
  end)

  it("raises on wrong options, naming them", function()
    local cases = {
      { { attempts = 0 }, 'retry: "attempts" must be at least 1, got 0' },
      { { attempts = 2.5 }, 'retry: "attempts" must be a whole number' },
      { { wait_initial = "soon" }, 'retry: "wait_initial" must be a duration' },
      { { factor = 0.5 }, 'retry: "factor" must be at least 1' },
      { { jitter = "half" }, 'retry: "jitter" must be "full" or false, got "half"' },
      { { jitter = true }, 'retry: "jitter" must be "full" or false, got true' },
      { { statuses = 503 }, 'retry: "statuses" must be a table' },
      { { statuses = { "503" } }, 'retry: "statuses" must be a list of statuses such as 503' },
      { { statuses = { 99 } }, 'retry: "statuses" must be a list of statuses such as 503' },
      { { statuses = { 600 } }, 'retry: "statuses" must be a list of statuses such as 503' },
      { { statuses = { 503.5 } }, 'retry: "statuses" must be a list of statuses such as 503' },
      { { statuses = { [503] = true } }, 'retry: "statuses" must be a list' },
      { { methods = { "get" } }, 'retry: "methods" must be a list of methods such as "GET"' },
      { { methods = { GET = true } }, 'retry: "methods" must be a list' },
      { { respect_retry_after = "yes" }, 'retry: "respect_retry_after" must be true or false' },
      { { budget = -1 }, 'retry: "budget" must be at least 0' },
      { { deadline = "soon" }, 'retry: "deadline" must be a duration' },
      { { on_retry = true }, 'retry: "on_retry" must be a function' },
      { { attemps = 3 }, 'retry: unknown option "attemps" (did you mean "attempts"?)' },
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(retry.policy, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
    local _, message = pcall(retry.policy, { budget = -1 }, "client.retry")
    assert.matches('client.retry: "budget"', message, 1, true)
  end)
end)

describe("retry.decide", function()
  it("retries the listed statuses and no others", function()
    for _, status in ipairs { 408, 425, 429, 500, 502, 503, 504, 522, 524 } do
      assert.is_number(decide(nil, { status = status }))
    end
    for _, status in ipairs { 200, 304, 400, 401, 403, 404, 409, 501, 505, 520 } do
      assert.equal("permanent", reason(nil, { status = status }))
    end
    assert.is_number(decide({ statuses = { 404 } }, { status = 404 }))
    assert.equal("permanent", reason({ statuses = { 404 } }, { status = 503 }))
    assert.equal("permanent", reason({ statuses = {} }, { status = 503 }))
    assert.is_number(decide({ statuses = { 100, 599 } }, { status = 599 }))
  end)

  it("retries the kinds that may pass", function()
    for _, kind in ipairs { "connect", "timeout", "network", "protocol" } do
      assert.is_number(decide(nil, { kind = kind }))
    end
    assert.is_number(decide(nil, { kind = "dns", fault = "dns_no_answer" }))
    assert.equal("permanent", reason(nil, { kind = "dns", fault = "dns_no_such_host" }))
    for _, kind in ipairs {
      "tls", "too_large", "too_many_redirects", "decode", "cancelled", "rate_limited",
      "circuit_open", "blocked", "invalid", "script", "validation",
    } do
      assert.equal("permanent", reason(nil, { kind = kind }))
    end
  end)

  it("does not repeat a request that is not idempotent", function()
    for _, method in ipairs { "GET", "HEAD", "OPTIONS", "PUT", "DELETE" } do
      assert.is_number(decide(nil, { method = method }))
    end
    for _, method in ipairs { "POST", "PATCH", "REPORT" } do
      assert.equal("method", reason(nil, { method = method }))
      assert.equal("method", reason(nil, { method = method, kind = "network" }))
    end
    assert.is_number(decide({ methods = { "POST" } }, { method = "POST" }))
    assert.equal("method", reason({ methods = { "POST" } }, { method = "GET" }))
  end)

  it("repeats POST and PATCH that have an Idempotency-Key", function()
    for _, method in ipairs { "POST", "PATCH" } do
      assert.is_number(decide(nil, { method = method, keyed = true }))
      assert.is_number(decide(nil, { method = method, keyed = true, kind = "network" }))
      assert.equal("permanent", reason(nil, { method = method, keyed = true, status = 400 }))
    end
    assert.equal("method", reason(nil, { method = "REPORT", keyed = true }))
    assert.equal("method", reason({ methods = { "POST" } }, { method = "GET", keyed = true }))
  end)

  it("begins no wait that would end after the deadline", function()
    local EVEN = { jitter = false, deadline = "10s" }
    assert.equal(0.5, decide(EVEN, { elapsed = 0 }))
    assert.equal(0.5, decide(EVEN))
    assert.equal(0.5, decide(EVEN, { elapsed = 9.5 }))
    assert.equal("deadline", reason(EVEN, { elapsed = 9.5000001 }))
    assert.equal("deadline", reason(EVEN, { elapsed = 11 }))
    assert.equal("deadline", reason(EVEN, { elapsed = 9.6, asked = true, status = 200 }))
    assert.equal(0.25, decide({ deadline = "10s" }, { elapsed = 9.75 }))
    assert.equal("attempts", reason(EVEN, { elapsed = 11, attempt = 5 }))
    assert.equal(3, decide(EVEN, { elapsed = 7, retry_after = "3" }))
    assert.equal("rate_limited", reason(EVEN, { elapsed = 7.5, retry_after = "3" }))
    assert.equal("deadline", reason({ deadline = 0 }, { elapsed = 0 }))
  end)

  it("does what the script asks for, whatever the status and method", function()
    assert.is_number(decide(nil, { asked = true, status = 200, method = "POST" }))
    assert.equal("attempts", reason(nil, { asked = true, status = 200, attempt = 5 }))
  end)

  it("stops at the last attempt, which counts the first", function()
    assert.is_number(decide({ attempts = 3 }, { attempt = 2 }))
    assert.equal("attempts", reason({ attempts = 3 }, { attempt = 3 }))
    assert.equal("attempts", reason({ attempts = 1 }))
    assert.equal("attempts", reason(nil, { attempt = 5, retry_after = "100000" }))
  end)

  it("doubles the wait up to the cap", function()
    local waits = {}
    for n = 1, 10 do
      waits[n] = decide({ attempts = 20, jitter = false }, { attempt = n })
    end
    assert.same({ 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60 }, waits)
    assert.equal(60, decide({ attempts = 5000, jitter = false }, { attempt = 4000 }))
    assert.equal(9, decide({ jitter = false, wait_initial = 1, factor = 3 }, { attempt = 3 }))
    assert.equal(2, decide({ jitter = false, wait_max = 2, wait_initial = "1m" }))
    assert.equal(1, decide({ jitter = false, wait_initial = 1, factor = 1 }, { attempt = 4 }))
  end)

  it("spreads the wait over the whole of it", function()
    local function at(chance)
      return decide(nil, { attempt = 4, random = function() return chance end })
    end
    assert.equal(0, at(0))
    assert.equal(1, at(0.25))
    assert.equal(3, at(0.75))
  end)

  it("waits as long as the server asks, no more and no less", function()
    assert.equal(7, decide(nil, { retry_after = "7" }))
    assert.equal(0, decide(nil, { retry_after = "0" }))
    assert.equal(10, decide(nil, { retry_after = "Tue, 14 Nov 2023 22:13:30 GMT" }))
    assert.equal(300, decide(nil, { retry_after = "300" }))
    assert.equal(7, decide(nil, { retry_after = "7", asked = true, status = 200 }))
    assert.equal(1.5, decide(nil, { retry_after = "1.5" }))
    assert.equal(10, decide(nil, { retry_after = "7, 10" }))
  end)

  it("gives up when that is too long", function()
    assert.equal("rate_limited", reason(nil, { retry_after = "301" }))
    assert.equal("rate_limited", reason(nil, { retry_after = "1000000000000" }))
    assert.equal("rate_limited", reason(nil, { retry_after = ("9"):rep(400) }))
    assert.equal("rate_limited", reason({ max_retry_after = "1s" }, { retry_after = "2" }))
    assert.equal(2, decide({ max_retry_after = "2s" }, { retry_after = "2" }))
  end)

  it("falls back to backoff when the field says nothing, or is not to be respected", function()
    for _, value in ipairs { "-1", "-1.5", "soon", "", "Tue, 14 Nov 2023 22:13:19 GMT" } do
      assert.equal(0.25, decide(nil, { retry_after = value }))
    end
    assert.equal(0.25, decide({ respect_retry_after = false }, { retry_after = "7" }))
    assert.equal(0.25, decide({ respect_retry_after = false }, { retry_after = "100000" }))
  end)
end)

describe("retry.after", function()
  it("reads delta-seconds", function()
    assert.equal(0, retry.after("0", NOW))
    assert.equal(120, retry.after("120", NOW))
    assert.equal(120, retry.after("  0120\t", NOW))
    assert.equal(1e12, retry.after("1000000000000", NOW))
  end)

  it("reads fractions, which no standard has but servers send", function()
    assert.equal(0.503, retry.after("0.503", NOW))
    assert.equal(292.052427053, retry.after(" 292.052427053 ", NOW))
    assert.equal(0, retry.after("0.0", NOW))
  end)

  it("takes the longest of several", function()
    for value, seconds in pairs {
      ["5, 10"] = 10, ["10, 5"] = 10, ["10,  5, 7"] = 10, ["soon, 5"] = 5, ["5, -9"] = 5,
      ["5, Tue, 14 Nov 2023 22:13:30 GMT"] = 10, ["Tue, 14 Nov 2023 22:13:30 GMT, 5"] = 10,
      ["Tue, 14 Nov 2023 22:13:30 GMT, Tue, 14 Nov 2023 22:13:40 GMT"] = 20,
      ["Tue, 14 Nov 2023 22:13:19 GMT, 5"] = 5, ["Tuesday, 14-Nov-23 22:13:30 GMT, 60"] = 60,
      ["Tue, 5"] = 5,
    } do
      assert.equal(seconds, retry.after(value, NOW), value)
    end
    for _, value in ipairs { ", ", "Tue, ", "Tue, Tue, ", "soon, later", "-1, -2" } do
      assert.is_nil(retry.after(value, NOW))
    end
  end)

  it("reads a field of any length in no time", function()
    local began = os.clock()
    assert.is_nil(retry.after(("Tue, "):rep(60000), NOW))
    assert.equal(9, retry.after(("9, "):rep(60000), NOW))
    assert.is_nil(retry.after((","):rep(300000), NOW))
    assert(os.clock() - began < 2)
  end)

  it("reads the three forms of a date", function()
    local wall = 784111777 - 60 -- RFC 9110's example, a minute later
    assert.equal(60, retry.after("Sun, 06 Nov 1994 08:49:37 GMT", wall))
    assert.equal(60, retry.after("Sunday, 06-Nov-94 08:49:37 GMT", wall))
    assert.equal(60, retry.after("Sun Nov  6 08:49:37 1994", wall))
    assert.equal(60.5, retry.after("Sun, 06 Nov 1994 08:49:37 GMT", wall - 0.5))
    local day = 86400
    assert.equal(2 * day, retry.after("Tue Nov  8 08:48:37 1994", wall))
    assert.equal(24 * day, retry.after("Wed Nov 30 08:48:37 1994", wall))
  end)

  it("knows the calendar", function()
    local cases = {
      { "Thu, 01 Jan 1970 00:00:01 GMT", 1 },
      { "Tue, 29 Feb 2000 00:00:00 GMT", 951782400 },
      { "Wed, 01 Mar 2000 00:00:00 GMT", 951868800 },
      { "Sun, 31 Dec 2023 23:59:59 GMT", 1704067199 },
      { "Mon, 01 Jan 2024 00:00:00 GMT", 1704067200 },
      { "Thu, 29 Feb 2024 12:00:00 GMT", 1709208000 },
      { "Mon, 01 Mar 2100 00:00:00 GMT", 4107542400 },
      { "Sat, 31 Dec 2016 23:59:60 GMT", 1483228800 }, -- a leap second
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], retry.after(case[1], 0))
    end
  end)

  it("puts a year of two digits within fifty years", function()
    local y2023 = retry.after("Wednesday, 15-Nov-23 22:13:20 GMT", NOW)
    assert.equal(86400, y2023)
    assert.is_number(retry.after("Wednesday, 15-Nov-73 22:13:20 GMT", NOW)) -- 2073
    assert.is_nil(retry.after("Thursday, 15-Nov-74 22:13:20 GMT", NOW)) -- 1974
    assert.is_nil(retry.after("Monday, 15-Nov-99 22:13:20 GMT", NOW)) -- 1999
    local new_years_eve_1999 = 946684740
    assert.equal(120, retry.after("Saturday, 01-Jan-00 00:01:00 GMT", new_years_eve_1999))
  end)

  it("ignores what is past", function()
    assert.is_nil(retry.after("Tue, 14 Nov 2023 22:13:20 GMT", NOW))
    assert.is_nil(retry.after("Tue, 14 Nov 2023 22:13:19 GMT", NOW))
    assert.is_nil(retry.after("Sun Nov  6 08:49:37 1994", NOW))
  end)

  it("ignores junk", function()
    for _, value in ipairs {
      "", " ", "-1", "+1", "-1.5", "1e3", "0x10", "1,000", "1.5.2", ".5", "5.", "5s", "inf", "nan",
      "soon", "٣",
      "Wed, 15 Nov 2023 22:13:20", "Wed, 15 Nov 2023 22:13:20 UTC", "wed, 15 nov 2023 22:13:20 gmt",
      "Xyz, 15 Nov 2023 22:13:20 GMT", "Wed, 15 Xyz 2023 22:13:20 GMT",
      "Wed, 5 Nov 2024 22:13:20 GMT", "Wed, 31 Nov 2024 22:13:20 GMT",
      "Thu, 29 Feb 2025 22:13:20 GMT", "Wed, 00 Nov 2024 22:13:20 GMT",
      "Wed, 15 Nov 2024 24:00:00 GMT", "Wed, 15 Nov 2024 22:60:00 GMT",
      "Wed, 15 Nov 2024 22:13:61 GMT", "Wed, 15 Nov 2024 22:13:20 GMTx",
      "Fri, 29 Feb 2100 00:00:00 GMT", "Wed, 15-Nov-24 22:13:20 GMT", "2024-11-15T22:13:20Z",
      "Wednesday, 15 Nov 2024 22:13:20 GMT", "Wed Nov 15 22:13:20 24",
    } do
      assert.is_nil(retry.after(value, NOW))
    end
    assert.is_nil(retry.after(nil, NOW))
  end)
end)

describe("retry.budget", function()
  it("always allows ten, and then a share of the requests", function()
    local budget = retry.budget(0.5)
    for _ = 1, 10 do assert.is_true(budget:allow(100)) end
    assert.is_false(budget:allow(100))
    for _ = 1, 22 do budget:request(100) end
    assert.is_true(budget:allow(100))
    assert.is_false(budget:allow(100))
  end)
end)
