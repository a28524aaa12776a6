-- Dead letters (dead_letter.lua) as a source: what retry_dead.lua runs again.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local path_template = require "orchestrator.path_template"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"

local letters = {}

local LONGEST = "1GB" -- of a letter
local PAGE = 2000 -- rows read at once

-- Reading ---------------------------------------------------------------------------------------

-- A reader (source.lua) of items whose positions are the letters. What it reads from has
-- next() → where, letter; where, nil, problem; nil; or nil, nil, err.
local Reader = {}
Reader.__index = Reader

function Reader:next()
  local where, letter, problem = self.inner:next()
  if where == nil then return nil, nil, problem end
  if problem or type(letter) ~= "table" or letter.error == nil then
    return nil, nil, errors.new("invalid", string.format("%s is no dead letter%s; mend or remove "
      .. "it, then try again", where, problem and ": " .. problem or ""))
  end
  return letter, letter.item
end

function Reader.where(_, letter)
  return letter.position
end

function Reader:total()
  return self.inner:total()
end

function Reader.ack() end

function Reader:close()
  self.inner:close()
end

local function reader(inner)
  return setmetatable({ inner = inner }, Reader)
end

local function nothing() end

local NONE = { next = nothing, total = function() return 0, true end, close = nothing }

-- Files -----------------------------------------------------------------------------------------

local Lines = {}
Lines.__index = Lines

function Lines:next()
  local position, letter, err = self.lines:next()
  if position == nil then return nil, nil, err end
  return self.lines:where(position), letter, err and err.message
end

function Lines:total()
  return self.lines:total()
end

function Lines:close()
  self.lines:close()
end

local ABSENT = { [2] = true, [20] = true } -- ENOENT, ENOTDIR

--- Whether there is a file. One that cannot be opened may have letters, which must not be taken for
--- none: they would be replaced.
---@return boolean|nil, orc.Error? err
function letters.exist(path)
  local file, problem, code = io.open(path, "rb")
  if file then
    file:close()
    return true
  elseif ABSENT[code] then
    return false
  end
  return nil, errors.new("invalid", string.format("cannot read the dead letters: %s; see to that, "
    .. "then run it again with --retry-dead", problem))
end

--- A file of them as a source (source.lua); without one there are none.
---@param path string
function letters.of_file(path)
  return { open = function()
    local there, err = letters.exist(path)
    if there == nil then return nil, err end
    if not there then return reader(NONE) end
    local lines
    lines, err = source.jsonl(path, { max_line = LONGEST }):open()
    if not lines then return nil, err end
    return reader(setmetatable({ lines = lines }, Lines))
  end }
end

-- Tables ----------------------------------------------------------------------------------------

local Rows = {}
Rows.__index = Rows

function Rows:next()
  if self.at == #self.page then
    if self.count > 0 and self.at < PAGE then return nil end
    -- Nobody else writes to the table: new letters go to another one.
    local result, err = self.db:run { self.db.statement(string.format(
      'SELECT "letter" FROM %s ORDER BY "letter" LIMIT %d OFFSET %d', self.name, PAGE,
      self.count)) }
    if not result then return nil, nil, err end
    self.page, self.at = result.rows, 0
    if #self.page == 0 then return nil end
  end
  self.at, self.count = self.at + 1, self.count + 1
  local text = self.page[self.at][1]
  local letter, err = json.decode(tostring(text))
  return string.format("row %d of %s", self.count, self.name), letter, err and err.message
end

function Rows.total() end

function Rows:close()
  self.db:close()
end

local function open_table(spec, ctx)
  local target = secret.reveal(spec.url)
  local is_file = not target:find "^postgres"
  if is_file then
    local there, problem = letters.exist((path_template.expand(target, ctx)))
    if there == nil then return nil, problem end
    if not there then return reader(NONE) end
  end
  local dialect = require("orchestrator." .. (is_file and "dialect_sqlite" or "dialect_postgres"))
  local db, err = dialect.open(target, ctx)
  if not db then return nil, err end
  local description
  description, err = db:describe(spec.table)
  local readable = false
  for _, column in ipairs(description and description.columns or {}) do
    readable = readable or column.name == "letter"
  end
  if readable then
    return reader(setmetatable({
      db = db, name = '"' .. spec.table:gsub('"', '""') .. '"', page = {}, at = 0, count = 0,
    }, Rows))
  end
  db:close()
  if err then return nil, err end
  if not description or #description.columns == 0 then return reader(NONE) end
  return nil, errors.new("invalid", string.format('%s: the table "%s" has no column "letter", so '
    .. "its rows are no dead letters; name another table in dead_letters", spec.target, spec.table))
end

--- A table of them as a source; without one there are none.
---@param spec table of the sink
---@param ctx table {sched, host, name}
function letters.of_table(spec, ctx)
  return { open = function()
    return open_table(spec, {
      sched = ctx.sched, host = ctx.host, name = ctx.name, run_id = "", started = 0, durable = true,
    })
  end }
end

-- What they say ---------------------------------------------------------------------------------

--- Why a letter is kept as it is, in words; nil when it can be tried again.
---@param p orc.Pipeline
function letters.refusal(p, letter)
  if letter.pipeline ~= p.name then return "it is another pipeline's" end
  return letter.final
end

--- Who its item is, for the journal: the letter, as it stands in the file.
---@return string
function letters.key(letter)
  return assert(json.encode(letter))
end

return letters
