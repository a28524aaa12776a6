-- A pipeline whose source gives url= as often as count= says, 50 in flight, into out=.
local orc = require "orchestrator"

local left = tonumber(orc.params.count)

return orc.pipeline {
  name = "million",
  client = { concurrency = 50 },
  source = function()
    if left == 0 then return nil end
    left = left - 1
    return orc.params.url
  end,
  map = function(user)
    return { id = user.id, name = user.name, score = user.score }
  end,
  sink = orc.params.out,
}
