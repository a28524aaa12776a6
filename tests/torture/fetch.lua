-- One fetch: a name to look up, a gzip answer in chunks, JSON.
local orc = require "orchestrator"

local res = assert(orc.fetch {
  url = orc.params.base .. "/json?n=3&gzip=1&chunked=1&key=" .. orc.params.key,
  retry = { attempts = 3, wait_initial = "1ms", wait_max = "2ms" },
})
local value = assert(res:json())
assert(io.stdout:write(assert(orc.json.encode(value)), "\n"))
