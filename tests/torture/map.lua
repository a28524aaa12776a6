-- One map: answers of several kinds, a redirect, a retry, a body that is sent.
local orc = require "orchestrator"

local client = orc.client {
  base_url = orc.params.base,
  retry = { attempts = 4, wait_initial = "1ms", wait_max = "2ms" },
}
local key = orc.params.key
local requests = {
  "/json?n=2&gzip=1",
  "/json?n=1&fail=1&key=" .. key,
  "/status/404",
  "/json?n=0&redirect=/json%3Fn=1",
  { url = "/echo", method = "POST", json = { a = { 1, 2, 3 }, b = "text" } },
  "/json?n=1&fail=1&status=drop&key=drop-" .. key,
}

local results, errs = orc.map(requests, function(request)
  local res, err = client:fetch(request)
  if not res then return nil, err end
  return { status = res.status, value = request.method and 0 or assert(res:json()) }
end, { concurrency = 3 })
if not results then error(errs, 0) end

for i = 1, results.n do
  local line = results[i] or { kind = errs[i].kind, message = errs[i].message }
  assert(io.stdout:write(assert(orc.json.encode(line)), "\n"))
end
