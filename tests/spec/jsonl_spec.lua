local fake_host = require "fake_host"
local json = require "orchestrator.json"
local jsonl = require "orchestrator.jsonl"
local pieces = require "pieces"

describe("JSON Lines", function()
  local function all(list, max_line, problem)
    return pieces.all(jsonl.new(pieces.reader(list, problem), { max_line = max_line or 1e6 }))
  end

  it("are values, one a line", function()
    assert.same({ { 1, { a = { 1, 2 } } }, { 2, "b" }, { 5, json.null }, { 6, false } },
      (all { '\239\187\191{"a":[1,2]}\r\n"b"\n\n \t\r\nnull\nfalse' }))
    assert.same({}, (all { "\n\n" }))
  end)

  it("that are bad are told with their line and the place in it", function()
    local out = all({ '1\n{"a":\n3\n[1 2]\n"\255"\n' .. ("7"):rep(40) .. "\n7" }, 30)
    assert.same({ 1, 2, 3, 4, 5, 6, 7 }, { out[1][1], out[2][1], out[3][1], out[4][1], out[5][1],
      out[6][1], out[7][1] })
    assert.matches("^not JSON: byte %d", out[2][3])
    assert.same({ '{"a":', nil }, { out[2][2], out[2][4] })
    assert.matches("^not JSON: byte 4", out[4][3])
    assert.matches("^not JSON: ", out[5][3])
    assert.same({ "the line is longer than 30 bytes", "too_large" }, { out[6][3], out[6][4] })
    assert.same({ 1, 3, 7 }, { out[1][2], out[3][2], out[7][2] })
  end)

  it("are not given when they were cut off, though they look whole", function()
    local out, problem = all({ "1\n12" }, nil, "gone")
    assert.same({ { 1, 1 } }, out)
    assert.equal("gone", problem)
  end)

  it("are the same however the text is cut", function()
    local random = fake_host.generator(3)
    local text = '\239\187\191{"a":"ü\\n"}\r\n\n[]\n{bad\n-1.5e3\r\n"' .. ("y"):rep(30) .. '"\ntrue'
    local want = all({ text }, 30)
    assert.equal(6, #want)
    pieces.every_way(text, random, function(list) assert.same(want, (all(list, 30))) end)
  end)
end)
