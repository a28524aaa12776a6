local fake_host = require "fake_host"
local secret = require "orchestrator.secret"

describe("several credentials", function()
  local w, api, said, warned, names

  local function bearer(...)
    local list = {}
    for i, token in ipairs { ... } do
      list[i] = { type = "bearer", token = "rotation-spec-" .. token }
    end
    return list
  end

  -- A world of servers that are given the credential ("a", "b" …; "" for none) of each transfer.
  local function world(serve, opts)
    said, warned, names = {}, {}, {}
    w = fake_host.world {
      serve = function(spec, n, now)
        local name = (spec.headers .. spec.url):match "rotation%-spec%-(%w+)" or ""
        names[n] = name == "" and "-" or name
        local answer = serve(name, spec, n, now - 1000) or {}
        if answer.left then
          answer.head = string.format("X-RateLimit-Remaining: %d\r\nX-RateLimit-Reset: %d\r\n%s",
            answer.left, math.ceil(answer.reset or 60), answer.head or "")
        end
        return answer
      end,
    }
    w.env.voice = { log = {
      info = function(_, text) table.insert(said, text) end,
      warn = function(_, text) table.insert(warned, text) end,
    } }
    opts.retry = opts.retry or { jitter = false }
    api = w.client(opts)
  end

  -- The credentials of the transfers so far, in order.
  local function used() return table.concat(names, " ") end

  local function starts()
    local list = {}
    for i, entry in ipairs(w.host.ledger) do
      list[i] = math.floor((entry.at - 1000) * 100 + 0.5) / 100
    end
    return list
  end

  -- So many fetches, one after the other.
  local function fetches(n, given)
    return w.run(function()
      local res, err
      for _ = 1, n do res, err = api:fetch(given or "https://a/") end
      return res, err
    end)
  end

  -- Nobody is counted as on the way any more.
  local function idle()
    for _, one in pairs(api.auth.servers.by_origin) do
      assert.equal(0, one.in_flight)
      assert.equal(0, #one.waiting)
    end
    assert.is_nil(next(api.auth.queues))
  end

  describe("take turns", function()
    it("while nothing is known of them", function()
      world(function() end, { auth = bearer("a", "b", "c") })
      fetches(7)
      assert.equal("a b c a b c a", used())
      idle()
    end)

    it("of whatever kind they are", function()
      world(function() end, { auth = {
        { type = "bearer", token = "rotation-spec-a" },
        { type = "api_key", name = "X-Key", value = "rotation-spec-b" },
        { type = "api_key", name = "key", value = "rotation-spec-c", place = "query" },
        { type = "basic", username = "rotation-spec-d", password = "pw" },
        { type = "sigv4", region = "r", service = "s", access_key_id = "AKEY",
          secret_access_key = "rotation-spec-e" },
      } })
      fetches(6, "https://a/x?y=1")
      local function header(i, name)
        return (w.host.ledger[i].spec.headers:match("\n" .. name .. ": ([^\n]*)"))
      end
      assert.equal("Bearer rotation-spec-a", header(1, "Authorization"))
      assert.equal("rotation-spec-b", header(2, "X%-Key"))
      assert.is_nil(header(2, "Authorization"))
      assert.equal("https://a/x?y=1&key=rotation-spec-c", w.host.ledger[3].url)
      assert.is_nil(header(3, "X%-Key"))
      assert.equal("https://a/x?y=1", w.host.ledger[4].url)
      assert.matches("^Basic ", header(4, "Authorization"))
      assert.matches("Credential=AKEY/", header(5, "Authorization"))
      assert.equal("Bearer rotation-spec-a", header(6, "Authorization"))
      idle()
    end)

    it("at every attempt, each with its own credential alone", function()
      local auth = {
        { type = "api_key", name = "key", value = "rotation-spec-a", place = "query" },
        { type = "api_key", name = "key", value = "rotation-spec-b", place = "query" },
      }
      world(function(_, _, n) return n < 4 and { status = 503 } or {} end, { auth = auth })
      fetches(1)
      local urls = {}
      for i, entry in ipairs(w.host.ledger) do urls[i] = entry.url:match "key=.*" end
      assert.same({ "key=rotation-spec-a", "key=rotation-spec-b", "key=rotation-spec-a",
        "key=rotation-spec-b" }, urls)
    end)

    it("at every hop of a redirect, and leave the origin with none", function()
      local to = { "/y", "https://b/" }
      world(function(_, _, n)
        return to[n] and { status = 302, head = "Location: " .. to[n] .. "\r\n" }
      end, { auth = bearer("a", "b") })
      fetches(1)
      assert.equal("a b -", used())
      idle()
    end)
  end)

  it("leave what the script sets itself", function()
    world(function() end, { auth = bearer("a", "b") })
    fetches(1, { url = "https://a/", headers = { Authorization = "mine" } })
    fetches(1, { url = "https://a/", headers = { Authorization = false } })
    assert.equal("- -", used())
    world(function() end, { auth = {
      { type = "api_key", name = "X-Key", value = "rotation-spec-a" },
      { type = "api_key", name = "key", value = "rotation-spec-b", place = "query" },
    } })
    fetches(2, { url = "https://a/", headers = { ["x-key"] = "mine" }, query = { key = "own" } })
    assert.equal("- -", used())
    fetches(2, { url = "https://a/", headers = { Authorization = "mine" } })
    assert.equal("- - a b", used())
  end)

  it("of which there is but one are as one", function()
    world(function() end, { auth = bearer "a" })
    assert.is_nil(api.auth)
    fetches(2)
    assert.equal("a a", used())
  end)

  it("are hidden", function()
    world(function() return { status = 404 } end, { auth = {
      { type = "api_key", name = "key", value = "rotation-spec-hidden1", place = "query" },
      { type = "api_key", name = "key", value = secret.value "rotation-spec-hidden2",
        place = "query" },
    } })
    for _ = 1, 2 do
      local _, err = fetches(1)
      assert.equal("http: status 404 (GET https://a/?key=***)", tostring(err))
    end
  end)

  describe("go by what is left of them", function()
    it("the most first", function()
      local left = { a = 10, b = 4, c = 4 }
      world(function(name)
        left[name] = left[name] - 1
        return { left = left[name] }
      end, { auth = bearer("a", "b", "c") })
      fetches(15)
      assert.equal("a b c a a a a a a b c a b c a", used())
      assert.same({ a = 1, b = 1, c = 1 }, left)
    end)

    it("less those that are on the way", function()
      world(function(name) return { left = name == "a" and 6 or 2, after = 1 } end,
        { auth = bearer("a", "b") })
      fetches(2)
      w.run(w.orc.map, { 1, 2, 3, 4, 5, 6 }, function() return api:fetch "https://a/" end)
      assert.equal("a b a a a a b a", used())
      assert.same({ 0, 1, 2, 2, 2, 2, 2, 2 }, starts())
      idle()
    end)

    it("for each origin", function()
      world(function(name, spec)
        return { left = (name == "a") == (spec.origin == "https://a:443") and 9 or 5 }
      end, { auth = bearer("a", "b") })
      for _ = 1, 4 do
        fetches(1, "https://a/")
        fetches(1, "https://b/")
      end
      assert.equal("a b b a a b a b", used())
    end)

    it("unless told not to", function()
      local auth = bearer("a", "b")
      world(function(name) return { left = name == "a" and 0 or 9 } end,
        { auth = auth, server_limits = false })
      fetches(4)
      assert.equal("a b a b", used())
    end)

    it("and wait for more when nothing is left, first come, first served", function()
      local left = { a = 2, b = 1 }
      local window = 0
      world(function(name, _, _, now)
        if now >= 30 and window == 0 then window, left = 30, { a = 2, b = 1 } end
        left[name] = left[name] - 1
        assert(left[name] >= 0, "too many")
        return { left = left[name], reset = window + 30 - now }
      end, { auth = bearer("a", "b") })
      local order = {}
      fetches(2)
      w.run(w.orc.map, { 1, 2, 3, 4 }, function(i)
        local res = api:fetch("https://a/" .. i)
        order[#order + 1] = i
        return res
      end)
      local at = starts()
      assert(at[3] < 1 and at[4] >= 30 and at[4] <= 31.1, at[4])
      assert.equal("1 2 3 4", table.concat(order, " "))
      assert.matches("^a:443 with credential %d's own limit .* governs now$", said[1])
      idle()
    end)

    it("and can be cancelled meanwhile", function()
      world(function() return { left = 0, reset = 1000 } end, { auth = bearer("a", "b") })
      fetches(2)
      local _, err = w.run(w.orc.deadline, 5, function() return api:fetch "https://a/" end)
      assert.matches("^the deadline", err.message)
      assert.equal(2, #w.host.ledger)
      idle()
    end)

    it("and tell how long was waited", function()
      world(function(_, _, _, now) return { left = now < 10 and 0 or 9, reset = 20 } end,
        { auth = bearer("a", "b") })
      fetches(2)
      local waited = {}
      local observer = { attempt = function() end, request = function() end,
        waited = function(_, origin, seconds, limit)
          table.insert(waited, origin .. " " .. limit)
          assert(seconds > 15 and seconds < 22)
        end }
      w.run(function() api:fetch("https://a/", observer) end)
      assert.same({ "https://a:443 server" }, waited)
    end)
  end)

  describe("of which one is used up", function()
    it("let another one go on at once, which is no attempt", function()
      for _, answer in ipairs {
        { status = 429 }, { status = 429, head = "Retry-After: 30\r\n" },
        { status = 429, left = 0 }, { status = 403, left = 0 },
        { status = 403, head = "Retry-After: 30\r\n" },
      } do
        world(function(name)
          local copy = {}
          for k, v in pairs(answer) do copy[k] = v end
          return name == "a" and copy or { body = "b" }
        end, { auth = bearer("a", "b") })
        local res = fetches(1)
        assert.same({ "b", 1, "a b" }, { res.body, res.attempts, used() })
        assert.same({ 0, 0.13 }, starts())
        fetches(3)
        assert.equal("a b b b b", used())
        idle()
      end
    end)

    it("whatever the method, for it was not done", function()
      world(function(name) return { status = name == "a" and 429 or 200 } end,
        { auth = bearer("a", "b") })
      local res = fetches(1, { url = "https://a/", method = "POST", json = { 1 } })
      assert.same({ 200, 1 }, { res.status, res.attempts })
    end)

    it("until it may be used again", function()
      world(function(name, _, _, now)
        if name == "a" and now < 10 then return { status = 429, head = "Retry-After: 10\r\n" } end
      end, { auth = bearer("a", "b") })
      w.run(function()
        for _ = 1, 4 do
          api:fetch "https://a/"
          w.orc.sleep(5)
        end
      end)
      assert.equal("a b b a b", used())
    end)

    it("a second without a word of how long", function()
      world(function(name, _, _, now)
        return { status = name == "a" and now < 0.5 and 429 or 200 }
      end, { auth = bearer("a", "b") })
      w.run(function()
        for _ = 1, 12 do api:fetch "https://a/" end
      end)
      assert.equal("a b b b b b b b b b a b a", used())
    end)

    it("and so are the others, the answer is a 429 like any other", function()
      local tries = 0
      world(function(name, _, _, now)
        tries = tries + 1
        local seconds = name == "a" and 20 or 10
        if now < seconds then
          return { status = 429, after = 0, head = "Retry-After: " .. seconds .. "\r\n" }
        end
      end, { auth = bearer("a", "b") })
      local res = fetches(1)
      -- Both were asked, once each; the second attempt waits for the first that is free again.
      assert.same({ 200, 2, 3 }, { res.status, res.attempts, tries })
      assert.equal("a b b", used())
      assert.same({ 0, 0, 10 }, starts())
      idle()
    end)

    it("for longer than is waited, it is left alone so long", function()
      world(function(name)
        return name == "a" and { status = 429, head = "Retry-After: 3000\r\n" }
      end, { auth = bearer("a", "b") })
      w.run(function()
        for _ = 1, 4 do
          api:fetch "https://a/"
          w.orc.sleep(1000)
        end
      end)
      assert.equal("a b b b a b", used())
    end)

    it("as all are for longer than is waited, the request fails as rate_limited", function()
      world(function() return { status = 429, head = "Retry-After: 3000\r\n" } end,
        { auth = bearer("a", "b") })
      local _, err = fetches(1)
      assert.same({ "rate_limited", 1 }, { err.kind, err.attempts })
      assert.equal("a b", used())
      _, err = fetches(1) -- the server is asked each time
      assert.same({ "rate_limited", 1 }, { err.kind, err.attempts })
      assert.equal("a b a", used())
      idle()
    end)
  end)

  describe("that were claimed by those who wait for their slots", function()
    -- Fifty at once, two at a time; each credential is good for so many in a minute.
    local function fifty(limit, told, opts)
      local spent, refusals = {}, 0
      opts.auth, opts.concurrency = bearer("a", "b", "c"), 2
      world(function(name, _, _, now)
        local window = name .. math.floor(now / 60)
        spent[window] = (spent[window] or 0) + 1
        local left = limit - spent[window]
        local reset = 60 - now % 60
        if left >= 0 then return { left = told and left or nil, reset = reset } end
        refusals = refusals + 1
        return { status = 429, head = "Retry-After: " .. math.ceil(reset) .. "\r\n" }
      end, opts)
      local items = {}
      for i = 1, 50 do items[i] = i end
      w.run(function()
        local results, errs = w.orc.map(items, function() return api:fetch "https://a/" end,
          { concurrency = 50 })
        assert.is_nil(next(errs, "n") and errs[next(errs, "n")])
        assert.equal(50, #results)
      end)
      idle()
      return refusals
    end

    it("are not used once more is known", function()
      assert.equal(0, fifty(10, true, {}))
      assert(w.at() > 60 and w.at() < 70, w.at())
      assert(fifty(10, false, {}) <= 2 * 3)
      assert(w.at() > 60 and w.at() < 70, w.at())
    end)

    it("cost nothing of a rate limit when they are given back", function()
      fifty(10, true, { rate_limit = { limit = 30, per = "1m", window = "sliding" } })
      assert(w.at() > 60 and w.at() < 70, w.at())
      fifty(10, true, { rate_limit = "2/s" })
      assert(w.at() > 60 and w.at() < 75, w.at())
    end)
  end)

  it("leave nothing behind when those who go back to wait are cancelled", function()
    world(function() return { left = 0, reset = 1000, after = 1 } end,
      { auth = bearer("a", "b"), concurrency = 1 })
    w.run(w.orc.deadline, 50, function()
      w.orc.map({ 1, 2, 3, 4 }, function() return api:fetch "https://a/" end)
    end)
    assert.equal("a b", used())
    idle()
    for _, one in pairs(api.auth.servers.by_origin) do assert.equal(0, one.claims) end
  end)

  describe("of which one is refused", function()
    it("let another one go on at once", function()
      world(function(name) return { status = name == "a" and 401 or 200 } end,
        { auth = bearer("a", "b", "c") })
      local res = fetches(1)
      assert.same({ 200, 1 }, { res.status, res.attempts })
      fetches(4)
      assert.equal("a b c b c b", used())
      assert.same({ 1, "client: credential 1 of 3 is refused (401)" },
        { #warned, warned[1]:match "client: .*" })
      idle()
    end)

    it("and tried again after a minute", function()
      world(function(name) return { status = name == "a" and 401 or 200 } end,
        { auth = bearer("a", "b") })
      fetches(2)
      w.run(function() w.orc.sleep(61) end)
      fetches(3)
      assert.equal("a b b a b b b", used())
      assert.equal(1, #warned)
    end)

    it("like the others, the answer is a 401", function()
      world(function() return { status = 401 } end, { auth = bearer("a", "b", "c") })
      local _, err = fetches(1)
      assert.same({ "http", 401, 1, "a b c" }, { err.kind, err.status, err.attempts, used() })
      _, err = fetches(1)
      assert.same({ "http", 401, "a b c a" }, { err.kind, err.status, used() })
      idle()
    end)

    it("is not one that meets a 403, which is about what was asked for", function()
      world(function() return { status = 403 } end, { auth = bearer("a", "b") })
      local _, err = fetches(1)
      assert.same({ 403, "a" }, { err.status, used() })
      fetches(1)
      assert.equal("a b", used())
    end)

    it("waits for the others if they are used up", function()
      world(function(name, _, _, now)
        if name == "b" then return { status = 401 } end
        return { left = now < 10 and 0 or 9, reset = 10 }
      end, { auth = bearer("a", "b"), retry = false })
      local res = fetches(2)
      assert.equal(200, res.status)
      assert.equal("a b a", used())
      assert(starts()[3] >= 10)
      idle()
    end)
  end)

  it("that are obtained are renewed like a single one, then passed over", function()
    local tokens = 0
    local function oauth(id)
      return { type = "oauth2", token_url = "https://login/" .. id, client_id = id,
        client_secret = "rotation-spec-oauth" }
    end
    world(function(_, spec)
      if spec.url:find "login" then
        tokens = tokens + 1
        if spec.url:find "bad" then return { status = 400 } end
        return { body = string.format('{"access_token":"rotation-spec-%s%d"}',
          spec.url:match "login/(%w+)", tokens) }
      end
      return { status = spec.headers:find "spec%-x" and 401 or 200 }
    end, { auth = { oauth "x", oauth "y", oauth "bad" } })
    local res = fetches(1)
    -- A token of x, another one after the 401, and then one of y.
    assert.same({ 200, 1, 3 }, { res.status, res.attempts, tokens })
    res = fetches(3)
    assert.same({ 200, 4 }, { res.status, tokens }) -- bad was tried once
    idle()
  end)

  it("are given back when hops are cancelled or cannot be sent", function()
    world(function() return { after = 100 } end, { auth = bearer("a", "b"), concurrency = 1 })
    for _, n in ipairs { 1, 3 } do
      local list = {}
      for i = 1, n do list[i] = i end
      w.run(w.orc.deadline, 5, function()
        w.orc.map(list, function() return api:fetch "https://a/" end)
      end)
      idle()
    end
    world(function() return { refuse = "network" } end, { auth = bearer("a", "b"), retry = false })
    fetches(1)
    idle()
  end)

  it("work with hedges, each attempt with its own", function()
    world(function(name) return { after = name == "a" and 5 or 0.1 } end,
      { auth = bearer("a", "b"), hedge = { after = 1 } })
    assert.is_true(fetches(1).hedged)
    assert.equal("a b", used())
    idle()
  end)

  it("are checked one by one", function()
    local function misuse(auth)
      local ok, message = pcall(world, function() end, { auth = auth })
      assert.is_false(ok)
      return message
    end
    assert.matches('auth%[2%]: "token" is missing',
      misuse { { type = "bearer", token = "t" }, { type = "bearer" } })
    assert.matches('auth%[1%]: "type" must be', misuse { { type = "beerer" } })
    assert.matches('auth%[2%]: "type" must be', misuse { { type = "bearer", token = "t" }, {} })
    assert.matches('auth%[1%]: "type" must be', misuse { "token" })
    assert.matches("auth: must be credentials, or a list of them",
      misuse { { type = "bearer", token = "t" }, type = "bearer" })
    assert.matches("auth%[1%]: must be credentials, not a list",
      misuse { { { type = "bearer", token = "t" } } })
  end)

  -- However requests come and end, nothing is lost, and no credential is used more than it may.
  it("stay within their budgets on random schedules", function()
    for seed = 1, 100 do
      local random = fake_host.generator(seed)
      local all = { "a", "b", "c", "d" }
      local count = 1 + math.floor(random() * 4)
      local auth, limit, spent = {}, {}, {}
      for i = 1, count do
        auth[i] = { type = "bearer", token = "rotation-spec-" .. all[i] }
        limit[all[i]], spent[all[i]] = 1 + math.floor(random() * 5), {}
      end
      local per = 5 + math.floor(random() * 20)
      local refusals = 0
      world(function(name, _, _, now)
        local window = math.floor(now / per)
        local n = (spent[name][window] or 0) + 1
        if n > limit[name] then
          refusals = refusals + 1
          return { status = 429, left = 0, reset = (window + 1) * per - now, after = 0.1 }
        end
        spent[name][window] = n
        return { left = limit[name] - n, reset = (window + 1) * per - now, after = random() }
      end, { auth = auth, retry = { jitter = false },
        concurrency = 1 + math.floor(random() * 10) })
      local items = {}
      for i = 1, 30 do items[i] = i end
      local done = 0
      local _, errs = w.run(w.orc.map, items, function()
        w.orc.sleep(random() * 30)
        local cancelled = random() < 0.2
        if cancelled then
          w.orc.deadline(random() * 3, function() return api:fetch "https://a/" end)
        else
          local res, err = api:fetch "https://a/"
          assert((res or err).status == (res and 200 or 429), err)
        end
        done = done + 1
      end, { concurrency = 30 })
      assert(done == 30, string.format("seed %d: %s", seed, select(2, next(errs))))
      -- What is not known yet may be overdrawn, by those that are on the way at once.
      assert(refusals <= 10, string.format("seed %d: refused %d times", seed, refusals))
      if count > 1 then idle() end
    end
  end)
end)
