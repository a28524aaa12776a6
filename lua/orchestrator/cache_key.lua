-- By what a response is stored: a hash of its URL and of all that an answer may depend on though no
-- server says so: who asks (RFC 9111 section 2: the cache is one user's, but a program may have the
-- credentials of several), and how the host is reached. Only the hash is kept.

local cache_fields = require "orchestrator.cache_fields"
local crypto = require "orchestrator.core.crypto"
local secret = require "orchestrator.secret"

local cache_key = {}

local MOST_KNOWN = 2000 -- hashes that are remembered …
local LONGEST_KNOWN = 1000 -- … of texts of so many bytes
local LONGEST_NAME = 200 -- bytes of a script's key that are kept as they are

local function each_sorted(t)
  local names = {}
  for name in pairs(t) do names[#names + 1] = name end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  local i = 0
  return function()
    i = i + 1
    return names[i], t[names[i]]
  end
end

-- The file of credentials says who they are of, not its name.
local function netrc_text(opts)
  local path = opts.file or os.getenv "NETRC" or (os.getenv "HOME" or "") .. "/.netrc"
  local file = io.open(path, "rb")
  local text = file and file:read "*a"
  if file then file:close() end
  return text or ""
end

-- A value as a text that no other has. A function is like no other, in no other run.
local function canonical(value, nonce)
  if type(value) == "function" then return nonce() end
  value = secret.reveal(value)
  if type(value) ~= "table" then
    local text = tostring(value)
    return string.format("%s%d:%s", type(value):sub(1, 1), #text, text)
  end
  local parts = {}
  for name, one in each_sorted(value) do
    parts[#parts + 1] = canonical(name, nonce) .. "=" .. canonical(one, nonce)
  end
  if value.type == "netrc" then parts[#parts + 1] = canonical(netrc_text(value), nonce) end
  return "{" .. table.concat(parts, ",") .. "}"
end

---@class orc.CacheIdentity
---@field auth string|nil of credentials that are different for every hop
---@field network string|nil how hosts are reached, where that is not as everybody does

--- What sets a client's responses apart from those of others.
---@param env table of the program
---@param auth table|nil the option, when it makes an object
---@param network orc.Network
---@return orc.CacheIdentity
function cache_key.identity(env, auth, network)
  local function nonce()
    return string.format("once %.0f %.0f", env.host.random() * 2 ^ 53, env.host.random() * 2 ^ 53)
  end
  local way = {}
  for name, value in pairs(network.spec) do
    if name ~= "jar" then way[name] = value end -- see cache.lua
  end
  way.resolve = network.resolve and network.resolve.text
  return {
    auth = auth and canonical(auth, nonce),
    network = next(way) ~= nil and canonical(way, nonce) or nil,
    jar = network.spec.jar ~= nil,
  }
end

-- Fields by which a request says who it is.
local function credentials_of(fields)
  local names
  for name, field in pairs(fields) do
    if cache_fields.is_credential(name) or secret.is(field.value) then
      names = names or {}
      names[#names + 1] = name
    end
  end
  if not names then return "" end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = "\n" .. name .. ": " .. secret.reveal(fields[name].value)
  end
  return table.concat(names)
end

local credentials = setmetatable({}, { __mode = "k" }) -- fields that are a client's → theirs

local function asker(client, plan)
  local fields, identity = plan.fields, client.identity
  local text = credentials[fields]
  if not text then
    text = credentials_of(fields)
    if fields == client.defaults.__index.fields then credentials[fields] = text end
  end
  local auth = client.auth
  if auth and not plan.anonymous and (auth.beside or not fields.authorization) then
    text = text .. "\n" .. identity.auth
  end
  return identity.network and text .. "\n" .. identity.network or text
end

-- A request as `key` of a script gets it.
local function described(plan)
  local headers = {}
  for name, field in pairs(plan.fields) do headers[name] = field.value end
  return { url = plan.url, method = plan.method, headers = headers }
end

-- Raises what is wrong with what it returned, by the place where it is defined.
local function refuse(make, text, why)
  local info = debug.getinfo(make, "S")
  local place = info.linedefined > 0
    and string.format("%s:%d: ", info.source:match "^@(.*)" or info.short_src, info.linedefined)
  error(string.format("%scache.key: must return a text to store by; it returned %s%s", place or "",
    text == "" and "an empty one" or text == nil and "nil" or "a " .. type(text),
    text == nil and why ~= nil and ": " .. tostring(why) or ""), 0)
end

-- What a script stores by instead of the URL.
local function named(make, plan)
  local text, why = make(described(plan))
  if type(text) ~= "string" or text == "" then refuse(make, text, why) end
  return text
end

local known, count = {}, 0 -- text → hash

--- The key of a request. GET and HEAD have the same.
---@param client table
---@param plan table
---@return string
function cache_key.of(client, plan)
  local text, make = plan.url, plan.cache.key
  if make then
    text = named(make, plan)
    plan.named = text -- for people, see `shown_name`
    text = string.format("key %d %s", #text, text)
  end
  local who = asker(client, plan)
  if who ~= "" then text = text .. "\n" .. who end
  local key = known[text]
  if key then return key end
  if count == MOST_KNOWN then known, count = {}, 0 end
  key = assert(crypto.hash("sha256", text))
  if #text > LONGEST_KNOWN then return key end
  known[text], count = key, count + 1
  return key
end

--- What a script stores by, for people: without secrets, on one line, and cut off where it is long.
---@param text string
---@return string
function cache_key.shown_name(text)
  text = secret.mask(text)
  if #text > LONGEST_NAME then
    text = text:sub(1, LONGEST_NAME):gsub("[\192-\255][\128-\191]*$", "") .. "…"
  end
  return (text:gsub("[%z\r\n]", " "))
end

--- A URL as it is stored: with secrets masked.
---@param text string
---@return string
function cache_key.shown(text)
  return secret.mask(text)
end

return cache_key
