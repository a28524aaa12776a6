-- What a run did: counted while it goes on, in constant memory, then told twice: as a table for
-- machines (the summary JSON) and as a few lines a person reads in five seconds.
--
-- It observes the requests of a run (`attempt`, `request`) and is told of items and records by
-- pipeline.lua.

local cache_tally = require "orchestrator.cache_tally"
local errors = require "orchestrator.errors"
local failure_groups = require "orchestrator.failure_groups"
local histogram = require "orchestrator.histogram"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local summary = {}

local HOSTS = 100 -- told apart; the others are counted together as "other"
local SLOWEST = 10
local WAITS_SHOWN = 3 -- limits, and hosts, that were waited for
local WAITED_LEAST, WAITED_SHARE = 1, 0.05 -- seconds, and share of the run, that are worth a line
local TEXT_MAX = 160 -- bytes of a message or URL in the text
local FAILURE_MAX = 1000 -- of the run's failure, whose end says what to do

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
    records = { ["in"] = 0, out = 0, filtered = 0, invalid = 0, dead = 0 },
    errors = {}, -- kind → items
    failures = failure_groups.new(), -- of items
    bad = failure_groups.new(), -- of records
    failed = 0, -- items
    before = 0, -- items of before this process
    earlier = 0, earlier_bad = 0, -- failures and bad records of then
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

--- An item failed for good.
---@param err table
---@param where string "item 3", "urls.txt:17"
function Summary:item_failed(err, where)
  self.items = self.items + 1
  self.failed = self.failed + 1
  self.errors[err.kind] = (self.errors[err.kind] or 0) + 1
  self.failures:add(err, where)
end

--- A record is bad.
---@param err table
---@param where string of its item
function Summary:record_bad(err, where)
  self.records.invalid = self.records.invalid + 1
  self.bad:add(err, where)
end

--- Whether there were records, and every one is bad.
function Summary:none_good()
  local records = self.records
  return records.invalid > 0 and records.out == 0 and records.filtered == 0
end

-- Going on --------------------------------------------------------------------------------------

local COUNTED = { "items", "fetched", "failed", "attempts", "retries", "bytes" }
local OF_ITEMS = { "items", "fetched", "failed", "records", "errors" }

local function copy(counters)
  local out = {}
  for name, count in pairs(counters) do out[tostring(name)] = count end
  return out
end

--- What has been counted, to be gone on with in another process.
---@return table totals which JSON can hold
function Summary:totals()
  local totals = {}
  for _, name in ipairs(COUNTED) do totals[name] = self[name] end
  for _, name in ipairs { "records", "errors", "requests", "hedges", "statuses" } do
    totals[name] = copy(self[name])
  end
  totals.cache = copy(self.cache.counts)
  return totals
end

--- Goes on from totals.
function Summary:restore(totals)
  for _, name in ipairs(COUNTED) do self[name] = totals[name] end
  for _, name in ipairs { "records", "requests", "hedges" } do
    for key, count in pairs(totals[name]) do self[name][key] = count end
  end
  for name, count in pairs(totals.cache) do self.cache.counts[name] = count end
  self.errors, self.statuses = totals.errors, {}
  for status, count in pairs(totals.statuses) do self.statuses[tonumber(status)] = count end
  self.before = totals.items
  self.earlier = totals.failed -- whose groups are not known any more
  self.earlier_bad = totals.records.invalid or 0
end

--- Takes back what was counted of items since these totals.
function Summary:undo(totals)
  for _, name in ipairs(OF_ITEMS) do self[name] = totals[name] end
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
    records_invalid = counter(records.invalid),
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

-- Masked before it is cut, so that no cut leaves half a secret that is not recognised.
local function shown(text, most)
  most = most or TEXT_MAX
  text = url.mask(secret.mask(text))
  if #text > most then
    text = text:sub(1, most):gsub("[\192-\255][\128-\191]*$", "") .. "..."
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
  return shown(failure.message, FAILURE_MAX)
end

--- The summary JSON as a table.
---@param run table {elapsed: number, verdicts: table[], interrupted: boolean, failure: table?,
---  resumed: table? {sessions, skipped}, resumable: boolean?, retries: boolean?}
function Summary:table(run)
  local records = copy(self.records)
  if records.invalid == 0 then records.invalid = nil end
  return {
    pipeline = self.pipeline,
    run_id = self.run_id,
    started_at = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.started_at)),
    elapsed_s = rounded(run.elapsed),
    requests = copy(self.requests),
    attempts = self.attempts,
    hedges = copy(self.hedges),
    cache = copy(self.cache.counts),
    records = records,
    bytes = self.bytes,
    latency_ms = quantiles(self.latency, { 50, 90, 95, 99 }),
    statuses = copy(self.statuses),
    errors = copy(self.errors),
    hosts = table_of_hosts(self.hosts),
    limits = table_of_limits(self.limits),
    slowest = list_of_slowest(self.slowest),
    thresholds = table_of_verdicts(run.verdicts),
    interrupted = run.interrupted or nil,
    resumed = run.resumed,
    resumable = run.resumable or nil,
    failure = run.failure and failure_line(run.failure),
  }
end

-- For people ---------------------------------------------------------------------------------

summary.grouped = failure_groups.grouped

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

local function ordinal(n)
  local ends = { "st", "nd", "rd" }
  return n .. ((n % 100 < 11 or n % 100 > 13) and ends[n % 10] or "th")
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
      or string.format("%s, %s/s", line, grouped((self.items - self.before) / run.elapsed))
  end
  return self.failed > 0 and YELLOW or GREEN, line
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

--- What there is to say of a run that was not begun.
---@param run table see `text`
---@return string
function Summary:refusal(run)
  return string.format("%s: %s\n", shown(self.pipeline), failure_line(run.failure))
end

--- The summary for a terminal, a few lines that end in "\n".
---@param run table {elapsed: number, verdicts: table[], interrupted: boolean, failure: table?,
---  begun: integer items taken from the source, outputs: string[] one text an output,
---  dead: string? where dead letters are, resumed, resumable: see `table`, colour: boolean}
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
  if run.resumed then
    add("resumed", string.format("run %s, the %s time; %s passed over that %s done",
      shown(self.run_id), ordinal(run.resumed.sessions), plural(run.resumed.skipped, "item"),
      run.resumed.skipped == 1 and "was" or "were"))
  end
  if run.resumable then
    add("resume", string.format("run %s goes on with %s", shown(self.run_id),
      run.retries and "--retry-dead" or "--resume"), YELLOW)
  end
  local records = self.records
  add("records", string.format("%s in, %s filtered out, %s%s out", grouped(records["in"]),
    grouped(records.filtered), records.invalid > 0 and grouped(records.invalid) .. " bad, " or "",
    grouped(records.out)))
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
  for _, line in ipairs(self.failures:lines(self.failed - self.earlier, shown)) do
    add("failed", line, RED)
  end
  for _, line in ipairs(self.bad:lines(records.invalid - self.earlier_bad, shown)) do
    add("bad", line, RED)
  end
  if run.dead then
    add("dead", string.format("%s kept in %s", plural(records.dead,
      records.invalid > 0 and "letter" or "item"), shown(run.dead)), RED)
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
