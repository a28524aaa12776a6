local fake_host = require "fake_host"
local options = require "orchestrator.options"
local profile = require "orchestrator.profile"
local proxy = require "orchestrator.proxy"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

describe("a network", function()
  local env, made, closed

  before_each(function()
    made = {} -- every spec that host.profile was given; its place is its id
    local ids = {}
    closed = ids
    env = {
      host = {
        profile = function(spec)
          if spec.proxy == "http://broken.test:1" then return nil, "bad_request", "no" end
          made[#made + 1] = spec
          return #made
        end,
        profile_close = function(id) ids[#ids + 1] = id end,
        idn = function() return nil end,
      },
    }
  end)

  local function network(given)
    return profile.new(env, options.check("client", given, profile.schema()))
  end

  -- A plan that has been aimed; also one that came from another hop, as that of a redirect does.
  local function aim(net, text, fields)
    local u = assert(url.parse(text))
    local plan = { u = u, url = u.text, origin = u.origin, tls = u.scheme == "https",
      method = "GET",
      profile = "old", host = "old", port = "old", addresses = "old", relayed = "old" }
    for name, value in pairs(fields or {}) do plan[name] = value end
    local ok, err = net:aim(plan)
    assert.equal(not ok, err ~= nil)
    return plan, err
  end

  local function environment(text, no_proxy)
    env.proxies = proxy.environment(function(name)
      return name == "all_proxy" and text or name == "no_proxy" and no_proxy or nil
    end)
  end

  it("without options changes nothing", function()
    for _, given in ipairs { {}, { proxy = false }, { deny_private = false, cookies = false } } do
      local net = network(given)
      assert.is_true(net.plain)
      local plan = aim(net, "http://a.test:81/")
      assert.same({ host = "a.test", port = 81 },
        { profile = plan.profile, host = plan.host, port = plan.port, addresses = plan.addresses,
          relayed = plan.relayed })
    end
    assert.same({}, made)
  end)

  it("has a profile that speaks HTTP/1.1 for hops that stream over TLS", function()
    local net = network {}
    for _, fields in ipairs { { stream = true }, { pull = print } } do
      assert.equal(1, aim(net, "https://a.test/", fields).profile)
      assert.is_nil(aim(net, "http://a.test/", fields).profile)
    end
    assert.equal(1, aim(network {}, "https://b.test/", { stream = true }).profile)
    assert.is_nil(aim(net, "https://a.test/").profile)
    assert.same({ { http1 = true } }, made)
  end)

  it("gives each set of settings one profile", function()
    local ids = {}
    for i, given in ipairs {
      { deny_private = true }, { deny_private = true }, { unix_socket = "a.sock" },
      { unix_socket = "b.sock" }, { proxy = "p.test:1" }, { proxy = "http://u:longer@p.test:1" },
      { proxy = { url = "p.test:1", username = "u", password = "longer" } },
      { proxy = { url = "p.test:1", no_proxy = "x" } },
      { cookies = true }, { cookies = true },
      { resolve = { ["a.test"] = "1.2.3.4" } }, { resolve = { ["a.test"] = { "1.2.3.4" } } },
      { resolve = { ["a.test"] = "1.2.3.5" } },
    } do
      ids[i] = aim(network(given), "http://a.test/").profile
    end
    assert.same({ 1, 1, 2, 3, 4, 5, 5, 4, 6, 7, 8, 8, 9 }, ids)
    assert.same({
      { guard = true }, { unix = "a.sock" }, { unix = "b.sock" }, { proxy = "http://p.test:1" },
      { proxy = "http://p.test:1", proxy_user = "u", proxy_password = "longer" },
      { jar = 1 }, { jar = 2 }, {}, {},
    }, made)
  end)

  it("goes to its proxy, whatever host it is for", function()
    local net = network { proxy = { url = "https://[::1]:3128", no_proxy = "spared.test" } }
    assert.is_false(net.plain)
    local plan = aim(net, "https://a.test:444/")
    assert.same({ 1, "::1", 3128 }, { plan.profile, plan.host, plan.port })
    assert.equal("https://a.test:444", plan.origin)
    plan = aim(net, "https://spared.test/")
    assert.same({ "spared.test", 443 }, { plan.host, plan.port })
    assert.is_nil(plan.profile)
    -- A 407 is the proxy's own where it speaks HTTP with us and not with the host behind it.
    assert.is_true(aim(net, "http://a.test/").relayed)
    assert.is_false(aim(net, "https://a.test/").relayed)
    assert.is_falsy(aim(net, "http://spared.test/").relayed)
    assert.is_falsy(aim(network { proxy = "socks5://p.test" }, "http://a.test/").relayed)
  end)

  it("aims again when a plan goes elsewhere", function()
    local net = network { proxy = { url = "p.test:1", no_proxy = "b.test" } }
    local plan = aim(net, "http://a.test/")
    plan.u = assert(url.parse "http://b.test:82/")
    plan.url, plan.origin = plan.u.text, plan.u.origin
    assert.is_true(net:aim(plan))
    assert.same({ "b.test", 82 }, { plan.host, plan.port })
    assert.is_nil(plan.profile)
    assert.is_nil(plan.relayed)
  end)

  it("reads the proxies of the environment unless told otherwise", function()
    environment("p.test:1", "spared.test")
    assert.equal("p.test", aim(network {}, "http://a.test/").host)
    assert.equal("spared.test", aim(network {}, "http://spared.test/").host)
    assert.equal("localhost", aim(network {}, "http://localhost/").host)
    assert.equal("a.test", aim(network { proxy = false }, "http://a.test/").host)
    assert.is_true(network { proxy = false }.plain)
    assert.equal("q.test", aim(network { proxy = "q.test:1" }, "http://spared.test/").host)
    assert.equal("", aim(network { unix_socket = "a.sock" }, "http://a.test/").host)
  end)

  it("has no way around a proxy that cannot be used", function()
    environment("ftp://p.test", "spared.test")
    local _, err = aim(network {}, "http://a.test/")
    assert.same({ "invalid", "bad_request", "http://a.test/", "GET" },
      { err.kind, err.fault, err.url, err.method })
    assert.matches("environment variable all_proxy", err.message)
    assert.equal("spared.test", aim(network {}, "http://spared.test/").host)

    local net = network { proxy = "broken.test:1" }
    for _ = 1, 2 do -- and is not taken for a good one the next time
      _, err = aim(net, "http://a.test/")
      assert.same({ "invalid", "bad_request", "no" }, { err.kind, err.fault, err.message })
    end
  end)

  it("does not let a proxy of the environment get around deny_private", function()
    environment("p.test:1", "spared.test")
    local net = network { deny_private = true }
    local _, err = aim(net, "http://a.test/")
    assert.same({ "blocked", "blocked_address" }, { err.kind, err.fault })
    assert.matches("proxy = false", err.message)
    assert.equal("spared.test", aim(net, "http://spared.test/").host)
    assert.equal("a.test", aim(network { deny_private = true, proxy = false },
      "http://a.test/").host)
    assert.same({ { guard = true } }, made)
  end)

  it("knows addresses of hosts, and of a proxy", function()
    local map = { ["a.test"] = { "10.0.0.1", "::1" }, ["p.test:3128"] = "10.0.0.9" }
    local net = network { resolve = map }
    assert.equal("10.0.0.1,::1", aim(net, "http://a.test/").addresses)
    assert.is_nil(aim(net, "http://b.test/").addresses)
    net = network { resolve = map, proxy = "p.test:3128" }
    local plan = aim(net, "http://a.test/")
    assert.same({ "p.test", "10.0.0.9" }, { plan.host, plan.addresses })
  end)

  it("sends everything to its socket", function()
    local net = network { unix_socket = "/run/a.sock", tls = nil }
    for _, target in ipairs { "http://a.test/", "https://127.0.0.1:444/" } do
      local plan = aim(net, target)
      assert.same({ 1, "" }, { plan.profile, plan.host })
    end
  end)

  it("remembers a bounded number of origins", function()
    local net = network { deny_private = true }
    for i = 1, 2500 do aim(net, "http://h" .. i .. ".test/") end
    local count = 0
    for _ in pairs(net.routes) do count = count + 1 end
    assert.is_true(count <= 1000)
    assert.equal(1, #made)
  end)

  for _, case in ipairs {
    { { proxy = true }, '"proxy" must be a string or a secret, a table or false, got true' },
    { { proxy = "ftp://p" }, 'proxy: "url" has the scheme "ftp"' },
    { { proxy = { url = "p", pasword = "x" } }, 'unknown option "pasword"' },
    { { resolve = "a.test=1.2.3.4" }, '"resolve" must be a table' },
    { { resolve = { ["a.test"] = "b.test" } }, "client.resolve: " },
    { { unix_socket = "" }, '"unix_socket" must be the path of a socket' },
    { { unix_socket = "a\0b" }, '"unix_socket" must be the path of a socket' },
    { { unix_socket = ("x"):rep(108) }, '"unix_socket" must be at most 107 bytes long' },
    { { cookies = "jar.txt" }, '"cookies" must be true or false' },
    { { deny_private = "yes" }, '"deny_private" must be true or false' },
    { { unix_socket = "a", proxy = "p" }, '"unix_socket" and "proxy" exclude each other' },
    { { unix_socket = "a", resolve = {} }, '"unix_socket" and "resolve" exclude each other' },
    { { deny_private = true, unix_socket = "a" },
      '"deny_private" and "unix_socket" exclude each other' },
    { { deny_private = true, proxy = "p" }, '"deny_private" and "proxy" exclude each other' },
  } do
    it("refuses: " .. case[2], function()
      local ok, raised = pcall(network, case[1])
      assert.is_false(ok)
      assert.matches("profile_spec.lua:%d+: client", raised)
      assert(raised:find(case[2], 1, true), raised)
    end)
  end

  it("shows a certificate of ours to the origins of credentials only", function()
    local tls = { cert = "tests/spec/profile_spec.lua", key = "tests/spec/profile_spec.lua",
      key_password = "sesame", min = "1.3" }
    local net = network { tls = tls }
    aim(net, "https://a.test/")
    aim(net, "https://a.test/", { foreign = true })
    aim(net, "https://b.test/", { foreign = true })
    local home = aim(net, "https://a.test/")
    local away = aim(net, "https://b.test/", { foreign = true })
    assert.same({ 1, 2 }, { home.profile, away.profile })
    assert.same({ tls.cert, tls.key, "sesame" },
      { made[1].cert, made[1].key, made[1].key_password })
    assert.same({ tls_min = "1.3" }, made[2])
  end)

  it("closes a profile when nobody has its settings any more", function()
    local first, second = network { cookies = true }, network { unix_socket = "/s" }
    local third = network { unix_socket = "/s" }
    for _, net in ipairs { first, second, third } do
      aim(net, "http://a.test/")
      aim(net, "https://a.test/", { stream = true })
    end
    collectgarbage()
    assert.same({}, closed)
    assert.is_table(second)
    second = nil -- luacheck: ignore
    collectgarbage()
    assert.same({}, closed)
    assert.is_table(first)
    first = nil -- luacheck: ignore
    collectgarbage()
    table.sort(closed)
    assert.same({ 1, 2 }, closed)
    assert.equal(3, aim(third, "http://b.test/").profile)
    third = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(4, #closed)
    assert.is_nil(next(env.profiles.by_key))
  end)

  it("forgets no profile because it has been everywhere", function()
    local net = network { cookies = true }
    for i = 1, 2100 do aim(net, "http://" .. i .. ".test/") end
    collectgarbage()
    assert.same({}, closed)
    assert.equal(1, #made)
  end)

  it("looks for profiles of no use when many were made", function()
    for _ = 1, 500 do aim(network { cookies = true }, "http://a.test/") end
    assert.is_true(#closed >= 400)
  end)

  it("shows no password in an error", function()
    environment("http://user:profile-pass@p.test/path")
    local _, err = aim(network {}, "http://a.test/")
    assert.not_matches("profile%-pass", tostring(err))
    aim(network { proxy = "http://user:profile-spec-pass@p.test:1" }, "http://a.test/")
    assert.equal("***", secret.mask "profile-spec-pass")
  end)
end)

describe("a client's network", function()
  local function world(serve)
    local w = fake_host.world { serve = serve }
    w.profiles = {}
    function w.host.profile(spec)
      w.profiles[#w.profiles + 1] = spec
      return #w.profiles
    end
    return w
  end

  local function starts(w)
    local found = {}
    for i, entry in ipairs(w.host.ledger) do
      found[i] = { entry.spec.host, entry.spec.port, entry.spec.profile or 0 }
    end
    return found
  end

  local function to(target)
    return { status = 302, head = "Location: " .. target .. "\r\n" }
  end

  it("is asked for every hop and attempt", function()
    local w = world(function(spec, n)
      if spec.url == "http://a.test/" then return to "http://b.test:444/" end
      return n == 2 and to "http://c.test/" or { status = n == 3 and 503 or 200 }
    end)
    local api = w.client {
      proxy = { url = "p.test:3128", no_proxy = "b.test" },
      retry = { wait_initial = 0 },
      resolve = { ["b.test"] = "10.0.0.1" },
    }
    local res = assert(w.run(api.fetch, api, "http://a.test/"))
    assert.equal(2, res.attempts)
    assert.same({ { "p.test", 3128, 1 }, { "b.test", 444, 2 }, { "p.test", 3128, 1 },
      { "p.test", 3128, 1 }, { "b.test", 444, 2 } }, starts(w))
    assert.same({ "10.0.0.1" }, { w.host.ledger[2].spec.addresses })
    assert.is_nil(w.host.ledger[3].spec.addresses)
  end)

  it("refuses a hop without starting it", function()
    local w = world(function() return to "http://b.test/" end)
    w.env.proxies = proxy.environment(function(name)
      return name == "http_proxy" and "ftp://p.test" or name == "no_proxy" and "a.test" or nil
    end)
    local api = w.client { retry = { attempts = 3 } }
    local _, err = w.run(api.fetch, api, "http://a.test/")
    assert.same({ "invalid", "bad_request", 1 }, { err.kind, err.fault, err.attempts })
    assert.equal(1, #w.host.ledger)
  end)

  it("asks allow_hosts at every hop", function()
    local w = world(function() return to "http://b.test/" end)
    local api = w.client { allow_hosts = { "a.test" }, retry = { attempts = 3 } }
    local _, err = w.run(api.fetch, api, "http://a.test/")
    assert.same({ "blocked", "host_not_allowed", 1, "http://b.test/" },
      { err.kind, err.fault, err.attempts, err.url })
    assert.equal(1, #w.host.ledger)
  end)

  it("takes a 407 for the proxy's where it may be", function()
    local w = world(function() return { status = 407 } end)
    local api = w.client { proxy = "p.test:1", retry = { attempts = 3 } }
    local _, err = w.run(api.fetch, api, { url = "http://a.test/", accept = "any" })
    assert.same({ "connect", "proxy_refused", 1 }, { err.kind, err.fault, err.attempts })
    _, err = w.run(api.fetch, api, "https://a.test/")
    assert.same({ "http", 407 }, { err.kind, err.status })
    local direct = w.client()
    _, err = w.run(direct.fetch, direct, "http://a.test/")
    assert.same({ "http", 407 }, { err.kind, err.status })
  end)

  it("refuses credentials for a proxy where a host would see them", function()
    local w = world()
    local api = w.client { proxy = "p.test:1" }
    local _, err = w.run(api.fetch, api,
      { url = "http://a.test/", headers = { ["proxy-authorization"] = "Basic eDp5" } })
    assert.equal("invalid", err.kind)
    assert.matches('option "proxy"', err.message)
    assert.equal(0, #w.host.ledger)
  end)

  it("has a timeout for lookups", function()
    local w = world()
    local api = w.client { timeout = { dns = "2s" } }
    w.run(function()
      api:fetch "http://a.test/"
      api:fetch { url = "http://a.test/", timeout = { dns = 0.5 } }
    end)
    assert.same({ 2, 0.5 },
      { w.host.ledger[1].spec.dns_timeout, w.host.ledger[2].spec.dns_timeout })
  end)
end)
