local fake_host = require "fake_host"
local json = require "orchestrator.json"
local ledger = require "orchestrator.ledger"

local SLACK = 1e-6

describe("a ledger", function()
  local w, sched, state, processes, wall_offset

  before_each(function()
    w = fake_host.world { seed = 7 }
    sched, state, processes, wall_offset = w.sched, w.env.state, 0, 0
  end)

  -- A limiter of a process of its own.
  local function process(given, opts)
    opts = opts or {}
    processes = processes + 1
    local rate = { burst = not given.window and 1 or nil, name = "api" }
    for field, value in pairs(given) do rate[field] = value end
    return assert(ledger.new {
      sched = sched, state = opts.state or state, rate = rate, holder = "p" .. processes,
      wall = function() return w.host.wall() + wall_offset end,
      on_broken = opts.on_broken or function(err) error(tostring(err)) end,
    })
  end

  -- Starts one as soon as it may, and returns when.
  local function start(limiter, weight)
    while true do
      local wait = limiter:wait(sched:now(), weight)
      if wait <= 0 then break end
      sched:sleep(wait)
    end
    local now = sched:now()
    limiter:take(now, weight)
    return now
  end

  local function leave(limiter)
    local task = sched:current()
    local left = false
    limiter:leave(function()
      left = true
      sched:wake(task)
    end)
    if not left then sched:suspend() end
  end

  -- The most that was started within any time so long.
  local function most_within(starts, per)
    table.sort(starts, function(a, b) return a[1] < b[1] end)
    local most, sum, first = 0, 0, 1
    for i, one in ipairs(starts) do
      sum = sum + one[2]
      while starts[first][1] <= one[1] - per + SLACK do
        sum, first = sum - starts[first][2], first + 1
      end
      most = math.max(most, sum)
      assert(i >= first)
    end
    return most
  end

  -- Those who start one after the other until a time.
  local function busy(limiter, starts, until_time, weight)
    return sched:spawn(function()
      while sched:now() < until_time do
        local at = start(limiter, weight)
        starts[#starts + 1] = { at, weight or 1 }
      end
    end)
  end

  local function total(starts)
    local sum = 0
    for _, one in ipairs(starts) do sum = sum + one[2] end
    return sum
  end

  local BUCKET = { limit = 20, per = 2 }
  local WINDOW = { limit = 20, per = 2, window = "sliding" }

  for name, given in pairs { bucket = BUCKET, window = WINDOW } do
    describe("of a " .. name, function()
      it("starts nothing before it is written down", function()
        w.run(function()
          local limiter = process(given)
          assert.equal(0, state.saved)
          assert.is_true(limiter:wait(sched:now()) > 0)
          assert.equal(0, state.saved)
          assert.is_true(start(limiter) < 1000.003) -- a save takes a millisecond
          assert.equal(1, state.saved)
        end)
      end)

      it("uses all of the limit, and never more", function()
        w.run(function()
          local starts = {}
          busy(process(given), starts, sched:now() + 60):await()
          assert.equal(20, most_within(starts, 2))
          assert.is_true(total(starts) > 600 * 0.98, total(starts))
        end)
      end)

      it("is shared by processes", function()
        w.run(function()
          local starts, until_time, all = {}, sched:now() + 60, {}
          for i = 1, 5 do all[i] = busy(process(given), starts, until_time) end
          for _, task in ipairs(all) do task:await() end
          assert.is_true(most_within(starts, 2) <= 20)
          assert.is_true(total(starts) > 600 * 0.97, total(starts))
        end)
      end)

      it("is shared by runs, one after the other", function()
        w.run(function()
          local starts, began = {}, sched:now()
          for _ = 1, 20 do
            local limiter = process(given)
            busy(limiter, starts, sched:now() + 1):await()
            leave(limiter)
          end
          assert.is_true(most_within(starts, 2) <= 20)
          local expected = (sched:now() - began) * 10
          assert.is_true(total(starts) > expected * 0.95, total(starts))
        end)
      end)

      it("loses little by a crash", function()
        w.run(function()
          local starts, began = {}, sched:now()
          for _ = 1, 20 do
            busy(process(given), starts, sched:now() + 2):await() -- which does not leave
          end
          assert.is_true(most_within(starts, 2) <= 20)
          local expected = (sched:now() - began) * 10
          assert.is_true(total(starts) > expected * 0.9, total(starts))
        end)
      end)

      it("puts back what it did not use", function()
        w.run(function()
          local one, other = process(given), process(given)
          for _ = 1, 5 do start(one) end
          sched:sleep(10)
          for _ = 1, 2 do start(one) end
          leave(one)
          local began = sched:now()
          for _ = 1, 18 do start(other) end
          local took = sched:now() - began
          assert.is_true(took < (given.window and 0.1 or 1.93), took)
        end)
      end)

      it("does not wait longer than a window when the system was started anew", function()
        for _, jump in ipairs { 0, -1e6, 1e6, -1 } do
          wall_offset = 0
          state = fake_host.state(sched)
          w.run(function()
            local limiter = process(given)
            for _ = 1, 60 do start(limiter) end
            state.boot, wall_offset = "another boot", jump
            w.host.time = w.host.time - 500 -- whose clock begins anew
            wall_offset = wall_offset + 500
            local again = process(given)
            local began = sched:now()
            start(again)
            local waited = sched:now() - began
            assert.is_true(waited < 2.2, waited .. " after " .. jump)
            if jump == 1e6 then assert.is_true(waited < 0.01) end
            if jump == 0 and given.window then assert.is_true(waited > 1.5, waited) end
          end)
        end
      end)

      it("does not mind a wall clock that is set while the system runs", function()
        w.run(function()
          local starts, until_time, all = {}, sched:now() + 20, {}
          for i = 1, 2 do all[i] = busy(process(given), starts, until_time) end
          all[3] = sched:spawn(function()
            for _, jump in ipairs { 3600, -7200, 1e9, -1e9 } do
              sched:sleep(3)
              wall_offset = wall_offset + jump
            end
          end)
          for _, task in ipairs(all) do task:await() end
          assert.is_true(most_within(starts, 2) <= 20)
          assert.is_true(total(starts) > 190, total(starts))
        end)
      end)

      it("is paused for everybody, also later", function()
        w.run(function()
          local one, other = process(given), process(given)
          start(one)
          start(other)
          local until_time = sched:now() + 30
          one:pause(until_time)
          one:pause(until_time - 10)
          sched:sleep(3) -- the other one has used its share up, or let it go
          assert.is_true(start(other) >= until_time)
          assert.is_true(start(one) >= until_time)
          one:pause(sched:now() + 5)
          sched:sleep(1)
          local began = sched:now()
          start(process(given))
          assert.is_true(sched:now() - began >= 3.9)
        end)
      end)

      it("remembers what a host bears", function()
        w.run(function()
          local one = process(given)
          assert.is_nil(one:learned "http://a:80")
          one:learn("http://a:80", 17)
          assert.equal(17, one:learned "http://a:80")
          start(one)
          assert.equal(17, process(given):learned "http://a:80")
          one:learn("http://a:80", 19)
          leave(one)
          assert.equal(19, process(given):learned "http://a:80")
        end)
      end)

      it("counts a weight, and takes a start back", function()
        w.run(function()
          local limiter, starts = process(given), {}
          assert.equal(20, limiter.most)
          busy(limiter, starts, sched:now() + 20, 5):await()
          assert.is_true(most_within(starts, 2) <= (given.window and 20 or 24))
          assert.is_true(total(starts) > 180, total(starts))
          sched:sleep(10)
          for _ = 1, 200 do
            limiter:refund(start(limiter, 5), 5)
          end
          local began = sched:now()
          start(limiter, 5)
          assert.is_true(sched:now() - began < 0.1)
        end)
      end)

      it("asks seldom when little is done, and does not keep what it asked for", function()
        w.run(function()
          local limiter = process(given)
          for _ = 1, 10 do
            start(limiter)
            sched:sleep(20)
          end
          assert.is_true(state.saved <= 20)
          local doc = json.decode(state.documents.api)
          assert.same(given.window and {} or nil, doc.leases)
        end)
      end)

      it("ends when the state does", function()
        w.run(function()
          local problems = {}
          local limiter = process(given, { on_broken = function(err)
            problems[#problems + 1] = tostring(err)
          end })
          start(limiter)
          sched:sleep(5)
          state.broken = "state.db: the disk is gone"
          for _ = 1, 3 do
            assert.is_true(limiter:wait(sched:now()) > 0)
            sched:sleep(1)
          end
          assert.same({ "invalid: state.db: the disk is gone" }, problems)
          leave(limiter)
        end)
      end)

      it("tells who wants to know, instead of being asked all the time", function()
        w.run(function()
          local limiter, told = process(given), 0
          local waiter
          limiter.on_change = function(which)
            assert.equal(limiter, which)
            told = told + 1
            sched:wake(waiter)
          end
          waiter = sched:current()
          assert.is_true(limiter:wait(sched:now()) > 1)
          sched:suspend()
          assert.equal(1, told)
          assert.equal(0, limiter:wait(sched:now()))
          limiter:take(sched:now())
          sched:sleep(3)
          -- What is known without a save is not told, but what wait says.
          process(given):pause(sched:now() + 5)
          sched:sleep(0.1)
          assert.is_true(math.abs(limiter:wait(sched:now()) - 4.9) < 0.001)
        end)
      end)
    end)
  end

  it("may become another kind, and is no less strict for it", function()
    w.run(function()
      local starts = {}
      for i = 1, 10 do
        busy(process(i % 2 == 0 and BUCKET or WINDOW), starts, sched:now() + 1.5):await()
      end
      assert.is_true(most_within(starts, 2) <= 20)
      assert.is_true(total(starts) > 20)
    end)
  end)

  it("lets a burst through, and not another for the next process", function()
    w.run(function()
      local given = { limit = 20, per = 2, burst = 10 }
      local starts = {}
      for _ = 1, 3 do
        local limiter = process(given)
        for _ = 1, 12 do
          local at = start(limiter)
          starts[#starts + 1] = { at, 1 }
        end
        leave(limiter)
      end
      assert.is_true(starts[10][1] - starts[1][1] < 0.05)
      assert.is_true(most_within(starts, 2) <= 29)
      assert.is_true(starts[36][1] - starts[1][1] >= 26 * 0.1)
    end)
  end)

  it("keeps a slow limit in order, and does not take far ahead", function()
    w.run(function()
      local given = { limit = 10, per = 3600 }
      local one = process(given)
      start(one)
      local waiter = sched:spawn(start, one)
      sched:sleep(100)
      local free_at = json.decode(state.documents.api).free_at
      assert.is_true(free_at < 1000 + 361) -- the second is not taken yet
      local other = process(given)
      local second, third = start(other), waiter:await()
      if second > third then second, third = third, second end
      assert.is_true(second > 1360 and second < 1365)
      assert.is_true(third > 1720 and third < 1728)
    end)
  end)

  it("makes progress when the state is slow", function()
    for _, took in ipairs { 0.05, 0.3, 1.5 } do
      state = fake_host.state(sched, { saves = function() return took end })
      w.run(function()
        for _, window in ipairs { "sliding", false } do
          local given = { limit = 1000, per = 1, window = window or nil }
          local starts, until_time, all = {}, sched:now() + 30, {}
          for i = 1, 3 do all[i] = busy(process(given), starts, until_time) end
          for _, task in ipairs(all) do task:await() end
          assert.is_true(most_within(starts, 1) <= 1000)
          assert.is_true(#starts > 20, #starts)
        end
        local began = sched:now()
        start(process { limit = 1, per = 1000 })
        assert.is_true(sched:now() - began < 5 * took + 0.1)
      end)
    end
  end)

  it("keeps documents short", function()
    w.run(function()
      local given = { limit = 6000, per = 60, window = "sliding" }
      local limiter, starts = process(given), {}
      local all = {}
      for i = 1, 4 do all[i] = busy(limiter, starts, sched:now() + 125) end
      all[5] = sched:spawn(function()
        for _ = 1, 100 do
          sched:sleep(1.2)
          assert.is_true(#state.documents.api < 20000, #state.documents.api)
        end
      end)
      for _, task in ipairs(all) do task:await() end
      assert.is_true(most_within(starts, 60) <= 6000)
      assert.is_true(total(starts) > 6000 * 3 * 0.98, total(starts))
    end)
  end)

  it("refuses a document that makes no sense", function()
    for _, text in ipairs { "{", "[]", "1", '{"at":"x","wall":1}', '{"at":1}',
      '{"at":1,"wall":1,"free_at":"x"}', '{"at":1,"wall":1,"starts":[[1]]}',
      '{"at":1,"wall":1,"leases":[[1,2,3]]}', '{"at":1,"wall":1,"learned":7}' } do
      state.documents.api, state.versions.api = text, 1
      local limiter, problem = ledger.new {
        sched = sched, state = state, rate = { limit = 1, per = 1, name = "api" }, holder = "p",
        wall = w.host.wall,
      }
      assert.is_nil(limiter)
      assert.matches('state.db: what it says of the limit "api" makes no sense', problem)
    end
  end)

  it("is never exceeded, whatever processes come, go, and die", function()
    for seed = 1, 20 do
      local random = fake_host.generator(seed)
      for _ = 1, 3 do random() end
      local message = "seed " .. seed
      w = fake_host.world { seed = seed }
      sched = w.sched
      state = fake_host.state(sched, { saves = function() return random() ^ 4 * 0.2 end })
      local given = {
        limit = 1 + math.floor(random() * 60), per = 0.5 + random() * 4,
        window = random() < 0.5 and "sliding" or nil,
      }
      local starts = {}
      w.run(function()
        local until_time = sched:now() + 20
        local all = {}
        for i = 1, 3 do
          all[i] = sched:spawn(function()
            while sched:now() < until_time do
              local limiter = process(given)
              local stop = math.min(sched:now() + random() * 8, until_time)
              while sched:now() < stop do
                local heavy = random() < 0.1 and math.max(math.floor(given.limit / 4), 1) or 1
                local weight = given.window and heavy or 1
                local at = start(limiter, weight)
                if random() < 0.1 then
                  limiter:refund(at, weight)
                else
                  starts[#starts + 1] = { at, weight }
                end
                if random() < 0.2 then sched:sleep(random() ^ 3 * 3) end
              end
              if random() < 0.7 then leave(limiter) end
            end
          end)
        end
        for _, task in ipairs(all) do task:await() end
      end)
      assert(most_within(starts, given.per) <= given.limit, message)
      assert(#starts > 0, message)
    end
  end)
end)
