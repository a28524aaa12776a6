-- Sinks (sink.lua) on a disk that is a table and outlives the program, which dies at whatever step
-- it is told to: before or after anything that lasts. Targets are "file:NAME", "table:NAME" and
-- "http:NAME".

local json = require "orchestrator.json"

local fake_sinks = {}

local Disk = {}
Disk.__index = Disk

--- A disk: what it has of each target is in `files`.
function fake_sinks.disk()
  return setmetatable({
    files = {},
    steps = 0, -- so far in this process
    dies_at = nil, -- the step it dies at
    dead = false,
    broken = {}, -- target → the err of whatever is written to it
    broken_finish = {}, -- the same of its end
    order = {}, -- targets, as they were committed to
    slow = 0, -- seconds that a commit takes
    during = nil, -- function(target, what), called when something lasting is being done
  }, Disk)
end

--- One step: whatever is not done when the program dies is not done at all.
function Disk:step()
  if not self.dead then
    self.steps = self.steps + 1
    self.dead = self.steps == self.dies_at
  end
  if self.dead then error("killed", 0) end
end

--- A new process.
---@param dies_at integer|nil
function Disk:restart(dies_at)
  self.steps, self.dies_at, self.dead = 0, dies_at, false
end

-- Does something that lasts, if it comes to that.
local function lasting(self, what, fn)
  local disk = self.disk
  disk:step()
  if disk.during then disk.during(self.target, what) end
  if disk.slow > 0 then self.sched:sleep(disk.slow) end
  fn(self.file)
  disk:step()
end

local function append(list, batches)
  for _, batch in ipairs(batches) do
    for _, record in ipairs(batch) do list[#list + 1] = record end
  end
end

local Sink = {}
Sink.__index = Sink

function Sink:encode(records)
  local batch, size = {}, 0
  for i, record in ipairs(records) do
    local text, err = json.encode(record)
    if not text then return nil, err end
    batch[i], size = text, size + #text
  end
  self.disk.encoded = (self.disk.encoded or 0) + 1
  return batch, size
end

function Sink.freeze(_, batches)
  return "\255\0" .. assert(json.encode(batches)) -- as bytes that are no text
end

function Sink.thaw(_, text)
  return assert(json.decode(text:sub(3)))
end

function Sink:finish()
  local broken = self.disk.broken_finish[self.target]
  if broken then return nil, broken end
  lasting(self, "finish", function(file)
    file.finished = true
  end)
  return true
end

function Sink:close(keep)
  self.closed = keep and "kept" or "closed"
  return true
end

-- Adds a window to what is there, by `fn(file)`.
local function write(self, window, fn)
  if self.disk.broken[self.target] then return nil, self.disk.broken[self.target] end
  table.insert(self.disk.order, self.target)
  lasting(self, "commit", fn)
  self.count = self.count + window.records
  return true
end

local File = setmetatable({ goes_back = true, carries = false }, { __index = Sink })
File.__index = File

function File:open(ctx)
  local file, position = self.file, ctx.resume
  if position then
    assert(#file.records >= position.size, "committed records are gone")
    assert(not file.finished or ctx.finishing, "a complete file is written to")
    for i = #file.records, position.size + 1, -1 do file.records[i] = nil end
    self.count = position.count
  else
    if self.mode == "replace" then file.records = {} end
    file.finished = false
  end
  self.position = { size = #file.records, count = self.count }
end

function File:commit(window)
  local ok, err = write(self, window, function(file) append(file.records, window.batches) end)
  if not ok then return nil, err end
  self.position = { size = #self.file.records, count = self.count }
  return self.position
end

local Table = setmetatable({ goes_back = false, carries = true }, { __index = Sink })
Table.__index = Table

function Table:open(ctx)
  local file = self.file
  if file.run ~= ctx.run_id then
    assert(ctx.resume == nil, "the table knows nothing of the run")
    if self.mode == "replace" then file.records = {} end
    file.run, file.window, file.entry, file.count, file.finished = ctx.run_id, 0, nil, 0, false
  end
  self.count = file.count
end

function Table:commit(window)
  if window.number > self.file.window then
    local ok, err = write(self, window, function(file)
      append(file.records, window.batches)
      file.window, file.entry = window.number, window.entry
      file.count = self.count + window.records
    end)
    if not ok then return nil, err end
  end
  return { window = self.file.window, count = self.count }
end

function Table:carried()
  return self.file.window, self.file.entry
end

-- A server that knows a window it has had by its number.
local Http = setmetatable({ goes_back = false, carries = false }, { __index = Sink })
Http.__index = Http

function Http:open(ctx)
  self.count = ctx.resume and ctx.resume.count or 0
  self.run_id = ctx.run_id
end

function Http:commit(window)
  local key = self.run_id .. "/" .. window.number
  local ok, err = write(self, window, function(file)
    local text = json.encode(window.batches)
    local known = file.windows[key]
    assert(known == nil or known:gsub("%],%[", ",") == text:gsub("%],%[", ","),
      "another window with the same key")
    if known then return end
    file.windows[key] = text
    append(file.records, window.batches)
  end)
  if not ok then return nil, err end
  return { count = self.count }
end

local KINDS = { file = File, table = Table, http = Http }

--- Stands in for sink.check.
function fake_sinks.check(given)
  local target = type(given) == "table" and given[1] or given
  local kind = target:match "^(%a+):"
  if not KINDS[kind] then return nil, '"' .. target .. '" is none of ours' end
  return { target = target, kind = kind, goes_back = kind == "file",
    mode = type(given) == "table" and given.mode or nil }
end

--- Stands in for sink.open, with a disk below it.
function fake_sinks.opener(disk)
  return function(spec, ctx)
    disk:step()
    local file = disk.files[spec.target] or { records = {}, windows = {} }
    disk.files[spec.target] = file
    local one = setmetatable({
      target = spec.target, mode = spec.mode or ctx.mode, format = KINDS[spec.kind], count = 0,
      disk = disk, file = file, sched = ctx.sched,
    }, KINDS[spec.kind])
    one:open(ctx)
    file.sink = one
    return one
  end
end

--- What there is at a target, as texts.
function Disk:records(target)
  return self.files[target] and self.files[target].records or {}
end

return fake_sinks
