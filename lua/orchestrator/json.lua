--- JSON (RFC 8259). What is decoded and encoded again is equal by value, and the text is the same
--- in every process: object keys are sorted by their bytes.
---   integers   beyond ±2^53 are decoded to decimal strings, like numbers beyond a double's range
---   null       is `json.null`; it is neither nil nor false
---   [] and {}  differ: a decoded empty array is marked, as is what `json.array` is given

local core = require "orchestrator.core.json"
local errors = require "orchestrator.errors"
local options = require "orchestrator.options"

local json = { null = core.null }

--- Decodes a text. What is not JSON, not UTF-8 or nested deeper than 1,000 is an error of kind
--- `decode` with the position: "line 1, byte 17: expected a value". A byte order mark is ignored.
---@param text string
---@return any value
---@return orchestrator.Error|nil err
function json.decode(text)
  if type(text) ~= "string" then
    options.fail("json.decode", "the text must be a string, got a " .. type(text))
  end
  local value, message = core.decode(text)
  if value == nil then
    return nil, errors.new("decode", message)
  end
  return value
end

--- Encodes a value. A table is an array if its keys are 1 to n, an object if all are strings; an
--- empty one is `{}` unless marked; a secret is "***". Everything else (functions, nan, other keys,
--- strings that are not UTF-8, nesting deeper than 1,000) is an error of kind `invalid` that names
--- the path: "at .items[3].name: nan has no JSON form". Metamethods are not asked.
---@param value any
---@return string|nil text
---@return orchestrator.Error|nil err
function json.encode(value)
  local text, message = core.encode(value)
  if not text then
    return nil, errors.new("invalid", message)
  end
  return text
end

--- Marks a table as an array, so that it is written `[]` when it is empty.
---@param t? table a new one if not given; it must have no other metatable
---@return table t
function json.array(t)
  if t ~= nil and type(t) ~= "table" then
    options.fail("json.array", "needs a table, got a " .. type(t))
  end
  return core.array(t)
end

return json
