-- A text in pieces, as files and responses give it, for readers of lines and records.

local pieces = {}

--- A `read` that gives these texts, then nil, or nil and the problem.
---@param list string[]
---@param problem any
function pieces.reader(list, problem)
  local at = 0
  return function()
    at = at + 1
    assert(at <= #list + 1, "read again after the end")
    if list[at] ~= nil then return list[at] end
    return nil, problem
  end
end

--- A text cut before each of these positions, which ascend.
function pieces.cut(text, ...)
  local list, from = {}, 1
  for _, at in ipairs { ... } do
    list[#list + 1] = text:sub(from, at - 1)
    from = at
  end
  list[#list + 1] = text:sub(from)
  return list
end

--- A text cut at random, with empty pieces in between.
---@param random fun(): number
function pieces.cut_at_random(text, random)
  local list, from = {}, 1
  while from <= #text do
    local length = math.floor(random() ^ 3 * 12)
    list[#list + 1] = text:sub(from, from + length - 1)
    from = from + length
  end
  return list
end

--- All that a reader of records gives: {number, record}, or {number, beginning, problem, kind}; and
--- what went wrong when it did not come to the end.
function pieces.all(reader)
  local out = {}
  while true do
    local number, record, problem, kind = reader:next()
    if number == nil then return out, problem end
    out[#out + 1] = { number, record, problem, kind }
  end
end

--- Calls `fn(list)` with the text whole, byte by byte, cut in two everywhere, and cut at random.
function pieces.every_way(text, random, fn)
  fn { text }
  local bytes = {}
  for i = 1, #text do bytes[i] = text:sub(i, i) end
  fn(bytes)
  for at = 1, #text do fn(pieces.cut(text, at)) end
  for _ = 1, 5 do fn(pieces.cut_at_random(text, random)) end
end

return pieces
