local fake_host = require "fake_host"
local netrc = require "orchestrator.netrc"
local secret = require "orchestrator.secret"

describe("netrc.parse", function()
  local function entries(text)
    local found = assert(netrc.parse(text))
    local list = {}
    for name, entry in pairs(found.machines) do list[name] = entry end
    list.DEFAULT = found.default
    return list
  end

  it("reads machines, on one line or on several", function()
    assert.same({
      ["a.test"] = { login = "u1", password = "p1" },
      ["b.test"] = { login = "u2", password = "p2", account = "x" },
      DEFAULT = { login = "anonymous", password = "me@" },
    }, entries("machine a.test login u1 password p1\n\nmachine B.test\r\n\tlogin u2\r\n"
      .. "\taccount x\n\tpasswd p2\ndefault user anonymous password me@\n"))
  end)

  it("takes the first of several", function()
    assert.same({ ["a"] = { login = "u1", password = "p1" }, DEFAULT = { login = "d1" } },
      entries("machine a login u1 password p1 machine a login u2 password p2 default login d1 "
        .. "default login d2"))
  end)

  it("reads quoted values", function()
    assert.same({ ["a"] = { login = "with space", password = 'q"\\\n\r\tx' } },
      entries [[machine "a" login "with space" password "q\"\\\n\r\t\x"]])
    assert.same({ ["a"] = { login = "", password = "#p" } },
      entries 'machine a login "" password #p')
  end)

  it("passes over macros and comments", function()
    assert.same({ ["a"] = { login = "u" }, ["b"] = { login = "v" } },
      entries("# machine x login y\nmachine a login u # the first\nmacdef init\ncd /pub\n"
        .. "machine c login z\n\nmachine b login v\nmacdef last\nquit\n"))
  end)

  it("is content with nothing", function()
    assert.same({}, entries "")
    assert.same({}, entries "\n \n# nothing\n")
  end)

  it("says where it makes no sense, and quotes nothing", function()
    for text, problem in pairs {
      ["machine a\nlogin u\nhunter2"] = "line 3: there is a word that means nothing here",
      ["login u"] = "line 1: there is a word that means nothing here",
      ["machine a login"] = "line 1: the value is missing",
      ["\nmachine"] = "line 2: the value is missing",
      ['machine a password "hunter2\n'] = "line 1: a quote is not closed",
      ['machine a login u "hunter2'] = "line 1: a quote is not closed",
    } do
      local found, message = netrc.parse(text)
      assert.is_nil(found)
      assert.equal(problem, message)
    end
  end)
end)

describe("auth by netrc", function()
  local path, w, warnings

  before_each(function()
    path = os.tmpname()
    warnings = {}
  end)

  after_each(function() os.remove(path) end)

  local function world(text, opts, mode)
    if text then
      local file = assert(io.open(path, "wb"))
      file:write(text)
      file:close()
      os.execute("chmod " .. (mode or 600) .. " " .. path)
    end
    opts = opts or {}
    opts.auth = opts.auth or { type = "netrc", file = path }
    w = fake_host.world { serve = opts.serve }
    w.env.voice = { log = { warn = function(_, message) table.insert(warnings, message) end } }
    opts.serve = nil
    return w.client(opts)
  end

  local function header(n)
    return w.host.ledger[n].spec.headers:match "Authorization: ([^\n]*)"
  end

  local TEXT = "machine a.test login u password netrc-spec-1 machine [::1] login no password no\n"
    .. "machine c.test password only default login d password netrc-spec-2"

  it("sends what the file has for the host", function()
    local api = world(TEXT)
    w.run(function()
      for _, u in ipairs { "https://A.test/", "http://a.test:81/", "https://b.test/",
        "https://c.test/" } do
        assert(api:fetch(u))
      end
    end)
    local first, other = secret.base64 "u:netrc-spec-1", secret.base64 "d:netrc-spec-2"
    assert.same({ "Basic " .. first, "Basic " .. first, "Basic " .. other },
      { header(1), header(2), header(3) })
    assert.is_nil(header(4)) -- a password without a name
    assert.same({}, warnings)
    assert.equal("***", secret.mask "netrc-spec-1")
    assert.equal("***", secret.mask(first))
  end)

  it("sends it nowhere else", function()
    local api = world("machine a.test login u password p machine b.test login v password q", {
      serve = function(spec)
        return spec.url:find "//a" and { status = 302, head = "Location: https://b.test/\r\n" }
      end,
    })
    w.run(function() assert(api:fetch "https://a.test/") end)
    assert.is_string(header(1))
    assert.is_nil(header(2))
    api = world("default login u password p", { base_url = "https://a.test/" })
    w.run(function() assert(api:fetch "https://b.test/") end)
    assert.is_nil(header(1))
  end)

  it("sends nothing unless it is asked for", function()
    local _ = world(TEXT)
    local plain = w.client()
    w.run(function() assert(plain:fetch "https://a.test/") end)
    assert.is_nil(header(1))
  end)

  it("remembers so many hosts", function()
    local api = world "machine a.test login me password netrc-many"
    for i = 1, 2500 do w.run(function() assert(api:fetch("https://h" .. i .. ".test/")) end) end
    local count = 0
    for _ in pairs(api.auth.fields) do count = count + 1 end
    assert.is_true(count <= 1000)
  end)

  it("warns of a file others can read", function()
    for _, mode in ipairs { 644, 640, 604 } do
      warnings = {}
      world(TEXT, nil, mode)
      assert.equal(1, #warnings)
      assert.matches(": client: " .. path .. " can be read by other users of this machine: "
        .. "chmod 600 it", warnings[1], 1, true)
    end
  end)

  it("raises when it cannot be read", function()
    for _, case in ipairs {
      { { file = path .. ".none" }, path .. ".none: No such file" },
      { { file = "/tmp" }, "cannot read /tmp: it is a directory" },
      { { file = "" }, '"file" must be the path of a file' },
      { { path = "x" }, 'unknown option "path"' },
    } do
      case[1].type = "netrc"
      local ok, message = pcall(world, nil, { auth = case[1] })
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
      assert.matches("%.lua:%d+: auth: ", message)
    end
    local ok, message = pcall(world, "machine a hunter2")
    assert.is_false(ok)
    assert.matches("auth: " .. path .. ": line 1: there is a word", message, 1, true)
    assert.is_nil(message:find "hunter2")
  end)
end)
