local adaptive = require "orchestrator.adaptive"
local capacity = require "capacity"
local fake_host = require "fake_host"

local SERVICE = 0.04

local function count(t)
  local n = 0
  for _ in pairs(t) do n = n + 1 end
  return n
end

describe("adaptive", function()
  -- A limit that a server was called with for so long, and what came of it. `levels` holds the
  -- mean limit of every second.
  local function call(opts, seconds, how)
    opts.service, opts.beyond = opts.service or SERVICE, opts.beyond or "refuse"
    how = how or {}
    local limit = adaptive.new(how.limit)
    local levels, sums, counts = {}, {}, {}
    how.watch = function(now, n)
      local second = math.floor(now)
      sums[second], counts[second] = (sums[second] or 0) + n, (counts[second] or 0) + 1
      levels[second] = sums[second] / counts[second]
    end
    return capacity.drive(limit, capacity.server(opts), seconds, how), levels, limit
  end

  -- Servers drawn at random: the useful answers, as a part of what the capacity allows.
  local function draw(beyond, jitter, seeds, check)
    for seed = 1, seeds do
      local random = fake_host.generator(seed * 7919)
      local most = math.floor(2 * 75 ^ random() + 0.5)
      local service = 0.005 * 40 ^ random()
      local network = 0.001 * random()
      local told, _, limit = call({
        capacity = most, service = service, beyond = beyond, jitter = jitter, seed = seed,
        network = network,
      }, 250 * service)
      local part = told.rate * (service + network) / most
      local problem = check(part, told.share, limit:limit(1e6, 1), most)
      if problem then
        error(string.format("seed %d, capacity %d, %g s: %s (%.3f of the best, %.2f%% refused)",
          seed, most, service, problem, part, 100 * told.share), 0)
      end
    end
  end

  describe("with a server that refuses what is too much", function()
    for _, jitter in ipairs { 0, 0.5, "exp" } do
      it("finds its capacity (" .. jitter .. ")", function()
        draw("refuse", jitter, 8, function(part, share)
          if part < 0.9 then return "too little" end
          if share >= 0.02 then return "too many refused" end
        end)
      end)
    end

    it("follows the capacity up", function()
      local _, levels = call({ capacity = capacity.steps(20, 4, 100), jitter = 0.3 }, 11)
      assert.is_true(levels[3] > 17 and levels[3] < 21)
      assert.is_true(levels[10] > 85 and levels[10] < 101)
    end)

    it("follows the capacity down", function()
      local told, levels = call({ capacity = capacity.steps(100, 4, 20), jitter = 0.3 }, 8)
      assert.is_true(levels[3] > 85)
      assert.is_true(levels[7] > 15 and levels[7] < 21)
      assert.is_true(told.share < 0.02)
    end)

    it("does not stop growing where nothing is refused", function()
      local _, levels = call({ capacity = 1e6, jitter = 0.5 }, 3, { limit = { max = 300 } })
      assert.is_true(levels[2] > 280)
    end)

    it("bears some refusals that have nothing to do with how many there are", function()
      local _, levels = call({ capacity = 1e6, jitter = 0.3, refused = 0.01 }, 10)
      local sum = 0
      for second = 1, 9 do sum = sum + levels[second] end
      assert.is_true(sum / 9 > 15)
    end)

    it("is not confused by answers that take long to come", function()
      local told = call({ capacity = 40, jitter = 0.3, network = 0.1 }, 24)
      assert.is_true(told.rate > 40 / (SERVICE + 0.1))
      assert.is_true(told.share < 0.02)
    end)
  end)

  describe("with a server that lets them wait", function()
    for _, beyond in ipairs { "queue", "slow" } do
      for _, jitter in ipairs { 0, 0.5 } do
        it(string.format("keeps it busy without a long queue (%s, %g)", beyond, jitter), function()
          draw(beyond, jitter, 6, function(part, _, level, most)
            if part < 0.85 then return "too little" end
            if level > 3 * most + 3 then return "the queue is too long" end
          end)
        end)
      end
    end

    it("keeps it busy when the times it takes scatter widely", function()
      draw("queue", "exp", 6, function(part)
        if part < 0.75 then return "too little" end
      end)
    end)

    it("stays near the capacity when more makes it slower", function()
      for _, most in ipairs { 15, 40, 100 } do
        local told, levels = call({ capacity = most, beyond = "thrash", jitter = 0.3 }, 10)
        assert.is_true(told.rate > 0.75 * most / SERVICE)
        assert.is_true(levels[9] < 1.4 * most)
      end
    end)

    it("follows the capacity down", function()
      local _, levels = call({ capacity = capacity.steps(100, 4, 20), beyond = "queue" }, 9)
      assert.is_true(levels[3] > 95 and levels[3] < 180)
      assert.is_true(levels[8] > 18 and levels[8] < 45)
    end)

    it("follows the capacity up", function()
      local told, levels = call({ capacity = capacity.steps(20, 4, 100), beyond = "queue" }, 9)
      assert.is_true(levels[3] < 45)
      assert.is_true(levels[8] > 75)
      assert.is_true(told.ok > 0.85 * (4 * 20 + 5 * 100) / SERVICE - 0.1 * 5 * 100 / SERVICE)
    end)
  end)

  describe("when the latency has nothing to do with how many there are", function()
    it("bears that it grows bit by bit", function()
      local function slower(now) return SERVICE * (1 + now) end
      local _, levels = call({ capacity = 60, service = slower, jitter = 0.3 }, 8)
      for second = 1, 7 do assert.is_true(levels[second] > 45) end
    end)

    it("bears that it grows at once", function()
      local service = capacity.steps(SERVICE, 3, 5 * SERVICE, 6, SERVICE)
      local _, levels = call({ capacity = 50, service = service, jitter = 0.3 }, 9)
      for _, second in ipairs { 2, 5, 8 } do assert.is_true(levels[second] > 44) end
    end)

    it("is not misled by the first, which connect", function()
      local n = 0
      local function service()
        n = n + 1
        return n <= 30 and 5 * SERVICE or SERVICE
      end
      local told = call({ capacity = 100, service = service, beyond = "queue", jitter = 0.2 }, 6)
      assert.is_true(told.rate > 0.85 * 100 / SERVICE)
    end)
  end)

  describe("when the server dies", function()
    it("asks one at a time, and is soon back when it is", function()
      local _, levels = call({ capacity = capacity.steps(50, 2, 0, 4, 50), jitter = 0.3 }, 6)
      assert.is_true(levels[1] > 44)
      assert.is_true(levels[3] < 1.5)
      assert.is_true(levels[5] > 40)
    end)

    it("takes timeouts for refusals", function()
      local service = capacity.steps(SERVICE, 2, 60, 4, SERVICE)
      local _, levels = call({ capacity = 1e6, service = service, jitter = 0.3 }, 6,
        { timeout = 0.25, limit = { max = 80 } })
      assert.is_true(levels[1] > 70)
      assert.is_true(levels[3] < 10)
      assert.is_true(levels[5] > 60)
    end)
  end)

  describe("one by one", function()
    local function ok(limit, now, in_flight)
      limit:report(now, { ok = true, elapsed = 1 }, in_flight)
    end

    it("starts with few, doubles within a round trip, and no faster", function()
      assert.equal(4, (adaptive.new():limit(0, 0)))
      local limit = adaptive.new { initial = 2 }
      assert.equal(2, (limit:limit(0, 0)))
      ok(limit, 1, 2)
      ok(limit, 1, 2)
      local n, due = limit:limit(1, 2)
      assert.equal(2, n)
      assert.is_true(due > 1 and due <= 1.5)
      assert.equal(3, (limit:limit(due, 2)))
      assert.equal(4, (limit:limit(3, 3)))
      assert.is_nil(select(2, limit:limit(3, 3)))
    end)

    it("does not grow when it is not used up", function()
      local limit = adaptive.new { initial = 10 }
      for second = 1, 100 do ok(limit, second, 3) end
      assert.equal(10, (limit:limit(101, 3)))
    end)

    it("keeps within its bounds", function()
      local limit = adaptive.new { min = 3, max = 5 }
      assert.equal(3, (adaptive.new({ max = 3 }):limit(0, 0)))
      for second = 1, 50 do ok(limit, second, 5) end
      assert.equal(5, (limit:limit(51, 5)))
      for second = 51, 99 do limit:report(second, { overload = true, elapsed = 0.1 }, 5) end
      assert.equal(3, (limit:limit(100, 3)))
    end)

    it("is lowered once a round trip, to a half of it at least", function()
      local limit = adaptive.new { initial = 40 }
      limit:limit(0, 0)
      limit:report(1, { overload = true, elapsed = 1 }, 40)
      assert.equal(35, (limit:limit(1, 39)))
      for in_flight = 39, 1, -1 do limit:report(1, { overload = true, elapsed = 1 }, in_flight) end
      assert.equal(20, (limit:limit(1, 0)))
      limit:limit(1.5, 0)
      limit:report(2, { overload = true, elapsed = 0.5 }, 20)
      assert.is_true(limit:limit(2, 19) < 20)
    end)

    it("learns nothing from what is neither an answer nor a refusal", function()
      local limit = adaptive.new { initial = 10 }
      for second = 1, 50 do limit:report(second, { elapsed = 1 }, 10) end
      assert.equal(10, (limit:limit(51, 10)))
    end)

    it("starts anew when it was idle, but not while somebody waits for long answers", function()
      local function busy()
        local limit = adaptive.new()
        for second = 1, 20 do
          limit:limit(second, 60)
          ok(limit, second, 60)
        end
        assert.is_true(limit:limit(21, 10) > 10)
        return limit
      end
      assert.is_true(busy():limit(80, 0) > 10)
      assert.is_true(busy():limit(90, 7) > 10)
      assert.equal(4, (busy():limit(90, 0)))
    end)

    it("tells what it learned, and starts from there", function()
      local told, _, limit = call({ capacity = 50, jitter = 0.3 }, 3)
      assert.is_true(told.share < 0.02)
      assert.is_nil(adaptive.new():learned())
      local learned = limit:learned()
      assert.is_true(learned >= 45 and learned <= 52)
      local _, levels = call({ capacity = 50, jitter = 0.3 }, 2, { limit = { learned = learned } })
      assert.is_true(levels[0] > 44 and levels[1] > 44)
      assert.equal(8, (adaptive.new({ learned = 100, max = 8 }):limit(0, 0)))
    end)

    it("keeps within its bounds whatever it hears (random)", function()
      for seed = 1, 100 do
        local random = fake_host.generator(seed)
        local function up_to(n) return math.floor(random() * n) + 1 end
        local least, most = up_to(4), 4 + up_to(200)
        local limit = adaptive.new { min = least, max = most, initial = up_to(30),
          learned = random() < 0.3 and up_to(300) or nil }
        local now, in_flight, mood, slow = 1e6, 0, 1, 0.01
        for _ = 1, 1000 do
          now = now + random() ^ 8
          if random() < 0.01 then mood, slow = random(), 10 ^ (4 * random() - 3) end
          local n, due = limit:limit(now, in_flight)
          if n % 1 ~= 0 or n < least or n > most or (due and due <= now) then
            error(string.format("seed %d: %s, %s", seed, n, due), 0)
          end
          in_flight = random() < 0.8 and n or up_to(n)
          local elapsed = random() < 0.95 and slow * (0.5 + random()) or random() < 0.5 and 0 or nil
          local well = random() < mood
          limit:report(now, { ok = well, overload = not well and random() < 0.5, elapsed = elapsed,
            latency = random() < 0.1 and 0.001 or nil }, in_flight)
        end
      end
    end)

    it("does not grow with what it has seen", function()
      local _, _, limit = call({ capacity = 20, jitter = 0.3 }, 1)
      local before = count(limit)
      call({ capacity = 20, jitter = 0.3 }, 5)
      assert.is_true(count(limit) == before and before < 40)
      for _, value in pairs(limit) do
        assert.is_true(type(value) ~= "table" or count(value) < 8)
      end
    end)
  end)
end)
