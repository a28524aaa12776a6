-- What a request carries: a text made of `json` or `form` or given as it is, a file, the parts of a
-- form with files in it (RFC 7578), or what a function gives piece by piece. The last three are
-- never held in memory. All but a function's can be sent again, by a retry or a redirect.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local body = {}

local NAMES = { "json", "form", "body", "file", "multipart" }

-- What of a plan is its body, whichever it is.
local FIELDS = { "body", "body_file", "parts", "pull", "pulled", "body_size", "body_secret" }

local BINARY = "application/octet-stream"

local function is_path(text)
  if text == "" or text:find "%z" then return nil, "must be the path of a file" end
  return text
end

-- They become lines of a part's head, where nothing may start another (CWE-113).
local function is_line(text)
  if text:find "[%z\1-\31\127]" then return nil, "contains a line break or control character" end
  return text
end

local PART = {
  name = { type = "string", required = true, check = is_line },
  value = { type = { "secret", "number" } },
  file = { type = "string", check = is_path },
  filename = { type = "string", check = is_line },
  type = { type = "string", check = is_line },
}

--- Adds the options of a request that are about its body to its schema.
function body.schema(schema)
  schema.json = { type = "any" }
  schema.form = { type = "table" }
  schema.body = { type = { "secret", "function" } }
  schema.file = { type = "string", check = is_path }
  schema.multipart = { type = "table" }
end

local MOST_BYTES = 2 ^ 53 -- that a number counts exactly

local MAX_DEPTH = 1000 -- of JSON; what is deeper, or a circle, fails when it is encoded

-- Whether a secret stands anywhere in a table, and a copy with every secret revealed.
local function reveal(value, depth)
  if secret.is(value) then return secret.reveal(value), true end
  if type(value) ~= "table" or depth > MAX_DEPTH then return value, false end
  local copy, found = setmetatable({}, getmetatable(value)), false
  for k, v in pairs(value) do
    local shown, hidden = reveal(v, depth + 1)
    copy[k], found = shown, found or hidden
  end
  if found then return copy, true end
  return value, false
end

-- One of multipart's parts as the host takes it.
local function part_of(given, where)
  local part = options.check(where, given, PART)
  if (part.value == nil) == (part.file == nil) then
    options.fail(where, 'must have either a "value" or a "file"')
  end
  if part.value ~= nil then part.value = url.scalar(part.value) end
  if part.file or part.filename then part.type = part.type or BINARY end
  return part
end

local function parts_of(list, where)
  local parts = {}
  for key in pairs(list) do
    if type(key) ~= "number" then options.fail(where, "must be a list of parts") end
  end
  for i = 1, table.maxn(list) do
    parts[i] = part_of(list[i], string.format("%s[%d]", where, i))
  end
  if #parts == 0 then options.fail(where, "must have at least one part") end
  return parts
end

-- What is wrong when a function does not give what its Content-Length said. Too little would leave
-- the server waiting, and what is too much would be the beginning of another request.
local function other_size(state)
  return nil, errors.new("invalid", string.format(
    "the body's function gave %s bytes than the %d of its Content-Length",
    state.given > state.size and "more" or "less", state.size))
end

-- A script's function as one that gives texts which are not empty, nil at the end, or nil, err; and
-- how far it has come.
local function puller(fn, where)
  local state = { begun = false, given = 0, size = nil }
  local function pull()
    state.begun = true
    while true do
      local text, err = fn()
      if text == nil then
        if err ~= nil and not errors.is(err) then err = errors.new("script", tostring(err)) end
        if err == nil and state.size and state.given < state.size then return other_size(state) end
        return nil, err
      end
      text = secret.reveal(text)
      if type(text) ~= "string" then
        options.fail(where .. ".body", "the function must return texts, and nil at the end; it "
          .. "returned a " .. type(text))
      end
      state.given = state.given + #text
      if state.size and state.given > state.size then return other_size(state) end
      if text ~= "" then return text end
    end
  end
  return pull, state
end

--- Gives a plan its body.
---@param opts table the request's checked options
---@return string|nil content_type what the body is, unless headers say; "" when that is not known
---@return table? err
function body.set(plan, opts, where)
  local given
  for _, name in ipairs(NAMES) do
    if opts[name] ~= nil then
      if given then
        options.fail(where, string.format("%s and %s exclude each other", given, name))
      end
      given = name
    end
  end
  if not given then return "" end
  local value = opts[given]
  if type(value) == "function" and given == "body" then
    plan.pull, plan.pulled = puller(value, where)
    return ""
  elseif given == "file" then
    plan.body_file = value
    return BINARY
  end
  local shown, hidden = reveal(value, 1)
  plan.body_secret = hidden
  if given == "json" then
    local text, err = json.encode(shown)
    if not text then return nil, err end
    plan.body = text
    return "application/json"
  elseif given == "form" then
    plan.body = url.form(shown)
    return "application/x-www-form-urlencoded"
  elseif given == "multipart" then
    plan.parts = parts_of(shown, where .. ".multipart")
    return "multipart/form-data"
  end
  plan.body = shown
  return ""
end

--- The headers of a request without what they say of a body that is not in memory: its length, if
--- it is a function's, is how it is sent; the others tell it themselves.
---@param given table<string, any>
---@return table<string, any>
function body.headers(plan, given, where)
  local rest = {}
  for name, value in pairs(given) do
    local key = value and type(name) == "string" and name:lower()
    if key == "content-type" and plan.parts then
      options.fail(where, '"multipart" sets the Content-Type, with its boundary: leave it out of '
        .. '"headers"')
    elseif key ~= "content-length" then
      rest[name] = value
    elseif not plan.pull then
      options.fail(where, '"file" and "multipart" set the Content-Length: leave it out of '
        .. '"headers"')
    elseif not tostring(value):find "^%d+$" or tonumber(value) > MOST_BYTES then
      options.fail(where, "the Content-Length must be a number of bytes")
    else
      plan.body_size = tonumber(value)
      plan.pulled.size = plan.body_size
    end
  end
  return rest
end

--- Whether a plan has a body, be it an empty one.
---@return boolean
function body.of(plan)
  return (plan.body or plan.body_file or plan.parts or plan.pull) ~= nil
end

--- Whether it comes from a file or a function: it may be of any size and take any time.
---@return boolean
function body.is_streamed(plan)
  return (plan.body_file or plan.parts or plan.pull) ~= nil
end

--- Whether it was taken from a function already, which gives it but once.
---@return boolean
function body.is_spent(plan)
  return plan.pulled ~= nil and plan.pulled.begun
end

--- Takes a plan's body away.
function body.drop(plan)
  for _, name in ipairs(FIELDS) do plan[name] = nil end
end

return body
