-- Fetches url= as often as count= says, concurrency= at a time; prints how many body bytes came.
local orc = require "orchestrator"

local params = orc.params
local concurrency = tonumber(params.concurrency)
local client = orc.client { concurrency = concurrency }

local urls = {}
for i = 1, tonumber(params.count) do
  urls[i] = params.url
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = concurrency, on_error = "fail" }))
print(bytes)
