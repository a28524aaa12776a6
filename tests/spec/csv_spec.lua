local csv = require "orchestrator.csv"
local fake_host = require "fake_host"
local options = require "orchestrator.options"
local pieces = require "pieces"

describe("CSV", function()
  local function open(list, opts, check, problem)
    return csv.new(pieces.reader(list, problem), options.check("csv", opts, csv.OPTIONS), check)
  end

  local function all(list, ...)
    return pieces.all(open(list, ...))
  end

  -- The fields of every record; all must be good.
  local function rows(text, separator)
    local out = {}
    for i, entry in ipairs(all({ text }, { header = false, separator = separator })) do
      assert.is_nil(entry[3])
      out[i] = entry[2]
    end
    return out
  end

  it("is records of fields (RFC 4180 section 2)", function()
    assert.same({ { "aaa", "bbb", "ccc" }, { "zzz", "yyy", "xxx" } },
      rows "aaa,bbb,ccc\r\nzzz,yyy,xxx\r\n")
    assert.same({ { "zzz", "yyy" } }, rows "zzz,yyy")
    assert.same({ { "aaa", "bbb", "ccc" } }, rows '"aaa","bbb","ccc"\r\n')
    assert.same({ { "aaa", "b \r\nbb", "ccc" }, { "zzz", "", "" } },
      rows '"aaa","b \r\nbb","ccc"\r\nzzz,,\r\n')
    assert.same({ { "aaa", 'b"bb', '"' } }, rows '"aaa","b""bb",""""\n')
    assert.same({ { "", "" }, { " a ", "\tb" } }, rows ",\n a ,\tb\n")
    assert.same({ { "", "x" }, { '"', "" } }, rows '"",x\n"""",""\n')
    assert.same({ { "a\n\n\nb" }, { "c" } }, rows '"a\n\n\nb"\n\n\nc\n')
  end)

  it("may have another separator", function()
    assert.same({ { "a,b", "c;d", "e" } }, rows('a,b;"c;d";e', ";"))
    assert.same({ { "a", "", "b c" } }, rows("a\t\tb c", "\t"))
    assert.same({ { "a", "b" } }, rows("a|b", "|"))
    assert.same({ { "a", "%b" } }, rows("a.%b", "."))
    for _, separator in ipairs { "", ";;", '"', "\n", "\r", "ü" } do
      assert.has_error(function() open({}, { separator = separator }) end)
    end
  end)

  it("names the fields by the first record, unless there is no header", function()
    assert.same({ { 2, { id = "1", name = "x" } } }, (all { "id,name\n1,x\n" }))
    assert.same({ { 4, { ["a\nb"] = "1", c = "2" } } }, (all { '\239\187\191"a\nb",c\n\n1,2' }))
    assert.same({}, (all { "" }))
    assert.same({}, (all { "id\n" }))
    assert.same({ { 1, { "id" } }, { 2, { "1" } } }, (all({ "id\n1" }, { header = false })))
  end)

  it("tells what is wrong, with the line it began on, and goes on after that line", function()
    assert.same({
      { 2, "1", "not CSV: 1 field where the header has 2" },
      { 3, '"x', "not CSV: something follows a closing quote" },
      { 4, 'y"z,1', "not CSV: there is a quote in an unquoted field" },
      { 5, { a = "1", b = "2" } },
      { 6, '"open', "not CSV: a quoted field is never closed" },
      { 7, { a = "3", b = "4" } },
    }, (all { 'a,b\n1\n"x\ny"z,1\n1,2\n"open\n3,4\n' }))
    assert.same({ { 2, "1,2", "not CSV: odd" }, { 3, { a = "3", b = "4" } } },
      (all({ "a,b\n1,2\n3,4" }, nil, function(text) return text == "1,2" and "odd" or nil end)))
  end)

  it("keeps nothing of a bad record for who does not go on", function()
    local reader = csv.new(pieces.reader { 'a,b\n"1\n2\n3\n' },
      options.check("csv", nil, csv.OPTIONS), nil, true)
    local number, _, problem = reader:next()
    assert.same({ 2, "not CSV: a quoted field is never closed" }, { number, problem })
    assert.same({}, reader.back)
    assert.is_nil((reader:next()))
  end)

  it("caps its lines and its records", function()
    assert.same({
      { 1, { "1" } }, { 2, "123456", "the line is longer than 6 bytes", "too_large" },
      { 3, '"12', "not CSV: a quoted field is never closed" }, { 4, { "3456" } },
      { 5, '78"', "not CSV: there is a quote in an unquoted field" },
    }, (all({ '1\n1234567\n"12\n3456\n78"\n' }, { header = false, max_line = 6 })))
    -- A long line within quotes is one of its own.
    assert.same({
      { 1, '"a', "not CSV: a quoted field is never closed" },
      { 2, "123456", "the line is longer than 6 bytes", "too_large" }, { 3, { "b" } },
    }, (all({ '"a\n1234567\nb' }, { header = false, max_line = 6 })))
  end)

  it("has a header that must be good", function()
    for text, problem in pairs {
      ["a,b,a\n1,2,3"] = 'two columns are named "a"',
      ['a"\n1'] = "there is a quote in an unquoted field",
      ['"a\n1'] = "a quoted field is never closed",
    } do
      assert.same({ nil, 1, problem }, { open({ text }):open() })
      assert.same({ 1, nil, "the CSV header is bad: " .. problem }, { open({ text }):next() })
    end
    assert.same({ nil, nil, "gone" }, { open({ "a,b" }, nil, nil, "gone"):next() })
    assert.same({ 1, nil, "the CSV header is bad: the line is longer than 2 bytes", "too_large" },
      { open({ "abc" }, { max_line = 2 }):next() })
  end)

  it("gives no record that was cut off", function()
    for _, text in ipairs { "1,2\n3,4", '1,2\n"3,4', '1,2\n"3\n4",', "1,2\n" } do
      local out, problem = all({ text }, { header = false }, nil, "gone")
      assert.same({ { 1, { "1", "2" } } }, out)
      assert.equal("gone", problem)
    end
  end)

  -- RFC 4180's grammar, a byte at a time; well-formed texts only.
  local function model(text)
    local out, row, field, quoted, at = {}, {}, "", false, 1
    local function take() row[#row + 1], field = field, "" end
    local function finish()
      take()
      if #row > 1 or row[1] ~= "" then out[#out + 1] = row end
      row = {}
    end
    while at <= #text do
      local char, pair = text:sub(at, at), text:sub(at, at + 1)
      if quoted and pair == '""' then
        field, at = field .. '"', at + 1
      elseif char == '"' then
        quoted = not quoted
      elseif quoted then
        field = field .. char
      elseif char == "," then
        take()
      elseif pair == "\r\n" or char == "\n" then
        finish()
        if char == "\r" then at = at + 1 end
      else
        field = field .. char
      end
      at = at + 1
    end
    if field ~= "" or #row > 0 then finish() end
    return out
  end

  it("is the same however the text is cut", function()
    local random = fake_host.generator(11)
    local alphabet = { "a", "b c", ",", '"', "\n", "\r\n", "1", "" }
    for _ = 1, 40 do
      local text = ""
      for _ = 1, 1 + math.floor(random() * 4) do
        local fields = {}
        for i = 1, 2 + math.floor(random() * 2) do
          local field = ""
          for _ = 1, math.floor(random() * 4) do
            field = field .. alphabet[1 + math.floor(random() * #alphabet)]
          end
          fields[i] = field:find '[,"\r\n]' and '"' .. field:gsub('"', '""') .. '"' or field
        end
        text = text .. table.concat(fields, ",") .. (random() < 0.5 and "\n" or "\r\n")
      end
      local want = model(text)
      pieces.every_way(text, random, function(list)
        local got = {}
        for i, entry in ipairs(all(list, { header = false })) do
          assert.is_nil(entry[3], entry[3])
          got[i] = entry[2]
        end
        assert.same(want, got)
      end)
    end
  end)

  it("that is broken is the same however the text is cut, and takes no long time", function()
    local random = fake_host.generator(5)
    local alphabet = { "a", ",", '"', "\n", "\r\n", "bcd" }
    for _ = 1, 60 do
      local parts = {}
      for i = 1, math.floor(random() * 25) do
        parts[i] = alphabet[1 + math.floor(random() * #alphabet)]
      end
      local text = table.concat(parts)
      local want = all({ text }, { header = false, max_line = 8 })
      pieces.every_way(text, random, function(list)
        assert.same(want, (all(list, { header = false, max_line = 8 })))
      end)
    end
    local began = os.clock()
    local odd = all({ ('"a\nb\n'):rep(50000) }, { header = false })
    assert.equal(100000, #odd)
    assert.is_true(os.clock() - began < 5)
  end)
end)
