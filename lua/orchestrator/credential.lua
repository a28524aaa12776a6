-- What the schemes of auth.lua have in common: the rules of their options, and how credentials that
-- are different for every hop get onto it. Credentials given as plain texts become secrets here, so
-- that they are masked like any other.

local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"

local credential = {}

credential.TYPE = { type = "string", required = true }

local function not_empty(text)
  if secret.reveal(text) == "" then
    return nil, "must not be empty"
  end
  return text
end

local function hidden(text)
  local kept, problem = not_empty(text)
  return kept and secret.value(kept), problem
end

--- Of something that must not be shown.
credential.SECRET = { type = "secret", required = true, check = hidden }
credential.OPTIONAL_SECRET = { type = "secret", check = hidden }

--- Of something that may be shown, but that a script may keep as a secret.
credential.NAME = { type = "secret", required = true, check = not_empty }

credential.PASSWORD = { type = "secret", required = true, check = secret.value } -- may be empty

credential.USERNAME = {
  type = "secret",
  required = true,
  check = function(name)
    if secret.reveal(name):find(":", 1, true) then
      return nil, "must not contain a colon"
    end
    return name
  end,
}

--- The value of an Authorization field (RFC 7617).
---@param username string|orc.Secret
---@param password string|orc.Secret
---@return orc.Secret
function credential.basic(username, password)
  local pair = secret.reveal(username) .. ":" .. secret.reveal(password)
  return "Basic " .. secret.value(secret.base64(pair))
end

--- Puts header fields on what a hop sends. They are not in `plan.fields`, which the hops of a
--- redirect and further attempts start from.
---@param plan table
---@param fields table<string, string|orc.Secret>
function credential.put(plan, fields)
  plan.headers = assert(headers.text(headers.merge(plan.fields, fields)))
end

return credential
