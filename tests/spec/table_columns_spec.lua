local columns = require "orchestrator.table_columns"

local B, I, R, T, J = 1, 2, 4, 8, 16

describe("table_columns", function()
  it("finds the narrowest kind that holds the values", function()
    for _, case in ipairs {
      { B, "boolean", "boolean" }, { I, "integer", "integer" }, { R, "real", "real" },
      { T, "text", "text" }, { J, "json", "json" },
      { I + R, "real", "real" }, { B + I, "text", "integer" }, { B + R, "text", "real" },
      { B + T, "text", "text" }, { I + T, "text", "text" }, { R + J, "text", "text" },
      { T + J, "text", "text" }, { B + I + R, "text", "real" }, { 31, "text", "text" },
    } do
      assert.equal(case[2], columns.join(nil, case[1], false))
      assert.equal(case[3], columns.join(nil, case[1], true))
    end
  end)

  it("comes to the same kind in whatever order the values come", function()
    for _, loose in ipairs { false, true } do
      for first = 1, 31 do
        for second = 1, 31 do
          local together = columns.join(nil, bit.bor(first, second), loose)
          local kind = columns.join(columns.join(nil, first, loose), second, loose)
          assert.equal(together, kind)
          assert.equal(together, columns.widest(columns.join(nil, first, loose),
            columns.join(nil, second, loose), loose))
          assert.is_true(columns.takes(kind, first, loose, false))
        end
      end
    end
  end)

  it("leaves types alone that are not ours", function()
    assert.equal("other", columns.join("other", 31, false))
    assert.equal("timestamp", columns.join("timestamp", T, true))
    assert.equal("other", columns.widest("other", "json", false))
    assert.equal("text", columns.widest("text", "other", false))
    assert.is_true(columns.takes("other", 31, false, false))
  end)

  it("takes long integers, which are texts, for a declared integer", function()
    assert.is_false(columns.takes("integer", T, false, false))
    assert.is_true(columns.takes("integer", T + I, false, true))
    assert.is_false(columns.takes("real", T, false, true))
    assert.is_true(columns.takes("json", T + I, false, true))
    assert.is_false(columns.takes("json", T, false, false))
  end)

  it("has a letter for every kind", function()
    local letters = {}
    for i, kind in ipairs { "boolean", "integer", "real", "text", "json", "other", "date" } do
      letters[i] = columns.letter { kind = kind }
    end
    assert.equal("birtjoo", table.concat(letters))
    assert.equal("j", columns.letter { kind = "text", json = true })
    assert.equal("-", columns.letter(false))
  end)

  it("knows the types of a schema", function()
    for _, name in ipairs(require("orchestrator.schema").types) do
      assert.is_string(columns.declared(name), name)
    end
    assert.is_nil(columns.declared(nil))
  end)

  it("adds up masks, also of columns that are numbered in another way", function()
    local sum = {}
    columns.add(sum, "\1\0\4")
    columns.add(sum, "\2\8", { 3, 5 })
    assert.same({ 1, 0, 6, nil, 8 }, sum)
    assert.equal("true or false or a text", columns.describe(B + T))
  end)
end)
