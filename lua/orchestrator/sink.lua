-- Where records go. The target says it all: "-" is stdout, and the extension of a file's name
-- picks the format. Records are encoded first (`encode`, which may fail and then has written
-- nothing) and written as one unit (`write`), so that an item is in the output whole or not at all.

local errors = require "orchestrator.errors"
local file = require "orchestrator.core.file"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"
local url = require "orchestrator.url"

local sink = {}

---@class orc.Sink
---@field target string
---@field format table its `encode` makes what `write` takes; sinks of one format share it
---@field count integer records accepted
---@field bytes integer
---@field terminal boolean it writes to a terminal
---@field warning string|nil something the user should know about the file as it was found
local Sink = {}
Sink.__index = Sink

-- JSON Lines ---------------------------------------------------------------------------------

local jsonl = {}

function jsonl.encode(records)
  local lines = {}
  for i = 1, #records do
    local text, err = json.encode(records[i])
    if not text then return nil, err end
    lines[i] = text
  end
  lines[#lines + 1] = "" -- the last line ends like the others
  return table.concat(lines, "\n")
end

-- Whether an unterminated last line is a record, and not what a crash left of one. Half a number
-- is a number too, so that one counts as torn.
function jsonl.is_whole(line)
  return json.decode(line) ~= nil and not line:find "^%s*[-%d]"
end

local FORMATS = { jsonl = jsonl }
local KNOWN = '"-" and .jsonl'

-- Opening ------------------------------------------------------------------------------------

local function format_of(target)
  if target == "-" then return jsonl end
  local extension = target:match "[^/]%.(%w+)$"
  return extension and FORMATS[extension:lower()]
end

--- Whether a target can be one, to be told before anything runs.
---@return boolean|nil, string|nil message
function sink.check(target)
  if type(target) ~= "string" then
    return nil, "must be the path of a file, got a " .. type(target)
  elseif not format_of(target) then
    return nil, string.format('"%s" has no known format (there are %s)', target, KNOWN)
  end
  return true
end

local function failure(message)
  return errors.new("invalid", message)
end

-- A crash may have left half a line at the end of a file that is appended to.
local function mend_tail(self, tail)
  if self.format.is_whole(tail) then
    return file.write(self.id, "\n")
  end
  self.warning = string.format(
    "%s: cut a torn last line of %d bytes, left by a run that was killed", self.target, #tail)
  return file.cut(self.id)
end

---@param target string a path, or "-"
---@param mode "replace"|"append"
---@return orc.Sink|nil, table|nil err
function sink.open(target, mode)
  local id, tail = file.open(target, target == "-" and "stdout" or mode)
  if not id then return nil, failure(tail) end
  local self = setmetatable({
    target = target, format = format_of(target), id = id, count = 0, bytes = 0,
    terminal = file.terminal(id), warning = nil,
  }, Sink)
  if tail then
    local ok, problem = mend_tail(self, tail)
    if not ok then
      file.abort(id)
      return nil, failure(problem)
    end
  end
  return self
end

-- What can be written whatever it is -----------------------------------------------------------

local DEPTH = 100 -- tables in tables that are shown

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
  return count > 0 and count == table.maxn(value)
end

-- `above` are the tables the value is in.
local function present(value, above)
  local kind = type(value)
  if value == nil or kind == "boolean" or value == json.null then
    return value
  elseif kind == "number" and value - value == 0 then -- neither nan nor infinite
    return value
  elseif kind ~= "table" or secret.is(value) or above[value] or above.depth > DEPTH then
    return clean(masked(tostring(value)))
  end
  above[value], above.depth = true, above.depth + 1
  local copy
  if is_list(value) then
    copy = json.array {}
    for i = 1, #value do copy[i] = present(value[i], above) end
  else
    copy = {}
    for key, member in pairs(value) do
      copy[clean(masked(tostring(key)))] = present(member, above)
    end
  end
  above[value], above.depth = nil, above.depth - 1
  return copy
end

--- A copy of any value that every format can write, with secrets and URL credentials masked: for
--- dead letters. Records are written as they are.
---@param value any
---@param limit? integer the most bytes, if it is a text
function sink.presentable(value, limit)
  if limit and type(value) == "string" then return cut(value, limit) end
  return present(value, { depth = 1 })
end

-- Writing ------------------------------------------------------------------------------------

--- Makes of a list of records what `write` takes. Nothing is written.
---@return string|nil batch, table|nil err kind "invalid", names where in the record
function Sink:encode(records)
  return self.format.encode(records)
end

--- Accepts what `encode` made. An error is for good: the sink takes no more.
---@param count integer how many records it is
---@return boolean|nil, table|nil err
function Sink:write(batch, count)
  local ok, problem = file.write(self.id, batch)
  if not ok then return nil, failure(problem) end
  self.count = self.count + count
  self.bytes = self.bytes + #batch
  return true
end

local function outcome(ok, problem)
  if ok then return true end
  return nil, failure(problem)
end

--- Lets readers see what was accepted so far.
function Sink:flush()
  return outcome(file.flush(self.id))
end

--- Waits until it is on the disk.
function Sink:sync()
  return outcome(file.sync(self.id))
end

--- Ends the sink. With `commit` a replaced file becomes the new one; without, the old one stays.
--- Appended lines are kept either way.
---@param commit boolean
---@return boolean|nil, table|nil err
function Sink:close(commit)
  return outcome((commit and file.commit or file.abort)(self.id))
end

return sink
