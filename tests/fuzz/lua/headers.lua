-- The fields of a response head (lua/orchestrator/headers.lua). Input: the head.
-- Properties: `parse` gives what a reading line by line gives that unfolds the text first (RFC 9112
-- section 5.2); `get` gives the same for every name and nil for others; no value holds a line break
-- but those of cookies, and none can be sent on as two fields.

local headers = require "orchestrator.headers"
local kit = require "kit"

local function trim(value)
  return (value:gsub("^[%z\1-\32]+", ""):gsub("[%z\1-\32]+$", ""))
end

-- Name → value, and all that stands before a colon.
local function reading(head)
  local fields, names = {}, {}
  local text = head:match "^[^\n]*\n(.*)$" or ""
  local first = true
  for line in (text:gsub("\r?\n[ \t]+", "\0fold\0") .. "\n"):gmatch "([^\n]*)\n" do
    local starts_folded = first and line:find "^[ \t]"
    first = false
    line = line:gsub("%zfold%z", " ")
    local name, value = line:match "^([^:]*):(.*)$"
    if name then names[name:lower()] = true end
    if name and name:find "^%S+$" and not starts_folded then
      name, value = name:lower(), trim(value)
      local mark = name == "set-cookie" and "\n" or ", "
      fields[name] = fields[name] and fields[name] .. mark .. value or value
    end
  end
  return fields, names
end

return function(input)
  if input:find("\0fold", 1, true) then return end
  local fields = headers.parse(input)
  local expected, names = reading(input)
  for name, value in pairs(expected) do
    kit.check(fields[name] == value, "%s: %s, not %s", kit.show(name), kit.show(fields[name]),
      kit.show(value))
  end
  for name, value in pairs(fields) do
    kit.check(expected[name], "a field %s", kit.show(name))
    kit.check(headers.get(input, name) == value, "get %s gives %s", kit.show(name),
      kit.show(headers.get(input, name)))
    local text = headers.text(headers.merge { [name] = value })
    kit.check(not text or text:find "^[^\r\n]+\n$", "sent on as %s", kit.show(text))
  end
  for name in pairs(names) do
    kit.check(not name:find "^%S+$" or fields[name] == headers.get(input, name),
      "%s is not the same in both", kit.show(name))
  end
end
