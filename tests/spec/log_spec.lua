local json = require "orchestrator.json"
local log = require "orchestrator.log"
local secret = require "orchestrator.secret"

local WALL = 1700000000.9

local function logger(opts)
  local out = {}
  opts.write = function(text) out[#out + 1] = text end
  opts.wall = function() return WALL end
  return log.new(opts), out
end

describe("log", function()
  it("shows what is as bad as its level, or worse", function()
    for at, level in ipairs(log.levels) do
      local l, out = logger { level = level }
      for _, name in ipairs(log.levels) do l[name](l, name) end
      assert.equal(#log.levels - at + 1, #out)
    end
    local l, out = logger {}
    l:debug "not by default"
    l:info "by default"
    assert.equal(1, #out)
  end)

  it("writes lines with their fields sorted", function()
    local l, out = logger {}
    l:warn("a thing", { b = 2, a = "x" })
    assert.equal(os.date("%H:%M:%S", 1700000000) .. " warn a thing a=x b=2\n", out[1])
  end)

  it("writes JSON", function()
    local l, out = logger { format = "json" }
    l:error("a\nthing", { n = 2, text = "x", err = setmetatable({}, { __tostring = function()
      return "as text"
    end }) })
    assert.same({ at = "2023-11-14T22:13:20Z", level = "error", message = "a\\nthing", n = 2,
      text = "x", err = "as text" }, json.decode(out[1]))
    assert.equal("\n", out[1]:sub(-1))
  end)

  it("lets nothing through that a terminal would obey, and no secret", function()
    secret.value "l0g-s3cr3t"
    for _, format in ipairs { "text", "json" } do
      local l, out = logger { format = format }
      l:info("\27[2J l0g-s3cr3t", { url = "https://u:p4ss@h/\r\255l0g-s3cr3t" })
      assert.not_matches("[%z\1-\9\11-\31\128-\255]", out[1])
      assert.not_matches("s3cr3t", out[1])
      assert.not_matches("p4ss", out[1])
      assert.matches("h/", out[1], 1, true)
    end
  end)

  it("has colours if they are wanted", function()
    local l, out = logger { colour = true }
    l:error "red"
    l:info "plain"
    assert.matches("^\27%[31m.*red\27%[0m\n$", out[1])
    assert.not_matches("\27", out[2])
  end)
end)
