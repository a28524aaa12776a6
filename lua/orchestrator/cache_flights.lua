-- Single flight: of the tasks that miss the same thing in the cache one asks for it, and the others
-- wait for what it stores. They hold nothing meanwhile, no slot and no share of a limit.
--
-- A flight has a leader, whose request is judged as any other. When it stored something, all look
-- again. When it turns out that each has to ask for itself, all go at once, and for a while nobody
-- waits for that any more. When it failed one other leads; when that one fails as well two do, then
-- four: a server that is gone is not asked by all at once, nor by one after the other for ever.

local cache_entry = require "orchestrator.cache_entry"

local cache_flights = {}

local APART = 60 -- seconds in which requests go alone that nobody can wait for
local MOST_APART = 10000 -- that are remembered

---@class orc.CacheFlights
local Flights = {}
Flights.__index = Flights

---@param sched orc.Scheduler
function cache_flights.new(sched)
  return setmetatable({
    sched = sched,
    flights = {}, -- key → flight
    apart = {}, count = 0, -- key → until when its requests go alone
  }, Flights)
end

--- What a request holds of flights.
---@param outer table|nil that of the request whose functions make this one
---@return table root
function cache_flights.root(outer)
  while outer and outer.over do outer = outer.outer end -- tasks may outlive who began them
  return {
    flights = {}, -- those it leads, by key
    outer = outer,
    url = nil, -- of the hop it is at
    stale = nil, -- by URL: what it may use instead of an error
    failed = nil, -- what it would have failed with without that
    over = false, -- whether it has ended
  }
end

local ALONE = {
  "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "pragma",
}

--- What a request shares a flight by; nil when its answer is for itself only.
---@param plan table
---@param lookup table {key, opts, entries} of cache.lua
---@return string|nil
function cache_flights.key_of(plan, lookup)
  local mode, fields = lookup.opts.mode, plan.fields
  if mode and mode ~= "default" and mode ~= "force-cache" then return nil end
  if plan.method ~= "GET" and plan.method ~= "HEAD" then return nil end
  for _, name in ipairs(ALONE) do
    if fields[name] then return nil end
  end
  local asked = cache_entry.sent(plan, "cache-control")
  if asked and asked:lower():find "no%-" then return nil end
  local range = cache_entry.sent(plan, "range")
  local variant = cache_entry.variant(lookup.entries, plan, lookup.opts.vary)
  return lookup.key .. (range and "\n" .. range or "") .. variant
end

-- Whether it is known that each has to ask for itself.
local function is_apart(self, key)
  local ends = self.apart[key]
  if not ends then return false end
  if ends > self.sched:now() then return true end
  self.apart[key], self.count = nil, self.count - 1
  return false
end

local function set_apart(self, key)
  if not self.apart[key] then
    if self.count == MOST_APART then self.apart, self.count = {}, 0 end
    self.count = self.count + 1
  end
  self.apart[key] = self.sched:now() + APART
end

local NOBODY = {}

local function lead(flight, root)
  if not flight.root then
    flight.root = root
  else
    if flight.leaders == NOBODY then flight.leaders = {} end
    flight.leaders[root] = true
  end
  flight.leading = flight.leading + 1
  root.flights[flight.key] = flight
end

local function leads(flight, root)
  return flight.root == root or flight.leaders[root] ~= nil
end

-- Wakes one that waits.
local function tell(self, waiter, news, err)
  waiter.news = news
  self.sched:wake(waiter.task, news, err)
end

local function close(self, flight, news)
  self.flights[flight.key] = nil
  if flight.root then flight.root.flights[flight.key] = nil end
  for root in pairs(flight.leaders) do root.flights[flight.key] = nil end
  for i = flight.first, flight.last do
    local waiter = flight.waiters[i]
    if not waiter.gone then tell(self, waiter, news) end
  end
end

-- One that led is no longer there.
local function step_down(self, flight, root, err)
  if self.flights[flight.key] ~= flight then return end -- it is over
  if flight.root == root then flight.root = nil else flight.leaders[root] = nil end
  flight.leading = flight.leading - 1
  root.flights[flight.key] = nil
  if flight.leading > 0 then return end
  local next_ones = err and flight.batch or 1
  if err then flight.batch = 2 * flight.batch end
  while next_ones > 0 and flight.waiters[flight.first] do
    local waiter = flight.waiters[flight.first]
    flight.waiters[flight.first] = nil
    flight.first = flight.first + 1
    if not waiter.gone then
      next_ones = next_ones - 1
      lead(flight, waiter.root)
      tell(self, waiter, "lead", err)
    end
  end
  if flight.leading == 0 then self.flights[flight.key] = nil end
end

local GONE = { gone = true }

-- The others may wait for long: nothing is kept of who does no more.
local function leave(waiter)
  local flight, place = waiter.flight, waiter.place
  waiter.gone = true
  if flight.waiters[place] then flight.waiters[place] = GONE end
  if waiter.news == "lead" then step_down(waiter.flights, waiter.flight, waiter.root) end
end

--- Whether somebody asks for it.
function Flights:is_open(key)
  return self.flights[key] ~= nil
end

--- Leads a flight, or waits for what becomes of one. Yields.
---@param key string
---@param root table
---@param clock table|nil told when it begins to wait
---@return "go"|"look"|"lead"|"alone" what to do: ask; or, after a wait, look again and then wait
---  for another, ask for all, or ask for itself
---@return orc.Error|nil err of the one that led before
function Flights:join(key, root, clock)
  if is_apart(self, key) then return "go" end
  local flight = self.flights[key]
  if not flight then
    flight = {
      key = key, root = nil, leaders = NOBODY, -- the first one, and the others
      leading = 0, waiters = NOBODY, first = 1, last = 0, batch = 1,
    }
    self.flights[key] = flight
    lead(flight, root)
    return "go"
  elseif leads(flight, root) then
    return "go" -- a hedge, or the next attempt
  end
  -- Others wait for the request whose function asks: two of these would wait for each other.
  local outer = root.outer
  while outer do
    if next(outer.flights) then return "go" end
    outer = outer.outer
  end
  if clock then clock:wait() end
  local waiter = { flights = self, flight = flight, root = root, task = self.sched:current(),
    place = flight.last + 1, news = nil, gone = false }
  flight.last = flight.last + 1
  if flight.waiters == NOBODY then flight.waiters = {} end
  flight.waiters[flight.last] = waiter
  return self.sched:suspend(leave, waiter)
end

--- What was asked for is there.
---@param key string
---@param root table
---@param reusable boolean whether others may use it
function Flights:landed(key, root, reusable)
  local flight = root.flights[key]
  if not reusable then
    set_apart(self, key)
  elseif self.apart[key] then
    self.apart[key], self.count = nil, self.count - 1
  end
  if flight then close(self, flight, reusable and "look" or "alone") end
end

--- What is asked for may have changed meanwhile: whoever waits looks again.
---@param key string|nil
function Flights:overtaken(key)
  local flight = key and self.flights[key]
  if flight then close(self, flight, "look") end
end

--- A request has ended; what it still leads goes to others.
---@param root table
---@param err orc.Error|nil what it failed with; nil when it was cancelled
function Flights:abandon(root, err)
  local key, flight = next(root.flights)
  while key do
    step_down(self, flight, root, err)
    key, flight = next(root.flights)
  end
end

return cache_flights
