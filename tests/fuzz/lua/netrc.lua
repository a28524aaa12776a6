-- .netrc files (lua/orchestrator/netrc.lua). Input: the text.
-- Properties: it is read, or refused with the number of a line and none of its words; an entry made
-- of the input's words, quoted, reads back.

package.loaded["orchestrator.core.file"] = package.loaded["orchestrator.core.file"] or {}
local kit = require "kit"
local netrc = require "orchestrator.netrc"

local REASONS = {
  ["a quote is not closed"] = true, ["the value is missing"] = true,
  ["there is a word that means nothing here"] = true,
}

local function quoted(text)
  return '"' .. text:gsub('["\\]', "\\%0"):gsub("\n", "\\n"):gsub("\r", "\\r") .. '"'
end

return function(input)
  local found, problem = netrc.parse(input)
  if not found then
    kit.check(REASONS[problem:match "^line %d+: (.*)$"], "a message %s", kit.show(problem))
  else
    for name, entry in pairs(found.machines) do
      kit.check(name == name:lower() and type(entry) == "table", "machine %s", kit.show(name))
    end
  end
  local reader = kit.reader(input)
  local name, login, password = reader:field "\n", reader:field "\n", reader:rest()
  found = assert(netrc.parse(("# x\nmachine %s login %s\n\tpassword %s"):format(quoted(name),
    quoted(login), quoted(password))))
  local entry = found.machines[name:lower()]
  kit.check(entry and entry.login == login and entry.password == password,
    "%s, %s, %s became %s, %s", kit.show(name), kit.show(login), kit.show(password),
    kit.show(entry and entry.login), kit.show(entry and entry.password))
end
