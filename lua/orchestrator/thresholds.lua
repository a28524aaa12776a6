-- What a run must keep to be called good: `http_req_failed = "rate<0.05"`. Words and metrics are
-- those of k6, so far as they have a meaning here. Pure: the numbers come from summary.lua.

local options = require "orchestrator.options"

local thresholds = {}

---@class orc.Threshold
---@field metric string
---@field text string as written
---@field aggregate string "count", "rate", "avg", "min", "med", "max" or "p"
---@field fraction number|nil of "p"
---@field compare string
---@field bound number

-- What may be asked of each. A counter's rate is per second; that of http_req_failed and
-- stale_if_error is a share.
local COUNTER = { "count", "rate" }
local TREND = { "avg", "min", "med", "max", "p(95)" }
local METRICS = {
  http_reqs = COUNTER, -- requests that ended
  http_req_failed = COUNTER, -- those of them that failed for good
  http_req_duration = TREND, -- of attempts, in milliseconds
  iterations = COUNTER, -- items that are through
  records = COUNTER, -- records written
  records_filtered = COUNTER,
  records_invalid = COUNTER, -- bad ones
  dead_letters = COUNTER,
  stale_if_error = COUNTER, -- requests that the cache answered instead of an error
}

local COMPARE = {
  ["<"] = function(a, b) return a < b end,
  ["<="] = function(a, b) return a <= b end,
  [">"] = function(a, b) return a > b end,
  [">="] = function(a, b) return a >= b end,
  ["=="] = function(a, b) return a == b end,
  ["!="] = function(a, b) return a ~= b end,
}

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function includes(list, value)
  for i = 1, #list do
    if list[i] == value then return true end
  end
  return false
end

local function did_you_mean(name, names)
  local near = options.suggest(name, names)
  return near and string.format(' (did you mean "%s"?)', near)
    or " (there are " .. table.concat(names, ", ") .. ")"
end

local function parse(metric, text)
  if type(text) ~= "string" then
    return nil, string.format('"%s" must be a text such as "%s<100", got a %s',
      metric, METRICS[metric][1], type(text))
  end
  local aggregate, compare, bound = text:match "^%s*([%a_]+%(?[%d.]*%)?)%s*([<>=!]+)%s*(%S+)%s*$"
  bound = tonumber(bound)
  if not aggregate or not COMPARE[compare] or not bound then
    return nil, string.format('"%s" must be a text such as "%s<100", got "%s"',
      metric, METRICS[metric][1], text)
  end
  local known = METRICS[metric]
  local percent = known == TREND and tonumber(aggregate:match "^p%(([%d.]+)%)$")
  if percent and percent <= 100 then
    aggregate = "p"
  elseif not includes(known, aggregate) then
    return nil, string.format('"%s" has no "%s"%s',
      metric, aggregate, did_you_mean(aggregate, known))
  end
  return {
    metric = metric, text = text, aggregate = aggregate, fraction = percent and percent / 100,
    compare = compare, bound = bound,
  }
end

--- Reads {metric = "expression" or a list of them}.
---@return orc.Threshold[]|nil, string|nil message
function thresholds.parse(given)
  local list = {}
  for _, metric in ipairs(sorted_keys(given)) do
    if not METRICS[metric] then
      return nil, string.format('no metric "%s"%s',
        tostring(metric), did_you_mean(tostring(metric), sorted_keys(METRICS)))
    end
    local texts = given[metric]
    if type(texts) ~= "table" then texts = { texts } end
    for i = 1, math.max(1, #texts) do
      local threshold, problem = parse(metric, texts[i])
      if not threshold then return nil, problem end
      list[#list + 1] = threshold
    end
  end
  return list
end

local function value_of(threshold, metric)
  local aggregate = threshold.aggregate
  if type(metric) == "table" and metric.quantile then
    local seconds
    if aggregate == "p" then seconds = metric:quantile(threshold.fraction)
    elseif aggregate == "med" then seconds = metric:quantile(0.5)
    elseif aggregate == "avg" then seconds = metric:average()
    elseif aggregate == "min" then seconds = metric.least
    else seconds = metric.most
    end
    return seconds and seconds * 1000
  end
  return metric[aggregate]
end

--- Judges a run.
---@param list orc.Threshold[]
---@param metrics table metric → {count=, rate=} or a histogram
---@return table[] verdicts {metric, text, value, ok}, as in `list`; nothing measured (nil) is ok
---@return boolean ok all of them are
function thresholds.judge(list, metrics)
  local verdicts, all = {}, true
  for i, threshold in ipairs(list) do
    local value = value_of(threshold, metrics[threshold.metric])
    local ok = value == nil or COMPARE[threshold.compare](value, threshold.bound)
    verdicts[i] = { metric = threshold.metric, text = threshold.text, value = value, ok = ok }
    all = all and ok
  end
  return verdicts, all
end

return thresholds
