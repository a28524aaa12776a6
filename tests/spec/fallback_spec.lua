local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"

describe("fallback", function()
  local w, api, told

  local observer = {
    attempt = function() end,
    request = function(_, info) table.insert(told, info.ok and "ok" or info.kind) end,
    fell_back = function(_, info) table.insert(told, "fell back at " .. info.url) end,
  }

  -- A world in which every transfer gives what `serve` says, or this status.
  local function world(serve, opts)
    if type(serve) == "number" then
      local status = serve
      serve = function() return { status = status } end
    end
    w = fake_host.world { serve = serve }
    api = w.client(opts)
    told = {}
  end

  local function fetch(given, client)
    return w.run(function()
      local res, err = (client or api):fetch(given, observer)
      return res, err
    end)
  end

  -- What a fetch that fails gives when the function returns these values.
  local function falling(...)
    local values = { n = select("#", ...), ... }
    world(404)
    return fetch { url = "https://a/x", fallback = function()
      return unpack(values, 1, values.n)
    end }
  end

  it("is asked when a request failed for good, with its error and the request", function()
    local seen = {}
    local function note(...)
      seen[#seen + 1] = { ... }
      return { json = { 1 } }
    end
    world(503, { retry = { attempts = 3 } })
    local request = { url = "https://a/x", fallback = note }
    local res = fetch(request)
    assert.same({ 200, "[1]", true, "https://a/x", 3 },
      { res.status, res.body, res.fallback, res.url, res.attempts })
    assert.same({ 1, "http", 503, 3 }, { #seen, seen[1][1].kind, seen[1][1].status,
      seen[1][1].attempts })
    assert.equal(request, seen[1][2])
    assert.equal(3, #w.host.ledger)
    assert.same({ "http", "fell back at https://a/x" }, told)

    world(404, { fallback = note })
    fetch "https://a/y"
    assert.equal("https://a/y", seen[2][2])
  end)

  it("is not asked when there is an answer", function()
    local function never() error "asked" end
    world(200, { fallback = never })
    assert.is_nil(fetch("https://a/").fallback)
    assert.same({ "ok" }, told)
    world(404, { fallback = never })
    assert.equal(404, fetch({ url = "https://a/", accept = "any" }).status)
  end)

  it("is asked whatever the failure", function()
    local function note(err) return nil, errors.new(err.kind, "as it was: " .. err.message) end
    for _, answer in ipairs { { fault = "reset", message = "x" }, { after = 100 },
      { status = 429, head = "Retry-After: 9999\r\n" },
      { status = 302, head = "Location: x:y\r\n" } } do
      world(function()
        local copy = {}
        for k, v in pairs(answer) do copy[k] = v end
        return copy
      end, { fallback = note, retry = { attempts = 2 } })
      local _, err = fetch { url = "https://a/", timeout = { total = 50 } }
      assert.matches("^as it was: ", err.message)
    end
    world(200, { fallback = note })
    local _, err = fetch "no url"
    assert.same({ "invalid", "as it was:" }, { err.kind, err.message:match "^as it was:" })
    _, err = fetch { url = "no url", fallback = function() return nil, "mine" end }
    assert.same({ "script", "mine" }, { err.kind, err.message })
    assert.equal("invalid", select(2, fetch { url = "no url", fallback = false }).kind)
  end)

  it("is a request's instead of the client's; false is none", function()
    world(404, { fallback = function() return { body = "client" } end })
    assert.equal("client", fetch("https://a/").body)
    assert.equal("mine",
      fetch({ url = "https://a/", fallback = function() return { body = "mine" } end }).body)
    assert.equal("http", select(2, fetch({ url = "https://a/", fallback = false })).kind)
  end)

  it("makes a response of a table", function()
    local res = falling { status = 203, body = "abc", headers = { ["Content-Type"] = "text/x" } }
    assert.same({ 203, "abc", "text/x", true }, { res.status, res.body,
      res.headers["content-type"], res.fallback })
    res = falling { json = { a = json.null } }
    assert.same({ 200, '{"a":null}' }, { res.status, res.body })
    assert.equal(json.null, res:json().a)
    res = falling {}
    assert.same({ 200, "", true }, { res.status, res.body, res.ok })
    assert.is_nil(res.from_cache)
    local lines = {}
    for line in falling({ body = "a\nb" }):lines() do lines[#lines + 1] = line end
    assert.same({ "a", "b" }, lines)
  end)

  it("leaves the error as it is, or gives another", function()
    for _, values in ipairs { {}, { nil } } do
      local res, err = falling(unpack(values))
      assert.is_nil(res)
      assert.same({ "http", 404, 1 }, { err.kind, err.status, err.attempts })
      assert.same({ "http" }, told)
    end
    local other = errors.new("validation", "not today")
    assert.equal(other, select(2, falling(nil, other)))
    local _, err = falling(nil, "no copy")
    assert.equal("script: no copy (GET https://a/x)", tostring(err))
  end)

  it("may not return anything else", function()
    for _, case in ipairs {
      { 5, "fallback: must return a table such as { json = … }, a response, or nil and an error; "
        .. "it returned a number" },
      { false, "it returned a boolean" },
      { { { id = 1 } }, "fallback: unknown option [1]" },
      { { text = "x" }, 'fallback: unknown option "text"' },
      { { status = 99 }, 'fallback: "status" must be at least 100' },
      { { json = { 1 }, body = "x" }, "fallback: json and body exclude each other" },
      { { json = print }, "fallback: " },
    } do
      local ok, message = pcall(falling, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
  end)

  it("may wait and fetch, with no slot held, and give what it got", function()
    world(function(spec)
      return { status = spec.url:find "//a" and 503 or 200, body = "mirror" }
    end, { concurrency = 1, retry = false })
    local res = fetch { url = "https://a/x", fallback = function(err)
      assert.equal(0, api.pool:state().active)
      w.orc.sleep(5)
      return api:fetch((err.url:gsub("//a", "//b")))
    end }
    assert.same({ "mirror", "https://b/x", true }, { res.body, res.url, res.fallback })
  end)

  it("is not asked for what it fetches itself", function()
    local asked = 0
    world(503, { retry = false, fallback = function(err)
      asked = asked + 1
      local res, other = api:fetch "https://b/"
      assert.equal("http", other.kind)
      return res, err
    end })
    assert.equal("https://a/", select(2, fetch "https://a/").url)
    assert.equal(1, asked)
    assert.equal("https://a/", select(2, fetch "https://a/").url) -- but for the next one it is
    assert.equal(2, asked)
    -- Two clients that would ask each other for ever.
    local other
    world(503, { retry = false, fallback = function() return other:fetch "https://b/" end })
    other = w.client { retry = false, fallback = function() return api:fetch "https://a/" end }
    assert.equal("https://a/", select(2, fetch "https://a/").url)
    assert.equal(3, #w.host.ledger)
  end)

  it("raises as other functions of the script do", function()
    for _, timeout in ipairs { 30, { total = 60 } } do
      world(404)
      local ok, raised = pcall(fetch, { url = "https://a/", timeout = timeout,
        fallback = function() error "oh" end })
      assert.is_false(ok)
      assert.matches("fallback_spec.lua:%d+: oh\n.*in function 'error'\n.*fallback_spec.lua",
        raised)
    end
    -- and is asked again by a task that went on
    world(404)
    w.run(function()
      pcall(api.fetch, api, { url = "https://a/", fallback = function() error "oh" end })
      assert.equal("x", api:fetch({ url = "https://a/", fallback = function()
        return { body = "x" }
      end }).body)
    end)
  end)

  it("is not asked when the task was cancelled, nor for misuse", function()
    local function never() error "asked" end
    world(function() return { after = 100 } end, { fallback = never })
    local _, err = w.run(w.orc.deadline, 5, function() return api:fetch "https://a/" end)
    assert.matches("^the deadline", err.message)
    local ok, message = pcall(fetch, { url = "https://a/", retires = 5 })
    assert.is_false(ok)
    assert.matches('unknown option "retires"', message)
  end)

  it("is outside the total timeout", function()
    world(503, { timeout = { total = 2 }, retry = { jitter = false, wait_initial = 5 } })
    local res = fetch { url = "https://a/", fallback = function(err)
      assert.equal("timeout", err.kind)
      w.orc.sleep(10)
      return { body = "late" }
    end }
    assert.same({ "late", 12 }, { res.body, w.at() })
  end)

  it("shows no secrets", function()
    local key = secret.value "fallback-spec-key"
    world(404)
    local res = fetch { url = "https://a/" .. key, fallback = function() return {} end }
    assert.equal("response 200 from https://a/***", tostring(res))
  end)
end)
