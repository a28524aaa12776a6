local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

local TOKEN_URL = "https://id.test/token"

local function auth(more)
  local opts = {
    type = "oauth2", token_url = TOKEN_URL, client_id = "app", client_secret = "oauth2-s3cret/+",
  }
  for name, value in pairs(more or {}) do opts[name] = value end
  return opts
end

local function refresh(more)
  local opts = auth { grant = "refresh_token", refresh_token = "oauth2-refresh-0" }
  for name, value in pairs(more or {}) do opts[name] = value end
  return opts
end

local function field(spec, name)
  return ("\n" .. spec.headers):match("\n" .. name .. ": ([^\n]*)")
end

describe("oauth2", function()
  local w, api
  local server -- {valid: the token it takes, grants: how many it gave, …}
  local run = 0

  -- A program with a token endpoint that gives T1, T2 … and an API that takes the last of them.
  -- `grant(n, spec)` is the endpoint's n-th answer, when it is not the usual one.
  local function world(given, client_opts)
    run = run + 1 -- tokens are of one test only, as secrets stay known
    server = { grants = 0, valid = nil, served = 0 }
    for name, value in pairs(given or {}) do server[name] = value end
    w = fake_host.world {
      serve = function(spec)
        if spec.url == TOKEN_URL then
          server.grants = server.grants + 1
          local token = ("T%d-of-run-%d."):format(server.grants, run)
          local answer = server.grant and server.grant(server.grants, spec, token)
          if answer then return answer end
          server.valid = token
          return {
            body = json.encode { access_token = token, token_type = "Bearer", expires_in = 3600 },
          }
        end
        if server.api then
          local answer = server.api(spec)
          if answer then return answer end
        end
        if field(spec, "Authorization") == "Bearer " .. tostring(server.valid) then
          server.served = server.served + 1
          return { status = 200 }
        end
        return { status = 401 }
      end,
    }
    client_opts = client_opts or {}
    client_opts.auth = client_opts.auth or auth()
    api = w.client(client_opts)
  end

  local function fetch(given)
    return w.run(function()
      local res, err = api:fetch(given or "https://a/")
      return res, err
    end)
  end

  local function token_request(n)
    local found = 0
    for _, entry in ipairs(w.host.ledger) do
      if entry.url == TOKEN_URL then
        found = found + 1
        if found == (n or 1) then return entry.spec end
      end
    end
  end

  local function revoke() server.valid = "none" end

  describe("asks for a token", function()
    it("with the credentials in the header, encoded first (RFC 6749 section 2.3.1)", function()
      world(nil, { auth = auth { client_id = "ä:b", scope = { "a", "b c" }, audience = "https://x",
        params = { resource = "r 1", key = secret.value "oauth2-spec-param" } } })
      assert.equal(200, fetch().status)
      local spec = token_request()
      assert.equal("POST", spec.method)
      assert.equal("Basic " .. secret.base64 "%C3%A4%3Ab:oauth2-s3cret%2F%2B",
        field(spec, "Authorization"))
      assert.equal("application/x-www-form-urlencoded", field(spec, "Content%-Type"))
      assert.equal("application/json", field(spec, "Accept"))
      assert.equal("audience=https%3A%2F%2Fx&grant_type=client_credentials"
        .. "&key=oauth2-spec-param&resource=r+1&scope=a+b+c", spec.body)
    end)

    it("or in the body", function()
      world(nil, { auth = auth { client_auth = "post" } })
      fetch()
      assert.is_nil(field(token_request(), "Authorization"))
      assert.equal("client_id=app&client_secret=oauth2-s3cret%2F%2B&grant_type=client_credentials",
        token_request().body)
      world(nil, { auth = { type = "oauth2", token_url = TOKEN_URL, client_id = "app",
        grant = "refresh_token", refresh_token = "oauth2-refresh-0" } })
      fetch()
      assert.equal("client_id=app&grant_type=refresh_token&refresh_token=oauth2-refresh-0",
        token_request().body)
    end)

    it("once, for all that follow", function()
      world()
      w.run(function()
        for _ = 1, 5 do assert.equal(1, assert(api:fetch "https://a/").attempts) end
      end)
      assert.same({ 1, 5 }, { server.grants, server.served })
    end)

    it("once, for all that wait", function()
      world(nil, { concurrency = 1 })
      w.run(w.orc.map, { 1, 2, 3, 4, 5, 6, 7, 8, 9 }, function(i)
        return assert(api:fetch("https://a/" .. i))
      end)
      assert.same({ 1, 9 }, { server.grants, server.served })
    end)

    it("without the client's headers, defaults or slots", function()
      world(nil, { headers = { ["X-Own"] = "own" }, max_body = 1, concurrency = 1,
        retry = false, accept = { 404 } })
      fetch()
      assert.is_nil(field(token_request(), "X%-Own"))
      assert.equal(1, server.grants)
    end)

    it("where the client itself may go", function()
      world(nil, { allow_hosts = { "a" } })
      local _, err = fetch()
      assert.same({ "blocked", 0 }, { err.kind, server.grants })
      world(nil, { allow_hosts = { "a", "id.test" } })
      assert.equal(200, fetch().status)
    end)
  end)

  describe("a token that expires", function()
    local function expiring(expires_in)
      return function(_, _, token)
        server.valid = token
        return { body = json.encode { access_token = token, expires_in = expires_in } }
      end
    end

    local function grants_after(expires_in, wait)
      world { grant = expiring(expires_in) }
      w.run(function()
        assert(api:fetch "https://a/")
        w.orc.sleep(wait)
        assert(api:fetch "https://a/")
      end)
      return server.grants
    end

    it("is replaced a minute before, or a tenth of its life", function()
      assert.equal(1, grants_after(3600, 3539))
      assert.equal(2, grants_after(3600, 3540))
      assert.equal(1, grants_after("100", 89))
      assert.equal(2, grants_after("100", 90))
    end)

    it("is kept when its life is unknown or absurd", function()
      for _, life in ipairs { 0, -1, "soon", json.null, 1e308, {} } do
        assert.equal(1, grants_after(life, 1e6))
      end
      assert.equal(1, grants_after(nil, 1e6))
    end)

    it("is replaced once for all", function()
      world { grant = expiring(100) }
      w.run(function()
        assert(api:fetch "https://a/")
        w.orc.sleep(95)
        w.orc.map({ 1, 2, 3, 4, 5 }, function() return assert(api:fetch "https://a/") end)
      end)
      assert.same({ 2, 6 }, { server.grants, server.served })
    end)
  end)

  describe("a 401", function()
    it("gets a new token, and is no attempt", function()
      world()
      w.run(function()
        assert(api:fetch "https://a/")
        revoke()
        local res = assert(api:fetch { url = "https://a/", retry = false })
        assert.same({ 200, 1 }, { res.status, res.attempts })
      end)
      assert.same({ 2, 2, 5 }, { server.grants, server.served, #w.host.ledger })
    end)

    it("gets one new token, however many meet it", function()
      world(nil, { concurrency = 500 })
      w.run(function()
        assert(api:fetch "https://a/")
        revoke()
        local items = {}
        for i = 1, 500 do items[i] = i end
        local _, failed = w.orc.map(items, function(i)
          w.orc.sleep(i % 7 / 20) -- some meet it when others already have the new one
          local res = assert(api:fetch("https://a/" .. i))
          assert.equal(1, res.attempts)
        end, { concurrency = 500 })
        assert.is_nil(next(failed, "n"))
      end)
      assert.same({ 2, 501 }, { server.grants, server.served })
    end)

    it("is final the second time", function()
      world { api = function() return { status = 401 } end }
      local _, err = fetch()
      assert.same({ "http", 401, "status 401: also with a new token", 1 },
        { err.kind, err.status, err.message, err.attempts })
      assert.same({ 2, 4 }, { server.grants, #w.host.ledger })
    end)

    it("that nothing helps against does not use up tokens", function()
      world { api = function() return { status = 401 } end }
      w.run(function()
        for _ = 1, 10 do assert.is_nil(api:fetch "https://a/") end
        assert.equal(2, server.grants)
        w.orc.sleep(61)
        assert.is_nil(api:fetch "https://a/")
      end)
      assert.equal(3, server.grants)
    end)

    it("leaves nothing unsigned that waits for its slot meanwhile", function()
      world(nil, { concurrency = 1 })
      w.run(function()
        assert(api:fetch "https://a/")
        revoke()
        w.orc.map({ 1, 2, 3 }, function(i) return assert(api:fetch("https://a/" .. i)) end)
      end)
      assert.equal(2, server.grants)
      for _, entry in ipairs(w.host.ledger) do
        assert.is_string(field(entry.spec, "Authorization"))
      end
    end)

    it("elsewhere is nobody's business", function()
      world { api = function(spec)
        return spec.url == "https://a/" and { status = 302, head = "Location: https://b/\r\n" }
      end }
      local _, err = fetch()
      assert.same({ 401, "https://b/" }, { err.status, err.url })
      assert.equal(1, server.grants)
      assert.is_nil(field(w.host.ledger[3].spec, "Authorization"))
    end)

    it("sends the body again", function()
      world()
      w.run(function()
        assert(api:fetch "https://a/")
        revoke()
        assert(api:fetch { url = "https://a/", json = { 1 } })
      end)
      assert.equal("[1]", w.host.ledger[#w.host.ledger].spec.body)
    end)
  end)

  describe("a refresh token", function()
    local function rotating(n, spec, token)
      local given = spec.body:match "refresh_token=([%w-]+)"
      server.refreshed = server.refreshed or {}
      table.insert(server.refreshed, given)
      server.valid = token
      return { body = json.encode { access_token = token,
        refresh_token = n < 3 and "oauth2-refresh-" .. n or nil } }
    end

    it("is kept when it is rotated", function()
      world({ grant = rotating }, { auth = refresh { scope = "a b" } })
      w.run(function()
        for _ = 1, 4 do
          assert(api:fetch "https://a/")
          revoke()
        end
      end)
      for i, used in ipairs { 0, 1, 2, 2 } do
        assert.equal("oauth2-refresh-" .. used, server.refreshed[i])
      end
      assert.equal("grant_type=refresh_token&refresh_token=oauth2-refresh-0&scope=a+b",
        token_request().body)
      assert.equal("***", secret.mask "oauth2-refresh-1")
    end)

    it("that nobody asked for is not used", function()
      world { grant = function(_, spec, token)
        assert.is_nil(spec.body:find "refresh")
        server.valid = token
        return { body = json.encode { access_token = token, refresh_token = "oauth2-unasked" } }
      end }
      w.run(function()
        assert(api:fetch "https://a/")
        revoke()
        assert(api:fetch "https://a/")
      end)
      assert.equal(2, server.grants)
    end)
  end)

  describe("a failing endpoint", function()
    local function err_of(answer)
      world { grant = function() return answer end }
      local _, err = fetch()
      assert.is_false(err == nil)
      return err, tostring(err)
    end

    it("says why, once and for all", function()
      local err, text = err_of { status = 400, body = json.encode {
        error = "invalid_client", error_description = "no oauth2-s3cret/+ here\27[31m" } }
      assert.same({ "http", 400, 1, "https://a/" }, { err.kind, err.status, err.attempts, err.url })
      assert.is_nil(err.response)
      assert.equal("http: no token from https://id.test/token: status 400: invalid_client "
        .. "(no *** here\\x1b[31m) (GET https://a/)", text)
      assert.equal(1, server.grants)
    end)

    it("is not asked again for a while by those who come later", function()
      world { grant = function() return { status = 401 } end }
      w.run(function()
        for _ = 1, 5 do
          local _, err = api:fetch "https://a/"
          assert.equal("no token from https://id.test/token: status 401", err.message)
        end
        assert.equal(1, server.grants)
        w.orc.sleep(31)
        assert.is_nil(api:fetch "https://a/")
      end)
      assert.same({ 2, 2 }, { server.grants, #w.host.ledger })
    end)

    it("is tried again when it is only busy", function()
      world { grant = function(n) return n < 4 and { status = 503 } or nil end }
      assert.same({ 200, 1 }, { fetch().status, 1 })
      assert.equal(4, server.grants)
      local err = err_of { fault = "connect_failed", message = "refused" }
      assert.same({ "connect", 5, 1 }, { err.kind, server.grants, err.attempts })
      assert.equal("no token from https://id.test/token: refused", err.message)
      err = err_of { status = 429 }
      assert.same({ "http", 429, 5 }, { err.kind, err.status, server.grants })
    end)

    it("that redirects is not followed", function()
      local err = err_of { status = 307, head = "Location: https://evil.test/\r\n" }
      assert.same({ "http", 307, 1 }, { err.kind, err.status, #w.host.ledger })
    end)

    it("must give what it should", function()
      for body, expected in pairs {
        ["<html>"] = "decode: no token from https://id.test/token: line 1",
        ["[]"] = "invalid: no token from https://id.test/token: its answer has no access_token",
        ['"x"'] = "decode: no token from https://id.test/token: its answer is no object",
        ["{}"] = "invalid: no token from https://id.test/token: its answer has no access_token",
        ['{"error":"nope"}'] = "invalid: no token from https://id.test/token: it says: nope",
        ['{"access_token":""}'] = "its answer has no access_token",
        ['{"access_token":7}'] = "its answer has no access_token",
        ['{"access_token":"' .. ("x"):rep(16385) .. '"}'] = "its answer has no access_token",
        ['{"access_token":"a\\r\\nX: y"}'] = "its answer has no access_token",
        ['{"access_token":"t","token_type":"mac"}'] = 'its token is of the type "mac"',
        ['{"access_token":"t","token_type":{}}'] = "its token is of the type",
      } do
        local _, text = err_of { body = body }
        assert.matches(expected, text, 1, true)
        assert.equal(1, #w.host.ledger)
      end
    end)

    it("may leave out or shout the type", function()
      for _, kind in ipairs { "bearer", "BEARER", false } do
        world { grant = function(_, _, token)
          server.valid = token
          return { body = json.encode { access_token = token, token_type = kind or nil } }
        end }
        assert.equal(200, fetch().status)
      end
    end)
  end)

  describe("cancelling", function()
    local function slow(n, _, token)
      server.valid = token
      return { after = 2, body = json.encode { access_token = token }, n = n }
    end

    it("the first who asked does not harm the others", function()
      world { grant = slow }
      w.run(function()
        w.orc.group(function(g)
          local first = g:spawn(api.fetch, api, "https://a/first")
          local second = g:spawn(function() return assert(api:fetch "https://a/second") end)
          w.orc.sleep(1)
          first:cancel()
          assert.equal(200, second:await().status)
        end)
      end)
      assert.same({ 1, 1 }, { server.grants, server.served })
    end)

    it("all of them ends the request", function()
      world { grant = slow }
      w.run(function()
        local _, err = w.orc.deadline(1, function() return api:fetch "https://a/" end)
        assert.equal("timeout", err.kind)
        assert.equal(1, w.at())
        assert.is_number(w.host.ledger[1].cancelled)
        assert.equal(200, assert(api:fetch "https://a/").status)
      end)
      assert.equal(2, server.grants)
    end)

    it("one just as the token comes is harmless", function()
      world { grant = slow }
      w.run(function()
        local _, err = w.orc.deadline(2, function() return api:fetch "https://a/" end)
        assert.equal("timeout", err.kind)
        assert(api:fetch "https://a/")
      end)
    end)
  end)

  it("gives way to the request's own, and stays at home", function()
    world({ api = function() return { status = 200 } end }, { base_url = "https://a/" })
    w.run(function()
      assert(api:fetch { url = "/", headers = { authorization = "Own x" } })
      assert(api:fetch { url = "/", headers = { Authorization = false } })
      assert(api:fetch "https://b/")
    end)
    assert.equal(0, server.grants)
    assert.equal("Own x", field(w.host.ledger[1].spec, "authorization"))
    assert.is_nil(field(w.host.ledger[2].spec, "Authorization"))
    assert.is_nil(field(w.host.ledger[3].spec, "Authorization"))
  end)

  it("makes secrets of its tokens, the last few", function()
    world(nil)
    local names = {}
    w.run(function()
      for i = 1, 12 do
        assert(api:fetch "https://a/")
        names[i] = server.valid
        revoke()
      end
    end)
    assert.equal("***", secret.mask(names[12]))
    assert.equal("***", secret.mask(names[5]))
    assert.equal(names[1], secret.mask(names[1]))
    assert.equal("***", secret.mask "oauth2-s3cret/+")
    assert.equal("***", secret.mask "oauth2-s3cret%2F%2B")
    local err = errors.new("http", "Bearer " .. names[12])
    assert.equal("http: Bearer ***", tostring(err))
  end)

  it("does not forget a token that is the script's own secret", function()
    local own = secret.value "oauth2-own-token"
    world { grant = function(n, _, token)
      server.valid = n == 1 and "oauth2-own-token" or token
      return { body = json.encode { access_token = server.valid } }
    end }
    w.run(function()
      for _ = 1, 12 do
        assert(api:fetch "https://a/")
        revoke()
      end
    end)
    assert.equal("***", secret.mask(secret.reveal(own)))
  end)

  it("raises on wrong options, naming them", function()
    for _, case in ipairs {
      { { token_url = false }, '"token_url" must be a string or a secret' },
      { { token_url = "ftp://x" }, '"token_url" is not a URL: ' },
      { { token_url = "https://u:p@x/" }, '"token_url" must not have credentials in it' },
      { { client_id = "" }, '"client_id" must not be empty' },
      { { client_secret = "" }, '"client_secret" must not be empty' },
      { { grant = "password" }, '"grant" must be "client_credentials" or "refresh_token"' },
      { { grant = "refresh_token" }, '"refresh_token" is missing' },
      { { refresh_token = "x" }, '"refresh_token" needs grant = "refresh_token"' },
      { { client_auth = "jwt" }, '"client_auth" must be "basic" or "post"' },
      { { scope = 1 }, '"scope" must be a string or a table' },
      { { scope = { 1 } }, '"scope" must list texts; element 1 is a number' },
      { { params = { scope = "x" } }, '"params" must not have "scope"' },
      { { params = { x = print } },
        '"params" must have texts, numbers or secrets in it; "x" is a function' },
      { { params = { x = {} } }, '"x" is a table' },
      { { audince = "x" }, 'unknown option "audince" (did you mean "audience"?)' },
    } do
      local ok, message = pcall(world, nil, { auth = auth(case[1]) })
      assert.is_false(ok, case[2])
      assert.matches(case[2], message, 1, true)
    end
    local opts = auth()
    opts.client_secret = nil
    local _, message = pcall(world, nil, { auth = opts })
    assert.matches('"client_secret" is missing', message, 1, true)
  end)
end)
