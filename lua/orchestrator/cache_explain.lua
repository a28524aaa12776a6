-- Why a stored response may be used, or not: what cache_policy.lua makes of it, in words. It goes
-- by what the server said; the options of a client (`ttl`, `mode` …) are not known here. Pure.

local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local fields = require "orchestrator.cache_fields"

local cache_explain = {}

---@class orc.CacheExplanation
---@field use "fresh"|"stale"|"ask" whether a plain GET gets it, or the server is asked first
---@field age number seconds
---@field left number seconds for which it is still fresh; below zero: since when it is stale
---@field because string[] one line each

-- The same response, for whoever asks, and whatever is asked for of it.
local function plain(entry)
  local copy = {}
  for name, value in pairs(entry) do copy[name] = value end
  copy.range, copy.vary, copy.fields = nil, {}, {}
  for _, field in ipairs(entry.fields) do
    if field[1]:lower() ~= "vary" then copy.fields[#copy.fields + 1] = field end
  end
  return copy
end

-- What tells how long it is fresh (RFC 9111 section 4.2.1).
local function told_by(entry)
  local most = cache_entry.directives(entry)["max-age"]
  if most ~= nil then
    local value = fields.seconds(most)
    return value and string.format("max-age: fresh for %.0f s", value)
      or "max-age, which is malformed: never fresh"
  end
  local expires = cache_entry.get(entry, "expires")
  local lifetime = cache_policy.lifetime(entry)
  if expires then
    if not fields.date(expires, entry.response_time) then
      return "Expires, which is no date: never fresh"
    end
    return string.format("Expires: fresh for %.0f s after it was made", math.max(0, lifetime))
  elseif lifetime > 0 then
    return string.format("nothing tells for how long it is fresh: for %.0f s, a tenth of the time "
      .. "since Last-Modified", lifetime)
  end
  return "nothing tells for how long it is fresh: not at all, but for clients with a ttl"
end

local function add_directives(entry, add)
  local told = cache_entry.directives(entry)
  local named = told["no-cache"] ~= nil and fields.names(told["no-cache"])
  if named then
    add "no-cache for some fields: they are left out, unless the server was asked"
  elseif told["no-cache"] ~= nil then
    add "no-cache: the server is asked before each use"
  end
  if told["must-revalidate"] ~= nil then
    add "must-revalidate: never used stale"
  elseif told["no-cache"] == nil or named then
    for _, directive in ipairs {
      { "stale-while-revalidate", "while the server is asked" }, -- RFC 5861 section 3
      { "stale-if-error", "when the server fails" }, -- section 4
    } do
      local most = fields.seconds(told[directive[1]])
      if most then
        add(string.format("%s: used stale for %.0f s %s", directive[1], most, directive[2]))
      end
    end
  end
  if told.immutable ~= nil then add "immutable: does not change while it is fresh" end
end

---@param entry orc.CacheEntry
---@param now number unix time
---@return orc.CacheExplanation
function cache_explain.explain(entry, now)
  local because = {}
  local function add(line) because[#because + 1] = line end
  add(told_by(entry))
  add_directives(entry, add)
  local validators = {}
  if cache_entry.get(entry, "etag") then validators[1] = "ETag" end
  if cache_entry.get(entry, "last-modified") then validators[#validators + 1] = "Last-Modified" end
  add(validators[1] and "the server can confirm it by " .. table.concat(validators, " and ")
    or "no ETag, no Last-Modified: the server can only send it anew")
  local request = { method = "GET", url = entry.url, fields = {} }
  local decision = cache_policy.decide(request, { plain(entry) }, now)
  return {
    use = decision.use or "ask", age = cache_entry.age(entry, now),
    left = cache_policy.left(entry, now), because = because,
  }
end

return cache_explain
