-- A transfer that is more than one result: a response whose body is read while it comes in, or a
-- request whose body a function gives piece by piece. It belongs to a task and is given up when
-- that ends.
--
-- Nothing is read ahead beyond a buffer in C (transfer.c): a consumer that takes its time stops the
-- server, by TCP.

local errors = require "orchestrator.errors"
local options = require "orchestrator.options"

local stream = {}

---@class orc.Stream
---@field head table|nil the response's, as host.poll delivers it
---@field result table|nil the last one; nothing follows
local Stream = {}
Stream.__index = Stream

-- Nothing more will come.
local function ended(self)
  if self.timer then self.timer:cancel() end
  self.timer = nil
  self:accepted()
  self:disown()
  local on_end = self.on_end
  self.on_end = nil
  if on_end then on_end() end
end

local function wake(self)
  if self.waiter then self.sched:wake(self.waiter) end
end

--- Starts a transfer, owned by the running task.
---@param spec table what host.start takes
---@param on_end function called once, when the transfer has ended or was given up; must not wait
---@return orc.Stream
function stream.open(sched, spec, on_end)
  local self = setmetatable({
    sched = sched,
    id = nil,
    head = nil,
    has_data = false,
    wanted = false, -- by the server: more of the request's body
    result = nil,
    streamed = spec.stream,
    rest = nil, -- of a streamed body: what came with the last result
    front = nil, -- what was looked at, and is still to be read
    failed = nil, -- the error that ended it
    closed = false,
    waiter = nil, -- the task that reads
    timer = nil, hurried = nil, -- what gives it up when it takes too long
    on_end = on_end,
  }, Stream)
  local id, fault, message = sched.host.start(spec)
  if id then
    self.id = id
    sched:attach(id, self)
    self:own(sched:current())
  else
    self.result = { fault = fault, message = message, elapsed = 0 }
    ended(self)
  end
  return self
end

--- One that is all there.
---@param text string
---@param result table the response
---@return orc.Stream
function stream.of(text, result)
  return setmetatable({ result = { size = result.size, wire = result.wire }, rest = text,
    streamed = true, has_data = false, closed = false }, Stream)
end

--- Takes what the host delivers.
function Stream:told(news)
  local event = news.event
  if event == "head" then
    self.head = news
  elseif event == "data" then
    self.has_data = true
  elseif event == "want" then
    self.wanted = true
  else
    self.result = news
    if self.streamed then self.rest, news.body = news.body, nil end
    ended(self)
  end
  wake(self)
end

local function leave(self)
  self.waiter = nil
end

local function wait(self)
  if self.waiter then options.fail("stream", "another task reads from it") end
  self.waiter = self.sched:current()
  self.sched:suspend(leave, self)
  self.waiter = nil
end

--- Sends what `pull` gives, if there is one, and waits for the head of the response; for all of it
--- when the response is not streamed.
---@param pull function|nil gives a text, nil at the end, or nil, err
---@param whole boolean
---@return table|nil result the head's news, or the last result
---@return table|nil err pull's
function Stream:begin(pull, whole)
  while not self.result and (whole or pull or not self.head) do
    if self.wanted and pull then
      self.wanted = false
      local text, err = pull()
      if err then
        self:close()
        return nil, err
      end
      if not self.result then self.sched.host.send(self.id, text) end
      if text == nil then pull = nil end
    else
      wait(self)
    end
    if self.failed then return nil, self.failed end
  end
  return self.head or self.result
end

--- The next bytes of the body. Yields.
---@return string|nil text nil at the end of a complete body
---@return table|nil err
function Stream:read()
  local front = self.front
  self.front = nil
  if front then return front end
  while not self.failed do
    if self.has_data then
      self.has_data = false
      local text = not self.result and self.sched.host.read(self.id)
      if text then return text end
    end
    local result, rest = self.result, self.rest
    if rest and rest ~= "" then
      self.rest = nil
      return rest
    elseif result and result.fault then
      self.failed = self.explain(result)
    elseif result then
      return nil
    elseif self.closed then
      return nil, self:lost()
    else
      wait(self)
    end
  end
  return nil, self.failed
end

--- Why it was given up, if it was: then what has been read and not yet used is of no use either.
---@return table|nil err
function Stream:lost()
  if self.closed and not self.failed then
    self.failed = errors.new("cancelled", "the response was closed", { fault = "cancelled" })
  end
  return self.closed and self.failed or nil
end

--- The beginning of the body, up to `most` bytes, which is still to be read. Yields.
---@return string text
---@return table|nil err that ended the body before
function Stream:peek(most)
  local parts, size, err = {}, 0, nil
  while size < most do
    local text, problem = self:read()
    err = problem
    if not text then break end
    parts[#parts + 1], size = text, size + #text
  end
  local front = table.concat(parts)
  if front ~= "" then self.front = front end
  return front:sub(1, most), err
end

--- Reads up to `most` bytes, for a body that only explains an error, and gives the rest up.
---@return string
function Stream:excerpt(most)
  local parts, size = {}, 0
  while size < most do
    local text = self:read()
    if not text then break end
    parts[#parts + 1], size = text, size + #text
  end
  self:close()
  return table.concat(parts):sub(1, most)
end

--- Gives up what is left.
function Stream:close()
  if self.result or self.closed then return end
  self.closed = true
  self.sched:detach(self.id)
  ended(self)
  wake(self)
end

local function expire(late)
  local self = late.stream
  self.failed = late.err
  self:close()
end

local function close_at(self, time, err)
  return self.sched:at(time, expire, { stream = self, err = err })
end

--- Gives up at `time`; who reads gets `err`.
function Stream:limit(time, err)
  if self.result or self.closed then return end
  self.timer = close_at(self, time, err)
end

--- The same, but only until it is known to be what was asked for.
function Stream:hurry(time, err)
  if self.result or self.closed then return end
  self.hurried = close_at(self, time, err)
end

function Stream:accepted()
  if self.hurried then self.hurried:cancel() end
  self.hurried = nil
end

--- Makes `task` the one whose end ends it.
function Stream:own(task)
  self:disown()
  if self.result or self.closed then return end
  local streams = task.streams or {}
  task.streams = streams
  streams[#streams + 1] = self
  self.owner = task
end

--- Leaves it to nobody, for as long as it takes to hand it on.
function Stream:disown()
  local owner = self.owner
  if not owner then return end
  self.owner = nil
  local streams = owner.streams
  for i = #streams, 1, -1 do
    if streams[i] == self then table.remove(streams, i) end
  end
end

return stream
