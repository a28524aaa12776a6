-- A limit that outlives the process and is shared with others: a limiter (rate.lua) that starts
-- nothing that is not written down. What is left of the limit is a document in the state database;
-- a process takes a share of it (share.lua), and what it took counts as used before it is.
--
-- Reading and writing are apart, so a document has a version: a save fails when another process was
-- faster, and is tried again with what that one wrote.
--
-- Times in a document are of the monotonic clock, which all processes since the system started
-- share. When the system has been started anew, the wall clock tells how long ago that was; if it
-- was set back meanwhile, a limit waits a window longer at most.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local share = require "orchestrator.share"
local state = require "orchestrator.state"

local ledger = {}

local POLL = 0.002 -- seconds until we are asked again, by who does not want to be told
local TOLD = 60 -- and by who does
local SLACK = 1e-7 -- see rate.lua
local HOSTS = 200 -- whose concurrency is remembered

---@class orc.Ledger: orc.Limiter
---@field on_change function|nil called as on_change(self) when what `wait` said has changed
local Ledger = {}
Ledger.__index = Ledger

-- Documents -----------------------------------------------------------------------------------

local function is_list_of(list, form)
  if list == nil then return true end
  if type(list) ~= "table" then return false end
  for _, row in ipairs(list) do
    if type(row) ~= "table" then return false end
    for i, kind in ipairs(form) do
      if type(row[i]) ~= kind then return false end
    end
  end
  return true
end

local function is_number(v)
  return v == nil or type(v) == "number"
end

local function is_document(doc)
  return type(doc) == "table" and type(doc.at) == "number" and type(doc.wall) == "number"
    and is_number(doc.free_at) and is_number(doc.paused_until)
    and is_list_of(doc.starts, { "number", "number" })
    and is_list_of(doc.leases, { "string", "number", "number" })
    and (doc.learned == nil or type(doc.learned) == "table")
end

-- Makes a document's times those of our clock, and dates it. Returns whether they were those of
-- another; then it must be saved, or no time would go by for it when the wall clock was set back.
local function adopt(doc, now, wall, boot, per)
  local other = doc.at and (doc.boot ~= boot or doc.at > now)
  if other then
    local shift = now - math.max(wall - doc.wall, 0) - doc.at
    -- Who took something is gone: it was used before now, and a debt is a window at most.
    if doc.free_at then doc.free_at = math.min(doc.free_at + shift, now + per) end
    if doc.paused_until then doc.paused_until = doc.paused_until + shift end
    for _, start in ipairs(doc.starts or {}) do start[1] = math.min(start[1] + shift, now) end
    for _, lease in ipairs(doc.leases or {}) do lease[2] = math.min(lease[2] + shift, now) end
  end
  doc.at, doc.wall, doc.boot = now, wall, boot
  return other
end

-- The document, its version, and whether it must be saved; nil and what is wrong.
local function read(self)
  local text, version, problem = self.state:load(self.name)
  if not version then return nil, problem end
  local doc = {}
  if text then
    doc = json.decode(text)
    if not is_document(doc) then
      return nil, string.format('%s: what it says of the limit "%s" makes no sense: delete the file'
        .. " when no run needs it, and the limits start anew", self.state.path, self.name)
    end
  end
  local dirty = adopt(doc, self.sched:now(), self.wall(), self.state.boot, self.per)
  return doc, version, dirty
end

-- What everybody learns from a document, and what it learns from us beyond our share; returns
-- whether it has to be saved for that.
local function merge(self, doc, dirty)
  if self.paused > (doc.paused_until or -math.huge) and self.paused > doc.at then
    doc.paused_until, dirty = self.paused, true
  end
  self.paused = math.max(self.paused, doc.paused_until or -math.huge)
  doc.learned = doc.learned or {}
  for host, limit in pairs(self.lessons) do
    if doc.learned[host] ~= limit then doc.learned[host], dirty = limit, true end
  end
  local count = 0
  for host in pairs(doc.learned) do
    count = count + 1
    if count > 5 * HOSTS and self.lessons[host] == nil then doc.learned[host] = nil end
  end
  self.learned_limits = doc.learned
  return dirty
end

-- Exchange ------------------------------------------------------------------------------------

local exchange

local function fail(self, problem)
  self.broken, self.busy = true, false
  -- Not at once: who asks how long to wait is in the midst of something.
  self.sched:at(self.sched:now(), self.on_broken,
    errors.new("invalid", problem, { fault = "state" }))
  if self.leaving then self.leaving(self) end
end

-- A share that is not used up has to be told of.
local function watch(self)
  local due = self.share:due()
  if not due or self.watching or self.leaving then return end
  self.watching = self.sched:at(due, function()
    self.watching = nil
    due = self.share:due()
    if due and due <= self.sched:now() then exchange(self) else watch(self) end
  end)
end

-- What we wanted to do is done, at once or when it was saved.
local function finish(self, saved)
  self.busy, self.need = false, 0
  if self.again then
    self.again = false
    return exchange(self)
  elseif self.leaving then
    return exchange(self)
  end
  watch(self)
  if saved and self.on_change then self.on_change(self) end
end

local function attempt(self)
  local doc, version, dirty = read(self)
  if not doc then return fail(self, version) end
  local leaving = self.leaving
  dirty = merge(self, doc, dirty)
  local apply
  if leaving then
    apply = self.share:leave(doc, doc.at)
  else -- what is taken during a pause would be over by its end
    apply = self.share:draw(doc, doc.at, self.paused > doc.at and 0 or self.need)
  end
  if not apply and not dirty then return (leaving or finish)(self) end
  self.state:save(self.name, version, assert(json.encode(doc)), function(saved, problem)
    if problem then return fail(self, problem) end
    if not saved then return attempt(self) end
    if apply then apply(self.sched:now()) end
    return (leaving or finish)(self, true)
  end)
end

function exchange(self)
  if self.busy or self.broken then return end
  self.busy = true
  attempt(self)
end

-- The limiter ---------------------------------------------------------------------------------

--- Seconds until a start is due, 0 when one is. To ask for now means to want it; what is asked for
--- a later time is answered from what we have.
function Ledger:wait(now, weight)
  weight = weight or 1
  if self.broken then return TOLD end
  if now < self.paused then return self.paused - now end
  local wait, more = self.share:wait(now, weight)
  if more and not self.leaving and now <= self.sched:now() + SLACK then
    self.need = math.max(self.need, weight)
    exchange(self)
    -- We have read what others wrote, and may know when there is something to be had.
    if now < self.paused then return self.paused - now end
    if not wait then wait = self.share:wait(now, weight) end
  end
  return wait or (self.busy and self.on_change and TOLD or POLL)
end

function Ledger:take(now, weight)
  self.share:take(now, weight or 1)
end

--- Gives a start back that was not made after all.
---@param taken number when it was taken
function Ledger:refund(taken, weight)
  self.share:refund(taken, weight or 1)
end

--- Nobody starts until then, in all processes.
---@param until_time number
function Ledger:pause(until_time)
  if until_time <= self.paused then return end
  self.paused = until_time
  self.again = self.busy
  exchange(self)
end

--- How many requests at once a host was found to bear; nil when that is not known.
---@param host string
---@return number|nil
function Ledger:learned(host)
  return self.lessons[host] or self.learned_limits[host]
end

--- Remembers that for later runs. It is written with what is written next.
function Ledger:learn(host, limit)
  if self.lessons[host] == nil then
    if self.taught >= HOSTS then return end
    self.taught = self.taught + 1
  end
  self.lessons[host] = limit
end

--- Puts back what is left of our share, then calls `done(self)`. It is the end.
function Ledger:leave(done)
  if self.broken then return done(self) end
  self.leaving = done
  if self.watching then self.watching:cancel() end
  self.watching = nil
  exchange(self)
end

--- The limiter of a named limit. Reads the state.
---@param opts table {sched, wall: fun(): number, state, rate: orc.Rate with a name,
---  holder: string that no other process has, on_broken: fun(err) once, when there is no going on}
---@return orc.Ledger|nil limiter, string? problem
function ledger.new(opts)
  local self = setmetatable({
    sched = opts.sched,
    wall = opts.wall,
    state = opts.state,
    name = opts.rate.name,
    most = math.max(opts.rate.limit, opts.rate.window and 0 or math.max(opts.rate.burst or 1, 1)),
    per = opts.rate.per,
    on_broken = opts.on_broken,
    share = share.new(opts.rate, opts.holder),
    paused = -math.huge, -- until then nobody starts
    need = 0, -- what the heaviest start asked for needs
    busy = false, -- a save is under way
    again = false, -- when that is done, there is more to save
    leaving = nil, -- function: we are to leave
    watching = nil, -- timer
    lessons = {}, taught = 0, -- host → concurrency, ours
    learned_limits = {}, -- everybody's
    broken = false,
    on_change = nil,
  }, Ledger)
  local doc, problem = read(self)
  if not doc then return nil, problem end
  merge(self, doc)
  return self
end

-- What no other process has. Nothing is secret about it.
local function holder_of(host)
  local parts = {}
  for i = 1, 4 do parts[i] = string.format("%06x", host.random() * 2 ^ 24) end
  return table.concat(parts)
end

--- The limiter of a named limit of a program; the program leaves it in `ledger.close`.
---@param env table {sched, host, state, ledgers, broken: fun(err)|nil} of the program
---@param given orc.Rate
---@return orc.Ledger
function ledger.open(env, given)
  if not json.encode(given.name) then
    options.fail("client.rate_limit", '"name" must be UTF-8')
  end
  local store, problem = state.open(env)
  local limiter
  if store then
    limiter, problem = ledger.new {
      sched = env.sched, wall = env.host.wall, state = store, rate = given,
      holder = holder_of(env.host),
      on_broken = function(err)
        if env.broken then env.broken(err) end
      end,
    }
  end
  if not limiter then options.fail("client.rate_limit", problem) end
  env.ledgers = env.ledgers or {}
  table.insert(env.ledgers, limiter)
  return limiter
end

--- Leaves all limits of a program. Yields.
function ledger.close(env)
  local sched, left = env.sched, 0
  local me = sched:current()
  local function done()
    left = left - 1
    if left == 0 then sched:wake(me) end
  end
  local ledgers = env.ledgers or {}
  left = #ledgers
  for _, limiter in ipairs(ledgers) do limiter:leave(done) end
  if left > 0 then sched:suspend() end
end

return ledger
