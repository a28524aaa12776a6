local errors = require "orchestrator.errors"
local secret = require "orchestrator.secret"

describe("errors.new", function()
  it("makes a value with a kind, a message and the given fields", function()
    local response = {}
    local err = errors.new("http", "status 503", { status = 503, response = response })
    assert.equal("http", err.kind)
    assert.equal("status 503", err.message)
    assert.equal(503, err.status)
    assert.equal(response, err.response)
  end)

  it("leaves the given fields alone", function()
    local fields = { url = "https://a/" }
    errors.new("dns", "no such host", fields)
    assert.same({ url = "https://a/" }, fields)
  end)

  it("knows every kind of the contract and no other", function()
    local contract = "http dns connect tls timeout network protocol too_large too_many_redirects "
      .. "decode cancelled rate_limited circuit_open blocked invalid script validation"
    assert.equal(contract, table.concat(errors.kinds, " "))
    for _, kind in ipairs(errors.kinds) do
      assert.equal(kind, errors.new(kind, "x").kind)
    end
    local ok, message = pcall(function()
      local err = errors.new("time_out", "x")
      return err
    end)
    assert.is_false(ok)
    assert.matches('errors_spec.lua:%d+: errors.new: unknown kind "time_out"', message)
  end)

  it("is recognised", function()
    assert.is_true(errors.is(errors.new("dns", "x")))
    for _, other in ipairs { "dns: x", { kind = "dns" }, 1, print } do
      assert.is_false(errors.is(other))
    end
    assert.is_false(errors.is(nil))
  end)
end)

describe("tostring of an error", function()
  it("is one readable line", function()
    local err = errors.new("timeout", "no answer within 10s", {
      url = "https://x/y", method = "GET", attempts = 5,
    })
    assert.equal("timeout: no answer within 10s (GET https://x/y, after 5 attempts)", tostring(err))
  end)

  it("says what it knows and no more", function()
    assert.equal("decode: not JSON", tostring(errors.new("decode", "not JSON")))
    assert.equal("dns: no such host (https://x/)",
      tostring(errors.new("dns", "no such host", { url = "https://x/", attempts = 1 })))
    assert.equal("invalid: the URL has no host (urls.txt:17, http:/x)",
      tostring(errors.new("invalid", "the URL has no host", {
        position = "urls.txt:17", url = "http:/x",
      })))
  end)

  it("can be joined with a string", function()
    assert.equal("failed: dns: x", "failed: " .. errors.new("dns", "x"))
  end)

  it("stays one line, with nothing a terminal obeys", function()
    local err = errors.new("http", "a\r\nb\27[2J\155\7", { url = "https://h/\27]0;x\7" })
    assert.equal([[http: a\r\nb\x1b[2J\x9b\x07 (https://h/\x1b]0;x\x07)]], tostring(err))
  end)

  it("masks secrets in every part", function()
    local token = secret.value "hunter2-token"
    local text = secret.reveal(token)
    local err = errors.new("http", "bad key " .. text, {
      url = "https://h/?key=" .. text, method = "GET", position = text .. ":1",
    })
    assert.equal("http: bad key *** (***:1, GET https://h/?key=***)", tostring(err))
  end)

  it("masks credentials in URLs", function()
    local err = errors.new("invalid", "bad URL https://me:pw@h/", { url = "me:pw@h/x" })
    assert.equal("invalid: bad URL https://***@h/ (***@h/x)", tostring(err))
  end)

  it("cuts what is too long to read, after masking", function()
    local token = secret.value(("k"):rep(50))
    local url = "https://h/" .. ("a"):rep(970) .. secret.reveal(token) .. ("b"):rep(1e6)
    local line = tostring(errors.new("invalid", "x", { url = url }))
    assert.is_true(#line < 1100)
    assert.is_nil(line:find("kkk", 1, true))
    assert.equal("invalid: " .. ("m"):rep(1000), tostring(errors.new("invalid", ("m"):rep(1000))))
    local cut = tostring(errors.new("invalid", ("é"):rep(1000)))
    assert.matches("é%.%.%.$", cut)
    assert.is_nil(cut:find("\\x", 1, true))
  end)
end)

describe("errors.escape", function()
  it("leaves printable text, in any script", function()
    for _, text in ipairs { "", "plain ~", "naïve 東京 😀 \\x1b", "e\204\129" } do
      assert.equal(text, errors.escape(text))
    end
  end)

  it("keeps every well-formed sequence, from the first to the last of each length", function()
    for _, text in ipairs {
      "\194\160", "\195\128", "\223\191", "\224\160\128", "\237\159\191", "\238\128\128",
      "\239\191\191", "\240\144\128\128", "\244\143\191\191",
    } do
      assert.equal(text, errors.escape(text))
    end
  end)

  it("escapes every ASCII control", function()
    for byte = 0, 31 do
      assert.matches("^\\[nrtx]", errors.escape(string.char(byte)))
    end
    assert.equal([[\x00\t\n\r\x1b\x7f]], errors.escape "\0\t\n\r\27\127")
  end)

  it("escapes C1 controls, line separators and marks that reorder text", function()
    assert.equal([[\u{9b}2J\u{80}\u{9f}]], errors.escape "\194\1552J\194\128\194\159")
    assert.equal([[a\u{2028}b]], errors.escape "a\226\128\168b")
    assert.equal([[\u{202e}\u{2066}\u{2069}\u{200f}\u{61c}]],
      errors.escape "\226\128\174\226\129\166\226\129\169\226\128\143\216\156")
  end)

  it("escapes invalid UTF-8 byte by byte and nothing around it", function()
    local cases = {
      { "\128", [[\x80]] }, -- a tail without its lead
      { "a\195", [[a\xc3]] }, -- cut
      { "\195a", [[\xc3a]] },
      { "\192\175", [[\xc0\xaf]] }, -- overlong
      { "\224\128\175", [[\xe0\x80\xaf]] },
      { "\240\128\128\175", [[\xf0\x80\x80\xaf]] },
      { "\237\160\128", [[\xed\xa0\x80]] }, -- a surrogate
      { "\244\144\128\128", [[\xf4\x90\x80\x80]] }, -- above U+10FFFF
      { "\245\128\128\128", [[\xf5\x80\x80\x80]] },
      { "é\255é", [[é\xffé]] },
      { "é\169", [[é\xa9]] },
      { "\226a\130", [[\xe2a\x82]] }, -- a bad byte in each place
      { "\226\130a", [[\xe2\x82a]] },
      { "\240a\159\152", [[\xf0a\x9f\x98]] },
      { "\240\159a\152", [[\xf0\x9fa\x98]] },
      { "\240\159\152a", [[\xf0\x9f\x98a]] },
      { "\226\130\192", [[\xe2\x82\xc0]] },
      { "\240\159\152", [[\xf0\x9f\x98]] },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], errors.escape(case[1]))
    end
  end)
end)
