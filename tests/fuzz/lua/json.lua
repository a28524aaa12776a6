-- JSON there and back (src/json.c, src/json_encode.c, cjson). Input: the text.
-- Properties: a text is either an error of kind "decode", in one printable line, or a value that is
-- equal by value after being encoded and decoded again, with the same text the second time.

local json = require "orchestrator.json"
local errors = require "orchestrator.errors"
local kit = require "kit"

return function(input)
  local value, err = json.decode(input)
  if err then
    kit.check(value == nil and errors.is(err) and err.kind == "decode", "not a decode error")
    kit.check(not tostring(err):find "[^ -~]", "unprintable: %s", err)
    return
  end
  local text = assert(json.encode(value))
  local again, problem = json.decode(text)
  kit.check(not problem, "%s became %s: %s", kit.show(input), text, problem)
  kit.check(kit.equal(value, again), "%s became %s", kit.show(input), text)
  kit.check(json.encode(again) == text, "%s became %s", text, json.encode(again))
end
