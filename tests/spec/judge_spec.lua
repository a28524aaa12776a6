local errors = require "orchestrator.errors"
local judge = require "orchestrator.judge"
local outputs = require "orchestrator.outputs"
local schema = require "orchestrator.schema"

-- A run as judge.lua sees it, whose only sink refuses what `refuses(record)` gives an err for.
local function world(opts)
  local refuses = opts.refuses or function() end
  local run = { letters = {}, pipeline = opts, ctx = { log = {}, sample = opts.sample } }
  opts.on_error = opts.on_error or "dead_letter"
  opts.name = "job"
  run.outputs = outputs.new()
  run.outputs.formats = { {
    format = "f",
    encode = function(_, list)
      for _, record in ipairs(list) do
        local err = refuses(record)
        if err then return nil, err end
      end
      return table.concat(list, ","), #list
    end,
  } }
  function run.ctx.log.debug() end
  run.reader = { where = function(_, position) return "item " .. position end }
  run.dead = {
    letter = function(_, item, err, where, more)
      local letter = { item = item, message = err.message, where = where, more = more }
      table.insert(run.letters, letter)
      return letter, 100
    end,
    again = function(_, letter) return letter, 10 end,
  }
  return run
end

local function job(more)
  local new = { item = "/1", position = 1, size = 0, count = 0 }
  for name, value in pairs(more or {}) do new[name] = value end
  return new
end

local RES = { url = "http://a/1", attempts = 3 }

describe("the verdict", function()
  describe("on records", function()
    it("makes good ones ready, and letters of bad ones", function()
      local run, one = world { validate = function(n) return n ~= 2, "two" end }, job()
      assert.is_true(judge.check(run, one, { 1, 2, 3 }, RES))
      assert.same({ { f = "1,3" }, 2, 2, 1 }, { one.batches, one.size, one.count, #one.bad })
      assert.is_true(judge.bury(run, one))
      assert.same({ { item = "/1", message = "two", where = "item 1",
        more = { request = "/1", record = 2 } } }, run.letters)
      assert.same({ run.letters, 102 }, { one.letters, one.size })
    end)

    it("is that of the sinks too", function()
      local run = world {
        validate = function(n) return n ~= 2, "two" end,
        refuses = function(n) return n == 3 and errors.new("validation", "no column") or nil end,
      }
      local one = job()
      assert.is_true(judge.check(run, one, { 1, 2, 3, 4 }, RES))
      assert.same({ { f = "1,4" }, 2, 2 }, { one.batches, one.count, #one.bad })
      judge.bury(run, one)
      assert.same({ "two", "no column" }, { run.letters[1].message, run.letters[2].message })
    end)

    it("fails the item when a sink cannot write them, as it is not the data", function()
      local run = world { refuses = function() return errors.new("invalid", "nan") end }
      local one = job()
      local ok, err = judge.check(run, one, { 1 }, RES)
      assert.same({ "nil", "nan", "http://a/1", "nil" },
        { tostring(ok), err.message, err.url, tostring(one.frozen) })
    end)

    it("fails the run when that is what is said", function()
      for _, opts in ipairs {
        { schema = schema.compile { contract = "freeze", columns = { a = {} } } },
        { refuses = function() return errors.new("validation", "x", { fatal = true }) end },
        { validate = function() return false end, on_error = "fail" },
        { validate = function() return false end, on_error = function() return "fail" end },
      } do
        local run, one = world(opts), job()
        local ok, err = judge.check(run, one, { { b = 1 } }, RES)
        assert.is_nil(ok)
        one.err = err
        judge.judge(run, one)
        assert.equal("fail", one.verdict)
        assert.same({ "validation", "item 1" }, { err.kind, err.position })
      end
    end)

    it("may be to skip them", function()
      local asked = {}
      local run = world {
        validate = function() return false, "no" end,
        on_error = function(err, item)
          asked[#asked + 1] = { err.kind, err.message, err.record, err.attempts, item }
          return err.record == 1 and "skip" or "dead_letter"
        end,
      }
      local one = job()
      assert.is_true(judge.check(run, one, { 1, 2 }, RES))
      assert.same({ { "validation", "no", 1, 3, "/1" }, { "validation", "no", 2, 3, "/1" } }, asked)
      judge.bury(run, one)
      assert.same({ 2, 1, 2 }, { #one.bad, #run.letters, run.letters[1].more.record })
      run = world { validate = function() return false end, on_error = "skip" }
      one = job()
      judge.check(run, one, { 1 }, RES)
      judge.bury(run, one)
      assert.same({ 1, {}, "nil" }, { #one.bad, run.letters, tostring(one.letters) })
      one = job { letter = { pipeline = "job", record = 5, attempts = 2, url = "u" } }
      judge.again(run, one) -- what is a letter already is not skipped
      judge.bury(run, one)
      assert.same({ 1, 1 }, { #run.letters, #one.letters })
    end)

    it("keeps none of a sample's", function()
      local run, one = world { validate = function(n) return n == 1 end, sample = 5 }, job()
      judge.check(run, one, { 1, 2 }, RES)
      assert.is_true(judge.bury(run, one))
      assert.same({ { 1 }, {} }, { one.records, run.letters })
    end)
  end)

  describe("on an item that failed", function()
    it("is what on_error says", function()
      local err = errors.new("http", "status 404")
      for _, said in ipairs { "dead_letter", "skip", "fail" } do
        for _, on_error in ipairs { said, function() return said end } do
          local run, one = world { on_error = on_error }, job { err = err, request = "/one" }
          judge.judge(run, one)
          assert.equal(said, one.verdict)
          assert.is_true(judge.bury(run, one))
          assert.equal(said == "dead_letter" and 1 or 0, #run.letters)
        end
      end
      assert.error_matches(function()
        judge.judge(world { on_error = function() return "burn" end }, job { err = err })
      end, 'on_error must return "fail", "skip" or "dead_letter", got burn')
    end)

    it("takes with it what was asked for, and what was tried before", function()
      local run = world {}
      local one = job { err = errors.new("http", "x"), request = { url = "/one" }, unread = true,
        letter = { attempts = 4 } }
      judge.judge(run, one)
      judge.bury(run, one)
      assert.same({ request = { url = "/one" }, tried = 4, unread = true }, run.letters[1].more)
    end)
  end)

  describe("on a letter's item", function()
    it("needs a request for an item that failed", function()
      local run = world {}
      assert.is_false(judge.needs_no_request(run, job()))
      assert.is_false(judge.needs_no_request(run, job { letter = { pipeline = "job" } }))
      for _, letter in ipairs { { pipeline = "job", record = 1 }, { pipeline = "job", final = "x" },
        { pipeline = "other" } } do
        assert.is_true(judge.needs_no_request(run, job { letter = letter }))
      end
    end)

    it("judges a bad record again", function()
      local run = world { validate = function(n) return n > 5, "small" end }
      local good = job { letter = { pipeline = "job", record = 6, attempts = 2, url = "u" } }
      assert.is_true(judge.again(run, good))
      assert.same({ { f = "6" }, 1, 1, 0 },
        { good.batches, good.count, good.found, good.filtered })
      local bad = job { letter = { pipeline = "job", record = 5, attempts = 2, url = "u" } }
      assert.is_true(judge.again(run, bad))
      judge.bury(run, bad)
      assert.same({ request = "/1", tried = 2, record = 5 }, run.letters[1].more)
    end)

    it("keeps what cannot be tried again as it is, whatever on_error says", function()
      local run = world { on_error = "skip" }
      local letter = { pipeline = "job", final = "it is masked" }
      local one = job { letter = letter }
      local ok, err = judge.again(run, one)
      assert.is_nil(ok)
      assert.equal("it cannot be tried again: it is masked", err.message)
      one.err = err
      judge.judge(run, one)
      judge.bury(run, one)
      assert.same({ { letter }, 10, {} }, { one.letters, one.size, run.letters })
    end)
  end)
end)
