-- One request: attempts (attempt.lua) until one is judged final. Between them nothing is held.

local attempt = require "orchestrator.attempt"
local body = require "orchestrator.body"
local cache_flights = require "orchestrator.cache_flights"
local cache_result = require "orchestrator.cache_result"
local errors = require "orchestrator.errors"
local fallback = require "orchestrator.fallback"
local headers = require "orchestrator.headers"
local hedge = require "orchestrator.hedge"
local race = require "orchestrator.race"
local request = require "orchestrator.request"
local response = require "orchestrator.response"
local retry = require "orchestrator.retry"
local saved = require "orchestrator.saved"
local scheduler = require "orchestrator.scheduler"
local tasks = require "orchestrator.tasks"
local verdict = require "orchestrator.verdict"

local fetch = {}

local EXCERPT = 64e3 -- bytes of a streamed body that is not accepted

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
  if not observer or (err and err.unsent) then return end
  observer:attempt {
    url = plan.url, origin = plan.origin,
    status = res and res.status, kind = err and err.kind, elapsed = elapsed,
    size = res and res.size or 0, wire = res and res.wire or 0,
    attempt = number, retried = retried, hedge = res and res.hedged,
  }
end

local function observe_request(plan, number, res, err, elapsed)
  local observer = plan.observer
  if not observer then return end
  local seen = res or err and err.response
  observer:request {
    url = plan.url, origin = plan.origin,
    ok = err == nil, from_cache = seen and seen.from_cache, attempts = number, elapsed = elapsed,
    kind = err and err.kind, status = seen and seen.status, instead_of = res and res.instead_of,
  }
end

local function too_long(plan, res, wall)
  local asked = headers.get(res.head, "retry-after")
  local seconds = res.retry_in or retry.after(asked, wall)
  local longer = seconds > plan.retry.max_retry_after
  return errors.new("rate_limited", string.format(
    "the server asks to wait longer than %s (%s)",
    longer and "max_retry_after" or "retry.deadline",
    res.retry_in and string.format("%g s, with all credentials used up", seconds)
      or "Retry-After: " .. asked),
    { url = res.url, method = plan.method, status = res.status, response = res,
      fault = "retry_after_too_long" })
end

local NOTES = {
  body = "its body came from a function",
  budget = "the retry budget is used up",
  deadline = "the wait would end after retry.deadline",
}

-- How long to wait after an attempt that is no answer, nil when it was the last; and the error it
-- ended with.
local function judge_failure(client, plan, number, res, err, action)
  if res and res.stream then res.body, res.stream = res.stream:excerpt(EXCERPT), nil end
  if res then res.saved = nil end -- it is kept for nobody
  err = err or http_error(plan, res, action)
  if action == "fail" or err.final then return nil, err end
  local now, wall = client.sched:now(), client.host.wall()
  local first, key = plan.clock and plan.clock.first, plan.fields["idempotency-key"]
  local wait, reason = retry.decide(plan.retry, {
    attempt = number, method = plan.method, kind = not res and err.kind or nil,
    fault = err.fault, status = res and res.status, asked = action == "retry",
    retry_after = res and headers.get(res.head, "retry-after"), retry_in = res and res.retry_in,
    keyed = key ~= nil and key.value ~= "", elapsed = first and now - first,
    wall = wall, random = client.host.random,
  })
  if wait and body.is_spent(plan) then
    wait, reason = nil, "body"
  elseif wait and not client.budget:allow(now) then
    wait, reason = nil, "budget"
  elseif reason == "rate_limited" then
    return nil, too_long(plan, res, wall)
  end
  if NOTES[reason] then err.message = err.message .. " (not retried: " .. NOTES[reason] .. ")" end
  return wait, err
end

-- Judges what nobody was asked for: it was stored. What is no answer is got anew, if it may be.
local function judge_stored(plan, number, res, err, action)
  if res then
    res.attempts = number
    action = action or verdict.of(plan, res)
    if verdict.is_good(action) then
      if action == "ignore" then res.ignored = true end
      err = saved.deliver(plan, res)
    elseif action ~= "fail" and plan.cache.mode ~= "only-if-cached"
      and retry.may_pass(plan.retry, { asked = action == "retry", status = res.status }) then
      return nil, nil, true
    else
      err = http_error(plan, res, action)
    end
  end
  if not err then return res end
  err.attempts = number
  return nil, err
end

-- What is stored, instead of an error, if it may be and is an answer. `problem` is that, or the
-- response that is one.
local function rescue(client, plan, number, problem, err)
  local stale, url, hops = client.cache:rescue(client, plan, problem)
  if not stale then return nil end
  local res = response.of(stale, url, number)
  if hops then res.hops = hops end
  local action = verdict.of(plan, res)
  if not verdict.is_good(action) or saved.deliver(plan, res) then return nil end
  if action == "ignore" then res.ignored = true end
  err = err or http_error(plan, problem)
  err.attempts = number
  res.instead_of, plan.root.failed = err, err
  return res
end

local function make_attempt(client, plan, number, hedged)
  if hedged then return race.make(client, plan, number, verdict.of) end
  local res, err, took = attempt.make(client, plan, number)
  return res, err, took, res and verdict.of(plan, res)
end

-- An answer came: stores it, and puts it where it belongs.
local function accepted(plan, res, action)
  if action == "ignore" then res.ignored = true end
  if res.stream then res.stream:accepted() end
  if plan.place then return saved.keep(plan, res) end
end

-- Attempts until one is judged final.
local function run(client, plan)
  local sched, clock, on_retry = client.sched, plan.clock, plan.retry.on_retry
  local hedged = hedge.applies(plan)
  client.budget:request(sched:now())
  if hedged then hedge.shared(client).budget:request(sched:now()) end
  local number, elapsed = 0, 0
  while true do
    local res, err, took, action = make_attempt(client, plan, number + 1, hedged)
    local wait, stale, again
    elapsed = elapsed + took
    if res and res.unsent then
      res, err, again = judge_stored(plan, number, res, err, action)
      plan.reload = again
    else
      number = number + 1
      if client.hedges and res and res.status == 429 then
        client.hedges:overloaded(plan.origin, sched:now())
      end
      -- That a script accepts errors does not mean that it wants them.
      if plan.cache and action == "accept" then stale = rescue(client, plan, number, res) end
      if not stale and verdict.is_good(action) then
        if plan.cache then client.cache:settle(client, res, true) end
        err = accepted(plan, res, action)
      elseif not stale then
        wait, err = judge_failure(client, plan, number, res, err, action)
        if plan.cache and res and not action and not wait then
          client.cache:settle(client, res, false)
        end
      end
      if clock then clock:stop(took) end
      observe_attempt(plan, number, res, err, took, wait ~= nil)
    end
    if not wait and not again then
      if err and plan.cache then
        stale = rescue(client, plan, number, err, err)
        if stale then err = nil end
      end
      res = stale or res
      observe_request(plan, number, res, err, elapsed)
      if not err then return res end
      err.attempts = number
      return nil, err
    end
    if wait and on_retry then
      on_retry { url = plan.url, method = plan.method, attempt = number, wait = wait, error = err,
        status = res and res.status }
    end
    if wait then sched:sleep(wait) end
  end
end

-- How far a request came that has a total timeout, or a deadline for its retries.
local Clock = {}
Clock.__index = Clock

-- A hop starts. Waiting for the first slot does not count.
function Clock:start()
  if self.began then return end
  self.began, self.attempts = self.sched:now(), self.attempts + 1
  self:wait()
end

-- It waits for what another request brings. That counts, unlike waiting for its turn.
function Clock:wait()
  if self.first then return end
  self.first = self.sched:now()
  if self.arm then self.arm(self.total) end
end

-- Whether another attempt would start too late.
function Clock:is_over(deadline)
  return deadline ~= nil and self.began == nil and self.first ~= nil
    and self.sched:now() - self.first > deadline
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
  local sched, clock = client.sched, plan.clock
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
  local stale = plan.cache
    and rescue(client, plan, clock.attempts, { kind = err.kind, url = plan.root.url }, err)
  if stale then
    observe_request(plan, clock.attempts, stale, nil, clock.elapsed)
    return stale
  end
  observe_request(plan, clock.attempts, nil, err, clock.elapsed)
  return nil, err
end

local function attempts(client, plan)
  local limited = (plan.total or 0) > 0
  if limited or plan.retry.deadline then
    plan.clock = setmetatable({
      sched = client.sched, total = plan.total, attempts = 0, elapsed = 0, began = nil, first = nil,
    }, Clock)
  end
  if not limited then return run(client, plan) end
  local res, err = run_limited(client, plan)
  if res and res.stream then res.stream:own(client.sched:current()) end
  return res, err
end

-- An outage that nobody sees is worth a line to who looks for it.
local function tell(client, res)
  local voice = client.env.voice
  if not voice then return end
  voice.log:debug("answered from the cache instead of an error",
    { error = res.instead_of, url = res.url, age = math.floor(res.age or 0) })
end

-- From the store, or by attempts.
local function carry_out(client, plan)
  local res, err, again
  if not plan.cache then
    if plan.cache_mode ~= "only-if-cached" then return attempts(client, plan) end
    err = attempt.failure(plan, cache_result.not_cached())
    err.attempts = 0
    observe_request(plan, 0, nil, err, 0)
    return nil, err
  end
  local kept = client:use_cache()
  res, err = attempt.make(client, plan, 0, true)
  if res or err then
    res, err, again = judge_stored(plan, 0, res, err)
    if not again then
      observe_request(plan, 0, res, err, 0)
      kept:rest()
      return res, err
    end
    plan.reload = true
  end
  local ok
  local task = client.sched:current()
  local outer = task.request
  plan.root = cache_flights.root(outer)
  task.request = plan.root
  ok, res, err = xpcall(attempts, scheduler.trace, client, plan)
  task.request = outer
  kept.flights:abandon(plan.root, ok and (err or plan.root.failed) or nil)
  plan.root.over, plan.root.stale = true, nil
  if not ok then error(res, 0) end
  if res and res.instead_of then tell(client, res) end
  return res, err
end

local function perform(client, plan)
  local staged = saved.stage(plan)
  if not staged and not plan.borrowed then return carry_out(client, plan) end
  local ok, res, err = xpcall(carry_out, scheduler.trace, client, plan)
  if staged then saved.drop(plan) end
  request.release(plan)
  if not ok then error(res, 0) end
  return res, err
end

--- Fetches. Yields.
---@param client table
---@param given string|table
---@param observer table|nil told by `observer:attempt(info)` of the end of every attempt, {url,
---  origin, status, kind, elapsed, size, wire, attempt, retried, hedge, lost}, where `lost` is true
---  for one of an attempt and its hedges whose outcome does not count, mostly a cancelled one; by
---  `observer:request(info)` of that of the request, {url, origin, ok, from_cache, attempts,
---  elapsed, kind, status, instead_of}; and by `observer:fell_back(info)`, {url}, when the request
---  that failed was answered by `fallback`. They must not wait.
---@return table|nil res, table? err
function fetch.fetch(client, given, observer)
  local plan, err = request.plan(client.defaults, given, client.idn)
  local res
  if plan then
    plan.observer = observer
    client.pool:check_weight(plan.weight)
    res, err = perform(client, plan)
    if res then return res end
  end
  local fn = (plan or client.defaults.__index).fallback
  if not plan and type(given) == "table" and given.fallback ~= nil then fn = given.fallback end
  if not fn then return nil, err end
  res, err = fallback.answer(fn, err, given, client)
  if res and observer then observer:fell_back { url = res.url } end
  return res, err
end

return fetch
