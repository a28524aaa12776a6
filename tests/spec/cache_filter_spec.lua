local cache_filter = require "orchestrator.cache_filter"
local crypto = require "orchestrator.core.crypto"

describe("a filter of what is not in the database", function()
  local sched, host, filter, waiting, batches, reads

  local function key(i)
    return crypto.hash("sha256", "key " .. i)
  end

  -- The database's answer to the one job there is.
  local function answer(...)
    local text = {}
    for i, one in ipairs { ... } do text[i] = crypto.hex(one:sub(1, 8)):upper() end
    waiting:told { rows = { { batches, table.concat(text) } } }
  end

  before_each(function()
    waiting, batches, reads = nil, 3, 0
    host = {
      time = 0,
      store_run = function() return -1 end,
      store_read = function()
        reads = reads + 1
        return { { batches } }
      end,
    }
    sched = {
      now = function() return host.time end,
      attach = function(_, _, one) waiting = one end,
    }
    filter = cache_filter.new(sched, host, 7)
  end)

  local function miss(count, batch)
    for _ = 1, count do filter:missed(batch or { keys = {} }) end
  end

  it("is made when a hundred reads have found nothing", function()
    miss(99)
    assert.is_nil(waiting)
    assert.is_false(filter:is_absent(key(1), false))
    miss(1)
    answer(key(1), key(2))
    assert.is_false(filter:is_absent(key(1), false))
    assert.is_false(filter:is_absent(key(2), false))
    assert.is_true(filter:is_absent(key(3), false))
  end)

  it("knows what is put, whether written, waiting, or put while it is made", function()
    miss(100, { keys = { [key(1)] = 0 } })
    filter:put(key(2))
    answer()
    filter:put(key(3))
    for i = 1, 3 do assert.is_false(filter:is_absent(key(i), false)) end
    for i = 4, 40 do assert.is_true(filter:is_absent(key(i), false)) end
  end)

  it("loses nothing, and passes few others for what is there", function()
    miss(100)
    answer()
    for i = 1, 50000 do filter:put(key(i)) end
    for i = 1, 50000, 7 do assert.is_false(filter:is_absent(key(i), false)) end
    local wrong = 0
    for i = 50001, 60000 do wrong = wrong + (filter:is_absent(key(i), false) and 0 or 1) end
    assert.is_true(wrong < 200, wrong .. " of 10000")
  end)

  it("ends for good when there are too many", function()
    miss(100)
    answer()
    for i = 1, 80000 do filter:put(key(i)) end
    assert.is_false(filter:is_absent(key "none", false))
    waiting = nil
    miss(1000)
    assert.is_nil(waiting)
    filter = cache_filter.new(sched, host, 7)
    miss(100)
    waiting:told { rows = { { 1, nil } } } -- the database has many
    assert.is_false(filter:is_absent(key "none", false))
  end)

  it("sees within a tenth of a second that another program writes", function()
    miss(100)
    answer()
    batches = 4
    assert.is_true(filter:is_absent(key(1), false))
    host.time = 0.1
    assert.is_true(filter:is_absent(key(1), true)) -- it may be this one's that is being written
    assert.equal(0, reads)
    assert.is_false(filter:is_absent(key(1), false))
    miss(100)
    answer(key(1))
    assert.is_false(filter:is_absent(key(1), false))
    assert.is_true(filter:is_absent(key(2), false))
  end)

  it("takes this program's batches for no other's", function()
    miss(100)
    answer()
    batches = 4
    filter:written(4)
    host.time = 1
    assert.is_true(filter:is_absent(key(1), false))
    assert.equal(1, reads)
    filter:written(6) -- another one's was between
    assert.is_false(filter:is_absent(key(1), false))
  end)

  it("is not made where that may have to wait", function()
    filter = cache_filter.new(sched, host, 7, true)
    miss(1000)
    assert.is_nil(waiting)
  end)

  it("does without when the keys cannot be read", function()
    miss(100)
    waiting:told { fault = "state", code = "busy", message = "busy" }
    assert.is_false(filter:is_absent(key(1), false))
  end)
end)
