local rate = require "orchestrator.rate"

local TOLERANCE = 2e-7 -- what rounding may do to a start, far below what a timer keeps

-- Starts as soon as each limiter lets them, for arrivals at the given times.
local function run(limiter, arrivals)
  local starts, now = {}, -math.huge
  for i, arrival in ipairs(arrivals) do
    now = math.max(now, arrival)
    now = now + limiter:wait(now)
    assert.equal(0, limiter:wait(now))
    limiter:take(now)
    starts[i] = now
  end
  return starts
end

local function at_once(count, now)
  local arrivals = {}
  for i = 1, count do
    arrivals[i] = now or 0
  end
  return arrivals
end

local function assert_near(expected, starts)
  assert.equal(#expected, #starts)
  for i, at in ipairs(expected) do
    assert.is_true(math.abs(at - starts[i]) < TOLERANCE, ("start %d: %.9f"):format(i, starts[i]))
  end
end

describe("a bucket", function()
  it("spaces starts evenly", function()
    assert_near({ 0, 0.5, 1, 1.5, 2 }, run(rate.limiter { limit = 2, per = 1 }, at_once(5)))
    assert_near({ 0, 20, 40 }, run(rate.limiter { limit = 3, per = 60 }, at_once(3)))
    assert_near({ 0, 2, 4 }, run(rate.limiter { limit = 0.5, per = 1 }, at_once(3)))
  end)

  it("lets a burst through at once, then the rate", function()
    local limiter = rate.limiter { limit = 2, per = 1, burst = 3 }
    assert_near({ 0, 0, 0, 0.5, 1, 1.5 }, run(limiter, at_once(6)))
  end)

  it("earns its burst back while nothing starts, and never more than that", function()
    local limiter = rate.limiter { limit = 2, per = 1, burst = 3 }
    assert_near({ 0, 0, 0, 1, 1, 1.5, 100, 100, 100, 100.5 },
      run(limiter, { 0, 0, 0, 1, 1, 1, 100, 100, 100, 100 }))
  end)

  it("says how long to wait and changes nothing by saying so", function()
    local limiter = rate.limiter { limit = 1, per = 10 }
    assert.equal(0, limiter:wait(5))
    limiter:take(5)
    assert.equal(10, limiter:wait(5))
    assert.equal(4, limiter:wait(11))
    assert.equal(4, limiter:wait(11))
    assert.equal(0, limiter:wait(15))
  end)

  it("allows a start exactly one interval later, however the numbers round", function()
    for _, base in ipairs { 0, 0.1, 0.7, 12345.678, 1e6 + 0.1, 1e8 + 0.3 } do
      for _, interval in ipairs { 0.1, 0.2, 0.3, 1 / 3, 0.7, 1e-3 } do
        local limiter = rate.limiter { limit = 1, per = interval }
        limiter:take(base)
        limiter:take(base + interval)
        assert.equal(0, limiter:wait(base + interval + interval))
        assert.is_true(limiter:wait(base + 1.99 * interval) > 0)
      end
    end
  end)

  it("does not drift in a million starts", function()
    local limiter = rate.limiter { limit = 3, per = 1 }
    local now = 1000.1
    for _ = 1, 1e6 do
      now = now + limiter:wait(now)
      limiter:take(now)
    end
    assert.is_true(math.abs(now - (1000.1 + (1e6 - 1) / 3)) < TOLERANCE)
  end)

  it("does not come to owe time by starts that are late", function()
    local limiter = rate.limiter { limit = 1, per = 1 }
    assert_near({ 0, 1.9, 2.9, 4, 5 }, run(limiter, { 0, 1.9, 2.8, 4, 4 }))
  end)
end)

describe("a sliding window", function()
  it("never has more than its limit in it", function()
    local limiter = rate.limiter { limit = 3, per = 10, window = "sliding" }
    assert_near({ 0, 0, 0, 10, 10, 10, 20 }, run(limiter, at_once(7)))
  end)

  it("moves with each start", function()
    local limiter = rate.limiter { limit = 2, per = 10, window = "sliding" }
    assert_near({ 0, 9, 10, 19, 25, 29 }, run(limiter, { 0, 9, 9, 11, 25, 26 }))
  end)

  it("allows a start exactly `per` after the first, and none before", function()
    for _, base in ipairs { 0, 0.1, 0.7, 12345.678, 1e6 + 0.1, 1e8 + 0.3 } do
      for _, per in ipairs { 0.1, 0.2, 0.3, 1 / 3, 0.7, 60 } do
        local limiter = rate.limiter { limit = 1, per = per, window = "sliding" }
        limiter:take(base)
        assert.equal(0, limiter:wait(base + per))
        assert.is_true(limiter:wait(base + 0.99 * per) > 0)
      end
    end
    local limiter = rate.limiter { limit = 1, per = 0.2, window = "sliding" }
    limiter:take(0.1)
    assert.equal(0, limiter:wait(0.3)) -- though 0.1 + 0.2 > 0.3
  end)

  it("takes a limit of one", function()
    local limiter = rate.limiter { limit = 1, per = 2, window = "sliding" }
    assert_near({ 0, 2, 4 }, run(limiter, at_once(3)))
  end)
end)

describe("on random schedules", function()
  local SEEDS = 300
  local ARRIVALS = 60

  -- Bursts, pauses, and gaps that hit the edges exactly.
  local function random_case(seed)
    math.randomseed(seed)
    local case = { limit = math.random(1, 8), per = ({ 0.1, 1 / 3, 1, 2.5, 60 })[math.random(5)] }
    case.burst = math.random(1, 5)
    local interval = case.per / case.limit
    local gaps = { 0, 0, 0, interval, case.per, interval / 3, case.burst * interval }
    local now = math.random(0, 1) * math.random() * 1e6
    case.arrivals = {}
    for i = 1, ARRIVALS do
      now = now + (math.random() < 0.2 and math.random() * case.per or gaps[math.random(#gaps)])
      case.arrivals[i] = now
    end
    return case
  end

  -- The earliest time for start n that keeps every pair of starts far enough apart.
  local function earliest(starts, n, arrival, apart)
    local at = math.max(arrival, starts[n - 1] or arrival)
    for i = 1, n - 1 do
      at = math.max(at, starts[i] + apart(n - i))
    end
    return at
  end

  local function check(seed, case, limiter, apart)
    local starts = run(limiter, case.arrivals)
    for n, at in ipairs(starts) do
      local expected = earliest(starts, n, case.arrivals[n], apart)
      local note = ("seed %d, start %d: %.9f instead of %.9f"):format(seed, n, at, expected)
      assert.is_true(math.abs(at - expected) < TOLERANCE, note)
    end
  end

  it("a bucket starts as early as its rate and burst allow, never earlier", function()
    for seed = 1, SEEDS do
      local case = random_case(seed)
      local limiter = rate.limiter { limit = case.limit, per = case.per, burst = case.burst }
      check(seed, case, limiter, function(between)
        return (between + 1 - case.burst) * case.per / case.limit
      end)
    end
  end)

  it("a window starts as early as its limit allows, never earlier", function()
    for seed = 1, SEEDS do
      local case = random_case(seed)
      local limiter = rate.limiter { limit = case.limit, per = case.per, window = "sliding" }
      check(seed, case, limiter, function(between)
        return between >= case.limit and case.per or 0
      end)
    end
  end)
end)
