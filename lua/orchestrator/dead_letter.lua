-- Items that failed for good and records that are bad, kept with the reason: a letter each, in a
-- sink of their own (sink.lua) that is committed with the others. So each is there once, however
-- often the run was killed.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local presentable = require "orchestrator.presentable"
local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"

local dead_letter = {}

local EXCERPT = 2048 -- bytes of an error's body, and of a request's

-- What a letter may have besides what each has. A table or a CSV file wants all of them, and a
-- table has the whole letter as a text too: what letters.lua reads, whatever the columns hold.
local FIELDS = { "request", "url", "excerpt", "record", "final" }

-- Where they go ------------------------------------------------------------------------------

--- The file they are in unless the pipeline says otherwise: beside the first file that it writes,
--- or above what changes with every run.
---@param name string the pipeline's
---@param specs table[] its sinks
function dead_letter.path(name, specs)
  local directory = ""
  for _, spec in ipairs(specs) do
    local target = spec.target
    if target ~= "-" and not target:find "^%a+://" then
      directory = target:gsub("[^/]*{.*$", ""):match "^(.*/)" or ""
      break
    end
  end
  return directory .. name:gsub("[{}]", "%0%0") .. ".dead.jsonl"
end

--- The sink of a pipeline's dead letters.
---@param given any the option `dead_letters`, or nil
---@param name string the pipeline's
---@param specs table[] its sinks
---@param mode string its mode
---@return table|nil spec, string|nil problem
function dead_letter.spec(given, name, specs, mode)
  local spec, problem = sink.check(given == nil and dead_letter.path(name, specs) or given)
  if not spec then return nil, problem end
  if spec.target == "-" then return nil, "must be a file or a table: stdout is for records" end
  if spec.target:find "^https?://" then
    return nil, "must be a file or a table: --retry-dead could not read them from a server"
  end
  spec.mode = spec.mode or (mode == "replace" and "replace" or "append")
  if spec.kind == "table" then spec.table = spec.table or name .. "_dead" end
  for _, other in ipairs(specs) do
    if other.target:gsub("^%./+", "") == spec.target:gsub("^%./+", "")
      and (spec.kind ~= "table" or (other.table or name) == spec.table) then
      return nil, string.format('"%s" is one of the sinks of the records', spec.target)
    end
  end
  return spec
end

-- The sink -----------------------------------------------------------------------------------

-- A sink whose batches are letters; the one below it makes of them what its format wants. A file
-- that takes the place of another one is opened for the first letter.
---@class orc.LetterSink : orc.Sink
local Letters = {}
Letters.__index = Letters

local function inner_of(self)
  if self.inner then return self.inner end
  local opened, err = self.open(self.spec)
  self.inner = opened
  return opened, err
end

-- Without NUL bytes, which some databases have no text for.
local function without_nul(value)
  if type(value) == "string" then return (value:gsub("%z", "\239\191\189")) end
  if type(value) ~= "table" then return value end
  local copy = setmetatable({}, getmetatable(value))
  for key, member in pairs(value) do copy[without_nul(key)] = without_nul(member) end
  return copy
end

local function encode(inner, letter)
  local batch, err = inner:encode { letter }
  if batch then return batch end
  letter = without_nul(letter)
  if letter.letter == nil then letter.final = letter.final or "the item had a NUL byte" end
  local again = inner:encode { letter }
  if again then return again end
  return nil, err
end

function Letters:claim()
  if not self.inner or not self.inner.claim then return true end
  return self.inner:claim()
end

function Letters:commit(window)
  local inner, err = inner_of(self)
  if not inner then return nil, err end
  local batches = {}
  for i, letter in ipairs(window.batches) do
    batches[i], err = encode(inner, letter)
    if not batches[i] then return nil, err end
  end
  local position
  position, err = inner:commit {
    number = window.number, batches = batches, records = window.records, entry = window.entry,
  }
  if position == nil then return nil, err end
  self.count = self.count + window.records
  return { count = self.count, position = position }
end

function Letters.freeze(_, batches)
  return assert(json.encode(json.array(batches)))
end

function Letters.thaw(_, text)
  return assert(json.decode(text))
end

function Letters:finish()
  if not self.inner then return true end
  return self.inner:finish()
end

function Letters:close(keep)
  if not self.inner then return true end
  return self.inner:close(keep)
end

-- Letters ------------------------------------------------------------------------------------

---@class orc.DeadLetters
local DeadLetters = {}
DeadLetters.__index = DeadLetters

---@param opts table {spec, open: fun(spec, position): orc.Sink|nil, err (yields), pipeline: string
---  its name, run_id, wall: fun(): number unix seconds, outputs: orc.Outputs that they are added
---  to, position: any that the journal has of them}
---@return orc.DeadLetters
function dead_letter.new(opts)
  local spec = opts.spec
  return setmetatable({
    spec = spec, outputs = opts.outputs, position = opts.position,
    pipeline = opts.pipeline, run_id = opts.run_id, wall = opts.wall,
    plain = spec.target:find "%.json" ~= nil, -- what there is not may be left out
    sink = setmetatable({
      spec = spec, open = opts.open, inner = nil,
      target = spec.target, mode = spec.mode, count = 0, format = Letters,
      goes_back = true, carries = false,
    }, Letters),
  }, DeadLetters)
end

local function is_file(spec)
  return spec.kind ~= "table" and spec.kind ~= "http"
end

--- Opens what has to be open from the beginning. Yields.
---@return boolean|nil, orc.Error? err
function DeadLetters:begin()
  local spec, letters = self.spec, self.sink
  -- What is added to has to be known as it was before.
  local lazy = is_file(spec) and spec.mode == "replace" and not spec.target:find "{"
  if self.position or not lazy then
    local known = self.position or {}
    local opened, err = letters.open(spec, known.position)
    if not opened then return nil, err end
    letters.inner, letters.count = opened, known.count or 0
    letters.goes_back, letters.carries = opened.goes_back, opened.carries
    if opened.carries then
      function letters.carried() return opened:carried() end
    end
    letters.position = { count = letters.count, position = opened.position }
  end
  self.outputs:add_dead(letters)
  return true
end

local BODIES = { "body", "json", "form", "multipart", "file" }

-- What was asked for, as far as it tells requests apart. Its headers are left out, as credentials
-- may be among them that nobody has called a secret.
local function request_of(given)
  if type(given) == "string" or secret.is(given) then
    return { method = "GET", url = (presentable.of(given)) }
  elseif type(given) ~= "table" then
    return nil
  end
  local method = given.method
  for _, name in ipairs(BODIES) do
    if method == nil and given[name] ~= nil then method = "POST" end
  end
  local body = given.json ~= nil and given.json or given.form ~= nil and given.form or given.body
  if type(body) == "table" and not secret.is(body) then
    body = json.encode((presentable.of(body)))
  elseif type(body) == "function" then
    body = nil
  end
  return {
    method = (presentable.of(method or "GET")),
    url = (presentable.of(given.url)),
    query = (presentable.of(given.query)),
    body = body ~= nil and (presentable.of(tostring(body), EXCERPT)) or nil,
  }
end

local function final_reason(unread, same_item, same_record)
  if unread then return "the source could not read the item" end
  if same_item and same_record then return nil end
  return "its " .. (same_item and "record" or "item")
    .. " is not here as it was: secrets are masked, and what JSON has no form for is a text"
end

--- A letter as a batch of theirs. Secrets in it are masked.
---@param item any
---@param err table
---@param where string "item 3", "urls.txt:17"
---@param more table|nil {request = what was given to fetch, record = the bad record, tried = how
---  many attempts an earlier letter of it had, unread = the item is not one}
---@return table|nil letter, integer|orc.Error size in bytes, roughly; or the err
function DeadLetters:letter(item, err, where, more)
  more = more or {}
  local body = err.response and err.response.body
  local shown, same = presentable.of(item)
  local record, same_record = presentable.of(more.record)
  local letter = {
    item = shown,
    position = (presentable.of(where)),
    request = request_of(more.request),
    url = (presentable.of(err.url)),
    error = { kind = err.kind, message = (presentable.of(err.message)), status = err.status },
    attempts = (err.attempts or 0) + (more.tried or 0),
    excerpt = body and (presentable.of(body, EXCERPT)) or nil,
    record = record,
    final = final_reason(more.unread, same, same_record),
    at = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.wall())),
    pipeline = self.pipeline,
    run_id = self.run_id,
  }
  if letter.item == nil then letter.item = json.null end
  return self:again(letter)
end

--- The batch of a letter that is kept as it is.
function DeadLetters:again(letter)
  local text, err = json.encode(letter)
  if not text then return nil, err end
  if not self.plain then
    local row = {}
    for name, value in pairs(letter) do row[name] = value end
    for _, name in ipairs(FIELDS) do
      if row[name] == nil then row[name] = json.null end
    end
    if self.spec.kind == "table" then row.letter = text end
    letter = row
  end
  return letter, #text
end

local function remove(path)
  local ok, problem, code = os.remove(path)
  if ok or code == 2 then return true end -- ENOENT
  return nil, errors.new("invalid", problem .. ": remove it, then go on with --resume")
end

local function exists(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

local function is_empty(path)
  local file = io.open(path, "rb")
  local size = file and file:seek "end"
  if file then file:close() end
  return size == 0
end

--- Ends them, whether the run is complete or has failed for good; without any there is no file.
--- Can be repeated. Yields.
---@param supersede boolean the run took the place of an earlier one, whose letters go if this one
---  has none
---@return boolean|nil, orc.Error? err
function DeadLetters:finish(supersede)
  local letters, spec = self.sink, self.spec
  local replaces, none = spec.mode == "replace", letters.count == 0 and is_file(spec)
  if none and replaces and not supersede then return true end
  local ok, err
  if none and replaces and exists(spec.target) then
    -- An empty file takes its place first, in a way that lasts: what is removed may be there again
    -- after a loss of power.
    ok, err = inner_of(letters)
    if not ok then return nil, err end
  end
  ok, err = letters:finish()
  if not ok then return nil, err end
  local target = letters.inner and letters.inner.target or spec.target
  if none and (replaces or (letters.inner and is_empty(target))) then
    if replaces then ok, err = remove(target .. ".part") end
    if ok then ok, err = remove(target) end
  end
  return ok, err
end

--- Where they are now; nil when there are none.
---@param keep boolean the run is to be resumed
---@return string|nil
function DeadLetters:kept_in(keep)
  local letters = self.sink
  if letters.count == 0 then return nil end
  local target = letters.inner and letters.inner.target or letters.target
  if self.spec.kind == "table" and self.spec.table then
    return target .. ", table " .. self.spec.table
  end
  return keep and is_file(self.spec) and self.spec.mode == "replace" and target .. ".part"
    or target
end

return dead_letter
