-- Fills a cache in dir= with entries= responses of 1 KB; or, with lookups=, looks so many of them
-- up, at random, and prints how many ns of CPU each took.
local orc = require "orchestrator"
local cache_store = require "orchestrator.cache_store"
local crypto = require "orchestrator.core.crypto"

local params = orc.params
local entries, lookups = tonumber(params.entries), tonumber(params.lookups)
local client = orc.client {}
local store = assert(cache_store.open { sched = client.sched, host = client.host,
  state_dir = params.dir })
store:limit(1e10)

local function key_of(i)
  return crypto.hex((crypto.hash("sha256", tostring(i))))
end

local FIELDS = {
  { "Server", "nginx/1.22.1" }, { "Date", "Sat, 22 Nov 2025 10:20:31 GMT" },
  { "Content-Type", "application/json" }, { "Content-Length", "1024" },
  { "Last-Modified", "Sat, 22 Nov 2025 10:20:31 GMT" }, { "ETag", '"6921-400"' },
  { "Cache-Control", "max-age=3600" },
}

local function fill()
  for i = 1, entries do
    local now = client.host.wall()
    store:put({
      key = key_of(i), url = "https://api.example.org/v1/users/" .. i, status = 200, size = 1024,
      request_time = now, response_time = now, vary = {}, fields = FIELDS,
    }, params.body:gsub("48213", i, 1), {})
    if i % 1000 == 0 then store:finish() end
  end
  store:finish()
end

-- A key is made each time: a list of them would be work for the garbage collector.
local function look_up(find)
  local began = os.clock()
  local number = 1
  for _ = 1, lookups do
    number = number * 16807 % 2147483647
    local key = key_of(number % entries + 1)
    if find then assert(store:body(store:get(key)[1])) end
  end
  return (os.clock() - began) / lookups * 1e9
end

if lookups then
  look_up(true)
  print(math.floor(look_up(true) - look_up(false)))
else
  fill()
  print(entries)
end
store:close()
