local json = require "orchestrator.json"
local rows = require "orchestrator.core.rows"
local secret = require "orchestrator.secret"

describe("core.rows", function()
  local function mask_of(records, ids, keys, flags)
    local packed, mask = rows.pack(records, ids, keys or 0, flags)
    assert.is_string(packed)
    return mask
  end

  local function refusal(record, ids, keys, flags)
    local packed, index, name, problem = rows.pack({ record }, ids, keys or 0, flags)
    assert.is_nil(packed)
    assert.equal(1, index)
    return problem, name
  end

  it("tells what the values of each column are", function()
    local ids = { a = 1, b = 2, c = 3, d = 4, e = 5 }
    assert.equal("", mask_of({}, ids))
    assert.equal("\1\2\4\8\16",
      mask_of({ { a = true, b = 1, c = 1.5, d = "x", e = { 1 } } }, ids))
    assert.equal("\7", mask_of({ { a = true }, { a = 1 }, { a = 1.5 } }, ids))
    assert.equal("\0\0\2", mask_of({ { c = 2 ^ 53 } }, ids))
    assert.equal("\4", mask_of({ { a = 2 ^ 53 + 2 } }, ids))
    assert.equal("\2", mask_of({ { a = -0 } }, ids))
    assert.equal("\8", mask_of({ { a = "9007199254740993" } }, ids))
    assert.equal("\16", mask_of({ { a = json.array {} } }, ids))
    assert.equal("\8", mask_of({ { a = secret.value "hidden text" } }, ids))
  end)

  it("leaves nulls out, and what has the number 0", function()
    local ids = { a = 1, b = 2, c = 0 }
    assert.equal("\0\2", mask_of({ { a = json.null, b = 1, c = "x" } }, ids))
    assert.equal("\0\2", mask_of({ { b = 1, new = json.null } }, ids))
    assert.equal("the record has no value but null", (refusal({ a = json.null }, ids)))
    assert.equal("the record has no value but null", (refusal({}, ids)))
    assert.equal("the record has no value but null", (refusal({ c = 1 }, ids)))
  end)

  it("asks for the numbers of names", function()
    local packed, index, name, problem = rows.pack({ { a = 1 }, { b = 2 } }, { a = 1 }, 0)
    assert.same({ nil, 2, "b", nil }, { packed, index, name, problem })
  end)

  it("wants every key", function()
    local ids = { id = 1, part = 2, x = 3 }
    assert.is_string(mask_of({ { id = 1, part = "a" } }, ids, 2))
    local problem, name = refusal({ id = 1, x = 2 }, ids, 2)
    assert.same({ "is missing", 2 }, { problem, name })
    problem, name = refusal({ id = json.null, part = 2 }, ids, 2)
    assert.same({ "is missing", 1 }, { problem, name })
  end)

  it("refuses what cannot be in a table, and says where it is", function()
    local ids = { a = 1, b = 1, c = 2 }
    for _, case in ipairs {
      { { a = 0 / 0 }, "it is not a number", "a" },
      { { a = 1 / 0 }, "it is infinite", "a" },
      { { a = "\255" }, "the string is not valid UTF-8", "a" },
      { { a = { x = "\255" } }, "at .x: the string is not valid UTF-8", "a" },
      { { a = print }, "a value of type function has no place in a table", "a" },
      { { 1, 2 }, "the record is a list, and a table takes objects: make one in map" },
      { 5, "the record is a number, and a table takes objects: make one in map" },
      { "x", "the record is a string, and a table takes objects: make one in map" },
    } do
      local problem, name = refusal(case[1], ids)
      assert.same({ case[2], case[3] }, { problem, name })
    end
    assert.equal("another name in the record is that of the same column",
      (refusal({ a = 1, b = 2 }, ids)))
  end)

  it("takes NUL bytes, or refuses them, in objects too", function()
    local ids = { a = 1 }
    assert.equal("\8", mask_of({ { a = "x\0y" } }, ids))
    assert.equal("\16", mask_of({ { a = { "x\0y" } } }, ids))
    assert.equal("the string has a NUL byte, which PostgreSQL cannot hold",
      (refusal({ a = "x\0y" }, ids, 0, "0")))
    assert.equal("a text in it has a NUL byte, which PostgreSQL cannot hold",
      (refusal({ a = { "x\0y" } }, ids, 0, "0")))
    assert.equal("a text in it has a NUL byte, which PostgreSQL cannot hold",
      (refusal({ a = { ["\0"] = 1 } }, ids, 0, "0")))
    assert.equal("\16", mask_of({ { a = { "\\u0000", "\\\\u0000" } } }, ids, 0, "0"))
  end)

  it("raises for what is no list of records", function()
    assert.has_error(function() rows.pack(nil, {}, 0) end)
    assert.has_error(function() rows.pack({}, nil, 0) end)
    assert.has_error(function() rows.pack({}, {}, 3000) end)
  end)
end)
