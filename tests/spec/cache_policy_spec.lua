local cache_policy = require "orchestrator.cache_policy"
local case = require "cache_case"

local NOW = case.NOW

-- Whether a response with these fields may be stored, and why not.
local function stored(fields, more, opts, accepted)
  local answer = case.answer(fields, more)
  return cache_policy.storable(answer.request, case.entry(fields, more), opts, accepted)
end

describe("what may be stored (RFC 9111 section 3)", function()
  it("is the answer to a GET", function()
    assert.is_true(stored {})
    for _, method in ipairs { "HEAD", "PUT", "DELETE", "OPTIONS", "M-SEARCH" } do
      local request = case.request({}, method)
      assert.is_false(stored({ ["Cache-Control"] = "max-age=60" }, { request = request }), method)
    end
  end)

  it("is a POST's, when it is what a GET would get, and for how long (RFC 9110 section 9.3.3)",
    function()
      local request = case.request({}, "POST")
      local function post(fields, status)
        return stored(fields, { request = request, status = status })
      end
      local fresh = "max-age=60"
      assert.is_true(post { ["Cache-Control"] = fresh, ["Content-Location"] = "/x?y=1" })
      assert.is_true(post { Expires = case.date(9), ["Content-Location"] = request.url })
      assert.is_false(post { ["Cache-Control"] = fresh })
      assert.is_false(post { ["Cache-Control"] = fresh, ["Content-Location"] = "/x" })
      assert.is_false(post { ["Content-Location"] = "/x?y=1" })
      assert.is_false(post({ ["Cache-Control"] = fresh, ["Content-Location"] = "/x?y=1" }, 201))
    end)

  it("is not what is not to be stored (sections 5.2.1.5 and 5.2.2.5)", function()
    assert.is_false(stored { ["Cache-Control"] = "max-age=60, No-Store" })
    assert.is_false(stored { ["Cache-Control"] = "no-store;x" })
    assert.is_false(stored({ ["Cache-Control"] = "max-age=60" },
      { request = case.request { ["Cache-Control"] = "no-store" } }))
    assert.is_false(stored({}, nil, { mode = "no-store" }))
    assert.is_false(stored({ ["Cache-Control"] = "no-store" }, nil, { ttl = 60 }))
  end)

  it("goes by must-understand, where it understands (section 5.2.2.3)", function()
    local told = { ["Cache-Control"] = "max-age=60, no-store, must-understand" }
    assert.is_true(stored(told))
    assert.is_false(stored(told, { status = 599 }))
    assert.is_false(stored({ ["Cache-Control"] = "max-age=60, must-understand" }, { status = 299 }))
  end)

  it("has a status that is cacheable by default (RFC 9110 section 15.1), or says it is", function()
    for _, status in ipairs { 200, 203, 204, 300, 301, 308, 404, 405, 410, 414 } do
      assert.is_true(stored({}, { status = status }), status)
    end
    for _, status in ipairs { 201, 202, 299, 302, 303, 307, 400, 403, 499 } do
      assert.is_false(stored({ ["Last-Modified"] = case.date(-9) }, { status = status }), status)
      for _, told in ipairs { "max-age=60", "public", "private" } do
        assert.is_true(stored({ ["Cache-Control"] = told }, { status = status }), status)
      end
      assert.is_true(stored({ Expires = case.date(9) }, { status = status }), status)
    end
    for _, status in ipairs { 103, 304 } do
      assert.is_false(stored({ ["Cache-Control"] = "max-age=60" }, { status = status }), status)
    end
  end)

  it("is a 429 or 5xx only when it says so, and was asked for", function()
    for _, status in ipairs { 429, 500, 501, 502, 503, 504, 599 } do
      assert.is_false(stored({ ["Last-Modified"] = case.date(-9) }, { status = status }), status)
      assert.is_false(stored({ ["Cache-Control"] = "private" }, { status = status }), status)
      assert.is_false(stored({}, { status = status }, { ttl = 60 }), status)
      assert.is_true(stored({ ["Cache-Control"] = "max-age=60" }, { status = status }), status)
      assert.is_false(stored({ ["Cache-Control"] = "max-age=60" }, { status = status },
        nil, false), status)
    end
    assert.is_true(stored({}, { status = 404 }, nil, false))
  end)

  it("is for one user: also what is private, or was asked for with credentials (section 3.5)",
    function()
      assert.is_true(stored { ["Cache-Control"] = "private" })
      assert.is_true(stored({}, { request = case.request { Authorization = "Bearer x" } }))
    end)

  it("is nothing that never matches (section 4.1)", function()
    assert.is_false(stored { ["Cache-Control"] = "max-age=60", Vary = "Foo, *" })
  end)

  it("stays, unless a 304 or a HEAD made it something else", function()
    assert.is_true(cache_policy.may_stay(case.entry {}))
    assert.is_true(cache_policy.may_stay(case.entry { ["Cache-Control"] = "no-cache" }))
    assert.is_false(cache_policy.may_stay(case.entry { ["Cache-Control"] = "no-store" }))
    assert.is_false(cache_policy.may_stay(case.entry { Vary = "*" }))
  end)

  it("is a part, when it is known which (section 3.3)", function()
    assert.is_true(stored({ ["Content-Range"] = "bytes 0-9/20" }, { status = 206 }))
    assert.is_false(stored({ ["Cache-Control"] = "max-age=60" }, { status = 206 }))
  end)

  it("is what the script gives a ttl, unless it failed", function()
    assert.is_true(stored({}, { status = 201 }, { ttl = 60 }))
    assert.is_false(stored({}, { status = 403 }, { ttl = 60 }))
  end)
end)

local function lifetime(fields, more)
  return cache_policy.lifetime(case.entry(fields, more))
end

describe("how long it is fresh (RFC 9111 section 4.2.1)", function()
  it("is max-age", function()
    assert.equal(60, lifetime { ["Cache-Control"] = "max-age=60" })
    assert.equal(60, lifetime { ["Cache-Control"] = "foobar, MaX-aGe=60, s-maxage=5" })
    assert.equal(0, lifetime { ["Cache-Control"] = "s-maxage=60" }) -- shared caches' (5.2.2.10)
    assert.equal(2 ^ 31, lifetime { ["Cache-Control"] = "max-age=99999999999" })
  end)

  it("is max-age also when there is an Expires (section 5.3)", function()
    assert.equal(60, lifetime { ["Cache-Control"] = "max-age=60", Expires = case.date(-99) })
    assert.equal(60, lifetime { ["Cache-Control"] = "max-age=60", Expires = "0" })
    assert.equal(0, lifetime { ["Cache-Control"] = "max-age=0", Expires = case.date(99) })
  end)

  it("is nothing when max-age is malformed", function()
    for _, text in ipairs { "max-age=-60", "max-age", "max-age='60'", "max-age=60.0" } do
      assert.equal(0, lifetime { ["Cache-Control"] = text, Expires = case.date(99) })
    end
  end)

  it("is from Date to Expires, by the server's clock", function()
    assert.equal(99, lifetime { Expires = case.date(99), Date = case.date(0) })
    assert.equal(99, lifetime { Expires = case.date(1099), Date = case.date(1000) })
    assert.equal(-100, lifetime { Expires = case.date(300), Date = case.date(400) })
    assert.equal(10, lifetime { Expires = case.date(10), Date = "foo" })
  end)

  it("is nothing when Expires is malformed (section 5.3)", function()
    local modified = case.date(-1000)
    assert.equal(0, lifetime { Expires = "0", ["Last-Modified"] = modified })
    assert.equal(0, lifetime { Expires = { case.date(99), case.date(98) } })
  end)

  it("is a tenth of the time since it was changed, when nothing is said (section 4.2.2)", function()
    assert.equal(100, lifetime { ["Last-Modified"] = case.date(-1000), Date = case.date(0) })
    assert.equal(0, lifetime { ["Last-Modified"] = case.date(1000), Date = case.date(0) })
    assert.equal(0, lifetime { ["Last-Modified"] = "foo", Date = case.date(0) })
    assert.equal(0, lifetime {})
  end)

  it("is only guessed for what is cacheable by default, or public", function()
    local fields = { ["Last-Modified"] = case.date(-1000), Date = case.date(0) }
    assert.equal(100, lifetime(fields, { status = 404 }))
    assert.equal(0, lifetime(fields, { status = 599 }))
    fields["Cache-Control"] = "public"
    assert.equal(100, lifetime(fields, { status = 599 }))
  end)
end)

describe("how long it is fresh from now on", function()
  local function left(fields, after, opts)
    return cache_policy.left(case.entry(fields), NOW + after, opts)
  end

  it("is what its age leaves (RFC 9111 section 4.2)", function()
    assert.equal(20, left({ ["Cache-Control"] = "max-age=60", Age = "30" }, 10))
    assert.equal(-10, left({ ["Cache-Control"] = "max-age=60" }, 70))
    assert.equal(-20, left({ Expires = case.date(20), Date = case.date(10), Age = "30" }, 0))
  end)

  it("is what a ttl leaves since it came, whatever the server says", function()
    local fields = { ["Cache-Control"] = "max-age=5", Age = "30", Date = case.date(-999) }
    assert.equal(50, left(fields, 10, { ttl = 60 }))
    assert.equal(-940, left(fields, -1000, { ttl = 60 })) -- our clock was set back
  end)
end)

-- What is decided on a request so many seconds later: the word for it, and the decision.
local function decide(fields, after, given)
  given = given or {}
  local entries = {}
  for i, one in ipairs(given.entries or { fields and case.entry(fields) }) do entries[i] = one end
  local request = case.request(given.headers, given.method)
  local decision = cache_policy.decide(request, entries, NOW + after, given.opts)
  local word = decision.use or decision.fail or "fetch"
  if decision.background then word = word .. ", background" end
  if decision.not_modified then word = word .. ", 304" end
  if word == "fetch" and decision.headers then
    local added = decision.headers
    if added["If-None-Match"] or added["If-Modified-Since"] then word = "revalidate" end
  end
  return word, decision
end

local FRESH = { ["Cache-Control"] = "max-age=60", ETag = '"a"' }

describe("a request", function()
  it("is answered with what is fresh (RFC 9111 section 4)", function()
    local word, decision = decide(FRESH, 59)
    assert.equal("fresh", word)
    assert.equal('"a"', decision.entry.fields[2][2])
    assert.equal("fetch", (decide(nil, 0)))
    assert.equal("fresh", (decide(FRESH, 5, { method = "HEAD" }))) -- RFC 9110 section 9.3.2
  end)

  it("has the server asked about what is not (section 4.3.1)", function()
    local word, decision = decide(FRESH, 60)
    assert.equal("revalidate", word)
    assert.same({ ["If-None-Match"] = '"a"' }, decision.headers)
    local modified = case.date(-9)
    word, decision = decide({ ["Last-Modified"] = modified, ETag = 'W/"a"' }, 10)
    assert.equal("revalidate", word)
    assert.same({ ["If-None-Match"] = 'W/"a"', ["If-Modified-Since"] = modified },
      decision.headers)
    assert.equal("fetch", (decide({ ["Cache-Control"] = "max-age=60" }, 61)))
    assert.equal("fetch", (decide({ ETag = '"\1"' }, 61))) -- it cannot be sent
  end)

  it("of another method goes to the server", function()
    for _, method in ipairs { "POST", "PUT", "DELETE", "OPTIONS", "M-SEARCH" } do
      assert.equal("fetch", (decide(FRESH, 0, { method = method })))
    end
  end)

  it("is answered with the newest that matches (section 4.1)", function()
    local old = case.entry { ["Cache-Control"] = "max-age=60", Date = case.date(-5) }
    local new = case.entry { ["Cache-Control"] = "max-age=60", Date = case.date(-1) }
    local other = case.entry { ["Cache-Control"] = "max-age=60", Vary = "Foo", Date = case.date(0) }
    other.vary.foo = "1"
    local _, decision = decide(nil, 5, { entries = { old, new, other } })
    assert.equal(new, decision.entry)
    _, decision = decide(nil, 5, { entries = { old, new, other }, headers = { Foo = "1" } })
    assert.equal(other, decision.entry)
    local options = { entries = { new }, headers = { Foo = "1" }, opts = { vary = { "foo" } } }
    assert.equal("fetch", (decide(nil, 5, options)))
  end)

  it("is answered in the language it likes best, while that is fresh", function()
    local entry = case.entry({ ["Content-Language"] = "de", Vary = "Accept-Language", ETag = '"a"',
      ["Cache-Control"] = "max-age=10, stale-while-revalidate=99",
    }, { request = case.request { ["Accept-Language"] = "en, de" } })
    local request = case.request { ["Accept-Language"] = "fr;q=0.5, de" }
    assert.equal("fresh", cache_policy.decide(request, { entry }, NOW + 9).use)
    -- What is stale is the answer to another question.
    assert.same({ fetch = true, headers = {} }, cache_policy.decide(request, { entry }, NOW + 10))
  end)

  it("is not answered with what is to be asked about each time (section 5.2.2.4)", function()
    for _, told in ipairs { "max-age=60, no-cache", "max-age=60, No-CaChe" } do
      assert.equal("revalidate", (decide({ ["Cache-Control"] = told, ETag = '"a"' }, 0)))
    end
    assert.equal("fresh", (decide({ ["Cache-Control"] = 'max-age=60, no-cache="a"' }, 0)))
    assert.equal("fresh", (decide({ ["Cache-Control"] = "max-age=60, must-revalidate" }, 0)))
  end)

  it("is answered for a ttl whatever the server said", function()
    local opts = { ttl = 60 }
    assert.equal("fresh", (decide({ ["Cache-Control"] = "no-cache" }, 59, { opts = opts })))
    assert.equal("fresh", (decide({ ["Cache-Control"] = "max-age=0" }, 59, { opts = opts })))
    assert.equal("fetch", (decide({ ["Cache-Control"] = "max-age=99" }, 60, { opts = opts })))
  end)
end)

describe("a directive of the request (RFC 9111 section 5.2.1)", function()
  local function word(text, fields, after, name)
    return (decide(fields or FRESH, after or 5, { headers = { [name or "Cache-Control"] = text } }))
  end

  it("no-cache has the server asked", function()
    assert.equal("revalidate", word "no-cache")
    assert.equal("revalidate", word("no-cache", nil, nil, "Pragma")) -- section 5.4
    assert.equal("fresh", word("x", nil, nil, "Pragma"))
    local both = { ["Cache-Control"] = "max-age=60", Pragma = "no-cache" }
    assert.equal("fresh", (decide(FRESH, 5, { headers = both })))
    assert.equal("fresh", word("x", { ["Cache-Control"] = "max-age=60", Pragma = "no-cache" }))
  end)

  it("no-store goes past the cache", function()
    assert.equal("fetch", word "no-store")
  end)

  it("max-age and min-fresh say how old it may be", function()
    assert.equal("fresh", word "max-age=5")
    assert.equal("revalidate", word "max-age=4")
    assert.equal("revalidate", word "max-age=0")
    assert.equal("revalidate", word "max-age=x")
    assert.equal("fresh", word "min-fresh=55")
    assert.equal("revalidate", word "min-fresh=56")
    assert.equal("revalidate", word "min-fresh")
    local aged = { ["Cache-Control"] = "max-age=60", ETag = '"a"', Age = "30" }
    assert.equal("revalidate", word("max-age=34", aged))
    assert.equal("revalidate", word("min-fresh=26", aged))
  end)

  it("max-stale takes what is stale", function()
    assert.equal("stale", word("max-stale=10", nil, 70))
    assert.equal("revalidate", word("max-stale=10", nil, 71))
    assert.equal("stale", word("max-stale", nil, 9999))
    assert.equal("revalidate", word("max-stale=x", nil, 61))
    -- but not what the server forbids to use so (section 5.2.2.2)
    local strict = { ["Cache-Control"] = "max-age=60, must-revalidate", ETag = '"a"' }
    assert.equal("revalidate", word("max-stale", strict, 70))
    strict["Cache-Control"] = "max-age=60, no-cache"
    assert.equal("revalidate", word("max-stale", strict, 70))
  end)

  it("only-if-cached never has the server asked", function()
    assert.equal("fresh", word "only-if-cached")
    assert.equal("only-if-cached", word("only-if-cached", nil, 60))
    assert.equal("stale", word("only-if-cached, max-stale", nil, 70))
    assert.equal("only-if-cached",
      (decide(nil, 0, { headers = { ["Cache-Control"] = "only-if-cached" } })))
    for _, mode in ipairs { "reload", "no-store" } do
      assert.equal("only-if-cached", (decide(FRESH, 5,
        { opts = { mode = mode }, headers = { ["Cache-Control"] = "only-if-cached" } })))
    end
    assert.equal("only-if-cached", word("only-if-cached, no-store", nil, 0))
  end)
end)

describe("what is stale (RFC 5861)", function()
  local function word(told, after, opts, headers)
    local fields = { ["Cache-Control"] = told, ETag = '"a"' }
    return (decide(fields, after, { opts = opts, headers = headers }))
  end

  it("is used while the server is asked, for as long as it says (section 3)", function()
    local told = "max-age=60, stale-while-revalidate=10"
    assert.equal("stale, background", word(told, 60))
    assert.equal("stale, background", word(told, 69))
    assert.equal("revalidate", word(told, 70))
    local _, decision = decide({ ["Cache-Control"] = told, ETag = '"a"' }, 65)
    assert.same({ ["If-None-Match"] = '"a"' }, decision.headers)
    assert.equal("revalidate", word(told, 65, nil, { ["Cache-Control"] = "max-age=9" }))
  end)

  it("is used so for as long as the script says", function()
    local opts = { stale_while_revalidate = 10 }
    assert.equal("stale, background", word("max-age=60", 69, opts))
    assert.equal("revalidate", word("max-age=60", 70, opts))
    assert.equal("stale, background",
      word("must-revalidate", 69, { ttl = 60, stale_while_revalidate = 10 }))
    assert.equal("revalidate", word("max-age=60, must-revalidate", 65, opts))
    assert.equal("revalidate", word("max-age=60, no-cache", 65, opts))
  end)

  it("stands for an error, for as long as anyone says (section 4)", function()
    local function serves(told, after, opts, headers)
      local entry = case.entry { ["Cache-Control"] = told }
      return cache_policy.serves_errors(case.request(headers), entry, NOW + after, opts)
    end
    assert.is_false(serves("max-age=60", 61))
    assert.is_true(serves("max-age=60, stale-if-error=10", 70))
    assert.is_false(serves("max-age=60, stale-if-error=10", 71))
    assert.is_true(serves("max-age=60", 70, { stale_if_error = 10 }))
    assert.is_false(serves("max-age=60", 71, { stale_if_error = 10 }))
    assert.is_true(serves("max-age=60", 70, nil, { ["Cache-Control"] = "stale-if-error=10" }))
    assert.is_true(serves("max-age=60", 5, { stale_if_error = 10 }))
    -- RFC 9111 sections 5.2.2.2 and 5.2.2.4
    assert.is_false(serves("max-age=60, must-revalidate", 61, { stale_if_error = 10 }))
    assert.is_false(serves("max-age=60, no-cache", 61, { stale_if_error = 10 }))
    assert.is_true(serves("must-revalidate", 61, { stale_if_error = 10, ttl = 60 }))
  end)
end)

describe("a mode (the fetch standard's)", function()
  local function with(mode, fields, after, headers)
    return decide(fields, after, { opts = { mode = mode }, headers = headers })
  end

  it("no-store and reload go past the cache, and say so", function()
    for _, mode in ipairs { "no-store", "reload" } do
      local word, decision = with(mode, FRESH, 0)
      assert.equal("fetch", word)
      assert.same({ ["Cache-Control"] = "no-cache", Pragma = "no-cache" }, decision.headers)
      _, decision = with(mode, FRESH, 0, { ["Cache-Control"] = "max-age=9" })
      assert.same({}, decision.headers)
    end
    assert.is_true(stored({}, nil, { mode = "reload" }))
  end)

  it("no-cache has the server asked", function()
    local word, decision = with("no-cache", FRESH, 0)
    assert.equal("revalidate", word)
    assert.same({ ["If-None-Match"] = '"a"', ["Cache-Control"] = "max-age=0" }, decision.headers)
  end)

  it("no-cache does not ask about what never changes, while it is fresh (RFC 8246 section 2)",
    function()
      local fields = { ["Cache-Control"] = "max-age=60, immutable", ETag = '"a"' }
      assert.equal("fresh", (with("no-cache", fields, 59)))
      assert.equal("revalidate", (with("no-cache", fields, 60)))
      assert.equal("revalidate", (with("no-cache", fields, 5, { ["Cache-Control"] = "no-cache" })))
    end)

  it("force-cache takes what is there, however old", function()
    assert.equal("fresh", (with("force-cache", FRESH, 0)))
    assert.equal("stale", (with("force-cache", FRESH, 1e6)))
    assert.equal("stale", (with("force-cache", { ["Cache-Control"] = "no-cache" }, 0)))
    assert.equal("fetch", (with("force-cache", nil, 0)))
  end)

  it("only-if-cached takes nothing else", function()
    assert.equal("fresh", (with("only-if-cached", FRESH, 0)))
    assert.equal("stale", (with("only-if-cached", FRESH, 1e6)))
    assert.equal("only-if-cached", (with("only-if-cached", nil, 0)))
    local opts = { mode = "only-if-cached" }
    assert.equal("only-if-cached", (decide(FRESH, 0, { opts = opts, method = "POST" })))
    assert.equal("only-if-cached",
      (with("only-if-cached", FRESH, 0, { ["Cache-Control"] = "no-store" })))
  end)

  it("default is what there is without one", function()
    assert.equal("fresh", (with("default", FRESH, 0)))
    assert.same({}, select(2, with("default", nil, 0)).headers)
  end)
end)

describe("a request's own condition (RFC 9111 section 4.3.2)", function()
  local function word(headers, fields, after)
    return decide(fields or FRESH, after or 5, { headers = headers })
  end

  it("is judged by what is fresh", function()
    assert.equal("fresh, 304", (word { ["If-None-Match"] = '"b", W/"a"' }))
    assert.equal("fresh", (word { ["If-None-Match"] = '"b"' }))
    local fields = { ["Cache-Control"] = "max-age=60", ["Last-Modified"] = case.date(-100) }
    local function since(seconds) return { ["If-Modified-Since"] = case.date(seconds) } end
    assert.equal("fresh, 304", (word(since(-100), fields)))
    assert.equal("fresh, 304", (word(since(-99), fields)))
    assert.equal("fresh", (word(since(-101), fields)))
    assert.equal("fresh", (word({ ["If-Modified-Since"] = "foo" }, fields)))
    fields = { ["Cache-Control"] = "max-age=60", Date = case.date(-50) }
    assert.equal("fresh, 304", (word(since(-50), fields)))
    assert.equal("fresh", (word(since(-51), fields)))
  end)

  it("by tag comes before that by date (RFC 9110 section 13.2.2)", function()
    local fields = {
      ["Cache-Control"] = "max-age=60", ETag = '"a"', ["Last-Modified"] = case.date(-100),
    }
    local dated = case.date(-101)
    assert.equal("fresh, 304",
      (word({ ["If-None-Match"] = '"a"', ["If-Modified-Since"] = dated }, fields)))
    assert.equal("fresh",
      (word({ ["If-None-Match"] = '"b"', ["If-Modified-Since"] = case.date(0) }, fields)))
  end)

  it("goes to the server as it is when nothing is fresh", function()
    local _, decision = word({ ["If-None-Match"] = '"b"' }, nil, 60)
    assert.same({}, decision.headers)
    assert.is_true(decision.fetch)
    local told = { ["Cache-Control"] = "max-age=60, stale-while-revalidate=60", ETag = '"a"' }
    assert.equal("fetch", (word({ ["If-None-Match"] = '"a"' }, told, 65)))
  end)

  it("is the server's when only that can judge it", function()
    for _, name in ipairs { "If-Match", "If-Unmodified-Since", "If-Range" } do
      assert.equal("fetch", (word { [name] = '"a"' }))
    end
  end)
end)

describe("a request for a range", function()
  local function decision(entries, after, headers, method)
    return select(2, decide(nil, after, { entries = entries, headers = headers, method = method }))
  end
  local function partial()
    local fields = {
      ["Cache-Control"] = "max-age=60", ETag = '"a"', ["Content-Range"] = "bytes 0-9/20",
    }
    return case.entry(fields, { status = 206, request = case.request { Range = "bytes=0-9" } })
  end

  it("is answered out of what has all of it (RFC 9111 section 3.3)", function()
    local found = decision({ case.entry(FRESH) }, 5, { Range = "bytes=2-3" })
    assert.same({ "fresh", 3, 4 }, { found.use, found.part.from, found.part.to })
    found = decision({ partial() }, 5, { Range = "bytes=2-3" })
    assert.same({ "fresh", 3, 4 }, { found.use, found.part.from, found.part.to })
    assert.is_true(decision({ partial() }, 5, { Range = "bytes=2-15" }).fetch)
    found = decision({ case.entry(FRESH) }, 5, { Range = "bytes=2-3" }, "HEAD")
    assert.same({ "fresh" }, { found.use, found.part }) -- RFC 9110 section 14.2
  end)

  it("asks about what is stale by its tag alone (section 4.3.1)", function()
    local fields = { ETag = '"a"', ["Last-Modified"] = case.date(-1) }
    local found = decision({ case.entry(fields) }, 60, { Range = "bytes=2-3" })
    assert.same({ ["If-None-Match"] = '"a"' }, found.headers)
    assert.same({ 3, 4 }, { found.part.from, found.part.to })
  end)

  it("is not what a part stands for: that is completed", function()
    local entry = partial()
    local found = decision({ entry }, 5)
    assert.is_true(found.fetch)
    assert.equal("bytes=10-", found.headers.Range)
    assert.equal(entry, found.entry)
  end)
end)

describe("a method that is safe (RFC 9110 section 9.2.1)", function()
  it("is one we know to be", function()
    for _, method in ipairs { "GET", "HEAD", "OPTIONS", "TRACE" } do
      assert.is_true(cache_policy.is_safe(method))
    end
    for _, method in ipairs { "POST", "PUT", "DELETE", "PATCH", "M-SEARCH" } do
      assert.is_false(cache_policy.is_safe(method))
    end
  end)
end)
