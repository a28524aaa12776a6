local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"
local source = require "orchestrator.source"

describe("sink", function()
  local dir

  local function read(name)
    local file = io.open(dir .. "/" .. name)
    if not file then return nil end
    local text = file:read "*a"
    file:close()
    return text
  end

  local function write(name, text)
    local file = assert(io.open(dir .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end

  local function put(s, records)
    assert(s:write(assert(s:encode(records)), #records))
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
  end)

  after_each(function()
    os.execute("rm -rf " .. dir)
  end)

  it("knows its formats by the extension", function()
    for _, good in ipairs { "-", "x.jsonl", "out/x.JSONL", "a.b/c.d.jsonl" } do
      assert.is_true((sink.check(good)))
    end
    for _, bad in ipairs { "x", "x.json", ".jsonl", "out/.jsonl", "x.jsonl/", "jsonl", "" } do
      local ok, message = sink.check(bad)
      assert.is_nil(ok, bad)
      assert.equal(('"%s" has no known format (there are "-" and .jsonl)'):format(bad), message)
    end
    local ok, message = sink.check(7)
    assert.is_nil(ok)
    assert.equal("must be the path of a file, got a number", message)
  end)

  it("writes JSON Lines", function()
    local s = assert(sink.open(dir .. "/x.jsonl", "replace"))
    put(s, { { b = 1, a = json.array {} }, "ü\n", json.null })
    put(s, {})
    put(s, { false })
    assert.equal(4, s.count)
    assert.is_true(s:close(true))
    assert.equal('{"a":[],"b":1}\n"ü\\n"\nnull\nfalse\n', read "x.jsonl")
    assert.equal(#read "x.jsonl", s.bytes)
  end)

  it("encodes all records or none", function()
    local s = assert(sink.open(dir .. "/x.jsonl", "replace"))
    local batch, err = s:encode { { a = 1 }, { a = { b = 0 / 0 } } }
    assert.is_nil(batch)
    assert.equal("invalid", err.kind)
    assert.matches("%.a%.b", err.message)
    s:close(true)
    assert.equal("", read "x.jsonl")
  end)

  it("that replaces shows the new file only when it is complete", function()
    write("x.jsonl", "old\n")
    local s = assert(sink.open(dir .. "/x.jsonl", "replace"))
    put(s, { 1 })
    assert.is_true(s:flush())
    assert.equal("old\n", read "x.jsonl")
    assert.equal("1\n", read "x.jsonl.part")
    assert.is_true(s:sync())
    assert.is_true(s:close(false))
    assert.equal("old\n", read "x.jsonl")
    assert.is_nil(read "x.jsonl.part")

    s = assert(sink.open(dir .. "/x.jsonl", "replace"))
    put(s, { 2 })
    assert.is_true(s:close(true))
    assert.equal("2\n", read "x.jsonl")
    assert.is_nil(read "x.jsonl.part")
  end)

  it("that appends keeps what it accepted, however it ends", function()
    for _, commit in ipairs { true, false } do
      local s = assert(sink.open(dir .. "/out/x.jsonl", "append"))
      put(s, { commit })
      assert.is_true(s:close(commit))
    end
    assert.equal("true\nfalse\n", read "out/x.jsonl")
  end)

  describe("that finds a last line without its end", function()
    local function mended(tail)
      write("x.jsonl", '{"a":1}\n' .. tail)
      local s = assert(sink.open(dir .. "/x.jsonl", "append"))
      put(s, { 2 })
      assert.is_true(s:close(true))
      return read "x.jsonl", s.warning
    end

    it("cuts it when it is torn, and says so", function()
      for _, tail in ipairs { '{"b":', '"ab', "12", "-", "tru", "\0\0\0" } do
        local text, warning = mended(tail)
        assert.equal('{"a":1}\n2\n', text)
        assert.matches(("x.jsonl: cut a torn last line of %d bytes, left by a run that was killed")
          :format(#tail), warning)
      end
    end)

    it("ends it when it is a record", function()
      for _, tail in ipairs { '{"b":2}', '[1]', '"ab"', "true", "false", "null" } do
        local text, warning = mended(tail)
        assert.equal('{"a":1}\n' .. tail .. "\n2\n", text)
        assert.is_nil(warning)
      end
    end)
  end)

  describe("makes presentable", function()
    local function shown(value, limit)
      return assert(json.encode(sink.presentable(value, limit)))
    end

    it("what JSON has no form for", function()
      assert.equal('{"1":"nan","2":null,"a":[1,"x"],"b":false}',
        shown { [1] = 0 / 0, [2] = json.null, a = { 1, "x" }, b = false })
      assert.matches('^%["function: [%w#]+","inf","\239\191\189\239\191\189"%]$',
        shown { print, 1 / 0, "\255\254" })
      assert.equal('{"true":{"5":"hole"}}', shown { [true] = { [5] = "hole" } })
      assert.is_nil(sink.presentable(nil))
    end)

    it("rings and depths", function()
      local ring = { x = 1 }
      ring.a, ring.b = ring, ring
      assert.matches('^{"a":"table: 0x%x+","b":"table: 0x%x+","x":1}$', shown(ring))
      local shared = { 1 }
      assert.equal("[[1],[1]]", shown { shared, shared })
      local deep = {}
      for _ = 1, 2000 do deep = { deep } end
      assert.matches('"table: 0x%x+"%]', shown(deep))
    end)

    it("secrets and credentials, masked also where a text is cut", function()
      secret.value "s1nk-s3cret"
      assert.equal('{"***":"a***b","u":"http://***@h/","v":"***"}', shown {
        ["s1nk-s3cret"] = "as1nk-s3cretb", u = "http://me:pw@h/", v = secret.value "s1nk-s3cret",
      })
      for length = 1, 30 do
        local text = sink.presentable(("é"):rep(5) .. "s1nk-s3cret" .. ("é"):rep(5), length)
        assert.is_true(#text <= length)
        assert.is_nil(text:find("s1", 1, true))
        assert.is_nil(source.bad_utf8(text))
      end
    end)

    it("a long text of which little is left when its secrets are masked", function()
      local long = ("s1nk-l0ng."):rep(300)
      secret.value(long)
      for extra = 0, 5 do
        local text = sink.presentable(("-"):rep(extra) .. long:rep(4), 2048)
        assert.is_nil(text:find("s1nk", 1, true))
      end
    end)
  end)

  it("is refused where it cannot be", function()
    local function refused(pattern, name, mode)
      local s, err = sink.open(dir .. "/" .. name, mode)
      assert.is_nil(s)
      assert.matches(pattern, err.message)
    end
    write("file", "")
    os.execute(("ln -s file %s/link.jsonl; mkdir %s/dir.jsonl; mkfifo %s/fifo.jsonl")
      :format(dir, dir, dir))
    for _, mode in ipairs { "replace", "append" } do
      refused("cannot write .*/file/x.jsonl: Not a directory", "file/x.jsonl", mode)
      refused("link.jsonl: it is a symbolic link", "link.jsonl", mode)
      refused("dir.jsonl: Is a directory", "dir.jsonl", mode)
      refused("fifo.jsonl: it is not a regular file", "fifo.jsonl", mode)
      refused("File name too long", ("x"):rep(250) .. ".jsonl", mode)
      refused("has a NUL byte", "a\0b.jsonl", mode)

      local s = assert(sink.open(dir .. "/busy.jsonl", mode))
      refused("busy.jsonl: another run is writing it", "busy.jsonl", mode)
      s:close(true)
      assert(sink.open(dir .. "/busy.jsonl", mode)):close(true)
    end
  end)
end)
