-- What random schedules (properties_spec.lua) have found: clients that waited, though nothing kept
-- them from going on.

local fake_host = require "fake_host"

describe("limits that clients share go on when", function()
  local NONE_LEFT = "RateLimit-Limit: 1\r\nRateLimit-Remaining: 0\r\nRateLimit-Reset: 1\r\n"
  local w

  -- Fetches, each {client's number, host, at, options}; when they started.
  local function starts_of(opts, answers_in_turn, fetches)
    w = fake_host.world { serve = function(_, n)
      local copy = {}
      for key, value in pairs(answers_in_turn[n] or {}) do copy[key] = value end
      return copy
    end }
    w.run(function()
      local clients, tasks = {}, {}
      for i, given in ipairs(opts) do clients[i] = w.client(given) end
      for i, one in ipairs(fetches) do
        tasks[i] = w.sched:spawn(function()
          w.sched:sleep(one[3])
          clients[one[1]]:fetch { url = "http://" .. one[2] .. "/", weight = one[4] }
        end)
      end
      for _, task in ipairs(tasks) do task:await() end
    end)
    local times = {}
    for i, entry in ipairs(w.host.ledger) do times[i] = entry.at - 1000 end
    return times
  end

  it("a client that does not heed the server answers in a window of which nothing is known",
    function()
      local times = starts_of({ { retry = false }, { retry = false, server_limits = false } },
        { { head = NONE_LEFT }, { after = 2 } }, { { 1, "a", 0 }, { 2, "a", 2 }, { 1, "a", 3 } })
      assert.same({ 0, 2, 4 }, times)
    end)

  it("an attempt fails in a window of which nothing is known", function()
    local times = starts_of({ { retry = false } },
      { { head = NONE_LEFT }, { fault = "reset", message = "gone" } },
      { { 1, "a", 0 }, { 1, "a", 2 }, { 1, "a", 3 } })
    assert.same({ 0, 2, 3 }, times)
  end)

  it("another client takes the slot of a heavy one that was next", function()
    local slots = { total = 3, per_host = 1, pool = "p" }
    local times = starts_of({
      { concurrency = slots, rate_limit = { limit = 1, per = 1, burst = 2 } },
      { concurrency = slots },
    }, { nil, nil, { after = 4 } },
      { { 1, "a", 0 }, { 1, "b", 0 }, { 1, "a", 0.25, 2 }, { 1, "b", 0.25 }, { 2, "a", 0.5 } })
    assert.same({ 0, 0, 0.5, 1, 4.5 }, times)
  end)
end)
