local cache_document = require "orchestrator.cache_document"
local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local cache_quick = require "orchestrator.cache_quick"
local case = require "cache_case"
local fake_host = require "fake_host"

local NOW = case.NOW

-- One of a list; each may be nothing.
local function chooser(random)
  return function(...)
    local n = select("#", ...)
    return (select(math.floor(random() * n) + 1, ...))
  end
end

describe("the short way", function()
  it("is never another than the long way", function()
    local random = fake_host.generator(7)
    local one_of = chooser(random)
    local quick, long = 0, 0
    for _ = 1, 8000 do
      local entries = {}
      for i = 1, one_of(1, 1, 1, 1, 2) do
        entries[i] = cache_quick.prepared(case.entry({
          ["Cache-Control"] = one_of(nil, "max-age=60", "max-age=60", "private", "no-cache",
            "max-age=60, must-revalidate", 'no-cache="x-a", max-age=9', "max-age=60, immutable"),
          Age = one_of(nil, nil, "7", "x"), Vary = one_of(nil, nil, "X-A", "*", "X-B, X-a"),
          Expires = one_of(nil, nil, case.date(30), "0"), Date = one_of(nil, case.date(-5)),
          ["Last-Modified"] = one_of(nil, case.date(-1000)), ETag = one_of(nil, '"a"'),
        }, { status = one_of(200, 200, 404, 301), request = case.request {
          ["X-A"] = one_of(nil, "1", "2"), ["X-B"] = one_of(nil, "1"),
        } }))
        if one_of(true, false) then
          local stored = cache_document.encode(entries[i])
          entries[i] = assert(cache_document.decode(stored, entries[i].url))
        end
      end
      local request = case.request({
        ["Cache-Control"] = one_of(nil, nil, nil, nil, "max-age=5", "no-cache"),
        Range = one_of(nil, nil, nil, "bytes=0-1"), Cookie = one_of(nil, nil, nil, "a"),
        ["X-A"] = one_of(nil, "1", "2"), ["X-B"] = one_of(nil, "1"),
        ["If-None-Match"] = one_of(nil, nil, nil, '"a"'),
      }, one_of("GET", "GET", "GET", "HEAD", "POST"))
      local opts = {
        mode = one_of(nil, "default", "force-cache", "only-if-cached", "no-cache", "reload"),
        ttl = one_of(nil, nil, 20), vary = one_of(nil, nil, nil, { "x-b" }),
      }
      local now = NOW + one_of(-5, 0, 10, 25, 55, 70)
      local entry = cache_quick.pick(request, entries, now, opts)
      local decision = cache_policy.decide(request, entries, now, opts)
      if decision.use == "fresh" then long = long + 1 end
      if entry then
        quick = quick + 1
        assert.equal("fresh", decision.use)
        assert.equal(decision.entry, entry)
        assert.is_nil(decision.not_modified or decision.background)
        assert.is_nil(decision.part and decision.part.from)
        assert.near(cache_entry.age(entry, now), entry.born + now - entry.response_time, 1e-6)
      end
    end
    assert.is_true(quick > 50, quick .. " of " .. long)
  end)

  it("is that of a plain GET, its response and its age", function()
    local entry = cache_quick.prepared(case.entry { ["Cache-Control"] = "max-age=60", Age = "10" })
    assert.same({ 50, 10, nil, "" }, { entry.plain, entry.born, entry.on, entry.sent })
    local request = case.request({}, "GET")
    assert.equal(entry, cache_quick.pick(request, { entry }, NOW + 49, {}))
    assert.is_nil(cache_quick.pick(request, { entry }, NOW + 50, {}))
    assert.equal(entry, cache_quick.pick(request, { entry }, NOW + 50, { ttl = 51 }))
    assert.is_nil(cache_quick.pick(request, {}, NOW, {}))
  end)
end)
