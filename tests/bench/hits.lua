-- As fetch.lua, out of the cache: the count= requests go round among urls= of them, all stored.
local orc = require "orchestrator"

local params = orc.params
local concurrency = tonumber(params.concurrency)
local client = orc.client {
  concurrency = concurrency, cache = { ttl = "1d", memory = params.memory },
}

local urls, different = {}, tonumber(params.urls)
for i = 1, tonumber(params.count) do
  urls[i] = params.url .. "?" .. i % different
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = concurrency, on_error = "fail" }))
print(bytes)
