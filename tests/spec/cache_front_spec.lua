local cache_front = require "orchestrator.cache_front"

-- A store as the front sees it, that counts what it is asked.
local function fake_store()
  local store = { entries = {}, asked = 0, bodies = 0, calls = {}, changed = false }

  function store:add(key, url, text, long)
    local entry = { key = key, url = url, row = { size = #text, text = not long and text or nil },
      body = text }
    self.entries[key] = self.entries[key] or {}
    table.insert(self.entries[key], 1, entry)
    return entry
  end

  function store:is_changed()
    local changed = self.changed
    self.changed = false
    return changed
  end

  function store:get(key)
    self.asked = self.asked + 1
    return { unpack(self.entries[key] or {}) }
  end

  function store:body(entry)
    self.bodies = self.bodies + 1
    return entry.body
  end

  for _, name in ipairs {
    "put", "update", "remove", "void", "touch", "limit", "finish", "close",
  } do
    store[name] = function(self, ...) self.calls[#self.calls + 1] = { name, ... } end
  end
  return store
end

describe("the front of the cache", function()
  local store, front

  before_each(function()
    store = fake_store()
    front = cache_front.new(store, 100000)
  end)

  local function asks(fn)
    local before = store.asked
    fn()
    return store.asked - before
  end

  it("reads an entry once", function()
    local entry = store:add("k", "http://a/", "text")
    assert.same({ entry }, front:get "k")
    assert.equal("text", front:body(entry))
    assert.equal(0, asks(function()
      assert.same({ entry }, front:get "k")
      assert.equal("text", front:body(front:get("k")[1]))
    end))
    assert.equal(1, store.bodies)
    assert.same({ { "touch", entry } }, store.calls) -- the store is told of later uses
    assert.equal(2, asks(function() return front:get "none", front:get "none" end))
  end)

  it("reads again what this program has changed", function()
    local changes = {
      function(entry) front:put({ key = "k", url = "http://a/" }, "new", { entry }) end,
      function(entry) front:update(entry, { key = "k", url = "http://a/" }) end,
      function(entry) front:remove(entry) end,
      function() front:void "http://a/" end,
    }
    for i, change in ipairs(changes) do
      store = fake_store()
      front = cache_front.new(store, 100000)
      local entry = store:add("k", "http://a/", "text")
      store:add("k2", "http://a/", "text")
      store:add("other", "http://b/", "text")
      front:get "k"
      front:get "k2"
      front:get "other"
      change(entry)
      assert.equal(1, #store.calls)
      assert.equal(1, asks(function() front:get "k" end), i)
      assert.equal(i == 4 and 1 or 0, asks(function() front:get "k2" end))
      assert.equal(0, asks(function() front:get "other" end))
    end
  end)

  it("reads all again when another program has changed something", function()
    store:add("k", "http://a/", "text")
    front:get "k"
    store.changed = true
    assert.equal(1, asks(function() front:get "k" end))
    assert.equal(0, asks(function() front:get "k" end))
  end)

  it("keeps what was used last, within its size", function()
    for i = 1, 20 do store:add("k" .. i, "http://a/" .. i, ("x"):rep(8500)) end -- 10 have room
    for i = 1, 10 do front:get("k" .. i) end
    assert.equal(0, asks(function() front:get "k1" end))
    for i = 11, 19 do front:get("k" .. i) end
    assert.equal(0, asks(function() front:get "k1" end))
    assert.equal(1, asks(function() front:get "k2" end))
    assert.is_true(front.bytes <= 100000)
    local urls = 0
    for _ in pairs(front.urls) do urls = urls + 1 end
    assert.equal(10, urls)
  end)

  it("does not let one key have all of it", function()
    store:add("small", "http://a/s", "text")
    front:get "small"
    store:add("large", "http://a/", ("x"):rep(26000))
    assert.equal(2, asks(function() return front:get "large", front:get "large" end))
    assert.equal(0, asks(function() front:get "small" end))
    front:void "http://a/"
    front:void "http://a/s"
    assert.equal(0, front.bytes)
  end)

  it("counts a body that is read later than its entry", function()
    local entry = store:add("long", "http://a/", ("x"):rep(20000), true)
    front:get "long"
    assert.is_true(front.bytes < 10000)
    assert.equal(20000, #front:body(entry))
    assert.is_true(front.bytes > 20000)
    assert.equal(20000, #front:body(front:get("long")[1]))
    assert.equal(1, store.bodies)
    local larger = store:add("larger", "http://a/", ("x"):rep(30000), true)
    front:get "larger"
    assert.equal(30000, #front:body(larger))
    assert.is_true(front.bytes < 30000)
    front:remove(entry)
    assert.equal(0, front.bytes)
  end)

  it("does not keep a body that is gone", function()
    local entry = store:add("k", "http://a/", "text")
    entry.body = nil
    assert.is_nil(front:body(front:get("k")[1]))
    assert.is_nil(front:body { key = "k", url = "http://a/" })
  end)

  it("hands on the rest", function()
    front:limit(5)
    front:finish()
    front:close()
    assert.same({ { "limit", 5 }, { "finish" }, { "close" } }, store.calls)
  end)
end)
