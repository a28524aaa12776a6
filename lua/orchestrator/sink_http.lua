-- The sink http(s)://…: records are sent to a server. A window's records go as JSON Lines, or as a
-- JSON array, so many in a request.
--
-- What was sent cannot be taken back, and a server may have taken a request whose answer was lost.
-- So the run notes down a window before it is sent (`freeze`), a run that was killed sends just the
-- same again (`thaw`), and each request has an Idempotency-Key, the same however often it is sent
-- (draft-ietf-httpapi-idempotency-key-header): a server that heeds it has every record once.

local crypto = require "orchestrator.core.crypto"
local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local json = require "orchestrator.json"
local options = require "orchestrator.options"
local presentable = require "orchestrator.presentable"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local sink_http = {}

local PART_BYTES = 4e6 -- of a request, unless one record is larger
local EXCERPT = 200 -- bytes of an answer that is no good

local FORMATS = {
  jsonl = { type = "application/x-ndjson", before = "", between = "\n", after = "\n" },
  json = { type = "application/json", before = "[", between = ",", after = "]" },
}

local LINES = {} -- the batches of all of them are lists of JSON texts

---@class orc.HttpSink : orc.Sink
local Sink = {}
Sink.__index = Sink

-- Options ------------------------------------------------------------------------------------

local OPTIONS = {
  target = { type = "secret" },
  format = { type = { { one_of = { "jsonl", "json" } } }, default = "jsonl" },
  batch = { type = "integer", min = 1, max = 1e6, default = 500 },
  headers = { type = "table" },
  client = { type = "table" },
}

-- Fields of ours that the script's headers may replace, by its names, or may not.
local function headers_of(given)
  headers.check(given or {}, "sink")
  local fields, typed = {}, false
  for name, value in pairs(given or {}) do
    if name:lower() == "idempotency-key" then
      options.fail("sink", '"headers" must not have an Idempotency-Key: the sink makes them')
    end
    typed = typed or name:lower() == "content-type"
    fields[name] = value
  end
  return fields, typed
end

-- What messages call it: a URL that is a secret is known by its host.
local function shown(target)
  if not secret.is(target) then return url.mask(target) end
  return secret.reveal(target):match "^%a+://" .. "***"
end

--- Reads what is given as a sink. Raises when its options are misused.
---@param given string|orc.Secret|table {target, format=, batch=, headers=, client=}
---@return table|nil spec, string|nil problem
function sink_http.check(given)
  local named = {}
  if type(given) == "table" and not secret.is(given) then
    for name, value in pairs(given) do
      if name == 1 then name = "target" end
      named[name] = value
    end
  else
    named.target = given
  end
  local opts = options.check("sink", named, OPTIONS)
  local text = secret.reveal(opts.target)
  if type(text) ~= "string" or not text:find "^https?://[^/]" then
    return nil, "must be a URL such as https://a.example/records"
  end
  local fields, typed = headers_of(opts.headers)
  if not typed then fields["Content-Type"] = FORMATS[opts.format].type end
  return {
    kind = "http", target = shown(opts.target), url = opts.target, format = opts.format,
    batch = opts.batch, headers = fields, client = opts.client,
  }
end

--- Gives it its client: one of its own, since the pipeline's has credentials for other servers.
--- Raises when the client's options are misused.
---@param spec table from check
---@param env table {client_of: fun(options_or_client): orc.Client}
function sink_http.bind(spec, env)
  spec.bound = spec.bound or env.client_of(spec.client or {})
end

-- Opening ------------------------------------------------------------------------------------

-- How the keys of its requests begin: unlike those of all other sinks.
local function prefix_of(spec, ctx)
  local place = assert(crypto.hash("sha256", secret.reveal(spec.url)))
  return string.format("%s/%s/%s", ctx.run_id, url.escape(ctx.name),
    crypto.hex(place:sub(1, 4)))
end

---@param spec table
---@param ctx table
---@return orc.HttpSink|nil, orc.Error? err
function sink_http.open(spec, ctx)
  sink_http.bind(spec, ctx.env)
  return setmetatable({
    target = spec.target, url = spec.url, count = ctx.resume and ctx.resume.count or 0,
    format = LINES, goes_back = false, carries = false,
    client = spec.bound, headers = spec.headers,
    -- How its windows are sent; the one that was noted down has those of before.
    terms = { style = spec.format, batch = spec.batch, prefix = prefix_of(spec, ctx) },
  }, Sink)
end

-- Windows ------------------------------------------------------------------------------------

---@return string[]|nil batch, integer|orc.Error size
function Sink.encode(_, records)
  local lines, size = {}, 0
  for i = 1, #records do
    local text, err = json.encode(records[i])
    if not text then return nil, err end
    lines[i] = text
    size = size + #text
  end
  return lines, size
end

local function request_of(self, style, lines)
  local form = FORMATS[style]
  local fields = {}
  for name, value in pairs(self.headers) do fields[name] = value end
  return {
    url = self.url, method = "POST", headers = fields,
    body = form.before .. table.concat(lines, form.between) .. form.after,
    follow = 0, -- elsewhere neither the key nor, mostly, the records would arrive
  }
end

local function failure(self, err, count, number)
  local body = err.response and err.response.body
  local excerpt = body and body ~= "" and presentable.of(body, EXCERPT)
  return errors.new("invalid", string.format("%s did not take %d record%s of window %d: %s%s; see "
    .. "to that, then go on with --resume", self.target, count, count == 1 and "" or "s", number,
    err.kind == "http" and err.message or err.kind .. ": " .. err.message,
    excerpt and " (" .. excerpt:gsub("%s+", " ") .. ")" or ""))
end

-- Its key tells the bytes, too: a journal that was put back from a copy gives a window's number to
-- other records, which a server must not take for those it has.
local function send(self, terms, lines, number, part)
  local request = request_of(self, terms.style, lines)
  local bytes = crypto.hex(assert(crypto.hash("sha256", request.body))):sub(1, 8)
  request.headers["Idempotency-Key"] = string.format('"%s/%d/%d/%s"', terms.prefix, number, part,
    bytes)
  local res, err = self.client:fetch(request)
  if res then return true end
  return nil, failure(self, err, #lines, number)
end

--- Sends a window and waits until the server has taken it.
---@param window table {number, batches, records}
---@return table|nil position, orc.Error? err
function Sink:commit(window)
  local batches = window.batches
  local terms = batches[1] and batches[1].terms or self.terms
  local lines, n, bytes, part = {}, 0, 0, 1
  for _, batch in ipairs(batches) do
    for i = 1, #batch do
      local size = #batch[i]
      if n > 0 and (n == terms.batch or bytes + size > PART_BYTES) then
        local ok, err = send(self, terms, lines, window.number, part)
        if not ok then return nil, err end
        lines, n, bytes, part = {}, 0, 0, part + 1
      end
      n = n + 1
      lines[n], bytes = batch[i], bytes + size
    end
  end
  if n > 0 then
    local ok, err = send(self, terms, lines, window.number, part)
    if not ok then return nil, err end
  end
  self.count = self.count + window.records
  return { count = self.count }
end

--- The batches as a text, with the terms they are sent on: on other ones they would be cut into
--- other requests of the same keys, or the same ones would have other keys.
---@return string
function Sink:freeze(batches)
  local terms = self.terms
  local texts = { string.format("%s %d %s", terms.style, terms.batch, terms.prefix) }
  for _, batch in ipairs(batches) do
    for i = 1, #batch do texts[#texts + 1] = batch[i] end
  end
  return table.concat(texts, "\n")
end

---@return table batches
function Sink.thaw(_, text)
  local style, most, prefix, rest = text:match "^(%a+) (%d+) (%C+)(.*)$"
  local lines = { terms = { style = style, batch = tonumber(most), prefix = prefix } }
  for line in rest:gmatch "[^\n]+" do lines[#lines + 1] = line end
  return { lines }
end

--- There is nothing left to do: what was committed has been taken.
function Sink.finish()
  return true
end

function Sink.close()
  return true
end

return sink_http
