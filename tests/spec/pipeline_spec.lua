local errors = require "orchestrator.errors"
local fake_host = require "fake_host"
local json = require "orchestrator.json"
local limits = require "orchestrator.limits"
local options = require "orchestrator.options"
local pipeline = require "orchestrator.pipeline"
local scheduler = require "orchestrator.scheduler"
local secret = require "orchestrator.secret"
local source = require "orchestrator.source"

local WALL = 1700000000

-- A world of its own: a scheduler whose clock jumps, a client that answers by `answers(url,
-- request)` → {status=, body=, after=, err=}, a directory, and what was logged.
local function world(answers, pool)
  local now = 0
  local host = fake_host.with_files {
    now = function() return now end, poll = function(s) now = now + (s or 0) end,
  }
  local sched = scheduler.new(host)
  local w = { sched = sched, logged = {}, most = 0, begun = {} }

  local client = {}
  pool = pool or {}
  pool.total = pool.total or 50
  client.pool = limits.pool(sched, pool)

  function client:fetch(request, observer)
    local url = request
    if type(request) == "table" then
      if request.bad then error('request: unknown option "bad"', 0) end
      url = request.url
    end
    local answer = answers(url, request)
    local origin = url:match "^%a+://[^/]+" or "http://a:80"
    w.begun[#w.begun + 1] = url
    if answer.sleep then sched:sleep(answer.sleep) end
    self.pool:acquire(origin)
    w.most = math.max(w.most, self.pool:state().active)
    local ok, raised = pcall(sched.sleep, sched, answer.after or 0.01)
    self.pool:release(origin)
    if not ok then error(raised, 0) end
    local err = answer.err and errors.new(answer.err, answer.message or "it broke",
      { url = url, status = answer.status, attempts = 3, response = answer.response })
    observer:attempt { url = url, origin = origin, status = answer.status or 200,
      elapsed = answer.after or 0.01, size = 10, wire = 10, attempt = 1, retried = false }
    observer:request { url = url, origin = origin, ok = not err, from_cache = false,
      attempts = err and 3 or 1, elapsed = answer.after or 0.01, kind = err and err.kind }
    if err then return nil, err end
    return {
      status = answer.status or 200, url = url, attempts = 1, ignored = answer.ignored,
      body = answer.body,
      json = function(res) return json.decode(res.body) end,
    }
  end
  w.client = client

  function w.log(level)
    return function(_, message, fields)
      w.logged[#w.logged + 1] = { level = level, message = message, fields = fields }
    end
  end

  function w.pipeline(opts)
    return pipeline.new({ name = "job", client_of = function() return client end }, opts)
  end

  function w.ctx(more)
    local ctx = {
      sched = sched, host = host, run_id = "run-1", wall = function() return WALL end,
      log = { debug = w.log "debug", info = w.log "info", warn = w.log "warn" },
    }
    for k, v in pairs(more or {}) do ctx[k] = v end
    return ctx
  end

  -- Runs a pipeline; `meanwhile(main)` is called inside the main task before it starts.
  function w.run(opts, ctx, meanwhile)
    local p = w.pipeline(opts)
    ctx = w.ctx(ctx)
    local result
    local root = sched:run(function()
      if meanwhile then meanwhile(sched:current()) end
      result = p:run(ctx)
    end)
    if not result then error(root.err.message .. tostring(root.err.traceback), 0) end
    w.elapsed = now
    return result
  end
  return w
end

local function object(url)
  return { body = json.encode { url = url } }
end

local function urls(n)
  local list = {}
  for i = 1, n do list[i] = "http://a:80/" .. i end
  return list
end

describe("pipeline", function()
  local dir

  local function read(name)
    local file = io.open(dir .. "/" .. name)
    if not file then return nil end
    local text = file:read "*a"
    file:close()
    return text
  end

  local function write(name, text)
    local file = assert(io.open(dir .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end

  local function lines(name)
    local out = {}
    for line in (read(name) or ""):gmatch "[^\n]+" do out[#out + 1] = assert(json.decode(line)) end
    return out
  end

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
  end)

  after_each(function()
    os.execute("rm -rf " .. dir)
  end)

  it("writes one record an item", function()
    local w = world(object)
    local result = w.run { name = "job", source = urls(3), sink = dir .. "/out/x.jsonl" }
    assert.equal(0, result.code)
    assert.is_true(result.ok)
    assert.equal('{"url":"http://a:80/1"}\n{"url":"http://a:80/2"}\n{"url":"http://a:80/3"}\n',
      read "out/x.jsonl")
    assert.equal(3, result.summary.requests.ok)
    assert.same({ ["in"] = 3, out = 3, filtered = 0, dead = 0 },
      result.summary.records)
    assert.is_nil(read "out/x.jsonl.part")
  end)

  describe("options", function()
    local function refused(pattern, change)
      local opts = { source = { "http://a" } }
      for k, v in pairs(change) do opts[k] = v end
      local ok, message = pcall(world(object).pipeline, opts)
      assert.is_false(ok)
      assert.matches(pattern, message)
    end

    it("are checked", function()
      refused('unknown option "sinks" %(did you mean "sink"%?%)', { sinks = "x.jsonl" })
      refused('"sink" "x.txt" has no known format', { sink = "x.txt" })
      refused('"sink" names "./x.jsonl" twice', { sink = { "x.jsonl", "./x.jsonl" } })
      refused('"sink" must name at least one', { sink = {} })
      refused('"dead_letters" "job.dead.jsonl" is one of the sinks of the records',
        { sink = "job.dead.jsonl" })
      refused('"mode" must be "replace", "append" or "merge"', { mode = "add" })
      refused('"ordered" must be true or false', { ordered = 1 })
      refused('"on_error" must be "dead_letter", "skip", "fail" or a function',
        { on_error = "retry" })
      refused('"name" must be a plain name', { name = "../etc/x" })
      refused('"name" must be a plain name', { name = ("x"):rep(101) })
      refused('"name" must be a plain name', { name = "a\0b" })
      refused('"request" must be a function', { request = "http://a" })
      refused('"filter" must be a function', { filter = {} })
      refused('"map" must be a function', { map = {} })
      refused('"client" must be a table', { client = 1 })
      refused('"data_selector" must be names joined by dots', { data_selector = "a..b" })
      refused('"thresholds" no metric "recrods" %(did you mean "records"%?%)',
        { thresholds = { recrods = "count>0" } })
      refused('"source" must be a list', { source = "urls.txt" })
    end)

    it("include a source", function()
      local ok, message = pcall(world(object).pipeline, {})
      assert.is_false(ok)
      assert.matches('"source" is missing', message)
    end)

    it("make something that can be told from other tables", function()
      assert.is_true(pipeline.is(world(object).pipeline { source = {} }))
      assert.is_false(pipeline.is {})
      assert.is_false(pipeline.is(nil))
    end)
  end)

  describe("items", function()
    it("are requests, or made into one", function()
      local seen = {}
      local w = world(function(url, request)
        seen[url] = request
        return object(url)
      end)
      local result = w.run {
        source = { { url = "http://a/1", method = "HEAD" }, "http://a/2" },
        sink = dir .. "/x.jsonl",
      }
      assert.equal(2, result.summary.records.out)
      assert.equal("HEAD", seen["http://a/1"].method)

      result = w.run {
        source = { 7 }, sink = dir .. "/x.jsonl",
        request = function(item) return { url = "http://a/" .. item } end,
      }
      assert.equal(1, result.summary.records.out)
      assert.is_table(seen["http://a/7"])
    end)

    it("may be secret URLs", function()
      local w = world(object)
      function w.client.fetch(_, item)
        return { body = '"' .. #secret.reveal(item) .. '"', url = "x", attempts = 1,
          json = function(self) return json.decode(self.body) end }
      end
      w.run { source = { secret.value "http://a/t0ken" }, sink = dir .. "/x.jsonl" }
      assert.equal('"14"\n', read "x.jsonl")
    end)

    it("that are none fail alone", function()
      local w = world(object)
      local result = w.run {
        source = { 7, { id = 1 }, { url = "http://a", bad = 1 }, "http://a/4" },
        sink = dir .. "/x.jsonl",
      }
      assert.equal(0, result.code)
      assert.same({ invalid = 3 }, result.summary.errors)
      local dead = lines "job.dead.jsonl"
      assert.matches("the item is a number without a url", dead[1].error.message)
      assert.matches("the item is a table without a url", dead[2].error.message)
      assert.matches('the item is no request: .*unknown option "bad"', dead[3].error.message)
      assert.equal("item 2", dead[2].position)
      assert.same({ id = 1 }, dead[2].item)
    end)

    it("fail with what the request function returns as err", function()
      local w = world(object)
      w.run {
        source = { 1, 2, 3 }, sink = dir .. "/x.jsonl",
        request = function(item)
          if item == 1 then return nil, errors.new("validation", "no id") end
          if item == 3 then return "http://a/3" end
        end,
      }
      local dead = lines "job.dead.jsonl"
      assert.same({ kind = "validation", message = "no id" }, dead[1].error)
      assert.equal("the request function returned nothing for this item", dead[2].error.message)
      assert.equal(1, #lines "x.jsonl")
    end)

    it("come from a file, and bad lines fail with their place", function()
      write("urls.txt", "http://a/1\r\n\nhttp://a/\255\nhttp://a/4")
      local w = world(object)
      local result = w.run { source = source.lines(dir .. "/urls.txt"), sink = dir .. "/x.jsonl" }
      assert.equal(0, result.code)
      assert.equal(2, #lines "x.jsonl")
      local dead = lines "job.dead.jsonl"
      assert.equal(dir .. "/urls.txt:3", dead[1].position)
      assert.equal("http://a/\239\191\189", dead[1].item)
    end)

    it("come from an iterator that waits", function()
      local w = world(function() return { body = "1", after = 1 } end)
      local page = 0
      local inside = 0
      local result = w.run {
        source = function()
          inside = inside + 1
          assert.equal(1, inside)
          w.sched:sleep(0.1)
          inside = inside - 1
          page = page + 1
          if page <= 5 then return "http://a/" .. page end
        end,
        sink = dir .. "/x.jsonl",
      }
      assert.equal(0, result.code)
      assert.equal(5, #lines "x.jsonl")
      assert.is_near(1.5, w.elapsed, 0.001) -- it goes on while items are fetched
    end)

    it("are waited for together", function()
      local w = world(function() return { body = "{}", after = 1 } end, { total = 10 })
      w.run { source = urls(40), sink = dir .. "/x.jsonl" }
      assert.equal(10, w.most)
      assert.is_near(4, w.elapsed, 0.001)
    end)

    it("that sleep before their retry hold nobody up", function()
      local w = world(function(url)
        return { body = "{}", after = 1, sleep = not url:find "/5$" and 60 or nil }
      end, { total = 1 })
      w.run { source = urls(6), sink = dir .. "/x.jsonl" }
      -- All six sleep at once, but for one, and then go one after another.
      assert.is_near(65, w.elapsed, 0.001)
    end)

    it("of a host that is full hold no other host up", function()
      local w = world(function() return { body = "{}", after = 1 } end, { total = 4, per_host = 1 })
      local list = {}
      for i = 1, 30 do list[i] = "http://a:80/" .. i end
      for i = 31, 33 do list[i] = "http://h" .. i .. ":80/" end
      w.run { source = list, sink = dir .. "/x.jsonl" }
      assert.equal(4, w.most)
      assert.is_near(30, w.elapsed, 0.001)
    end)

    it("are not opened before there is a slot for them", function()
      local taken, most = 0, 0
      local w
      w = world(function()
        most = math.max(most, taken - w.client.pool:state().active)
        return { body = "{}" }
      end, { total = 3 })
      w.run {
        source = function()
          if taken == 100 then return nil end
          taken = taken + 1
          return "http://a/" .. taken
        end,
        map = function() taken = taken - 0 end,
        sink = dir .. "/x.jsonl",
      }
      assert.equal(3, w.most)
      assert.equal(100, #w.begun)
    end)

    it("are opened within a window", function()
      local open, most = 0, 0
      local w = world(function()
        open = open + 1
        most = math.max(most, open)
        return { body = "1", sleep = 10 }
      end, { total = 2 })
      w.run {
        source = urls(3000), sink = dir .. "/x.jsonl",
        map = function(record)
          open = open - 1
          return record
        end,
      }
      assert.equal(1000, most)
      assert.equal(3000, #lines "x.jsonl")
    end)

    it("start as the rate limit allows", function()
      for _, latency in ipairs { 0.01, 5 } do
        local next_at = 0
        local limiter = {
          wait = function(_, now) return math.max(0, next_at - now) end,
          take = function(_, now) next_at = math.max(next_at, now) + 1 end,
        }
        local w = world(function() return { body = "1", after = latency } end,
          { total = 10, limiter = limiter })
        w.run { source = urls(20), sink = dir .. "/x.jsonl" }
        assert.is_near(19 + latency, w.elapsed, 0.001)
        assert.equal(20, #lines "x.jsonl")
      end
    end)

    it("are fetched one at a time where there never is a slot to spare", function()
      local w = world(function() return { body = "1", after = 1 } end)
      function w.client.pool.spare() return 0 end
      w.run { source = urls(3), sink = dir .. "/x.jsonl" }
      assert.equal(1, w.most)
      assert.equal(3, #lines "x.jsonl")
    end)

    it("of two pipelines share the slots of one client", function()
      local w = world(function() return { body = "1", after = 1 } end, { total = 10 })
      local function run(i)
        w.pipeline({
          name = "p" .. i, source = urls(i * 30), sink = dir .. "/" .. i .. ".jsonl",
        }):run(w.ctx())
      end
      w.sched:run(function()
        w.sched:spawn(run, 1)
        w.sched:spawn(run, 2)
      end)
      assert.equal(30, #lines "1.jsonl")
      assert.equal(60, #lines "2.jsonl")
      assert.equal(10, w.most)
      assert.is_near(9, w.sched:now(), 0.001)
      assert.is_nil(w.client.pool.listeners)
    end)

    it("of two pipelines that share a client are counted each for its own", function()
      local w = world(function(url)
        return { body = "1", after = 1, err = url:find "^http://bad" and "http" or nil }
      end)
      local results = {}
      local function run(name, list)
        results[name] = w.pipeline({
          name = name, source = list, sink = dir .. "/" .. name .. ".jsonl",
          thresholds = { http_req_failed = "rate<0.1" },
        }):run(w.ctx())
      end
      w.sched:run(function()
        w.sched:spawn(run, "good", urls(30))
        w.sched:spawn(run, "bad", { "http://bad:80/1", "http://a:80/2" })
      end)
      assert.same({ 30, 30 },
        { results.good.summary.requests.total, results.good.summary.attempts })
      assert.same({ 2, 1 },
        { results.bad.summary.requests.total, results.bad.summary.requests.failed })
      assert.same({ 0, 3 }, { results.good.code, results.bad.code })
    end)
  end)

  describe("records", function()
    local function run(body, opts)
      local w = world(function() return { body = body } end)
      opts = opts or {}
      opts.source = opts.source or { "http://a/1" }
      opts.sink = dir .. "/x.jsonl"
      local result = w.run(opts)
      return read "x.jsonl", result, w
    end

    it("are the elements of a list, or the object", function()
      assert.equal('1\n{"a":[]}\nnull\n', (run '[1, {"a": []}, null]'))
      assert.equal('{"a":{}}\n', (run '{"a": {}}'))
      assert.equal("", (run "[]"))
      assert.equal("{}\n", (run "{}"))
      assert.equal("", (run "null"))
      assert.equal("12345678901234567\n",
        (run('[12345678901234567]')):gsub('"', ""))
    end)

    it("are found by the selector", function()
      assert.equal('1\n2\n', (run('{"data": {"items": [1, 2]}}', { data_selector = "data.items" })))
    end)

    it("that a selector does not find are told of once", function()
      local text, result, w = run('{"dta": []}', { data_selector = "data", source = urls(3) })
      assert.equal("", text)
      assert.equal(0, result.code)
      assert.equal(1, #w.logged)
      assert.equal("warn", w.logged[1].level)
      assert.equal('data_selector "data" finds nothing in a response', w.logged[1].message)
    end)

    it("are none in an empty or an ignored response", function()
      local text, result = run ""
      assert.equal("", text)
      assert.equal(1, result.summary.requests.ok)
      local w = world(function() return { body = "no json", ignored = true } end)
      assert.equal(0, w.run({ source = urls(1), sink = dir .. "/y.jsonl" }).code)
      assert.equal("", read "y.jsonl")
    end)

    it("of what is no JSON fail the item", function()
      local text, result = run("<html>", { source = { "http://a/1" } })
      assert.is_nil(text)
      assert.equal(1, result.code)
      assert.same({ decode = 1 }, result.summary.errors)
      local dead = lines "job.dead.jsonl"
      assert.equal("<html>", dead[1].excerpt)
      assert.equal("http://a/1", dead[1].url)
      assert.equal(1, dead[1].attempts)
    end)

    it("are filtered, with the response and the item at hand", function()
      local text, result = run('[{"n": 1}, {"n": 2}, {"n": 3}]', {
        filter = function(record, res, item)
          assert.equal(200, res.status)
          assert.equal("http://a/1", item)
          return record.n ~= 2
        end,
      })
      assert.equal('{"n":1}\n{"n":3}\n', text)
      assert.same({ ["in"] = 3, out = 2, filtered = 1, dead = 0 },
        result.summary.records)
    end)

    it("are mapped to one, several or none", function()
      local text, result = run("[1, 2, 3, 4, 5]", {
        map = function(n, res, item)
          assert.equal(200, res.status)
          assert.equal("http://a/1", item)
          if n == 1 then return { one = 1 } end
          if n == 2 then return { { two = 1 }, nil, { two = 3 } } end
          if n == 3 then return nil end
          if n == 4 then return {} end
          return { { 5 } }
        end,
      })
      assert.equal('{"one":1}\n{"two":1}\n{"two":3}\n[5]\n', text)
      assert.equal(4, result.summary.records.out)
    end)

    it("that filter or map refuse by nil, err fail the item", function()
      for _, name in ipairs { "filter", "map" } do
        local text, result = run("[1, 2]", {
          [name] = function(n)
            if n == 2 then return nil, errors.new("validation", "not two") end
            return n
          end,
        })
        assert.is_nil(text)
        assert.same({ validation = 1 }, result.summary.errors)
        text = run("[1, 2]", { [name] = function() return nil, "a text" end })
        assert.is_nil(text)
        assert.equal("a text", lines("job.dead.jsonl")[1].error.message)
      end
    end)

    it("that cannot be written fail their item, and none of it is written", function()
      local w = world(function() return { body = "[1, 2]" } end)
      local result = w.run {
        source = urls(2), sink = dir .. "/x.jsonl",
        map = function(n, _, item)
          if item:find "1$" and n == 2 then return { a = { b = print } } end
          return { n = n }
        end,
      }
      assert.equal('{"n":1}\n{"n":2}\n', read "x.jsonl")
      assert.same({ invalid = 1 }, result.summary.errors)
      assert.matches("%.a%.b: a value of type function", lines("job.dead.jsonl")[1].error.message)
    end)
  end)

  describe("a callback that raises", function()
    for _, name in ipairs { "request", "filter", "map", "on_error" } do
      it("fails the run: " .. name, function()
        write("x.jsonl", "old\n")
        local w = world(function(url)
          if name == "on_error" then return { err = "http" } end
          return object(url)
        end)
        local result = w.run {
          source = urls(3), sink = dir .. "/x.jsonl", on_error = "skip",
          [name] = function() error "a bug" end,
        }
        assert.equal(1, result.code)
        assert.equal("script", result.failure.kind)
        assert.matches("^%S*pipeline_spec.lua:%d+: a bug", result.failure.message)
        assert.matches("pipeline_spec.lua:%d+", result.failure.traceback)
        assert.matches("error +script: .*a bug", result.text)
        assert.equal("old\n", read "x.jsonl")
        assert.is_nil(read "x.jsonl.part")
      end)
    end

    it("keeps the error it raises", function()
      local result = world(object).run {
        source = urls(1), sink = dir .. "/x.jsonl",
        map = function() error(errors.new("decode", "inner")) end,
      }
      assert.equal("decode", result.failure.kind)
      assert.equal(1, result.code)
    end)

    it("covers what callbacks may not return", function()
      local function failure(opts)
        opts.source, opts.sink = urls(1), dir .. "/x.jsonl"
        local answers = opts.on_error and function() return { err = "http" } end or object
        return world(answers).run(opts).failure.message
      end
      assert.matches("map returned false: return nil",
        failure { map = function() return false end })
      assert.matches("map returned false: return nil",
        failure { map = function() return { 1, false } end })
      for _, key in ipairs { "name", 0, 1.5 } do
        assert.matches("a list and also has [" .. key .. "]",
          failure { map = function() return { 1, [key] = 2 } end }, 1, true)
      end
      assert.matches('on_error must return "fail", "skip" or "dead_letter", got nil',
        failure { on_error = function() end })
    end)

    it("is told by the pipeline's name where no line is known", function()
      local function failure(request)
        local w = world(object)
        -- As options.check does, which sees no line of the script below it.
        function w.client.fetch(_, given)
          return options.check("request", given, { url = { type = "string" } })
        end
        return w.run({
          name = "hourly", source = { 1 }, sink = dir .. "/x.jsonl", request = request,
        }).failure
      end
      local err = failure(function() return { url = "http://a/", retires = 3 } end)
      assert.equal("script", err.kind)
      assert.equal('pipeline "hourly": request: unknown option "retires"', err.message)
      assert.equal('pipeline "hourly": plain', failure(function() error("plain", 0) end).message)
      assert.matches("^%S*pipeline_spec.lua:%d+: placed$",
        failure(function() error "placed" end).message)
    end)

    it("fails the run in a source too", function()
      local result = world(object).run {
        source = function() error "no more" end, sink = dir .. "/x.jsonl",
      }
      assert.equal(1, result.code)
      assert.matches("no more", result.failure.message)
      result = world(object).run {
        source = function() return nil, errors.new("http", "page 2 is gone") end,
        sink = dir .. "/x.jsonl",
      }
      assert.equal(1, result.code)
      assert.equal("page 2 is gone", result.failure.message)
    end)
  end)

  describe("an item that fails", function()
    local function one_bad(url)
      if url:find "/2$" then
        return { err = "http", status = 404, message = "status 404",
          response = { body = "no \255 such thing" } }
      end
      return object(url)
    end

    it("is a dead letter", function()
      local w = world(one_bad)
      local result = w.run { source = urls(3), sink = dir .. "/x.jsonl" }
      assert.equal(0, result.code)
      assert.equal(2, #lines "x.jsonl")
      assert.equal(1, result.summary.records.dead)
      assert.same({ {
        item = "http://a:80/2", position = "item 2", url = "http://a:80/2",
        request = { method = "GET", url = "http://a:80/2" },
        error = { kind = "http", message = "status 404", status = 404 }, attempts = 3,
        excerpt = "no \239\191\189 such thing", at = "2023-11-14T22:13:20Z",
        pipeline = "job", run_id = "run-1",
      } }, lines "job.dead.jsonl")
    end)

    it("is kept beside the first file", function()
      local function path(targets)
        return world(object).pipeline({ source = {}, sink = targets }).dead.target
      end
      assert.equal("out/job.dead.jsonl", path { "-", "out/x.jsonl", "elsewhere/y.jsonl" })
      assert.equal("job.dead.jsonl", path "x.jsonl")
      assert.equal("job.dead.jsonl", path "-")
    end)

    it("is skipped, or fails the run, as on_error says", function()
      local w = world(one_bad)
      local result = w.run { source = urls(3), sink = dir .. "/x.jsonl", on_error = "skip" }
      assert.equal(0, result.code)
      assert.equal(0, result.summary.records.dead)
      assert.is_nil(read "job.dead.jsonl")

      write("x.jsonl", "old\n")
      result = w.run { source = urls(3), sink = dir .. "/x.jsonl", on_error = "fail" }
      assert.equal(1, result.code)
      assert.equal("item 2", result.failure.position)
      assert.same({ http = 1 }, result.summary.errors)
      assert.matches("error +http: status 404 %(item 2, http://a:80/2, after 3 attempts%)",
        result.text)
      assert.equal("old\n", read "x.jsonl")

      local asked
      result = w.run {
        source = urls(3), sink = dir .. "/x.jsonl",
        on_error = function(err, item)
          asked = { err.kind, item }
          w.sched:sleep(1)
          return "skip"
        end,
      }
      assert.same({ "http", "http://a:80/2" }, asked)
      assert.equal(0, result.code)
      assert.equal(1, result.summary.errors.http)
    end)

    it("is counted also when it fails the run, whatever is still ahead of it", function()
      for _, ordered in ipairs { false, true } do
        local w = world(function(url)
          local answer = one_bad(url)
          if not answer.err then answer.after = 5 end
          return answer
        end)
        local result = w.run {
          source = urls(3), sink = dir .. "/x.jsonl", on_error = "fail", ordered = ordered,
        }
        assert.equal(1, result.code)
        assert.is_near(0.01, w.elapsed, 0.001)
        assert.same({ http = 1 }, result.summary.errors)
        assert.equal(1, result.summary.requests.failed)
        assert.equal("http: status 404 (item 2, http://a:80/2, after 3 attempts)",
          result.summary.failure)
        assert.matches("failed after .*, fetched 0 of 3 begun", result.text)
        assert.matches("failed +1 http 404 at http://a:80: status 404 %(item 2 /2%)", result.text)
      end
    end)

    it("fails the run when there is no other", function()
      write("x.jsonl", "old\n")
      local result = world(one_bad).run { source = { "http://a/2" }, sink = dir .. "/x.jsonl" }
      assert.equal(1, result.code)
      assert.equal("every item failed", result.summary.failure)
      assert.equal("old\n", read "x.jsonl")
      assert.equal(1, #lines "job.dead.jsonl")
    end)

    it("fails the run when every record is bad, and says how they are", function()
      write("x.jsonl", "old\n")
      local function run(validate)
        return world(function() return { body = '{"id":1}' } end).run {
          source = { "http://a/1", "http://a/2" }, sink = dir .. "/x.jsonl",
          validate = validate }
      end
      local result = run(function() return false, "it is odd" end)
      assert.equal(1, result.code)
      assert.equal("every record is bad", result.summary.failure)
      assert.equal("old\n", read "x.jsonl")
      assert.equal(2, #lines "job.dead.jsonl")
      assert.matches("\n  bad +2 validation at http://a:?8?0?: it is odd %(item 1", result.text)
      local seen = 0
      result = run(function()
        seen = seen + 1
        return seen == 1, "it is odd"
      end)
      assert.equal(0, result.code)
      assert.matches("\n  bad +1 validation", result.text)
    end)

    it("stays a dead letter when the run fails", function()
      local w = world(function(url)
        local answer = one_bad(url)
        if url:find "/3$" then answer.after = 5 end
        return answer
      end)
      local result = w.run {
        source = urls(3), sink = dir .. "/x.jsonl",
        map = function(record)
          if record.url:find "/3$" then error "a bug" end
          return record
        end,
      }
      assert.equal(1, result.code)
      assert.is_nil(read "x.jsonl")
      assert.equal(1, #lines "job.dead.jsonl")
    end)

    it("is kept besides older ones only in append mode", function()
      local w = world(one_bad)
      for _ = 1, 2 do w.run { source = urls(3), sink = dir .. "/x.jsonl", mode = "append" } end
      assert.equal(2, #lines "job.dead.jsonl")
      assert.equal(4, #lines "x.jsonl")
      w.run { source = urls(3), sink = dir .. "/x.jsonl" }
      assert.equal(1, #lines "job.dead.jsonl")
      world(object).run { source = urls(3), sink = dir .. "/x.jsonl" }
      assert.is_nil(read "job.dead.jsonl")
    end)

    it("shows no secret", function()
      secret.value "s3cr3t-t0ken"
      local filler = ("x"):rep(2044)
      local ring = {}
      ring.a, ring.b = ring, ring
      local w = world(function()
        return { err = "http", message = "s3cr3t-t0ken refused",
          response = { body = filler .. "s3cr3t-t0ken" } }
      end)
      w.run {
        source = { { url = "http://user:pw@a/?key=s3cr3t-t0ken", headers = { ["X-Key"] =
          secret.value "s3cr3t-t0ken" }, [5] = { print, 0 / 0, "\255", ring } } },
        sink = dir .. "/x.jsonl",
      }
      local dead = lines("job.dead.jsonl")[1]
      assert.equal(filler .. "***", dead.excerpt)
      assert.equal("*** refused", dead.error.message)
      assert.equal("***", dead.item.headers["X-Key"])
      assert.not_matches("s3cr3t", read "job.dead.jsonl")
      assert.not_matches("pw", read "job.dead.jsonl")
      assert.equal("\239\191\189", dead.item["5"][3])
    end)
  end)

  describe("ordered", function()
    it("keeps the order of the source", function()
      local w = world(function(url)
        local n = tonumber(url:match "%d+$")
        if n == 4 then return { err = "http", after = 3 } end
        return { body = tostring(n), after = n % 7 }
      end, { total = 5 })
      w.run { source = urls(30), sink = dir .. "/x.jsonl", ordered = true }
      local want = {}
      for i = 1, 30 do if i ~= 4 then want[#want + 1] = tostring(i) end end
      assert.equal(table.concat(want, "\n") .. "\n", read "x.jsonl")
    end)

    it("bounds what waits for its turn", function()
      local w = world(function(url)
        return { body = "1", after = url:find "/1$" and 1000 or 0.01 }
      end, { total = 10 })
      local most = 0
      local count = 0
      w.run({
        source = function()
          count = count + 1
          if count <= 2500 then return "http://a/" .. count end
        end,
        map = function(n)
          if w.sched:now() < 999 then most = math.max(most, count) end
          return n
        end,
        sink = dir .. "/x.jsonl", ordered = true,
      })
      assert.equal(1000, most)
      assert.equal(2500, #lines "x.jsonl")
    end)

    it("bounds its bytes, too", function()
      local large = '"' .. ("x"):rep(4e6) .. '"'
      local w = world(function(url)
        return { body = large, after = url:find "/1$" and 1000 or 0.01 }
      end, { total = 4 })
      local most, count = 0, 0
      w.run({
        source = function()
          count = count + 1
          if count <= 40 then return "http://a/" .. count end
        end,
        map = function(text)
          if w.sched:now() < 999 then most = count end
          return text
        end,
        sink = dir .. "/x.jsonl", ordered = true,
      })
      assert.equal(40, #lines "x.jsonl")
      assert.is_true(most >= 17 and most <= 21, most)
    end)
  end)

  describe("outputs", function()
    it("get all records each", function()
      local result = world(object).run {
        source = urls(5), sink = { dir .. "/a.jsonl", dir .. "/b/c.jsonl" },
      }
      assert.equal(read "a.jsonl", read "b/c.jsonl")
      assert.equal(5, #lines "a.jsonl")
      assert.equal(5, result.summary.records.out)
      assert.matches("output +5 records to %S+/a.jsonl\n +5 records to %S+/b/c.jsonl", result.text)
    end)

    it("that cannot be opened fail the run before it starts", function()
      local w = world(object)
      write("file", "")
      local result = w.run {
        source = urls(5), sink = { dir .. "/a.jsonl", dir .. "/file/x.jsonl" },
      }
      assert.equal(1, result.code)
      assert.matches("cannot write .*/file/x.jsonl: Not a directory", result.text)
      assert.equal(0, #w.begun)
      assert.is_nil(read "a.jsonl")
      assert.is_nil(read "a.jsonl.part")
    end)

    it("that are in use are refused", function()
      local first = world(object)
      local second
      first.run({
        source = urls(1), sink = dir .. "/x.jsonl",
        map = function(record)
          second = world(object).run { source = urls(1), sink = dir .. "/x.jsonl" }
          return record
        end,
      })
      assert.equal(1, second.code)
      assert.matches("another run is writing it", second.text)
      assert.equal(1, #lines "x.jsonl")
    end)

    it("that cannot be written fail the run at once", function()
      -- A sink that takes one window, as a nearly full disk would.
      local sink = require "orchestrator.sink"
      local open = sink.open
      finally(function() sink.open = open end)
      sink.open = function(...)
        local s = open(...)
        local accept = s.commit
        function s:commit(window)
          if self.count > 0 then
            return nil, errors.new("invalid", "cannot write x: No space left on device")
          end
          return accept(self, window)
        end
        return s
      end
      local w = world(object, { total = 2 })
      write("x.jsonl", "old\n")
      local result = w.run { source = urls(1000), sink = dir .. "/x.jsonl" }
      assert.equal(1, result.code)
      local out = result.summary.records.out
      assert.is_true(out > 0 and out <= 50)
      assert.is_true(#w.begun < 150)
      assert.matches("error +cannot write x: No space left on device", result.text)
      assert.matches("fetched " .. out .. " of %d+ begun", result.text)
      assert.equal("old\n", read "x.jsonl")
      assert.is_nil(read "x.jsonl.part")

      result = w.run { source = urls(1000), sink = dir .. "/y.jsonl", mode = "append" }
      assert.equal(1, result.code)
      assert.equal(result.summary.records.out, #lines "y.jsonl")
    end)

    it("tell of a torn line", function()
      write("x.jsonl", '{"a":1}\n{"a":')
      local w = world(object)
      w.run { source = urls(1), sink = dir .. "/x.jsonl", mode = "append" }
      assert.equal(2, #lines "x.jsonl")
      assert.equal("warn", w.logged[1].level)
      assert.matches("cut a torn last line of 5 bytes", w.logged[1].message)
    end)

    it("are readable while the run goes on", function()
      local seen
      local w
      w = world(function(url)
        if url:find "/2$" then seen = function() return read "x.jsonl" end end
        return { body = "1", after = url:find "/2$" and 5 or 0.1 }
      end)
      local middle
      w.sched:at(3, function() middle = seen() end)
      w.run { source = urls(2), sink = dir .. "/x.jsonl", mode = "append" }
      assert.equal("1\n", middle)
    end)
  end)

  describe("thresholds", function()
    it("are judged when the run is complete, and its output kept", function()
      local result = world(object).run {
        source = urls(3), sink = dir .. "/x.jsonl",
        thresholds = { records = { "count>5", "count>0" }, http_req_failed = "rate<0.5" },
      }
      assert.equal(3, result.code)
      assert.is_false(result.ok)
      assert.equal(3, #lines "x.jsonl")
      assert.same({
        records = { ["count>5"] = { ok = false, value = 3 },
          ["count>0"] = { ok = true, value = 3 } },
        http_req_failed = { ["rate<0.5"] = { ok = true, value = 0 } },
      }, result.summary.thresholds)
      assert.matches("missed +threshold records count>5: it is 3", result.text)
    end)
  end)

  it("takes a large sample of one response", function()
    local numbers = {}
    for i = 1, 30000 do numbers[i] = i end
    local body = json.encode(numbers)
    local sink = require "orchestrator.sink"
    local open = sink.open
    finally(function() sink.open = open end)
    sink.open = function(_, ctx) return open(sink.check(dir .. "/stdout.jsonl"), ctx) end
    local r = world(function() return { body = body } end)
      .run({ source = urls(3), sink = "-" }, { sample = 29999 })
    assert.is_nil(r.failure)
    assert.equal(29999, #lines "stdout.jsonl")
  end)

  describe("sample", function()
    local function sampled(opts, n)
      -- Only what goes through "-" is seen: stdout itself is not ours in a spec.
      local sink = require "orchestrator.sink"
      local open = sink.open
      local opened = {}
      sink.open = function(spec, ctx)
        opened[#opened + 1] = spec.target
        return open(sink.check(dir .. "/stdout.jsonl"), ctx)
      end
      local w = world(function(url)
        if url:find "/1$" then return { err = "http" } end
        return { body = "[1, 2, 3]" }
      end, { total = 2 })
      opts.source, opts.sink = urls(1000), { dir .. "/x.jsonl", dir .. "/y.jsonl" }
      local ok, result = pcall(w.run, opts, { sample = n })
      sink.open = open
      assert.is_true(ok, result)
      return result, w, opened
    end

    it("stops after so many records, and writes no file", function()
      for _, ordered in ipairs { false, true } do
        write("job.dead.jsonl", "old\n")
        local result, w, opened = sampled({ ordered = ordered }, 5)
        assert.equal(0, result.code)
        assert.is_false(result.interrupted)
        assert.same({ "-" }, opened)
        assert.equal("1\n2\n3\n1\n2\n", read "stdout.jsonl")
        assert.equal(5, result.summary.records.out)
        assert.is_true(#w.begun < 8)
        assert.is_nil(read "x.jsonl")
        assert.equal("old\n", read "job.dead.jsonl")
      end
    end)

    it("is not held to thresholds", function()
      assert.equal(0, sampled({ thresholds = { records = "count>100" } }, 5).code)
    end)
  end)

  describe("interrupted", function()
    local function interrupted(opts, after)
      local w = world(function(url)
        if url:find "/1$" then return { err = "http", after = 0.1 } end
        return { body = "1", after = url:find "/[23]$" and 0.2 or 10 }
      end)
      opts.source = opts.source or urls(10)
      opts.sink = dir .. "/x.jsonl"
      local interrupts = {}
      local result = w.run(opts, { interrupts = interrupts }, function()
        w.sched:at(after or 1, function() interrupts[1]() end)
      end)
      return result, w
    end

    it("leaves a replaced file as it was", function()
      write("x.jsonl", "old\n")
      local result, w = interrupted {}
      assert.is_true(result.interrupted)
      assert.is_false(result.ok)
      assert.is_true(result.summary.interrupted)
      assert.equal("old\n", read "x.jsonl")
      assert.is_nil(read "x.jsonl.part")
      assert.equal(1, #lines "job.dead.jsonl")
      assert.matches("interrupted after 1.00 s, fetched 2 of 10 begun", result.text)
      assert.matches("x.jsonl is as it was", result.text)
      assert.is_near(1, w.elapsed, 0.001)
      assert.equal(0, w.client.pool:state().active)
      assert.equal(0, w.sched.live)
    end)

    it("keeps what was appended", function()
      write("x.jsonl", "0\n")
      interrupted { mode = "append" }
      assert.equal("0\n1\n1\n", read "x.jsonl")
    end)

    it("ends its items before itself, however it is told", function()
      local w = world(function(url) return { body = "1", after = url:find "/1$" and 1 or 10 } end)
      local live
      local main
      local p = w.pipeline {
        source = urls(10), sink = dir .. "/x.jsonl",
        -- The main task is just about to run: a slot has become free.
        map = function(record)
          main:cancel()
          return record
        end,
      }
      w.sched:run(function()
        main = w.sched:current()
        assert.is_true(p:run(w.ctx()).interrupted)
      end)
      assert.equal(1, w.sched:now())
      assert.equal(0, w.sched.live)
      assert.equal(0, w.client.pool:state().active)

      w = world(function() return { body = "1", after = 10 } end)
      p = w.pipeline { source = urls(10), sink = dir .. "/x.jsonl" }
      w.sched:run(function()
        local me = w.sched:current()
        w.sched:at(1, function() me:cancel() end)
        p:run(w.ctx())
        live = w.sched.live
      end)
      assert.equal(1, live)

      w = world(object)
      local result = w.run({ source = urls(10), sink = dir .. "/x.jsonl" }, {},
        function(task) task:cancel() end)
      assert.is_true(result.interrupted)
      assert.equal(0, #w.begun)
    end)

    it("ends a source that waits", function()
      local w
      w = world(object)
      local result = w.run({
        source = function() w.sched:sleep(100) end, sink = dir .. "/x.jsonl",
      }, {}, function(main) w.sched:at(1, function() main:cancel() end) end)
      assert.is_true(result.interrupted)
      assert.is_near(1, w.elapsed, 0.001)
    end)

    it("leaves nothing running, whenever it comes", function()
      for moment = 0, 30 do
        local result, w = interrupted({}, moment / 100)
        assert.is_true(result.interrupted)
        assert.equal(0, w.sched.live)
        assert.equal(0, w.client.pool:state().active)
        assert.is_nil(read "x.jsonl.part")
      end
    end)
  end)

  it("tells its progress", function()
    local seen, finished = {}, nil
    local w = world(function() return { body = "{}", after = 1 } end, { total = 2 })
    w.run({ source = urls(6), sink = dir .. "/x.jsonl" }, {
      progress = {
        every = 0.5,
        update = function(_, meter)
          seen[#seen + 1] = { meter.done, meter.total, meter.exact, meter.in_flight, meter.failed }
        end,
        finish = function(_, meter) finished = meter.name end,
      },
    })
    assert.same({ 0, 6, true, 0, 0 }, seen[1])
    assert.same({ 2, 6, true, 2, 0 }, seen[4])
    assert.equal("job", finished)
  end)

  it("holds a long source in constant memory", function()
    local w = world(function() return { body = '{"a": 1}', after = 0.001 } end)
    local count, top = 0, 0
    collectgarbage()
    local before = collectgarbage "count"
    local result = w.run {
      source = function()
        count = count + 1
        if count % 5000 == 0 then
          collectgarbage()
          top = math.max(top, collectgarbage "count" - before)
        end
        if count <= 30000 then return "http://a:80/x" end
      end,
      sink = dir .. "/x.jsonl",
    }
    assert.equal(30000, result.summary.records.out)
    assert.is_true(top < 2000, "kB: " .. top)
  end)

  it("lets the world in while items need no network", function()
    local w = world(object)
    local fired
    local result = w.run({
      source = function()
        if not fired then return 7 end
      end,
      sink = dir .. "/x.jsonl", on_error = "skip",
    }, {}, function() w.sched:at(0, function() fired = true end) end)
    assert.equal(1, result.code)
    assert.is_true(fired)
  end)
end)
