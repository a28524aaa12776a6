-- Bodies that go to files as they arrive: however large, they are never held in memory. A file
-- appears under its name when it is complete, and not before.
--
--   ./orchestrator pipelines/download.lua
local orc = require "orchestrator"

local api = orc.client {
  base_url = orc.params.base or require("mockapi").base,
  timeout = { connect = "5s", idle = "10s" }, -- as long as bytes come it may take any time
}

local function download(name)
  return api:fetch {
    url = "/json", query = { bytes = 3e6, gzip = 1, key = name },
    save = "out/download/" .. name .. ".txt",
  }
end

local names = { "spring", "summer", "autumn", "winter" }
local saved = assert(orc.map(names, download, { concurrency = 2, on_error = "fail" }))
for i, name in ipairs(names) do
  print(name, saved[i].size .. " bytes, " .. saved[i].wire .. " of them on the wire")
end
