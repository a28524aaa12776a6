-- The next hop of a redirect (RFC 9110 section 15.4), hop by hop and pure. When the origin (scheme,
-- host and port) changes, credentials are dropped by construction: of all headers only a short list
-- that can hold none goes on, whatever the others are called (CVE-2022-27774, CVE-2018-1000007).

local body = require "orchestrator.body"
local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local redirect = {}

---@class orc.RedirectPlan what was asked for
---@field method string
---@field u orc.Url
---@field fields orc.HeaderMap
---@field body_secret? boolean the body holds a secret
---@field [string] any its body, see body.lua

---@class orc.Redirect what to ask for next
---@field method string
---@field url string
---@field headers orc.HeaderMap
---@field keeps_body boolean the body that was sent goes along
---@field same_origin boolean

local FOLLOWED = { [301] = true, [302] = true, [303] = true, [307] = true, [308] = true }

-- What another origin may be told; the second list describes a body and goes with it.
local HARMLESS = { "accept", "accept-encoding", "accept-language", "user-agent" }
local OF_BODY = { "content-encoding", "content-language", "content-type" }

local function next_method(method, status)
  if status == 303 and method ~= "HEAD" or status <= 302 and method == "POST" then
    return "GET"
  end
  return method
end

local function copy_listed(from, to, names)
  for _, name in ipairs(names) do
    local field = from[name]
    if field and not secret.is(field.value) then
      to[name] = field
    end
  end
end

--- The fields that any origin may be told.
---@param fields orc.HeaderMap
---@return orc.HeaderMap
function redirect.harmless(fields)
  local kept = {}
  copy_listed(fields, kept, HARMLESS)
  return kept
end

local function next_headers(fields, same_origin, keeps_body)
  if same_origin then
    local kept = {}
    for name, field in pairs(fields) do
      if keeps_body or not name:find "^content%-" then
        kept[name] = field
      end
    end
    return kept
  end
  local kept = redirect.harmless(fields)
  if keeps_body then
    copy_listed(fields, kept, OF_BODY)
  end
  return kept
end

local function blocked(plan, reason, fault)
  return nil, errors.new("blocked", "redirect refused: " .. reason, {
    url = plan.u.text,
    method = plan.method,
    fault = fault,
  })
end

--- What to ask for after a response; nil when it is no redirect; nil, err (kind "blocked") when it
--- is one that must not be followed.
---@param plan orc.RedirectPlan
---@param status integer
---@param location string|nil the raw field
---@param idn? fun(host: string): string|nil see url.parse
---@param torn? boolean there are several that differ: who follows another than the next proxy or
---  cache does may be led anywhere
---@return orc.Redirect|nil
---@return orc.Error|nil
function redirect.next(plan, status, location, idn, torn)
  if torn and FOLLOWED[status] then
    return blocked(plan, "it has several Location fields that differ", "redirect_bad_location")
  end
  if not FOLLOWED[status] or not location or location == "" then
    return nil
  end
  -- Servers do send spaces; clients have always encoded them.
  local target, message = url.parse(url.join(plan.u, (location:gsub(" ", "%%20"))), idn)
  if not target then
    local scheme = (location:match "^%a[%w+.-]*:" or "http:"):lower()
    local other = scheme ~= "http:" and scheme ~= "https:"
    return blocked(plan, message, other and "redirect_scheme" or "redirect_bad_location")
  elseif plan.u.scheme == "https" and target.scheme == "http" then
    return blocked(plan, "it leads from https to http", "redirect_downgrade")
  end
  local method = next_method(plan.method, status)
  local keeps_body = body.of(plan) and method == plan.method
  if keeps_body and body.is_spent(plan) then
    return nil, errors.new(faults.get("body_not_repeatable").kind,
      string.format("redirect refused: %d asks for the body again, which a function gives once",
        status), { url = plan.u.text, method = plan.method, fault = "body_not_repeatable" })
  end
  local same_origin = target.origin == plan.u.origin
  if keeps_body and plan.body_secret and not same_origin then
    return blocked(plan, "it would carry a secret in the body to another origin",
      "redirect_secret_body")
  end
  return {
    method = method,
    url = target.text, -- without userinfo: a server does not choose our credentials
    headers = next_headers(plan.fields, same_origin, keeps_body),
    keeps_body = keeps_body,
    same_origin = same_origin,
  }
end

return redirect
