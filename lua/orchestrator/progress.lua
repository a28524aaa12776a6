-- How far a run is: one line on a terminal that is drawn over itself; elsewhere a message now and
-- then; nothing when there is neither. Everything else for the terminal goes through `write`, so
-- that it does not end up in the middle of the line.

local errors = require "orchestrator.errors"
local grouped = require("orchestrator.summary").grouped

local progress = {}

local DRAW_EVERY = 0.1 -- seconds, on a terminal
local SAY_EVERY = 10
local RATE_OVER = 5 -- seconds the rate is averaged over

---@class orc.Progress
---@field every number seconds between two calls of update that make sense
local Progress = {}
Progress.__index = Progress

---@class orc.Meter what a pipeline keeps up to date; what else is in it belongs to this file
---@field name string
---@field done integer items that are through
---@field total integer|nil items there will be, if known
---@field exact boolean|nil the total is no estimate
---@field in_flight integer
---@field failed integer items

---@param opts table {now: fun(): number, write: fun(text) to stderr,
---  columns: (fun(): integer)? width of the terminal, nil when stderr is none,
---  say: fun(text)? for messages, when it is none; nil for silence}
---@return orc.Progress
function progress.new(opts)
  return setmetatable({
    now = opts.now,
    out = opts.write,
    columns = opts.columns,
    say = opts.say,
    every = opts.columns and DRAW_EVERY or 1,
    meters = {}, -- of the runs that go on
    shown = false, -- the line stands on the terminal now
  }, Progress)
end

local function duration(seconds)
  if seconds < 100 then return string.format("%.0fs", seconds) end
  if seconds < 6000 then return string.format("%.0fm", seconds / 60) end
  return string.format("%.0fh", seconds / 3600)
end

-- Takes a sample for the rate: an average that forgets, and that is of all the time a run has had
-- until there is more of it than is averaged over.
local function measure(meter, now)
  if not meter.began_at then
    meter.began_at, meter.began = now, meter.done
    meter.sampled_at, meter.sampled = now, meter.done
  end
  local past, age = now - meter.sampled_at, now - meter.began_at
  if past < DRAW_EVERY then return end
  if age <= RATE_OVER or not meter.rate then
    meter.rate = (meter.done - meter.began) / age
  else
    local rate = (meter.done - meter.sampled) / past
    meter.rate = meter.rate + (1 - math.exp(-past / RATE_OVER)) * (rate - meter.rate)
  end
  meter.sampled_at, meter.sampled = now, meter.done
end

--- The line for a meter.
function progress.line(meter)
  local rate = meter.rate or 0
  local parts = {
    meter.total
      and string.format("%s/%s%s", grouped(meter.done), meter.exact and "" or "~",
        grouped(meter.total))
      or grouped(meter.done) .. " done",
    string.format(rate < 10 and "%.1f/s" or "%.0f/s", rate),
    grouped(meter.in_flight) .. " in flight",
  }
  if meter.failed > 0 then parts[#parts + 1] = grouped(meter.failed) .. " failed" end
  if meter.total and rate > 0 and meter.total > meter.done then
    parts[#parts + 1] = "ETA " .. duration((meter.total - meter.done) / rate)
  end
  return errors.escape(meter.name .. "  " .. table.concat(parts, "  "))
end

local function erase(self)
  if self.shown then
    self.out "\r\27[K"
    self.shown = false
  end
end

local function draw(self)
  local lines = {}
  for i, meter in ipairs(self.meters) do lines[i] = progress.line(meter) end
  local line = table.concat(lines, " | ")
  -- Cut to what fits, by characters, so that the line never wraps; the last column stays free.
  local width = math.max(self.columns() - 1, 1)
  local at, characters = 1, 0
  while at <= #line and characters < width do
    at = line:find("[%z\1-\127\192-\255]", at + 1) or #line + 1
    characters = characters + 1
  end
  self.out("\r" .. line:sub(1, at - 1) .. "\27[K")
  self.shown = true
end

local function index_of(list, value)
  for i = 1, #list do
    if list[i] == value then return i end
  end
end

--- Shows a meter, if it is time to. It stands in the line until it is `finish`ed.
---@param meter orc.Meter
function Progress:update(meter)
  local now = self.now()
  if not index_of(self.meters, meter) then
    self.meters[#self.meters + 1] = meter
    meter.due = now + SAY_EVERY
  end
  measure(meter, now)
  if self.columns then
    if now >= (self.due or now) then
      self.due = now + DRAW_EVERY
      draw(self)
    end
  elseif self.say and now >= meter.due then
    meter.due = now + SAY_EVERY
    self.say(progress.line(meter))
  end
end

--- Takes a meter out of the line: its run has ended.
---@param meter orc.Meter
function Progress:finish(meter)
  local at = index_of(self.meters, meter)
  if at then table.remove(self.meters, at) end
  erase(self)
end

--- No line from now on: the records go to the same terminal.
function Progress:hide()
  erase(self)
  self.columns = nil
  self.say = nil
end

--- Writes other text to stderr, above the line.
---@param text string whole lines
function Progress:write(text)
  local shown = self.shown
  erase(self)
  self.out(text)
  if shown then draw(self) end
end

return progress
