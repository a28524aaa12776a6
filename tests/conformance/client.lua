-- Does the suite's requests with the cache on (see orchestrator.mjs).
local orc = require "orchestrator"

local plain = orc.client { base_url = orc.params.harness, concurrency = 1000 }
local api = orc.client { accept = "any", retry = false, concurrency = 1000, cache = true }

local function answer(job)
  local res, err = api:fetch {
    url = job.url, method = job.method, headers = job.headers, body = job.body,
    follow = job.follow and 10 or 0, cache = { mode = job.mode },
  }
  local result = { id = job.id }
  if res then
    result.answer = { status = res.status, headers = res.headers, body = res.body }
  else
    result.problem = tostring(err)
  end
  assert(plain:fetch { url = "/answers", json = result })
end

local jobs = assert(plain:fetch { url = "/jobs", stream = true, timeout = { idle = "10m" } })
assert(orc.group(function(g)
  for job in jobs:jsonl() do g:spawn(answer, job) end
  return true
end))
