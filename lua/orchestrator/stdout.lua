-- What commands answer, on stdout.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"

local stdout = {}

local CLOSED = {} -- raised when nobody reads what is written, as after `| head`

-- For what write and flush return.
local function check(ok, problem, code)
  if ok then return end
  if code == 32 then error(CLOSED, 0) end -- EPIPE
  error(errors.new("invalid", "stdout: " .. problem), 0)
end

---@param text string
function stdout.write(text)
  check(io.stdout:write(text))
end

--- Writes a value as JSON, in which nothing speaks to a terminal.
function stdout.write_json(value)
  local text = assert(json.encode(value))
  text = text:gsub("\127", "\\u007f"):gsub("\194([\128-\159])", function(byte)
    return string.format("\\u%04x", byte:byte())
  end)
  stdout.write(text .. "\n")
end

--- Calls `fn(...)`, and sees to it that what it wrote is out.
---@return any result of fn, nil when nobody reads it any more
function stdout.guarded(fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then
    local flushed, problem = pcall(function() check(io.stdout:flush()) end)
    if flushed then return result end
    result = problem
  end
  if result == CLOSED then return nil end
  error(result, 0)
end

return stdout
