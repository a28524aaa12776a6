-- JSON Lines: the value of each line, blank ones passed over. See lines.lua for what `next` gives.

local json = require "orchestrator.json"
local lines = require "orchestrator.lines"

local jsonl = { OPTIONS = lines.OPTIONS }

---@class orc.JsonlReader
---@field lines orc.LineReader
local Jsonl = {}
Jsonl.__index = Jsonl

---@param read fun(): string|nil, any
---@param opts {max_line: integer} checked, see lines.new
---@return orc.JsonlReader
function jsonl.new(read, opts)
  return setmetatable({ lines = lines.new(read, opts) }, Jsonl)
end

function Jsonl:next()
  while true do
    local number, line, problem, kind = self.lines:next()
    if number == nil or problem then return number, line, problem, kind end
    if line:find "%S" then
      local value, err = json.decode(line)
      if not err then return number, value end
      -- It has a place in the text: "line 1, byte 7". The line is told by its number.
      local message = err.message:gsub("^line 1, ", "")
      return number, line:sub(1, lines.SHOWN), "not JSON: " .. message
    end
  end
end

return jsonl
