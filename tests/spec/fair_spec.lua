local fair = require "orchestrator.fair"
local fake_host = require "fake_host"

-- A queue of waiters named "a1", "a2", "b1": the letter is the key.
local function queue_of(names, closed)
  local q, waiters = fair.new(), {}
  for name in names:gmatch "%S+" do
    local key = name:sub(1, 1)
    waiters[name] = { name = name }
    q:push(key, waiters[name], not (closed or ""):find(key, 1, true))
  end
  return q, waiters
end

local function drained(q)
  local names = {}
  while q:peek() do names[#names + 1] = q:pop().name end
  return table.concat(names, " ")
end

describe("fair", function()
  it("is first come, first served within a key", function()
    assert.equal("a1 a2 a3", drained((queue_of "a1 a2 a3")))
  end)

  it("goes round the keys", function()
    assert.equal("a1 b1 c1 a2 b2 a3", drained((queue_of "a1 a2 a3 b1 b2 c1")))
  end)

  it("shows whose turn it is without taking the turn", function()
    local q = queue_of "a1 b1"
    assert.equal("a1", q:peek().name)
    assert.equal("a1", q:peek().name)
    assert.equal(2, q.count)
  end)

  it("puts a key that comes back at the end of the circle", function()
    local q = queue_of "a1 b1 c1"
    assert.equal("a1", q:pop().name)
    q:push("a", { name = "a2" }, true)
    assert.equal("b1 c1 a2", drained(q))
  end)

  it("passes over closed keys, whose waiters keep their places", function()
    local q = queue_of("a1 a2 b1 b2", "a")
    assert.equal("b1", q:pop().name)
    q:set_open("a", true)
    assert.equal("b2", q:pop().name)
    assert.equal("a1", q:pop().name)
    q:set_open("a", false)
    assert.is_nil(q:peek())
    assert.equal(1, q.count)
    q:set_open("a", true)
    assert.equal("a2", drained(q))
    assert.equal(0, q.count)
  end)

  it("ignores opening and closing of keys nobody waits for", function()
    local q = queue_of "a1"
    q:set_open("z", true)
    q:set_open("z", false)
    assert.equal("a1", drained(q))
  end)

  it("lets a waiter leave from the front, the middle and the end", function()
    for _, case in ipairs {
      { "a1", "a2 b1 a3" }, { "a2", "a1 b1 a3" }, { "a3", "a1 b1 a2" }, { "b1", "a1 a2 a3" },
    } do
      local q, waiters = queue_of "a1 a2 a3 b1"
      q:remove(waiters[case[1]])
      assert.equal(3, q.count)
      assert.equal(case[2], drained(q))
      assert.is_nil(next(q.lanes))
    end
  end)

  it("lets the last of a closed key leave", function()
    local q, waiters = queue_of("a1 b1", "a")
    q:remove(waiters.a1)
    assert.equal("b1", drained(q))
    assert.is_nil(next(q.lanes))
  end)

  -- The model: a list per key, and a list of the open keys that have waiters, in turn.
  it("agrees with a simple model (random)", function()
    for seed = 1, 150 do
      local random = fake_host.generator(seed)
      local q, ring, lanes, open, all = fair.new(), {}, {}, {}, {}
      local function pick(n) return math.floor(random() * n) + 1 end
      local function drop(list, value)
        for i = #list, 1, -1 do
          if list[i] == value then table.remove(list, i) end
        end
      end
      local function settle(key)
        local linked = false
        for _, k in ipairs(ring) do linked = linked or k == key end
        local belongs = open[key] and #lanes[key] > 0
        if belongs and not linked then ring[#ring + 1] = key end
        if linked and not belongs then drop(ring, key) end
      end
      for _, key in ipairs { "a", "b", "c", "d" } do lanes[key], open[key] = {}, true end
      for n = 1, 120 do
        local key, action = ("abcd"):match("^.", pick(4)), random()
        if action < 0.45 then
          local waiter = { key = key, n = n }
          q:push(key, waiter, open[key])
          table.insert(lanes[key], waiter)
          table.insert(all, waiter)
        elseif action < 0.6 then
          open[key] = not open[key]
          q:set_open(key, open[key])
        elseif action < 0.75 and #all > 0 then
          local waiter = table.remove(all, pick(#all))
          key = waiter.key
          q:remove(waiter)
          drop(lanes[key], waiter)
        elseif #ring > 0 then
          key = table.remove(ring, 1)
          local expected = table.remove(lanes[key], 1)
          drop(all, expected)
          assert(expected == q:pop(), "seed " .. seed)
          if #lanes[key] > 0 then ring[#ring + 1] = key end
        end
        settle(key)
        assert(q:peek() == (ring[1] and lanes[ring[1]][1]), "seed " .. seed)
        assert(q.count == #all, "seed " .. seed)
      end
    end
  end)
end)
