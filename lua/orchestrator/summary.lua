-- What a run did: counted while it goes on, in constant memory, then told twice: as a table for
-- machines (the summary JSON) and as a few lines a person reads in five seconds.
--
-- It observes the requests of a run (`attempt`, `request`) and is told of items and records by
-- pipeline.lua.

local cache_tally = require "orchestrator.cache_tally"
local errors = require "orchestrator.errors"
local histogram = require "orchestrator.histogram"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local summary = {}

local HOSTS = 100 -- told apart; the others are counted together as "other"
local GROUPS = 100 -- of failures, likewise
local MESSAGES = 2 -- told apart among failures of one kind, status and origin; the others likewise
local SLOWEST = 10
local GROUPS_SHOWN = 5
local NAMED = 3 -- failed items named in a group
local WAITS_SHOWN = 3 -- limits, and hosts, that were waited for
local WAITED_LEAST, WAITED_SHARE = 1, 0.05 -- seconds, and share of the run, that are worth a line
local TEXT_MAX = 160 -- bytes of a message or URL in the text

---@class orc.Summary
local Summary = {}
Summary.__index = Summary

---@param opts table {pipeline: string, run_id: string, started_at: number (unix seconds)}
---@return orc.Summary
function summary.new(opts)
  return setmetatable({
    pipeline = opts.pipeline, run_id = opts.run_id, started_at = opts.started_at,
    requests = { total = 0, ok = 0, failed = 0, retried = 0, from_cache = 0, fallback = 0 },
    attempts = 0, retries = 0, bytes = 0,
    hedges = { sent = 0, won = 0 },
    cache = cache_tally.new(),
    latency = histogram.new(),
    statuses = {}, -- status → attempts
    hosts = {}, host_count = 0, -- origin → counters
    limits = {}, -- name → {waited, waits}
    slowest = {}, -- at most SLOWEST requests, the slowest first
    items = 0, fetched = 0, -- items taken from the source and ended, those that did not fail
    records = { ["in"] = 0, out = 0, filtered = 0, dead = 0 },
    errors = {}, -- kind → items
    groups = {}, group_of = {}, -- failures that are alike, in order of appearance
    messages = {}, -- kind, status and origin → how many messages have a group
    failed = 0, -- items
  }, Summary)
end

-- Counting -----------------------------------------------------------------------------------

local function host_of(self, origin)
  local host = self.hosts[origin]
  if host then return host end
  if self.host_count >= HOSTS then origin = "other" end
  host = self.hosts[origin]
  if not host then
    host = { requests = 0, failed = 0, attempts = 0, bytes = 0, waited = 0,
      latency = histogram.new() }
    self.hosts[origin] = host
    if origin ~= "other" then self.host_count = self.host_count + 1 end
  end
  return host
end

--- An attempt ended (see fetch.lua).
function Summary:attempt(info)
  self.attempts = self.attempts + 1
  if info.retried then self.retries = self.retries + 1 end
  if info.hedge then
    local hedges = self.hedges
    hedges.sent = hedges.sent + 1
    if not info.lost then hedges.won = hedges.won + 1 end
  end
  local bytes = info.wire or info.size or 0
  self.bytes = self.bytes + bytes
  local answered = not (info.lost and info.kind == "cancelled") -- else it could have taken longer
  if answered then self.latency:add(info.elapsed) end
  local status = info.status
  if status then self.statuses[status] = (self.statuses[status] or 0) + 1 end
  local host = host_of(self, info.origin)
  host.attempts = host.attempts + 1
  host.bytes = host.bytes + bytes
  if answered then host.latency:add(info.elapsed) end
end

--- A hop waited until it could start (see limits.lua).
---@param limit string what it waited for
function Summary:waited(origin, seconds, limit)
  local of = self.limits[limit]
  if not of then
    of = { waited = 0, waits = 0 }
    self.limits[limit] = of
  end
  of.waited, of.waits = of.waited + seconds, of.waits + 1
  local host = host_of(self, origin)
  host.waited = host.waited + seconds
end

local function keep_slow(self, info)
  local slowest = self.slowest
  local n = #slowest
  if n == SLOWEST and info.elapsed <= slowest[n].elapsed then return end
  local at = n < SLOWEST and n + 1 or n
  while at > 1 and slowest[at - 1].elapsed < info.elapsed do
    slowest[at] = slowest[at - 1]
    at = at - 1
  end
  slowest[at] = {
    url = info.url, elapsed = info.elapsed, attempts = info.attempts,
    status = info.status, kind = info.kind,
  }
end

--- A fetch ended (see fetch.lua).
function Summary:request(info)
  local requests = self.requests
  requests.total = requests.total + 1
  if info.ok then requests.ok = requests.ok + 1 else requests.failed = requests.failed + 1 end
  if info.from_cache then
    requests.from_cache = requests.from_cache + 1
    self.cache:add(info.from_cache, info.instead_of)
  end
  if info.attempts > 1 then requests.retried = requests.retried + 1 end
  local host = host_of(self, info.origin or "other")
  host.requests = host.requests + 1
  if not info.ok then host.failed = host.failed + 1 end
  if info.attempts > 0 or not info.from_cache then keep_slow(self, info) end
end

--- A request that had failed was answered by `fallback`.
function Summary:fell_back()
  self.requests.fallback = self.requests.fallback + 1
end

--- An item went through, and this became of its records.
function Summary:item(records_in, filtered, out)
  self.items = self.items + 1
  self.fetched = self.fetched + 1
  local records = self.records
  records["in"] = records["in"] + records_in
  records.filtered = records.filtered + filtered
  records.out = records.out + out
end

-- The scheme, host and port of a URL, and the rest.
local function split(text)
  local origin, target = text:match "^(%a[%w+.-]*://[^/?#]*)(.*)$"
  return origin or "", target or text
end

--- An item failed for good.
---@param err table
---@param where string "item 3", "urls.txt:17"
function Summary:item_failed(err, where)
  self.items = self.items + 1
  self.failed = self.failed + 1
  self.errors[err.kind] = (self.errors[err.kind] or 0) + 1
  local origin, target = split(err.url or "")
  local alike = string.format("%s %s %s", err.kind, err.status or "", origin)
  local key = alike .. "\0" .. err.message
  local messages = self.messages[alike] or 0
  if not self.group_of[key] and messages >= MESSAGES then key = alike end
  local group = self.group_of[key]
  if not group and #self.groups < GROUPS then
    group = { kind = err.kind, status = err.status, origin = origin, message = err.message,
      mixed = false, count = 0, named = {} }
    self.groups[#self.groups + 1] = group
    self.group_of[key] = group
    self.messages[alike] = messages + 1
  end
  if not group then return end
  group.count = group.count + 1
  group.mixed = group.mixed or group.message ~= err.message
  if #group.named < NAMED then
    group.named[#group.named + 1] = target == "" and where or where .. " " .. target
  end
end

--- The numbers thresholds judge.
---@param elapsed number seconds
function Summary:metrics(elapsed)
  local function counter(count)
    return { count = count, rate = elapsed > 0 and count / elapsed or 0 }
  end
  local requests, records = self.requests, self.records
  local function share(count)
    return { count = count, rate = requests.total > 0 and count / requests.total or 0 }
  end
  return {
    http_reqs = counter(requests.total),
    http_req_failed = share(requests.failed),
    http_req_duration = self.latency,
    iterations = counter(self.items),
    records = counter(records.out),
    records_filtered = counter(records.filtered),
    dead_letters = counter(records.dead),
    stale_if_error = share(self.cache.counts.stale_if_error),
  }
end

-- For machines -------------------------------------------------------------------------------

local function milliseconds(seconds)
  return seconds and math.floor(seconds * 1e6 + 0.5) / 1e3 or json.null
end

local function quantiles(latency, names)
  local out = { max = milliseconds(latency.most) }
  for _, percent in ipairs(names) do
    out["p" .. percent] = milliseconds(latency:quantile(percent / 100))
  end
  return out
end

local function copy(counters)
  local out = {}
  for name, count in pairs(counters) do out[tostring(name)] = count end
  return out
end

-- Masked before it is cut, so that no cut leaves half a secret that is not recognised.
local function shown(text)
  text = url.mask(secret.mask(text))
  if #text > TEXT_MAX then
    text = text:sub(1, TEXT_MAX):gsub("[\192-\255][\128-\191]*$", "") .. "..."
  end
  return errors.escape(text)
end

local function shown_url(text)
  return errors.escape(url.mask(secret.mask(text)))
end

local function rounded(seconds)
  return math.floor(seconds * 1e3 + 0.5) / 1e3
end

local function table_of_limits(limits)
  local out = {}
  for name, of in pairs(limits) do
    out[shown(name)] = { waited_s = rounded(of.waited), waits = of.waits }
  end
  return out
end

local function table_of_hosts(hosts)
  local out = {}
  for origin, host in pairs(hosts) do
    out[shown_url(origin)] = {
      requests = host.requests, failed = host.failed, attempts = host.attempts,
      bytes = host.bytes, waited_s = rounded(host.waited),
      latency_ms = quantiles(host.latency, { 50, 95 }),
    }
  end
  return out
end

local function list_of_slowest(slowest)
  local out = json.array {}
  for i, request in ipairs(slowest) do
    out[i] = {
      url = shown_url(request.url), elapsed_ms = milliseconds(request.elapsed),
      attempts = request.attempts, status = request.status, error = request.kind,
    }
  end
  return out
end

local function table_of_verdicts(verdicts)
  local out = {}
  for _, verdict in ipairs(verdicts) do
    local metric = out[verdict.metric] or {}
    out[verdict.metric] = metric
    metric[verdict.text] = {
      ok = verdict.ok, value = verdict.value == nil and json.null or verdict.value,
    }
  end
  return out
end

-- Why a run failed, as one line. What a message tells alone needs no kind before it.
local function failure_line(failure)
  local plain = failure.kind == "invalid" or failure.kind == "validation"
  if failure.url or failure.position or not plain then return tostring(failure) end
  return shown(failure.message)
end

--- The summary JSON as a table.
---@param run table {elapsed: number, verdicts: table[], interrupted: boolean, failure: table?}
function Summary:table(run)
  return {
    pipeline = self.pipeline,
    run_id = self.run_id,
    started_at = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.started_at)),
    elapsed_s = rounded(run.elapsed),
    requests = copy(self.requests),
    attempts = self.attempts,
    hedges = copy(self.hedges),
    cache = copy(self.cache.counts),
    records = copy(self.records),
    bytes = self.bytes,
    latency_ms = quantiles(self.latency, { 50, 90, 95, 99 }),
    statuses = copy(self.statuses),
    errors = copy(self.errors),
    hosts = table_of_hosts(self.hosts),
    limits = table_of_limits(self.limits),
    slowest = list_of_slowest(self.slowest),
    thresholds = table_of_verdicts(run.verdicts),
    interrupted = run.interrupted or nil,
    failure = run.failure and failure_line(run.failure),
  }
end

-- For people ---------------------------------------------------------------------------------

--- A whole number with commas between thousands.
---@return string
function summary.grouped(n)
  local text = string.format("%d", n)
  local head = (#text - 1) % 3 + 1
  return text:sub(1, head) .. (text:sub(head + 1):gsub("...", ",%0"))
end

local grouped = summary.grouped

local function duration(seconds)
  if seconds < 1 then return string.format("%.0f ms", seconds * 1000) end
  if seconds < 60 then return string.format("%.2f s", seconds) end
  local minutes = math.floor(seconds / 60)
  if minutes < 60 then return string.format("%d min %02d s", minutes, seconds % 60) end
  return string.format("%d h %02d min", math.floor(minutes / 60), minutes % 60)
end

local function size(bytes)
  for _, unit in ipairs { "B", "kB", "MB", "GB" } do
    if bytes < 1000 or unit == "GB" then
      return string.format((unit == "B" or bytes >= 100) and "%.0f %s" or "%.1f %s", bytes, unit)
    end
    bytes = bytes / 1000
  end
end

local function plural(n, noun)
  return grouped(n) .. " " .. noun .. (n == 1 and "" or "s")
end

local BOLD, RED, GREEN, YELLOW, PLAIN = "\27[1m", "\27[31m", "\27[32m", "\27[33m", "\27[0m"

local function headline(self, run)
  if run.interrupted or run.failure then
    return run.interrupted and YELLOW or RED, string.format("%s after %s, fetched %s of %s begun",
      run.interrupted and "interrupted" or "failed", duration(run.elapsed), grouped(self.fetched),
      grouped(run.begun))
  end
  local line = string.format("fetched %s of %s in %s", grouped(self.fetched), grouped(self.items),
    duration(run.elapsed))
  local slowest = self.slowest[1]
  if slowest and self.requests.total > 1 and slowest.elapsed > 0 then
    local ratio = run.elapsed / slowest.elapsed
    line = ratio < 10
      and string.format("%s, %.2f times its slowest request", line, ratio)
      or string.format("%s, %s/s", line, grouped(self.items / run.elapsed))
  end
  return self.failed > 0 and YELLOW or GREEN, line
end

local function failure_lines(self, add)
  local left, groups_left = self.failed, #self.groups
  local order = {}
  for i, group in ipairs(self.groups) do order[i] = { group = group, at = i } end
  table.sort(order, function(a, b)
    if a.group.count ~= b.group.count then return a.group.count > b.group.count end
    return a.at < b.at
  end)
  for i = 1, math.min(#order, GROUPS_SHOWN) do
    local group = order[i].group
    local kind = group.status and string.format("%s %d", group.kind, group.status) or group.kind
    local at = group.origin ~= "" and " at " .. shown(group.origin) or ""
    local more = group.count > #group.named and ", ..." or ""
    add("failed", string.format("%s %s%s: %s%s (%s%s)", grouped(group.count), kind, at,
      shown(group.message), group.mixed and ", and others" or "",
      shown(table.concat(group.named, ", ")), more), RED)
    left, groups_left = left - group.count, groups_left - 1
  end
  if left > 0 then
    add("failed", string.format("%s more, of %s", grouped(left),
      groups_left > 0 and plural(groups_left, "other kind") or "other kinds"), RED)
  end
end

local function requests_line(self)
  local requests = self.requests
  local line = grouped(requests.total)
  if self.retries > 0 then
    line = line .. ", " .. (self.retries == 1 and "1 retry" or grouped(self.retries) .. " retries")
  end
  if self.hedges.sent > 0 then
    line = string.format("%s, %s (%s faster)", line, plural(self.hedges.sent, "hedge"),
      grouped(self.hedges.won))
  end
  if requests.fallback > 0 then
    line = line .. ", " .. grouped(requests.fallback) .. " answered by the fallback"
  end
  return line .. ", " .. size(self.bytes) .. " received"
end

local LIMITS = { concurrency = "a free slot", server = "limits of the servers' own" }

-- Those of a table that were waited for long enough to be told, the longest first.
local function longest_waits(of, elapsed)
  local names, all = {}, 0
  for name, counters in pairs(of) do
    if counters.waited > 0 then all = all + 1 end
    if counters.waited > WAITED_LEAST and counters.waited > WAITED_SHARE * elapsed then
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b)
    if of[a].waited ~= of[b].waited then return of[a].waited > of[b].waited end
    return a < b
  end)
  for i = #names, WAITS_SHOWN + 1, -1 do names[i] = nil end
  return names, all
end

local function waiting_lines(self, elapsed, add)
  for _, name in ipairs(longest_waits(self.limits, elapsed)) do
    local of = self.limits[name]
    add("waited", string.format("%s in all for %s (%s)", duration(of.waited),
      LIMITS[name] or shown(name), of.waits == 1 and "once" or grouped(of.waits) .. " times"))
  end
  local origins, all = longest_waits(self.hosts, elapsed)
  if all == 1 then return end -- that is said
  for _, origin in ipairs(origins) do
    add("waited", string.format("%s of it for %s", duration(self.hosts[origin].waited),
      shown(origin)))
  end
end

--- The summary for a terminal, a few lines that end in "\n".
---@param run table {elapsed: number, verdicts: table[], interrupted: boolean, failure: table?,
---  begun: integer items taken from the source, outputs: string[] one text an output,
---  dead: string? where dead letters are, colour: boolean}
---@return string
function Summary:text(run)
  local function paint(colour, text)
    return run.colour and colour .. text .. PLAIN or text
  end
  local colour, head = headline(self, run)
  local lines = { paint(BOLD, shown(self.pipeline) .. ":") .. " " .. paint(colour, head) }
  local last
  local function add(label, text, label_colour)
    local padded = string.format("%-10s", label == last and "" or label)
    last = label
    lines[#lines + 1] = "  " .. (label_colour and paint(label_colour, padded) or padded) .. text
  end

  if run.failure then add("error", failure_line(run.failure), RED) end
  local records = self.records
  add("records", string.format("%s in, %s filtered out, %s out",
    grouped(records["in"]), grouped(records.filtered), grouped(records.out)))
  for _, output in ipairs(run.outputs) do add("output", shown(output)) end
  add("requests", requests_line(self))
  if self.requests.from_cache > 0 then
    add("cache", self.cache:line(self.requests.total, grouped))
  end
  for _, line in ipairs(self.cache:hidden(grouped, shown)) do add("stale", line, YELLOW) end
  local slowest = self.slowest[1]
  if slowest then
    add("slowest", string.format("%s %s%s", duration(slowest.elapsed), shown(slowest.url),
      slowest.attempts > 1 and string.format(" (%d attempts)", slowest.attempts) or ""))
  end
  waiting_lines(self, run.elapsed, add)
  failure_lines(self, add)
  if run.dead then
    add("dead", string.format("%s kept in %s", plural(records.dead, "item"), shown(run.dead)), RED)
  end
  for _, verdict in ipairs(run.verdicts) do
    if not verdict.ok then
      add("missed", string.format("threshold %s %s: it is %.4g",
        verdict.metric, shown(verdict.text), verdict.value), RED)
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

return summary
