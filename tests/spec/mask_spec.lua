local fake_host = require "fake_host"
local mask = require "orchestrator.mask"

local VALUE = 'p@ss "w0rd"<&>/ü+'

local function percent(text, set)
  return (text:gsub(set or "[^%w]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local function json(text)
  return (text:gsub('["\\]', "\\%0"))
end

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" }

local function html(text)
  return (text:gsub('[&<>"]', ENTITIES))
end

describe("a mask", function()
  local m

  before_each(function()
    m = mask.new()
    m:add(VALUE)
  end)

  local function hidden(written)
    assert.equal("before=***&after", m:hide("before=" .. written .. "&after"), written)
  end

  it("hides what it knows, and nothing else", function()
    hidden(VALUE)
    assert.equal("nothing here", m:hide "nothing here")
    assert.equal("100% of \\n & &amp; stays %zz", m:hide "100% of \\n & &amp; stays %zz")
    assert.equal("anything", mask.new():hide "anything")
  end)

  it("hides it however much of it is percent-encoded", function()
    hidden(percent(VALUE))
    hidden(percent(VALUE):lower())
    hidden(percent(VALUE, "[\128-\255]"))
    hidden(percent(VALUE, '["<>]'))
    hidden(percent(VALUE, "."))
    hidden((percent(VALUE, '[^%w ]'):gsub(" ", "+")))
    hidden(percent(percent(VALUE)))
    hidden(percent(percent(percent(VALUE))))
  end)

  it("hides it in JSON, as every writer escapes it", function()
    hidden(json(VALUE))
    hidden((json(VALUE):gsub("/", "\\/")))
    hidden((json(VALUE):gsub("ü", "\\u00fc"):gsub("[<>&]", function(char)
      return ("\\u%04X"):format(char:byte())
    end)))
    hidden(json(json(VALUE)))
    hidden(json(percent(VALUE)))
    m:add "smile 😀 twice"
    hidden "smile \\ud83d\\ude00 twice"
    hidden "smile \\xF0\\x9f\\x98\\x80 twice"
  end)

  it("hides it in HTML", function()
    hidden(html(VALUE))
    hidden((VALUE:gsub('[&<>"]', function(char) return ("&#%d;"):format(char:byte()) end)))
    hidden((VALUE:gsub('[&<>"]', function(char) return ("&#x%x;"):format(char:byte()) end)))
    hidden((html(VALUE):gsub("ü", "&#xFC;")))
    hidden(html(html(VALUE)))
    m:add "it's"
    hidden "it&apos;s"
  end)

  it("hides it in base64, whatever stands around it and is done to it", function()
    for before = 0, 4 do
      for after = 0, 3 do
        local encoded = mask.base64(("u"):rep(before) .. VALUE .. ("!"):rep(after))
        for _, written in ipairs {
          encoded, encoded:gsub("+", "-"):gsub("/", "_"), percent(encoded),
          json(encoded:gsub("/", "\\/")), (encoded:gsub(("."):rep(11), "%0\r\n")),
          percent(percent(encoded)),
        } do
          local left = m:hide(written):gsub("%*%*%*", ""):gsub("%%%x%x", ""):gsub("[^%w]", "")
          assert.is_true(#left <= 16, written .. " leaves " .. left)
        end
      end
    end
    local inside = mask.base64(percent("user:" .. VALUE))
    assert.is_true(#m:hide(inside) < #inside - 20)
    inside = mask.base64('{"password":"' .. json(VALUE) .. '"}')
    assert.is_true(#m:hide(inside) < #inside - 20)
  end)

  it("hides one that looks escaped itself", function()
    m:add "a%2Fb&amp;c\\nd"
    hidden "a%2Fb&amp;c\\nd"
    hidden(percent "a%2Fb&amp;c\\nd")
    hidden "a%252Fb&amp;c\\nd"
  end)

  it("hides one of several lines", function()
    local key = "-----BEGIN KEY-----\nabcd\nefgh\n-----END KEY-----"
    m:add(key)
    hidden(key)
    hidden((key:gsub("\n", "\\n")))
    hidden((key:gsub("\n", "\r\n")))
    hidden((key:gsub("\n", "%%0A"):gsub(" ", "+")))
  end)

  it("hides all that overlaps", function()
    m:add "abcdef"
    m:add "defghi"
    m:add "cdefg"
    assert.equal("x***y", m:hide "xabcdefghiy")
    assert.equal("x***y", m:hide "x%61bcdefgh%69y")
    assert.equal("******", m:hide "abcdefabcdef")
  end)

  it("keeps what is escaped around it", function()
    assert.equal("%20***%20&lt;***&gt;\\n***",
      m:hide("%20" .. percent(VALUE) .. "%20&lt;" .. html(VALUE) .. "&gt;\\n" .. VALUE))
  end)

  it("cuts only after hiding", function()
    m:add "0123456789"
    local text = "abc" .. "0123456789" .. "xyz"
    for limit, expected in pairs {
      [2] = "ab", [3] = "abc", [4] = "abc***", [12] = "abc***", [13] = "abc***", [14] = "abc***x",
      [99] = "abc***xyz",
    } do
      assert.equal(expected, m:hide(text, limit))
    end
    local escaped = "abc" .. percent("0123456789", ".")
    assert.equal("abc***", m:hide(escaped, 4))
    assert.equal("abc***", m:hide(percent(escaped), 6))
    assert.equal("abc", mask.new():hide("abcdef", 3))
  end)

  it("forgets", function()
    m:add "other-value"
    m:remove(VALUE)
    m:remove "never known"
    assert.equal(VALUE .. " ***", m:hide(VALUE .. " other-value"))
    m:remove "other-value"
    assert.equal("other-value", m:hide "other-value")
  end)

  it("forgets one of two that are written alike, and keeps the other", function()
    local own = mask.new()
    own:add "alike-\n1"
    own:add "alike-1" -- as the other is when it is folded
    own:add "else-22"
    own:remove "alike-\n1"
    assert.equal("*** ***", own:hide "alike-1 else-22")
    own:remove "alike-1"
    assert.equal("alike-1 ***", own:hide "alike-1 else-22")
    own:remove "else-22"
    assert.equal("alike-1 else-22", own:hide "alike-1 else-22")
  end)

  it("forgets as fast as it learns, however much it knows", function()
    local own = mask.new()
    for i = 1, 2000 do own:add("known-text-" .. i) end
    local began = os.clock()
    for i = 1, 2000 do own:remove("known-text-" .. i) end
    assert.is_true(os.clock() - began < 2)
    assert.equal(0, #own.spellings)
  end)

  it("survives whatever it is given", function()
    local random = fake_host.generator(7)
    local pieces = { "%", "%2", "%25", "\\", "\\u", "\\ud83d", "\\ude00", "&", "&#", "&#x", ";",
      "&amp", "&#99999999;", "&#x110000;", "\r\n", "p@ss", ' "w0rd"', "%70@ss", "\255", "\0",
      VALUE }
    for _ = 1, 2000 do
      local parts = {}
      for i = 1, 8 do parts[i] = pieces[math.floor(random() * #pieces) + 1] end
      local text = table.concat(parts)
      local shown = m:hide(text)
      assert.is_nil(shown:find(VALUE, 1, true))
      assert.equal(shown, m:hide(shown))
    end
    assert.equal(400000, #m:hide(("%41\\"):rep(100000)))
  end)
end)
