local cache_entry = require "orchestrator.cache_entry"
local cache_ranges = require "orchestrator.cache_ranges"
local case = require "cache_case"

-- A 206 of "0123456789".
local function partial(first, last, fields, asked)
  fields = fields or { ETag = '"a"' }
  fields["Content-Range"] = string.format("bytes %d-%d/10", first, last)
  return case.entry(fields, {
    status = 206, size = last - first + 1,
    request = case.request { Range = asked or "bytes=1-2,4-5" },
  }), ("0123456789"):sub(first + 1, last + 1)
end

describe("storing a 206 (RFC 9111 section 3.3)", function()
  it("wants one range of bytes that is known", function()
    assert.is_true(cache_ranges.storable(partial(2, 5)))
    local function storable(fields)
      return cache_ranges.storable(case.entry(fields, { status = 206 }))
    end
    assert.is_false(storable {})
    assert.is_false(storable { ["Content-Type"] = "multipart/byteranges; boundary=x" })
    assert.is_false(storable { ["Content-Range"] = "bytes 0-9/10", ["Content-Encoding"] = "gzip" })
    assert.is_true(storable { ["Content-Range"] = "bytes 0-9/10" })
  end)

  it("goes by the bytes that are there", function()
    local entry = case.entry({ ["Content-Range"] = "bytes 4-9/10" }, { status = 206, size = 5 })
    assert.same({ first = 4, last = 8, size = 10 }, entry.range)
  end)

  it("puts nothing together with what is shorter than it says", function()
    local function part(told, size)
      return case.entry({ ["Content-Range"] = told, ["Content-Length"] = tostring(size),
        ETag = '"a"' }, { status = 206, size = size })
    end
    local short = part("bytes 5-9/10", 4)
    assert.is_nil(cache_ranges.combined(part("bytes 0-4/*", 5), "01234", short, "5678"))
    assert.is_nil(cache_ranges.combined(short, "5678", part("bytes 0-4/*", 5), "01234"))
    local whole = cache_ranges.combined(part("bytes 0-4/*", 5), "01234", part("bytes 5-9/10", 5),
      "56789")
    assert.equal(200, whole.status)
  end)

  it("takes a whole message that is to run to the end for the end, though it is shorter", function()
    local function range(told, fields)
      fields["Content-Range"] = told
      return case.entry(fields, { status = 206, size = 5 }).range
    end
    for _, name in ipairs { "Content-Length", "Transfer-Encoding" } do
      local whole = { [name] = name == "Content-Length" and "5" or "chunked" }
      assert.same({ first = 4, last = 8, size = 9 }, range("bytes 4-9/10", whole))
      assert.same({ first = 4, last = 8, size = 11 }, range("bytes 4-9/11", whole))
      assert.same({ first = 4, last = 8 }, range("bytes 4-9/*", whole))
      assert.same({ first = 5, last = 9, size = 10 }, range("bytes 5-9/10", whole))
    end
    assert.same({ first = 4, last = 8, size = 10 }, range("bytes 4-9/10", {}))
  end)
end)

describe("answering a range (RFC 9110 section 14)", function()
  local function part(entry, body, range)
    local found = cache_ranges.part(entry, range)
    if not found then return nil end
    if not found.from then return body, "all" end
    local of = cache_ranges.of(entry, found)
    assert.equal(206, of.status)
    assert.equal(tostring(of.size), cache_entry.get(of, "content-length"))
    return body:sub(found.from, found.to), cache_entry.get(of, "content-range")
  end

  it("is done out of a whole body", function()
    local entry = case.entry { ["Content-Length"] = "10", ["Content-MD5"] = "m" }
    local function of(range) return { part(entry, "0123456789", range) } end
    assert.same({ "01", "bytes 0-1/10" }, of "bytes=0-1")
    assert.same({ "123456789", "bytes 1-9/10" }, of "bytes=1-")
    assert.same({ "9", "bytes 9-9/10" }, of "bytes=-1")
    assert.same({ "89", "bytes 8-9/10" }, of "bytes=8-99")
    for _, range in ipairs { "bytes=10-", "bytes=0-1,3-4", "items=0-1" } do
      assert.same({}, of(range)) -- the server's to answer
    end
    assert.is_nil(cache_entry.get(cache_ranges.of(entry, { from = 1, to = 2 }), "content-md5"))
  end)

  it("is done out of a part that has all of it", function()
    local entry, body = partial(2, 5)
    assert.same({ "345", "bytes 3-5/10" }, { part(entry, body, "bytes=3-5") })
    for _, range in ipairs { "bytes=1-3", "bytes=3-6", "bytes=3-", "bytes=-8" } do
      assert.is_nil(part(entry, body, range))
    end
    entry, body = partial(5, 9)
    assert.same({ "789", "bytes 7-9/10" }, { part(entry, body, "bytes=-3") })
    assert.same({ "6789", "bytes 6-9/10" }, { part(entry, body, "bytes=6-") })
  end)

  it("goes by the size only when it is known", function()
    local entry = case.entry({ ["Content-Range"] = "bytes 2-5/*" }, { status = 206, size = 4 })
    assert.same({ "34", "bytes 3-4/*" }, { part(entry, "2345", "bytes=3-4") })
    assert.is_nil(part(entry, "2345", "bytes=3-"))
    assert.is_nil(part(entry, "2345", "bytes=-1"))
  end)

  it("gives the server's own answer to the same question", function()
    local entry, body = partial(4, 9, {}, "bytes=-6")
    assert.same({ body, "all" }, { part(entry, body, "bytes=-6") })
    entry.range.last = 8
    assert.same({ body, "all" }, { part(entry, body, "bytes=-6") })
  end)

  it("is not done where there are no ranges", function()
    local coded = case.entry { ["Content-Encoding"] = "gzip" }
    assert.is_nil(cache_ranges.part(coded, "bytes=0-1"))
    assert.same({}, cache_ranges.part(case.entry({}, { status = 404 }), "bytes=0-1"))
  end)
end)

describe("completing a part (RFC 9111 section 3.3)", function()
  it("asks for what is missing at the end, and all of it if it is not the same any more", function()
    local entry = partial(0, 4)
    local added, of = cache_ranges.rest(case.request(), { entry })
    assert.same({ Range = "bytes=5-", ["If-Range"] = '"a"', ["Accept-Encoding"] = "identity" },
      added)
    assert.equal(entry, of)
  end)

  it("is not tried without a strong validator, without the beginning, or for a HEAD", function()
    assert.is_nil(cache_ranges.rest(case.request(), { (partial(0, 4, {})) }))
    assert.is_nil(cache_ranges.rest(case.request(), { (partial(0, 4, { ETag = 'W/"a"' })) }))
    assert.is_nil(cache_ranges.rest(case.request(), { (partial(1, 4)) }))
    assert.is_nil(cache_ranges.rest(case.request(), { case.entry { ETag = '"a"' } }))
    assert.is_nil(cache_ranges.rest(case.request({}, "HEAD"), { (partial(0, 4)) }))
    assert.is_nil(cache_ranges.rest(case.request { Range = "bytes=7-" }, { (partial(0, 4)) }))
  end)
end)

describe("combining parts (RFC 9110 section 15.3.7.3)", function()
  local function combine(a, b, c, d, tag)
    local old, old_body = partial(a, b, { ETag = '"a"', ["X-A"] = "1", ["X-B"] = "1" })
    local new, new_body = partial(c, d, { ETag = tag or '"a"', ["X-A"] = "2" })
    old.hash = "of the old"
    return cache_ranges.combined(old, old_body, new, new_body)
  end

  it("makes a whole of parts that are all of it", function()
    for _, parts in ipairs { { 0, 4, 5, 9 }, { 5, 9, 0, 4 }, { 0, 6, 3, 9 }, { 3, 9, 0, 6 } } do
      local entry, body = combine(unpack(parts))
      assert.same({ 200, "0123456789", 10 }, { entry.status, body, entry.size })
      assert.is_nil(entry.range or entry.asked or entry.hash)
      assert.is_nil(cache_entry.get(entry, "content-range"))
      assert.equal("10", cache_entry.get(entry, "content-length"))
    end
  end)

  it("makes a larger part of others", function()
    local entry, body = combine(1, 3, 4, 6)
    assert.same({ 206, "123456", "bytes 1-6/10" },
      { entry.status, body, cache_entry.get(entry, "content-range") })
    assert.same({ first = 1, last = 6, size = 10 }, entry.range)
    entry, body = combine(1, 8, 3, 4)
    assert.same({ "12345678", 1, 8 }, { body, entry.range.first, entry.range.last })
  end)

  it("takes the newer fields, and keeps the others (RFC 9111 section 3.4)", function()
    local entry = combine(0, 4, 5, 9)
    assert.same({ "2", "1" }, { cache_entry.get(entry, "x-a"), cache_entry.get(entry, "x-b") })
  end)

  it("wants the same strong validator, the same size and no gap", function()
    assert.is_nil(combine(0, 4, 5, 9, '"b"'))
    assert.is_nil(combine(0, 4, 6, 9))
    assert.is_nil(combine(6, 9, 0, 4))
    local weak, body = partial(0, 4, { ETag = 'W/"a"' })
    assert.is_nil(cache_ranges.combined(weak, body, partial(5, 9, { ETag = 'W/"a"' })))
    local old, old_body = partial(0, 4)
    old.range.size = 11
    assert.is_nil(cache_ranges.combined(old, old_body, partial(5, 9)))
  end)
end)
