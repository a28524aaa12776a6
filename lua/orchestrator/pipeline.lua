-- One named job: source → request → fetch → records → filter → map → sinks.
--
-- Workers are tasks that take items from the source one after another. There are as many as the
-- client has use for: another is started whenever a slot is free that nobody waits for, so that
-- an item that sleeps before its retry never holds up the others. An item is open from the moment
-- it is taken until its records are in every sink, or it has failed for good; how many may be
-- open bounds the memory, whatever the size of the source.

local dead_letter = require "orchestrator.dead_letter"
local errors = require "orchestrator.errors"
local options = require "orchestrator.options"
local outputs = require "orchestrator.outputs"
local provenance = require "orchestrator.provenance"
local records = require "orchestrator.records"
local secret = require "orchestrator.secret"
local selector = require "orchestrator.selector"
local sink = require "orchestrator.sink"
local source = require "orchestrator.source"
local summary = require "orchestrator.summary"
local thresholds = require "orchestrator.thresholds"

local pipeline = {}

local WINDOW = 1000 -- open items, or 4 for each slot if that is more
local FLUSH_EVERY = 1 -- seconds
local TURN = 200 -- items that need no attempt before the loop has a look at the world

-- Options ------------------------------------------------------------------------------------

local function check_name(name)
  local plain = name:find "^[^%c/.][^%c/]*$" and #name <= 100 and not source.bad_utf8(name)
  if plain then return name end
  return nil, "must be a plain name, since files are named after it"
end

local SCHEMA = {
  name = { type = "string", check = check_name },
  client = { type = "table", default = {} },
  source = { type = "any", required = true, check = source.of },
  request = { type = "function" },
  data_selector = { type = "string", check = selector.compile },
  filter = { type = "function" },
  map = { type = "function" },
  sink = { type = { "string", "table" }, default = "-", check = outputs.check },
  mode = { type = { one_of = { "replace", "append" } }, default = "replace" },
  ordered = { type = "boolean", default = false },
  on_error = {
    type = { { one_of = { "dead_letter", "skip", "fail" } }, "function" },
    default = "dead_letter",
  },
  thresholds = { type = "table", default = {}, check = thresholds.parse },
  provenance = { type = "boolean", default = false },
}

---@class orc.Pipeline
local Pipeline = {}
Pipeline.__index = Pipeline

--- Checks the options; raises on misuse.
---@param env table {name: string the default name, client_of: fun(opts_or_client): client}
---@return orc.Pipeline
function pipeline.new(env, opts)
  local self = options.check("pipeline", opts, SCHEMA)
  self.name = self.name or env.name
  self.client = env.client_of(self.client)
  self.select = self.data_selector or selector.compile()
  self.selected = opts.data_selector
  self.dead_path = dead_letter.path(self.name, self.sink)
  for _, target in ipairs(self.sink) do
    if target == self.dead_path then
      options.fail("pipeline", string.format('"sink": "%s" is where the dead letters go', target))
    end
  end
  return setmetatable(self, Pipeline)
end

---@return boolean
function pipeline.is(value)
  return getmetatable(value) == Pipeline
end

-- A run ----------------------------------------------------------------------------------------

local Run = {}
Run.__index = Run

local function run_new(self, ctx)
  local client, sched = self.client, ctx.sched
  local function open_sink(target)
    local opened, err = sink.open(target, self.mode)
    if not opened then return nil, err end
    if opened.warning then ctx.log:warn(opened.warning) end
    if opened.terminal and ctx.progress then ctx.progress:hide() end
    return opened
  end
  return setmetatable({
    pipeline = self,
    ctx = ctx,
    sched = sched,
    client = client,
    pool = client.pool,
    main = sched:current(), -- the task that runs it
    driving = false, -- main waits for workers
    window = math.max(WINDOW, 4 * client.pool:state().total),
    reader = nil,
    outputs = outputs.new(self.mode, open_sink),
    dead = dead_letter.new {
      path = self.dead_path, open = open_sink, pipeline = self.name, run_id = ctx.run_id,
      wall = ctx.wall,
    },
    workers = {}, -- tasks
    pulling = false, -- one is inside the source, which may wait
    missed = false, -- there would have been room meanwhile
    exhausted = false, -- the source has no more
    taken = 0, -- items taken from it
    open = 0, -- of them not yet through
    burst = 0, -- of them so many in a row needed no attempt
    pending = {}, -- ordered: settled out of turn, by number
    turn = 1, -- ordered: the number that is next
    warned = false, -- that the selector found nothing
    warned_plain = false, -- that a record cannot say where it came from
    stopped = false, -- nothing more is to happen: a failure, an interruption, enough samples
    failure = nil,
    summary = summary.new {
      pipeline = self.name, run_id = ctx.run_id, started_at = ctx.wall(),
    },
    began = sched:now(),
    flushed = sched:now(),
    timer = nil,
    meter = { name = self.name, done = 0, total = nil, exact = nil, in_flight = 0, failed = 0 },
  }, Run)
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
  if self.stopped then return end
  self.failure = err
  self:cancel_workers()
  self:wake()
end

-- Items ----------------------------------------------------------------------------------------

-- Sets down what became of an item: the only place where anything is written. Does not wait.
function Run:settle(job)
  self.open = self.open - 1
  local counts = self.summary
  if job.err then
    local where = self.reader:where(job.position)
    counts:item_failed(job.err, where)
    self.ctx.log:debug("item failed", { error = job.err })
    if job.verdict == "dead_letter" and not self.ctx.sample then
      local ok, err = self.dead:add(job.item, job.err, where)
      if not ok then return self:fail(err) end
      counts.records.dead = counts.records.dead + 1
    end
  else
    local wanted = self.ctx.sample and self.ctx.sample - counts.records.out
    if wanted and job.count > wanted then
      job.count = wanted
      local list = {}
      for i = 1, wanted do list[i] = job.records[i] end
      job.batches = assert(self.outputs:encode(list))
    end
    local ok, err = self.outputs:write(job.batches, job.count)
    if not ok then return self:fail(err) end
    counts:item(job.found, job.filtered, job.count)
  end
  self.reader:ack(job.position)
  if self.ctx.sample and counts.records.out >= self.ctx.sample then
    self:cancel_workers()
    self:wake()
  end
end

function Run:settle_in_turn(job)
  if not self.pipeline.ordered then return self:settle(job) end
  local pending = self.pending
  pending[job.number] = job
  job = pending[self.turn]
  while job and not self.stopped do
    pending[self.turn] = nil
    self.turn = self.turn + 1
    self:settle(job)
    job = pending[self.turn]
  end
end

function Run:fetch(request)
  return self.client:fetch(request, self.summary)
end

-- Without a request function the item is the request. What is wrong with it is wrong with the
-- data, so the misuse that fetch raises fails the item and not the run.
function Run:fetch_item(item)
  if type(item) == "string" or secret.is(item) then return self:fetch(item) end
  if type(item) ~= "table" or item.url == nil then
    return nil, errors.new("invalid", string.format(
      "the item is a %s without a url, and the pipeline has no request function", type(item)))
  end
  local ok, res, err = pcall(self.fetch, self, item)
  if ok then return res, err end
  if type(res) ~= "string" or self.sched:current().cancelled then error(res, 0) end
  return nil, errors.new("invalid", "the item is no request: " .. res)
end

function Run:warn_missing(res)
  if self.warned or not self.pipeline.selected then return end
  self.warned = true
  self.ctx.log:warn(string.format('data_selector "%s" finds nothing in a response',
    self.pipeline.selected), { url = res.url })
end

-- Adds to records where they came from, if that is wanted.
function Run:sign(list, res)
  if not self.pipeline.provenance or #list == 0 then return list end
  local signed, left_out = provenance.added(list, provenance.of(res, self.ctx.wall()))
  if not signed then
    left_out.url, left_out.attempts = res.url, res.attempts
    return nil, left_out
  elseif left_out > 0 and not self.warned_plain then
    self.warned_plain = true
    self.ctx.log:warn("a record is no object: it cannot say where it came from", { url = res.url })
  end
  return signed
end

-- Fetches an item and makes its records ready to be written. Returns true, or nil, err.
function Run:work(job)
  local p, item = self.pipeline, job.item
  local res, err
  if p.request then
    local request
    request, err = p.request(item)
    if request == nil then
      return nil, records.refusal(err)
        or errors.new("invalid", "the request function returned nothing for this item")
    end
    res, err = self:fetch(request)
  else
    res, err = self:fetch_item(item)
  end
  if not res then return nil, err end

  local list, found = records.select(p.select, res)
  if not list then return nil, found end
  if not found then self:warn_missing(res) end
  job.found = #list
  list, job.filtered = records.transform(p.filter, p.map, list, res, item)
  if not list then return nil, job.filtered end
  list, err = self:sign(list, res)
  if not list then return nil, err end
  job.batches, err = self.outputs:encode(list)
  if not job.batches then
    err.url = err.url or res.url
    return nil, err
  end
  job.count = #list
  job.records = self.ctx.sample and list
  return true
end

local VERDICTS = { dead_letter = true, skip = true, fail = true }

function Run:judge(job)
  local err = job.err
  err.position = err.position or self.reader:where(job.position)
  local verdict = self.pipeline.on_error
  if type(verdict) == "function" then
    verdict = verdict(err, job.item)
    if not VERDICTS[verdict] then
      error(string.format('on_error must return "fail", "skip" or "dead_letter", got %s',
        tostring(verdict)), 0)
    end
  end
  job.verdict = verdict
end

-- Workers --------------------------------------------------------------------------------------

function Run:has_room()
  return not self.stopped and not self.exhausted and not self.pulling and self.burst < TURN
    and self.open < self.window and self.pool:spare() > 0
end

-- The next item as a job; nil at the end.
function Run:take()
  self.pulling = true
  local position, item, err = self.reader:next()
  self.pulling = false
  if self.missed then
    self.missed = false
    self:wake()
  end
  if position == nil then
    self.exhausted = true
    if err then self:fail(err) end
    return nil
  end
  self.taken = self.taken + 1
  self.open = self.open + 1
  return { position = position, number = self.taken, item = item, err = err }
end

local function worker(run)
  run:wake() -- behind this one's first step: whether there is room for another shows then
  -- The last one stays whether there is room or not, so that a run never stands still.
  while run:has_room() or (#run.workers == 1 and not run.exhausted and not run.stopped) do
    local job = run:take()
    if not job then break end
    local attempts = run.summary.attempts
    local ok, err = not job.err, job.err
    if ok then ok, err = run:work(job) end
    if not ok then
      job.err = err
      run:judge(job)
    end
    if run.stopped then break end
    if job.verdict == "fail" then
      run:settle(job)
      run:fail(job.err)
      break
    end
    run:settle_in_turn(job)
    run.burst = run.summary.attempts == attempts and run.burst + 1 or 0
    if run.burst == TURN then
      -- Items that fail at once would keep the loop from signals and timers.
      run.sched:sleep(0)
      run.burst = 0
      run:wake()
    end
  end
end

-- What a function of the script raised tells its line, unless it was raised in one of ours that
-- was given what the function returned.
local function named(run, err)
  if err.kind == "script" and not err.message:find "^[^\n]-:%d+: " then
    err.message = string.format('pipeline "%s": %s', run.pipeline.name, err.message)
  end
  return err
end

local function worker_done(task)
  local run, workers = task.run, task.run.workers
  local last = workers[#workers]
  workers[task.place], last.place = last, task.place
  workers[#workers] = nil
  if not task.ok then run:fail(named(run, task.err)) end
  run:wake()
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
    if idle or self:has_room() then self:start_worker() end
    self.missed = self.pulling
    self.driving = true
    self.sched:suspend(Run.cancel_workers, self)
    self.driving = false
  end
end

local function tick(run)
  local now = run.sched:now()
  if now - run.flushed >= FLUSH_EVERY then
    run.flushed = now
    local ok, err = run.outputs:flush()
    if ok then ok, err = run.dead:flush() end
    if not ok then run:fail(err) end
  end
  local progress, meter = run.ctx.progress, run.meter
  if progress then
    meter.done, meter.failed = run.summary.items, run.summary.failed
    meter.in_flight = run.pool:state().active
    meter.total, meter.exact = run.reader:total()
    progress:update(meter)
  end
  run.timer = run.sched:at(now + (progress and progress.every or FLUSH_EVERY), tick, run)
end

-- Ends the run: outputs, thresholds, summary.
function Run:finish(interrupted)
  local p, ctx, counts = self.pipeline, self.ctx, self.summary
  if self.reader then self.reader:close() end
  if ctx.progress then ctx.progress:finish(self.meter) end
  if not self.failure and not interrupted and counts.failed > 0 and counts.fetched == 0 then
    self.failure = errors.new("validation", "every item failed")
  end
  local outcomes, problem = self.outputs:close(not self.failure and not interrupted)
  self.failure = self.failure or problem
  local complete = not self.failure and not interrupted
  local ok
  ok, problem = self.dead:close(complete and p.mode == "replace" and not ctx.sample)
  if not ok then self.failure = self.failure or problem end

  local elapsed = self.sched:now() - self.began
  local verdicts, kept = {}, true
  if not self.failure and not interrupted and not ctx.sample then
    verdicts, kept = thresholds.judge(p.thresholds, counts:metrics(elapsed))
  end
  local run = {
    elapsed = elapsed, verdicts = verdicts, interrupted = interrupted, failure = self.failure,
    begun = self.taken, outputs = outcomes, dead = self.dead.sink and p.dead_path,
    colour = ctx.colour,
  }
  local code = (self.failure or interrupted) and 1 or kept and 0 or 3
  return {
    ok = code == 0, code = code, interrupted = interrupted, failure = self.failure,
    summary = counts:table(run), text = counts:text(run),
  }
end

--- Runs the pipeline to its end, inside a task. When that task is cancelled the run is wound up
--- without waiting any more, and the result says `interrupted`.
---@param ctx table {sched, log, wall: fun(): number, run_id: string, progress: orc.Progress?,
---  sample: integer?, colour: boolean?}
---@return table result {ok: boolean, code: 0|1|3, interrupted: boolean, failure: table?,
---  summary: table the summary JSON, text: string the summary for people}
function Pipeline:run(ctx)
  local run = run_new(self, ctx)
  local ok, err, raised
  run.reader, err = self.source:open()
  if run.reader then ok, err = run.outputs:open(ctx.sample and { "-" } or self.sink) end
  if not ok then
    run.failure, run.stopped = err, true
    return run:finish(false)
  end
  run.pool:listen(run)
  tick(run)
  ok, raised = pcall(run.drive, run)
  run.driving, run.stopped = false, true
  run.pool:unlisten(run)
  run.timer:cancel()
  if not ok and not run.main.cancelled then error(raised, 0) end
  return run:finish(not ok)
end

return pipeline
