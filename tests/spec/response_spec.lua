local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local json = require "orchestrator.json"
local pieces = require "pieces"
local response = require "orchestrator.response"
local secret = require "orchestrator.secret"

local HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-A: 1\r\nX-A: 2\r\n\r\n"

local function response_of(fields)
  local result = {
    status = 200, head = HEAD, body = "{}", size = 2, wire = 2, framing = "length", version = "1.1",
    dns = 1, connect = 2, tls = 3, first_byte = 4, elapsed = 5,
  }
  for name, value in pairs(fields or {}) do result[name] = value end
  return response.of(result, "https://a/b", 3)
end

describe("response", function()
  it("says what came back", function()
    local res = response_of()
    assert.same({ 200, "{}", "https://a/b", 3, "none", "length" },
      { res.status, res.body, res.url, res.attempts, res.from_cache or "none", res.framing })
    assert.same({}, res.hops)
    assert.same({ dns = 1, connect = 2, tls = 3, first_byte = 4, total = 5 }, res.timing)
    assert.is_nil(res.ignored)
    assert.is_nil(res.nothing_of_that_name)
  end)

  it("is ok when the status is 2xx", function()
    for _, case in ipairs { { 199, false }, { 200, true }, { 299, true }, { 300, false } } do
      assert.equal(case[2], response_of({ status = case[1] }).ok)
    end
  end)

  it("has headers by lower-cased name, made once", function()
    local res = response_of()
    assert.same({ ["content-type"] = "application/json", ["x-a"] = "1, 2" }, res.headers)
    assert.equal(res.headers, res.headers)
  end)

  it("decodes JSON", function()
    assert.same({ a = { 1, 2 } }, (response_of({ body = '{"a":[1,2]}' }):json()))
    assert.equal(json.null, (response_of({ body = "null" }):json()))
    assert.equal(false, (response_of({ body = "false" }):json()))
  end)

  it("says which response is not JSON", function()
    local value, err = response_of({ body = "<html>" }):json()
    assert.is_nil(value)
    assert.same({ "decode", "bad_json", "https://a/b", 200 },
      { err.kind, err.fault, err.url, err.status })
    assert.matches("byte 1", err.message)
  end)

  it("has no JSON when the body was saved", function()
    local res = response.of({ status = 200, head = HEAD }, "https://a/b", 1)
    local value, err = res:json()
    assert.is_nil(value)
    assert.equal("decode: the body was saved to a file (https://a/b)", tostring(err))
  end)

  -- A response whose body comes in these pieces, then ends, or ends with an error.
  local function streamed(list, err)
    local stream = { closed = 0 }
    local read = pieces.reader(list, err)
    function stream.read() return read() end
    function stream.close() stream.closed = stream.closed + 1 end
    function stream.lost() return stream.problem end
    local res = response.of({ status = 200, head = HEAD, stream = stream }, "https://a/b", 1)
    return res, stream
  end

  -- What an iterator gives, with what it raises in the end.
  local function collect(iterator)
    local out = {}
    local ok, raised = pcall(function()
      for value, number in iterator do out[#out + 1] = { value, number } end
    end)
    return out, not ok and raised or nil
  end

  it("gives nothing more of what was given up by others", function()
    local res, stream = streamed { "1\n2\n3\n" }
    local iterator = res:lines()
    assert.equal("1", (iterator()))
    stream.problem = "gone"
    for _ = 1, 2 do assert.same({ false, "gone" }, { pcall(iterator) }) end
  end)

  it("gives a body in memory or a streamed one by lines, values, records and pieces", function()
    for _, make in ipairs {
      function(body) return (response_of { body = body }) end,
      function(body) return (streamed(pieces.cut(body, 3, 4, 9))) end,
    } do
      assert.same({ { "a", 1 }, { "", 2 }, { "bcdefghi", 3 } },
        (collect(make("a\r\n\nbcdefghi"):lines())))
      assert.same({ { 1, 1 }, { { a = false }, 3 }, { false, 4 }, { json.null, 5 } },
        (collect(make('1\n\n{"a":false}\nfalse\nnull'):jsonl())))
      assert.same({ { { a = "1", b = "2\n3" }, 2 } }, (collect(make('a;b\n1;"2\n3"'):csv {
        separator = ";",
      })))
      assert.same({ { { "a", "b" }, 1 }, { { "1", "23456" }, 2 } },
        (collect(make("a,b\n1,23456"):csv { header = false })))
    end
    assert.same({ { "ab" } }, (collect(response_of({ body = "ab" }):chunks())))
    assert.same({}, (collect(response_of({ body = "" }):chunks())))
    assert.same({ { "ab" }, { "c" } }, (collect(streamed({ "ab", "", "c" }):chunks())))
  end)

  it("raises what ends a streamed body early, and gives nothing of a cut record", function()
    local err = errors.new("network", "cut off")
    for method, body in pairs { lines = "1\n2", jsonl = "1\n2", csv = "1\n2", chunks = "1\n" } do
      local res, stream = streamed({ body }, err)
      local iterator = res[method](res, method == "csv" and { header = false } or nil)
      local out, raised = collect(iterator)
      assert.equal(1, #out, method)
      assert.equal(err, raised)
      assert.equal(1, stream.closed)
      assert.same({ {}, err }, { collect(iterator) }) -- it stays ended
    end
  end)

  it("raises a bad record with its line, and gives up the rest", function()
    for _, case in ipairs {
      { "jsonl", "1\n\n{\n3\n", nil, "decode: line 3: not JSON: byte 2" },
      { "csv", "a\n1\n1,2\n", nil,
        "decode: line 3: not CSV: 2 fields where the header has 1 %(https://a/b" },
      { "csv", "a,a\n1\n", nil, "decode: line 1: the CSV header is bad: two columns are named" },
      { "lines", "1\n1234567", { max_line = 4 },
        "too_large: line 2: the line is longer than 4 bytes %(https://a/b" },
    } do
      local res, stream = streamed { case[2] }
      local _, raised = collect(res[case[1]](res, case[3]))
      assert.is_true(errors.is(raised))
      assert.matches(case[4], tostring(raised))
      assert.same({ 1, 200, faults.get(raised.fault).kind },
        { stream.closed, raised.status, raised.kind })
      res = response_of { body = case[2] }
      _, raised = collect(res[case[1]](res, case[3]))
      assert.matches(case[4], tostring(raised))
    end
  end)

  it("gives nil again after the end", function()
    local iterator = streamed({ "a\nb" }):lines()
    for _, want in ipairs { "a", "b" } do assert.equal(want, (iterator())) end
    assert.is_nil((iterator()))
    assert.is_nil((iterator()))
  end)

  local function misuse(...)
    local ok, message = pcall(...)
    assert.is_false(ok)
    return message
  end

  it("can be read once when it is streamed, and any time when it is not", function()
    local res = streamed { "a\nb" }
    res:lines()
    assert.matches("response_spec.lua:%d+: res:csv: a streamed body can be read once; res:lines "
      .. "began it", misuse(res.csv, res))
    res = response_of { body = "a\nb" }
    for _ = 1, 2 do assert.same({ { "a", 1 }, { "b", 2 } }, (collect(res:lines()))) end
  end)

  it("has a beginning that can be looked at", function()
    local res = response_of { body = "abcdef" }
    assert.same({ "abc", "abcdef", "abcdef" }, { res:peek(3), res:peek(), res:peek(100) })
    assert.equal("", response_of({ body = "" }):peek())

    local path = os.tmpname()
    finally(function() os.remove(path) end)
    local file = assert(io.open(path, "wb"))
    file:write "saved body"
    file:close()
    res = response.of({ status = 200, head = HEAD, saved = path }, "https://a/b", 1)
    assert.same({ "saved", "saved body" }, { res:peek(5), res:peek() })
    res = response.of({ saved = "/nowhere/x" }, "https://a", 1)
    assert.equal("invalid", select(2, res:peek()).kind)

    res = streamed { "abc", "def" }
    res.stream.peek = function(_, most) return ("abcdef"):sub(1, most) end
    assert.equal("abcd", res:peek(4))
    res:lines()
    assert.matches("response_spec.lua:%d+: res:peek: res:lines reads the body already",
      misuse(res.peek, res))
    for _, most in ipairs { 0, -1, 1.5, "x" } do
      assert.matches("res:peek: expects a number of bytes", misuse(res.peek, res, most))
    end
  end)

  it("is what a script makes of it", function()
    local key = secret.value "response-spec-key"
    local res = response.made(203, { ["X-A"] = 5, Key = key }, "abc", "https://a/", 2)
    assert.same({ 203, true, "abc", "https://a/", 2, "none", 3, 0 }, { res.status, res.ok, res.body,
      res.url, res.attempts, res.framing, res.size, res.wire })
    assert.same({ ["x-a"] = "5", key = "response-spec-key" }, res.headers)
    assert.same({ dns = 0, connect = 0, tls = 0, first_byte = 0, total = 0 }, res.timing)
    assert.same({ {} }, { res.hops, res.from_cache })
    assert.is_true(response.is(res))
    assert.is_false(response.is {})
  end)

  it("cannot be read when it was saved", function()
    local saved = response.of({ status = 200, head = HEAD }, "https://a/b", 1)
    assert.matches("response_spec.lua:%d+: res:lines: the body was saved to a file",
      misuse(saved.lines, saved))
  end)

  it("takes the options there are", function()
    local res = response_of()
    assert.matches('res:lines: unknown option "maxline" %(did you mean "max_line"%?%)',
      misuse(res.lines, res, { maxline = 1 }))
    assert.matches('res:csv: "separator" must be one ASCII character', misuse(res.csv, res,
      { separator = ";;" }))
    assert.matches('res:jsonl: unknown option "header"', misuse(res.jsonl, res, { header = false }))
  end)

  it("has no JSON when it is streamed, and says what there is instead", function()
    local value, err = streamed({ "{}" }):json()
    assert.is_nil(value)
    assert.matches("^decode: the body is streamed: read it with res:lines%(%)", tostring(err))
  end)

  it("can be closed", function()
    local res, stream = streamed { "a" }
    res:close()
    assert.equal(1, stream.closed)
    response_of():close()
  end)

  it("shows itself in a line", function()
    assert.equal("response 200 from https://a/b", tostring(response_of()))
    assert.equal("response 200 from https://a/\\x1b",
      tostring(response.of({ status = 200 }, "https://a/\27", 1)))
    secret.value "response-spec-key"
    assert.equal("response 200 from https://a/?key=***",
      tostring(response.of({ status = 200 }, "https://a/?key=response-spec-key", 1)))
  end)
end)
