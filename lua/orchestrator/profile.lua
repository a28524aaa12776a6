-- How a client reaches hosts: TLS settings, proxy, guard, socket, addresses, cookies. Transfers of
-- different settings must never share a connection, so each set of them is a profile of the host's
-- (src/host.h), made when it is first needed and shared by all clients that have the same.

local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local options = require "orchestrator.options"
local proxy = require "orchestrator.proxy"
local resolve_map = require "orchestrator.resolve_map"
local tls = require "orchestrator.tls"

local profile = {}

local MOST_ROUTES = 1000 -- of a client that are remembered
local LONGEST_SOCKET = 107 -- bytes that fit into sockaddr_un

---@class orc.Network
---@field plain boolean it changes nothing but for hops that stream
---@field proxies orc.ProxyChoice|nil
---@field resolve orc.ResolveMap|nil
---@field spec table fields of host.profile that all hops have
---@field routes table<string, table> by origin: what `aim` puts on a plan
---@field streaming table<string, table> the same for hops that stream
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
  local self = { env = env, host = env.host, count = 0, routes = {}, streaming = {} }
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

-- The profile of these settings, nil for the default one; or nil, fault, message.
local function profile_of(self, spec)
  local fields = {}
  for name, value in pairs(spec) do fields[#fields + 1] = name .. "=" .. tostring(value) end
  -- A connection to a host whose address was given must not serve those who look the host up.
  if self.resolve then fields[#fields + 1] = "resolve=" .. self.resolve.text end
  if #fields == 0 then return nil end
  table.sort(fields)
  local key = table.concat(fields, "\0")
  local known = self.env.profiles or {}
  self.env.profiles = known
  local id, fault, message = known[key], nil, nil
  if not id then
    id, fault, message = self.host.profile(spec)
    known[key] = id
  end
  return id, fault, message
end

-- What `aim` puts on the plans of an origin; or nil, fault, message.
local function find_route(self, plan, streams)
  local u = plan.u
  local through, problem
  if self.proxies then
    through, problem = proxy.pick(self.proxies, u)
    if problem then return nil, "bad_request", problem end
  end
  local spec = { http1 = streams or nil }
  for name, value in pairs(self.spec) do spec[name] = value end
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
---@param plan table sets profile, host, port, addresses and relayed (true: a 407 is the proxy's)
---@return boolean|nil
---@return orc.Error|nil
function Network:aim(plan)
  local streams = plan.tls and (plan.stream or plan.pull) and true or false
  local routes = streams and self.streaming or self.routes
  local route = routes[plan.origin]
  if not route then
    local fault, message
    route, fault, message = find_route(self, plan, streams)
    if not route then
      return nil, errors.new(faults.get(fault).kind, message,
        { url = plan.url, method = plan.method, fault = fault })
    end
    if self.count == MOST_ROUTES then
      self.routes, self.streaming, self.count = {}, {}, 0
      routes = streams and self.streaming or self.routes
    end
    routes[plan.origin], self.count = route, self.count + 1
  end
  plan.profile, plan.host, plan.port = route.profile, route.host, route.port
  plan.addresses, plan.relayed = route.addresses, route.relayed
  return true
end

return profile
