-- An API that allows ten requests a second: never more than ten start within any second, however
-- many there is room for. The last one is answered 429 with "Retry-After: 1" at first, and asked
-- again a second later.
--
--   ./orchestrator pipelines/rate_limited.lua
local orc = require "orchestrator"

local urls = {}
for k = 1, 24 do
  urls[k] = "/json?n=1&key=" .. k
end
urls[25] = "/json?n=1&key=25&fail=1&status=429&retry_after=1"

return orc.pipeline {
  client = {
    base_url = orc.params.base or require("mockapi").base,
    rate_limit = { limit = 10, per = "1s", window = "sliding" },
  },
  source = urls,
  data_selector = "items",
  sink = "out/rate_limited.jsonl",
}
