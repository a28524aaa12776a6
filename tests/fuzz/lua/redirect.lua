-- Redirects (lua/orchestrator/redirect.lua, `url.join`). Input: a byte for the status, one for the
-- method, then a line with the URL of the request, then Location.
-- Properties: the next URL parses to itself and has no credentials; its path has no dot segments;
-- never https to http; to another origin go only fields that hold nothing secret, and no body with
-- a secret; libcurl would follow the same reference to the same host, if it follows it at all.

local fuzz = require "fuzz"
local headers = require "orchestrator.headers"
local kit = require "kit"
local redirect = require "orchestrator.redirect"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local STATUSES = { 301, 302, 303, 307, 308, 300, 304 }
local METHODS = { "GET", "POST", "HEAD", "PUT" }

local PASSWORD = secret.value "swordfish"
local FIELDS = headers.merge {
  Accept = "*/*", Authorization = "Bearer " .. PASSWORD, Cookie = "a=b", ["User-Agent"] = PASSWORD,
  ["X-API-Key"] = "swordfish", ["Content-Type"] = "text/plain", ["Content-Length"] = "9",
}
local HARMLESS = { accept = true, ["accept-encoding"] = true, ["content-type"] = true }

-- libcurl does not go by RFC 3986 where a reference has a scheme and no "//".
local function check_libcurl(base, location, target)
  local c = fuzz.curl(base.text, location)
  if not c or (c.scheme ~= "http" and c.scheme ~= "https") then return end
  local host = (c.host:match "^%[(.*)%]$" or c.host):lower()
  kit.check(host == target.host or fuzz.address(host)
    and fuzz.address(host) == fuzz.address(target.host),
    "%s at %s: we ask %s, libcurl would ask %s", kit.show(location), base.text, target.host, host)
end

local function check_fields(plan, following)
  for name in pairs(following.headers) do
    kit.check(following.same_origin or HARMLESS[name], "another origin is sent %s", name)
    kit.check(following.keeps_body or not name:find "^content", "%s without a body", name)
  end
  kit.check(not following.keeps_body or plan.method == following.method, "a body by GET")
  kit.check(not following.keeps_body or following.same_origin or not plan.body_secret,
    "a secret body for another origin")
end

return function(input)
  local reader = kit.reader(input)
  local status, method = reader:pick(STATUSES), reader:pick(METHODS)
  local base = url.parse(reader:field "\n")
  if not base then return end
  local location = reader:rest():gsub("%z", "")
  local body = (method == "POST" or method == "PUT") and "swordfish" or nil
  local plan = { method = method, u = base, url = base.text, fields = FIELDS, body = body,
    body_secret = body and #location % 2 == 0 }
  local following, err = redirect.next(plan, status, location)
  if err then
    kit.check(not tostring(err):find "[%c\127]", "unprintable: %s", kit.show(tostring(err)))
  end
  if not following then return end
  local target = assert(url.parse(following.url))
  kit.check(target.text == following.url and not target.userinfo, "it becomes %s", target.text)
  kit.check(not (target.target:match "^[^?]*" .. "/"):find "/%.%.?/", "dots in %s", following.url)
  kit.check(base.scheme == "http" or target.scheme == "https", "from https to http")
  kit.check(following.same_origin == (target.origin == base.origin), "same_origin is a lie")
  check_fields(plan, following)
  check_libcurl(base, location, target)
end
