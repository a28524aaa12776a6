-- IP addresses as the bytes they stand for: four of them for IPv4, sixteen for IPv6, and four again
-- for an IPv4 address written as an IPv6 one (::ffff:1.2.3.4), which reaches the same machine.

local bit = require "bit"

local address = {}

local MAPPED = ("\0"):rep(10) .. "\255\255"

local function to_number(text)
  if text:find "^0[xX]%x+$" then return tonumber(text:sub(3), 16) end
  if text:find "^0[0-7]+$" then return tonumber(text, 8) end
  return text:find "^%d+$" and (text == "0" or text:byte() ~= 48) and tonumber(text) or nil
end

-- As inet_aton reads it, and so getaddrinfo: one to four numbers, decimal, octal (0…) or
-- hexadecimal (0x…), of which the last fills all the bytes that are left.
local function parse_ipv4(text)
  local numbers = {}
  for part in (text .. "."):gmatch "(.-)%." do
    local number = #part <= 16 and to_number(part)
    if not number or #numbers == 4 then return nil end
    numbers[#numbers + 1] = number
  end
  local last = table.remove(numbers)
  local left = 4 - #numbers
  if last >= 256 ^ left then return nil end
  local bytes = {}
  for i, number in ipairs(numbers) do
    if number > 255 then return nil end
    bytes[i] = string.char(number)
  end
  for i = left - 1, 0, -1 do
    bytes[#bytes + 1] = string.char(math.floor(last / 256 ^ i) % 256)
  end
  return table.concat(bytes)
end

-- The bytes of "1:2:3"; nil when a group is none.
local function parse_groups(text)
  local bytes = {}
  for group in (text == "" and "" or text .. ":"):gmatch "(.-):" do
    if not group:find "^%x%x?%x?%x?$" then return nil end
    local number = tonumber(group, 16)
    bytes[#bytes + 1] = string.char(math.floor(number / 256), number % 256)
  end
  return table.concat(bytes)
end

-- RFC 4291 section 2.2.
local function parse_ipv6(text)
  local start, dotted = text:match "^(.*:)(%d+%.%d+%.%d+%.%d+)$"
  if dotted then
    local four = parse_ipv4(dotted)
    if not four or dotted:find "%f[%d]0%d" then return nil end
    text = ("%s%x:%x"):format(start, four:byte(1) * 256 + four:byte(2),
      four:byte(3) * 256 + four:byte(4))
  end
  local before, after = text:match "^(.-)::(.*)$"
  before, after = parse_groups(before or text), parse_groups(after or "")
  if not before or not after then return nil end
  local missing = 16 - #before - #after
  if text:find("::", 1, true) and missing < 2 or not text:find("::", 1, true) and missing ~= 0 then
    return nil
  end
  return before .. ("\0"):rep(missing) .. after
end

--- The bytes of an address, in whatever notation, without brackets; nil when it is none.
---@param text string
---@return string|nil
function address.parse(text)
  if not text:find(":", 1, true) then return parse_ipv4(text) end
  local bytes = parse_ipv6(text)
  if bytes and bytes:sub(1, 12) == MAPPED then return bytes:sub(13) end
  return bytes
end

--- Whether a text is an address as it is commonly written: all four numbers of IPv4, in decimal.
---@param text string
---@return boolean
function address.is_plain(text)
  if not address.parse(text) then return false end
  return text:find(":", 1, true) ~= nil
    or text:find "^%d+%.%d+%.%d+%.%d+$" ~= nil and not text:find "%f[%d]0%d"
end

---@class orc.AddressRange
---@field bytes string
---@field bits integer how many of them count

--- "10.0.0.0/8", "fd00::/8", or one address; nil when it is neither.
---@param text string
---@return orc.AddressRange|nil
function address.range(text)
  local start, bits = text:match "^(.*)/(%d+)$"
  local bytes = address.is_plain(start or text) and address.parse(start or text)
  if not bytes then return nil end
  local most = (start or text):find(":", 1, true) and 128 or 32
  bits = bits and tonumber(bits) or most
  if bits > most then return nil end
  if most == 128 and #bytes == 4 then bits = bits - 96 end
  return bits >= 0 and { bytes = bytes, bits = bits } or nil
end

---@param range orc.AddressRange
---@param bytes string from address.parse
---@return boolean
function address.contains(range, bytes)
  if #bytes ~= #range.bytes then return false end
  local whole = math.floor(range.bits / 8)
  if bytes:sub(1, whole) ~= range.bytes:sub(1, whole) then return false end
  local left = 8 - range.bits % 8
  if left == 8 then return true end
  return bit.rshift(bytes:byte(whole + 1), left) == bit.rshift(range.bytes:byte(whole + 1), left)
end

--- 127.0.0.0/8 (RFC 1122 section 3.2.1.3) and ::1 (RFC 4291 section 2.5.3).
---@param bytes string from address.parse
---@return boolean
function address.is_loopback(bytes)
  return #bytes == 4 and bytes:byte() == 127 or bytes == ("\0"):rep(15) .. "\1"
end

return address
