-- How a client reaches hosts: TLS settings, proxy, guard, socket, addresses, cookies. Transfers of
-- different settings must never share a connection, so each set of them is a profile of the host's
-- (src/host.h), made when it is first needed and shared by all clients that have the same. It is
-- closed when the last of them is gone.

local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local options = require "orchestrator.options"
local proxy = require "orchestrator.proxy"
local resolve_map = require "orchestrator.resolve_map"
local tls = require "orchestrator.tls"

local profile = {}

local MOST_ROUTES = 1000 -- of a client that are remembered
local MANY = 50 -- profiles that are made before those of no use are looked for
local LONGEST_SOCKET = 107 -- bytes that fit into sockaddr_un

---@class orc.Network
---@field plain boolean it changes nothing but for hops that stream
---@field proxies orc.ProxyChoice|nil
---@field resolve orc.ResolveMap|nil
---@field spec table fields of host.profile that all hops have
---@field routes table<string, table> by origin: what `aim` puts on a plan
---@field streaming table<string, table> the same for hops that stream
---@field held table<table, boolean> the profiles in them, which live as long as the network
local Network = {}
Network.__index = Network

--- Options of a client.
function profile.schema()
  return {
    tls = { type = "table" },
    proxy = { type = { "secret", "table", { one_of = { false } } } },
    deny_private = { type = "boolean" },
    resolve = { type = "table" },
    unix_socket = {
      type = "string",
      check = function(path)
        if path == "" or path:find "%z" then return nil, "must be the path of a socket" end
        if #path > LONGEST_SOCKET then
          return nil, ("must be at most %d bytes long"):format(LONGEST_SOCKET)
        end
        return path
      end,
    },
    cookies = { type = "boolean" },
  }
end

local EXCLUSIVE = {
  { "unix_socket", "proxy" },
  { "unix_socket", "resolve" },
  { "deny_private", "unix_socket" }, -- a socket has no address
  -- A proxy looks names up itself and connects where it likes.
  { "deny_private", "proxy" },
}

---@param env table {host, proxies: orc.ProxyChoice? of the environment} of the program
---@param opts table the client's checked options
---@return orc.Network
function profile.new(env, opts)
  for _, pair in ipairs(EXCLUSIVE) do
    if opts[pair[1]] and opts[pair[2]] then
      options.fail("client", ('"%s" and "%s" exclude each other'):format(pair[1], pair[2]))
    end
  end
  local idn = env.host.idn
  local self = { env = env, host = env.host, count = 0, routes = {}, streaming = {}, held = {} }
  self.spec = opts.tls and tls.check(opts.tls, "client.tls") or {}
  self.spec.guard = opts.deny_private or nil
  self.spec.unix = opts.unix_socket
  if opts.cookies then
    env.jars = (env.jars or 0) + 1
    self.spec.jar = env.jars
  end
  if opts.resolve then self.resolve = resolve_map.check(opts.resolve, "client.resolve", idn) end
  if opts.proxy then
    self.proxies = proxy.check(opts.proxy, "client.proxy", idn)
  elseif opts.proxy == nil and not opts.unix_socket then
    self.proxies = env.proxies
  end
  self.plain = not (next(self.spec) or self.resolve or self.proxies)
  return setmetatable(self, Network)
end

-- A profile of the host's that is closed when nobody refers to it any more.
local function hold(host, id)
  local guard = newproxy(true)
  getmetatable(guard).__gc = function() host.profile_close(id) end
  return { id = id, guard = guard }
end

-- Lua does not know what a profile takes elsewhere, and may be in no hurry to find out which are of
-- no use any more.
local function make_room(env)
  local profiles = env.profiles
  profiles.made = profiles.made + 1
  if profiles.made < profiles.most then return end
  collectgarbage()
  local live = 0
  for _ in pairs(profiles.by_key) do live = live + 1 end
  profiles.made, profiles.most = 0, math.max(MANY, live)
end

-- The profile of these settings, nil for the default one; or nil, fault, message.
local function profile_of(self, spec)
  local fields = {}
  for name, value in pairs(spec) do fields[#fields + 1] = name .. "=" .. tostring(value) end
  -- A connection to a host whose address was given must not serve those who look the host up.
  if self.resolve then fields[#fields + 1] = "resolve=" .. self.resolve.text end
  if #fields == 0 then return nil end
  table.sort(fields)
  local key, env = table.concat(fields, "\0"), self.env
  env.profiles = env.profiles
    or { by_key = setmetatable({}, { __mode = "v" }), made = 0, most = MANY }
  local known = env.profiles.by_key
  local one = known[key]
  if not one then
    make_room(env)
    local id, fault, message = self.host.profile(spec)
    if not id then return nil, fault, message end
    one = hold(self.host, id)
    known[key] = one
  end
  self.held[one] = true
  return one.id
end

-- What `aim` puts on the plans of an origin; or nil, fault, message.
local function find_route(self, plan, streams, bare)
  local u = plan.u
  local through, problem
  if self.proxies then
    through, problem = proxy.pick(self.proxies, u)
    if problem then return nil, "bad_request", problem end
  end
  local spec = { http1 = streams or nil }
  for name, value in pairs(self.spec) do spec[name] = value end
  if bare then spec.cert, spec.key, spec.key_password = nil, nil, nil end
  local host, port = u.host, u.port
  if through then
    if spec.guard then
      return nil, "blocked_address", "deny_private has no effect behind the proxy that the "
        .. "environment names; with proxy = false the client connects by itself"
    end
    spec.proxy, spec.proxy_user, spec.proxy_password = through.url, through.user, through.password
    host, port = through.host, through.port
  end
  local id, fault, message = profile_of(self, spec)
  if fault then return nil, fault, message end
  return {
    profile = id,
    host = spec.unix and "" or host,
    port = port,
    addresses = self.resolve and self.resolve:find(host, port),
    -- Plain HTTP is relayed by a proxy that speaks it, which then may answer itself.
    relayed = through and u.scheme == "http" and through.url:find "^http" and true,
  }
end

--- Points a plan at where its hop connects to.
---@param plan table sets profile, host, port, addresses and relayed (true: a 407 is the proxy's).
---  `foreign`: it leads to an origin that is shown no credentials
---@return boolean|nil
---@return orc.Error|nil
function Network:aim(plan)
  local streams = plan.tls and (plan.stream or plan.pull) and true or false
  local routes = streams and self.streaming or self.routes
  -- A certificate of ours is a credential like others.
  local bare = plan.foreign and self.spec.cert ~= nil
  local key = bare and "bare " .. plan.origin or plan.origin
  local route = routes[key]
  if not route then
    local fault, message
    route, fault, message = find_route(self, plan, streams, bare)
    if not route then
      return nil, errors.new(faults.get(fault).kind, message,
        { url = plan.url, method = plan.method, fault = fault })
    end
    if self.count == MOST_ROUTES then
      self.routes, self.streaming, self.count = {}, {}, 0
      routes = streams and self.streaming or self.routes
    end
    routes[key], self.count = route, self.count + 1
  end
  plan.profile, plan.host, plan.port = route.profile, route.host, route.port
  plan.addresses, plan.relayed = route.addresses, route.relayed
  return true
end

return profile
