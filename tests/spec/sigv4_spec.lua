local crypto = require "orchestrator.core.crypto"
local fake_host = require "fake_host"
local secret = require "orchestrator.secret"
local sigv4 = require "orchestrator.sigv4"

local EXAMPLE = {
  region = "us-east-1", service = "service", access_key_id = "AKIDEXAMPLE",
  secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
}
local EMPTY = crypto.hex(crypto.hash("sha256", ""))

local function signature(request, keys)
  local path, query = request.target:match "^([^?]*)%??(.*)$"
  local fields = { ["host"] = "example.amazonaws.com", ["x-amz-date"] = "20150830T123600Z" }
  for name, value in pairs(request.fields or {}) do fields[name] = value end
  local body = request.body or ""
  return (sigv4.sign({
    method = request.method or "GET", path = path, query = query, fields = fields,
    payload = crypto.hex(crypto.hash("sha256", body)),
  }, keys or EXAMPLE):match "Signature=(%x+)$")
end

describe("sigv4.sign", function()
  it("gives what AWS publishes for its test suite", function()
    local vectors = {
      -- paths
      { "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
      { "/example/..", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
      { "/./", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
      { "//", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31" },
      { "/./example", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5" },
      { "//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84" },
      { "/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741" },
      { "/ሴ", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85" },
      -- queries
      { "/?Param2=value2&Param1=value1",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500" },
      { "/?Param1=value2&Param1=Value1",
        "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1" },
      { "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
        "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac" },
      { "/?Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb" },
      { "/?ሴ=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04" },
    }
    for _, vector in ipairs(vectors) do
      assert.equal(vector[2], signature { target = vector[1] }, vector[1])
    end
  end)

  it("and for other methods, headers, bodies and a session", function()
    for _, vector in ipairs {
      { { method = "POST" }, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b" },
      { { fields = { ["my-header1"] = "value1", ["my-header2"] = "\"a   b   c\"" } },
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736" },
      { { method = "POST", body = "Param1=value1",
        fields = { ["content-type"] = "application/x-www-form-urlencoded" } },
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a" },
      { { fields = { ["x-amz-security-token"] =
        "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267" } },
        "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8" },
    } do
      vector[1].target = "/"
      assert.equal(vector[2], signature(vector[1]))
    end
  end)

  it("and in the documentation of S3", function()
    local keys = {
      region = "us-east-1", service = "s3", access_key_id = "AKIAIOSFODNN7EXAMPLE",
      secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    }
    local function s3(target, fields, method, body)
      fields.host, fields["x-amz-date"] = "examplebucket.s3.amazonaws.com", "20130524T000000Z"
      fields["x-amz-content-sha256"] = crypto.hex(crypto.hash("sha256", body or ""))
      return signature({ target = target, fields = fields, method = method, body = body }, keys)
    end
    assert.equal("f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
      s3("/test.txt", { range = "bytes=0-9" }))
    assert.equal("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
      s3("/test$file.text", { date = "Fri, 24 May 2013 00:00:00 GMT",
        ["x-amz-storage-class"] = "REDUCED_REDUNDANCY" }, "PUT", "Welcome to Amazon S3."))
    assert.equal("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
      s3("/?lifecycle", {}))
    assert.equal("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
      s3("/?max-keys=2&prefix=J", {}))
  end)
end)

describe("sigv4.canonical", function()
  local function lines_of(target, service)
    local path, query = target:match "^([^?]*)%??(.*)$"
    local text = sigv4.canonical({ method = "GET", path = path, query = query, fields = {},
      payload = "" }, service or "service")
    return { text:match "^GET\n([^\n]*)\n([^\n]*)\n" }
  end

  it("encodes what was encoded once more, but for S3", function()
    for target, expected in pairs {
      ["/a%20b/c"] = { "/a%2520b/c", "/a%20b/c" },
      ["/a(b)!*'/~c"] = { "/a%28b%29%21%2A%27/~c", "/a%28b%29%21%2A%27/~c" },
      ["/a%2fb"] = { "/a%252fb", "/a/b" },
      ["/a//b/../c/"] = { "/a/c/", "/a//b/../c/" },
      ["/.."] = { "/", "/.." },
      ["/a/."] = { "/a/", "/a/." },
      ["/a/..."] = { "/a/...", "/a/..." },
    } do
      assert.equal(expected[1], lines_of(target)[1])
      assert.equal(expected[2], lines_of(target, "s3")[1])
      assert.equal(expected[2], lines_of(target, "s3-outposts")[1])
    end
  end)

  it("sorts the query as it is encoded, whatever is repeated or missing", function()
    for query, expected in pairs {
      ["b=2&a=1"] = "a=1&b=2",
      ["a=2&a=1&a"] = "a=&a=1&a=2",
      ["a&&b=&=c&"] = "=c&a=&b=",
      ["a=b=c"] = "a=b%3Dc",
      ["a=x+y%20z%2B"] = "a=x%20y%20z%2B",
      ["A=1&a=2&B=3"] = "A=1&B=3&a=2",
      ["%7Ea=%7E"] = "~a=~",
      ["ab=1&a%2Db=2"] = "a-b=2&ab=1",
      ["a=%zz"] = "a=%25zz",
    } do
      assert.equal(expected, lines_of("/?" .. query)[2])
    end
  end)
end)

describe("auth by sigv4", function()
  local w, api

  local function world(more, client_opts, serve)
    local opts = {
      type = "sigv4", region = "eu-west-1", service = "execute-api", access_key_id = "AKID",
      secret_access_key = "sigv4-spec-secret",
    }
    for name, value in pairs(more or {}) do opts[name] = value end
    client_opts = client_opts or {}
    client_opts.auth = opts
    w = fake_host.world { serve = serve }
    api = w.client(client_opts)
  end

  local function send(given)
    return w.run(function()
      local res, err = api:fetch(given)
      return res, err
    end)
  end

  local function field(name, n)
    local spec = w.host.ledger[n or #w.host.ledger].spec
    return ("\n" .. spec.headers):match("\n" .. name:gsub("%-", "%%-") .. ": ([^\n]*)")
  end

  -- Whether the n-th request has the signature it must have for these signed fields.
  local function check(n, names, more)
    local entry = w.host.ledger[n]
    local spec = entry.spec
    local fields = {}
    for name in names:gmatch "[^;]+" do
      fields[name] = name == "host" and spec.url:match "^%a+://([^/]+)"
        or field(name, n) or field((name:gsub("%f[%w]%l", string.upper)), n)
    end
    local path, query = spec.url:match "^%a+://[^/]+([^?]*)%??(.*)$"
    local keys = { region = "eu-west-1", service = more and more.service or "execute-api",
      access_key_id = "AKID", secret_access_key = "sigv4-spec-secret" }
    local expected = sigv4.sign({
      method = spec.method, path = path, query = query, fields = fields,
      payload = more and more.payload or crypto.hex(crypto.hash("sha256", spec.body or "")),
    }, keys)
    assert.equal(expected, field("Authorization", n))
    assert.matches("SignedHeaders=" .. names .. ",", expected, 1, true)
  end

  it("signs at the time it sends", function()
    world(nil, { rate_limit = "1/1h" }, function(spec)
      if spec.url:find "/1$" then return { status = 302, head = "Location: /2\r\n" } end
    end)
    assert(send "https://a.test/1")
    -- The fake clock stands at 1.7e9 + 1000 when the program starts.
    assert.equal("20231114T223000Z", field("X-Amz-Date", 1))
    assert.equal("20231114T233000Z", field("X-Amz-Date", 2))
    check(1, "host;x-amz-date")
    check(2, "host;x-amz-date")
    assert.matches("AWS4-HMAC-SHA256 Credential=AKID/20231114/eu-west-1/execute-api/aws4_request, ",
      field "Authorization", 1, true)
  end)

  it("signs the host with its port, the body, and the headers that count", function()
    world()
    assert(send { url = "http://a.test:8080/x?b=1&a=2", query = { c = { 3, 1 }, d = "" },
      json = { x = 1 }, headers = { ["X-Amz-Target"] = "T  .x", ["X-Other"] = "o" } })
    check(1, "content-type;host;x-amz-date;x-amz-target")
    assert.equal("T  .x", field "X-Amz-Target")
    assert.is_nil(field "X-Amz-Content-Sha256")
    send "https://a.test:443/"
    check(2, "host;x-amz-date")
  end)

  it("sends the token of a session, and signs it", function()
    world { session_token = "sigv4-spec-session" }
    assert(send "https://a.test/")
    check(1, "host;x-amz-date;x-amz-security-token")
    assert.equal("sigv4-spec-session", field "X-Amz-Security-Token")
    assert.equal("*** ***", secret.mask "sigv4-spec-session sigv4-spec-secret")
  end)

  it("tells S3 the hash of the body, or what the script says of it", function()
    world { service = "s3" }
    assert(send "https://b.s3.test/a//b%20(c)")
    assert.equal(EMPTY, field "X-Amz-Content-Sha256")
    check(1, "host;x-amz-content-sha256;x-amz-date", { service = "s3" })
    assert(send { url = "https://b.s3.test/", method = "PUT", body = "text",
      headers = { ["X-Amz-Content-Sha256"] = "UNSIGNED-PAYLOAD" } })
    check(2, "host;x-amz-content-sha256;x-amz-date",
      { service = "s3", payload = "UNSIGNED-PAYLOAD" })
  end)

  it("refuses to sign a body that is not known, but for S3", function()
    world()
    local _, err = send { url = "https://a.test/", file = "tests/spec/sigv4_spec.lua" }
    assert.same({ "invalid", 1 }, { err.kind, err.attempts })
    assert.matches("sigv4 signs the body", err.message)
    assert.equal(0, #w.host.ledger)
    world { service = "s3" }
    assert(send { url = "https://a.test/", method = "PUT", file = "tests/spec/sigv4_spec.lua" })
    assert.equal("UNSIGNED-PAYLOAD", field "X-Amz-Content-Sha256")
  end)

  it("signs every attempt anew", function()
    local dates = {}
    world(nil, { retry = { jitter = false, wait_initial = "10s" } }, function(spec, n)
      dates[n] = spec.headers:match "X%-Amz%-Date: (%w+)"
      return { status = n == 1 and 503 or 200 }
    end)
    assert(send "https://a.test/")
    assert.same({ "20231114T223000Z", "20231114T223010Z" }, dates)
    check(2, "host;x-amz-date")
  end)

  it("signs nothing for other origins", function()
    world({ session_token = "sigv4-spec-session" }, nil, function(spec)
      return spec.url:find "//a" and { status = 307, head = "Location: https://b.test/\r\n" }
    end)
    assert(send "https://a.test/")
    for _, name in ipairs { "Authorization", "X-Amz-Date", "X-Amz-Security-Token" } do
      assert.is_string(field(name, 1))
      assert.is_nil(field(name, 2))
    end
  end)

  it("raises on wrong options, naming them", function()
    for _, case in ipairs {
      { { region = "eu west" }, '"region" must be of letters, digits, and hyphens' },
      { { service = "" }, '"service" must be of letters, digits, and hyphens' },
      { { access_key_id = "a/b" }, '"access_key_id" must be of letters and digits' },
      { { secret_access_key = "" }, '"secret_access_key" must not be empty' },
      { { session_token = "a\nb" }, '"session_token" must be of visible characters' },
      { { key = "x" }, 'unknown option "key"' },
    } do
      local ok, message = pcall(world, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
  end)
end)
