local file_case = require "file_case"

describe("format_json", function()
  local read, unpacked = file_case.read, file_case.unpacked
  local run, open, put = file_case.run, file_case.open, file_case.put

  before_each(file_case.enter)
  after_each(file_case.leave)

  it("writes one JSON array, closed behind every window", function()
    run(function(sched)
      local s = assert(open(sched, "x.json"))
      put(s, {}, { 1, { b = 1 } }, {}, { "x" })
      assert.equal('[\n1,\n{"b":1},\n"x"\n]\n', read "x.json.part")
      local position = s.position
      put(s, { 2 })
      assert.equal('[\n1,\n{"b":1},\n"x",\n2\n]\n', read "x.json.part")
      s:close(true)
      s = assert(open(sched, "x.json", { resume = position }))
      assert.is_true(s:finish())
      s:close(true)
      assert.equal('[\n1,\n{"b":1},\n"x"\n]\n', read "x.json")
      s = assert(open(sched, "y.json"))
      put(s, {})
      assert.is_true(s:finish())
      s:close(true)
      assert.equal("[]\n", read "y.json")
    end)
  end)

  it("opens an array again", function()
    for before, after in pairs {
      ["[]"] = "[\n2\n]\n", ["[ \n]\n\n"] = "[\n2\n]\n", ["[\n1\n]\n"] = "[\n1,\n2\n]\n",
      ["[1,[2]]"] = "[1,[2],\n2\n]\n", ['[{"a":1}]\n'] = '[{"a":1},\n2\n]\n',
      ['[\n  {\n    "a": 1\n  }\n]\n'] = '[\n  {\n    "a": 1\n  },\n2\n]\n',
    } do
      local text, warning = file_case.mended("x.json", before, 2)
      assert.equal(after, text)
      assert.is_nil(warning)
    end
  end)

  it("mends an array that a killed run has left open", function()
    for before, after in pairs {
      ['[\n{"a":1}'] = '[\n{"a":1},\n2\n]\n', ["[\n1\n"] = "[\n1,\n2\n]\n",
      ['[\n{"a":1},\n"b"'] = '[\n{"a":1},\n"b",\n2\n]\n',
      ['[\n{"a":1},\n'] = '[\n{"a":1},\n2\n]\n', ["[\n"] = "[\n2\n]\n",
      ["[\n1\n]"] = "[\n1,\n2\n]\n",
    } do
      local text, warning = file_case.mended("x.json", before, 2)
      assert.equal(after, text)
      assert.is_nil(warning)
    end
    for before, after in pairs {
      ['[\n{"a":1},\n{"b":[1]'] = '[\n{"a":1},\n2\n]\n', ['[\n{"a":[1]'] = "[\n2\n]\n",
      ["[\n1,\n12"] = "[\n1,\n2\n]\n", ['[\n1,\n{"a":"' .. ("x"):rep(9000)] = "[\n1,\n2\n]\n",
    } do
      local text, warning = file_case.mended("x.json", before, 2)
      assert.equal(after, text)
      assert.matches("cut a torn last line of", warning)
    end
  end)

  it("refuses what is no array", function()
    for _, text in ipairs { '{"a":1}\n', "1\n", "[1,\n  [2]", " ]", "x" } do
      local done, problem = file_case.mended("x.json", text, 2)
      assert.is_false(done)
      assert.matches("cannot append to .*x%.json: it ", problem)
      assert.equal(text, read "x.json")
    end
  end)

  it("opens a compressed array again", function()
    for _, ending in ipairs { "gz", "zst" } do
      local name = "x.json." .. ending
      for i = 1, 3 do
        run(function(sched)
          local s = assert(open(sched, name, { mode = "append" }))
          if i > 1 then put(s, { i }) end
          assert.is_true(s:finish())
          s:close(true)
        end)
      end
      assert.equal("[\n2,\n3\n]\n", unpacked(name))
    end
  end)
end)
