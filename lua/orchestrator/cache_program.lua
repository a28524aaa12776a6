-- The cache of a program: one for all its clients, opened when something first needs it.

local cache = require "orchestrator.cache"
local cache_front = require "orchestrator.cache_front"
local cache_memory = require "orchestrator.cache_memory"
local cache_store = require "orchestrator.cache_store"
local options = require "orchestrator.options"

local cache_program = {}

-- Where only what is stored may answer, and nothing is, no database is made.
local function open(env)
  if env.cache_mode ~= "only-if-cached" or env.cache_store or cache_store.is_there(env) then
    return cache_store.open(env)
  end
  if env.voice then env.voice.log:warn("nothing is cached in " .. env.state_dir) end
  return cache_memory.new()
end

-- Has what was used last kept in memory, too: so many bytes.
local function remember(kept, size)
  if kept.front then
    kept.front.size = math.max(kept.front.size, size)
  else
    kept.front = cache_front.new(kept.store, size)
    kept.store = kept.front
  end
end

--- That of a program. Raises when it cannot be opened.
---@param env table of the program
---@param where string "client" or "request"
---@param opts table|nil {max_size, memory} of a client
---@return orc.Cache
function cache_program.of(env, where, opts)
  if not env.cache then
    local store, problem = open(env)
    if not store then options.fail(where, '"cache": ' .. problem) end
    env.cache = cache.new(env.sched, store, function(err)
      if env.voice then env.voice.log:warn("cache: " .. tostring(err)) end
    end)
  end
  local kept = env.cache
  if kept.store.limit then -- as one that is in memory anyway has not
    kept.store:limit(opts and opts.max_size)
    if opts and opts.memory then remember(kept, opts.memory) end
  end
  return kept
end

return cache_program
