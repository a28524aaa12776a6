-- Fetches url= as fast as limit= in per= seconds lets it, for seconds=; prints how many were
-- answered, and how many refused.
local orc = require "orchestrator"

local params = orc.params
local client = orc.client {
  concurrency = 50,
  retry = false,
  server_limits = false,
  rate_limit = {
    limit = tonumber(params.limit), per = tonumber(params.per), window = "sliding",
    name = params.name, -- kept in the state: the one that has to be careful
  },
}

local answered, refused = 0, 0
local _, err = orc.deadline(tonumber(params.seconds), function()
  return orc.map(function() return true end, function()
    local res, problem = client:fetch(params.url)
    if res then
      answered = answered + 1
    elseif problem.status == 429 then
      refused = refused + 1
    else
      error(problem)
    end
  end, { concurrency = 50, on_error = "fail" })
end)
if err and err.kind ~= "timeout" then error(err) end
print(answered, refused)
