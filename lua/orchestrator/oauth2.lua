-- OAuth 2.0 (RFC 6749) with bearer tokens (RFC 6750): grants `client_credentials` and
-- `refresh_token`. However many tasks want a token, one request for it is in flight, in a task of
-- its own, so that it outlives the first who asked; it is cancelled when nobody waits any more.
--
-- A 401 is taken for the token's fault once: it is given up, another is obtained, and what was sent
-- with the old one is sent again. A token that is refused as the replacement of another is not what
-- is wrong, and is kept.

local credential = require "orchestrator.credential"
local errors = require "orchestrator.errors"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local oauth2 = {}

---@class orc.Token
---@field value orc.Secret
---@field expires number|nil monotonic seconds, with the margin taken off
---@field given_up boolean it was refused
---@field trusted_until number|nil until when a 401 is not taken for its fault

---@class orc.Oauth2
---@field token orc.Token|nil
---@field refresh_token orc.Secret|nil the last one we were given
---@field flight table|nil {task, waiting} the token request that is in flight
---@field refused table|nil {err, until} the token endpoint's answer, should it be final
---@field kept orc.Secret[] tokens that are masked, the latest last
local Oauth2 = {}
Oauth2.__index = Oauth2

local MARGIN = 60 -- seconds before its end in which a token is not used, or
local MARGIN_PART = 0.1 -- … this part of its life, if that is less
local TRUSTED_FOR = 60 -- seconds
local REFUSED_FOR = 30 -- seconds in which a refusal for good is not asked for again
local KEPT = 8 -- tokens that are masked
local LONGEST_TOKEN = 16384 -- bytes; no server would take a header field of more
local LONGEST_TEXT = 200 -- bytes of what the endpoint says that are shown

local function words(list)
  for i, word in ipairs(list) do
    if type(word) ~= "string" then
      return nil, ("must list texts; element %d is a %s"):format(i, type(word))
    end
  end
  return table.concat(list, " ")
end

oauth2.schema = {
  type = credential.TYPE,
  token_url = { type = "secret", required = true, check = secret.reveal },
  grant = {
    type = { one_of = { "client_credentials", "refresh_token" } }, default = "client_credentials",
  },
  client_id = credential.NAME,
  client_secret = credential.OPTIONAL_SECRET,
  refresh_token = credential.OPTIONAL_SECRET,
  scope = {
    type = { "string", "table" },
    check = function(scope)
      if type(scope) == "table" then return words(scope) end
      return scope
    end,
  },
  audience = { type = "string" },
  params = { type = "table" },
  client_auth = { type = { one_of = { "basic", "post" } } },
}

-- Names that `params` may not take from the options.
local OWN = { "grant_type", "client_id", "client_secret", "refresh_token", "scope", "audience" }

local function check_params(opts, where)
  for _, name in ipairs(OWN) do
    if opts.params[name] ~= nil then
      options.fail(where, ('"params" must not have "%s": it has an option of its own'):format(name))
    end
  end
  for name, value in pairs(opts.params) do
    if not url.scalar(value) then
      options.fail(where, ('"params" must have texts, numbers or secrets in it; "%s" is a %s')
        :format(tostring(name), type(value)))
    end
  end
  url.form(opts.params) -- raises on what no form can have
end

---@param opts table checked
---@param context table see auth.check
---@return orc.Oauth2
function oauth2.new(opts, context)
  local where = context.where
  local u, problem = url.parse(opts.token_url, context.idn)
  if not u then options.fail(where, '"token_url" is not a URL: ' .. problem) end
  if u.userinfo then
    options.fail(where, '"token_url" must not have credentials in it: use client_id')
  end
  if opts.grant == "refresh_token" and not opts.refresh_token then
    options.fail(where, '"refresh_token" is missing: grant = "refresh_token" needs one')
  elseif opts.grant == "client_credentials" and opts.refresh_token then
    options.fail(where, '"refresh_token" needs grant = "refresh_token"')
  elseif not opts.client_secret and (opts.grant == "client_credentials" or opts.client_auth) then
    options.fail(where, '"client_secret" is missing: it must be a string or a secret')
  end
  if opts.params then check_params(opts, where) end
  return setmetatable({
    sched = context.sched,
    -- A client of its own: the request for a token needs no token.
    client = context.client {
      retry = { methods = { "POST" } },
      follow = 0, -- what it carries is for the endpoint alone
      max_body = 1e6,
      headers = { Accept = "application/json" },
    },
    opts = opts,
    refresh_token = opts.refresh_token,
    token = nil, flight = nil, refused = nil, kept = {},
  }, Oauth2)
end

-- The token request -----------------------------------------------------------------------------

local function request_of(self)
  local opts = self.opts
  local form, fields = {}, nil
  for name, value in pairs(opts.params or {}) do form[name] = value end
  form.grant_type, form.scope, form.audience = opts.grant, opts.scope, opts.audience
  if opts.grant == "refresh_token" then form.refresh_token = self.refresh_token end
  if opts.client_secret and opts.client_auth ~= "post" then
    -- Section 2.3.1: both are encoded as in a form before they are joined.
    fields = { Authorization = credential.basic(url.escape(secret.reveal(opts.client_id)),
      url.escape(secret.reveal(opts.client_secret))) }
  else
    form.client_id, form.client_secret = opts.client_id, opts.client_secret
  end
  return { url = opts.token_url, method = "POST", form = form, headers = fields }
end

local function failure(self, kind, message, fields)
  fields = fields or {}
  fields.final = true -- it had retries of its own
  return errors.new(kind, "no token from " .. self.opts.token_url .. ": " .. message, fields)
end

local function shown(text)
  if #text > LONGEST_TEXT then return text:sub(1, LONGEST_TEXT) .. "..." end
  return text
end

-- What the endpoint says is wrong (section 5.2).
local function explanation(res)
  local said = res and res:json()
  if type(said) ~= "table" or type(said.error) ~= "string" then return "" end
  local text = ": " .. shown(secret.mask(said.error))
  if type(said.error_description) == "string" then
    text = text .. " (" .. shown(secret.mask(said.error_description)) .. ")"
  end
  return text
end

-- Statuses that tell of the endpoint's health, not of what it thinks of us.
local PASSING = { [408] = true, [425] = true, [429] = true }

local function request_failed(self, err)
  local status = err.status
  local answer = failure(self, err.kind, err.message .. explanation(err.response),
    { status = status, fault = err.fault })
  if err.kind == "http" and status >= 400 and status <= 499 and not PASSING[status] then
    self.refused = { err = answer, ends = self.sched:now() + REFUSED_FOR }
  end
  return nil, answer
end

-- A secret that goes into a header field, or nil.
local function token_text(value)
  if type(value) ~= "string" or #value > LONGEST_TOKEN then return nil end
  return value:find "^[\33-\126]+$" and value or nil
end

-- Makes a token known, so that it is masked, and forgets the oldest.
local function keep(self, text)
  if secret.is_known(text) then return secret.value(text) end
  local value = secret.value(text)
  table.insert(self.kept, value)
  if #self.kept > KEPT then secret.forget(table.remove(self.kept, 1)) end
  return value
end

-- Seconds a token lives; nil when the answer does not say, or says what cannot be.
local function lifetime(given)
  local seconds = type(given) == "number" and given or type(given) == "string" and tonumber(given)
  return seconds and seconds > 0 and seconds < math.huge and seconds or nil
end

-- A token from the endpoint's answer (section 5.1), or nil, err.
local function read_token(self, res, began)
  local said, problem = res:json()
  if problem or type(said) ~= "table" then
    return nil, failure(self, "decode", problem and problem.message or "its answer is no object")
  end
  local text = token_text(said.access_token)
  if not text then
    return nil, failure(self, "invalid", explanation(res) ~= "" and "it says" .. explanation(res)
      or "its answer has no access_token that could be sent")
  elseif said.token_type ~= nil and tostring(said.token_type):lower() ~= "bearer" then
    return nil, failure(self, "invalid", 'its token is of the type "'
      .. shown(tostring(said.token_type)) .. '", and only bearer is known')
  end
  local life = lifetime(said.expires_in)
  local margin = life and math.min(MARGIN, MARGIN_PART * life)
  -- Rotation: the old one may be of no use from now on.
  local following = self.opts.grant == "refresh_token" and token_text(said.refresh_token)
  if following then self.refresh_token = keep(self, following) end
  return { value = keep(self, text), expires = life and began + life - margin, given_up = false }
end

-- The body of the flight's task.
local function obtain(self)
  local began = self.sched:now()
  local res, err = self.client:fetch(request_of(self))
  if not res then return request_failed(self, err) end
  local token
  token, err = read_token(self, res, began)
  if not token then return nil, err end
  self.token, self.refused = token, nil
  return true
end

-- Hops ------------------------------------------------------------------------------------------

-- Waits for the flight, starting it if there is none.
local function board(self)
  local flight = self.flight
  if not flight then
    flight = { task = self.sched:spawn(obtain, self), waiting = 0 }
    flight.task.on_done = function()
      if self.flight == flight then self.flight = nil end
    end
    self.flight = flight
  end
  flight.waiting = flight.waiting + 1
  local ok, done, err = pcall(flight.task.await, flight.task)
  flight.waiting = flight.waiting - 1
  if flight.waiting == 0 and not flight.task.done then
    self.flight = nil
    flight.task:cancel "nobody waits for the token any more"
  end
  if not ok then error(done, 0) end -- the task that waited was cancelled
  return done, err
end

--- Waits until there is a token that has not expired. Yields.
---@return boolean|nil
---@return orc.Error|nil
function Oauth2:ready()
  local now = self.sched:now()
  local token = self.token
  if token and not token.given_up and not (token.expires and now >= token.expires) then
    return true
  end
  local refused = self.refused
  if refused and now < refused.ends then return nil, refused.err end
  return board(self)
end

--- Puts the token on a hop that is about to start. It may have been given up while the hop waited
--- for its slot; without one a server could give an answer that is meant for strangers.
---@param plan table
function Oauth2:authorize(plan)
  plan.token = self.token
  credential.put(plan, { Authorization = "Bearer " .. plan.token.value })
end

--- Takes note of an answer.
---@param plan table
---@param result table|nil nil when the hop was cancelled
---@return boolean again whether to send the hop again
function Oauth2:answered(plan, result)
  if not result or result.status ~= 401 then return false end
  local token, now = plan.token, self.sched:now()
  if (plan.refusals or 0) > 0 then
    result.refusal = "also with a new token"
    token.trusted_until = now + TRUSTED_FOR
    return false
  elseif token == self.token then
    if token.trusted_until and now < token.trusted_until then return false end
    token.given_up = true
  end
  return true
end

return oauth2
