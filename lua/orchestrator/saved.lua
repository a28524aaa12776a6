-- A body that goes to a file, and that the script wants to see first (`accept`, `response_action`):
-- it waits beside its place until it is accepted. Any other 2xx goes there at once (transfer.c).

local errors = require "orchestrator.errors"
local file = require "orchestrator.core.file"
local request = require "orchestrator.request"
local stream = require "orchestrator.stream"

local saved = {}

--- Has the body of a plan wait, if it must.
---@return boolean
function saved.stage(plan)
  if not plan.save or (plan.accept == request.accept_2xx and not plan.response_action) then
    return false
  end
  plan.place, plan.save = plan.save, plan.save .. ".new"
  return true
end

--- The response is accepted: its body goes to its place.
---@return orc.Error|nil
function saved.keep(plan, res)
  if not res.saved then return nil end
  local ok, problem = file.move(res.saved, plan.place)
  res.saved = plan.place
  if not ok then
    return errors.new("invalid", problem, { url = res.url, method = plan.method,
      status = res.status, fault = "cannot_save" })
  end
end

local function write(path, text)
  local handle, problem = io.open(path, "wb")
  if not handle then return nil, problem end
  local ok
  ok, problem = handle:write(text)
  local closed, reason = handle:close()
  return ok and closed, problem or reason
end

--- A response out of the cache is accepted: its body goes to the file, or is read bit by bit, as
--- that of any other.
---@return orc.Error|nil
function saved.deliver(plan, res)
  local path = plan.place or plan.save
  if plan.stream then
    res.stream, res.body = stream.of(res.body, res), nil
  elseif path and res.ok then
    local ok, problem = write(path .. ".new", res.body)
    if ok then ok, problem = file.move(path .. ".new", path) end
    if not ok then
      os.remove(path .. ".new")
      return errors.new("invalid", problem, { url = res.url, method = plan.method,
        status = res.status, fault = "cannot_save" })
    end
    res.saved, res.body = path, nil
  end
end

--- Nothing waits any more.
function saved.drop(plan)
  os.remove(plan.save)
end

return saved
