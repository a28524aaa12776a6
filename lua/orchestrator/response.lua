-- What came back. A response is the host's result table itself, given this metatable; what is
-- seldom asked for (headers, timing) is made when it is.

local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

local response = {}

local methods = {}

--- The body decoded as JSON.
---@return any value nil, err (kind "decode") when it is not JSON
function methods:json()
  if not self.body then
    return nil, errors.new("decode", "the body was saved to a file", { url = self.url })
  end
  local value, err = json.decode(self.body)
  if err then
    err.url, err.status = self.url, self.status
    return nil, err
  end
  return value
end

local lazy = {
  ok = function(self) return self.status >= 200 and self.status <= 299 end,
  headers = function(self) return headers.parse(self.head) end,
  hops = function() return {} end,
  from_cache = function() return false end,
  timing = function(self)
    return {
      dns = self.dns or 0, connect = self.connect or 0, tls = self.tls or 0,
      first_byte = self.first_byte or 0, total = self.elapsed,
    }
  end,
}

local Response = {}

function Response.__index(self, name)
  local method = methods[name]
  if method then return method end
  local make = lazy[name]
  if make then
    local value = make(self)
    self[name] = value
    return value
  end
end

function Response.__tostring(self)
  return string.format("response %d from %s", self.status, errors.escape(secret.mask(self.url)))
end

--- Makes a response of a result.
---@param result table as host.poll delivers it
---@param url string the final URL
---@param attempts integer
function response.of(result, url, attempts)
  result.url, result.attempts = url, attempts
  return setmetatable(result, Response)
end

return response
