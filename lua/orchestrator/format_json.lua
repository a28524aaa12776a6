-- One JSON array, a record a line. It is closed behind every window, so that the file is JSON
-- whenever it is looked at; the next window goes in front of the bracket.

local json = require "orchestrator.json"

local format_json = {}

---@class orc.FormatJson
---@field begun boolean there is a record in it
local Json = {}
Json.__index = Json

---@param position table|nil what a resumed file goes on from
function format_json.new(_, _, position)
  return setmetatable({ begun = position ~= nil and position.size > 0 }, Json)
end

function Json.encode(_, records)
  local texts = {}
  for i = 1, #records do
    local text, err = json.encode(records[i])
    if not text then return nil, err end
    texts[i] = text
  end
  local batch = table.concat(texts, ",\n")
  return batch, #batch
end

function Json:compose(batches)
  local texts = {}
  for i = 1, #batches do
    if batches[i] ~= "" then
      texts[#texts + 1] = self.begun and ",\n" or "[\n"
      texts[#texts + 1] = batches[i]
      self.begun = true
    end
  end
  return texts
end

local NOT_CLOSED = "it does not end as a JSON array does: complete it, or move it away"

local function is_array(text)
  return text:find "^%s*%[" ~= nil and json.decode(text) ~= nil
end

-- How many bytes of a closed array's end are its bracket and the space around it; nil when it is
-- not closed. A record that a crash has torn may end with a bracket too, but not on a line of its
-- own.
local function bracket_of(found)
  local bracket = found.ending:match "%s*%]%s*$"
  if not bracket then return nil end
  if bracket:find "\n[ \t]*%]" then return #bracket end
  local line = found.head -- all there is?
  if found.whole - #line <= 2 and is_array(line) then return #bracket end
end

-- What a crash has left of an array with a record a line.
local function mended(found)
  local tail = found.tail
  local above = 2 -- bytes that separate it from the record above
  if found.head ~= "[" then return nil, NOT_CLOSED end
  local record = tail:gsub(",$", "")
  if tail == "" then
    local keep = found.whole - #found.ending:match ",?\n$"
    return { keep = keep > 1 and keep or 0 }
  elseif json.decode(record) ~= nil and not record:find "^%s*[-%d]" then
    return { keep = found.whole - (#tail - #record) }
  end
  local keep = found.whole - #tail - above
  return {
    keep = keep > 1 and keep or 0,
    warning = string.format(
      "cut a torn last line of %d bytes, left by a run that was killed", #tail),
  }
end

function Json:adopt(found)
  if not found.head:find "^%s*%[" then return nil, "it is no JSON array" end
  local plan, problem
  local bracket = bracket_of(found)
  if found.compressed then
    -- What is in a frame stays there: only a bracket that is one by itself can be taken off.
    local alone = bracket == #found.ending
    local empty = found.last == 0 and found.ending:find "^%s*%[%s*%]%s*$"
    if alone or empty then
      plan = { keep = found.last }
    elseif found.head == "[" and json.decode(found.tail) ~= nil then -- its bracket was torn
      plan = { keep = found.whole }
    else
      return nil, NOT_CLOSED
    end
  elseif bracket then
    plan = { keep = found.whole - bracket }
    if found.whole == #found.ending and found.ending:find "^%s*%[%s*%]%s*$" then plan.keep = 0 end
  else
    plan, problem = mended(found)
    if not plan then return nil, problem end
  end
  self.begun = plan.keep > 0
  return plan
end

function Json.state() end

function Json:ending()
  return self.begun and "\n]\n" or "[]\n"
end

function Json.widening(_) end

function Json.freeze(_, batches)
  local some = {}
  for i = 1, #batches do
    if batches[i] ~= "" then some[#some + 1] = batches[i] end
  end
  return table.concat(some, ",\n")
end

function Json.thaw(_, text)
  return { text }
end

return format_json
