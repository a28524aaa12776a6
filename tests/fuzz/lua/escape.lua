-- What is shown to people: `errors.escape`, `tostring(err)`, `url.mask`. Input: divided by line
-- ends, a user name, a password and a text that stands around a URL made of these.
-- Properties: what is shown is one line of UTF-8 without anything a terminal obeys; it stays as it
-- is when escaped again; no password of a URL is in it.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local kit = require "kit"
local url = require "orchestrator.url"

-- Controls as UTF-8 spells them, the two line separators, and what changes the direction of text.
local OBEYED = { "[%c\127]", "\194[\128-\159]", "\216\156", "\226\128[\142\143\168-\174]",
  "\226\129[\166-\169]" }

local function check_shown(shown)
  kit.check(json.encode(shown), "not UTF-8: %s", kit.show(shown))
  for _, pattern in ipairs(OBEYED) do
    kit.check(not shown:find(pattern), "%s in %s", pattern, kit.show(shown))
  end
end

return function(input)
  local escaped = errors.escape(input)
  check_shown(escaped)
  kit.check(errors.escape(escaped) == escaped, "escaped twice: %s", kit.show(escaped))
  check_shown(tostring(errors.new("http", input, { url = input, method = "GET", attempts = 2 })))

  local reader = kit.reader(input)
  local user = reader:field "\n":gsub("[%s/?#@:%z]", "")
  local password = reader:field "\n":gsub("[%s/?#@\\]", "")
  local around = reader:rest()
  local function text_with(secret)
    return ("http: %s https://%s:%s@host/x?y %s"):format(around, user, secret, around)
  end
  if #password < 4 or text_with("***"):find(password, 1, true) then return end
  local text = text_with(password)
  for _, shown in ipairs { url.mask(text), tostring(errors.new("http", text)) } do
    kit.check(not shown:find(password, 1, true), "%s in %s", kit.show(password), kit.show(shown))
  end
end
