-- Proxies, NO_PROXY and allow_hosts (lua/orchestrator/proxy.lua, hosts.lua). Input: a line with a
-- proxy's URL, one with a request's, then NO_PROXY.
-- Properties: a proxy is a host and a port, told apart from its credentials as libcurl would; a
-- host named in NO_PROXY or allow_hosts is found there, however it is written, and no other is.

local fuzz = require "fuzz"
local hosts = require "orchestrator.hosts"
local kit = require "kit"
local proxy = require "orchestrator.proxy"
local url = require "orchestrator.url"

local FOUND = { host = "p", port = 1, url = "http://p:1" }

local function check_proxy(text)
  local found, problem = proxy.parse(text)
  if not found then
    kit.check(#problem < 200 and not problem:find "[^ -~]", "a message %s", kit.show(problem))
    return
  end
  kit.check(found.url:find "^%l[%l%d]+://[%l%d._~:%[%]-]+:%d+$" and found.port <= 65535, "it is %s",
    kit.show(found.url))
  kit.check(not (found.user or ""):find "%c" and not (found.password or ""):find "%c", "controls")
  local c = fuzz.curl((found.url:gsub("^%w+", "http")))
  local host = c and (c.host:match "^%[(.*)%]$" or c.host)
  kit.check(host and (host == found.host
    or fuzz.address(host) and fuzz.address(host) == fuzz.address(found.host))
    and tonumber(c.port) == found.port, "libcurl would ask %s", kit.show(host))
end

local function goes_directly(rules, u)
  return proxy.pick({ http = FOUND, https = FOUND, rules = rules }, u) == nil
end

local function check_rules(text, u)
  goes_directly((proxy.rules(text)), u)
  local name = u.host:gsub("%.$", "")
  if not name:find "^[%l%d_][%l%d._-]*$" and not name:find(":", 1, true) then return end
  kit.check(goes_directly(proxy.rules(name), u), "%s is not found", name)
  local site = name:find(":", 1, true) and "[" .. name .. "]" or name
  kit.check(goes_directly(proxy.rules(site .. ":" .. u.port), u), "%s:%d", site, u.port)
  kit.check(not goes_directly(proxy.rules(site .. ":" .. u.port % 65535 + 1), u), "the other port")
  kit.check(not goes_directly(proxy.rules("other." .. name), u), "a host below it: %s", name)
end

local function check_allowed(text, u)
  local function allowed(entry)
    local ok, judge = pcall(hosts.allow, { entry }, "allow_hosts")
    return ok and judge(u)
  end
  allowed(text)
  local name = u.host:gsub("%.$", "")
  if not name:find "^[%l%d_][%l%d._-]*$" or name ~= u.host and fuzz.address(name) then return end
  kit.check(allowed(name) and allowed(name:upper()), "%s is not allowed", name)
  kit.check(not allowed("x" .. name) and not allowed("*." .. name), "another allows %s", name)
end

return function(input)
  local reader = kit.reader(input)
  check_proxy(reader:field "\n")
  local u = url.parse(reader:field "\n")
  if not u then return end
  local text = reader:rest()
  check_rules(text, u)
  check_allowed(text, u)
end
