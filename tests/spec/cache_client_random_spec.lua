-- Whole clients with a cache, under random schedules on a virtual clock: whoever is answered out of
-- the cache gets what the server said, for as long as it said. A failure names its seed:
-- PROPERTIES_SEED=n PROPERTIES_RUNS=1 plays that one alone.

local cache_key = require "orchestrator.cache_key"
local cache_policy = require "orchestrator.cache_policy"
local cache_entry = require "orchestrator.cache_entry"
local cache_flights = require "orchestrator.cache_flights"
local fake_host = require "fake_host"

local SEED = tonumber(os.getenv "PROPERTIES_SEED") or os.time() * 100
local RUNS = tonumber(os.getenv "PROPERTIES_RUNS") or 1500
local POLLS = 5000 -- no schedule comes near
local EDGE = 1e-6

local noticed -- the first promise that the schedule broke; the tasks may go on

local function must(ok, message, ...)
  if ok then return end
  noticed = noticed or message:format(...)
  error(noticed, 0)
end

-- What is random ---------------------------------------------------------------------------------

local KINDS = { -- { what the server says, for how long that is fresh, stale for, stale for errors }
  { "max-age=5", 5 }, { "max-age=5", 5 }, { "max-age=30", 30 }, { "max-age=0", 0 },
  { "max-age=2, stale-while-revalidate=5", 2, 5 }, { "max-age=2, stale-if-error=5", 2, 0, 5 },
  { "max-age=5, must-revalidate", 5 }, { "no-cache", 0 }, { "no-store", 0 }, { nil, 0 },
}
local CALM = { { "max-age=300", 300 } }

local function case_of(seed)
  local random = fake_host.generator(seed * 7919 % 2 ^ 32)
  for _ = 1, 5 do random() end
  local case = { seed = seed, random = random, urls = {}, responses = {}, used = 0 }
  function case.up_to(n) return math.floor(random() * n) + 1 end
  function case.chance(p) return random() < p end
  function case.pick(list) return list[case.up_to(#list)] end
  case.is_calm = case.chance(0.2)
  case.bad = case.is_calm and 0 or case.pick { 0, 0.1, 0.4 }
  for i = 1, 2 do
    case.urls["https://a.test/" .. i] = {
      kind = case.pick(case.is_calm and CALM or KINDS), varies = case.chance(0.3),
      tagged = case.chance(0.7), period = case.pick { 1, 4, 20 },
    }
  end
  return case
end

local function options_of(case)
  local opts = { retry = false, cache = true, concurrency = case.up_to(3) }
  if case.is_calm then return opts end
  local cache = {}
  if case.chance(0.2) then cache.ttl = 3 end
  if case.chance(0.2) then cache.stale_if_error = 5 end
  if case.chance(0.2) then cache.stale_while_revalidate = 5 end
  opts.cache = cache
  if case.chance(0.3) then opts.retry = { attempts = 3, wait_initial = 0.5, budget = 5 } end
  if case.chance(0.2) then opts.timeout = { attempt = 1, total = case.chance(0.5) and 4 or nil } end
  if case.chance(0.2) then opts.hedge = { after = 0.5, budget = 1 } end
  return opts
end

local function header(spec, name)
  return ("\n" .. (spec.headers or "")):match("\n" .. name .. ": ([^\r\n]*)")
end

local function text_of(address, version, x)
  return string.format("%s %d %s", address, version, x)
end

-- The server: what it has changes with time.
local function server(case)
  return function(spec, n, now)
    local about = case.urls[spec.url]
    local version = math.floor(now / about.period)
    local x = about.varies and header(spec, "X") or ""
    local after = case.chance(0.2) and 0 or case.random() * 2
    local made = { url = spec.url, at = now, arrived = now + after, version = version, x = x,
      about = about }
    case.responses[n] = made
    case.asked = (case.asked or 0) + 1
    if case.chance(case.bad) then
      if case.chance(0.5) then return { fault = "reset", message = "gone", after = after } end
      made.status = 503
      return { status = 503, after = after, head = "X-N: " .. n .. "\r\n" }
    end
    local tag = about.tagged and string.format('"%d%s"', version, x)
    made.status = tag and header(spec, "If-None-Match") == tag and 304 or 200
    local lines = { "X-N: " .. n, "Date: " .. os.date("!%a, %d %b %Y %H:%M:%S GMT", 1.7e9 + now) }
    if about.kind[1] then table.insert(lines, "Cache-Control: " .. about.kind[1]) end
    if tag then table.insert(lines, "ETag: " .. tag) end
    if about.varies then table.insert(lines, "Vary: X") end
    return {
      status = made.status, after = after, head = table.concat(lines, "\r\n") .. "\r\n",
      body = made.status == 200 and text_of(spec.url, version, x) or "",
    }
  end
end

-- What must hold ---------------------------------------------------------------------------------

local function check_stale(made, old, cache)
  local kind = made.about.kind
  local most = math.max(kind[3] or 0, kind[4] or 0, cache.stale_if_error or 0,
    cache.stale_while_revalidate or 0)
  local fresh = cache.ttl or kind[2]
  must(cache.ttl or not (kind[1] and kind[1]:find "must%-revalidate" or kind[1] == "no-cache"),
    "stale, and %s", kind[1])
  must(old <= fresh + most + EDGE, "stale for %.1f s", old - fresh)
end

local function check(case, item, res, began, now)
  local made = case.responses[tonumber(res.headers["x-n"])]
  must(made, "an answer of nobody")
  must(made.url == item.url, "another URL")
  must(not made.about.varies or made.x == (item.x or ""), "another variant")
  must(made.status == 503 or res.body == text_of(made.url, made.version, made.x),
    "another body: %s", res.body)
  local from, cache, old = res.from_cache, item.cache, now - made.arrived
  case.used = case.used + (from and 1 or 0)
  if not from or from == "revalidated" then
    must(made.at >= began - EDGE and not made.taken, "an answer to somebody else")
    made.taken = true
    must((from == "revalidated") == (made.status == 304), "%s by a %d", from, made.status)
  else
    must(not made.refused, "it was refused")
    must(made.about.kind[1] ~= "no-store", "it was not to be stored")
    must(made.about.kind[1] ~= "no-cache" or cache.ttl or item.mode == "only-if-cached",
      "it was not to be used")
  end
  if item.mode == "reload" or item.mode == "no-store" then must(not from, "%s is asked", from) end
  if from == "fresh" then
    must(old <= (cache.ttl or made.about.kind[2]) + EDGE, "fresh after %.1f s", old)
  elseif from == "stale" and item.mode ~= "only-if-cached" then
    check_stale(made, old, cache)
  end
end

-- What the others may not get: an answer that was refused.
local function action(case)
  return function(res)
    if res.from_cache or not res.headers["x-n"] then return end
    case.responses[tonumber(res.headers["x-n"])].refused = true
    return "fail"
  end
end

local function check_end(case, w)
  local store = w.env.cache_store
  for _, list in pairs(store.keys) do
    for _, entry in ipairs(list) do
      local made = case.responses[tonumber(cache_entry.get(entry, "x-n"))]
      must(not made.refused, "what was refused is stored")
      must(made.about.kind[1] ~= "no-store", "what is not to be stored is")
    end
  end
  local cache = w.env.cache
  must(next(cache.flights.flights) == nil, "a flight is left")
  must(next(cache.background.asked) == nil, "a refresh is left")
  if case.is_calm then
    local wanted, count = {}, 0
    for _, item in ipairs(case.items) do
      local key = item.url .. (case.urls[item.url].varies and item.x or "")
      if not wanted[key] then wanted[key], count = true, count + 1 end
    end
    must(case.asked == count, "asked for %d times, not %d", case.asked, count)
  end
end

-- A schedule -------------------------------------------------------------------------------------

local function item_of(case, clients)
  local one = case.pick(clients)
  local item = {
    url = "https://a.test/" .. case.up_to(2), x = case.pick { "1", "2" }, client = one.client,
    cache = type(one.opts.cache) == "table" and one.opts.cache or {}, arrival = case.random() * 8,
  }
  if case.is_calm then return item end
  if case.chance(0.15) then
    item.mode = case.pick { "reload", "no-store", "no-cache", "only-if-cached" }
  end
  if case.chance(0.15) then item.action = action(case) end
  if case.chance(0.15) then item.cancel = case.random() * 3 end
  return item
end

local function play(seed)
  noticed = nil
  local case = case_of(seed)
  local w = fake_host.world { serve = server(case), seed = seed }
  local polled = w.host.poll
  function w.host.poll(timeout, deliver)
    must(w.host.polls < POLLS, "no progress: it polls for ever")
    return polled(timeout, deliver)
  end

  local function one(item)
    w.sched:sleep(item.arrival)
    local began = w.host.time
    local before = #w.host.ledger
    local res, err = item.client:fetch {
      url = item.url, headers = { X = item.x }, response_action = item.action,
      cache = item.mode and { mode = item.mode } or nil,
    }
    if item.mode == "only-if-cached" and w.host.time == began then
      must(#w.host.ledger == before, "something is sent")
    end
    must(res or err, "neither an answer nor an error")
    if res then check(case, item, res, began, w.host.time) end
    must(not case.is_calm or res, "an error: %s", err)
  end

  w.run(function()
    local clients, tasks = {}, {}
    for i = 1, case.up_to(2) do
      local opts = options_of(case)
      clients[i] = { opts = opts, client = w.client(opts) }
    end
    case.items = {}
    for i = 1, 4 + case.up_to(12) do case.items[i] = item_of(case, clients) end
    assert(w.orc.group(function(g)
      for i, item in ipairs(case.items) do
        tasks[i] = g:spawn(function()
          local ok, err = pcall(one, item)
          if not ok and not tasks[i].cancelled then noticed = noticed or tostring(err) end
        end)
        if item.cancel then
          g:spawn(function()
            w.sched:sleep(item.arrival + item.cancel)
            tasks[i]:cancel()
          end)
        end
      end
      return true
    end))
  end)
  if noticed then error(noticed, 0) end
  check_end(case, w)
  return case.used
end

local function broken(first, runs)
  local used = 0
  for seed = first, first + runs - 1 do
    local ok, result = pcall(play, seed)
    if not ok then return seed, tostring(result) end
    used = used + result
  end
  return nil, used
end

-- What must be noticed: { what, where, name, by }.
local Flights = getmetatable(cache_flights.new {})
local BREAKAGES = {
  { "variants taken for one another", cache_entry, "matches", function()
    return function() return true end
  end },
  { "a lifetime that is twice as long", cache_policy, "lifetime", function(whole)
    return function(entry) return whole(entry) * 2 end
  end },
  { "everything stored", cache_policy, "storable", function()
    return function() return true end
  end },
  { "everything standing for an error", cache_policy, "serves_errors", function()
    return function() return true end
  end },
  { "one key for all", cache_key, "of", function()
    return function() return "key" end
  end },
  { "nobody waiting for anybody", Flights, "join", function()
    return function() return "alone" end
  end },
  { "a flight that nobody takes over", Flights, "abandon", function()
    return function() end
  end },
}

describe("clients with a cache", function()
  -- Every schedule makes its functions anew: to compile them costs three times what it saves.
  setup(function() jit.off() end)
  teardown(function() jit.on() end)

  it("give what the server said, for as long as it said, under random schedules", function()
    local seed, problem = broken(SEED, RUNS)
    if seed then
      error(string.format("PROPERTIES_SEED=%d: %s (of those from %d on)", seed, problem, SEED), 0)
    end
    assert.is_true(problem > RUNS, "too little is answered by the cache: " .. problem)
  end)

  for _, breakage in ipairs(BREAKAGES) do
    local what, where, name, by = unpack(breakage)
    it("do not, with " .. what, function()
      local whole = where[name]
      where[name] = by(whole)
      local seed, problem = broken(1, 400)
      where[name] = whole
      assert.is_not_nil(seed, "nothing was noticed")
      assert.is_nil(problem:find("attempt to", 1, true), problem)
    end)
  end
end)
