-- Lines and JSON Lines out of pieces (lua/orchestrator/lines.lua, jsonl.lua), and UTF-8 in source
-- files. Input: a byte for the longest line allowed, one that chooses the pieces, then the text.
-- Properties: what is read does not depend on the pieces; the lines are those of the text, numbered
-- from 1, and none is longer than allowed; a piece that fails ends it, and gives no half of a line.

local jsonl = require "orchestrator.jsonl"
local json = require "orchestrator.json"
local kit = require "kit"
local lines = require "orchestrator.lines"
local source = require "orchestrator.source"

local MOST = { 1e6, 1, 3, 10, 200 }

-- All that a reader gives, as lists of what `next` gave.
local function all(reader)
  local out = {}
  for i = 1, 1e5 do
    local number, record, problem, kind = reader:next()
    out[i] = { number or "end", record == nil and "nil" or record, problem, kind }
    if number == nil then return out end
  end
  error "it does not end"
end

local function check_lines(text, most, found)
  local body = text:gsub("^\239\187\191", "")
  if body ~= "" and not body:find "\n$" then body = body .. "\n" end
  local n = 0
  for line in body:gmatch "([^\n]*)\n" do
    n = n + 1
    local one = found[n]
    kit.check(one[1] == n, "line %d is called %s", n, one[1])
    if #line > most then
      kit.check(one[4] == "too_large" and line:find(one[2], 1, true) == 1, "line %d", n)
    else
      kit.check(one[3] == nil and one[2] == line:gsub("\r$", ""), "line %d is %s", n,
        kit.show(one[2]))
    end
  end
  kit.check(#found == n + 1 and found[n + 1][3] == nil, "%d lines, not %d", #found - 1, n)
end

return function(input)
  local reader = kit.reader(input)
  local opts, seed = { max_line = reader:pick(MOST) }, reader:byte()
  local text = reader:rest()
  local whole = all(lines.new(kit.pieces(text, 0), opts))
  check_lines(text, opts.max_line, whole)
  kit.check(kit.equal(whole, all(lines.new(kit.pieces(text, seed), opts))), "pieces matter")
  local failing = all(lines.new(kit.pieces(text, seed, "broken"), opts))
  kit.check(failing[#failing][3] == "broken", "the failure is lost")
  for i = 1, #failing - 1 do
    kit.check(kit.equal(failing[i], whole[i]), "line %d is only a half", i)
  end
  local values = all(jsonl.new(kit.pieces(text, 0), opts))
  kit.check(kit.equal(values, all(jsonl.new(kit.pieces(text, seed), opts))), "pieces matter")

  local bad = source.bad_utf8(text)
  kit.check((bad == nil) == (json.encode(text) ~= nil), "bad_utf8 says %s of %s", bad,
    kit.show(text))
  kit.check(not bad or json.encode(text:sub(1, bad - 1)), "it is bad before byte %s", bad)
end
