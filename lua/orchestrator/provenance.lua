-- Where a record came from: the pipeline's option `provenance` adds it to each as `_meta`.

local cache_fields = require "orchestrator.cache_fields"
local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local json = require "orchestrator.json"

local provenance = {}

local NAME = "_meta"
local ARRAY = getmetatable(json.array())

local function iso(time)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(time))
end

---@class orc.Provenance
---@field source "network"|"fresh"|"revalidated"|"stale"|"fallback"
---@field age integer seconds since the server made it, as far as it says
---@field attempts integer
---@field fetched_at string when it, or what confirmed it, was here

--- What is known of a response.
---@param res table
---@param wall number unix time
---@return orc.Provenance
function provenance.of(res, wall)
  local stored = res.stored
  local age = res.age or cache_fields.age(headers.get(res.head or "", "age")) or 0
  return {
    source = res.fallback and "fallback" or res.from_cache or "network",
    age = math.floor(age), attempts = res.attempts,
    fetched_at = iso(stored and stored.response_time or wall),
  }
end

-- Lists stay as they are: there is no place in them.
local function has_place(record)
  return type(record) == "table" and record[1] == nil and getmetatable(record) ~= ARRAY
end

--- Records with `_meta`; they are copies, as a script may give one table twice.
---@param list any[]
---@param meta orc.Provenance
---@return any[]|nil list
---@return integer|orc.Error left_out how many are no objects; or the err, when one has a `_meta`
function provenance.added(list, meta)
  local out, left_out = {}, 0
  for i = 1, #list do
    local record = list[i]
    if not has_place(record) then
      out[i], left_out = record, left_out + 1
    elseif record[NAME] ~= nil then
      return nil, errors.new("validation", string.format(
        'record %d has a field "%s" of its own, in which provenance = true would tell where it '
          .. "came from: let map rename it", i, NAME))
    else
      local copy = setmetatable({}, getmetatable(record))
      for name, value in next, record do copy[name] = value end
      copy[NAME] = meta
      out[i] = copy
    end
  end
  return out, left_out
end

--- Adds to an item's records where they came from, if the pipeline wants that.
---@param run table see run.lua
---@param list table
---@param res table
---@return table|nil list, orc.Error? err
function provenance.sign(run, list, res)
  if not run.pipeline.provenance or #list == 0 then return list end
  local signed, left_out = provenance.added(list, provenance.of(res, run.ctx.wall()))
  if not signed then
    left_out.url, left_out.attempts = res.url, res.attempts
    return nil, left_out
  elseif left_out > 0 and not run.warned_plain then
    run.warned_plain = true
    run.ctx.log:warn("a record is no object: it cannot say where it came from", { url = res.url })
  end
  return signed
end

return provenance
