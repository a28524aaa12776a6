-- Two processes share a bucket with a burst, and pools of theirs pay a second limit beside it: what
-- is taken only to be given back must not free what another process has been given.

local fake_host = require "fake_host"
local ledger = require "orchestrator.ledger"
local limits = require "orchestrator.limits"
local rate = require "orchestrator.rate"

local LIMIT = { name = "x", limit = 600, per = 60, burst = 10 }

-- When starts were made within 40 seconds.
local function starts_of(seed)
  local w = fake_host.world { seed = seed }
  local sched, random = w.sched, fake_host.generator(seed)
  local state, starts, ledgers, tasks = fake_host.state(sched), {}, {}, {}
  w.run(function()
    local stop = sched:now() + 40
    local function use(pool)
      while sched:now() < stop do
        pool:acquire "a"
        starts[#starts + 1] = sched:now()
        sched:sleep(random() < 0.05 and random() * 2 or random() * 0.1)
        pool:release "a"
      end
    end
    for process = 1, 2 do
      local one = ledger.new {
        sched = sched, wall = w.host.wall, state = state, rate = LIMIT, holder = "h" .. process,
        on_broken = function(err) error(err) end,
      }
      ledgers[process] = one
      local both = limits.pool(sched,
        { total = 50, limiters = { one, rate.limiter { limit = 1, per = 0.7 } } })
      local alone = limits.pool(sched, { total = 50, limiter = one })
      tasks[#tasks + 1] = sched:spawn(use, both)
      for _ = 1, 6 do tasks[#tasks + 1] = sched:spawn(use, alone) end
    end
    for _, task in ipairs(tasks) do task:await() end
    for _, one in ipairs(ledgers) do
      local me, done = sched:current(), false
      one:leave(function()
        done = true
        sched:wake(me)
      end)
      if not done then sched:suspend() end
    end
  end)
  table.sort(starts)
  return starts
end

describe("a ledger shared by two processes", function()
  it("is kept in every window, whatever a second limit gives back", function()
    for seed = 1, 12 do
      local starts = starts_of(seed)
      for _, window in ipairs { 1, 5, 20 } do
        local first = 1
        for i = 1, #starts do
          while starts[i] - starts[first] >= window - 1e-6 do first = first + 1 end
          local most = 10 * window + LIMIT.burst - 1
          assert.is_true(i - first + 1 <= most,
            string.format("seed %d: %d in %d s", seed, i - first + 1, window))
        end
      end
    end
  end)
end)
