local json = require "orchestrator.json"
local options = require "orchestrator.options"
local schema = require "orchestrator.schema"

-- What becomes of a value in a column `x`: nothing when it passes, else the reason.
local function verdict(column, value)
  local record, reason = schema.compile({ columns = { x = column } }):check { x = value }
  assert(record == nil or reason == nil)
  return reason
end

describe("a schema", function()
  describe("has types", function()
    local cases = {
      integer = {
        good = { 0, -7, 2 ^ 53, "9007199254740993", "-9223372036854775808",
          "9223372036854775807" },
        bad = { 1.5, 2 ^ 54, 0 / 0, math.huge, "7", "9007199254740992", "9223372036854775808",
          "-9223372036854775809", "99999999999999999999", "090071992547409930", true, {} },
        words = "a whole number",
      },
      number = {
        good = { 0, 1.5, -1e300, "9007199254740993", "1e400", "-123456789012345678901234.5" },
        bad = { 0 / 0, math.huge, "1.5", "", "0x20000000000000", "inf", false },
        words = "a number",
      },
      string = { good = { "", "7", "é" }, bad = { 7, true, {} }, words = "a string" },
      boolean = { good = { true, false }, bad = { 0, "true" }, words = "true or false" },
      timestamp = {
        good = { "2026-11-22T05:30:15Z", "2026-02-28T05:30:15.25+01:00" },
        bad = { "2026-02-29T00:00:00Z", "2026-11-22", "soon", 1763789415 },
        words = "a date and time such as 2026-11-22T05:30:15Z",
      },
      date = {
        good = { "2024-02-29" }, bad = { "2026-02-29", "2026-1-1", "2026-11-22T05:30:15Z", 7 },
        words = "a date such as 2026-11-22",
      },
      json = { good = { 1, "", false, {}, json.array {}, { a = { 1 } } }, bad = {} },
    }

    for _, name in ipairs(schema.types) do
      it(name, function()
        for i, value in ipairs(cases[name].good) do
          assert.is_nil(verdict(name, value), name .. " " .. i)
        end
        for i, value in ipairs(cases[name].bad) do
          local reason = verdict({ type = name }, value)
          assert.matches('"x" must be ' .. cases[name].words .. ", got ", reason or "", 1, true,
            name .. " " .. i)
        end
      end)
    end

    it("or none, and then takes any value", function()
      for _, value in ipairs { 1, "x", false, {} } do assert.is_nil(verdict({}, value)) end
    end)
  end)

  it("wants what is required, and no null in it", function()
    local one = schema.compile { columns = { id = { type = "integer", required = true } } }
    assert.same({ id = 1 }, (one:check { id = 1 }))
    assert.equal('"id" is missing', select(2, one:check {}))
    assert.equal('"id" is null', select(2, one:check { id = json.null }))
    assert.is_nil(verdict({ type = "integer" }, nil))
    assert.is_nil(verdict({ type = "integer" }, json.null))
    assert.is_nil(verdict({ type = "integer", required = true, nullable = true }, json.null))
    assert.equal('"x" is null', verdict({ type = "integer", nullable = false }, json.null))
  end)

  it("has rules for values", function()
    for _, case in ipairs {
      { { enum = { "a", 2, false } }, { "a", 2, false },
        { b = 'must be one of "a", 2, false, got "b"' } },
      { { type = "integer", min = 3, max = 5 }, { 3, 5 },
        { [2] = "must be at least 3, got 2", [6] = "must be at most 5, got 6" } },
      { { type = "integer", min = 3 }, { "9007199254740993" },
        { ["-9007199254740993"] = 'must be at least 3, got "-9007199254740993"' } },
      { { min = 0.5 }, { 0.5 }, { [0.25] = "must be at least 0.5, got 0.25",
        text = 'must be at least 0.5, got "text"' } },
      { { type = "string", pattern = "^%u%d+$" }, { "A1" },
        { a1 = 'must match "^%u%d+$", got "a1"' } },
      { { pattern = "x" }, { "x" }, { [7] = 'must match "x", got 7' } },
      { { type = "string", max_length = 3 }, { "", "éöü" },
        { abcd = 'must have at most 3 characters, got "abcd"' } },
      { { max_length = 3 }, { "abc" }, { [1] = "must be a string, got 1" } },
    } do
      for _, value in ipairs(case[2]) do assert.is_nil(verdict(case[1], value)) end
      for value, reason in pairs(case[3]) do
        assert.equal('"x" ' .. reason, verdict(case[1], value))
      end
    end
  end)

  it("shows no more of a value than its beginning", function()
    assert.equal('"x" must be a number, got "' .. ("é"):rep(20) .. '..."',
      verdict("number", ("é"):rep(200)))
    assert.equal('"x" must be a number, got a list', verdict("number", { 1 }))
    assert.equal('"x" must be a number, got an object', verdict("number", {}))
    assert.equal('"x" must be a string, got 0.1', verdict("string", 0.1))
  end)

  it("is of objects", function()
    local any = schema.compile {}
    local empty = {}
    assert.equal(empty, (any:check(empty)))
    for _, case in ipairs { { "x", '"x"' }, { 7, "7" }, { { 1 }, "a list" },
      { json.array {}, "a list" }, { json.null, "null" }, { true, "true" } } do
      assert.equal("the record must be an object, got " .. case[2],
        select(2, any:check(case[1])))
    end
  end)

  it("tells the first column that is wrong, in order", function()
    local one = schema.compile { columns = { b = "integer", a = "integer", c = "integer" } }
    assert.equal('"a" must be a whole number, got "x"',
      select(2, one:check { a = "x", b = "y", c = "z" }))
  end)

  describe("has a contract", function()
    local function checked(contract, record, columns)
      return schema.compile { contract = contract,
        columns = columns or { id = "integer", name = { type = "string", pattern = "^a" } },
      }:check(record)
    end
    local NEW, ODD, BROKEN = { id = 1, y = 2, x = 3 }, { id = "one", name = "a" }, { name = "b" }

    it("evolve, which lets in other columns", function()
      assert.equal(NEW, (checked("evolve", NEW)))
      assert.equal(NEW, (checked(nil, NEW)))
      assert.same({ nil, '"id" must be a whole number, got "one"', false },
        { checked("evolve", ODD) })
    end)

    it("freeze, which fails the run", function()
      assert.same({ nil, 'the schema has no column "x"', true }, { checked("freeze", NEW) })
      assert.same({ nil, '"id" must be a whole number, got "one"', true },
        { checked("freeze", ODD) })
      local record, reason, frozen = checked("freeze", BROKEN)
      assert.same({ 'nil', '"name" must match "^a", got "b"', "nil" },
        { tostring(record), reason, tostring(frozen) })
    end)

    it("discard_row, which makes the record bad", function()
      for _, record in ipairs { NEW, ODD, BROKEN } do
        local kept, reason, frozen = checked("discard_row", record)
        assert.is_nil(kept)
        assert.is_string(reason)
        assert.is_falsy(frozen)
      end
    end)

    it("discard_value, which leaves out that value and changes no record", function()
      assert.same({ id = 1 }, (checked("discard_value", NEW)))
      assert.same({ id = 1, y = 2, x = 3 }, NEW)
      assert.same({ name = "a" }, (checked("discard_value", ODD)))
      assert.same({ id = "one", name = "a" }, ODD)
      local whole = { id = 1, name = "a" }
      assert.equal(whole, (checked("discard_value", whole)))
      assert.equal('"name" must match "^a", got "b"', select(2, checked("discard_value", BROKEN)))
      assert.equal('"id" must be a whole number, got "one"', select(2,
        checked("discard_value", ODD, { id = { type = "integer", required = true } })))
    end)

    it("that names no column knows no other one", function()
      for _, contract in ipairs { "freeze", "discard_row", "discard_value" } do
        assert.equal(NEW, (checked(contract, NEW, {})))
      end
    end)
  end)

  it("refuses what it cannot mean", function()
    for _, case in ipairs {
      { { colums = {} }, 'schema: unknown option "colums" (did you mean "columns"?)' },
      { { contract = "frozen" }, 'schema: "contract" must be "evolve", "freeze"' },
      { { columns = { "id" } }, '"columns" must be named' },
      { { columns = { id = 7 } }, "columns.id: must be a type or a table of options, got 7" },
      { { columns = { id = "int" } }, 'schema.columns.id: "type" must be "boolean", "date"' },
      { { columns = { id = { typ = "integer" } } }, 'unknown option "typ" (did you mean "type"?)' },
      { { columns = { id = { required = 1 } } }, '"required" must be true or false' },
      { { columns = { id = { nullable = 1 } } }, '"nullable" must be true or false' },
      { { columns = { id = { enum = {} } } }, '"enum" must list at least one' },
      { { columns = { id = { enum = { a = 1 } } } }, '"enum" must be a list of values' },
      { { columns = { id = { enum = { {} } } } }, '"enum" must list strings, numbers or booleans' },
      { { columns = { id = { type = "integer", enum = { 1, "b" } } } },
        '"enum" must list values of type integer; element 2 is "b"' },
      { { columns = { id = { type = "string", min = 1 } } }, '"min" is for the types integer' },
      { { columns = { id = { type = "string", max = 1 } } }, '"max" is for the types integer' },
      { { columns = { id = { min = 2, max = 1 } } }, '"min" is above "max"' },
      { { columns = { id = { type = "integer", pattern = "x" } } }, '"pattern" is for the type' },
      { { columns = { id = { type = "json", max_length = 1 } } }, '"max_length" is for the type' },
      { { columns = { id = { pattern = "x[a" } } }, '"pattern" is no Lua pattern: malformed' },
      { { columns = { id = { max_length = -1 } } }, '"max_length" must be at least 0' },
    } do
      local ok, message = pcall(schema.compile, case[1])
      assert.is_false(ok)
      assert.matches(case[2], message, 1, true)
      assert.is_true(options.is_misuse(message))
    end
  end)
end)
