-- Opaque values: a secret can be sent but not shown. `tostring`, `print` and JSON give "***";
-- joining one with strings (`"Bearer " .. token`) gives another secret. Note that `string.format`
-- shows "***" too. `mask` hides every value made known through `env` or `value` wherever it turns
-- up in a text: as it is, percent-encoded, JSON-escaped, or inside something that was
-- base64-encoded (RFC 4648). The known values live as long as the Lua state: make secrets once,
-- not once an item.

local bit = require "bit"

local secret = {}

local MASK = "***"
local MIN_MASKED = 4 -- shorter values would mask ordinary text

local texts = setmetatable({}, { __mode = "k" }) -- secret → its text
local known = {} -- text → the one secret that stands for it
local spellings = {} -- everything `mask` looks for, longest first

---@class orc.Secret

local Secret = { __metatable = "secret" }

local function wrap(text)
  local self = setmetatable({}, Secret)
  texts[self] = text
  return self
end

function Secret.__tostring()
  return MASK
end

-- A joined secret is not made known: its secret parts already are.
function Secret.__concat(left, right)
  return wrap(secret.reveal(left) .. secret.reveal(right))
end

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Base64 with padding (RFC 4648 section 4).
---@param text string
---@return string
function secret.base64(text)
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

-- The base64 digits that depend on `text` alone when `skipped` unknown bytes (modulo 3) precede it.
local function base64_core(text, skipped)
  local encoded = secret.base64(("\0"):rep(skipped) .. text)
  local first = math.ceil(skipped * 8 / 6) + 1
  local last = math.floor((skipped + #text) * 8 / 6)
  return encoded:sub(first, last)
end

local function percent(text, set, format)
  return (text:gsub(set, function(char)
    return format:format(char:byte())
  end))
end

local function add_spellings(value)
  local found = {
    value,
    percent(value, "[^%w%-._~]", "%%%02X"),
    percent(value, "[^%w%-._~]", "%%%02x"),
    (percent(value, "[^%w%-._* ]", "%%%02X"):gsub(" ", "+")), -- in a form
    percent(value, "[\128-\255]", "%%%02X"), -- in a URL we cleaned
    (value:gsub('["\\]', "\\%0")), -- in JSON
  }
  for skipped = 0, 2 do
    local core = base64_core(value, skipped)
    found[#found + 1] = core
    found[#found + 1] = core:gsub("[+/]", { ["+"] = "-", ["/"] = "_" })
  end
  local seen = {}
  for _, spelling in ipairs(found) do
    if not seen[spelling] then
      seen[spelling] = true
      spellings[#spellings + 1] = spelling
    end
  end
  -- Longest first, so that a secret inside another does not leave the rest of it readable.
  table.sort(spellings, function(a, b)
    return #a > #b or #a == #b and a < b
  end)
end

--- The secret that stands for a text.
---@param text string|orc.Secret
---@return orc.Secret
function secret.value(text)
  if secret.is(text) then
    return text
  end
  if type(text) ~= "string" then
    error("secret.value: a string is needed, got " .. type(text), 2)
  end
  if not known[text] then
    known[text] = wrap(text)
    if #text >= MIN_MASKED then
      add_spellings(text)
    end
  end
  return known[text]
end

--- The secret held by an environment variable. Raises when it is unset or empty.
---@param name string
---@return orc.Secret
function secret.env(name)
  local text = os.getenv(tostring(name))
  if not text or text == "" then
    -- Required here, since options knows of secrets.
    require("orchestrator.options").fail("secret.env",
      ("the environment variable %s is %s"):format(tostring(name), text and "empty" or "not set"))
  end
  return secret.value(text)
end

---@param v any
---@return boolean
function secret.is(v)
  return texts[v] ~= nil
end

--- The text of a secret; any other value as it is. For the code that sends, never for a script.
---@param v any
---@return any
function secret.reveal(v)
  return texts[v] or v
end

local function hide(text, spelling)
  local from, to = text:find(spelling, 1, true)
  if not from then
    return text
  end
  local out, copied = {}, 1
  while from do
    out[#out + 1] = text:sub(copied, from - 1)
    copied = to + 1
    from, to = text:find(spelling, copied, true)
  end
  out[#out + 1] = text:sub(copied)
  return table.concat(out, MASK)
end

--- A text with every known secret value (of at least 4 bytes) replaced by "***".
---@param text string
---@return string
function secret.mask(text)
  for _, spelling in ipairs(spellings) do
    text = hide(text, spelling)
  end
  return text
end

return secret
