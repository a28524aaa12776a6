-- The cache of a program, between an attempt's hops and the network: each hop is answered from what
-- is stored, asks whether that is still good, or brings something new. What may be done is decided
-- by cache_policy.lua, cache_refresh.lua and cache_ranges.lua; here it is done.
--
-- What a hop brings is stored when the request has been judged (`settle`): what the script takes
-- for a failure is not kept. Until then others that miss the same wait (cache_flights.lua).

local body = require "orchestrator.body"
local cache_background = require "orchestrator.cache_background"
local cache_doubles = require "orchestrator.cache_doubles"
local cache_entry = require "orchestrator.cache_entry"
local cache_flights = require "orchestrator.cache_flights"
local cache_key = require "orchestrator.cache_key"
local cache_quick = require "orchestrator.cache_quick"
local cache_policy = require "orchestrator.cache_policy"
local cache_ranges = require "orchestrator.cache_ranges"
local cache_refresh = require "orchestrator.cache_refresh"
local cache_result = require "orchestrator.cache_result"
local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"

local asked_for, limited = cache_result.asked, cache_result.limited
local not_cached, refused = cache_result.not_cached, cache_result.refused
local result_of = cache_result.stored

local cache = {}

local MOST_GONE = 10 -- entries of a key whose body is not there
local MOST_WAITS = 3 -- for others that ask for the same
local TURN = 100 -- answers out of the store before the loop has a look at the world

---@class orc.Cache
---@field store table see cache_memory.lua
---@field flights orc.CacheFlights
---@field background orc.CacheBackground
local Cache = {}
Cache.__index = Cache

---@param sched orc.Scheduler
---@param store table see cache_memory.lua
---@param say fun(err: orc.Error)|nil told of what goes wrong in the background
function cache.new(sched, store, say)
  return setmetatable({
    sched = sched, store = store, flights = cache_flights.new(sched),
    background = cache_background.new(sched, say or function() end),
    asking = setmetatable({}, { __mode = "k" }), -- lookup → the URL that is asked for because of it
    hits = 0, -- since the last rest
  }, Cache)
end

-- Answers -----------------------------------------------------------------------------------------

-- Out of the store; nil when the body is gone.
local function answer(self, plan, decision, now)
  local entry, part = decision.entry, decision.part
  local age = cache_entry.age(entry, now)
  if decision.not_modified then
    local result = result_of(entry, "", decision.use, age, age)
    result.status = 304
    return result
  end
  local text = self.store:body(entry)
  if not text then
    self.store:remove(entry)
    return nil
  end
  if part and part.from then
    entry, text = cache_ranges.of(entry, part), text:sub(part.from, part.to)
  end
  if plan.method == "HEAD" then text = "" end
  return limited(plan, result_of(entry, text, decision.use, age, age))
end

local NONE = {}
local NOTHING = { fetch = true, headers = {} } -- a decision

-- Looking -----------------------------------------------------------------------------------------

local reloads = setmetatable({}, { __mode = "k" }) -- options → the same with another mode

local function reloading(opts)
  local reload = reloads[opts]
  if not reload then
    reload = {}
    for name, value in pairs(opts) do reload[name] = value end
    reload.mode = "reload"
    reloads[opts] = reload
  end
  return reload
end

-- Whether nobody here knows whose it is, as the cookies are in a jar.
local function is_someones(client, plan, entry)
  return client.identity.jar and not plan.cache.key and cache_entry.is_personal(entry)
end

-- What is stored that may be for who asks.
local function stored_for(self, client, plan, key)
  local entries = self.store:get(key)
  if entries[2] then entries = cache_doubles.without(self.store, entries) end
  if not client.identity.jar then return entries end
  local known = {}
  for _, entry in ipairs(entries) do
    if not is_someones(client, plan, entry) then known[#known + 1] = entry end
  end
  return known
end

-- What is stored for a request, and what to do with it.
---@param key string|nil as `entries`
---@param entries orc.CacheEntry[]|nil when they are known
local function look(self, client, plan, key, entries)
  local now, opts = client.host.wall(), plan.cache
  key = key or cache_key.of(client, plan)
  if plan.reload then opts = reloading(opts) end
  entries = entries or stored_for(self, client, plan, key)
  return {
    key = key, entries = entries, opts = opts, now = now,
    decision = cache_quick.misses(plan, entries, opts) and NOTHING
      or cache_policy.decide(plan, entries, now, opts),
    flight = nil, -- see `bring`
  }
end

-- Answers, if what was found may be used; looks again where it is gone.
local function answer_found(self, client, plan, lookup)
  local gone = 0
  while lookup.decision.use and gone < MOST_GONE do
    local result = answer(self, plan, lookup.decision, lookup.now)
    if result then return result, lookup end
    lookup, gone = look(self, client, plan), gone + 1
  end
  local decision = lookup.decision
  if decision.fail or decision.use and lookup.opts.mode == "only-if-cached" then
    return not_cached(), lookup
  end
  if decision.use then lookup.decision = NOTHING end
  return nil, lookup
end

-- What is answered most.
local function quick(self, client, plan, entries)
  local now = client.host.wall()
  local entry = not plan.reload and cache_quick.pick(plan, entries, now, plan.cache)
  local text = entry and self.store:body(entry)
  if not text or plan.max_body > 0 and #text > plan.max_body then return nil end
  local age = entry.born + now - entry.response_time
  return result_of(entry, text, "fresh", age, age)
end

-- Asking ------------------------------------------------------------------------------------------

local function with_headers(plan, more)
  if not next(more) then return plan end
  local asking = setmetatable({}, getmetatable(plan))
  for name, value in pairs(plan) do asking[name] = value end
  asking.fields = headers.merge(plan.fields, more)
  asking.headers = assert(headers.text(asking.fields))
  return asking
end

-- The entry that a response would be, with what it replaces, until the request is judged.
local function offer(self, plan, lookup, given, text)
  local vary = lookup.opts.vary
  local entry = cache_entry.new(given, vary)
  local replaced = NONE
  -- Who leads a flight is alone to store that.
  local root = plan.root
  local leads = lookup.flight and root and root.flights[lookup.flight]
  local others = leads and lookup.entries or self.store:get(lookup.key)
  for i = 1, #others do
    local other = others[i]
    local same = cache_entry.matches(other, plan, vary)
    if same and (not entry.range or other.range) then
      local stored = entry.range and self.store:body(other)
      local combined, all
      if stored then combined, all = cache_ranges.combined(other, stored, entry, text) end
      local alike = cache_ranges.are_alike(entry, other)
      if combined then entry, text = combined, all end
      -- Parts of one body that leave a gap are kept both.
      if combined or not entry.range or not alike then
        if replaced == NONE then replaced = {} end
        replaced[#replaced + 1] = other
      end
    end
  end
  entry.key = lookup.key
  entry.named = plan.cache.key and plan.named and cache_key.shown_name(plan.named) or nil
  return { entry = entry, body = text, replaced = replaced, plan = plan, lookup = lookup }
end

-- Whether those who ask for the same may use what is now stored.
local function land(self, plan, lookup, entry, now)
  local key, root = lookup.flight, plan.root
  if not key or not root then return end
  local list = entry and { entry }
  local reusable = list and (cache_quick.pick(plan, list, now, lookup.opts) ~= nil
    or cache_policy.decide(plan, list, now, lookup.opts).use ~= nil)
  self.flights:landed(key, root, reusable or false)
end

-- What may not be written down: what nobody knows whose it is, and what is secret.
local function is_private(client, plan, entry)
  if is_someones(client, plan, entry) then return true end
  local lines = cache_entry.lines(entry)
  if secret.mask(lines) ~= lines then return true end
  for _, sent in pairs(entry.vary) do
    if secret.mask(sent) ~= sent then return true end
  end
  return false
end

-- Puts what an answer made of an entry in its place, if it may still be stored.
local function renew(self, client, plan, entry, new)
  if not new then return nil end
  if cache_policy.may_stay(new) and not is_private(client, plan, new) then
    self.store:update(entry, cache_quick.prepared(new))
    return new
  end
  self.store:remove(entry)
end

-- A 304 to the conditions we added, and what it makes of the entry.
local function confirm(self, client, plan, lookup, given)
  local entry, part = lookup.decision.entry, lookup.decision.part
  local text = self.store:body(entry)
  if not text then return nil end
  local new = cache_refresh.confirmed(entry, given, lookup.opts.vary)
  land(self, plan, lookup, renew(self, client, plan, entry, new), given.response_time)
  entry = new or entry
  if part and part.from then
    entry, text = cache_ranges.of(entry, part), text:sub(part.from, part.to)
  end
  if plan.method == "HEAD" then text = "" end
  return limited(plan,
    result_of(entry, text, "revalidated", cache_entry.age(entry, given.response_time)))
end

-- What is asked for now may come as it was before.
local function outdate(self, url, key)
  for lookup, asked in pairs(self.asking) do
    if asked == url or lookup.key == key then
      lookup.outdated = true
      self.flights:overtaken(lookup.flight)
    end
  end
end

-- What an answer to a method other than GET does.
local function have_effect(self, client, plan, given)
  if plan.method == "HEAD" and given.status == 200 then
    local vary = plan.cache.vary
    for _, entry in ipairs(self.store:get(cache_key.of(client, plan))) do
      if cache_entry.matches(entry, plan, vary) and not entry.range then
        local new = cache_refresh.by_head(entry, given, vary)
        if new then renew(self, client, plan, entry, new) else self.store:remove(entry) end
      end
    end
  elseif not cache_policy.is_safe(plan.method) then
    for _, url in ipairs(cache_refresh.voided(given)) do
      self.store:void(cache_key.shown(url))
      outdate(self, url)
    end
    if plan.cache.key and given.status < 400 then
      local key = cache_key.of(client, plan)
      for _, entry in ipairs(self.store:get(key)) do self.store:remove(entry) end
      outdate(self, nil, key)
    end
  end
end

local function given_by(client, plan, result)
  local here = client.host.wall()
  return {
    request = plan, url = cache_key.shown(plan.url), status = result.status,
    fields = cache_entry.received(result.head), size = result.size,
    request_time = here - result.elapsed, response_time = here,
  }
end

local ask

-- The same without what was added, as that came to nothing.
local function ask_plainly(self, client, plan, lookup, send, elapsed)
  lookup.decision = NOTHING
  local again = ask(self, client, plan, lookup, send)
  again.elapsed = again.elapsed + elapsed
  return again
end

function ask(self, client, plan, lookup, send)
  local decision = lookup.decision
  local added = decision.headers or NOTHING.headers
  local asking = with_headers(plan, added)
  self.asking[lookup] = plan.url
  local result = send(client, asking)
  self.asking[lookup], plan.relayed = nil, asking.relayed
  if result.fault or result.error then return result end
  local given = given_by(client, plan, result)
  local entry = decision.entry
  if result.status == 416 and added.Range then
    return ask_plainly(self, client, plan, lookup, send, result.elapsed)
  elseif result.status == 304 then
    if entry and (added["If-None-Match"] or added["If-Modified-Since"]) then
      local confirmed = confirm(self, client, plan, lookup, given)
      return confirmed and asked_for(confirmed, result)
        or ask_plainly(self, client, plan, lookup, send, result.elapsed)
    elseif entry then
      renew(self, client, plan, entry,
        cache_refresh.confirmed(entry, given, lookup.opts.vary))
    end
    return result
  end
  have_effect(self, client, plan, given)
  if not result.body or plan.method == "HEAD" then return result end
  local offered = offer(self, plan, lookup, given, result.body)
  if result.status == 206 and added.Range then -- the rest
    if offered.entry.status ~= 200 then
      return ask_plainly(self, client, plan, lookup, send, result.elapsed)
    end
    result = asked_for(limited(plan, result_of(offered.entry, offered.body, nil)), result)
    if result.fault then return result end
  end
  result.offered = offered
  self.asking[lookup] = plan.url -- until it is stored
  return result
end

--- For cache_background.lua.
Cache.ask = ask

-- Together ----------------------------------------------------------------------------------------

-- What may be used instead of an error.
local function keep_stale(plan, lookup)
  local root = plan.root
  if not root then return end
  root.url = plan.url
  if not lookup.decision.entry then return end
  root.stale = root.stale or {}
  root.stale[plan.url] = { plan = plan, decision = lookup.decision }
end

-- Asks the server, unless somebody does already whose answer will do. Yields.
local function bring(self, client, plan, lookup, send)
  local root = plan.root
  for waited = 0, MOST_WAITS do
    local key = root and waited < MOST_WAITS and cache_flights.key_of(plan, lookup)
    if not key or plan.method == "HEAD" and not self.flights:is_open(key) then break end
    local news, err = self.flights:join(key, root, plan.clock)
    if news == "go" then
      lookup.flight = key
      break
    end
    local result
    result, lookup = answer_found(self, client, plan, look(self, client, plan))
    lookup.flight = key
    if not result and err then
      result = self:rescue_with(client, plan, lookup.decision, err)
      if result then result.instead_of = err end
    end
    if result then
      -- The others may do the same.
      if err then
        self.flights:abandon(root, err)
      else
        self.flights:landed(key, root, true)
      end
      return result
    end
    if news ~= "look" or lookup.decision.entry then break end
  end
  keep_stale(plan, lookup)
  return ask(self, client, plan, lookup, send)
end

-- What a GET asks for that is not kept as a whole, or a method that is no reading, past the store.
local function pass(self, client, plan, send)
  if plan.cache.mode == "only-if-cached" then return not_cached() end
  local result = send(client, plan)
  if result.status and not cache_policy.is_safe(plan.method) then
    have_effect(self, client, plan, given_by(client, plan, result))
  end
  return result
end

--- A hop, from the store or from the network. Yields.
---@param client table
---@param plan table its `cache` says how, `root` what its request holds
---@param send fun(client: table, plan: table): table does the hop
---@param only_stored boolean|nil nothing is asked for now
---@return table|nil result nil when something has to be asked for
function Cache:hop(client, plan, send, only_stored)
  local is_read = plan.method == "GET" or plan.method == "HEAD"
  -- A GET with a body means whatever its server makes of it.
  if not is_read and (plan.stream or plan.save or plan.pull) or is_read and body.of(plan) then
    if only_stored and plan.cache.mode ~= "only-if-cached" then return nil end
    return pass(self, client, plan, send)
  end
  if client.allowed then
    local ok, message = client.allowed(plan.u)
    if not ok then return refused("host_not_allowed", message) end
  end
  local lookup = plan.lookup
  plan.lookup = nil
  if not lookup then
    local key = cache_key.of(client, plan)
    local entries = stored_for(self, client, plan, key)
    local result = quick(self, client, plan, entries)
    if result then return result end
    result, lookup = answer_found(self, client, plan, look(self, client, plan, key, entries))
    if result then
      if lookup.decision.background then
        self.background:refresh(self, client, plan, lookup, send)
      end
      return result
    elseif only_stored then
      plan.lookup = lookup
      return nil
    end
  end
  -- What is read bit by bit, or goes to a file, is not kept.
  if plan.stream or plan.save then
    local decision = lookup.decision
    keep_stale(plan, lookup)
    local asking = decision.entry and plan or with_headers(plan, decision.headers)
    local result = send(client, asking)
    plan.relayed = asking.relayed
    return result
  end
  return bring(self, client, plan, lookup, send)
end

-- Judged ------------------------------------------------------------------------------------------

local ERRORS = { [500] = true, [502] = true, [503] = true, [504] = true } -- RFC 5861 section 4
local NO_ANSWER = { connect = true, dns = true, network = true, protocol = true, timeout = true }

--- What is stored, instead of an error, where that is allowed.
---@return table|nil result
function Cache:rescue_with(client, plan, decision, err)
  local now = client.host.wall()
  if not decision.entry or not (NO_ANSWER[err.kind] or ERRORS[err.status]) then return nil end
  if not cache_policy.serves_errors(plan, decision.entry, now, plan.cache) then return nil end
  local result = answer(self, plan,
    { use = "stale", entry = decision.entry, part = decision.part }, now)
  return result and not result.fault and result or nil
end

--- The same for a request that has failed, or was answered by an error.
---@param plan table its first hop's
---@param err table|orc.Error {kind, status, url} of the last
---@return table|nil result, string? url, orc.Hop[]? hops
function Cache:rescue(client, plan, err)
  local stale = plan.root and plan.root.stale and plan.root.stale[err.url]
  if not stale then return nil end
  local result = self:rescue_with(client, stale.plan, stale.decision, err)
  return result, err.url, stale.plan.passed
end

--- A response has been judged: stores what it brought.
---@param client table
---@param result table
---@param accepted boolean false when it is an error to who asked
function Cache:settle(client, result, accepted)
  local offered = result.offered
  if not offered then return end
  result.offered = nil
  local plan, lookup, entry = offered.plan, offered.lookup, offered.entry
  self.asking[lookup] = nil
  if lookup.outdated then return end
  local stored = cache_policy.storable(plan, entry, lookup.opts, accepted)
    and not is_private(client, plan, entry)
  if stored then
    stored = self.store:put(cache_quick.prepared(entry), offered.body, offered.replaced)
  end
  -- An error that is not stored is no answer: then somebody else tries.
  if stored or accepted then land(self, plan, lookup, stored and entry, entry.response_time) end
end

--- Called after an answer that took no waiting: a script that has but such must not keep others
--- from their turn, nor go on when it is to end. May yield.
function Cache:rest()
  local cancelled = self.sched:current().cancelled
  if cancelled then error(cancelled, 0) end
  self.hits = self.hits + 1
  if self.hits < TURN then return end
  self.hits = 0
  self.sched:sleep(0)
end

return cache
