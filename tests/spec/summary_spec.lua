local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local summary = require "orchestrator.summary"

local function new()
  return summary.new { pipeline = "hourly", run_id = "r1", started_at = 1700000000.9 }
end

-- One request of so many attempts, the last of which ended as said.
local function request(s, fields)
  local attempts = fields.attempts or 1
  local origin = fields.origin or "http://a:80"
  local url = origin .. (fields.target or "/x")
  local status = fields.status or (not fields.kind and 200 or nil)
  for i = 1, attempts do
    local last = i == attempts
    local attempt = { url = url, origin = origin, elapsed = fields.elapsed or 0.1, attempt = i,
      size = 20, wire = 10, retried = not last }
    if last then attempt.status, attempt.kind = status, fields.kind else attempt.status = 503 end
    s:attempt(attempt)
  end
  s:request { url = url, origin = origin, ok = not fields.kind, attempts = attempts,
    elapsed = fields.elapsed or 0.1, from_cache = fields.from_cache,
    instead_of = fields.instead_of,
    kind = fields.kind, status = status }
end

local function run(fields)
  local out = { elapsed = 1.52, verdicts = {}, interrupted = false, begun = 9, outputs = {} }
  for k, v in pairs(fields or {}) do out[k] = v end
  return out
end

describe("summary", function()
  it("counts hedges, and requests answered by a fallback", function()
    local s = new()
    local function attempt(fields)
      fields.url, fields.origin, fields.attempt = "http://a:80/x", "http://a:80", 1
      s:attempt(fields)
    end
    for _ = 1, 20 do request(s, {}) end
    attempt { elapsed = 30, lost = true, kind = "cancelled" } -- the first, which was slower
    attempt { elapsed = 0.1, hedge = true, status = 200, size = 5 }
    attempt { elapsed = 20, hedge = true, lost = true, kind = "cancelled" }
    attempt { elapsed = 0.3, hedge = true, lost = true, kind = "http", status = 503 }
    s:fell_back { url = "http://a:80/x" }
    local t = s:table(run())
    assert.same({ sent = 3, won = 1 }, t.hedges)
    assert.same({ 1, 24, 300, 1 },
      { t.requests.fallback, t.attempts, t.latency_ms.max, t.statuses["503"] })
    assert.equal(300, t.hosts["http://a:80"].latency_ms.max)
    assert.matches("\n  requests  20, 3 hedges %(1 faster%), 1 answered by the fallback, 205 B "
      .. "received\n", s:text(run()))
  end)

  it("makes the table of the contract", function()
    local s = new()
    request(s, { elapsed = 0.2 })
    request(s, { elapsed = 1.5, attempts = 3, target = "/slow" })
    request(s, { kind = "timeout", origin = "http://b:80", elapsed = 0.3 })
    request(s, { from_cache = "stale" })
    s:item(10, 4, 6)
    s:item(1, 0, 1)
    s:item_failed(errors.new("timeout", "no answer", { url = "http://b/x" }), "item 3")
    s.records.dead = 1
    local verdicts = {
      { metric = "records", text = "count>0", value = 7, ok = true },
      { metric = "records", text = "count>9", value = 7, ok = false },
      { metric = "http_req_duration", text = "max<1", value = nil, ok = true },
    }
    local t = s:table(run { verdicts = verdicts })
    assert.is_near(1500, t.latency_ms.max, 0)
    assert.is_near(300, t.latency_ms.p50, 3)
    t.latency_ms = nil
    local a = t.hosts["http://a:80"]
    assert.is_near(1500, a.latency_ms.p95, 15)
    a.latency_ms = nil
    t.hosts["http://b:80"].latency_ms = nil
    assert.same({
      pipeline = "hourly", run_id = "r1", started_at = "2023-11-14T22:13:20Z", elapsed_s = 1.52,
      requests = { total = 4, ok = 3, failed = 1, retried = 1, from_cache = 1, fallback = 0 },
      attempts = 6, hedges = { sent = 0, won = 0 },
      cache = { fresh = 0, revalidated = 0, stale = 1, stale_if_error = 0 },
      records = { ["in"] = 11, out = 7, filtered = 4, dead = 1 }, bytes = 60,
      statuses = { ["200"] = 3, ["503"] = 2 }, errors = { timeout = 1 }, limits = {},
      hosts = {
        ["http://a:80"] = { requests = 3, failed = 0, attempts = 5, bytes = 50, waited_s = 0 },
        ["http://b:80"] = { requests = 1, failed = 1, attempts = 1, bytes = 10, waited_s = 0 },
      },
      slowest = {
        { url = "http://a:80/slow", elapsed_ms = 1500, attempts = 3, status = 200 },
        { url = "http://b:80/x", elapsed_ms = 300, attempts = 1, error = "timeout" },
        { url = "http://a:80/x", elapsed_ms = 200, attempts = 1, status = 200 },
        { url = "http://a:80/x", elapsed_ms = 100, attempts = 1, status = 200 },
      },
      thresholds = {
        records = {
          ["count>0"] = { ok = true, value = 7 }, ["count>9"] = { ok = false, value = 7 },
        },
        http_req_duration = { ["max<1"] = { ok = true, value = json.null } },
      },
    }, t)
  end)

  it("has the same members when nothing happened", function()
    local text = json.encode(new():table(run { elapsed = 0 }))
    assert.equal('{"attempts":0,"bytes":0,'
      .. '"cache":{"fresh":0,"revalidated":0,"stale":0,"stale_if_error":0},'
      .. '"elapsed_s":0,"errors":{},"hedges":{"sent":0,"won":0},'
      .. '"hosts":{},"latency_ms":{"max":null,"p50":null,"p90":null,"p95":null,"p99":null},'
      .. '"limits":{},"pipeline":"hourly",'
      .. '"records":{"dead":0,"filtered":0,"in":0,"out":0},"requests":{"failed":0,'
      .. '"fallback":0,"from_cache":0,"ok":0,"retried":0,"total":0},"run_id":"r1","slowest":[],'
      .. '"started_at":"2023-11-14T22:13:20Z","statuses":{},"thresholds":{}}', text)
    assert.is_true(new():table(run { interrupted = true }).interrupted)
    local failure = errors.new("script", "x.lua:3: a bug\n\27")
    assert.equal("script: x.lua:3: a bug\\n\\x1b", new():table(run { failure = failure }).failure)
  end)

  it("takes the same memory however many hosts there are", function()
    local s = new()
    for i = 1, 500 do
      request(s, { origin = "http://h" .. i .. ":80", elapsed = i / 1000, kind = "connect" })
      s:item_failed(errors.new("connect", "refused", { url = "http://h" .. i .. ":80/x" }),
        "item " .. i)
    end
    local t = s:table(run())
    local count = 0
    for _ in pairs(t.hosts) do count = count + 1 end
    assert.equal(101, count)
    assert.equal(400, t.hosts.other.requests)
    assert.equal(10, #t.slowest)
    assert.equal("http://h500:80/x", t.slowest[1].url)
    assert.equal("http://h491:80/x", t.slowest[10].url)
    assert.equal(500, t.errors.connect)
    local text = s:text(run())
    assert.matches("failed +1 connect at http://h1:80: refused %(item 1 /x%)\n", text)
    assert.matches("\n +495 more, of 95 other kinds\n", text)
  end)

  it("gives thresholds their metrics", function()
    local s = new()
    request(s, {})
    request(s, { kind = "http", status = 404 })
    s:item(5, 2, 3)
    s:item_failed(errors.new("http", "x"), "item 2")
    s.records.dead = 1
    local m = s:metrics(2)
    assert.same({ count = 2, rate = 1 }, m.http_reqs)
    assert.same({ count = 1, rate = 0.5 }, m.http_req_failed)
    assert.same({ count = 2, rate = 1 }, m.iterations)
    assert.same({ count = 3, rate = 1.5 }, m.records)
    assert.same({ count = 2, rate = 1 }, m.records_filtered)
    assert.same({ count = 1, rate = 0.5 }, m.dead_letters)
    assert.equal(2, m.http_req_duration.count)
    assert.same({ count = 0, rate = 0 }, new():metrics(0).records)
    assert.same({ count = 0, rate = 0 }, m.stale_if_error)
    assert.equal(0, new():metrics(0).http_req_failed.rate)
    assert.equal(0, new():metrics(0).stale_if_error.rate)
  end)

  it("is read in five seconds", function()
    local s = new()
    for i = 1, 48 do request(s, { elapsed = i / 100 }) end
    request(s, { elapsed = 1.5, attempts = 3, target = "/api/17" })
    request(s, { elapsed = 0.3, attempts = 5, kind = "timeout", target = "/api/23" })
    for _ = 1, 49 do s:item(25, 7, 18) end
    s:item_failed(errors.new("timeout", "no answer within 0.3s",
      { url = "http://a:80/api/23", attempts = 5 }), "item 23")
    s.records.dead = 1
    assert.equal([[
hourly: fetched 49 of 50 in 1.52 s, 1.01 times its slowest request
  records   1,225 in, 343 filtered out, 882 out
  output    882 records to out/hourly.jsonl
  requests  50, 6 retries, 560 B received
  slowest   1.50 s http://a:80/api/17 (3 attempts)
  failed    1 timeout at http://a:80: no answer within 0.3s (item 23 /api/23)
  dead      1 item kept in out/hourly.dead.jsonl
]], s:text(run { outputs = { "882 records to out/hourly.jsonl" },
      dead = "out/hourly.dead.jsonl" }))
  end)

  it("tells what was waited for, by limit and by host", function()
    local s = new()
    request(s, {})
    s:waited("http://a:80", 1.25, "100/1m")
    s:waited("http://a:80", 2.5, "100/1m")
    s:waited("http://b:80", 0.0004, "concurrency")
    local t = s:table(run())
    assert.same({
      ["100/1m"] = { waited_s = 3.75, waits = 2 }, concurrency = { waited_s = 0, waits = 1 },
    }, t.limits)
    assert.equal(3.75, t.hosts["http://a:80"].waited_s)
    assert.equal(0, t.hosts["http://b:80"].waited_s)
  end)

  it("shows waits that matter", function()
    local function lines(elapsed, ...)
      local s = new()
      for _, wait in ipairs { ... } do s:waited(wait[1], wait[2], wait[3]) end
      return (s:text(run { elapsed = elapsed }):match "received\n(.*)")
    end
    assert.equal("  waited    20.50 s in all for 100/1m (2 times)\n"
      .. "            5.00 s in all for limits of the servers' own (once)\n"
      .. "            1.50 s in all for a free slot (once)\n"
      .. "            22.00 s of it for http://a:80\n"
      .. "            5.00 s of it for http://b:80\n",
      lines(20, { "http://a:80", 20, "100/1m" }, { "http://b:80", 5, "server" },
        { "http://a:80", 0.5, "100/1m" }, { "http://a:80", 1.5, "concurrency" }))
    assert.equal("  waited    3.00 s in all for pool x (once)\n",
      lines(20, { "http://a:80", 3, "pool x" })) -- one host: it is said
    assert.equal("", lines(0.1, { "http://a:80", 1, "x" })) -- no more than a second
    assert.equal("", lines(60, { "http://a:80", 3, "x" })) -- no more than a twentieth of the run
    assert.equal("", lines(20))
    local many = {}
    for i = 1, 5 do many[i] = { "http://a:80", i + 1, "limit " .. i } end
    assert.equal("  waited    6.00 s in all for limit 5 (once)\n"
      .. "            5.00 s in all for limit 4 (once)\n"
      .. "            4.00 s in all for limit 3 (once)\n", lines(20, unpack(many)))
  end)

  it("groups failures, the most frequent first", function()
    local s = new()
    local function fail(kind, status, url, where)
      s:item_failed(errors.new(kind, kind .. " it is", { status = status, url = url }), where)
    end
    fail("http", 404, "http://a/1", "item 1")
    for i = 2, 6 do fail("http", 500, "http://a/" .. i, "item " .. i) end
    fail("invalid", nil, nil, "urls.txt:7")
    fail("http", 404, "http://b/8", "item 8")
    assert.matches([[
  failed    5 http 500 at http://a: http it is %(item 2 /2, item 3 /3, item 4 /4, ...%)
            1 http 404 at http://a: http it is %(item 1 /1%)
            1 invalid: invalid it is %(urls.txt:7%)
            1 http 404 at http://b: http it is %(item 8 /8%)
]], s:text(run()))
  end)

  it("tells failures apart by their message, but not without end", function()
    local s = new()
    local function fail(message, where)
      s:item_failed(errors.new("validation", message), where)
    end
    for i = 1, 3 do fail("no price", "item " .. i) end
    for i = 4, 5 do fail("no id", "item " .. i) end
    assert.matches([[
  failed    3 validation: no price %(item 1, item 2, item 3%)
            2 validation: no id %(item 4, item 5%)
$]], s:text(run()))
    for i = 6, 9 do fail("bad number " .. i, "item " .. i) end
    fail("no price", "item 10")
    assert.matches([[
  failed    4 validation: no price %(item 1, item 2, item 3, %.%.%.%)
            4 validation: bad number 6, and others %(item 6, item 7, item 8, %.%.%.%)
            2 validation: no id %(item 4, item 5%)
$]], s:text(run()))
  end)

  it("says how a run ended early", function()
    local s = new()
    s:item(1, 0, 1)
    assert.matches("^hourly: interrupted after 1.52 s, fetched 1 of 9 begun\n",
      s:text(run { interrupted = true }))

    local bug = errors.new("script", "x.lua:3: a bug\27")
    assert.matches("^hourly: failed after 1.52 s, fetched 1 of 9 begun\n"
      .. "  error     script: x.lua:3: a bug\\x1b\n  records ", s:text(run { failure = bug }))

    local full = errors.new("invalid", "cannot write x: No space left on device")
    assert.matches("  error     cannot write x: No space left on device\n",
      s:text(run { failure = full }))

    assert.matches("  missed    threshold records count>9: it is 7\n",
      s:text(run { verdicts = {
        { metric = "records", text = "count>9", value = 7, ok = false },
        { metric = "records", text = "count>0", value = 7, ok = true },
      } }))
    assert.not_matches("count>0", s:text(run()))
  end)

  it("fits its figures to their size", function()
    local s = new()
    request(s, { elapsed = 0.004 })
    request(s, { elapsed = 0.004 })
    s.bytes = 12345678
    for _ = 1, 1000 do s:item(1, 0, 1) end
    local text = s:text(run { elapsed = 100 })
    assert.matches("fetched 1,000 of 1,000 in 1 min 40 s, 10/s\n", text)
    assert.matches("12.3 MB received", text)
    assert.matches("slowest   4 ms ", text)
    assert.matches("in 2 h 03 min", s:text(run { elapsed = 7380 }))
    assert.equal("1,234,567", summary.grouped(1234567))
    assert.equal("123", summary.grouped(123))
    for _ = 1, 2 do request(s, { from_cache = "fresh" }) end
    request(s, { from_cache = "stale" })
    assert.matches("requests  5, 12.3 MB", s:text(run()))
    assert.matches("cache     answered 3 of 5, 2 fresh, 1 stale\n", s:text(run()))
  end)

  it("goes on with what another process has counted", function()
    local s = new()
    request(s, { attempts = 2 })
    request(s, { kind = "timeout" })
    s:item(10, 4, 6)
    s:item_failed(errors.new("timeout", "no answer"), "item 2")
    s.records.dead, s.records.invalid = 1, 3
    local totals = assert(json.decode(assert(json.encode(s:totals()))))

    local other = new()
    other:restore(totals)
    other:item(1, 0, 1)
    other:item_failed(errors.new("timeout", "no answer"), "item 9")
    request(other, { status = 404, kind = "http" })
    local t = other:table(run { resumed = { sessions = 2, skipped = 12 } })
    assert.same({ ["in"] = 11, out = 7, filtered = 4, invalid = 3, dead = 1 }, t.records)
    assert.same({ timeout = 2 }, t.errors)
    assert.same({ total = 3, ok = 1, failed = 2, retried = 1, from_cache = 0, fallback = 0 },
      t.requests)
    assert.same({ ["200"] = 1, ["404"] = 1, ["503"] = 1 }, t.statuses)
    assert.same({ 4, 2, 4, 2 }, { t.attempts, other.fetched, other.items, other.failed })
    assert.same({ sessions = 2, skipped = 12 }, t.resumed)
    assert.is_nil(t.resumable)
    local text = other:text(run { resumed = { sessions = 2, skipped = 12 } })
    assert.matches("\n  resumed   run r1, the 2nd time; 12 items passed over that were done\n",
      text)
    assert.matches("\n  records   11 in, 4 filtered out, 3 bad, 7 out\n", text)
    -- The failures of before are counted, and not told again.
    assert.matches("failed +1 timeout: no answer %(item 9%)\n", text)
    assert.not_matches(" more, of ", text)
  end)

  it("takes back the items of a window that no sink has", function()
    local s = new()
    s:item(10, 4, 6)
    local before = s:totals()
    request(s, {})
    s:item(5, 1, 3)
    s.records.invalid, s.records.dead = 1, 2
    s:item_failed(errors.new("http", "x"), "item 3")
    s:undo(before)
    s:item(1, 0, 1)
    local t = s:table(run())
    assert.same({ ["in"] = 11, out = 7, filtered = 4, dead = 0 }, t.records)
    assert.same({ {}, 1, 2, 2, 0 }, { t.errors, t.requests.total, s.items, s.fetched, s.failed })
  end)

  it("says what goes on with --resume", function()
    local s = new()
    local about = run { failure = errors.new("invalid", "disk full"), resumable = true }
    assert.is_true(s:table(about).resumable)
    assert.matches("\n  resume    run r1 goes on with %-%-resume\n", s:text(about))
    for n, text in pairs { [2] = "2nd", [3] = "3rd", [4] = "4th", [11] = "11th", [21] = "21st",
      [112] = "112th" } do
      assert.matches("the " .. text .. " time; 1 item passed over that was done\n",
        s:text(run { resumed = { sessions = n, skipped = 1 } }))
    end
  end)

  it("tells of the errors that something stale was answered instead of", function()
    local s = new()
    local function hidden(kind, status, origin)
      request(s, { from_cache = "stale", instead_of = errors.new(kind, "x",
        { status = status, url = origin .. "/x?y" }) })
    end
    hidden("timeout", nil, "http://b:80")
    for _ = 1, 20 do hidden("http", 503, "http://a:80") end
    request(s, { from_cache = "stale" })
    request(s, { from_cache = "fresh" })
    local text = s:text(run())
    assert.matches("cache     answered 23 of 23, 1 fresh, 22 stale\n"
      .. "  stale     20 instead of http 503 at http://a:80\n"
      .. "            1 instead of timeout at http://b:80\n  slowest", text)
    assert.same({ fresh = 1, revalidated = 0, stale = 22, stale_if_error = 21 },
      s:table(run()).cache)
    assert.same({ count = 21, rate = 21 / 23 }, s:metrics(2).stale_if_error)
    for i = 1, 200 do hidden("http", 500, "http://\27[2Jh" .. i .. ":80") end
    text = s:text(run())
    assert.matches("stale     20 instead of http 503 at http://a:80\n", text)
    assert.matches("\n            199 instead of other errors\n", text)
    assert.is_nil(text:find "\27")
  end)

  it("shows neither secrets nor what a terminal would obey", function()
    secret.value "summ4ry-s3cret"
    local s = new()
    request(s, { target = "/\27[2J?key=summ4ry-s3cret", origin = "http://u:p4ss@a:80" })
    s:item_failed(errors.new("http", "\27]0;x\7 summ4ry-s3cret",
      { url = "http://u:p4ss@a:80/\r?key=summ4ry-s3cret" }), "item 1")
    s:item_failed(errors.new("http", ("ä"):rep(200)), "item 2")
    s:waited("http://u:p4ss@a:80", 100, "\27 summ4ry-s3cret")
    s:waited("http://u:p4ss@b:80", 100, "x")
    local text = s:text(run { failure = errors.new("script", "\27 summ4ry-s3cret") })
    local whole = text
      .. json.encode(s:table(run { failure = errors.new("invalid", "\27 summ4ry-s3cret") }))
    assert.not_matches("s3cret", whole)
    assert.not_matches("p4ss", whole)
    assert.not_matches("[%z\1-\9\11-\31\127]", whole)
    assert.matches("ä%.%.%.", text)
  end)

  it("has colours if they are wanted", function()
    local s = new()
    s:item(1, 0, 1)
    assert.matches("^\27%[1mhourly:\27%[0m \27%[32mfetched 1 of 1", s:text(run { colour = true }))
    s:item_failed(errors.new("http", "x"), "item 2")
    assert.matches("\27%[33mfetched 1 of 2", s:text(run { colour = true }))
    assert.not_matches("\27", s:text(run()))
  end)
end)
