-- Fetches count= different URLs once each, concurrency= at a time, and caches them when cache= is
-- given; prints how many body bytes came.
local orc = require "orchestrator"

local params = orc.params
local concurrency = tonumber(params.concurrency)
local client = orc.client { concurrency = concurrency, cache = params.cache ~= nil }

local urls = {}
for i = 1, tonumber(params.count) do
  urls[i] = params.url .. "?" .. 10000 + i
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = concurrency, on_error = "fail" }))
print(bytes)
