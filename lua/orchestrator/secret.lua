-- Opaque values: a secret can be sent but not shown. `tostring`, `print` and JSON give "***";
-- joining one with strings (`"Bearer " .. token`) gives another secret. Note that `string.format`
-- shows "***" too. `mask` hides every value made known through `env` or `value` wherever it turns
-- up in a text, however it is written there (mask.lua). The known values live as long as the Lua
-- state: make secrets once, not once an item. Those of single items are borrowed.

local mask = require "orchestrator.mask"

local secret = {}

local MASK = "***"
local MIN_MASKED = 4 -- shorter values would mask ordinary text
local KEPT = 100 -- borrowed values that are masked though nobody has them any more

local texts = setmetatable({}, { __mode = "k" }) -- secret → its text
local known = {} -- text → the one secret that stands for it
local masked = mask.new() -- of all that are known
local lent = {} -- text → how many have borrowed it
local returned, queued = {}, {} -- texts that nobody has, the longest so first; whether one is there

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

--- Base64 with padding (RFC 4648 section 4).
---@param text string
---@return string
secret.base64 = mask.base64

local function make_known(text)
  if not known[text] then
    known[text] = wrap(text)
    if #text >= MIN_MASKED then
      masked:add(text)
    end
  end
  return known[text]
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
  lent[text] = nil -- it stays
  return make_known(text)
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

---@param text string
---@return boolean
function secret.is_known(text)
  return known[text] ~= nil
end

--- Takes back that a value is known: it will no longer be masked. For those that were obtained on
--- the way and have had their time.
---@param v orc.Secret
function secret.forget(v)
  local text = texts[v]
  if known[text] == v then
    known[text] = nil
    masked:remove(text)
  end
end

--- The secret that stands for a text, until it is given back. What is told of it afterwards is
--- masked, too, but not for ever: there may be one for every item.
---@param text string
---@return orc.Secret
function secret.borrow(text)
  if lent[text] or not known[text] then
    lent[text] = (lent[text] or 0) + 1
  end
  return make_known(text)
end

---@param v orc.Secret
function secret.give_back(v)
  local text = texts[v]
  local others = (lent[text] or 0) - 1
  if others < 0 then return end
  lent[text] = others
  if others > 0 or queued[text] then return end
  queued[text] = true
  returned[#returned + 1] = text
  if #returned <= KEPT then return end
  local oldest = table.remove(returned, 1)
  queued[oldest] = nil
  if lent[oldest] == 0 then
    lent[oldest] = nil
    secret.forget(known[oldest])
  end
end

--- A text with every known secret value (of at least 4 bytes) replaced by "***".
---@param text string
---@return string
function secret.mask(text)
  return masked:hide(text)
end

--- The same of the first `limit` bytes of a text. A secret that goes on beyond them is hidden, too.
---@param text string
---@param limit integer
---@return string
function secret.mask_start(text, limit)
  return masked:hide(text, limit)
end

return secret
