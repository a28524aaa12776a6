local identity = require "orchestrator.identity"
local journal = require "orchestrator.journal"
local resume = require "orchestrator.resume"

local CHUNK = journal.CHUNK

local function id_of(item) return identity.of(tostring(item)) end

-- What an earlier session has put through: the places `done` of the list `items`.
local function kept_of(items, done)
  local kept = { known_places = {}, rebased = nil, loads = {} }
  local hashes = {}
  for chunk = 0, math.floor(#items / CHUNK) - 1 do
    local ids, whole = {}, true
    for i = 1, CHUNK do
      ids[i] = id_of(items[chunk * CHUNK + i])
      whole = whole and done(chunk * CHUNK + i)
    end
    if whole then hashes[chunk] = journal.hash(ids) end
  end
  function kept.hashes() return hashes end
  function kept.items(self, from, fn)
    table.insert(self.loads, from)
    for place = from, #items do
      if done(place) then fn(place, id_of(items[place])) end
    end
    return true
  end
  function kept:rebase(chunk)
    self.rebased = chunk
    return true
  end
  function kept:known(place) table.insert(self.known_places, place) end
  return kept
end

-- Goes through `items` and gives those that are left.
local function go_on(kept, items)
  local at, left, said, acknowledged = 0, {}, {}, 0
  local r = assert(resume.new(kept, {
    take = function()
      at = at + 1
      if items[at] == nil then return nil end
      return { place = at, item = items[at], id = id_of(items[at]) }
    end,
    skip = function() acknowledged = acknowledged + 1 end,
    warn = function(text) said[#said + 1] = text end,
  }))
  for job in function() return r:next() end do left[#left + 1] = job.item end
  r:ended()
  return left, { said = said, skipped = r.skipped, acknowledged = acknowledged }
end

local function range(from, to)
  local list = {}
  for i = from, to do list[#list + 1] = i end
  return list
end

describe("resume", function()
  it("passes over what is done, by chunks where it can", function()
    local items = range(1, 3500)
    local function done(place) return place <= 2700 and place ~= 1500 or place == 3100 end
    local kept = kept_of(items, done)
    local left, about = go_on(kept, items)
    local expected = { 1500 }
    for i = 2701, 3500 do if i ~= 3100 then expected[#expected + 1] = i end end
    assert.same(expected, left)
    assert.equal(2700, about.skipped)
    assert.equal(2700, about.acknowledged)
    assert.same({}, about.said)
    assert.is_nil(kept.rebased)
    assert.equal(1700, #kept.known_places) -- those of the first chunk need not be
  end)

  it("picks up what a source has gained", function()
    local kept = kept_of(range(1, 1200), function() return true end)
    local left, about = go_on(kept, range(1, 1300))
    assert.same(range(1201, 1300), left)
    assert.same({}, about.said)
  end)

  it("keeps equal items apart", function()
    local items = { "a", "b", "a", "a", "c" }
    local kept = kept_of(items, function(place) return place == 1 or place == 3 end)
    local left = go_on(kept, items)
    assert.same({ "b", "a", "c" }, left)
  end)

  it("looks items up when the source begins otherwise, and says so", function()
    local items = range(1, 4000)
    local changed = range(1, 4000)
    table.insert(changed, 1500, "new")
    local kept = kept_of(items, function(place) return place <= 3000 end)
    local left, about = go_on(kept, changed)
    local expected = range(3001, 4000)
    table.insert(expected, 1, "new")
    assert.same(expected, left)
    assert.equal(3000, about.skipped)
    assert.equal(1, #about.said)
    assert.matches("changed since: it is another one after item 1000", about.said[1], 1, true)
    assert.equal(1, kept.rebased)
  end)

  it("notices it in the part of which not all is done too", function()
    local items, shifted = range(1, 900), range(1, 900)
    table.insert(shifted, 301, "new")
    local kept = kept_of(items, function(place) return place % 2 == 0 and place <= 600 end)
    local left, about = go_on(kept, shifted)
    assert.equal(300, about.skipped)
    assert.equal(601, #left)
    assert.equal(1, #about.said)
    assert.matches("another one after item 301, before which it is the same", about.said[1], 1,
      true)
    assert.equal(0, kept.rebased)
    assert.equal(300, #kept.known_places)

    -- It has been said, and the journal has places of both.
    kept = kept_of(items, function(place) return place % 2 == 0 and place <= 600 end)
    kept.hashed = 0
    left, about = go_on(kept, shifted)
    assert.equal(601, #left)
    assert.same({}, about.said)

    -- Equal items, and those that come after what was done, are no change.
    kept = kept_of({ "a", "b", "a" }, function(place) return place == 3 end)
    left, about = go_on(kept, { "a", "b", "a", "c" })
    assert.same({ "b", "a", "c" }, left)
    assert.same({}, about.said)
  end)

  it("says what is not in the source any more", function()
    local kept = kept_of(range(1, 2500), function(place) return place <= 2100 end)
    local left, about = go_on(kept, range(1, 900))
    assert.same({}, left)
    assert.equal(900, about.skipped)
    assert.matches("1200 items done before are not in the source any more", about.said[2], 1, true)
  end)

  it("finds each item again, wherever it is now", function()
    local items = range(1, 3000)
    local kept = kept_of(items, function(place) return place % 3 ~= 0 or place <= 1000 end)
    local shuffled = {}
    for i = 3000, 1, -1 do shuffled[#shuffled + 1] = i end
    local left = go_on(kept, shuffled)
    local expected = {}
    for i = 3000, 1001, -1 do if i % 3 == 0 then expected[#expected + 1] = i end end
    assert.same(expected, left)
  end)
end)
