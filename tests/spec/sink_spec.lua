local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"

describe("sink", function()
  it("picks its kind by the target", function()
    for target, kind in pairs {
      ["-"] = "file", ["x.jsonl"] = "file", ["out/x.csv.gz"] = "file", ["a.sqlite"] = "table",
      ["a.db"] = "table", ["postgres://h/d"] = "table", ["postgresql://h/d"] = "table",
      ["https://a.example/in"] = "http", ["http://a.example/in"] = "http",
      ["{name}.jsonl"] = "file",
    } do
      local spec = assert(sink.check(target))
      assert.equal(kind, spec.kind, target)
      assert.equal(kind == "file", spec.goes_back)
    end
    assert.equal("append", assert(sink.check { "x.jsonl", mode = "append" }).mode)
    assert.equal("table", assert(sink.check(secret.value "postgres://u:p@h/d")).kind)
  end)

  it("tells what is none", function()
    local spec, message = sink.check "x.txt"
    assert.is_nil(spec)
    assert.matches('^"x.txt" has no known format', message)
    for target, hint in pairs {
      ["s3://bucket/x.jsonl"] = '"s3://" is no target that is known (there are',
      ["mysql://h/x.db"] = '"mysql://" is no target',
      ["postgre://h/d"] = 'did you mean "postgres://"?',
      ["HTTPS://h/x"] = 'did you mean "https://"?',
      ["file:///x.jsonl"] = 'a path alone, without "file://"',
      ["~/x.jsonl"] = 'os.getenv "HOME" .. "/x.jsonl"', ["~/x.db"] = "only a shell knows",
    } do
      spec, message = sink.check(target)
      assert.is_nil(spec, target)
      assert.matches(hint, message, 1, true)
    end
    local ok, problem = pcall(sink.check, { "x.csv", delimiter = ";" })
    assert.is_false(ok)
    assert.matches('"delimiter" is an option of csv: csv = { delimiter = … }', problem, 1, true)
    for _, bad in ipairs { 7, true, {} } do
      spec, message = sink.check(bad)
      assert.is_nil(spec)
      assert.matches("^must be the path of a file, got a ", message)
    end
  end)
end)
