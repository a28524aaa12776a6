-- What is wrong with the database of the cache, in one line that says what to do about it.

local cache_trouble = {}

local USUAL = ".orchestrator" -- the state directory, see cli.lua
local ELSEWHERE = " or name another directory with --state-dir"

-- When it cannot be opened, by the reasons of src/lua_store.h.
local OPENING = {
  read_only = "make the directory and the files in it writable," .. ELSEWHERE,
  not_a_database = "move it away," .. ELSEWHERE,
  foreign = "it belongs to another program:" .. ELSEWHERE:sub(4),
  busy = "another process keeps it: try again, end that process," .. ELSEWHERE,
  failed = "see to that," .. ELSEWHERE,
}

-- And when it fails later, by the codes there.
local LATER = {
  full = "make room on the disk",
  read_only = "make it writable",
  busy = "another process keeps it: try again, or end that process",
  moved = "this program goes on without it, the next one makes a new one",
}

-- A cache can be done without.
local function removal(path)
  local directory = path:match "^(.*)/[^/]*$"
  local where = directory ~= USUAL and directory and " --state-dir " .. directory or ""
  return string.format("`orchestrator cache clear%s` removes it", where)
end

local function damage(path, message, what)
  return string.format("%s is damaged (%s)%s: %s", path, message, what and ", " .. what or "",
    removal(path))
end

--- What is in it is not what SQLite wrote.
---@param path string
---@param message string
---@return string
function cache_trouble.damaged(path, message)
  return damage(path, message)
end

--- The directory cannot be made.
function cache_trouble.directory(directory, message)
  return string.format("the state directory %s cannot be made: %s; %s", directory, message,
    OPENING.failed)
end

--- It cannot be opened.
---@param path string
---@param reason string
---@param message string
---@return string
function cache_trouble.opening(path, reason, message)
  if reason == "corrupt" then return damage(path, message) end
  local advice = OPENING[reason] or OPENING.failed
  if reason == "newer" then
    advice = "use the version of orchestrator that wrote it; " .. removal(path)
  end
  return string.format("%s: %s; %s", path, message, advice)
end

--- It was opened, but something has failed since.
---@param path string
---@param code string
---@param message string
---@param what string|nil what comes of it
---@return string
function cache_trouble.later(path, code, message, what)
  if code == "corrupt" then return damage(path, message, what) end
  return string.format("%s: %s; %s%s", path, message, what and what .. "; " or "",
    LATER[code] or "see to that")
end

return cache_trouble
