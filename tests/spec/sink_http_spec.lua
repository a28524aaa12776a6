local fake_host = require "fake_host"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local sink_http = require "orchestrator.sink_http"

local TARGET = "http://sink.test/records"

describe("the sink http", function()
  local w

  -- An opened sink in a world whose server answers by `serve(spec, n)`.
  local function with(given, serve, fn, more)
    w = fake_host.world { serve = serve }
    w.env.client_of = function(opts) return opts.pool and opts or w.client(opts) end
    local ctx = { env = w.env, host = w.host, sched = w.sched, name = "job", run_id = "run-1",
      mode = "replace", durable = true }
    for name, value in pairs(more or {}) do ctx[name] = value end
    return w.run(function()
      return fn(assert(sink_http.open(assert(sink_http.check(given)), ctx)))
    end)
  end

  local function window(sink, number, ...)
    local batches, records = {}, 0
    for i = 1, select("#", ...) do
      local list = select(i, ...)
      batches[i] = assert(sink:encode(list))
      records = records + #list
    end
    return { number = number, batches = batches, records = records }
  end

  -- What the server got, as {body, key, type}.
  local function got()
    local out = {}
    for i, start in ipairs(w.host.ledger) do
      local spec = start.spec
      out[i] = { spec.body, spec.headers:match "Idempotency%-Key: ([^\r\n]*)",
        spec.headers:match "Content%-Type: ([^\r\n]*)" }
    end
    return out
  end

  local function keys()
    local out = {}
    for i, request in ipairs(got()) do out[i] = request[2]:match '/(%d+/%d+)/%x+"$' end
    return out
  end

  it("sends a window as JSON Lines and says how many records there were", function()
    with(TARGET, nil, function(sink)
      local one = window(sink, 1, { { b = 1, a = "x" }, 2 }, { 3 })
      assert.same({ count = 3 }, assert(sink:commit(one)))
      assert.same({ count = 4 }, assert(sink:commit(window(sink, 2, { "é" }))))
      assert.same({ 4, true, true }, { sink.count, sink:finish(), sink:close() })
    end)
    assert.same({ '{"a":"x","b":1}\n2\n3\n', '"é"\n' }, { got()[1][1], got()[2][1] })
    assert.equal("application/x-ndjson", got()[1][3])
    assert.matches('^"run%-1/job/%x+/1/1/%x%x%x%x%x%x%x%x"$', got()[1][2])
    assert.same({ "1/1", "2/1" }, keys())
    assert.equal("POST", w.host.ledger[1].spec.method)
  end)

  it("or as an array", function()
    with({ TARGET, format = "json" }, nil, function(sink)
      assert(sink:commit(window(sink, 1, { 1 }, { {}, "x" })))
    end)
    assert.same({ { '[1,{},"x"]', got()[1][2], "application/json" } }, got())
  end)

  it("so many records in a request, and no more than 4 MB", function()
    with({ TARGET, batch = 2 }, nil, function(sink)
      assert(sink:commit(window(sink, 7, { 1 }, { 2, 3 }, { 4, 5 })))
    end)
    assert.same({ "1\n2\n", "3\n4\n", "5\n" }, { got()[1][1], got()[2][1], got()[3][1] })
    assert.same({ "7/1", "7/2", "7/3" }, keys())
    local long = ("x"):rep(1.5e6)
    with(TARGET, nil, function(sink)
      assert(sink:commit(window(sink, 1, { long, long, long, long:rep(4), 1 })))
    end)
    local sizes = {}
    for i, request in ipairs(got()) do sizes[i] = #request[1] end
    assert.same({ 3e6 + 6, 1.5e6 + 3, 6e6 + 3, 2 }, sizes)
  end)

  it("sends nothing when there is nothing", function()
    with(TARGET, nil, function(sink)
      assert.same({ count = 0 }, sink:commit(window(sink, 1)))
      assert.same({ count = 0 }, sink:commit(window(sink, 2, {})))
    end)
    assert.same({}, got())
  end)

  it("refuses a record that has no JSON form, and says the size of the others", function()
    with(TARGET, nil, function(sink)
      local batch, size = sink:encode { "abc", 1 }
      assert.same({ { '"abc"', "1" }, 6 }, { batch, size })
      local none, err = sink:encode { 1, { x = 0 / 0 } }
      assert.is_nil(none)
      assert.equal("invalid", err.kind)
    end)
  end)

  it("tries again with the same key and the same bytes", function()
    local function serve(_, n) return { status = n <= 2 and 503 or 200 } end
    with(TARGET, serve, function(sink)
      assert(sink:commit(window(sink, 1, { 1, 2 })))
      assert.equal(2, sink.count)
    end)
    assert.equal(3, #got())
    assert.same({ got()[1], got()[1] }, { got()[2], got()[3] })
  end)

  it("fails for good when the server does not take it", function()
    for _, case in ipairs {
      { { status = 400, body = "no such\ncolumn" }, "status 400 (no such column)", 1 },
      { { status = 302, head = "Location: http://sink.test/login\r\n" }, "status 302", 1 },
      { { fault = "network", message = "reset" }, "network: reset", 3 },
    } do
      local client = { retry = { attempts = 3, wait_initial = 0 } }
      with({ TARGET, client = client }, function() return case[1] end, function(sink)
        local position, err = sink:commit(window(sink, 4, { 1, 2 }))
        assert.is_nil(position)
        assert.equal("invalid", err.kind)
        assert.equal(TARGET .. " did not take 2 records of window 4: " .. case[2]
          .. "; see to that, then go on with --resume", err.message)
        assert.equal(0, sink.count)
      end)
      assert.equal(case[3], #got())
    end
  end)

  describe("of a window that was noted down", function()
    it("sends the same again, whatever the options are now", function()
      local text
      local first = { TARGET, batch = 2, format = "json" }
      with(first, nil, function(sink)
        local one = window(sink, 3, { 1, { x = "a b\nc" } }, {}, { 3 })
        text = sink:freeze(one.batches)
        assert(sink:commit(one))
      end)
      local before = got()
      local changed = { TARGET .. "?v=2", batch = 500, format = "jsonl",
        headers = { ["Content-Type"] = "application/json" } }
      with(changed, nil, function(sink)
        local batches = sink:thaw(json.decode(json.encode(text)))
        assert.same({ count = 13 }, sink:commit { number = 3, batches = batches, records = 3 })
      end, { resume = { count = 10 } })
      assert.same(before, got())
    end)

    it("may have no record for it", function()
      with(TARGET, nil, function(sink)
        local batches = sink:thaw(sink:freeze {})
        assert.same({ count = 0 }, sink:commit { number = 1, batches = batches, records = 0 })
      end)
      assert.same({}, got())
    end)
  end)

  it("has other keys than every other sink", function()
    local seen = {}
    for _, case in ipairs {
      { TARGET }, { TARGET .. "?x=1" }, { TARGET, { name = "other" } },
      { TARGET, { run_id = "run-2" } }, { TARGET, { name = 'a "b"\\é' } },
    } do
      with(case[1], nil, function(sink) sink:commit(window(sink, 1, { 1 })) end, case[2])
      local key = got()[1][2]
      assert.matches('^"[%w%%/._~-]+"$', key)
      assert.is_nil(seen[key])
      seen[key] = true
    end
  end)

  it("has a client and headers of its own", function()
    local auth = { type = "bearer", token = secret.value "sink-http-spec-token" }
    local given = { TARGET, headers = { ["X-Table"] = "t", ["content-type"] = "text/plain" },
      client = { auth = auth } }
    with(given, nil, function(sink) sink:commit(window(sink, 1, { 1 })) end)
    local head = w.host.ledger[1].spec.headers
    assert.matches("Authorization: Bearer sink-http-spec-token", head, 1, true)
    assert.matches("X-Table: t", head, 1, true)
    assert.matches("content-type: text/plain", head, 1, true)
    assert.not_matches("ndjson", head)
  end)

  it("shows no secret of its URL", function()
    local hidden = secret.value "https://sink.test/?token=sink-http-spec-url"
    for _, given in ipairs { hidden, "http://me:sink-pass@sink.test/" } do
      with(given, function() return { status = 400 } end, function(sink)
        local _, err = sink:commit(window(sink, 1, { 1 }))
        assert.not_matches("spec%-url", sink.target .. err.message)
        assert.not_matches("sink%-pass", sink.target .. err.message)
      end)
    end
    assert.equal("https://***", sink_http.check(hidden).target)
  end)

  it("can neither go back nor carry the journal", function()
    with(TARGET, nil, function(sink)
      assert.same({ false, false }, { sink.goes_back, sink.carries })
      with({ TARGET, format = "json" }, nil, function(other)
        assert.equal(sink.format, other.format) -- they share what is encoded
      end)
    end)
  end)

  it("refuses what it cannot mean", function()
    for _, case in ipairs {
      { { TARGET, fromat = "json" }, 'sink: unknown option "fromat" (did you mean "format"?)' },
      { { TARGET, format = "csv" }, '"format" must be "jsonl" or "json", got "csv"' },
      { { TARGET, batch = 0 }, '"batch" must be at least 1' },
      { { TARGET, batch = "x" }, '"batch" must be a whole number' },
      { { TARGET, headers = "x" }, '"headers" must be a table' },
      { { TARGET, headers = { ["Idempotency-KEY"] = "x" } }, "the sink makes them" },
      { { TARGET, client = "x" }, '"client" must be a table' },
    } do
      local ok, message = pcall(sink_http.check, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
      assert.is_true(options.is_misuse(message))
    end
    local spec, problem = sink_http.check "http://"
    assert.is_nil(spec)
    assert.equal("must be a URL such as https://a.example/records", problem)
  end)

  it("has its client's options looked at before anything runs", function()
    local world = fake_host.world()
    world.env.client_of = world.client
    local spec = assert(sink_http.check { TARGET, client = { timout = 1 } })
    local ok, message = pcall(sink_http.bind, spec, world.env)
    assert.is_false(ok)
    assert.matches('unknown option "timout" (did you mean "timeout"?)', message, 1, true)
  end)
end)
