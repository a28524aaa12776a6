local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"

local function head_of(...)
  return table.concat({ "HTTP/1.1 200 OK", ... }, "\r\n") .. "\r\n\r\n"
end

-- Both readers must agree: `get` is the fast one.
local function read(head, name)
  local value = headers.get(head, name)
  assert.equal(value, headers.parse(head)[name])
  return value
end

describe("one header field", function()
  it("is told from several that differ", function()
    local function only(lines)
      return { headers.only("HTTP/1.1 302 X\r\n" .. lines .. "\r\n", "location") }
    end
    assert.same({}, only "")
    assert.same({ "/a, b" }, only "Location: /a, b\r\n")
    assert.same({ "/a" }, only "Location: /a\r\nlocation:/a \r\nLOCATION: /a\r\n")
    assert.same({ nil, true }, only "Location: /a\r\nX: y\r\nLocation: /b\r\n")
    assert.same({ nil, true }, only "Location: /a\r\nLocation:\r\n")
  end)
end)

describe("reading a response head", function()
  it("finds fields in any case", function()
    local head = head_of("Content-Type: application/json", "ETAG: \"x\"", "x-lower: y")
    assert.equal("application/json", read(head, "content-type"))
    assert.equal('"x"', read(head, "etag"))
    assert.equal("y", read(head, "x-lower"))
    assert.is_nil(read(head, "retry-after"))
    assert.same({ ["content-type"] = "application/json", etag = '"x"', ["x-lower"] = "y" },
      headers.parse(head))
  end)

  it("takes the white space around a value away, and none within", function()
    local head = head_of("A:x", "B: \t x  y \t", "C:", "D:   ", "E: a: b")
    assert.equal("x", read(head, "a"))
    assert.equal("x  y", read(head, "b"))
    assert.equal("", read(head, "c"))
    assert.equal("", read(head, "d"))
    assert.equal("a: b", read(head, "e"))
  end)

  it("matches whole names only", function()
    local head = head_of("X-Date: 1", "Date-X: 2", "Note: date: 3", "Dat: e: 4")
    assert.is_nil(read(head, "date"))
    assert.is_nil(read(head, "dat:"))
    assert.is_nil(headers.get("Date: 1\r\n", "date")) -- that is the status line's place
  end)

  it("joins fields of one name with a comma, cookies with a line break", function()
    local head = head_of("Vary: Accept", "Set-Cookie: a=1; Expires=Wed, 01 Jan", "vary: Origin",
      "set-cookie: b=2", "VARY: X")
    assert.equal("Accept, Origin, X", read(head, "vary"))
    assert.equal("a=1; Expires=Wed, 01 Jan\nb=2", read(head, "set-cookie"))
  end)

  it("unfolds continued lines", function()
    local head = head_of("A: one", "  two", "\tthree", "B: x", " ", "C: y")
    assert.equal("one two three", read(head, "a"))
    assert.equal("x", read(head, "b"))
    assert.equal("y", read(head, "c"))
    assert.equal("z", read("HTTP/1.1 200\r\nA:\r\n z\r\n", "a"))
    assert.equal("x y", read("HTTP/1.1 200\nA: x\n y\nB: z\n", "a"))
    assert.equal("x y", read("HTTP/1.1 200\nA: x\n y", "a"))
  end)

  it("does not find a field inside a continued line", function()
    assert.is_nil(read(head_of("A: one", " B: two"), "b"))
    assert.equal("one B: two", read(head_of("A: one", " B: two"), "a"))
  end)

  it("reads bare line feeds and heads that end early", function()
    assert.equal("x", read("HTTP/2 200\nA: x\nB: y\n\n", "a"))
    assert.equal("y", read("HTTP/2 200\r\nA: x\r\nB: y", "b"))
    assert.equal("", read("HTTP/2 200\r\nA:", "a"))
    assert.is_nil(read("HTTP/2 200\r\nA", "a"))
    assert.is_nil(read("HTTP/2 200", "a"))
    assert.is_nil(read("", "a"))
  end)

  it("passes over lines that are no field", function()
    local head = head_of("no colon here", ": no name", "Bad Name: x", "Late : y", "A: z")
    assert.same({ a = "z" }, headers.parse(head))
    assert.equal("z", headers.get(head, "a"))
  end)

  it("takes a time that grows with the head, whatever it holds", function()
    local started = os.clock()
    for _, line in ipairs {
      "a: x\r\n", "\r\n", "a\r\n", "a:\r\n x\r\n", " x\r\n", ":\n", "a: \n",
    } do
      local head = "HTTP/1.1 200 OK\r\nb: y\r\n" .. line:rep(3e5 / #line)
      assert.matches("^y", headers.parse(head).b)
      assert.matches("^y", headers.get(head, "b"))
      headers.get(head, "a")
    end
    headers.get("HTTP/1.1 200 OK\r\na:" .. (" "):rep(3e5) .. "x" .. (" "):rep(3e5), "a")
    assert.is_true(os.clock() - started < 2)
  end)
end)

describe("headers.list", function()
  it("gives the fields as they came", function()
    assert.same({ { "B", "1" }, { "a", "x y" }, { "b", "" } }, headers.list(
      "HTTP/1.1 200 OK\r\nB: 1 \r\na:x\r\n  y\r\nno field\r\nbad name: 1\r\nb:\r\n\r\n"))
    assert.same({}, headers.list "HTTP/1.1 200 OK")
  end)
end)

describe("headers.merge", function()
  it("lets later fields replace earlier ones, whatever their case", function()
    local first, second = { Accept = "a", ["X-One"] = "1" }, { ACCEPT = "b" }
    local map = headers.merge(first, second, nil, { ["x-two"] = 2 })
    assert.same({
      accept = { name = "ACCEPT", value = "b" },
      ["x-one"] = { name = "X-One", value = "1" },
      ["x-two"] = { name = "x-two", value = "2" },
    }, map)
  end)

  it("removes a field that is false", function()
    assert.same({}, headers.merge({ Accept = "a" }, { accept = false }))
    assert.same({ accept = { name = "accept", value = "c" } },
      headers.merge({ Accept = "a" }, { accept = false }, { accept = "c" }))
  end)

  it("takes maps of its own and changes none", function()
    local first = headers.merge { A = "1" }
    local second = headers.merge(first, { B = "2" })
    assert.same({ a = { name = "A", value = "1" } }, first)
    assert.same({ a = { name = "A", value = "1" }, b = { name = "B", value = "2" } }, second)
  end)

  it("keeps secrets secret and digits exact", function()
    local token = secret.value "merge-token"
    local map = headers.merge { Authorization = "Bearer " .. token, ["X-Id"] = 123456789012345 }
    assert.is_true(secret.is(map.authorization.value))
    assert.equal("123456789012345", map["x-id"].value)
  end)

  it("raises on what is no field", function()
    local cases = {
      { { A = true }, 'headers: "A" must be a string, number, secret or false, got boolean' },
      { { A = {} }, 'headers: "A" must be a string, number, secret or false, got table' },
      { { A = 0 / 0 }, 'headers: "A" must be a string, number, secret or false, got number' },
      { { "A: x" }, "headers: names must be strings, got 1" },
      { { A = "1", a = "2" }, 'headers: "a" is given twice' },
    }
    for _, case in ipairs(cases) do
      local ok, message = pcall(headers.merge, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
    end
  end)
end)

describe("headers.text", function()
  it("writes the fields in the order of their names", function()
    local map = headers.merge { ["X-b"] = "2", ["x-A"] = "1", Accept = "*/*", Empty = "" }
    assert.equal("Accept: */*\nEmpty: \nx-A: 1\nX-b: 2\n", headers.text(map))
    assert.equal("", headers.text {})
  end)

  it("reveals secrets", function()
    local map = headers.merge { Authorization = "Bearer " .. secret.value "text-token" }
    assert.equal("Authorization: Bearer text-token\n", headers.text(map))
  end)

  it("refuses names that are no token", function()
    for _, name in ipairs { "", "A B", "A:", "A\r\nB", "Ä", "A\0", "(A)", "A/B", '"A"', "A@" } do
      local text, message = headers.text(headers.merge { [name] = "x" })
      assert.is_nil(text)
      assert.matches("is no header name", message)
    end
    local odd = "!#$%&'*+-.^_`|~9"
    assert.equal(odd .. ": x\n", headers.text(headers.merge { [odd] = "x" }))
  end)

  it("refuses values that could start another field, without showing them", function()
    for _, value in ipairs { "a\r\nB: c", "a\n", "\r", "a\0b", secret.value "text\nsecret" } do
      local text, message = headers.text(headers.merge { A = value })
      assert.is_nil(text)
      assert.equal('the header "A" contains a line break or NUL', message)
    end
    for _, value in ipairs { "\1", "a\27[2J", "\127" } do
      local text, message = headers.text(headers.merge { A = value })
      assert.is_nil(text)
      assert.equal('the header "A" contains a control character', message)
    end
    assert.equal("A: é\tx\n", headers.text(headers.merge { A = "é\tx" }))
  end)
end)
