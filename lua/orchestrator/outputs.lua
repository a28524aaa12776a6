-- The sinks of a run as one: every record goes to all of them, and they are completed together.
-- They have a window of records one after another, those first that can go back to where they were;
-- of the others the journal's entry is part (sink.lua) or, where that is not enough, the window is
-- noted down in the journal before they get it.

local errors = require "orchestrator.errors"
local journal = require "orchestrator.journal"
local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"
local grouped = require("orchestrator.summary").grouped

local outputs = {}

---@class orc.Outputs
local Outputs = {}
Outputs.__index = Outputs

-- A sink with options of its own is a table too, with names in it.
local function is_list(value)
  if type(value) ~= "table" or secret.is(value) then return false end
  for key in pairs(value) do
    if type(key) ~= "number" then return false end
  end
  return true
end

--- Reads the option `sink`: a target or a list of them.
---@return table[]|nil specs, string|nil message
function outputs.check(value)
  local list = is_list(value) and value or { value }
  local specs, seen = {}, {}
  for i, given in ipairs(list) do
    local spec, problem = sink.check(given)
    if not spec then return nil, problem end
    local path = spec.target:gsub("^%./+", "")
    if spec.table then path = path .. " " .. spec.table end
    if seen[path] then return nil, string.format('names "%s" twice', spec.target) end
    seen[path], specs[i] = true, spec
  end
  if #specs == 0 then return nil, "must name at least one target" end
  return specs
end

--- How a table is named to people; a target that has none is named by itself.
---@param target string
---@param name string|nil the table's
---@return string
function outputs.table_of(target, name)
  return name and string.format("%s, table %s", target, name) or target
end

---@return orc.Outputs without any sink so far
function outputs.new()
  return setmetatable({
    sinks = {}, -- owned, by their place among the targets; the dead letters' is "dead"
    order = {}, -- the places in the order of commits
    formats = {}, -- the sinks' formats, each once, as the sink to ask
    settled = 0, -- how many of them can not go back
    counts = {}, -- by place: records that a resumed run would find there
  }, Outputs)
end

-- Whether the journal has to know a window before the sinks do.
local function must_prepare(self)
  if self.settled == 0 then return false end
  local last = self.order[#self.order]
  -- The dead letters are opened too late for the journal to catch up with them.
  return self.settled > 1 or last == "dead" or not self.sinks[last].carries
end

-- Opening ----------------------------------------------------------------------------------------

local function add(self, place, opened)
  self.sinks[place], self.counts[place] = opened, opened.count
  if opened.goes_back then
    table.insert(self.order, #self.order - self.settled + 1, place)
  else
    self.settled = self.settled + 1
    self.order[#self.order + 1] = place
  end
  if place == "dead" then return end
  for _, other in ipairs(self.formats) do
    if other.format == opened.format then return end
  end
  self.formats[#self.formats + 1] = opened
end

local COPIED = "%s has %d windows of run %s, and the journal %d: one of them was put back from a "
  .. "copy; run it without --resume"

-- Where the only sink that cannot go back has the entry of a window that the journal has not, the
-- journal takes it from there. Yields.
local function catch_up(kept, carrier)
  local number, text = carrier:carried()
  if number == kept.number + 1 and text then
    return kept:commit(journal.unpack(text))
  elseif number ~= kept.number then
    return nil, errors.new("invalid", COPIED:format(carrier.target, number, kept.run_id,
      kept.number))
  end
  return true
end

-- Whether those that say what they have got have just the windows that the journal knows of: as it
-- notes them down before, that is all it takes.
local function check_windows(self, kept)
  local prepared = kept.prepared
  for _, place in ipairs(self.order) do
    local one, known = self.sinks[place], kept.positions[place]
    local has = one.carried and one:carried()
    known = known and (known.position or known) -- the dead letters' is around that of a table
    local may = prepared and prepared.batches[place] and prepared.number
    if has and has ~= (known and known.window or 0) and has ~= may then
      return nil, errors.new("invalid", COPIED:format(one.target, has, kept.run_id, kept.number))
    end
  end
  return true
end

-- Gives the window that the journal had noted down to the sinks that may lack it. Yields.
local function repeat_prepared(self, kept)
  local prepared = kept.prepared
  local entry = journal.unpack(prepared.entry)
  for _, place in ipairs(self.order) do
    local text, one = prepared.batches[place], self.sinks[place]
    if text then -- a sink that has it already only says where it is
      local position, err = one:commit {
        number = entry.number, batches = one:thaw(text.batches), records = text.records,
      }
      if not position then return nil, err end
      entry.positions[place] = position
    end
  end
  kept.prepared = nil
  return kept:commit(entry)
end

--- Opens the sinks. Those opened before one that cannot be are closed by `close`. Yields.
---@param specs table[]
---@param kept orc.Journal|nil
---@param open fun(spec: table, resume: any): orc.Sink|nil, table|nil
---@param alone boolean the dead letters' sink, which is added later, can go back
---@return boolean|nil, table|nil err
function Outputs:open(specs, kept, open, alone)
  local later, list = {}, {}
  for i, spec in ipairs(specs) do list[i] = { place = tostring(i), spec = spec } end
  local function positioned(one)
    local resume
    if kept then resume = kept.positions[one.place] end
    local opened, err = open(one.spec, resume)
    if not opened then return nil, err end
    add(self, one.place, opened)
    return true
  end
  for _, one in ipairs(list) do
    if one.spec.goes_back then
      later[#later + 1] = one
    else
      local ok, err = positioned(one)
      if not ok then return nil, err end
    end
  end
  local carrier = alone and self.settled == 1 and self.sinks[self.order[1]]
  if kept and kept.sessions > 1 and carrier and carrier.carries and not kept.prepared then
    local ok, err = catch_up(kept, carrier)
    if not ok then return nil, err end
  end
  for _, one in ipairs(later) do
    local ok, err = positioned(one)
    if not ok then return nil, err end
  end
  return true
end

--- Adds the sink of the dead letters.
function Outputs:add_dead(opened)
  add(self, "dead", opened)
end

--- All are open, so no other run has any of them. Takes over those that another run may have left.
--- Yields.
---@return boolean|nil, table|nil err
function Outputs:claim()
  for _, place in ipairs(self.order) do
    local one = self.sinks[place]
    if one.claim then
      local ok, err = one:claim()
      if not ok then return nil, err end
    end
  end
  return true
end

--- All are open. Notes where those are that can go back there, before anything is written; on a
--- resume, gives what was noted down of a window to those that lack it. Yields.
---@return boolean|nil, table|nil err
function Outputs:begin(kept)
  if not kept then return true end
  if must_prepare(self) then
    local ok, err = check_windows(self, kept)
    if not ok then return nil, err end
  end
  if kept.prepared then return repeat_prepared(self, kept) end
  local fresh = false
  for _, place in ipairs(self.order) do
    local one = self.sinks[place]
    if one.goes_back and kept.positions[place] == nil then
      kept.positions[place], fresh = one.position, true
    end
  end
  if not fresh then return true end
  return kept:place()
end

-- Writing ----------------------------------------------------------------------------------------

--- The batch for every format.
---@return table|nil batches, integer|table size in bytes; or the err when a record cannot be
---  written in one of them
function Outputs:encode(records)
  local batches, all = {}, 0
  for i = 1, #self.formats do
    local batch, size = self.formats[i]:encode(records)
    if not batch then return nil, size end
    batches[self.formats[i].format] = batch
    all = all + size
  end
  return batches, all
end

--- Tells the records that a sink refuses from the others.
---@param bad table[]|nil those that are bad already: {record, reason}
---@return table good, table[]|nil bad
function Outputs:sift(records, bad)
  local good = {}
  for i = 1, #records do
    local batches, err = self:encode { records[i] }
    if batches then
      good[#good + 1] = records[i]
    else
      bad = bad or {}
      bad[#bad + 1] = { record = records[i], reason = err.message }
    end
  end
  return good, bad
end

-- What a sink gets of a window: its batches, and how many records they are.
local function share_of(place, one, jobs)
  local batches, records = {}, 0
  for i = 1, #jobs do
    local job = jobs[i]
    if place == "dead" then
      for _, letter in ipairs(job.letters or {}) do
        batches[#batches + 1], records = letter, records + 1
      end
    elseif job.count and job.count > 0 then
      batches[#batches + 1], records = job.batches[one.format], records + job.count
    end
  end
  return batches, records
end

--- Makes a window last: in the sinks, then in the journal. Yields.
---@param jobs table[] {batches, count, letters}
---@param kept orc.Journal|nil
---@param entry table|nil the journal's
---@return boolean|nil, table|nil err
function Outputs:commit(jobs, kept, entry)
  local shares, frozen = {}, {}
  local prepares = kept ~= nil and must_prepare(self)
  for _, place in ipairs(self.order) do
    local one = self.sinks[place]
    local batches, records = share_of(place, one, jobs)
    shares[place] = { batches = batches, records = records }
    if prepares and #batches > 0 then
      frozen[place] = { batches = one:freeze(batches), records = records }
    end
  end
  if prepares and next(frozen) then
    local ok, err = kept:prepare(entry, frozen)
    if not ok then return nil, err end
  end
  self.number = entry and entry.number or (self.number or 0) + 1
  for _, place in ipairs(self.order) do
    local one, share = self.sinks[place], shares[place]
    local carries = entry ~= nil and one.carries and not prepares
    if #share.batches > 0 or carries then
      local position, err = one:commit {
        number = self.number, batches = share.batches, records = share.records,
        entry = carries and journal.pack(entry) or nil,
      }
      if not position then return nil, err end
      if entry then entry.positions[place] = position end
    end
  end
  if kept then
    local ok, err = kept:commit(entry)
    if not ok then return nil, err end
  end
  for place, one in pairs(self.sinks) do self.counts[place] = one.count end
  return true
end

-- Ending -----------------------------------------------------------------------------------------

local function name_of(one)
  if one.target == "-" then return "stdout" end
  return outputs.table_of(one.target, one.carries and one.name)
end

-- The sinks of the records, in the order of the targets.
local function each(self)
  local list = {}
  for place, one in pairs(self.sinks) do
    if place ~= "dead" then list[tonumber(place)] = one end
  end
  return list
end

--- The run is complete: so are they, all or none of those that can still fail. Yields.
---@return boolean|nil, table|nil err
function Outputs:finish()
  for _, place in ipairs(self.order) do
    local ok, err = self.sinks[place]:finish()
    if not ok then return nil, err end
  end
  return true
end

--- Lets go of the sinks, finished or not.
---@param keep boolean what is committed waits for a resume
---@return table|nil err the first thing that went wrong
function Outputs:close(keep)
  local failure
  for _, place in ipairs(self.order) do
    local ok, err = self.sinks[place]:close(keep)
    if not ok then failure = failure or err end
  end
  return failure
end

--- What became of each, for people.
---@param complete boolean
---@param keep boolean
---@return string[]
function Outputs:outcomes(complete, keep)
  local list = {}
  local function records(n) return grouped(n) .. (n == 1 and " record" or " records") end
  for i, one in ipairs(each(self)) do
    local count = records(one.count)
    if one.target:find "^https?://" then -- what was sent is there
      list[i] = string.format("%s sent to %s", count, one.target)
    elseif complete or one.mode ~= "replace" or one.target == "-" then
      list[i] = string.format("%s to %s", count, name_of(one))
    elseif keep then
      local n = self.counts[tostring(i)]
      list[i] = string.format("%s is as it was; %s wait%s for --resume", name_of(one), records(n),
        n == 1 and "s" or "")
    else
      list[i] = name_of(one) .. " is as it was"
    end
  end
  return list
end

return outputs
