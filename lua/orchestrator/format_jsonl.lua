-- JSON Lines: a record a line. What formats have in common is told in sink_file.lua.

local json = require "orchestrator.json"

local jsonl = {}

---@class orc.FormatJsonl
local Jsonl = {}
Jsonl.__index = Jsonl

local shared = setmetatable({}, Jsonl) -- batches are the same for all, so they are made once

function jsonl.new()
  return shared
end

function Jsonl.encode(_, records)
  local lines, n = {}, #records
  for i = 1, n do
    local text, err = json.encode(records[i])
    if not text then return nil, err end
    lines[i] = text
  end
  lines[n + 1] = "" -- the last line ends like the others
  local batch = table.concat(lines, "\n")
  return batch, #batch
end

function Jsonl.compose(_, batches)
  return batches
end

-- Whether an unterminated last line is a record, and not what a crash left of one. Half a number
-- is a number too, so that one counts as torn.
local function is_whole(line)
  return json.decode(line) ~= nil and not line:find "^%s*[-%d]"
end

function Jsonl.adopt(_, found)
  local tail = found.tail
  if tail == "" then return { keep = found.whole } end
  if is_whole(tail) then return { keep = found.whole, first = "\n" } end
  if found.compressed then return nil, "its last line is torn: repair or remove it" end
  return {
    keep = found.whole - #tail,
    warning = string.format(
      "cut a torn last line of %d bytes, left by a run that was killed", #tail),
  }
end

function Jsonl.state(_) end

function Jsonl.ending()
  return ""
end

function Jsonl.widening(_) end

function Jsonl.freeze(_, batches)
  return table.concat(batches)
end

function Jsonl.thaw(_, text)
  return { text }
end

return jsonl
