local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local redirect = require "orchestrator.redirect"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local FIELDS = {
  Accept = "application/json",
  ["Accept-Encoding"] = "gzip",
  ["Accept-Language"] = "de",
  Authorization = "Bearer x",
  ["Content-Type"] = "application/json",
  ["Content-Encoding"] = "gzip",
  Cookie = "session=1",
  ["If-None-Match"] = '"x"',
  ["Proxy-Authorization"] = "Basic x",
  ["User-Agent"] = "orchestrator",
  ["X-API-Key"] = "k",
  ["X-Whatever"] = "v",
}

local function plan_of(fields)
  local plan = { method = "GET", u = url.parse "https://api.example.com/v1/a?b=c" }
  plan.fields = headers.merge(FIELDS)
  for name, value in pairs(fields or {}) do
    plan[name] = value
  end
  return plan
end

local function names(map)
  local list = {}
  for name in pairs(map) do
    list[#list + 1] = name
  end
  table.sort(list)
  return table.concat(list, " ")
end

local ALL = names(headers.merge(FIELDS))
local WITHOUT_BODY = ALL:gsub("content%-%a+ ", "")

describe("a redirect", function()
  it("is only what has a followed status and a Location", function()
    for status = 300, 308 do
      local expected = status <= 303 and status >= 301 or status >= 307
      assert.equal(expected, redirect.next(plan_of(), status, "/x") ~= nil, status)
    end
    for _, status in ipairs { 200, 201, 404, 503 } do
      assert.is_nil(redirect.next(plan_of(), status, "/x"))
    end
    local hop, err = redirect.next(plan_of(), 302, nil)
    assert.is_nil(hop)
    assert.is_nil(err)
    hop, err = redirect.next(plan_of(), 302, "")
    assert.is_nil(hop)
    assert.is_nil(err)
  end)

  it("resolves its Location", function()
    local cases = {
      { "/x?y#z", "https://api.example.com/x?y" },
      { "b", "https://api.example.com/v1/b" },
      { "?q", "https://api.example.com/v1/a?q" },
      { "//other/x", "https://other/x" },
      { "https://other", "https://other/" },
      { "/a b", "https://api.example.com/a%20b" },
      { "/é", "https://api.example.com/%C3%A9" },
      { "https://me:pw@other/", "https://other/" }, -- a server does not choose our credentials
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], redirect.next(plan_of(), 302, case[1]).url)
    end
    local function idn()
      return "xn--r-eha"
    end
    assert.equal("https://xn--r-eha/x", redirect.next(plan_of(), 302, "https://ür/x", idn).url)
  end)

  it("keeps or changes the method by its status", function()
    local cases = { -- status → method → method
      [301] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "PUT", DELETE = "DELETE" },
      [302] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "PUT", DELETE = "DELETE" },
      [303] = { GET = "GET", HEAD = "HEAD", POST = "GET", PUT = "GET", DELETE = "GET" },
      [307] = { GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", DELETE = "DELETE" },
      [308] = { GET = "GET", HEAD = "HEAD", POST = "POST", PUT = "PUT", DELETE = "DELETE" },
    }
    for status, methods in pairs(cases) do
      for method, expected in pairs(methods) do
        local hop = redirect.next(plan_of { method = method, body = "{}" }, status, "/x")
        assert.equal(expected, hop.method)
        assert.equal(expected == method, hop.keeps_body)
      end
    end
  end)

  it("keeps every header on the same origin, but none of a body that is gone", function()
    local hop = redirect.next(plan_of { method = "POST", body = "{}" }, 307, "/x")
    assert.is_true(hop.same_origin)
    assert.equal(ALL, names(hop.headers))
    hop = redirect.next(plan_of { method = "POST", body = "{}" }, 303, "/x")
    assert.equal(WITHOUT_BODY, names(hop.headers))
    assert.equal("Bearer x", hop.headers.authorization.value)
  end)

  it("knows the same origin by scheme, host and port", function()
    for _, location in ipairs {
      "/x", "https://api.example.com/", "https://API.example.com:443/",
    } do
      assert.is_true(redirect.next(plan_of(), 302, location).same_origin)
    end
    for _, location in ipairs {
      "https://example.com/", "https://evil.api.example.com/", "https://api.example.com.evil/",
      "https://api.example.com:8443/", "https://api.example.com@evil/", "//evil/",
    } do
      assert.is_false(redirect.next(plan_of(), 302, location).same_origin)
    end
    local plain = plan_of { u = url.parse "http://h/" }
    assert.is_false(redirect.next(plain, 302, "https://h/").same_origin)
  end)

  it("tells another origin nothing but what is harmless", function()
    local hop = redirect.next(plan_of(), 302, "https://other/")
    assert.equal("accept accept-encoding accept-language user-agent", names(hop.headers))
    hop = redirect.next(plan_of { method = "PUT", body = "{}" }, 308, "https://other/")
    assert.equal("accept accept-encoding accept-language content-encoding content-type user-agent",
      names(hop.headers))
    assert.is_true(hop.keeps_body)
  end)

  it("tells another origin no secret, under whatever name", function()
    local fields = headers.merge { Accept = secret.value "odd-secret", ["User-Agent"] = "x" }
    local hop = redirect.next(plan_of { fields = fields }, 302, "https://other/")
    assert.equal("user-agent", names(hop.headers))
  end)

  it("does not change the plan it came from", function()
    local plan = plan_of()
    redirect.next(plan, 302, "https://other/").headers.accept = nil
    redirect.next(plan, 302, "/x").headers.accept = nil
    assert.equal(ALL, names(plan.fields))
  end)
end)

describe("a redirect that must not be followed", function()
  local function refusal(plan, status, location)
    local hop, err = redirect.next(plan, status, location)
    assert.is_nil(hop)
    assert.is_true(errors.is(err))
    assert.equal("blocked", err.kind)
    return tostring(err)
  end

  it("leads from https to http", function()
    for _, location in ipairs {
      "http://api.example.com/", "http://other/", "http://api.example.com:443/",
    } do
      assert.equal("blocked: redirect refused: it leads from https to http "
        .. "(GET https://api.example.com/v1/a?b=c)", refusal(plan_of(), 302, location))
    end
    local plain = plan_of { u = url.parse "http://h/" }
    assert.equal("http://h/x", redirect.next(plain, 302, "/x").url)
  end)

  it("leads to another scheme", function()
    for _, scheme in ipairs { "file", "ftp", "gopher", "data", "javascript", "ldap" } do
      for _, rest in ipairs { "://h/x", ":x" } do
        assert.matches(('the scheme "%s"'):format(scheme),
          refusal(plan_of(), 301, scheme .. rest), 1, true)
      end
    end
  end)

  it("leads nowhere", function()
    for _, location in ipairs {
      "https://", "https://h:99999/", "http:", "https:g", "/a\r\nX: y", "/a\0", "https://a\\@b/",
      "https://é/", "//[::x]/",
    } do
      assert.matches("redirect refused: the URL ", refusal(plan_of(), 307, location))
    end
  end)

  it("leads to several places", function()
    local _, err = redirect.next(plan_of(), 302, nil, nil, true)
    assert.same({ "blocked", "redirect_bad_location" }, { err.kind, err.fault })
    assert.matches("several Location fields that differ", err.message)
    assert.is_nil((redirect.next(plan_of(), 304, nil, nil, true)))
  end)

  it("would carry a secret body to another origin", function()
    local plan = plan_of { method = "POST", body = "token=x", body_secret = true }
    for _, status in ipairs { 307, 308 } do
      assert.matches("a secret in the body", refusal(plan, status, "https://other/"))
      assert.is_true(redirect.next(plan, status, "/x").keeps_body)
    end
    plan.method = "PUT"
    assert.matches("a secret in the body", refusal(plan, 302, "https://other/"))
    assert.is_false(redirect.next(plan, 303, "https://other/").keeps_body)
  end)
end)
