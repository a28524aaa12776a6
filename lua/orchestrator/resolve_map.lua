-- `resolve = { ["api.example.com"] = "10.0.0.7" }`: addresses the script knows better than the name
-- server. A key with a port goes before one without.

local address = require "orchestrator.address"
local options = require "orchestrator.options"

local resolve_map = {}

---@class orc.ResolveMap
---@field text string all of it, alike for equal maps
---@field addresses table<string, string> "host" or "host:port" → "1.2.3.4,::1"
local ResolveMap = {}
ResolveMap.__index = ResolveMap

local function check_key(key, idn, where)
  local function refuse(message)
    options.fail(where, ("[%q] %s"):format(tostring(key), message))
  end
  if type(key) ~= "string" then refuse 'must be a host, or "host:port"' end
  local host, port = key:match "^([^:]+):(%d+)$"
  host = host or key
  if address.parse((host:gsub("^%[(.*)%]$", "%1"))) then
    refuse "is an address already: there is no name to look up"
  elseif port and (tonumber(port) < 1 or tonumber(port) > 65535) then
    refuse "has a bad port"
  end
  if host:find "[\128-\255]" then host = idn and idn(host) or host end
  if not host:find "^[%w_][%w%-._]*$" then refuse 'must be a host, or "host:port"' end
  host = host:lower():gsub("%.$", "")
  return port and host .. ":" .. tonumber(port) or host
end

local function check_addresses(key, given, where)
  local list, texts = type(given) == "table" and given or { given }, {}
  local count = 0
  for _ in pairs(list) do count = count + 1 end
  if count ~= #list then
    options.fail(where, ('["%s"] must be a list of addresses without holes and names'):format(key))
  end
  for i, text in ipairs(list) do
    local plain = type(text) == "string" and text:gsub("^%[(.*:.*)%]$", "%1")
    if not plain or not address.is_plain(plain) then
      options.fail(where, ('["%s"] must be an address such as "10.0.0.7" or "::1", or a list of '
        .. "these, got %s"):format(key, type(text) == "string" and ("%q"):format(text)
        or "a " .. type(text)))
    end
    texts[i] = plain:lower()
  end
  if #texts == 0 then options.fail(where, ('["%s"] has no address'):format(key)) end
  return table.concat(texts, ",")
end

--- Raises on misuse.
---@param given table<string, string|string[]>
---@param where string names the option in a message
---@param idn? fun(host: string): string|nil see url.parse
---@return orc.ResolveMap
function resolve_map.check(given, where, idn)
  local addresses, lines = {}, {}
  for key, value in pairs(given) do
    local name = check_key(key, idn, where)
    if addresses[name] then options.fail(where, ('"%s" is given twice'):format(name)) end
    addresses[name] = check_addresses(name, value, where)
    lines[#lines + 1] = name .. "=" .. addresses[name]
  end
  table.sort(lines)
  return setmetatable({ addresses = addresses, text = table.concat(lines, " ") }, ResolveMap)
end

--- Where a host is to be found; nil when the map does not know it.
---@param host string lower case
---@param port integer
---@return string|nil "1.2.3.4,::1"
function ResolveMap:find(host, port)
  host = host:gsub("%.$", "")
  return self.addresses[host .. ":" .. port] or self.addresses[host]
end

return resolve_map
