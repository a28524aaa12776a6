-- Straight code instead of a pipeline: fetches ten APIs, four at a time, and prints what the stock
-- of each is worth. It reads from top to bottom; wherever it waits, others run.
--
--   ./orchestrator pipelines/program.lua
local orc = require "orchestrator"
local api = orc.client {
  base_url = orc.params.base or require("mockapi").base,
  retry = { attempts = 2, wait_initial = "100ms" },
}

local function worth(k)
  local res, err = api:fetch("/api/" .. k)
  if not res then return nil, err end
  local sum = 0
  for _, item in ipairs(res:json().items) do
    sum = sum + item.price * item.stock
  end
  return sum
end

local numbers = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 27 } -- the last one is always down
local sums, errs = orc.map(numbers, worth, { concurrency = 4 })
for i, k in ipairs(numbers) do
  print("api " .. k, sums[i] or errs[i])
end
