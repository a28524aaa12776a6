local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local function parsed(text, idn)
  local u, message = url.parse(text, idn)
  assert.is_nil(message)
  return u
end

local function refused(text, idn)
  local u, message = url.parse(text, idn)
  assert.is_nil(u)
  return message
end

describe("url.parse", function()
  it("splits a URL into what is sent and where", function()
    assert.same({
      scheme = "https",
      host = "api.example.com",
      port = 8443,
      origin = "https://api.example.com:8443",
      userinfo = "me:p%40ss",
      target = "/v1/users?page=1&q=a/b",
      text = "https://api.example.com:8443/v1/users?page=1&q=a/b",
    }, parsed "HTTPS://me:p%40ss@API.Example.com:8443/v1/users?page=1&q=a/b#part")
  end)

  it("fills in what is left out", function()
    local cases = {
      { "http://h", "http://h:80", "/", "http://h/" },
      { "https://h/", "https://h:443", "/", "https://h/" },
      { "https://h:/x", "https://h:443", "/x", "https://h/x" },
      { "https://h?a=/b", "https://h:443", "/?a=/b", "https://h/?a=/b" },
      { "https://h#/b", "https://h:443", "/", "https://h/" },
      { "https://h/?#/b", "https://h:443", "/?", "https://h/?" },
      { "http://h:80/", "http://h:80", "/", "http://h/" },
      { "http://h:443/", "http://h:443", "/", "http://h:443/" },
      { "http://h:0080/", "http://h:80", "/", "http://h/" },
      { "http://h:65535", "http://h:65535", "/", "http://h:65535/" },
    }
    for _ = 1, 2 do -- the second time from the cache
      for _, case in ipairs(cases) do
        local u = parsed(case[1])
        assert.same({ case[2], case[3], case[4] }, { u.origin, u.target, u.text })
      end
    end
  end)

  it("removes the dot segments of the path, as it is asked for without them", function()
    local cases = {
      { "http://h/a/../b/./c/..?x/../y", "/b/?x/../y" },
      { "http://h/..", "/" }, { "http://h/.", "/" }, { "http://h/../../a", "/a" },
      { "http://h/a/.", "/a/" }, { "http://h/a/b/..", "/a/" }, { "http://h//../a", "/a" },
      { "http://h/.a/..b/c./...", "/.a/..b/c./..." }, { "http://h?/../x", "/?/../x" },
      { "http://h/a#/../b", "/a" }, { "http://h/%2e%2e/a", "/%2e%2e/a" },
    }
    for _ = 1, 2 do
      for _, case in ipairs(cases) do
        assert.equal(case[2], parsed(case[1]).target)
      end
    end
  end)

  it("takes the last @ as the end of the userinfo, before the path only", function()
    assert.equal("evil.com:x@y", parsed("https://evil.com:x@y@good.com/").userinfo)
    assert.equal("good.com", parsed("https://evil.com:x@y@good.com/").host)
    assert.equal("good.com", parsed("https://good.com/@evil.com").host)
    assert.equal("good.com", parsed("https://good.com?@evil.com").host)
    assert.equal("good.com", parsed("https://good.com#@evil.com").host)
    assert.equal("", parsed("https://@good.com/").userinfo)
    assert.is_nil(parsed("https://good.com/").userinfo)
  end)

  it("reads IPv6 literals", function()
    local cases = {
      "::1", "::", "1::", "fe80::1", "2001:db8::ff00:42:8329", "1:2:3:4:5:6:7:8", "::2:3:4:5:6:7:8",
      "1:2:3:4:5:6:7::", "::ffff:255.0.2.1", "1:2:3:4:5:6:192.0.2.1", "64:ff9b::192.0.2.33",
    }
    for _, host in ipairs(cases) do
      local u = parsed("http://[" .. host .. "]:8080/x")
      assert.equal(host, u.host)
      assert.equal("http://[" .. host .. "]:8080", u.origin)
      assert.equal("http://[" .. host .. "]:8080/x", u.text)
      assert.equal(80, parsed("http://[" .. host .. "]").port)
    end
    assert.equal("2001:db8::abcd", parsed("http://[2001:DB8::ABCD]/").host)
  end)

  it("refuses what is no IPv6 literal", function()
    for _, host in ipairs {
      "", ":", ":::", "1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::",
      ":1::2", "1::2:", "1:2:3:4:5:6:7::8", "::256.0.0.1", "::1.2.3", "::1.2.3.4.5",
      "::a1.2.3.4", "::1.2.03.4",
      "1.2.3.4", "::1.2.3.4:5", "fe80::1%25eth0", "v1.x", "::1]x[",
    } do
      assert.matches("bad IPv6 address", refused("http://[" .. host .. "]/"))
    end
    assert.is_nil(url.parse "http://[::1/")
    assert.is_nil(url.parse "http://::1]/")
    assert.is_nil(url.parse "http://::1/")
    assert.matches("bad port", refused "http://[::1]x/")
  end)

  it("refuses every scheme but http and https, by name", function()
    for _, text in ipairs {
      "file:///etc/passwd", "ftp://h/x", "gopher://h:70/x", "data:text/plain,x", "FILE:///x",
      "javascript:alert(1)", "httpx://h/", "ws://h/",
    } do
      local scheme = text:match "^%a+"
      assert.equal(('the URL has the scheme "%s" (only http and https are allowed)'):format(scheme),
        refused(text))
    end
  end)

  it("refuses a URL without scheme or host", function()
    for _, text in ipairs {
      "", "/path", "example.com/x", "//h/x", "localhost:8080/x", "?x", "#x",
    } do
      assert.matches("the URL has no scheme", refused(text))
    end
    for _, text in ipairs { "http:", "http:x", "http:/x", "http://", "http:///x", "http://?x",
      "https://u@/x", "http://:80/" } do
      assert.matches("the URL has no host", refused(text))
    end
  end)

  it("refuses bad hosts", function()
    for _, host in ipairs {
      "a..b", ".a", "a<b", "a*b", "ex%41mple.com", "a,b", "[a", "a|b", 'a"b', "a;b", ("a"):rep(256),
    } do
      assert.matches("bad host name", refused("http://" .. host .. "/"))
    end
    for _, host in ipairs {
      "a_b", "a-b.c", "a.", "127.0.0.1", "0x7f.1", "2130706433", "xn--bcher-kva",
    } do
      assert.equal(host, parsed("http://" .. host .. "/").host)
    end
  end)

  it("refuses bad ports", function()
    for _, port in ipairs {
      "0", "65536", "99999999999999999999", "-1", "+1", "8x", "x", "1:2", "0x50",
    } do
      assert.matches("bad port", refused("http://h:" .. port .. "/"))
    end
  end)

  it("refuses what could split a request or fool a parser", function()
    for _, place in ipairs {
      "https://h/a%sb", "https://h/?a%sb", "https://a%sb/", "https://h/#%s",
    } do
      local function with(char)
        return (place:gsub("%%s", function() return char end))
      end
      assert.matches("line break", refused(with "\r"))
      assert.matches("line break", refused(with "\n"))
      assert.matches("NUL", refused(with "\0"))
      assert.matches("control character", refused(with "\t"))
      assert.matches("control character", refused(with "\127"))
      assert.matches("space", refused(with " "))
    end
    assert.matches("backslash", refused "https://evil.com\\@good.com/")
    assert.equal("/a\\b", parsed("https://h/a\\b").target)
  end)

  it("refuses a bad target though the host is known", function()
    parsed "https://known/x"
    assert.matches("line break", refused "https://known/x\r\nHost: other")
    assert.matches("space", refused "https://known/x y")
  end)

  it("percent-encodes what is not ASCII, and only that", function()
    assert.equal("/caf%C3%A9?q=%E6%9D%B1&r=%FF", parsed("https://h/café?q=東&r=\255").target)
    assert.equal("https://h/caf%C3%A9", parsed("https://h/café#é").text)
    assert.equal("/%zz%2f{}|^`'\"<>", parsed("https://h/%zz%2f{}|^`'\"<>").target)
  end)

  it("asks for the ASCII form of other host names", function()
    local asked
    local function idn(host)
      asked = host
      return host == "bücher.example" and "XN--bcher-kva.example" or nil
    end
    assert.equal("xn--bcher-kva.example", parsed("https://bücher.example/", idn).host)
    assert.equal("bücher.example", asked)
    assert.matches("cannot be written in ASCII", refused("https://ünknown/", idn))
    assert.matches("cannot be written in ASCII", refused "https://ünknown/")
    -- A mapping may produce anything; it is checked like the rest.
    assert.matches("bad host name", refused("https://é/", function() return "evil.com/x" end))
  end)

  it("takes a secret for its text", function()
    local u = parsed("https://h/?key=" .. secret.value "url-spec-key")
    assert.equal("/?key=url-spec-key", u.target)
  end)

  it("refuses what is no string", function()
    assert.equal("the URL must be a string, got nil", refused(nil))
    assert.equal("the URL must be a string, got table", refused {})
    assert.equal("the URL must be a string, got number", refused(1))
  end)

  it("never quotes credentials", function()
    for _, text in ipairs {
      "https://me:hunter2@h:99999/", "https://me:hunter2", "https://me:hunt/er2@h/", "me:hunter2@h",
      "https://me:hunter2@[::x]/", "https://me:hunter2@a..b/", "https://me:hunter2@h/ x",
    } do
      assert.is_nil(refused(text):find("hunt", 1, true))
    end
  end)

  it("keeps its answers right when it forgets authorities", function()
    for i = 1, 2500 do
      local u = parsed(("http://h%d:%d/%d"):format(i, i, i))
      assert.equal(("http://h%d:%d"):format(i, i), u.origin)
    end
    assert.equal("http://h1:1/again", parsed("http://h1:1/again").text)
  end)

  it("gives tables that can be changed without harm", function()
    parsed("https://changed/").host = "other"
    assert.equal("changed", parsed("https://changed/").host)
  end)
end)

describe("url.join", function()
  local base = parsed "http://a/b/c/d;p?q"

  -- RFC 3986 sections 5.4.1 and 5.4.2. Our base always has a path, and the empty reference
  -- and fragments keep what they have.
  local examples = {
    { "g:h", "g:h" },
    { "g", "http://a/b/c/g" },
    { "./g", "http://a/b/c/g" },
    { "g/", "http://a/b/c/g/" },
    { "/g", "http://a/g" },
    { "//g", "http://g" },
    { "?y", "http://a/b/c/d;p?y" },
    { "g?y", "http://a/b/c/g?y" },
    { "#s", "http://a/b/c/d;p?q#s" },
    { "g#s", "http://a/b/c/g#s" },
    { "g?y#s", "http://a/b/c/g?y#s" },
    { ";x", "http://a/b/c/;x" },
    { "g;x", "http://a/b/c/g;x" },
    { "g;x?y#s", "http://a/b/c/g;x?y#s" },
    { "", "http://a/b/c/d;p?q" },
    { ".", "http://a/b/c/" },
    { "./", "http://a/b/c/" },
    { "..", "http://a/b/" },
    { "../", "http://a/b/" },
    { "../g", "http://a/b/g" },
    { "../..", "http://a/" },
    { "../../", "http://a/" },
    { "../../g", "http://a/g" },
    { "../../../g", "http://a/g" },
    { "../../../../g", "http://a/g" },
    { "/./g", "http://a/g" },
    { "/../g", "http://a/g" },
    { "g.", "http://a/b/c/g." },
    { ".g", "http://a/b/c/.g" },
    { "g..", "http://a/b/c/g.." },
    { "..g", "http://a/b/c/..g" },
    { "./../g", "http://a/b/g" },
    { "./g/.", "http://a/b/c/g/" },
    { "g/./h", "http://a/b/c/g/h" },
    { "g/../h", "http://a/b/c/h" },
    { "g;x=1/./y", "http://a/b/c/g;x=1/y" },
    { "g;x=1/../y", "http://a/b/c/y" },
    { "g?y/./x", "http://a/b/c/g?y/./x" },
    { "g?y/../x", "http://a/b/c/g?y/../x" },
    { "g#s/./x", "http://a/b/c/g#s/./x" },
    { "g#s/../x", "http://a/b/c/g#s/../x" },
    { "http:g", "http:g" },
  }

  for _, example in ipairs(examples) do
    it(("resolves %q as RFC 3986 does"):format(example[1]), function()
      assert.equal(example[2], url.join(base, example[1]))
    end)
  end

  it("resolves whole URLs and other hosts", function()
    assert.equal("https://b/x?y#z", url.join(base, "https://b/x?y#z"))
    assert.equal("https://b/y", url.join(base, "https://b/x/../y"))
    assert.equal("http://b:81/x", url.join(base, "//b:81/x"))
    assert.equal("http://b?x", url.join(base, "//b?x"))
    assert.equal("mailto:x@y", url.join(base, "mailto:x@y"))
  end)

  it("keeps empty segments", function()
    assert.equal("http://a/x//y", url.join(base, "/x//y"))
    assert.equal("http://a/x/y", url.join(base, "/x//../y"))
    assert.equal("http://a//x", url.join(base, "/.//x"))
  end)

  it("keeps the port and drops the userinfo of the base", function()
    assert.equal("https://h:8443/x", url.join(parsed "https://me:pw@h:8443/a", "x"))
    assert.equal("https://[::1]:8443/x", url.join(parsed "https://[::1]:8443", "x"))
  end)

  it("takes a colon in a later segment for what it is", function()
    assert.equal("http://a/b/c/./x:y", url.join(base, "./x:y"):gsub("/c/x:y", "/c/./x:y"))
    assert.equal("http://a/x:y", url.join(base, "/x:y"))
    assert.equal("http://a/b/c/d;p?x:y", url.join(base, "?x:y"))
  end)
end)

describe("url.query", function()
  it("sorts names, repeats lists and encodes both sides", function()
    assert.equal("a=1&b=x%20y&c=1&c=2&c=3&d%26=%C3%A9%2B%26%3D%2F%3F",
      url.query { b = "x y", a = 1, c = { 1, 2, 3 }, ["d&"] = "é+&=/?" })
    assert.equal("", url.query {})
    assert.equal("a=", url.query { a = "", b = {} })
    assert.equal("a=-._~", url.query { a = "-._~" })
  end)

  it("writes every scalar so that it can be read back", function()
    local cases = {
      { true, "true" }, { false, "false" }, { 0, "0" }, { -0.5, "-0.5" },
      { 1e15, "1000000000000000" },
      { 123456789012345, "123456789012345" }, { 2 ^ 53 - 1, "9007199254740991" }, { 0.1, "0.1" },
      { 1 / 3, "0.3333333333333333" }, { 0.1 + 0.2, "0.30000000000000004" }, { 1e300, "1e+300" },
      { secret.value "query-secret", "query-secret" },
    }
    for _, case in ipairs(cases) do
      assert.equal("v=" .. url.escape(case[2]), url.query { v = case[1] })
    end
  end)

  it("raises on anything else, naming it", function()
    local function failure(values)
      local ok, message = pcall(url.query, values)
      assert.is_false(ok)
      return message
    end
    assert.matches('query: "a" must be a string, number, boolean or a list of these, got a func',
      failure { a = print })
    assert.matches('query: "a" must be .*, got a table', failure { a = { { 1 } } })
    for _, list in ipairs { { b = 1 }, { 1, b = 2 }, { 1, nil, 3 }, { [0] = 1 }, { [1.5] = 1 } } do
      assert.matches('query: "a" must be .* or a list of these, got a table that is no list',
        failure { a = list })
    end
    assert.equal("b=1", url.query { a = {}, b = { 1 } })
    assert.matches('query: "a" must be .*, got a number', failure { a = 0 / 0 })
    assert.matches('query: "a" must be .*, got a number', failure { a = 1 / 0 })
    assert.matches("query: names must be strings, got 1", failure { "x" })
  end)
end)

describe("url.form", function()
  it("encodes as application/x-www-form-urlencoded", function()
    assert.equal("a=x+y&b=%2B%26%3D&c=*-._&d=%7E%C3%A9%0D%0A",
      url.form { a = "x y", b = "+&=", c = "*-._", d = "~é\r\n" })
    assert.equal("a=1&a=2", url.form { a = { 1, 2 } })
    assert.matches("form: names must be strings", select(2, pcall(url.form, { 1 })))
  end)
end)

describe("url.add_query", function()
  it("adds behind what is there, before the fragment", function()
    local cases = {
      { "https://h/p", "https://h/p?a=1" },
      { "https://h/p?", "https://h/p?a=1" },
      { "https://h/p?x=1", "https://h/p?x=1&a=1" },
      { "https://h/p?x=1&", "https://h/p?x=1&a=1" },
      { "https://h/p#f?g", "https://h/p?a=1#f?g" },
      { "https://h/p?x#f", "https://h/p?x&a=1#f" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], url.add_query(case[1], { a = 1 }))
    end
    assert.equal("https://h/p?", url.add_query("https://h/p?", {}))
  end)
end)

describe("url.base", function()
  it("puts a path under the base", function()
    local cases = {
      { "https://a/v1", "/users", "https://a/v1/users" },
      { "https://a/v1", "users", "https://a/v1/users" },
      { "https://a/v1/", "/users", "https://a/v1/users" },
      { "https://a", "users/1?x=2", "https://a/users/1?x=2" },
      { "https://a/v1", "?x=2", "https://a/v1?x=2" },
      { "https://a/v1", "", "https://a/v1" },
      { "https://a/v1", nil, "https://a/v1" },
      { "https://a/v1", "//evil.com/x", "https://a/v1//evil.com/x" },
      { "https://a/v1", "http://b/x", "http://b/x" },
      { "https://a/v1", "go?to=http://b/x", "https://a/v1/go?to=http://b/x" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[3], (url.base(case[1], case[2])))
    end
  end)
end)

describe("url.escape", function()
  it("keeps the unreserved characters only, and can be undone", function()
    local every = {}
    for byte = 0, 255 do
      every[#every + 1] = string.char(byte)
    end
    every = table.concat(every)
    local escaped = url.escape(every)
    assert.is_nil(escaped:find "[^%w%-._~%%]")
    assert.equal(every, url.unescape(escaped))
    assert.equal("100%", url.unescape "100%")
  end)
end)

describe("url.mask", function()
  it("takes no more time than the text is long", function()
    local started = os.clock()
    assert.equal(200001, #url.mask(("\0\0ab"):rep(50000) .. "@"))
    assert.is_true(os.clock() - started < 2)
  end)

  it("hides the userinfo of every URL in a text", function()
    local cases = {
      { "https://me:pw@h/x", "https://***@h/x" },
      { "https://token@h/x", "https://***@h/x" },
      { "from http://a:b@c/ to ftp://d@e.", "from http://***@c/ to ftp://***@e." },
      { "https://me:p@ss@h/x@y", "https://***@h/x@y" },
      { "https://me:pw@h:/x@y", "https://***@h:/x@y" },
      { "'https://me:pw@h'", "'https://***@h'" },
      { "https://me:pw@[::1]:80/", "https://***@[::1]:80/" },
      { "https://a/?next=https://me:pw@h/", "https://a/?next=https://***@h/" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], (url.mask(case[1])))
    end
  end)

  it("hides it in what is no proper URL", function()
    local cases = {
      { "me:pw@h/x", "***@h/x" },
      { 'bad "me:pw@h"', 'bad "***@h"' },
      { "https:/me:pw@h", "https:/***@h" },
      { "https:\\\\me:pw@h", "https:\\\\***@h" },
      { "https://me:p/w@h/x", "https://***@h/x" },
      { "https://me:p?w@h/x", "https://***@h/x" },
      { "https://me:#pw@h/x", "https://***@h/x" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], (url.mask(case[1])))
    end
  end)

  it("leaves every other @", function()
    for _, text in ipairs {
      "https://h/@me", "https://h/x?mail=a@b.c", "https://h:80/a@b", "https://[::1]/a@b", "a@b.c",
      "write to me@h, see https://h/", "https://h?at=10:30&to=a@b",
    } do
      assert.equal(text, (url.mask(text)))
    end
  end)

  it("takes a time that grows with the text, whatever it holds", function()
    local started = os.clock()
    for _, unit in ipairs { "a:", "://", "://a:b/", "@", "a@", "a:b@ ", "://@", ":" } do
      url.mask(unit:rep(2e5 / #unit) .. "@")
    end
    assert.is_true(os.clock() - started < 2)
  end)
end)
