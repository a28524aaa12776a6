local errors = require "orchestrator.errors"
local outputs = require "orchestrator.outputs"

-- Sinks that are tables: `made[target]` keeps what was done to it. One whose name has `bad` in it
-- fails at what the name says: bad_open, bad_sync, bad_close.
local function world(mode)
  local w = { made = {}, encoded = 0, opened = {} }
  local format = {}
  w.out = outputs.new(mode or "replace", function(target)
    w.opened[#w.opened + 1] = target
    if target:find "bad_open" then return nil, errors.new("invalid", "no " .. target) end
    local s = { target = target, format = format, count = 0, flushes = 0 }
    local function outcome(what)
      if target:find("bad_" .. what) then return nil, errors.new("invalid", what .. " failed") end
      return true
    end
    function s.encode(_, records)
      w.encoded = w.encoded + 1
      return table.concat(records, ",")
    end
    function s:write(batch, count)
      self.text, self.count = batch, self.count + count
      return outcome "write"
    end
    function s:flush() self.flushes = self.flushes + 1 return outcome "flush" end
    function s:sync() return outcome "sync" end -- luacheck: ignore self
    function s:close(commit)
      self.committed = commit
      return outcome "close"
    end
    w.made[target] = s
    return s
  end)
  return w
end

describe("outputs", function()
  it("are a target or several, each once", function()
    assert.same({ "-" }, (outputs.check "-"))
    assert.same({ "a.jsonl", "b.jsonl" }, (outputs.check { "a.jsonl", "b.jsonl" }))
    for _, case in ipairs {
      { {}, "must name at least one target" },
      { { "x.jsonl", "./x.jsonl" }, 'names "./x.jsonl" twice' },
      { "x.txt", '"x.txt" has no known format' },
      { { "x.jsonl", 7 }, "must be the path of a file" },
    } do
      local targets, problem = outputs.check(case[1])
      assert.is_nil(targets)
      assert.matches(case[2], problem, 1, true)
    end
  end)

  it("get the same batch, made once", function()
    local w = world()
    assert.is_true(w.out:open { "a", "b" })
    assert.is_true(w.out:write(assert(w.out:encode { 1, 2 }), 2))
    assert.equal(1, w.encoded)
    assert.same({ "1,2", "1,2", 2, 2 },
      { w.made.a.text, w.made.b.text, w.made.a.count, w.made.b.count })
    assert.is_true(w.out:flush())
    assert.same({ 1, 1 }, { w.made.a.flushes, w.made.b.flushes })
  end)

  it("get nothing when there is nothing", function()
    local w = world()
    w.out:open { "a" }
    assert.is_true(w.out:write(w.out:encode {}, 0))
    assert.is_nil(w.made.a.text)
  end)

  it("are completed together, and say so", function()
    local w = world()
    w.out:open { "a", "-" }
    w.out:write(w.out:encode { 1 }, 1)
    w.made["-"].count = 1234
    assert.same({ { "1 record to a", "1,234 records to stdout" } }, { w.out:close(true) })
    assert.is_true(w.made.a.committed)
  end)

  it("are completed only if all can be", function()
    local w = world()
    w.out:open { "a", "bad_sync", "-" }
    local outcomes, err = w.out:close(true)
    assert.same({ "a is as it was", "bad_sync is as it was", "0 records to stdout" }, outcomes)
    assert.equal("sync failed", err.message)
    assert.same({ false, false },
      { w.made.a.committed, w.made.bad_sync.committed })
  end)

  it("keep what was appended", function()
    local w = world "append"
    w.out:open { "a", "bad_close" }
    local outcomes, err = w.out:close(false)
    assert.same({ "0 records to a", "bad_close has what could be written" }, outcomes)
    assert.equal("close failed", err.message)
  end)

  it("tell what fails", function()
    local w = world()
    local ok, err = w.out:open { "a", "bad_open", "c" }
    assert.is_nil(ok)
    assert.equal("no bad_open", err.message)
    assert.same({ "a", "bad_open" }, w.opened)
    assert.same({ "a is as it was" }, (w.out:close(false)))

    for _, what in ipairs { "write", "flush" } do
      w = world()
      w.out:open { "bad_" .. what }
      ok, err = w.out[what](w.out, { [{}] = "" }, 1)
      assert.is_nil(ok)
      assert.equal(what .. " failed", err.message)
    end
  end)
end)
