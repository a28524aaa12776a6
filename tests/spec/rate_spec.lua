local rate = require "orchestrator.rate"

local TOLERANCE = 2e-7 -- what rounding may do to a start, far below what a timer keeps

-- Starts as soon as each limiter lets them, for arrivals at the given times.
local function run(limiter, arrivals, weights)
  local starts, now = {}, -math.huge
  for i, arrival in ipairs(arrivals) do
    local weight = weights and weights[i]
    now = math.max(now, arrival)
    now = now + limiter:wait(now, weight)
    assert.equal(0, limiter:wait(now, weight))
    limiter:take(now, weight)
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

describe("weights", function()
  it("count for so many starts of a bucket", function()
    local limiter = rate.limiter { limit = 2, per = 1, burst = 4 }
    assert_near({ 0, 0, 0.5, 1.5, 2 }, run(limiter, at_once(5), { 3, 1, 1, 2, 1 }))
    limiter = rate.limiter { limit = 1, per = 1, burst = 1 }
    assert_near({ 0, 0, 0.75, 1 }, run(limiter, at_once(4), { 0.25, 0.75, 0.75, 0.25 }))
  end)

  it("above the burst wait for a full bucket, and are paid by those after them", function()
    local limiter = rate.limiter { limit = 1, per = 1, burst = 2 }
    assert_near({ 0, 1, 5, 7, 11, 13 }, run(limiter, at_once(6), { 1, 5, 1, 5, 1, 5 }))
    limiter = rate.limiter { limit = 1, per = 1 }
    assert_near({ 0, 5, 10, 15 }, run(limiter, at_once(4), { 5, 5, 5, 5 })) -- the rate is kept
  end)

  it("count for so many starts of a window", function()
    local limiter = rate.limiter { limit = 4, per = 10, window = "sliding" }
    assert_near({ 0, 2, 3, 10, 12, 13 }, run(limiter, { 0, 2, 3, 4, 5, 6 }, { 2, 1, 1, 2, 1, 1 }))
    limiter = rate.limiter { limit = 4, per = 10, window = "sliding" }
    assert_near({ 0, 1, 11, 21 }, run(limiter, { 0, 1, 2, 3 }, { 1, 3, 4, 4 }))
    limiter = rate.limiter { limit = 1, per = 1, window = "sliding" }
    assert_near({ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1 }, -- though ten times 0.1 is not quite 1
      run(limiter, at_once(11), { 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1 }))
    limiter = rate.limiter { limit = 3, per = 1, window = "sliding" }
    assert_near({ 0, 0, 0, 1 }, -- and 0.8 + 1.6 + 0.6 is more than 3
      run(limiter, at_once(4), { 0.8, 1.6, 0.6, 1 }))
  end)

  it("are told how heavy they may be", function()
    assert.equal(10, rate.limiter { limit = 10, per = 1 }.most)
    assert.equal(20, rate.limiter { limit = 10, per = 1, burst = 20 }.most)
    assert.equal(1, rate.limiter { limit = 0.5, per = 1 }.most)
    local limiter = rate.limiter { limit = 10, per = 1, window = "sliding" }
    assert.equal(10, limiter.most)
    assert.equal(math.huge, limiter:wait(0, 11))
    limiter:take(0, 5)
    assert.equal(math.huge, limiter:wait(100, 11))
  end)
end)

describe("a pause", function()
  for _, window in ipairs { false, "sliding" } do
    it("holds up everything until it is over: " .. (window or "bucket"), function()
      local limiter = rate.limiter { limit = 1, per = 1, window = window or nil }
      limiter:pause(30)
      assert.equal(30, limiter:wait(0))
      assert.equal(0, limiter:wait(30))
      limiter:pause(20) -- a shorter one changes nothing
      assert_near({ 30, 31, 40 }, run(limiter, { 0, 0, 40 }))
      limiter:pause(40.5)
      assert.equal(1, limiter:wait(40)) -- the rate itself says more
    end)
  end
end)

describe("a refund", function()
  it("makes a start undone that nobody came after", function()
    local limiter = rate.limiter { limit = 1, per = 10, burst = 2 }
    assert_near({ 0, 0 }, run(limiter, at_once(2)))
    limiter:refund(0)
    assert.equal(0, limiter:wait(0))
    limiter:refund(0)
    assert_near({ 5, 5, 15 }, run(limiter, at_once(3, 5))) -- never more than the burst
    limiter:refund(15)
    assert_near({ 15, 25 }, run(limiter, at_once(2, 15)))
  end)

  it("gives nothing back of a bucket that went on meanwhile", function()
    local limiter = rate.limiter { limit = 1, per = 10 }
    assert_near({ 0, 10 }, run(limiter, at_once(2)))
    limiter:refund(0)
    assert.equal(10, limiter:wait(10))
  end)

  it("takes any start out of a window", function()
    local limiter = rate.limiter { limit = 3, per = 10, window = "sliding" }
    assert_near({ 0, 1, 2 }, run(limiter, { 0, 1, 2 }))
    limiter:refund(1)
    assert.equal(0, limiter:wait(2))
    assert.equal(8, limiter:wait(2, 2))
    limiter:take(2)
    assert_near({ 10, 12, 12 }, run(limiter, at_once(3, 3)))
    limiter:refund(0) -- long since over
    limiter:refund(7) -- never was
    assert.equal(8, limiter:wait(12))
  end)

  it("is of the same weight", function()
    for _, window in ipairs { false, "sliding" } do
      local limiter = rate.limiter { limit = 5, per = 10, burst = not window and 5 or nil,
        window = window or nil }
      limiter:take(0, 2)
      limiter:take(0, 3)
      limiter:refund(0, 3)
      assert.equal(0, limiter:wait(0, 3))
      assert.is_true(limiter:wait(0, 3.1) > 0)
    end
  end)
end)

describe("several limiters as one", function()
  it("let a start go when all do, and count it for all", function()
    local both = rate.all {
      rate.limiter { limit = 10, per = 1, name = "fast" },
      rate.limiter { limit = 3, per = 60, window = "sliding" },
    }
    assert_near({ 0, 0.1, 0.2, 60, 60.1, 60.2, 120 }, run(both, at_once(7)))
    assert.equal(3, both.most)
    assert.equal("fast and 3/1m", both.name)
    both:pause(300)
    assert.is_near(180, both:wait(120), TOLERANCE)
    assert_near({ 300 }, run(both, { 120 }))
    both:refund(300)
    assert_near({ 300 }, run(both, { 300 }))
  end)
end)

it("a rate is shown as it is written", function()
  for text, given in pairs {
    ["100/1m"] = { limit = 100, per = 60 }, ["10/1s"] = { limit = 10, per = 1 },
    ["1000/1h"] = { limit = 1000, per = 3600 }, ["3/500ms"] = { limit = 3, per = 0.5 },
    ["2.5/90s"] = { limit = 2.5, per = 90 }, ["5/24h"] = { limit = 5, per = 86400 },
  } do
    assert.equal(text, rate.text(given))
    assert.equal(text, rate.limiter(given).name)
  end
  assert.equal("quota", rate.limiter { limit = 1, per = 1, name = "quota" }.name)
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

  -- Weights of the starts, and for the oracle their sums.
  local function weigh(case, most)
    case.weights = {}
    local sizes = { 1, 1, 1, 2, 0.5, most, most / 2 }
    for i = 1, ARRIVALS do case.weights[i] = math.min(most, sizes[math.random(#sizes)]) end
  end

  it("a weighted bucket starts as early as its level allows, never earlier", function()
    for seed = 1, SEEDS do
      local case = random_case(seed)
      weigh(case, 6)
      local limiter = rate.limiter { limit = case.limit, per = case.per, burst = case.burst }
      local starts = run(limiter, case.arrivals, case.weights)
      local level, since, speed = case.burst, starts[1], case.limit / case.per
      for i, at in ipairs(starts) do
        local weight = case.weights[i]
        local due = since + (math.min(weight, case.burst) - level) / speed
        local expected = math.max(case.arrivals[i], since, due)
        assert.is_true(math.abs(at - expected) < 10 * TOLERANCE,
          ("seed %d, start %d: %.9f instead of %.9f"):format(seed, i, at, expected))
        level = math.min(case.burst, level + (at - since) * speed) - weight
        since = at
      end
    end
  end)

  it("a weighted window starts as early as its limit allows, never earlier", function()
    for seed = 1, SEEDS do
      local case = random_case(seed)
      weigh(case, case.limit)
      local limiter = rate.limiter { limit = case.limit, per = case.per, window = "sliding" }
      local starts = run(limiter, case.arrivals, case.weights)
      local function fits(n, at)
        local sum = case.weights[n]
        for i = 1, n - 1 do
          if starts[i] > at - case.per + TOLERANCE then sum = sum + case.weights[i] end
        end
        return sum <= case.limit + 1e-6
      end
      for n, at in ipairs(starts) do
        local earliest_at = math.max(case.arrivals[n], starts[n - 1] or 0)
        local expected = fits(n, earliest_at) and earliest_at or math.huge
        for i = 1, n - 1 do
          local candidate = starts[i] + case.per
          if candidate > earliest_at and candidate < expected and fits(n, candidate) then
            expected = candidate
          end
        end
        assert.is_true(math.abs(at - expected) < TOLERANCE,
          ("seed %d, start %d: %.9f instead of %.9f"):format(seed, n, at, expected))
      end
    end
  end)

  it("a window forgets what is over", function()
    local limiter = rate.limiter { limit = 10, per = 1, window = "sliding" }
    local now = 0
    for _ = 1, 1e5 do
      now = now + limiter:wait(now)
      limiter:take(now)
      now = now + 0.01
    end
    local count = 0
    for _ in pairs(limiter.times) do count = count + 1 end
    assert.is_true(count < 200)
    assert.is_true(limiter.sums[limiter.last] < 200)
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
