local fake_host = require "fake_host"
local lines = require "orchestrator.lines"
local pieces = require "pieces"

describe("lines", function()
  local function all(list, max_line, keep_cr, problem)
    return pieces.all(lines.new(pieces.reader(list, problem), { max_line = max_line or 1e6 },
      keep_cr))
  end

  -- The lines alone; every one must be good.
  local function texts(list, ...)
    local out = {}
    for i, entry in ipairs(all(list, ...)) do
      assert.same({ i }, { entry[1], entry[3] })
      out[i] = entry[2]
    end
    return out
  end

  it("end in LF, in CRLF, or with the text", function()
    assert.same({ "a", "b", "c" }, texts { "a\nb\r\nc" })
    assert.same({ "a", "", " b ", "" }, texts { "a\n\n b \r\n\r\n" })
    assert.same({}, texts { "" })
    assert.same({}, texts {})
    assert.same({ "" }, texts { "\n" })
    assert.same({ "a\rb", "\0" }, texts { "a\rb\n\0" })
    assert.same({ "a", "b" }, texts { "a", "", "\n", "", "b", "" })
  end)

  it("may keep their CR", function()
    assert.same({ "a\r", "b", "\r" }, texts({ "a\r\nb\n\r\n" }, nil, true))
    assert.same({ "a\r" }, texts({ "a", "\r", "\n" }, nil, true))
  end)

  it("come without a byte order mark, at the beginning alone", function()
    assert.same({ "a", "\239\187\191b" }, texts { "\239\187\191a\n\239\187\191b" })
    assert.same({ "\239\187" }, texts { "\239", "\187" })
    assert.same({ "\239\187x" }, texts { "\239\187", "x" })
    assert.same({}, texts { "\239", "\187", "\191" })
  end)

  it("over the cap are told with their beginning, alone", function()
    local long = { 2, "12345", "the line is longer than 5 bytes", "too_large" }
    assert.same({ { 1, "12345" }, long, { 3, "abc" } }, (all({ "12345\n123456\nabc" }, 5)))
    assert.same({ { 1, "a" }, long }, (all({ "a\n123456789" }, 5)))
    assert.same({ { 1, "12345" } }, (all({ "12345" }, 5)))
    assert.matches("longer than 1 MB", all({ ("x"):rep(1e6 + 1) })[1][3])
    assert.matches("longer than 64 kB", all({ ("x"):rep(64001) }, 64000)[1][3])
    assert.equal(lines.SHOWN, #all({ ("x"):rep(1e6) }, 1000)[1][2])
  end)

  it("over the cap are told before they have ended", function()
    local given = 0
    local reader = lines.new(function()
      given = given + 1
      assert(given <= 3, "read on")
      return "abc"
    end, { max_line = 7 })
    assert.same({ 1, "abcabca", "the line is longer than 7 bytes", "too_large" },
      { reader:next() })
  end)

  it("that were cut off are not given, however often one asks", function()
    for _, list in ipairs { { "a\nb" }, { "a\n", "b" }, { "a", "\nb\r" } } do
      local reader = lines.new(pieces.reader(list, "gone"), { max_line = 5 })
      assert.same({ 1, "a" }, { reader:next() })
      for _ = 1, 2 do assert.same({ nil, nil, "gone" }, { reader:next() }) end
    end
    local out, problem = all({ "a\n", "123456", "789" }, 5, false, "gone")
    assert.same({ 2, "gone" }, { #out, problem })
  end)

  it("say how many bytes they took", function()
    local reader = lines.new(pieces.reader { "\239\187\191ab\r\nc", "d\n", "e" }, { max_line = 9 })
    local taken = {}
    repeat
      local number = reader:next()
      taken[#taken + 1] = reader:taken()
    until not number
    assert.same({ 7, 10, 11, 11 }, taken)
  end)

  it("are the same however the text is cut", function()
    local random = fake_host.generator(7)
    local alphabet = { "a", "b", "\n", "\n", "\r\n", "\r", "\239\187\191", "xyz" }
    for _ = 1, 60 do
      local parts = {}
      for i = 1, math.floor(random() * 30) do
        parts[i] = alphabet[1 + math.floor(random() * #alphabet)]
      end
      local text = table.concat(parts)
      local want = {}
      local plain = text:gsub("^\239\187\191", "")
      for line in (plain:find "[^\n]$" and plain .. "\n" or plain):gmatch "([^\n]*)\n" do
        local number = #want + 1
        want[number] = #line > 4
          and { number, line:sub(1, 4), "the line is longer than 4 bytes", "too_large" }
          or { number, (line:gsub("\r$", "")) }
      end
      pieces.every_way(text, random, function(list)
        assert.same(want, (all(list, 4)))
      end)
    end
  end)

  it("take time in proportion to the text, in however many pieces it comes", function()
    local piece, given = ("x"):rep(10), 0
    local function read()
      given = given + 1
      if given <= 200000 then return piece end
    end
    local began = os.clock()
    local _, line = lines.new(read, { max_line = 1e9 }):next()
    assert.equal(2000000, #line)
    -- Joined piece by piece it would copy 200 GB.
    assert.is_true(os.clock() - began < 5)
  end)
end)
