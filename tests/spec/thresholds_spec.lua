local histogram = require "orchestrator.histogram"
local thresholds = require "orchestrator.thresholds"

local function metrics()
  local latency = histogram.new()
  for i = 1, 100 do latency:add(i / 1000) end
  return {
    http_reqs = { count = 50, rate = 25 },
    http_req_failed = { count = 1, rate = 0.02 },
    http_req_duration = latency,
    iterations = { count = 50, rate = 25 },
    records = { count = 10, rate = 5 },
    records_filtered = { count = 3, rate = 1.5 },
    dead_letters = { count = 1, rate = 0.5 },
    stale_if_error = { count = 2, rate = 0.04 },
  }
end

local function judge(metric, text)
  local verdicts, ok = thresholds.judge(assert(thresholds.parse { [metric] = text }), metrics())
  assert.equal(1, #verdicts)
  assert.equal(ok, verdicts[1].ok)
  return ok, verdicts[1].value
end

describe("thresholds", function()
  it("compare", function()
    for text, want in pairs {
      ["count>9"] = true, ["count>10"] = false, ["count>=10"] = true, ["count<10"] = false,
      ["count<=10"] = true, ["count==10"] = true, ["count!=10"] = false, [" count < 1e2 "] = true,
      ["rate>4.9"] = true,
    } do
      assert.equal(want, (judge("records", text)), text)
    end
  end)

  it("know every metric", function()
    assert.same({ true, 50 }, { judge("http_reqs", "count==50") })
    assert.same({ true, 0.02 }, { judge("http_req_failed", "rate<0.05") })
    assert.same({ true, 25 }, { judge("iterations", "rate>20") })
    assert.same({ true, 3 }, { judge("records_filtered", "count<4") })
    assert.same({ false, 1 }, { judge("dead_letters", "count<1") })
    assert.same({ false, 2 }, { judge("stale_if_error", "count==0") })
    assert.same({ true, 0.04 }, { judge("stale_if_error", "rate<0.05") })
  end)

  it("judge durations in milliseconds", function()
    for text, want in pairs {
      ["avg<51"] = 50.5, ["min>=1"] = 1, ["med<52"] = 50, ["max<=100"] = 100,
      ["p(95)<97"] = 95, ["p(99.9)<=100"] = 100,
    } do
      local ok, value = judge("http_req_duration", text)
      assert.is_true(ok, text)
      assert.is_near(want, value, 0.01 * want)
    end
    assert.is_false((judge("http_req_duration", "p(95)<90")))
  end)

  it("say nothing of what was not measured", function()
    local list = thresholds.parse { http_req_duration = "p(95)<1" }
    local verdicts, ok = thresholds.judge(list, { http_req_duration = histogram.new() })
    assert.is_true(ok)
    assert.is_nil(verdicts[1].value)
  end)

  it("are all to be kept, in a stable order", function()
    local list = thresholds.parse {
      records = { "count>0", "count>100" }, dead_letters = "count<5", http_reqs = "rate>1",
    }
    local verdicts, ok = thresholds.judge(list, metrics())
    assert.is_false(ok)
    local seen = {}
    for i, verdict in ipairs(verdicts) do
      seen[i] = verdict.metric .. " " .. verdict.text .. " " .. tostring(verdict.ok)
    end
    assert.same({
      "dead_letters count<5 true", "http_reqs rate>1 true", "records count>0 true",
      "records count>100 false",
    }, seen)
    assert.same({}, thresholds.parse {})
  end)

  it("that make no sense are refused", function()
    local function refused(pattern, given)
      local list, message = thresholds.parse(given)
      assert.is_nil(list)
      assert.matches(pattern, message)
    end
    refused('no metric "recrods" %(did you mean "records"%?%)', { recrods = "count>0" })
    refused('no metric "latency" %(there are dead_letters, http_req', { latency = "p(95)<1" })
    refused('no metric "1"', { "count>0" })
    refused('"records" has no "cuont" %(did you mean "count"%?%)', { records = "cuont>0" })
    refused('"records" has no "p%(95%)"', { records = "p(95)<1" })
    refused('"http_req_duration" has no "p%(101%)"', { http_req_duration = "p(101)<1" })
    refused('"records" must be a text such as "count<100", got "count=>1"',
      { records = "count=>1" })
    refused('got "count>many"', { records = "count>many" })
    refused('got "count"', { records = "count" })
    refused('got a number', { records = 5 })
    refused('got a nil', { records = {} })
    refused('got a boolean', { records = { "count>0", true } })
  end)
end)
