-- What `orchestrator cache` says of what is stored: as text for people, and as tables for machines.
-- Names and values come from servers: nothing in them may speak to a terminal. Pure.

local cache_explain = require "orchestrator.cache_explain"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local summary = require "orchestrator.summary"
local url = require "orchestrator.url"

local cache_report = {}

local EXCERPT = 1000 -- bytes of a body that are shown
local EXCERPT_LINES = 20
local HIDDEN = "***"
-- Fields that may hold what identifies somebody.
local CREDENTIALS = {
  authorization = true, cookie = true, ["proxy-authorization"] = true, ["set-cookie"] = true,
}

---@class orc.CacheRow one stored response
---@field entry orc.CacheEntry
---@field stored integer bytes that its body takes, compressed
---@field hash string|nil SHA-256 of its body, in hexadecimal
---@field used number|nil unix time of the last use, roughly

-- Texts -----------------------------------------------------------------------------------------

local function shown(text)
  return errors.escape(url.mask(text))
end

-- For JSON, which holds UTF-8 only.
local function plain(text)
  text = url.mask(text)
  return json.encode(text) and text or errors.escape(text)
end

local grouped = summary.grouped

local function counted(n, one, many)
  return grouped(n) .. " " .. (n == 1 and one or many)
end

local function size(bytes)
  for _, unit in ipairs { "B", "kB", "MB", "GB" } do
    if bytes < 999.5 or unit == "GB" then
      local digits = (unit == "B" or bytes >= 99.95) and 0 or 1
      return string.format("%." .. digits .. "f %s", bytes, unit)
    end
    bytes = bytes / 1000
  end
end

local UNITS = { { 86400, "d" }, { 3600, "h" }, { 60, "min" } }

local function span(seconds)
  for _, unit in ipairs(UNITS) do
    if seconds >= unit[1] then
      local count = seconds / unit[1]
      return string.format(count < 9.95 and "%.1f %s" or "%.0f %s", count, unit[2])
    end
  end
  return string.format("%.0f s", seconds)
end

local function ago(at, now)
  return at <= now and span(now - at) .. " ago" or "in " .. span(at - now)
end

local function moment(at)
  return os.date("!%Y-%m-%d %H:%M:%S UTC", math.floor(at))
end

local function iso(at)
  return at and os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(at))
end

local function round(seconds)
  return math.floor(seconds * 1000 + 0.5) / 1000
end

-- Stats -----------------------------------------------------------------------------------------

---@class orc.CacheStats
---@field entries integer
---@field bodies integer
---@field decoded integer bytes of all bodies …
---@field stored integer … and what they take, compressed
---@field file integer bytes of the files on disk
---@field fresh integer entries
---@field oldest number|nil unix time
---@field newest number|nil
---@field hosts { origin: string, entries: integer, size: integer }[] those with most entries
---@field host_count integer

local function ratio(stats)
  return stats.stored > 0 and stats.decoded / stats.stored or 1
end

---@param stats orc.CacheStats
function cache_report.stats_table(stats)
  local hosts = json.array()
  for i, host in ipairs(stats.hosts) do
    hosts[i] = { host = plain(host.origin), entries = host.entries, size = host.size }
  end
  return {
    entries = stats.entries, fresh = stats.fresh, stale = stats.entries - stats.fresh,
    bodies = stats.bodies, bytes = stats.decoded, bytes_stored = stats.stored,
    ratio = round(ratio(stats)), bytes_on_disk = stats.file, oldest = iso(stats.oldest),
    newest = iso(stats.newest), hosts = hosts, host_count = stats.host_count,
  }
end

---@param stats orc.CacheStats
---@param path string of the cache
---@param now number unix time
function cache_report.stats_text(stats, path, now)
  local lines = { shown(path) }
  local function add(name, ...)
    lines[#lines + 1] = string.format("  %-9s %s", name, string.format(...))
  end
  add("entries", "%s, %s fresh, %s stale", grouped(stats.entries), grouped(stats.fresh),
    grouped(stats.entries - stats.fresh))
  add("bodies", "%s, %s, stored in %s (%.1f : 1)", grouped(stats.bodies), size(stats.decoded),
    size(stats.stored), ratio(stats))
  add("on disk", "%s", size(stats.file))
  if stats.oldest then
    add("stored", "the oldest %s, the newest %s", ago(stats.oldest, now), ago(stats.newest, now))
  end
  for i, host in ipairs(stats.hosts) do
    add(i == 1 and "hosts" or "", "%9s %-8s %8s  %s", grouped(host.entries),
      host.entries == 1 and "entry," or "entries,", size(host.size), shown(host.origin))
  end
  local others = stats.host_count - #stats.hosts
  if others > 0 then add("", "and %s", counted(others, "other host", "other hosts")) end
  return table.concat(lines, "\n") .. "\n"
end

-- List ------------------------------------------------------------------------------------------

local COLUMNS = "%-6s  %-12s  %8s  %8s  %8s  %s\n"

cache_report.HEADER = string.format(COLUMNS, "STATUS", "FRESH FOR", "AGE", "SIZE", "USED", "URL")

local function freshness(told)
  if told.left > 0 then
    return told.use == "ask" and "is asked for" or span(told.left)
  end
  return "stale"
end

---@param row orc.CacheRow
---@param now number unix time
function cache_report.line(row, now)
  local entry = row.entry
  local told = cache_explain.explain(entry, now)
  return string.format(COLUMNS, entry.status, freshness(told), span(told.age), size(entry.size),
    row.used and span(math.max(0, now - row.used)) or "", shown(entry.url))
end

-- What is compared of the requests it is for.
local function vary_of(entry)
  local vary = {}
  for name, value in pairs(entry.vary) do
    vary[name] = (CREDENTIALS[name] or value:find "^sha256:") and HIDDEN or plain(value)
  end
  return vary
end

---@param row orc.CacheRow
---@param now number unix time
function cache_report.row_table(row, now)
  local entry = row.entry
  local told = cache_explain.explain(entry, now)
  return {
    url = plain(entry.url), key = entry.named and plain(entry.named), status = entry.status,
    stored_at = iso(entry.response_time),
    used_at = iso(row.used), age_s = round(told.age), fresh_for_s = round(told.left),
    use = told.use, size = entry.size, size_stored = row.stored, sha256 = row.hash,
    vary = next(entry.vary) and vary_of(entry) or nil,
    range = entry.range and { first = entry.range.first, last = entry.range.last,
      size = entry.range.size } or nil,
  }
end

-- Show ------------------------------------------------------------------------------------------

local function value_of(field)
  return CREDENTIALS[field[1]:lower()] and HIDDEN or field[2]
end

-- The beginning of a body, in whole characters; nil when it is no text.
local function excerpt(body)
  local text = body:sub(1, EXCERPT)
  if #body > EXCERPT then text = text:gsub("[\192-\255][\128-\191]*$", "") end
  local _, controls = text:gsub("[%z\1-\8\14-\26\28-\31]", "")
  return controls == 0 and text or nil
end

---@param row orc.CacheRow
---@param body string|nil nil when it is gone
---@param now number unix time
function cache_report.show_table(row, body, now)
  local told = cache_report.row_table(row, now)
  told.because = cache_explain.explain(row.entry, now).because
  told.fields = json.array()
  for i, field in ipairs(row.entry.fields) do
    told.fields[i] = { plain(field[1]), plain(value_of(field)) }
  end
  local text = body and excerpt(body)
  told.body = text and json.encode(text) and text -- as it is: only what is told of it is masked
  told.truncated = told.body and #told.body < #body or nil
  return told
end

local USES = {
  fresh = "fresh for %s: may be used without asking",
  stale = "stale since %s: may still be used, while the server is asked",
  ask = "stale since %s: the server is asked first",
}

local function use_line(told)
  if told.use == "ask" and told.left > 0 then return "the server is asked first" end
  return string.format(USES[told.use], span(math.abs(told.left)))
end

local function body_lines(body, add)
  local text = excerpt(body)
  if not text then
    add "  (no text)"
    return
  end
  local count, taken = 0, 0
  for line, ending in text:gmatch "([^\n]*)(\n?)" do
    if line == "" and ending == "" then break end
    count, taken = count + 1, taken + #line + #ending
    add("  " .. errors.escape((line:gsub("\r$", ""):gsub("\t", "  "))))
    if count == EXCERPT_LINES then break end
  end
  local left = #body - taken
  if left > 0 then add("  … and " .. counted(left, "more byte", "more bytes")) end
end

---@param row orc.CacheRow
---@param body string|nil nil when it is gone
---@param now number unix time
function cache_report.show_text(row, body, now)
  local entry = row.entry
  local told = cache_explain.explain(entry, now)
  local lines = { shown(entry.url) }
  local function add(line) lines[#lines + 1] = line end
  local function note(name, ...) add(string.format("  %-8s %s", name, string.format(...))) end
  if entry.named then note("key", "%s", shown(entry.named)) end
  note("status", "%d", entry.status)
  note("stored", "%s, %s", moment(entry.response_time), ago(entry.response_time, now))
  if row.used then note("used", "%s", ago(row.used, now)) end
  note("age", "%s", span(told.age))
  note("use", "%s", use_line(told))
  for i, line in ipairs(told.because) do note(i == 1 and "because" or "", "%s", line) end
  local names, vary = {}, vary_of(entry)
  for name in pairs(vary) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    note("for", "requests with %s: %s", shown(name), shown(vary[name]))
  end
  if entry.range then
    note("part", "bytes %d to %d of %s", entry.range.first, entry.range.last,
      entry.range.size or "an unknown number")
  end
  note("body", "%s, stored in %s%s", size(entry.size), size(row.stored),
    row.hash and ", SHA-256 " .. row.hash or "")
  add "fields"
  for _, field in ipairs(entry.fields) do
    add(string.format("  %s: %s", shown(field[1]), shown(value_of(field))))
  end
  if not body then
    add "the body is gone"
  elseif body ~= "" then
    add "body"
    body_lines(body, add)
  end
  return table.concat(lines, "\n") .. "\n"
end

-- Clear and verify ------------------------------------------------------------------------------

---@param removed { entries: integer, stored: integer }
function cache_report.cleared_text(removed)
  return string.format("removed %s, %s\n", counted(removed.entries, "entry", "entries"),
    size(removed.stored))
end

--- A file was removed as a whole.
---@param path string
---@param bytes integer
function cache_report.removed_text(path, bytes)
  return string.format("removed %s, %s\n", shown(path), size(bytes))
end

---@param found orc.CacheFindings see cache_catalogue.lua
function cache_report.verified_text(found)
  local lines = { string.format("checked %s and %s",
    counted(found.entries, "entry", "entries"), counted(found.bodies, "body", "bodies")) }
  local function add(n, one, many)
    if n > 0 then lines[#lines + 1] = "  removed " .. counted(n, one, many) end
  end
  add(found.spoilt, "body that does not match its hash", "bodies that do not match their hashes")
  add(found.lost, "entry without its body", "entries without their bodies")
  add(found.unreadable, "entry that cannot be read", "entries that cannot be read")
  add(found.orphans, "body without an entry", "bodies without an entry")
  if not lines[2] then lines[1] = lines[1] .. ": nothing is wrong" end
  return table.concat(lines, "\n") .. "\n"
end

return cache_report
