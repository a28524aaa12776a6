local breaker = require "orchestrator.breaker"
local fake_host = require "fake_host"

describe("breaker", function()
  local changes

  local function new(given)
    local opts = {
      failures = 0.5, min_requests = 4, window = 10, cooldown = 30, probes = 2,
      on_change = function(self) changes[#changes + 1] = self.state end,
    }
    for name, value in pairs(given or {}) do opts[name] = value end
    return breaker.new(opts)
  end

  before_each(function() changes = {} end)

  -- Reports outcomes at a time: "+" and "-"; spaces are ignored.
  local function tell(b, now, outcomes)
    for outcome in outcomes:gmatch "[+-]" do b:report(now, outcome == "+", 0) end
    return b
  end

  describe("closed", function()
    it("opens when so large a share failed", function()
      assert.equal("closed", tell(new(), 1, "+++--++--++--").state)
      assert.equal("open", tell(new(), 1, "+++--++--++---").state)
      assert.same({ "open" }, changes)
      assert.equal("open", tell(new { failures = 0.1 }, 1, "+++++++++-").state)
      assert.equal("closed", tell(new { failures = 1 }, 1, "+---------").state)
    end)

    it("looks at no fewer than so many", function()
      local b = tell(new(), 1, "---")
      assert.is_true(b:allow(1))
      tell(b, 1, "-")
      assert.is_false(b:allow(1))
      assert.equal(4, b.failed)
      assert.equal(4, b.ended)
    end)

    it("forgets what is older than the window", function()
      local b = tell(new(), 1, "---")
      tell(b, 11.5, "-")
      assert.equal("closed", b.state)
      tell(b, 20, "--")
      assert.equal("closed", b.state)
      tell(b, 20.9, "-")
      assert.equal("open", b.state)
      assert.equal(4, b.ended)
    end)

    it("learns nothing from what was cancelled", function()
      local b = new()
      for _ = 1, 100 do b:report(1, nil) end
      assert.is_true(b:is_idle(1))
      assert.equal("closed", tell(b, 1, "---").state)
    end)
  end)

  describe("open", function()
    local b

    before_each(function() b = tell(new(), 100, "----") end)

    it("lets nobody go until the cooldown is over", function()
      assert.same({ false, 130 }, { b:allow(100) })
      assert.same({ false, 130 }, { b:allow(129.999) })
      assert.is_true(b:allow(130))
    end)

    it("does not care about those that were in flight", function()
      b:report(120, true, 25)
      b:report(121, false, 30)
      assert.same({ false, 130 }, { b:allow(121) })
      assert.same({ "open" }, changes)
    end)

    it("is not idle", function()
      assert.is_false(b:is_idle(1e6))
    end)
  end)

  describe("half open", function()
    local b

    before_each(function()
      b = tell(new(), 100, "----")
      assert.is_true(b:allow(130))
      b:start()
    end)

    it("lets so many try and nobody else", function()
      assert.is_true(b:allow(130))
      b:start()
      assert.same({ false }, { b:allow(130) })
      assert.same({ false }, { b:allow(1e6) })
    end)

    it("closes when all of them succeed", function()
      b:start()
      b:report(131, true, 1)
      assert.same({ "half_open", false }, { b.state, (b:allow(131)) })
      b:report(132, true, 2)
      assert.same({ "closed", true }, { b.state, (b:allow(132)) })
      assert.same({ "open", "closed" }, changes)
      assert.is_true(b:is_idle(132))
      assert.equal("closed", tell(b, 133, "---").state)
    end)

    it("opens again when one fails, for another cooldown, without a word", function()
      b:start()
      b:report(131, true, 1)
      b:report(132, false, 2)
      assert.same({ false, 162 }, { b:allow(132) })
      assert.same({ "open" }, changes)
      assert.is_true(b:allow(162))
      b:start()
      b:report(163, true, 33) -- the other one of before
      b:report(164, true, 2)
      assert.equal("half_open", b.state)
      b:report(165, true, 2)
      assert.equal("closed", b.state)
    end)

    it("lets another go for one that was cancelled", function()
      b:start()
      assert.is_false(b:allow(131))
      b:report(131, nil)
      assert.is_true(b:allow(131))
    end)

    it("does not count those that began before it opened", function()
      b:report(131, false, 60)
      b:report(131, true, 60)
      b:report(131, true, 60)
      assert.equal("half_open", b.state)
    end)

    it("does not count those that began before when it has closed, either", function()
      b:start()
      b:report(131, true, 1)
      b:report(131, true, 1)
      for _ = 1, 10 do b:report(132, false, 90) end
      assert.equal("closed", b.state)
    end)
  end)

  -- Whatever comes: it never lets more than `probes` go that have not failed, and never stays open
  -- for ever.
  it("keeps its promises (random)", function()
    for seed = 1, 200 do
      local random = fake_host.generator(seed)
      local b = new { failures = 0.2 + 0.8 * random(), min_requests = 1 + math.floor(8 * random()),
        probes = 1 + math.floor(4 * random()) }
      local now, in_flight, good = 0, {}, true
      local function must(ok, message)
        if not ok then error(string.format("seed %d, %g s: %s", seed, now, message), 0) end
      end
      local function act(moody)
        now = now + random() * 2
        if moody and random() < 0.02 then good = not good end
        local allowed, due = b:allow(now)
        if b.state == "open" then must(not allowed and due <= now + 30, "open without an end") end
        if b.state == "half_open" then
          must(b.probing + b.passed <= b.probes, "too many probes")
          must(allowed or b.probing > 0, "nobody goes and nobody is waited for")
        end
        must(allowed or b.state ~= "closed", "closed, and nobody may go")
        if allowed and random() < 0.7 then
          b:start()
          in_flight[#in_flight + 1] = now
        end
        while in_flight[1] and (random() < 0.5 or #in_flight > 10) do
          local began = table.remove(in_flight, math.floor(random() * #in_flight) + 1)
          local ok = good
          if random() < 0.1 then ok = nil end
          b:report(now, ok, ok ~= nil and now - began or nil)
        end
      end
      for _ = 1, 500 do act(true) end
      good = true
      for _ = 1, 300 do act(false) end
      must(b.state == "closed", "it never closed")
    end
  end)
end)
