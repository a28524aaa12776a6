-- A pipeline that makes count= records, 200 of each response, for the table t of sink=; without
-- it they are made and dropped.
local orc = require "orchestrator"

local params = orc.params
local fetches, n = tonumber(params.count) / 200, 0

return orc.pipeline {
  name = "rows",
  source = function()
    n = n + 1
    if n <= fetches then return params.url .. "?" .. n end
  end,
  data_selector = "id",
  map = function(_, res)
    local list, from = {}, 200 * tonumber(res.url:match "%d+$")
    for i = 1, 200 do
      local k = from + i
      list[i] = {
        id = k, name = "item " .. k, category = "kitchen", price = k % 10000 / 100, stock = k % 50,
        active = k % 2 == 0, updated_at = "2026-11-19T10:58:00Z",
        note = "some text of a middling length, for row " .. k,
      }
    end
    return params.sink and list or nil
  end,
  sink = params.sink and { { params.sink, table = "t", mode = "append" } } or "-",
}
