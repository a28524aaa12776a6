local cli = require "orchestrator.cli"

-- Parses a command line of words.
local function parse(line)
  local args = {}
  for word in line:gmatch "%S+" do args[#args + 1] = word end
  return cli.parse(args, "1.2")
end

local function problem_of(line)
  local opts, problem = parse(line)
  assert.is_nil(opts)
  assert.matches("\n\nUsage: orchestrator %[run%] SCRIPT %[key=value …%] %[options%]$", problem)
  return problem
end

-- What a command line prints before it exits, and its status.
local function printed(line)
  local G = getfenv(0) -- the globals of the module; busted gives its specs a copy
  local exit, stdout = G.os.exit, G.io.stdout
  local text, status = "", nil
  G.io.stdout = {
    write = function(_, ...)
      text = text .. table.concat { ... }
      return true
    end,
    flush = function() return true end,
  }
  G.os.exit = function(code)
    status = code
    error "exit"
  end
  pcall(parse, line)
  G.os.exit, G.io.stdout = exit, stdout
  return text, status
end

describe("cli", function()
  it("takes a script alone", function()
    assert.same({
      script = "x.lua", params = {}, log_level = "info",
      log_format = "text", state_dir = ".orchestrator",
    }, parse "x.lua")
  end)

  it("takes every option, in any order", function()
    local expected = {
      script = "x.lua", params = { a = "1", b = "2=3", c = "" }, concurrency = 7, sample = 5,
      summary = "s.json", log_level = "debug", log_format = "json", quiet = true,
      state_dir = "a/b", cache = "only-if-cached",
    }
    assert.same(expected, parse("x.lua a=1 b=2=3 c= -j 7 --sample 5 --summary s.json "
      .. "--log-level debug --log-format json -q --state-dir a/b --cache only-if-cached"))
    assert.same(expected, parse("--quiet --log-format=json -j7 --log-level=debug x.lua --sample=5 "
      .. "a=1 --state-dir=a/b --cache=only-if-cached --summary=s.json b=2=3 c="))
  end)

  it("takes what is to be done over or gone on with", function()
    local opts = parse "x.lua --retry-dead"
    assert.same({ true, "nil" }, { opts.retry_dead, tostring(opts.resume) })
    assert.same({ true, true }, { parse("--resume x.lua --retry-dead").resume, opts.retry_dead })
  end)

  it("takes run as a verb, also after options", function()
    for _, line in ipairs { "run x.lua a=1 -q", "-q run x.lua a=1", "run -q x.lua a=1" } do
      local opts = parse(line)
      assert.same({ "x.lua", { a = "1" }, true }, { opts.script, opts.params, opts.quiet })
    end
    assert.equal("run.lua", parse("run run.lua").script)
    assert.equal("run", parse("run run").script)
  end)

  it("takes every mode of the cache", function()
    for _, mode in ipairs { "default", "no-store", "reload", "no-cache", "force-cache",
      "only-if-cached" } do
      assert.equal(mode, parse("x.lua --cache " .. mode).cache)
    end
  end)

  describe("with a verb", function()
    it("takes its command and options, in any order", function()
      for _, line in ipairs { "cache list a* --json --state-dir d", "cache --json list a* "
        .. "--state-dir=d", "--state-dir d cache list --json a*", "--json --state-dir=d cache "
        .. "list a*" } do
        local opts = parse(line)
        assert.same({ "cache", "list", "a*", true, "d" },
          { opts.verb, opts.action, opts.glob, opts.json, opts.state_dir })
      end
      local opts = parse "cache stats"
      assert.same({ "cache", "stats", nil, ".orchestrator" },
        { opts.verb, opts.action, opts.json, opts.state_dir })
      assert.equal("http://a/?b=c", parse("cache show http://a/?b=c").url)
    end)

    it("is told from a script, and from a word of an option", function()
      for _, line in ipairs { "run cache", "-- cache", "--summary cache cache", "-j 3 run cache",
        "--sample 3 -- cache" } do
        local opts = parse(line)
        if opts then assert.same({ "cache" }, { opts.script, opts.verb }) end
      end
      assert.same({ "./cache" }, { parse("./cache").script, parse("./cache").verb })
      local opts = parse "--summary cache x.lua --state-dir cache"
      assert.same({ "x.lua", "cache", "cache" }, { opts.script, opts.summary, opts.state_dir })
    end)

    it("knows its module", function()
      assert.equal(require "orchestrator.cache_command", cli.verb "cache")
    end)

    for line, message in pairs {
      ["cache"] = "a command is required",
      ["cache lst"] = "unknown command 'lst'\nDid you mean 'list'%?",
      ["cache stats x"] = "too many arguments",
      ["cache list a b"] = "too many arguments",
      ["cache show"] = "missing argument 'url'",
      ["cache list --jso"] = "unknown option '%-%-jso'\nDid you mean '%-%-json'%?",
      ["cache list -j 3"] = "unknown option '%-j'",
      ["cache clear --state-dir"] = "requires an argument",
    } do
      it("refuses " .. line, function()
        local opts, problem = parse(line)
        assert.is_nil(opts)
        assert.matches(message, problem)
        assert.matches("\n\nUsage: orchestrator cache ", problem)
      end)
    end

    it("helps", function()
      local text, status = printed "cache -h"
      assert.equal(0, status)
      for _, part in ipairs { "stats", "list [GLOB]", "show URL", "clear [GLOB]", "verify",
        "--state-dir DIR", "--json", "exit status" } do
        assert(text:find(part, 1, true), part)
      end
      for _, command in ipairs { "stats", "list", "show", "clear", "verify" } do
        text, status = printed("cache " .. command .. " -h")
        assert.equal(0, status)
        assert.matches("^Usage: orchestrator cache " .. command .. " ", text)
        assert.matches("--state%-dir DIR", text)
      end
    end)
  end)

  it("does not change the arguments it is given", function()
    local args = { "run", "x.lua", "a=1" }
    cli.parse(args, "1.2")
    assert.same({ "run", "x.lua", "a=1" }, args)
  end)

  describe("refuses", function()
    for line, message in pairs {
      [""] = "missing argument 'script'",
      ["run"] = "missing argument 'script'",
      ["-q"] = "missing argument 'script'",
      ["x.lua --smple 2"] = "unknown option '%-%-smple'\nDid you mean '%-%-sample'%?",
      ["x.lua -j 0"] = "'0' is not a whole number ≥ 1",
      ["x.lua -j many"] = "'many' is not a whole number ≥ 1",
      ["x.lua -j 1.5"] = "'1.5' is not a whole number ≥ 1",
      ["x.lua -j 0x10"] = "'0x10' is not a whole number ≥ 1",
      ["x.lua --sample=-1"] = "'%-1' is not a whole number ≥ 1",
      ["x.lua --sample 0"] = "'0' is not a whole number ≥ 1",
      ["x.lua --retry-dead --sample 1"] =
        "option '%-%-retry%-dead' can not be used together with option '%-%-sample'",
      ["x.lua --summary"] = "option '%-%-summary' requires an argument",
      ["x.lua --log-level loud"] = "must be one of 'debug', 'info', 'warn', 'error'",
      ["x.lua --cache maybe"] = "must be one of 'default', 'no%-store', 'reload'",
      ["x.lua --cache"] = "requires an argument",
      ["x.lua --log-format xml"] = "must be one of 'text', 'json'",
      ["x.lua y.lua"] = "'y.lua' is no parameter: expected key=value",
      ["x.lua =1"] = "'=1' is no parameter",
      ["x.lua a=1 a=2"] = "the parameter 'a' is given twice",
    } do
      it(line == "" and "nothing" or line, function()
        assert.matches(message, problem_of(line))
      end)
    end
  end)

  it("shows its version", function()
    assert.same({ "orchestrator 1.2\n", 0 }, { printed "--version" })
  end)

  it("helps, also after the verb, naming options and exit codes", function()
    for _, line in ipairs { "-h", "run -h", "x.lua --help" } do
      local text, status = printed(line)
      assert.equal(0, status)
      for _, part in ipairs { "SCRIPT", "key=value", "-j N", "--sample N", "--summary FILE",
        "--state-dir DIR", "--cache MODE", "orchestrator cache ", "--log-level", "--log-format",
        "-q", "--version", "130  stopped" } do
        assert(text:find(part, 1, true), part)
      end
    end
  end)
end)
