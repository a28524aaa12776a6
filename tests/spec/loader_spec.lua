local fake_host = require "fake_host"
local loader = require "orchestrator.loader"

describe("loader", function()
  local w, dir, log, globals

  setup(function()
    dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir -p " .. dir .. "/spec_package/deep")
  end)

  teardown(function() os.execute("rm -r " .. dir) end)

  before_each(function()
    w, log = fake_host.world(), {}
    globals = {
      orc = w.orc,
      say = function(text) log[#log + 1] = string.format("%g %s", w.at(), text) end,
      get = function(url) return w.sched:perform { url = url } end,
    }
  end)

  after_each(function()
    for name in pairs(package.loaded) do
      if name:find "^spec_" then package.loaded[name] = nil end
    end
  end)

  local function write(name, text)
    local file = assert(io.open(dir .. "/" .. name .. ".lua", "w"))
    file:write(text)
    file:close()
  end

  -- Runs a script, beside which the modules stand; gives what it returned.
  local function run(text, modules)
    for name, module in pairs(modules or {}) do write(name, module) end
    write("script", text)
    return w.run(assert(loader.load(w.sched, dir .. "/script.lua", globals)))
  end

  -- Runs a script, which must raise; gives the message.
  local function raised_by(text, modules)
    local ok, raised = pcall(run, text, modules)
    assert.is_false(ok)
    return raised
  end

  describe("load", function()
    it("gives what the script returns, and hands it its globals", function()
      globals.arg = { [0] = "me" }
      assert.same({ "me", 3 }, { run "return arg[0], math.max(1, 3)" })
    end)

    it("says what is wrong with a script it cannot load", function()
      local chunk, problem = loader.load(w.sched, dir .. "/missing.lua", {})
      assert.is_nil(chunk)
      assert.matches("cannot open .*missing.lua", problem)
      write("broken", "local x = = 1")
      chunk, problem = loader.load(w.sched, dir .. "/broken.lua", {})
      assert.is_nil(chunk)
      assert.matches("broken.lua:1: unexpected symbol near '='", problem)
    end)

    it("names the script in errors", function()
      assert.matches("script.lua:2: oh\n.*script.lua:2: in function", raised_by "\nerror 'oh'")
    end)
  end)

  describe("globals", function()
    it("that are not defined are an error, with the nearest name", function()
      assert.matches('script.lua:2: undefined global "prnt" %(did you mean "print"%?%)',
        raised_by "\nprnt('x')")
      assert.matches('undefined global "fetchall" %(did you mean "fetch_all"%?%)',
        raised_by "fetch_all = 1\nreturn fetchall")
      assert.matches('undefined global "zzzzzz"\n', raised_by "return zzzzzz")
      assert.matches('undefined global "sya" %(did you mean "say"%?%)', raised_by "sya 'x'")
      assert.matches('undefined global "nope"', raised_by "return _G.nope")
    end)

    it("may be set, read, and looked for", function()
      assert.same({ 12, 12, 12, nil }, { run [[
        x = 12
        return x, _G.x, rawget(_G, "x"), rawget(_G, "nope")
      ]] })
      assert.is_nil(rawget(_G, "x"))
    end)

    it("false counts as defined", function()
      assert.is_false((run "x = false return x"))
    end)

    it("of one script are not another's", function()
      run "spec_global = 1"
      assert.matches('undefined global "spec_global"', raised_by "return spec_global")
    end)

    it("are shared with the script's own modules, which are as strict", function()
      assert.equal(3, (run("shared = 1 return require 'spec_a'", { spec_a = "return shared + 2" })))
      assert.matches('spec_b.lua:1: undefined global "undefd"',
        raised_by("require 'spec_b'", { spec_b = "return undefd" }))
    end)
  end)

  describe("require", function()
    it("looks beside the script first, in packages too", function()
      write("spec_package/init", "return 'package ' .. ...")
      write("spec_package/deep/leaf", "return { ... }")
      assert.equal("package spec_package", (run "return require 'spec_package'"))
      assert.same({ "spec_package.deep.leaf", dir .. "/spec_package/deep/leaf.lua" },
        (run "return require 'spec_package.deep.leaf'"))
    end)

    it("loads a module once", function()
      local modules = { spec_once = "say 'loading' return {}" }
      assert.is_true((run("return require 'spec_once' == require 'spec_once'", modules)))
      assert.same({ "0 loading" }, log)
    end)

    it("gives true for a module that returns nothing", function()
      assert.is_true((run("return require 'spec_nothing'", { spec_nothing = "" })))
    end)

    it("finds what Lua would find", function()
      assert.equal(require "orchestrator.errors", (run "return require 'orchestrator.errors'"))
      assert.equal(string, (run "return require 'string'"))
      package.preload.spec_preloaded = function(name) return "preloaded " .. name end
      local value = run("return require 'spec_preloaded'", { spec_preloaded = "return 'beside'" })
      package.preload.spec_preloaded = nil
      assert.equal("preloaded spec_preloaded", value)
    end)

    it("says where it looked for a module that is missing", function()
      local message = raised_by "require 'spec_missing'"
      assert.matches("module 'spec_missing' not found:\n\tno file '" .. dir .. "/spec_missing.lua'",
        message)
      assert.matches("no field package.preload", message)
    end)

    it("names the place of a syntax error in a module", function()
      assert.matches("spec_syntax.lua:2: ",
        raised_by("require 'spec_syntax'", { spec_syntax = "\nlocal = 1" }))
    end)

    it("tries again after a module that failed", function()
      assert.same({ false, 2 }, { run([[
        tries = 0
        local ok = pcall(require, "spec_flaky")
        return ok, require "spec_flaky"
      ]], { spec_flaky = "tries = tries + 1 if tries == 1 then error 'no' end return tries" }) })
    end)

    it("sees a module that requires itself", function()
      local modules = {
        spec_c = "require 'spec_d'", spec_d = "require 'spec_c'", spec_e = "require(...)",
      }
      assert.matches("spec_d.lua:1: module 'spec_c' requires itself, directly or through others",
        raised_by("require 'spec_c'", modules))
      assert.matches("spec_e.lua:1: module 'spec_e' requires itself", raised_by("require 'spec_e'"))
    end)

    it("needs a name", function()
      assert.matches("script.lua:1: require: expects a module name", raised_by "require(12)")
    end)

    it("lets a module fetch while it loads", function()
      assert.equal(200, (run("return require 'spec_fetching'.status",
        { spec_fetching = "return get 'https://a/'" })))
      assert.equal("https://a/", w.host.ledger[1].url)
    end)

    it("lets tasks that want the same module wait for the one that loads it", function()
      local results = run([[
        return orc.map({ 1, 2, 3 }, function() return require "spec_slow" end)
      ]], { spec_slow = "say 'loading' orc.sleep(5) return {}" })
      assert.same({ "0 loading" }, log)
      assert.equal(results[1], results[2])
      assert.equal(results[1], results[3])
      assert.equal(5, w.at())
    end)

    it("lets the next one try when the first fails or is cancelled", function()
      local modules = { spec_hard = [[
        tries = tries + 1
        local mine = tries
        orc.sleep(5)
        if mine == 2 then error "hard" end
        return mine
      ]] }
      local text = [[
        tries = 0
        local seen = {}
        orc.group(function(g)
          local tasks = {}
          for i = 1, 4 do
            tasks[i] = g:spawn(function() seen[i] = { pcall(require, "spec_hard") } end)
          end
          orc.sleep(1)
          tasks[1]:cancel()
          tasks[4]:cancel()
        end)
        return seen
      ]]
      local seen = run(text, modules)
      assert.is_false(seen[1][1])
      assert.matches("spec_hard.lua:4: hard", seen[2][2])
      assert.same({ true, 3 }, seen[3])
      assert.same({ 3, nil }, { package.loaded.spec_hard, seen[4][2].status })
      assert.equal(11, w.at())
    end)
  end)

  describe("coroutines of the script", function()
    it("may wait and fetch between the values they give", function()
      local values = run [[
        local function pages()
          for page = 1, 3 do
            orc.sleep(1)
            local res = get("https://a/" .. page)
            coroutine.yield(page, res.status)
          end
        end
        local values = {}
        for page, status in coroutine.wrap(pages) do
          say("page " .. page)
          values[#values + 1] = page + status
        end
        return values
      ]]
      assert.same({ 201, 202, 203 }, values)
      assert.same({ "1.125 page 1", "2.25 page 2", "3.375 page 3" }, log)
    end)

    it("let other tasks run meanwhile", function()
      run [[
        orc.gather {
          function()
            local function count() for i = 1, 2 do orc.sleep(2) coroutine.yield(i) end end
            for i in coroutine.wrap(count) do say("generator " .. i) end
          end,
          function() orc.sleep(3) say "other" end,
        }
      ]]
      assert.same({ "2 generator 1", "3 other", "4 generator 2" }, log)
    end)

    it("take and give values through resume, also of nil", function()
      assert.same({ 1, 5, nil, "dead", false, "cannot resume dead coroutine" }, { run [[
        local co = coroutine.create(function(a)
          orc.sleep(1)
          local b = coroutine.yield(a)
          orc.sleep(1)
          local c = coroutine.yield(a + b)
          orc.sleep(1)
          return c
        end)
        local _, first = coroutine.resume(co, 1)
        local _, second = coroutine.resume(co, 4)
        local _, third = coroutine.resume(co, nil)
        return first, second, third, coroutine.status(co), coroutine.resume(co)
      ]] })
      assert.equal(3, w.at())
    end)

    it("raise in the one who asks", function()
      assert.same({ false, false }, { run [[
        local function broken() orc.sleep(1) error "broken" end
        local ok, problem = coroutine.resume(coroutine.create(broken))
        say(problem)
        local fine, raised = pcall(coroutine.wrap(broken))
        say(raised)
        return ok, fine
      ]] })
      assert.matches("^1 .*script.lua:1: broken$", log[1])
      assert.matches("^2 .*script.lua:1: broken$", log[2])
    end)

    it("cannot be resumed by another task while one waits inside", function()
      local results, errors = run [[
        local shared = coroutine.wrap(function()
          orc.sleep(1)
          coroutine.yield "mine"
        end)
        return orc.gather { shared, shared }
      ]]
      assert.equal("mine", results[1])
      assert.matches("cannot resume a coroutine that waits in another task", errors[2].message)
      assert.equal(1, w.at())
    end)

    it("may be nested", function()
      assert.equal(6, (run [[
        local function count(depth)
          return coroutine.wrap(function()
            if depth == 0 then
              for i = 1, 3 do orc.sleep(1) coroutine.yield(i) end
            else
              for i in count(depth - 1) do coroutine.yield(i) end
            end
          end)
        end
        local sum = 0
        for i in count(3) do sum = sum + i end
        return sum
      ]]))
      assert.equal(3, w.at())
    end)

    it("are sources of a map", function()
      local results = run [[
        local source = coroutine.wrap(function()
          for i = 1, 4 do
            orc.sleep(1)
            coroutine.yield(i)
          end
        end)
        return orc.map(source, function(i) orc.sleep(10) return i * i end)
      ]]
      assert.same({ 1, 4, 9, 16, n = 4 }, results)
      assert.equal(14, w.at())
    end)

    it("are left by a cancel", function()
      run [[
        local _, err = orc.deadline(1.5, function()
          for _ in coroutine.wrap(function()
            for i = 1, 9 do orc.sleep(1) coroutine.yield(i) end
          end) do say "value" end
        end)
        say(err.kind)
      ]]
      assert.same({ "1 value", "1.5 timeout" }, log)
    end)

    it("cannot wait inside table.sort, and say so", function()
      run [[
        local generator = coroutine.wrap(function()
          local ok, problem = pcall(orc.sleep, 1)
          say(tostring(problem))
          coroutine.yield(ok)
        end)
        table.sort({ 2, 1 }, function(a, b)
          if generator then say(tostring(generator())) generator = nil end
          return a < b
        end)
        orc.sleep(5)
        say "slept"
      ]]
      assert.matches("^0 .*script.lua:%d+: cannot wait here", log[1])
      assert.same({ "0 false", "5 slept" }, { log[2], log[3] })
      assert.equal(0, w.sched.timers.n)
    end)
  end)
end)
