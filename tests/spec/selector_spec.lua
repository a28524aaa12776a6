local json = require "orchestrator.json"
local selector = require "orchestrator.selector"

-- The records found, as JSON, and whether there was something to find.
local function select(text, document)
  local value = json.decode(document)
  local records, found = assert(selector.compile(text))(value)
  local texts = {}
  for i = 1, #records do texts[i] = assert(json.encode(records[i])) end
  return table.concat(texts, " "), found
end

describe("selector", function()
  it("splits a list and takes anything else as one record", function()
    assert.same({ '1 {"a":2} null [3]', true }, { select(nil, '[1, {"a": 2}, null, [3]]') })
    assert.same({ '{"a":1}', true }, { select(nil, '{"a": 1}') })
    assert.same({ "7", true }, { select(nil, "7") })
    assert.same({ "false", true }, { select(nil, "false") })
    assert.same({ "{}", true }, { select(nil, "{}") })
    assert.same({ "", true }, { select(nil, "[]") })
    assert.same({ "", false }, { select(nil, "null") })
  end)

  it("follows names", function()
    local document = '{"data": {"items": [1, 2], "one": {"x": 3}, "none": [], "null": null}}'
    assert.same({ "1 2", true }, { select("data.items", document) })
    assert.same({ '{"x":3}', true }, { select("data.one", document) })
    assert.same({ "3", true }, { select("data.one.x", document) })
    assert.same({ "", true }, { select("data.none", document) })
    assert.same({ "", false }, { select("data.null", document) })
    assert.same({ "", false }, { select("data.other", document) })
    assert.same({ "", false }, { select("data.one.x.y", document) })
    assert.same({ "", false }, { select("data", "7") })
  end)

  it("takes names as they are", function()
    assert.equal("1", (select("@odata value.$x-y", '{"@odata value": {"$x-y": 1}}')))
    assert.equal("1", (select("0", '{"0": 1}')))
  end)

  it("applies a name to every element of a list", function()
    local document = '{"pages": [{"rows": [1, 2]}, {"rows": []}, {}, {"rows": 3}]}'
    assert.same({ "1 2 3", true }, { select("pages.rows", document) })
    assert.same({ "1 2 3", true }, { select("pages[*].rows", document) })
    assert.same({ "", false }, { select("pages.lines", document) })
    assert.same({ "", true }, { select("pages.rows", '{"pages": []}') })
    assert.same({ "", true }, { select("pages[*].rows", '{"pages": []}') })
    assert.same({ "1 2", true }, { select("a.b", '[{"a": [{"b": 1}, {"b": 2}]}]') })
    assert.same({ "1 2", true }, { select("[*].a", '[{"a": 1}, {"a": 2}]') })
  end)

  it("takes one element by its place, from 0", function()
    local document = '{"results": [{"hits": [1, 2]}, {"hits": [3]}]}'
    assert.same({ "1 2", true }, { select("results[0].hits", document) })
    assert.same({ "3", true }, { select("results[1].hits[0]", document) })
    assert.same({ "", false }, { select("results[2].hits", document) })
    assert.same({ "2", true }, { select("[1]", "[1, 2]") })
    assert.same({ "4", true }, { select("[1][1]", "[[1, 2], [3, 4]]") })
    assert.same({ "", false }, { select("a[0]", '{"a": {"b": 1}}') })
    assert.same({ "", false }, { select("a[*]", '{"a": {"b": 1}}') })
  end)

  it("does not copy a list it finds by names alone", function()
    local value = json.decode '{"a": {"b": [1, 2]}}'
    assert.equal(value.a.b, (selector.compile "a.b"(value)))
  end)

  it("is refused when it cannot be read", function()
    for text, at in pairs {
      [""] = 1, ["."] = 1, ["a."] = 3, ["a..b"] = 3, [".a"] = 1, ["a[x]"] = 2, ["a["] = 2,
      ["a[1"] = 2, ["a]"] = 2, ["a[-1]"] = 2, ["[0]a"] = 4,
    } do
      local select_records, message = selector.compile(text)
      assert.is_nil(select_records, text)
      assert.matches(("got %q %%(look at character %d%%)"):format(text, at)
        :gsub("[%[%]%-.]", "%%%0"), message)
    end
  end)
end)
