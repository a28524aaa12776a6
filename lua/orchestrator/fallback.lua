-- What a script gives for an answer when a request has failed for good.

local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local response = require "orchestrator.response"
local scheduler = require "orchestrator.scheduler"
local secret = require "orchestrator.secret"

local fallback = {}

local WHERE = "fallback"

local ANSWER = {
  status = { type = "integer", min = 100, max = 599, default = 200 },
  headers = { type = "table" },
  json = { type = "any" },
  body = { type = "string" },
}

-- A response from what the function returned.
local function made(value, err, given)
  if response.is(value) then
    value.fallback = true
    return value
  elseif type(value) ~= "table" then
    options.fail(WHERE, "must return a table such as { json = … }, a response, or nil and an "
      .. "error; it returned a " .. type(value))
  end
  local answer = options.check(WHERE, value, ANSWER)
  local body = answer.body
  if answer.json ~= nil then
    if body then options.fail(WHERE, "json and body exclude each other") end
    local text, problem = json.encode(answer.json)
    if not text then options.fail(WHERE, problem.message) end
    body = text
  end
  local asked = type(given) == "table" and not secret.is(given) and given.url or given
  local res = response.made(answer.status, answer.headers, body or "",
    err.url or secret.reveal(asked), err.attempts or 0)
  res.fallback = true
  return res
end

--- Asks the function. What it fetches by the same client has no fallback: it would ask itself.
---@param fn fun(err: orc.Error, request: string|table): table|nil, any
---@param err orc.Error
---@param given string|table the request as the script gave it
---@return table|nil res, orc.Error|nil err the one given unless the function gives another
function fallback.answer(fn, err, given, client)
  local task = client.sched:current()
  local before, asked = task.falling, { [client] = true }
  if before and before[client] then return nil, err end
  for known in pairs(before or {}) do asked[known] = true end
  task.falling = asked -- and of the tasks that it spawns (scheduler.lua)
  local ok, value, problem = xpcall(fn, scheduler.trace, err, given)
  task.falling = before
  if not ok then error(value, 0) end
  if value ~= nil then return made(value, err, given) end
  if problem == nil then return nil, err end
  if not errors.is(problem) then
    problem = errors.new("script", tostring(problem),
      { url = err.url, method = err.method, attempts = err.attempts })
  end
  return nil, problem
end

return fallback
