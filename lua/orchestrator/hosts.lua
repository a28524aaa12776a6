-- `allow_hosts`: the only hosts a client may talk to, told by the URL of every hop. A name says
-- nothing of where it leads: against addresses within the own network there is deny_private.

local address = require "orchestrator.address"
local options = require "orchestrator.options"

local hosts = {}

local function without_brackets(text)
  return text:match "^%[(.*:.*)%]$" or text
end

-- Puts an entry among the allowed ones.
local function add(allowed, entry, where, idn)
  local function refuse(message)
    options.fail(where, ('"%s" %s'):format(tostring(entry), message))
  end
  if type(entry) ~= "string" then
    options.fail(where, "must be a list of hosts, has a " .. type(entry))
  end
  local bytes = address.parse(without_brackets(entry))
  if bytes then
    allowed.addresses[bytes] = true
    return
  end
  local wildcard, name = entry:match "^(%*?%.?)(.*)$"
  if name:find "[\128-\255]" then name = idn and idn(name) or name end
  name = name:lower():gsub("%.$", "")
  if entry:find("/", 1, true) then
    refuse "must be a host alone: without scheme and path"
  elseif name:find ":%d*$" then
    refuse "must be a host alone: without a port"
  elseif wildcard ~= "" and wildcard ~= "*." or not name:find "^[%w_][%w%-._]*$"
    or name:find("..", 1, true)
  then
    refuse('must be a host such as "api.example.com" or "10.0.0.7", or "*.example.com" for all '
      .. "below one")
  end
  if wildcard == "" then
    allowed.names[name] = true
  else
    allowed.below[#allowed.below + 1] = "." .. name
  end
end

local function is_allowed(allowed, host)
  local bytes = address.parse(host)
  if bytes then return allowed.addresses[bytes] == true end
  host = host:gsub("%.$", "")
  if allowed.names[host] then return true end
  for _, suffix in ipairs(allowed.below) do
    if #host > #suffix and host:sub(-#suffix) == suffix then return true end
  end
  return false
end

--- The judge of a list of hosts. Raises when the list is none.
---@param list string[] "api.example.com", "*.example.com" (those below it, not itself), and
---  addresses, which allow every way to write them
---@param where string names the option in a message
---@param idn? fun(host: string): string|nil see url.parse
---@return fun(u: orc.Url): boolean|nil, string|nil true, or nil and a message
function hosts.allow(list, where, idn)
  local allowed, count = { names = {}, addresses = {}, below = {} }, 0
  for _ in pairs(list) do count = count + 1 end
  if count ~= #list then options.fail(where, "must be a list of hosts") end
  for _, entry in ipairs(list) do add(allowed, entry, where, idn) end
  return function(u)
    if is_allowed(allowed, u.host) then return true end
    return nil, ("%s is not among the client's allow_hosts"):format(u.host)
  end
end

return hosts
