-- URLs (lua/orchestrator/url.lua). Input: a URL, then perhaps a line end and what a conversion of
-- its host name to ASCII would give.
-- Properties: what is accepted is made of what a request line may hold and has a host; its text
-- parses to itself, from the cache, too, and holds no credentials; libcurl would ask the same host
-- and port for the same target. What is refused is refused without quoting it.

local fuzz = require "fuzz"
local kit = require "kit"

local function site_of(u)
  return u.host:find(":", 1, true) and "[" .. u.host .. "]" or u.host
end

local function check_parts(u)
  kit.check(u.scheme == "http" or u.scheme == "https", "scheme %s", u.scheme)
  kit.check(#u.host > 0 and not u.host:find "[^%l%d._~:-]", "host %s", kit.show(u.host))
  kit.check(u.port >= 1 and u.port <= 65535 and u.port % 1 == 0, "port %s", u.port)
  kit.check(u.target:find "^/" and not u.target:find "[^!-~]" and not u.target:find "#",
    "target %s", kit.show(u.target))
  kit.check(u.origin == ("%s://%s:%d"):format(u.scheme, site_of(u), u.port), "origin %s", u.origin)
  kit.check(u.text == u.origin .. u.target
    or u.port == (u.scheme == "http" and 80 or 443)
      and u.text == u.scheme .. "://" .. site_of(u) .. u.target, "text %s", u.text)
end

local function check_libcurl(u)
  local c, problem = fuzz.curl(u.text)
  kit.check(c, "libcurl refuses %s: %s", u.text, problem)
  kit.check(c.scheme == u.scheme and tonumber(c.port) == u.port and not c.user,
    "libcurl reads %s as %s, port %s, user %s", u.text, c.scheme, c.port, c.user)
  local host = c.host:match "^%[(.*)%]$" or c.host
  kit.check(host == u.host or fuzz.address(u.host)
    and fuzz.address(host) == fuzz.address(u.host), "libcurl asks %s for %s", host, u.text)
  local target = c.path .. (c.query and "?" .. c.query or "")
  -- libcurl drops an empty query.
  kit.check(target == u.target, "libcurl asks for %s, not %s", target,
    u.target)
end

return function(input)
  local url = kit.fresh "orchestrator.url"
  local text, ascii = input:match "^([^\n]*)\n(.*)$"
  local function idn()
    return ascii
  end
  text = text or input
  local u, message = url.parse(text, idn)
  if not u then
    kit.check(#message < 100 and not message:find "[^ -~]", "a message %s", kit.show(message))
    return
  end
  check_parts(u)
  kit.check(kit.equal(u, url.parse(text, idn)), "another URL from the cache: %s", kit.show(text))
  u.userinfo = nil
  kit.check(kit.equal(u, url.parse(u.text)), "%s does not parse to itself", u.text)
  check_libcurl(u)
end
