local fake_host = require "fake_host"
local identity = require "orchestrator.identity"
local journal = require "orchestrator.journal"
local json = require "orchestrator.json"
local scheduler = require "orchestrator.scheduler"
local state = require "orchestrator.state"

local CHUNK = journal.CHUNK

-- The journal in a database of its own (the real one, in a temporary directory).
describe("the journal", function()
  local dir, host, sched, env

  before_each(function()
    local pipe = io.popen "mktemp -d -p /dev/shm 2>/dev/null || mktemp -d"
    dir = pipe:read "*l"
    pipe:close()
    host = fake_host.with_files(fake_host.new())
    sched = scheduler.new(host)
    env = { sched = sched, host = host, state_dir = dir }
  end)

  after_each(function()
    os.execute("rm -rf " .. dir)
  end)

  -- Runs a function in a task, with the state open.
  local function with(fn)
    env.state = nil
    local task = sched:run(function()
      local kept = assert(state.open(env))
      return fn(kept)
    end)
    if env.state then env.state:close() end
    if not task.ok then error(tostring(task.err) .. (task.err.traceback or ""), 0) end
    return unpack(task.results or {}, 1, task.results and task.results.n or 0)
  end

  local function begin(kept, more)
    local opts = { pipeline = "job", script = "x.lua", run_id = "run-1", started = 1700000000.5,
      targets = { "out.jsonl" }, pid = 42 }
    for name, value in pairs(more or {}) do opts[name] = value end
    return assert(journal.begin(kept, opts))
  end

  local function job(place, item)
    return { place = place, id = identity.of(item or "http://a/" .. place) }
  end

  local function jobs(from, to)
    local list = {}
    for place = from, to do list[#list + 1] = job(place) end
    return list
  end

  local function commit(self, list, totals, positions)
    local entry = self:entry(list, totals or { items = #list })
    for place, position in pairs(positions or {}) do entry.positions[place] = position end
    assert(self:commit(entry))
    return entry
  end

  local function items_of(self, from)
    local list = {}
    assert(self:items(from or 1, function(place, id) list[#list + 1] = { place, id } end))
    table.sort(list, function(a, b) return a[1] < b[1] end)
    return list
  end

  local function rows(kept, sql, ...)
    local found, code, message = kept.host.store_read(kept.id, sql, ...)
    return found or error(code .. " " .. message)
  end

  local function count(kept, name, seq)
    local run = name == "windows" and "at >> 32" or "run"
    return rows(kept, "SELECT count(*) FROM " .. name .. " WHERE " .. run .. " = ?1", seq)[1][1]
  end

  it("has nothing of a pipeline that never ran", function()
    with(function(kept)
      local unfinished, err = journal.unfinished(kept, "job")
      assert.same({}, { unfinished, err })
    end)
  end)

  it("is gone on with in another process where it was left", function()
    with(function(kept)
      local self = begin(kept)
      assert.same({ "run-1", 1, 0, false }, { self.run_id, self.sessions, self.number,
        self.finishing })
      self.positions = { ["1"] = { size = 0 } }
      assert(self:place())
      commit(self, { job(1), job(3) }, { items = 2 }, { ["1"] = { size = 10, count = 2 } })
      commit(self, { job(2) }, { items = 3, errors = { http = 1 } }, { dead = { size = 5 } })
    end)
    with(function(kept)
      local row = assert(journal.unfinished(kept, "job"))
      assert.same({ "run-1", { "out.jsonl" }, { items = 3, errors = { http = 1 } }, "running" },
        { row.id, row.targets, row.totals, row.status })
      assert.is_nil(journal.unfinished(kept, "other"))
      local self = assert(journal.continue(kept, row, 43))
      assert.same({ "run-1", 2, 2, 1700000000.5 }, { self.run_id, self.sessions, self.number,
        self.started })
      assert.same({ ["1"] = { size = 10, count = 2 }, dead = { size = 5 } }, self.positions)
      assert.is_nil(self.prepared)
      assert.same({ { 1, job(1).id }, { 2, job(2).id }, { 3, job(3).id } }, items_of(self))
      assert.same({ { 3, job(3).id } }, items_of(self, 3))
      assert.equal(43, rows(kept, "SELECT pid FROM runs")[1][1])
    end)
  end)

  it("places sinks before the first window", function()
    with(function(kept)
      local self = begin(kept)
      self.positions = { ["1"] = { size = 77 } }
      assert(self:place())
      local row = journal.unfinished(kept, "job")
      assert.same({ { ["1"] = { size = 77 } }, 0 }, { row.positions, row.number })
      assert.is_nil(row.totals)
    end)
  end)

  it("keeps the hash of a chunk that is through, in whatever order", function()
    with(function(kept)
      local self = begin(kept)
      for place = CHUNK, 2, -1 do
        local entry = self:entry({ job(place) }, {})
        assert.same({}, entry.chunks)
      end
      assert.same({}, assert(self:hashes()))
      commit(self, { job(CHUNK + 1), job(1), job(CHUNK + 2) })
      local ids = {}
      for place = 1, CHUNK do ids[place] = job(place).id end
      assert.same({ [0] = journal.hash(ids) }, assert(self:hashes()))
      assert.is_nil(self.chunks[0])
      assert.is_table(self.chunks[1])
    end)
  end)

  it("completes a chunk with the items of an earlier session", function()
    with(function(kept)
      local self = begin(kept)
      commit(self, jobs(1, CHUNK - 1))
    end)
    with(function(kept)
      local self = assert(journal.continue(kept, journal.unfinished(kept, "job"), 1))
      for place = 1, CHUNK - 1 do self:known(place, job(place).id) end
      assert.is_nil(next(assert(self:hashes())))
      commit(self, { job(CHUNK) })
      assert.is_string(assert(self:hashes())[0])
    end)
  end)

  it("reads many windows", function()
    with(function(kept)
      local self = begin(kept)
      for place = 1, 1203 do commit(self, { job(place) }) end
      local list = items_of(self)
      assert.equal(1203, #list)
      assert.same({ 1203, job(1203).id }, list[1203])
      assert.equal(203, #items_of(self, 1001))
    end)
  end)

  it("has room for places far into a source", function()
    with(function(kept)
      local self = begin(kept)
      local far = { 2 ^ 8 - 1, 2 ^ 16, 2 ^ 24 + 5, 2 ^ 32 + 1, 10 ^ 12 }
      local list = {}
      for i, place in ipairs(far) do list[i] = job(place) end
      commit(self, list)
      local found = {}
      for i, one in ipairs(items_of(self)) do found[i] = one[1] end
      assert.same(far, found)
    end)
  end)

  it("notes down a window, until another one is committed", function()
    local frozen = { ["1"] = { batches = "\255\0 no text", records = 2 },
      dead = { batches = "", records = 1 } }
    with(function(kept)
      local self = begin(kept)
      commit(self, { job(1) })
      local entry = self:entry({ job(2) }, { items = 2 })
      entry.positions["1"] = { size = 4 }
      assert(self:prepare(entry, frozen))
    end)
    with(function(kept)
      local self = assert(journal.continue(kept, journal.unfinished(kept, "job"), 1))
      assert.equal(2, self.prepared.number)
      for place, one in pairs(frozen) do
        local found = self.prepared.batches[place]
        assert.same({ one.batches, one.records }, { found.batches, found.records })
      end
      local entry = journal.unpack(self.prepared.entry)
      assert.same({ 2, { ["1"] = { size = 4 } }, { items = 2 }, 2 },
        { entry.number, entry.positions, entry.totals, entry.high })
      assert(self:commit(entry))
      assert.equal(2, #items_of(self))
    end)
    with(function(kept)
      local self = assert(journal.continue(kept, journal.unfinished(kept, "job"), 1))
      assert.same({ 3, 2 }, { self.sessions, self.number })
      assert.is_nil(self.prepared)
      assert(self:prepare(self:entry({ job(3) }, {}), { ["1"] = { batches = "x", records = 1 } }))
      assert(self:prepare(self:entry({ job(4) }, {}), { ["1"] = { batches = "y", records = 1 } }))
      assert.equal(1, count(kept, "prepared", self.seq))
    end)
  end)

  it("can be carried as a text", function()
    with(function(kept)
      local self = begin(kept)
      local entry = self:entry(jobs(1, CHUNK), { items = CHUNK, errors = {} })
      entry.positions["2"] = { size = 3 }
      local text = journal.pack(entry)
      assert.is_table(json.decode(text))
      local again = journal.unpack(text)
      assert.same(entry.chunks, { unpack(again.chunks) })
      for _, name in ipairs { "number", "high", "items" } do
        assert.equal(entry[name], again[name], name)
      end
      assert.same({ size = 3 }, again.positions["2"])
      assert(self:commit(again))
      assert.equal(CHUNK, #items_of(self))
      assert.is_string(assert(self:hashes())[0])
      assert(self:commit(journal.unpack(journal.pack(self:entry({}, {})))))
      assert.equal(2, self.number)
      assert.equal(CHUNK, #items_of(self))
    end)
  end)

  it("forgets the hashes of a source that is another one", function()
    with(function(kept)
      local self = begin(kept)
      for chunk = 0, 2 do commit(self, jobs(chunk * CHUNK + 1, (chunk + 1) * CHUNK)) end
      assert(self:rebase(1))
      local hashes = assert(self:hashes())
      assert.is_string(hashes[0])
      assert.same({}, { hashes[1], hashes[2] })
      -- Nor are there any from there on: places there may be of two sources.
      commit(self, jobs(3 * CHUNK + 1, 4 * CHUNK))
      assert.is_nil(assert(self:hashes())[3])
      assert.equal(4 * CHUNK, #items_of(self))
    end)
    with(function(kept)
      local self = assert(journal.continue(kept, journal.unfinished(kept, "job"), 1))
      assert.equal(1, self.hashed)
      commit(self, jobs(4 * CHUNK + 1, 5 * CHUNK))
      assert.is_nil(assert(self:hashes())[4])
    end)
  end)

  it("ends with the run, and keeps what it was", function()
    for _, status in ipairs { "finished", "failed" } do
      with(function(kept)
        local self = begin(kept, { pipeline = status, run_id = status })
        commit(self, jobs(1, CHUNK))
        assert(self:prepare(self:entry({ job(2000) }, {}), {}))
        assert(self.state:run { { "INSERT INTO steps(run, key, value) VALUES(?1, 'a', '1')",
          self.seq } })
        assert(self:finish())
        local row = assert(journal.unfinished(kept, status))
        assert.equal("finishing", row.status)
        assert.is_true(assert(journal.continue(kept, row, 1)).finishing)
        assert(self:close(status, 1700000009, "why"))
        assert.is_nil(journal.unfinished(kept, status))
        for _, name in ipairs { "windows", "chunks", "prepared", "steps" } do
          assert.equal(0, count(kept, name, self.seq), name)
        end
        assert.same({ { status, 1700000009, "why", '{"items":' .. CHUNK .. "}" } },
          rows(kept, "SELECT status, ended, reason, totals FROM runs WHERE id = ?1", status))
      end)
    end
  end)

  it("notes why a run stopped until it goes on", function()
    with(function(kept)
      local self = begin(kept)
      assert(self:pause "interrupted")
      local sql = "SELECT reason FROM runs"
      assert.equal("interrupted", rows(kept, sql)[1][1])
      assert(journal.continue(kept, assert(journal.unfinished(kept, "job")), 1))
      assert.is_nil(rows(kept, sql)[1][1])
    end)
  end)

  it("gives up the unfinished run of the pipeline that begins anew, and no other", function()
    with(function(kept)
      local old = begin(kept)
      local other = begin(kept, { pipeline = "other", run_id = "run-o" })
      commit(old, jobs(1, CHUNK))
      commit(other, jobs(1, CHUNK))
      assert(old:prepare(old:entry({ job(2000) }, {}), {}))
      local new = begin(kept, { run_id = "run-2", started = 1700000100 })
      assert.same({ { "given up", 1700000100 } },
        rows(kept, "SELECT status, ended FROM runs WHERE id = 'run-1'"))
      for _, name in ipairs { "windows", "chunks", "prepared" } do
        assert.equal(0, count(kept, name, old.seq), name)
      end
      assert.equal(1, count(kept, "windows", other.seq))
      assert.equal("run-2", journal.unfinished(kept, "job").id)
      assert.equal("run-o", journal.unfinished(kept, "other").id)
      assert.same({}, items_of(new))
    end)
  end)

  it("keeps the last 200 runs of a pipeline", function()
    with(function(kept)
      begin(kept, { pipeline = "other", run_id = "other" })
      for i = 1, 205 do assert(begin(kept, { run_id = "run-" .. i }):close("finished", i)) end
      local function ids(name)
        return rows(kept, "SELECT count(*), min(seq), max(seq) FROM runs WHERE pipeline = ?1",
          name)[1]
      end
      assert.equal(201, ids("job")[1])
      assert.equal(1, ids("other")[1])
      assert.equal("run-205", rows(kept, "SELECT id FROM runs ORDER BY seq DESC LIMIT 1")[1][1])
    end)
  end)

  it("says what to do when it cannot be written", function()
    with(function(kept)
      local self = begin(kept)
      function kept.run()
        return nil, { message = dir .. "/state.db: the disk is full; make room on the disk, then "
          .. "run it again", fault = "state" }
      end
      for _, call in ipairs {
        function() return self:commit(self:entry({ job(1) }, {})) end,
        function() return self:prepare(self:entry({ job(1) }, {}), {}) end,
        function() return self:finish() end,
        function() return self:place() end,
        function() return self:rebase(0) end,
        function() return self:close("finished", 1) end,
        function() return journal.begin(kept, { targets = {} }) end,
      } do
        local ok, err = call()
        assert.is_nil(ok)
        assert.matches("^the journal cannot be written: .*/state.db: the disk is full; make room "
          .. "on the disk; then go on with %-%-resume$", err.message)
      end
      assert.equal(0, self.number)
    end)
  end)

  it("numbers windows without a gap when one could not be committed", function()
    with(function(kept)
      local self = begin(kept)
      self:entry({ job(1) }, {}) -- which no sink took
      assert.equal(1, self:entry({ job(2) }, {}).number)
      commit(self, { job(2) })
      assert.equal(2, self:entry({ job(3) }, {}).number)
    end)
  end)
end)
