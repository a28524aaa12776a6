-- The client's option `tls`: whom to trust, what to show who asks, how old a protocol may be.
-- What is wrong with a certificate is told by C (src/tls.h).

local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local tls = {}

local function path(given)
  if given == "" or given:find "%z" then return nil, "must be the path of a file" end
  local file, problem = io.open(given, "rb")
  local byte
  if file then
    byte, problem = file:read(1) -- a directory opens, but cannot be read
    file:close()
  end
  if byte then return given end
  problem = problem and problem:gsub("^.*: ", "") or "it is empty"
  return nil, ('must be a file that can be read, got "%s": %s'):format(given, problem)
end

-- The path of a file that has something of this kind in it, in PEM (RFC 7468).
local function pem(label, what)
  return function(given)
    local kept, problem = path(given)
    if not kept then return nil, problem end
    local file = io.open(given, "rb")
    local text = file and file:read "*a" or ""
    if file then file:close() end
    if text:find("%-%-%-%-%-BEGIN [%u%d ]*" .. label .. "%-%-%-%-%-") then return given end
    return nil, ('must be a file of %s in PEM, got "%s"'):format(what, given)
  end
end

local SCHEMA = {
  ca = { type = "string", check = pem("CERTIFICATE", "certificates") },
  crl = { type = "string", check = pem("CRL", "revocation lists") },
  cert = { type = "string", check = path },
  key = { type = "string", check = path },
  key_password = {
    type = "secret",
    check = function(given)
      if secret.reveal(given):find "%z" then return nil, "contains a NUL byte" end
      return given
    end,
  },
  insecure = { type = "boolean" },
  min = { type = { one_of = { "1.0", "1.1", "1.2", "1.3" } } },
}

-- What does nothing without, or beside, another option.
local NEEDS = { { "key", "cert" }, { "key_password", "cert" } }
local EXCLUSIVE = { { "insecure", "ca" }, { "insecure", "crl" } }

---@class orc.TlsSettings fields of host.profile, see src/host.h
---@field ca? string
---@field crl? string
---@field cert? string
---@field key? string
---@field key_password? string
---@field insecure? boolean true or nothing
---@field tls_min? string

--- Checks the option. Raises on misuse.
---@param given table
---@param where string names the option in a message
---@return orc.TlsSettings
function tls.check(given, where)
  local opts = options.check(where, given, SCHEMA)
  for _, pair in ipairs(NEEDS) do
    if opts[pair[1]] and not opts[pair[2]] then
      options.fail(where, ('"%s" needs a "%s"'):format(pair[1], pair[2]))
    end
  end
  for _, pair in ipairs(EXCLUSIVE) do
    if opts[pair[1]] and opts[pair[2]] then
      options.fail(where, ('"%s" and "%s" exclude each other'):format(pair[1], pair[2]))
    end
  end
  local password = opts.key_password and secret.reveal(secret.value(opts.key_password))
  return {
    ca = opts.ca,
    crl = opts.crl,
    cert = opts.cert,
    key = opts.key,
    key_password = password,
    insecure = opts.insecure or nil,
    tls_min = opts.min,
  }
end

--- What anybody who runs the script should know about its settings; nil when they are safe.
---@param settings orc.TlsSettings
---@return string|nil
function tls.warning(settings)
  if settings.insecure then
    return "tls.insecure: certificates are not verified, anybody on the way can read and change "
      .. "what is sent and received"
  elseif settings.tls_min == "1.0" or settings.tls_min == "1.1" then
    return ('tls.min = "%s": broken versions of TLS are accepted'):format(settings.tls_min)
  end
end

return tls
