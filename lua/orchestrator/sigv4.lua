-- AWS Signature Version 4: every hop is signed when it starts, in its header fields.

local credential = require "orchestrator.credential"
local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local sigv4 = {}

---@class orc.SigV4Keys
---@field region string
---@field service string
---@field access_key_id string
---@field secret_access_key string

---@class orc.SigV4Request
---@field method string
---@field path string as it is sent
---@field query string as it is sent, without "?"; may be empty
---@field fields table<string, string> what is signed, by name in lower case, x-amz-date among them
---@field payload string the hash of the body in hexadecimal, or the word that stands for none

local ALGORITHM = "AWS4-HMAC-SHA256"
local UNSIGNED = "UNSIGNED-PAYLOAD" -- which S3 takes for bodies that are not known beforehand

local function name_rule(pattern, message)
  return {
    type = "string",
    required = true,
    check = function(text)
      if not text:find(pattern) then return nil, message end
      return text
    end,
  }
end

local IN_SCOPE = "must be of letters, digits, and hyphens"

sigv4.schema = {
  type = credential.TYPE,
  region = name_rule("^[%w-]+$", IN_SCOPE),
  service = name_rule("^[%w-]+$", IN_SCOPE),
  access_key_id = {
    type = "secret",
    required = true,
    check = function(text)
      if not secret.reveal(text):find "^%w+$" then return nil, "must be of letters and digits" end
      return text
    end,
  },
  secret_access_key = credential.SECRET,
  session_token = {
    type = "secret",
    check = function(text)
      if not secret.reveal(text):find "^[\33-\126]+$" then
        return nil, "must be of visible characters"
      end
      return secret.value(text)
    end,
  },
}

local function is_s3(service)
  return service:find "^s3" ~= nil
end

local function sha256(text)
  return crypto.hex(assert(crypto.hash("sha256", text)))
end

local function hmac(key, text)
  return assert(crypto.hmac("sha256", key, text))
end

-- The canonical request -------------------------------------------------------------------------

-- Without empty and dot segments.
local function normalized(path)
  local kept = {}
  for segment in path:gmatch "[^/]+" do
    if segment == ".." then
      kept[#kept] = nil
    elseif segment ~= "." then
      kept[#kept + 1] = segment
    end
  end
  local text = "/" .. table.concat(kept, "/")
  local is_directory = #kept > 0 and path:find "/%.?%.?$"
  return is_directory and text .. "/" or text
end

local function encode_path(path)
  return (path:gsub("[^/]+", url.escape))
end

-- What was encoded to be sent is encoded once more, but for S3, where a path is the name of an
-- object, letter by letter: "a//b" and "a/../b" are names, too.
local function canonical_path(path, service)
  if is_s3(service) then
    return encode_path(url.unescape(path))
  end
  return encode_path(normalized(path))
end

local function recode(text)
  return url.escape(url.unescape((text:gsub("+", " "))))
end

-- Sorted by name, then by value, as they are encoded; a name alone has an empty value.
local function canonical_query(query)
  local list = {}
  for pair in query:gmatch "[^&]+" do
    local name, value = pair:match "^([^=]*)=?(.*)$"
    list[#list + 1] = { recode(name), recode(value) }
  end
  table.sort(list, function(a, b)
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
  end)
  for i, pair in ipairs(list) do list[i] = pair[1] .. "=" .. pair[2] end
  return table.concat(list, "&")
end

-- The fields as lines, and their names joined.
local function canonical_fields(fields)
  local names, lines = {}, {}
  for name in pairs(fields) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    local value = fields[name]:gsub("%s+", " "):match "^%s*(.-)%s*$"
    lines[i] = name .. ":" .. value .. "\n"
  end
  return table.concat(lines), table.concat(names, ";")
end

---@param request orc.SigV4Request
---@param service string
---@return string canonical, string signed names of the signed fields
function sigv4.canonical(request, service)
  local lines, signed = canonical_fields(request.fields)
  local canonical = table.concat({
    request.method, canonical_path(request.path, service), canonical_query(request.query), lines,
    signed, request.payload,
  }, "\n")
  return canonical, signed
end

-- The signature ---------------------------------------------------------------------------------

-- The key of a day, a region and a service. Four hashes that are the same all day long.
local function signing_key(keys, day)
  local key = hmac("AWS4" .. keys.secret_access_key, day)
  return hmac(hmac(hmac(key, keys.region), keys.service), "aws4_request")
end

--- The value of Authorization.
---@param request orc.SigV4Request
---@param keys orc.SigV4Keys
---@param key? string what signing_key gave for the day
---@return string
function sigv4.sign(request, keys, key)
  local stamp = request.fields["x-amz-date"]
  local day = stamp:sub(1, 8)
  local scope = table.concat({ day, keys.region, keys.service, "aws4_request" }, "/")
  local canonical, signed = sigv4.canonical(request, keys.service)
  local text = table.concat({ ALGORITHM, stamp, scope, sha256(canonical) }, "\n")
  local signature = crypto.hex(hmac(key or signing_key(keys, day), text))
  return ("%s Credential=%s/%s, SignedHeaders=%s, Signature=%s"):format(ALGORITHM,
    keys.access_key_id, scope, signed, signature)
end

-- Hops ------------------------------------------------------------------------------------------

---@class orc.SigV4
---@field keys orc.SigV4Keys
---@field key string of `day`
---@field day string
local SigV4 = {}
SigV4.__index = SigV4

---@param opts table checked
---@param context table see auth.check
---@return orc.SigV4
function sigv4.new(opts, context)
  return setmetatable({
    wall = context.wall,
    session_token = opts.session_token,
    keys = {
      region = opts.region, service = opts.service,
      access_key_id = secret.reveal(opts.access_key_id),
      secret_access_key = secret.reveal(opts.secret_access_key),
    },
    key = nil, day = nil,
  }, SigV4)
end

-- Whether the body is only known when it has been sent.
local function is_streamed(plan)
  return plan.pull or plan.body_file or plan.parts
end

---@param plan table
---@return boolean|nil
---@return orc.Error|nil
function SigV4:ready(plan)
  if is_streamed(plan) and not is_s3(self.keys.service) then
    return nil, errors.new("invalid", "sigv4 signs the body, so it must be known beforehand: "
      .. "give it as body, json or form", { final = true })
  end
  return true
end

-- Fields that are signed. Not all: what is between us and the service may change some.
local SIGNED = { ["content-type"] = true, ["content-md5"] = true, ["host"] = true }

local function fields_to_sign(plan, u)
  local fields = { host = u.text:match "^%a+://([^/]+)" }
  for name, field in pairs(plan.fields) do
    if SIGNED[name] or name:find "^x%-amz%-" then fields[name] = secret.reveal(field.value) end
  end
  return fields
end

--- Signs a hop that is about to start.
---@param plan table
function SigV4:authorize(plan)
  local u, keys = plan.u, self.keys
  local added = { ["X-Amz-Date"] = os.date("!%Y%m%dT%H%M%SZ", math.floor(self.wall())) }
  local given = plan.fields["x-amz-content-sha256"] -- the script knows better
  local payload = given and secret.reveal(given.value)
    or is_streamed(plan) and UNSIGNED or sha256(plan.body or "")
  if is_s3(keys.service) then added["X-Amz-Content-Sha256"] = payload end
  added["X-Amz-Security-Token"] = self.session_token
  local fields = fields_to_sign(plan, u)
  for name, value in pairs(added) do fields[name:lower()] = secret.reveal(value) end

  local day = added["X-Amz-Date"]:sub(1, 8)
  if self.day ~= day then
    self.day, self.key = day, signing_key(keys, day)
  end
  local path, query = u.target:match "^([^?]*)%??(.*)$"
  added.Authorization = sigv4.sign({
    method = plan.method, path = path, query = query, fields = fields, payload = payload,
  }, keys, self.key)
  credential.put(plan, added)
end

---@return false again
function SigV4.answered()
  return false
end

return sigv4
