-- Who we are. Bearer tokens (RFC 6750), Basic (RFC 7617) and API keys are the same for every
-- request: they become part of a client's headers or query, once. The other schemes make an object
-- that is asked at every hop (attempt.lua):
--
--   :ready(plan)             before it waits for its slot; may wait. true, or nil, err
--   :confirm(plan)           when it has its slot; false: it has to be made ready again, and must
--                            not hold the slot meanwhile. May be missing
--   :authorize(plan)         when it starts: puts the credentials on it; neither waits nor fails
--   :answered(plan, result)  when it has ended; without a result when it was cancelled. Whether to
--                            send it again; may say in result.refusal why a 401 stands
--
-- It is not asked for hops to other origins than the request's own and the client's base_url, nor
-- for requests that have an Authorization of their own.

local credential = require "orchestrator.credential"
local digest = require "orchestrator.digest"
local netrc = require "orchestrator.netrc"
local oauth2 = require "orchestrator.oauth2"
local options = require "orchestrator.options"
local rotation = require "orchestrator.rotation"
local sigv4 = require "orchestrator.sigv4"

local auth = {}

---@class orc.StaticAuth
---@field place "header"|"query"
---@field name string of the header or parameter
---@field value orc.Secret

---@class orc.Authenticator an object as described above

local function authorization(value)
  return { place = "header", name = "Authorization", value = value }
end

-- Those with `build` are the same for every request, those with `new` make an object.
local types = { digest = digest, netrc = netrc, oauth2 = oauth2, sigv4 = sigv4 }

types.bearer = {
  schema = { type = credential.TYPE, token = credential.SECRET },
  build = function(opts)
    return authorization("Bearer " .. opts.token)
  end,
}

types.basic = {
  schema = {
    type = credential.TYPE, username = credential.USERNAME, password = credential.PASSWORD,
  },
  build = function(opts)
    return authorization(credential.basic(opts.username, opts.password))
  end,
}

types.api_key = {
  schema = {
    type = credential.TYPE,
    name = { type = "string", required = true },
    value = credential.SECRET,
    place = { type = { one_of = { "header", "query" } }, default = "header" },
  },
  build = function(opts)
    return { place = opts.place, name = opts.name, value = opts.value }
  end,
}

local NAMES = {}
for name in pairs(types) do
  NAMES[#NAMES + 1] = name
end
table.sort(NAMES)

-- A list of credentials as one object; a list of one is that one.
local function check_list(list, context)
  local where = context.where
  for key in pairs(list) do
    if type(key) ~= "number" then
      options.fail(where, "must be credentials, or a list of them")
    end
  end
  local checked = {}
  for i = 1, table.maxn(list) do
    local one = setmetatable({ where = ("%s[%d]"):format(where, i) }, { __index = context })
    local opts = list[i]
    if type(opts) == "table" and opts[1] ~= nil then
      options.fail(one.where, "must be credentials, not a list")
    end
    local static, object = auth.check(opts or {}, one)
    checked[i] = { static = static, object = object }
  end
  if #checked == 1 then return checked[1].static, checked[1].object end
  return nil, rotation.new(checked, context)
end

--- The credentials that auth options describe: those that are the same for every request, or an
--- object. Raises on misuse.
---@param opts table|false|nil one, or a list of them
---@param context? table {where = names the options in a message, sched, wall = fun(): unix time,
---  warn = fun(text), client = fun(opts): one without auth that reaches hosts as this one does;
---  for a list also random, say = fun(text), heeds = whether to heed what a server says of limits}
---@return orc.StaticAuth|nil static
---@return orc.Authenticator|nil dynamic
function auth.check(opts, context)
  if not opts then
    return nil
  end
  context = context or {}
  context.where = context.where or "auth"
  if type(opts) == "table" and opts[1] ~= nil then return check_list(opts, context) end
  local kind = type(opts) == "table" and types[opts.type]
  if not kind then
    local given = type(opts) == "table" and opts.type
    local nearest = type(given) == "string" and options.suggest(given, NAMES)
    local hint = nearest and (' (did you mean "%s"?)'):format(nearest) or ""
    options.fail(context.where, ('"type" must be "%s"%s'):format(table.concat(NAMES, '", "'), hint))
  end
  local checked = options.check(context.where, opts, kind.schema)
  if kind.build then
    return kind.build(checked)
  end
  return nil, kind.new(checked, context)
end

--- Adds the credentials to what will be sent. What the script set by the same name stays.
---@param credentials orc.StaticAuth
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
