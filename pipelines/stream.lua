-- Reads an answer line by line while it comes, and sends some of the lines on as the body of
-- another request. However long they are, neither is ever held in memory: when the one who takes
-- them is slow, so is the one who sends them.
--
--   ./orchestrator pipelines/stream.lua
local orc = require "orchestrator"
local api = orc.client { base_url = orc.params.base or require("mockapi").base }

local log = assert(api:fetch { url = "/json", query = { bytes = 5e6 }, stream = true })

local read, sent = 0, 0
local next_line = log:lines()

-- The next line that is wanted, nil at the end.
local function wanted()
  for line in next_line do
    read = read + 1
    if read % 100 == 0 then
      sent = sent + 1
      return line .. "\n"
    end
  end
end

local res = assert(api:fetch { url = "/echo", method = "PUT", body = wanted })
print(read .. " lines read, " .. sent .. " sent on, " .. #res:json().body .. " bytes")
