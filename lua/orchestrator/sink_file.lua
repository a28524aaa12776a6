-- Files, and stdout. The extension of the name picks the format, and how it is compressed. A window
-- is written and synced as one, by a thread of the file's own (src/output.h); where it ends is the
-- position that a resumed run goes back to.
--
-- A format says what the bytes are:
--
--   format:encode(records)    batch, size; or nil, err: what a window is made of, an item each
--   format:compose(batches)   the texts of a window, one behind the other; or nil, err
--   format:ending()           what makes a file of the windows so far complete: the next one takes
--                             its place
--   format:adopt(found)       takes over a file to append to: {keep = bytes of it, first = text
--                             before the first window, warning}; or nil, problem
--   format:state(position)    adds to a position what it has to know again: format.new gets it
--   format:widening()         header, columns, delimiter, when rows are to be completed at the end
--   format:freeze(batches)    a text of which format:thaw(text) makes such batches

local errors = require "orchestrator.errors"
local options = require "orchestrator.options"
local path_template = require "orchestrator.path_template"

local sink_file = {}

local FORMATS = {
  jsonl = "orchestrator.format_jsonl",
  csv = "orchestrator.format_csv",
  json = "orchestrator.format_json",
}
local CODECS = { gz = "gzip", zst = "zstd" }

--- What a target may end with, for messages.
sink_file.KNOWN = '"-", .jsonl, .csv and .json, also with .gz or .zst; .sqlite, .db, postgres:// '
  .. "and https://"

-- Options --------------------------------------------------------------------------------------

local CSV = {
  formula_escape = { type = "boolean", default = false },
  columns = {
    type = "table",
    check = function(list)
      local seen = {}
      for key, name in pairs(list) do
        if type(key) ~= "number" or type(name) ~= "string" then
          return nil, "must be a list of names"
        elseif seen[name] then
          return nil, string.format('has "%s" twice', name)
        end
        seen[name] = true
      end
      return #list > 0 and list or nil, "must be a list of names"
    end,
  },
  delimiter = {
    type = "string", default = ",",
    check = function(text)
      if #text == 1 and not text:find '["\r\n%w.+%-\128-\255%z]' then return text end
      return nil, 'must be one ASCII character that is in no number, and no quote or line break, '
        .. 'such as ";"'
    end,
  },
}

local SCHEMA = {
  target = { type = "string" },
  mode = { type = { one_of = { "replace", "append" } } },
  csv = { type = "table" },
}

local function format_of(target)
  if target == "-" then return "jsonl" end
  local stem, extension = target:match "^(.*[^/])%.(%w+)$"
  local codec = extension and CODECS[extension:lower()]
  if codec then extension = stem:match "[^/]%.(%w+)$" end
  extension = extension and extension:lower()
  return FORMATS[extension] and extension, codec
end

--- Whether it can be a file, to be told before anything runs.
---@param given string|table a path, "-", or {path, mode =, csv =}
---@return table|nil spec, string|nil problem
function sink_file.check(given)
  local values = {}
  if type(given) == "table" then
    for key, value in pairs(given) do values[key == 1 and "target" or key] = value end
    for name in pairs(CSV) do
      if values[name] ~= nil then
        options.fail("sink", string.format('"%s" is an option of csv: csv = { %s = … }', name,
          name))
      end
    end
    values = options.check("sink", values, SCHEMA)
  else
    values.target = given
  end
  local target = values.target
  if type(target) ~= "string" then
    return nil, "must be the path of a file, got a " .. type(target)
  end
  local format, codec = format_of(target)
  if not format then
    return nil, string.format('"%s" has no known format (there are %s)', target, sink_file.KNOWN)
  end
  local ok, problem = path_template.check(target)
  if not ok then return nil, problem end
  if values.csv and format ~= "csv" then
    return nil, string.format('"%s" has options for CSV, and is none', target)
  end
  return {
    kind = "file", target = target, format = format, codec = codec, mode = values.mode,
    csv = format == "csv" and options.check("sink.csv", values.csv, CSV) or nil,
  }
end

-- Errors ---------------------------------------------------------------------------------------

local AGAIN = { [true] = "run it again with --resume", [false] = "run it again" }

local ADVICE = {
  full = "make room on the disk, then %s",
  too_large = "raise the limit of a file's size (ulimit -f), then %s",
  denied = "make it and its directory writable, then %s",
  io = "see to the disk, then %s",
}

local LOST = {
  gone = "%s, where the run was to go on, is gone: put it back, or begin anew without --resume",
  shorter = "%s is shorter than what was committed to it (%d bytes): put the whole file back, or "
    .. "begin anew without --resume",
}

local function failure(self, result)
  local name = self.target == "-" and "stdout" or self.target
  local resumed = self.resumed
  if LOST[result.code] and resumed then
    local file = self.mode == "replace" and name .. ".part" or name
    return errors.new("invalid", LOST[result.code]:format(file, resumed.size))
  end
  local text = string.format("cannot write %s: %s", name, result.message)
  local advice = self.target ~= "-" and ADVICE[result.code]
  if advice then text = text .. "; " .. advice:format(AGAIN[self.durable]) end
  return errors.new("invalid", text)
end

-- Has the file's thread do something. Yields.
local function run(self, job)
  local result = self.sched:run_output(self.id, job)
  if result.fault then return nil, failure(self, result) end
  return result
end

-- Opening --------------------------------------------------------------------------------------

---@class orc.FileSink
---@field target string a path, or "-"
---@field format table sinks with the same one share batches
---@field mode "replace"|"append"|"stdout"
---@field count integer records so far
---@field position table where it could be resumed now: {size, count, …}
---@field terminal boolean it writes to a terminal
---@field warning string|nil something the user should know about the file as it was found
local FileSink = {}
FileSink.__index = FileSink
FileSink.goes_back = true
FileSink.carries = false

local function note_position(self, size)
  local position = { size = size, count = self.count, first = self.first }
  self.format:state(position)
  self.position = position
  return position
end

-- Takes over what is in a file that is appended to. Yields.
local function adopt(self, size)
  local found, err = run(self, { op = "scan", delimiter = self.format.delimiter })
  if not found then return nil, err end
  found.compressed = self.codec ~= nil
  local plan, problem
  if found.whole > 0 then
    plan, problem = self.format:adopt(found)
  else -- a run that was killed may have left that, or somebody else a file of one frame
    problem = "all of it is one torn frame: repair or remove it"
  end
  if not plan then
    return nil, errors.new("invalid",
      string.format("cannot append to %s: %s", self.target, problem))
  end
  self.first = plan.first
  local warning = plan.warning
  if found.whole < size then
    warning = string.format("cut a torn end of %d bytes, left by a run that was killed",
      size - found.whole)
  end
  if warning then self.warning = string.format("%s: %s", self.target, warning) end
  if plan.keep < size then return run(self, { op = "keep", keep = plan.keep }) end
  return found
end

local function begin(self, path)
  local resumed = self.resumed
  local opened, err = run(self, {
    op = "open", path = path, mode = self.mode, codec = self.codec, durable = self.durable,
    resume = resumed and resumed.size, finishing = self.finishing,
  })
  if not opened then return nil, err end
  self.terminal, self.finished = opened.terminal, opened.finished
  local size = opened.size
  if self.mode == "append" and not resumed and size > 0 then
    local kept
    kept, err = adopt(self, size)
    if not kept then return nil, err end
    size = kept.size
  end
  note_position(self, resumed and resumed.size or size)
  return true
end

--- Opens it. Yields.
---@param spec table from `check`
---@param ctx table
---@return orc.FileSink|nil, orc.Error? err
function sink_file.open(spec, ctx)
  local stdout = spec.target == "-"
  local path, problem = spec.target, nil
  if not stdout then path, problem = path_template.expand(path, ctx) end
  local id
  if path then id, problem = ctx.host.output_create() end
  if not id then
    return nil, errors.new("invalid", string.format("cannot write %s: %s", spec.target, problem))
  end
  local mode = stdout and "stdout" or spec.mode or ctx.mode or "replace"
  local resumed = ctx.resume
  local self = setmetatable({
    sched = ctx.sched, host = ctx.host, id = id,
    target = path, mode = mode, codec = spec.codec, durable = ctx.durable == true and not stdout,
    finishing = ctx.finishing, resumed = resumed,
    count = resumed and resumed.count or 0,
    format = require(FORMATS[spec.format]).new(mode, spec.csv, resumed),
    first = resumed and resumed.first, -- text before the first window
    finished = false,
    terminal = false, warning = nil, position = nil,
  }, FileSink)
  local ok, err = begin(self, path)
  if ok then return self end
  ctx.host.output_close(id, false)
  return nil, err
end

-- Writing --------------------------------------------------------------------------------------

--- Makes of an item's records what a window is made of. Does not wait.
---@return any batch, integer|orc.Error size in bytes; or nil, err of kind "invalid" that names
---  where in the records
function FileSink:encode(records)
  return self.format:encode(records)
end

--- Writes a window and waits until it is there to stay. Yields. An error is for good.
---@param window table {batches, records}
---@return table|nil position, orc.Error? err
function FileSink:commit(window)
  local texts, err = self.format:compose(window.batches)
  if not texts then return nil, err end
  if self.first then
    texts = { self.first, unpack(texts) }
    self.first = nil
  end
  local result
  result, err = run(self, {
    op = "write", texts = texts, closer = self.format:ending(), sync = self.durable,
  })
  if not result then return nil, err end
  self.count = self.count + window.records
  return note_position(self, result.size)
end

function FileSink:freeze(batches)
  return self.format:freeze(batches)
end

function FileSink:thaw(text)
  return self.format:thaw(text)
end

-- Ending ---------------------------------------------------------------------------------------

--- The run is complete: the file gets its name. Yields. May be repeated after a crash.
---@return boolean|nil, orc.Error? err
function FileSink:finish()
  if self.finished then return true end
  local header, columns, delimiter = self.format:widening()
  local result, err = run(self, {
    op = "finish", closer = self.format:ending(), header = header, columns = columns,
    delimiter = delimiter,
  })
  if not result then return nil, err end
  self.finished = true
  return true
end

--- Ends it, finished or not. Does not wait for more than the job that runs.
---@param keep boolean an unfinished file may be resumed
---@return boolean|nil, orc.Error? err
function FileSink:close(keep)
  if self.id then
    self.host.output_close(self.id, not keep)
    self.id = nil
  end
  return true
end

return sink_file
