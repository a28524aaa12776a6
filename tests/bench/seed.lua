-- Fetches each of the URLs in the file urls=, all at once; prints how many body bytes came. With
-- ttl= they are cached for so long.
local orc = require "orchestrator"

local ttl = orc.params.ttl
local client = orc.client { cache = ttl and { ttl = ttl } }
local urls = {}
for url in io.lines(orc.params.urls) do
  urls[#urls + 1] = url
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = client:fetch(url)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = #urls, on_error = "fail" }))
print(bytes)
