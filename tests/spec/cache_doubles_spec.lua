local cache_doubles = require "orchestrator.cache_doubles"

local function entry(sent, response_time, more)
  local e = { sent = sent, response_time = response_time }
  for name, value in pairs(more or {}) do e[name] = value end
  return e
end

describe("of several responses to the same requests", function()
  local function kept(entries)
    local removed = {}
    local store = { remove = function(_, one) removed[one] = true end }
    local left = cache_doubles.without(store, entries)
    local places = {}
    for i, one in ipairs(entries) do
      local found = false
      for _, other in ipairs(left) do found = found or other == one end
      assert.are_not.equal(found, removed[one] or false)
      if found then places[#places + 1] = i end
    end
    assert.equal(#places, #left)
    return places
  end

  it("the last is kept", function()
    assert.same({ 1 }, kept { entry("", 2), entry("", 1), entry("", 2) })
    assert.same({ 2 }, kept { entry("", 2), entry("", 3), entry("", 1) })
    assert.same({ 2, 3 },
      kept { entry("a:1\n", 2), entry("a:1\n", 3), entry("a:2\n", 1), entry("a:2\n", 1) })
  end)

  it("all are that are for others, are parts, or are not known well", function()
    for _, entries in ipairs {
      { entry("a:1\n", 1), entry("a:2\n", 1), entry("", 1) },
      { entry("", 1, { on = "accept" }), entry("", 1) },
      { entry("", 1, { range = {} }), entry("", 1), entry("", 1, { range = {} }) },
      { entry(nil, 1), entry(nil, 1), entry("", 1) },
    } do
      assert.equal(#entries, #kept(entries))
    end
  end)
end)
