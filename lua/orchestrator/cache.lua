-- The cache of a client, between an attempt's hops and the network: each hop is answered from what
-- is stored, asks whether that is still good, or brings something new. What may be done is decided
-- by cache_policy.lua, cache_refresh.lua and cache_ranges.lua; here it is done.
--
-- What a hop brings is stored when the request has been judged (`settle`): what the script takes
-- for a failure is not kept.

local body = require "orchestrator.body"
local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local cache_ranges = require "orchestrator.cache_ranges"
local cache_refresh = require "orchestrator.cache_refresh"
local crypto = require "orchestrator.core.crypto"
local headers = require "orchestrator.headers"
local secret = require "orchestrator.secret"

local cache = {}

local Cache = {}
Cache.__index = Cache

---@param store table see cache_memory.lua
---@param opts table see cache_policy.lua
function cache.new(store, opts)
  return setmetatable({ store = store, opts = opts }, Cache)
end

-- What is stored apart: another URL, and another user (RFC 9111 section 2).
local function key_of(plan)
  local who = plan.fields.authorization
  local text = plan.url .. "\n" .. (who and secret.reveal(who.value) or "")
  return crypto.hex(assert(crypto.hash("sha256", text)))
end

-- A result as the network would give it.
local function result_of(entry, text, from_cache, age)
  return {
    status = entry.status, head = cache_entry.head(entry, age), body = text, size = #text, wire = 0,
    elapsed = 0, framing = "none", version = "1.1", from_cache = from_cache, age = age,
  }
end

local function with_headers(plan, more)
  if not next(more) then return plan end
  local asking = setmetatable({}, getmetatable(plan))
  for name, value in pairs(plan) do asking[name] = value end
  asking.fields = headers.merge(plan.fields, more)
  asking.headers = assert(headers.text(asking.fields))
  return asking
end

-- Answers out of the store; nil when the body is gone.
function Cache:answer(plan, decision, now)
  local entry, part = decision.entry, decision.part
  local age = cache_entry.age(entry, now)
  if decision.not_modified then
    local result = result_of(entry, "", decision.use, age)
    result.status = 304
    return result
  end
  local text = self.store:body(entry)
  if not text then
    self.store:remove(entry)
    return nil
  end
  if part and part.from then
    entry, text = cache_ranges.of(entry, part), text:sub(part.from, part.to)
  end
  return result_of(entry, plan.method == "HEAD" and "" or text, decision.use, age)
end

-- The entry that a response would be, with what it replaces, until the request is judged.
local function offer(self, plan, answer, entries, text)
  local entry = cache_entry.new(answer, self.opts.vary)
  entry.key = key_of(plan)
  local replaced = {}
  for _, other in ipairs(entries) do
    local same = cache_entry.matches(other, plan, self.opts.vary)
    if same and (not entry.range or other.range) then
      local stored = self.store:body(other)
      local combined, all
      if stored then combined, all = cache_ranges.combined(other, stored, entry, text) end
      local alike = cache_ranges.are_alike(entry, other)
      if combined then
        entry, text = combined, all
        entry.key = key_of(plan)
      end
      -- Parts of one body that leave a gap are kept both.
      if combined or not entry.range or not alike then replaced[#replaced + 1] = other end
    end
  end
  return { entry = entry, body = text, replaced = replaced, request = plan }
end

-- A 304 to the conditions we added, and what it makes of the entry.
function Cache:confirm(plan, decision, answer)
  local entry = decision.entry
  local text = self.store:body(entry)
  if not text then return nil end
  local new = cache_refresh.confirmed(entry, answer, self.opts.vary)
  if new then
    self.store:update(entry, new)
    entry = new
  end
  local part = decision.part
  if part and part.from then
    entry, text = cache_ranges.of(entry, part), text:sub(part.from, part.to)
  end
  return result_of(entry, plan.method == "HEAD" and "" or text, "revalidated")
end

-- What an answer to a method other than GET does.
function Cache:effects(plan, answer, entries)
  if plan.method == "HEAD" and answer.status == 200 then
    for _, entry in ipairs(entries) do
      if cache_entry.matches(entry, plan, self.opts.vary) and not entry.range then
        local new = cache_refresh.by_head(entry, answer, self.opts.vary)
        if new then self.store:update(entry, new) else self.store:remove(entry) end
      end
    end
  elseif not cache_policy.is_safe(plan.method) then
    for _, url in ipairs(cache_refresh.voided(answer)) do self.store:void(url) end
  end
end

-- Asks the server.
function Cache:ask(client, plan, decision, entries, send)
  local asking = with_headers(plan, decision.headers or {})
  local result = send(client, asking)
  if result.fault or result.error then return result end
  local here = client.host.wall()
  local answer = {
    request = plan, status = result.status, fields = headers.list(result.head), size = result.size,
    request_time = here - result.elapsed, response_time = here,
  }
  local entry, added = decision.entry, decision.headers or {}
  if result.status == 416 and added.Range then
    return self:ask(client, plan, {}, entries, send)
  elseif result.status == 304 then
    if entry and (added["If-None-Match"] or added["If-Modified-Since"]) then
      local confirmed = self:confirm(plan, decision, answer)
      if confirmed then
        confirmed.elapsed, confirmed.wire = result.elapsed, result.wire
        return confirmed
      end
      return self:ask(client, plan, {}, entries, send)
    elseif entry then
      local new = cache_refresh.confirmed(entry, answer, self.opts.vary)
      if new then self.store:update(entry, new) end
    end
    return result
  end
  self:effects(plan, answer, entries)
  if not result.body then return result end
  local offered = offer(self, plan, answer, self.store:get(key_of(plan)), result.body)
  if result.status == 206 and not plan.fields.range then -- the rest that we asked for
    if offered.entry.status ~= 200 then return self:ask(client, plan, {}, entries, send) end
    local whole = result_of(offered.entry, offered.body, nil)
    whole.elapsed, whole.wire = result.elapsed, result.wire
    result = whole
  end
  result.offered = offered
  return result
end

--- A hop, from the store or from the network.
---@param send fun(client: table, plan: table): table does the hop
---@return table result
function Cache:hop(client, plan, send)
  -- A GET with a body means whatever its server makes of it.
  local is_read = plan.method == "GET" or plan.method == "HEAD"
  if plan.stream or plan.save or plan.pull or is_read and body.of(plan) then
    return send(client, plan)
  end
  local now = client.host.wall()
  local entries = self.store:get(key_of(plan))
  local decision = cache_policy.decide(plan, entries, now, self.opts)
  if decision.fail then
    return {
      error = "http", message = "status 504: it is not in the cache, and only that may answer",
      status = 504, final = true, elapsed = 0,
    }
  end
  if decision.use then
    local result = self:answer(plan, decision, now)
    if result then
      if decision.background then
        client.sched:spawn(function()
          local asked = self:ask(client, plan, { entry = decision.entry,
            headers = decision.headers }, entries, send)
          self:settle(asked, asked.status and asked.status < 400)
        end)
      end
      return result
    end
    return self:ask(client, plan, {}, entries, send)
  end
  if decision.entry then plan.stale = decision end
  return self:ask(client, plan, decision, entries, send)
end

local ERRORS = { [500] = true, [502] = true, [503] = true, [504] = true } -- RFC 5861 section 4
local NO_ANSWER = { connect = true, dns = true, network = true, protocol = true, timeout = true }

--- What is stored, instead of an error, where that is allowed.
---@return table|nil result
function Cache:rescue(client, plan, err)
  local decision, now = plan.stale, client.host.wall()
  if not decision or not (NO_ANSWER[err.kind] or ERRORS[err.status]) then return nil end
  if not cache_policy.serves_errors(plan, decision.entry, now, self.opts) then return nil end
  return self:answer(plan, { use = "stale", entry = decision.entry, part = decision.part }, now)
end

--- The request has been judged: stores what it brought.
---@param result table
---@param accepted boolean false when it is an error to who asked
function Cache:settle(result, accepted)
  local offered = result.offered
  if not offered then return end
  result.offered = nil
  local opts = { accepted = accepted }
  for name, value in pairs(self.opts) do opts[name] = value end
  if cache_policy.storable(offered.request, offered.entry, opts) then
    self.store:put(offered.entry, offered.body, offered.replaced)
  end
end

return cache
