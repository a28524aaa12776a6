-- As fetch.lua, with everything on that says how hard to try and how fast to go, and the statistics
-- that a pipeline keeps.
local orc = require "orchestrator"
local summary = require "orchestrator.summary"

local params = orc.params
local concurrency = tonumber(params.concurrency)
local client = orc.client {
  concurrency = { total = concurrency, per_host = concurrency, pool = "bench" },
  rate_limit = { { limit = 1e6, per = "1s", burst = 1000 }, "1000000000/1h" },
  retry = { attempts = 5, deadline = "1m" },
  circuit_breaker = true,
  server_limits = true,
}

local statistics = summary.new { pipeline = "policy", run_id = "1", started_at = 0 }
local urls = {}
for i = 1, tonumber(params.count) do
  urls[i] = params.url
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url, statistics)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = concurrency, on_error = "fail" }))
assert(statistics.requests.ok == #urls)
print(bytes)
