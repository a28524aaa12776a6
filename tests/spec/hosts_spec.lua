local fake_host = require "fake_host"
local hosts = require "orchestrator.hosts"
local url = require "orchestrator.url"

describe("allow_hosts", function()
  -- Which of the hosts pass.
  local function passing(list, candidates)
    local allowed, found = hosts.allow(list, "client.allow_hosts", fake_host.new().idn), {}
    for _, host in ipairs(candidates) do
      local u = assert(url.parse("http://" .. host .. "/", fake_host.new().idn))
      if allowed(u) then found[#found + 1] = host end
    end
    return found
  end

  it("allows a name, however it is spelt, at any port", function()
    local good = {
      "api.example.com", "API.Example.COM", "api.example.com.", "api.example.com:8080",
    }
    assert.same(good, passing({ "Api.example.com." }, good))
    assert.same({}, passing({ "api.example.com" }, {
      "example.com", "xapi.example.com", "x.api.example.com", "api.example.com.evil.test",
      "api.example.co", "api-example.com",
    }))
  end)

  it("takes an asterisk for all below a name, and not for itself", function()
    assert.same({ "a.example.com", "a.b.example.com", "A.Example.com." },
      passing({ "*.example.com" }, {
        "a.example.com", "a.b.example.com", "A.Example.com.", "example.com", "aexample.com",
        "a.example.com.evil.test",
      }))
  end)

  it("allows an address in every notation", function()
    local same = {
      "127.0.0.1", "0x7f.1", "2130706433", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]",
      "[::ffff:7f00:1]",
    }
    for _, entry in ipairs { "127.0.0.1", "0x7f.1", "::ffff:7f00:1", "[::ffff:127.0.0.1]" } do
      assert.same(same, passing({ entry }, same))
    end
    assert.same({}, passing({ "127.0.0.1" }, { "127.0.0.2", "[::1]", "localhost", "0.0.0.0" }))
    assert.same({ "[::1]", "[0:0::1]" }, passing({ "::1" }, { "[::1]", "[0:0::1]", "[::2]" }))
    assert.same({ "[::1]" }, passing({ "[::1]" }, { "[::1]", "127.0.0.1" }))
  end)

  it("compares names in ASCII", function()
    assert.same({ "bücher.test", "xn--bcher-kva.test" },
      passing({ "bücher.test" }, { "bücher.test", "xn--bcher-kva.test" }))
  end)

  it("allows all of the list, and with an empty one nothing", function()
    assert.same({ "a.test", "1.2.3.4", "x.b.test" },
      passing({ "a.test", "*.b.test", "1.2.3.4" }, { "a.test", "1.2.3.4", "x.b.test", "b.test" }))
    assert.same({}, passing({}, { "a.test" }))
  end)

  it("says which host it was", function()
    local allowed = hosts.allow({ "a.test" }, "client.allow_hosts")
    local ok, message = allowed(url.parse "https://b.test/secret?x=1")
    assert.is_nil(ok)
    assert.equal("b.test is not among the client's allow_hosts", message)
  end)

  it("is a list of hosts and nothing else", function()
    local function refused(list, message)
      local ok, raised = pcall(hosts.allow, list, "client.allow_hosts")
      assert.is_false(ok)
      assert.matches(message, raised, 1, true)
    end
    for entry, message in pairs {
      ["https://a.test"] = "without scheme and path", ["a.test/x"] = "without scheme and path",
      ["a.test:80"] = "without a port", ["*"] = 'or "*.example.com"',
      ["*a.test"] = 'or "*.example.com"', ["a.*.test"] = 'or "*.example.com"',
      [".a.test"] = 'or "*.example.com"', [""] = 'or "*.example.com"', ["a b"] = "must be a host",
      ["a..test"] = "must be a host", [7] = "has a number",
    } do
      refused({ entry }, message)
    end
    refused({ host = "a.test" }, "client.allow_hosts: must be a list of hosts")
  end)

  describe("of a client", function()
    local w, served

    before_each(function()
      served = {}
      w = fake_host.world { serve = function(spec)
        served[#served + 1] = spec.url
        if spec.url == "https://a.test/away" then
          return { status = 302, head = "Location: https://b.test/\r\n" }
        elseif spec.url == "https://a.test/near" then
          return { status = 307, head = "Location: /end\r\n" }
        end
        return {}
      end }
    end)

    it("refuses what is not allowed before anything is sent, for good", function()
      local api = w.client { allow_hosts = { "a.test" } }
      local res, err = w.run(function() return api:fetch "https://b.test/" end)
      assert.is_nil(res)
      assert.equal("blocked", err.kind)
      assert.equal("host_not_allowed", err.fault)
      assert.equal(1, err.attempts)
      assert.equal("https://b.test/", err.url)
      assert.same({}, served)
    end)

    it("judges every hop", function()
      local api = w.client { allow_hosts = { "a.test" } }
      assert.equal(200, w.run(function() return api:fetch "https://a.test/near" end).status)
      assert.same({ "https://a.test/near", "https://a.test/end" }, served)
      local _, err = w.run(function() return api:fetch "https://a.test/away" end)
      assert.equal("blocked", err.kind)
      assert.equal("https://b.test/", err.url)
      assert.equal("https://a.test/away", served[#served])
    end)
  end)
end)
