local identity = require "orchestrator.identity"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

describe("identity", function()
  it("is sixteen bytes", function()
    assert.equal(identity.SIZE, #identity.of "http://a/")
  end)

  it("is that of method, URL and body", function()
    local function same(a, b) assert.equal(identity.of(a), identity.of(b)) end
    local function other(a, b) assert.are_not.equal(identity.of(a), identity.of(b)) end
    same("http://a/", "http://a/")
    same("http://a/", { url = "http://a/" })
    same("http://a/", { url = "http://a/", method = "get" })
    same("http://a/", { url = "http://a/", headers = { x = "1" }, timeout = 3 })
    other("http://a/", "http://a/b")
    other("http://a/", { url = "http://a/", method = "POST" })
    other({ url = "http://a/", query = { p = 1 } }, { url = "http://a/", query = { p = 2 } })
    same({ url = "http://a/", json = { a = 1, b = { 2 } } },
      { url = "http://a/", json = { b = { 2 }, a = 1 } })
    other({ url = "http://a/", body = "1" }, { url = "http://a/", json = "1" })
    other({ url = "http://a/", body = "1" }, { url = "http://a/", body = "2" })
  end)

  it("is there of anything, whatever JSON thinks of it", function()
    local circle = {}
    circle[1] = circle
    local seen = {}
    for _, value in ipairs { 1, true, false, json.null, {}, { 1 }, { a = 1 }, circle, 0 / 0, print,
      { url = "http://a/", body = print }, "GET http://a/", { url = 7 } } do
      local id = identity.of(value)
      assert.equal(identity.SIZE, #id)
      assert.is_nil(seen[id])
      seen[id] = true
    end
    assert.equal(identity.SIZE, #identity.of(nil))
  end)

  it("tells secrets apart and keeps none", function()
    local one, other = secret.value "hush-hush-1", secret.value "hush-hush-2"
    assert.are_not.equal(identity.of { url = one }, identity.of { url = other })
    assert.are_not.equal(identity.of(one), identity.of(other))
  end)

  it("may be a key", function()
    assert.equal(identity.of_key(1), identity.of_key "1")
    assert.are_not.equal(identity.of_key "http://a/", identity.of "http://a/")
  end)
end)
