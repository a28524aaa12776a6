-- HTTP header fields (RFC 9110 section 5, RFC 9112 section 5). Received ones stay the raw bytes
-- of the response head until somebody asks: `get` reads one field without building a table,
-- `parse` reads all. Fields to be sent are a map from lower-cased name to { name=, value= },
-- checked when written.

local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local headers = {}

---@class orc.Header
---@field name string as it will be written
---@field value string|orc.Secret

---@alias orc.HeaderMap table<string, orc.Header>

local COLON, SPACE, TAB = (": \t"):byte(1, 3)

-- The value between two positions, without the white space around it (and the "\r" of its line).
local function trimmed(head, from, to)
  while from <= to and head:byte(from) <= SPACE do
    from = from + 1
  end
  while to > from and head:byte(to) <= SPACE do
    to = to - 1
  end
  return head:sub(from, to)
end

-- The value that starts at `from` on the line that ends at `finish`, and where it really ends: a
-- line that begins with white space continues the one before it (obs-fold) and reads as a space.
local function read_value(head, from, finish)
  local next_byte = head:byte(finish + 1)
  if next_byte ~= SPACE and next_byte ~= TAB then
    return trimmed(head, from, finish - 1), finish
  end
  while next_byte == SPACE or next_byte == TAB do
    finish = head:find("\n", finish + 1, true) or #head + 1
    next_byte = head:byte(finish + 1)
  end
  local unfolded = head:sub(from, finish - 1):gsub("\r?\n[ \t]+", " ")
  return trimmed(unfolded, 1, #unfolded), finish
end

-- Fields of one name are one list, but a cookie may itself contain a comma.
local function join(name, values)
  return table.concat(values, name == "set-cookie" and "\n" or ", ")
end

-- The first value of a field, and all of them if there are several.
local function values_of(head, name)
  local length = #name
  local first, all
  local start = (head:find("\n", 1, true) or #head) + 1
  while start <= #head do
    local finish = head:find("\n", start, true) or #head + 1
    local colon = start + length
    if head:byte(colon) == COLON and head:sub(start, colon - 1):lower() == name then
      local value
      value, finish = read_value(head, colon + 1, finish)
      if first then
        all = all or { first }
        all[#all + 1] = value
      end
      first = first or value
    end
    start = finish + 1
  end
  return first, all
end

--- One field of a response head; several of the name are joined with ", " (Set-Cookie with "\n").
---@param head string the status line and the fields, as received
---@param name string in lower case
---@return string|nil
function headers.get(head, name)
  local first, all = values_of(head, name)
  return all and join(name, all) or first
end

--- A field that there may be but once.
---@param head string
---@param name string in lower case
---@return string|nil
---@return boolean|nil true when there are several that differ
function headers.only(head, name)
  local first, all = values_of(head, name)
  for _, value in ipairs(all or {}) do
    if value ~= first then return nil, true end
  end
  return first
end

--- All fields of a response head, by lower-cased name; lines that are no field are passed over.
---@param head string
---@return table<string, string>
function headers.parse(head)
  local fields, repeated = {}, {}
  local start = (head:find("\n", 1, true) or #head) + 1
  local colon = head:find(":", start, true)
  while colon do
    local finish = head:find("\n", start, true) or #head + 1
    if colon < finish then
      local name = head:sub(start, colon - 1):lower()
      local value
      value, finish = read_value(head, colon + 1, finish)
      if fields[name] then
        repeated[name] = repeated[name] or { fields[name] }
        table.insert(repeated[name], value)
      elseif name:find "^%S+$" then
        fields[name] = value
      end
    end
    start = finish + 1
    if colon < start then
      colon = head:find(":", start, true)
    end
  end
  for name, values in pairs(repeated) do
    fields[name] = join(name, values)
  end
  return fields
end

--- All fields of a response head as they came: { name, value }, in their order.
---@param head string
---@return string[][]
function headers.list(head)
  local all = {}
  local start = (head:find("\n", 1, true) or #head) + 1
  while start <= #head do
    local finish = head:find("\n", start, true) or #head + 1
    local colon = head:find(":", start, true)
    if colon and colon < finish then
      local name = head:sub(start, colon - 1)
      local value
      value, finish = read_value(head, colon + 1, finish)
      if name:find "^%S+$" then all[#all + 1] = { name, value } end
    end
    start = finish + 1
  end
  return all
end

local function add_given(map, given)
  local seen = {}
  for name, value in pairs(given) do
    if type(name) ~= "string" then
      options.fail("headers", ("names must be strings, got %s"):format(tostring(name)))
    end
    local key = name:lower()
    if seen[key] then
      options.fail("headers", ('"%s" is given twice'):format(key))
    end
    seen[key] = true
    if value == false then
      map[key] = nil
    elseif type(value) == "table" and value.name then
      map[key] = value
    elseif secret.is(value) then
      map[key] = { name = name, value = value }
    else
      local text = value ~= true and url.scalar(value)
      if not text then
        local message = '"%s" must be a string, number, secret or false, got %s'
        options.fail("headers", message:format(name, type(value)))
      end
      map[key] = { name = name, value = text }
    end
  end
end

-- How long a message is, two may not tell differently: what the one takes for its end is to the
-- other the beginning of another request.
local FRAMING = {
  ["content-length"] = "Content-Length", ["transfer-encoding"] = "Transfer-Encoding",
}

--- Raises when a script's own fields say what is not theirs to say.
---@param given table<string, any>
---@param where string
---@param sized? boolean a Content-Length may be among them
function headers.check(given, where, sized)
  for name, value in pairs(given) do
    local key = type(name) == "string" and value ~= false and name:lower()
    if FRAMING[key] and not (sized and key == "content-length") then
      options.fail(where, ('"%s" is told by the body: leave it out of "headers"')
        :format(FRAMING[key]))
    elseif key == "host" and not tostring(secret.reveal(value)):find "^%S+$" then
      options.fail(where, '"Host" must be a host, and perhaps its port')
    end
  end
end

--- Fields to be sent, later ones over earlier ones. Takes plain tables (name → value, where false
--- removes) and maps made by an earlier merge; changes none of them.
---@param ... table<string, any>|orc.HeaderMap|nil
---@return orc.HeaderMap
function headers.merge(...)
  local map = {}
  for i = 1, select("#", ...) do
    local given = select(i, ...)
    if given ~= nil then
      add_given(map, given)
    end
  end
  return map
end

--- "Name: value\n…" in the order of the lower-cased names, secrets revealed; or nil and why a
--- field cannot be sent: nothing a script or a server says may start another field (CWE-113).
---@param map orc.HeaderMap
---@return string|nil
---@return string|nil message
function headers.text(map)
  local keys, lines = {}, {}
  for key in pairs(map) do
    keys[#keys + 1] = key
  end
  table.sort(keys)
  for i, key in ipairs(keys) do
    local name, value = map[key].name, secret.reveal(map[key].value)
    if not name:find "^[!#$%%&'*+.^_`|~%w-]+$" then
      return nil, ("%q is no header name"):format(name)
    elseif key == "proxy-authorization" then -- it would go on to the host
      return nil, 'the header "Proxy-Authorization" is not for a host: a client\'s option "proxy" '
        .. "takes the credentials"
    elseif value:find "[%z\r\n]" then
      return nil, ('the header "%s" contains a line break or NUL'):format(name)
    elseif value:find "[%z\1-\8\11-\31\127]" then
      return nil, ('the header "%s" contains a control character'):format(name)
    end
    lines[i] = name .. ": " .. value .. "\n"
  end
  return table.concat(lines)
end

return headers
