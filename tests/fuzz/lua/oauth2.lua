-- The answers of a token endpoint (lua/orchestrator/oauth2.lua). Input: a byte for its status, one
-- for the grant, then the body.
-- Properties: there is a token, which can be sent and is masked wherever it is shown, or an error
-- in one printable line; what the answer says of its life is a time to come, or nothing.

local json = require "orchestrator.json"
local errors = require "orchestrator.errors"
local kit = require "kit"
local oauth2 = require "orchestrator.oauth2"
local secret = require "orchestrator.secret"

local STATUSES = { 200, 200, 200, 400, 401, 500 }
local NOW = 1000

-- A scheduler whose tasks end at once.
local SCHED = {
  now = function()
    return NOW
  end,
  spawn = function(_, fn, ...)
    local task = { done = true, outcome = { fn(...) } }
    function task.await()
      return unpack(task.outcome, 1, 2)
    end
    return task
  end,
}

local function context_of(status, body)
  local res = { status = status }
  function res.json()
    return json.decode(body)
  end
  local client = {}
  function client.fetch()
    if status == 200 then return res end
    return nil, errors.new("http", "status " .. status, { status = status, response = res })
  end
  return { sched = SCHED, where = "auth", client = function() return client end }
end

local function check_token(self)
  local plan = { fields = {} }
  self:authorize(plan)
  local text = plan.headers:match "^Authorization: Bearer ([!-~]+)\n$"
  kit.check(text, "it sends %s", kit.show(plan.headers))
  kit.check(#text < 4 or secret.mask("<" .. text .. ">") == "<***>", "%s is not masked", text)
  local expires = self.token.expires
  kit.check(expires == nil or expires > NOW and expires < math.huge, "it lives until %s", expires)
end

return function(input)
  local reader = kit.reader(input)
  local status, refreshes = reader:pick(STATUSES), reader:byte() % 2 == 1
  local self = oauth2.new({
    token_url = "https://h/token", client_id = "id", client_secret = secret.value "swordfish",
    grant = refreshes and "refresh_token" or "client_credentials",
    refresh_token = refreshes and secret.value "mackerel" or nil,
  }, context_of(status, reader:rest()))
  local ok, err = self:ready()
  if ok then
    check_token(self)
  else
    kit.check(errors.is(err) and json.encode(tostring(err)), "it fails with %s", kit.show(err))
    kit.check(not tostring(err):find "[%c\127]", "it fails with %s", kit.show(tostring(err)))
  end
  for _, known in ipairs(self.kept) do secret.forget(known) end
end
