-- The short way of cache_policy.decide for what is asked most: a plain GET for which one plain
-- response is stored that is fresh. What there is to know for that is worked out once, when the
-- response is stored, and kept in the entry. Pure.

local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local fields = require "orchestrator.cache_fields"

local cache_quick = {}

local MOST_LISTS = 1000 -- that are remembered

local function find(entry)
  if entry.range or entry.status == 206 then return nil end
  local names = cache_entry.vary(entry)
  if names == "*" then return nil end
  local asks = cache_entry.directives(entry)["no-cache"]
  local age = cache_entry.age(entry, entry.response_time)
  local left = cache_policy.lifetime(entry) - age
  if asks ~= nil and not fields.names(asks) then left = -1 end
  return left, age, names[1] and table.concat(names, ",")
end

--- What a request sent of what matters, as lines in order.
---@param vary table<string, string>
---@return string
function cache_quick.lines(vary)
  if next(vary) == nil then return "" end
  local lines = {}
  for name in pairs(vary) do lines[#lines + 1] = name end
  table.sort(lines)
  for i, name in ipairs(lines) do lines[i] = name .. ":" .. vary[name] .. "\n" end
  return table.concat(lines)
end

--- Works it out. `plain` is for how many seconds it is fresh when it has come, as far as its server
--- says, or nil; `born` how old it was then; `on` the names that Vary lists, and `sent` what the
--- request sent of them.
---@param entry orc.CacheEntry is changed
---@return orc.CacheEntry
function cache_quick.prepared(entry)
  entry.plain, entry.born, entry.on = find(entry)
  entry.sent = cache_quick.lines(entry.vary)
  return entry
end

local lists, count = {}, 0 -- what Vary lists → its names

local function names_of(on)
  local names = lists[on]
  if names then return names end
  if count == MOST_LISTS then lists, count = {}, 0 end
  names = {}
  for name in on:gmatch "[^,]+" do names[#names + 1] = name end
  lists[on], count = names, count + 1
  return names
end

-- The same lines for a request.
local function sent_of(request, on)
  local text = ""
  if not on then return text end
  local names = names_of(on)
  for i = 1, #names do
    local value = cache_entry.selecting(request, names[i])
    if value then text = text .. names[i] .. ":" .. value .. "\n" end
  end
  return text
end

-- What a request may not say.
local function is_plain(sent)
  return not (sent["cache-control"] or sent.pragma or sent.range or sent["if-range"]
    or sent["if-match"] or sent["if-none-match"] or sent["if-modified-since"]
    or sent["if-unmodified-since"] or sent.cookie)
end

local MODES = { default = true, ["force-cache"] = true, ["only-if-cached"] = true }

--- The entry that is the answer, fresh as it is; nil when that is not as plain as that.
---@param request table {method, fields}
---@param entries orc.CacheEntry[]
---@param now number unix time
---@param opts table see cache_policy.lua
---@return orc.CacheEntry|nil
function cache_quick.pick(request, entries, now, opts)
  local entry = entries[1]
  local plain = entry and entry.plain
  if not plain or entries[2] or request.method ~= "GET" or opts.vary
    or not MODES[opts.mode or "default"] or not is_plain(request.fields) then
    return nil
  end
  local here = now - entry.response_time
  if here < 0 or here >= (opts.ttl or plain) then return nil end
  return entry.sent == sent_of(request, entry.on) and entry or nil
end

--- Whether a plain GET finds nothing, so that it is asked for as if there were no cache.
---@param request table {method, fields}
---@param entries orc.CacheEntry[]
---@param opts table
---@return boolean
function cache_quick.misses(request, entries, opts)
  local mode = opts.mode or "default"
  return entries[1] == nil and request.method == "GET" and is_plain(request.fields)
    and (mode == "default" or mode == "force-cache")
end

return cache_quick
