-- Programs that ask for the same at the same time store it each. Of responses that answer the same
-- requests the one is kept that was here last: what a program stores otherwise has replaced them.

local cache_doubles = {}

-- Whether they are for the same requests, as far as that is seen at once: of those that were just
-- stored or renewed it is not.
local function are_doubles(a, b)
  local sent = rawget(a, "sent")
  return sent ~= nil and sent == rawget(b, "sent") and a.on == b.on and not a.range and not b.range
end

--- The entries of a key without those; they are removed.
---@param store table see cache_memory.lua
---@param entries orc.CacheEntry[] the last stored first
---@return orc.CacheEntry[]
function cache_doubles.without(store, entries)
  local kept = {}
  for _, entry in ipairs(entries) do
    local at
    for i = 1, #kept do
      if are_doubles(kept[i], entry) then at = i end
    end
    local is_later = at and entry.response_time > kept[at].response_time
    if at then store:remove(is_later and kept[at] or entry) end
    if is_later or not at then kept[at or #kept + 1] = entry end
  end
  return kept
end

return cache_doubles
