local json = require "orchestrator.json"
local letters = require "orchestrator.letters"

describe("letters", function()
  local path

  before_each(function() path = os.tmpname() end)
  after_each(function() os.remove(path) end)

  local function write(...)
    local file = assert(io.open(path, "w"))
    for i = 1, select("#", ...) do
      local one = select(i, ...)
      file:write(type(one) == "string" and one or json.encode(one), "\n")
    end
    file:close()
  end

  local function letter(item, more)
    local one = { item = item, error = { kind = "http" }, position = "item 1", pipeline = "job" }
    for name, value in pairs(more or {}) do one[name] = value end
    return one
  end

  local function read_all()
    local reader = assert(letters.of_file(path):open())
    local items = {}
    while true do
      local position, item, err = reader:next()
      if position == nil then
        local total = { reader:total() }
        reader:close()
        return items, err, total
      end
      reader:ack(position)
      items[#items + 1] = { item, reader:where(position), position.error.kind }
    end
  end

  it("are a source of their items", function()
    write(letter "/1", letter({ url = "/2" }, { position = "x:7" }))
    local items, err, total = read_all()
    assert.is_nil(err)
    assert.same({ { "/1", "item 1", "http" }, { { url = "/2" }, "x:7", "http" } }, items)
    assert.same({ 2, true }, total)
  end)

  it("may be longer than a line of a source", function()
    write(letter(("x"):rep(3e6)))
    assert.equal(3e6, #read_all()[1][1])
  end)

  it("are none without a file", function()
    assert.is_true(letters.exist(path))
    os.remove(path)
    assert.is_false(letters.exist(path))
    assert.same({ {}, nil, { 0, true } }, { read_all() })
  end)

  it("are not taken for none when they cannot be read", function()
    local unreadable = path .. ("x"):rep(300)
    local there, err = letters.exist(unreadable)
    assert.is_nil(there)
    assert.matches("cannot read the dead letters: .*; see to that", err.message)
    local reader
    reader, err = letters.of_file(unreadable):open()
    assert.is_nil(reader)
    assert.matches("cannot read the dead letters", err.message)
  end)

  it("stop the reading where there is something else", function()
    for _, other in ipairs { '{"item":', "[]", "7", '{"item":"/1"}' } do
      write(letter "/1", other, letter "/2")
      local items, err = read_all()
      assert.equal(1, #items)
      assert.equal("invalid", err.kind)
      assert.matches(path .. ":2 is no dead letter", err.message, 1, true)
      assert.matches("mend or remove it", err.message, 1, true)
    end
  end)

  it("are kept where they cannot be tried again", function()
    local p = { name = "job" }
    assert.is_nil(letters.refusal(p, letter "/1"))
    assert.equal("masked", letters.refusal(p, letter("/1", { final = "masked" })))
    assert.equal("it is another pipeline's", letters.refusal({ name = "other" }, letter "/1"))
  end)

  it("are told apart by all that is in them", function()
    assert.equal(letters.key(letter "/1"), letters.key(letter "/1"))
    assert.not_equal(letters.key(letter "/1"), letters.key(letter("/1", { attempts = 2 })))
  end)
end)
