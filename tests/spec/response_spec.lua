local json = require "orchestrator.json"
local response = require "orchestrator.response"
local secret = require "orchestrator.secret"

local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\n\r\n"

local function response_of(fields)
  local result = {
    status = 200, head = HEAD, body = "{}", size = 2, wire = 2, framing = "length", version = "1.1",
    dns = 1, connect = 2, tls = 3, first_byte = 4, elapsed = 5,
  }
  for name, value in pairs(fields or {}) do result[name] = value end
  return response.of(result, "https://a/b", 3)
end

describe("response", function()
  it("says what came back", function()
    local res = response_of()
    assert.same({ 200, "{}", "https://a/b", 3, false, "length" },
      { res.status, res.body, res.url, res.attempts, res.from_cache, res.framing })
    assert.same({}, res.hops)
    assert.same({ dns = 1, connect = 2, tls = 3, first_byte = 4, total = 5 }, res.timing)
    assert.is_nil(res.ignored)
    assert.is_nil(res.nothing_of_that_name)
  end)

  it("is ok when the status is 2xx", function()
    for _, case in ipairs { { 199, false }, { 200, true }, { 299, true }, { 300, false } } do
      assert.equal(case[2], response_of({ status = case[1] }).ok)
    end
  end)

  it("has headers by lower-cased name, made once", function()
    local res = response_of()
    assert.same({ ["content-type"] = "application/json", ["x-a"] = "1, 2" }, res.headers)
    assert.equal(res.headers, res.headers)
  end)

  it("decodes JSON", function()
    assert.same({ a = { 1, 2 } }, (response_of({ body = '{"a":[1,2]}' }):json()))
    assert.equal(json.null, (response_of({ body = "null" }):json()))
    assert.equal(false, (response_of({ body = "false" }):json()))
  end)

  it("says which response is not JSON", function()
    local value, err = response_of({ body = "<html>" }):json()
    assert.is_nil(value)
    assert.same({ "decode", "https://a/b", 200 }, { err.kind, err.url, err.status })
    assert.matches("byte 1", err.message)
  end)

  it("has no JSON when the body was saved", function()
    local res = response.of({ status = 200, head = HEAD }, "https://a/b", 1)
    local value, err = res:json()
    assert.is_nil(value)
    assert.equal("decode: the body was saved to a file (https://a/b)", tostring(err))
  end)

  it("shows itself in a line", function()
    assert.equal("response 200 from https://a/b", tostring(response_of()))
    assert.equal("response 200 from https://a/\\x1b",
      tostring(response.of({ status = 200 }, "https://a/\27", 1)))
    secret.value "response-spec-key"
    assert.equal("response 200 from https://a/?key=***",
      tostring(response.of({ status = 200 }, "https://a/?key=response-spec-key", 1)))
  end)
end)
