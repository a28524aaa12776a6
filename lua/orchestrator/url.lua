-- URLs by RFC 3986, http and https only: `parse` splits and checks one before anything is sent,
-- `join` resolves a reference (section 5.2), `query` and `form` encode tables in key order. Where
-- RFC 3986 and browsers disagree about who the host is (backslashes, odd characters), the URL is
-- refused.

local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local url = {}

---@class orc.Url
---@field scheme "http"|"https"
---@field host string lower case, ASCII, without brackets
---@field port integer
---@field origin string "https://host:port", always with the port
---@field target string "/path?query"
---@field userinfo? string as written, percent-encoded
---@field text string the URL to send: no fragment, no userinfo, no default port

local DEFAULT_PORT = { http = 80, https = 443 }
local SPACE, HASH, DOT, SLASH, DELETE = (" #./\127"):byte(1, 5)
local MAX_HOST = 255
local MAX_CACHED = 1000
local PASSWORD_REACH = 200 -- bytes in which `mask` looks for the end of a broken userinfo

-- "https://host" as written → what it means. Most requests of a run go to a few of these.
local authorities, cached = {}, 0

local function percent(char)
  return ("%%%02X"):format(char:byte())
end

--- Percent-encodes everything but the unreserved characters (section 2.3).
---@param text string
---@return string
function url.escape(text)
  return (text:gsub("[^%w%-._~]", percent))
end

--- Undoes percent-encoding.
---@param text string
---@return string
function url.unescape(text)
  return (text:gsub("%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- How many groups of sixteen bits "1:2:3" has; nil when one of them is none.
local function count_groups(text)
  local count = 0
  for group in (text == "" and "" or text .. ":"):gmatch "(.-):" do
    if not group:find "^%x%x?%x?%x?$" then
      return nil
    end
    count = count + 1
  end
  return count
end

-- Eight groups, one run of zeros perhaps written "::", the last two perhaps as IPv4 (section
-- 3.2.2). Zone ids mean something on one machine only and are refused.
local function is_ipv6(text)
  text = text:gsub(":(%d+)%.(%d+)%.(%d+)%.(%d+)$", function(...)
    for _, part in ipairs { ... } do
      if #part > 3 or tonumber(part) > 255 or part:find "^0%d" then
        return nil
      end
    end
    return ":0:0"
  end)
  local before, after = text:match "^(.-)::(.*)$"
  if not before then
    return count_groups(text) == 8
  end
  before, after = count_groups(before), count_groups(after)
  return before and after and before + after < 8
end

local function is_name(host)
  return #host <= MAX_HOST
    and not host:find "[^%w%-._~]"
    and not host:find("..", 1, true)
    and not host:find "^%."
end

local function parse_host(written, idn)
  local literal = written:match "^%[(.*)%]$"
  if literal then
    if not is_ipv6(literal) then
      return nil, "the URL has a bad IPv6 address"
    end
    return literal:lower()
  end
  local host = written
  if host:find "[\128-\255]" then
    host = idn and idn(host)
    if not host then
      return nil, "the URL has a host name that cannot be written in ASCII"
    end
  end
  if host == "" then
    return nil, "the URL has no host"
  elseif not is_name(host) then
    return nil, "the URL has a bad host name"
  end
  return host:lower()
end

local function parse_port(written, scheme)
  if written == "" then
    return DEFAULT_PORT[scheme]
  end
  local port = written:find "^:%d*$" and (tonumber(written:sub(2)) or DEFAULT_PORT[scheme])
  if not port or port < 1 or port > 65535 then
    return nil, "the URL has a bad port"
  end
  return port
end

-- What `text` says up to its path: { scheme, host, port, origin, userinfo, prefix }.
local function parse_authority(text, idn)
  local scheme, rest = text:match "^(%a[%w+.-]*):(.*)$"
  if not scheme or rest:find "^%d" then
    return nil, 'the URL has no scheme (write "https://...", or give the client a base_url)'
  end
  local shown = scheme:sub(1, 20)
  scheme = scheme:lower()
  if not DEFAULT_PORT[scheme] then
    return nil, ('the URL has the scheme "%s" (only http and https are allowed)'):format(shown)
  end
  local authority = rest:match "^//(.*)$"
  if not authority then
    return nil, "the URL has no host"
  elseif authority:find("\\", 1, true) then
    return nil, "the URL has a backslash before its path"
  end
  local userinfo, address = authority:match "^(.*)@(.*)$"
  local name, colon_port = (address or authority):match "^(%[.*%])(.*)$"
  if not name then
    name, colon_port = (address or authority):match "^([^:]*)(.*)$"
  end
  local host, bad_host = parse_host(name, idn)
  if not host then
    return nil, bad_host
  end
  local port, bad_port = parse_port(colon_port, scheme)
  if not port then
    return nil, bad_port
  end
  local site = scheme .. "://" .. (host:find(":", 1, true) and "[" .. host .. "]" or host)
  local origin = site .. ":" .. port
  return {
    scheme = scheme,
    host = host,
    port = port,
    origin = origin,
    userinfo = userinfo,
    prefix = port == DEFAULT_PORT[scheme] and site or origin,
  }
end

local function look_up(prefix, idn)
  local authority, message = authorities[prefix], nil
  if not authority then
    authority, message = parse_authority(prefix, idn)
    if authority then
      if cached == MAX_CACHED then
        authorities, cached = {}, 0
      end
      authorities[prefix] = authority
      cached = cached + 1
    end
  end
  return authority, message
end

local function complaint(text)
  if text:find "%z" then
    return "the URL contains a NUL byte"
  elseif text:find "[\r\n]" then
    return "the URL contains a line break"
  elseif text:find "%c" then
    return "the URL contains a control character"
  elseif text:find(" ", 1, true) then
    return "the URL contains a space (write %20)"
  end
end

-- True when every byte can be sent as it is. A loop, as LuaJIT compiles it and not a pattern.
local function is_clean(target)
  local before
  for at = 1, #target do
    local byte = target:byte(at)
    if byte <= SPACE or byte >= DELETE or byte == HASH or byte == DOT and before == SLASH then
      return false
    end
    before = byte
  end
  return true
end

-- Section 5.2.4, segment by segment.
local function remove_dot_segments(path)
  local kept = {}
  local last
  for segment in (path:gsub("^/", "") .. "/"):gmatch "(.-)/" do
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
    last = segment
  end
  if last == "." or last == ".." then
    kept[#kept + 1] = ""
  end
  return "/" .. table.concat(kept, "/")
end

-- The target as sent: no fragment, nothing outside ASCII, no dot segments, which libcurl would
-- remove (section 6.2.2.3) and signatures would not know of.
local function clean_target(target)
  local fragment = target:find("#", 1, true)
  if fragment then
    target = target:sub(1, fragment - 1)
  end
  if target:byte() ~= SLASH then
    target = "/" .. target
  end
  if target:find("/.", 1, true) then
    local path, query = target:match "^([^?]*)(.*)$"
    target = remove_dot_segments(path) .. query
  end
  return (target:gsub("[\128-\255]", percent))
end

--- Splits and checks an absolute URL. A secret counts as the text it stands for.
---@param text string|orc.Secret
---@param idn? fun(host: string): string|nil turns a host name that is not ASCII into one that is
---@return orc.Url|nil
---@return string|nil message never quotes the URL, which may hold credentials
function url.parse(text, idn)
  if type(text) ~= "string" then
    if not secret.is(text) then
      return nil, "the URL must be a string, got " .. type(text)
    end
    text = secret.reveal(text)
  end
  local slash = text:find("/", 9, true) -- the first that can end "https://h"
  local authority = authorities[slash and text:sub(1, slash - 1) or text]
  local target = slash and text:sub(slash) or "/"
  if not authority or not is_clean(target) then
    local message = complaint(text)
    if message then
      return nil, message
    end
    local path = text:find("[/?#]", #(text:match "^[^/?#]*//" or "") + 1)
    local prefix = path and text:sub(1, path - 1) or text
    authority, message = look_up(prefix, idn)
    if not authority then
      return nil, message
    end
    target = clean_target(path and text:sub(path) or "/")
  end
  return {
    scheme = authority.scheme,
    host = authority.host,
    port = authority.port,
    origin = authority.origin,
    userinfo = authority.userinfo,
    target = target,
    text = authority.prefix .. target,
  }
end

--- Resolves a reference against a parsed URL (section 5.2, strict).
---@param base orc.Url
---@param reference string
---@return string
function url.join(base, reference)
  local scheme, rest = reference:match "^(%a[%w+.-]*:)(.*)$"
  local authority, relative = (rest or reference):match "^(//[^/?#]*)(.*)$"
  local path, suffix = (relative or reference):match "^([^?#]*)(.*)$"
  if authority then
    path = path ~= "" and remove_dot_segments(path) or ""
    return (scheme or base.scheme .. ":") .. authority .. path .. suffix
  elseif scheme then
    return reference
  end
  local site = base.text:sub(1, #base.text - #base.target)
  local base_path = base.target:match "^[^?]*"
  if path == "" then
    local keeps_query = suffix:sub(1, 1) ~= "?"
    return site .. (keeps_query and base.target or base_path) .. suffix
  elseif path:sub(1, 1) ~= "/" then
    path = base_path:match "^.*/" .. path
  end
  return site .. remove_dot_segments(path) .. suffix
end

-- The shortest text that reads back as the same number.
local function number_text(n)
  if n % 1 == 0 and math.abs(n) < 2 ^ 53 then
    return ("%d"):format(n)
  end
  for digits = 14, 16 do
    local text = ("%." .. digits .. "g"):format(n)
    if tonumber(text) == n then
      return text
    end
  end
  return ("%.17g"):format(n)
end

--- The text of a string, finite number, boolean or secret; nil for anything else.
---@param v any
---@return string|nil
function url.scalar(v)
  if type(v) == "string" then
    return v
  elseif type(v) == "number" then
    return v - v == 0 and number_text(v) or nil
  elseif type(v) == "boolean" then
    return tostring(v)
  end
  return secret.is(v) and secret.reveal(v) or nil
end

-- Whether the keys of a table are 1 to n.
local function is_list(t)
  local count = 0
  for _ in pairs(t) do count = count + 1 end
  return count == #t
end

local function encode_pairs(where, values, escape)
  local names, encoded = {}, {}
  for name in pairs(values) do
    if type(name) ~= "string" then
      options.fail(where, ("names must be strings, got %s"):format(tostring(name)))
    end
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = values[name]
    local list = type(value) == "table" and not secret.is(value) and value or { value }
    if not is_list(list) then
      options.fail(where, ('"%s" must be a string, number, boolean or a list of these, got a table '
        .. "that is no list"):format(name))
    end
    for _, element in ipairs(list) do
      local text = url.scalar(element)
      if not text then
        local message = '"%s" must be a string, number, boolean or a list of these, got a %s'
        options.fail(where, message:format(name, type(element)))
      end
      encoded[#encoded + 1] = escape(name) .. "=" .. escape(text)
    end
  end
  return table.concat(encoded, "&")
end

--- A query string with its names sorted; a list repeats its name. Raises on other values.
---@param values table<string, any>
---@return string
function url.query(values)
  return encode_pairs("query", values, url.escape)
end

local function form_escape(text)
  return (text:gsub("[^%w%-._* ]", percent):gsub(" ", "+"))
end

--- A body of type application/x-www-form-urlencoded, by the same rules as `query`.
---@param values table<string, any>
---@return string
function url.form(values)
  return encode_pairs("form", values, form_escape)
end

--- A URL with more query parameters, put before its fragment.
---@param text string
---@param values table<string, any>
---@return string
function url.add_query(text, values)
  local query = url.query(values)
  if query == "" then
    return text
  end
  local before, fragment = text:match "^([^#]*)(.*)$"
  local joint = "?"
  if before:find("?", 1, true) then
    joint = before:find "[?&]$" and "" or "&"
  end
  return before .. joint .. query .. fragment
end

--- A path under a base URL: "https://a/v1" and "/users" make "https://a/v1/users". Unlike `join` it
--- never leaves the base's path; an absolute URL is taken as it is.
---@param base string
---@param path? string
---@return string
function url.base(base, path)
  if not path or path == "" then
    return base
  elseif path:find "^%a[%w+.-]*://" then
    return path
  elseif path:find "^[?#]" then
    return base .. path
  end
  return base:gsub("/+$", "") .. "/" .. path:gsub("^/", "")
end

-- Where the credentials that start at `from` end: at the last "@" of the authority. A password with
-- a raw "/", "?" or "#" breaks the URL but is still one: then what follows the colon is no port.
local function credentials_end(text, from)
  local authority = text:match("^[^/?#%s]*", from)
  local at = authority:match ".*()@"
  local port = authority:match "^[^%[]*:(.*)$"
  if not at and port and not port:find "^%d+$" then
    at = text:sub(from, from + PASSWORD_REACH):match "^%S*()@"
  end
  return at and from + at - 1
end

-- "user:password@" where no URL parser would look for it: without a scheme, or after "https:/". It
-- holds nothing after which the patterns below begin anew, or they would take time squared.
local LOOSE = "[^%s%z/?#@:]+:[^%s%z/\\?#][^%s%z/?#]*@"
local LOOSE_AT = { "%f[^%s%z](%p?)" .. LOOSE, "%f[^%s%z](%p?%a+:[/\\]+)" .. LOOSE }

--- A text with the userinfo of every URL in it hidden, also of those that are none by a slip.
---@param text string
---@return string
function url.mask(text)
  if not text:find("@", 1, true) then
    return text
  end
  local out, copied, from = {}, 1, 1
  while true do
    local _, slashes = text:find("://", from, true)
    if not slashes then
      break
    end
    local at = credentials_end(text, slashes + 1)
    if at then
      out[#out + 1] = text:sub(copied, slashes) .. "***"
      copied = at
    end
    from = at or slashes + 1
  end
  out[#out + 1] = text:sub(copied)
  local masked = table.concat(out)
  for _, pattern in ipairs(LOOSE_AT) do
    masked = masked:gsub(pattern, "%1***@")
  end
  return masked
end

return url
