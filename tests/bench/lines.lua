-- Reads the body of url= line by line and prints how many there were.
local orc = require "orchestrator"

local n = 0
local res = assert(orc.fetch { url = orc.params.url, stream = true })
for _ in res:lines() do
  n = n + 1
end
print(n)
