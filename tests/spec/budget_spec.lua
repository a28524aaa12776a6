local budget = require "orchestrator.budget"

describe("budget", function()
  local function spend(b, now, wanted)
    local allowed = 0
    for _ = 1, wanted do
      allowed = allowed + (b:allow(now) and 1 or 0)
    end
    return allowed
  end

  local function request(b, now, count)
    for _ = 1, count do
      b:request(now)
    end
  end

  it("always allows ten", function()
    assert.equal(10, spend(budget.new(0.2, 10), 100, 50))
    assert.equal(10, spend(budget.new(0, 10), 100, 50))
  end)

  it("allows a fraction of the requests of the last minute", function()
    local b = budget.new(0.2, 10)
    request(b, 100, 1000)
    assert.equal(150, spend(b, 100, 150))
    assert.equal(50, spend(b, 130, 1000))
    assert.equal(0, spend(b, 159.9, 10))
  end)

  it("allows another number, and another share", function()
    local b = budget.new(0.05, 1)
    assert.equal(1, spend(b, 100, 5))
    request(b, 100, 100)
    assert.equal(4, spend(b, 100, 50))
  end)

  it("takes back what was not made", function()
    local b = budget.new(0, 2)
    assert.equal(2, spend(b, 100, 5))
    b:refund(100.5, 130)
    assert.equal(1, spend(b, 130, 5))
    b:refund(100, 160) -- forgotten already
    b:refund(160, 160) -- nobody was
    assert.equal(1, spend(b, 160, 5))
    assert.equal(1, spend(b, 190, 5))
  end)

  it("forgets what is a minute old, requests and retries alike", function()
    local b = budget.new(0.2, 10)
    request(b, 100, 1000)
    request(b, 130, 500)
    assert.equal(300, spend(b, 130, 400))
    assert.equal(0, spend(b, 160, 100)) -- 500 requests, 300 retries
    assert.equal(10, spend(b, 190, 100))
    assert.equal(10, spend(b, 1e6, 100))
  end)

  it("lets retries through again one second at a time", function()
    local b = budget.new(0, 10)
    for second = 0, 9 do
      assert.is_true(b:allow(second))
    end
    for second = 10, 59 do
      assert.is_false(b:allow(second))
    end
    for second = 60, 69 do
      assert.equal(1, spend(b, second, 5))
    end
    assert.is_false(b:allow(70))
  end)

  it("stands a clock that starts anywhere or steps back", function()
    local b = budget.new(0, 10)
    assert.equal(4, spend(b, -5.5, 4))
    assert.equal(6, spend(b, 3, 20))
    assert.equal(0, spend(b, 1, 20))
    assert.equal(4, spend(b, 54, 20))
  end)

  -- The same count by remembering every event.
  it("agrees with a plain count on random schedules", function()
    for seed = 1, 100 do
      math.randomseed(seed)
      local b, share = budget.new(0.3, 10), 0.3
      local requests, retries = {}, {}
      local now = math.random() * 1000
      local function recent(events)
        local count = 0
        for _, at in ipairs(events) do
          count = count + (math.floor(now) - math.floor(at) < 60 and 1 or 0)
        end
        return count
      end
      for step = 1, 100 do
        now = now + math.random(0, 3) ^ 2 * math.random()
        if math.random() < 0.6 then
          b:request(now)
          requests[#requests + 1] = now
        else
          local expected = recent(retries) < math.max(10, share * recent(requests))
          assert.equal(expected, b:allow(now), ("seed %d, step %d"):format(seed, step))
          if expected then
            retries[#retries + 1] = now
          end
        end
      end
    end
  end)
end)
