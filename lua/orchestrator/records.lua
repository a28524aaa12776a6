-- From a response to the records that are written: select, filter, map, validate. What a function
-- of the script may not return is raised, as a bug is not bad data.

local errors = require "orchestrator.errors"

local records = {}

local NONE = {}

--- The err of a function of the script that returned nil, err; nil when it returned nil alone.
function records.refusal(err)
  if err == nil or errors.is(err) then return err end
  return errors.new("validation", tostring(err))
end

--- The records of a response.
---@param select function from selector.compile
---@return table|nil list, boolean|table found whether there was something to find; or the err, when
---  the response is not JSON
function records.select(select, res)
  if res.stream then
    res:close()
    return nil, errors.new("invalid", "a pipeline reads whole bodies, and this one is streamed: "
      .. "leave stream = true out of the request", { url = res.url, attempts = res.attempts })
  end
  local body = res.body
  if res.ignored or body == nil or body == "" then return NONE, true end
  local value, err = res:json()
  if value == nil then
    err.url, err.attempts = err.url or res.url, err.attempts or res.attempts
    err.response = err.response or res
    return nil, err
  end
  return select(value)
end

-- `cond and record` is false where no record is meant: better told than written, or passed over.
local function check_record(value)
  if value == false then error("map returned false: return nil to leave a record out", 0) end
end

-- Appends what `map` returned: a record, a list of records, or nothing.
local function append(out, n, mapped)
  if type(mapped) ~= "table" or (mapped[1] == nil and next(mapped) ~= nil) then
    out[n + 1] = mapped
    return n + 1
  end
  for key, record in pairs(mapped) do
    if type(key) ~= "number" or key < 1 or key % 1 ~= 0 then
      error(string.format("map returned a table that is a list and also has [%s]",
        tostring(key)), 0)
    end
    check_record(record)
  end
  for i = 1, table.maxn(mapped) do -- there may be holes
    if mapped[i] ~= nil then
      n = n + 1
      out[n] = mapped[i]
    end
  end
  return n
end

--- Filters and maps. Each function may be nil.
---@param filter fun(record, res, item)|nil
---@param map fun(record, res, item)|nil
---@param list table left as it is
---@return table|nil list, integer|table filtered how many were filtered out; or the err, when a
---  function returned nil, err
function records.transform(filter, map, list, res, item)
  if not filter and not map then return list, 0 end
  local out, n, filtered = {}, 0, 0
  for i = 1, #list do
    local record = list[i]
    local keep, err = true, nil
    if filter then keep, err = filter(record, res, item) end
    if keep == nil and err ~= nil then
      return nil, records.refusal(err)
    elseif not keep then
      filtered = filtered + 1
    elseif not map then
      n = n + 1
      out[n] = record
    else
      local mapped
      mapped, err = map(record, res, item)
      check_record(mapped)
      if mapped ~= nil then
        n = append(out, n, mapped)
      elseif err ~= nil then
        return nil, records.refusal(err)
      end
    end
  end
  return out, filtered
end

-- Why the script's function refuses a record; nil when it does not.
local function objection(validate, record)
  local ok, reason = validate(record)
  if ok then return nil end
  if errors.is(reason) then return reason.message end
  return reason == nil and "validate refused it" or tostring(reason)
end

--- Tells bad records from good ones. `schema` and `validate` may be nil.
---@param schema orc.Schema|nil
---@param validate (fun(record): any, any)|nil true passes it; false or nil, reason does not
---@param list table left as it is
---@return table|nil good, table[]|nil bad {record, reason}, nil when there are none; or nil, the
---  err, when the schema is frozen
function records.validate(schema, validate, list)
  if not schema and not validate then return list end
  local good, n, bad = {}, 0, nil
  for i = 1, #list do
    local given = list[i]
    local record, reason, frozen = given, nil, nil
    if schema then record, reason, frozen = schema:check(given) end
    if frozen then
      return nil, errors.new("validation", "the schema is frozen: " .. reason
        .. '; change it, or its contract to "discard_row"')
    end
    if record ~= nil and validate then
      reason = objection(validate, record)
      if reason then record = nil end
    end
    if record ~= nil then
      n = n + 1
      good[n] = record
    else
      bad = bad or {}
      bad[#bad + 1] = { record = given, reason = reason }
    end
  end
  return good, bad
end

return records
