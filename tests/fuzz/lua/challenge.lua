-- WWW-Authenticate (lua/orchestrator/challenge.lua) and the answer of digest.lua. Input: two lines
-- with a user name and a password, then the field.
-- Properties: what is read is made of tokens; whatever the challenge, the answer is a header field
-- that can be sent, once, with the password nowhere in it, and reads back as what was meant.

local challenge = require "orchestrator.challenge"
local digest = require "orchestrator.digest"
local kit = require "kit"
local secret = require "orchestrator.secret"

local TOKEN = "^[!#$%%&'*+.^_`|~%w-]+$"

-- A scheduler in which no time passes and nobody waits.
local SCHED = {}
for _, name in ipairs { "at", "cancel", "current", "suspend", "wake" } do
  SCHED[name] = function() end
end
function SCHED.now()
  return 0
end

-- One hop that is refused with the challenge, and the one after it. Returns its Authorization.
local function answered(username, password, field)
  local self = digest.new({ username = username, password = password }, { sched = SCHED })
  local plan = { origin = "https://h:443", method = "GET", u = { target = "/x?y" }, fields = {} }
  self:authorize(plan)
  local result = { status = 401 }
  result.head = "HTTP/1.1 401 x\r\nWWW-Authenticate: " .. field .. "\r\n\r\n"
  if not self:answered(plan, result) then
    kit.check(type(result.refusal) == "string" and #result.refusal < 200, "a refusal %s",
      kit.show(result.refusal))
    return nil
  end
  self:authorize(plan)
  local sent = plan.headers
  result.head = "HTTP/1.1 200 x\r\nAuthentication-Info: " .. field .. "\r\n\r\n"
  result.status = 200
  self:answered(plan, result)
  self:authorize(plan)
  return sent
end

return function(input)
  local reader = kit.reader(input)
  local username = reader:field "\n":gsub("[%c:]", "")
  local password = reader:field "\n"
  local field = reader:rest():gsub("[\r\n]", " ")
  for _, one in ipairs(challenge.parse(field)) do
    kit.check(one.scheme:find(TOKEN) and one.scheme == one.scheme:lower(), "scheme %s",
      kit.show(one.scheme))
    for name in pairs(one.params) do
      kit.check(name:find(TOKEN) and name == name:lower(), "parameter %s", kit.show(name))
    end
  end
  if username == "" then return end
  local hidden = secret.value(password)
  local sent = answered(username, hidden, field)
  secret.forget(hidden)
  if not sent then return end
  kit.check(sent:find "^Authorization: Digest [^\r\n]+\n$", "it sends %s", kit.show(sent))
  local elsewhere = (field .. username):find(password, 1, true) or password:find '[=",]'
  kit.check(#password < 12 or elsewhere or not sent:find(password, 1, true),
    "the password in %s", kit.show(sent))
  local value = sent:match "^Authorization: (.*)\n$"
  local back = challenge.parse(value)
  kit.check(#value > 16384 or #back == 1 and back[1].scheme == "digest", "it reads as %d", #back)
  if #value <= 16384 then
    local params = back[1].params
    kit.check(params["username*"] or params.userhash or params.username == username,
      "the user is %s", kit.show(params.username))
    kit.check(params.uri == "/x?y" and params.response:find "^%x+$", "it sends %s", kit.show(sent))
  end
end
