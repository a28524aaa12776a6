local cache_entry = require "orchestrator.cache_entry"
local case = require "cache_case"
local secret = require "orchestrator.secret"

local NOW = case.NOW

describe("what is stored of a response (RFC 9111 section 3.1)", function()
  local function names(fields)
    local found = {}
    for _, field in ipairs(case.entry(fields).fields) do found[#found + 1] = field[1] end
    table.sort(found)
    return found
  end

  it("are its fields as they came, but for those of the connection", function()
    assert.same({ "Date", "Set-Cookie", "X-A" }, names {
      Connection = "close, X-Hop", ["X-Hop"] = "1", ["Keep-Alive"] = "5", TE = "x", Upgrade = "x",
      ["Transfer-Encoding"] = "chunked", ["Proxy-Connection"] = "x", ["Proxy-Authenticate"] = "x",
      ["Proxy-Authentication-Info"] = "x", ["Proxy-Authorization"] = "x",
      Date = case.date(0), ["X-A"] = "1", ["Set-Cookie"] = "a=b",
    })
  end)

  it("is a Date when there was none (RFC 9110 section 6.6.1)", function()
    local entry = case.entry({}, { response_time = NOW + 0.9 })
    assert.same({ { "Date", case.date(0) } }, entry.fields)
    assert.equal("Tue, 14 Nov 2023 22:13:20 GMT", cache_entry.get(entry, "date"))
    assert.same({ { "date", "foo" } }, case.entry({ date = "foo" }).fields)
  end)

  it("is found by name, several lines as one", function()
    local entry = case.entry { ["Cache-Control"] = { "max-age=5", "private" }, Date = case.date(0) }
    assert.equal("max-age=5, private", cache_entry.get(entry, "cache-control"))
    assert.same({ ["max-age"] = "5", private = true }, cache_entry.directives(entry))
    assert.is_nil(cache_entry.get(entry, "etag"))
  end)

  it("is no secret of the request", function()
    local entry = case.entry({ Vary = "Authorization, Cookie, X-Key, X-Plain" }, {
      request = case.request {
        Authorization = "Bearer abc", Cookie = "a=b", ["X-Key"] = secret.value "k3y-k3y",
        ["X-Plain"] = "1",
      },
    })
    for _, name in ipairs { "authorization", "cookie", "x-key" } do
      assert.matches("^sha256:%x+$", entry.vary[name])
    end
    assert.equal("1", entry.vary["x-plain"])
  end)
end)

describe("Vary (RFC 9111 section 4.1)", function()
  local function matches(vary, first, second, more)
    local entry = cache_entry.new(
      case.answer({ Vary = vary }, { request = case.request(first) }), more)
    return cache_entry.matches(entry, case.request(second), more)
  end

  it("wants what it names to be the same, and nothing else", function()
    assert.is_true(matches("Foo", { Foo = "1", Other = "2" }, { foo = "1", Other = "3" }))
    assert.is_false(matches("Foo", { Foo = "1" }, { Foo = "2" }))
    assert.is_false(matches("Foo, Bar", { Foo = "1", Bar = "a" }, { Foo = "1", Bar = "b" }))
    assert.is_true(matches(nil, { Foo = "1" }, { Foo = "2" }))
  end)

  it("takes a field that is missing for one that is missing", function()
    assert.is_false(matches("Foo", {}, { Foo = "1" }))
    assert.is_false(matches("Foo", { Foo = "1" }, {}))
    assert.is_true(matches("Foo, Bar", { Foo = "1" }, { Foo = "1" }))
  end)

  it("takes values for the same that mean the same", function()
    assert.is_true(matches("Foo", { Foo = "1,2" }, { Foo = " 1, 2 " }))
    assert.is_true(matches("Accept-Language", { ["Accept-Language"] = "en, de" },
      { ["Accept-Language"] = "De,eN" }))
  end)

  it("compares secrets", function()
    assert.is_true(matches("Authorization", { Authorization = "a" }, { Authorization = "a" }))
    assert.is_false(matches("Authorization", { Authorization = "a" }, { Authorization = "b" }))
    assert.is_true(matches("X", { X = secret.value "s3cret" }, { X = secret.value "s3cret" }))
  end)

  it("with * matches nothing", function()
    assert.is_false(matches("*", {}, {}))
    assert.is_false(matches("Foo, *", { Foo = "1" }, { Foo = "1" }))
  end)

  it("can be added to", function()
    assert.is_false(matches(nil, { Foo = "1" }, { Foo = "2" }, { "foo" }))
    assert.is_true(matches(nil, { Foo = "1" }, { Foo = "1" }, { "foo" }))
  end)
end)

describe("a language", function()
  local function suits(asked, language, sent, vary)
    local entry = case.entry({ Vary = vary or "Accept-Language", ["Content-Language"] = language },
      { request = case.request { ["Accept-Language"] = sent or "en, de", X = "1" } })
    return cache_entry.suits(entry, case.request { ["Accept-Language"] = asked, X = "2" })
  end

  it("suits who likes it best, when it was chosen before", function()
    assert.is_true(suits("fr;q=0.5, de", "DE"))
    assert.is_true(suits("de", "de", "en, DE;q=0.5"))
    assert.is_true(suits("de, en", "en")) -- it matches
    assert.is_false(suits("fr, de", "de"))
    assert.is_false(suits("fr, de;q=0.9", "de"))
    assert.is_false(suits("de", "de", "en, *"))
    assert.is_false(suits("de", "de, en"))
    assert.is_false(suits("de", nil))
    assert.is_false(suits(nil, "de"))
  end)

  it("is not all that counts", function()
    assert.is_false(suits("de", "de", nil, "Accept-Language, *"))
    assert.is_false(suits("de", "de", nil, "Accept-Language, X"))
    assert.is_true(suits("de", "de", nil, "Accept-Language, Y"))
  end)
end)

describe("age (RFC 9111 section 4.2.3)", function()
  local function age(fields, after, more)
    return cache_entry.age(case.entry(fields, more), NOW + after)
  end

  it("is the time here", function()
    assert.equal(0, age({ Date = case.date(0) }, 0))
    assert.equal(7.5, age({ Date = case.date(0) }, 7.5))
  end)

  it("is what Age says, and how long it took to come", function()
    assert.equal(37, age({ Date = case.date(0), Age = "30" }, 5, { request_time = NOW - 2 }))
    assert.equal(5, age({ Date = case.date(0), Age = "x" }, 5))
  end)

  it("is what Date tells, when that is more", function()
    assert.equal(105, age({ Date = case.date(-100), Age = "30" }, 5))
    assert.equal(205, age({ Date = case.date(-100), Age = "200" }, 5))
  end)

  it("is no less when the server's clock is ahead, or tells nothing", function()
    assert.equal(5, age({ Date = case.date(100) }, 5))
    assert.equal(5, age({ Date = "foo" }, 5))
    assert.equal(5, age({}, 5))
  end)

  it("grows when our clock was set back", function()
    assert.equal(86400, age({ Date = case.date(0) }, -86400))
  end)
end)

describe("the head of a stored response", function()
  it("tells the age, instead of what was told (section 5.1)", function()
    local entry = case.entry { Date = case.date(0), Age = "30", ["X-A"] = "1" }
    assert.equal("HTTP/1.1 200 \r\nDate: " .. case.date(0) .. "\r\nX-A: 1\r\nAge: 37\r\n\r\n",
      cache_entry.head(entry, 37.9))
    assert.equal("HTTP/1.1 200 \r\nAge: 30\r\nDate: " .. case.date(0) .. "\r\nX-A: 1\r\n\r\n",
      cache_entry.head(entry))
  end)

  it("lacks what may not be used without asking (section 5.2.2.4)", function()
    local entry = case.entry {
      Date = "d", ["Cache-Control"] = 'no-cache="a, B"', A = "1", b = "2", C = "3",
    }
    assert.equal('HTTP/1.1 200 \r\nC: 3\r\nCache-Control: no-cache="a, B"\r\nDate: d\r\n'
      .. "Age: 0\r\n\r\n", cache_entry.head(entry, 0))
    assert.matches("\r\nA: 1\r\n", cache_entry.head(entry))
  end)
end)
