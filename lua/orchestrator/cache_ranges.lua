-- Parts of bodies: ranges answered out of what is stored, and parts put together (RFC 9110 sections
-- 14 and 15.3.7, RFC 9111 sections 3.3 and 3.4). Pure.
--
-- Bodies are stored decoded, ranges are of the coded ones: what has a content coding has no parts.

local cache_entry = require "orchestrator.cache_entry"
local cache_refresh = require "orchestrator.cache_refresh"
local fields = require "orchestrator.cache_fields"

local cache_ranges = {}

---@class orc.CachePart
---@field from? integer where it begins in the stored body, from 1; nil when it is all of it
---@field to? integer
---@field content_range? string

local function is_coded(entry)
  local coding = cache_entry.get(entry, "content-encoding")
  return coding ~= nil and coding:lower() ~= "identity"
end

--- Whether a 206 may be stored: one range of bytes that is known.
---@param entry orc.CacheEntry
---@return boolean
function cache_ranges.storable(entry)
  local range = entry.range
  return range ~= nil and range.last >= range.first and not is_coded(entry)
end

--- The part of a stored body that a Range asks for; nil when it is not, or not all, in there.
---@param entry orc.CacheEntry
---@param range string the request's field
---@return orc.CachePart|nil
function cache_ranges.part(entry, range)
  local has = entry.range
  if has and entry.asked == range then return {} end -- the server's own answer to it
  if not has and entry.status ~= 200 then return {} end -- there is nothing to have ranges of
  local asked = fields.range(range)
  if not asked or is_coded(entry) then return nil end
  if not has then has = { first = 0, last = entry.size - 1, size = entry.size } end
  local first, last = asked.first, asked.last
  if has.size then
    first, last = fields.resolve(asked, has.size)
  end
  if not first or not last or first < has.first or last > has.last then return nil end
  return {
    from = first - has.first + 1, to = last - has.first + 1,
    content_range = string.format("bytes %d-%d/%s", first, last, has.size or "*"),
  }
end

-- An entry with other bytes.
local function with(entry, status, size, content_range)
  local kept = {}
  for _, field in ipairs(entry.fields) do
    local name = field[1]:lower()
    if name ~= "content-length" and name ~= "content-range" and name ~= "content-md5" then
      kept[#kept + 1] = field
    end
  end
  kept[#kept + 1] = { "Content-Length", tostring(size) }
  if content_range then kept[#kept + 1] = { "Content-Range", content_range } end
  local new = {}
  for name, value in pairs(entry) do new[name] = value end
  new.status, new.fields, new.size = status, kept, size
  return new
end

--- The answer that a part is: the entry it would be.
---@param entry orc.CacheEntry
---@param part orc.CachePart
---@return orc.CacheEntry
function cache_ranges.of(entry, part)
  if not part.from then return entry end
  return with(entry, 206, part.to - part.from + 1, part.content_range)
end

-- A strong validator, without which parts are not known to be of the same body.
local function validator(entry)
  local tag = cache_entry.get(entry, "etag")
  return fields.is_strong(tag) and tag or nil
end

--- Whether two entries are known to be of the same body.
---@param a orc.CacheEntry
---@param b orc.CacheEntry
---@return boolean
function cache_ranges.are_alike(a, b)
  local tag = validator(a)
  return tag ~= nil and tag == validator(b)
end

-- Whether it has another size than its server said (see cache_entry.new): it is not known what it
-- is a part of.
local function is_doubtful(entry)
  local _, _, told = fields.content_range(cache_entry.get(entry, "content-range"))
  return told ~= entry.range.size
end

--- What to ask for when all is wanted and the beginning is stored: headers, and the entry they
--- complete (RFC 9111 section 3.3). If-Range sees to it that something else comes as a whole.
---@param request table
---@param found orc.CacheEntry[]
---@return table<string, string>|nil headers, orc.CacheEntry? entry
function cache_ranges.rest(request, found)
  if request.method ~= "GET" or request.fields.range then return nil end
  for _, entry in ipairs(found) do
    local range, tag = entry.range, validator(entry)
    if range and range.first == 0 and tag and not is_doubtful(entry) then
      return {
        Range = string.format("bytes=%d-", range.last + 1), ["If-Range"] = tag,
        ["Accept-Encoding"] = "identity",
      }, entry
    end
  end
end

--- Puts two parts together, where they are of the same body and leave no gap (RFC 9110 section
--- 15.3.7.3). When that is all of it, it is a 200.
---@param old orc.CacheEntry
---@param old_body string
---@param new orc.CacheEntry its fields win
---@param new_body string
---@return orc.CacheEntry|nil entry
---@return string|nil body
function cache_ranges.combined(old, old_body, new, new_body)
  local a, b = old.range, new.range
  if not a or not b or not cache_ranges.are_alike(old, new) then return nil end
  if a.size and b.size and a.size ~= b.size or is_doubtful(old) or is_doubtful(new) then
    return nil
  end
  if b.first > a.last + 1 or a.first > b.last + 1 then return nil end
  local first, last = math.min(a.first, b.first), math.max(a.last, b.last)
  local body = old_body:sub(1, math.max(0, b.first - a.first)) .. new_body
    .. old_body:sub(b.last - a.first + 2)
  local size = a.size or b.size
  local whole = first == 0 and size == last + 1
  local entry = cache_refresh.renewed(old, {
    request = { fields = {} }, fields = new.fields,
    request_time = new.request_time, response_time = new.response_time,
  })
  entry.vary = new.vary
  entry = with(entry, whole and 200 or 206, #body,
    not whole and string.format("bytes %d-%d/%s", first, last, size or "*") or nil)
  entry.range = not whole and { first = first, last = last, size = size } or nil
  entry.asked, entry.hash = nil, nil
  return entry, body
end

return cache_ranges
