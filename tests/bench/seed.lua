-- Fetches each of the URLs in the file urls=, all at once; prints how many body bytes came.
local orc = require "orchestrator"

local urls = {}
for url in io.lines(orc.params.urls) do
  urls[#urls + 1] = url
end

local bytes = 0
assert(orc.map(urls, function(url)
  local res, err = orc.fetch(url)
  if not res then return nil, err end
  bytes = bytes + #res.body
end, { concurrency = #urls, on_error = "fail" }))
print(bytes)
