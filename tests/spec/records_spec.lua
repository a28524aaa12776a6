local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local records = require "orchestrator.records"
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

  it("are refused by an err or a text", function()
    local err = errors.new("decode", "x")
    assert.equal(err, records.refusal(err))
    assert.is_nil(records.refusal(nil))
    assert.same({ "validation", "no id" },
      { records.refusal("no id").kind, records.refusal("no id").message })
  end)
end)
