-- What it costs to hand a slot on while so many wait as waiting= says: one attempt ends, the next
-- one starts, and another one queues. Prints ns. The scheduler is one whose clock is a number and
-- which has no tasks: what they cost is in the other rows.
local ffi = require "ffi"
local limits = require "orchestrator.limits"
local rate = require "orchestrator.rate"

local WAITING = tonumber(require "orchestrator".params.waiting)
local HOSTS, PRIORITIES, SLOTS, ROUNDS, STEP = 100, 5, 50, 200000, 0.001

ffi.cdef "typedef struct { long s, ns; } bench_time; int clock_gettime(int, bench_time *);"
local read = ffi.new "bench_time[1]"
local function cpu()
  ffi.C.clock_gettime(2, read) -- CLOCK_PROCESS_CPUTIME_ID
  return tonumber(read[0].s) * 1e9 + tonumber(read[0].ns)
end

local now, timers = 0, {}
local sched = {
  now = function() return now end,
  current = function() return 0 end,
  suspend = function() return true end,
  wake = function() end,
}
function sched:at(time, fn, arg) -- luacheck: ignore 212/self
  local timer = { time = time, cancel = function(timer) timers[timer] = nil end }
  timer.fn, timer.arg = fn, arg
  timers[timer] = true
  return timer
end

local function pass()
  now = now + STEP
  local timer = next(timers)
  while timer do
    if timer.time <= now then
      timers[timer] = nil
      timer.fn(timer.arg)
      timer = nil
    end
    timer = next(timers, timer)
  end
end

local pool = limits.pool(sched, {
  total = SLOTS,
  limiters = {
    rate.limiter { limit = 1 / STEP, per = 1, burst = 1 },
    rate.limiter { limit = 60 / STEP, per = 60, window = "sliding" },
  },
})
local names = {}
for i = 1, HOSTS do names[i] = string.format("https://host%d.example.com", i) end

local come_count, at = 0, 0
local function come()
  come_count = come_count + 1
  pool:acquire(names[come_count % HOSTS + 1], 1, come_count % PRIORITIES)
end

local function done()
  local h
  repeat
    at = at % HOSTS + 1
    h = pool.hosts[names[at]]
  until h and h.active > 0
  pool:release(names[at])
end

local function round()
  pass()
  done()
  come()
end

for _ = 1, SLOTS do
  come()
  pass()
end
for _ = 1, WAITING do come() end
for _ = 1, ROUNDS / 10 do round() end
collectgarbage()
local begin = cpu()
for _ = 1, ROUNDS do round() end
local took = cpu() - begin
assert(pool.queue.count >= WAITING - SLOTS)
print(string.format("%.0f", took / ROUNDS))
