-- User names and passwords by host from a .netrc file, sent as Basic. The file is read once, when
-- the client is made, and only when a client asks for it. The format is the one of ftp(1), with the
-- quoted values of curl.

local credential = require "orchestrator.credential"
local file = require "orchestrator.core.file"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local netrc = {}

---@class orc.NetrcEntry
---@field login? string
---@field password? string

---@class orc.NetrcFile
---@field machines table<string, orc.NetrcEntry> by host in lower case
---@field default? orc.NetrcEntry

netrc.schema = {
  type = credential.TYPE,
  file = {
    type = "string",
    check = function(path)
      if path == "" or path:find "%z" then
        return nil, "must be the path of a file"
      end
      return path
    end,
  },
}

-- Reading ---------------------------------------------------------------------------------------

local ESCAPED = { n = "\n", r = "\r", t = "\t" }

-- A function that gives one word after the other, and whether it was quoted; nil at the end; nil,
-- problem for a quote that is not closed. `line()` tells where it stands.
local function words_of(text)
  local at = 1
  local words = {}

  function words.line()
    local _, count = text:sub(1, at - 1):gsub("\n", "")
    return count + 1
  end

  function words.skip_line()
    at = (text:find("\n", at, true) or #text) + 1
  end

  -- A macro ends with an empty line.
  function words.skip_macro()
    local _, past = text:find("\n[ \t\r]*\n", at)
    at = (past or #text) + 1
  end

  function words.next()
    at = text:match("^%s*()", at)
    if text:sub(at, at) ~= '"' then
      local word, past = text:match("^(%S+)()", at)
      at = past or at
      return word
    end
    local out, from = {}, at + 1
    while true do
      local special = text:find('["\\\n]', from)
      local byte = special and text:sub(special, special)
      if not special or byte == "\n" then
        return nil, "a quote is not closed"
      end
      out[#out + 1] = text:sub(from, special - 1)
      if byte == '"' then
        at = special + 1
        return table.concat(out)
      end
      local escaped = text:sub(special + 1, special + 1)
      out[#out + 1] = ESCAPED[escaped] or escaped
      from = special + 2
    end
  end

  return words
end

local FIELDS = { login = "login", user = "login", password = "password", passwd = "password",
  account = "account" }

--- Reads the text of a .netrc file. Of several entries for a machine the first one counts.
---@param text string
---@return orc.NetrcFile|nil
---@return string|nil problem "line 3: …", which quotes nothing of the file
function netrc.parse(text)
  local found = { machines = {}, default = nil }
  local words, entry = words_of(text), nil
  local function need()
    local value, problem = words.next()
    if value then return value end
    return nil, ("line %d: %s"):format(words.line(), problem or "the value is missing")
  end
  while true do
    local word, problem = words.next()
    if problem then
      return nil, ("line %d: %s"):format(words.line(), problem)
    elseif not word then
      return found
    elseif word:find "^#" then
      words.skip_line()
    elseif word == "machine" then
      local name
      name, problem = need()
      if not name then return nil, problem end
      entry = {}
      found.machines[name:lower()] = found.machines[name:lower()] or entry
    elseif word == "default" then
      entry = {}
      found.default = found.default or entry
    elseif word == "macdef" then
      words.skip_macro()
    elseif FIELDS[word] and entry then
      entry[FIELDS[word]], problem = need()
      if problem then return nil, problem end
    else
      return nil, ("line %d: there is a word that means nothing here"):format(words.line())
    end
  end
end

-- Hops ------------------------------------------------------------------------------------------

---@class orc.Netrc
---@field entries orc.NetrcFile
---@field fields table<string, table|false> by host, as they are first needed
local Netrc = {}
Netrc.__index = Netrc

local MOST_FIELDS = 1000 -- hosts that are remembered
local READABLE = 36 -- mode 0044: by the group, or by everybody

local function default_path(where)
  local path = os.getenv "NETRC"
  if path and path ~= "" then
    return path
  end
  local home = os.getenv "HOME"
  if not home or home == "" then
    options.fail(where, '"file" is missing, and neither NETRC nor HOME is set')
  end
  return home .. "/.netrc"
end

---@param opts table checked
---@param context table see auth.check
---@return orc.Netrc
function netrc.new(opts, context)
  local path = opts.file or default_path(context.where)
  local handle, problem = io.open(path, "rb")
  local text = handle and handle:read "*a"
  if handle then handle:close() end
  if not text then
    options.fail(context.where, "cannot read " .. (problem or path .. ": it is a directory"))
  end
  local entries
  entries, problem = netrc.parse(text)
  if not entries then
    options.fail(context.where, path .. ": " .. problem)
  end
  local mode = file.mode(path)
  if mode and require("bit").band(mode, READABLE) ~= 0 then
    context.warn(path .. " can be read by other users of this machine: chmod 600 it")
  end
  return setmetatable({ entries = entries, fields = {}, count = 0 }, Netrc)
end

-- The field for a host; false when there is no entry for it.
local function fields_for(self, host)
  local entry = self.entries.machines[host] or self.entries.default
  if not entry or not entry.login then
    return false
  end
  local login = entry.login
  local password = secret.value(entry.password or "")
  return { Authorization = credential.basic(login, password) }
end

---@return true
function Netrc.ready()
  return true
end

--- Puts the credentials of the hop's host on it.
---@param plan table
function Netrc:authorize(plan)
  local host = plan.u.host
  local fields = self.fields[host]
  if fields == nil then
    if self.count == MOST_FIELDS then
      self.fields, self.count = {}, 0
    end
    fields = fields_for(self, host)
    self.fields[host], self.count = fields, self.count + 1
  end
  if fields then
    credential.put(plan, fields)
  end
end

---@return false again
function Netrc.answered()
  return false
end

return netrc
