local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

describe("request", function()
  local w, sent

  -- What a fetch puts on the wire: what the host was asked to start, and nil, or the error.
  local function send(given, client_opts)
    w = fake_host.world()
    local _, err = w.run(function()
      local res, err = w.client(client_opts):fetch(given)
      return res, err
    end)
    sent = w.host.ledger[1] and w.host.ledger[1].spec
    return sent, err
  end

  local function header(name)
    return (("\n" .. sent.headers):match("\n" .. name:gsub("%-", "%%-") .. ": ?([^\n]*)\n"))
  end

  -- Sends, which must raise; gives the message.
  local function misuse(given, client_opts)
    local ok, raised = pcall(send, given, client_opts)
    assert.is_false(ok)
    assert.same({}, w.host.ledger)
    return tostring(raised)
  end

  -- Sends, which must give an error of kind invalid and send nothing; gives its message.
  local function invalid(given, client_opts)
    local _, err = send(given, client_opts)
    assert.is_true(errors.is(err))
    assert.equal("invalid", err.kind)
    assert.same({}, w.host.ledger)
    return err.message, err
  end

  describe("of a URL alone", function()
    it("gets it with the defaults", function()
      send "https://Example.com/a?b=1#c"
      assert.same({
        "GET", "https://example.com/a?b=1", "https://example.com:443", "example.com", 443, true,
        30, 10, 64e6, 300e3,
      }, {
        sent.method, sent.url, sent.origin, sent.host, sent.port, sent.tls, sent.timeout,
        sent.connect_timeout, sent.max_body, sent.max_headers,
      })
      assert.is_nil(sent.body or sent.save or sent.idle_timeout)
      assert.equal("Accept: */*\nAccept-Encoding: gzip, deflate, br, zstd\n"
        .. "User-Agent: orchestrator/1.2\n", sent.headers)
    end)

    it("may be plain http on any port", function()
      send "http://[::1]:8080"
      assert.same({ "http://[::1]:8080/", "::1", 8080, false },
        { sent.url, sent.host, sent.port, sent.tls })
    end)

    it("may be a secret", function()
      send(secret.value "https://a/request-spec-token")
      assert.equal("https://a/request-spec-token", sent.url)
      send(secret.value "request-spec-token", { base_url = "https://a/v1" })
      assert.equal("https://a/v1/request-spec-token", sent.url)
    end)

    it("has its host name turned to ASCII", function()
      send "https://bücher.test/ü"
      assert.equal("https://xn--bcher-kva.test/%C3%BC", sent.url)
    end)

    it("gives its user and password as basic auth", function()
      send "https://us%40er:p%3Aw@a/x"
      assert.equal("https://a/x", sent.url)
      assert.equal("Basic " .. secret.base64 "us@er:p:w", header "Authorization")
    end)
  end)

  describe("body", function()
    it("as JSON", function()
      send { url = "https://a/", json = { b = 1, a = { true, json.null } } }
      assert.same({ "POST", '{"a":[true,null],"b":1}', "application/json" },
        { sent.method, sent.body, header "Content-Type" })
      send { url = "https://a/", json = false }
      assert.equal("false", sent.body)
      send { url = "https://a/", json = json.array {} }
      assert.equal("[]", sent.body)
    end)

    it("as a form", function()
      send { url = "https://a/", form = { b = "x y", a = { 1, 2 } } }
      assert.same({ "POST", "a=1&a=2&b=x+y", "application/x-www-form-urlencoded" },
        { sent.method, sent.body, header "Content-Type" })
    end)

    it("as it is, with no type but the one that is given", function()
      send { url = "https://a/", body = "a\0b" }
      assert.same({ "POST", "a\0b", nil }, { sent.method, sent.body, header "Content-Type" })
      send { url = "https://a/", body = "<a/>", headers = { ["content-type"] = "text/xml" } }
      assert.same({ "text/xml", nil }, { header "content-type", header "Content-Type" })
      send { url = "https://a/", body = "" }
      assert.same({ "POST", "" }, { sent.method, sent.body })
    end)

    it("has the type the script says it has", function()
      send { url = "https://a/", json = {}, headers = { ["Content-Type"] = "application/ld+json" } }
      assert.equal("application/ld+json", header "Content-Type")
      send({ url = "https://a/", json = {} }, { headers = { ["Content-Type"] = "text/odd" } })
      assert.equal("application/json", header "Content-Type")
    end)

    it("goes with any method", function()
      send { url = "https://a/", method = "put", json = {} }
      assert.same({ "PUT", "{}" }, { sent.method, sent.body })
    end)

    it("may hold secrets, which are revealed on the wire alone", function()
      local key = secret.value "request-spec-body"
      local given = { deep = { key = key }, list = { 1, key } }
      send { url = "https://a/", json = given }
      assert.equal('{"deep":{"key":"request-spec-body"},"list":[1,"request-spec-body"]}', sent.body)
      assert.equal(key, given.deep.key)
      send { url = "https://a/", form = { key = key } }
      assert.equal("key=request-spec-body", sent.body)
      send { url = "https://a/", body = "x=" .. key }
      assert.equal("x=request-spec-body", sent.body)
    end)

    it("that cannot be written is invalid", function()
      assert.matches("at %.a: ", (invalid { url = "https://a/", json = { a = print } }))
      local circle = {}
      circle[1] = circle
      assert.matches("nest", (invalid { url = "https://a/", json = circle }))
    end)

    it("is one only", function()
      assert.matches("request_spec.lua:%d+: request: json and form exclude each other",
        misuse { url = "https://a/", json = {}, form = {} })
    end)
  end)

  describe("query", function()
    it("is added, its names sorted", function()
      send { url = "https://a/x?z=1#frag", query = { b = "ü &", a = { 1, 2.5 }, c = true } }
      assert.equal("https://a/x?z=1&a=1&a=2.5&b=%C3%BC%20%26&c=true", sent.url)
    end)

    it("may hold secrets", function()
      send { url = "https://a/", query = { key = secret.value "request-spec-query" } }
      assert.equal("https://a/?key=request-spec-query", sent.url)
    end)
  end)

  describe("base_url", function()
    local BASE = { base_url = "https://a/v1/" }

    it("goes before a path, and may stand alone", function()
      assert.equal("https://a/v1/users", send({ url = "/users" }, BASE).url)
      assert.equal("https://a/v1/users", send("users", BASE).url)
      assert.equal("https://a/v1/?x=1", send({ query = { x = 1 } }, BASE).url)
    end)

    it("gives way to a whole URL, which gets no credentials elsewhere", function()
      local client = {
        base_url = "https://a/v1", headers = { ["X-Mine"] = "m", ["Accept-Language"] = "de" },
        auth = { type = "api_key", name = "key", value = "request-spec-base", place = "query" },
      }
      assert.equal("https://a/x?key=request-spec-base", send("https://a/x", client).url)
      assert.equal("m", header "X-Mine")
      for _, to in ipairs { "https://b/x", "http://a/x", "https://a:444/x" } do
        assert.equal(to .. "?a=1", send({ url = to, query = { a = 1 } }, client).url)
        assert.same({ nil, "de" }, { header "X-Mine", header "Accept-Language" })
        send({ url = to, headers = { ["X-Own"] = "o" } }, client)
        assert.same({ "o", nil }, { header "X-Own", header "X-Mine" })
      end
    end)

    it("must be a URL", function()
      assert.matches('tests/spec/[%w_]+.lua:%d+: client: "base_url" is not a URL: .* no scheme',
        misuse("/x", { base_url = "a/v1" }))
    end)
  end)

  describe("headers", function()
    it("go over the client's, which go over the defaults; false removes", function()
      send({ url = "https://a/", headers = { ["x-one"] = "request", Accept = false, N = 12 } },
        { headers = { ["X-One"] = "client", ["X-Two"] = "2", ["user-agent"] = "me" } })
      assert.equal("Accept-Encoding: gzip, deflate, br, zstd\nN: 12\nuser-agent: me\n"
        .. "x-one: request\nX-Two: 2\n", sent.headers)
    end)

    it("of one request do not stay for the next", function()
      w = fake_host.world()
      w.run(function()
        local api = w.client { headers = { A = "1" } }
        api:fetch { url = "https://a/", headers = { A = "2", B = "3" } }
        api:fetch "https://a/"
      end)
      assert.equal("A: 1\n", w.host.ledger[2].spec.headers:match "A: %d\n")
      assert.is_nil(w.host.ledger[2].spec.headers:match "B: ")
    end)

    it("may hold secrets", function()
      local key = "k " .. secret.value "request-spec-head"
      send { url = "https://a/", headers = { ["X-Key"] = key } }
      assert.equal("k request-spec-head", header "X-Key")
    end)
  end)

  describe("auth", function()
    it("by a bearer token", function()
      send("https://a/", { auth = { type = "bearer", token = secret.value "request-spec-bearer" } })
      assert.equal("Bearer request-spec-bearer", header "Authorization")
    end)

    it("by user and password", function()
      send("https://a/", { auth = { type = "basic", username = "me", password = "päss" } })
      assert.equal("Basic " .. secret.base64 "me:päss", header "Authorization")
    end)

    it("by a key in a header", function()
      local auth = { type = "api_key", name = "X-Api-Key", value = "request-spec-k1" }
      send("https://a/", { auth = auth })
      assert.equal("request-spec-k1", header "X-Api-Key")
    end)

    it("by a key in the query, beside the request's own", function()
      local auth = { type = "api_key", name = "key", value = "request-spec-k2", place = "query" }
      assert.equal("https://a/?key=request-spec-k2", send("https://a/", { auth = auth }).url)
      assert.equal("https://a/?a=1&key=request-spec-k2",
        send({ url = "https://a/", query = { a = 1 } }, { auth = auth }).url)
      assert.equal("https://a/?key=mine",
        send({ url = "https://a/", query = { key = "mine" } }, { auth = auth }).url)
    end)

    it("gives way to the script's own header", function()
      send({ url = "https://a/", headers = { authorization = "mine" } },
        { auth = { type = "bearer", token = "request-spec-bearer" } })
      assert.same({ "mine", nil }, { header "authorization", header "Authorization" })
    end)

    it("of a kind we do not have is misuse", function()
      assert.matches('tests/spec/[%w_]+.lua:%d+: auth: "type" must be "api_key", "basic", "bearer"',
        misuse("https://a/", { auth = { type = "ntlm" } }))
      assert.matches('did you mean "bearer"',
        misuse("https://a/", { auth = { type = "baerer", token = "x" } }))
      assert.matches('auth: unknown option "tokn" %(did you mean "token"%?%)',
        misuse("https://a/", { auth = { type = "bearer", token = "x", tokn = "y" } }))
    end)
  end)

  describe("limits of time and size", function()
    -- The times and sizes a host is given.
    local function caps(given, client_opts)
      local spec = send(given, client_opts)
      return { spec.connect_timeout, spec.timeout, spec.idle_timeout or false }
    end

    it("a number is the attempt's", function()
      assert.same({ 10, 5, false }, caps({ url = "https://a/", timeout = 5 }))
      assert.same({ 10, 0.5, false }, caps("https://a/", { timeout = "500ms" }))
    end)

    it("a table says all, and keeps what it does not say", function()
      assert.same({ 1, 2, 3 },
        caps { url = "https://a/", timeout = { connect = 1, attempt = "2s", idle = "3s" } })
      assert.same({ 1, 2, 3 }, caps({ url = "https://a/", timeout = { connect = 1 } },
        { timeout = { connect = 9, attempt = 2, idle = 3 } }))
      assert.same({ 9, 5, 3 }, caps({ url = "https://a/", timeout = 5 },
        { timeout = { connect = 9, attempt = 2, idle = 3 } }))
    end)

    it("the body and the headers have caps", function()
      send({ url = "https://a/", max_body = "1kB" }, { max_headers = "2kB" })
      assert.same({ 1000, 2000 }, { sent.max_body, sent.max_headers })
      send({ url = "https://a/", max_headers = "3kB" }, { max_headers = "2kB", max_body = "1MiB" })
      assert.same({ 2 ^ 20, 3000 }, { sent.max_body, sent.max_headers })
      assert.matches('"max_headers" must be at most 300000',
        misuse { url = "https://a/", max_headers = "1MB" })
    end)

    it("a saved body goes on as long as bytes come", function()
      local client = { timeout = { attempt = 7 }, max_body = 1e3 }
      assert.same({ 10, 0, 30 }, caps({ url = "https://a/", save = "x.bin" }, client))
      assert.same({ "x.bin", 0 }, { sent.save, sent.max_body })
      assert.same({ 10, 5, 2 }, caps({ url = "https://a/", save = "x.bin", max_body = "5MB",
        timeout = { attempt = 5, idle = 2 } }, client))
      assert.equal(5e6, sent.max_body)
      client.timeout = { idle = 4 }
      assert.same({ 10, 0, 4 }, caps({ url = "https://a/", save = "x" }, client))
    end)
  end)

  describe("nothing is sent when", function()
    it("a URL is bad", function()
      for given, message in pairs {
        ["file:///etc/passwd"] = 'scheme "file"',
        ["/users"] = "no scheme",
        [""] = "no scheme",
        ["https://a/\r\nX: y"] = "line break",
        ["https://a/\0"] = "NUL",
        ["https://a\n.b/"] = "line break",
        ["https://a b/"] = "space",
        ["https://:80/"] = "no host",
        ["https://us%3Aer:pw@a/"] = "colon",
      } do
        local text, err = invalid(given)
        assert.matches(message, text)
        assert.equal(given, err.url)
        assert.equal(text, (invalid { url = given }))
      end
      assert.matches("no scheme", (invalid { url = "x" }))
    end)

    it("a header could start another", function()
      for _, value in ipairs { "a\r\nB: c", "a\nB: c", "a\rb", "a\0b" } do
        assert.matches('the header "X" contains', (invalid {
          url = "https://a/", headers = { X = value },
        }))
        assert.matches('the header "X" contains', (invalid {
          url = "https://u:p@a/", headers = { X = secret.value(value) },
        }))
      end
      for _, name in ipairs { "a b", "a\r\nb", "a:", "" } do
        assert.matches("no header name", (invalid { url = "https://a/", headers = { [name] = 1 } }))
      end
      assert.matches('tests/spec/[%w_]+.lua:%d+: client: the header "X" contains',
        misuse("https://a/", { headers = { X = "a\r\nb" } }))
    end)

    it("a method is none", function()
      for _, method in ipairs { "GET\r\nX: y", "GE T", "", "GET\0", "GÉT" } do
        assert.matches("is no HTTP method", (invalid { url = "https://a/", method = method }))
      end
    end)

    it("the error hides credentials in a line", function()
      local _, err = invalid "https://user:password@a b/"
      assert.matches(" %(https://%*%*%*@a b/%)$", tostring(err))
    end)
  end)

  it("cannot be saved to a path that is none", function()
    for _, path in ipairs { "a\0b", "" } do
      assert.matches('"save" must be the path', misuse { url = "https://a/", save = path })
    end
  end)

  describe("misuse", function()
    for _, case in ipairs {
      { 'request: unknown option "tiemout" %(did you mean "timeout"%?%)',
        { url = "https://a/", tiemout = 1 } },
      { 'request.timeout: unknown option "atempt" %(did you mean "attempt"%?%)',
        { url = "https://a/", timeout = { atempt = 1 } } },
      { 'request.timeout: "total" must be a duration such as "10s", got "ten"',
        { url = "https://a/", timeout = { total = "ten" } } },
      { 'request.retry: unknown option "atempts" %(did you mean "attempts"%?%)',
        { url = "https://a/", retry = { atempts = 1 } } },
      { 'request.retry: "budget" is shared by the requests of a client',
        { url = "https://a/", retry = { budget = 1 } } },
      { 'request: "url" is missing', {} },
      { 'request: "url" must be a string or a secret, got a number', { url = 12 } },
      { 'request: "method" must be a string', { url = "https://a/", method = 1 } },
      { 'request: "headers" must be a table', { url = "https://a/", headers = "A: b" } },
      { 'headers: "A" must be a string, number, secret or false, got boolean',
        { url = "https://a/", headers = { A = true } } },
      { 'query: "a" must be a string', { url = "https://a/", query = { a = print } } },
      { 'request: "form" must be a table', { url = "https://a/", form = "a=b" } },
      { 'request: "body" must be a string or a secret', { url = "https://a/", body = {} } },
      { 'request: "accept" must be a table, a function or "any", got "all"',
        { url = "https://a/", accept = "all" } },
      { 'request: "accept" must list statuses such as 404; element 2 is 404',
        { url = "https://a/", accept = { 200, "404" } } },
      { 'request: "accept" must list at least one status', { url = "https://a/", accept = {} } },
      { 'request: "max_body" must be a size such as "10MB"',
        { url = "https://a/", max_body = "1XB" } },
      { 'request: "weight" must be above zero, got 0', { url = "https://a/", weight = 0 } },
      { 'request: "weight" must be above zero, got %-1', { url = "https://a/", weight = -1 } },
      { 'request: "weight" must be a number, got nan', { url = "https://a/", weight = 0 / 0 } },
      { 'request: "priority" must be a number, got "high"',
        { url = "https://a/", priority = "high" } },
      { 'request: "follow" must be a whole number, got true',
        { url = "https://a/", follow = true } },
      { 'request: "retry" must be a table or false, got 3', { url = "https://a/", retry = 3 } },
      { 'request: "response_action" must be a function',
        { url = "https://a/", response_action = "x" } },
      { 'request: "cache" must be true or false or a table, got "default"',
        { url = "https://a/", cache = "default" } },
      { 'request.cache: "memory" is for all requests: set it for a client',
        { url = "https://a/", cache = { memory = "1MB" } } },
      { 'request: "Content%-Length" is told by the body: leave it out of "headers"',
        { url = "https://a/", body = "abc", headers = { ["content-length"] = 1 } } },
      { 'request: "Content%-Length" is told by the body',
        { url = "https://a/", headers = { ["Content-Length"] = "0" } } },
      { 'request: "Transfer%-Encoding" is told by the body',
        { url = "https://a/", headers = { ["Transfer-Encoding"] = "chunked" } } },
      { 'request: "Transfer%-Encoding" is told by the body',
        { url = "https://a/", body = print, headers = { ["transfer-encoding"] = "chunked" } } },
      { 'request: "Transfer%-Encoding" is told by the body',
        { url = "https://a/", file = "x", headers = { ["transfer-encoding"] = "chunked" } } },
      { 'request: "Host" must be a host', { url = "https://a/", headers = { host = "a b" } } },
      { 'request: "Host" must be a host', { url = "https://a/", headers = { Host = "a\tb" } } },
      { 'request: "Host" must be a host', { url = "https://a/", headers = { Host = "" } } },
      { 'request: "method" CONNECT is for proxies',
        { url = "https://a/", method = "connect" } },
      { "fetch: expects a URL or a request table, got nil", nil },
      { "fetch: expects a URL or a request table, got number", 12 },
    } do
      it(case[1], function()
        assert.matches("request_spec.lua:%d+: " .. case[1], misuse(case[2]))
      end)
    end
  end)

  it("of a client: its headers tell no length either", function()
    for _, name in ipairs { "Content-Length", "transfer-encoding" } do
      assert.matches("client: \"%w+%-%w+\" is told by the body",
        misuse("https://a/", { headers = { [name] = "1" } }))
    end
    assert.matches('client: "Host" must be a host',
      misuse("https://a/", { headers = { Host = "a " } }))
    send({ url = "https://a/", headers = { ["Content-Length"] = false, Host = "b:81" } },
      { headers = { ["Content-Length"] = false } })
    assert.equal("b:81", header "Host")
  end)

  it("may go to a host whose name is not ASCII", function()
    send("/x", { base_url = "https://bücher.test/v1",
      auth = { type = "bearer", token = "t0ken-1" } })
    assert.same({ "https://xn--bcher-kva.test/v1/x", "Bearer t0ken-1" },
      { sent.url, header "Authorization" })
    assert.matches('client: "base_url" is not a URL: the URL has a host name that cannot be',
      misuse("/x", { base_url = "https://ünknown.test/" }))
    assert.matches('auth: "token_url" is not a URL: the URL has a host name that cannot be',
      misuse("/x", { base_url = "https://a.test/", auth = { type = "oauth2", client_id = "a",
        client_secret = "b", token_url = "https://ünknown.test/" } }))
  end)

  it("with credentials of its own in the URL makes them secrets for as long as it takes", function()
    for i = 1, 300 do
      send("https://user:lent-password-" .. i .. "@a.test/")
      assert.equal("Basic " .. secret.base64("user:lent-password-" .. i), header "Authorization")
    end
    invalid { url = "https://user:lent-password-301@a.test/", headers = { X = "a\nb" } }
    w = fake_host.world { serve = function() return { after = 10 } end }
    w.run(function()
      w.orc.deadline(1, function() w.client():fetch "https://u:lent-password-302@a.test/" end)
    end)
    assert.is_false(secret.is_known "lent-password-1")
    assert.is_false(secret.is_known(secret.base64 "user:lent-password-1"))
    assert.equal("*** ***", secret.mask "lent-password-300 lent-password-302")
    for i = 1, 100 do send("https://user:lent-password-x" .. i .. "@a.test/") end
    for i = 1, 302 do assert.is_false(secret.is_known("lent-password-" .. i)) end
  end)

  it("may say that it wants no cache", function()
    assert.equal("https://a/", send({ url = "https://a/", cache = false }, { cache = false }).url)
  end)
end)
