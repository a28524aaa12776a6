local fake_host = require "fake_host"
local hedge = require "orchestrator.hedge"

local SLOW, QUICK = { after = 5 }, { after = 0.1 }

describe("a hedged fetch", function()
  local w, api, seen

  -- A world in which the n-th transfer gives the n-th answer, and those after the last the last.
  local function world(answers, opts)
    w = fake_host.world {
      serve = function(spec, n)
        local answer = type(answers) == "function" and answers(spec, n)
          or answers[math.min(n, #answers)]
        local copy = { message = "why" }
        for k, v in pairs(answer) do copy[k] = v end
        return copy
      end,
    }
    opts = opts or {}
    if opts.hedge == nil then opts.hedge = { after = "1s" } end
    if opts.retry == nil then opts.retry = { jitter = false } end
    api = w.client(opts)
    seen = { attempt = {}, request = {}, fell_back = {} }
  end

  local observer = {}
  for _, name in ipairs { "attempt", "request", "fell_back" } do
    observer[name] = function(_, info) table.insert(seen[name], info) end
  end

  local function fetch(given)
    return w.run(function()
      local res, err = api:fetch(given or "https://a/", observer)
      assert.equal(0, api.pool:state().active)
      assert.equal(0, w.host.in_flight)
      assert.equal(1, w.sched.live)
      return res, err
    end)
  end

  local function once(given, answers, opts)
    world(answers, opts)
    return fetch(given)
  end

  local function rounded(seconds)
    return seconds and math.floor(seconds * 1000 + 0.5) / 1000
  end

  -- When transfers started, and when they were cancelled (false: they were not).
  local function ledger()
    local starts, cancels = {}, {}
    for i, entry in ipairs(w.host.ledger) do
      starts[i] = rounded(entry.at - 1000)
      cancels[i] = entry.cancelled and rounded(entry.cancelled - 1000) or false
    end
    return starts, cancels
  end

  local function starts() return (ledger()) end

  it("is like any other when the answer is quick", function()
    local res = once(nil, { { after = 0.9, body = "x" } })
    assert.same({ 200, "x", 1 }, { res.status, res.body, res.attempts })
    assert.is_nil(res.hedged)
    assert.same({ { 0 }, { false } }, { ledger() })
    assert.equal(0.9, rounded(w.at()))
  end)

  it("sends a second attempt when the first is slow, and cancels the slower", function()
    local res = once(nil, { { after = 5, body = "first" }, { after = 0.1, body = "second" } })
    assert.same({ "second", true, 1, 0.1 }, { res.body, res.hedged, res.attempts,
      rounded(res.timing.total) })
    assert.same({ { 0, 1 }, { 1.1, false } }, { ledger() })
    assert.equal(1.1, rounded(w.at()))
  end)

  it("takes the first one's answer when that comes first", function()
    local res = once(nil, { { after = 1.5, body = "first" }, { after = 5 } })
    assert.equal("first", res.body)
    assert.is_nil(res.hedged)
    assert.same({ { 0, 1 }, { false, 1.5 } }, { ledger() })
  end)

  it("sends as many as it may", function()
    once(nil, { SLOW, SLOW, SLOW, QUICK }, { hedge = { after = 1, max = 2, budget = 9 } })
    assert.same({ { 0, 1, 2 }, { false, 5, 5 } }, { ledger() })
    once(nil, { SLOW }, { hedge = { after = 1, max = 1, budget = 9 } })
    assert.same({ 0, 1 }, starts())
    once(nil, { SLOW, SLOW, { after = 0.5 } }, { hedge = { after = 1, max = 9, budget = 9 } })
    assert.same({ { 0, 1, 2 }, { 2.5, 2.5, false } }, { ledger() })
  end)

  it("is asked for by the client or the request", function()
    once({ url = "https://a/", hedge = { after = 2 } }, { SLOW }, { hedge = false })
    assert.same({ 0, 2 }, starts())
    once({ url = "https://a/", hedge = { after = 2 } }, { SLOW })
    assert.same({ 0, 2 }, starts())
    once({ url = "https://a/", hedge = { max = 2 } }, { SLOW },
      { hedge = { after = 1, budget = 5 } })
    assert.same({ 0, 1, 2 }, starts())
    once({ url = "https://a/", hedge = false }, { SLOW })
    assert.same({ 0 }, starts())
  end)

  it("is for what may be asked for twice, and is in memory", function()
    for _, method in ipairs { "GET", "HEAD", "OPTIONS", "PUT", "DELETE" } do
      once({ url = "https://a/", method = method }, { SLOW })
      assert.equal(2, #w.host.ledger, method)
    end
    for _, method in ipairs { "POST", "PATCH", "REPORT" } do
      once({ url = "https://a/", method = method, headers = { ["Idempotency-Key"] = "k" },
        retry = { methods = { method } } }, { SLOW })
      assert.equal(1, #w.host.ledger, method)
    end
    once({ url = "https://a/", method = "PUT", json = { 1 } }, { SLOW })
    assert.equal(w.host.ledger[1].spec.body, w.host.ledger[2].spec.body)
    for _, more in ipairs { { stream = true }, { save = "x" }, { method = "PUT", file = "x" },
      { method = "PUT", body = function() end },
      { method = "PUT", multipart = { { name = "a", value = "b" } } } } do
      more.url, more.hedge = "https://a/", { after = 1 }
      local plan = require("orchestrator.request").plan(api.defaults, more)
      assert.is_false(hedge.applies(plan))
    end
  end)

  it("counts from the start of the first attempt, not of its wait", function()
    world({ { after = 3 }, { after = 0.5 } }, { concurrency = 1 })
    w.run(w.orc.gather, {
      function() return api:fetch { url = "https://a/1", hedge = false } end,
      function() return api:fetch "https://a/2" end,
    })
    assert.same({ 0, 3 }, starts())
  end)

  it("hedges every attempt anew", function()
    local res = once(nil, { { status = 503, after = 0.5 }, SLOW, QUICK })
    assert.same({ 2, true }, { res.attempts, res.hedged })
    assert.same({ { 0, 1, 2 }, { false, 2.1, false } }, { ledger() })
  end)

  describe("pays", function()
    it("a slot: it waits for one, and gives up when the first answers", function()
      local res = once(nil, { { after = 3 } }, { concurrency = 1 })
      assert.is_nil(res.hedged)
      assert.same({ { 0 }, { false } }, { ledger() })
      assert.same({ 0, 0 }, { api.pool:state().active, api.pool:state().waiting })
      assert.equal(0, api.hedges.budget.recent_extras) -- what was not sent costs nothing
    end)

    it("a slot, in its turn", function()
      world(function(spec) return spec.url:find "slow" and SLOW or { after = 1 } end,
        { concurrency = 2 })
      w.run(w.orc.gather, {
        function() return api:fetch "https://a/slow" end,
        function() return api:fetch "https://a/1" end,
        function() return api:fetch "https://a/2" end,
        function() return api:fetch "https://a/3" end,
        function() return api:fetch "https://a/4" end,
      })
      local order = {}
      for i, entry in ipairs(w.host.ledger) do order[i] = entry.url:match "[^/]*$" end
      assert.equal("slow 1 2 3 4 slow", table.concat(order, " "))
      assert.same({ 0, 0, 1, 2, 3, 4 }, starts())
    end)

    it("the rate limit", function()
      once(nil, { SLOW, QUICK }, { rate_limit = "1/4s" })
      assert.same({ { 0, 4 }, { 4.1, false } }, { ledger() })
      once(nil, { SLOW, QUICK }, { rate_limit = "1/1m" })
      assert.same({ { 0 }, { false } }, { ledger() })
    end)

    it("the rate limit of each hop", function()
      local hop = { status = 302, head = "Location: /y\r\n", after = 0.4 }
      once(nil, { hop, SLOW, hop, QUICK }, { rate_limit = { limit = 1, per = 1, burst = 4 } })
      assert.same({ { 0, 0.4, 1, 1.4 }, { false, 1.5, false, false } }, { ledger() })
    end)
  end)

  describe("keeps to its budget:", function()
    -- How many of n requests that come at once are hedged.
    local function hedges(n, budget)
      world({ SLOW }, { concurrency = 1000, hedge = { after = 1, budget = budget } })
      w.run(function()
        local list = {}
        for i = 1, n do list[i] = function() return api:fetch("https://a/" .. i) end end
        w.orc.gather(list)
      end)
      return #w.host.ledger - n
    end

    it("a share of the requests, and one in any case", function()
      assert.equal(10, hedges(200))
      assert.equal(1, hedges(19))
      assert.equal(2, hedges(40))
      assert.equal(50, hedges(100, 0.5))
      assert.equal(1, hedges(100, 0))
    end)

    it("of the last minute", function()
      world({ SLOW }, { hedge = { after = 1, budget = 0 } })
      w.run(function()
        for _ = 1, 15 do api:fetch "https://a/" end -- five seconds each
      end)
      assert.equal(15 + 2, #w.host.ledger)
    end)

    it("which belongs to the client", function()
      local ok, message = pcall(once, { url = "https://a/", hedge = { budget = 1 } }, { QUICK })
      assert.is_false(ok)
      assert.matches('request.hedge: "budget" is shared by the requests of a client', message)
    end)
  end)

  describe("leaves a host alone that says 429", function()
    it("for a minute, and that host alone", function()
      world(function(spec, n)
        if n == 1 then return { status = 429, after = 0 } end
        return spec.url:find "slow" and SLOW or QUICK
      end, { hedge = { after = 1, budget = 10 }, retry = false, server_limits = false })
      w.run(function()
        api:fetch "https://a/"
        api:fetch "https://a/slow"
        assert.equal(2, #w.host.ledger)
        api:fetch "https://b/slow"
        assert.equal(4, #w.host.ledger)
        w.orc.sleep(50)
        api:fetch "https://a/slow"
        assert.equal(6, #w.host.ledger)
      end)
    end)

    it("be it to a hedge, or to what is not hedged", function()
      for _, first in ipairs { { url = "https://a/", method = "POST" }, { url = "https://a/" } } do
        local post = first.method
        world(function(_, n)
          if post and n == 2 then return { status = 429, after = 0 } end
          if not post and n == 3 then return { status = 429, after = 0.1 } end
          return n == 1 and QUICK or SLOW
        end, { hedge = { after = 1, budget = 10 }, retry = false, server_limits = false })
        w.run(function()
          api:fetch "https://a/"
          api:fetch(first)
          local before = #w.host.ledger
          api:fetch "https://a/"
          assert.equal(before + 1, #w.host.ledger)
        end)
      end
    end)
  end)

  describe("takes no answer that is not good:", function()
    it("a hedge's failure never counts", function()
      for _, bad in ipairs { { status = 404, after = 0.1 }, { status = 503, after = 0.1 },
        { error = "tls", after = 0.1 }, { fault = "reset", after = 0.1 } } do
        local res = once(nil, { { after = 3, body = "first" }, bad })
        assert.same({ "first", 1 }, { res.body, res.attempts })
        assert.same({ { 0, 1 }, { false, false } }, { ledger() })
      end
    end)

    it("after a failure that may pass it waits for the hedge", function()
      for _, bad in ipairs { { status = 503, after = 2 }, { fault = "reset", after = 2 } } do
        local res = once(nil, { bad, { after = 2, body = "second" } })
        assert.same({ "second", true, 1 }, { res.body, res.hedged, res.attempts })
        assert.equal(3, rounded(w.at()))
      end
    end)

    it("after one that will not pass it does not", function()
      local _, err = once(nil, { { status = 404, after = 2 }, SLOW })
      assert.same({ "http", 404, 1 }, { err.kind, err.status, err.attempts })
      assert.same({ { 0, 1 }, { false, 2 } }, { ledger() })
      _, err = once(nil, { { error = "tls", after = 2 }, SLOW })
      assert.equal("tls", err.kind)
      _, err = once({ url = "https://a/", response_action = function() return "fail" end },
        { { after = 2 }, SLOW })
      assert.equal("response_action failed a 200", err.message)
    end)

    it("before it is slow a failure is a matter for retries", function()
      local res = once(nil, { { status = 503, after = 0.5 }, QUICK })
      assert.equal(2, res.attempts)
      assert.same({ 0, 1 }, starts())
    end)

    it("when both fail, the first one's failure counts", function()
      local res = once(nil, { { status = 503, after = 2 }, { fault = "reset", after = 2 }, QUICK })
      assert.equal(2, res.attempts)
      assert.same({ 0, 1, 3.5 }, starts())
      local _, err = once(nil, { { status = 503, after = 2 }, { status = 500, after = 0.1 } },
        { retry = false })
      assert.same({ 503, 1 }, { err.status, err.attempts })
    end)

    it("judged by the script's functions", function()
      local judged = {}
      local function judge(res)
        judged[#judged + 1] = res.body
        w.orc.sleep(0.25)
        if res.body == "busy" then return "retry" end
        if res.body == "none" then return "ignore" end
      end
      local res = once({ url = "https://a/", response_action = judge },
        { { after = 2, body = "busy" }, { after = 2, body = "none" } })
      assert.same({ "none", true, true, 1 }, { res.body, res.hedged, res.ignored, res.attempts })
      assert.same({ "busy", "none" }, judged)
      assert.equal(3.25, rounded(w.at()))
    end)

    it("by functions whose errors are raised", function()
      for _, timeout in ipairs { 30, { total = 60 } } do
        for _, at in ipairs { 1, 2 } do
          world { SLOW, { after = 3.5 } }
          local calls = 0
          local ok, raised = pcall(fetch, { url = "https://a/", timeout = timeout,
            accept = function()
              calls = calls + 1
              if calls == at then error "oh" end
            end })
          assert.is_false(ok)
          assert.matches("race_spec.lua:%d+: oh\n.*in function 'error'\n.*race_spec.lua", raised)
          assert.same({ 0, 0 }, { api.pool:state().active, w.host.in_flight })
        end
      end
    end)
  end)

  describe("ends", function()
    it("with the attempt's timeout, which the hedge shares", function()
      local _, err = once({ url = "https://a/", timeout = 3, retry = false }, { SLOW })
      assert.same({ "timeout", 1, 3 }, { err.kind, err.attempts, w.at() })
      assert.same({ 3, 2 }, { w.host.ledger[1].spec.timeout, w.host.ledger[2].spec.timeout })
      once({ url = "https://a/", timeout = 1, retry = false }, { SLOW })
      assert.same({ 0 }, starts())
    end)

    it("with the total timeout", function()
      local _, err = once({ url = "https://a/", timeout = { total = 3 } }, { SLOW })
      assert.same({ "timeout", 1 }, { err.kind, err.attempts })
      assert.same({ { 0, 1 }, { 3, 3 } }, { ledger() })
    end)

    it("with its task", function()
      for _, total in ipairs { 0, 60 } do
        for _, when in ipairs { 0.5, 1, 2 } do
          world { SLOW }
          w.run(function()
            local ok, err = w.orc.deadline(when, function()
              return api:fetch { url = "https://a/", timeout = { total = total } }
            end)
            assert.is_nil(ok)
            assert.equal("timeout", err.kind)
            assert.same({ 0, 0, 0 },
              { w.host.in_flight, api.pool:state().active, w.sched.timers.n })
          end)
          for _, entry in ipairs(w.host.ledger) do assert.equal(1000 + when, entry.cancelled) end
        end
      end
    end)

    it("while it waits in a function of the script's", function()
      world { QUICK }
      w.run(function()
        local task
        w.orc.group(function(g)
          task = g:spawn(function()
            return api:fetch { url = "https://a/", accept = function() w.orc.sleep(50) end }
          end)
          w.orc.sleep(20)
          task:cancel()
          select(2, task:await())
          assert.same({ 0, 1 }, { w.host.in_flight, w.sched.live - 1 })
        end)
      end)
      assert.equal(20, w.at())
    end)
  end)

  -- Whatever happens: nothing is left over, and no request is sent more often than it may be.
  it("leaves nothing behind on random schedules", function()
    local hedges, lost = 0, 0
    for seed = 1, 100 do
      local random = fake_host.generator(seed)
      world(function()
        local chance = random()
        if chance < 0.1 then return { fault = "reset", after = random() * 3 } end
        if chance < 0.2 then return { status = 503, after = random() * 3 } end
        if chance < 0.22 then return { status = 429, head = "Retry-After: 2\r\n" } end
        if chance < 0.25 then return { status = 302, head = "Location: /y\r\n" } end
        return { after = random() ^ 3 * 4 }
      end, {
        concurrency = 1 + math.floor(random() * 6),
        rate_limit = random() < 0.3 and "5/s" or nil,
        hedge = { after = random() * 2, max = 1 + math.floor(random() * 3), budget = random() },
        timeout = { attempt = 3, total = random() < 0.5 and 6 or 0 },
        auth = random() < 0.3 and { { type = "bearer", token = "race-spec-1" },
          { type = "bearer", token = "race-spec-2" } } or nil,
      })
      local ended = 0
      local items = {}
      for i = 1, 12 do items[i] = i end
      w.run(w.orc.map, items, function(i)
        w.orc.sleep(random() * 4)
        local function go() return api:fetch("https://a/" .. i % 3, observer) end
        local res, err
        if random() < 0.3 then res, err = w.orc.deadline(random() * 4, go) else res, err = go() end
        assert((res == nil) ~= (err == nil), "seed " .. seed)
        ended = ended + 1
      end, { concurrency = 12 })
      assert(ended == 12, "seed " .. seed)
      for _, info in ipairs(seen.attempt) do
        hedges, lost = hedges + (info.hedge and 1 or 0), lost + (info.lost and 1 or 0)
      end
    end
    assert(hedges > 100 and lost > 100, "no races")
  end)

  it("cannot begin in a callback of table.sort", function()
    world { QUICK }
    w.run(function()
      local raised
      table.sort({ 2, 1 }, function(a, b)
        raised = raised or select(2, pcall(api.fetch, api, "https://a/"))
        return a < b
      end)
      assert.matches("race_spec.lua:%d+: cannot wait here: .*fetch first, then sort", raised)
      assert.equal(200, api:fetch("https://b/").status)
    end)
    assert.equal("https://b/", w.host.ledger[1].url)
  end)

  describe("by a percentile", function()
    it("knows what is slow when it has seen enough", function()
      for after, seconds in pairs { p70 = 0.1, p90 = 1 } do
        world(function(_, n)
          if n == 1 or n > 20 then return { after = 5 } end
          return { after = n % 5 == 0 and 1 or 0.1 }
        end, { hedge = { after = after, budget = 1 } })
        w.run(function()
          for i = 1, 20 do api:fetch("https://a/" .. i) end
          assert.equal(20, #w.host.ledger)
          api:fetch "https://a/"
        end)
        assert.equal(22, #w.host.ledger)
        local waited = w.host.ledger[22].at - w.host.ledger[21].at
        assert(math.abs(waited / seconds - 1) < 0.02, waited)
      end
    end)

    it("knows hosts apart", function()
      world(function(spec) return { after = spec.url:find "//a" and 1 or 10 } end,
        { hedge = { after = "p95", budget = 1 } })
      w.run(function()
        for _ = 1, 25 do
          api:fetch "https://a/"
          api:fetch "https://b/"
        end
      end)
      assert.equal(50, #w.host.ledger)
    end)

    it("that there is", function()
      for _, after in ipairs { "p5", "p100", "p49", "95", "slow", true, -1 } do
        local ok, message = pcall(world, { QUICK }, { hedge = { after = after } })
        assert.is_false(ok)
        assert.matches('client.hedge: "after" must be a duration such as "800ms", or a '
          .. 'percentile such as "p95"', message, 1, true)
      end
      local ok, message = pcall(world, { QUICK }, { hedge = {} })
      assert.is_false(ok)
      assert.matches('client.hedge: "after" is missing', message, 1, true)
    end)
  end)

  describe("tells", function()
    local function told()
      local list = {}
      for i, info in ipairs(seen.attempt) do
        list[i] = string.format("%s%s%s %s %g", info.hedge and "hedge " or "",
          info.lost and "lost " or "", info.status or info.kind, info.retried and "again" or "end",
          rounded(info.elapsed))
      end
      return list
    end

    it("of the slower one, which was cancelled", function()
      once(nil, { SLOW, QUICK })
      assert.same({ "lost cancelled end 1.1", "hedge 200 end 1.1" }, told())
      assert.same({ 1, 1, true }, { #seen.request, seen.request[1].attempts, seen.request[1].ok })
      assert.equal(1.1, rounded(seen.request[1].elapsed))
      once(nil, { { after = 1.5 }, SLOW })
      assert.same({ "hedge lost cancelled end 0.5", "200 end 1.5" }, told())
    end)

    it("of one that failed before", function()
      once(nil, { { status = 503, after = 2 }, { after = 2 } })
      assert.same({ "lost 503 end 2", "hedge 200 end 3" }, told())
      once(nil, { { status = 503, after = 2 }, { fault = "reset", after = 2 }, QUICK })
      assert.same({ "hedge lost network end 2", "503 again 2", "200 end 0.1" }, told())
    end)

    it("nothing of one that never began", function()
      once(nil, { { after = 3 } }, { concurrency = 1 })
      assert.same({ "200 end 3" }, told())
    end)

    it("of those that a total timeout cuts short", function()
      once({ url = "https://a/", timeout = { total = 3 } }, { SLOW })
      assert.same({ "hedge lost cancelled end 2", "timeout end 3" }, told())
    end)
  end)
end)
