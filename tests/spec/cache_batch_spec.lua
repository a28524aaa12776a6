local cache_batch = require "orchestrator.cache_batch"
local cache_document = require "orchestrator.cache_document"
local cache_entry = require "orchestrator.cache_entry"
local cache_quick = require "orchestrator.cache_quick"

local function entry(stamp, more)
  local e = {
    key = "k" .. stamp, url = "http://a/" .. stamp, status = 200, fields = {}, vary = {},
    size = 4, request_time = 1, response_time = 2,
    row = { stamp = stamp, used = 10.5, size = 4, text = "text" },
  }
  for name, value in pairs(more or {}) do e[name] = value end
  return e
end

-- The rows of a statement that has all values in one list.
local function grouped(statement)
  local rows = {}
  for i, value in ipairs(statement.rows) do
    local at = (i - 1) % statement.width + 1
    if at == 1 then rows[#rows + 1] = {} end
    rows[#rows][at] = value
  end
  return rows
end

-- What a batch would run, by the first words of the SQL: its rows.
local function rows_of(batch)
  local found = {}
  for _, statement in ipairs(batch:statements(1000, false)) do
    local name = statement[1]:match "^%u+ %u* ?[%l_]+" or statement[1]:match "^%u+"
    if found[name] then name = name .. " again" end
    found[name] = statement.blobs and grouped(statement) or statement.rows or true
  end
  return found
end

describe("a batch of the cache", function()
  it("is empty, and only looks whether something is too much", function()
    local batch = cache_batch.new()
    assert.is_true(batch:is_empty())
    local statements = batch:statements(1000, false)
    assert.same({ 1000, 1000 }, { statements[2][2], statements[3][2] })
    assert.equal(3, #statements)
    statements = batch:statements(1000, true)
    assert.matches("incremental_vacuum", statements[3][1])
    assert.equal(4, #statements)
  end)

  it("puts", function()
    local batch = cache_batch.new()
    local one = entry(1)
    batch:put(one)
    batch:put(entry(2))
    assert.same({ false, 8, 2 }, { batch:is_empty(), batch.bytes, batch.count })
    local rows = rows_of(batch)["INSERT INTO bodies"]
    assert.equal(2, #rows)
    assert.same({ "text", "k1", 1, "http://a/1" }, { unpack(rows[1], 1, 4) })
    assert.equal(10, rows[1][6])
    local waiting = batch:entries("k1")[1]
    assert.same({ one.key, one.url, 200, "text", 1 },
      { waiting.key, waiting.url, waiting.status, waiting.row.text, waiting.row.stamp })
    assert.is_nil(batch:entries "k3")
  end)

  it("puts several for a key, and gives the newest first", function()
    local batch = cache_batch.new()
    for i = 1, 3 do batch:put(entry(i, { key = "k" })) end
    batch:remove("k", 2)
    local stamps = {}
    for i, one in ipairs(batch:entries "k") do stamps[i] = one.row.stamp end
    assert.same({ 3, 1 }, stamps)
  end)

  it("is full when there is much of it", function()
    local batch = cache_batch.new()
    batch:put(entry(1))
    assert.is_false(batch:is_full { count = 2, bytes = 5 })
    assert.is_true(batch:is_full { count = 1, bytes = 5 })
    assert.is_true(batch:is_full { count = 2, bytes = 4 })
  end)

  it("takes out what is undone", function()
    local batch = cache_batch.new()
    for i = 1, 3 do batch:put(entry(i)) end
    batch:put(entry(4, { url = "http://a/3" }))
    batch:remove("k1", 1)
    batch:void "http://a/3"
    for _, key in ipairs { "k1", "k3", "k4" } do assert.same({}, batch:entries(key)) end
    assert.equal(4, batch.bytes)
    local rows = rows_of(batch)
    assert.equal("k2", rows["INSERT INTO bodies"][1][2])
    assert.equal(1, #rows["INSERT INTO bodies"])
    assert.same({ { "http://a/3" } }, rows["DELETE FROM entries"])
    batch:put(entry(5, { url = "http://a/3" })) -- after that
    assert.equal(2, #rows_of(batch)["INSERT INTO bodies"])
  end)

  it("removes what is stored", function()
    local batch = cache_batch.new()
    batch:remove("k", 7)
    batch:remove("k", 7)
    assert.same({ { { blob = "k" }, 7 } }, rows_of(batch)["DELETE FROM entries"])
    assert.is_true(batch:hides(7, "http://a/"))
    assert.is_false(batch:hides(8, "http://a/"))
    batch:void "http://a/"
    assert.is_true(batch:hides(8, "http://a/"))
    batch:update(entry(7)) -- it is gone
    assert.is_nil(rows_of(batch)["UPDATE entries"])
  end)

  it("updates what is stored, or waits", function()
    local batch = cache_batch.new()
    batch:put(entry(1))
    batch:update(entry(1, { status = 203 }))
    batch:update(entry(2, { status = 203 }))
    batch:update(entry(2, { status = 204 }))
    local rows = rows_of(batch)
    assert.equal(203, cache_document.decode(rows["INSERT INTO bodies"][1][5], "").status)
    assert.equal(203, batch:entries("k1")[1].status)
    rows = rows["UPDATE entries"]
    assert.equal(1, #rows)
    assert.equal(204, cache_document.decode(rows[1][3].blob, "").status)
    assert.equal(204, batch.renewed[2].status)
  end)

  it("takes over from one that was not written all but what it puts", function()
    local lost, batch = cache_batch.new(), cache_batch.new()
    lost:put(entry(1))
    lost:remove("k", 2)
    lost:spoilt("k", 3)
    lost:void "http://a/x"
    lost:update(entry(4, { status = 203 }))
    lost:update(entry(5, { status = 203 }))
    lost:use("k", 6, 20)
    batch:update(entry(5, { status = 204 }))
    batch:inherit(lost)
    assert.is_false(batch:is_empty())
    assert.is_true(batch:hides(2, "") and batch:hides(3, "") and batch:hides(0, "http://a/x"))
    assert.same({ 203, 204 }, { batch.renewed[4].status, batch.renewed[5].status })
    assert.is_nil(rows_of(batch)["INSERT INTO bodies"])
  end)
end)

describe("a document of the cache", function()
  it("is an entry without what is beside it", function()
    local e = entry(1, { range = { first = 1, last = 2 }, asked = "bytes=1-2", plain = 1.25,
      born = 0, status = 206, fields = { { "A", "\255\0:" }, { "A", "" } },
      vary = { accept = "x", ["x-a"] = "" } })
    local back = cache_document.decode(cache_document.encode(e), "http://other/")
    assert.same({ "http://other/", nil, nil }, { back.url, back.key, back.row })
    assert.same({ e.range, e.asked, 1.25, 0, e.fields, e.vary, 1, 2, 206, 4 },
      { back.range, back.asked, back.plain, back.born, back.fields, back.vary, back.request_time,
        back.response_time, back.status, back.size })
    assert.not_matches("http://a/", cache_document.encode(e))
  end)

  it("is nothing when it is spoilt", function()
    local text = cache_document.encode(entry(1, { size = 4, vary = { accept = "x" },
      fields = { { "Age", "5" }, { "ETag", '"a"' } }, range = { first = 1, last = 2 },
      status = 206 }))
    for cut = 0, #text - 1 do assert.is_nil(cache_document.decode(text:sub(1, cut), "")) end
    for at = 1, #text do -- nothing raises, whatever comes of it
      for byte = 0, 255 do
        local spoilt = text:sub(1, at - 1) .. string.char(byte) .. text:sub(at + 1)
        local e = cache_document.decode(spoilt, "")
        if e then
          assert(cache_entry.head(e, cache_entry.age(e, 5)))
          assert(cache_quick.pick({ method = "GET", fields = {} }, { e }, 5, {}) ~= true)
        end
      end
    end
  end)
end)
