-- Requests and stored responses for the specs of the cache.

local cache_entry = require "orchestrator.cache_entry"
local headers = require "orchestrator.headers"
local url = require "orchestrator.url"

local cache_case = { NOW = 1700000000 } -- Tue, 14 Nov 2023 22:13:20 GMT

local function http_date(at)
  return os.date("!%a, %d %b %Y %H:%M:%S GMT", at)
end

--- The date so many seconds from now.
function cache_case.date(seconds)
  return http_date(cache_case.NOW + seconds)
end

--- A request as the cache sees it.
---@param fields table<string, string>|nil
---@param method string|nil
---@param address string|nil
function cache_case.request(fields, method, address)
  local u = assert(url.parse(address or "https://a.test/x?y=1"))
  return { method = method or "GET", url = u.text, u = u, fields = headers.merge(fields) }
end

--- Header fields as a list, sorted by name; a list as a value gives several lines.
function cache_case.fields(map)
  local names, list = {}, {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local values = type(map[name]) == "table" and map[name] or { map[name] }
    for _, value in ipairs(values) do list[#list + 1] = { name, value } end
  end
  return list
end

--- What came back: arrived now, at once, unless `more` says otherwise.
function cache_case.answer(fields, more)
  local answer = {
    request = cache_case.request(), status = 200, size = 10,
    fields = cache_case.fields(fields or {}),
    request_time = cache_case.NOW, response_time = cache_case.NOW,
  }
  for name, value in pairs(more or {}) do answer[name] = value end
  return answer
end

--- That, as it is stored.
---@return orc.CacheEntry
function cache_case.entry(fields, more)
  return cache_entry.new(cache_case.answer(fields, more))
end

return cache_case
