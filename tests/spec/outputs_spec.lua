local errors = require "orchestrator.errors"
local journal = require "orchestrator.journal"
local outputs = require "orchestrator.outputs"
local sink = require "orchestrator.sink"

-- Sinks that are tables: `made[target]` keeps what was done to it, `did` all of it in order. One
-- whose name has `bad` in it fails at what the name says: bad_open, bad_commit, bad_finish,
-- bad_close. A name with "table" in it carries the journal's entry, "http" can do neither.
local function world()
  local w = { made = {}, encoded = 0, did = {}, out = outputs.new() }
  local function did(...) w.did[#w.did + 1] = table.concat({ ... }, " ") end
  local format = {}

  function w.open(spec, resume)
    local target = spec.target
    did("open", target, resume and "at " .. tostring(resume) or nil)
    local function outcome(what)
      if target:find("bad_" .. what) then return nil, errors.new("invalid", what .. " failed") end
      return true
    end
    if not outcome "open" then return nil, errors.new("invalid", "no " .. target) end
    local s = {
      target = target, count = 0, mode = spec.mode or "replace", format = spec.format or format,
      goes_back = spec.goes_back, carries = target:find "table" ~= nil, position = "start",
      windows = {},
    }
    function s.encode(_, records)
      w.encoded = w.encoded + 1
      for _, record in ipairs(records) do
        if record == "bad" then return nil, errors.new("validation", "it is bad") end
      end
      return table.concat(records, ","), #records
    end
    function s:commit(window)
      if s.carries and window.number == w.carried then return target .. " has " .. w.carried end
      did("commit", target, window.number, table.concat(window.batches, ";"))
      self.windows[#self.windows + 1] = window
      self.count = self.count + window.records
      if not outcome "commit" then return outcome "commit" end
      return target .. " " .. window.number
    end
    function s.freeze(_, batches) return table.concat(batches, ";") end
    function s.thaw(_, text) return { "thawed " .. text } end
    if s.carries then
      function s.carried() return w.carried or 0, w.entry end
    end
    function s.finish()
      did("finish", target)
      return outcome "finish"
    end
    function s.close(_, keep)
      did("close", target, tostring(keep))
      return outcome "close"
    end
    w.made[target] = s
    return s
  end

  -- A journal that says yes.
  function w.journal(more)
    local kept = { number = 0, positions = {}, sessions = 1, run_id = "r1" }
    for name, value in pairs(more or {}) do kept[name] = value end
    function kept:place()
      local places = {}
      for place, position in pairs(self.positions) do
        places[#places + 1] = place .. "=" .. position
      end
      table.sort(places)
      did("place", unpack(places))
      return true
    end
    function kept.prepare(_, entry, batches)
      did("prepare", entry.number)
      w.prepared = batches
      return true
    end
    function kept:commit(entry)
      did("journal", entry.number)
      self.number, self.positions = entry.number, entry.positions
      return true
    end
    return kept
  end
  return w
end

local function specs(...)
  local list = {}
  for i, target in ipairs { ... } do
    list[i] = { target = target, goes_back = not target:find "table" and not target:find "http" }
  end
  return list
end

local function item(w, ...)
  local records = { ... }
  local batches, size = assert(w.out:encode(records))
  return { batches = batches, size = size, count = #records }
end

local function entry(number)
  return {
    number = number, low = 1, high = 2, items = "", chunks = {}, totals = {}, positions = {},
  }
end

describe("outputs", function()
  it("are a target or several, each once", function()
    local function targets(value)
      local list = {}
      for i, spec in ipairs(assert(outputs.check(value))) do
        list[i] = spec.target .. (spec.table and ":" .. spec.table or "")
      end
      return list
    end
    assert.same({ "-" }, targets "-")
    assert.same({ "a.jsonl", "b.csv" }, targets { "a.jsonl", "b.csv" })
    assert.same({ "a.csv" }, targets { "a.csv", csv = { delimiter = ";" } })
    assert.same({ "a.csv", "-" }, targets { { "a.csv", csv = { delimiter = ";" } }, "-" })
    for _, case in ipairs {
      { {}, "must name at least one target" },
      { { "x.jsonl", "./x.jsonl" }, 'names "./x.jsonl" twice' },
      { "x.txt", '"x.txt" has no known format' },
      { { "x.jsonl", 7 }, "must be the path of a file" },
    } do
      local list, problem = outputs.check(case[1])
      assert.is_nil(list)
      assert.matches(case[2], problem, 1, true)
    end
  end)

  it("get the same batch, made once", function()
    local w = world()
    assert.is_true(w.out:open(specs("a", "b"), nil, w.open))
    assert.is_true(w.out:begin(nil))
    assert.is_true(w.out:commit { item(w, 1, 2), item(w, 3) })
    assert.equal(2, w.encoded)
    for _, name in ipairs { "a", "b" } do
      assert.same({ { number = 1, batches = { "1,2", "3" }, records = 3 } }, w.made[name].windows)
    end
    assert.is_true(w.out:commit { item(w, 4) })
    assert.equal(2, w.made.a.windows[2].number)
  end)

  it("get batches of their own where their formats differ", function()
    local w = world()
    local list = specs("a", "b")
    list[2].format = {}
    assert.is_true(w.out:open(list, nil, w.open))
    local batches, size = w.out:encode { 1, 2 }
    assert.same({ 2, 4 }, { w.encoded, size })
    assert.is_string(batches[list[2].format])
  end)

  it("get nothing when there is nothing", function()
    local w = world()
    assert.is_true(w.out:open(specs "a", nil, w.open))
    assert.is_true(w.out:commit { item(w), { size = 0, count = 0, err = "failed" } })
    assert.same({ "open a" }, w.did)
  end)

  it("tell the records that one of them refuses from the others", function()
    local w = world()
    assert.is_true(w.out:open(specs("a", "b"), nil, w.open))
    local good, bad = w.out:sift({ 1, "bad", 2 }, { { record = 0, reason = "known" } })
    assert.same({ { 1, 2 }, { { record = 0, reason = "known" },
      { record = "bad", reason = "it is bad" } } }, { good, bad })
  end)

  it("that can go back are first, then those that carry the entry, then the journal", function()
    local w = world()
    local kept = w.journal()
    assert.is_true(w.out:open(specs("table", "a", "b"), kept, w.open, true))
    w.out:add_dead { target = "dead", goes_back = true, position = "start", commit = function()
      w.did[#w.did + 1] = "commit dead"
      return "dead 1"
    end }
    assert.is_true(w.out:begin(kept))
    local job = item(w, 1)
    job.letters = { "letter" }
    local now = entry(1)
    assert.is_true(w.out:commit({ job }, kept, now))
    assert.same({ "open table", "open a", "open b", "place 2=start 3=start dead=start",
      "commit a 1 1", "commit b 1 1", "commit dead", "commit table 1 1", "journal 1" }, w.did)
    assert.same({ ["1"] = "table 1", ["2"] = "a 1", ["3"] = "b 1", dead = "dead 1" }, now.positions)
    -- What it carries has the positions of those before it.
    local carried = journal.unpack(w.made.table.windows[1].entry)
    assert.same({ ["2"] = "a 1", ["3"] = "b 1", dead = "dead 1" }, carried.positions)
    assert.is_nil(w.made.a.windows[1].entry)
  end)

  it("that carry the entry do so for a window without records too", function()
    local w = world()
    local kept = w.journal()
    assert.is_true(w.out:open(specs("table", "a"), kept, w.open, true))
    assert.is_true(w.out:commit({ { size = 0, count = 0 } }, kept, entry(1)))
    assert.same({ "open table", "open a", "commit table 1 ", "journal 1" }, w.did)
  end)

  it("get a window that was noted down where the entry cannot be carried", function()
    for _, targets in ipairs {
      { "http", "a" }, { "table", "table2", "a" }, { "http", "table", "a" },
    } do
      local w = world()
      local kept = w.journal()
      assert.is_true(w.out:open(specs(unpack(targets)), kept, w.open, true))
      assert.is_true(w.out:commit({ item(w, 1), item(w, 2) }, kept, entry(1)))
      assert.equal("prepare 1", w.did[#targets + 1])
      assert.equal("commit a 1 1;2", w.did[#targets + 2])
      assert.equal("journal 1", w.did[#w.did])
      for i = 1, #targets do
        assert.same({ batches = "1;2", records = 2 }, w.prepared[tostring(i)])
      end
      for _, one in pairs(w.made) do assert.is_nil(one.windows[1].entry) end
      -- Nothing to be written needs no note.
      assert.is_true(w.out:commit({ { size = 0, count = 0 } }, kept, entry(2)))
      assert.equal("journal 2", w.did[#w.did])
      assert.not_equal("prepare 2", w.did[#w.did - 1])
    end
  end)

  it("are where the journal says, and their places known before anything is written", function()
    local w = world()
    local kept = w.journal { sessions = 2, positions = { ["1"] = "p1", ["2"] = "p2" }, number = 4 }
    assert.is_true(w.out:open(specs("a", "b"), kept, w.open, true))
    assert.is_true(w.out:begin(kept))
    assert.same({ "open a at p1", "open b at p2" }, w.did) -- those are known
  end)

  it("have the journal catch up with the window that was carried", function()
    local w = world()
    local kept = w.journal { sessions = 2, positions = { ["2"] = "old" }, number = 4 }
    local ahead = entry(5)
    ahead.positions = { ["2"] = "new" }
    w.carried, w.entry = 5, journal.pack(ahead)
    assert.is_true(w.out:open(specs("table", "a"), kept, w.open, true))
    assert.same({ "open table", "journal 5", "open a at new" }, w.did)

    w = world()
    kept = w.journal { sessions = 2, number = 4 }
    w.carried = 4
    assert.is_true(w.out:open(specs "table", kept, w.open, true))
    assert.same({ "open table" }, w.did)
  end)

  it("are refused when they and the journal are not of one time", function()
    for _, carried in ipairs { 3, 6 } do
      local w = world()
      w.carried, w.entry = carried, "{}"
      local kept = w.journal { sessions = 2, number = 4 }
      local ok, err = w.out:open(specs "table", kept, w.open, true)
      assert.is_nil(ok)
      assert.matches("table has " .. carried .. " windows of run r1, and the journal 4: one of "
        .. "them was put back from a copy", err.message)
    end
  end)

  it("are refused when one of several was put back from a copy", function()
    local function begun(carried, known, prepared)
      local w = world()
      w.carried = carried
      local kept = w.journal { sessions = 2, number = 4,
        positions = { ["1"] = known and { window = known } }, prepared = prepared and {
          number = 5, entry = journal.pack(entry(5)), batches = {
            ["1"] = { batches = "1", records = 1 }, ["2"] = { batches = "1", records = 1 },
          } } }
      assert.is_true(w.out:open(specs("table", "http"), kept, w.open, true))
      return w.out:begin(kept)
    end
    assert.is_true(begun(4, 4))
    assert.is_true(begun(3, 3)) -- it got nothing of the last one
    assert.is_true(begun(0, nil))
    assert.is_true(begun(4, 4, true))
    assert.is_true(begun(5, 4, true))
    for _, case in ipairs { { 5, 4 }, { 3, 4 }, { 2, nil }, { 6, 4, true }, { 3, 4, true } } do
      local ok, err = begun(case[1], case[2], case[3])
      assert.is_nil(ok)
      assert.matches("table has " .. case[1] .. " windows of run r1, and the journal 4: one of "
        .. "them was put back from a copy", err.message)
    end
  end)

  it("get the window that was noted down, unless they have it", function()
    local w = world()
    local noted = entry(5)
    noted.positions = { ["3"] = "old" }
    local kept = w.journal { sessions = 2, number = 4, positions = { ["3"] = "old" },
      prepared = { number = 5, entry = journal.pack(noted), batches = {
        ["1"] = { batches = "1;2", records = 2 }, ["2"] = { batches = "1;2", records = 2 },
        ["3"] = { batches = "1;2", records = 2 },
      } } }
    w.carried = 5
    assert.is_true(w.out:open(specs("table", "http", "a"), kept, w.open, true))
    assert.is_true(w.out:begin(kept))
    assert.same({ "open table", "open http", "open a at old", "commit a 5 thawed 1;2",
      "commit http 5 thawed 1;2", "journal 5" }, w.did)
    -- The journal hears of the one that had it, too: the next resume compares them.
    assert.same({ ["1"] = "table has 5", ["2"] = "http 5", ["3"] = "a 5" }, kept.positions)
    assert.is_nil(kept.prepared)
    assert.equal(2, w.made.http.windows[1].records)
  end)

  it("are completed together, and say so", function()
    local w = world()
    w.out:open(specs("a", "-", "table"), nil, w.open)
    w.out:commit { item(w, 1) }
    w.made["-"].count = 1234
    assert.is_true(w.out:finish())
    assert.is_nil(w.out:close(false))
    assert.same({ "1 record to a", "1,234 records to stdout", "1 record to table" },
      w.out:outcomes(true, false))
    assert.same({ "finish a", "finish -", "finish table", "close a false", "close - false",
      "close table false" }, { unpack(w.did, 7) })
  end)

  it("say what became of them when the run is not complete", function()
    local w = world()
    local kept = w.journal()
    w.out:open(specs("a", "-", "table"), kept, w.open, true)
    w.made.table.mode = "append"
    assert.is_true(w.out:commit({ item(w, 1) }, kept, entry(1)))
    assert.same({ "a is as it was; 1 record waits for --resume", "1 record to stdout",
      "1 record to table" }, w.out:outcomes(false, true))
    assert.is_true(w.out:commit({ item(w, 2, 3, 4, 5) }, kept, entry(2)))
    -- What the journal has not, a resumed run does not find.
    function kept.commit() return nil, errors.new("invalid", "full") end
    assert.is_nil(w.out:commit({ item(w, 6) }, kept, entry(3)))
    assert.same({ "a is as it was; 5 records wait for --resume", "6 records to stdout",
      "6 records to table" }, w.out:outcomes(false, true))
    assert.same({ "a is as it was", "6 records to stdout", "6 records to table" },
      w.out:outcomes(false, false))
  end)

  it("tell what fails, and go no further", function()
    local w = world()
    local ok, err = w.out:open(specs("a", "bad_open", "c"), nil, w.open)
    assert.is_nil(ok)
    assert.equal("no bad_open", err.message)
    assert.is_nil(w.out:close(true))
    assert.same({ "open a", "open bad_open", "close a true" }, w.did)
    assert.same({ "a is as it was" }, w.out:outcomes(false, false))

    w = world()
    local kept = w.journal()
    w.out:open(specs("bad_commit", "b"), kept, w.open, true)
    ok, err = w.out:commit({ item(w, 1) }, kept, entry(1))
    assert.is_nil(ok)
    assert.equal("commit failed", err.message)
    assert.equal("commit bad_commit 1 1", w.did[#w.did])

    w = world()
    w.out:open(specs("a", "bad_finish", "c"), nil, w.open)
    ok, err = w.out:finish()
    assert.is_nil(ok)
    assert.equal("finish failed", err.message)
    assert.equal("finish bad_finish", w.did[#w.did])

    w = world()
    w.out:open(specs("bad_close", "c"), nil, w.open)
    assert.equal("close failed", w.out:close(true).message)
    assert.equal("close c true", w.did[#w.did])
  end)

  it("know which targets are files", function()
    assert.is_true(sink.check("x.jsonl").goes_back)
    assert.is_true(sink.check("-").goes_back)
    assert.is_false(sink.check("x.sqlite").goes_back)
    assert.is_false(sink.check("http://a/").goes_back)
  end)
end)
