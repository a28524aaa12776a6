local file_case = require "file_case"
local json = require "orchestrator.json"
local sink_file = require "orchestrator.sink_file"

describe("sink_file", function()
  local dir
  local read, write, unpacked = file_case.read, file_case.write, file_case.unpacked
  local run, open, put = file_case.run, file_case.open, file_case.put

  before_each(function() dir = file_case.enter() end)
  after_each(file_case.leave)

  it("writes JSON Lines, window by window", function()
    run(function(sched)
      local s = assert(open(sched, "x.jsonl"))
      assert.equal(0, s.position.size)
      local position = put(s, { { b = 1, a = json.array {} }, "ü\n" }, { json.null })
      assert.same({ size = #read "x.jsonl.part", count = 3 }, position)
      put(s, { false })
      assert.equal(4, s.count)
      assert.is_nil(read "x.jsonl")
      assert.is_true(s:finish())
      assert.is_true(s:finish())
      assert.is_true(s:close(true))
    end)
    assert.equal('{"a":[],"b":1}\n"ü\\n"\nnull\nfalse\n', read "x.jsonl")
    assert.is_nil(read "x.jsonl.part")
  end)

  it("goes back to a position", function()
    run(function(sched)
      local s = assert(open(sched, "x.jsonl"))
      local position = put(s, { 1 })
      put(s, { 2 })
      s:close(true)
      assert.equal("1\n2\n", read "x.jsonl.part")
      s = assert(open(sched, "x.jsonl", { resume = position }))
      assert.equal(1, s.count)
      put(s, { 3 })
      assert.is_true(s:finish())
      s:close(true)
    end)
    assert.equal("1\n3\n", read "x.jsonl")
  end)

  it("knows its formats by the extension", function()
    for given, expected in pairs {
      ["-"] = "jsonl", ["x.jsonl"] = "jsonl", ["out/x.JSONL"] = "jsonl", ["a.b/c.d.csv"] = "csv",
      ["x.json"] = "json", ["x.csv.gz"] = "csv gzip", ["x.JSONL.ZST"] = "jsonl zstd",
    } do
      local spec = assert(sink_file.check(given))
      assert.equal(expected, spec.format .. (spec.codec and " " .. spec.codec or ""))
      assert.equal(given, spec.target)
    end
    for _, bad in ipairs {
      "x", ".jsonl", "out/.jsonl", "x.jsonl/", "jsonl", "", "x.gz", ".csv.gz", "x.csv.bz2",
    } do
      local spec, message = sink_file.check(bad)
      assert.is_nil(spec, bad)
      assert.equal(('"%s" has no known format (there are %s)'):format(bad, sink_file.KNOWN),
        message)
    end
    local spec, message = sink_file.check(7)
    assert.is_nil(spec)
    assert.equal("must be the path of a file, got a number", message)
  end)

  it("has options, and tells mistakes", function()
    local spec = assert(sink_file.check { "x.csv", mode = "append", csv = { delimiter = ";" } })
    assert.equal("append", spec.mode)
    assert.same({ delimiter = ";", formula_escape = false }, spec.csv)
    local function problem(given)
      local ok, message = pcall(sink_file.check, given)
      assert.is_false(ok)
      return message
    end
    assert.matches('unknown option "modes" %(did you mean "mode"%?%)$',
      problem { "x.csv", modes = 1 })
    assert.matches('sink.csv: unknown option "formula_escapes" %(did you mean '
      .. '"formula_escape"%?%)$', problem { "x.csv", csv = { formula_escapes = true } })
    for _, bad in ipairs { "", ",,", '"', "\n", "a", "1", "\0", "-", ".", "ä" } do
      assert.matches('"delimiter" must be one ASCII',
        problem { "x.csv", csv = { delimiter = bad } })
    end
    for _, bad in ipairs { {}, { 1 }, { a = "b" }, { "a", "a" } } do
      assert.matches('"columns" ', problem { "x.csv", csv = { columns = bad } })
    end
    local none, message = sink_file.check { "x.jsonl", csv = {} }
    assert.is_nil(none)
    assert.equal('"x.jsonl" has options for CSV, and is none', message)
    none, message = sink_file.check "x-{nmae}.jsonl"
    assert.is_nil(none)
    assert.matches("did you mean {name}%?", message)
  end)

  it("takes the place of a file when it is complete", function()
    write("x.jsonl", "old\n")
    os.execute("chmod 640 " .. dir .. "/x.jsonl")
    run(function(sched)
      local s = assert(open(sched, "x.jsonl"))
      put(s, { 1 })
      assert.equal("old\n", read "x.jsonl")
      assert.equal("1\n", read "x.jsonl.part")
      s:close(false)
      assert.equal("old\n", read "x.jsonl")
      assert.is_nil(read "x.jsonl.part")
      s = assert(open(sched, "{name}/{date}-{hour}-{run_id}.jsonl"))
      assert.equal(dir .. "/test/1970-01-01-00-r1.jsonl", s.target)
      assert.is_true(s:finish())
      s:close(true)
      assert.equal("", read "test/1970-01-01-00-r1.jsonl")
      s = assert(open(sched, "x.jsonl"))
      put(s, { 2 })
      assert.is_true(s:finish())
      s:close(false)
    end)
    assert.equal("2\n", read "x.jsonl")
    local pipe = io.popen("stat -c %a " .. dir .. "/x.jsonl")
    assert.equal("640", pipe:read())
    pipe:close()
  end)

  it("drops what an earlier run has left beside, unless it is resumed", function()
    write("x.jsonl.part", "left\n")
    run(function(sched)
      local s = assert(open(sched, "x.jsonl"))
      assert.equal("", read "x.jsonl.part")
      s:close(true)
    end)
  end)

  it("encodes all records or none", function()
    run(function(sched)
      for _, name in ipairs { "x.jsonl", "x.json", "x.csv" } do
        local s = assert(open(sched, name))
        local batch, err = s:encode { { a = 1 }, { a = { b = 0 / 0 } } }
        assert.is_nil(batch)
        assert.equal("invalid", err.kind)
        assert.matches("%.b", err.message)
        s:close(false)
      end
    end)
  end)

  describe("that appends", function()
    it("keeps what it has, however it ends", function()
      run(function(sched)
        for _, complete in ipairs { true, false } do
          local s = assert(open(sched, { "out/x.jsonl", mode = "append" }))
          put(s, { complete })
          if complete then assert.is_true(s:finish()) end
          s:close(false)
        end
      end)
      assert.equal("true\nfalse\n", read "out/x.jsonl")
    end)

    it("goes back to a position", function()
      write("x.jsonl", "0\n")
      run(function(sched)
        local s = assert(open(sched, "x.jsonl", { mode = "append" }))
        assert.same({ size = 2, count = 0 }, s.position)
        local first = s.position
        put(s, { 1 })
        s:close(true)
        s = assert(open(sched, "x.jsonl", { mode = "append", resume = first }))
        put(s, { 2 })
        s:close(true)
      end)
      assert.equal("0\n2\n", read "x.jsonl")
    end)

    it("cuts a torn line, and says so", function()
      for _, tail in ipairs { '{"b":', '"ab', "12", "-", "tru", "\0\0\0", ("x"):rep(200000) } do
        local text, warning = file_case.mended("x.jsonl", '{"a":1}\n' .. tail, 2)
        assert.equal('{"a":1}\n2\n', text)
        assert.matches(("x.jsonl: cut a torn last line of %d bytes, left by a run that was killed")
          :format(#tail), warning)
      end
    end)

    it("ends a line that is a record", function()
      for _, tail in ipairs { '{"b":2}', "[1]", '"ab"', "true", "false", "null" } do
        local text, warning = file_case.mended("x.jsonl", '{"a":1}\n' .. tail, 2)
        assert.equal('{"a":1}\n' .. tail .. "\n2\n", text)
        assert.is_nil(warning)
      end
    end)

    it("ends that line also when it is resumed", function()
      write("x.jsonl", '{"a":1}')
      run(function(sched)
        local s = assert(open(sched, "x.jsonl", { mode = "append" }))
        local position = s.position
        put(s, { 2 })
        s:close(true)
        s = assert(open(sched, "x.jsonl", { mode = "append", resume = position }))
        position = put(s, { 3 })
        s:close(true)
        s = assert(open(sched, "x.jsonl", { mode = "append", resume = position }))
        put(s, { 4 })
        s:close(true)
      end)
      assert.equal('{"a":1}\n3\n4\n', read "x.jsonl")
    end)

    it("cuts a compressed file behind its last whole frame", function()
      for _, ending in ipairs { "gz", "zst" } do
        local name = "x.jsonl." .. ending
        os.remove(dir .. "/" .. name)
        run(function(sched)
          local s = assert(open(sched, name, { mode = "append" }))
          put(s, { 1 })
          local whole = read(name)
          put(s, { "a longer record that is torn" })
          s:close(true)
          local text = read(name)
          write(name, text:sub(1, -5))
          s = assert(open(sched, name, { mode = "append" }))
          assert.matches(("cut a torn end of %d bytes"):format(#text - 4 - #whole), s.warning)
          assert.equal(#whole, s.position.size)
          put(s, { 3 })
          assert.is_true(s:finish())
          s:close(true)
          assert.equal(whole, read(name):sub(1, #whole))
          assert.equal("1\n3\n", unpacked(name))
          write(name, text:sub(1, 9)) -- the first frame is torn: it may be all that somebody has
          local err
          s, err = open(sched, name, { mode = "append" })
          assert.is_nil(s)
          assert.matches("all of it is one torn frame: repair or remove it$", tostring(err))
          assert.equal(text:sub(1, 9), read(name))
          write(name, "not compressed at all")
          s, err = open(sched, name, { mode = "append" })
          assert.is_nil(s)
          assert.matches("it is not what its extension says, or damaged$", tostring(err))
        end)
      end
    end)

  end)

  it("thaws what it has frozen", function()
    run(function(sched)
      for name, expected in pairs { ["x.jsonl"] = "1\n2\n3\n", ["x.json"] = "[\n1,\n2,\n3\n]\n" } do
        local s = assert(open(sched, name))
        local batches = { (s:encode { 1, 2 }), (s:encode {}), (s:encode { 3 }) }
        assert(s:commit { batches = s:thaw(s:freeze(batches)), records = 3 })
        assert.equal(3, s.count)
        assert.is_true(s:finish())
        s:close(true)
        assert.equal(expected, read(name))
      end
    end)
  end)

  for _, ending in ipairs { "gz", "zst" } do
    it("compresses each window by itself: ." .. ending, function()
      local name, cuts = "x.jsonl." .. ending, {}
      run(function(sched)
        local s = assert(open(sched, name))
        local long = ("0123456789"):rep(30000)
        for i = 1, 3 do
          local position = put(s, { i, long })
          cuts[i] = position.size
          assert.equal(cuts[i], #read(name .. ".part"))
        end
        assert.is_true(s:finish())
        s:close(true)
        local text, window = read(name), '\n"' .. long .. '"\n'
        assert.equal("1" .. window .. "2" .. window .. "3" .. window, unpacked(name))
        write("cut.jsonl." .. ending, text:sub(1, cuts[2]))
        assert.equal("1" .. window .. "2" .. window, unpacked("cut.jsonl." .. ending))
        assert.is_true(#text < #long / 10)
      end)
    end)
  end

  describe("that is resumed", function()
    local function refused(name, ctx)
      return run(function(sched)
        local s, err = open(sched, name, ctx)
        assert.is_nil(s)
        assert.equal("invalid", err.kind)
        return (err.message:gsub(dir, "DIR"))
      end)
    end

    it("does not begin anew when its file is not as it was", function()
      local at = { size = 10, count = 1 }
      assert.equal("DIR/x.jsonl.part, where the run was to go on, is gone: put it back, or begin "
        .. "anew without --resume", refused("x.jsonl", { resume = at }))
      assert.matches("^DIR/x.jsonl, where the run was to go on, is gone",
        refused("x.jsonl", { resume = at, mode = "append" }))
      assert.is_nil(read "x.jsonl")
      write("x.jsonl", "1\n")
      assert.matches("^DIR/x.jsonl.part, where the run was to go on, is gone",
        refused("x.jsonl", { resume = at }))
      write("x.jsonl.part", "1\n")
      assert.equal("DIR/x.jsonl.part is shorter than what was committed to it (10 bytes): put the "
        .. "whole file back, or begin anew without --resume", refused("x.jsonl", { resume = at }))
      assert.equal("1\n", read "x.jsonl.part")
      os.remove(dir .. "/x.jsonl.part")
      os.execute("ln -s x.jsonl " .. dir .. "/x.jsonl.part")
      assert.equal("cannot write DIR/x.jsonl: it is a symbolic link, and links are not followed",
        refused("x.jsonl", { resume = { size = 1, count = 1 } }))
    end)

    it("knows when it was finished before", function()
      run(function(sched)
        local s = assert(open(sched, "x.jsonl"))
        local position = put(s, { 1 })
        assert.is_true(s:finish())
        s:close(true)
        s = assert(open(sched, "x.jsonl", { resume = position, finishing = true }))
        assert.equal(1, s.count)
        assert.is_true(s:finish())
        s:close(true)
      end)
      assert.equal("1\n", read "x.jsonl")
      os.remove(dir .. "/x.jsonl")
      assert.matches("is gone", refused("x.jsonl",
        { resume = { size = 2, count = 1 }, finishing = true }))
    end)
  end)

  it("refuses what it cannot write, and says why", function()
    run(function(sched)
      local function refused(given, expected)
        local s, err = open(sched, given)
        assert.is_nil(s)
        assert.equal(expected, (err.message:gsub(dir, "DIR")))
      end
      local first = assert(open(sched, "x.jsonl"))
      refused("x.jsonl", "cannot write DIR/x.jsonl: another run is writing it")
      first:close(false)
      os.execute("mkdir " .. dir .. "/d.jsonl; mkfifo " .. dir .. "/f.jsonl; ln -s x " .. dir
        .. "/l.jsonl; touch " .. dir .. "/file")
      refused("d.jsonl", "cannot write DIR/d.jsonl: Is a directory")
      refused("f.jsonl", "cannot write DIR/f.jsonl: it is not a regular file")
      refused("l.jsonl", "cannot write DIR/l.jsonl: it is a symbolic link, and links are not "
        .. "followed")
      refused({ "l.jsonl", mode = "append" }, "cannot write DIR/l.jsonl: it is a symbolic link, "
        .. "and links are not followed")
      refused("file/x.jsonl", "cannot write DIR/file/x.jsonl: Not a directory")
    end)
  end)

  it("is made of jobs of outputs, whose misuse raises", function()
    local host = require "real_host"
    local function raises(expected, fn, ...)
      local ok, message = pcall(fn, ...)
      assert.is_false(ok)
      assert.matches(expected, message)
    end
    raises("not an open output", host.output_run, 1e6, { op = "scan" })
    raises("not an open output", host.output_close, 0)
    local id = host.output_create()
    raises("table expected", host.output_run, id)
    raises("bad field 'op'", host.output_run, id, {})
    raises("bad field 'op'", host.output_run, id, { op = "burn" })
    raises("bad field 'mode'", host.output_run, id, { op = "open", path = "x", mode = "both" })
    raises("bad field 'codec'", host.output_run, id,
      { op = "open", path = "x", mode = "append", codec = "lzw" })
    for _, path in ipairs { "", "a\0b" } do
      raises("a path that is no text", host.output_run, id, { op = "open", path = path })
    end
    host.output_close(id)
    raises("not an open output", host.output_close, id)
  end)

  it("does the job of a task that is cancelled", function()
    run(function(sched)
      local s = assert(open(sched, "x.jsonl"))
      local task = sched:spawn(function() put(s, { 1 }) end)
      sched:sleep(0)
      task:cancel()
      task:await()
      s:close(true)
    end)
    assert.equal("1\n", read "x.jsonl.part")
  end)
end)
