local errors = require "orchestrator.errors"
local session = require "orchestrator.session"
local steps = require "orchestrator.steps"

describe("the steps of a program", function()
  local finish = session.finish
  after_each(function() session.finish = finish end)

  it("tell when it cannot be written down that the program has ended", function()
    local finished = 0
    function session.finish() finished = finished + 1 end
    local full = errors.new("invalid", "no room")
    local given = { host = { wall = function() return 7 end } }

    local done = steps.new(given)
    assert.is_true(done:close(true)) -- there were none
    assert.equal(0, finished)
    done.journal = { close = function(_, status, at)
      assert.same({ "finished", 7 }, { status, at })
      return nil, full
    end }
    assert.same({ nil, full }, { done:close(true) })
    assert.equal(1, finished)
  end)
end)
