local auth = require "orchestrator.auth"
local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local function applied(opts, given)
  local fields, query = headers.merge(given), {}
  auth.apply(auth.check(opts), fields, query)
  return headers.text(fields), url.query(query), fields, query
end

describe("auth", function()
  it("is nothing when it is not set", function()
    assert.is_nil(auth.check(nil))
    assert.is_nil(auth.check(false))
  end)

  it("sends a bearer token", function()
    local text = applied { type = "bearer", token = "tok-1234" }
    assert.equal("Authorization: Bearer tok-1234\n", text)
  end)

  it("sends basic credentials", function()
    local text = applied { type = "basic", username = "Aladdin", password = "open sesame" }
    assert.equal("Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\n", text)
    text = applied { type = "basic", username = secret.value "sk_live_1", password = "" }
    assert.equal("Authorization: Basic " .. secret.base64 "sk_live_1:" .. "\n", text)
    text = applied { type = "basic", username = "ü", password = "a:b" }
    assert.equal("Authorization: Basic w7w6YTpi\n", text)
  end)

  it("sends an API key as a header or a query parameter", function()
    local text, query = applied { type = "api_key", name = "X-API-Key", value = "key-1234" }
    assert.equal("X-API-Key: key-1234\n", text)
    assert.equal("", query)
    text, query = applied { type = "api_key", name = "key", value = "key-1234", place = "query" }
    assert.equal("", text)
    assert.equal("key=key-1234", query)
  end)

  it("makes a secret of every credential", function()
    for _, opts in ipairs {
      { type = "bearer", token = "plain-bearer" },
      { type = "basic", username = "me", password = "plain-basic" },
      { type = "api_key", name = "X-Key", value = "plain-header" },
      { type = "api_key", name = "key", value = "plain-query", place = "query" },
    } do
      local text, query, fields, parameters = applied(opts)
      local _, field = next(fields)
      local _, parameter = next(parameters)
      assert.is_true(secret.is(field and field.value or parameter))
      assert.matches("%*%*%*", secret.mask(text .. query))
      assert.is_nil(secret.mask(text .. query):find "plain")
    end
    assert.equal("***", secret.mask "plain-basic")
    assert.equal("***", secret.mask(secret.base64 "me:plain-basic"))
  end)

  it("takes secrets as they are", function()
    local text = applied { type = "bearer", token = secret.value "auth-spec-token" }
    assert.equal("Authorization: Bearer auth-spec-token\n", text)
  end)

  it("gives an object for what is different for every request", function()
    local static, dynamic = auth.check({ type = "digest", username = "a", password = "b" })
    assert.is_nil(static)
    for _, method in ipairs { "ready", "authorize", "answered" } do
      assert.is_function(dynamic[method])
    end
    static, dynamic = auth.check { type = "bearer", token = "auth-spec-token" }
    assert.equal("Authorization", static.name)
    assert.is_nil(dynamic)
  end)

  it("leaves what the script set itself", function()
    local text = applied({ type = "bearer", token = "tok-1234" }, { authorization = "Custom x" })
    assert.equal("authorization: Custom x\n", text)
    local query = { key = "mine" }
    local opts = { type = "api_key", name = "key", value = "k", place = "query" }
    auth.apply(auth.check(opts), {}, query)
    assert.same({ key = "mine" }, query)
  end)

  it("raises on wrong options, naming them", function()
    local types = 'auth: "type" must be "api_key", "basic", "bearer", "digest", "netrc", '
      .. '"oauth2", "sigv4"'
    local cases = {
      { {}, types },
      { "bearer", types },
      { { type = "bearr", token = "x" }, types .. ' (did you mean "bearer"?)' },
      { { type = "ntlm" }, types },
      { { type = "oath2" }, types .. ' (did you mean "oauth2"?)' },
      { { type = "oauth2" }, 'auth: "client_id" is missing' },
      { { type = "sigv4" }, 'auth: "access_key_id" is missing' },
      { { type = "bearer" }, 'auth: "token" is missing: it must be a string or a secret' },
      { { type = "bearer", token = "" }, 'auth: "token" must not be empty' },
      { { type = "bearer", token = 42 },
        'auth: "token" must be a string or a secret, got a number' },
      { { type = "bearer", tokn = "x" }, 'auth: unknown option "tokn" (did you mean "token"?)' },
      { { type = "basic", username = "a:b", password = "x" },
        'auth: "username" must not contain a colon' },
      { { type = "basic", username = "a" }, 'auth: "password" is missing' },
      { { type = "basic", password = "a" }, 'auth: "username" is missing' },
      { { type = "api_key", value = "x" }, 'auth: "name" is missing' },
      { { type = "api_key", name = "k", value = "x", place = "body" },
        'auth: "place" must be "header" or "query", got "body"' },
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(auth.check, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
    local _, message = pcall(auth.check, {}, { where = "client.auth" })
    assert.matches("client.auth: ", message, 1, true)
  end)
end)
