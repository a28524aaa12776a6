local errors = require "orchestrator.errors"
local scheduler = require "orchestrator.scheduler"
local stream = require "orchestrator.stream"

describe("stream", function()
  local host, sched, log, script

  -- A host that delivers what the script lists, one step a poll: {id, news} or a function.
  before_each(function()
    log, script = {}, {}
    local started = 0
    host = { time = 0, buffers = {}, sent = {} }
    function host.now() return host.time end
    function host.start(spec)
      if spec.refuse then return nil, "network", "refused" end
      started = started + 1
      return started
    end
    function host.cancel(id) log[#log + 1] = "cancel " .. id end
    function host.read(id)
      local text = host.buffers[id]
      host.buffers[id] = nil
      return text
    end
    function host.send(_, text) host.sent[#host.sent + 1] = text or "END" end
    function host.poll(timeout, deliver)
      local step = table.remove(script, 1)
      if type(step) == "function" then
        step()
      elseif step then
        deliver(step[1], step[2])
      else
        assert(timeout, "the scheduler would wait for ever")
        host.time = host.time + timeout
      end
    end
    sched = scheduler.new(host)
  end)

  local function open(spec)
    local s = stream.open(sched, spec or { stream = true }, function() log[#log + 1] = "ended" end)
    s.explain = function(result) return errors.new("network", result.message) end
    return s
  end

  local function run(fn)
    local root = sched:run(fn)
    assert.equal(0, sched.live + sched.outstanding)
    assert.is_nil(next(sched.transfers))
    if not root.ok then error(root.err.message .. (root.err.traceback or ""), 0) end
    return unpack(root.results or {}, 1, root.results and root.results.n or 0)
  end

  local HEAD = { event = "head", status = 200 }
  local DATA, WANT = { event = "data" }, { event = "want" }

  local function arrives(text)
    return function() host.buffers[1] = (host.buffers[1] or "") .. text end
  end

  it("gives the head, then the body as it comes, then its end", function()
    script = { { 1, HEAD }, arrives "ab", { 1, DATA }, arrives "cd", arrives "ef", { 1, DATA },
      { 1, { status = 200, body = "gh" } } }
    local got = { run(function()
      local s = open()
      local head = s:begin(nil, false)
      return head.status, s:read(), s:read(), s:read(), s:read(), s:read()
    end) }
    assert.same({ 200, "ab", "cdef", "gh" }, got)
    assert.same({ "ended" }, log)
  end)

  it("gives what came before the reader asked in one piece", function()
    script = { { 1, HEAD }, arrives "ab", { 1, DATA }, { 1, { status = 200, body = "ab" } } }
    assert.same({ "ab" }, { run(function()
      local s = open()
      s:begin(nil, false)
      sched:sleep(1)
      return s:read(), s:read()
    end) })
  end)

  it("can be looked at, and is still to be read", function()
    script = { { 1, HEAD }, arrives "ab", { 1, DATA }, arrives "cd", { 1, DATA }, arrives "ef",
      { 1, DATA }, { 1, { status = 200, body = "gh" } } }
    local got = { run(function()
      local s = open()
      s:begin(nil, false)
      return s:peek(1), s:peek(3), s:read(), s:read(), s:peek(9), s:excerpt(9), s:peek(9)
    end) }
    assert.same({ "a", "abc", "abcd", "ef", "gh", "gh", "" }, got)
  end)

  it("can be looked at until it is cut off", function()
    script = { { 1, HEAD }, arrives "ab", { 1, DATA },
      { 1, { fault = "truncated_body", message = "cut", body = "" } } }
    run(function()
      local s = open()
      s:begin(nil, false)
      assert.same({ "ab" }, { s:peek(2) })
      local text, err = s:peek(3)
      assert.same({ "ab", "cut" }, { text, err.message })
      assert.equal("ab", s:read())
      text, err = s:read()
      assert.same({ nil, "cut" }, { text, err.message })
    end)
  end)

  it("tells of a body that was cut off, every time", function()
    script = { { 1, HEAD }, { 1, { fault = "truncated_body", message = "cut" } } }
    run(function()
      local s = open()
      s:begin(nil, false)
      for _ = 1, 2 do
        local text, err = s:read()
        assert.is_nil(text)
        assert.equal("cut", err.message)
      end
    end)
  end)

  it("ends at once when the transfer cannot start", function()
    local result = run(function() return open({ refuse = true }):begin(nil, false) end)
    assert.same({ fault = "network", message = "refused", elapsed = 0 }, result)
    assert.same({ "ended" }, log)
  end)

  it("is given up when its task ends", function()
    script = { { 1, HEAD } }
    run(function() open():begin(nil, false) end)
    assert.same({ "cancel 1", "ended" }, log)
  end)

  it("can be handed to another task, with which it ends", function()
    script = { { 1, HEAD }, { 1, { status = 200, body = "all" } } }
    assert.equal("all", run(function()
      local child = sched:spawn(function()
        local s = open()
        s:begin(nil, false)
        s:disown()
        return s
      end)
      local s = child:await()
      s:own(sched:current())
      return s:read()
    end))
    assert.same({ "ended" }, log)
  end)

  it("is closed once, and read no more", function()
    script = { { 1, HEAD } }
    run(function()
      local s = open()
      s:begin(nil, false)
      s:close()
      s:close()
      local text, err = s:read()
      assert.is_nil(text)
      assert.equal("cancelled", err.kind)
    end)
    assert.same({ "cancel 1", "ended" }, log)
  end)

  it("sends what a function gives when it is wanted", function()
    script = { { 1, WANT }, { 1, WANT }, { 1, WANT }, { 1, { status = 201, body = "" } } }
    local given = { "one", "two" }
    local result = run(function()
      return open({ pull = true }):begin(function() return table.remove(given, 1) end, true)
    end)
    assert.equal(201, result.status)
    assert.same({ "one", "two", "END" }, host.sent)
  end)

  it("is given up when the function has an error, or raises", function()
    script = { { 1, WANT }, { 2, WANT } }
    run(function()
      local result, err = open():begin(function() return nil, "no more" end, true)
      assert.is_nil(result)
      assert.equal("no more", err)
      local s = open()
      assert.has_error(function() s:begin(function() error("boom", 0) end, true) end, "boom")
      s:close()
    end)
    assert.same({ "cancel 1", "ended", "cancel 2", "ended" }, log)
  end)

  it("has a time limit", function()
    script = { { 1, HEAD } }
    run(function()
      local s = open()
      s:begin(nil, false)
      s:limit(5, errors.new("timeout", "too late"))
      local text, err = s:read()
      assert.is_nil(text)
      assert.equal("too late", err.message)
      assert.equal(5, host.time)
    end)
  end)

  it("is read by one task at a time", function()
    script = { { 1, HEAD }, function() end, { 1, { status = 200, body = "" } } }
    run(function()
      local s = open()
      s:begin(nil, false)
      local first = sched:spawn(function() return s:read() end)
      local second = sched:spawn(function() return s:read() end)
      first:await()
      local _, err = second:await()
      assert.matches("another task reads", err.message)
    end)
  end)
end)
