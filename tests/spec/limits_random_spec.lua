-- Limits under random loads: what must hold whatever happens.

local fake_host = require "fake_host"
local limits = require "orchestrator.limits"
local rate = require "orchestrator.rate"

local function must(ok, message) -- faster than busted's assert
  if not ok then error(message, 2) end
end

local function idle(pool)
  for _, h in pairs(pool.hosts) do
    if h.active ~= 0 or h.server.in_flight ~= 0 or h.server.waiting[1] then return false end
  end
  return pool:state().active == 0 and pool.queue.count == 0 and next(pool.queue.lanes) == nil
    and not pool.slots.pools[1] and not pool.in_line
end

describe("limits", function()
  -- Every case makes its functions anew: to compile them costs three times what it saves.
  setup(function() jit.off() end)
  teardown(function() jit.on() end)

  -- Many tasks that come, hold a slot, leave or are cancelled at random times.
  describe("whatever happens (random)", function()
    local HOSTS = { "a", "b", "c" }

    local function case_of(random)
      local function up_to(n) return math.floor(random() * n) + 1 end
      local case = { total = up_to(6), per_host = random() < 0.5 and up_to(3) or nil }
      local kind = random()
      if kind < 0.3 then
        case.rate = { limit = up_to(3), per = 1, window = "sliding" }
      elseif kind < 0.6 then
        case.rate = { limit = up_to(4), per = 1, burst = up_to(2) }
      end
      return case
    end

    -- What must hold of the starts of a rate.
    local function check_rate(starts, given)
      local behind = given.window and given.limit or given.burst
      local apart = given.window and given.per or given.per / given.limit
      for i = behind + 1, #starts do
        must(starts[i] - starts[i - behind] >= apart - 1e-6, "starts too close")
      end
    end

    local function play(seed)
      local random = fake_host.generator(seed)
      local world = fake_host.world()
      local case = case_of(random)
      case.limiter = case.rate and rate.limiter(case.rate)
      local pool = limits.pool(world.sched, case)
      local waiting, starts, granted, cancelled = { a = {}, b = {}, c = {} }, {}, 0, 0

      local function one(arrival, host, hold)
        world.sched:sleep(arrival)
        local ticket = {}
        table.insert(waiting[host], ticket)
        local ok, raised = pcall(pool.acquire, pool, host)
        local line = waiting[host]
        local place = 1
        while line[place] ~= ticket do place = place + 1 end
        table.remove(line, place)
        if not ok then error(raised, 0) end
        must(place == 1, "not first come, first served")
        must(pool:state().active <= case.total, "more than total")
        must(pool.hosts[host].active <= (case.per_host or case.total), "more than per_host")
        granted = granted + 1
        starts[granted] = world.sched:now()
        ok, raised = pcall(world.sched.sleep, world.sched, hold)
        pool:release(host)
        if not ok then error(raised, 0) end
      end

      -- No slot is free while somebody could use it.
      local function look()
        if pool:state().active == case.total then return end
        if case.limiter and case.limiter:wait(world.sched:now()) > 0 then return end
        for _, host in ipairs(HOSTS) do
          local h = pool.hosts[host]
          local full = case.per_host and h and h.active == case.per_host
          must(full or not waiting[host][1], "a slot is free and somebody waits")
        end
      end

      world.run(function()
        local tasks = {}
        for i = 1, 40 do
          local host = HOSTS[math.floor(random() * #HOSTS) + 1]
          tasks[i] = world.sched:spawn(one, random() * 5, host, random() * 1.5)
          if random() < 0.3 then
            cancelled = cancelled + 1
            world.sched:at(1000 + random() * 8, function() tasks[i]:cancel() end)
          end
        end
        for _ = 1, 60 do
          world.sched:sleep(0.1234567)
          look()
        end
        for i = 1, 40 do
          local _, err = tasks[i]:await()
          if err and err.kind ~= "cancelled" then error(err.message, 0) end
        end
      end)
      must(idle(pool), "something is left over")
      must(granted >= 40 - cancelled, "somebody was forgotten")
      if case.rate then check_rate(starts, case.rate) end
    end

    it("keeps its promises", function()
      for seed = 1, 300 do
        local ok, problem = pcall(play, seed)
        if not ok then error("seed " .. seed .. ": " .. tostring(problem), 0) end
      end
    end)
  end)

  -- The same with several pools, whose slots and rate limits may be shared, weights, priorities
  -- and pauses.
  describe("whatever happens among pools (random)", function()
    local function limiter_case(up_to)
      local per = up_to(3)
      local given = { limit = up_to(6), per = per }
      if up_to(2) == 1 then given.window = "sliding" else given.burst = up_to(3) end
      return { given = given, limiter = rate.limiter(given), starts = {}, paused = {} }
    end

    local function check_limiter(case)
      local given, level, since = case.given, case.given.burst, 0
      for i, start in ipairs(case.starts) do
        local time, weight = start[1], start[2]
        for _, pause in ipairs(case.paused) do
          must(time <= pause[1] or time >= pause[2] - 1e-6, "a start in a pause")
        end
        if given.window then
          local sum = 0
          for k = i, 1, -1 do
            if case.starts[k][1] <= time - given.per + 1e-6 then break end
            sum = sum + case.starts[k][2]
          end
          must(sum <= given.limit + 1e-6, "more than the limit in a window")
        else
          level = math.min(given.burst, level + (time - since) * given.limit / given.per)
          must(level >= math.min(weight, given.burst) - 1e-5, "more than the bucket holds")
          level, since = level - weight, time
        end
      end
    end

    local function play(seed)
      local random = fake_host.generator(seed)
      for _ = 1, 5 do random() end
      local function up_to(n) return math.floor(random() * n) + 1 end
      local world = fake_host.world()
      local sched = world.sched
      local cases, all_slots, pools = {}, {}, {}
      for i = 1, up_to(3) do cases[i] = limiter_case(up_to) end
      for i = 1, up_to(2) do
        local per_host = up_to(2) == 1 and up_to(3) or nil
        all_slots[i] = limits.slots { total = up_to(5), per_host = per_host }
      end
      for i = 1, up_to(4) do
        local paid, limiters = {}, {}
        for _, case in ipairs(cases) do
          if random() < 0.6 then
            paid[#paid + 1] = case
            table.insert(limiters, up_to(#limiters + 1), case.limiter)
          end
        end
        local slots = all_slots[up_to(#all_slots)]
        local pool = limits.pool(sched, { slots = slots, limiters = limiters })
        pools[i] = { pool = pool, slots = slots, paid = paid, waiting = {} }
      end

      local function one(arrival, hold)
        local of = pools[up_to(#pools)]
        local host = ("abc"):sub(up_to(3)):sub(1, 1)
        local priority = random() < 0.2 and up_to(3) or 0
        local weight = random() < 0.3 and up_to(4) or 1
        weight = math.min(weight, of.pool.heaviest)
        sched:sleep(arrival)
        local key = host .. priority
        local line, ticket = of.waiting[key] or {}, {}
        of.waiting[key] = line
        table.insert(line, ticket)
        local ok, raised = pcall(of.pool.acquire, of.pool, host, weight, priority)
        local first = line[1] == ticket
        for k = #line, 1, -1 do
          if line[k] == ticket then table.remove(line, k) end
        end
        if not ok then error(raised, 0) end
        must(first, "not first come, first served")
        must(of.slots.active <= of.slots.total, "more than total")
        must(of.slots.hosts[host].active <= of.slots.per_host, "more than per_host")
        for _, case in ipairs(of.paid) do table.insert(case.starts, { sched:now(), weight }) end
        ok, raised = pcall(sched.sleep, sched, hold)
        of.pool:release(host)
        if not ok then error(raised, 0) end
      end

      local N = 60
      world.run(function()
        local tasks = {}
        for i = 1, N do
          tasks[i] = sched:spawn(one, random() * 6, random() * 1.5)
          if random() < 0.3 then
            sched:at(1000 + random() * 10, function() tasks[i]:cancel() end)
          end
        end
        for _, case in ipairs(cases) do
          if random() < 0.5 then
            sched:at(1000 + random() * 8, function()
              local ends = sched:now() + random() * 4
              table.insert(case.paused, { sched:now(), ends })
              case.limiter:pause(ends)
            end)
          end
        end
        for i = 1, N do
          local _, err = tasks[i]:await()
          if err and err.kind ~= "cancelled" then error(err.message, 0) end
        end
        must(world.at() < 500, "no progress")
      end)
      for _, of in ipairs(pools) do must(idle(of.pool), "something is left over") end
      for _, case in ipairs(cases) do
        must(not case.limiter.line or not case.limiter.line[1], "somebody is left in line")
        check_limiter(case)
      end
    end

    it("keeps its promises", function()
      for seed = 1, 400 do
        local ok, problem = pcall(play, seed)
        if not ok then error("seed " .. seed .. ": " .. tostring(problem), 0) end
      end
    end)
  end)
end)
