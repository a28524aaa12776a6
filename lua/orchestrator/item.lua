-- One item of a run, from what the source gave to records that are ready to be written.

local errors = require "orchestrator.errors"
local identity = require "orchestrator.identity"
local judge = require "orchestrator.judge"
local letters = require "orchestrator.letters"
local records = require "orchestrator.records"
local secret = require "orchestrator.secret"

local item = {}

local function fetch(run, request)
  return run.client:fetch(request, run.summary)
end

-- Without a request function the item is the request. What is wrong with it is wrong with the
-- data, so the misuse that fetch raises fails the item and not the run.
local function fetch_item(run, given)
  if type(given) == "string" or secret.is(given) then return fetch(run, given) end
  if type(given) ~= "table" or given.url == nil then
    return nil, errors.new("invalid", string.format(
      "the item is a %s without a url, and the pipeline has no request function", type(given)))
  end
  local ok, res, err = pcall(fetch, run, given)
  if ok then return res, err end
  if type(res) ~= "string" or run.sched:current().cancelled then error(res, 0) end
  return nil, errors.new("invalid", "the item is no request: " .. res)
end

local function warn_missing(run, res)
  if run.warned or not run.pipeline.selected then return end
  run.warned = true
  run.ctx.log:warn(string.format('data_selector "%s" finds nothing in a response',
    run.pipeline.selected), { url = res.url })
end

--- Finds out an item's request, and by it who it is. May yield.
---@param job table see run.lua; gets `request` or `refusal`, and `id` when there is a journal
function item.identify(run, job)
  if job.identified then return end
  job.identified = true
  local p, given = run.pipeline, job.item
  if job.err == nil and p.request and not judge.needs_no_request(run, job) then
    job.request, job.refusal = p.request(given)
    if job.request == nil then
      job.refusal = records.refusal(job.refusal)
        or errors.new("invalid", "the request function returned nothing for this item")
    end
  end
  if not run.journal then return end
  local key
  if job.letter then
    key = letters.key(job.letter)
  elseif p.key and not job.unread then
    key = p.key(given)
  end
  if key == nil then
    job.id = identity.of(job.request == nil and given or job.request)
  elseif type(key) == "string" or type(key) == "number" then
    job.id = identity.of_key(key)
  else
    error("key must return a text or a number that tells items apart, got a " .. type(key), 0)
  end
end

--- Fetches an item and makes its records ready to be written. Yields.
---@return boolean|nil, orc.Error? err
function item.work(run, job)
  local p, given = run.pipeline, job.item
  item.identify(run, job)
  if job.err then return nil, job.err end
  if judge.needs_no_request(run, job) then return judge.again(run, job) end
  local res, err
  if p.request then
    if job.request == nil then return nil, job.refusal end
    res, err = fetch(run, job.request)
  else
    res, err = fetch_item(run, given)
  end
  if not res then return nil, err end

  local list, found = records.select(p.select, res)
  if not list then return nil, found end
  if not found then warn_missing(run, res) end
  job.found = #list
  list, job.filtered = records.transform(p.filter, p.map, list, res, given)
  if not list then return nil, job.filtered end
  return judge.check(run, job, list, res)
end

return item
