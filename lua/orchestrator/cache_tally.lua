-- What the cache did for the requests of a run: counted for its summary, in constant memory.

local cache_tally = {}

local GROUPS = 100 -- of errors that are told apart; the others are counted together
local SHOWN = 3

---@class orc.CacheTally
---@field counts table<string, integer> for machines
local Tally = {}
Tally.__index = Tally

function cache_tally.new()
  return setmetatable({
    -- How it answered; of what was stale, how many instead of an error.
    counts = { fresh = 0, revalidated = 0, stale = 0, stale_if_error = 0 },
    groups = {}, group_of = {}, -- of these errors, in order of appearance
  }, Tally)
end

--- A request ended that the cache answered.
---@param how "fresh"|"revalidated"|"stale"
---@param err orc.Error|nil that it was answered instead of
function Tally:add(how, err)
  local counts = self.counts
  counts[how] = counts[how] + 1
  if not err then return end
  counts.stale_if_error = counts.stale_if_error + 1
  local origin = (err.url or ""):match "^%a[%w+.-]*://[^/?#]*" or ""
  local key = string.format("%s %s %s", err.kind, err.status or "", origin)
  local group = self.group_of[key]
  if not group and #self.groups < GROUPS then
    group = { kind = err.kind, status = err.status, origin = origin, count = 0 }
    self.groups[#self.groups + 1], self.group_of[key] = group, group
  end
  if group then group.count = group.count + 1 end
end

--- For people: of how many requests it had the answer, and how.
---@param total integer requests
---@param grouped fun(n: integer): string
function Tally:line(total, grouped)
  local ways, sum = {}, 0
  for _, way in ipairs { "fresh", "revalidated", "stale" } do
    local count = self.counts[way]
    sum = sum + count
    if count > 0 then ways[#ways + 1] = grouped(count) .. " " .. way end
  end
  return string.format("answered %s of %s, %s", grouped(sum), grouped(total),
    table.concat(ways, ", "))
end

--- For people: the errors that nobody saw, those first that there were most of.
---@param grouped fun(n: integer): string
---@param shown fun(text: string): string
---@return string[]
function Tally:hidden(grouped, shown)
  local order, lines, left = {}, {}, self.counts.stale_if_error
  for i, group in ipairs(self.groups) do order[i] = { group = group, at = i } end
  table.sort(order, function(a, b)
    if a.group.count ~= b.group.count then return a.group.count > b.group.count end
    return a.at < b.at
  end)
  for i = 1, math.min(#order, SHOWN) do
    local group = order[i].group
    lines[i] = string.format("%s instead of %s%s%s", grouped(group.count), group.kind,
      group.status and " " .. group.status or "",
      group.origin ~= "" and " at " .. shown(group.origin) or "")
    left = left - group.count
  end
  if left > 0 then lines[#lines + 1] = grouped(left) .. " instead of other errors" end
  return lines
end

return cache_tally
