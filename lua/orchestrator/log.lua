-- Messages for people (or, as JSON, for machines) on stderr. Whatever is in them, what arrives is
-- one printable line with secrets and URL credentials masked.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local log = {}

local RANK = { debug = 1, info = 2, warn = 3, error = 4 }
log.levels = { "debug", "info", "warn", "error" }

local COLOUR = { debug = "\27[2m", info = "", warn = "\27[33m", error = "\27[31m" }

---@class orc.Log
local Log = {}
Log.__index = Log

---@param opts table {write: fun(text), wall: fun(): number (unix seconds), level: string?,
---  format: "text"|"json"?, colour: boolean?}
---@return orc.Log
function log.new(opts)
  return setmetatable({
    write = opts.write,
    wall = opts.wall,
    rank = RANK[opts.level or "info"],
    json = opts.format == "json",
    colour = opts.colour,
  }, Log)
end

local function clean(value)
  return errors.escape(url.mask(secret.mask(tostring(value))))
end

local function sorted_names(fields)
  local names = {}
  for name in pairs(fields or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function as_json(self, level, message, fields)
  local entry = {}
  for name, value in pairs(fields or {}) do
    entry[name] = type(value) == "number" and value or clean(value)
  end
  entry.at = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.wall()))
  entry.level, entry.message = level, clean(message)
  return assert(json.encode(entry)) .. "\n"
end

local function as_text(self, level, message, fields)
  local parts = { os.date("%H:%M:%S", math.floor(self.wall())), level, clean(message) }
  for _, name in ipairs(sorted_names(fields)) do
    parts[#parts + 1] = name .. "=" .. clean(fields[name])
  end
  local line = table.concat(parts, " ")
  if self.colour and COLOUR[level] ~= "" then line = COLOUR[level] .. line .. "\27[0m" end
  return line .. "\n"
end

---@param level string one of log.levels
---@param message any
---@param fields? table name → value, shown sorted by name
function Log:log(level, message, fields)
  if RANK[level] < self.rank then return end
  self.write((self.json and as_json or as_text)(self, level, message, fields))
end

for _, level in ipairs(log.levels) do
  Log[level] = function(self, message, fields) self:log(level, message, fields) end
end

return log
