-- Hides known texts in others, however they are written there: as they are, within something that
-- was base64-encoded (RFC 4648), percent-encoded (RFC 3986), JSON-escaped or as HTML character
-- references, wholly or in part, and one of these inside another. What is escaped is found by
-- undoing the escapes, layer by layer, and hiding the stretch of the original that a match came
-- from.

local bit = require "bit"

local mask = {}

local HIDDEN = "***"
local LAYERS = 4 -- of escapes within escapes
local WIDEST = 8 -- bytes that an escaped byte may take, for all practical purposes
local PERCENT, BACKSLASH, AMPERSAND = ("%\\&"):byte(1, 3)

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Base64 with padding (RFC 4648 section 4).
---@param text string
---@return string
function mask.base64(text)
  local out = {}
  for at = 1, #text, 3 do
    local a, b, c = text:byte(at, at + 2)
    local bits = a * 65536 + (b or 0) * 256 + (c or 0)
    for shift = 18, 0, -6 do
      local digit = bit.band(bit.rshift(bits, shift), 63) + 1
      out[#out + 1] = BASE64:sub(digit, digit)
    end
  end
  local padding = -#text % 3
  return table.concat(out, "", 1, #out - padding) .. ("="):rep(padding)
end

-- Escapes ---------------------------------------------------------------------------------------

local function utf8(code)
  if code < 0x80 then
    return string.char(code)
  elseif code < 0x800 then
    return string.char(0xC0 + math.floor(code / 0x40), 0x80 + code % 0x40)
  elseif code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 0x1000), 0x80 + math.floor(code / 0x40) % 0x40,
      0x80 + code % 0x40)
  end
  return string.char(0xF0 + math.floor(code / 0x40000), 0x80 + math.floor(code / 0x1000) % 0x40,
    0x80 + math.floor(code / 0x40) % 0x40, 0x80 + code % 0x40)
end

local LETTERS = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local ENTITIES = { amp = "&", lt = "<", gt = ">", quot = '"', apos = "'" }

local function backslash_at(text, at)
  local digits = text:match("^u(%x%x%x%x)", at + 1)
  if digits then
    local code = tonumber(digits, 16)
    local low = code >= 0xD800 and code <= 0xDBFF
      and text:match("^\\u([dD][c-fC-F]%x%x)", at + 6)
    if low then
      return utf8((code - 0xD800) * 0x400 + tonumber(low, 16) - 0xDC00 + 0x10000), 12
    end
    return utf8(code), 6
  end
  digits = text:match("^x(%x%x)", at + 1)
  if digits then
    return string.char(tonumber(digits, 16)), 4
  end
  local letter = text:match("^[\"'\\/bfnrt]", at + 1)
  return letter and (LETTERS[letter] or letter), 2
end

local function reference_at(text, at)
  local name = text:match("^(#?%w+);", at + 1)
  if not name or #name > 10 then
    return nil
  end
  local digits, hexadecimal = name:match "^#(%d+)$", name:match "^#[xX](%x+)$"
  local code = tonumber(digits) or hexadecimal and tonumber(hexadecimal, 16)
  if code then
    return code <= 0x10FFFF and utf8(code) or nil, #name + 2
  end
  return ENTITIES[name], #name + 2
end

-- What the escape at `at` stands for and how long it is; nil when it is none. Line ends stand for
-- nothing: encoders wrap long lines.
local function escape_at(text, at)
  local byte = text:byte(at)
  if byte == PERCENT then
    local digits = text:match("^%x%x", at + 1)
    return digits and string.char(tonumber(digits, 16)), 3
  elseif byte == BACKSLASH then
    return backslash_at(text, at)
  elseif byte == AMPERSAND then
    return reference_at(text, at)
  end
  return "", 1
end

---@class orc.Layer
---@field text string with the escapes undone
---@field below orc.Layer? the text it was made of; nil for the original
---@field at integer[] where in `text` what the escapes stood for begins …
---@field size integer[] … how long that is …
---@field from integer[] … and where the escapes are in the text below
---@field taken integer[] their lengths

-- A layer with the escapes of another undone; nil when it has none.
local function undo(below)
  local text = below.text
  local at, size, from, taken = {}, {}, {}, {}
  local pieces, length, copied = {}, 0, 1
  local found = text:find "[%%\\&\r\n]"
  while found do
    local meaning, long = escape_at(text, found)
    if meaning then
      local n = #at + 1
      pieces[2 * n - 1], pieces[2 * n] = text:sub(copied, found - 1), meaning
      length = length + found - copied
      at[n], size[n], from[n], taken[n] = length + 1, #meaning, found, long
      length = length + #meaning
      copied = found + long
    end
    found = text:find("[%%\\&\r\n]", meaning and copied or found + 1)
  end
  if not at[1] then
    return nil
  end
  pieces[#pieces + 1] = text:sub(copied)
  return { text = table.concat(pieces), below = below, at = at, size = size, from = from,
    taken = taken }
end

-- The last escape whose meaning begins at or before `place`; 0 when there is none.
local function escape_before(layer, place)
  local low, high = 0, #layer.at
  while low < high do
    local middle = math.ceil((low + high) / 2)
    if layer.at[middle] <= place then low = middle else high = middle - 1 end
  end
  return low
end

-- The place below of a byte of a layer: the first or, for an end, the last byte of its escape.
local function place_below(layer, place, is_end)
  local n = escape_before(layer, place)
  if n == 0 then
    return place
  end
  local past = place - layer.at[n] - layer.size[n]
  if past < 0 then
    return is_end and layer.from[n] + layer.taken[n] - 1 or layer.from[n]
  end
  return layer.from[n] + layer.taken[n] + past
end

local function in_original(layer, from, to)
  while layer.below do
    from, to = place_below(layer, from), place_below(layer, to, true)
    layer = layer.below
  end
  return { from = from, to = to }
end

-- What to look for -------------------------------------------------------------------------------

-- The base64 digits that depend on `text` alone when `skipped` unknown bytes (modulo 3) precede it.
local function base64_core(text, skipped)
  local encoded = mask.base64(("\0"):rep(skipped) .. text)
  local first = math.ceil(skipped * 8 / 6) + 1
  local last = math.floor((skipped + #text) * 8 / 6)
  return encoded:sub(first, last)
end

local function percent(char)
  return ("%%%02X"):format(char:byte())
end

-- All that a text is looked for as, in every layer.
local function spellings_of(text)
  local found, seen = {}, {}
  local function add(spelling)
    if spelling ~= "" and not seen[spelling] then
      seen[spelling] = true
      found[#found + 1] = spelling
    end
  end
  local folded = text:gsub("[\r\n]", "")
  for _, plain in ipairs { text, folded } do
    add(plain)
    add((plain:gsub(" ", "+"))) -- in a form
  end
  -- One that itself looks escaped may have been escaped in part.
  local layer = undo { text = text }
  for _ = 2, LAYERS do
    local after = layer and undo(layer)
    layer = after or layer
  end
  if layer and #layer.text >= 4 then
    add(layer.text)
  end
  local inside = { text, (text:gsub("[^%w%-._~]", percent)), (text:gsub('["\\]', "\\%0")) }
  for _, plain in ipairs(inside) do
    for skipped = 0, 2 do
      local core = base64_core(plain, skipped)
      add(core)
      add((core:gsub("[+/]", { ["+"] = "-", ["/"] = "_" })))
    end
  end
  return found
end

---@class orc.Mask
---@field known table<string, string[]> text → its spellings
---@field spellings string[] all of them, once each
---@field places table<string, integer> where each is in that list
---@field users table<string, integer> how many texts are spelled so
---@field longest integer bytes that no spelling is longer than
local Mask = {}
Mask.__index = Mask

---@return orc.Mask
function mask.new()
  return setmetatable({ known = {}, spellings = {}, places = {}, users = {}, longest = 0 }, Mask)
end

--- Makes a text known. One that is empty or very short would hide what is no secret: that is the
--- caller's to decide.
---@param text string
function Mask:add(text)
  if self.known[text] then
    return
  end
  local list, places, users = self.spellings, self.places, self.users
  local spellings = spellings_of(text)
  self.known[text] = spellings
  for _, spelling in ipairs(spellings) do
    if not users[spelling] then
      list[#list + 1] = spelling
      places[spelling] = #list
      self.longest = math.max(self.longest, #spelling)
    end
    users[spelling] = (users[spelling] or 0) + 1
  end
end

--- Forgets a text.
---@param text string
function Mask:remove(text)
  local list, places, users = self.spellings, self.places, self.users
  for _, spelling in ipairs(self.known[text] or {}) do
    users[spelling] = users[spelling] - 1
    if users[spelling] == 0 then
      local last, place = list[#list], places[spelling]
      list[place], places[last] = last, place
      list[#list], places[spelling], users[spelling] = nil, nil, nil
    end
  end
  self.known[text] = nil
  if #list == 0 then
    self.longest = 0
  end
end

-- Adds the stretches of the original that hold something known in this layer.
local function search(self, layer, stretches)
  local text = layer.text
  for _, spelling in ipairs(self.spellings) do
    local from, to = text:find(spelling, 1, true)
    while from do
      stretches[#stretches + 1] = in_original(layer, from, to)
      from, to = text:find(spelling, to + 1, true)
    end
  end
end

local function hide(text, stretches, limit)
  table.sort(stretches, function(a, b)
    return a.from < b.from or a.from == b.from and a.to > b.to
  end)
  local out, copied = {}, 1 -- the first byte that is not yet in `out`, or hidden
  for _, stretch in ipairs(stretches) do
    if stretch.from > limit then
      break
    elseif stretch.from >= copied then
      out[#out + 1] = text:sub(copied, stretch.from - 1) .. HIDDEN
    end
    copied = math.max(copied, stretch.to + 1)
  end
  out[#out + 1] = text:sub(copied, limit)
  return table.concat(out)
end

--- A text with everything known replaced by "***".
---@param text string
---@param limit? integer of how many bytes of it; what is known and goes on beyond is hidden, too
---@return string
function Mask:hide(text, limit)
  if limit and #text > limit then
    text = text:sub(1, limit + self.longest * WIDEST)
  end
  limit = limit or #text
  if self.longest == 0 then
    return text:sub(1, limit)
  end
  local stretches = {}
  local layer = { text = text }
  for _ = 0, LAYERS do
    search(self, layer, stretches)
    layer = undo(layer)
    if not layer then
      break
    end
  end
  return hide(text, stretches, limit)
end

return mask
