local fake_host = require "fake_host"
local heap = require "orchestrator.heap"

local function pop(h)
  local first = h:peek()
  if first then h:remove(first) end
  return first
end

local function drained(h)
  local seqs = {}
  for element in pop, h do seqs[#seqs + 1] = element.seq end
  return seqs
end

describe("heap", function()
  it("gives elements by time, and by seq at equal times", function()
    local h = heap.new()
    for seq, time in ipairs { 5, 1, 3, 1, 5, 0, 3 } do h:push { time = time, seq = seq } end
    assert.same({ 6, 2, 4, 3, 7, 1, 5 }, drained(h))
    assert.is_nil(h:peek())
    assert.equal(0, h.n)
  end)

  it("takes no notice of an element that is not in it", function()
    local h = heap.new()
    local gone, kept = { time = 1, seq = 1 }, { time = 2, seq = 2 }
    h:push(gone)
    h:push(kept)
    h:remove(gone)
    h:remove(gone)
    h:remove { time = 2, seq = 3 }
    assert.equal(kept, h:peek())
    assert.equal(1, h.n)
  end)

  it("stays ordered whatever is pushed and removed (random)", function()
    for seed = 1, 100 do
      local random = fake_host.generator(seed)
      local h, present, seq = heap.new(), {}, 0
      for _ = 1, 120 do
        if random() < 0.6 or #present == 0 then
          seq = seq + 1
          local element = { time = math.floor(random() * 20), seq = seq }
          h:push(element)
          table.insert(present, element)
        else
          h:remove(table.remove(present, math.floor(random() * #present) + 1))
        end
      end
      table.sort(present, function(a, b)
        return a.time < b.time or (a.time == b.time and a.seq < b.seq)
      end)
      local expected = {}
      for i, element in ipairs(present) do expected[i] = element.seq end
      assert.same(expected, drained(h), "seed " .. seed)
    end
  end)
end)
