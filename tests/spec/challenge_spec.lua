local challenge = require "orchestrator.challenge"
local fake_host = require "fake_host"

describe("challenge.parse", function()
  local function parsed(text)
    local list = {}
    for i, one in ipairs(challenge.parse(text)) do
      list[i] = { one.scheme, one.token or one.params }
    end
    return list
  end

  it("reads the examples of RFC 9110", function()
    assert.same({ { "basic", { realm = "simple" } } }, parsed 'Basic realm="simple"')
    assert.same({
      { "basic", { realm = "simple" } },
      { "newauth", { realm = "apps", type = "1", title = 'Login to "apps"' } },
    }, parsed [[Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\""]])
  end)

  it("tells challenges from parameters", function()
    for text, expected in pairs {
      ["Negotiate"] = { { "negotiate", {} } },
      ["Negotiate, Basic realm=x"] = { { "negotiate", {} }, { "basic", { realm = "x" } } },
      ["Negotiate YWJj=="] = { { "negotiate", "YWJj==" } },
      ["Negotiate YWJj==, NTLM"] = { { "negotiate", "YWJj==" }, { "ntlm", {} } },
      ["NTLM YWJj , Basic realm=x"] = { { "ntlm", "YWJj" }, { "basic", { realm = "x" } } },
      ["Basic realm = \"a\" , x=y,, z=\"\",Digest nonce=n"] = {
        { "basic", { realm = "a", x = "y", z = "" } }, { "digest", { nonce = "n" } },
      },
      [", ,Basic realm=x, "] = { { "basic", { realm = "x" } } },
      ["BASIC REALM=\"Ab, c=d\""] = { { "basic", { realm = "Ab, c=d" } } },
      ["Digest realm=\"a\", realm=\"b\""] = { { "digest", { realm = "a" } } },
      ["Digest nonce=a/b+c==, qop=auth"] = { { "digest", { nonce = "a/b+c==", qop = "auth" } } },
    } do
      assert.same(expected, parsed(text), text)
    end
  end)

  it("makes the best of what is malformed", function()
    for text, expected in pairs {
      [""] = {},
      ["   "] = {},
      ["\"quoted\""] = {},
      ["=x"] = {},
      ["Basic=x"] = {},
      ["Basic realm=\"never closed"] = { { "basic", {} } },
      ["Basic realm=\"a\" junk \"x\""] = { { "basic", { realm = "a" } }, { "junk", {} } },
      ["Basic realm=\"a\\"] = { { "basic", {} } },
      ["Digest realm=, nonce=n"] = { { "digest", "realm=" } },
      ["Digest a=\1\2"] = { { "digest", { a = "\1\2" } } },
    } do
      assert.same(expected, parsed(text), text)
    end
    assert.same({}, challenge.parse(nil))
    assert.same({}, challenge.parse("Basic realm=" .. ("x"):rep(20000)))
  end)

  it("ends, whatever it is given", function()
    local random = fake_host.generator(3)
    local pieces = { "Basic", " ", ",", "=", '"', "\\", "a", "realm", "\t", "==", "\0", "\255",
      "Digest " }
    for _ = 1, 3000 do
      local parts = {}
      for i = 1, 12 do parts[i] = pieces[math.floor(random() * #pieces) + 1] end
      challenge.parse(table.concat(parts))
    end
    for _, piece in ipairs { 'a="', "a=,", "a ", 'a "', "a,", '\\"' } do
      challenge.parse(piece:rep(5000))
    end
  end)
end)

describe("challenge.params", function()
  it("reads a field of parameters", function()
    assert.same({ nextnonce = "n,1", qop = "auth", nc = "00000001" },
      challenge.params 'qop=auth, nextnonce="n,1", nc=00000001')
    assert.same({}, challenge.params(nil))
    assert.same({ a = "b" }, challenge.params 'a=b, "junk"')
    assert.same({}, challenge.params("a=" .. ("x"):rep(20000)))
  end)
end)
