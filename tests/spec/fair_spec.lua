local fair = require "orchestrator.fair"
local fake_host = require "fake_host"

-- A queue of waiters named "a1", "a2", "b1": the letter is the key. "a3+5" has priority 5.
local function queue_of(names, closed)
  local q, waiters = fair.new(), {}
  for text in names:gmatch "%S+" do
    local name, priority = text:match "^(%w+)([+-]?%d*)$"
    local key = name:sub(1, 1)
    waiters[name] = { name = name }
    q:push(key, waiters[name], not (closed or ""):find(key, 1, true), tonumber(priority))
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

  it("lets a higher priority go first, whatever its key", function()
    assert.equal("b2 c1 a3 b1 a1 a2", drained((queue_of "a1 a2 b1 b2+7 c1+2 a3+2")))
    assert.equal("a1 b1 a2 b2", drained((queue_of "a1 a2-1 b1 b2-1")))
    assert.equal("a3 a2 a1", drained((queue_of "a1 a2+1 a3+2")))
    assert.equal("a1 a2 a3", drained((queue_of "a3 a2+1 a1+2")))
    assert.equal("a1 a2 b1 a3", drained((queue_of "a1+1 b1 a2+1 a3")))
  end)

  it("goes round the keys within each priority", function()
    assert.equal("a2 b2 a3 c1 b1 a1", drained((queue_of "a1 b1 a2+1 b2+1 a3+1 c1")))
  end)

  it("passes over a closed key with all its priorities", function()
    local q = queue_of("a1 a2+5 b1", "a")
    assert.equal("b1", q:peek().name)
    q:set_open("a", true)
    assert.equal("a2", q:pop().name)
    q:set_open("a", false)
    assert.equal("b1", q:pop().name)
    assert.is_nil(q:peek())
    q:set_open("a", true)
    assert.equal("a1", drained(q))
    assert.is_nil(next(q.lanes))
  end)

  it("keeps nothing of priorities that nobody has", function()
    local q = fair.new()
    for i = 1, 1000 do
      q:push("a", {}, true, i)
      q:push("b", {}, i % 2 == 0, -i)
    end
    q:set_open("b", true)
    while q:peek() do q:pop() end
    assert.equal(0, q.count)
    assert.is_nil(next(q.lanes))
    assert.is_nil(next(q.rings))
    assert.is_nil(q.order:peek())
  end)

  -- The model: a list per key and priority, and a list of the open keys in turn for each priority
  -- that is the highest of one of them.
  it("agrees with a simple model (random)", function()
    local KEYS, PRIORITIES = { "a", "b", "c", "d" }, { -1, 0, 5 }
    for seed = 1, 200 do
      local random = fake_host.generator(seed)
      local priorities = seed % 3 == 0 and { 0 } or PRIORITIES
      local function pick(list) return list[math.floor(random() * #list) + 1] end
      local function drop(list, value)
        for i = #list, 1, -1 do
          if list[i] == value then table.remove(list, i) end
        end
      end
      local q, lists, open, rings, all = fair.new(), {}, {}, {}, {}
      for _, key in ipairs(KEYS) do
        lists[key], open[key] = {}, true
        for _, priority in ipairs(PRIORITIES) do lists[key][priority] = {} end
      end
      for _, priority in ipairs(PRIORITIES) do rings[priority] = {} end

      local function top(key)
        for i = #PRIORITIES, 1, -1 do
          if lists[key][PRIORITIES[i]][1] then return PRIORITIES[i] end
        end
      end
      -- Puts the key into the ring where it belongs, at the end if it was not there.
      local function settle(key)
        local belongs = open[key] and top(key)
        for _, priority in ipairs(PRIORITIES) do
          local ring, linked = rings[priority], false
          for _, k in ipairs(ring) do linked = linked or k == key end
          if linked and belongs ~= priority then drop(ring, key) end
          if not linked and belongs == priority then ring[#ring + 1] = key end
        end
      end
      local function first_ring()
        for i = #PRIORITIES, 1, -1 do
          if rings[PRIORITIES[i]][1] then return rings[PRIORITIES[i]] end
        end
      end

      for _ = 1, 150 do
        local key, action = pick(KEYS), random()
        if action < 0.45 then
          local waiter = { key = key, priority = pick(priorities) }
          q:push(key, waiter, open[key], waiter.priority)
          table.insert(lists[key][waiter.priority], waiter)
          table.insert(all, waiter)
        elseif action < 0.6 then
          open[key] = not open[key]
          q:set_open(key, open[key])
        elseif action < 0.75 and #all > 0 then
          local waiter = pick(all)
          key = waiter.key
          q:remove(waiter)
          drop(all, waiter)
          drop(lists[key][waiter.priority], waiter)
        elseif first_ring() then
          local ring = first_ring()
          key = table.remove(ring, 1)
          local expected = table.remove(lists[key][top(key)], 1)
          drop(all, expected)
          assert(expected == q:pop(), "seed " .. seed)
        end
        settle(key)
        local ring = first_ring()
        local expected = ring and lists[ring[1]][top(ring[1])][1]
        assert(q:peek() == expected, "seed " .. seed)
        assert(q.count == #all, "seed " .. seed)
      end
    end
  end)
end)
