local resolve_map = require "orchestrator.resolve_map"

local function idn(name) return name == "bücher.test" and "xn--bcher-kva.test" or nil end

local function check(given) return resolve_map.check(given, "client.resolve", idn) end

describe("a map of addresses", function()
  it("knows hosts, with and without a port", function()
    local map = check {
      ["A.test"] = "10.0.0.1",
      ["a.test:8443"] = { "10.0.0.2", "[::1]", "FD00::2" },
      ["bücher.test"] = "10.0.0.3",
      ["end.test."] = "10.0.0.4",
      ["under_score"] = "10.0.0.5",
    }
    assert.equal("10.0.0.1", map:find("a.test", 443))
    assert.equal("10.0.0.2,::1,fd00::2", map:find("a.test", 8443))
    assert.equal("10.0.0.1", map:find("a.test.", 80))
    assert.equal("10.0.0.3", map:find("xn--bcher-kva.test", 80))
    assert.equal("10.0.0.4", map:find("end.test", 80))
    assert.equal("10.0.0.5", map:find("under_score", 80))
    assert.is_nil(map:find("b.test", 80))
    assert.is_nil(map:find("sub.a.test", 80))
  end)

  it("has a text that is the same for equal maps", function()
    local one = check { ["a.test"] = "1.2.3.4", ["b.test:1"] = { "1.2.3.5", "::1" } }
    local same = check { ["b.test:01"] = { "1.2.3.5", "::1" }, ["A.test"] = { "1.2.3.4" } }
    local other = check { ["a.test"] = "1.2.3.4", ["b.test:1"] = { "::1", "1.2.3.5" } }
    assert.equal(one.text, same.text)
    assert.not_equal(one.text, other.text)
  end)

  for _, case in ipairs {
    { { [1] = "1.2.3.4" }, '["1"] must be a host, or "host:port"' },
    { { [""] = "1.2.3.4" }, '[""] must be a host' },
    { { ["http://a"] = "1.2.3.4" }, '["http://a"] must be a host' },
    { { ["*.a.test"] = "1.2.3.4" }, "must be a host" },
    { { ["a.test:"] = "1.2.3.4" }, "must be a host" },
    { { ["a.test:0"] = "1.2.3.4" }, "has a bad port" },
    { { a = { "1.2.3.4", nil, "x" } }, '["a"] must be a list of addresses without holes' },
    { { a = { "1.2.3.4", b = "1.2.3.5" } }, '["a"] must be a list of addresses' },
    { { a = { [0] = "1.2.3.4" } }, '["a"] must be a list of addresses' },
    { { ["a.test:65536"] = "1.2.3.4" }, "has a bad port" },
    { { ["10.0.0.1"] = "1.2.3.4" }, "is an address already" },
    { { ["10.0.0.1:80"] = "1.2.3.4" }, "is an address already" },
    { { ["[::1]:80"] = "1.2.3.4" }, '["[::1]:80"] must be a host' },
    { { ["::1"] = "1.2.3.4" }, "is an address already" },
    { { ["straße.test"] = "1.2.3.4" }, "must be a host" },
    { { ["a.test"] = "b.test" }, '["a.test"] must be an address such as "10.0.0.7"' },
    { { ["a.test"] = "1.2.3" }, "must be an address" },
    { { ["a.test"] = "1.2.3.4,1.2.3.5" }, "must be an address" },
    { { ["a.test"] = "[1.2.3.4]" }, "must be an address" },
    { { ["a.test"] = { "1.2.3.4", 5 } }, "must be an address" },
    { { ["a.test"] = true }, "got a boolean" },
    { { ["a.test"] = {} }, '["a.test"] has no address' },
    { { ["a.test"] = "1.2.3.4", ["A.test."] = "1.2.3.5" }, '"a.test" is given twice' },
  } do
    it("refuses: " .. case[2], function()
      local ok, raised = pcall(check, case[1])
      assert.is_false(ok)
      assert(raised:find("client.resolve: ", 1, true), raised)
      assert(raised:find(case[2], 1, true), raised)
    end)
  end
end)
