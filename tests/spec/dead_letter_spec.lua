local dead_letter = require "orchestrator.dead_letter"
local errors = require "orchestrator.errors"
local json = require "orchestrator.json"
local secret = require "orchestrator.secret"
local sink = require "orchestrator.sink"

describe("dead letters", function()
  local path

  local function read()
    local file = io.open(path)
    if not file then return nil end
    local text = file:read "*a"
    file:close()
    return text
  end

  local function new(open)
    return dead_letter.new {
      path = path, pipeline = "job", run_id = "run-1", wall = function() return 1700000000.5 end,
      open = open or function(target) return sink.open(target, "replace") end,
    }
  end

  before_each(function()
    path = os.tmpname()
    os.remove(path)
    path = path .. ".jsonl"
  end)

  after_each(function()
    os.remove(path)
  end)

  it("stand beside the first file that is written", function()
    assert.equal("out/job.dead.jsonl",
      dead_letter.path("job", { "-", "out/x.jsonl", "elsewhere/y.jsonl" }))
    assert.equal("job.dead.jsonl", dead_letter.path("job", { "x.jsonl" }))
    assert.equal("job.dead.jsonl", dead_letter.path("job", { "-" }))
  end)

  it("say what there is to know", function()
    local letters = new()
    assert.is_true(letters:add({ id = 7 }, errors.new("http", "status 404", {
      url = "http://a/7", status = 404, attempts = 3, response = { body = "no \255 such thing" },
    }), "item 7"))
    assert.is_true(letters:add("x", errors.new("invalid", "a bad URL"), "item 8"))
    assert.equal(2, letters.count)
    assert.is_true(letters:close(true))
    local lines = {}
    for line in read():gmatch "[^\n]+" do lines[#lines + 1] = json.decode(line) end
    assert.same({
      {
        item = { id = 7 }, position = "item 7", url = "http://a/7", attempts = 3,
        error = { kind = "http", message = "status 404", status = 404 },
        excerpt = "no \239\191\189 such thing", at = "2023-11-14T22:13:20Z", pipeline = "job",
        run_id = "run-1",
      },
      {
        item = "x", position = "item 8", attempts = 0,
        error = { kind = "invalid", message = "a bad URL" }, at = "2023-11-14T22:13:20Z",
        pipeline = "job", run_id = "run-1",
      },
    }, lines)
  end)

  it("keep no secret and no more than the beginning of a body", function()
    local token = secret.value "dead-letter-spec-token"
    local letters = new()
    letters:add({ key = token }, errors.new("http", "dead-letter-spec-token refused",
      { url = "http://u:p4ss@a/", response = { body = ("x"):rep(5000) } }), "item 1")
    letters:close()
    assert.not_matches("spec%-token", read())
    assert.not_matches("p4ss", read())
    assert.equal(2048, #json.decode(read()).excerpt)
  end)

  it("are a file only when there are some", function()
    local opened = 0
    local letters = new(function(target)
      opened = opened + 1
      return sink.open(target, "replace")
    end)
    assert.is_true(letters:flush())
    assert.equal(0, opened)
    for i = 1, 3 do letters:add(i, errors.new("http", "x"), "item " .. i) end
    assert.equal(1, opened)
    assert.is_true(letters:close())
  end)

  it("of an earlier run go when this one takes its place and has none", function()
    for _, supersede in ipairs { false, true } do
      assert(io.open(path, "w")):close()
      assert.is_true(new():close(supersede))
      if supersede then assert.is_nil(read()) else assert.equal("", read()) end
    end
  end)

  it("that cannot be kept are an error", function()
    local full = errors.new("invalid", "No space left on device")
    local letters = new(function() return nil, full end)
    local ok, err = letters:add(1, errors.new("http", "x"), "item 1")
    assert.is_nil(ok)
    assert.equal(full, err)
    assert.equal(0, letters.count)

    letters = new(function()
      local s = sink.open(path, "replace")
      function s.write() return nil, full end
      return s
    end)
    ok, err = letters:add(1, errors.new("http", "x"), "item 1")
    assert.is_nil(ok)
    assert.equal(full, err)
    assert.equal(0, letters.count)
    letters:close()
  end)
end)
