local json = require "orchestrator.json"
local presentable = require "orchestrator.presentable"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"

describe("presentable", function()
  local function shown(value, limit)
    return assert(json.encode((presentable.of(value, limit))))
  end

  it("is what JSON has no form for", function()
    assert.equal('{"1":"nan","2":null,"a":[1,"x"],"b":false}',
      shown { [1] = 0 / 0, [2] = json.null, a = { 1, "x" }, b = false })
    assert.matches('^%["function: [%w#]+","inf","\239\191\189\239\191\189"%]$',
      shown { print, 1 / 0, "\255\254" })
    assert.equal('{"true":{"5":"hole"}}', shown { [true] = { [5] = "hole" } })
    assert.equal('{"a":[],"o":{}}', shown { a = json.array {}, o = {} })
    assert.is_nil((presentable.of(nil)))
  end)

  it("are rings and depths", function()
    local ring = { x = 1 }
    ring.a, ring.b = ring, ring
    assert.matches('^{"a":"table: 0x%x+","b":"table: 0x%x+","x":1}$', shown(ring))
    local shared = { 1 }
    assert.equal("[[1],[1]]", shown { shared, shared })
    local deep = {}
    for _ = 1, 2000 do deep = { deep } end
    assert.matches('"table: 0x%x+"%]', shown(deep))
  end)

  it("are secrets and credentials, masked also where a text is cut", function()
    secret.value "s1nk-s3cret"
    assert.equal('{"***":"a***b","u":"http://***@h/","v":"***"}', shown {
      ["s1nk-s3cret"] = "as1nk-s3cretb", u = "http://me:pw@h/", v = secret.value "s1nk-s3cret",
    })
    for length = 1, 30 do
      local text = presentable.of(("é"):rep(5) .. "s1nk-s3cret" .. ("é"):rep(5), length)
      assert.is_true(#text <= length)
      assert.is_nil(text:find("s1", 1, true))
      assert.is_nil(source.bad_utf8(text))
    end
  end)

  it("is a long text of which little is left when its secrets are masked", function()
    local long = ("s1nk-l0ng."):rep(300)
    secret.value(long)
    for extra = 0, 5 do
      local text = presentable.of(("-"):rep(extra) .. long:rep(4), 2048)
      assert.is_nil(text:find("s1nk", 1, true))
    end
  end)

  it("says whether it is the same", function()
    local function same(value, limit) return (select(2, presentable.of(value, limit))) end
    local token = secret.value "pr3sentable-spec"
    for _, value in ipairs { 1, "x", false, json.null, {}, { 1, { a = json.array {} } } } do
      assert.is_true(same(value))
    end
    assert.is_true(same(nil))
    for _, value in ipairs { 0 / 0, "\255", token, "a pr3sentable-spec", { { token } },
      { ["pr3sentable-spec"] = 1 }, { 1, a = 2 }, { [3] = 1 }, { print }, "http://a:b@c/" } do
      assert.is_false(same(value))
    end
    assert.same({ true, false }, { same("abc", 3), same("abcd", 3) })
  end)
end)
