local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local records = require "orchestrator.records"
local schema = require "orchestrator.schema"
local selector = require "orchestrator.selector"

describe("records", function()
  local function response(body, fields)
    local res = { url = "http://a/1", attempts = 2, body = body }
    function res:json() return json.decode(self.body) end -- luacheck: ignore self
    for k, v in pairs(fields or {}) do res[k] = v end
    return res
  end

  describe("are selected", function()
    local whole, items = selector.compile(), selector.compile "items"

    it("from what the response says", function()
      assert.same({ { 1, 2 }, true }, { records.select(whole, response "[1, 2]") })
      assert.same({ { 1, 2 }, true }, { records.select(items, response '{"items": [1, 2]}') })
    end)

    it("though there may be none to find", function()
      local list, found = records.select(items, response '{"tiems": [1]}')
      assert.same({ 0, false }, { #list, found })
    end)

    it("not from an empty or an ignored response, which lacks nothing", function()
      for _, res in ipairs {
        response "", response(nil), response("no JSON", { ignored = true }),
      } do
        assert.same({ {}, true }, { records.select(items, res) })
      end
    end)

    it("not from a streamed response, which would seem to have none", function()
      local closed = 0
      local res = response(nil, { stream = {}, close = function() closed = closed + 1 end })
      local list, err = records.select(whole, res)
      assert.is_nil(list)
      assert.same({ "invalid", "http://a/1", 2, 1 }, { err.kind, err.url, err.attempts, closed })
    end)

    it("not from what is no JSON; the error says where it came from", function()
      local res = response "<html>"
      local list, err = records.select(whole, res)
      assert.is_nil(list)
      assert.same({ "decode", "http://a/1", 2 }, { err.kind, err.url, err.attempts })
      assert.equal(res, err.response)
    end)
  end)

  describe("are transformed", function()
    local function even(n) return n % 2 == 0 end

    it("by filter, then map, with the response and the item at hand", function()
      local res, item = {}, {}
      local function map(n, ...)
        assert.same({ n = 2, res, item }, { n = select("#", ...), ... })
        return n * 10
      end
      assert.same({ { 20, 40 }, 2 }, { records.transform(even, map, { 1, 2, 3, 4 }, res, item) })
      assert.same({ { 2 }, 1 }, { records.transform(even, nil, { 1, 2 }, res, item) })
      assert.same({ { 10 }, 0 }, { records.transform(nil, map, { 1 }, res, item) })
    end)

    it("not at all without functions", function()
      local list = { 1, 2 }
      assert.equal(list, (records.transform(nil, nil, list)))
    end)

    it("to one, several or none", function()
      local answers = { { one = 1 }, { { a = 1 }, nil, { a = 3 } }, {}, "text" }
      assert.same({ { one = 1 }, { a = 1 }, { a = 3 }, "text" },
        (records.transform(nil, function(i) return answers[i] end, { 1, 2, 3, 4, 5 })))
    end)

    it("until one is refused", function()
      local refused = errors.new("validation", "not two")
      for _, place in ipairs { "filter", "map" } do
        local function fn(n)
          if n == 2 then return nil, refused end
          return n
        end
        local list, err = records.transform(place == "filter" and fn or nil,
          place == "map" and fn or nil, { 1, 2, 3 })
        assert.is_nil(list)
        assert.equal(refused, err)
      end
    end)

    it("never to what cannot be meant", function()
      for message, mapped in pairs {
        ["map returned false"] = false, ["map returned false: return nil"] = { 1, false },
        ["a list and also has [name]"] = { 1, name = 2 },
        ["a list and also has [0]"] = { 1, [0] = 2 },
      } do
        assert.error_matches(function()
          records.transform(nil, function() return mapped end, { 1 })
        end, message, 1, true)
      end
    end)
  end)

  describe("are validated", function()
    local columns = schema.compile { columns = { n = { type = "integer", max = 9 } } }

    it("not at all when nothing is said", function()
      local list = { 1, 2 }
      assert.same({ list, n = 1 }, { n = select("#", records.validate(nil, nil, list)),
        (records.validate(nil, nil, list)) })
      assert.equal(list, (records.validate(nil, nil, list)))
    end)

    it("by the function, which gives the reason", function()
      local answers = {
        { true }, { "anything" }, { false, "too small" }, { nil, errors.new("decode", "odd") },
        { false }, { n = 0 }, { nil, 7 },
      }
      local good, bad = records.validate(nil, function(i)
        return unpack(answers[i], 1, answers[i].n or 2)
      end, { 1, 2, 3, 4, 5, 6, 7 })
      assert.same({ 1, 2 }, good)
      assert.same({
        { record = 3, reason = "too small" }, { record = 4, reason = "odd" },
        { record = 5, reason = "validate refused it" },
        { record = 6, reason = "validate refused it" }, { record = 7, reason = "7" },
      }, bad)
    end)

    it("by the schema first", function()
      local seen = {}
      local good, bad = records.validate(columns, function(record)
        seen[#seen + 1] = record.n
        return record.n ~= 2, "is two"
      end, { { n = 1 }, { n = 2 }, { n = 10 }, "text" })
      assert.same({ { n = 1 } }, good)
      assert.same({ 1, 2 }, seen)
      assert.same({
        { record = { n = 2 }, reason = "is two" },
        { record = { n = 10 }, reason = '"n" must be at most 9, got 10' },
        { record = "text", reason = 'the record must be an object, got "text"' },
      }, bad)
    end)

    it("and none of them goes when all are good", function()
      local list = { { n = 1 }, { n = 2 } }
      local good, bad = records.validate(columns, nil, list)
      assert.same({ list, "nil" }, { good, tostring(bad) })
    end)

    it("where a bad one keeps what it was", function()
      local leaving = schema.compile { contract = "discard_value", columns = { n = "integer" } }
      local good, bad = records.validate(leaving, function(r) return r.n ~= 2 end,
        { { n = 1, x = 1 }, { n = 2, x = 2 } })
      assert.same({ { { n = 1 } }, { n = 2, x = 2 } }, { good, bad[1].record })
    end)

    it("and fail the run when the schema is frozen", function()
      local frozen = schema.compile { contract = "freeze", columns = { n = "integer" } }
      local good, err = records.validate(frozen, nil, { { n = 1 }, { m = 1 } })
      assert.is_nil(good)
      assert.same({ "validation", 'the schema is frozen: the schema has no column "m"; change it, '
        .. 'or its contract to "discard_row"' }, { err.kind, err.message })
    end)
  end)

  it("are refused by an err or a text", function()
    local err = errors.new("decode", "x")
    assert.equal(err, records.refusal(err))
    assert.is_nil(records.refusal(nil))
    assert.same({ "validation", "no id" },
      { records.refusal("no id").kind, records.refusal("no id").message })
  end)
end)
