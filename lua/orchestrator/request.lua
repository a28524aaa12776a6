-- From what a script asks for to what is sent. A plan is the client's defaults with the request's
-- own on top (by __index), and at the same time the `spec` that host.start takes.

local auth = require "orchestrator.auth"
local body = require "orchestrator.body"
local cache_options = require "orchestrator.cache_options"
local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local hedge = require "orchestrator.hedge"
local options = require "orchestrator.options"
local redirect = require "orchestrator.redirect"
local retry = require "orchestrator.retry"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local request = {}

local TIMEOUT = {
  connect = { type = "duration" },
  dns = { type = "duration" },
  attempt = { type = "duration" },
  idle = { type = "duration" },
  total = { type = "duration" },
}

local SLOWEST_SAVE = 100 -- bytes a second, over the idle timeout

-- libcurl itself refuses more header bytes than this.
local MOST_HEADERS = 300e3

--- What `accept` means: a function from a response to whether it passes for an answer.
local function accepting(accept)
  if accept == "any" then return function() return true end end
  if type(accept) == "function" then return accept end
  local set = {}
  for i, status in ipairs(accept) do
    if type(status) ~= "number" or status < 100 or status > 599 or status % 1 ~= 0 then
      return nil, string.format("must list statuses such as 404; element %d is %s", i,
        tostring(status))
    end
    set[status] = true
  end
  if not next(set) then return nil, "must list at least one status" end
  return function(res) return set[res.status] == true end
end

--- Options that a client and a single request have in common.
function request.common_schema()
  return {
    headers = { type = "table" },
    timeout = { type = { "duration", "table" } },
    retry = { type = { "table", { one_of = { false } } } },
    accept = { type = { "table", "function", { one_of = { "any" } } }, check = accepting },
    response_action = { type = "function" },
    hedge = { type = { "table", { one_of = { false } } } },
    fallback = { type = { "function", { one_of = { false } } } },
    max_body = { type = "size", min = 1 },
    max_headers = { type = "size", min = 1, max = MOST_HEADERS },
    follow = { type = "integer", min = 0 },
    cache = cache_options.RULE,
  }
end

local REQUEST = request.common_schema()
REQUEST.url = { type = "secret" }
REQUEST.method = { type = "string" }
REQUEST.query = { type = "table" }
body.schema(REQUEST)
REQUEST.stream = { type = "boolean" }
REQUEST.min_speed = { type = "size", min = 0 }
REQUEST.weight = {
  type = "number",
  check = function(weight)
    if weight > 0 then return weight end
    return nil, string.format("must be above zero, got %g", weight)
  end,
}
REQUEST.priority = { type = "number" }
REQUEST.save = {
  type = "string",
  check = function(path)
    if path == "" or path:find "%z" then return nil, "must be the path of a file" end
    return path
  end,
}

--- What is an answer unless something else is said.
function request.accept_2xx(res)
  return res.status >= 200 and res.status <= 299
end

-- A request's table changes the client's, option by option; false is false.
local function merged(base, given, where, name)
  if not given then return false end
  if where == "request" and given.budget ~= nil then
    options.fail("request." .. name,
      '"budget" is shared by the requests of a client: set it there')
  end
  local all = {}
  for key, value in pairs(base or {}) do all[key] = value end
  for key, value in pairs(given) do all[key] = value end
  return all
end

--- Puts checked common options on a plan (or on a client's defaults).
local function apply(plan, opts, where)
  local timeout = opts.timeout
  if type(timeout) == "number" then
    plan.timeout = timeout
  elseif timeout then
    local t = options.check(where .. ".timeout", timeout, TIMEOUT)
    plan.timeout = t.attempt
    plan.connect_timeout = t.connect
    plan.dns_timeout = t.dns
    plan.idle_timeout = t.idle
    plan.total = t.total
  end
  if opts.retry ~= nil then
    plan.retry_given = merged(plan.retry_given, opts.retry, where, "retry")
    plan.retry = retry.policy(plan.retry_given, where .. ".retry")
  end
  if opts.hedge ~= nil then
    plan.hedge_given = merged(plan.hedge_given, opts.hedge, where, "hedge")
    plan.hedge = plan.hedge_given and hedge.policy(plan.hedge_given, where .. ".hedge")
  end
  if opts.cache ~= nil then
    plan.cache_given = cache_options.merged(plan.cache_given, opts.cache, where)
    plan.cache = cache_options.under(plan.cache_given, plan.cache_mode)
  end
  plan.fallback = opts.fallback
  plan.accept = opts.accept
  plan.response_action = opts.response_action
  plan.max_body = opts.max_body
  plan.max_headers = opts.max_headers
  plan.follow = opts.follow
end

--- The plan every request of a client starts from.
---@param opts table the client's checked options
---@param idn function|nil see url.parse
---@param cache_mode string|nil of the command line, see cache_options.lua
function request.defaults(opts, version, idn, cache_mode)
  local defaults = {
    method = "GET",
    timeout = 30,
    connect_timeout = 10,
    max_body = 64e6,
    max_headers = MOST_HEADERS,
    follow = 10,
    accept = request.accept_2xx,
    retry = retry.policy(nil),
  }
  local own = { cache_mode = cache_mode }
  apply(own, opts, "client")
  for name, value in pairs(own) do defaults[name] = value end

  local query = {}
  headers.check(opts.headers or {}, "client")
  local fields = headers.merge({
    ["Accept"] = "*/*",
    ["Accept-Encoding"] = "gzip, deflate, br, zstd",
    ["User-Agent"] = "orchestrator/" .. version,
  }, opts.headers)
  if opts.auth then auth.apply(opts.auth, fields, query) end
  local text, problem = headers.text(fields)
  if not text then options.fail("client", problem) end
  defaults.fields, defaults.headers = fields, text
  defaults.query = next(query) and query or nil
  if opts.base_url then
    defaults.base_url = opts.base_url
    defaults.home = url.parse(opts.base_url, idn).origin
    defaults.abroad = redirect.harmless(fields)
  end
  return { __index = defaults }
end

-- Whether a request's headers say `Authorization = false`; nil when they do not.
local function declines_credentials(given)
  for name, value in pairs(given or {}) do
    if value == false and name:lower() == "authorization" then return true end
  end
end

-- The credentials of a plan's own URL. Each item may have others.
local function lend(plan, user, password)
  local pair = secret.borrow(secret.base64(user .. ":" .. password))
  plan.borrowed = { secret.borrow(password), pair }
  return { place = "header", name = "Authorization", value = "Basic " .. pair }
end

--- Gives back what a plan has borrowed: nothing more is done with it.
function request.release(plan)
  for _, one in ipairs(plan.borrowed or {}) do secret.give_back(one) end
  plan.borrowed = nil
end

-- Gives the plan its URL and its headers: the client's with the request's `own` on top. What a
-- client with a base_url sends to identify itself goes to that origin only: an absolute URL may
-- come out of somebody's data.
-- Returns nil, what is wrong and the fault otherwise.
local function set_target(plan, text, query, own, idn)
  text = secret.reveal(text)
  if plan.base_url then text = url.base(plan.base_url, text) end
  local u, problem = url.parse(text, idn)
  if not u then return nil, problem, "bad_url" end
  local fields, standing = plan.fields, plan.query
  if plan.home and u.origin ~= plan.home then
    fields, standing = plan.abroad, nil
    plan.fields, plan.anonymous, plan.foreign = fields, true, true
  end
  if query or standing then
    local all = {}
    for k, v in pairs(standing or {}) do all[k] = v end
    for k, v in pairs(query or {}) do all[k] = v end
    u, problem = url.parse(url.add_query(text, all), idn)
    if not u then return nil, problem, "bad_url" end
  end
  request.aim(plan, u)
  if own then
    plan.fields = headers.merge(own.weak, fields, own.strong, own.given)
    plan.anonymous = plan.anonymous or declines_credentials(own.given)
  end
  if u.userinfo then
    local user, password = u.userinfo:match "^([^:]*):?(.*)$"
    user = url.unescape(user)
    if user:find(":", 1, true) then
      return nil, "the URL has a user name with a colon in it", "bad_url"
    end
    plan.fields = headers.merge(plan.fields)
    auth.apply(lend(plan, user, url.unescape(password)), plan.fields, {})
  end
  if rawget(plan, "fields") then
    plan.headers, problem = headers.text(plan.fields)
    if problem then return nil, problem, "bad_header" end
  end
  return true
end

--- Points a plan at a parsed URL.
function request.aim(plan, u)
  plan.u, plan.url = u, u.text
  plan.origin, plan.host, plan.port, plan.tls = u.origin, u.host, u.port, u.scheme == "https"
end

-- A request's own header fields: `weak` under the client's, `strong` and `given` over them.
local function fields_of(plan, content_type, given)
  local streamed = body.is_streamed(plan)
  if given then headers.check(given, "request", streamed) end
  if given and streamed then given = body.headers(plan, given, "request") end
  local own = { given = given }
  if plan.parts then
    own.strong = { ["Content-Type"] = false } -- libcurl's, as it makes the boundary
  elseif content_type ~= "" then
    own[plan.body_file and "weak" or "strong"] = { ["Content-Type"] = content_type }
  elseif not given then
    return nil
  end
  return own
end

--- The plan for one request.
---@param defaults table from request.defaults
---@param given string|table a URL, or the request table of the contract
---@param idn function|nil see url.parse
---@return table|nil plan, table? err kind "invalid"
function request.plan(defaults, given, idn)
  local plan = setmetatable({}, defaults)
  if type(given) == "string" or secret.is(given) then
    local ok, problem, fault = set_target(plan, given, nil, nil, idn)
    if ok then return plan end
    request.release(plan)
    return nil, errors.new("invalid", problem, { url = secret.reveal(given), fault = fault })
  elseif type(given) ~= "table" then
    options.fail("fetch", "expects a URL or a request table, got " .. type(given))
  end

  local opts = options.check("request", given, REQUEST)
  if not opts.url and not plan.base_url then options.fail("request", '"url" is missing') end
  if opts.save and opts.stream then
    options.fail("request", "save and stream exclude each other")
  end
  apply(plan, opts, "request")
  local content_type, err = body.set(plan, opts, "request")
  if not content_type then return nil, err end
  local method = opts.method
  if method then
    if not method:find "^[!#$%%&'*+.^_`|~%w-]+$" then
      return nil, errors.new("invalid", string.format("%q is no HTTP method", method),
        { url = secret.reveal(opts.url), fault = "bad_header" })
    end
    plan.method = method:upper()
    if plan.method == "CONNECT" then
      options.fail("request", '"method" CONNECT is for proxies, which the option "proxy" names')
    end
  elseif body.of(plan) then
    plan.method = "POST"
  end
  local own = fields_of(plan, content_type, opts.headers)
  local ok, problem, fault = set_target(plan, opts.url or "", opts.query, own, idn)
  if not ok then
    request.release(plan)
    return nil, errors.new("invalid", problem, { url = secret.reveal(opts.url), fault = fault })
  end
  if opts.save or opts.stream or body.is_streamed(plan) then
    -- It has no size and no end we could know: it may go on as long as bytes come, or go.
    plan.idle_timeout = plan.idle_timeout or 30
    local limit = rawget(plan, "timeout")
    -- The answer to a small request can begin in time.
    if opts.stream and not limit and not body.is_streamed(plan) then
      plan.head_timeout = plan.timeout
    end
    plan.timeout = limit or 0
  end
  plan.min_speed = opts.min_speed
  plan.weight, plan.priority = opts.weight, opts.priority
  if opts.save then
    plan.save = opts.save
    plan.max_body = opts.max_body or 0
    -- What sends a byte now and then is not idle, and would never end.
    plan.min_speed = opts.min_speed or SLOWEST_SAVE
  elseif opts.stream then
    plan.stream = true
    plan.max_body = opts.max_body or 0
  end
  return plan
end

-- A copy of a plan with what is left of the attempt's time, after a hop that took so long.
local function copy_after(plan, took, message)
  local after = setmetatable({}, getmetatable(plan))
  for name, value in pairs(plan) do after[name] = value end
  for _, name in ipairs { "timeout", "head_timeout" } do
    local limit = plan[name] or 0
    if limit > 0 then
      after[name] = limit - took
      if after[name] <= 0 then
        return nil, errors.new("timeout", message,
          { url = plan.url, method = plan.method, fault = "timeout" })
      end
    end
  end
  return after
end

--- The plan of a hop that is sent again, as its credentials were refused.
---@param plan table
---@param took number seconds the hop took
---@return table|nil plan, table? err
function request.again(plan, took)
  local after, err = copy_after(plan, took, "the attempt's time was over when its credentials "
    .. "were refused")
  if after then after.refusals = (plan.refusals or 0) + 1 end
  return after, err
end

--- The plan of the hop a redirect leads to. What is left of the attempt's time is its time.
---@param plan table of the hop before
---@param following table from redirect.next
---@param took number seconds that hop took
---@return table|nil plan, table? err
function request.follow(plan, following, took)
  local after, problem = copy_after(plan, took, "the redirects took longer than an attempt may")
  if not after then return nil, problem end
  if not following.same_origin then after.anonymous, after.foreign = true, true end
  request.aim(after, assert(url.parse(following.url)))
  after.method, after.fields = following.method, following.headers
  if not following.keeps_body then body.drop(after) end
  after.headers, problem = headers.text(following.headers)
  if not after.headers then
    return nil, errors.new("invalid", problem, { url = plan.url, fault = "bad_header" })
  end
  return after
end

return request
