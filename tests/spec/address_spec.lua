local address = require "orchestrator.address"

local function hex(bytes)
  return bytes and (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

describe("an address", function()
  it("is read in every notation", function()
    for text, expected in pairs {
      ["127.0.0.1"] = "7f000001",
      ["0x7f.1"] = "7f000001",
      ["2130706433"] = "7f000001",
      ["017700000001"] = "7f000001",
      ["0X7F000001"] = "7f000001",
      ["127.1"] = "7f000001",
      ["127.0x10001"] = nil, -- the last of two fills three bytes
      ["127.0xffffff"] = "7fffffff",
      ["1.2.65535"] = "0102ffff",
      ["0"] = "00000000",
      ["255.255.255.255"] = "ffffffff",
      ["::"] = ("0"):rep(32),
      ["::1"] = ("0"):rep(31) .. "1",
      ["1:2:3:4:5:6:7:8"] = "00010002000300040005000600070008",
      ["2001:DB8::1"] = "20010db8000000000000000000000001",
      ["1::"] = "0001" .. ("0"):rep(28),
      ["1:2:3:4:5:6:7::"] = "0001000200030004000500060007" .. "0000",
      ["64:ff9b::1.2.3.4"] = "0064ff9b000000000000000001020304",
      ["::ffff:127.0.0.1"] = "7f000001",
      ["::ffff:7f00:1"] = "7f000001",
    } do
      assert.equal(expected, hex(address.parse(text)), text)
    end
    assert.is_nil(address.parse "127.0x1000001")
  end)

  it("is nothing else", function()
    for _, text in ipairs {
      "", ".", "a", "1.2.3.4.5", "1.2.3.", ".1.2.3", "256.1.1.1", "1.2.3.256", "4294967296",
      "08.1.1.1", "0x.1", "1..2", "-1", "+1", "1.2.3.4 ", " 1.2.3.4", "1e3", "0xg",
      ":", ":::", "1:", ":1", "1::2::3", "12345::", "g::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9",
      "1:2:3:4:5:6:7:8::", "::1.2.3", "::1.2.3.256", "::01.2.3.4", "1.2.3.4::", "fe80::1%eth0",
      "[::1]", ("1"):rep(400),
    } do
      assert.is_nil(address.parse(text), text)
    end
  end)

  it("is plain when people write it so", function()
    for _, text in ipairs { "127.0.0.1", "0.0.0.0", "10.20.30.40", "::1", "::ffff:1.2.3.4" } do
      assert.is_true(address.is_plain(text), text)
    end
    for _, text in ipairs { "127.1", "0x7f.0.0.1", "010.0.0.1", "1", "x", "1.2.3" } do
      assert.is_false(address.is_plain(text), text)
    end
  end)

  it("may be in a range", function()
    local function within(range, text)
      return address.contains(address.range(range), address.parse(text))
    end
    for _, case in ipairs {
      { "10.0.0.0/8", "10.255.0.1", true }, { "10.0.0.0/8", "11.0.0.0", false },
      { "10.0.0.0/8", "0xa.1", true },
      { "172.16.0.0/12", "172.31.255.255", true }, { "172.16.0.0/12", "172.32.0.0", false },
      { "1.2.3.4", "1.2.3.4", true }, { "1.2.3.4", "1.2.3.5", false },
      { "1.2.3.4/31", "1.2.3.5", true }, { "1.2.3.4/32", "1.2.3.5", false },
      { "0.0.0.0/0", "9.9.9.9", true }, { "0.0.0.0/0", "::1", false },
      { "fd00::/8", "fdff::1", true }, { "fd00::/8", "fc00::1", false },
      { "::1", "0:0::1", true }, { "::/0", "fd00::1", true }, { "::/0", "1.2.3.4", false },
      { "2001:db8::/33", "2001:db8:7fff::", true }, { "2001:db8::/33", "2001:db8:8000::", false },
      { "::ffff:10.0.0.0/104", "10.1.2.3", true }, { "10.0.0.0/8", "::ffff:10.1.2.3", true },
    } do
      assert.equal(case[3], within(case[1], case[2]), case[1] .. " " .. case[2])
    end
    for _, text in ipairs { "10.0.0.0/33", "::/129", "10/8", "x/8", "1.2.3.4/", "/8", "1.2.3.4/-1",
      "::ffff:0.0.0.0/90", "example.com", "" } do
      assert.is_nil(address.range(text), text)
    end
  end)

  it("is a loopback address or not", function()
    for _, text in ipairs { "127.0.0.1", "127.255.1.2", "2130706433", "::1", "::ffff:127.0.0.1" } do
      assert.is_true(address.is_loopback(address.parse(text)), text)
    end
    for _, text in ipairs { "128.0.0.1", "0.0.0.0", "::", "::2", "7f00::", "1.0.0.127" } do
      assert.is_false(address.is_loopback(address.parse(text)), text)
    end
  end)
end)
