-- Where scripts run: an environment in which an undefined global is an error, a `require` that lets
-- a module fetch while it loads, and coroutines that pass a wait on to the task they run in.

local options = require "orchestrator.options"
local PARK = require("orchestrator.scheduler").PARK

local loader = {}

-- Coroutines --------------------------------------------------------------------------------

local resume, yield = coroutine.resume, coroutine.yield

local waiting = setmetatable({}, { __mode = "k" }) -- coroutines whose task waits inside them

-- A script's own coroutine (a generator that fetches, say) that has to wait yields PARK: hand that
-- on, and resume it when the task goes on; or with PARK, where it cannot be handed on.
local function forward(co, ok, value, ...)
  if ok and value == PARK then
    local refused = PARK
    if coroutine.isyieldable() then
      waiting[co] = true
      refused = yield(PARK)
      waiting[co] = nil
    end
    return forward(co, resume(co, refused))
  end
  return ok, value, ...
end

-- Two tasks may share a generator, but only the one that waits inside it can go on with it.
local function resume_free(co, ...)
  if waiting[co] then return false, "cannot resume a coroutine that waits in another task" end
  return forward(co, resume(co, ...))
end

local function raise_unless(ok, ...)
  if not ok then error((...), 0) end
  return ...
end

local coroutines = setmetatable({
  resume = resume_free,
  wrap = function(fn)
    local co = coroutine.create(fn)
    return function(...) return raise_unless(resume_free(co, ...)) end
  end,
}, { __index = coroutine })

-- The environment ---------------------------------------------------------------------------

local function undefined(env, name)
  local names = {}
  for known in pairs(env) do
    if type(known) == "string" then names[#names + 1] = known end
  end
  for known in pairs(_G) do
    if type(known) == "string" then names[#names + 1] = known end
  end
  local nearest = type(name) == "string" and options.suggest(name, names)
  error(string.format("undefined global %q%s", tostring(name),
    nearest and string.format(" (did you mean %q?)", nearest) or ""), 3)
end

local function environment(globals)
  local env = { coroutine = coroutines }
  for name, value in pairs(globals) do env[name] = value end
  env._G = env
  return setmetatable(env, {
    __index = function(self, name)
      local value = rawget(_G, name)
      if value == nil then undefined(self, name) end
      return value
    end,
  })
end

-- require -----------------------------------------------------------------------------------

-- The path of a module that stands beside the script, or nil.
local function beside(directory, name)
  local stem = directory .. name:gsub("%.", "/")
  for _, path in ipairs { stem .. ".lua", stem .. "/init.lua" } do
    local file = io.open(path, "rb")
    if file then
      file:close()
      return path
    end
  end
end

-- The function that loads a module, and the second argument it gets.
local function find(env, directory, name)
  local path = not package.preload[name] and beside(directory, name)
  if path then
    local chunk, problem = loadfile(path)
    if not chunk then error(problem, 0) end
    return setfenv(chunk, env), path
  end
  local tried = {}
  for _, search in ipairs(package.loaders) do
    local found = search(name)
    if type(found) == "function" then return found end
    tried[#tried + 1] = type(found) == "string" and found or nil
  end
  error(string.format("module '%s' not found:\n\tno file '%s%s.lua'%s", name, directory,
    (name:gsub("%.", "/")), table.concat(tried)), 0)
end

-- LuaJIT's own require calls the module from C, where nothing can wait.
local function requirer(sched, env, directory)
  local loading = {} -- name → {task, waiters} while it loads
  return function(name)
    if type(name) ~= "string" then options.fail("require", "expects a module name") end
    local value = package.loaded[name]
    if value ~= nil then return value end
    local mine = sched:current()
    local other = loading[name]
    if other then
      if other.task == mine then
        error(string.format("module '%s' requires itself, directly or through others", name), 2)
      end
      local waiter = { task = mine }
      other.waiters[#other.waiters + 1] = waiter
      sched:suspend(function() waiter.task = nil end)
      return env.require(name)
    end
    local me = { task = mine, waiters = {} }
    loading[name] = me
    local ok, result = pcall(function()
      local load, path = find(env, directory, name)
      return load(name, path)
    end)
    loading[name] = nil
    for _, waiter in ipairs(me.waiters) do
      if waiter.task then sched:wake(waiter.task) end
    end
    if not ok then error(result, 0) end
    if result ~= nil then package.loaded[name] = result end
    if package.loaded[name] == nil then package.loaded[name] = true end
    return package.loaded[name]
  end
end

--- Loads a script.
---@param sched orc.Scheduler
---@param path string
---@param globals table further globals it sees, such as arg
---@return function|nil chunk, string? problem
function loader.load(sched, path, globals)
  local chunk, problem = loadfile(path)
  if not chunk then return nil, problem end
  local env = environment(globals)
  env.require = requirer(sched, env, path:match "^(.*/)" or "./")
  return setfenv(chunk, env)
end

return loader
