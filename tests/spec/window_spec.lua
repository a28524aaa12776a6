local errors = require "orchestrator.errors"
local scheduler = require "orchestrator.scheduler"
local window = require "orchestrator.window"

-- A window on a clock that jumps; a commit takes `takes` seconds.
local function world(takes)
  local now = 0
  local host = { now = function() return now end, poll = function(s) now = now + (s or 0) end }
  local w = { sched = scheduler.new(host), commits = {}, freed = 0, failures = {} }
  w.window = window.new {
    sched = w.sched,
    commit = function(jobs)
      local at = now
      if takes then w.sched:sleep(takes) end
      if w.err then return nil, w.err end
      w.commits[#w.commits + 1] = { at = at, n = #jobs, first = jobs[1].n, last = jobs[#jobs].n }
      return true
    end,
    freed = function() w.freed = w.freed + 1 end,
    failed = function(err) w.failures[#w.failures + 1] = err end,
  }
  function w.now() return now end
  function w.run(fn)
    local task = w.sched:run(fn)
    if not task.ok then error(task.err.message, 0) end
  end
  return w
end

local function add(w, n, size)
  for _ = 1, n do
    w.n = (w.n or 0) + 1
    w.window:add { n = w.n, size = size or 1 }
  end
end

describe("window", function()
  it("is committed when its first item has waited", function()
    local w = world()
    w.run(function()
      add(w, 1)
      w.sched:sleep(0.05)
      add(w, 2)
      w.sched:sleep(1)
      assert.same({ { at = 0.1, n = 3, first = 1, last = 3 } }, w.commits)
      assert.is_true(w.window:drain())
    end)
    assert.equal(1, #w.commits)
  end)

  it("is committed at once when there is enough in it", function()
    local w = world(0.01)
    w.run(function()
      add(w, 50)
      w.sched:sleep(0.005)
      assert.is_false(w.window:is_full())
      add(w, 49)
      assert.is_false(w.window:is_full())
      add(w, 1)
      assert.is_true(w.window:is_full())
      w.sched:sleep(0.006)
      assert.is_false(w.window:is_full())
      assert.is_true(w.window:drain())
    end)
    assert.same({ { at = 0, n = 50, first = 1, last = 50 },
      { at = 0.01, n = 50, first = 51, last = 100 } }, w.commits)
    assert.equal(2, w.freed)
  end)

  it("has so many items and bytes at most", function()
    local w = world()
    w.run(function()
      add(w, 250)
      add(w, 1, 16e6)
      assert.is_true(w.window:is_full())
      assert.is_true(w.window:drain())
      assert.is_false(w.window:is_full())
    end)
    for _, commit in ipairs(w.commits) do assert.is_true(commit.n <= window.ITEMS) end
    assert.equal(251, w.commits[#w.commits].last)
  end)

  it("has nothing to wait for when nothing was added", function()
    local w = world()
    w.run(function() assert.is_true(w.window:drain()) end)
    assert.equal(0, #w.commits)
  end)

  it("ends with the first commit that fails", function()
    local w = world(0.01)
    w.err = errors.new("invalid", "disk full")
    w.run(function()
      add(w, 60)
      local ok, err = w.window:drain()
      assert.is_nil(ok)
      assert.equal(w.err, err)
      add(w, 5)
    end)
    assert.same({ w.err }, w.failures)
  end)

  it("is given up when it is in a hurry and a commit takes too long", function()
    local w = world(5)
    w.run(function()
      add(w, 60)
      w.sched:sleep(1)
      w.window:hurry(2)
      w.window:hurry(9)
      local ok, err = w.window:drain()
      assert.is_nil(ok)
      assert.equal("cancelled", err.kind)
      assert.matches("could not be written", err.message)
      assert.equal(3, w.now())
    end)
    assert.equal(3, w.now())
    assert.same({}, w.commits)
    assert.same({}, w.failures)
  end)

  it("is committed at once when it is in a hurry", function()
    local w = world()
    w.run(function()
      add(w, 3)
      w.window:hurry(2)
      assert.is_true(w.window:drain())
      assert.equal(0, w.now())
    end)
    assert.equal(1, #w.commits)
    assert.equal(0, w.now())
  end)

  it("is left where it is when who waits for it is cancelled", function()
    local w = world(5)
    w.run(function()
      add(w, 60)
      local task = w.sched:spawn(function() w.window:drain() end)
      w.sched:sleep(1)
      task:cancel()
      task:await()
      assert.is_true(w.now() < 5)
    end)
    assert.equal(0, #w.commits)
  end)
end)
