-- Time. Input: a byte that chooses a function, a line with the beginning of a text, then what the
-- rest of it consists of, over and over.
-- Property: no function takes long for a text of 30 KB, which those would that take time squared.

package.loaded["orchestrator.core.file"] = package.loaded["orchestrator.core.file"] or {}
local challenge = require "orchestrator.challenge"
local csv = require "orchestrator.csv"
local errors = require "orchestrator.errors"
local headers = require "orchestrator.headers"
local jsonl = require "orchestrator.jsonl"
local kit = require "kit"
local lines = require "orchestrator.lines"
local netrc = require "orchestrator.netrc"
local proxy = require "orchestrator.proxy"
local retry = require "orchestrator.retry"
local secret = require "orchestrator.secret"
local url = require "orchestrator.url"

local SIZE = 30e3
local LONG = 0.5 -- seconds of this process's time; what is linear takes less than a tenth of it

local BASE = url.parse "http://a/b/c"
secret.value "swordfish"
secret.value 'mackerel "%41'

local function drain(reader)
  repeat local number = reader:next() until number == nil
end

local function field_of(head)
  return headers.get(head, "x")
end

local FUNCTIONS = {
  challenge.parse, errors.escape, field_of, headers.parse, netrc.parse, proxy.parse, proxy.rules,
  secret.mask, url.mask, url.parse,
  function(text)
    retry.after(text, 0)
  end,
  function(text)
    url.join(BASE, text)
  end,
  function(text)
    url.mask(text .. "@")
  end,
  function(text)
    drain(lines.new(kit.pieces(text, 3), { max_line = 1e6 }))
  end,
  function(text)
    drain(jsonl.new(kit.pieces(text, 0), { max_line = 1e6 }))
  end,
  function(text)
    drain(csv.new(kit.pieces(text, 0), { max_line = 1e6, header = false, separator = "," }))
  end,
  function(text)
    drain(csv.new(kit.pieces(text, 0), { max_line = 300, header = false, separator = "," }))
  end,
}

return function(input)
  local reader = kit.reader(input)
  local fn = reader:pick(FUNCTIONS)
  local before, part = reader:field "\n", reader:rest()
  if part == "" then return end
  local text = before .. part:rep(math.floor(SIZE / #part))
  local started = os.clock()
  fn(text)
  local took = os.clock() - started
  kit.check(took < LONG, "%.2f s for %s and %s over again", took, kit.show(before), kit.show(part))
end
