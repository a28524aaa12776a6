-- Options given by a script: checked against a schema, parsed, completed with defaults. An
-- unknown or mistyped one is misuse and raises, naming the place in the script, the option and
-- the nearest valid name: an option that would silently do nothing is worse than an error.

local secret = require "orchestrator.secret"

local options = {}

---@class orc.Rate
---@field limit number starts per window
---@field per number the window in seconds
---@field burst integer starts that may come at once (bucket only)
---@field window? "sliding" a strict window instead of a bucket
---@field name? string limiters of one name are shared

---@class orc.OptionRule
---@field type string|table a type name, {one_of={literals}}, or a list of these
---@field default? any used when the option is absent; parsed like a given value
---@field required? boolean
---@field min? number
---@field max? number
---@field check? fun(v: any): any, string? the value to keep, or nil and "must be …"

-- The frames of this library are told by the directory its own files were loaded from.
local HOME = debug.getinfo(1, "S").source:match "^(@.*)options%.lua$"

local function is_ours(source)
  return HOME ~= nil
    and source:sub(1, #HOME) == HOME
    and not source:find("/", #HOME + 1, true)
end

--- The innermost place outside this library: "pipelines/x.lua:12". nil when no such frame is left,
--- as after a tail call (`return orc.pipeline{…}`).
---@return string|nil
function options.place()
  local level = 2
  while true do
    local info = debug.getinfo(level, "Sl")
    if not info then
      return nil
    end
    if info.currentline > 0 and not is_ours(info.source) then
      local file = info.source:match "^@(.*)" or info.short_src
      return ("%s:%d"):format(file, info.currentline)
    end
    level = level + 1
  end
end

local latest -- message of a misuse

--- Raises a misuse, named by its place in the script.
---@param where string|nil what was being set up ("client.retry")
---@param message string
function options.fail(where, message)
  local text = where and where .. ": " .. message or message
  local place = options.place()
  latest = place and place .. ": " .. text or text
  error(latest, 0)
end

--- Whether a message is that of the latest misuse, however often it was raised again on its way.
---@param message any
---@return boolean
function options.is_misuse(message)
  return message ~= nil and message == latest
end

-- Edits between two names, where a swap of neighbours is one edit (optimal string alignment).
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do
    last[j] = j
  end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

--- The valid name a mistyped one was probably meant to be: at most a third of it differs.
---@param name string
---@param names string[]
---@return string|nil
function options.suggest(name, names)
  local limit = math.ceil(#name / 3)
  local best, best_distance
  for _, candidate in ipairs(names) do
    if math.abs(#candidate - #name) <= limit then
      local edits = distance(name:lower(), candidate:lower())
      local closer = not best or edits < best_distance
      if edits <= limit and (closer or edits == best_distance and candidate < best) then
        best, best_distance = candidate, edits
      end
    end
  end
  return best
end

local function show(v)
  if type(v) == "string" then
    local text = #v > 40 and v:sub(1, 40) .. "..." or v
    return '"' .. text:gsub("%c", "?") .. '"'
  elseif v == nil then
    return "nothing"
  elseif type(v) == "table" and not secret.is(v) then
    return "a table"
  elseif type(v) == "function" or type(v) == "thread" or type(v) == "userdata" then
    return "a " .. type(v)
  end
  return tostring(v)
end

local function finite(v)
  return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge
end

local SECONDS = { s = 1, m = 60, h = 3600, d = 86400 }

local function to_duration(v)
  if finite(v) then
    return v >= 0 and v or nil
  elseif type(v) ~= "string" then
    return nil
  end
  local count, unit = v:match "^(%d+%.?%d*)(%a+)$"
  if unit == "ms" then
    return tonumber(count) / 1000
  end
  return SECONDS[unit] and tonumber(count) * SECONDS[unit]
end

local BYTES = {
  B = 1, kB = 1e3, KB = 1e3, MB = 1e6, GB = 1e9, TB = 1e12,
  KiB = 2 ^ 10, MiB = 2 ^ 20, GiB = 2 ^ 30, TiB = 2 ^ 40,
}

local function to_size(v)
  if finite(v) then
    return v >= 0 and v % 1 == 0 and v or nil
  elseif type(v) ~= "string" then
    return nil
  end
  local count, unit = v:match "^(%d+%.?%d*)(%a+)$"
  return BYTES[unit] and math.floor(tonumber(count) * BYTES[unit] + 0.5)
end

local NOUNS = {
  any = "given",
  boolean = "true or false",
  duration = 'a duration such as "10s"',
  ["function"] = "a function",
  integer = "a whole number",
  number = "a number",
  rate = 'a rate such as "100/1m"',
  secret = "a string or a secret",
  size = 'a size such as "10MB"',
  string = "a string",
  table = "a table",
}

local function must_be(kind, v)
  return ("must be %s, got %s"):format(NOUNS[kind], show(v))
end

--- Seconds from a number or "500ms", "10s", "5m", "1h", "2d".
---@param v any
---@return number|nil seconds
---@return string|nil message
function options.duration(v)
  local seconds = to_duration(v)
  if not seconds then
    return nil, must_be("duration", v)
  end
  return seconds
end

--- Bytes from a number or "10MB" (10^7), "1MiB" (2^20).
---@param v any
---@return number|nil bytes
---@return string|nil message
function options.size(v)
  local bytes = to_size(v)
  if not bytes then
    return nil, must_be("size", v)
  end
  return bytes
end

-- Each parser returns the value to keep; or nil and, where it knows more, why it refused.
local parsers = { duration = to_duration, size = to_size }

for _, name in ipairs { "boolean", "function", "string" } do
  parsers[name] = function(v)
    if type(v) == name then
      return v
    end
  end
end

function parsers.any(v)
  return v
end

function parsers.table(v)
  return type(v) == "table" and not secret.is(v) and v or nil
end

function parsers.secret(v)
  return (type(v) == "string" or secret.is(v)) and v or nil
end

function parsers.number(v)
  return finite(v) and v or nil
end

function parsers.integer(v)
  return finite(v) and v % 1 == 0 and v or nil
end

function parsers.rate(v)
  return options.rate(v)
end

local function parse(kind, v)
  if type(kind) == "string" then
    return parsers[kind](v)
  end
  for _, literal in ipairs(kind.one_of) do
    if v == literal then
      return v
    end
  end
end

local function nouns_of(kinds)
  local nouns = {}
  for _, kind in ipairs(kinds) do
    if type(kind) == "string" then
      nouns[#nouns + 1] = NOUNS[kind]
    else
      for _, literal in ipairs(kind.one_of) do
        nouns[#nouns + 1] = show(literal)
      end
    end
  end
  local last = table.remove(nouns)
  return #nouns > 0 and table.concat(nouns, ", ") .. " or " .. last or last
end

-- The value to keep for one option; or nil and "must be …".
local function read_option(rule, kinds, v)
  local parsed, reason
  local hidden = false -- a password that was given as a number is one all the same
  for _, kind in ipairs(kinds) do
    hidden = hidden or kind == "secret"
  end
  for _, kind in ipairs(kinds) do
    local refused
    parsed, refused = parse(kind, v)
    if parsed ~= nil then
      break
    end
    reason = reason or refused
  end
  if parsed == nil then
    local message = type(v) == "table" and reason
    return nil, message or ("must be %s, got %s"):format(nouns_of(kinds),
      hidden and type(v) == "number" and "a number" or show(v))
  elseif rule.min and type(parsed) == "number" and parsed < rule.min then
    return nil, ("must be at least %s, got %s"):format(rule.min, show(v))
  elseif rule.max and type(parsed) == "number" and parsed > rule.max then
    return nil, ("must be at most %s, got %s"):format(rule.max, show(v))
  elseif rule.check then
    return rule.check(parsed)
  end
  return parsed
end

-- Schema → its names in order, and the list of types of each. Requests are checked one by one.
local compiled = setmetatable({}, { __mode = "k" })

local function compile(schema)
  local plan = compiled[schema]
  if not plan then
    plan = { names = {}, kinds = {} }
    for name, rule in pairs(schema) do
      local is_list = type(rule.type) == "table" and not rule.type.one_of
      plan.names[#plan.names + 1] = name
      plan.kinds[name] = is_list and rule.type or { rule.type }
    end
    table.sort(plan.names)
    compiled[schema] = plan
  end
  return plan
end

-- Nothing when every key is known, else a message about the first unknown one in order.
local function complaint(given, schema, names)
  local unknown
  for name in pairs(given) do
    if not schema[name] and (unknown == nil or tostring(name) < tostring(unknown)) then
      unknown = name
    end
  end
  if unknown == nil then
    return nil
  elseif type(unknown) ~= "string" then
    return ("unknown option [%s]"):format(tostring(unknown))
  end
  local nearest = options.suggest(unknown, names)
  local hint = nearest and (' (did you mean "%s"?)'):format(nearest) or ""
  return ("unknown option %s%s"):format(show(unknown), hint)
end

local function read(given, schema)
  local plan = compile(schema)
  local unknown = complaint(given, schema, plan.names)
  if unknown then
    return nil, unknown
  end
  local values = {}
  for _, name in ipairs(plan.names) do
    local rule, v = schema[name], given[name]
    if v == nil then
      v = rule.default
    end
    if v ~= nil then
      local parsed, message = read_option(rule, plan.kinds[name], v)
      if parsed == nil then
        return nil, ('"%s" %s'):format(name, message)
      end
      values[name] = parsed
    elseif rule.required then
      return nil, ('"%s" is missing: it must be %s'):format(name, nouns_of(plan.kinds[name]))
    end
  end
  return values
end

local RATE = {
  limit = { type = "number", required = true },
  per = { type = "duration", required = true },
  burst = { type = "integer", min = 1 },
  window = { type = { one_of = { "sliding" } } },
  name = { type = "string" },
}

--- A rate from "100/1m", "10/s" or its table.
---@param v any
---@return orc.Rate|nil
---@return string|nil message
function options.rate(v)
  local given = v
  if type(v) == "string" then
    local limit, per = v:match "^(%d+%.?%d*)/(.+)$"
    given = limit and { limit = tonumber(limit), per = per:find "^%a" and "1" .. per or per }
  end
  if not parsers.table(given) then
    return nil, must_be("rate", v)
  end
  local rate, message = read(given, RATE)
  if type(v) == "string" and not rate then
    return nil, must_be("rate", v)
  elseif not rate then
    return nil, ("must be %s: %s"):format(NOUNS.rate, message)
  elseif rate.limit <= 0 or rate.per <= 0 then
    return nil, ("must be %s, with both parts above zero"):format(NOUNS.rate)
  elseif rate.window and rate.limit % 1 ~= 0 then
    return nil, 'must have a whole "limit" with window = "sliding"'
  elseif rate.window and rate.burst then
    return nil, 'must not have a "burst" with window = "sliding", which has no bucket'
  end
  rate.burst = rate.burst or 1
  return rate
end

--- The options of one table: a new table of parsed values and defaults. Raises on misuse.
---@param where string what is being set up ("client.retry"); starts the message
---@param given table|nil
---@param schema table<string, orc.OptionRule>
---@return table
function options.check(where, given, schema)
  if given ~= nil and not parsers.table(given) then
    options.fail(where, "must be a table of options, got " .. show(given))
  end
  local values, message = read(given or {}, schema)
  if not values then
    options.fail(where, message)
  end
  return values
end

return options
