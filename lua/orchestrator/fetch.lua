-- One request: attempts, and in each of them the hops of its redirects. Every hop takes a slot and
-- pays the rate limit; between attempts nothing is held.

local body = require "orchestrator.body"
local errors = require "orchestrator.errors"
local faults = require "orchestrator.faults"
local headers = require "orchestrator.headers"
local redirect = require "orchestrator.redirect"
local request = require "orchestrator.request"
local response = require "orchestrator.response"
local retry = require "orchestrator.retry"
local stream = require "orchestrator.stream"
local tasks = require "orchestrator.tasks"

local fetch = {}

local EXCERPT = 64e3 -- bytes of a streamed body that is not accepted

local ACTIONS = { accept = true, retry = true, fail = true, ignore = true }

-- The result of a hop that never starts.
local function refused(err)
  return {
    error = err.kind, message = err.message, fault = err.fault, final = err.final,
    status = err.status, elapsed = 0,
  }
end

local function failure(plan, result)
  return errors.new(result.error or faults.get(result.fault).kind, result.message, {
    url = plan.url, method = plan.method, status = result.status, fault = result.fault,
    final = result.final, temporary = result.fault == "dns_no_answer" or nil,
  })
end

-- A transfer that goes on while the task does something else. It gives its slot back by itself.
local function open(client, plan)
  local pool = client.pool
  local s = stream.open(client.sched, plan, function() pool:release(plan.origin) end)
  s.explain = function(result) return failure(plan, result) end
  local ok, result, err = pcall(s.begin, s, plan.pull, not plan.stream)
  if not ok then
    s:close()
    error(result, 0)
  elseif err then
    return refused(err)
  end
  if plan.stream and not result.fault then result.stream = s end
  return result
end

-- One transfer, with its slot.
local function hop(client, plan)
  local sched, pool, network = client.sched, client.pool, client.network
  if client.allowed then
    local ok, message = client.allowed(plan.u)
    if not ok then
      return refused { kind = "blocked", message = message, fault = "host_not_allowed" }
    end
  end
  local auth = client.auth
  if auth and (plan.anonymous or plan.fields.authorization) then auth = nil end
  if auth then
    local ok, err = auth:ready(plan)
    if not ok then return refused(err) end
  end
  if not network.plain or plan.stream or plan.pull then
    local ok, err = network:aim(plan)
    if not ok then return refused(err) end
  end
  pool:acquire(plan.origin)
  if auth then auth:authorize(plan) end
  if plan.clock then plan.clock:start() end
  local ok, result
  if plan.stream or plan.pull then
    ok, result = pcall(open, client, plan)
  else
    ok, result = pcall(sched.perform, sched, plan)
    pool:release(plan.origin)
  end
  local again = auth and auth:answered(plan, ok and result or nil)
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

-- One attempt: hops until something is no redirect. Its timeout spans them all.
local function attempt(client, plan, number)
  local elapsed, hops = 0, nil
  while true do
    local result = authorized_hop(client, plan)
    elapsed = elapsed + result.elapsed
    if result.fault or result.error then return nil, failure(plan, result), elapsed end
    local status = result.status
    if status == 407 and plan.relayed then
      if result.stream then result.stream:close() end
      return nil, errors.new("connect", "the proxy does not accept the credentials",
        { url = plan.url, method = plan.method, fault = "proxy_refused", final = true }), elapsed
    end
    local following, refusal
    if status >= 300 and status <= 399 and plan.follow > 0 then
      following, refusal = redirect.next(plan, status, headers.get(result.head, "location"),
        client.idn)
    end
    if result.stream and (refusal or following) then result.stream:close() end
    if refusal then return nil, refusal, elapsed end
    if not following then
      local res = response.of(result, plan.url, number)
      if hops then res.hops = hops end
      res.elapsed = elapsed
      return res, nil, elapsed
    end
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
  end
end

-- What to make of a response: "accept", "ignore", "fail", "retry" (asked for), or nil when the
-- status alone decides whether to try again.
local function verdict(plan, res)
  local accepted = plan.accept(res)
  local action = plan.response_action and plan.response_action(res)
  if action == nil then return accepted and "accept" or nil end
  if not ACTIONS[action] then
    error(string.format('response_action must return "accept", "retry", "fail", "ignore" or nil, '
      .. "got %s", tostring(action)), 0)
  end
  return action
end

local function http_error(plan, res, action)
  local message
  if action == "fail" then
    message = string.format("response_action failed a %d", res.status)
  elseif action == "retry" then
    message = string.format("response_action still asked for a retry at the last %d", res.status)
  else
    message = string.format(res.ok and "status %d is not accepted" or "status %d", res.status)
    if res.refusal then message = message .. ": " .. res.refusal end
  end
  return errors.new("http", message,
    { url = res.url, method = plan.method, status = res.status, response = res,
      fault = "http_status" })
end

local function observe_attempt(plan, number, res, err, elapsed, retried)
  local observer = plan.observer
  if not observer then return end
  observer:attempt {
    url = plan.url, origin = plan.origin,
    status = res and res.status, kind = err and err.kind, elapsed = elapsed,
    size = res and res.size or 0, wire = res and res.wire or 0,
    attempt = number, retried = retried,
  }
end

local function observe_request(plan, number, res, err, elapsed)
  local observer = plan.observer
  if not observer then return end
  observer:request {
    url = plan.url, origin = plan.origin,
    ok = err == nil, from_cache = false, attempts = number, elapsed = elapsed,
    kind = err and err.kind, status = res and res.status,
  }
end

-- Attempts until one is judged final.
local function run(client, plan)
  local sched, policy = client.sched, plan.retry
  client.budget:request(sched:now())
  local number = 0
  local elapsed = 0
  while true do
    number = number + 1
    local res, err, took = attempt(client, plan, number)
    elapsed = elapsed + took
    local action = res and verdict(plan, res)
    local wait, reason
    if res and (action == "accept" or action == "ignore") then
      if action == "ignore" then res.ignored = true end
    else
      if res and res.stream then res.body, res.stream = res.stream:excerpt(EXCERPT), nil end
      err = err or http_error(plan, res, action)
      if action ~= "fail" and not err.final then
        wait, reason = retry.decide(policy, {
          attempt = number, method = plan.method, kind = not res and err.kind or nil,
          fault = err.fault, status = res and res.status, asked = action == "retry",
          retry_after = res and headers.get(res.head, "retry-after"),
          wall = client.host.wall(), random = client.host.random,
        })
        if wait and body.is_spent(plan) then
          wait = nil
          err.message = err.message .. " (not retried: its body came from a function)"
        end
        if wait and not client.budget:allow(sched:now()) then wait, reason = nil, "budget" end
      end
      if reason == "rate_limited" then
        err = errors.new("rate_limited", string.format(
          "the server asks to wait longer than max_retry_after (Retry-After: %s)",
          headers.get(res.head, "retry-after")),
          { url = res.url, method = plan.method, status = res.status, response = res,
            fault = "retry_after_too_long" })
      elseif reason == "budget" then
        err.message = err.message .. " (not retried: the retry budget is used up)"
      end
    end
    if plan.clock then plan.clock:stop(took) end
    observe_attempt(plan, number, res, err, took, wait ~= nil)
    if not wait then
      observe_request(plan, number, res, err, elapsed)
      if not err then return res end
      err.attempts = number
      return nil, err
    end
    sched:sleep(wait)
  end
end

-- How far a request with a total timeout came.
local Clock = {}
Clock.__index = Clock

-- A hop starts. Waiting for the first slot does not count.
function Clock:start()
  if self.began then return end
  self.began, self.attempts = self.sched:now(), self.attempts + 1
  if self.attempts == 1 then
    self.first = self.began
    self.arm(self.total)
  end
end

-- An attempt has ended.
function Clock:stop(took)
  self.began, self.elapsed = nil, self.elapsed + took
end

local function too_late(plan, attempts)
  return errors.new("timeout", string.format("no answer within %gs in total", plan.total),
    { url = plan.url, method = plan.method, attempts = attempts, fault = "timeout" })
end

local function run_limited(client, plan)
  local sched = client.sched
  local clock = setmetatable({
    sched = sched, total = plan.total, attempts = 0, elapsed = 0, began = nil, first = nil,
  }, Clock)
  plan.clock = clock
  local ended, answer, problem = false, nil, nil
  local ok, res, err = pcall(tasks.limited, sched, function(arm)
    clock.arm = arm
    answer, problem = run(client, plan)
    ended = true
    -- The body goes on after this task.
    if answer and answer.stream then answer.stream:disown() end
    return answer, problem
  end)
  if not ok then
    if answer and answer.stream then answer.stream:close() end
    error(res, 0)
  end
  if ended then
    if answer and answer.stream then
      answer.stream:limit(clock.first + plan.total, too_late(plan, clock.attempts))
    end
    return answer, problem
  end
  if err.kind ~= "timeout" then error(err, 0) end -- a function of the script's raised it
  err = too_late(plan, clock.attempts)
  if clock.began then
    local took = sched:now() - clock.began
    clock:stop(took)
    observe_attempt(plan, clock.attempts, nil, err, took, false)
  end
  observe_request(plan, clock.attempts, nil, err, clock.elapsed)
  return nil, err
end

--- Fetches. Yields.
---@param client table
---@param given string|table
---@param observer table|nil told by `observer:attempt(info)` of the end of every attempt, {url,
---  origin, status, kind, elapsed, size, wire, attempt, retried}, and by `observer:request(info)`
---  of that of the request, {url, origin, ok, from_cache, attempts, elapsed, kind, status}. They
---  must not wait.
---@return table|nil res, table? err
function fetch.fetch(client, given, observer)
  local plan, err = request.plan(client.defaults, given, client.idn)
  if not plan then return nil, err end
  plan.observer = observer
  if (plan.total or 0) <= 0 then return run(client, plan) end
  local res
  res, err = run_limited(client, plan)
  if res and res.stream then res.stream:own(client.sched:current()) end
  return res, err
end

return fetch
