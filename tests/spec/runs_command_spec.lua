local fake_host = require "fake_host"
local json = require "orchestrator.json"

describe("the command runs", function()
  local name = "orchestrator.stdout"
  local real = package.loaded[name]
  local runs_command, written

  setup(function()
    package.loaded[name] = {
      write = function(text) written = written .. text end,
      write_json = function(value) written = written .. assert(json.encode(value)) .. "\n" end,
      guarded = function(fn, ...) return fn(...) end,
    }
    package.loaded["orchestrator.runs_command"] = nil
    runs_command = require "orchestrator.runs_command"
  end)

  teardown(function()
    package.loaded[name], package.loaded["orchestrator.runs_command"] = real, nil
  end)

  -- What it writes of a run with these targets.
  local function show(targets, more)
    local dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir .. " && : > " .. dir .. "/state.db")
    finally(function() os.execute("rm -rf " .. dir) end)
    local host = fake_host.new()
    local row = { "run-1", "job", "x.lua", 1.7e9, nil, "running", nil, 1, nil,
      assert(json.encode(json.array(targets))), "{}", 0 }
    function host.store_directory() return true end
    function host.store_open() return 1 end
    function host.store_read() return { row } end
    function host.store_close() end
    written = ""
    local opts = { state_dir = dir, action = "show", id = "run-1" }
    for key, value in pairs(more or {}) do opts[key] = value end
    assert.equal(0, runs_command.run({ host = host, state_dir = dir, say = error }, opts))
    return written
  end

  it("names outputs as they are on the disk, one a line", function()
    assert.matches("\noutputs +out/2023%-11%-14%.jsonl\n +a%.sqlite, table t %(append%)\n",
      show { "out/{date}.jsonl", "a.sqlite, table t (append)", "{name}.dead.jsonl" })
  end)

  it("lists them in columns that are wide enough", function()
    local text = show({ "x.jsonl" }, { action = false })
    assert.equal("id     started               status      pipeline  done\n"
      .. "run-1  2023-11-14T22:13:20Z  unfinished  job       0 items\n", text)
  end)

  it("tells a run of dead letters by how it goes on", function()
    local text = show { "--retry-dead", "x.jsonl (append)" }
    assert.matches("x%.lua %-%-retry%-dead.* goes on with it", text)
    assert.matches("\noutputs +x%.jsonl", text)
    assert.matches('"outputs":["x.jsonl"]', show({ "--retry-dead", "x.jsonl" }, { json = true }), 1,
      true)
  end)
end)
