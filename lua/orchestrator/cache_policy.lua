-- What a private cache may store, how long that is fresh, and what to do with a request: RFC 9111,
-- with RFC 5861 (stale), RFC 8246 (immutable) and the modes of the fetch standard. Pure: what is
-- stored and the time are arguments.
--
-- Options of all functions: `ttl`, `stale_if_error`, `stale_while_revalidate` in seconds, `mode`,
-- and `vary`, names in lower case of fields that every response depends on.

local cache_entry = require "orchestrator.cache_entry"
local cache_ranges = require "orchestrator.cache_ranges"
local cache_refresh = require "orchestrator.cache_refresh"
local fields = require "orchestrator.cache_fields"

local cache_policy = {}

-- Cacheable without being said to be (RFC 9110 section 15.1). 206 is so, too; 501, as all of 5xx,
-- only when the server says so: an outage is nothing to keep.
local BY_DEFAULT = {
  [200] = true, [203] = true, [204] = true, [206] = true, [300] = true, [301] = true, [308] = true,
  [404] = true, [405] = true, [410] = true, [414] = true,
}

-- Statuses whose caching we understand (RFC 9111 section 5.2.2.3): those of RFC 9110, but for 304.
local UNDERSTOOD = {}
for first, last in pairs { [200] = 206, [300] = 303, [305] = 308, [400] = 417, [500] = 505 } do
  for status = first, last do UNDERSTOOD[status] = true end
end
UNDERSTOOD[421], UNDERSTOOD[422], UNDERSTOOD[426] = true, true, true

local SAFE = {
  GET = true, HEAD = true, OPTIONS = true, TRACE = true, PROPFIND = true, QUERY = true,
  REPORT = true, SEARCH = true,
}

--- Whether a method changes nothing (RFC 9110 section 9.2.1). One we do not know may.
---@param method string
---@return boolean
function cache_policy.is_safe(method)
  return SAFE[method] == true
end

local NOTHING = {}

-- The directives of a request (RFC 9111 section 5.2.1).
local function asked_of(request)
  local text = cache_entry.sent(request, "cache-control")
  if text then return fields.directives(text) end
  local pragma = cache_entry.sent(request, "pragma") -- section 5.4
  return pragma and pragma:lower():find "no%-cache" and { ["no-cache"] = true } or NOTHING
end

-- Whether the server said how long it is fresh, or that it may be stored for long.
local function is_explicit(entry)
  local told = cache_entry.directives(entry)
  return told["max-age"] ~= nil or told.public ~= nil or cache_entry.get(entry, "expires") ~= nil
end

-- A POST's answer is only stored when it says that it is what a GET would get, and for how long
-- (RFC 9110 section 9.3.3).
local function stands_for_get(request, entry)
  local told = cache_entry.directives(entry)
  if told["max-age"] == nil and not cache_entry.get(entry, "expires") then return false end
  local location = cache_entry.get(entry, "content-location")
  local target = location and cache_refresh.target(request, location)
  return target ~= nil and target.text == request.url
end

-- What of its fields forbids to store it (sections 4.1, 5.2.2.3 and 5.2.2.5).
local function forbidden(entry)
  local told = cache_entry.directives(entry)
  if told["must-understand"] ~= nil then
    if not UNDERSTOOD[entry.status] then return "must-understand" end
  elseif told["no-store"] ~= nil then
    return "no-store"
  end
  return cache_entry.vary(entry) == "*" and "vary" or nil
end

--- Whether what a 304, or a HEAD, has made of a stored response may stay stored.
---@param entry orc.CacheEntry
---@return boolean
function cache_policy.may_stay(entry)
  return forbidden(entry) == nil
end

--- Whether a response may be stored (RFC 9111 section 3), by a cache of one user.
---@param request table {method, url, u, fields}
---@param entry orc.CacheEntry
---@param opts table|nil
---@param accepted boolean|nil false when the response is an error to who asked
---@return boolean
---@return string|nil why not
function cache_policy.storable(request, entry, opts, accepted)
  opts = opts or {}
  local status, told = entry.status, cache_entry.directives(entry)
  if opts.mode == "no-store" or asked_of(request)["no-store"] then return false, "request" end
  if status < 200 or status == 304 then return false, "status" end
  local why = forbidden(entry)
  if why then return false, why end
  if request.method == "POST" then
    if status ~= 200 or not stands_for_get(request, entry) then return false, "method" end
  elseif request.method ~= "GET" then
    return false, "method"
  end
  if status == 206 and not cache_ranges.storable(entry) then return false, "range" end
  local explicit = is_explicit(entry)
  if status == 429 or status >= 500 then
    if not explicit or accepted == false then return false, "error" end
    return true
  end
  if BY_DEFAULT[status] or explicit or told.private ~= nil then return true end
  if opts.ttl and status <= 299 then return true end
  return false, "status"
end

-- RFC 9111 section 4.2.2: a tenth of the time since it was changed.
local function heuristic(entry)
  if not BY_DEFAULT[entry.status] and cache_entry.directives(entry).public == nil then return 0 end
  local changed = fields.date(cache_entry.get(entry, "last-modified"), entry.response_time)
  return changed and math.max(0, cache_entry.date(entry) - changed) / 10 or 0
end

--- For how many seconds it is fresh (RFC 9111 section 4.2.1). What is malformed is for none.
---@param entry orc.CacheEntry
---@return number
function cache_policy.lifetime(entry)
  local most = cache_entry.directives(entry)["max-age"]
  if most ~= nil then return fields.seconds(most) or 0 end
  local expires = cache_entry.get(entry, "expires")
  if expires then
    local at = fields.date(expires, entry.response_time)
    return at and at - cache_entry.date(entry) or 0
  end
  return heuristic(entry)
end

--- For how many seconds more it is fresh; what is below zero, or zero, is stale.
---@param entry orc.CacheEntry
---@param now number unix time
---@param opts table|nil
---@return number
function cache_policy.left(entry, now, opts)
  if opts and opts.ttl then return opts.ttl - cache_entry.resident(entry, now) end
  return cache_policy.lifetime(entry) - cache_entry.age(entry, now)
end

-- Whether the server wants to be asked before each use (RFC 9111 section 5.2.2.4). With field names
-- it is about these alone, see cache_entry.head. A `ttl` says otherwise.
local function wants_asking(entry, opts)
  local directive = cache_entry.directives(entry)["no-cache"]
  return directive ~= nil and not fields.names(directive) and not opts.ttl
end

-- How long it may be used when it is stale (RFC 5861), longest of what is allowed; nil when the
-- server forbids it (RFC 9111 section 5.2.2.2).
local function stale_for(entry, opts, name, option, asked)
  local told = cache_entry.directives(entry)
  local strict = told["must-revalidate"] ~= nil and not opts.ttl
  if strict or wants_asking(entry, opts) then return nil end
  return math.max(opts[option] or 0, fields.seconds(told[name]) or 0,
    asked and fields.seconds(asked[name]) or 0)
end

--- Whether a stored response may be used instead of an error: no answer, or a 500, 502, 503 or 504
--- (RFC 5861 section 4).
---@param request table
---@param entry orc.CacheEntry
---@param now number unix time
---@param opts table|nil
---@return boolean
function cache_policy.serves_errors(request, entry, now, opts)
  opts = opts or {}
  local most = stale_for(entry, opts, "stale-if-error", "stale_if_error", asked_of(request))
  return most ~= nil and most > 0 and -cache_policy.left(entry, now, opts) <= most
end

-- The headers that ask whether a stored response is still good (RFC 9111 section 4.3.1); nil when
-- nothing tells it from another.
local function questions(entry, request)
  local function sendable(name)
    local value = cache_entry.get(entry, name)
    return value and not value:find "%c" and value or nil
  end
  local tag, changed = sendable "etag", sendable "last-modified"
  if not tag and not changed then return nil end
  return {
    ["If-None-Match"] = tag,
    ["If-Modified-Since"] = not cache_entry.sent(request, "range") and changed or nil,
  }
end

-- Whether the request's own conditions hold for what is stored (RFC 9111 section 4.3.2), so that
-- the answer is 304. Nil when it has none.
local function not_modified(request, entry)
  local tags = cache_entry.sent(request, "if-none-match")
  if tags then return fields.none_match(tags, cache_entry.get(entry, "etag")) end
  local since = cache_entry.sent(request, "if-modified-since")
  if not since then return nil end
  local limit = fields.date(since, entry.response_time)
  if not limit then return nil end -- RFC 9110 section 13.1.3: as if it were not there
  local changed = fields.date(cache_entry.get(entry, "last-modified"), entry.response_time)
  return (changed or cache_entry.date(entry)) <= limit
end

-- Whether the age it has is what the request wants (RFC 9111 section 5.2.1).
local function is_wanted(asked, age, left)
  local most, least = asked["max-age"], asked["min-fresh"]
  return (most == nil or age <= (fields.seconds(most) or 0))
    and (least == nil or left >= (fields.seconds(least) or math.huge))
end

-- "fresh", "stale", or nil when the server has to be asked; and whether it has to be asked
-- meanwhile.
local function usable(entry, asked, now, opts)
  local age, left = cache_entry.age(entry, now), cache_policy.left(entry, now, opts)
  if asked["no-cache"] ~= nil or wants_asking(entry, opts) then return nil end
  if opts.mode == "no-cache" then
    -- RFC 8246 section 2: what never changes is not asked for again while it is fresh.
    return cache_entry.directives(entry).immutable ~= nil and left > 0 and "fresh" or nil
  end
  if left > 0 then
    return is_wanted(asked, age, left) and "fresh" or nil
  end
  local most = stale_for(entry, opts, "stale-while-revalidate", "stale_while_revalidate")
  if not most then return nil end
  local limit = asked["max-stale"] -- RFC 9111 section 5.2.1.2
  if limit ~= nil and -left <= (limit == true and math.huge or fields.seconds(limit) or -1) then
    return "stale"
  end
  if -left < most and is_wanted(asked, age, left) then return "stale", true end
end

-- Those a request could have got, the newest first (RFC 9111 section 4.1).
local function matching(request, entries, opts, matches)
  local found = {}
  for _, entry in ipairs(entries) do
    if matches(entry, request, opts.vary) then found[#found + 1] = entry end
  end
  table.sort(found, function(a, b)
    local a_date, b_date = cache_entry.date(a), cache_entry.date(b)
    if a_date ~= b_date then return a_date > b_date end
    return a.response_time > b.response_time
  end)
  return found
end

-- The newest that has what is asked for, and which part of it.
local function choose(request, found)
  local range = request.method == "GET" and cache_entry.sent(request, "range")
  for _, entry in ipairs(found) do
    if not range then
      if not entry.range then return entry end
    else
      local part = cache_ranges.part(entry, range)
      if part then return entry, part end
    end
  end
end

-- What answers though nothing matches: only while it is fresh, as it is not the server's answer to
-- this request that would be asked about.
local function alternative(request, entries, asked, now, opts)
  local entry, part = choose(request, matching(request, entries, opts, cache_entry.suits))
  if entry and usable(entry, asked, now, opts) == "fresh" then return entry, part end
end

-- The headers by which the fetch standard tells caches on the way of its modes.
local function mode_headers(request, mode)
  if request.fields["cache-control"] then return {} end
  if mode == "no-cache" then return { ["Cache-Control"] = "max-age=0" } end
  if mode ~= "no-store" and mode ~= "reload" then return {} end
  local pragma = not request.fields.pragma and "no-cache" or nil
  return { ["Cache-Control"] = "no-cache", Pragma = pragma }
end

local function merged(a, b)
  for name, value in pairs(b or {}) do a[name] = value end
  return a
end

---@class orc.CacheDecision
---@field use? "fresh"|"stale" answer with `entry`
---@field background? true ask the server meanwhile, with `headers`
---@field not_modified? true the answer is a 304, as the request's own condition holds
---@field part? table of the body, see cache_ranges.lua
---@field fetch? true ask the server; `entry` is what its answer may confirm
---@field headers? table<string, string> to be added to the request
---@field fail? "only-if-cached"
---@field entry? orc.CacheEntry

--- What to do with a request.
---@param request table {method, url, u, fields}
---@param entries orc.CacheEntry[] what is stored for its key
---@param now number unix time
---@param opts table|nil
---@return orc.CacheDecision
function cache_policy.decide(request, entries, now, opts)
  opts = opts or {}
  local mode, asked = opts.mode, asked_of(request)
  local headers = mode_headers(request, mode)
  local is_read = request.method == "GET" or request.method == "HEAD"
  local offline = mode == "only-if-cached" or asked["only-if-cached"] ~= nil
  -- RFC 9111 section 4.3.2: what only the server can judge goes there.
  if not is_read or mode == "no-store" or mode == "reload" or asked["no-store"] ~= nil
    or request.fields["if-match"] or request.fields["if-unmodified-since"]
    or request.fields["if-range"] then
    if offline then return { fail = "only-if-cached" } end
    return { fetch = true, headers = headers }
  end
  local found = matching(request, entries, opts, cache_entry.matches)
  local entry, part = choose(request, found)
  if not entry then entry, part = alternative(request, entries, asked, now, opts) end
  if not entry then
    if offline then return { fail = "only-if-cached" } end
    local rest, of = cache_ranges.rest(request, found)
    return { fetch = true, headers = merged(headers, rest), entry = of }
  end
  local use, background
  if mode == "only-if-cached" or mode == "force-cache" then
    use = cache_policy.left(entry, now, opts) > 0 and "fresh" or "stale"
  else
    use, background = usable(entry, asked, now, opts)
  end
  local conditional = request.fields["if-none-match"] or request.fields["if-modified-since"]
  if use and not (conditional and background) then
    return {
      use = use, entry = entry, part = part, background = background,
      not_modified = not_modified(request, entry) or nil,
      headers = background and merged(headers, questions(entry, request)) or nil,
    }
  elseif offline then
    return { fail = "only-if-cached" }
  end
  -- The request's own conditions go to the server as they are.
  if not conditional then merged(headers, questions(entry, request)) end
  return { fetch = true, headers = headers, entry = entry, part = part }
end

return cache_policy
