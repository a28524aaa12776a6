-- A pipeline whose source gives url= with a number behind it, as often as count= says, into out=;
-- with journal=no nothing of it is remembered. With first= another item comes before those, and
-- with broken=yes the source fails at its end, so that the run can be resumed.
local orc = require "orchestrator"

local params = orc.params
local n, count = params.first and -1 or 0, tonumber(params.count)

return orc.pipeline {
  name = "journal",
  client = { concurrency = 50 },
  source = function()
    n = n + 1
    if n == 0 then return params.first end
    if n <= count then return params.url .. "?" .. n end
    if params.broken then return nil, "the end" end
  end,
  map = function(user)
    return { id = user.id, name = user.name, score = user.score }
  end,
  journal = params.journal ~= "no",
  sink = params.out,
}
