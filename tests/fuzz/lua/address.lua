-- IP addresses (lua/orchestrator/address.lua). Input: an address; then perhaps a line end and bits.
-- Properties: they are the bytes that the C library reads; a range holds its own address and is
-- what it says.

local address = require "orchestrator.address"
local fuzz = require "fuzz"
local kit = require "kit"

-- The bytes of what fuzz.address gives, which is in plain notation.
local function bytes_of(text)
  return text and address.parse(text)
end

return function(input)
  local text, bits = input:match "^([^\n]*)\n(%d+)"
  text = (text or input):gsub("[^%w.:]", "") -- inet_aton stops at a space
  if text:find "%w%w%w%w%w%w%w%w%w%w%w%w%w%w%w%w%w" then return end -- refused, whatever it means
  local bytes = address.parse(text)
  local known = bytes_of(fuzz.address(text))
  kit.check(bytes == known, "%s is %s, not %s", text, kit.show(bytes), kit.show(known))
  local range = bits and address.range(text .. "/" .. bits)
  if range then
    kit.check(address.contains(range, bytes), "%s/%s is without it", text, bits)
  end
  if bytes then
    kit.check(address.is_loopback(bytes) == (#bytes == 4 and bytes:byte() == 127
      or bytes == ("\0"):rep(15) .. "\1"), "loopback: %s", text)
  end
end
