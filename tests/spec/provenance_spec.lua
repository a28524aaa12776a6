local json = require "orchestrator.json"
local provenance = require "orchestrator.provenance"

local WALL = 1700000000.9

describe("the provenance of a record", function()
  it("is the network's, or how the cache had it", function()
    local at = "2023-11-14T22:13:20Z"
    assert.same({ source = "network", age = 0, attempts = 2, fetched_at = at },
      provenance.of({ attempts = 2, head = "HTTP/1.1 200 OK\r\n\r\n" }, WALL))
    assert.same({ source = "network", age = 7, attempts = 1, fetched_at = at },
      provenance.of({ attempts = 1, head = "HTTP/1.1 200 OK\r\nAge: 7\r\n\r\n" }, WALL))
    for _, how in ipairs { "fresh", "revalidated", "stale" } do
      assert.same({ source = how, age = 60, attempts = 0, fetched_at = at }, provenance.of({
        attempts = 0, from_cache = how, age = 60.5, stored = { response_time = WALL },
      }, WALL + 99))
    end
    assert.equal("fallback", provenance.of({ attempts = 1, fallback = true }, WALL).source)
  end)

  it("is added to copies of objects, and to nothing else", function()
    local meta, one = { source = "network" }, { id = 1 }
    local list = { one, one, {}, { 1, 2 }, json.array(), "text", 5, json.null, false }
    local added, left_out = provenance.added(list, meta)
    assert.same({ { id = 1, _meta = meta }, { id = 1, _meta = meta }, { _meta = meta }, { 1, 2 },
      json.array(), "text", 5, json.null, false }, added)
    assert.equal(6, left_out)
    assert.same({ id = 1 }, one)
    assert.equal('[{"_meta":{"source":"network"},"id":1}]', json.encode { added[1] })
  end)

  it("does not go over a field of the same name", function()
    local added, err = provenance.added({ { id = 1 }, { _meta = false } }, {})
    assert.is_nil(added)
    assert.equal("validation", err.kind)
    assert.matches('record 2 has a field "_meta" of its own', err.message)
  end)
end)
