local cache_case = require "cache_case"
local cache_explain = require "orchestrator.cache_explain"

local NOW = cache_case.NOW

describe("cache_explain", function()
  local function explained(fields, seconds, more)
    return cache_explain.explain(cache_case.entry(fields, more), NOW + (seconds or 0))
  end

  it("tells whether it may be used, and its age", function()
    local told = explained({ ["Cache-Control"] = "max-age=60", Age = "10" }, 20)
    assert.same({ "fresh", 30, 30 }, { told.use, told.age, told.left })
    told = explained({ ["Cache-Control"] = "max-age=60", ETag = '"a"' }, 100)
    assert.same({ "ask", 100, -40 }, { told.use, told.age, told.left })
    told = explained({ ["Cache-Control"] = "max-age=60, stale-while-revalidate=50" }, 100)
    assert.same({ "stale", -40 }, { told.use, told.left })
    told = explained({ ["Cache-Control"] = "max-age=60, no-cache" }, 1)
    assert.same({ "ask", 59 }, { told.use, told.left })
  end)

  it("does not mind what it depends on, nor that it is a part", function()
    for _, more in ipairs {
      { request = cache_case.request { ["Accept-Language"] = "de" } },
      { status = 206 },
    } do
      local fields = { ["Cache-Control"] = "max-age=60", Vary = "Accept-Language",
        ["Content-Range"] = "bytes 0-9/100" }
      assert.equal("fresh", explained(fields, 0, more).use)
    end
  end)

  -- RFC 9111 section 4.2.1: which of them tells; then RFC 9111 section 5.2.2, RFC 5861, RFC 8246.
  for fields, lines in pairs {
    [{ ["Cache-Control"] = "max-age=60" }] = { "^max%-age: fresh for 60 s$" },
    [{ ["Cache-Control"] = "max-age=60, immutable", Expires = "0" }] = {
      "^max%-age: ", "^immutable: " },
    [{ ["Cache-Control"] = "max-age=x" }] = { "^max%-age, which is malformed: never fresh$" },
    [{ Expires = cache_case.date(30), Date = cache_case.date(0) }] = { "^Expires: fresh for 30 s" },
    [{ Expires = "0" }] = { "^Expires, which is no date: never fresh$" },
    [{ ["Last-Modified"] = cache_case.date(-1000) }] = {
      "^nothing tells.* for 100 s, a tenth of the time since Last%-Modified$",
      "^the server can confirm it by Last%-Modified$" },
    [{}] = { "^nothing tells.*: not at all, but for clients with a ttl$",
      "^no ETag, no Last%-Modified: " },
    [{ ["Cache-Control"] = "no-cache", ETag = '"a"', ["Last-Modified"] = cache_case.date(0) }] = {
      "^nothing tells", "^no%-cache: the server is asked before each use$",
      "^the server can confirm it by ETag and Last%-Modified$" },
    [{ ["Cache-Control"] = 'max-age=1, no-cache="x-id", stale-if-error=9' }] = {
      "^max%-age", "^no%-cache for some fields", "^stale%-if%-error: used stale for 9 s when " },
    [{ ["Cache-Control"] = "max-age=1, must-revalidate, stale-if-error=9" }] = {
      "^max%-age", "^must%-revalidate: never used stale$", "^no ETag" },
    [{ ["Cache-Control"] = "max-age=1, stale-while-revalidate=7, stale-if-error=9" }] = {
      "^max%-age", "^stale%-while%-revalidate: used stale for 7 s while ", "^stale%-if%-error: " },
  } do
    it("says why: " .. table.concat(lines, " "), function()
      local told = explained(fields)
      for i, pattern in ipairs(lines) do assert.matches(pattern, told.because[i]) end
      local more = #told.because - #lines
      assert(more == 0 or more == 1, table.concat(told.because, "\n"))
    end)
  end
end)
