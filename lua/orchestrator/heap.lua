-- A binary min-heap of timers, ordered by time and, at equal times, by who came first.
-- Elements are tables with `time` and `seq`; the heap keeps their position in `index`, so that
-- removing one costs O(log n).

local heap = {}
heap.__index = heap

local function before(a, b)
  return a.time < b.time or (a.time == b.time and a.seq < b.seq)
end

function heap.new()
  return setmetatable({ n = 0 }, heap)
end

local function up(self, i, element)
  while i > 1 do
    local parent = (i - i % 2) / 2
    if not before(element, self[parent]) then break end
    self[i] = self[parent]
    self[i].index = i
    i = parent
  end
  self[i] = element
  element.index = i
end

local function down(self, i, element)
  local n = self.n
  while true do
    local child = 2 * i
    if child > n then break end
    if child < n and before(self[child + 1], self[child]) then child = child + 1 end
    if not before(self[child], element) then break end
    self[i] = self[child]
    self[i].index = i
    i = child
  end
  self[i] = element
  element.index = i
end

function heap:push(element)
  local n = self.n + 1
  self[n] = element -- what may fail for want of memory comes first, this before all
  element.index = n
  self.n = n
  up(self, n, element)
end

---@return table|nil element the earliest, left in place
function heap:peek()
  return self[1]
end

--- Takes `element` out; a no-op when it is not in the heap.
function heap:remove(element)
  local i = element.index
  if not i then return end
  element.index = nil
  local last = self[self.n]
  self[self.n] = nil
  self.n = self.n - 1
  if last == element then return end
  if i > 1 and before(last, self[(i - i % 2) / 2]) then
    up(self, i, last)
  else
    down(self, i, last)
  end
end

return heap
