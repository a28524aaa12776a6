-- What the Lua targets share.

local kit = {}

--- Raises unless a property holds.
function kit.check(holds, message, ...)
  if not holds then error(message:format(...), 2) end
end

--- A value as one line of text, for messages.
function kit.show(value)
  return type(value) == "string" and ("%q"):format(value):gsub("\n", "n") or tostring(value)
end

local chunks = {}

-- The chunk of a module, compiled once.
local function chunk_of(name)
  if not chunks[name] then
    local path = assert(package.searchpath(name, package.path))
    chunks[name] = assert(loadfile(path))
  end
  return chunks[name]
end

--- The last of the modules named, all of them loaded anew: nothing is left of the run before.
function kit.fresh(...)
  for _, name in ipairs { ... } do
    package.loaded[name] = nil
    package.preload[name] = chunk_of(name)
  end
  local module
  for _, name in ipairs { ... } do module = require(name) end
  return module
end

--- The input taken apart from its front.
---@class kit.Reader
local Reader = {}
Reader.__index = Reader

function kit.reader(input)
  return setmetatable({ input = input, at = 1 }, Reader)
end

--- A byte; 0 when there is none left.
function Reader:byte()
  local byte = self.input:byte(self.at) or 0
  self.at = self.at + 1
  return byte
end

--- One of a list's elements, chosen by a byte.
function Reader:pick(list)
  return list[self:byte() % #list + 1]
end

--- What comes before the next `mark`, which is passed over; or all that is left.
function Reader:field(mark)
  local from, to = self.input:find(mark, self.at, true)
  local text = self.input:sub(self.at, from and from - 1)
  self.at = (to or #self.input) + 1
  return text
end

function Reader:rest()
  local text = self.input:sub(self.at)
  self.at = #self.input + 1
  return text
end

--- A function that gives a text piece by piece, of sizes that `seed` chooses: all at once for 0.
--- After the last one comes nil, with `problem`.
function kit.pieces(text, seed, problem)
  local at, whole = 1, seed == 0
  return function()
    if at > #text then return nil, problem end
    seed = (seed * 16807 + 1) % 2147483647
    local size = whole and #text or math.floor(seed / 65536) % 8
    local piece = text:sub(at, at + size - 1)
    at = at + size
    return piece
  end
end

--- Whether two values are equal, tables by what is in them and their metatables.
function kit.equal(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b end
  if getmetatable(a) ~= getmetatable(b) then return false end
  for key, value in pairs(a) do
    if not kit.equal(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

return kit
