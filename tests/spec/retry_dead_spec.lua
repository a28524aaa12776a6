local dead_letter = require "orchestrator.dead_letter"
local retry_dead = require "orchestrator.retry_dead"
local sink = require "orchestrator.sink"

local function pipeline(given, mode)
  local sinks = { (assert(sink.check "out/x.jsonl")) }
  return { name = "job", sink = sinks,
    dead = assert(dead_letter.spec(given, "job", sinks, mode or "replace")) }
end

describe("retrying dead letters", function()
  it("is for files whose path is always the same", function()
    for _, given in ipairs { "x.jsonl", "a/{name}.jsonl", "x.sqlite", "postgres://h/d" } do
      assert.is_true(retry_dead.check(pipeline(given)))
    end
    assert.is_true(retry_dead.check(pipeline(nil)))
    for given, message in pairs {
      ["x.csv"] = 'reads .jsonl files and tables, and the dead letters of "job" are in x.csv',
      ["x.jsonl.gz"] = "are in x.jsonl.gz",
      ["{date}.jsonl"] = "cannot tell where", ["{hour}.jsonl"] = "cannot tell where",
      ["{run_id}.sqlite"] = "cannot tell where",
    } do
      local ok, problem = retry_dead.check(pipeline(given))
      assert.is_nil(ok)
      assert.matches(message, problem, 1, true)
    end
  end)

  it("does nothing where there are none", function()
    local p = pipeline "no-such-directory/x.jsonl"
    local result = retry_dead.start(p, { run_id = "r", wall = function() return 0 end })
    assert.same({ true, 0 }, { result.ok, result.code })
    assert.equal("job: there are no dead letters in no-such-directory/x.jsonl\n", result.text)
    assert.same({ "job", "r", 0 },
      { result.summary.pipeline, result.summary.run_id, result.summary.records.out })
  end)
end)
