-- What came back. A response is the host's result table itself, given this metatable; what is
-- seldom asked for (headers, timing) is made when it is.

local cache_entry = require "orchestrator.cache_entry"
local csv = require "orchestrator.csv"
local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local json = require "orchestrator.json"
local jsonl = require "orchestrator.jsonl"
local lines = require "orchestrator.lines"
local options = require "orchestrator.options"
local secret = require "orchestrator.secret"

local response = {}

local methods = {}

--- The body decoded as JSON.
---@return any value nil, err (kind "decode") when it is not JSON
function methods:json()
  if self.stream then
    return nil, errors.new("decode", "the body is streamed: read it with res:lines(), res:jsonl(), "
      .. "res:csv() or res:chunks(), or fetch without stream = true", { url = self.url })
  elseif not self.body then
    return nil, errors.new("decode", "the body was saved to a file", { url = self.url })
  end
  local value, err = json.decode(self.body)
  if err then
    err.url, err.status, err.fault = self.url, self.status, "bad_json"
    return nil, err
  end
  return value
end

-- The body in pieces, for the iterators below. A streamed one can be read but once: a second reader
-- would miss what the first one has taken in.
local function reader_of(self, method)
  local stream = self.stream
  if stream then
    if self.reading then
      options.fail("res:" .. method, "a streamed body can be read once; res:" .. self.reading
        .. " began it: go on with the iterator that gave")
    end
    self.reading = method
    return function() return stream:read() end
  elseif not self.body then
    options.fail("res:" .. method, "the body was saved to a file")
  end
  local rest = self.body
  return function()
    local text = rest
    rest = nil
    return text
  end
end

-- What is wrong with a record as an error, or the error that ended the body.
local function failure(self, number, problem, kind)
  if number == nil then return problem end
  return errors.new(kind or "decode", string.format("line %d: %s", number, problem), {
    url = self.url, status = self.status, attempts = self.attempts,
    fault = kind and "record_too_long" or "bad_record",
  })
end

-- An iterator over the records that `reader` finds (see lines.lua), with the line each began on.
--
-- It raises what goes wrong. A `for` loop has no place for an error: to it nil is the end, and so
-- an answer that was cut off would pass for a shorter one. A task that does not catch it fails with
-- it, like one that returns nil, err.
local function iterate(self, reader)
  local err
  local stream = self.stream
  return function()
    err = err or stream and stream:lost()
    if err then error(err, 0) end
    local number, record, problem, kind = reader:next()
    if problem == nil then return record, number end
    err = failure(self, number, problem, kind)
    self:close()
    error(err, 0)
  end
end

local function records(method, format)
  return function(self, opts)
    opts = options.check("res:" .. method, opts, format.OPTIONS)
    return iterate(self, format.new(reader_of(self, method), opts))
  end
end

--- Iterates over the lines of the body, without their line ends, and their numbers. Yields.
methods.lines = records("lines", lines)

--- Iterates over the values of a JSON Lines body, and the numbers of their lines. Yields.
methods.jsonl = records("jsonl", jsonl)

--- Iterates over the records of a CSV body (RFC 4180), and the numbers of the lines they begin on:
--- tables of texts by the names of the header, or lists. Yields.
methods.csv = records("csv", {
  OPTIONS = csv.OPTIONS,
  new = function(read, opts) return csv.new(read, opts, nil, true) end,
})

--- Iterates over the body as it comes, in pieces of any size. Yields.
function methods:chunks()
  local read = reader_of(self, "chunks")
  return iterate(self, {
    next = function()
      local text, err
      repeat text, err = read() until text ~= ""
      return nil, text, err
    end,
  })
end

--- The beginning of the body, up to `most` bytes, wherever it goes: what is streamed is still to be
--- read. Yields.
---@param most integer|nil 1000 unless given
---@return string|nil text
---@return orc.Error|nil err
function methods:peek(most)
  most = most or 1000
  if type(most) ~= "number" or most < 1 or most % 1 ~= 0 then
    options.fail("res:peek", "expects a number of bytes")
  elseif self.reading then
    options.fail("res:peek", "res:" .. self.reading .. " reads the body already")
  end
  if self.stream then
    local text, err = self.stream:peek(most)
    if err then return nil, err end
    return text
  elseif self.body then
    return self.body:sub(1, most)
  end
  if not self.saved then
    return nil, errors.new("invalid", "the body was not kept", { url = self.url })
  end
  local handle, problem = io.open(self.saved, "rb")
  if not handle then return nil, errors.new("invalid", "cannot read " .. problem) end
  local text = handle:read(most) or ""
  handle:close()
  return text
end

--- Gives up what is left of a streamed body, and with it the slot and the connection.
function methods:close()
  if self.stream then self.stream:close() end
end

-- What is known of a streamed body when it has ended, and else at once.
local function in_the_end(name)
  return function(self)
    local last = self.stream and self.stream.result
    return last and last[name]
  end
end

local lazy = {
  ok = function(self) return self.status >= 200 and self.status <= 299 end,
  headers = function(self) return headers.parse(self.head) end,
  hops = function() return {} end,
  head = function(self) return response.head(self) end,
  size = in_the_end "size",
  wire = in_the_end "wire",
  timing = function(self)
    return {
      dns = self.dns or 0, connect = self.connect or 0, tls = self.tls or 0,
      first_byte = self.first_byte or 0, total = self.elapsed,
    }
  end,
}

local Response = {}

function Response.__index(self, name)
  local method = methods[name]
  if method then return method end
  local make = lazy[name]
  if make then
    local value = make(self)
    self[name] = value
    return value
  end
end

function Response.__tostring(self)
  return string.format("response %d from %s", self.status, errors.escape(secret.mask(self.url)))
end

--- The head of a result. That of a stored one is written when somebody asks for it.
---@param result table
---@return string
function response.head(result)
  return rawget(result, "head") or cache_entry.head(result.stored, result.told_age)
end

--- Makes a response of a result.
---@param result table as host.poll delivers it
---@param url string the final URL
---@param attempts integer
function response.of(result, url, attempts)
  result.url, result.attempts = url, attempts
  return setmetatable(result, Response)
end

---@return boolean
function response.is(value)
  return getmetatable(value) == Response
end

--- A response that no server sent.
---@param status integer
---@param fields table<string, any>|nil header fields, name → value
---@param body string
---@param url string
---@param attempts integer
function response.made(status, fields, body, url, attempts)
  local given = {}
  for _, field in pairs(headers.merge(fields)) do
    given[field.name:lower()] = secret.reveal(field.value)
  end
  return response.of({
    status = status, headers = given, head = "", body = body, size = #body, wire = 0, elapsed = 0,
    framing = "none", version = "1.1",
  }, url, attempts)
end

return response
