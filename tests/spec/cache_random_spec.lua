-- The policy of the cache under random requests, servers and clocks, against a model of it that
-- keeps what it knows as plain tables, never reads a header and looks at one rule after the other.
-- A failure names its seed: PROPERTIES_SEED=n PROPERTIES_RUNS=1 plays that one alone.

local cache_entry = require "orchestrator.cache_entry"
local cache_policy = require "orchestrator.cache_policy"
local cache_refresh = require "orchestrator.cache_refresh"
local case = require "cache_case"
local fake_host = require "fake_host"
local fields = require "orchestrator.cache_fields"

local SEED = tonumber(os.getenv "PROPERTIES_SEED") or os.time() * 100
local RUNS = tonumber(os.getenv "PROPERTIES_RUNS") or 1500
local STEPS = 25
local URLS = { "https://a.test/1", "https://a.test/2" }

local function must(ok, message, ...)
  if not ok then error(message:format(...), 0) end
end

-- What the server says -------------------------------------------------------------------------

-- A response is { url, version, status, asked, got, x, cc = { name → number|true|text }, age,
-- date, expires, lm, etag, vary }: times in unix seconds, `x` what the request sent as X.
local STATUSES = { 200, 200, 200, 200, 203, 204, 299, 301, 302, 404, 410, 429, 500, 501, 503 }
local BY_DEFAULT = { [200] = true, [203] = true, [204] = true, [301] = true, [404] = true,
  [410] = true }

local function directives(one)
  local cc = {}
  if one.chance(0.6) then cc["max-age"] = one.pick { 0, 1, 5, 5, 20, 20, 100, "x" } end
  if one.chance(0.1) then cc["no-store"] = true end
  if one.chance(0.1) then cc["no-cache"] = one.pick { true, true, "set-cookie" } end
  if one.chance(0.1) then cc["must-revalidate"] = true end
  if one.chance(0.1) then cc["must-understand"] = true end
  if one.chance(0.1) then cc.immutable = true end
  if one.chance(0.1) then cc.public = true end
  if one.chance(0.1) then cc.private = true end
  if one.chance(0.1) then cc["s-maxage"] = one.pick { 0, 100 } end -- not for us
  if one.chance(0.2) then cc["stale-while-revalidate"] = one.pick { 3, 30 } end
  if one.chance(0.2) then cc["stale-if-error"] = one.pick { 3, 30 } end
  return cc
end

-- What the server has to say of what it has now; `rest` of the time it says nothing.
local function told(one, now)
  local says = { date = now, cc = directives(one) }
  if one.chance(0.1) then says.date = now + one.pick { -7, 7 } end
  if one.chance(0.05) then says.date = nil end
  if one.chance(0.15) then says.age = one.up_to(10) end
  if one.chance(0.2) then says.expires = one.pick { "0", now - 5, now + 5, now + 50 } end
  if one.chance(0.25) then says.vary = one.chance(0.1) and "*" or "X" end
  return says
end

local function header_fields(response)
  local map, list = {}, {}
  for name, value in pairs(response.cc or {}) do
    list[#list + 1] = value == true and name or name .. "=" .. (name == "no-cache"
      and '"' .. value .. '"' or value)
  end
  table.sort(list)
  if list[1] then map["Cache-Control"] = table.concat(list, ", ") end
  local function date(name, at)
    map[name] = type(at) == "number" and case.date(at - case.NOW) or at
  end
  date("Date", response.date)
  date("Expires", response.expires)
  date("Last-Modified", response.lm)
  map.Age = response.age and tostring(response.age)
  map.ETag, map.Vary = response.etag, response.vary
  return case.fields(map)
end

-- The model --------------------------------------------------------------------------------------

local model = {}

function model.may_stay(response)
  local cc, status = response.cc, response.status
  if response.vary == "*" then return false end
  if not cc["must-understand"] then return not cc["no-store"] end
  return status ~= 299 and status ~= 429 -- RFC 9110 does not know them
end

function model.storable(response, asked, opts, accepted)
  local cc, status = response.cc, response.status
  if opts.mode == "no-store" or asked["no-store"] or not model.may_stay(response) then
    return false
  end
  local explicit = cc["max-age"] or cc.public or response.expires
  if status == 429 or status >= 500 then return explicit ~= nil and accepted end
  return (BY_DEFAULT[status] or explicit or cc.private or opts.ttl and status < 300) and true
    or false
end

local function date_of(response) return response.date or response.got end

local function age(response, now)
  local apparent = math.max(0, response.got - date_of(response))
  local corrected = (response.age or 0) + response.got - response.asked
  return math.max(apparent, corrected) + math.abs(now - response.got)
end

local function left(response, now, opts)
  if opts.ttl then return opts.ttl - math.abs(now - response.got) end
  local most = response.cc["max-age"]
  local lifetime
  if most then
    lifetime = tonumber(most) or 0
  elseif response.expires then
    lifetime = response.expires == "0" and 0 or response.expires - date_of(response)
  elseif response.lm and (BY_DEFAULT[response.status] or response.cc.public) then
    lifetime = math.max(0, date_of(response) - response.lm) / 10
  else
    lifetime = 0
  end
  return lifetime - age(response, now)
end

local function may_be_stale(response, opts)
  return opts.ttl or not response.cc["must-revalidate"] and response.cc["no-cache"] ~= true
end

-- "fresh", "stale" or nil, and whether the server is asked meanwhile.
local function use_of(response, asked, now, opts)
  local rest = left(response, now, opts)
  local old = age(response, now)
  if opts.mode == "force-cache" or opts.mode == "only-if-cached" then
    return rest > 0 and "fresh" or "stale"
  end
  local is_liked = (not asked["max-age"] or old <= asked["max-age"])
    and (not asked["min-fresh"] or rest >= asked["min-fresh"])
  if asked["no-cache"] or response.cc["no-cache"] == true and not opts.ttl then return nil end
  if opts.mode == "no-cache" then
    return response.cc.immutable and rest > 0 and "fresh" or nil
  end
  if rest > 0 then return is_liked and "fresh" or nil end
  if not may_be_stale(response, opts) then return nil end
  if asked["max-stale"] and (asked["max-stale"] == true or -rest <= asked["max-stale"]) then
    return "stale"
  end
  local while_asking = math.max(opts.stale_while_revalidate or 0,
    response.cc["stale-while-revalidate"] or 0)
  if -rest < while_asking and is_liked then return "stale", true end
end

function model.decide(request, stored, now, opts)
  local asked, mode = request.cc, opts.mode
  local is_offline = mode == "only-if-cached" or asked["only-if-cached"]
  local past = mode == "no-store" or mode == "reload" or asked["no-store"]
  local newest
  for _, response in ipairs(stored) do
    local matches = (response.vary ~= "X" and not opts.vary) or response.x == request.x
    if not past and matches and (not newest or date_of(response) > date_of(newest)
      or date_of(response) == date_of(newest) and response.got > newest.got) then
      newest = response
    end
  end
  local use, background
  if newest then use, background = use_of(newest, asked, now, opts) end
  return use or (is_offline and "fail" or "fetch"), newest, background
end

function model.serves_errors(response, asked, now, opts)
  local most = math.max(opts.stale_if_error or 0, response.cc["stale-if-error"] or 0,
    asked["stale-if-error"] or 0)
  return may_be_stale(response, opts) and most > 0 and -left(response, now, opts) <= most or false
end

-- A 304 or a HEAD brought news.
function model.renewed(response, news)
  local new = {}
  for name, value in pairs(response) do new[name] = value end
  for _, name in ipairs { "expires", "lm", "etag", "vary" } do
    if news[name] ~= nil then new[name] = news[name] end
  end
  if next(news.cc) then new.cc = news.cc end
  new.date, new.age = news.date, news.age
  new.asked, new.got, new.x = news.asked, news.got, news.x
  return new
end

-- A user, a server and a clock -----------------------------------------------------------------

local World = {}
World.__index = World

local function world(seed)
  local random = fake_host.generator(seed * 7919 % 2 ^ 32)
  for _ = 1, 5 do random() end
  local self = setmetatable({ now = case.NOW, opts = {}, pairs = {}, versions = {},
    taken = {} }, World)
  function self.up_to(n) return math.floor(random() * n) + 1 end
  function self.chance(p) return random() < p end
  function self.pick(list) return list[self.up_to(#list)] end
  if self.chance(0.15) then self.opts.ttl = self.pick { 5, 50 } end
  if self.chance(0.2) then self.opts.stale_if_error = self.pick { 5, 50 } end
  if self.chance(0.2) then self.opts.stale_while_revalidate = self.pick { 5, 50 } end
  if self.chance(0.1) then self.opts.vary = { "x" } end
  self.validators = self.pick { "strong", "weak", "date", "both", "none" }
  for _, url in ipairs(URLS) do
    self.pairs[url] = {} -- what is stored: { entry =, response = }
    self.versions[url] = { number = 1, since = self.now - 100 }
  end
  return self
end

function World:request()
  local cc, headers = {}, {}
  if self.chance(0.25) then
    local name = self.pick { "no-cache", "no-store", "max-age", "min-fresh", "max-stale",
      "max-stale", "only-if-cached", "stale-if-error" }
    local plain = name:find "^no" or name == "only-if-cached" or self.chance(0.2)
    cc[name] = plain and name ~= "max-age" and name ~= "min-fresh" and name ~= "stale-if-error"
      or self.pick { 0, 3, 30 }
    headers["Cache-Control"] = cc[name] == true and name or name .. "=" .. cc[name]
  end
  headers.X = self.pick { "1", "2", false } or nil
  local url = self.pick(URLS)
  local request = case.request(headers, nil, url)
  request.cc, request.x = cc, headers.X
  return request
end

-- What the server has, with the validators it gives to it.
function World:current(url)
  local version = self.versions[url]
  local kind, tag = self.validators, '"' .. version.number .. '"'
  return {
    version = version.number,
    lm = (kind == "date" or kind == "both") and version.since or nil,
    etag = (kind == "strong" or kind == "both") and tag or kind == "weak" and "W/" .. tag or nil,
  }
end

-- What the server answers, and when. It changes what it has between answers.
function World:answer(request, headers)
  local has = self:current(request.url)
  local response = told(self, self.now)
  response.asked, response.x, response.url = self.now, request.x, request.url
  self.now = self.now + self.pick { 0, 0, 1, 2 }
  while self.taken[self.now] do self.now = self.now + 1 end -- which one is newest is always clear
  self.taken[self.now] = true
  response.got = self.now
  response.version, response.etag, response.lm = has.version, has.etag, has.lm
  local tag, since = headers["If-None-Match"], headers["If-Modified-Since"]
  must(tag ~= "" and since ~= "", "an empty condition")
  if tag and tag == has.etag or not tag and since and has.lm
    and fields.date(since, self.now) >= has.lm then
    response.status = 304
    if self.chance(0.3) then response.etag, response.lm = nil, nil end
    if self.chance(0.05) then response.etag, response.is_wrong = '"other"', true end
  else
    response.status = self.pick(STATUSES)
  end
  return response, {
    request = request, status = response.status, fields = header_fields(response), size = 10,
    request_time = response.asked, response_time = response.got,
  }
end

-- Puts `new` in the place of `old`; nil drops it.
function World:replace(url, old, new)
  local list = {}
  for _, pair in ipairs(self.pairs[url]) do
    if pair ~= old then list[#list + 1] = pair end
  end
  list[#list + 1] = new
  self.pairs[url] = list
end

function World:pair_of(url, name, value)
  for _, pair in ipairs(self.pairs[url]) do
    if pair[name] == value then return pair end
  end
end

local function same_variant(self, a, b)
  return a.vary ~= "X" and not self.opts.vary or a.x == b.x
end

-- A 304, or a HEAD, has made this of what was stored.
function World:renew(url, pair, entry, news)
  local new = { entry = entry, response = model.renewed(pair.response, news) }
  local may = cache_policy.may_stay(entry)
  must(may == model.may_stay(new.response), "stays: %s", may)
  self:replace(url, pair, may and new or nil)
end

-- A failed request, and what may stand for it.
function World:failed(request, decision, opts)
  local pair = decision.entry and self:pair_of(request.url, "entry", decision.entry)
  if not pair then return end
  local may = cache_policy.serves_errors(request, pair.entry, self.now, opts)
  must(may == model.serves_errors(pair.response, request.cc, self.now, opts),
    "stands for an error: %s", may)
end

function World:confirmed(request, decision, response, answer)
  local pair = self:pair_of(request.url, "entry", decision.entry)
  must(pair, "a condition about nothing")
  must(pair.response.version == response.version, "confirmed is what the server no longer has")
  local new = cache_refresh.confirmed(pair.entry, answer, self.opts.vary)
  must((new == nil) == (response.is_wrong or false), "updated by a 304: %s", new ~= nil)
  if new then self:renew(request.url, pair, new, response) end
end

-- A HEAD: what is stored has to be what the server has.
function World:head()
  local request = self:request()
  local response, answer = self:answer(request, {})
  if response.status ~= 200 then return end
  for _, pair in ipairs(self.pairs[request.url]) do
    if same_variant(self, pair.response, response) then
      local new = cache_refresh.by_head(pair.entry, answer, self.opts.vary)
      local alike = pair.response.version == response.version or self.validators == "none"
      must((new ~= nil) == alike, "updated by a HEAD: %s", new ~= nil)
      if new then
        self:renew(request.url, pair, new, response)
      else
        self:replace(request.url, pair, nil)
      end
    end
  end
end

function World:ask(request, decision, opts)
  if self.chance(0.15) then return self:failed(request, decision, opts) end
  local response, answer = self:answer(request, decision.headers or {})
  if response.status == 304 then return self:confirmed(request, decision, response, answer) end
  local accepted = response.status < 400 or self.chance(0.5)
  local entry = cache_entry.new(answer, self.opts.vary)
  local storable = cache_policy.storable(request, entry, opts, accepted)
  must(storable == model.storable(response, request.cc, opts, accepted), "a %d is stored: %s",
    response.status, storable)
  if not storable then return end
  for _, pair in ipairs(self.pairs[request.url]) do
    if same_variant(self, pair.response, response) then
      self:replace(request.url, pair, nil)
    end
  end
  self:replace(request.url, nil, { entry = entry, response = response })
end

function World:step()
  self.now = self.now + self.pick { 0, 1, 1, 2, 5, 15, self.chance(0.1) and 500 or 30 }
  if self.chance(0.02) then self.now = self.now - 20 end
  for _, url in ipairs(URLS) do
    local version = self.versions[url]
    if self.chance(0.15) and self.now > version.since then
      version.number, version.since = version.number + 1, self.now
    end
  end
  if self.chance(0.05) then return self:head() end
  local request = self:request()
  local opts = { mode = self.chance(0.3) and self.pick { "default", "no-store", "reload",
    "no-cache", "force-cache", "only-if-cached" } or nil }
  for name, value in pairs(self.opts) do opts[name] = value end
  local entries, responses = {}, {}
  for i, pair in ipairs(self.pairs[request.url]) do
    entries[i], responses[i] = pair.entry, pair.response
  end
  local decision = cache_policy.decide(request, entries, self.now, opts)
  local what, response, background = model.decide(request, responses, self.now, opts)
  local got = decision.use or decision.fail and "fail" or "fetch"
  must(got == what, "%s, and not %s", got, what)
  must((decision.background or false) == (background or false), "asked meanwhile: %s", background)
  if decision.use then
    local pair = self:pair_of(request.url, "entry", decision.entry)
    must(pair and pair.response == response, "another response")
    must(cache_entry.age(decision.entry, self.now) == age(response, self.now), "another age")
  end
  if decision.fetch or decision.background then self:ask(request, decision, opts) end
  return decision.use
end

-- Plays so many seeds: the first that breaks a promise and how, or nil and how many were used.
local function broken(first, runs)
  local used = 0
  for seed = first, first + runs - 1 do
    local one = world(seed)
    for _ = 1, STEPS do
      local ok, problem = pcall(one.step, one)
      if not ok then return seed, problem end
      if problem then used = used + 1 end
    end
  end
  return nil, used
end

-- What must be noticed: { what, where, name, by }.
local function without(directive)
  return { directive .. " not heeded", cache_entry, "directives", function(whole)
    return function(entry)
      local found = {}
      for name, value in pairs(whole(entry)) do found[name] = value end
      found[directive] = nil
      return found
    end
  end }
end

local function lacking(name)
  return { name .. " not read", cache_entry, "get", function(whole)
    return function(entry, asked) return asked ~= name and whole(entry, asked) or nil end
  end }
end

local BREAKAGES = {
  without "max-age", without "no-store", without "no-cache", without "must-revalidate",
  without "must-understand", without "immutable", without "public", without "private",
  without "stale-while-revalidate", without "stale-if-error",
  lacking "age", lacking "date", lacking "expires", lacking "last-modified", lacking "etag",
  { "vary not read", cache_entry, "vary", function()
    return function() return {} end
  end },
  { "a clock set back that makes younger", cache_entry, "resident", function()
    return function(entry, now) return now - entry.response_time end
  end },
  { "time on the way that does not count", cache_entry, "age", function(whole)
    return function(entry, now)
      return whole(entry, now) - (entry.response_time - entry.request_time)
    end
  end },
  { "a request's directives not read", cache_entry, "sent", function(whole)
    return function(request, name)
      return name ~= "cache-control" and whole(request, name) or nil
    end
  end },
  { "a malformed number read as a long time", fields, "seconds", function(whole)
    return function(argument) return whole(argument) or 1000 end
  end },
  { "a lifetime that is one second longer", cache_policy, "lifetime", function(whole)
    return function(entry) return whole(entry) + 1 end
  end },
  { "everything staying that was stored", cache_policy, "may_stay", function()
    return function() return true end
  end },
  { "a ttl that does not count", cache_policy, "left", function(whole)
    return function(entry, now) return whole(entry, now, nil) end
  end },
  { "a 304 that always updates", cache_refresh, "confirmed", function()
    return cache_refresh.renewed
  end },
  { "a 304 that never updates", cache_refresh, "confirmed", function()
    return function() return nil end
  end },
  { "a 304 whose age is forgotten", cache_refresh, "renewed", function(whole)
    return function(entry, answer, vary)
      local new = whole(entry, answer, vary)
      new.response_time, new.request_time = entry.response_time, entry.request_time
      return new
    end
  end },
  { "a HEAD that always updates", cache_refresh, "by_head", function()
    return cache_refresh.renewed
  end },
  { "an error that anything stands for", cache_policy, "serves_errors", function()
    return function() return true end
  end },
}

describe("the policy of the cache", function()
  it("is what a naive model says, under random requests and answers", function()
    local seed, problem = broken(SEED, RUNS)
    if seed then
      error(string.format("PROPERTIES_SEED=%d: %s (of those from %d on)", seed, problem, SEED), 0)
    end
    assert.is_true(problem > RUNS, "too little is answered by the cache: " .. problem)
  end)

  for _, breakage in ipairs(BREAKAGES) do
    local what, where, name, by = unpack(breakage)
    it("is not, with " .. what, function()
      local whole = where[name]
      where[name] = by(whole)
      local seed = broken(1, 1000)
      where[name] = whole
      assert.is_not_nil(seed, "nothing was noticed")
    end)
  end
end)
