-- A store of responses that lasts as long as the program.

local cache_memory = {}

local Memory = {}
Memory.__index = Memory

function cache_memory.new()
  return setmetatable({
    keys = {}, -- key → list of entries
    urls = {}, -- url → { key → true }
    bodies = setmetatable({}, { __mode = "k" }), -- entry → its body
  }, Memory)
end

--- What is stored for a key.
---@return orc.CacheEntry[]
function Memory:get(key)
  return self.keys[key] or {}
end

---@return string|nil nil when it is gone
function Memory:body(entry)
  return self.bodies[entry]
end

--- Stores a response, and drops those it replaces.
---@param replaced orc.CacheEntry[]
---@return boolean whether there is a place for it
function Memory:put(entry, body, replaced)
  local kept, gone = { entry }, {}
  for _, other in ipairs(replaced) do gone[other] = true end
  for _, other in ipairs(self:get(entry.key)) do
    if not gone[other] then kept[#kept + 1] = other end
  end
  self.keys[entry.key] = kept
  self.urls[entry.url] = self.urls[entry.url] or {}
  self.urls[entry.url][entry.key] = true
  self.bodies[entry] = body
  return true
end

-- The list of a key with `new` instead of `old`, or nothing instead of it.
local function replace(self, old, new)
  local list = {}
  for _, other in ipairs(self:get(old.key)) do
    if other ~= old then
      list[#list + 1] = other
    elseif new then
      list[#list + 1], self.bodies[new] = new, self.bodies[old]
    end
  end
  self.keys[old.key] = list
end

--- Puts an entry in the place of another one, with its body.
function Memory:update(old, new)
  new.key = old.key
  replace(self, old, new)
end

function Memory:remove(entry)
  replace(self, entry, nil)
end

--- Drops all that is stored for a URL, by whatever keys.
function Memory:void(url)
  for key in pairs(self.urls[url] or {}) do self.keys[key] = nil end
  self.urls[url] = nil
end

return cache_memory
