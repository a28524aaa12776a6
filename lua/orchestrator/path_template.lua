-- Paths with places for values in them: "out/{name}-{date}.jsonl". A value cannot change the
-- directory, whatever it is.

local options = require "orchestrator.options"

local path_template = {}

local NAMES = { "name", "date", "hour", "run_id" }

local NAME_MAX = 240 -- bytes of a file's name: Linux takes 255, and the work files add to it
local PATH_MAX = 4000

local is_name = {}
for _, name in ipairs(NAMES) do is_name[name] = true end

-- The parts of a template, one after the other: {text} or {value = name}; or nil, problem.
local function parse(target)
  local parts, from = {}, 1
  while from <= #target do
    local open = target:find("[{}]", from)
    if not open then
      parts[#parts + 1] = { text = target:sub(from) }
      return parts
    end
    parts[#parts + 1] = { text = target:sub(from, open - 1) }
    local twice = target:sub(open, open + 1)
    local name, stop = target:match("^{([^{}/]*)}()", open)
    if twice == "{{" or twice == "}}" then
      parts[#parts + 1] = { text = twice:sub(1, 1) }
      from = open + 2
    elseif not name then
      return nil, string.format('"%s" has a "%s" of its own: write it twice', target,
        target:sub(open, open))
    elseif not is_name[name] then
      local nearest = options.suggest(name, NAMES)
      local hint = nearest and string.format("did you mean {%s}?", nearest)
        or "there are {name}, {date}, {hour} and {run_id}"
      return nil, string.format('"%s" has an unknown {%s} (%s)', target, name, hint)
    else
      parts[#parts + 1] = { value = name }
      from = stop
    end
  end
  return parts
end

--- Whether a target is a template that can be filled in.
---@param target string
---@return boolean|nil, string? problem
function path_template.check(target)
  if target:find("%z") then return nil, "must not have a NUL byte in it" end
  local parts, problem = parse(target)
  if not parts then return nil, problem end
  return true
end

-- What a file's name can hold everywhere, and never means another directory.
local function sanitised(value)
  return (value:gsub("[%c/\\]", "_"):gsub("^%.", "_"))
end

local function too_long(path)
  if #path > PATH_MAX then return true end
  for segment in path:gmatch "[^/]+" do
    if #segment > NAME_MAX then return true end
  end
  return false
end

--- Fills it in.
---@param target string one that `check` accepts
---@param values table {name: string, run_id: string, started: number unix seconds}
---@return string|nil path, string? problem
function path_template.expand(target, values)
  local parts = assert(parse(target))
  local started = math.floor(values.started or 0)
  local texts = {
    name = values.name, run_id = values.run_id,
    date = os.date("!%Y-%m-%d", started), hour = os.date("!%H", started),
  }
  local filled = {}
  for i, part in ipairs(parts) do
    filled[i] = part.text or sanitised(texts[part.value])
  end
  local path = table.concat(filled)
  -- A value next to a literal dot could still make up "..".
  local before, after = {}, {}
  for segment in target:gmatch "[^/]+" do before[#before + 1] = segment end
  for segment in path:gmatch "[^/]+" do after[#after + 1] = segment end
  for i, segment in ipairs(after) do
    if segment ~= before[i] and segment:find "^%.+$" then
      return nil, string.format('it would be "%s", which leads to another directory', path)
    end
  end
  if too_long(path) then
    return nil, string.format("a part of its name is longer than %d bytes", NAME_MAX)
  end
  return path
end

return path_template
