local cache_document = require "orchestrator.cache_document"
local cache_store = require "orchestrator.cache_store"
local crypto = require "orchestrator.core.crypto"
local fake_host = require "fake_host"
local scheduler = require "orchestrator.scheduler"

-- What SQLite makes of it is tested by tests/integration/test_cache_store.py.
describe("a store of responses", function()
  local host, sched, env, calls, answers, warnings

  before_each(function()
    host = fake_host.new()
    sched = scheduler.new(host)
    calls, answers, warnings = {}, {}, {}
    env = { sched = sched, host = host, state_dir = "some/dir",
      voice = { log = { warn = function(_, text) warnings[#warnings + 1] = text end } } }
    local jobs, count = {}, 0

    -- The functions of src/lua_store.h: each answers what the test says.
    for name, default in pairs {
      store_directory = { true }, store_open = { 7 }, store_read = { {} }, store_close = {},
    } do
      host[name] = function(...)
        calls[#calls + 1] = { name, ... }
        return unpack(answers[name] or default, 1, 3)
      end
    end
    function host.store_run(id, statements)
      count = count - 1
      calls[#calls + 1] = { "store_run", id, statements, at = host.time }
      jobs[#jobs + 1] = { count, answers.store_run or { rows = { { -1, -1, 0, 0 } } } }
      return count
    end
    local poll = host.poll
    function host.poll(timeout, deliver)
      local job = table.remove(jobs, 1)
      if not job then return poll(timeout, deliver) end
      host.time = host.time + 0.001
      deliver(unpack(job))
    end
  end)

  local function run(fn)
    local task = sched:run(fn)
    if not task.ok then error(task.err.message .. (task.err.traceback or ""), 0) end
    assert.equal(0, sched.outstanding)
  end

  local function open()
    local store = assert(cache_store.open(env))
    calls = {}
    return store
  end

  local function entry(name)
    return { key = name, url = "http://a/" .. name, status = 200, fields = {}, vary = {}, size = 4,
      request_time = 1, response_time = 2 }
  end

  -- As store_read gives it.
  local function row(name, stamp, text, hash)
    return { stamp, "http://a/" .. name, cache_document.encode(entry(name)), 0,
      hash or crypto.hash("sha256", text), #text, text }
  end

  -- The batches that were written: each a list of the texts of its bodies.
  local function batches()
    local list = {}
    for _, call in ipairs(calls) do
      if call[1] == "store_run" then
        local texts = {}
        for _, statement in ipairs(call[3]) do
          if statement.also then
            for i = 1, #statement.rows, statement.width do texts[#texts + 1] = statement.rows[i] end
          end
        end
        list[#list + 1] = texts
      end
    end
    return list
  end

  it("is opened once, in the state directory", function()
    local store = assert(cache_store.open(env))
    assert.equal(store, cache_store.open(env))
    assert.same({ "store_directory", "some/dir" }, calls[1])
    assert.same({ "store_open", "some/dir/cache.db" }, { calls[2][1], calls[2][2] })
    local options = calls[2][3]
    assert.equal(0x6f726363, options.application_id)
    assert.is_true(options.functions and options.snapshots and options.shrinks)
    store:close()
    assert.same({ "store_close", 7 }, calls[#calls])
  end)

  it("says what to do when it cannot be opened", function()
    local function problem_with(answer)
      answers.store_open = answer
      local opened, problem = cache_store.open(env)
      assert.is_nil(opened)
      assert.is_nil(env.cache_store)
      return problem
    end
    for reason, advice in pairs {
      read_only = "make the directory and the files in it writable, or name another directory",
      not_a_database = "move it away, or name another directory with %-%-state%-dir$",
      foreign = "it belongs to another program: name another directory with %-%-state%-dir$",
      newer = "use the version of orchestrator that wrote it; `orchestrator cache clear "
        .. "%-%-state%-dir some/dir` removes it$",
      busy = "another process keeps it: try again, end that process, or name another directory",
      failed = "see to that, or name another directory",
    } do
      assert.matches("^some/dir/cache%.db: it is so; " .. advice,
        problem_with { nil, reason, "it is so" })
    end
    local corrupt = { nil, "corrupt", "it was cut off" }
    assert.equal("some/dir/cache.db is damaged (it was cut off): `orchestrator cache clear "
      .. "--state-dir some/dir` removes it", problem_with(corrupt))
    env.state_dir = ".orchestrator"
    assert.equal(".orchestrator/cache.db is damaged (it was cut off): `orchestrator cache clear` "
      .. "removes it", problem_with(corrupt))
    env.state_dir = "some/dir"
    answers.store_directory = { nil, "No space left on device" }
    assert.equal("the state directory some/dir cannot be made: No space left on device; see to "
      .. "that, or name another directory with --state-dir", problem_with {})
  end)

  it("writes what comes within a tenth of a second together", function()
    local store = open()
    run(function()
      local began = sched:now()
      store:put(entry "a", "1", {})
      sched:sleep(0.05)
      store:put(entry "b", "2", {})
      sched:sleep(0.2)
      store:put(entry "c", "3", {})
      store:finish()
      assert.near(began + 0.1, calls[1].at, 1e-6)
    end)
    assert.same({ { "1", "2" }, { "3" } }, batches())
  end)

  it("writes much of it at once", function()
    local store = open()
    run(function()
      for i = 1, 1000 do store:put(entry("a" .. i), "1", {}) end
      assert.equal(1, #calls)
      store:put(entry "b", "2", {}) -- while the others are being written
      store:put(entry "c", ("3"):rep(4e6), {})
      assert.equal(1, #calls)
      sched:sleep(0.01)
      assert.equal(2, #calls)
      store:put(entry "d", ("4"):rep(4e6), {})
      store:finish()
    end)
    assert.same({ 1000, 2, 1 }, { #batches()[1], #batches()[2], #batches()[3] })
  end)

  it("holds no more than there is room for", function()
    local store = open()
    local function puts(size, name)
      store:put(entry(name), ("x"):rep(size), {})
      return #store:get(name)
    end
    run(function()
      assert.equal(1, puts(60e6, "a"))
      assert.equal(1, puts(60e6, "b")) -- a is being written
      assert.equal(0, puts(5e6, "c"))
      assert.equal(1, puts(3e6, "d"))
      store:finish()
      assert.equal(1, puts(5e6, "e"))
      store:limit(1000)
      assert.equal(0, puts(1001, "f"))
      assert.equal(1, puts(1000, "g"))
      store:limit(2000)
      store:limit(1000)
      assert.equal(1, puts(2000, "h"))
      store:finish()
    end)
  end)

  it("writes what waits when it is closed", function()
    local store = open()
    run(function() store:put(entry "a", "1", {}) end)
    store:close()
    assert.same({ { "1" } }, batches())
    assert.equal("store_close", calls[#calls][1])
  end)

  it("checks what it reads", function()
    local store = open()
    answers.store_read = { { row("a", 1, "text"), row("a", 2, "text", "another hash") } }
    run(function()
      local good, bad = unpack(store:get "a")
      assert.same({ "a", "http://a/a", 200 }, { good.key, good.url, good.status })
      assert.equal("text", store:body(good))
      assert.is_nil(store:body(bad))
      assert.equal(1, #store:get "a")
      answers.store_read = { { { 3, "http://a/", "no document", 0, "", 0, "" } } }
      assert.equal(0, #store:get "a")
      store:finish()
    end)
  end)

  it("reads a long body when it is asked for", function()
    local store = open()
    local long = row("a", 1, "text")
    long[7] = 0
    answers.store_read = { { long } }
    run(function()
      local found = store:get("a")[1]
      answers.store_read = { { { "text" } } }
      assert.equal("text", store:body(found))
      answers.store_read = { { { "other" } } }
      assert.is_nil(store:body(found))
      answers.store_read = { {} } -- somebody has removed it
      assert.is_nil(store:body(found))
      answers.store_read = { nil, "io", "disk I/O error" }
      assert.is_nil(store:body(found))
      store:finish()
    end)
    assert.equal(1, #warnings)
  end)

  it("writes down once a minute that a response was used", function()
    local store = open()
    run(function()
      answers.store_read = { { row("a", 1, "text") } }
      local found = store:get("a")[1]
      found.row.used = host.wall()
      for _ = 1, 10 do
        sched:sleep(13)
        assert.equal("text", store:body(found))
      end
      store:finish()
    end)
    local uses = {}
    for _, call in ipairs(calls) do
      local statement = call[1] == "store_run" and call[3][2]
      if statement then
        assert.matches("^UPDATE entries SET used", statement[1])
        uses[#uses + 1] = statement.rows[1][3] - 1.7e9
      end
    end
    assert.same({ 1065, 1130 }, uses)
  end)

  it("goes on evicting while that helps", function()
    local store = open()
    local stock = { { 500, -1, 0, 0 }, { 300, -1, 0, 0 }, { 300, -1, 0, 0 } }
    local at = 0
    answers.store_run = setmetatable({}, { __index = function(_, name)
      if name ~= "rows" then return nil end
      at = at + 1
      return { stock[at] or error "asked too often" }
    end })
    run(function()
      store:put(entry "a", "1", {})
      store:finish()
    end)
    assert.equal(3, #batches())
  end)

  it("looks ten times a second whether others have changed something", function()
    local store = open()
    local function read(count) answers.store_read = { { { count } } } end
    run(function()
      read(1)
      assert.is_true(store:is_changed()) -- since nobody knows when
      assert.is_false(store:is_changed())
      read(2)
      assert.is_false(store:is_changed())
      sched:sleep(0.1)
      assert.is_true(store:is_changed())
      assert.is_false(store:is_changed())
      -- What it does itself is no news.
      answers.store_run = { rows = { { -1, -1, 5, 2 } } }
      store:void "http://a/"
      store:finish()
      read(5)
      sched:sleep(0.1)
      assert.is_false(store:is_changed())
      answers.store_run = { rows = { { -1, -1, 8, 6 } } }
      store:void "http://a/"
      store:finish()
      assert.is_true(store:is_changed())
    end)
  end)

  it("goes on without, and says so once, when it cannot be read", function()
    local store = open()
    run(function()
      answers.store_read = { nil, "corrupt", "database disk image is malformed" }
      assert.same({}, store:get "a")
      calls = {}
      assert.same({}, store:get "a")
      assert.same({}, calls)
      store:put(entry "a", "1", {})
      assert.equal(1, #store:get "a")
      store:finish()
    end)
    assert.same({ "some/dir/cache.db is damaged (database disk image is malformed), nothing is "
      .. "read from the cache: `orchestrator cache clear --state-dir some/dir` removes it" },
      warnings)
  end)

  it("goes on without, and says so once, when it cannot be written", function()
    local store = open()
    run(function()
      answers.store_read = { { row("old", 1, "text") } }
      answers.store_run = { fault = "state", code = "full", message = "disk is full" }
      store:put(entry "a", "1", store:get "old")
      store:finish()
      assert.same({}, store:get "old")
      calls = {}
      store:put(entry "b", "1", {})
      store:void "http://a/c"
      store:finish()
      answers.store_read = { { row("c", 1, "text") } }
      assert.same({}, store:get "c")
      assert.same({}, batches())
    end)
    store:close()
    assert.same({}, batches())
    assert.same({ "some/dir/cache.db: disk is full; responses are not cached; make room on the "
      .. "disk" }, warnings)
  end)

  it("writes again when it was only busy", function()
    local store = open()
    run(function()
      answers.store_run = { fault = "state", code = "busy", message = "database is locked" }
      store:void "http://a/a"
      store:put(entry "b", "1", {})
      sched:sleep(0.15)
      answers.store_run = nil
      calls = {}
      store:put(entry "c", "2", {})
      store:finish()
    end)
    assert.same({ { "2" } }, batches())
    assert.same({ { "http://a/a" } }, calls[1][3][2].rows)
    assert.equal(1, #warnings)
  end)

  it("does not wait at the end for a program that does not let go of it", function()
    local store = open()
    run(function()
      answers.store_run = { fault = "state", code = "busy", message = "database is locked" }
      store:void "http://a/a"
      store:finish()
    end)
    assert.equal(1, #calls)
    store:close()
    assert.equal(2, #calls, "nothing more is written")
  end)
end)
