-- Values of any kind made fit to be written and to be seen: by every format, and without secrets.

local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"
local url = require "orchestrator.url"

local presentable = {}

local DEPTH = 100 -- tables in tables that are shown
local ARRAY = getmetatable(json.array {}) -- what tells an empty list from an empty object

local function masked(text)
  return url.mask(secret.mask(text))
end

-- Valid UTF-8: what is not becomes U+FFFD.
local function clean(text)
  local bad = source.bad_utf8(text)
  if not bad then return text end
  local parts, from = {}, 1
  while bad do
    parts[#parts + 1] = text:sub(from, bad - 1)
    from = bad + 1
    bad = source.bad_utf8(text, from)
  end
  parts[#parts + 1] = text:sub(from)
  return table.concat(parts, "\239\191\189")
end

-- Masked before it is cut, so that no cut leaves half a secret unrecognised.
local function cut(text, limit)
  text = clean(url.mask(secret.mask_start(text, 4 * limit)))
  if #text <= limit then return text end
  text = text:sub(1, limit)
  return text:sub(1, (source.bad_utf8(text) or #text + 1) - 1)
end

local function is_list(value)
  local count = 0
  for _ in pairs(value) do count = count + 1 end
  return count == table.maxn(value) and (count > 0 or getmetatable(value) == ARRAY)
end

-- The text that stands for a value; `above.changed` when it is another one.
local function text_of(value, above)
  local text = clean(masked(tostring(value)))
  above.changed = above.changed or text ~= value
  return text
end

-- `above` are the tables the value is in.
local function present(value, above)
  local kind = type(value)
  if value == nil or kind == "boolean" or value == json.null then
    return value
  elseif kind == "number" and value - value == 0 then -- neither nan nor infinite
    return value
  elseif kind ~= "table" or secret.is(value) or above[value] or above.depth > DEPTH then
    return text_of(value, above)
  end
  above[value], above.depth = true, above.depth + 1
  local copy
  if is_list(value) then
    copy = json.array {}
    for i = 1, #value do copy[i] = present(value[i], above) end
  else
    copy = {}
    for key, member in pairs(value) do
      copy[text_of(key, above)] = present(member, above)
    end
  end
  above[value], above.depth = nil, above.depth - 1
  return copy
end

--- A copy of any value that every format can write, with secrets and URL credentials masked: for
--- dead letters. Records are written as they are.
---@param value any
---@param limit? integer the most bytes, if it is a text
---@return any copy, boolean same it is equal to the value
function presentable.of(value, limit)
  if limit and type(value) == "string" then
    local text = cut(value, limit)
    return text, text == value
  end
  local above = { depth = 1, changed = false }
  local copy = present(value, above)
  return copy, not above.changed
end

return presentable
