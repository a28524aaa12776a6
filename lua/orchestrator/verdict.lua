-- What a script makes of a response: `accept`, and over it `response_action`.

local verdict = {}

local ACTIONS = { accept = true, retry = true, fail = true, ignore = true }

--- "accept", "ignore", "fail", "retry" (asked for), or nil when the status alone decides whether to
--- try again.
---@param plan table
---@param res table
---@return string|nil
function verdict.of(plan, res)
  local accepted = plan.accept(res)
  local action = plan.response_action and plan.response_action(res)
  if action == nil then return accepted and "accept" or nil end
  if not ACTIONS[action] then
    error(string.format('response_action must return "accept", "retry", "fail", "ignore" or nil, '
      .. "got %s", tostring(action)), 0)
  end
  return action
end

--- Whether it is an answer.
---@param action string|nil
---@return boolean
function verdict.is_good(action)
  return action == "accept" or action == "ignore"
end

return verdict
