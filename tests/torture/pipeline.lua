-- One pipeline: a file that is replaced, a retry, a dead letter.
local orc = require "orchestrator"

local key = orc.params.key

return orc.pipeline {
  name = "torture",
  client = {
    base_url = orc.params.base,
    concurrency = 3,
    retry = { attempts = 4, wait_initial = "1ms", wait_max = "2ms" },
  },
  source = {
    "/json?n=3&gzip=1", "/json?n=1&fail=1&key=" .. key, "/status/404", "/json?n=2&chunked=1",
  },
  request = function(item) return { url = item, timeout = "20s" } end,
  data_selector = "items",
  filter = function(record) return record.id < 3 end,
  map = function(record, _, item) return { id = record.id, item = item } end,
  sink = "out/records.jsonl",
}
