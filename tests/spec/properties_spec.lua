-- Whole clients on a virtual clock, under random schedules: what must hold whatever happens. A
-- failure names its seed: PROPERTIES_SEED=n PROPERTIES_RUNS=1 runs that schedule alone.
--
-- What is judged is what the host saw, and what the script did: an account of its own is kept of
-- who pays which limit.

local client = require "orchestrator.client"
local fake_host = require "fake_host"
local fair = require "orchestrator.fair"
local limits = require "orchestrator.limits"
local options = require "orchestrator.options"
local rate = require "orchestrator.rate"
local server = require "orchestrator.server"

local SEED = tonumber(os.getenv "PROPERTIES_SEED") or os.time() * 100
local RUNS = tonumber(os.getenv "PROPERTIES_RUNS") or 10000
local HOSTS = { "a", "b", "c" }
local LATENCY, RETRY_AFTER, BACKOFF, COOLDOWN, ARRIVAL = 2, 2, 1, 2, 3 -- the longest of each, in s
local POLLS = 20000 -- no schedule comes near
local EDGE = 1e-6

local noticed -- the first promise that the schedule broke; the tasks may go on

local function must(ok, message)
  if ok then return end
  noticed = noticed or message
  error(message, 0)
end

-- What is random -----------------------------------------------------------------------------

local function generator(seed)
  local random = fake_host.generator(seed * 7919 % 2 ^ 32)
  for _ = 1, 5 do random() end
  local function up_to(n) return math.floor(random() * n) + 1 end
  local function chance(p) return random() < p end
  return random, up_to, chance
end

local function rate_case(up_to, chance, name)
  local given = { limit = up_to(6), per = chance(0.5) and 1 or up_to(3), name = name }
  if chance(0.5) then given.window = "sliding" else given.burst = up_to(4) end
  return { given = given, starts = {}, heaviest = given.window and given.limit
    or math.max(given.limit, given.burst) }
end

-- Clients, the limits they pay and the slots they take. What has a name is shared.
local function clients_case(up_to, chance)
  local shared_rate = rate_case(up_to, chance, "shared")
  local shared_slots = { total = up_to(4), per_host = chance(0.5) and up_to(3) or nil, pool = "p" }
  local list = {}
  for i = 1, up_to(3) do
    local one = { rates = {}, heaviest = 3 }
    if chance(0.25) then one.rates[1] = shared_rate end
    while chance(0.35) and #one.rates < 2 do table.insert(one.rates, rate_case(up_to, chance)) end
    for _, paid in ipairs(one.rates) do one.heaviest = math.min(one.heaviest, paid.heaviest) end
    if chance(0.3) then
      one.slots = shared_slots
    else
      one.slots = { total = chance(0.15) and "auto" or up_to(4),
        per_host = chance(0.4) and up_to(3) or nil }
    end
    one.heeds = chance(0.8)
    one.opts = {
      concurrency = one.slots, server_limits = one.heeds, rate_limit = nil, retry = false,
      timeout = chance(0.3) and { attempt = 0.5 + up_to(4) / 4, total = chance(0.4) and up_to(5)
        or nil } or nil,
      hedge = chance(0.25) and { after = up_to(4) / 8, max = up_to(2), budget = 1 } or nil,
      circuit_breaker = chance(0.25) and { min_requests = up_to(4), window = 5,
        cooldown = up_to(COOLDOWN * 4) / 4, probes = up_to(2),
        on_open = chance(0.5) and "wait" or "fail" } or nil,
    }
    if one.rates[1] then
      one.opts.rate_limit = {}
      for k, paid in ipairs(one.rates) do one.opts.rate_limit[k] = paid.given end
    end
    if chance(0.8) then
      one.opts.retry = { attempts = up_to(4), wait_initial = up_to(4) / 8, wait_max = BACKOFF,
        budget = 5, deadline = chance(0.2) and up_to(8) or nil }
    end
    list[i] = one
  end
  return list
end

-- What a host answers: mostly quick and good, depending on how bad it is.
local function answers(random, up_to, chance)
  local bad, quota = {}, {}
  for _, name in ipairs(HOSTS) do
    bad[name] = chance(0.5) and 0 or random()
    quota[name] = chance(0.2) and { limit = up_to(5), window = up_to(2), used = 0, ends = 0 } or nil
  end
  return function(name, now)
    local answer = { after = chance(0.2) and random() * LATENCY or up_to(4) / 32 }
    local own = quota[name]
    if own then
      if now >= own.ends then own.used, own.ends = 0, now + own.window end
      own.used = own.used + 1
      answer.head = string.format("RateLimit-Limit: %d\r\nRateLimit-Remaining: %d\r\n"
        .. "RateLimit-Reset: %d\r\n", own.limit, math.max(0, own.limit - own.used),
        math.ceil(own.ends - now))
      if own.used > own.limit then answer.status = 429 end
    end
    if random() < bad[name] then
      local what = up_to(5)
      if what == 1 then
        answer.fault, answer.message = "reset", "gone"
      elseif what == 2 then
        answer.status = 404
      elseif what == 3 then
        answer.status = 500
      else
        answer.status = chance(0.5) and 429 or 503
        if chance(0.5) then
          answer.retry_after = up_to(RETRY_AFTER)
          answer.head = (answer.head or "") .. "Retry-After: " .. answer.retry_after .. "\r\n"
        end
      end
    end
    return answer
  end
end

-- What must hold -----------------------------------------------------------------------------

-- At every start: not more in flight than the slots allow.
local function check_slots(one, name)
  local slots = one.slots
  slots.active = (slots.active or 0) + 1
  slots.at = slots.at or {}
  slots.at[name] = (slots.at[name] or 0) + 1
  must(slots.total == "auto" or slots.active <= slots.total, "more in flight than total")
  must(slots.at[name] <= (slots.per_host or math.huge), "more in flight than per_host")
end

-- Whenever time passes: slots are held by what is in flight and by nothing else, and none is free
-- that somebody could have.
local function check_held(list, now)
  for _, one in ipairs(list) do
    local pool, slots = one.pool, one.slots
    must(pool.slots.active == (slots.active or 0), "a slot is held by no attempt")
    for _, h in pairs(pool.hosts) do
      must(h.active == (slots.at and slots.at[h.name:sub(8, 8)] or 0), "a host's slot is held")
    end
    local waiter = pool.queue:peek()
    if waiter and pool.slots.active < pool.slots.total and not one.rates[1] then
      must(false, "a slot is free and somebody waits")
    elseif pool.queue.count > 0 and not one.opts.circuit_breaker and not one.heeds
      and not one.rates[1] and slots.total ~= "auto" and pool.slots.active < pool.slots.total then
      for key in pairs(pool.queue.lanes) do
        local h = pool.hosts[key]
        must(h.crowds or h.active >= (slots.per_host or math.huge), "a host is forgotten")
      end
    end
    local paid = one.rates[1]
    if waiter and paid and not one.rates[2] and not paid.given.name
      and pool.slots.active < pool.slots.total then
      must(pool.rate:wait(now, waiter.weight) > 0, "a start is due and is not made")
    end
  end
end

-- In the end: the starts that a limit let through.
local function check_rate(paid, lasts)
  local given = paid.given
  -- A bucket that outlives the process has longer intervals, and lets starts come a little late.
  local late = 1e-5 + (lasts and given.limit * 0.005 or 0)
  if given.window then
    local sum, first = 0, 1
    for _, start in ipairs(paid.starts) do
      sum = sum + start.weight
      while paid.starts[first].at <= start.at - given.per + EDGE do
        sum, first = sum - paid.starts[first].weight, first + 1
      end
      must(sum <= given.limit + EDGE, "more than the limit in a window")
    end
  else
    local level, since = given.burst, 0
    for _, start in ipairs(paid.starts) do
      level = math.min(given.burst, level + (start.at - since) * given.limit / given.per)
      must(level >= math.min(start.weight, given.burst) - late, "more than the bucket holds")
      level, since = level - start.weight, start.at
    end
  end
end

-- A server that asked to be left alone was, by all who share the limit or heed it.
local function check_pauses(starts)
  for _, asked in ipairs(starts) do
    local seen, wait = asked.entry.ended, asked.answer.retry_after
    if seen and wait and asked.one.heeds and not asked.cut then
      for _, start in ipairs(starts) do
        if start.at > seen + EDGE and start.at < seen + wait - EDGE then
          if not asked.one.rates[1] then
            must(start.name ~= asked.name or not start.one.heeds, "a start while the host pauses")
          else
            for _, paid in ipairs(asked.one.rates) do
              for _, other in ipairs(start.one.rates) do
                must(paid ~= other, "a start while the limit pauses")
              end
            end
          end
        end
      end
    end
  end
end

-- Even one after the other, each with its longest wait, it would have ended by then.
local function check_progress(w, list, starts)
  local each = LATENCY + RETRY_AFTER + 3 + BACKOFF + COOLDOWN
  local bound = ARRIVAL + each
  for _, one in ipairs(list) do
    for _, item in ipairs(one.items) do bound = bound + each + item.weight * 3 * #one.rates end
  end
  for _, start in ipairs(starts) do
    bound = bound + each + start.weight * 3 * #start.one.rates
  end
  must(w.at() <= bound, "no progress")
end

-- Has the clients share a limiter of this process, instead of one that outlives it (ledger.lua).
local function share(env, list)
  for _, one in ipairs(list) do
    local paid = one.rates[1]
    if paid and paid.given.name then
      local given = options.rate(paid.given)
      env.limiters[given.name] = { rate = given, limiter = rate.limiter(given) }
      return
    end
  end
end

-- A schedule ---------------------------------------------------------------------------------

local function play(seed)
  local random, up_to, chance = generator(seed)
  local list, answer = clients_case(up_to, chance), answers(random, up_to, chance)
  local starts, w = {}, nil

  local function serve(spec, id, now)
    local name, i, n = spec.url:match "^http://(.)/(%d+)/(%d+)$"
    local one = list[tonumber(i)]
    local start = { at = now, name = name, one = one, weight = spec.weight or 1, entry =
      w.host.ledger[id], answer = answer(name, now), cut = false }
    starts[id] = start
    start.cut = (spec.timeout or 0) > 0 and start.answer.after > spec.timeout
    start.item = one.items[tonumber(n)]
    start.item.in_flight = start.item.in_flight + 1
    must(not start.item.over, "an attempt after the end")
    must(start.item.in_flight <= 1 + (one.opts.hedge and one.opts.hedge.max or 0),
      "an item is in flight twice")
    check_slots(one, name)
    for _, paid in ipairs(one.rates) do table.insert(paid.starts, start) end
    local copy = {}
    for key, value in pairs(start.answer) do copy[key] = value end
    return copy
  end

  w = fake_host.world { serve = serve, seed = seed }
  if chance(0.5) then share(w.env, list) end
  local host, polled, cancel = w.host, w.host.poll, w.host.cancel

  local function gone(id)
    local start = starts[id]
    start.one.slots.active = start.one.slots.active - 1
    start.one.slots.at[start.name] = start.one.slots.at[start.name] - 1
    start.item.in_flight = start.item.in_flight - 1
  end
  function host.cancel(id)
    gone(id)
    cancel(id)
  end
  function host.poll(timeout, deliver)
    if timeout ~= 0 then check_held(list, host.time) end
    must(host.polls < POLLS, "no progress: it polls for ever")
    return polled(timeout, function(id, result)
      gone(id)
      deliver(id, result)
    end)
  end

  for i, one in ipairs(list) do
    one.items = {}
    for n = 1, up_to(12 / #list) do
      one.items[n] = {
        url = string.format("http://%s/%d/%d", HOSTS[up_to(#HOSTS)], i, n),
        method = chance(0.1) and "POST" or nil,
        weight = chance(0.3) and math.min(up_to(3), one.heaviest) or 1,
        priority = chance(0.2) and up_to(3) or nil,
        arrival = random() * random() * ARRIVAL, cancel = chance(0.2) and random() * 6 or nil,
        ends = 0, told = 0, in_flight = 0, over = false,
      }
    end
  end

  w.run(function()
    for _, one in ipairs(list) do
      one.client = w.client(one.opts)
      one.pool = one.client.pool
    end
    local tasks = {}
    for _, one in ipairs(list) do
      for _, item in ipairs(one.items) do
        local observer = { attempt = function() end, request = function()
          item.told = item.told + 1
        end }
        local task = w.sched:spawn(function()
          w.sched:sleep(item.arrival)
          local res, err = one.client:fetch({ url = item.url, method = item.method,
            weight = item.weight, priority = item.priority }, observer)
          must((res == nil) ~= (err == nil), "an end that is none")
          item.ends = item.ends + 1
          return res, err
        end)
        task.on_done = function() item.over = true end
        item.task = task
        tasks[#tasks + 1] = item
        if item.cancel then
          w.sched:at(1000 + item.cancel, function() task:cancel() end)
        end
      end
    end
    for _, item in ipairs(tasks) do
      local ok, err = item.task:await()
      if not ok and err.kind == "script" then error(err.message .. (err.traceback or ""), 0) end
      local cancelled = item.task.cancelled ~= nil
      must(cancelled or item.ends == 1, "an item that does not end once")
      must(item.told == 1 or (cancelled and item.told == 0), "an end that is not told once")
    end
    check_progress(w, list, starts)
  end)

  for _, start in ipairs(starts) do
    must((start.entry.ended == nil) ~= (start.entry.cancelled == nil), "a transfer has no one end")
  end
  local checked = {}
  for _, one in ipairs(list) do
    local slots = one.pool.slots
    must(not slots.pools[1] and not one.pool.in_line and one.pool.queue.count == 0,
      "somebody is left in line")
    for _, limiter in ipairs(one.pool.limiters or {}) do
      must(not limiter.line[1], "somebody is left in a limit's line")
    end
    for _, paid in ipairs(one.rates) do
      if not checked[paid] then check_rate(paid, w.env.ledgers and paid.given.name) end
      checked[paid] = true
    end
  end
  check_pauses(starts)
  return #starts
end

-- The first schedule that breaks a promise, and which.
local function broken(first, count)
  local made = 0
  for seed = first, first + count - 1 do
    noticed = nil
    local ok, problem = pcall(play, seed)
    if noticed or not ok then return seed, noticed or tostring(problem) end
    made = made + problem
  end
  return nil, made
end

-- Deliberately broken ------------------------------------------------------------------------

local function class(object) return getmetatable(object).__index end

local Window = class(rate.limiter { limit = 1, per = 1, window = "sliding" })
local Bucket = class(rate.limiter { limit = 1, per = 1 })
local world = fake_host.world()
local Pool = class(client.new(world.env).pool)

-- What is broken: in which table, the function of which name, by which other one; and what should
-- be noticed.
local BREAKAGES = {
  { "a window that lets one more through", Window, "wait", function(wait)
    return function(self, now, weight) return wait(self, now, (weight or 1) - 1) end
  end, "limit in a window" },
  { "a window that is 2 % too short", Window, "wait", function(wait)
    return function(self, now, weight)
      return math.max(0, wait(self, now, weight) - self.per / 50)
    end
  end, "limit in a window" },
  { "a window that forgets weights", Window, "take", function(take)
    return function(self, now) return take(self, now, 1) end
  end, "limit in a window" },
  { "a window that gives back what was sent", Window, "take", function(take)
    return function(self, now, weight)
      take(self, now, weight)
      if self.last % 5 == 0 then self:refund(now, weight) end
    end
  end, "limit in a window" },
  { "a bucket whose burst is one too many", Bucket, "wait", function(wait)
    return function(self, now, weight)
      self.burst = self.burst + 1
      local seconds = wait(self, now, weight)
      self.burst = self.burst - 1
      return seconds
    end
  end, "bucket holds" },
  { "a limit that ignores pauses", Window, "pause", function() return function() end end,
    "limit pauses" },
  { "a host that ignores pauses", server, "pause", function() return function() end end,
    "host pauses" },
  { "a host that stays shut", Pool, "reopen", function() return function() end end,
    { "deadlock", "wait for ever" } },
  { "one slot too many", limits, "slots", function(slots)
    return function(opts)
      opts.total = opts.total + 1
      return slots(opts)
    end
  end, "more in flight than total" },
  { "one slot too many for a host", limits, "slots", function(slots)
    return function(opts)
      opts.per_host = opts.per_host and opts.per_host + 1
      return slots(opts)
    end
  end, "more in flight than per_host" },
  { "a slot that is kept when its task is cancelled", Pool, "release", function(release)
    return function(self, name, outcome, ...)
      if outcome then return release(self, name, outcome, ...) end
    end
  end, "held by no attempt" },
  { "a slot that is kept while a retry waits", Pool, "release", function(release)
    return function(self, name, outcome, ...)
      if not outcome or outcome.status == 200 then return release(self, name, outcome, ...) end
      self.sched:at(self.sched:now() + 0.1, function() release(self, name, outcome) end)
    end
  end, "held by no attempt" },
  { "a slot that is given back twice", Pool, "release", function(release)
    return function(self, name, outcome, ...)
      if outcome and outcome.status == 500 then self.slots.active = self.slots.active - 1 end
      return release(self, name, outcome, ...)
    end
  end, { "held by no attempt", "more in flight" } },
  { "a waiter who stays when its task is cancelled", fair, "remove", function(remove)
    return function(self, waiter)
      if not waiter.task.cancelled then remove(self, waiter) end
    end
  end, { "held", "left", "forgotten", "somebody waits", "wait for ever", "for ever", "is due" } },
}

describe("properties", function()
  -- Every schedule makes its functions anew: to compile them costs three times what it saves.
  setup(function() jit.off() end)
  teardown(function() jit.on() end)

  it("hold under random schedules", function()
    local seed, problem = broken(SEED, RUNS)
    if seed then
      error(string.format("PROPERTIES_SEED=%d: %s (of those from %d on)", seed, problem, SEED), 0)
    end
    print(string.format("properties: %d schedules from PROPERTIES_SEED=%d on, %d transfers", RUNS,
      SEED, problem))
  end)

  for _, breakage in ipairs(BREAKAGES) do
    local what, where, name, by, expected = unpack(breakage)
    it("do not hold with " .. what, function()
      local whole = where[name]
      where[name] = by(whole)
      local seed, problem = broken(1, 1500)
      where[name] = whole
      assert.is_not_nil(seed, "nothing was noticed")
      if type(expected) == "string" then expected = { expected } end
      local as_expected = false
      for _, part in ipairs(expected) do
        as_expected = as_expected or problem:find(part, 1, true) ~= nil
      end
      assert.is_true(as_expected, "noticed was: " .. problem)
    end)
  end
end)
