local path_template = require "orchestrator.path_template"

describe("path_template", function()
  local values = { name = "hourly", run_id = "20261122T053015Z-26e14c", started = 1795325415 }

  local function expand(target, changed)
    assert.is_true(path_template.check(target))
    local all = {}
    for key, value in pairs(values) do all[key] = changed and changed[key] or value end
    return path_template.expand(target, all)
  end

  it("fills in its values", function()
    assert.equal("out/hourly.jsonl", expand "out/{name}.jsonl")
    assert.equal("2026-11-22/05/hourly-20261122T053015Z-26e14c.csv.gz",
      expand "{date}/{hour}/{name}-{run_id}.csv.gz")
    assert.equal("hourlyhourly", expand "{name}{name}")
    assert.equal("../plain.jsonl", expand "../plain.jsonl")
  end)

  it("lets braces be written twice", function()
    assert.equal("{name}-hourly}.jsonl", expand "{{name}}-{name}}}.jsonl")
  end)

  it("tells mistakes", function()
    for target, problem in pairs {
      ["x-{nmae}.csv"] = '"x-{nmae}.csv" has an unknown {nmae} (did you mean {name}?)',
      ["{x}.csv"] = '"{x}.csv" has an unknown {x} (there are {name}, {date}, {hour} and {run_id})',
      ["{}.csv"] = '"{}.csv" has an unknown {} (there are {name}, {date}, {hour} and {run_id})',
      ["{name.csv"] = '"{name.csv" has a "{" of its own: write it twice',
      ["name}.csv"] = '"name}.csv" has a "}" of its own: write it twice',
      ["{na/me}.csv"] = '"{na/me}.csv" has a "{" of its own: write it twice',
      ["a\0b.csv"] = "must not have a NUL byte in it",
    } do
      local ok, message = path_template.check(target)
      assert.is_nil(ok)
      assert.equal(problem, message)
    end
  end)

  it("keeps values within their directory", function()
    assert.equal("out/_.._etc_passwd.csv", expand("out/{name}.csv", { name = "/../etc/passwd" }))
    assert.equal("out/_.", expand("out/{name}", { name = ".." }))
    assert.equal("_hidden/x", expand("{name}/x", { name = ".hidden" }))
    assert.equal("a_b_c_d_e", expand("{name}", { name = "a\nb\0c\127d\\e" }))
    for _, target in ipairs { "out/.{name}/x", "out/{name}./x" } do
      local path = expand(target, { name = "." })
      assert.is_nil(path and path:match "/%.+/")
    end
    local path, problem = expand("out/.{name}/x.csv", { name = "" })
    assert.is_nil(path)
    assert.equal('it would be "out/./x.csv", which leads to another directory', problem)
  end)

  it("refuses what is too long", function()
    assert.equal(240, #expand("{name}", { name = ("x"):rep(240) }))
    local path, problem = expand("out/{name}", { name = ("x"):rep(241) })
    assert.is_nil(path)
    assert.equal("a part of its name is longer than 240 bytes", problem)
    path = expand(("directory/"):rep(400) .. "{name}")
    assert.is_nil(path)
  end)
end)
