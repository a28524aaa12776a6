local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

local function again(text)
  return assert(json.encode(assert(json.decode(text))))
end

describe("json.decode", function()
  it("gives Lua values", function()
    local value = json.decode '{"s": "é", "n": -1.5, "t": true, "list": [1, [2]], "o": {"k": 0}}'
    assert.same({ s = "é", n = -1.5, t = true, list = { 1, { 2 } }, o = { k = 0 } }, value)
  end)

  it("gives null as json.null, which is neither nil nor false", function()
    assert.equal(json.null, json.decode "null")
    assert.equal(json.null, json.decode('{"a": null}').a)
    assert.is_true(json.null ~= nil and json.null ~= false)
  end)

  it("gives false without an error", function()
    local value, err = json.decode "false"
    assert.is_false(value)
    assert.is_nil(err)
  end)

  it("gives integers beyond 2^53 as strings with every digit", function()
    assert.equal(9007199254740992, json.decode "9007199254740992")
    assert.equal("9007199254740993", json.decode "9007199254740993")
    assert.equal("-123456789012345678901", json.decode("[-123456789012345678901]")[1])
  end)

  it("keeps the last of duplicate keys", function()
    assert.same({ a = 2 }, json.decode '{"a": 1, "a": 2}')
  end)

  it("ignores a byte order mark", function()
    assert.same({ 1 }, json.decode "\239\187\191[1]")
  end)

  for _, text in ipairs { "", "NaN", "0x10", "01", "1.", "[1,]", "{'a': 1}", '"\255"', '"\0"' } do
    it(("refuses %q"):format(text), function()
      local value, err = json.decode(text)
      assert.is_nil(value)
      assert.is_true(errors.is(err))
      assert.equal("decode", err.kind)
      assert.truthy(err.message:find "^line 1, byte %d+: %a")
    end)
  end

  it("names the line and the byte", function()
    local _, err = json.decode '{\n  "a": 1,\n  "b": @\n}'
    assert.equal("line 3, byte 8: expected a value", err.message)
    assert.equal("decode: line 3, byte 8: expected a value", tostring(err))
  end)

  it("refuses nesting deeper than 1,000, however deep", function()
    assert.is_table(json.decode(("["):rep(1000) .. ("]"):rep(1000)))
    local _, err = json.decode(("["):rep(100000))
    assert.equal("line 1, byte 1001: nested deeper than 1000", err.message)
  end)

  it("raises for what is no string, naming the place", function()
    for _, value in ipairs { 1, true, {}, json.null } do
      local ok, message = pcall(function()
        json.decode(value)
      end)
      assert.is_false(ok)
      assert.truthy(message:find "json_spec%.lua:%d+: json%.decode: the text must be a string")
    end
    assert.has_error(function()
      json.decode()
    end)
  end)
end)

describe("json.encode", function()
  it("sorts keys by their bytes", function()
    assert.equal('{"B":1,"a":2,"aa":3,"é":4}', json.encode { ["é"] = 4, aa = 3, a = 2, B = 1 })
  end)

  it("writes numbers so that they come back", function()
    assert.equal("[123456789012345,0.1,0.30000000000000004,-0.0,1e+300]",
      json.encode { 123456789012345, 0.1, 0.1 + 0.2, -0.0, 1e300 })
  end)

  it("tells [] from {}", function()
    assert.equal("{}", json.encode {})
    assert.equal("[]", json.encode(json.array()))
    assert.equal('{"list":[],"map":{}}', json.encode { list = json.array {}, map = {} })
    assert.equal("[1]", json.encode(json.array { 1 }))
  end)

  it("writes null", function()
    assert.equal("[1,null]", json.encode { 1, json.null })
  end)

  it("does not show secrets", function()
    local token = secret.value "hunter22"
    local text = json.encode { token = token, auth = "Bearer " .. token }
    assert.equal('{"auth":"***","token":"***"}', text)
  end)

  for _, case in ipairs {
    { { items = { 1, 2, { name = 0 / 0 } } }, "at .items[3].name: nan has no JSON form" },
    { { f = print }, "at .f: a value of type function has no JSON form" },
    { nil, "a value of type nil has no JSON form" },
    { { 1, a = 2 }, "the table has both string and number keys" },
    { { 1, nil, 3 }, "the number keys are not 1, 2, 3 and so on without a gap" },
    { { a = "\255" }, "at .a: the string is not valid UTF-8" },
  } do
    it("refuses: " .. case[2], function()
      local text, err = json.encode(case[1])
      assert.is_nil(text)
      assert.is_true(errors.is(err))
      assert.equal("invalid", err.kind)
      assert.equal(case[2], err.message)
    end)
  end

  it("refuses a cycle", function()
    local t = {}
    t.self = { t }
    local text, err = json.encode(t)
    assert.is_nil(text)
    assert.truthy(err.message:find "^at %.self%[1%]%.self.*: nested deeper than 1000 %(a cycle%?%)")
  end)
end)

describe("json.array", function()
  it("raises for what it cannot mark", function()
    local ok, message = pcall(function()
      json.array "x"
    end)
    assert.is_false(ok)
    assert.truthy(message:find "json_spec%.lua:%d+: json%.array: needs a table, got a string")
    assert.has_error(function()
      json.array(setmetatable({}, {}))
    end)
  end)
end)

describe("json", function()
  for _, text in ipairs {
    '{"a":[],"b":{},"c":[{},[]]}',
    '[0,-0.0,1.5,9007199254740992,0.1,1e+100]',
    [["\"\\\b\f\n\r\t\u0000 é€😀"]],
    '{"":null,"\\u0001":true}',
  } do
    it("writes again what it read: " .. text, function()
      assert.equal(text, again(text))
    end)
  end
end)
