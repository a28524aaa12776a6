-- Servers that take so many requests at once, and callers that always want more, on a clock that
-- is a number.

local fake_host = require "fake_host"
local heap = require "orchestrator.heap"

local capacity = {}

local function value_of(v, now)
  if type(v) == "function" then return v(now) end
  return v
end

--- A value that changes: steps(20, 4, 100) is 20 before second 4, then 100.
function capacity.steps(first, ...)
  local changes = { ... }
  return function(now)
    local value = first
    for i = 1, #changes, 2 do
      if now >= changes[i] then value = changes[i + 1] end
    end
    return value
  end
end

-- The times at which those that a server has end, in order.
local Busy = {}
Busy.__index = Busy

-- Adds one that ends then.
function Busy:push(time)
  local n = self.last + 1
  while n > self.first and self[n - 1] > time do
    self[n] = self[n - 1]
    n = n - 1
  end
  self[n] = time
  self.last = self.last + 1
end

-- How many there are.
function Busy:count(now)
  while self.first <= self.last and self[self.first] <= now do
    self[self.first] = nil
    self.first = self.first + 1
  end
  return self.last - self.first + 1
end

--- A server: function(now) → seconds until it answers, whether it refuses.
---@param opts table {capacity, service: number or function(now), seconds a request takes;
---  beyond: what becomes of those beyond the capacity: "refuse", "queue", "slow" (all share what
---    there is) or "thrash" (all share less and less);
---  jitter: number? from 0 to 1, or "exp" for an exponential distribution; network: number?
---  seconds; refused: number? share that is refused in any case; seed: integer?}
function capacity.server(opts)
  local random = fake_host.generator(opts.seed or 1)
  for _ = 1, 5 do random() end
  local busy = setmetatable({ first = 1, last = 0 }, Busy)
  local network = opts.network or 0.0005
  local function taking(seconds)
    if opts.jitter == "exp" then return -seconds * math.log(1 - random()) end
    return seconds * (1 + (opts.jitter or 0) * (2 * random() - 1))
  end
  return function(now)
    local most, there = value_of(opts.capacity, now), busy:count(now)
    local refused = there >= most and (opts.beyond == "refuse" or most <= 0)
    if refused or random() < (opts.refused or 0) then
      return network * (1 + random()), true
    end
    local took = taking(value_of(opts.service, now))
    local load = math.max(1, (there + 1) / most)
    if opts.beyond == "queue" and there >= most then
      took = busy[busy.last - most + 1] - now + took
    elseif opts.beyond == "slow" then
      took = took * load
    elseif opts.beyond == "thrash" then
      took = took * load ^ 2
    end
    busy:push(now + took)
    return took + network, false
  end
end

--- Calls as often as the limit lets it.
---@param limiter table adaptive.new's
---@param serve function
---@param seconds number
---@param opts table|nil {from: number? when it begins, demand: integer? in flight at most,
---  timeout: number?, watch: fun(now, limit)? called ten times a second}
---@return table {ok, refused, rate, share: of those that were refused}
function capacity.drive(limiter, serve, seconds, opts)
  opts = opts or {}
  local now = opts.from or 0
  local finish = now + seconds
  local demand, watched = opts.demand or math.huge, now
  local events, seq, in_flight = heap.new(), 0, 0
  local told = { ok = 0, refused = 0 }
  local alarm

  local function push(event)
    seq = seq + 1
    event.seq = seq
    events:push(event)
    return event
  end

  local function start()
    while true do
      local limit, due = limiter:limit(now, in_flight)
      if in_flight >= math.min(limit, demand) then
        if due and not alarm then alarm = push { time = math.max(due, now) } end
        return
      end
      local took, refused = serve(now)
      if opts.timeout and took > opts.timeout then took, refused = opts.timeout, true end
      in_flight = in_flight + 1
      push { time = now + took, took = took, refused = refused }
    end
  end

  start()
  while events:peek().time <= finish do
    local event = events:peek()
    events:remove(event)
    now = event.time
    if event == alarm then
      alarm = nil
    else
      local name = event.refused and "refused" or "ok"
      told[name] = told[name] + 1
      limiter:report(now,
        { ok = not event.refused, overload = event.refused, elapsed = event.took }, in_flight)
      in_flight = in_flight - 1
    end
    start()
    while opts.watch and now >= watched do
      opts.watch(watched, (limiter:limit(now, in_flight)))
      watched = watched + 0.1
    end
  end
  told.rate = told.ok / seconds
  told.share = told.refused / math.max(1, told.ok + told.refused)
  return told
end

return capacity
