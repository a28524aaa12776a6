-- What makes two items of a source the same work: the request they become — method, URL, body —
-- or what the pipeline's `key` says. Sixteen bytes of SHA-256, so that nothing secret is kept.

local crypto = require "orchestrator.core.crypto"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

local identity = {}

identity.SIZE = 16 -- bytes

local PARTS = { "method", "url", "query", "body", "json", "form", "file", "multipart" }

local DEPTH = 100 -- of tables in tables, which may be circular

-- Any value as a text: slower than JSON, and there is no value that it refuses.
local function plain(value, depth)
  if secret.is(value) then return "secret " .. secret.reveal(value) end
  if type(value) ~= "table" or value == json.null or depth > DEPTH then
    return type(value) .. " " .. (type(value) == "function" and "" or tostring(value))
  end
  local keys, texts = {}, {}
  for key in pairs(value) do
    local text = plain(key, depth + 1)
    keys[#keys + 1], texts[text] = text, value[key]
  end
  table.sort(keys)
  for i, key in ipairs(keys) do
    local member = plain(texts[key], depth + 1)
    keys[i] = string.format("%d:%s=%d:%s", #key, key, #member, member)
  end
  return "{" .. table.concat(keys) .. "}"
end

local function text_of(value)
  local text = json.encode(value)
  if text and not text:find("***", 1, true) then return text end -- which stands for a secret
  return plain(value, 1)
end

local function digest(text)
  return assert(crypto.hash("sha256", text)):sub(1, identity.SIZE)
end

--- Of a request, as it is given to fetch.
---@param request any
---@return string
function identity.of(request)
  if type(request) == "string" then return digest("GET " .. request) end
  if type(request) == "table" and not secret.is(request) and request.url ~= nil then
    local parts, is_plain = {}, true
    for _, name in ipairs(PARTS) do
      parts[name] = request[name]
      is_plain = is_plain and (name == "url" or name == "method" or parts[name] == nil)
    end
    local method = type(parts.method) == "string" and parts.method:upper() or "GET"
    if is_plain and type(parts.url) == "string" then return digest(method .. " " .. parts.url) end
    parts.method = method
    return digest("request " .. text_of(parts))
  end
  return digest("value " .. text_of(request))
end

--- Of what the pipeline's `key` returned.
---@param key string|number
---@return string
function identity.of_key(key)
  return digest("key " .. tostring(key))
end

return identity
