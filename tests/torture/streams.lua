-- Bodies that are not in memory as a whole: read and sent piece by piece, from and to files.
local orc = require "orchestrator"

local client = orc.client {
  base_url = orc.params.base,
  retry = { attempts = 3, wait_initial = "1ms", wait_max = "2ms" },
}

local function read()
  local size = 0
  local res = assert(client:fetch { url = "/json?n=500&gzip=1&chunked=1", stream = true })
  for chunk in res:chunks() do size = size + #chunk end
  return size
end

local function read_lines()
  local lines = 0
  local url = "/json?bytes=5000&key=" .. orc.params.key
  local res = assert(client:fetch { url = url, stream = true })
  for _ in res:lines() do lines = lines + 1 end
  return lines
end

local function save()
  local res = assert(client:fetch { url = "/json?n=50&gzip=1", save = "out/saved.json" })
  return res.status
end

local function echoed(request)
  request.url, request.method = "/echo", "PUT"
  return #assert(assert(client:fetch(request)):json()).body
end

local function send_pieces()
  local left = 3
  return echoed { body = function()
    left = left - 1
    return left >= 0 and ("piece"):rep(1000) or nil
  end }
end

local function send_file()
  return echoed { file = "out/records.jsonl" }
end

local results, errs = orc.gather({ read, read_lines, save, send_pieces, send_file },
  { concurrency = 2 })
if not results then error(errs, 0) end
for i = 1, results.n do
  local line = errs[i] and { kind = errs[i].kind, message = errs[i].message }
    or { value = results[i] }
  assert(io.stdout:write(assert(orc.json.encode(line)), "\n"))
end
