-- Fetches url= for seconds= at concurrency= (a number, or auto); prints how many were answered, and
-- how many refused.
local orc = require "orchestrator"

local params = orc.params
local concurrency = tonumber(params.concurrency) or params.concurrency
local client = orc.client { concurrency = concurrency, retry = false, timeout = "60s" }
local finish = orc.now() + tonumber(params.seconds)

local answered, refused = 0, 0
orc.map(function() return orc.now() < finish or nil end, function()
  local res, err = client:fetch(params.url)
  if orc.now() >= finish then return end
  if res then
    answered = answered + 1
  elseif err.status == 503 then
    refused = refused + 1
  else
    error(err)
  end
end, { concurrency = tonumber(concurrency) or 500, on_error = "fail" })
print(answered, refused)
