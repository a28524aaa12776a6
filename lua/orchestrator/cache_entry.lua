-- A stored response. It is plain data, so that it can be written down: what is read out of its
-- fields is kept beside it. Pure.

local crypto = require "orchestrator.core.crypto"
local fields = require "orchestrator.cache_fields"
local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"

local cache_entry = {}

local MOST_KNOWN = 1000 -- names of fields, and values of requests, that are remembered
local MOST_HEADS = 50 -- of responses, likewise
local NONE = {}

---@class orc.CacheEntry
---@field url string
---@field status integer
---@field fields string[][] { name, value } as received, but for those of the connection
---@field request_time number unix time at which it was asked for
---@field response_time number unix time at which it was here
---@field vary table<string, string> what the request sent, of what the response depends on
---@field size integer bytes of the body
---@field range? { first: integer, last: integer, size: integer|nil } the part that a 206 holds
---@field asked? string the Range that a 206 was the answer to
---@field named? string what a script stored it by instead of its URL, for people
---@field [string] any what the store knows of it

-- Of the connection, or of a proxy (RFC 9111 section 3.1).
local UNSTORED = {
  connection = true, ["proxy-connection"] = true, ["keep-alive"] = true, te = true,
  ["transfer-encoding"] = true, upgrade = true, ["proxy-authenticate"] = true,
  ["proxy-authentication-info"] = true, ["proxy-authorization"] = true,
}

local lowered, names_known = {}, 0 -- of field names, which are the same again and again

local function lower(name)
  local text = lowered[name]
  if text then return text end
  if names_known == MOST_KNOWN then lowered, names_known = {}, 0 end
  text = name:lower()
  lowered[name], names_known = text, names_known + 1
  return text
end

local views = setmetatable({}, { __mode = "k" }) -- an entry's fields → what is read out of them

local function view_of(entry)
  local list = entry.fields
  local view = views[list]
  if view then return view end
  local values = {}
  for i = 1, #list do
    local field = list[i]
    local name = lower(field[1])
    values[name] = values[name] and values[name] .. ", " .. field[2] or field[2]
  end
  local control = values["cache-control"]
  view = {
    values = values, directives = control and fields.directives(control) or NONE,
    vary = values.vary and fields.vary(values.vary) or NONE, names = nil, lines = nil,
  }
  views[list] = view
  return view
end

--- A field; several of the name are joined by ", ".
---@param entry orc.CacheEntry
---@param name string in lower case
---@return string|nil
function cache_entry.get(entry, name)
  return view_of(entry).values[name]
end

--- The directives of Cache-Control, see cache_fields.lua.
---@param entry orc.CacheEntry
---@return table<string, string|true>
function cache_entry.directives(entry)
  return view_of(entry).directives
end

--- The names that Vary lists, see cache_fields.lua: not to be changed.
---@param entry orc.CacheEntry
---@return string[]|"*"
function cache_entry.vary(entry)
  return view_of(entry).vary
end

--- Its fields, as lines without white space.
---@param entry orc.CacheEntry
---@return string
function cache_entry.lines(entry)
  local view = view_of(entry)
  if not view.lines then
    local out, n = {}, 0
    for i, field in ipairs(entry.fields) do
      out[n + 1], out[n + 2], out[n + 3], out[n + 4] = field[1], ":", field[2], "\n"
      n = 4 * i
    end
    view.lines = table.concat(out)
  end
  return view.lines
end

--- What a request sends; nil when it sends no such field.
---@param request table {fields: orc.HeaderMap}
---@param name string in lower case
---@return string|nil
function cache_entry.sent(request, name)
  local field = request.fields[name]
  return field and secret.reveal(field.value)
end

local known, count = {}, 0 -- name → value → as it is compared

--- What a request sends, as it is compared and stored.
---@param request table {fields: orc.HeaderMap}
---@param name string in lower case
---@return string|nil
local function selecting(request, name)
  local field = request.fields[name]
  if not field then return nil end
  local value = field.value
  if name == "cookie" or fields.is_credential(name) or secret.is(value) then
    return "sha256:" .. crypto.hex(assert(crypto.hash("sha256", secret.reveal(value))))
  end
  local values = known[name]
  local text = values and values[value]
  if text then return text end
  if count == MOST_KNOWN then known, count, values = {}, 0, nil end
  if not values then
    values = {}
    known[name] = values
  end
  text = fields.selecting(name, value)
  values[value], count = text, count + 1
  return text
end

cache_entry.selecting = selecting

--- The fields that are stored (RFC 9111 section 3.1).
---@param given string[][]
---@return string[][]
function cache_entry.storable_fields(given)
  local unstored
  for _, field in ipairs(given) do
    if lower(field[1]) == "connection" then
      unstored = unstored or {}
      for name in pairs(fields.names(field[2]) or {}) do unstored[name] = true end
    end
  end
  local kept = {}
  for _, field in ipairs(given) do
    local name = lower(field[1])
    if not UNSTORED[name] and not (unstored and unstored[name]) then kept[#kept + 1] = field end
  end
  return kept
end

local heads, head_count = {}, 0 -- head → its fields
local storable = setmetatable({}, { __mode = "k" }) -- those → the ones that are stored

--- The fields of a response's head: not to be changed, as many responses have the same.
---@param head string
---@return string[][]
function cache_entry.received(head)
  local list = heads[head]
  if list then return list end
  if head_count == MOST_HEADS then heads, head_count = {}, 0 end
  list = headers.list(head)
  storable[list] = cache_entry.storable_fields(list)
  heads[head], head_count = list, head_count + 1
  return list
end

local function has(list, name)
  for _, field in ipairs(list) do
    if lower(field[1]) == name then return true end
  end
  return false
end

--- What a response's age is told by, if it does not say itself (RFC 9110 section 6.6.1).
---@param list string[][]
---@param wall number unix time at which it was here
function cache_entry.add_date(list, wall)
  if not has(list, "date") then
    list[#list + 1] = { "Date", os.date("!%a, %d %b %Y %H:%M:%S GMT", math.floor(wall)) }
  end
end

-- Whether its server says that everybody may have it (RFC 9111 section 3.5, for cookies).
local function is_for_all(entry)
  local told = cache_entry.directives(entry)
  if told.private ~= nil or told["no-cache"] ~= nil then return false end
  return told["max-age"] ~= nil or told["s-maxage"] ~= nil or told.public ~= nil
    or cache_entry.get(entry, "expires") ~= nil
end

local function with_more(own, more)
  local names = {}
  for _, name in ipairs(own) do names[#names + 1] = name end
  for _, name in ipairs(more) do names[#names + 1] = name end
  return names
end

--- Names of the request's fields that the response depends on. What is not for everybody is for
--- whose cookie was sent, whether the server says so or not.
---@param entry orc.CacheEntry
---@param more string[]|nil others, in lower case
---@return string[]|"*"
local function depends_on(entry, more)
  local view = view_of(entry)
  local own = view.names
  if not own then
    own = view.vary
    if own ~= "*" and not is_for_all(entry) then own = with_more(own, { "cookie" }) end
    view.names = own
  end
  if own == "*" or not more then return own end
  return with_more(own, more)
end

--- Whether it depends on what cookies are sent.
---@param entry orc.CacheEntry
---@return boolean
function cache_entry.is_personal(entry)
  local names = depends_on(entry)
  for _, name in ipairs(names ~= "*" and names or {}) do
    if name == "cookie" then return true end
  end
  return false
end

-- The part that a 206 holds: what is here counts, not what was promised. A whole message that is
-- shorter than its Content-Range, which says to run to the end, does: then the size was wrong.
local function range_of(answer, entry)
  local first, last, size = fields.content_range(cache_entry.get(entry, "content-range"))
  if not first then return nil end
  local here = math.min(last, first + entry.size - 1)
  local is_whole = cache_entry.get(entry, "content-length") == tostring(entry.size)
    or has(answer.fields, "transfer-encoding")
  if here < last and last + 1 == size and is_whole then size = here + 1 end
  return { first = first, last = here, size = size }
end

local function dated(list, wall)
  local with_date = {}
  for i, field in ipairs(list) do with_date[i] = field end
  cache_entry.add_date(with_date, wall)
  return with_date
end

---@param answer { request: table, url: string?, status: integer, fields: string[][], size: integer,
---  request_time: number, response_time: number }
---@param vary string[]|nil fields it depends on besides those of Vary, in lower case
---@return orc.CacheEntry
function cache_entry.new(answer, vary)
  local request = answer.request
  local list = storable[answer.fields] or cache_entry.storable_fields(answer.fields)
  local entry = {
    url = answer.url or request.url,
    status = answer.status,
    fields = has(list, "date") and list or dated(list, answer.response_time),
    request_time = answer.request_time,
    response_time = answer.response_time,
    vary = NONE,
    size = answer.size,
    range = nil, asked = nil, plain = nil, born = nil, on = nil, sent = nil, key = nil, row = nil,
  }
  local names = depends_on(entry, vary)
  if names ~= "*" and names[1] then
    local sent = {}
    for _, name in ipairs(names) do sent[name] = selecting(request, name) end
    entry.vary = sent
  end
  if entry.status == 206 then
    entry.range = range_of(answer, entry)
    entry.asked = cache_entry.sent(request, "range")
  end
  return entry
end

--- Whether a request would have got this response (RFC 9111 section 4.1).
---@param entry orc.CacheEntry
---@param request table
---@param vary string[]|nil as for `new`
---@return boolean
function cache_entry.matches(entry, request, vary)
  local names = depends_on(entry, vary)
  if names == "*" then return false end
  for _, name in ipairs(names) do
    if entry.vary[name] ~= selecting(request, name) then return false end
  end
  return true
end

--- What a request sends of what the stored responses of its key depend on, as a text: those that
--- have the same there would get the same.
---@param entries orc.CacheEntry[]
---@param request table
---@param vary string[]|nil as for `new`
---@return string
function cache_entry.variant(entries, request, vary)
  if not entries[1] and not vary then return "" end
  local text, seen = "", {}
  local function add(name)
    if seen[name] then return end
    seen[name] = true
    text = text .. "\n" .. name .. ": " .. (selecting(request, name) or "")
  end
  for _, name in ipairs(vary or {}) do add(name) end
  for _, entry in ipairs(entries) do
    local names = depends_on(entry)
    for _, name in ipairs(names ~= "*" and names or {}) do add(name) end
  end
  return text
end

-- Whether it is in the one language that a request likes best, and was asked for in that among
-- others.
local function speaks(entry, request)
  local best = fields.favourite(cache_entry.sent(request, "accept-language"))
  local language = cache_entry.get(entry, "content-language")
  if not best or not language or language:lower() ~= best then return false end
  for element in fields.elements(entry.vary["accept-language"]) do
    if element:match "^[^;]+" == best then return true end
  end
  return false
end

--- Whether it is what a request would get though it asks for other languages: those it would like
--- less. (RFC 9111 section 4.1 has preferences choose among responses that match; the public suite
--- has an optimal cache go this step further.)
---@param entry orc.CacheEntry
---@param request table
---@param vary string[]|nil as for `new`
---@return boolean
function cache_entry.suits(entry, request, vary)
  local names = depends_on(entry, vary)
  if names == "*" then return false end
  for _, name in ipairs(names) do
    if entry.vary[name] ~= selecting(request, name)
      and not (name == "accept-language" and speaks(entry, request)) then
      return false
    end
  end
  return true
end

--- Unix time at which the server made it.
---@param entry orc.CacheEntry
---@return number
function cache_entry.date(entry)
  return fields.date(cache_entry.get(entry, "date"), entry.response_time) or entry.response_time
end

--- How long it has been here, in seconds. When the clock was set back nobody knows: as long as it
--- was set back, so that nothing is fresh until the time it comes from has come again.
---@param entry orc.CacheEntry
---@param now number unix time
---@return number
function cache_entry.resident(entry, now)
  return math.abs(now - entry.response_time)
end

--- How old it is, in seconds (RFC 9111 section 4.2.3).
---@param entry orc.CacheEntry
---@param now number unix time
---@return number
function cache_entry.age(entry, now)
  local apparent = math.max(0, entry.response_time - cache_entry.date(entry))
  local delay = math.max(0, entry.response_time - entry.request_time)
  local told = (fields.age(cache_entry.get(entry, "age")) or 0) + delay
  return math.max(apparent, told) + cache_entry.resident(entry, now)
end

--- Its head as text. What is used without asking the server tells its age (RFC 9111 section 5.1),
--- and lacks the fields that may not be used so (section 5.2.2.4).
---@param entry orc.CacheEntry
---@param age number|nil seconds; nil when the server was asked
---@return string
function cache_entry.head(entry, age)
  local omitted = age and fields.names(cache_entry.directives(entry)["no-cache"])
  local lines = { "HTTP/1.1 " .. entry.status .. " \r\n" }
  for _, field in ipairs(entry.fields) do
    local name = lower(field[1])
    if not (age and name == "age") and not (omitted and omitted[name]) then
      lines[#lines + 1] = field[1] .. ": " .. field[2] .. "\r\n"
    end
  end
  if age then lines[#lines + 1] = string.format("Age: %d\r\n", math.min(age, 2 ^ 31)) end
  lines[#lines + 1] = "\r\n"
  return table.concat(lines)
end

return cache_entry
