-- As fetch.lua, but decodes every body and prints the sum of the ids.
local orc = require "orchestrator"

local params = orc.params
local concurrency = tonumber(params.concurrency)
local client = orc.client { concurrency = concurrency }

local urls = {}
for i = 1, tonumber(params.count) do
  urls[i] = params.url
end

local sum = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url)
  if not res then return nil, err end
  local user, problem = res:json()
  if not user then return nil, problem end
  sum = sum + user.id
end, { concurrency = concurrency, on_error = "fail" }))
print(sum)
