-- A run of a pipeline.
--
-- Workers are tasks that take items from the source one after another. There are as many as the
-- client has use for: another is started whenever a slot is free that nobody waits for, so that
-- an item that sleeps before its retry never holds up the others. An item is open from the moment
-- it is taken until its records are in every sink, or it has failed for good; how many may be
-- open bounds the memory, whatever the size of the source.
--
-- Items that are through are committed in windows (window.lua): to the sinks, then to the journal.
-- A run that is killed goes on from there (resume.lua); one that fails or is interrupted commits
-- what is through first.

local dead_letter = require "orchestrator.dead_letter"
local errors = require "orchestrator.errors"
local item = require "orchestrator.item"
local judge = require "orchestrator.judge"
local outputs = require "orchestrator.outputs"
local resume = require "orchestrator.resume"
local session = require "orchestrator.session"
local sink = require "orchestrator.sink"
local summary = require "orchestrator.summary"
local thresholds = require "orchestrator.thresholds"
local window = require "orchestrator.window"

local run = {}

local WINDOW = 1000 -- open items, or 4 for each slot if that is more
local HELD = 64e6 -- bytes of records that wait for their turn, for more to be begun
local TICK = 1 -- seconds
local PATIENCE = 2 -- seconds, once interrupted, in which what is through can be written down
local TURN = 200 -- items that need no attempt before the loop has a look at the world

local Run = {}
Run.__index = Run

local function run_new(self, ctx)
  local sched = ctx.sched
  local new = setmetatable({
    pipeline = self,
    ctx = ctx,
    sched = sched,
    client = self.client,
    pool = self.client.pool,
    main = sched:current(), -- the task that runs it
    preparing = true, -- main opens what the run needs
    limit = nil, -- a timer: for how long it still may, once interrupted
    driving = false, -- main waits for workers
    most = math.max(WINDOW, 4 * self.client.pool:state().total), -- open items
    reader = nil,
    journal = nil, -- nil when nothing is to be remembered
    resume = nil, -- while there may be items to pass over
    before = nil, -- {sessions, skipped} when it had ended, and only others of the script go on
    outputs = outputs.new(),
    dead = nil,
    window = nil,
    uncounted = nil, -- the totals before the window that is being committed
    workers = {}, -- tasks
    pulling = false, -- one is inside the source, which may wait
    missed = false, -- there would have been room meanwhile
    exhausted = false, -- the source has no more
    taken = 0, -- items taken from it
    open = 0, -- of them not yet through
    accepted = 0, -- records, for --sample
    burst = 0, -- items in a row that needed no attempt
    pending = {}, -- ordered: settled out of turn, by number
    held = 0, -- bytes of them
    begun = 0, turn = 1, -- ordered: numbers given, and the one that is next
    warned = false, -- that the selector found nothing
    warned_plain = false, -- that a record cannot say where it came from
    stopped = false, -- nothing more is to be begun: a failure, an interruption, enough samples
    interrupted = false,
    ending = false, -- all is committed, and the sinks are being completed
    failure = nil,
    fatal = nil, -- the job whose failure that is
    summary = nil,
    started = sched:now(),
    timer = nil,
    meter = { name = self.name, done = 0, total = nil, exact = nil, in_flight = 0, failed = 0 },
  }, Run)
  new.window = window.new {
    sched = sched,
    commit = function(jobs) return new:commit(jobs) end,
    freed = function() new:wake() end,
    failed = function(err) new:fail(err) end,
  }
  return new
end

function Run:wake()
  if self.driving then self.sched:wake(self.main) end
end

function Run:cancel_workers()
  self.stopped = true
  local current = self.sched:current()
  for i = #self.workers, 1, -1 do
    if self.workers[i] ~= current then self.workers[i]:cancel() end
  end
end

function Run:fail(err)
  if self.stopped then
    self.failure = self.failure or err
    return
  end
  self.failure = err
  self:cancel_workers()
  self:wake()
end

-- Ends it where it is: nothing waits any more.
local function give_up(self)
  self.main:cancel "interrupted"
end

--- Ends it early, in good order: what is through is committed, unless a sink takes too long, such
--- as stdout without a reader. When all is, there is nothing to be ended any more.
function Run:interrupt()
  if self.interrupted or self.ending then return end
  self.interrupted = true
  self:cancel_workers()
  self.window:hurry(PATIENCE)
  if self.preparing then
    self.limit = self.sched:at(self.sched:now() + PATIENCE, give_up, self)
  end
  self:wake()
end

-- Committing -----------------------------------------------------------------------------------

-- Counts what became of an item.
local function count(self, job)
  local counts = self.summary
  if job.err then
    counts:item_failed(job.err, self.reader:where(job.position))
  else
    counts:item(job.found, job.filtered, job.count)
  end
  counts.records.dead = counts.records.dead + (job.letters and #job.letters or 0)
  for _, err in ipairs(job.bad or {}) do counts:record_bad(err, err.position) end
end

-- Makes a window last. What is counted is what is in the sinks.
function Run:commit(jobs)
  local before = self.summary:totals()
  for i = 1, #jobs do count(self, jobs[i]) end
  local kept = self.journal
  local entry = kept and kept:entry(jobs, self.summary:totals())
  self.uncounted = before
  local ok, err = self.outputs:commit(jobs, kept, entry)
  if not ok then return nil, err end
  self.uncounted = nil
  self.open = self.open - #jobs
  for i = 1, #jobs do self.reader:ack(jobs[i].position) end
  return true
end

-- Sets down what became of an item: from here on it waits for its window. Does not wait.
function Run:settle(job)
  local ok, err = judge.bury(self, job)
  if not ok then return self:fail(err) end
  if not job.err then
    local wanted = self.ctx.sample and self.ctx.sample - self.accepted
    if wanted and job.count > wanted then
      job.count = wanted
      local list = {}
      for i = 1, wanted do list[i] = job.records[i] end
      job.batches, job.size = self.outputs:encode(list)
    end
    self.accepted = self.accepted + job.count
  end
  self.window:add(job)
  if self.ctx.sample and self.accepted >= self.ctx.sample then
    self:cancel_workers()
    self:wake()
  end
end

function Run:settle_in_turn(job)
  if not self.pipeline.ordered then return self:settle(job) end
  local pending = self.pending
  pending[job.number], self.held = job, self.held + job.size
  job = pending[self.turn]
  while job and not self.stopped do
    pending[self.turn], self.held = nil, self.held - job.size
    self.turn = self.turn + 1
    self:settle(job)
    job = pending[self.turn]
  end
end

-- Workers --------------------------------------------------------------------------------------

function Run:has_room()
  return not self.stopped and not self.exhausted and not self.pulling and self.burst < TURN
    and self.open < self.most and self.held < HELD and not self.window:is_full()
    and self.pool:spare() > 0
end

-- Reads an item off the source; nil at the end.
function Run:read()
  local position, given, err = self.reader:next()
  if position == nil then return nil, err end
  self.taken = self.taken + 1
  return {
    position = position, place = self.taken, item = given, err = err, unread = err ~= nil, size = 0,
    count = 0, letter = self.pipeline.retries and position or nil,
  }
end

-- The next item as a job; nil at the end.
function Run:take()
  self.pulling = true
  local job, err
  if self.resume then
    job, err = self.resume:next()
    if not job and not err then self.resume:ended() end
  else
    job, err = self:read()
  end
  self.pulling = false
  if self.missed then
    self.missed = false
    self:wake()
  end
  if not job then
    self.exhausted = true
    if err then self:fail(err) end
    return nil
  end
  self.open = self.open + 1
  self.begun = self.begun + 1
  job.number = self.begun
  return job
end

local function worker(self)
  self:wake() -- behind this one's first step: whether there is room for another shows then
  -- The last one stays whether there is a free slot or not, so that a run never stands still.
  while self:has_room() or (#self.workers == 1 and not self.exhausted and not self.stopped
    and not self.window:is_full()) do
    local job = self:take()
    if not job then break end
    local attempts = self.summary.attempts
    local ok, err = item.work(self, job)
    if not ok then
      job.err = err
      judge.judge(self, job)
    end
    if self.stopped then break end
    if job.verdict == "fail" then
      self.fatal = job
      self:fail(job.err)
      break
    end
    self:settle_in_turn(job)
    self.burst = self.summary.attempts == attempts and self.burst + 1 or 0
    if self.burst == TURN then
      -- Items that fail at once would keep the loop from signals and timers.
      self.sched:sleep(0)
      self.burst = 0
      self:wake()
    end
  end
end

-- What a function of the script raised tells its line, unless it was raised in one of ours that
-- was given what the function returned.
local function named(self, err)
  if err.kind == "script" and not err.message:find "^[^\n]-:%d+: " then
    err.message = string.format('pipeline "%s": %s', self.pipeline.name, err.message)
  end
  return err
end

local function worker_done(task)
  local self = task.run
  local workers = self.workers
  local last = workers[#workers]
  workers[task.place], last.place = last, task.place
  workers[#workers] = nil
  if not task.ok and not task.cancelled then self:fail(named(self, task.err)) end
  self:wake()
end

function Run:start_worker()
  local task = self.sched:spawn(worker, self)
  local place = #self.workers + 1
  task.run, task.place, task.on_done = self, place, worker_done
  self.workers[place] = task
end

-- Sees to it that there are workers until the source is through.
function Run:drive()
  while true do
    local idle = #self.workers == 0
    if idle and (self.exhausted or self.stopped) then
      -- What is asked for in the background counts, too.
      if not self.stopped and self.client.cache then self.client.cache.background:join() end
      return
    end
    if self:has_room() or (idle and not self.window:is_full()) then self:start_worker() end
    self.missed = self.pulling
    self.driving = true
    self.sched:suspend(Run.cancel_workers, self)
    self.driving = false
  end
end

local function tick(self)
  local progress, meter = self.ctx.progress, self.meter
  if progress then
    meter.done, meter.failed = self.summary.items, self.summary.failed
    meter.in_flight = self.pool:state().active
    meter.total, meter.exact = self.reader:total()
    progress:update(meter)
  end
  self.timer = self.sched:at(self.sched:now() + (progress and progress.every or TICK), tick, self)
end

-- From the beginning to the end ----------------------------------------------------------------

-- Opens whatever the run needs. Yields.
function Run:prepare()
  local p, ctx = self.pipeline, self.ctx
  local err
  if p.journal and ctx.state and not ctx.sample then
    local ended
    self.journal, err, ended = session.begin(p, ctx)
    if ended then
      self.summary = summary.new {
        pipeline = p.name, run_id = ended.id, started_at = ended.started,
      }
      self.summary:restore(ended.totals)
      self.before = { sessions = ended.sessions + 1, skipped = self.summary.items }
    end
    if not self.journal then return nil, err end
  end
  if ctx.resume and not p.journal then
    ctx.log:warn(string.format('"%s" has "journal" = false: there is nothing that --resume could '
      .. "go on with", p.name))
  end
  local kept = self.journal
  local run_id, began = ctx.run_id, ctx.wall()
  if kept then run_id, began = kept.run_id, kept.started end
  self.summary = summary.new { pipeline = p.name, run_id = run_id, started_at = began }

  local function open(spec, position)
    local opened, problem = sink.open(spec, {
      sched = self.sched, host = ctx.host, env = ctx.env, log = ctx.log, name = p.name,
      run_id = run_id, started = began, mode = p.mode, durable = kept ~= nil,
      schema = spec ~= p.dead and p.schema or nil,
      resume = position, finishing = kept ~= nil and kept.finishing, client = self.client,
    })
    if not opened then return nil, problem end
    opened.mode = opened.mode or spec.mode or p.mode
    if opened.warning then ctx.log:warn(opened.warning) end
    if opened.terminal and ctx.progress then ctx.progress:hide() end
    return opened
  end
  self.dead = dead_letter.new {
    spec = p.dead, open = open, pipeline = p.name, run_id = run_id, wall = ctx.wall,
    outputs = self.outputs,
  }
  local ok
  ok, err = self.outputs:open(ctx.sample and { (assert(sink.check "-")) } or p.sink, kept, open,
    p.dead.goes_back)
  if not ok then return nil, err end
  if not ctx.sample then
    self.dead.position = kept and kept.positions.dead -- which the sinks may have told the journal
    ok, err = self.dead:begin()
    if not ok then return nil, err end
  end
  ok, err = self.outputs:claim()
  if not ok then return nil, err end
  ok, err = self.outputs:begin(kept)
  if not ok then return nil, err end
  -- Not before: a window that the journal had not heard of may have been added.
  if kept and kept.totals then self.summary:restore(kept.totals) end
  self.accepted = self.summary.records.out

  if kept and kept.finishing then -- nothing is left but to end
    self.exhausted = true
    local function none() end
    self.reader = { where = none, total = none, close = none }
    return true
  end
  self.reader, err = p.source:open()
  if not self.reader then return nil, err end
  if kept and kept.sessions > 1 then
    self.resume, err = resume.new(kept, {
      take = function()
        if self.taken % TURN == 0 then self.sched:sleep(0) end
        local job, problem = self:read()
        if job then item.identify(self, job) end
        return job, problem
      end,
      skip = function(job) self.reader:ack(job.position) end,
      warn = function(text) ctx.log:warn(text) end,
    })
    if not self.resume then return nil, err end
  end
  return true
end

-- Everything is committed: completes the sinks, or gives the run up when nothing came of it. May be
-- repeated by a resumed run. Yields.
function Run:complete_sinks(hopeless)
  local ok, err
  if self.journal then
    ok, err = self.journal:finish()
    if not ok then return nil, err end
  end
  if not hopeless then
    ok, err = self.outputs:finish()
    if not ok then return nil, err end
  end
  return self.dead:finish(not hopeless and not self.ctx.sample
    and self.pipeline.dead.mode == "replace")
end

-- Nothing more is begun: commits what is through, and completes the sinks if all is. Yields.
function Run:wind_up()
  local counts, kept = self.summary, self.journal
  local ok, err = self.window:drain()
  if not ok then
    self.failure = self.failure or err
    if self.uncounted then counts:undo(self.uncounted) end
  end
  local hopeless = false
  if not self.failure and not self.interrupted then
    self.ending = true
    hopeless = counts.failed > 0 and counts.fetched == 0 or counts:none_good()
    ok, err = self:complete_sinks(hopeless)
    self.complete = ok and not hopeless
    if hopeless and ok then
      err = errors.new("validation", counts.fetched == 0 and "every item failed"
        or "every record is bad")
    end
    hopeless, self.failure = hopeless and ok, err
  elseif not kept then
    ok, err = self.dead:finish(false)
    if not ok then self.failure = self.failure or err end
  end
  self.ended = self.complete or hopeless or not kept
  if kept and self.ended then
    ok, err = kept:close(self.complete and "finished" or "failed", self.ctx.wall(),
      self.failure and tostring(self.failure))
    if not ok then self.failure = self.failure or err end
  elseif kept then
    kept:pause(self.interrupted and "interrupted" or tostring(self.failure))
  end
end

-- Ends the run: sinks, thresholds, summary. Does not wait.
function Run:finish()
  local p, ctx, counts = self.pipeline, self.ctx, self.summary
  local interrupted, kept = self.interrupted, self.journal
  if self.fatal then
    counts:item_failed(self.fatal.err, self.fatal.err.position)
    self.open = self.open - 1
  end
  if self.reader then self.reader:close() end
  if ctx.progress then ctx.progress:finish(self.meter) end
  local keep = kept ~= nil and not self.ended
  local problem = self.outputs:close(keep)
  self.failure = self.failure or problem
  if kept then session.finish(kept) end

  local elapsed = self.sched:now() - self.started
  local verdicts, in_bounds = {}, true
  if not self.failure and not interrupted and not ctx.sample and not self.before then
    verdicts, in_bounds = thresholds.judge(p.thresholds, counts:metrics(elapsed))
  end
  local about = {
    elapsed = elapsed, verdicts = verdicts, interrupted = interrupted, failure = self.failure,
    begun = counts.items + self.open, outputs = self.outputs:outcomes(self.complete, keep),
    dead = self.dead and self.dead:kept_in(keep), colour = ctx.colour,
    resumed = self.before or kept and kept.sessions > 1
      and { sessions = kept.sessions, skipped = self.resume and self.resume.skipped or 0 } or nil,
    resumable = keep, retries = p.retries == true,
  }
  local code = (self.failure or interrupted) and 1 or in_bounds and 0 or 3
  if self.failure and self.failure.could_not_start then code = 2 end
  -- Nothing was begun, so there is nothing to be told but why.
  local unbegun = self.refused and not interrupted and counts.items == 0 and not about.resumed
  return {
    ok = code == 0, code = code, interrupted = interrupted, failure = self.failure,
    summary = counts:table(about), text = unbegun and counts:refusal(about) or counts:text(about),
  }
end

--- Runs a pipeline to its end, inside a task. When that task is cancelled the run is wound up
--- without waiting any more, and the result says `interrupted`.
---@param p orc.Pipeline
---@param ctx table {sched, host, env, log, wall: fun(): number, run_id: string,
---  progress: orc.Progress?, sample: integer?, colour: boolean?, state: (fun(): orc.State|nil,
---  problem)?, resume: boolean?, others: table? names of the script's pipelines → true,
---  interrupts: table? a list to which what takes an interruption is added}
---@return table result {ok: boolean, code: 0|1|2|3, interrupted: boolean, failure: table?,
---  summary: table the summary JSON, text: string the summary for people}
function run.start(p, ctx)
  local self = run_new(p, ctx)
  self.summary = summary.new { pipeline = p.name, run_id = ctx.run_id, started_at = ctx.wall() }
  if ctx.interrupts then table.insert(ctx.interrupts, function() self:interrupt() end) end
  local ok, raised = pcall(function()
    local ready, err = self:prepare()
    self.preparing = false
    if self.limit then self.limit:cancel() end
    if not ready then
      self.failure, self.stopped, self.refused = err, true, true
      if self.journal then self.journal:pause(tostring(err)) end
      return
    end
    self.pool:listen(self)
    tick(self)
    self:drive()
    self:wind_up()
  end)
  self.driving, self.stopped = false, true
  if self.timer then
    self.pool:unlisten(self)
    self.timer:cancel()
  end
  if not ok then
    self.window:stop()
    if not self.main.cancelled then error(raised, 0) end
    self.interrupted = true
  end
  return self:finish()
end

return run
