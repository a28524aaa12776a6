-- Lines out of a text that comes in pieces, of a file or of a response, whatever its size. A piece
-- is given by `read`: the next one, nil at the end, or nil and what went wrong. Every byte is
-- looked at once and copied into its line once, however many pieces the line spans.
--
-- What reads records (this, jsonl.lua, csv.lua) has a `next` that gives
--   number, record                     and the line it began on
--   number, beginning, message, kind   a bad one, of which this much is shown; the next call goes
--                                      on after it. `kind` is nil when it is plainly malformed
--   nil                                the end
--   nil, nil, problem                  `read` failed. What there was of a record is not given

local byte, find, sub = string.byte, string.find, string.sub

local lines = {}

lines.SHOWN = 200 -- bytes of a bad line that are kept

--- What a script can say about it.
lines.OPTIONS = { max_line = { type = "size", min = 1, default = 1e6 } }

local BOM = "\239\187\191"

---@class orc.LineReader
---@field ended boolean all has been read
---@field bytes integer read so far
local Lines = {}
Lines.__index = Lines

---@param read fun(): string|nil, any
---@param opts {max_line: integer} checked; the longest line in bytes, without its "\n"
---@param keep_cr? boolean the "\r" of a "\r\n" stays
---@return orc.LineReader
function lines.new(read, opts, keep_cr)
  return setmetatable({
    read = read,
    max = opts.max_line,
    keep_cr = keep_cr or false,
    buffer = "", at = 1, -- the piece being taken apart, and where in it the next line begins
    number = 0, -- lines so far
    bytes = 0,
    skipping = false, -- within a line that was given as too long
    ended = false, problem = nil, -- all was read; why no more came
  }, Lines)
end

-- The next piece. Empty ones are passed over.
local function more(self)
  if self.ended then return nil end
  local text, problem
  repeat text, problem = self.read() until text ~= ""
  if not text then
    self.ended, self.problem = true, problem
    return nil
  end
  self.bytes = self.bytes + #text
  return text
end

-- Takes up the next piece; false at the end.
local function fill(self)
  local first = self.bytes == 0
  local text = more(self)
  while first and text and #text < #BOM and sub(BOM, 1, #text) == text do
    local rest = more(self)
    if not rest then break end
    text = text .. rest
  end
  self.buffer = text or ""
  self.at = first and text and sub(text, 1, #BOM) == BOM and #BOM + 1 or 1
  return text ~= nil
end

--- A size as people write it.
function lines.size(bytes)
  if bytes % 1e6 == 0 then return string.format("%d MB", bytes / 1e6) end
  if bytes % 1e3 == 0 then return string.format("%d kB", bytes / 1e3) end
  return string.format("%d bytes", bytes)
end

-- The rest of a line that is too long.
local function skip(self)
  repeat
    local stop = find(self.buffer, "\n", self.at, true)
    if stop then
      self.at, self.skipping = stop + 1, false
      return
    end
  until not fill(self)
  self.skipping = false
end

-- A line that does not end in the piece it begins in, the last one, or one that is too long.
local function gather(self)
  local parts, n, length = {}, 0, 0
  while true do
    local buffer, at = self.buffer, self.at
    local stop = find(buffer, "\n", at, true)
    local last = stop and stop - 1 or #buffer
    if last >= at then
      n = n + 1
      parts[n] = sub(buffer, at, last)
      length = length + last - at + 1
    end
    self.at = last + 1
    if length > self.max then
      self.number, self.skipping = self.number + 1, true
      return self.number, sub(table.concat(parts), 1, math.min(lines.SHOWN, self.max)),
        string.format("the line is longer than %s", lines.size(self.max)), "too_large"
    end
    if stop then
      self.at = stop + 1
      break
    elseif not fill(self) then
      if self.problem ~= nil then return nil, nil, self.problem end
      if n == 0 then return nil end
      break
    end
  end
  local line = table.concat(parts)
  if not self.keep_cr and byte(line, -1) == 13 then line = sub(line, 1, -2) end
  self.number = self.number + 1
  return self.number, line
end

--- The next line, without its line end ("\n" or "\r\n"), as described above. The last one needs
--- none; a byte order mark is passed over.
---@return integer|nil number, string|nil line, any problem, string? kind
function Lines:next()
  if self.skipping then skip(self) end
  local buffer, at = self.buffer, self.at
  local stop = find(buffer, "\n", at, true)
  if not stop or stop - at > self.max then return gather(self) end
  local number = self.number + 1
  self.number, self.at = number, stop + 1
  if not self.keep_cr and stop > at and byte(buffer, stop - 1) == 13 then stop = stop - 1 end
  return number, sub(buffer, at, stop - 1)
end

--- How many bytes the lines so far took.
---@return integer
function Lines:taken()
  return self.bytes - #self.buffer + self.at - 1
end

return lines
