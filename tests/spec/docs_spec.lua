-- The documentation and the program say the same: examples compile, and every option, function,
-- error kind, metric and summary field is in lua/README.md and lua/meta.

local api = require "orchestrator.api"
local client = require "orchestrator.client"
local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local options = require "orchestrator.options"
local summary = require "orchestrator.summary"
local thresholds = require "orchestrator.thresholds"

local DOCUMENTS = { "README.md", "lua/README.md", "src/README.md", "tests/README.md" }

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- {language, text, line} of every fenced block.
local function blocks_of(text)
  local blocks, open = {}, nil
  local number = 0
  for line in text:gmatch "([^\n]*)\n" do
    number = number + 1
    local language = line:match "^```(%a*)$"
    if language and not open then
      open = { language = language, line = number, lines = {} }
    elseif language then
      open.text = table.concat(open.lines, "\n")
      blocks[#blocks + 1], open = open, nil
    elseif open then
      open.lines[#open.lines + 1] = line
    end
  end
  assert(not open, "a block is never closed")
  return blocks
end

-- All that is set as code in a document, by word.
local function code_words(path)
  local words = {}
  local function add(code)
    for word in code:gmatch "[%a_][%w_]*" do words[word] = true end
  end
  local text = read(path)
  for _, block in ipairs(blocks_of(text)) do add(block.text) end
  for code in text:gsub("\n```.-\n```", ""):gmatch "`([^`\n]+)`" do add(code) end
  return words
end

-- The classes of lua/meta: name → {field → true}, with those of the classes they extend.
local function meta_classes(text)
  local classes, current = {}, nil
  for line in text:gmatch "[^\n]+" do
    local name, parent = line:match "^%-%-%-@class ([%w_.]+):? ?([%w_.]*)"
    local field = line:match "^%-%-%-@field ([%w_]+)"
    if name then
      current = name
      classes[name] = {}
      for inherited in pairs(classes[parent] or {}) do classes[name][inherited] = true end
    elseif field then
      classes[current][field] = true
    end
  end
  return classes
end

-- The API of a program on a fake host, inside its main task.
local function with_api(fn)
  local w = fake_host.world()
  local env = w.env
  env.name, env.params = "docs", {}
  function env.client_of(given) return client.new(env, given) end
  w.run(function() fn(api.new(env)) end)
end

-- Every schema that options are checked against: place → {option → true}.
local function schemas()
  local seen = {}
  local check = options.check
  finally(function() options.check = check end)
  options.check = function(where, given, schema) -- luacheck: ignore 122
    seen[where] = seen[where] or {}
    for name in pairs(schema) do seen[where][name] = true end
    return check(where, given, schema)
  end
  with_api(function(orc)
    orc.client { concurrency = {}, auth = { type = "bearer", token = "t" } }
    orc.client { proxy = "p.test:1", circuit_breaker = true }
    orc.client { tls = {}, allow_hosts = {}, hedge = { after = 1 }, cache = {} }
    assert(orc.fetch { url = "http://a.test/cached", cache = {} })
    assert(orc.fetch { url = "not a url", hedge = { after = 1 }, fallback = function()
      return {}
    end })
    orc.client { auth = { type = "basic", username = "u", password = "" } }
    orc.client { auth = { type = "api_key", name = "n", value = "v" } }
    orc.client { auth = { type = "digest", username = "u", password = "" } }
    orc.client { auth = { type = "netrc", file = "/dev/null" } }
    orc.client { auth = { type = "oauth2", token_url = "http://a.test/", client_id = "c",
      client_secret = "s" } }
    orc.client { auth = { type = "sigv4", region = "r", service = "s", access_key_id = "a",
      secret_access_key = "s" } }
    assert(orc.fetch { url = "http://a.test/", timeout = {}, retry = {} })
    local res = assert(orc.fetch {
      url = "http://a.test/", multipart = { { name = "a", value = "b" } },
    })
    for _, name in ipairs { "lines", "jsonl", "csv" } do
      res[name](res)
      orc.source[name] "README.md"
    end
    orc.pipeline { source = {}, schema = { columns = { id = "integer" } } }
    orc.pipeline { source = {}, sink = "http://sink.test/" }
    orc.pipeline { source = {}, sink = { { "x.csv", csv = {} } } }
    orc.map({}, print)
    orc.gather {}
    orc.group(function() end)
  end)
  options.check = check
  -- Rates are read, not checked: they may be a text as well.
  seen.rate = { limit = true, per = true, burst = true, window = true, name = true }
  for name in pairs(seen.rate) do
    local _, message = options.rate { limit = 1, per = 1, [name] = {} }
    assert.not_matches("unknown option", message)
  end
  return seen
end

-- Which classes of lua/meta describe them.
local CLASSES = {
  ["auth"] = { "orc.BearerAuth", "orc.BasicAuth", "orc.ApiKeyAuth", "orc.DigestAuth",
    "orc.Oauth2Auth", "orc.SigV4Auth", "orc.NetrcAuth" },
  ["client"] = { "orc.ClientOptions" },
  ["client.cache"] = { "orc.CacheOptions" },
  ["client.circuit_breaker"] = { "orc.CircuitBreakerOptions" },
  ["client.concurrency"] = { "orc.ConcurrencyOptions" },
  ["client.hedge"] = { "orc.HedgeOptions" },
  ["client.proxy"] = { "orc.ProxyOptions" },
  ["client.retry"] = { "orc.RetryOptions" }, -- the token client's of oauth2
  ["client.tls"] = { "orc.TlsOptions" },
  ["fallback"] = { "orc.FallbackAnswer" },
  ["gather"] = { "orc.MapOptions" },
  ["group"] = { "orc.GroupOptions" },
  ["map"] = { "orc.MapOptions" },
  ["pipeline"] = { "orc.PipelineOptions" },
  ["rate"] = { "orc.RateOptions" },
  ["request"] = { "orc.Request" },
  ["request.cache"] = { "orc.RequestCacheOptions" },
  ["request.hedge"] = { "orc.HedgeOptions" },
  ["request.multipart[1]"] = { "orc.Part" },
  ["request.retry"] = { "orc.RetryOptions" },
  ["request.timeout"] = { "orc.TimeoutOptions" },
  ["res:csv"] = { "orc.CsvOptions" },
  ["res:jsonl"] = { "orc.LineOptions" },
  ["res:lines"] = { "orc.LineOptions" },
  ["retry"] = { "orc.RetryOptions" },
  ["schema"] = { "orc.SchemaOptions" },
  ["schema.columns.id"] = { "orc.ColumnOptions" },
  ["sink"] = { "orc.HttpSinkOptions", "orc.FileSinkOptions" },
  ["sink.csv"] = { "orc.CsvSinkOptions" },
  ["source.csv"] = { "orc.CsvOptions" },
  ["source.jsonl"] = { "orc.LineOptions" },
  ["source.lines"] = { "orc.LineOptions" },
}

describe("the documentation", function()
  local manual = "lua/README.md"
  local words = code_words(manual)
  local meta_text = read "lua/meta/orchestrator.lua"
  local classes = meta_classes(meta_text)

  it("has examples that compile", function()
    local count = 0
    for _, path in ipairs(DOCUMENTS) do
      for _, block in ipairs(blocks_of(read(path))) do
        if block.language == "lua" then
          count = count + 1
          assert(loadstring(block.text, string.format("@%s, below line %d", path, block.line)))
        end
      end
    end
    assert.is_true(count > 15)
  end)

  it("has types that compile", function()
    assert(loadstring(meta_text))
  end)

  it("links to what there is", function()
    for _, path in ipairs(DOCUMENTS) do
      local text = read(path)
      local headings = {}
      for heading in text:gmatch "\n#+ ([^\n]+)" do
        headings[heading:lower():gsub("[^%w%s_-]", ""):gsub("%s", "-")] = true
      end
      for target in text:gsub("\n```.-\n```", ""):gmatch "%]%(([^)]+)%)" do
        local anchor = target:match "^#(.*)"
        local file = (path:match "^.*/" or "") .. target
        local there = headings[anchor] or target:find "^https?://" or io.open(file, "rb")
        assert(there, path .. " links to " .. target)
        if type(there) == "userdata" then there:close() end
      end
    end
  end)

  it("names every option", function()
    local seen = schemas()
    for _, where in ipairs(sorted_keys(seen)) do
      local known = {}
      assert(CLASSES[where], "no class is known for the options of " .. where)
      for _, class in ipairs(CLASSES[where]) do
        for field in pairs(assert(classes[class], class)) do known[field] = true end
      end
      assert.same(sorted_keys(seen[where]), sorted_keys(known), where)
      for option in pairs(seen[where]) do
        assert(words[option], manual .. " does not name " .. where .. "." .. option)
      end
    end
  end)

  it("names every function", function()
    local function functions_of(t, prefix, found)
      for name, value in pairs(t) do
        if type(value) == "function" then found[prefix .. name] = true end
      end
    end
    with_api(function(orc)
      local there = {}
      functions_of(orc, "orc.", there)
      functions_of(orc.json, "orc.json.", there)
      functions_of(orc.secret, "orc.secret.", there)
      for _, name in ipairs { "lines", "jsonl", "csv" } do
        assert.is_function(orc.source[name])
        there["orc.source." .. name] = true
      end
      local typed = {}
      for name in meta_text:gmatch "\nfunction (orc[%w_.]+)%(" do typed[name] = true end
      assert.same(sorted_keys(there), sorted_keys(typed))
      for name in pairs(there) do
        assert(words[name:match "[%w_]+$"], manual .. " does not name " .. name)
      end
    end)
  end)

  it("names every error kind", function()
    local typed = meta_text:match "@alias orc.ErrorKind\n(.-)\n\n"
    for _, kind in ipairs(errors.kinds) do
      assert(read(manual):find("\n| `" .. kind .. "` |", 1, true), kind)
      assert(typed:find('---| "' .. kind .. '" #', 1, true), kind)
    end
  end)

  it("names every metric of a threshold", function()
    local _, message = thresholds.parse { no_metric_of_that_name = "x" }
    local metrics = message:match "%(there are (.-)%)$"
    local typed = meta_text:match "@alias orc.Metric\n(.-)\n\n"
    for metric in metrics:gmatch "[%w_]+" do
      assert(words[metric], metric)
      assert(typed:find('---| "' .. metric .. '" #', 1, true), metric)
    end
  end)

  it("names every field of the summary", function()
    local run = { elapsed = 1, verdicts = {}, interrupted = true }
    local counts = summary.new { pipeline = "p", run_id = "r", started_at = 0 }
    counts:attempt { origin = "http://a:80", elapsed = 1, status = 200, retried = false }
    counts:request { origin = "http://a:80", url = "http://a/", elapsed = 1, ok = false,
      attempts = 1, status = 500, kind = "http" }
    local written = counts:table(run)
    for _, part in ipairs { written, written.requests, written.records, written.latency_ms,
      written.hosts["http://a:80"], written.slowest[1] } do
      for field in pairs(part) do
        assert(words[field], manual .. " does not name " .. field)
      end
    end
  end)

  it("names every option of the command line", function()
    local argparse = require "argparse"
    finally(function() package.loaded["argparse"] = argparse end)
    local parser
    package.loaded["argparse"] = function(...)
      parser = argparse(...)
      return parser
    end
    package.loaded["orchestrator.cli"] = nil
    assert(require("orchestrator.cli").parse({ "x.lua" }, "1.0"))
    local help = parser:get_help()
    local count = 0
    for option in help:match("\nOptions:(.-)\nexit status"):gmatch "%f[%S]%-%-?[%a][%a-]*" do
      count = count + 1
      local pattern = "`" .. option:gsub("%-", "%%-") .. "[ `]"
      assert(read(manual):find(pattern), manual .. " does not name " .. option)
    end
    assert.is_true(count >= 10)
  end)
end)
