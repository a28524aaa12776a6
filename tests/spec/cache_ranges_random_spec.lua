-- Ranges under random requests, of a thing that changes: whatever is answered out of what is stored
-- has to be bytes of one version of it, and those that are told. A failure names its seed:
-- PROPERTIES_SEED=n PROPERTIES_RUNS=1 plays that one alone.

local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local cache_ranges = require "orchestrator.cache_ranges"
local case = require "cache_case"
local fake_host = require "fake_host"
local fields = require "orchestrator.cache_fields"

local SEED = tonumber(os.getenv "PROPERTIES_SEED") or os.time() * 100
local RUNS = tonumber(os.getenv "PROPERTIES_RUNS") or 1000
local STEPS, SIZE = 15, 8

local function must(ok, message, ...)
  if not ok then error(message:format(...), 0) end
end

-- What a version is: no byte of it is the same in the next one.
local function bytes_of(version)
  local letters = {}
  for i = 1, SIZE do letters[i] = string.char(97 + (version * 5 + i) % 26) end
  return table.concat(letters)
end

local World = {}
World.__index = World

local function world(seed)
  local random = fake_host.generator(seed * 7919 % 2 ^ 32)
  for _ = 1, 5 do random() end
  local self = setmetatable({ now = case.NOW, version = 1, stored = {}, bodies = {} }, World)
  function self.up_to(n) return math.floor(random() * n) + 1 end
  function self.chance(p) return random() < p end
  function self.pick(list) return list[self.up_to(#list)] end
  self.tag = self.pick { '"%d"', '"%d"', 'W/"%d"', false }
  return self
end

function World:range()
  if self.chance(0.3) then return nil end
  local first = self.up_to(SIZE) - 1
  return self.pick {
    string.format("bytes=%d-%d", first, first + self.up_to(SIZE) - 1),
    string.format("bytes=%d-", first), string.format("bytes=-%d", self.up_to(SIZE)),
  }
end

-- What the server answers: now and then more or less than it was asked for.
function World:answer(range, from)
  local all, told = bytes_of(self.version), { ["Cache-Control"] = "max-age=50" }
  -- A weak tag is that of two versions.
  local weak = self.tag and self.tag:find "^W"
  told.ETag = self.tag and self.tag:format(weak and math.floor(self.version / 2) or self.version)
    or nil
  told["X-Version"] = tostring(self.version)
  local first, last
  if range and (not from or from == told.ETag) then
    first, last = fields.resolve(fields.range(range), SIZE)
  end
  if first and not self.chance(0.1) then
    if self.chance(0.2) then last = math.min(SIZE - 1, last + 1) end
    local body = all:sub(first + 1, last + 1)
    if #body > 1 and self.chance(0.1) then body = body:sub(1, -2) end
    told["Content-Range"] = string.format("bytes %d-%d/%s", first, last,
      self.chance(0.2) and "*" or SIZE)
    if self.chance(0.5) then told["Content-Length"] = tostring(#body) end
    return 206, told, body
  end
  return 200, told, all
end

-- What cache.lua does with what came.
function World:store(entry, body)
  local kept = {}
  for _, other in ipairs(self.stored) do
    local combined, all = cache_ranges.combined(other, self.bodies[other], entry, body)
    local alike = cache_ranges.are_alike(entry, other)
    if combined then
      entry, body = combined, all
    elseif entry.range and (alike or not other.range) then
      kept[#kept + 1] = other
    end
  end
  kept[#kept + 1] = entry
  self.stored, self.bodies[entry] = kept, body
end

-- The bytes that an answer tells of, of the version that it is of.
local function check(status, entry, text)
  local all = bytes_of(tonumber(cache_entry.get(entry, "x-version")))
  local told = cache_entry.get(entry, "content-range")
  must((status == 206) == (told ~= nil), "a %d with range %s", status, told)
  local first, last, size = 0, SIZE - 1, SIZE
  if told then first, last, size = fields.content_range(told) end
  must(text == all:sub(first + 1, first + #text), "%s for %s of %s", text, told, all)
  must(#text > 0 and (not told or #text <= last - first + 1), "%s for %s", text, told)
  must(told or text == all, "%s for all of %s", text, all)
  return first, size
end

-- What was asked for is there: from the first byte on, as many as there may be.
local function check_asked(range, first, size, text, entry, part)
  local asked = fields.range(range)
  if not part.from or asked.suffix then return end -- the server's own answer to it
  must(first == asked.first, "%d and not %d", first, asked.first)
  must(not asked.last or #text == math.min(asked.last, (size or SIZE) - 1) - first + 1,
    "%s for %s, out of %d bytes", text, range, entry.size)
end

function World:step()
  self.now = self.now + self.pick { 0, 1, 10 }
  if self.chance(0.2) then self.version = self.version + 1 end
  local range = self:range()
  local request = case.request { Range = range }
  local decision = cache_policy.decide(request, self.stored, self.now, {})
  local entry, part = decision.entry, decision.part
  if decision.use then
    local text = self.bodies[entry]
    if part and part.from then
      entry, text = cache_ranges.of(entry, part), text:sub(part.from, part.to)
    end
    local first, size = check(entry.status, entry, text)
    if entry.status == 206 then check_asked(range, first, size, text, decision.entry, part) end
    return 1
  end
  local headers = decision.headers or {}
  local status, told, body = self:answer(range or headers.Range, headers["If-Range"])
  if told.ETag and headers["If-None-Match"] == told.ETag then return 0 end -- a 304
  local new = cache_entry.new({
    request = request, status = status, fields = case.fields(told), size = #body,
    request_time = self.now, response_time = self.now,
  })
  if cache_policy.storable(request, new, {}) then self:store(new, body) end
  return 0
end

local function broken(first, runs)
  local used = 0
  for seed = first, first + runs - 1 do
    local one = world(seed)
    for _ = 1, STEPS do
      local ok, result = pcall(one.step, one)
      if not ok then return seed, result end
      used = used + result
    end
  end
  return nil, used
end

-- What must be noticed: { what, where, name, by }.
local BREAKAGES = {
  { "parts put together by a weak validator", fields, "is_strong", function()
    return function(tag) return tag ~= nil end
  end },
  { "parts of different things put together", cache_ranges, "are_alike", function()
    return function() return true end
  end },
  { "a range that begins one byte later", fields, "resolve", function(whole)
    return function(asked, size)
      local first, last = whole(asked, size)
      if first and first < last then return first + 1, last end
      return first, last
    end
  end },
  { "parts put together in the wrong order", cache_ranges, "combined", function(whole)
    return function(old, old_body, new, new_body) return whole(new, old_body, old, new_body) end
  end },
  { "what is stale being completed", cache_ranges, "combined", function(whole)
    return function(old, old_body, new, new_body)
      local entry, body = whole(old, old_body, new, new_body)
      return entry, body and body .. "?"
    end
  end },
}

describe("ranges", function()
  it("are bytes of one version, under random requests", function()
    local seed, problem = broken(SEED, RUNS)
    if seed then
      error(string.format("PROPERTIES_SEED=%d: %s (of those from %d on)", seed, problem, SEED), 0)
    end
    assert.is_true(problem > RUNS, "too little is answered by the cache: " .. problem)
  end)

  for _, breakage in ipairs(BREAKAGES) do
    local what, where, name, by = unpack(breakage)
    it("are not, with " .. what, function()
      local whole = where[name]
      where[name] = by(whole)
      local seed, problem = broken(1, 1000)
      where[name] = whole
      assert.is_not_nil(seed, "nothing was noticed")
      assert.is_nil(problem:find("attempt", 1, true), problem)
    end)
  end
end)
