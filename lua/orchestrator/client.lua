-- A client: settings that requests share, and what they share at run time — slots, rate limit and
-- retry budget.

local auth = require "orchestrator.auth"
local fetch = require "orchestrator.fetch"
local hosts = require "orchestrator.hosts"
local limits = require "orchestrator.limits"
local options = require "orchestrator.options"
local profile = require "orchestrator.profile"
local rate = require "orchestrator.rate"
local request = require "orchestrator.request"
local retry = require "orchestrator.retry"
local tls = require "orchestrator.tls"
local url = require "orchestrator.url"

local client = {}

---@class orc.Client
local Client = {}
Client.__index = Client

local CONCURRENCY = {
  total = { type = "integer", min = 1, default = 50 },
  per_host = { type = "integer", min = 1 },
}

local SCHEMA = request.common_schema()
SCHEMA.base_url = {
  type = "string",
  check = function(text)
    local u, problem = url.parse(text)
    if not u then return nil, "is not a URL: " .. problem end
    return text
  end,
}
SCHEMA.auth = { type = "table" }
SCHEMA.concurrency = { type = { "integer", "table" } }
SCHEMA.rate_limit = { type = "rate" }
SCHEMA.allow_hosts = { type = "table" }
for name, rule in pairs(profile.schema()) do SCHEMA[name] = rule end

-- The limiter of a rate; one per name in a program.
local function limiter_of(limiters, given)
  if not given then return nil end
  if not given.name then return rate.limiter(given) end
  local known = limiters[given.name]
  if not known then
    known = { rate = given, limiter = rate.limiter(given) }
    limiters[given.name] = known
  end
  for _, field in ipairs { "limit", "per", "burst", "window" } do
    if known.rate[field] ~= given[field] then
      options.fail("client", string.format(
        'the rate limit named "%s" was given before with another "%s"', given.name, field))
    end
  end
  return known.limiter
end

-- The auth options of a client: replaced by credentials that are the same for every request, or by
-- nothing when they make an object, which is returned.
local function authenticator(env, opts, network, allowed, warn)
  if not opts.auth then return nil end
  local dynamic
  opts.auth, dynamic = auth.check(opts.auth, {
    sched = env.sched,
    wall = env.host.wall,
    warn = warn,
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
  local concurrency = opts.concurrency
  if type(concurrency) == "number" then concurrency = { total = concurrency } end
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
  local dynamic = authenticator(env, opts, network, allowed, warn)
  local defaults = request.defaults(opts, env.version)
  return setmetatable({
    sched = env.sched,
    host = env.host,
    idn = env.host.idn,
    defaults = defaults,
    allowed = allowed,
    network = network,
    auth = dynamic,
    budget = retry.budget(defaults.__index.retry.budget),
    pool = limits.pool(env.sched, {
      total = env.concurrency or concurrency.total,
      per_host = concurrency.per_host,
      limiter = limiter_of(env.limiters, opts.rate_limit),
    }),
  }, Client)
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
