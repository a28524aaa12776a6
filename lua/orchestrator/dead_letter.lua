-- The items of a run that failed for good: one line of JSON each, in a file that is opened for the
-- first of them, written through a sink (sink.lua), and kept however the run ends.

local sink = require "orchestrator.sink"

local dead_letter = {}

local EXCERPT = 2048 -- bytes of an error's body

---@class orc.DeadLetters
---@field path string
---@field count integer letters
---@field sink orc.Sink|nil owned; nil as long as there is none
local DeadLetters = {}
DeadLetters.__index = DeadLetters

--- Where they are kept: beside the first file the pipeline writes.
---@param name string the pipeline's
---@param targets string[] its sinks
function dead_letter.path(name, targets)
  local directory = ""
  for _, target in ipairs(targets) do
    if target ~= "-" then
      directory = target:match "^(.*/)" or ""
      break
    end
  end
  return directory .. name .. ".dead.jsonl"
end

---@param opts table {path, open: fun(path): orc.Sink|nil, err; pipeline: string its name, run_id,
---  wall: fun(): number unix seconds}
---@return orc.DeadLetters
function dead_letter.new(opts)
  return setmetatable({
    path = opts.path, open = opts.open, pipeline = opts.pipeline, run_id = opts.run_id,
    wall = opts.wall, sink = nil, count = 0,
  }, DeadLetters)
end

--- Keeps an item with the reason why it failed. Secrets are masked.
---@param item any
---@param err table
---@param where string "item 3", "urls.txt:17"
---@return boolean|nil, table|nil err
function DeadLetters:add(item, err, where)
  local problem
  if not self.sink then
    self.sink, problem = self.open(self.path)
    if not self.sink then return nil, problem end
  end
  local body = err.response and err.response.body
  local batch
  batch, problem = self.sink:encode { {
    item = sink.presentable(item),
    position = where,
    url = sink.presentable(err.url),
    error = { kind = err.kind, message = sink.presentable(err.message), status = err.status },
    attempts = err.attempts or 0,
    excerpt = body and sink.presentable(body, EXCERPT),
    at = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.wall())),
    pipeline = self.pipeline,
    run_id = self.run_id,
  } }
  if not batch then return nil, problem end
  local ok
  ok, problem = self.sink:write(batch, 1)
  if not ok then return nil, problem end
  self.count = self.count + 1
  return true
end

--- Lets readers see what was kept so far.
---@return boolean|nil, table|nil err
function DeadLetters:flush()
  if self.sink then return self.sink:flush() end
  return true
end

--- Ends the file.
---@param supersede boolean the run took the place of an earlier one, whose letters go if this
---  one has none
---@return boolean|nil, table|nil err
function DeadLetters:close(supersede)
  if self.sink then return self.sink:close(true) end
  if supersede then os.remove(self.path) end
  return true
end

return dead_letter
