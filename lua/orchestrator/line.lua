-- Turns at rate limiters that several pools share: each pool with somebody to start stands in the
-- line of every limiter that it pays, and gets one start when its turn comes. A pool joins all its
-- lines at once and leaves them together, so all lines agree on who came first, and no two pools
-- wait for each other.
--
-- Who is first waits for a start of its own weight, however light those behind it are. While it has
-- to wait for another limiter, those behind may pass if it is not held up by that: if this limiter
-- would still let it go when the other one does.

local line = {}

-- Whether a pool ahead in the line would still start in time if another started now.
local function spares(limiter, ahead, now, weight)
  local wanted = ahead:wants()
  if not wanted then return true end
  if limiter:wait(now, wanted) > 0 then return false end
  local due = now + ahead.rate:wait(now, wanted)
  if due <= now then return false end
  limiter:take(now, weight)
  local in_time = limiter:wait(due, wanted) <= 0
  limiter:refund(now, weight)
  return in_time
end

-- Whether a pool may not pass all who are ahead of it.
local function is_behind(limiter, pool, now, weight)
  local standing = limiter.line
  for i = 1, #standing do
    if standing[i] == pool then return false end
    if not spares(limiter, standing[i], now, weight) then return true end
  end
  return false
end

-- The limiter that keeps a pool from a start the longest; nil when none does.
local function obstacle(pool, now, weight)
  local limiters = pool.limiters
  local worst, longest = nil, 0
  for i = 1, #limiters do
    local limiter = limiters[i]
    local wait = limiter:wait(now, weight)
    if wait > longest then
      worst, longest = limiter, wait
    elseif not worst and limiter.line[1] and is_behind(limiter, pool, now, weight) then
      worst = limiter
    end
  end
  return worst, longest
end

local settle

-- Looks at the line again at a time.
local function arm(limiter, time)
  if limiter.settling then return end
  local timer = limiter.timer
  if timer then
    if timer.time <= time then return end
    timer:cancel()
    limiter.timer = nil
  end
  local first = limiter.line[1]
  if first and time < math.huge then limiter.timer = first.sched:at(time, settle, limiter) end
end

local function remove(list, value)
  for i = 1, #list do
    if list[i] == value then return table.remove(list, i) end
  end
end

--- Looks at a limiter again: it was paused or refunded, or lets starts be made that it did not.
function line.changed(limiter)
  local first = limiter.line and limiter.line[1]
  if first then arm(limiter, first.sched:now()) end
end

--- Looks at a pool again whose next start is another one.
function line.look(pool)
  for _, limiter in ipairs(pool.limiters) do line.changed(limiter) end
end

-- What `pool.held` tells: since when a pool waits for which limiter, and how long it did before.
local function hold(pool, limiter, now)
  local held = pool.held
  local before = held.by
  if before then held[before] = (held[before] or 0) + now - held.since end
  held.by, held.since = limiter, now
end

--- How long a limiter has made a pool wait, in all.
function line.held(pool, limiter, now)
  local held = pool.held
  return (held[limiter] or 0) + (held.by == limiter and now - held.since or 0)
end

--- Leaves the lines.
function line.leave(pool, now)
  if not pool.in_line then return end
  pool.in_line = false
  hold(pool, nil, now)
  for _, limiter in ipairs(pool.limiters) do
    remove(limiter.line, pool)
    -- Who could not pass it may be free to go now.
    if limiter.line[1] then arm(limiter, now) end
  end
end

--- Whether a pool may make a start of that weight now. If not it stands in line, and is told by
--- `pool:go(now)` when it may.
---@return boolean
function line.may_go(pool, now, weight)
  local worst = obstacle(pool, now, weight)
  if not worst then return true end
  local limiters = pool.limiters
  if not pool.in_line then
    pool.in_line = true
    for i = 1, #limiters do table.insert(limiters[i].line, pool) end
  end
  hold(pool, worst, now)
  for i = 1, #limiters do
    local wait = limiters[i]:wait(now, weight)
    if wait > 0 then arm(limiters[i], now + wait) end
  end
  return false
end

-- Gives those in line their turns, as far as the limiter goes.
function settle(limiter)
  limiter.timer, limiter.settling = nil, true
  local standing, i, due = limiter.line, 1, nil
  while standing[i] and not due do
    local pool = standing[i]
    local now = pool.sched:now()
    local weight = pool:wants()
    if not weight then
      line.leave(pool, now) -- it comes back when it has somebody to start
    else
      local wait = limiter:wait(now, weight)
      local worst, longest = obstacle(pool, now, weight)
      if wait > 0 then
        due = now + wait
      elseif worst then -- another limiter's, which calls it
        if longest > 0 then arm(worst, now + longest) end
        i = i + 1
      else
        line.leave(pool, now)
        pool:go(now)
      end
    end
  end
  limiter.settling = nil
  if due then arm(limiter, due) end
end

return line
