local cache_entry = require "orchestrator.cache_entry"
local cache_refresh = require "orchestrator.cache_refresh"
local case = require "cache_case"

local NOW = case.NOW

local function stored(fields)
  fields.Date = fields.Date or case.date(-1000)
  local entry = case.entry(fields, { request_time = NOW - 1000, response_time = NOW - 1000 })
  entry.key, entry.hash = "k", "h"
  return entry
end

local function value(entry, name)
  return entry and cache_entry.get(entry, name)
end

describe("a 304 (RFC 9111 section 4.3.4)", function()
  local function confirmed(fields, news)
    return cache_refresh.confirmed(stored(fields), case.answer(news, { status = 304 }))
  end

  it("makes the entry as young as itself", function()
    local entry = confirmed({ ETag = '"a"', Age = "500" }, { ETag = '"a"', Date = case.date(0) })
    assert.equal(0, cache_entry.age(entry, NOW))
    assert.equal(200, entry.status)
    assert.same({ "k", "h", 10 }, { entry.key, entry.hash, entry.size })
    entry = confirmed({ ETag = '"a"' }, { ETag = '"a"', Date = case.date(0), Age = "20" })
    assert.equal(20, cache_entry.age(entry, NOW))
  end)

  it("that tells no date was made now", function()
    assert.equal(0, cache_entry.age(confirmed({ ETag = '"a"' }, { ETag = '"a"' }), NOW))
  end)

  it("updates the fields it has, and no others (section 3.2)", function()
    local entry = confirmed(
      { ETag = '"a"', ["X-A"] = "1", ["X-B"] = { "1", "2" }, ["Cache-Control"] = "max-age=1" },
      { ETag = '"a"', ["x-b"] = "3", ["Cache-Control"] = "max-age=9", ["X-C"] = "4" })
    assert.same({ "1", "3", "max-age=9", "4" }, {
      value(entry, "x-a"), value(entry, "x-b"), value(entry, "cache-control"), value(entry, "x-c"),
    })
  end)

  it("does not update what is about the stored body, or the connection", function()
    local entry = confirmed(
      { ETag = '"a"', ["Content-Length"] = "10", ["Content-Encoding"] = "gzip",
        ["Content-Range"] = "x", ["Content-MD5"] = "m", ["Content-Type"] = "text/plain" },
      { ETag = '"a"', ["Content-Length"] = "0", ["Content-Encoding"] = "br",
        ["Content-Range"] = "y", ["Content-MD5"] = "n", ["Content-Type"] = "text/html",
        Connection = "X-D", ["X-D"] = "1" })
    assert.same({ "10", "gzip", "x", "m", "text/html" }, {
      value(entry, "content-length"), value(entry, "content-encoding"),
      value(entry, "content-range"), value(entry, "content-md5"), value(entry, "content-type"),
    })
    assert.is_nil(value(entry, "x-d"))
  end)

  it("with another strong validator updates nothing", function()
    assert.is_nil(confirmed({ ETag = '"a"' }, { ETag = '"b"' }))
    assert.is_nil(confirmed({ ETag = 'W/"a"' }, { ETag = '"a"' }))
    assert.is_nil(confirmed({}, { ETag = '"b"' }))
  end)

  it("with a weak one that corresponds, or with none, does", function()
    assert.is_not_nil(confirmed({ ETag = 'W/"a"' }, { ETag = 'W/"a"' }))
    assert.is_nil(confirmed({ ETag = 'W/"a"' }, { ETag = 'W/"b"' }))
    assert.is_not_nil(confirmed({ ETag = '"a"' }, {}))
    local modified = "Last-Modified"
    assert.is_not_nil(confirmed({ [modified] = case.date(-9) }, { [modified] = case.date(-9) }))
    assert.is_nil(confirmed({ [modified] = case.date(-9) }, { [modified] = case.date(-8) }))
  end)

  it("to a condition of the request itself updates only what it names", function()
    local function confirmed_by(condition, news)
      local answer = case.answer(news or {}, { status = 304, request = case.request(condition) })
      return cache_refresh.confirmed(stored { ETag = '"a"' }, answer)
    end
    assert.is_not_nil(confirmed_by { ["If-None-Match"] = '"a"' })
    assert.is_nil(confirmed_by { ["If-None-Match"] = '"a", "b"' })
    assert.is_nil(confirmed_by { ["If-None-Match"] = "*" })
    assert.is_nil(confirmed_by { ["If-Modified-Since"] = case.date(0) })
    assert.is_not_nil(confirmed_by({ ["If-None-Match"] = '"a", "b"' }, { ETag = '"a"' }))
  end)

  it("changes no entry, but makes a new one", function()
    local entry = stored { ETag = '"a"', ["X-A"] = "1" }
    cache_refresh.confirmed(entry, case.answer({ ETag = '"a"', ["X-A"] = "2" }, { status = 304 }))
    assert.equal("1", value(entry, "x-a"))
  end)
end)

describe("a 200 to HEAD (RFC 9111 section 4.3.5)", function()
  local function by_head(fields, news)
    return cache_refresh.by_head(stored(fields), case.answer(news))
  end

  it("updates what a GET would still get", function()
    local entry = by_head({ ETag = '"a"', ["Content-Length"] = "10", ["X-A"] = "1" },
      { ETag = '"a"', ["Content-Length"] = "10", ["X-A"] = "2", ["Cache-Control"] = "max-age=9" })
    assert.same({ "2", "max-age=9" }, { value(entry, "x-a"), value(entry, "cache-control") })
    assert.equal("1", value(by_head({ ["X-A"] = "1" }, {}), "x-a"))
  end)

  it("tells when it would not", function()
    assert.is_nil(by_head({ ETag = '"a"' }, { ETag = '"b"' }))
    assert.is_nil(by_head({}, { ETag = '"b"' }))
    assert.is_nil(by_head({ ["Content-Length"] = "10" }, { ["Content-Length"] = "11" }))
    assert.is_nil(by_head({ ["Last-Modified"] = case.date(-9) },
      { ["Last-Modified"] = case.date(-8) }))
  end)
end)

describe("an unsafe method (RFC 9111 section 4.4)", function()
  local function voided(fields, status)
    return cache_refresh.voided(case.answer(fields, {
      status = status, request = case.request({}, "POST", "https://a.test/dir/x?y=1"),
    }))
  end

  it("makes its own URL void, unless it failed", function()
    assert.same({ "https://a.test/dir/x?y=1" }, voided({}, 201))
    assert.same({ "https://a.test/dir/x?y=1" }, voided({}, 303))
    assert.same({}, voided({ Location = "/z" }, 404))
    assert.same({}, voided({ Location = "/z" }, 500))
  end)

  it("makes the URLs void that it names, of the same origin", function()
    assert.same({ "https://a.test/dir/x?y=1", "https://a.test/new", "https://a.test/dir/z" },
      voided({ Location = "/new#part", ["Content-Location"] = "z" }, 201))
    for _, other in ipairs {
      "https://b.test/", "http://a.test/", "https://a.test:8443/", "http://",
    } do
      assert.same({ "https://a.test/dir/x?y=1" }, voided({ Location = other }, 201))
    end
  end)
end)
