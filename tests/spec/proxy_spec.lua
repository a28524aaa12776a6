local proxy = require "orchestrator.proxy"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local function idn(name) return name == "bücher.test" and "xn--bcher-kva.test" or nil end

local function check(given) return proxy.check(given, "client.proxy", idn) end

-- The URL of the proxy that a URL is reached through; "direct" for none.
local function way(choice, text)
  local found, problem = proxy.pick(choice, assert(url.parse(text)))
  return found and found.url or problem or "direct"
end

local function environment(variables)
  local asked = {}
  local choice = proxy.environment(function(name)
    asked[name] = true
    return variables[name]
  end, idn)
  return choice, asked
end

describe("a proxy", function()
  it("is named by a URL", function()
    for text, expected in pairs {
      ["http://proxy.test:3128"] = "http://proxy.test:3128",
      ["HTTP://Proxy.Test:3128/"] = "http://proxy.test:3128",
      ["proxy.test:3128"] = "http://proxy.test:3128",
      ["http://proxy.test"] = "http://proxy.test:80",
      ["proxy.test"] = "http://proxy.test:80",
      ["https://proxy.test"] = "https://proxy.test:443",
      ["https://proxy.test:80"] = "https://proxy.test:80",
      ["socks5://proxy.test"] = "socks5h://proxy.test:1080",
      ["socks5h://proxy.test:80"] = "socks5h://proxy.test:80",
      ["socks5h://user:80@proxy.test"] = "socks5h://proxy.test:1080",
      ["http://[::1]:8080"] = "http://[::1]:8080",
      ["socks5://[::1]"] = "socks5h://[::1]:1080",
      ["http://bücher.test:1"] = "http://xn--bcher-kva.test:1",
    } do
      local found, problem = proxy.parse(text, idn)
      assert.equal(expected, found and found.url or problem, text)
    end
    local found = proxy.parse "http://[FD00::1]:8080"
    assert.same({ "fd00::1", 8080 }, { found.host, found.port })
    assert.is_nil(found.user)
  end)

  it("may have credentials, which are secrets", function()
    local found = proxy.parse "http://us%65r:proxy%2Fspec%20pass%3a1@proxy.test:3128"
    assert.same({ "user", "proxy/spec pass:1" }, { found.user, found.password })
    assert.equal("http://proxy.test:3128", found.url)
    assert.equal("a ***, ***, ***",
      secret.mask("a proxy/spec pass:1, proxy%2Fspec%20pass%3A1, proxy%2fspec%20pass%3a1"))
    -- The field that is sent, should anybody ever show it.
    assert.not_matches(secret.base64("proxy/spec pass"):sub(1, 12),
      secret.mask("Basic " .. secret.base64 "user:proxy/spec pass:1"), 1, true)

    found = proxy.parse "http://proxy-spec-token@proxy.test"
    assert.same({ "proxy-spec-token", "" }, { found.user, found.password })
    assert.equal("***", secret.mask "proxy-spec-token")
  end)

  for text, expected in pairs {
    ["ftp://proxy.test"] = 'has the scheme "ftp"',
    ["socks4://proxy.test"] = 'has the scheme "socks4"',
    ["socks://proxy.test"] = "there are http, https, socks5 and socks5h",
    ["http://"] = "it has no host",
    ["http://proxy.test:0"] = "it has a bad port",
    ["http://proxy.test:port"] = "it has a bad port",
    ["http://proxy.test/path"] = "it has a path",
    ["http://proxy test"] = "it contains a space",
    ["http://user:pass/word-1@proxy.test:1"] = "percent-encode",
    ["http://a%3Ab:c@proxy.test"] = "a user name with a colon",
    ["http://a:b%0Ac@proxy.test"] = "a control character in its credentials",
    ["socks5://a:" .. ("b"):rep(256) .. "@proxy.test"] = "more than 255 bytes",
  } do
    it("is refused: " .. text:sub(1, 50), function()
      local found, problem = proxy.parse(text)
      assert.is_nil(found)
      assert(problem:find(expected, 1, true), problem)
      assert.not_matches("pass", problem)
    end)
  end
end)

describe("the option", function()
  it("is a URL, a secret or a table", function()
    for _, given in ipairs {
      "http://proxy.test:3128", secret.value "http://proxy.test:3128",
      { url = "http://proxy.test:3128" },
    } do
      local choice = check(given)
      assert.equal("http://proxy.test:3128", way(choice, "http://a.test/"))
      assert.equal("http://proxy.test:3128", way(choice, "https://a.test/"))
      assert.equal("http://proxy.test:3128", way(choice, "http://localhost/"))
      assert.equal("http://proxy.test:3128", way(choice, "http://127.0.0.1/"))
      assert.is_nil(choice.from_environment)
    end
  end)

  it("takes credentials apart from the URL", function()
    local found = check { url = "http://p.test", username = "user",
      password = secret.value "proxy-option-pass" }.http
    assert.same({ "user", "proxy-option-pass" }, { found.user, found.password })
    found = check { url = "socks5://p.test", username = secret.value "u:1",
      password = "proxy-option-plain" }.https
    assert.same({ "u:1", "proxy-option-plain" }, { found.user, found.password })
    assert.equal("*** ***", secret.mask "proxy-option-pass proxy-option-plain")
    found = check { url = "http://p.test", username = "proxy-option-token" }.http
    assert.same({ "proxy-option-token", "" }, { found.user, found.password })
    assert.equal("***", secret.mask "proxy-option-token")
  end)

  it("may spare hosts", function()
    local choice = check { url = "p.test:1", no_proxy = "a.test, 10.0.0.0/8" }
    assert.equal("direct", way(choice, "http://a.test/"))
    assert.equal("direct", way(choice, "http://10.1.1.1/"))
    assert.equal("http://p.test:1", way(choice, "http://b.test/"))
  end)

  for _, case in ipairs {
    { { no_proxy = "*" }, '"url" is missing' },
    { { url = "p.test", usrname = "u" }, 'unknown option "usrname" (did you mean "username"?)' },
    { { url = 5 }, '"url" must be a string or a secret' },
    { "ftp://p.test", '"url" has the scheme "ftp"' },
    { { url = "http://u:p@p.test", username = "u" }, '"username" is given, and "url" has one' },
    { { url = "http://u:p@p.test", password = "p" }, '"username" is given, and "url" has one' },
    { { url = "http://p.test", password = "p" }, '"password" needs a "username"' },
    { { url = "http://p.test", username = "a:b" }, "a user name with a colon" },
    { { url = "p.test", no_proxy = "a.test,10.0.0.0/40" }, '"no_proxy" has "10.0.0.0/40"' },
    { { url = "p.test", no_proxy = "http://a.test" }, '"no_proxy" has "http://a.test"' },
    { { url = "p.test", no_proxy = { "a" } }, '"no_proxy" must be a string' },
  } do
    it("refuses: " .. case[2], function()
      local ok, raised = pcall(check, case[1])
      assert.is_false(ok)
      assert.matches("proxy_spec.lua:%d+: client.proxy: ", raised)
      assert(raised:find(case[2], 1, true), raised)
    end)
  end
end)

describe("NO_PROXY", function()
  local function spared(text, target)
    local choice = { http = { url = "P" }, https = { url = "P" }, rules = proxy.rules(text, idn) }
    return way(choice, target) == "direct"
  end

  for _, case in ipairs {
    { "a.test", "http://a.test/", true },
    { "a.test", "https://A.TEST:8443/x", true },
    { "a.test", "http://a.test./", true },
    { "A.test.", "http://a.test/", true },
    { "a.test", "http://b.a.test/", true },
    { "a.test", "http://ba.test/", false },
    { "a.test", "http://a.test.evil/", false },
    { ".a.test", "http://b.a.test/", true },
    { ".a.test", "http://a.test/", true },
    { "*.a.test", "http://b.a.test/", true },
    { "*.a.test", "http://ba.test/", false },
    { "a.*", "http://a.test/", false },
    { "a.test:8080", "http://a.test:8080/", true },
    { "a.test:8080", "http://a.test/", false },
    { "a.test:443", "https://a.test/", true },
    { "a.test:443", "http://a.test/", false },
    { "bücher.test", "http://xn--bcher-kva.test/", true },
    { "x y.test,a.test\tz.test", "http://a.test/", true },
    { " , ,a.test,", "http://a.test/", true },
    { "", "http://a.test/", false },
    { "*", "http://a.test/", true },
    { "x.test,*", "https://[::1]/", true },
    { "10.1.2.3", "http://10.1.2.3/", true },
    { "10.1.2.3", "http://0x0a010203/", true },
    { "10.1.2.3", "http://10.1.2.4/", false },
    { "10.1.2.3:81", "http://10.1.2.3:81/", true },
    { "10.1.2.3:81", "http://10.1.2.3/", false },
    { "10.0.0.0/8", "http://10.9.9.9/", true },
    { "10.0.0.0/8", "http://11.9.9.9/", false },
    { "10.0.0.0/8", "http://10.a.test/", false },
    { "::1", "http://[::1]/", true },
    { "[::1]", "http://[0:0::1]:99/", true },
    { "[::1]:99", "http://[::1]:99/", true },
    { "[::1]:99", "http://[::1]/", false },
    { "fd00::/8", "http://[fd12::9]/", true },
    { "fd00::/8", "http://[fc12::9]/", false },
    { "10.0.0.0/8", "http://[::ffff:10.0.0.1]/", true },
  } do
    it(("%q %s %s"):format(case[1], case[3] and "spares" or "does not spare", case[2]), function()
      assert.equal(case[3], spared(case[1], case[2]))
    end)
  end
end)

describe("the environment", function()
  it("names a proxy for each scheme", function()
    local choice = environment { http_proxy = "one.test:1", HTTPS_PROXY = "http://two.test:2" }
    assert.equal("http://one.test:1", way(choice, "http://a.test/"))
    assert.equal("http://two.test:2", way(choice, "https://a.test/"))
    assert.is_true(choice.from_environment)
    choice = environment { https_proxy = "one.test:1" }
    assert.equal("direct", way(choice, "http://a.test/"))
    choice = environment { https_proxy = "one.test:1", HTTPS_PROXY = "two.test:2",
      all_proxy = "three.test:3", ALL_PROXY = "four.test:4" }
    assert.equal("http://three.test:3", way(choice, "http://a.test/"))
    assert.equal("http://one.test:1", way(choice, "https://a.test/"))
    choice = environment { ALL_PROXY = "socks5://four.test" }
    assert.equal("socks5h://four.test:1080", way(choice, "http://a.test/"))
    choice = environment { https_proxy = "", HTTPS_PROXY = "two.test:2", no_proxy = "",
      NO_PROXY = "a.test" }
    assert.equal("http://two.test:2", way(choice, "https://b.test/"))
    assert.equal("direct", way(choice, "https://a.test/"))
  end)

  it("may name none", function()
    assert.is_nil((environment {}))
    assert.is_nil((environment { http_proxy = "", NO_PROXY = "a.test" }))
  end)

  it("does not set HTTP_PROXY, whoever says so", function()
    local choice, asked = environment { HTTP_PROXY = "evil.test:1", https_proxy = "two.test:2" }
    assert.equal("direct", way(choice, "http://a.test/"))
    assert.is_nil(asked.HTTP_PROXY)
  end)

  it("spares what is on this machine", function()
    local choice = environment { all_proxy = "p.test:1", no_proxy = "c.test" }
    for _, host in ipairs { "localhost", "LOCALHOST.", "app.localhost:8080", "127.0.0.1:99",
      "127.9.9.9", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "c.test" } do
      assert.equal("direct", way(choice, "http://" .. host .. "/"), host)
    end
    for _, host in ipairs { "localhost.test", "notlocalhost", "10.0.0.1", "[::2]", "0.0.0.0" } do
      assert.equal("http://p.test:1", way(choice, "https://" .. host .. "/"), host)
    end
  end)

  it("may be wrong, which those notice who would use it", function()
    local choice = environment { http_proxy = "ftp://u:environment-pass@p.test",
      https_proxy = "good.test:1", no_proxy = "spared.test, http://nonsense" }
    assert.equal("http://good.test:1", way(choice, "https://a.test/"))
    assert.equal("direct", way(choice, "http://spared.test/"))
    assert.equal("direct", way(choice, "http://127.0.0.1/"))
    local message = way(choice, "http://a.test/")
    assert.matches('^the environment variable http_proxy has the scheme "ftp"', message)
    assert.not_matches("environment%-pass", message)
  end)
end)
