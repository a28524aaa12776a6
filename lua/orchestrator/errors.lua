-- Errors as values: `nil, err` with a kind a program can branch on and one line a person can act
-- on. `tostring(err)` is safe to print: secrets and URL credentials are masked, and whatever a
-- terminal would obey instead of show (CWE-150) is escaped. A traceback, if any, was taken by
-- whoever raised.

local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local errors = {}

---@class orc.Error
---@field kind string one of errors.kinds
---@field message string
---@field url? string
---@field method? string
---@field status? integer
---@field response? table
---@field attempts? integer
---@field position? string where the item came from ("urls.txt:17")
---@field traceback? string of the task that failed
---@field temporary? boolean a failed lookup that may work later
---@field unsent? boolean the attempt it is of was never sent

errors.kinds = {
  "http", "dns", "connect", "tls", "timeout", "network", "protocol", "too_large",
  "too_many_redirects", "decode", "cancelled", "rate_limited", "circuit_open", "blocked", "invalid",
  "script", "validation",
}

local MAX_PART = 1000 -- bytes of a message or URL that are shown

local is_kind = {}
for _, kind in ipairs(errors.kinds) do
  is_kind[kind] = true
end

local Error = {}

---@param kind string one of errors.kinds
---@param message string
---@param fields? table copied into the error
---@return orc.Error
function errors.new(kind, message, fields)
  if not is_kind[kind] then
    error(("errors.new: unknown kind %q"):format(tostring(kind)), 2)
  end
  local err = { kind = kind, message = message }
  if fields then
    for name, value in pairs(fields) do
      err[name] = value
    end
  end
  return setmetatable(err, Error)
end

---@param v any
---@return boolean
function errors.is(v)
  return getmetatable(v) == Error
end

-- The length and code point of the UTF-8 sequence at `at`; nil when it is not well-formed (Unicode
-- table 3-7: no overlong forms, no surrogates, nothing above U+10FFFF).
local function utf8_sequence(text, at)
  local lead, b, c, d = text:byte(at, at + 3)
  local function tail(byte)
    return byte and byte >= 0x80 and byte <= 0xBF
  end
  if lead >= 0xC2 and lead <= 0xDF and tail(b) then
    return 2, (lead - 0xC0) * 0x40 + b - 0x80
  elseif lead >= 0xE0 and lead <= 0xEF and tail(b) and tail(c) then
    local code = ((lead - 0xE0) * 0x40 + b - 0x80) * 0x40 + c - 0x80
    if code >= 0x800 and (code < 0xD800 or code > 0xDFFF) then
      return 3, code
    end
  elseif lead >= 0xF0 and lead <= 0xF4 and tail(b) and tail(c) and tail(d) then
    local code = (((lead - 0xF0) * 0x40 + b - 0x80) * 0x40 + c - 0x80) * 0x40 + d - 0x80
    if code >= 0x10000 and code <= 0x10FFFF then
      return 4, code
    end
  end
end

-- C1 controls, line separators, and the marks that reorder text (CVE-2021-42574).
local function misleads(code)
  return code <= 0x9F
    or code == 0x061C
    or code == 0x200E
    or code == 0x200F
    or (code >= 0x2028 and code <= 0x202E)
    or (code >= 0x2066 and code <= 0x2069)
end

local SHORT = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

--- A text as one line that is safe on a terminal: controls and invalid bytes become \n, \x1b or
--- \u{202e}. Meant for reading; a backslash stays one, so it cannot be undone.
---@param text string
---@return string
function errors.escape(text)
  local at = text:find "[^ -~]"
  if not at then
    return text
  end
  local out, copied = {}, 1
  while at do
    local length, code = utf8_sequence(text, at)
    if not length or misleads(code) then
      local char = text:sub(at, at + (length or 1) - 1)
      out[#out + 1] = text:sub(copied, at - 1)
      out[#out + 1] = code and ("\\u{%x}"):format(code)
        or SHORT[char]
        or ("\\x%02x"):format(char:byte())
      copied = at + (length or 1)
    end
    at = text:find("[^ -~]", at + (length or 1))
  end
  out[#out + 1] = text:sub(copied)
  return table.concat(out)
end

-- Masked before it is cut, so that no cut leaves half a secret unrecognised.
local function printable(text)
  text = url.mask(secret.mask(tostring(text)))
  if #text > MAX_PART then
    text = text:sub(1, MAX_PART):gsub("[\192-\255][\128-\191]*$", "") .. "..."
  end
  return errors.escape(text)
end

function Error:__tostring()
  local notes = {}
  if self.position then
    notes[#notes + 1] = printable(self.position)
  end
  if self.url then
    notes[#notes + 1] = printable(self.method and self.method .. " " .. self.url or self.url)
  end
  if self.attempts and self.attempts > 1 then
    notes[#notes + 1] = ("after %d attempts"):format(self.attempts)
  end
  local line = self.kind .. ": " .. printable(self.message)
  if #notes > 0 then
    line = line .. " (" .. table.concat(notes, ", ") .. ")"
  end
  return line
end

function Error.__concat(left, right)
  return tostring(left) .. tostring(right)
end

return errors
