-- What becomes of an item that failed, and of the bad records of one that did not: `on_error` says
-- it, and what is kept of them is a dead letter (dead_letter.lua).

local errors = require "orchestrator.errors"
local letters = require "orchestrator.letters"
local provenance = require "orchestrator.provenance"
local records = require "orchestrator.records"

local judge = {}

local VERDICTS = { dead_letter = true, skip = true, fail = true }

local function ask(run, job, err)
  err.position = err.position or run.reader:where(job.position)
  local answer = run.pipeline.on_error
  if type(answer) == "function" then
    answer = answer(err, job.item)
    if not VERDICTS[answer] then
      error(string.format('on_error must return "fail", "skip" or "dead_letter", got %s',
        tostring(answer)), 0)
    end
  end
  -- A letter is not lost because it fails again.
  return answer == "skip" and job.letter and "dead_letter" or answer
end

--- Says of a job that failed what is to become of it: `job.verdict`.
function judge.judge(run, job)
  local err = job.err
  err.position = err.position or run.reader:where(job.position)
  job.verdict = (job.frozen and "fail") or (job.kept and "dead_letter") or ask(run, job, err)
end

-- Those of the bad records that are to be kept: {record, err}, and the errs of all. Or nil, the err
-- that ends the run.
local function sort(run, job, bad, res)
  local kept, errs = {}, {}
  for _, one in ipairs(bad) do
    local err = errors.new("validation", one.reason,
      { url = res.url, attempts = res.attempts, record = one.record })
    local answer = ask(run, job, err)
    errs[#errs + 1] = err
    run.ctx.log:debug("bad record", { error = err })
    if answer == "fail" then
      job.frozen = true
      return nil, err
    elseif answer == "dead_letter" then
      kept[#kept + 1] = { record = one.record, err = err }
    end
  end
  return kept, errs
end

--- Tells the good records of an item from the bad ones, and makes them ready to be written.
---@param job table gets `batches`, `size`, `count`, `bad` (errs), `rejects` (what is kept)
---@param list table
---@param res table the response they are from, or its `url` and `attempts`
---@return boolean|nil, orc.Error? err
function judge.check(run, job, list, res)
  local p = run.pipeline
  local good, bad = records.validate(p.schema, p.validate, list)
  if not good then
    job.frozen = true
    return nil, bad
  end
  if not job.letter or res.status then -- there is a response to tell of
    local err
    good, err = provenance.sign(run, good, res)
    if not good then return nil, err end
  end
  local batches, size = run.outputs:encode(good)
  if not batches and size.kind == "validation" and not size.fatal then
    good, bad = run.outputs:sift(good, bad)
    batches, size = run.outputs:encode(good)
  end
  if not batches then
    local err = size
    job.frozen, err.url = err.fatal, err.url or res.url
    return nil, err
  end
  if bad then
    local kept, errs = sort(run, job, bad, res)
    if not kept then return nil, errs end
    job.rejects, job.bad = kept, errs
  end
  job.batches, job.size, job.count = batches, size, #good
  job.records = run.ctx.sample and good
  return true
end

--- An item of a dead letter (letters.lua) that needs no request: a bad record is judged again, and
--- what cannot be tried again is kept.
---@return boolean|nil, orc.Error? err
function judge.again(run, job)
  local letter = job.letter
  local refusal = letters.refusal(run.pipeline, letter)
  if refusal then
    job.kept = true
    return nil, errors.new("invalid", "it cannot be tried again: " .. refusal)
  end
  job.found, job.filtered = 1, 0
  return judge.check(run, job, { letter.record }, { url = letter.url, attempts = 0 })
end

--- Whether that is what it needs.
function judge.needs_no_request(run, job)
  local letter = job.letter
  return letter ~= nil and (letter.record ~= nil or letters.refusal(run.pipeline, letter) ~= nil)
end

local function add(job, letter, size)
  if not letter then return nil, size end
  job.letters = job.letters or {}
  table.insert(job.letters, letter)
  job.size = job.size + size
  return true
end

--- Makes letters of what is to be kept: `job.letters`.
---@return boolean|nil, orc.Error? err
function judge.bury(run, job)
  if job.err then run.ctx.log:debug("item failed", { error = job.err }) end
  if run.ctx.sample then return true end
  if job.kept then return add(job, run.dead:again(job.letter)) end
  local request = job.request
  if request == nil then request = job.item end
  local where, tried = run.reader:where(job.position), job.letter and job.letter.attempts
  if job.err and job.verdict == "dead_letter" then
    job.size = 0
    return add(job, run.dead:letter(job.item, job.err, where,
      { request = request, tried = tried, unread = job.unread }))
  end
  for _, one in ipairs(job.rejects or {}) do
    local ok, err = add(job, run.dead:letter(job.item, one.err, where,
      { request = request, tried = tried, record = one.record }))
    if not ok then return nil, err end
  end
  return true
end

return judge
