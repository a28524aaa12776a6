local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local function failure(...)
  local ok, message = pcall(...)
  assert.is_false(ok)
  return message
end

-- The message without its place, which is tested apart.
local function complaint(given, schema)
  return (failure(options.check, "client", given, schema):gsub("^.-: ", "", 1))
end

describe("options.duration", function()
  it("reads numbers and units", function()
    local cases = {
      { 0, 0 }, { 1.5, 1.5 }, { "500ms", 0.5 }, { "700ms", 0.7 }, { "10s", 10 }, { "0s", 0 },
      { "1.5s", 1.5 }, { "5m", 300 }, { "1h", 3600 }, { "2d", 172800 },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], options.duration(case[1]))
    end
  end)

  it("refuses the rest and says what it wants", function()
    for _, bad in ipairs {
      "ten", "10", "", "s", "-1s", "10 s", "10S", "1h30m", "1e3s", ".5s", "10s\n", "0x10s",
      -1, 0 / 0, 1 / 0, true, {}, print,
    } do
      local seconds, message = options.duration(bad)
      assert.is_nil(seconds)
      assert.matches('^must be a duration such as "10s", got ', message)
    end
    assert.is_nil(options.duration(nil))
    assert.equal('must be a duration such as "10s", got "ten"', select(2, options.duration "ten"))
  end)
end)

describe("options.size", function()
  it("reads numbers and units", function()
    local cases = {
      { 0, 0 }, { 4096, 4096 }, { "10B", 10 }, { "1kB", 1000 }, { "1KB", 1000 }, { "10MB", 1e7 },
      { "1.5GB", 1.5e9 }, { "2.3GB", 2.3e9 }, { "1TB", 1e12 },
      { "1KiB", 1024 }, { "1MiB", 1048576 }, { "2GiB", 2 ^ 31 }, { "1TiB", 2 ^ 40 },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], options.size(case[1]))
    end
  end)

  it("refuses the rest and says what it wants", function()
    for _, bad in ipairs { "big", "10", "10mb", "MB", "-1MB", 1.5, -1, 0 / 0, 1 / 0, false } do
      local bytes, message = options.size(bad)
      assert.is_nil(bytes)
      assert.matches('^must be a size such as "10MB", got ', message)
    end
  end)
end)

describe("options.rate", function()
  it("reads the short form", function()
    assert.same({ limit = 100, per = 60, burst = 1 }, options.rate "100/1m")
    assert.same({ limit = 10, per = 1, burst = 1 }, options.rate "10/s")
    assert.same({ limit = 0.5, per = 1, burst = 1 }, options.rate "0.5/s")
    assert.same({ limit = 3, per = 0.25, burst = 1 }, options.rate "3/250ms")
  end)

  it("reads the table", function()
    assert.same({ limit = 100, per = 60, burst = 5, name = "github" },
      options.rate { limit = 100, per = "1m", burst = 5, name = "github" })
    assert.same({ limit = 4, per = 2, burst = 1, window = "sliding" },
      options.rate { limit = 4, per = 2, window = "sliding" })
  end)

  it("refuses the rest with the reason", function()
    local cases = {
      { "10", 'must be a rate such as "100/1m", got "10"' },
      { "10/", 'must be a rate such as "100/1m", got "10/"' },
      { "10/parsec", 'must be a rate such as "100/1m", got "10/parsec"' },
      { "0/s", 'must be a rate such as "100/1m", with both parts above zero' },
      { "5/0s", 'must be a rate such as "100/1m", with both parts above zero' },
      { 10, 'must be a rate such as "100/1m", got 10' },
      { { limt = 1 }, 'unknown option "limt" (did you mean "limit"?)' },
      { { limit = 1 }, '"per" is missing' },
      { { limit = 1, per = "1s", burst = 0 }, '"burst" must be at least 1, got 0' },
      { { limit = 1, per = "1s", burst = 1.5 }, '"burst" must be a whole number, got 1.5' },
      { { limit = 1, per = "1s", window = "fixed" }, '"window" must be "sliding", got "fixed"' },
      { { limit = 1.5, per = "1s", window = "sliding" }, 'must have a whole "limit"' },
      { { limit = 1, per = "1s", burst = 2, window = "sliding" }, 'must not have a "burst"' },
    }
    for _, case in ipairs(cases) do
      local rate, message = options.rate(case[1])
      assert.is_nil(rate)
      assert.matches(case[2], message, 1, true)
    end
  end)
end)

describe("options.check", function()
  it("gives a new table with parsed values and defaults", function()
    local given = { timeout = "5s", name = "x" }
    local schema = {
      timeout = { type = "duration" },
      name = { type = "string" },
      wait = { type = "duration", default = "500ms" },
      follow = { type = "boolean", default = false },
      absent = { type = "string" },
    }
    local values = options.check("client", given, schema)
    assert.same({ timeout = 5, name = "x", wait = 0.5, follow = false }, values)
    assert.same({ timeout = "5s", name = "x" }, given)
    assert.same({ wait = 0.5, follow = false }, options.check("client", nil, schema))
  end)

  it("keeps a given false over a default", function()
    local schema = { jitter = { type = { one_of = { "full", false } }, default = "full" } }
    assert.same({ jitter = false }, options.check("retry", { jitter = false }, schema))
  end)

  it("accepts exactly what a type means", function()
    local token = secret.value "a-token"
    local samples = { "10s", "10MB", "1/s", 1, 1.5, true, false, {}, print, token }
    local accepted = {
      any = { "10s", "10MB", "1/s", 1, 1.5, true, false, {}, print, token },
      boolean = { true, false },
      duration = { "10s", 1, 1.5 },
      ["function"] = { print },
      integer = { 1 },
      number = { 1, 1.5 },
      rate = { "1/s" },
      secret = { "10s", "10MB", "1/s", token },
      size = { "10MB", 1 },
      string = { "10s", "10MB", "1/s" },
      table = { {} },
    }
    for kind, expected in pairs(accepted) do
      local passed = {}
      for _, sample in ipairs(samples) do
        if pcall(options.check, "x", { v = sample }, { v = { type = kind } }) then
          passed[#passed + 1] = sample
        end
      end
      assert.same(expected, passed)
    end
  end)

  it("tries a list of types in turn", function()
    local schema = { timeout = { type = { "duration", "table" } } }
    assert.equal(5, options.check("x", { timeout = "5s" }, schema).timeout)
    assert.same({ total = 1 }, options.check("x", { timeout = { total = 1 } }, schema).timeout)
    assert.equal('client: "timeout" must be a duration such as "10s" or a table, got "ten"',
      complaint({ timeout = "ten" }, schema))
  end)

  it("names an unknown option and the nearest valid one", function()
    local any = { type = "any" }
    local schema = { retry = any, headers = any, url = any }
    assert.equal('client: unknown option "retires" (did you mean "retry"?)',
      complaint({ retires = 1 }, schema))
    assert.equal('client: unknown option "Header" (did you mean "headers"?)',
      complaint({ Header = {} }, schema))
    assert.equal('client: unknown option "quux"', complaint({ quux = 1 }, schema))
    assert.equal("client: unknown option [1]", complaint({ "url" }, schema))
  end)

  it("names the same one of several mistakes every time", function()
    local schema = { a = { type = "number" }, b = { type = "number" } }
    for _ = 1, 20 do
      assert.equal('client: unknown option "x1"',
        complaint({ x3 = 1, x1 = 1, x2 = 1, a = "" }, schema))
      assert.equal('client: "a" must be a number, got "1"', complaint({ b = "1", a = "1" }, schema))
    end
  end)

  it("says what was given", function()
    local cases = {
      { "1", '"1"' }, { true, "true" }, { {}, "a table" }, { print, "a function" },
      { secret.value "a-token", "***" }, { ("x"):rep(41), '"' .. ("x"):rep(40) .. '..."' },
      { "a\nb", '"a?b"' },
    }
    for _, case in ipairs(cases) do
      assert.equal('client: "n" must be a number, got ' .. case[2],
        complaint({ n = case[1] }, { n = { type = "number" } }))
    end
  end)

  it("says nothing of what may have been meant as a secret", function()
    for _, kinds in ipairs { "secret", { { one_of = { false } }, "secret" } } do
      assert.matches("got a number$", complaint({ n = 12345678 }, { n = { type = kinds } }))
    end
    assert.matches("got a table$", complaint({ n = { "a-token" } }, { n = { type = "secret" } }))
    assert.equal('client: "n" is too short', complaint({ n = "sesame" }, { n = {
      type = "secret", check = function() return nil, "is too short" end } }))
  end)

  it("holds numbers to their bounds", function()
    local schema = { n = { type = "integer", min = 1, max = 9 }, size = { type = "size", min = 1 } }
    assert.equal(1, options.check("x", { n = 1 }, schema).n)
    assert.equal(9, options.check("x", { n = 9 }, schema).n)
    assert.equal('client: "n" must be at least 1, got 0', complaint({ n = 0 }, schema))
    assert.equal('client: "n" must be at most 9, got 10', complaint({ n = 10 }, schema))
    assert.equal('client: "size" must be at least 1, got "0B"', complaint({ size = "0B" }, schema))
  end)

  it("demands what is required", function()
    local schema = { token = { type = "secret", required = true } }
    assert.equal('client: "token" is missing: it must be a string or a secret',
      complaint({}, schema))
    assert.equal("t", options.check("x", { token = "t" }, schema).token)
  end)

  it("lets a check replace or refuse the value", function()
    local even = {
      type = "integer",
      check = function(n)
        if n % 2 == 1 then
          return nil, "must be even"
        end
        return n / 2
      end,
    }
    assert.equal(2, options.check("x", { n = 4 }, { n = even }).n)
    assert.equal('client: "n" must be even', complaint({ n = 3 }, { n = even }))
  end)

  it("passes on why a rate is wrong", function()
    assert.equal('client: "rate_limit" must be a rate such as "100/1m": unknown option "pre" '
      .. '(did you mean "per"?)',
      complaint({ rate_limit = { limit = 1, pre = 1 } }, { rate_limit = { type = "rate" } }))
  end)

  it("wants a table of options", function()
    assert.equal('client: must be a table of options, got "x"', complaint("x", {}))
    assert.equal("client: must be a table of options, got ***",
      complaint(secret.value "a-token", {}))
  end)
end)

describe("the place of a misuse", function()
  it("is the script's line", function()
    local line = debug.getinfo(1, "l").currentline + 2
    local message = failure(function()
      options.check("client", { x = 1 }, {})
    end)
    assert.matches("options_spec.lua:" .. line .. ': client: unknown option "x"', message, 1, true)
  end)

  it("is the script's line though its path looks like ours", function()
    local home = debug.getinfo(options.fail, "S").source:match "^@(.*)options%.lua$"
    for _, path in ipairs {
      "/home/me/orchestrator/pipelines/x.lua", "pipelines/url.lua", home .. "mine/x.lua",
    } do
      local script = loadstring("local fail = ...\n\nfail('client', 'wrong')\n", "@" .. path)
      assert.equal(path .. ":3: client: wrong", failure(script, options.fail))
    end
  end)

  it("is left out when a tail call has dropped the script's frame", function()
    local script = loadstring("local fail = ...\nreturn fail('client', 'wrong')", "@x.lua")
    assert.equal("client: wrong", failure(coroutine.wrap(script), options.fail))
  end)
end)

describe("options.suggest", function()
  local names = { "retry", "rate_limit", "timeout", "headers", "url", "base_url" }

  it("finds the name that was meant", function()
    local cases = {
      { "rety", "retry" }, -- missing
      { "retryy", "retry" }, -- too many
      { "retrz", "retry" }, -- wrong
      { "rtery", "retry" }, -- swapped
      { "uzl", "url" },
      { "ulr", "url" },
      { "timeuot", "timeout" },
      { "TIMEOUT", "timeout" },
      { "baseurl", "base_url" },
      { "ratelimit", "rate_limit" },
    }
    for _, case in ipairs(cases) do
      assert.equal(case[2], options.suggest(case[1], names))
    end
  end)

  it("says nothing when no name is near", function()
    for _, name in ipairs { "xyz", "", "concurrency", "u", ("x"):rep(1e6) } do
      assert.is_nil(options.suggest(name, names))
    end
  end)

  it("prefers the nearest, then the first by name", function()
    assert.equal("abcd", options.suggest("abce", { "abzz", "abcd" }))
    assert.equal("cat", options.suggest("xat", { "hat", "cat", "rat" }))
  end)
end)
