-- A host (src/host.h) on a virtual clock: waiting takes no time, and what a transfer gives is
-- decided by a function. The same seed gives the same run.

local cache_memory = require "orchestrator.cache_memory"
local client = require "orchestrator.client"
local real_host = require "real_host"
local scheduler = require "orchestrator.scheduler"
local tasks = require "orchestrator.tasks"

local fake_host = {}

--- A small linear congruential generator (Numerical Recipes): function() → [0, 1).
function fake_host.generator(seed)
  local state = seed
  return function()
    state = (state * 1664525 + 1013904223) % 2 ^ 32
    return state / 2 ^ 32
  end
end

---@param opts table|nil {seed: integer, serve: fun(spec, n, now): table what result to give, with
---  `after` seconds of delay (default 1/8); status 200 by default}
function fake_host.new(opts)
  opts = opts or {}
  local host = {
    time = 1000, -- monotonic seconds
    ledger = {}, -- every start: {url, at, spec, id}, and `ended` or `cancelled` = time
    in_flight = 0,
    most_in_flight = 0,
    signals = {}, -- {time, number} to deliver
    polls = 0,
    random = fake_host.generator(opts.seed or 1),
  }
  local pending = {} -- id → {id, at, result}
  local next_id = 0

  function host.now() return host.time end
  function host.wall() return 1.7e9 + host.time end
  function host.terminal() return nil end
  function host.idn(name) return name == "bücher.test" and "xn--bcher-kva.test" or nil end

  host.profiles = {}
  function host.profile(spec)
    table.insert(host.profiles, spec)
    return #host.profiles
  end
  function host.profile_close() end

  function host.start(spec)
    next_id = next_id + 1
    local entry = { url = spec.url, at = host.time, spec = spec, id = next_id }
    host.ledger[next_id] = entry
    local result = opts.serve and opts.serve(spec, next_id, host.time) or {}
    if result.refuse then return nil, result.refuse, "refused" end
    host.in_flight = host.in_flight + 1
    host.most_in_flight = math.max(host.most_in_flight, host.in_flight)
    local after = result.after or 0.125
    local timed_out = spec.timeout and spec.timeout > 0 and after > spec.timeout
    if timed_out then
      after = spec.timeout
      result = { fault = "timeout", message = "no answer" }
    end
    result.elapsed = after
    if not result.fault then
      result.status = result.status or 200
      result.head = "HTTP/1.1 " .. result.status .. " X\r\n" .. (result.head or "") .. "\r\n"
      result.body = result.body or ""
      result.size, result.wire = #result.body, #result.body
      result.version, result.framing = "1.1", "length"
      if spec.save and result.status <= 299 then result.body = nil end
    end
    pending[next_id] = { id = next_id, at = host.time + after, result = result }
    return next_id
  end

  function host.cancel(id)
    assert(pending[id], "cancel of a transfer that is not in flight")
    pending[id] = nil
    host.in_flight = host.in_flight - 1
    host.ledger[id].cancelled = host.time
  end

  local function earliest()
    local first
    for _, entry in pairs(pending) do
      if not first or entry.at < first.at or (entry.at == first.at and entry.id < first.id) then
        first = entry
      end
    end
    return first
  end

  function host.poll(timeout, deliver)
    host.polls = host.polls + 1
    local signal = host.signals[1]
    local first = earliest()
    local until_time = timeout and host.time + timeout or math.huge
    if signal and signal[1] <= until_time and (not first or signal[1] <= first.at) then
      table.remove(host.signals, 1)
      host.time = math.max(host.time, signal[1])
      return signal[2]
    end
    if first and first.at <= until_time then
      host.time = math.max(host.time, first.at)
      repeat
        pending[first.id] = nil
        host.in_flight = host.in_flight - 1
        host.ledger[first.id].ended = host.time
        deliver(first.id, first.result)
        first = earliest()
      until not first or first.at > host.time
      return nil
    end
    assert(timeout, "the scheduler would wait for ever")
    host.time = until_time
  end

  return host
end

--- Gives a host on a virtual clock the files and databases of the real one. Their jobs take no
--- virtual time: the clock stands still until they are done.
---@param host table
---@return table host
function fake_host.with_files(host)
  local jobs = {} -- number → what it is done in
  for _, kind in ipairs { "output", "store" } do
    host[kind .. "_run"] = function(id, job)
      local number = real_host[kind .. "_run"](id, job)
      jobs[number] = kind .. id
      return number
    end
    host[kind .. "_close"] = function(id, ...)
      real_host[kind .. "_close"](id, ...)
      for number, of in pairs(jobs) do
        if of == kind .. id then jobs[number] = nil end
      end
    end
  end
  for _, name in ipairs { "output_create", "store_directory", "store_open", "store_read" } do
    host[name] = real_host[name]
  end

  local poll, cancel = host.poll, host.cancel
  function host.poll(timeout, deliver)
    if not next(jobs) then return poll(timeout, deliver) end
    local came, until_time = false, real_host.now() + 20
    repeat -- it returns for other reasons too
      assert(real_host.now() < until_time, "a job does not end")
      real_host.poll(10, function(number, result)
        came, jobs[number] = true, nil
        deliver(number, result)
      end)
    until came or not next(jobs)
  end
  function host.cancel(id)
    if id > 0 then cancel(id) end -- a job is done whoever waits for it
  end
  return host
end

--- A state (state.lua) in memory: documents of limits, which several programs may share.
---@param sched orc.Scheduler
---@param opts table|nil {saves: fun(): number seconds a save takes, boot: string}
function fake_host.state(sched, opts)
  opts = opts or {}
  local state = {
    sched = sched, path = "state.db", boot = opts.boot or "boot", documents = {}, versions = {},
    loads = 0, saved = 0,
    broken = nil, -- what is wrong with it from now on
  }

  function state:load(name)
    self.loads = self.loads + 1
    if self.broken then return nil, nil, self.broken end
    return self.documents[name], self.versions[name] or 0
  end

  function state:save(name, version, document, done)
    self.sched:at(self.sched:now() + (opts.saves and opts.saves() or 0.001), function()
      if self.broken then return done(false, self.broken) end
      if (self.versions[name] or 0) ~= version then return done(false) end
      self.documents[name], self.versions[name] = document, version + 1
      self.saved = self.saved + 1
      return done(true)
    end)
  end

  return state
end

--- A program on a fake host: {host, sched, orc (the functions of tasks.lua), env, client(opts),
--- at() → seconds since the start, run(fn)}.
---@param opts table|nil as `new`
function fake_host.world(opts)
  local host = fake_host.new(opts)
  local sched = scheduler.new(host)
  local w = { host = host, sched = sched, orc = tasks.new(sched), clients = {} }
  w.env = { sched = sched, host = host, limiters = {}, version = "1.2",
    state = fake_host.state(sched), cache_store = cache_memory.new() }

  function w.client(given)
    local made = client.new(w.env, given)
    w.clients[#w.clients + 1] = made
    return made
  end

  function w.at() return host.time - 1000 end

  --- Runs `fn` as the main task, sees to it that nothing is left over, and returns what it
  --- returned. Raises what it raised.
  function w.run(fn, ...)
    local root = sched:run(fn, ...)
    local err = root.err
    if not root.ok and err.traceback then error(err.message .. "\n" .. err.traceback, 0) end
    assert(sched.live == 0 and sched.outstanding == 0 and host.in_flight == 0, "tasks are left")
    assert(next(sched.transfers) == nil, "transfers are left")
    for _, one in ipairs(w.clients) do
      local state = one.pool:state()
      assert(state.active == 0 and state.waiting == 0, "slots are left")
      assert(next(one.pool.queue.lanes) == nil, "waiters are left")
      for _, h in pairs(one.pool.hosts) do
        assert(h.active == 0 and h.server.in_flight == 0, "hosts are left")
      end
    end
    if not root.ok then return nil, err end
    local results = root.results or { n = 0 }
    return unpack(results, 1, results.n)
  end

  return w
end

return fake_host
