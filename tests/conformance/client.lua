-- Does the suite's requests with the cache on (see orchestrator.mjs).
local orc = require "orchestrator"
local cache = require "orchestrator.cache"
local store = require("orchestrator.cache_memory").new()

local plain = orc.client { base_url = orc.params.harness, concurrency = 1000 }
local clients = {}

local function client_of(mode)
  if not clients[mode] then
    clients[mode] = orc.client { accept = "any", retry = false, concurrency = 1000 }
    clients[mode].cache = cache.new(store, { mode = mode })
  end
  return clients[mode]
end

local function answer(job)
  local res, err = client_of(job.mode or "default"):fetch {
    url = job.url, method = job.method, headers = job.headers, body = job.body,
    follow = job.follow and 10 or 0,
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
