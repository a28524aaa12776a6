-- Where the records of a response are. A selector is names joined by dots, with `[n]` for one
-- element of a list (from 0, as in JSONPath) and `[*]` for all of them: "data.items",
-- "pages[*].rows", "results[0].hits". A name applied to a list applies to every element.

local json = require "orchestrator.json"

local selector = {}

local ALL = {} -- the step `[*]`
local ARRAY = getmetatable(json.array {}) -- what tells an empty list from an empty object

local function is_list(value)
  return type(value) == "table" and (value[1] ~= nil or getmetatable(value) == ARRAY)
end

local function parse(text)
  local steps = {}
  local at, expects_name = 1, true
  while at <= #text do
    local from, to, name = text:find("^([^.%[%]]+)", at)
    local index = not from and text:match("^%[(%d+)%]", at)
    if from and expects_name then
      steps[#steps + 1] = name
      at, expects_name = to + 1, false
    elseif index then
      steps[#steps + 1] = tonumber(index) + 1
      at, expects_name = at + #index + 2, false
    elseif text:find("^%[%*%]", at) then
      steps[#steps + 1] = ALL
      at, expects_name = at + 3, false
    elseif text:find("^%.", at) and not expects_name then
      at, expects_name = at + 1, true
    else
      return nil, at
    end
  end
  if expects_name then return nil, at end
  return steps
end

-- Appends what `steps` from `i` on find under `value`. Says whether there was something to find:
-- an empty list is, null and a missing name are not.
local function collect(value, steps, i, out)
  local step = steps[i]
  if value == nil or value == json.null then
    return false
  elseif is_list(value) and (type(step) ~= "number") then
    -- At the end a list stands for its elements; before it, `[*]` may be left out.
    local found = #value == 0
    local below = step == ALL and i + 1 or i
    for k = 1, #value do
      if step == nil then
        out[#out + 1] = value[k]
        found = true
      else
        found = collect(value[k], steps, below, out) or found
      end
    end
    return found
  elseif step == nil then
    out[#out + 1] = value
    return true
  elseif type(value) ~= "table" or step == ALL then
    return false
  end
  return collect(value[step], steps, i + 1, out)
end

--- Reads a selector; nil selects the whole response.
---@param text string|nil
---@return fun(value: any): table, boolean|nil selects the list of records, which may be part of
---  the value, and says whether there was something to find
---@return string|nil message
function selector.compile(text)
  local steps = {}
  if text then
    local at
    steps, at = parse(text)
    if not steps then
      return nil, string.format('must be names joined by dots, such as "data.items[*].rows", '
        .. 'got "%s" (look at character %d)', text, at)
    end
  end
  return function(value)
    -- The usual case, names that lead to one list, copies nothing.
    local i = 1
    while type(steps[i]) == "string" and type(value) == "table" and not is_list(value) do
      value = value[steps[i]]
      i = i + 1
    end
    if steps[i] == nil and is_list(value) then return value, true end
    local out = {}
    return out, collect(value, steps, i, out)
  end
end

return selector
