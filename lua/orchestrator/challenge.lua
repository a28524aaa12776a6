-- What a server asks for in WWW-Authenticate: one or more challenges, each a scheme with a token or
-- with parameters (RFC 9110 section 11.6.1). Several challenges, in one field or in several, and
-- the parameters of each are all separated by commas, so one has to read on to tell them apart.

local challenge = {}

---@class orc.Challenge
---@field scheme string in lower case
---@field token? string instead of parameters (token68)
---@field params table<string, string> by name in lower case; of a repeated one the first

local TOKEN = "[!#$%%&'*+.^_`|~%w-]+"
local LONGEST = 16384 -- bytes of a field that are read

-- The quoted string that begins at `at`, and the place after it; nil when it does not end.
local function quoted_at(text, at)
  local out, from = {}, at + 1
  while true do
    local special = text:find('["\\]', from)
    if not special then
      return nil
    end
    out[#out + 1] = text:sub(from, special - 1)
    if text:byte(special) == 34 then
      return table.concat(out), special + 1
    end
    out[#out + 1] = text:sub(special + 1, special + 1)
    from = special + 2
  end
end

-- The value of a parameter that begins at `at`, and the place after it.
local function value_at(text, at)
  if text:byte(at) == 34 then
    return quoted_at(text, at)
  end
  local value, after = text:match('^([^%s,"]+)()', at)
  return value, after
end

-- The parameter that begins at `at`: name, value, the place after it.
local function param_at(text, at)
  local name, start = text:match("^(" .. TOKEN .. ")[ \t]*=[ \t]*()", at)
  if not name then
    return nil
  end
  local value, after = value_at(text, start)
  if not value then
    return nil
  end
  return name:lower(), value, after
end

-- "name=value, …" from `at` on, put into `params`; the place where something else begins.
local function read_params(text, at, params)
  while true do
    at = text:match("^[ \t,]*()", at)
    local name, value, after = param_at(text, at)
    if not name then
      return at
    end
    params[name] = params[name] or value
    at = after
  end
end

--- The parameters of a field that is nothing but those (Authentication-Info, RFC 7615).
---@param text string|nil
---@return table<string, string>
function challenge.params(text)
  local params = {}
  if text and #text <= LONGEST then
    read_params(text, 1, params)
  end
  return params
end

--- The challenges of a field; what comes after something malformed is left out.
---@param text string|nil
---@return orc.Challenge[]
function challenge.parse(text)
  local list = {}
  if not text or #text > LONGEST then
    return list
  end
  local at = text:match "^[ \t,]*()"
  while true do
    local scheme, after = text:match("^(" .. TOKEN .. ")()", at)
    if not scheme then
      return list
    end
    local spaces, start = text:match("^([ \t]*)()", after)
    if spaces == "" and start <= #text and not text:find("^,", start) then
      return list
    end
    local one = { scheme = scheme:lower(), params = {} }
    list[#list + 1] = one
    local token, past = text:match("^([%w%-._~+/]+=*)[ \t]*()", start)
    if token and (past > #text or text:find("^,", past)) then
      one.token, at = token, text:match("^[ \t,]*()", past)
    else
      at = read_params(text, start, one.params)
    end
  end
end

return challenge
