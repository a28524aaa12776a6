-- Who we are, as a header or a query parameter: bearer (RFC 6750), basic (RFC 7617) and API keys.
-- Credentials given as plain strings become secrets here, so that they are masked like any other.

local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local auth = {}

---@class orc.Auth
---@field place "header"|"query"
---@field name string of the header or parameter
---@field value orc.Secret

local TYPE = { type = "string", required = true }

local CREDENTIAL = {
  type = "secret",
  required = true,
  check = function(text)
    if text == "" then
      return nil, "must not be empty"
    end
    return secret.value(text)
  end,
}

local PASSWORD = { type = "secret", required = true, check = secret.value } -- may be empty

local USERNAME = {
  type = "secret",
  required = true,
  check = function(name)
    if secret.reveal(name):find(":", 1, true) then
      return nil, "must not contain a colon"
    end
    return name
  end,
}

local function authorization(value)
  return { place = "header", name = "Authorization", value = value }
end

local types = {}

types.bearer = {
  schema = { type = TYPE, token = CREDENTIAL },
  build = function(opts)
    return authorization("Bearer " .. opts.token)
  end,
}

types.basic = {
  schema = { type = TYPE, username = USERNAME, password = PASSWORD },
  build = function(opts)
    local pair = secret.reveal(opts.username) .. ":" .. secret.reveal(opts.password)
    return authorization("Basic " .. secret.value(secret.base64(pair)))
  end,
}

types.api_key = {
  schema = {
    type = TYPE,
    name = { type = "string", required = true },
    value = CREDENTIAL,
    place = { type = { one_of = { "header", "query" } }, default = "header" },
  },
  build = function(opts)
    return { place = opts.place, name = opts.name, value = opts.value }
  end,
}

local NAMES = { "api_key", "basic", "bearer" }

--- The credentials that auth options describe. Raises on misuse.
---@param opts table|false|nil
---@param where? string names the options in a message
---@return orc.Auth|nil
function auth.check(opts, where)
  if not opts then
    return nil
  end
  where = where or "auth"
  local kind = type(opts) == "table" and types[opts.type]
  if not kind then
    local given = type(opts) == "table" and opts.type
    local nearest = type(given) == "string" and options.suggest(given, NAMES)
    local hint = nearest and (' (did you mean "%s"?)'):format(nearest) or ""
    options.fail(where, ('"type" must be "%s"%s'):format(table.concat(NAMES, '", "'), hint))
  end
  return kind.build(options.check(where, opts, kind.schema))
end

--- Adds the credentials to what will be sent. What the script set by the same name stays.
---@param credentials orc.Auth
---@param fields orc.HeaderMap
---@param query table<string, any>
function auth.apply(credentials, fields, query)
  local name, value = credentials.name, credentials.value
  if credentials.place == "query" then
    query[name] = query[name] == nil and value or query[name]
  else
    local key = name:lower()
    fields[key] = fields[key] or { name = name, value = value }
  end
end

return auth
