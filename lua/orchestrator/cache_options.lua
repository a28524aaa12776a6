-- The option `cache` of a client and of a request. A request's table is laid over its client's;
-- `--cache MODE` overrides the mode of them all.

local options = require "orchestrator.options"

local cache_options = {}

--- The words of the fetch standard.
cache_options.MODES = {
  "default", "no-store", "reload", "no-cache", "force-cache", "only-if-cached",
}

local function check_vary(list)
  local names = {}
  for i = 1, table.maxn(list) do
    local name = list[i]
    if type(name) ~= "string" or not name:find "^[!#$%%&'*+.^_`|~%w-]+$" or name == "*" then
      return nil, string.format("must list names of header fields; element %d is none", i)
    end
    names[i] = name:lower()
  end
  if next(names) == nil then return nil, "must list names of header fields" end
  return names
end

local SCHEMA = {
  ttl = { type = "duration" },
  stale_if_error = { type = "duration" },
  stale_while_revalidate = { type = "duration" },
  mode = { type = { { one_of = cache_options.MODES } } },
  key = { type = "function" },
  vary = { type = "table", check = check_vary },
}

local SMALLEST = 1e6 -- bytes of a database that has room for some responses

local function check_max_size(size)
  if size >= SMALLEST then return size end
  return nil, 'must be at least "1MB", or nothing has room in it'
end

-- All requests of a program share one store.
local CLIENT = {
  max_size = { type = "size", check = check_max_size },
  memory = { type = "size", min = 1 },
}
for name, rule in pairs(SCHEMA) do CLIENT[name] = rule end

--- For a schema: true, false or a table. What is in it is read by `merged`.
cache_options.RULE = { type = { "boolean", "table" } }

---@class orc.CachePolicy what cache_policy.lua takes, and `key`
---@field ttl? number
---@field stale_if_error? number
---@field stale_while_revalidate? number
---@field mode? string
---@field vary? string[]
---@field key? fun(request: table): string

--- What is given, on top of what was given before: false, or a table.
---@param base orc.CachePolicy|false|nil of the client
---@param given boolean|table
---@param where "client"|"request"
---@return orc.CachePolicy|false
function cache_options.merged(base, given, where)
  if not given then return false end
  local all = {}
  for name, value in pairs(base or {}) do all[name] = value end
  if given == true then return all end
  if where == "request" then
    for name in pairs(CLIENT) do
      if not SCHEMA[name] and given[name] ~= nil then
        options.fail("request.cache",
          string.format('"%s" is for all requests: set it for a client', name))
      end
    end
  end
  local own = options.check(where .. ".cache", given, where == "client" and CLIENT or SCHEMA)
  for name, value in pairs(own) do all[name] = value end
  return all
end

--- With the mode of the command line, if there is one. Without a store there is no cache at all.
---@param opts orc.CachePolicy|false|nil
---@param mode string|nil
---@return orc.CachePolicy|false
function cache_options.under(opts, mode)
  if not opts or not mode then return opts or false end
  if mode == "no-store" then return false end
  local all = {}
  for name, value in pairs(opts) do all[name] = value end
  all.mode = mode
  return all
end

return cache_options
