local dead_letter = require "orchestrator.dead_letter"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"

local function file(target) return { kind = "file", target = target } end

describe("dead letters", function()
  local path

  local function read(suffix)
    local opened = io.open(path .. (suffix or ""))
    if not opened then return nil end
    local text = opened:read "*a"
    opened:close()
    return text
  end

  local function write(text, suffix)
    local opened = assert(io.open(path .. (suffix or ""), "w"))
    opened:write(text)
    opened:close()
  end

  -- Letters over a sink that is a table: w.did is what was done to it, w.windows what it got.
  local function world(more, inner)
    local w = { did = {}, windows = {}, places = {} }
    local spec = file(path)
    spec.mode = "replace"
    for name, value in pairs(more or {}) do spec[name] = value end
    w.open = function(given, position)
      w.did[#w.did + 1] = position == nil and "open" or "open at " .. position
      assert.equal(spec, given)
      local one = { target = given.target, goes_back = spec.kind ~= "table",
        carries = spec.kind == "table" }
      function one.encode(_, records) return json.encode(records) end
      function one.commit(_, window)
        w.windows[#w.windows + 1] = window
        return #w.windows
      end
      function one.carried() return 5, "entry" end
      function one.finish()
        w.did[#w.did + 1] = "finish"
        return true
      end
      function one.close(_, keep)
        w.did[#w.did + 1] = keep and "keep" or "close"
        return true
      end
      for name, fn in pairs(inner or {}) do one[name] = fn end
      return one
    end
    local outputs = { add_dead = function(_, opened) w.sink = opened end }
    w.letters = dead_letter.new {
      spec = spec, pipeline = "job", run_id = "run-1", wall = function() return 1700000000.5 end,
      open = w.open, outputs = outputs, position = w.position,
    }
    return w
  end

  local function commit(w, number, ...)
    return w.sink:commit { number = number, batches = { ... }, records = select("#", ...) }
  end

  local function letter(w, ...) return (assert(w.letters:letter(...))) end

  before_each(function()
    path = os.tmpname()
    os.remove(path)
    path = path .. ".jsonl"
  end)

  after_each(function()
    os.remove(path)
    os.remove(path .. ".part")
  end)

  it("stand beside the first file that is written", function()
    for expected, targets in pairs {
      ["out/job.dead.jsonl"] = { "-", "out/x.jsonl", "elsewhere/y.jsonl" },
      ["job.dead.jsonl"] = { "x.jsonl" },
      ["./job.dead.jsonl"] = { "./x.jsonl" },
      ["a/job.dead.jsonl"] = { "https://a.test/b/", "postgres://u@h/d", "a/x.sqlite" },
      ["b/job.dead.jsonl"] = { "b/{date}/x/{hour}.jsonl" },
      ["c/job.dead.jsonl"] = { "c/x-{date}/y.jsonl" },
    } do
      local specs = {}
      for i, target in ipairs(targets) do specs[i] = file(target) end
      assert.equal(expected, dead_letter.path("job", specs))
    end
    assert.equal("job.dead.jsonl", dead_letter.path("job", { file "-" }))
  end)

  describe("have a sink", function()
    local function check(given, targets, mode)
      local specs = {}
      for i, target in ipairs(targets or { "out/x.jsonl" }) do
        specs[i] = assert(sink.check(target))
      end
      return dead_letter.spec(given, "job", specs, mode or "replace")
    end

    it("of any kind", function()
      assert.same({ "out/job.dead.jsonl", "replace" },
        { check(nil).target, check(nil).mode })
      assert.same({ "x.csv", "append" },
        { check("x.csv", nil, "append").target, check("x.csv", nil, "merge").mode })
      assert.equal("append", check({ "x.jsonl", mode = "append" }).mode)
      assert.same({ "x.sqlite", "job_dead" }, { check("x.sqlite").target, check("x.sqlite").table })
      assert.equal("d", check({ "x.sqlite", table = "d" }).table)
      assert.equal("o{{x}}.dead.jsonl", dead_letter.path("o{x}", {}))
    end)

    it("that is none of the records'", function()
      for _, case in ipairs {
        { "-", "must be a file or a table" }, { "http://a.test/", "must be a file or a table" },
        { 7, "must be" }, { "x.txt", "no known format" },
        { "./out/x.jsonl", '"./out/x.jsonl" is one of the sinks of the records' },
        { { "x.sqlite", table = "job" }, "is one of the sinks", { "x.sqlite" } },
        { { "x.sqlite", table = "t" }, "is one of the sinks", { { "x.sqlite", table = "t" } } },
      } do
        local spec, problem = check(case[1], case[3])
        assert.is_nil(spec)
        assert.matches(case[2], problem, 1, true)
      end
      assert.is_table(check("x.sqlite", { "x.sqlite" }))
    end)
  end)

  it("say what there is to know", function()
    local w = world()
    local one, size = w.letters:letter({ id = 7 }, errors.new("http", "status 404", {
      url = "http://a/7", status = 404, attempts = 3, response = { body = "no \255 such thing" },
    }), "item 7", { request = "/7", tried = 2 })
    assert.same({
      item = { id = 7 }, position = "item 7", url = "http://a/7", attempts = 5,
      request = { method = "GET", url = "/7" },
      error = { kind = "http", message = "status 404", status = 404 },
      excerpt = "no \239\191\189 such thing", at = "2023-11-14T22:13:20Z", pipeline = "job",
      run_id = "run-1",
    }, one)
    assert.equal(#json.encode(one), size)
    assert.same({
      item = "x", position = "item 8", attempts = 0,
      error = { kind = "validation", message = "a bad one" }, at = "2023-11-14T22:13:20Z",
      pipeline = "job", run_id = "run-1", record = { n = json.null },
    }, (w.letters:letter("x", errors.new("validation", "a bad one"), "item 8",
      { record = { n = json.null } })))
    assert.equal(json.null, letter(w, nil, errors.new("invalid", "a hole"), "item 9").item)
  end)

  it("say what was asked for", function()
    local w = world()
    local function request(given)
      return letter(w, 1, errors.new("http", "x"), "item 1", { request = given }).request
    end
    assert.same({ method = "GET", url = "http://***@a/" }, request "http://me:pw@a/")
    assert.same({ method = "GET", url = "***" }, request(secret.value "dead-letter-spec-url"))
    assert.same({ method = "POST", url = "/a", query = { q = 1 }, body = '{"b":[],"t":"***"}' },
      request { url = "/a", query = { q = 1 }, headers = { Authorization = "Bearer x" },
        json = { t = secret.value "dead-letter-spec-json", b = json.array {} } })
    assert.same({ method = "PATCH", body = '{"a":1}', url = "/" },
      request { method = "PATCH", form = { a = 1 }, url = "/" })
    assert.same({ method = "PUT", url = "/" },
      request { method = "PUT", body = print, url = "/" })
    assert.same({ method = "POST", url = "/" }, request { file = "x", url = "/" })
    assert.equal(2048, #request({ url = "/", body = ("x"):rep(5000) }).body)
    assert.is_nil(request(nil))
    assert.is_nil(request(7))
  end)

  it("keep no secret and no more than the beginning of a body", function()
    local token = secret.value "dead-letter-spec-token"
    local one = letter(world(), { key = token },
      errors.new("http", "dead-letter-spec-token refused",
        { url = "http://u:p4ss@a/", response = { body = ("x"):rep(5000) } }),
      "dead-letter-spec-token:1",
      { record = { "dead-letter-spec-token" }, request = { url = "/?dead-letter-spec-token" } })
    local text = json.encode(one)
    assert.not_matches("spec%-token", text)
    assert.not_matches("p4ss", text)
    assert.equal(2048, #one.excerpt)
  end)

  it("tell when they are the last word", function()
    local w = world()
    local token = secret.value "dead-letter-spec-final"
    local err = errors.new("http", "x")
    assert.is_nil(letter(w, { 1, { a = "x" } }, err, "").final)
    assert.is_nil(letter(w, 1, err, "", { record = { 1 } }).final)
    assert.matches("its item is not here as it was", letter(w, { token }, err, "").final)
    assert.matches("its record is not", letter(w, 1, err, "", { record = { token } }).final)
    assert.matches("could not read", letter(w, "{", err, "", { unread = true }).final)
  end)

  describe("that replace", function()
    it("are a file when the first one is committed", function()
      local w = world()
      assert.is_true(w.letters:begin())
      assert.same({}, w.did)
      local one = letter(w, 1, errors.new("http", "x"), "item 1")
      assert.same({ count = 2, position = 1 }, commit(w, 3, one, one))
      assert.same({ count = 3, position = 2 }, commit(w, 4, one))
      assert.same({ "open" }, w.did)
      assert.same({ 3, 2, 2 },
        { w.windows[1].number, w.windows[1].records, #w.windows[1].batches })
      assert.same({ one }, json.decode(w.windows[2].batches[1]))
      assert.same({ true, true }, { w.sink:finish(), w.letters:finish(true) })
      w.sink:close(false)
      assert.same({ "open", "finish", "finish", "close" }, w.did)
      assert.equal(path, w.letters:kept_in(false))
      assert.equal(path .. ".part", w.letters:kept_in(true))
    end)

    it("go on where they were", function()
      local w = world()
      w.letters.position = { count = 4, position = "x" }
      assert.is_true(w.letters:begin())
      assert.same({ "open at x" }, w.did)
      assert.same({ count = 5, position = 1 }, commit(w, 9, letter(w, 1, errors.new("http", "x"),
        "item 1")))
    end)

    it("leave nothing of an earlier run when there are none", function()
      for _, supersede in ipairs { false, true } do
        write("old\n")
        write("stale\n", ".part")
        local w = world()
        w.letters:begin()
        assert.is_true(w.sink:finish())
        assert.is_true(w.letters:finish(supersede))
        assert.is_true(w.letters:finish(supersede))
        assert.is_true(w.sink:close(false))
        if supersede then
          assert.same({}, { read(), read ".part" })
          -- An empty file has taken the place of the old one before it was removed.
          assert.same({ "open", "finish", "finish", "close" }, w.did)
        else
          assert.same({ "old\n", "stale\n" }, { read(), read ".part" })
        end
        assert.is_nil(w.letters:kept_in(false))
        if not supersede then assert.same({}, w.did) end
      end
    end)
  end)

  describe("that are added", function()
    it("are open from the beginning", function()
      local w = world { mode = "append" }
      assert.is_true(w.letters:begin())
      assert.same({ "open" }, w.did)
      assert.same({ true, false }, { w.sink.goes_back, w.sink.carries })
      commit(w, 1, letter(w, 1, errors.new("http", "x"), "item 1"))
      assert.is_true(w.letters:finish(false))
      assert.equal(path, w.letters:kept_in(true))
    end)

    it("leave no empty file", function()
      for _, before in ipairs { "", "old\n" } do
        write(before)
        local w = world { mode = "append" }
        w.letters:begin()
        assert.is_true(w.letters:finish(false))
        assert.equal(before ~= "" and before or nil, read())
      end
    end)
  end)

  it("may be rows of a table, which carries the journal", function()
    local w = world { kind = "table", target = "x.sqlite", table = "dead" }
    assert.is_true(w.letters:begin())
    assert.same({ "open" }, w.did)
    assert.same({ false, true, 5, "entry" },
      { w.sink.goes_back, w.sink.carries, w.sink:carried() })
    local one = letter(w, 1, errors.new("http", "x"), "item 1")
    for _, name in ipairs { "request", "url", "excerpt", "record", "final" } do
      assert.equal(json.null, one[name])
    end
    local whole = json.decode(one.letter)
    assert.same({ 1, "x", "nil" }, { whole.item, whole.error.message, tostring(whole.record) })
    assert.same(one, (w.letters:again(whole)))
    assert(w.sink:commit { number = 1, batches = { one }, records = 1, entry = "e" })
    assert.equal("e", w.windows[1].entry)
    assert.equal("x.sqlite, table dead", w.letters:kept_in(true))
    assert.is_true(w.letters:finish(true))
  end)

  it("do without NUL bytes where there is no text for them", function()
    local w = world(nil, {
      encode = function(_, records)
        local text = json.encode(records)
        if text:find("\\u0000", 1, true) then return nil, errors.new("invalid", "a NUL") end
        return text
      end,
    })
    w.letters:begin()
    commit(w, 1, letter(w, { "a\0b", ["\0"] = { "\0" } }, errors.new("http", "x"), "item 1"))
    local kept = json.decode(w.windows[1].batches[1])[1]
    assert.same({ ["1"] = "a\239\191\189b", ["\239\191\189"] = { "\239\191\189" } }, kept.item)
    assert.is_string(kept.final)
  end)

  it("can be noted down before they are written", function()
    local w = world()
    w.letters:begin()
    local one = letter(w, { json.array {}, "\0" }, errors.new("http", "x"), "item 1")
    local text = json.decode(json.encode(w.sink:freeze { one, one }))
    commit(w, 1, unpack(w.sink:thaw(text)))
    commit(w, 1, one, one)
    assert.same(w.windows[1].batches, w.windows[2].batches)
    assert.same({}, w.sink:thaw(w.sink:freeze {}))
  end)

  it("that cannot be kept are an error", function()
    local full = errors.new("invalid", "No space left on device")
    local function fails() return nil, full end
    local one = { item = 1 }

    local w = world()
    w.sink, w.letters.sink.open = nil, fails
    w.letters:begin()
    assert.same({ nil, full, n = 2 }, { n = 2, commit(w, 1, one) })
    assert.is_nil(w.letters:kept_in(false))
    for _, what in ipairs { "commit", "encode", "finish" } do
      w = world(nil, { [what] = fails })
      w.letters:begin()
      local ok, err = commit(w, 1, one)
      if what == "finish" then ok, err = w.letters:finish(false) end
      assert.same({ nil, full, n = 2 }, { ok, err, n = 2 })
    end
    w = world { mode = "append" }
    w.letters.sink.open = fails
    assert.same({ nil, full, n = 2 }, { n = 2, w.letters:begin() })
  end)
end)
