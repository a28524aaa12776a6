-- What the cache gives instead of the network: results as those of a hop, see attempt.lua.

local faults = require "orchestrator.faults"

local cache_result = {}

--- A result as the network would give it; its head is made when it is asked for (response.lua).
function cache_result.stored(entry, text, from_cache, age, told_age)
  return {
    status = entry.status, stored = entry, told_age = told_age, body = text, size = #text, wire = 0,
    elapsed = 0, framing = #text > 0 and "length" or "none", version = "1.1",
    from_cache = from_cache, age = age, unsent = true,
  }
end

--- The same after a server was asked: with the times of that.
function cache_result.asked(result, answer)
  result.unsent = nil
  for _, name in ipairs { "elapsed", "wire", "version", "sent", "dns", "connect", "tls",
    "first_byte" } do
    result[name] = answer[name]
  end
  return result
end

function cache_result.refused(fault, message, status)
  return {
    error = faults.get(fault).kind, fault = fault, message = message, status = status,
    final = true, unsent = true, elapsed = 0,
  }
end

function cache_result.not_cached()
  return cache_result.refused("not_cached",
    "status 504: it is not in the cache, and only that may answer", 504)
end

--- What is stored may be larger than who asks can take.
function cache_result.limited(plan, result)
  if plan.max_body <= 0 or result.size <= plan.max_body then return result end
  return cache_result.refused("body_too_large",
    string.format("the stored body has more than %.0f bytes", plan.max_body))
end

return cache_result
