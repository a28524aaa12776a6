local secret = require "orchestrator.secret"

describe("a secret", function()
  local token = secret.value "tok-9f8e7d6c"

  it("shows itself as ***", function()
    assert.equal("***", tostring(token))
    assert.equal("token: ***", ("token: %s"):format(tostring(token)))
  end)

  it("has nothing to look into", function()
    assert.is_nil(next(token))
    assert.equal("secret", getmetatable(token))
    assert.is_false(pcall(setmetatable, token, {}))
  end)

  it("gives a secret when it is joined with strings", function()
    for _, joined in ipairs { "Bearer " .. token, token .. "/x", token .. token, 1 .. token } do
      assert.is_true(secret.is(joined))
      assert.equal("***", tostring(joined))
    end
    assert.equal("Bearer tok-9f8e7d6c", secret.reveal("Bearer " .. token))
    assert.equal("tok-9f8e7d6ctok-9f8e7d6c", secret.reveal(token .. token))
    assert.equal("1tok-9f8e7d6c", secret.reveal(1 .. token))
  end)

  it("is revealed by reveal alone, which leaves other values as they are", function()
    assert.equal("tok-9f8e7d6c", secret.reveal(token))
    assert.equal("plain", secret.reveal "plain")
    assert.is_nil(secret.reveal(nil))
  end)

  it("is one object per text", function()
    assert.equal(token, secret.value "tok-9f8e7d6c")
    assert.equal(token, secret.value(token))
  end)

  it("is told from everything else", function()
    assert.is_true(secret.is(token))
    for _, other in ipairs { "tok-9f8e7d6c", 1, {}, print, true } do
      assert.is_false(secret.is(other))
    end
    assert.is_false(secret.is(nil))
  end)

  it("is made of strings only", function()
    local ok, message = pcall(secret.value, 42)
    assert.is_false(ok)
    assert.matches("a string is needed, got number", message)
  end)
end)

describe("secret.env", function()
  local getenv = os.getenv
  local environment = { ORC_TOKEN = "from-the-environment", ORC_EMPTY = "" }

  before_each(function()
    os.getenv = function(name) -- luacheck: ignore 122
      return environment[name]
    end
  end)

  after_each(function()
    os.getenv = getenv -- luacheck: ignore 122
  end)

  it("reads a variable", function()
    assert.equal("from-the-environment", secret.reveal(secret.env "ORC_TOKEN"))
  end)

  it("raises at the script's place when the variable is unset or empty", function()
    local ok, message = pcall(function()
      local value = secret.env "ORC_ABSENT"
      return value
    end)
    assert.is_false(ok)
    assert.matches("secret_spec.lua:%d+: secret.env: ", message)
    assert.matches("the environment variable ORC_ABSENT is not set", message)
    ok, message = pcall(secret.env, "ORC_EMPTY")
    assert.is_false(ok)
    assert.matches("ORC_EMPTY is empty", message)
  end)
end)

describe("secret.mask", function()
  secret.value "p@ss w0rd*~/ü+"
  secret.value 'quo"te\\d'

  it("hides a value wherever it stands", function()
    assert.equal("a *** b ***", secret.mask "a p@ss w0rd*~/ü+ b p@ss w0rd*~/ü+")
  end)

  it("hides it percent-encoded, in every usual way", function()
    for _, spelled in ipairs {
      "p%40ss%20w0rd%2A~%2F%C3%BC%2B", -- RFC 3986
      "p%40ss%20w0rd%2a~%2f%c3%bc%2b", -- in lower case
      "p%40ss+w0rd*%7E%2F%C3%BC%2B", -- as a form
      "p@ss w0rd*~/%C3%BC+", -- as our URLs are cleaned
    } do
      assert.equal("?key=***&x", secret.mask("?key=" .. spelled .. "&x"))
    end
  end)

  it("hides it in JSON", function()
    assert.equal([[{"a":"***"}]], secret.mask [[{"a":"quo\"te\\d"}]])
  end)

  it("hides it in base64, whatever stands around it", function()
    for _, before in ipairs { "", "u", "us", "use", "user:" } do
      for _, after in ipairs { "", "!", "!!", "!!!" } do
        local encoded = secret.base64(before .. "p@ss w0rd*~/ü+" .. after)
        local masked = secret.mask(encoded)
        assert.matches("***", masked, 1, true)
        assert.is_true(#masked <= #encoded - 12, masked)
        local url_safe = encoded:gsub("+", "-"):gsub("/", "_")
        assert.matches("***", secret.mask(url_safe), 1, true)
      end
    end
  end)

  it("hides the longer of two secrets first", function()
    secret.value "nested"
    secret.value "nested-longer"
    secret.value "around-enclosed"
    secret.value "enclosed"
    assert.equal("*** and ***", secret.mask "nested-longer and nested")
    assert.equal("*** and ***", secret.mask "around-enclosed and enclosed")
  end)

  it("takes patterns in a secret as they are", function()
    secret.value "100%(.-)%1"
    assert.equal("x***x 100%(abc)", secret.mask "x100%(.-)%1x 100%(abc)")
    secret.value "nul\0inside"
    assert.equal("***", secret.mask "nul\0inside")
  end)

  it("leaves values too short to recognise, and other text", function()
    secret.value "abc"
    secret.value "wxyz"
    assert.equal("abc", secret.mask "abc")
    assert.equal("***", secret.mask "wxyz")
    assert.equal("nothing here", secret.mask "nothing here")
  end)
end)

describe("secret.base64", function()
  it("encodes RFC 4648's test vectors", function()
    local vectors = {
      { "", "" }, { "f", "Zg==" }, { "fo", "Zm8=" }, { "foo", "Zm9v" },
      { "foob", "Zm9vYg==" }, { "fooba", "Zm9vYmE=" }, { "foobar", "Zm9vYmFy" },
    }
    for _, vector in ipairs(vectors) do
      assert.equal(vector[2], secret.base64(vector[1]))
    end
    assert.equal("AP//+/A=", secret.base64 "\0\255\255\251\240")
  end)
end)

describe("a borrowed secret", function()
  it("is masked while somebody has it, and for a while after", function()
    local first, second = secret.borrow "borrowed-0", secret.borrow "borrowed-0"
    assert.equal(first, second)
    assert.equal("***", tostring(first))
    secret.give_back(first)
    for i = 1, 99 do secret.give_back(secret.borrow("borrowed-" .. i)) end
    assert.equal("*** ***", secret.mask "borrowed-0 borrowed-1")
    for i = 100, 300 do secret.give_back(secret.borrow("borrowed-" .. i)) end
    assert.equal("*** borrowed-1 ***", secret.mask "borrowed-0 borrowed-1 borrowed-299")
    secret.give_back(second)
    assert.equal("***", secret.mask "borrowed-0")
    for i = 301, 400 do secret.give_back(secret.borrow("borrowed-" .. i)) end
    assert.equal("borrowed-0 ***", secret.mask "borrowed-0 borrowed-400")
    assert.is_false(secret.is_known "borrowed-0")
  end)

  it("is used again and again", function()
    for i = 1, 300 do
      secret.give_back(secret.borrow "borrowed-again")
      secret.give_back(secret.borrow("borrowed-other-" .. i % 50))
    end
    assert.equal("*** ***", secret.mask "borrowed-again borrowed-other-1")
  end)

  it("stays when it is a secret of the script's, whenever that is said", function()
    local before = secret.value "lent-before"
    secret.give_back(secret.borrow "lent-before")
    local lent = secret.borrow "lent-after"
    local after = secret.value "lent-after"
    secret.give_back(lent)
    secret.give_back(lent)
    for i = 1, 300 do secret.give_back(secret.borrow("lent-" .. i)) end
    assert.equal(after, lent)
    assert.equal("*** ***", secret.mask "lent-before lent-after")
    assert.is_true(secret.is(before))
  end)
end)
