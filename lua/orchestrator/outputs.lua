-- The sinks of a run as one: every record goes to all of them, and they are completed together.

local sink = require "orchestrator.sink"
local grouped = require("orchestrator.summary").grouped

local outputs = {}

---@class orc.Outputs
local Outputs = {}
Outputs.__index = Outputs

--- Reads the option `sink`: a target or a list of them.
---@return string[]|nil targets, string|nil message
function outputs.check(value)
  local targets = type(value) == "table" and value or { value }
  local seen = {}
  for _, target in ipairs(targets) do
    local ok, problem = sink.check(target)
    if not ok then return nil, problem end
    local path = target:gsub("^%./+", "")
    if seen[path] then return nil, string.format('names "%s" twice', target) end
    seen[path] = true
  end
  if #targets == 0 then return nil, "must name at least one target" end
  return targets
end

---@param mode "replace"|"append"
---@param open fun(target: string): orc.Sink|nil, table|nil
---@return orc.Outputs without any sink so far
function outputs.new(mode, open)
  return setmetatable({
    mode = mode, open_sink = open,
    sinks = {}, -- owned, in the order of the targets
    formats = {}, -- the sinks' formats, each once, as the sink to ask
  }, Outputs)
end

--- Opens the sinks. Those opened before one that cannot be are closed by `close`.
---@param targets string[]
---@return boolean|nil, table|nil err
function Outputs:open(targets)
  for i, target in ipairs(targets) do
    local opened, err = self.open_sink(target)
    if not opened then return nil, err end
    self.sinks[i] = opened
    local known = false
    for _, other in ipairs(self.formats) do known = known or other.format == opened.format end
    if not known then self.formats[#self.formats + 1] = opened end
  end
  return true
end

--- The batch for every format.
---@return table|nil batches, table|nil err when a record cannot be written in one of them
function Outputs:encode(records)
  local batches = {}
  for i = 1, #self.formats do
    local batch, err = self.formats[i]:encode(records)
    if not batch then return nil, err end
    batches[self.formats[i].format] = batch
  end
  return batches
end

---@param batches table from `encode`
---@param count integer how many records that is
---@return boolean|nil, table|nil err
function Outputs:write(batches, count)
  for i = 1, count > 0 and #self.sinks or 0 do
    local out = self.sinks[i]
    local ok, err = out:write(batches[out.format], count)
    if not ok then return nil, err end
  end
  return true
end

--- Lets readers see what was written so far.
---@return boolean|nil, table|nil err
function Outputs:flush()
  for _, out in ipairs(self.sinks) do
    local ok, err = out:flush()
    if not ok then return nil, err end
  end
  return true
end

--- Ends them: all complete, or none.
---@param complete boolean
---@return string[] outcomes what became of each, for people
---@return table|nil err the first thing that went wrong
function Outputs:close(complete)
  local failure
  for _, out in ipairs(self.sinks) do
    if complete then
      local ok, err = out:sync()
      if not ok then
        complete, failure = false, err
      end
    end
  end
  local outcomes = {}
  for i, out in ipairs(self.sinks) do
    local ok, err = out:close(complete)
    if not ok then failure = failure or err end
    local name = out.target == "-" and "stdout" or out.target
    local replaced = out.target ~= "-" and self.mode == "replace"
    if ok and (complete or not replaced) then
      outcomes[i] = string.format("%s %s to %s", grouped(out.count),
        out.count == 1 and "record" or "records", name)
    else
      outcomes[i] = name .. (replaced and " is as it was" or " has what could be written")
    end
  end
  return outcomes, failure
end

return outputs
