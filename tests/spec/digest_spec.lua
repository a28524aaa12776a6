local challenge = require "orchestrator.challenge"
local crypto = require "orchestrator.core.crypto"
local digest = require "orchestrator.digest"
local fake_host = require "fake_host"
local options = require "orchestrator.options"

-- The parameters of the Authorization that was sent; nil without one.
local function sent(spec)
  local value = ("\n" .. spec.headers):match "\nAuthorization: Digest ([^\n]*)"
  return value and challenge.params(value)
end

local function unauthorized(field, more)
  return { status = 401, head = "WWW-Authenticate: " .. field .. "\r\n" .. (more or "") }
end

local MD5 = 'Digest realm="r", nonce="n1", qop="auth"'

describe("digest", function()
  local w, api

  local function world(serve, client_opts)
    w = fake_host.world { serve = serve }
    client_opts = client_opts or {}
    client_opts.auth = client_opts.auth or { type = "digest", username = "me", password = "pw" }
    api = w.client(client_opts)
  end

  local function fetch(given)
    return w.run(function()
      local res, err = api:fetch(given)
      return res, err
    end)
  end

  -- A server that knows one nonce at a time.
  local function server(state)
    state.nonce = state.nonce or "n1"
    return function(spec)
      local params = sent(spec)
      if params and params.nonce == state.nonce then
        state.counts = state.counts or {}
        table.insert(state.counts, params.nc)
        return { status = 200 }
      end
      local stale = params and state.says_stale ~= false and ", stale=true" or ""
      return unauthorized(('Digest realm="r", nonce="%s", qop="auth"%s'):format(state.nonce, stale))
    end
  end

  it("remembers so many origins", function()
    world(function(spec) return sent(spec) and { status = 200 } or unauthorized(MD5) end)
    for i = 1, 2500 do assert(fetch("https://h" .. i .. "/")) end
    local count = 0
    for _ in pairs(api.auth.spaces) do count = count + 1 end
    assert.is_true(count <= 1000)
    assert.equal(200, fetch("https://h1/").status)
  end)

  it("forgets none that a hop needs", function()
    world(function(spec)
      if sent(spec) then return { status = 200 } end
      local answer = unauthorized(MD5)
      answer.after = spec.url == "https://slow/" and 2 or nil
      return answer
    end, { concurrency = 2000 })
    w.run(function()
      return w.orc.group(function(g)
        local slow = { g:spawn(api.fetch, api, "https://slow/"), g:spawn(api.fetch, api,
          "https://slow/") }
        w.orc.sleep(0.5)
        for i = 1, 1100 do g:spawn(api.fetch, api, "https://h" .. i .. "/") end
        for _, task in ipairs(slow) do assert.equal(200, assert(task:await()).status) end
      end)
    end)
    assert.is_true(w.at() < 3)
  end)

  describe("computes what RFC 7616 computes", function()
    -- Sends one request with a given client nonce.
    local function respond(auth, field, method, u, cnonce)
      local sched = fake_host.world().sched
      local d = digest.new(options.check("auth", auth, digest.schema), { sched = sched })
      local plan = { origin = "o", method = method, u = { target = u }, fields = {} }
      d:authorize(plan)
      assert.is_true(d:answered(plan, { status = 401,
        head = "HTTP/1.1 401 X\r\nWWW-Authenticate: " .. field .. "\r\n\r\n" }))
      d.spaces.o.current.cnonce = cnonce or d.spaces.o.current.cnonce
      d:authorize(plan)
      return sent(plan), plan.headers
    end

    local MUFASA = { type = "digest", username = "Mufasa", password = "Circle of Life" }
    local RFC = 'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=%s, '
      .. 'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", '
      .. 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    local CNONCE = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"

    it("with MD5 and SHA-256 (section 3.9.1)", function()
      for algorithm, response in pairs {
        ["MD5"] = "8ca523f5e9506fed4657c9700eebdbec",
        ["SHA-256"] = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
      } do
        assert.same({
          username = "Mufasa", realm = "http-auth@example.org", uri = "/dir/index.html",
          algorithm = algorithm, nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
          nc = "00000001", cnonce = CNONCE, qop = "auth", response = response,
          opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
        }, (respond(MUFASA, RFC:format(algorithm), "GET", "/dir/index.html", CNONCE)))
      end
    end)

    it("with SHA-512/256, UTF-8 and a hashed user name (section 3.9.2, erratum 4897)", function()
      local field = 'Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, '
        .. 'nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", '
        .. 'opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true'
      local auth = { type = "digest", username = "Jäsøn Doe", password = "Secret, or not?" }
      local params = respond(auth, field, "GET", "/doe.json",
        "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v")
      assert.equal("true", params.userhash)
      assert.equal("793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b",
        params.username)
      assert.equal("3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
        params.response)
    end)

    it("without a qop (RFC 2069)", function()
      local auth = { type = "digest", username = "Mufasa", password = "Circle Of Life" }
      local params = respond(auth, 'Digest realm="testrealm@host.com", '
        .. 'nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"', "GET", "/dir/index.html")
      assert.equal("670fd8c2df070c60b045671b8b24ff02", params.response)
      assert.same({ nil, nil, nil, nil },
        { params.qop, params.nc, params.cnonce, params.algorithm })
    end)

    it("with the key of a session", function()
      for algorithm, name in pairs { ["MD5-sess"] = "md5", ["SHA-256-SESS"] = "sha256" } do
        local params = respond(MUFASA, ('Digest realm="r", nonce="n", qop=auth, algorithm=%s')
          :format(algorithm), "PUT", "/x?y=1")
        local function hash(...)
          return crypto.hex(crypto.hash(name, table.concat({ ... }, ":")))
        end
        local a1 = hash(hash("Mufasa", "r", "Circle of Life"), "n", params.cnonce)
        assert.equal(hash(a1, "n", "00000001", params.cnonce, "auth", hash("PUT", "/x?y=1")),
          params.response)
        assert.equal(algorithm, params.algorithm)
      end
    end)

    it("and writes what a quoted string can and cannot hold", function()
      local auth = { type = "digest", username = 'a"b\\c', password = "p" }
      local params, text = respond(auth, [[Digest realm="q\"r\\s", nonce="n\"m"]], "GET", "/")
      assert.same({ 'a"b\\c', 'q"r\\s', 'n"m' }, { params.username, params.realm, params.nonce })
      assert.matches([[username="a\"b\\c", realm="q\"r\\s", nonce="n\"m"]], text, 1, true)
      auth.username = "Jäs øn"
      text = select(2, respond(auth, 'Digest realm="r", nonce="n", charset=UTF-8', "GET", "/"))
      assert.matches("username*=UTF-8''J%C3%A4s%20%C3%B8n,", text, 1, true)
      text = select(2, respond(auth, 'Digest realm="r", nonce="n"', "GET", "/"))
      assert.matches('username="Jäs øn",', text, 1, true)
    end)
  end)

  it("meets one 401, and counts the requests of a nonce", function()
    local state = {}
    world(server(state))
    w.run(function()
      for i = 1, 3 do
        local res = assert(api:fetch("https://a/" .. i))
        assert.same({ 200, 1 }, { res.status, res.attempts })
      end
    end)
    assert.equal(4, #w.host.ledger)
    assert.same({ "00000001", "00000002", "00000003" }, state.counts)
    assert.is_nil(sent(w.host.ledger[1].spec))
    assert.equal("/2", sent(w.host.ledger[3].spec).uri)
  end)

  it("lets one of many find out, also when that one is cancelled", function()
    local state = {}
    world(server(state))
    w.run(function()
      w.orc.group(function(g)
        local first = g:spawn(api.fetch, api, "https://a/first")
        for i = 1, 20 do
          g:spawn(function() assert(api:fetch("https://a/" .. i)) end)
        end
        w.orc.sleep("50ms")
        first:cancel()
      end)
    end)
    assert.equal(1 + 1 + 20, #w.host.ledger) -- the cancelled one, the 401, and the rest
    assert.equal(20, #state.counts)
    table.sort(state.counts)
    assert.equal("00000014", state.counts[20])
  end)

  it("does not queue up where nothing is asked for", function()
    for _, answer in ipairs { { status = 200 }, { fault = "reset" } } do
      world(function() return { status = answer.status, fault = answer.fault, after = 1 } end,
        { retry = false })
      w.run(w.orc.map, { 1, 2, 3, 4, 5, 6 }, function(i) return api:fetch("https://a/" .. i) end)
      assert.equal(6, #w.host.ledger)
      assert.equal(2, w.at())
    end
  end)

  it("does not wait long for a first answer that is a download", function()
    world(function(spec) return { status = 200, after = spec.url:find "first" and 20 or 1 } end)
    w.run(function()
      w.orc.group(function(g)
        g:spawn(api.fetch, api, "https://a/first")
        w.orc.map({ 1, 2, 3 }, function(i) return api:fetch("https://a/" .. i) end)
        assert.equal(6, w.at())
      end)
    end)
  end)

  it("knows a nonce for each origin", function()
    world(function(spec)
      local params, nonce = sent(spec), spec.url:match "//(%w)"
      if params and params.nonce == nonce then return { status = 200 } end
      return unauthorized(('Digest realm="%s", nonce="%s", qop="auth"'):format(nonce, nonce))
    end)
    w.run(function()
      for _, u in ipairs { "https://a/1", "https://b/1", "https://a/2", "https://b/2" } do
        assert(api:fetch(u))
      end
    end)
    assert.equal(6, #w.host.ledger)
  end)

  it("takes a new nonce when the old one is stale, told so or not", function()
    for _, says_stale in ipairs { true, false } do
      local state = { says_stale = says_stale }
      world(server(state))
      w.run(function()
        assert(api:fetch "https://a/1")
        state.nonce = "n2"
        assert.equal(1, assert(api:fetch "https://a/2").attempts)
      end)
      assert.equal(4, #w.host.ledger)
    end
  end)

  it("gives up on a server whose nonces are always stale", function()
    local n = 0
    world(function()
      n = n + 1
      return unauthorized(('Digest realm="r", nonce="n%d", qop="auth", stale=true'):format(n))
    end)
    local _, err = fetch "https://a/"
    assert.same({ "http", 401, 1 }, { err.kind, err.status, err.attempts })
    assert.equal("status 401: it calls every nonce stale", err.message)
    assert.equal(4, #w.host.ledger)
  end)

  it("takes a second refusal for the password's fault", function()
    world(function(spec)
      return unauthorized(('Digest realm="r", nonce="%s", qop="auth"')
        :format(sent(spec) and "n2" or "n1"))
    end)
    local _, err = fetch "https://a/"
    assert.equal("status 401: it does not accept the user name or the password", err.message)
    assert.equal(2, #w.host.ledger)
  end)

  it("goes on with the next nonce (section 3.5)", function()
    world(function(spec)
      local params = sent(spec)
      if not params then return unauthorized(MD5) end
      local n = tonumber(params.nonce:match "%d+")
      return { status = 200, head = ('Authentication-Info: nextnonce="n%d"\r\n'):format(n + 1) }
    end)
    w.run(function() for _ = 1, 3 do assert(api:fetch "https://a/") end end)
    local nonces = {}
    for i, entry in ipairs(w.host.ledger) do
      local params = sent(entry.spec)
      nonces[i] = params and params.nonce .. "/" .. params.nc or "-"
    end
    assert.same({ "-", "n1/00000001", "n2/00000001", "n3/00000001" }, nonces)
  end)

  it("takes the first challenge it can answer", function()
    for _, case in ipairs {
      { 'Basic realm="x", ' .. MD5, nil },
      { 'Digest realm="r", nonce="n", algorithm=SHA-1, ' .. MD5, nil },
      { 'Digest realm="r", nonce="n", qop="auth-int", ' .. MD5, nil },
      { 'Digest realm="r", nonce="n", algorithm=SHA-256, qop="auth-int,auth", ' .. MD5, "SHA-256" },
      { "Negotiate\r\nWWW-Authenticate: " .. MD5, nil },
    } do
      world(function(spec) return sent(spec) and { status = 200 } or unauthorized(case[1]) end)
      assert(fetch "https://a/")
      assert.equal(case[2], sent(w.host.ledger[2].spec).algorithm)
    end
  end)

  it("says why it cannot answer", function()
    for field, reason in pairs {
      ['Basic realm="x", Negotiate'] = "it does not offer digest but basic, negotiate",
      ['Digest realm="r", nonce="n", qop="auth-int"'] =
        "it asks for digest with qop=auth-int, and only auth is known",
      ['Digest realm="r", nonce="n", algorithm=SHA-1'] =
        "it asks for digest with an algorithm that is not known, SHA-1",
      ['Digest realm="r"'] = "its digest challenge is malformed",
      ['Digest nonce="n"'] = "its digest challenge is malformed",
      ['Digest realm="r", nonce="a\1b"'] = "its digest challenge is malformed",
      ['"'] = "without a challenge",
    } do
      world(function() return unauthorized(field) end)
      local _, err = fetch "https://a/"
      assert.equal("status 401: " .. reason, err.message)
      assert.equal(1, #w.host.ledger)
    end
  end)

  it("answers for its own origin only", function()
    world(function(spec)
      if spec.url == "https://b/" then return unauthorized(MD5) end
      if not sent(spec) then return unauthorized(MD5) end
      return { status = 302, head = "Location: https://b/\r\n" }
    end)
    local _, err = fetch "https://a/"
    assert.same({ 401, "https://b/" }, { err.status, err.url })
    assert.equal(3, #w.host.ledger)
    assert.is_nil(w.host.ledger[3].spec.headers:find "Authorization")

    world(function() return unauthorized(MD5) end, { base_url = "https://a/" })
    fetch "https://b/"
    assert.equal(1, #w.host.ledger)
  end)

  it("gives way to the request's own", function()
    world(function() return unauthorized(MD5) end)
    w.run(function()
      api:fetch { url = "https://a/", headers = { Authorization = "Mine x" } }
      api:fetch { url = "https://a/", headers = { authorization = false } }
      api:fetch "https://u:p@a/"
    end)
    assert.equal(3, #w.host.ledger)
    assert.matches("Authorization: Mine x\n", w.host.ledger[1].spec.headers, 1, true)
    assert.not_matches("uthorization", w.host.ledger[2].spec.headers)
    assert.matches("Authorization: Basic dTpw\n", w.host.ledger[3].spec.headers, 1, true)
  end)

  it("signs each hop of a redirect, with a time that is the attempt's", function()
    world(function(spec)
      if not sent(spec) then return unauthorized(MD5) end
      if spec.url == "https://a/1" then return { status = 302, head = "Location: /2?x\r\n" } end
      return { status = 200 }
    end)
    local res = fetch { url = "https://a/1", timeout = 1 }
    assert.same({ 1, "https://a/2?x", 0.375 }, { res.attempts, res.url, res.timing.total })
    assert.equal("/2?x", sent(w.host.ledger[3].spec).uri)
    assert.same({ 1, 0.875, 0.75 }, { w.host.ledger[1].spec.timeout, w.host.ledger[2].spec.timeout,
      w.host.ledger[3].spec.timeout })
    world(function()
      local answer = unauthorized(MD5)
      answer.after = 0.9
      return answer
    end)
    local _, err = fetch { url = "https://a/1", timeout = 0.9, retry = false }
    assert.equal("timeout", err.kind)
    assert.equal(1, #w.host.ledger)
  end)

  it("sends a body again", function()
    world(function(spec) return sent(spec) and { status = 200 } or unauthorized(MD5) end)
    assert(fetch { url = "https://a/", json = { x = 1 } })
    for i = 1, 2 do
      local spec = w.host.ledger[i].spec
      assert.same({ "POST", '{"x":1}' }, { spec.method, spec.body })
    end
  end)

  it("takes options that can be sent", function()
    for _, case in ipairs {
      { { username = "a:b", password = "x" }, '"username" must not contain a colon' },
      { { username = "a\nb", password = "x" }, '"username" must not contain a control character' },
      { { username = "a" }, '"password" is missing' },
    } do
      case[1].type = "digest"
      local ok, message = pcall(world, nil, { auth = case[1] })
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
  end)
end)
