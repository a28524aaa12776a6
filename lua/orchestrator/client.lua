-- A client: settings that requests share, and what they share at run time — slots, rate limit and
-- retry budget.

local auth = require "orchestrator.auth"
local cache_key = require "orchestrator.cache_key"
local cache_program = require "orchestrator.cache_program"
local circuit = require "orchestrator.circuit"
local fetch = require "orchestrator.fetch"
local govern = require "orchestrator.govern"
local hosts = require "orchestrator.hosts"
local ledger = require "orchestrator.ledger"
local limits = require "orchestrator.limits"
local options = require "orchestrator.options"
local profile = require "orchestrator.profile"
local rate = require "orchestrator.rate"
local request = require "orchestrator.request"
local retry = require "orchestrator.retry"
local server = require "orchestrator.server"
local tls = require "orchestrator.tls"
local url = require "orchestrator.url"

local client = {}

---@class orc.Client
local Client = {}
Client.__index = Client

local CONCURRENCY = {
  total = { type = { "integer", { one_of = { "auto" } } }, min = 1, default = 50 },
  per_host = { type = "integer", min = 1 },
  pool = { type = "string" },
}

-- One rate or a list of them, always as a list.
local function rates_of(given)
  if type(given) ~= "table" or given[1] == nil then given = { given } end
  local list, named = {}, {}
  for key in pairs(given) do
    if type(key) ~= "number" then
      return nil, string.format('must be one rate or a list of rates: "%s" belongs into an '
        .. 'element, as in { { limit = 2, per = "1s", name = "x" } }', tostring(key))
    end
  end
  for i, element in ipairs(given) do
    local one, message = options.rate(element)
    if not one then return nil, (given[2] and "element " .. i .. " " or "") .. message end
    if one.name and named[one.name] then
      return nil, string.format('must not name "%s" twice', one.name)
    end
    list[i], named[one.name or i] = one, true
  end
  return list
end

local SCHEMA = request.common_schema()
SCHEMA.base_url = { type = "string" }
SCHEMA.auth = { type = "table" }
SCHEMA.concurrency = { type = { "integer", { one_of = { "auto" } }, "table" } }
SCHEMA.circuit_breaker = { type = { "boolean", "table" }, default = false }
SCHEMA.rate_limit = { type = "any", check = rates_of }
SCHEMA.server_limits = { type = "boolean", default = true }
SCHEMA.allow_hosts = { type = "table" }
for name, rule in pairs(profile.schema()) do SCHEMA[name] = rule end

-- The limiter of a rate; one per name in a program, and it outlives that.
local function limiter_of(env, given)
  if not given.name then return rate.limiter(given) end
  local known = env.limiters[given.name]
  if not known then
    known = { rate = given, limiter = ledger.open(env, given) }
    env.limiters[given.name] = known
  end
  for _, field in ipairs { "limit", "per", "burst", "window" } do
    if known.rate[field] ~= given[field] then
      options.fail("client", string.format(
        'the rate limit named "%s" was given before with another "%s"', given.name, field))
    end
  end
  return known.limiter
end

-- What all clients of a program know of servers' own limits.
local function servers_of(env)
  env.servers = env.servers or server.new {
    sched = env.sched, wall = env.host.wall, random = env.host.random,
    say = function(text)
      if env.voice then env.voice.log:info(text) end
    end,
  }
  return env.servers
end

-- The slots that clients share which name the same pool; those of a client that names none are its
-- own.
local function slots_of(env, given)
  local auto = given.total == "auto"
  local total = env.concurrency or (auto and govern.MOST) or given.total
  local opts = {
    total = total, per_host = given.per_host,
    name = given.pool and "pool " .. given.pool,
    adaptive = auto and govern.adaptive(math.min(total, given.per_host or total)) or nil,
  }
  if not given.pool then return limits.slots(opts) end
  env.pools = env.pools or {}
  local known = env.pools[given.pool]
  if not known then
    known = { given = given, slots = limits.slots(opts) }
    env.pools[given.pool] = known
  end
  for _, field in ipairs { "total", "per_host" } do
    if known.given[field] ~= given[field] then
      options.fail("client.concurrency", string.format(
        'the pool named "%s" was given before with another "%s"', given.pool, field))
    end
  end
  return known.slots
end

-- The auth options of a client: replaced by credentials that are the same for every request, or by
-- nothing when they make an object, which is returned.
local function authenticator(env, opts, network, allowed, warn)
  if not opts.auth then return nil end
  local dynamic
  opts.auth, dynamic = auth.check(opts.auth, {
    sched = env.sched,
    wall = env.host.wall,
    random = env.host.random,
    idn = env.host.idn,
    warn = warn,
    say = servers_of(env).say,
    heeds = opts.server_limits,
    client = function(given)
      local plain = client.new(env, given)
      plain.network, plain.allowed = network, allowed
      return plain
    end,
  })
  return dynamic
end

---@param env table {sched, host, limiters, proxies, version, concurrency = integer?} of the program
---@param given table|nil the options of the contract
---@return orc.Client
function client.new(env, given)
  local opts = options.check("client", given, SCHEMA)
  if opts.base_url then
    local u, problem = url.parse(opts.base_url, env.host.idn)
    if not u then options.fail("client", '"base_url" is not a URL: ' .. problem) end
  end
  local concurrency = opts.concurrency
  if type(concurrency) ~= "table" then concurrency = { total = concurrency } end
  concurrency = options.check("client.concurrency", concurrency, CONCURRENCY)
  local network = profile.new(env, opts)
  local function warn(text)
    if not env.voice then return end
    local place = options.place()
    env.voice.log:warn((place and place .. ": client: " or "client: ") .. text)
  end
  local warning = tls.warning(network.spec)
  if warning then warn(warning) end
  local allowed = opts.allow_hosts
    and hosts.allow(opts.allow_hosts, "client.allow_hosts", env.host.idn)
  local credentials = opts.auth
  local dynamic = authenticator(env, opts, network, allowed, warn)
  local defaults = request.defaults(opts, env.version, env.host.idn, env.cache_mode)
  local kept = defaults.__index.cache
  local limiters = {}
  for i, one in ipairs(opts.rate_limit or {}) do limiters[i] = limiter_of(env, one) end
  return setmetatable({
    env = env,
    sched = env.sched,
    host = env.host,
    idn = env.host.idn,
    defaults = defaults,
    cache = kept and cache_program.of(env, "client", kept) or nil, -- or when a request wants it
    identity = cache_key.identity(env, dynamic and credentials, network),
    allowed = allowed,
    network = network,
    auth = dynamic,
    budget = retry.budget(defaults.__index.retry.budget),
    pool = limits.pool(env.sched, {
      slots = slots_of(env, concurrency),
      limiters = limiters,
      servers = servers_of(env),
      circuits = circuit.new(opts.circuit_breaker, {
        sched = env.sched,
        warn = function(text)
          if env.voice then env.voice.log:warn(text) end
        end,
      }),
      -- With several credentials what a server says is about one of them (rotation.lua).
      heeds = opts.server_limits and not (dynamic and dynamic.rotates),
    }),
  }, Client)
end

--- The program's cache, for a request that wants it.
---@return orc.Cache
function Client:use_cache()
  self.cache = self.cache or cache_program.of(self.env, "request")
  return self.cache
end

---@return boolean
function client.is(value)
  return getmetatable(value) == Client
end

--- Fetches a URL or a request table. Yields.
---@param observer table|nil ours, not the script's: see fetch.lua
---@return table|nil res, table? err
function Client:fetch(given, observer)
  if observer ~= nil and (type(observer) ~= "table" or not observer.attempt) then
    options.fail("fetch", "expects one argument: put options in it, as { url = …, timeout = … }")
  end
  return fetch.fetch(self, given, observer)
end

return client
