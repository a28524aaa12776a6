-- Proxies: which one a request goes through, and with what credentials. Named by the client's
-- option or by the environment, the way curl, Go and Python read it: http_proxy in lower case only,
-- as a CGI server sets HTTP_PROXY from a request's header (CVE-2016-5385).

local address = require "orchestrator.address"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local proxy = {}

---@class orc.Proxy
---@field url string "http://host:port", without credentials
---@field host string
---@field port integer
---@field user? string
---@field password? string

---@class orc.ProxyChoice
---@field http? orc.Proxy|{problem: string} for http URLs
---@field https? orc.Proxy|{problem: string} for https URLs
---@field rules table[] of the hosts that are reached directly
---@field spares_local? boolean localhost and loopback addresses are, too
---@field from_environment? boolean

-- SOCKS5 proxies look names up themselves (RFC 1928), however the scheme spells it: a lookup here
-- would not see the names of the network behind the proxy.
local SCHEMES = { http = "http", https = "https", socks5 = "socks5h", socks5h = "socks5h" }
local PORTS = { http = 80, https = 443, socks5h = 1080 }

local OPTIONS = {
  url = { type = "secret", required = true },
  username = { type = "secret" },
  password = { type = "secret" },
  no_proxy = { type = "string" },
}

-- Makes the credentials known as secrets. A name without a password is one itself.
local function set_credentials(found, user, password)
  local longest = math.max(#user, #password)
  if (user .. password):find "%c" then
    return nil, "has a control character in its credentials"
  elseif found.url:find "^http" and user:find(":", 1, true) then
    return nil, "has a user name with a colon in it"
  elseif found.url:find "^socks" and longest > 255 then -- RFC 1929 section 2
    return nil, "has credentials of more than 255 bytes"
  end
  secret.value(password ~= "" and password or user)
  found.user, found.password = user, password
  return found
end

local function parse(text, idn)
  local written, rest = text:match "^(%a[%w+.-]*)://(.*)$"
  local scheme = SCHEMES[(written or "http"):lower()]
  if not scheme then
    return nil, ('has the scheme "%s" (there are http, https, socks5 and socks5h)')
      :format(written:sub(1, 20))
  end
  rest = rest or text
  local u, problem = url.parse("http://" .. rest, idn)
  if not u then return nil, "is no URL of a proxy: " .. problem:gsub("^the URL ", "it ") end
  if u.target ~= "/" then return nil, "is no URL of a proxy: it has a path" end
  local port = rest:find ":%d+/?$" and u.port or PORTS[scheme]
  local site = u.host:find(":", 1, true) and "[" .. u.host .. "]" or u.host
  local found = { url = ("%s://%s:%d"):format(scheme, site, port), host = u.host, port = port }
  if not u.userinfo then return found end
  local user, password = u.userinfo:match "^([^:]*):?(.*)$"
  return set_credentials(found, url.unescape(user), url.unescape(password))
end

--- The proxy that a text names: "http://user:password@host:port", or without a scheme.
---@param text string
---@param idn? fun(host: string): string|nil see url.parse
---@return orc.Proxy|nil
---@return string|nil message that follows the name of what was read
function proxy.parse(text, idn)
  local found, problem = parse(text, idn)
  if not found and text:find("@", 1, true) then
    problem = problem .. " (percent-encode what is neither letter nor digit in its credentials)"
  end
  return found, problem
end

local function parse_rule(text, idn)
  if text == "*" then return { any = true } end
  local host, port = text:match "^%[(.*)%]:?(%d*)$"
  if not host and not address.range(text) then
    host, port = text:match "^([^:]*):(%d+)$"
  end
  host = host or text
  port = port and tonumber(port)
  local range = address.range(host)
  if range then return { range = range, port = port } end
  local name = host:gsub("^%*?%.", ""):gsub("%.$", "")
  if name:find "[\128-\255]" then name = idn and idn(name) or name end
  if not name:find "^[%w_][%w%-._]*$" then return nil end
  return { name = name:lower(), below = "." .. name:lower(), port = port }
end

--- The hosts of a NO_PROXY text. "example.com", ".example.com" and "*.example.com" all mean that
--- host and those below it; an address or range stands for addresses in a URL, not for what names
--- lead to.
---@param text string separated by commas or spaces
---@param idn? fun(host: string): string|nil see url.parse
---@return table[] rules
---@return string|nil the first part that means nothing
function proxy.rules(text, idn)
  local rules, bad = {}, nil
  for part in text:gmatch "[^%s,]+" do
    local rule = parse_rule(part, idn)
    rules[#rules + 1] = rule
    bad = bad or not rule and part or nil
  end
  return rules, bad
end

local function is_local(host, bytes)
  if bytes then return address.is_loopback(bytes) end
  return host == "localhost" or host:sub(-10) == ".localhost" -- RFC 6761 section 6.3
end

local function covers(rule, host, port, bytes)
  if rule.any then return true end
  if rule.port and rule.port ~= port then return false end
  if rule.range then return bytes ~= nil and address.contains(rule.range, bytes) end
  return host == rule.name or host:sub(-#rule.below) == rule.below
end

--- The proxy for a URL, nil to go there directly; nil, message when its proxy cannot be used.
---@param choice orc.ProxyChoice
---@param u orc.Url
---@return orc.Proxy|nil
---@return string|nil message
function proxy.pick(choice, u)
  local found = choice[u.scheme]
  if not found then return nil end
  local host = u.host:gsub("%.$", "")
  local bytes = address.parse(host)
  if choice.spares_local and is_local(host, bytes) then return nil end
  for _, rule in ipairs(choice.rules) do
    if covers(rule, host, u.port, bytes) then return nil end
  end
  if found.problem then return nil, found.problem end
  return found
end

--- What the environment says. Call it once, at the start of the program: what a script does to its
--- environment later changes nothing.
---@param getenv fun(name: string): string|nil
---@param idn? fun(host: string): string|nil see url.parse
---@return orc.ProxyChoice|nil nil when it names no proxy
function proxy.environment(getenv, idn)
  local function first(...)
    for _, name in ipairs { ... } do
      local text = getenv(name)
      if text and text ~= "" then
        local found, problem = proxy.parse(text, idn)
        return found
          or { problem = ("the environment variable %s %s"):format(name, problem) }
      end
    end
  end
  local choice = {
    http = first("http_proxy", "all_proxy", "ALL_PROXY"),
    https = first("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"),
    spares_local = true,
    from_environment = true,
  }
  if not choice.http and not choice.https then return nil end
  local lower = getenv "no_proxy"
  choice.rules = proxy.rules(lower and lower ~= "" and lower or getenv "NO_PROXY" or "", idn)
  return choice
end

--- What the option `proxy` says. Raises on misuse.
---@param given string|orc.Secret|table
---@param where string names the option in a message
---@param idn? fun(host: string): string|nil see url.parse
---@return orc.ProxyChoice
function proxy.check(given, where, idn)
  if type(given) == "string" or secret.is(given) then given = { url = given } end
  local opts = options.check(where, given, OPTIONS)
  local found, problem = proxy.parse(secret.reveal(opts.url), idn)
  if not found then options.fail(where, '"url" ' .. problem) end
  if opts.username or opts.password then
    if found.user then options.fail(where, '"username" is given, and "url" has one, too') end
    if not opts.username then options.fail(where, '"password" needs a "username"') end
    found, problem = set_credentials(found, secret.reveal(opts.username),
      secret.reveal(opts.password or ""))
    if not found then options.fail(where, problem) end
  end
  local rules, bad = proxy.rules(opts.no_proxy or "", idn)
  if bad then
    options.fail(where, ('"no_proxy" has "%s", which is no host, address or range'):format(bad))
  end
  return { http = found, https = found, rules = rules }
end

return proxy
