-- Digest authentication (RFC 7616): proves that we know a password without sending it. A server
-- gives a nonce with its challenge (a 401), which later requests to the same origin use, too. Until
-- the first challenge is there, one request goes alone, so that not all of those that start
-- together meet a 401.

local challenge = require "orchestrator.challenge"
local credential = require "orchestrator.credential"
local crypto = require "orchestrator.core.crypto"
local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local digest = {}

---@class orc.DigestNonce what a challenge left us with
---@field hash fun(text: string): string hexadecimal
---@field session boolean the algorithm is one of a session
---@field params table<string, string> of the challenge
---@field a1 string H(A1), kept for as long as the session
---@field nonce string
---@field cnonce string
---@field count integer requests sent with this nonce
---@field accepted boolean one of them was not refused

---@class orc.DigestSpace what is known of an origin
---@field owner orc.Digest
---@field origin string
---@field current orc.DigestNonce|nil
---@field settled boolean a first request was answered
---@field probe table|nil the plan of that request
---@field timer orc.Timer|nil ends the wait for it
---@field waiters table[] those who wait for its answer

---@class orc.Digest
---@field spaces table<string, orc.DigestSpace> by origin
local Digest = {}
Digest.__index = Digest

local RESENT_MOST = 3 -- times a hop is sent again, should the server say "stale" that often
local MOST_SPACES = 1000 -- origins that are remembered
local PATIENCE = 5 -- seconds that others wait for the first answer, which may be a long download

digest.schema = {
  type = credential.TYPE,
  username = {
    type = "secret",
    required = true,
    check = function(name)
      if secret.reveal(name):find "%c" then
        return nil, "must not contain a control character"
      end
      return credential.USERNAME.check(name)
    end,
  },
  password = credential.PASSWORD,
}

---@param opts table checked
---@param context table see auth.check
---@return orc.Digest
function digest.new(opts, context)
  return setmetatable({
    sched = context.sched,
    username = secret.reveal(opts.username),
    password = opts.password,
    spaces = {}, count = 0,
  }, Digest)
end

-- Challenges ------------------------------------------------------------------------------------

-- By the name in a challenge, in lower case (section 6.1).
local ALGORITHMS = { ["md5"] = "md5", ["sha-256"] = "sha256", ["sha-512-256"] = "sha512-256" }

-- A function to a hexadecimal hash, and whether it is a session's; or nil.
local function algorithm_of(name)
  name = (name or "MD5"):lower()
  local session = name:match "^(.+)%-sess$"
  local known = ALGORITHMS[session or name]
  if not known or not crypto.hash(known, "") then
    return nil
  end
  return function(text)
    return crypto.hex(assert(crypto.hash(known, text)))
  end, session ~= nil
end

-- "auth"; "" for a server that knows no quality of protection (RFC 2069); nil when it asks for what
-- we do not offer.
local function protection_of(params)
  if not params.qop then
    return ""
  end
  for value in params.qop:gmatch "[^%s,]+" do
    if value:lower() == "auth" then
      return "auth"
    end
  end
end

local function has_control(params)
  for _, value in pairs(params) do
    if value:find "[%c]" then
      return true
    end
  end
end

-- What is wrong with a challenge; nil when we can answer it.
local function objection(params)
  if has_control(params) or not params.realm or (params.nonce or "") == "" then
    return "its digest challenge is malformed"
  elseif not algorithm_of(params.algorithm) then
    return "it asks for digest with an algorithm that is not known, "
      .. (params.algorithm or "MD5"):sub(1, 40)
  elseif not protection_of(params) then
    return "it asks for digest with qop=" .. params.qop:sub(1, 40) .. ", and only auth is known"
  end
end

-- The parameters of the first challenge we can answer: servers list them in their order of
-- preference (section 3.7). Or nil and why there is none.
local function choose(field)
  local refusal, offered = nil, {}
  for _, one in ipairs(challenge.parse(field)) do
    if one.scheme == "digest" then
      local problem = objection(one.params)
      if not problem then
        return one.params
      end
      refusal = refusal or problem
    end
    offered[#offered + 1] = one.scheme:sub(1, 40)
  end
  if refusal or #offered == 0 then
    return nil, refusal or "without a challenge"
  end
  return nil, "it does not offer digest but " .. table.concat(offered, ", ", 1,
    math.min(#offered, 5))
end

-- Answers ---------------------------------------------------------------------------------------

local function nonce_of(self, params)
  local hash, session = algorithm_of(params.algorithm)
  local cnonce = crypto.hex(assert(crypto.random(16)))
  local a1 = hash(self.username .. ":" .. params.realm .. ":" .. secret.reveal(self.password))
  if session then
    a1 = hash(a1 .. ":" .. params.nonce .. ":" .. cnonce)
  end
  return {
    hash = hash, session = session, params = params, a1 = a1, nonce = params.nonce,
    cnonce = cnonce, count = 0, accepted = false,
  }
end

local function quoted(text)
  return '"' .. text:gsub('["\\]', "\\%0") .. '"'
end

-- Section 3.4.4: hashed where the server wants that; in the extended notation of RFC 5987 where it
-- takes UTF-8 and a quoted string could not say it.
local function username_of(self, n)
  local params = n.params
  if (params.userhash or ""):lower() == "true" then
    return "username=" .. quoted(n.hash(self.username .. ":" .. params.realm)) .. ", userhash=true"
  elseif self.username:find "[\128-\255]" and (params.charset or ""):upper() == "UTF-8" then
    return "username*=UTF-8''" .. url.escape(self.username)
  end
  return "username=" .. quoted(self.username)
end

-- The value of Authorization for one more request (section 3.4).
local function answer(self, n, method, target)
  local params, hash = n.params, n.hash
  n.count = n.count + 1
  local a2 = hash(method .. ":" .. target)
  local parts = {
    username_of(self, n), "realm=" .. quoted(params.realm), "nonce=" .. quoted(n.nonce),
    "uri=" .. quoted(target),
  }
  local function add(name, value)
    parts[#parts + 1] = name .. "=" .. value
  end
  if params.algorithm then
    add("algorithm", params.algorithm)
  end
  if params.opaque then
    add("opaque", quoted(params.opaque))
  end
  if protection_of(params) == "auth" then
    local count = ("%08x"):format(n.count)
    add("qop", "auth")
    add("nc", count)
    add("cnonce", quoted(n.cnonce))
    local text = table.concat({ n.a1, n.nonce, count, n.cnonce, "auth", a2 }, ":")
    add("response", quoted(hash(text)))
  else
    if n.session then
      add("cnonce", quoted(n.cnonce))
    end
    add("response", quoted(hash(n.a1 .. ":" .. n.nonce .. ":" .. a2)))
  end
  return "Digest " .. table.concat(parts, ", ")
end

-- Hops ------------------------------------------------------------------------------------------

local function space_of(self, origin)
  local space = self.spaces[origin]
  if not space then
    if self.count == MOST_SPACES then
      self.spaces, self.count = {}, 0 -- hops under way have theirs
    end
    space = {
      owner = self, origin = origin,
      current = nil, settled = false, probe = nil, timer = nil, waiters = {},
    }
    self.spaces[origin], self.count = space, self.count + 1
  end
  return space
end

-- What the hop has found when it was made ready.
local function space_for(self, plan)
  local space = plan.digest_space
  if space and space.owner == self and space.origin == plan.origin then
    return space
  end
  return space_of(self, plan.origin)
end

local function leave(waiter)
  waiter.gone = true
end

local function end_probe(self, space, settled)
  if space.timer then space.timer:cancel() end
  space.timer, space.probe, space.settled = nil, nil, settled
  local waiters = space.waiters
  space.waiters = {}
  for _, waiter in ipairs(waiters) do
    if not waiter.gone then
      self.sched:wake(waiter.task)
    end
  end
end

--- Waits until there is a nonce, or it is this hop's turn to ask for one. Yields.
---@param plan table
---@return true
function Digest:ready(plan)
  local space = space_of(self, plan.origin)
  plan.digest_space = space
  while space.probe and not space.settled do
    local waiter = { task = self.sched:current() }
    table.insert(space.waiters, waiter)
    self.sched:suspend(leave, waiter)
  end
  return true
end

--- Puts the answer to the last challenge on a hop that is about to start.
---@param plan table
function Digest:authorize(plan)
  local space = space_for(self, plan)
  local current = space.current
  plan.digest = current
  if current then
    credential.put(plan, { Authorization = answer(self, current, plan.method, plan.u.target) })
  elseif not space.settled and not space.probe then
    space.probe = plan
    space.timer = self.sched:at(self.sched:now() + PATIENCE, function()
      space.timer = nil
      end_probe(self, space, true)
    end)
  end
end

-- A server may replace its nonce in time (section 3.5). A session goes on with its A1.
local function replace_nonce(space, used, head)
  local following = challenge.params(headers.get(head, "authentication-info")).nextnonce
  if following and following ~= "" and not following:find "%c" and space.current == used then
    space.current = {
      hash = used.hash, session = used.session, params = used.params, a1 = used.a1,
      nonce = following, cnonce = used.cnonce, count = 0, accepted = true,
    }
  end
end

-- Whether a refused hop can be sent again, after its challenge was taken in; or why not.
local function take(self, space, used, field)
  local params, refusal = choose(field)
  if not params then
    return false, refusal
  elseif space.current and space.current ~= used then
    return true -- another request has taken in a newer challenge
  end
  local stale = (params.stale or ""):lower() == "true"
  -- Some servers forget to say that a nonce, which they took before, is stale.
  if used and not stale and not (used.accepted and params.nonce ~= used.nonce) then
    return false, "it does not accept the user name or the password"
  end
  space.current = nonce_of(self, params)
  return true
end

--- Takes note of an answer.
---@param plan table
---@param result table|nil nil when the hop was cancelled
---@return boolean again whether to send the hop again
function Digest:answered(plan, result)
  local space = space_for(self, plan)
  local used, again = plan.digest, false
  if result and result.status == 401 then
    again, result.refusal = take(self, space, used, headers.get(result.head, "www-authenticate"))
    if (plan.refusals or 0) >= RESENT_MOST then
      again, result.refusal = false, "it calls every nonce stale"
    end
  elseif used and result and result.status then
    used.accepted = true
    replace_nonce(space, used, result.head)
  end
  if space.probe == plan then
    end_probe(self, space, result ~= nil)
  end
  return again
end

return digest
