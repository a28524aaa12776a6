local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local source = require "orchestrator.source"

describe("source", function()
  local path

  local function file(text)
    local f = assert(io.open(path, "wb"))
    f:write(text)
    f:close()
    return path
  end

  -- All that a reader gives: {place, item or "invalid: message"}.
  local function all(src)
    local reader, err = src:open()
    if not reader then return nil, err end
    local out = {}
    while true do
      local position, item, problem = reader:next()
      if position == nil then
        assert.is_nil(problem)
        break
      end
      local place = reader:where(position):gsub("^.*:", "")
      out[#out + 1] = { place, problem and tostring(problem) or item }
      reader:ack(position)
    end
    reader:close()
    return out
  end

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  describe("of a list", function()
    it("gives its elements", function()
      assert.same({ { "item 1", "a" }, { "item 2", { url = "b" } }, { "item 3", false } },
        all(source.of { "a", { url = "b" }, false }))
      assert.same({}, all(source.of {}))
    end)

    it("loses none to a hole", function()
      assert.same({ { "item 1", "a" }, { "item 2", "invalid: the list has a hole here" },
        { "item 3", "c" } }, all(source.of { "a", nil, "c" }))
    end)

    it("knows how many there are", function()
      local reader = source.of({ "a", "b" }):open()
      assert.same({ 2, true }, { reader:total() })
    end)

    it("is refused when it is none", function()
      local src, message = source.of { url = "http://a" }
      assert.is_nil(src)
      assert.equal("must be a list, but has no element 1", message)
      src, message = source.of "urls.txt"
      assert.is_nil(src)
      assert.matches("must be a list, an iterator function or orc.source.lines", message)
    end)
  end)

  describe("of a function", function()
    it("gives what it returns", function()
      local n = 0
      local src = source.of(function()
        n = n + 1
        if n <= 2 then return n * 10 end
      end)
      assert.same({ { "item 1", 10 }, { "item 2", 20 } }, all(src))
    end)

    it("fails with its err", function()
      local err = errors.new("http", "gone")
      local position, item, problem = source.of(function() return nil, err end):open():next()
      assert.is_nil(position)
      assert.is_nil(item)
      assert.equal(err, problem)
      problem = select(3, source.of(function() return nil, "no more" end):open():next())
      assert.equal("script", problem.kind)
      assert.equal("no more", problem.message)
    end)

    it("does not know how many", function()
      assert.is_nil((source.of(function() end):open():total()))
    end)
  end)

  describe("of lines", function()
    it("gives them with their places", function()
      assert.same({ { "1", "a" }, { "2", " b " }, { "4", "ü" } },
        all(source.lines(file "\239\187\191a\r\n b \n\r\nü")))
      assert.same({}, all(source.lines(file "")))
      assert.same({}, all(source.lines(file "\239\187\191")))
      assert.same({ { "1", "ab" } }, all(source.lines(file "ab")))
      assert.same({ { "3", "x" } }, all(source.lines(file "\n\nx\n")))
    end)

    it("fails those that are not UTF-8, alone", function()
      assert.same({ { "1", "a" }, { "2", "invalid: not UTF-8 at byte 3" }, { "3", "c" } },
        all(source.lines(file "a\nxy\255z\nc\n")))
    end)

    it("fails those over 1 MB, alone", function()
      for _, length in ipairs { 1000001, 3000000 } do
        assert.same({
          { "1", "a" }, { "2", "invalid: the line is longer than 1 MB" }, { "3", "c" },
        }, all(source.lines(file("a\n" .. ("x"):rep(length) .. "\nc\n"))))
      end
      assert.same({ { "1", "invalid: the line is longer than 1 MB" } },
        all(source.lines(file(("x"):rep(1000001)))))
      local items = all(source.lines(file(("x"):rep(1000000) .. "\nc")))
      assert.equal(1000000, #items[1][2])
      assert.equal("c", items[2][2])
    end)

    it("may have another cap", function()
      for _, format in ipairs { "lines", "jsonl" } do
        assert.same({ "1", "invalid: the line is longer than 3 bytes" },
          all(source[format](file "1234\n", { max_line = 3 }))[1])
      end
    end)

    it("keeps of a bad line what shows which it is", function()
      local reader = source.lines(file(("x"):rep(300) .. "\255\n")):open()
      local _, item, err = reader:next()
      assert.equal("invalid", err.kind)
      assert.equal(("x"):rep(200), item)
      assert.equal(path .. ":1", reader:where(1))
    end)

    it("reads across its pieces", function()
      local lines, want = {}, {}
      for i = 1, 20000 do
        lines[i] = ("%d:"):format(i) .. ("y"):rep(i % 97)
        want[i] = { tostring(i), lines[i] }
      end
      assert.same(want, all(source.lines(file(table.concat(lines, "\n")))))
    end)

    it("can be opened again", function()
      local src = source.lines(file "a\nb")
      assert.equal(2, #all(src))
      assert.equal(2, #all(src))
    end)

    it("guesses how many there are until it knows", function()
      local reader = source.lines(file(("0123456789\n"):rep(20000))):open()
      assert.is_nil((reader:total()))
      for _ = 1, 100 do reader:next() end
      local total, exact = reader:total()
      assert.is_near(20000, total, 200)
      assert.is_false(exact)
      while reader:next() do end
      assert.same({ 20000, true }, { reader:total() })
    end)

    it("that cannot be read are misuse", function()
      local ok, message = pcall(source.lines, "/nonexistent/urls.txt")
      assert.is_false(ok)
      assert.matches("source.lines: cannot read /nonexistent/urls.txt: No such file", message)
      ok, message = pcall(source.csv, nil)
      assert.is_false(ok)
      assert.matches("source.csv: expects the path of a file, got a nil", message)
    end)

    it("that cannot be read on fail the source", function()
      local position, item, err = source.lines("/tmp"):open():next()
      assert.is_nil(position)
      assert.is_nil(item)
      assert.equal("cannot read /tmp: Is a directory", err.message)
    end)
  end)

  it("knows UTF-8", function()
    for _, good in ipairs { "", "abc", "é", "€", "𝄞", "\237\159\191", "\244\143\191\191" } do
      assert.is_nil(source.bad_utf8(good))
      assert.is_nil(source.bad_utf8("a" .. good .. "b" .. good))
    end
    for _, bad in ipairs {
      "\128", "\192\128", "\193\191", "\194", "\194a", "\224\159\191", "\224\160", "\237\160\128",
      "\240\143\191\191", "\240\144\128", "\244\144\128\128", "\245\128\128\128", "\255",
    } do
      assert.equal(1, source.bad_utf8(bad))
      assert.equal(4, source.bad_utf8("aé" .. bad .. "z"))
      assert.equal(4, source.bad_utf8("\255é" .. bad, 2))
    end
  end)

  describe("of JSON Lines", function()
    it("gives the values", function()
      assert.same({ { "1", { url = "a" } }, { "3", "b" }, { "4", json.null }, { "5", false } },
        all(source.jsonl(file '\239\187\191{"url": "a"}\r\n  \n"b"\nnull\nfalse')))
    end)

    it("fails what is none, alone", function()
      local items = all(source.jsonl(file '1\n{"a":\nNaN\n2\n"\255"\n'))
      assert.equal(1, items[1][2])
      assert.matches("^invalid: not JSON: ", items[2][2])
      assert.matches("^invalid: not JSON: ", items[3][2])
      assert.equal(2, items[4][2])
      assert.matches("^invalid: not JSON: ", items[5][2])
    end)
  end)

  describe("of CSV", function()
    local function rows(text)
      return all(source.csv(file(text)))
    end

    it("gives rows by the names of its header", function()
      assert.same({ { "2", { id = "1", name = "a b" } }, { "3", { id = "", name = " x" } } },
        rows "\239\187\191id,name\r\n1,a b\r\n, x")
      assert.same({}, rows "")
      assert.same({}, rows "id,name\n")
      assert.same({ { "4", { id = "1" } } }, rows "\nid\n\n1\n\n")
    end)

    it("reads quoted fields", function()
      assert.same({
        { "2", { a = 'say "hi"', b = "1,2" } }, { "3", { a = "two\r\nlines", b = "" } },
        { "5", { a = "x", b = 'y"' } },
      }, rows 'a,"b"\n"say ""hi""","1,2"\r\n"two\r\nlines",""\nx,"y"""\n')
    end)

    it("fails a bad row alone", function()
      assert.same({
        { "2", "invalid: not CSV: 1 field where the header has 2" },
        { "3", "invalid: not CSV: 3 fields where the header has 2" },
        { "4", 'invalid: not CSV: there is a quote in an unquoted field' },
        { "5", { a = "1", b = "2" } },
        { "6", "invalid: not CSV: something follows a closing quote" },
        { "7", "invalid: not CSV: not UTF-8 at byte 1" },
        { "8", { a = "3", b = "4" } },
      }, rows 'a,b\n1\n1,2,3\n5" disk,1\n1,2\n"x"y,1\n\255,1\n3,4\n')
    end)

    it("fails only the row whose quote is never closed", function()
      assert.same({
        { "2", "invalid: not CSV: a quoted field is never closed" },
        { "3", { a = "1", b = "2" } },
        { "4", { a = "3", b = "4" } },
      }, rows 'a,b\n"x,1\n1,2\n3,4\n')
      local long = rows('a,b\n"x,1\n' .. ("1,2\n"):rep(300000) .. "3,4\n")
      assert.equal(300002, #long)
      assert.same({ "2", "invalid: not CSV: a quoted field is never closed" }, long[1])
      assert.same({ "300003", { a = "3", b = "4" } }, long[300002])
    end)

    it("fails a long line inside a quoted field as a line of its own", function()
      assert.same({
        { "2", "invalid: not CSV: a quoted field is never closed" },
        { "3", "invalid: the line is longer than 1 MB" },
        { "4", { a = "1", b = "2" } },
      }, rows('a,b\n"x,1\n' .. ("y"):rep(2000000) .. "\n1,2\n"))
    end)

    it("may have another separator, and no header", function()
      assert.same({ { "2", { a = "1,5", b = "x" } } },
        all(source.csv(file "a;b\n1,5;x\n", { separator = ";" })))
      assert.same({ { "1", { "a", "b" } }, { "2", { "1" } } },
        all(source.csv(file "a,b\n1\n", { header = false })))
      local ok, message = pcall(source.csv, path, { seperator = ";" })
      assert.is_false(ok)
      assert.matches('source.csv: unknown option "seperator" %(did you mean "separator"', message)
    end)

    it("refuses a header that would lose a column", function()
      local items, err = rows "id,name,id\n1,a,2\n"
      assert.is_nil(items)
      assert.matches('the CSV header is bad: two columns are named "id"', err.message)
      items, err = rows '"id\n1\n'
      assert.is_nil(items)
      assert.matches("the CSV header is bad: a quoted field is never closed", err.message)
    end)
  end)
end)
