local fake_host = require "fake_host"

describe("a body that is saved", function()
  local w, dir

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    assert(os.execute("mkdir " .. dir) == 0)
  end)

  after_each(function() os.execute("rm -r " .. dir) end)

  local function write(name, text)
    local file = assert(io.open(dir .. "/" .. name, "wb"))
    file:write(text)
    file:close()
  end

  -- The files there are, with what is in them.
  local function files()
    local found = {}
    local list = assert(io.popen("ls -A " .. dir))
    for name in list:lines() do
      local file = assert(io.open(dir .. "/" .. name, "rb"))
      found[name] = file:read "*a"
      file:close()
    end
    list:close()
    return found
  end

  -- Fetches from a host that saves the n-th text at the n-th transfer, as C does.
  local function fetch(texts, request)
    w = fake_host.world {
      serve = function(spec, n)
        local text = texts[math.min(n, #texts)]
        if type(text) == "number" then return { status = text } end
        local file = assert(io.open(spec.save, "wb"))
        file:write(text)
        file:close()
        return {}
      end,
    }
    local api = w.client { retry = { attempts = 3 } }
    request.url, request.save = "https://a/", dir .. "/file"
    return w.run(function()
      local res, err = api:fetch(request)
      return res, err
    end)
  end

  local function unless_done(res)
    if res:peek(4) ~= "done" then return "retry" end
  end

  it("goes to its place at once when nobody is to see it first", function()
    fetch({ "text" }, {})
    assert.equal(dir .. "/file", w.host.ledger[1].spec.save)
    assert.same({ file = "text" }, files())
  end)

  it("waits beside it until response_action accepts it", function()
    local seen
    local res = fetch({ "busy", "done." }, { response_action = function(res)
      seen = seen or files()
      return unless_done(res)
    end })
    assert.same({ ["file.new"] = "busy" }, seen)
    assert.same({ 200, 2 }, { res.status, res.attempts })
    assert.same({ file = "done." }, files())
    assert.equal("done", res:peek(4))
  end)

  it("waits for accept, too", function()
    local _, err = fetch({ "text" }, { accept = { 404 } })
    assert.equal("http", err.kind)
    assert.same({}, files())
    fetch({ "text" }, { accept = function() return true end })
    assert.same({ file = "text" }, files())
  end)

  it("is gone when it is never accepted, and what was there stays", function()
    write("file", "old")
    for _, action in ipairs { "retry", "fail" } do
      local _, err = fetch({ "busy" }, { response_action = function() return action end })
      assert.same({ "http", 200 }, { err.kind, err.status })
      assert.same({ file = "old" }, files())
    end
    fetch({ 503, "busy", 503 }, { response_action = unless_done })
    assert.same({ file = "old" }, files())
  end)

  it("is gone when the script's function raises, or its task is cancelled", function()
    local ok, raised = pcall(fetch, { "text" }, { accept = function() error "oh" end })
    assert.is_false(ok)
    assert.matches("saved_spec.lua:%d+: oh\n.*saved_spec.lua", raised)
    assert.same({}, files())
    local _, err = fetch({ "text" }, { timeout = { total = 5 }, accept = function()
      assert.same({ ["file.new"] = "text" }, files())
      w.orc.sleep(10)
    end })
    assert.equal("timeout", err.kind)
    assert.same({}, files())
  end)

  it("goes nowhere when its place is taken", function()
    os.execute("ln -s elsewhere " .. dir .. "/file")
    local _, err = fetch({ "text" }, { accept = "any" })
    assert.same({ "invalid", "cannot_save", 1 }, { err.kind, err.fault, err.attempts })
    assert.matches("cannot write .*file: it is a symbolic link", err.message)
    os.remove(dir .. "/file")
    assert.same({}, files())
  end)

  it("takes over the permissions of what was there", function()
    local file = require "orchestrator.core.file"
    write("file", "old")
    os.execute("chmod 600 " .. dir .. "/file")
    fetch({ "text" }, { accept = "any" })
    assert.same({ file = "text" }, files())
    assert.equal(384, file.mode(dir .. "/file"))
  end)
end)
