local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local fake_sinks = require "fake_sinks"
local file = require "orchestrator.core.file"
local json = require "orchestrator.json"
local limits = require "orchestrator.limits"
local pipeline = require "orchestrator.pipeline"
local real_host = require "real_host"
local scheduler = require "orchestrator.scheduler"
local sink = require "orchestrator.sink"
local state = require "orchestrator.state"

-- Runs of a pipeline as processes that follow one another: each has a scheduler of its own, and
-- what is left of it is on a disk (fake_sinks.lua) and in a state directory.
describe("a run with a journal", function()
  local dir, state_dir, writes, disk, fetched, logged, process, finished
  local real = { check = sink.check, open = sink.open, bind = sink.bind, lock = file.lock }

  before_each(function()
    -- In memory where there is such a place: SQLite syncs a lot, and there are many processes here.
    local pipe = io.popen "mktemp -d -p /dev/shm 2>/dev/null || mktemp -d"
    dir = pipe:read "*l"
    pipe:close()
    state_dir = dir .. "/state"
    disk, fetched, logged, process = fake_sinks.disk(), {}, {}, 0
    sink.check, sink.open = fake_sinks.check, fake_sinks.opener(disk)
    sink.bind = function() end
  end)

  after_each(function()
    sink.check, sink.open, sink.bind, file.lock = real.check, real.open, real.bind, real.lock
    os.execute("rm -rf " .. dir)
  end)

  -- A client that answers with the item's number, once the time is over that `serve(url)` says; or
  -- with the err that it says.
  local function client_of(sched, serve)
    local client = { pool = limits.pool(sched, { total = 2 }) }
    function client:fetch(request, observer)
      local url = type(request) == "table" and request.url or request
      fetched[url] = (fetched[url] or 0) + 1
      self.pool:acquire "http://a:80"
      local answer = serve(url)
      local ok, raised = pcall(sched.sleep, sched, answer.after or 0.06)
      self.pool:release "http://a:80"
      if not ok then error(raised, 0) end
      observer:attempt { url = url, origin = "http://a:80", status = 200, elapsed = 0.06, size = 1,
        attempt = 1, retried = false }
      observer:request { url = url, origin = "http://a:80", ok = not answer.err, attempts = 1,
        elapsed = 0.06, from_cache = false, kind = answer.err }
      if answer.err then return nil, errors.new(answer.err, "it broke", { url = url }) end
      local body = answer.body or url:match "%d+$"
      return { status = 200, url = url, attempts = 1, body = body,
        json = function() return json.decode(body) end }
    end
    return client
  end

  local function default_serve(url)
    return { err = url:find "/3$" and "http" or nil }
  end

  -- A process. Returns the run's result, nil when it was killed. `more`: {dies_at, fails_at: the
  -- transaction of the journal that fails, serve, resume, meanwhile(sched, interrupts, main)}.
  local function run(opts, more)
    more = more or {}
    process = process + 1
    disk:restart(more.dies_at)
    finished, writes = false, 0
    local now = 0
    local host = fake_host.with_files {
      now = function() return now end,
      poll = function(s)
        assert(not disk.dead, "killed")
        now = now + (assert(s, "it would wait for ever"))
      end,
      cancel = function() end,
    }
    local open_store = host.store_open
    function host.store_open(path, options)
      options.durable = false
      return open_store(path, options)
    end
    local sched = scheduler.new(host)
    local env = { sched = sched, host = host, state_dir = state_dir }
    local locks = {}
    function file.lock(...)
      local id, holder = real.lock(...)
      locks[#locks + 1] = id
      return id, holder
    end
    local client = client_of(sched, more.serve or default_serve)
    local given = { name = "job", sink = "file:x", dead_letters = "file:dead" }
    for name, value in pairs(opts) do given[name] = value end
    local p = pipeline.new({ name = "job", client_of = function() return client end }, given)
    local interrupts = {}
    local ctx = {
      sched = sched, host = host, env = env, run_id = "run-" .. process, pid = process,
      wall = function() return 1.7e9 + process end, script = "x.lua", interrupts = interrupts,
      resume = more.resume, sample = more.sample,
      log = {
        debug = function() end,
        info = function(_, text) table.insert(logged, text) end,
        warn = function(_, text) table.insert(logged, text) end,
      },
      state = function()
        local kept, problem = state.open(env)
        if not kept then return nil, problem end
        if not rawget(kept, "run") then
          kept.run = function(self, statements)
            disk:step()
            writes = writes + 1
            if writes == more.fails_at then
              return nil, errors.new("invalid", "state.db: the disk is full", { fault = "state" })
            end
            local result, err = getmetatable(self).__index.run(self, statements)
            if statements[1][3] == "finished" then finished = true end
            disk:step()
            return result, err
          end
        end
        return kept
      end,
    }
    local result
    local ok, raised = pcall(sched.run, sched, function()
      if more.meanwhile then more.meanwhile(sched, interrupts, sched:current()) end
      result = p:run(ctx)
    end)
    if env.state then env.state:close() end
    for _, id in ipairs(locks) do pcall(file.unlock, id) end -- as the end of the process does
    if disk.dead then return nil end
    assert(ok, raised)
    assert.equal(0, sched.live)
    assert.equal(0, client.pool:state().active)
    return assert(result, "it raised")
  end

  local function urls(n)
    local list = {}
    for i = 1, n do list[i] = "http://a:80/" .. i end
    return list
  end

  local function of_state(sql)
    local id = assert(real_host.store_open(state_dir .. "/state.db", { shared = true }))
    local rows = assert(real_host.store_read(id, sql))
    real_host.store_close(id)
    return rows[1] and rows[1][1]
  end

  -- Why the last run stopped, and what it had counted.
  local function reason() return of_state "SELECT reason FROM runs ORDER BY seq DESC" end
  local function kept_totals()
    local text = of_state "SELECT totals FROM windows ORDER BY at DESC"
    return text and json.decode(text)
  end

  local function sorted(list)
    local copy = { unpack(list) }
    table.sort(copy)
    return table.concat(copy, " ")
  end

  -- Every sink has every record once, and so has the one of the dead letters its letter.
  local function assert_whole(targets, result, what)
    for _, target in ipairs(targets) do
      assert.equal("1 2 4", sorted(disk:records(target)), what .. " " .. target)
      assert.is_true(disk.files[target].finished, what)
      assert.equal(3, disk.files[target].sink.count, what)
    end
    if not result then return end -- killed when there was nothing left to do
    assert.equal(0, result.code, what .. ": " .. result.text)
    assert.same({ 3, 1, 1 },
      { result.summary.records.out, result.summary.records.dead, result.summary.errors.http }, what)
  end

  local function assert_letters(target, what)
    local letters = disk:records(target)
    assert.equal(1, #letters, what .. " " .. target)
    assert.equal("http://a:80/3", json.decode(letters[1]).item, what)
  end

  for _, combination in ipairs {
    { { "file:x" }, "file:dead", "append" },
    { { "file:x" }, "table:dead", "replace" },
    { { "table:x" }, "http:dead", "append" },
    { { "http:x" }, "file:dead", "replace" },
    { { "table:x", "file:y" }, "file:dead", "replace" },
    { { "table:x", "file:y" }, "file:dead", "append" },
    { { "http:x", "table:y", "file:z" }, "table:dead", "append" },
  } do
    local targets, dead, mode = unpack(combination)
    local name = table.concat(targets, ", ") .. " and " .. dead .. ", " .. mode
    it("is killed at any step, and goes on: " .. name, function()
      local opts = { source = urls(4), sink = targets, dead_letters = dead, mode = mode }
      local steps, step = nil, 0
      repeat
        step = step + 1
        disk.files, fetched, process, state_dir = {}, {}, 0, dir .. "/" .. step
        local what = "killed at step " .. step
        local result = run(opts, { dies_at = step })
        if result then steps = step - 1 end
        if not finished then result = run(opts, { resume = true }) end
        assert_whole(targets, result, what)
        assert_letters(dead, what)
        if result then
          -- The first three steps come before the journal knows the run.
          assert.equal(step <= 3 and result.summary.run_id or "run-1", result.summary.run_id)
        end
        for url, times in pairs(fetched) do assert.is_true(times <= 2, what .. url) end
      until steps
      assert.is_true(steps > 20)
    end)
  end

  it("is killed again and again", function()
    local targets = { "file:x", "table:y" }
    for seed = 1, 20 do
      disk.files, fetched, state_dir = {}, {}, dir .. "/" .. seed
      local random = fake_host.generator(seed)
      local opts = { source = urls(4), sink = targets, dead_letters = "table:dead" }
      local result
      repeat
        result = run(opts, { resume = true, dies_at = math.floor(random() * 40) + 1 })
      until finished
      assert_whole(targets, result, "seed " .. seed)
      assert_letters("table:dead", "seed " .. seed)
    end
  end)

  it("says in the journal why it stopped, and goes on when that is mended", function()
    for _, what in ipairs { "commit", "finish" } do
      for _, target in ipairs { "file:x", "table:y", "file:dead" } do
        disk.files, state_dir = {}, dir .. "/" .. what .. target:gsub("%W", "")
        local opts = { source = urls(6), sink = { "file:x", "table:y" } }
        local full = errors.new("invalid", "no room")
        disk.during = function(of) -- so it has a window of records
          if what == "commit" and of == "file:x" then disk.broken[target] = full end
        end
        if what == "finish" then disk.broken_finish[target] = full end
        local result = run(opts)
        disk.during, disk.broken, disk.broken_finish = nil, {}, {}
        assert.equal(1, result.code, what .. target)
        assert.equal("no room", result.failure.message)
        assert.is_true(result.summary.resumable)
        assert.equal("invalid: no room", reason())
        assert.equal(result.summary.records.out,
          kept_totals() and kept_totals().records.out or 0)
        result = run(opts, { resume = true })
        assert.equal(0, result.code, result.text)
        assert.equal("1 2 4 5 6", sorted(disk:records "file:x"))
        assert.equal("1 2 4 5 6", sorted(disk:records "table:y"))
        assert_letters("file:dead", what .. target)
        assert.same({ 5, 1 }, { result.summary.records.out, result.summary.records.dead })
      end
    end
  end)

  for _, targets in ipairs { { "file:x", "table:y" }, { "http:x", "file:y" } } do
    it("ends when the journal cannot be written: " .. table.concat(targets, ", "), function()
      local opts = { source = urls(6), sink = targets }
      local failures = 0
      repeat
        disk.files, state_dir = {}, dir .. "/" .. failures
        local result = run(opts, { fails_at = failures + 1 })
        local what = "transaction " .. failures + 1
        if result.code == 1 then
          failures = failures + 1
          assert.matches("the journal cannot be written: state.db: the disk is full",
            result.failure.message, 1, true)
        end
        local done = result.code == 0
        if not done then result = run(opts, { resume = true }) end
        assert.equal(0, result.code, what .. result.text)
        for _, target in ipairs(targets) do
          assert.equal("1 2 4 5 6", sorted(disk:records(target)), what)
        end
        assert_letters("file:dead", what)
        assert.same({ 5, 1 }, { result.summary.records.out, result.summary.records.dead }, what)
      until done
      assert.is_true(failures >= 7, failures)
    end)
  end

  it("commits what is through when it is interrupted, whenever that is", function()
    for moment = 0, 12 do
      disk.files, fetched, state_dir, disk.slow = {}, {}, dir .. "/" .. moment, 0.07
      local opts = { source = urls(6), sink = { "file:x", "table:y" } }
      local result = run(opts, { meanwhile = function(sched, interrupts)
        sched:at(moment * 0.05, function() interrupts[1]() end)
      end })
      local what = "at " .. moment
      if result.interrupted then
        assert.is_nil(result.failure, what)
        assert.is_nil(result.summary.failure, what)
        assert.is_true(result.summary.resumable, what)
        assert.equal("interrupted", reason())
        assert.equal(result.summary.records.out, #disk:records "file:x", what)
        assert.equal(result.summary.records.out, #disk:records "table:y", what)
        result = run(opts, { resume = true })
      end
      assert.equal(0, result.code, what)
      assert.equal("1 2 4 5 6", sorted(disk:records "file:x"))
      assert.equal("1 2 4 5 6", sorted(disk:records "table:y"))
      assert_letters("file:dead", what)
    end
  end)

  it("is complete when it is interrupted at its very end", function()
    local interrupt
    disk.slow = 0.1
    disk.during = function(_, what)
      if what == "finish" then interrupt() end
    end
    local result = run({ source = urls(4) }, { meanwhile = function(_, interrupts)
      interrupt = function() interrupts[1]() end
    end })
    assert.same({ 0, true, false }, { result.code, result.ok, result.interrupted })
    assert.is_true(finished)
    assert.not_matches("interrupted", result.text)
  end)

  it("is left in good order when its task is cancelled, whenever that is", function()
    for moment = 0, 12 do
      disk.files, fetched, state_dir, disk.slow = {}, {}, dir .. "/" .. moment, 0.07
      local opts = { source = urls(6), sink = { "file:x", "table:y" } }
      local result = run(opts, { meanwhile = function(sched, _, main)
        sched:at(moment * 0.05, function() main:cancel "the state is broken" end)
      end })
      local what = "at " .. moment
      if result.interrupted then
        assert.is_nil(result.failure, what)
        result = run(opts, { resume = true })
      end
      assert.equal(0, result.code, what .. result.text)
      assert.equal("1 2 4 5 6", sorted(disk:records "file:x"))
      assert.equal("1 2 4 5 6", sorted(disk:records "table:y"))
      assert_letters("file:dead", what)
    end
  end)

  it("is cancelled before it has begun", function()
    local result = run({ source = urls(6) }, { meanwhile = function(_, _, main) main:cancel() end })
    assert.is_true(result.interrupted)
    assert.equal(0, result.summary.records.out)
    assert.same({}, fetched)
  end)

  it("holds few records that a slow sink has not taken", function()
    disk.slow = 1
    local sizes, held, most = {}, 0, 0
    disk.during = function() end
    local body = '"' .. ("x"):rep(1e6) .. '"'
    local result = run({
      source = urls(120),
      map = function(record, _, url)
        sizes[#sizes + 1] = url
        held = #sizes - #disk:records "file:x"
        most = math.max(most, held)
        return record
      end,
    }, { serve = function() return { body = body, after = 0.001 } end })
    assert.equal(120, result.summary.records.out)
    -- 16 MB wait, as many are being written, and there is what was on its way.
    assert.is_true(most <= 16 + 4, most)
  end)

  it("holds few items that a slow sink has not taken", function()
    disk.slow = 1
    local count, most = 0, 0
    local result = run({
      source = urls(1000),
      map = function(record)
        count = count + 1
        most = math.max(most, count - #disk:records "file:x")
        return record
      end,
    }, { serve = function() return { after = 0.001 } end })
    assert.equal(1000, result.summary.records.out)
    assert.is_true(most <= 100 + 2, most)
  end)

  it("lets the world in while it passes over what is done", function()
    local opts = { source = urls(5000), on_error = "skip" }
    run(opts, { dies_at = 300, serve = function() return { after = 0.001 } end })
    local taken, seen, most, times = 0, 0, 0, 0
    opts.source = function()
      taken = taken + 1
      if taken <= 5000 then return "http://a:80/" .. taken end
    end
    local result = run(opts, {
      resume = true, serve = function() return { after = 0.001 } end,
      meanwhile = function(sched)
        local function turn()
          most, seen, times = math.max(most, taken - seen), taken, times + 1
          if times < 500 then sched:at(sched:now(), turn) end
        end
        sched:at(0, turn)
      end,
    })
    assert.equal(0, result.code)
    assert.is_true(result.summary.resumed.skipped > 2000, result.summary.resumed.skipped)
    assert.is_true(most <= 1000, most)
  end)

  it("has each item once when its source grows at its front while it is killed", function()
    local function source(new)
      local list = {}
      for i = new, 1, -1 do list[#list + 1] = "http://a:80/new/" .. i end
      for i = 1, 1500 do list[#list + 1] = "http://a:80/" .. i end
      return list
    end
    -- The last of the new ones is the last of its chunk to come.
    local function serve(url) return { after = url:find "99991$" and 0.1 or 0.001 } end
    local opts = { request = function(item) return item:gsub("new/", "9999") end, sink = "file:x" }
    for _, case in ipairs { { 0, 80 }, { 500, 70 }, { 500, 12 } } do
      opts.source = source(case[1])
      assert.is_nil(run(opts, { resume = true, dies_at = case[2], serve = serve }))
    end
    opts.source = source(500)
    local result = run(opts, { resume = true, serve = serve })
    assert.equal(2000, result.summary.records.out)
    local seen = {}
    for _, record in ipairs(disk:records "file:x") do
      assert.is_nil(seen[record], record)
      seen[record] = true
    end
    assert.equal(2000, #disk:records "file:x")
    assert.matches("the source has changed", table.concat(logged, "\n"))
  end)
end)
