-- One attempt: the hops of its redirects. Every hop takes a slot and pays the rate limit, and gives
-- the slot back when it has ended.

local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local headers = require "orchestrator.headers"
local redirect = require "orchestrator.redirect"
local request = require "orchestrator.request"
local response = require "orchestrator.response"
local stream = require "orchestrator.stream"

local attempt = {}

-- The result of a hop that never starts.
local function refused(err)
  return {
    error = err.kind, message = err.message, fault = err.fault, final = err.final,
    status = err.status, elapsed = 0, unsent = true,
  }
end

--- What a result is that is no response.
---@return orc.Error
function attempt.failure(plan, result)
  return errors.new(result.error or faults.get(result.fault).kind, result.message, {
    url = plan.url, method = plan.method, status = result.status, fault = result.fault,
    final = result.final, temporary = result.fault == "dns_no_answer" or nil,
  })
end

-- A transfer that goes on while the task does something else. It gives its slot back by itself.
local function open(client, plan, sent)
  local pool = client.pool
  local s, answered
  s = stream.open(client.sched, plan, function()
    pool:release(plan.origin, s and s.result, plan.retry, answered, sent)
  end)
  s.explain = function(result) return attempt.failure(plan, result) end
  if (plan.head_timeout or 0) > 0 then
    s:hurry(sent + plan.head_timeout, errors.new("timeout",
      string.format("no answer within %gs", plan.head_timeout),
      { url = plan.url, method = plan.method, fault = "timeout" }))
  end
  local ok, result, err = pcall(s.begin, s, plan.pull, not plan.stream)
  if not ok then
    s:close()
    error(result, 0)
  elseif err then
    result = refused(err)
    result.elapsed, result.unsent = client.sched:now() - sent, nil
    return result
  end
  result.sent = sent
  if plan.stream and not result.fault then
    result.stream = s
    if not s.result then -- its slot is kept, but the server has counted it
      answered = true
      pool:answered(plan.origin, result, plan.retry)
    end
  end
  return result
end

local function cut_off(problem)
  return refused { kind = "circuit_open", message = problem, fault = "circuit_open", final = true }
end

-- One transfer, with its slot.
local function send(client, plan, auth)
  local sched, pool, network = client.sched, client.pool, client.network
  if not network.plain or plan.stream or plan.pull then
    local ok, err = network:aim(plan)
    if not ok then return refused(err) end
  end
  local waited, granted = pool:acquire(plan.origin, plan.weight, plan.priority, plan.observer)
  if not waited then return cut_off(granted) end
  while auth and auth.confirm and not auth:confirm(plan) do
    pool:decline(plan.origin, plan.weight, granted)
    local ok, err = auth:ready(plan)
    if not ok then return refused(err) end
    waited, granted = pool:acquire(plan.origin, plan.weight, plan.priority, plan.observer)
    if not waited then return cut_off(granted) end
  end
  if plan.clock and plan.clock:is_over(plan.retry.deadline) then
    pool:decline(plan.origin, plan.weight, granted)
    return refused { kind = "timeout", fault = "timeout", final = true,
      message = "retry.deadline passed while it waited for its turn" }
  end
  if auth then auth:authorize(plan) end
  if plan.clock then plan.clock:start() end
  local sent = sched:now()
  if plan.stream or plan.pull then return open(client, plan, sent) end
  local ok, result = pcall(sched.perform, sched, plan)
  if ok then result.sent = sent end
  pool:release(plan.origin, ok and result or nil, plan.retry, nil, sent)
  if not ok then error(result, 0) end -- the task was cancelled
  return result
end

-- One hop, with its credentials.
local function hop(client, plan)
  if client.allowed then
    local ok, message = client.allowed(plan.u)
    if not ok then
      return refused { kind = "blocked", message = message, fault = "host_not_allowed" }
    end
  end
  local auth = client.auth
  if not auth or plan.anonymous or (plan.fields.authorization and not auth.beside) then
    return send(client, plan)
  end
  local ok, err = auth:ready(plan)
  if not ok then return refused(err) end
  local result
  ok, result = pcall(send, client, plan, auth)
  local again = auth:answered(plan, ok and result or nil)
  if not ok then error(result, 0) end -- the task was cancelled
  result.again = again
  return result
end

-- A hop, sent again when its credentials were refused and others are to be had.
local function authorized_hop(client, plan)
  local result = hop(client, plan)
  local elapsed = result.elapsed
  while result.again and not plan.pull do -- what a function gave as the body is gone
    local problem
    if result.stream then result.stream:close() end
    plan, problem = request.again(plan, result.elapsed)
    result = plan and hop(client, plan) or refused(problem)
    elapsed = elapsed + result.elapsed
  end
  if result.again then result.refusal = "its body came from a function, which gives it once" end
  result.elapsed = elapsed
  return result
end

--- Sends hops until something is no redirect. The attempt's timeout spans them all. Yields.
---@param client table
---@param plan table from request.plan
---@param number integer which attempt of the request it is
---@param only_stored boolean|nil nothing is sent: neither res nor err when something would have to
---@return table|nil res `unsent` when all of it was stored
---@return table|nil err
---@return number elapsed seconds that the hops took
function attempt.make(client, plan, number, only_stored)
  local elapsed, hops, sent = 0, nil, false
  while true do
    local result
    if plan.cache then
      result = client.cache:hop(client, plan, authorized_hop, only_stored)
      if not result then return nil, nil, 0 end
    else
      result = authorized_hop(client, plan)
    end
    sent = sent or not result.unsent
    elapsed = elapsed + result.elapsed
    if result.fault or result.error then
      local err = attempt.failure(plan, result)
      err.unsent = not sent or nil
      return nil, err, elapsed
    end
    local status = result.status
    if status == 407 and plan.relayed then
      if result.stream then result.stream:close() end
      return nil, errors.new("connect", "the proxy does not accept the credentials",
        { url = plan.url, method = plan.method, fault = "proxy_refused", final = true }), elapsed
    end
    local following, refusal
    if status >= 300 and status <= 399 and plan.follow > 0 then
      local location, torn = headers.only(response.head(result), "location")
      following, refusal = redirect.next(plan, status, location, client.idn, torn)
    end
    if result.stream and (refusal or following) then result.stream:close() end
    if refusal then return nil, refusal, elapsed end
    if not following then
      local res = response.of(result, plan.url, number)
      if hops then res.hops = hops end
      if sent then res.unsent = nil end
      if not res.body and not res.stream then res.saved = plan.save end
      res.elapsed = elapsed
      return res, nil, elapsed
    end
    if plan.cache then client.cache:settle(client, result, true) end
    hops = hops or {}
    hops[#hops + 1] = { url = plan.url, status = status }
    if #hops > plan.follow then
      return nil, errors.new("too_many_redirects",
        string.format("more than %d redirects", plan.follow),
        { url = plan.url, method = plan.method, fault = "too_many_redirects" }), elapsed
    end
    local problem
    following, problem = request.follow(plan, following, result.elapsed)
    if not following then return nil, problem, elapsed end
    plan = following
    if plan.cache then plan.passed = hops end
  end
end

return attempt
