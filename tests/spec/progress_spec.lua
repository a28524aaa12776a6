local progress = require "orchestrator.progress"

describe("progress", function()
  local now, out, said

  local function new(columns, quiet)
    now, out, said = 0, {}, {}
    return progress.new {
      now = function() return now end,
      write = function(text) out[#out + 1] = text end,
      columns = columns and function() return columns end,
      say = not quiet and function(text) said[#said + 1] = text end or nil,
    }
  end

  local function meter(fields)
    local m = { name = "job", done = 0, total = nil, exact = nil, in_flight = 0, failed = 0 }
    for k, v in pairs(fields or {}) do m[k] = v end
    return m
  end

  it("is a line drawn over itself on a terminal", function()
    local p = new(80)
    local m = meter { total = 50, exact = true, in_flight = 16 }
    p:update(m)
    assert.same({ "\rjob  0/50  0.0/s  16 in flight\27[K" }, out)
    now = 2
    m.done, m.failed = 30, 1
    p:update(m)
    assert.equal("\rjob  30/50  15/s  16 in flight  1 failed  ETA 1s\27[K", out[2])
    p:finish(m)
    assert.equal("\r\27[K", out[3])
    p:finish(m)
    assert.equal(3, #out)
    assert.same({}, said)
  end)

  it("is drawn ten times a second at most", function()
    local p = new(80)
    local m = meter()
    for i = 0, 99 do
      now = i / 100
      p:update(m)
    end
    assert.is_true(#out >= 9 and #out <= 10)
  end)

  it("is cut to the width of the terminal, by characters", function()
    local p = new(12)
    p:update(meter { name = "größe€" })
    assert.equal("\rgröße€  0 d\27[K", out[1])
    p = new(1)
    p:update(meter())
    assert.equal("\rj\27[K", out[1])
  end)

  it("gives way to other text", function()
    local p = new(80)
    p:write "first\n"
    p:update(meter())
    out = {}
    p:write "a message\n"
    assert.same({ "\r\27[K", "a message\n", "\rjob  0 done  0.0/s  0 in flight\27[K" }, out)
  end)

  it("shows every run that goes on", function()
    local p = new(80)
    local a, b = meter { name = "a" }, meter { name = "b" }
    p:update(a)
    now = 1
    p:update(b)
    assert.equal("\ra  0 done  0.0/s  0 in flight | b  0 done  0.0/s  0 in flight\27[K", out[2])
    p:finish(a)
    now = 2
    p:update(b)
    assert.equal("\rb  0 done  0.0/s  0 in flight\27[K", out[#out])
  end)

  it("is nothing any more when the records need the terminal", function()
    for _, columns in ipairs { 80, false } do
      local p = new(columns or nil)
      local m = meter()
      p:update(m)
      p:hide()
      out = {}
      for i = 1, 30 do
        now = i
        p:update(m)
      end
      p:write "text\n"
      p:finish(m)
      assert.same({ "text\n" }, out)
      assert.same({}, said)
    end
  end)

  it("is a message every ten seconds elsewhere", function()
    local p = new()
    local m = meter { total = 5000 }
    for i = 0, 35 do
      now = i
      m.done = i * 100
      p:update(m)
    end
    assert.same({}, out)
    assert.equal(3, #said)
    assert.equal("job  1,000/~5,000  100/s  0 in flight  ETA 40s", said[1])
    p:write "text\n"
    assert.same({ "text\n" }, out)
  end)

  it("is nothing when it is to be quiet", function()
    local p = new(nil, true)
    for i = 0, 100 do
      now = i
      p:update(meter())
    end
    p:finish(meter())
    assert.same({}, out)
  end)

  it("takes the rate of a young run from all of its time", function()
    local p, m = new(80), meter { total = 100, exact = true }
    for eighth = 0, 11 do
      now = eighth / 8
      m.done = eighth < 8 and 0 or 10 * (eighth - 7) -- the first answers take a second
      p:update(m)
      if eighth == 7 then assert.equal("\rjob  0/100  0.0/s  0 in flight\27[K", out[#out]) end
    end
    assert.equal("\rjob  40/100  29/s  0 in flight  ETA 2s\27[K", out[#out])
    -- A run that starts fast does not promise to stay so.
    p, m = new(80), meter { total = 1000, exact = true }
    for eighth = 0, 32 do
      now = eighth / 8
      m.done = eighth > 0 and 100 or 0
      p:update(m)
    end
    assert.equal("\rjob  100/1,000  25/s  0 in flight  ETA 36s\27[K", out[#out])
  end)

  it("follows a rate that changes", function()
    new(80)
    local p, m = new(80), meter { total = 1e6 }
    for i = 1, 100 do
      now = i / 2
      m.done = m.done + (i <= 50 and 5 or 50)
      p:update(m)
    end
    assert.matches("  %d+/s", out[#out])
    assert.is_near(100, tonumber(out[#out]:match "(%d+)/s"), 2)
  end)

  it("shows names as they may be shown", function()
    assert.matches("^a\\x1bb  ", progress.line(meter { name = "a\27b" }))
  end)
end)
