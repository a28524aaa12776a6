-- What an answer does to what is stored: a 304 confirms it, a HEAD tells news of it, an unsafe
-- method makes it void (RFC 9111 sections 3.2, 4.3.4, 4.3.5 and 4.4). Pure; entries are replaced,
-- never changed.

local cache_entry = require "orchestrator.cache_entry"
local fields = require "orchestrator.cache_fields"
local url = require "orchestrator.url"

local cache_refresh = {}

---@class orc.CacheAnswer what came back
---@field request table {method, url, u, fields}
---@field status integer
---@field fields string[][] { name, value }
---@field request_time number unix time
---@field response_time number unix time

-- They are about the stored body, which stays.
local OF_BODY = {
  ["content-length"] = true, ["content-encoding"] = true, ["content-range"] = true,
  ["content-md5"] = true,
}

-- Stored fields with those of the answer instead of theirs of the same names (RFC 9111 section
-- 3.2). An age that the answer does not tell was that of before.
local function updated(stored, answer)
  local news, given = {}, {}
  for _, field in ipairs(cache_entry.storable_fields(answer.fields)) do
    if not OF_BODY[field[1]:lower()] then
      news[#news + 1] = field
      given[field[1]:lower()] = true
    end
  end
  if not given.date then
    cache_entry.add_date(news, answer.response_time)
    given.date = true
  end
  given.age = true
  local all = {}
  for _, field in ipairs(stored) do
    if not given[field[1]:lower()] then all[#all + 1] = field end
  end
  for _, field in ipairs(news) do all[#all + 1] = field end
  return all
end

--- An entry with the fields and times of an answer that has no body of its own.
---@param entry orc.CacheEntry
---@param answer orc.CacheAnswer
---@param vary string[]|nil see cache_entry.new
---@return orc.CacheEntry
function cache_refresh.renewed(entry, answer, vary)
  local new = cache_entry.new({
    request = answer.request, url = entry.url, status = entry.status, size = entry.size,
    fields = updated(entry.fields, answer),
    request_time = answer.request_time, response_time = answer.response_time,
  }, vary)
  for name, value in pairs(entry) do
    if new[name] == nil then new[name] = value end
  end
  new.range, new.asked = entry.range, entry.asked
  return new
end

local function value_of(answer, name)
  for _, field in ipairs(answer.fields) do
    if field[1]:lower() == name then return field[2] end
  end
end

-- Whether the request had a condition of its own, about something else than the entry for all that
-- is known.
local function asks_of_another(request, tag)
  local asked = request.fields["if-none-match"]
  if asked then return asked.value ~= tag end
  return request.fields["if-modified-since"] ~= nil
end

--- What a 304 makes of the entry whose validators were sent; nil when the 304 names another
--- validator, or none and they were not ours, so that the entry may answer but not be updated (RFC
--- 9111 section 4.3.4).
---@param entry orc.CacheEntry
---@param answer orc.CacheAnswer
---@param vary string[]|nil
---@return orc.CacheEntry|nil
function cache_refresh.confirmed(entry, answer, vary)
  local tag, stored = value_of(answer, "etag"), cache_entry.get(entry, "etag")
  if tag then
    if not stored then return nil end
    if fields.is_strong(tag) and tag ~= stored or not fields.same_tag(tag, stored) then
      return nil
    end
  else
    local changed, before = value_of(answer, "last-modified"),
      cache_entry.get(entry, "last-modified")
    if changed and before and changed ~= before then return nil end
    if not changed and asks_of_another(answer.request, stored) then return nil end
  end
  return cache_refresh.renewed(entry, answer, vary)
end

--- What a 200 to HEAD makes of an entry; nil when the entry is no longer what a GET would get (RFC
--- 9111 section 4.3.5).
---@param entry orc.CacheEntry
---@param answer orc.CacheAnswer
---@param vary string[]|nil
---@return orc.CacheEntry|nil
function cache_refresh.by_head(entry, answer, vary)
  for _, name in ipairs { "etag", "last-modified", "content-length" } do
    local value = value_of(answer, name)
    if value and value ~= cache_entry.get(entry, name) then return nil end
  end
  return cache_refresh.renewed(entry, answer, vary)
end

--- The URL that a reference in a response leads to, without its fragment; nil when it is none.
---@param request table
---@param reference string
---@return orc.Url|nil
function cache_refresh.target(request, reference)
  return (url.parse((url.join(request.u, reference):gsub("#.*", ""))))
end

--- The URLs whose entries an answer to an unsafe method makes void (RFC 9111 section 4.4): its own,
--- and of those it names the ones of the same origin.
---@param answer orc.CacheAnswer
---@return string[]
function cache_refresh.voided(answer)
  local request = answer.request
  if answer.status < 200 or answer.status > 399 then return {} end
  local urls = { request.url }
  for _, name in ipairs { "location", "content-location" } do
    local reference = value_of(answer, name)
    local target = reference and cache_refresh.target(request, reference)
    if target and target.origin == request.u.origin and target.text ~= request.url then
      urls[#urls + 1] = target.text
    end
  end
  return urls
end

return cache_refresh
