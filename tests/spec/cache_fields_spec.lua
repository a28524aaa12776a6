local fields = require "orchestrator.cache_fields"

local NOW = 1700000000 -- Tue, 14 Nov 2023 22:13:20 GMT

local function list(text)
  local all = {}
  for element in fields.elements(text) do all[#all + 1] = element end
  return all
end

describe("a list (RFC 9110 section 5.6.1)", function()
  it("has elements without the white space around them", function()
    assert.same({}, list(nil))
    assert.same({}, list " , ,\t")
    assert.same({ "a", "b c", "d" }, list " a ,, b c\t,d")
  end)

  it("is not cut within quotes", function()
    assert.same({ 'a="1, 2"', "b" }, list 'a="1, 2", b')
    assert.same({ [[a="\", x"]], "b" }, list [[a="\", x", b]])
    assert.same({ 'a="1, b' }, list 'a="1, b') -- the quotes have no end
  end)
end)

describe("Cache-Control (RFC 9111 section 5.2)", function()
  it("is directives by their names, whatever their case", function()
    assert.same({ ["max-age"] = "60", ["no-store"] = true, private = true },
      fields.directives "MaX-aGe=60, No-StOrE,private")
    assert.same({}, fields.directives(nil))
  end)

  it("takes arguments with and without quotes", function()
    assert.same({ ["max-age"] = "60", ["no-cache"] = "a, b", x = 'q"q' },
      fields.directives [[max-age="60", no-cache="a, b", x="q\"q"]])
  end)

  it("has no directive within an argument", function()
    assert.same({ extension = "max-age=3600", ["max-age"] = "1" },
      fields.directives 'extension="max-age=3600", max-age=1')
  end)

  it("counts the first of several (section 4.2.1)", function()
    assert.same({ ["max-age"] = "1" }, fields.directives "max-age=1, max-age=3600")
  end)

  it("leaves a malformed argument empty, and the directive where it is", function()
    for _, text in ipairs { "max-age =60", "max-age= 60", "max-age=60;x=1", 'max-age="60',
      "max-age=", "max-age=6 0" } do
      assert.same({ ["max-age"] = "" }, fields.directives(text), text)
    end
    assert.same({ ["no-store"] = "" }, fields.directives "no-store;x")
    assert.same({ b = true }, fields.directives "=a, b")
  end)
end)

describe("seconds (RFC 9111 section 1.2.2)", function()
  it("are digits", function()
    assert.equal(60, fields.seconds "60")
    assert.equal(3600, fields.seconds "003600")
    for _, bad in ipairs { "", "-1", "1.0", "1a", "a1", "'60'", true } do
      assert.is_nil(fields.seconds(bad))
    end
    assert.is_nil(fields.seconds(nil))
  end)

  it("have a limit", function()
    assert.equal(2 ^ 31, fields.seconds "2147483649")
    assert.equal(2 ^ 31, fields.seconds(("9"):rep(400)))
  end)

  it("are Age's; of several the first counts, others are none (section 5.1)", function()
    assert.equal(7200, fields.age "7200, 0")
    assert.equal(0, fields.age "0,7200")
    assert.equal(7200, fields.age "7200;foo=1")
    for _, bad in ipairs { "abc", "-7200", "7200.0", "" } do
      assert.is_nil(fields.age(bad))
    end
    assert.is_nil(fields.age(nil))
  end)
end)

describe("names of an argument", function()
  it("are a set in lower case", function()
    assert.same({ ["set-cookie"] = true, a = true }, fields.names "Set-Cookie, A")
    assert.same({ a = true }, fields.names "a")
    assert.is_nil(fields.names(true))
    assert.is_nil(fields.names(""))
    assert.is_nil(fields.names(nil))
  end)
end)

describe("dates (RFC 9110 section 5.6.7, RFC 9111 section 4.2)", function()
  it("have three forms, and any case", function()
    for _, text in ipairs {
      "Tue, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT",
      "Tue Nov 14 22:13:20 2023", "TUE, 14 NOV 2023 22:13:20 gmt", "tue nov 14 22:13:20 2023",
    } do
      assert.equal(NOW, fields.date(text, NOW), text)
    end
  end)

  it("are in GMT, and otherwise none", function()
    for _, text in ipairs {
      "0", "", "Tue, 14 Nov 2023 22:13:20 UTC", "Tue, 14 Nov 2023 22:13:20 AEST",
      "Tue 14 Nov 2023 22:13:20 GMT", "Tue, 14  Nov  2023 22:13:20 GMT",
      "Tue, 14 Nov 23 22:13:20 GMT", "Tue, 14-Nov-2023 22:13:20 GMT",
      "Tue, 14 Nov 2023 22.13.20 GMT", "Tue, 14 Nov 2023 2:13:20 GMT",
      "Tue, 14 Nov 2023 22:13:20 GMT, Tue, 14 Nov 2023 22:13:21 GMT",
    } do
      assert.is_nil(fields.date(text, NOW), text)
    end
    assert.is_nil(fields.date(nil, NOW))
  end)
end)

describe("Vary (RFC 9110 section 12.5.5)", function()
  it("lists names", function()
    assert.same({ "accept", "foo" }, fields.vary "Foo, Accept, , foo")
    assert.same({}, fields.vary(nil))
    for _, text in ipairs { "*", "*, *", ", *", "*, Foo", "Foo, *" } do
      assert.equal("*", fields.vary(text))
    end
  end)

  local function alike(name, a, b)
    return fields.selecting(name, a) == fields.selecting(name, b)
  end

  it("compares values without the white space of lists (RFC 9111 section 4.1)", function()
    assert.is_true(alike("foo", "1,2", " 1, 2 "))
    assert.is_false(alike("foo", "1, 2", "2, 1"))
    assert.is_false(alike("foo", "a", "A"))
    assert.is_false(alike("foo", "", nil))
    assert.is_true(alike("foo", nil, nil))
  end)

  it("compares preferences without their case and order, but with their weights", function()
    for _, name in ipairs { "accept-language", "accept-encoding", "accept-charset" } do
      assert.is_true(alike(name, "en, de", "De ,eN"))
      assert.is_true(alike(name, "en;q=1.0, de; q=0.50", "de;q=0.5,en"))
      assert.is_false(alike(name, "en, de", "en, de;q=0.5"))
      assert.is_false(alike(name, "en, de", "en"))
    end
    assert.is_false(alike("accept", "text/a, text/b", "text/b, text/a"))
  end)

  it("tells the preference that is above all others (RFC 9110 section 12.4.2)", function()
    for text, best in pairs {
      ["de"] = "de", ["fr;q=0.5, DE;q=1.0"] = "de", ["de-AT, de;q=0.9"] = "de-at",
      ["de, *;q=0"] = "de",
    } do
      assert.equal(best, fields.favourite(text), text)
    end
    for _, text in ipairs { "", "en, de", "de, *", "de;q=0", "fr;q=0.1, en, de", "de;q=2, en" } do
      assert.is_nil(fields.favourite(text), text)
    end
    assert.is_nil(fields.favourite(nil))
  end)
end)

describe("entity tags (RFC 9110 section 8.8.3)", function()
  it("are strong or weak", function()
    assert.is_true(fields.is_strong '"a"')
    for _, tag in ipairs { 'W/"a"', "a", 'w/"a"' } do assert.is_false(fields.is_strong(tag)) end
    assert.is_false(fields.is_strong(nil))
  end)

  it("are found by If-None-Match, by weak comparison (section 13.1.2)", function()
    assert.is_true(fields.none_match('"b", "a"', '"a"'))
    assert.is_true(fields.none_match('W/"a"', '"a"'))
    assert.is_true(fields.none_match('"a,b"', '"a,b"'))
    assert.is_true(fields.none_match("*", nil))
    assert.is_false(fields.none_match('"b"', '"a"'))
    assert.is_false(fields.none_match('"b"', nil))
  end)
end)

describe("ranges (RFC 9110 section 14)", function()
  it("are one range of bytes, or nothing we know", function()
    assert.same({ first = 0, last = 1 }, fields.range "bytes=0-1")
    assert.same({ first = 5 }, fields.range "Bytes=5-")
    assert.same({ suffix = 5 }, fields.range "bytes=-5")
    for _, text in ipairs { "bytes=2-1", "bytes=-", "bytes=0-1,3-4", "lines=1-2", "bytes 0-1" } do
      assert.is_nil(fields.range(text))
    end
    assert.is_nil(fields.range(nil))
  end)

  it("are resolved by the size", function()
    local function resolve(text, size) return { fields.resolve(fields.range(text), size) } end
    assert.same({ 0, 1 }, resolve("bytes=0-1", 10))
    assert.same({ 5, 9 }, resolve("bytes=5-", 10))
    assert.same({ 5, 9 }, resolve("bytes=5-99", 10))
    assert.same({ 7, 9 }, resolve("bytes=-3", 10))
    assert.same({ 0, 9 }, resolve("bytes=-99", 10))
    assert.same({}, resolve("bytes=10-", 10))
    assert.same({}, resolve("bytes=-0", 10))
    assert.same({}, resolve("bytes=0-", 0))
  end)

  it("are told by Content-Range", function()
    assert.same({ 4, 9, 10 }, { fields.content_range "bytes 4-9/10" })
    assert.same({ 4, 9 }, { fields.content_range "bytes 4-9/*" })
    for _, text in ipairs { "bytes 9-4/10", "bytes 4-9/9", "bytes */10", "4-9/10",
      "bytes 4-9/1*" } do
      assert.is_nil(fields.content_range(text))
    end
  end)
end)
