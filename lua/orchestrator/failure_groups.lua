-- Things that went wrong in a run, those together that are alike, in constant memory.

local failure_groups = {}

local GROUPS = 100 -- told apart
local MESSAGES = 2 -- told apart among those of one kind, status and origin; the others are as one
local GROUPS_SHOWN = 5
local NAMED = 3 -- items named in a group

---@class orc.FailureGroups
local Groups = {}
Groups.__index = Groups

--- A whole number with commas between thousands.
---@return string
function failure_groups.grouped(n)
  local text = string.format("%d", n)
  local head = (#text - 1) % 3 + 1
  return text:sub(1, head) .. (text:sub(head + 1):gsub("...", ",%0"))
end

local grouped = failure_groups.grouped

---@return orc.FailureGroups
function failure_groups.new()
  return setmetatable({
    list = {}, of = {}, -- in order of appearance
    messages = {}, -- kind, status and origin → how many messages have a group
  }, Groups)
end

-- The scheme, host and port of a URL, and the rest.
local function split(text)
  local origin, target = text:match "^(%a[%w+.-]*://[^/?#]*)(.*)$"
  return origin or "", target or text
end

--- Adds one to the group of those that are like it.
---@param err table
---@param where string "item 3", "urls.txt:17"
function Groups:add(err, where)
  local origin, target = split(err.url or "")
  local alike = string.format("%s %s %s", err.kind, err.status or "", origin)
  local key = alike .. "\0" .. err.message
  local messages = self.messages[alike] or 0
  if not self.of[key] and messages >= MESSAGES then key = alike end
  local group = self.of[key]
  if not group and #self.list < GROUPS then
    group = { kind = err.kind, status = err.status, origin = origin, message = err.message,
      mixed = false, count = 0, named = {} }
    self.list[#self.list + 1] = group
    self.of[key] = group
    self.messages[alike] = messages + 1
  end
  if not group then return end
  group.count = group.count + 1
  group.mixed = group.mixed or group.message ~= err.message
  local name = target == "" and where or where .. " " .. target
  if #group.named < NAMED and group.named[#group.named] ~= name then
    group.named[#group.named + 1] = name
  end
end

--- A text for each of the largest groups, and one for the others.
---@param left integer how many there are in all
---@param shown fun(text: string): string
---@return string[]
function Groups:lines(left, shown)
  local groups_left, texts = #self.list, {}
  local order = {}
  for i, group in ipairs(self.list) do order[i] = { group = group, at = i } end
  table.sort(order, function(a, b)
    if a.group.count ~= b.group.count then return a.group.count > b.group.count end
    return a.at < b.at
  end)
  for i = 1, math.min(#order, GROUPS_SHOWN) do
    local group = order[i].group
    local kind = group.status and string.format("%s %d", group.kind, group.status) or group.kind
    local at = group.origin ~= "" and " at " .. shown(group.origin) or ""
    local more = group.count > #group.named and #group.named == NAMED and ", ..." or ""
    texts[#texts + 1] = string.format("%s %s%s: %s%s (%s%s)", grouped(group.count), kind, at,
      shown(group.message), group.mixed and ", and others" or "",
      shown(table.concat(group.named, ", ")), more)
    left, groups_left = left - group.count, groups_left - 1
  end
  if left > 0 then
    local kinds = groups_left > 0 and grouped(groups_left) .. " " or ""
    texts[#texts + 1] = string.format("%s more, of %sother kind%s", grouped(left), kinds,
      groups_left == 1 and "" or "s")
  end
  return texts
end

return failure_groups
