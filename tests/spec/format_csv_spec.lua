local file_case = require "file_case"
local json = require "orchestrator.json"

describe("format_csv", function()
  local read, write, unpacked = file_case.read, file_case.write, file_case.unpacked
  local run, open, put = file_case.run, file_case.open, file_case.put

  before_each(file_case.enter)
  after_each(file_case.leave)

  local function csv(records, opts, name)
    name = name or "x.csv"
    run(function(sched)
      local s = assert(open(sched, { name, csv = opts }))
      put(s, records)
      assert.is_true(s:finish())
      s:close(true)
    end)
    return read(name)
  end

  it("quotes what has to be", function()
    assert.equal('a,"b ""x"""\r\nplain,"1,5"\r\n"say ""hi""","two\r\nlines"\r\n""," ü"\r\n,\r\n'
      .. ",\r\n", csv {
        { a = "plain", ['b "x"'] = "1,5" }, { a = 'say "hi"', ['b "x"'] = "two\r\nlines" },
        { a = "", ['b "x"'] = " ü" }, { a = json.null }, {},
      })
    assert.equal("a;b\r\n1,5;\"x;y\"\r\n", csv({ { a = "1,5", b = "x;y" } }, { delimiter = ";" }))
    assert.equal("a|b\r\n1|\"x|y\"\r\n", csv({ { a = 1, b = "x|y" } }, { delimiter = "|" }))
  end)

  it("writes values that can be read again", function()
    assert.equal('v\r\n1\r\n-5\r\n0.1\r\n9007199254740992\r\n9007199254740993\r\n-0.0\r\n'
      .. '0.0000001\r\n'
      .. 'true\r\nfalse\r\n"[1,""x""]"\r\n"{""a"":null}"\r\n""\r\n""\r\n', csv {
        { v = 1 }, { v = -5 }, { v = 0.1 }, { v = 2 ^ 53 }, { v = "9007199254740993" },
        { v = -0.0 }, { v = 1e-7 }, { v = true }, { v = false }, { v = { 1, "x" } },
        { v = { a = json.null } }, { v = json.null }, { v = "" },
      })
  end)

  it("refuses what has no form in it", function()
    run(function(sched)
      local s = assert(open(sched, "x.csv"))
      for _, case in ipairs {
        { { "x" }, "a row of CSV is a table with names, got a list" },
        { json.array {}, "a row of CSV is a table with names, got a list" },
        { 7, "a row of CSV is a table with names, got a number" },
        { json.null, "a row of CSV is a table with names, got a userdata" },
        { { v = "a\0b" }, 'in column "v": a NUL byte has no place in CSV' },
        { { v = "a\255b" }, 'in column "v": the text is not UTF-8 at byte 2' },
        { { v = "x\255" }, 'in column "v": the text is not UTF-8 at byte 2' },
        { { ["\255"] = 1 }, 'in column "\255": the text is not UTF-8 at byte 1' },
        { { v = 0 / 0 }, 'in column "v": nan has no JSON form' },
        { { v = 1 / 0 }, 'in column "v": an infinite number has no JSON form' },
        {
          { v = { 1, print } },
          'in column "v": at [2]: a value of type function has no JSON form',
        },
      } do
        local batch, err = s:encode { case[1] }
        assert.is_nil(batch)
        assert.equal("invalid", err.kind)
        assert.equal(case[2], err.message)
      end
      local wide = {}
      for i = 1, 10001 do wide["c" .. i] = i end
      local batch, err = s:encode { wide }
      assert.is_nil(batch)
      assert.equal("CSV files have at most 10000 columns", err.message)
      s:close(false)
    end)
  end)

  it("escapes what a spreadsheet would run", function()
    local records = { { a = "=1+1", ["=b"] = "@x" }, { a = "-5", ["=b"] = -5 }, { a = "x=1" } }
    assert.equal("'=b,a\r\n'@x,'=1+1\r\n-5,'-5\r\n,x=1\r\n",
      csv(records, { formula_escape = true }))
    assert.equal("=b,a\r\n@x,=1+1\r\n-5,-5\r\n,x=1\r\n", csv(records, {}))
    run(function(sched)
      local s = assert(open(sched, { "x.csv", mode = "append", csv = { formula_escape = true } }))
      assert.is_table(s:encode { { a = 1 } })
      s:close(true)
    end)
  end)

  it("has the columns that were asked for", function()
    assert.equal("b,a\r\n,1\r\n", csv({ { a = 1 } }, { columns = { "b", "a" } }))
    run(function(sched)
      local s = assert(open(sched, { "x.csv", csv = { columns = { "b", "a" } } }))
      local batch, err = s:encode { { c = 1 } }
      assert.is_nil(batch)
      assert.equal('the column "c" is not in the CSV file, whose columns are fixed by the option '
        .. "columns", err.message)
      s:close(false)
      write("x.csv", "a,b\n")
      s, err = open(sched, { "x.csv", mode = "append", csv = { columns = { "b", "a" } } })
      assert.is_nil(s)
      assert.matches("its header is not what the option columns says$", tostring(err))
    end)
  end)

  for _, ending in ipairs { "", ".gz", ".zst" } do
    it("completes rows when later ones have more columns" .. ending, function()
      local name = "x.csv" .. ending
      run(function(sched)
        local s = assert(open(sched, name))
        put(s, { { b = 0 } })
        s:close(true)
        s = assert(open(sched, name))
        assert.is_table(s:encode { { never = "written" } })
        put(s, { { b = 1, a = 'x\r\n,"y' }, { a = 2 } })
        assert.same({ "a", "b" }, s.position.columns)
        local late = assert(s:encode { { c = 5 } })
        put(s, { { d = "3,", c = 4 } })
        local position = assert(s:commit { batches = { late }, records = 1 })
        s:close(true)
        assert.same({ "a", "b", "c", "d" }, position.columns)
        assert.equal(2, position.header)

        position = assert(json.decode((assert(json.encode(position)))))
        s = assert(open(sched, name, { resume = position }))
        put(s, { { b = 7 } })
        assert.is_true(s:finish())
        s:close(true)
      end)
      local expected = 'a,b,c,d\r\n"x\r\n,""y",1,,\r\n2,,,\r\n,,4,"3,"\r\n,,5,\r\n,7,,\r\n'
      assert.equal(expected, ending == "" and read(name) or unpacked(name))
      assert.is_nil(read(name .. ".part"))
      assert.is_nil(read(name .. ".part.wide"))
    end)
  end

  it("can be thawed", function()
    run(function(sched)
      local s = assert(open(sched, "x.csv"))
      put(s, { { a = 1 } })
      local position = s.position
      local batches = { (s:encode { { a = 2 }, { b = 3 } }), (s:encode { { c = 4 } }) }
      local text = s:freeze(batches)
      s:close(true)
      s = assert(open(sched, "x.csv", { resume = position }))
      assert(s:commit { batches = s:thaw(text), records = 3 })
      assert.is_true(s:finish())
      s:close(true)
    end)
    assert.equal("a,b,c\r\n1,,\r\n2,,\r\n,3,\r\n,,4\r\n", read "x.csv")
  end)

  it("can be thawed with the columns of a file that is just begun", function()
    run(function(sched)
      local s = assert(open(sched, "x.csv", { mode = "append" }))
      local position = assert(json.decode((assert(json.encode(s.position)))))
      local text = s:freeze { (s:encode { { a = 1, b = 2 } }) }
      s:close(true)
      s = assert(open(sched, "x.csv", { mode = "append", resume = position }))
      assert(s:commit { batches = s:thaw(text), records = 1 })
      local _, err = s:encode { { c = 3 } }
      assert.matches('the column "c" is not in the CSV file', err.message)
      put(s, { { b = 4 } })
      assert.is_true(s:finish())
      s:close(true)
    end)
    assert.equal("a,b\r\n1,2\r\n,4\r\n", read "x.csv")
  end)

  it("takes over the columns and the line ends of a CSV file", function()
    assert.equal("b,a\n1,2\n,3\n", file_case.mended("x.csv", "b,a\n1,2\n", { a = 3 }))
    local with_mark = "\239\187\191b,\"a,\"\r\n"
    assert.equal(with_mark .. ",3\r\n", file_case.mended("x.csv", with_mark, { ["a,"] = 3 }))
    assert.equal("a\r\n2\r\n", file_case.mended("x.csv", "", { a = 2 }))
    local text, warning = file_case.mended("x.csv", "a,b\n1,2\n3", { a = 2 })
    assert.equal("a,b\n1,2\n2,\n", text)
    assert.matches("cut a torn last row of 1 bytes", warning)
    local bad_files = { "a,b\n1,2", "a,b", "a,a\n", 'a,"b\n"\n', 'a,b\n1,"x\n', 'a,b\n1,"x\ny",',
      'a,b\n1,"x\ny""z"' }
    for _, bad in ipairs(bad_files) do
      local done, problem = file_case.mended("x.csv", bad, { a = 2 })
      assert.is_false(done)
      assert.matches("^invalid: cannot append to .*x%.csv: its ", problem)
      assert.equal(bad, read "x.csv")
    end
  end)

  it("names the column that a CSV file does not have", function()
    write("x.csv", "a\n1\n")
    run(function(sched)
      local s = assert(open(sched, "x.csv", { mode = "append" }))
      local batch, err = s:encode { { a = 1, z = 1, c = 2 } }
      assert.is_nil(batch)
      assert.equal('the column "c" is not in the CSV file, whose columns are fixed by its '
        .. 'header: write it anew with mode = "replace"', err.message)
      s:close(false)
      -- A new file gets the columns of its first item.
      s = assert(open(sched, "y.csv", { mode = "append" }))
      assert.is_nil((s:encode { { x = 1 }, { y = print } }))
      local first = assert(s:encode { { b = 1 }, { a = 2 } })
      assert.is_nil((s:encode { { c = 1 } }))
      local second = assert(s:encode { { a = 3 } })
      assert(s:commit { batches = { second, first }, records = 3 })
      s:close(true)
      assert.equal("a,b\r\n3,\r\n,1\r\n2,\r\n", read "y.csv")
      s = assert(open(sched, "y.csv", { mode = "append", resume = s.position }))
      assert.is_nil((s:encode { { c = 1 } }))
      put(s, { { b = 9 } })
      s:close(true)
      assert.equal("a,b\r\n3,\r\n,1\r\n2,\r\n,9\r\n", read "y.csv")
    end)
  end)
end)
