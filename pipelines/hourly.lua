-- Fetches fifty JSON APIs and writes the items on sale to out/hourly.jsonl, one a line.
--
--   ./orchestrator pipelines/hourly.lua                         practises on a server of its own
--   ./orchestrator pipelines/hourly.lua base=https://a.example  asks the real one
--
-- Edit and run again; nothing is compiled.
local orc = require "orchestrator"

local base = orc.params.base or require("mockapi").base

local paths = {}
for k = 1, 50 do
  paths[k] = "/api/" .. k
end

return orc.pipeline {
  name = "hourly",

  client = {
    base_url = base,
    concurrency = 50, -- so many requests in flight, the others wait for their turn
    timeout = { connect = "2s", attempt = "5s" }, -- of each attempt; waiting does not count
    retry = { attempts = 4, wait_initial = "200ms" }, -- then 400 ms, 800 ms, each at random below
    server_limits = false, -- fifty APIs that share a host: when one says 429, the others go on
  },

  -- Each item of the source becomes one request; each element of "items" in the answer a record.
  source = paths,
  data_selector = "items",

  filter = function(record)
    return record.active and record.stock > 0
  end,

  map = function(record, _, path)
    return {
      id = record.id,
      name = record.name,
      price = record.price,
      updated_at = record.updated_at,
      api = path,
    }
  end,

  -- Written beside and renamed at the end, so that readers never see half a file. An API that
  -- stays down does not stop the others: it goes to hourly.dead.jsonl with the reason.
  sink = "out/hourly.jsonl",
  on_error = "dead_letter",
  thresholds = { http_req_failed = "rate<0.05", records = "count>0" },
}
