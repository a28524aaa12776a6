-- Passes over the items of a source that an earlier session of the run has put through. Chunks of
-- the source whose items are all through are known by their hash (journal.lua); within others each
-- item is looked up by its identity, as often as it was put through: of equal items it does not
-- matter which.
--
-- When a place of the source that was through has another item now, the source has changed. From
-- that chunk on no hash says anything, since what was put through may be at any place.

local journal = require "orchestrator.journal"

local floor = math.floor

local resume = {}

---@class orc.Resume
---@field skipped integer items passed over so far
local Resume = {}
Resume.__index = Resume

-- Adds the items of before that `wanted(chunk)` says to those that are looked up. Yields.
local function load(self, from, wanted)
  local placed, hashed = self.placed, self.journal.hashed or math.huge
  return self.journal:items(from, function(place, id)
    local chunk = floor((place - 1) / journal.CHUNK)
    if wanted(chunk) then
      self.known[id] = (self.known[id] or 0) + 1
      self.left = self.left + 1
      if placed and chunk < hashed then placed[place] = id end
    end
  end)
end

--- Yields.
---@param kept orc.Journal
---@param opts table {take: fun(): job|nil (the next of the source, with `id`; may yield),
---  warn: fun(text), skip: fun(job) (it is passed over)}
---@return orc.Resume|nil, orc.Error? err
function resume.new(kept, opts)
  local hashes, err = kept:hashes()
  if not hashes then return nil, err end
  local self = setmetatable({
    journal = kept, take = opts.take, warn = opts.warn, skip = opts.skip,
    hashes = hashes, -- by the chunk's number
    known = {}, left = 0, -- identity → how many of it are through, in no chunk with a hash; all
    placed = {}, -- the same by their places, until it shows that the source has changed
    queue = {}, head = 1, -- items read ahead
    place = 0, -- items of the source that were read
    skipped = 0,
  }, Resume)
  local ok
  ok, err = load(self, 1, function(chunk) return not hashes[chunk] end)
  if not ok then return nil, err end
  return self
end

-- The source is not the one of before, which shows in a chunk: from there on each item is looked
-- up. `same` are the items before.
local function differ(self, chunk, same)
  local hashes = self.hashes
  self.hashes, self.placed = {}, nil
  self.warn(string.format("the source has changed since: it is another one after item %d, before "
    .. "which it is the same; the items done are looked up one by one", same))
  local ok, err = load(self, chunk * journal.CHUNK + 1, function(number)
    return number >= chunk and hashes[number] ~= nil
  end)
  if not ok then return nil, err end
  return self.journal:rebase(chunk)
end

-- Reads a chunk that should be known. Passes over it, or queues its items.
local function chunk_ahead(self, number)
  local jobs, ids = {}, {}
  for i = 1, journal.CHUNK do
    local job, err = self.take()
    if not job then
      if err then return nil, err end
      break
    end
    self.place = self.place + 1
    jobs[i], ids[i] = job, job.id
  end
  if #jobs == journal.CHUNK and journal.hash(ids) == self.hashes[number] then
    self.hashes[number] = nil
    for i = 1, journal.CHUNK do self.skip(jobs[i]) end
    self.skipped = self.skipped + journal.CHUNK
    return true
  end
  self.queue, self.head = jobs, 1
  return differ(self, number, number * journal.CHUNK)
end

local function next_of(self)
  local job = self.queue[self.head]
  if job then
    self.queue[self.head] = nil
    self.head = self.head + 1
    return job
  end
  local chunk = self.place / journal.CHUNK
  if chunk == floor(chunk) and self.hashes[chunk] then
    local ok, err = chunk_ahead(self, chunk)
    if not ok then return nil, err end
    return next_of(self)
  end
  local err
  job, err = self.take()
  if job then self.place = self.place + 1 end
  return job, err
end

--- The next item that is not through, nil at the end. Yields.
---@return table|nil job, orc.Error? err
function Resume:next()
  while true do
    local job, err = next_of(self)
    if not job then return nil, err end
    local before = self.placed and self.placed[job.place]
    if before and before ~= job.id then
      local ok
      ok, err = differ(self, floor((job.place - 1) / journal.CHUNK), job.place - 1)
      if not ok then return nil, err end
    end
    local count = self.known[job.id]
    if not count then return job end
    self.known[job.id] = count > 1 and count - 1 or nil
    self.left, self.skipped = self.left - 1, self.skipped + 1
    self.journal:known(job.place, job.id)
    self.skip(job)
  end
end

--- The source has come to its end.
function Resume:ended()
  local left = self.left
  for _ in pairs(self.hashes) do left = left + journal.CHUNK end -- those read were taken out
  if left == 0 then return end
  self.warn(string.format("%d item%s done before %s not in the source any more; what came of %s is "
    .. "kept", left, left == 1 and "" or "s", left == 1 and "is" or "are",
    left == 1 and "it" or "them"))
end

return resume
