-- Faults: the table of the program, what C reports, what retry.lua makes of it and what the manual
-- prints are the same.

local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local retry = require "orchestrator.retry"

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local AGAIN = { [true] = "yes", [false] = "no" }

-- A fault as a row of the manual.
local function printed(fault)
  local again = AGAIN[fault.retried] or "`" .. fault.retried .. "`"
  return ("| `%s` | `%s` | %s | %s |"):format(fault.id, fault.kind, again, fault.text)
end

describe("faults", function()
  it("are named once, with a known kind and a text", function()
    local kinds, seen = {}, {}
    for _, kind in ipairs(errors.kinds) do kinds[kind] = true end
    for _, fault in ipairs(faults.list) do
      assert.is_true(kinds[fault.kind], fault.id)
      assert.is_nil(seen[fault.id], fault.id)
      assert.matches("^[a-z][a-z0-9_]+$", fault.id)
      assert.matches("^.+[^.]$", fault.text)
      assert.equal(fault, faults.get(fault.id))
      seen[fault.id] = true
    end
    assert.has_error(function() faults.get "no_such_fault" end)
  end)

  it("are in the manual as they are", function()
    local section = read("lua/README.md"):match "\n### Faults\n(.-)\n##"
    assert(section, "lua/README.md has no section about faults")
    local rows, expected = {}, {}
    for row in section:gmatch "\n(| `[^\n]+)" do rows[#rows + 1] = row end
    for i, fault in ipairs(faults.list) do expected[i] = printed(fault) end
    assert.same(expected, rows)
  end)

  it("are tried again as they say", function()
    local policy = retry.policy { jitter = false }
    for _, fault in ipairs(faults.list) do
      local attempt = {
        attempt = 1, method = "GET", kind = fault.kind, fault = fault.id, wall = 0,
        random = function() return 0 end, status = fault.kind == "http" and 404 or nil,
      }
      local wait, reason = retry.decide(policy, attempt)
      if fault.retried == true then
        assert.equal(0.5, wait, fault.id)
        attempt.method = "POST"
        wait, reason = retry.decide(policy, attempt)
        assert.equal("method", reason, fault.id)
      else
        assert.equal("permanent", reason, fault.id)
      end
      assert.is_nil(wait)
    end
    local wait = retry.decide(policy,
      { attempt = 1, method = "GET", kind = "http", fault = "http_status", status = 503, wall = 0 })
    assert.equal(0.5, wait)
  end)

  it("are tried again for the kinds that the manual names", function()
    local kinds, listed = {}, {}
    for _, fault in ipairs(faults.list) do
      if fault.retried == true then kinds[fault.kind] = true end
    end
    local text = read("lua/README.md"):gsub("\n", " ")
    local sentence = text:match "are tried again when their kind is (.-),? with the exceptions"
    for kind in sentence:gmatch "`([a-z]+)`" do listed[kind] = true end
    assert.same(listed, kinds)
  end)

  it("have a row for every name C reports", function()
    local declared, named = {}, {}
    for name in read("src/fault.h"):gmatch "\n    FAULT_([A-Z_0-9]+)," do
      declared[#declared + 1] = name:lower()
    end
    for constant, name in read("src/fault.c"):gmatch "%[FAULT_([A-Z_0-9]+)%] = \"([^\"]+)\"" do
      assert.equal(constant:lower(), name)
      assert(faults.get(name))
      named[#named + 1] = name
    end
    table.sort(declared)
    named[#named + 1] = "none"
    table.sort(named)
    assert.same(declared, named)
    assert.is_true(#named > 25)
  end)

  it("have a row for every name the Lua half uses", function()
    local pipe = assert(io.popen "grep -how 'fault = \"[a-z_]*\"' lua/orchestrator/*.lua")
    local count = 0
    for name in pipe:read("*a"):gmatch '"([a-z_]+)"' do
      assert(faults.get(name))
      count = count + 1
    end
    pipe:close()
    assert.is_true(count > 5)
  end)
end)
