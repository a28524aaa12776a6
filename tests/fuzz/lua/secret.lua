-- The masking of secrets (lua/orchestrator/secret.lua, mask.lua). Input: two bytes that choose how
-- the secret is written; then, divided by line ends, the secret, what comes before it and after.
-- Properties: the text with the secret in it, in whatever form, comes back without it, also when it
-- is cut at a limit; a text without it comes back as it was.

local kit = require "kit"

local function each(set, form)
  return function(text)
    return (text:gsub(set, function(char)
      return form(char:byte())
    end))
  end
end

local function format(pattern)
  return function(byte)
    return pattern:format(byte)
  end
end

local function plain(text)
  return text
end

local base64

-- As it is in a JSON string, all that is ASCII written as \uXXXX.
local function json_codes(text)
  return each("[%z\1-\127]", format "\\u%04x")(text)
end

-- Forms that keep what stands before and after it apart …
local FORMS = {
  plain,
  each("[^%w%-._~]", format "%%%02X"),
  each("[^%w%-._~]", format "%%%02x"),
  each(".", format "%%%02X"),
  each("[%w]", format "%%%02X"), -- that need none of it
  each("[\"\\/]", format "\\%c"),
  json_codes,
  each("[&<>\"']", format "&#%d;"),
  each("[&<>\"']", format "&#x%X;"),
  each("[^%w]", format "\\x%02x"),
  function(text)
    return each("[^%w%-._~]", format "%%%02X")(each("[^%w%-._~]", format "%%%02X")(text))
  end,
  function(text)
    return json_codes(each("[^%w%-._~]", format "%%%02x")(text))
  end,
}

-- … and those that mix them.
local WHOLES = {
  function(before, text, after)
    return base64(before .. text .. after)
  end,
  function(before, text, after)
    return (base64(before .. text .. after):gsub("[+/=]", { ["+"] = "-", ["/"] = "_", ["="] = "" }))
  end,
  function(before, text, after)
    return each("[+/=]", format "%%%02X")(base64(before .. text .. after))
  end,
}

-- How often a text stands in another, counting those that overlap.
local function count(text, part)
  local n, at = 0, text:find(part, 1, true)
  while at do
    n, at = n + 1, text:find(part, at + 1, true)
  end
  return n
end

-- The base64 digits that nothing but the secret decides, by what may come before it.
local function cores(text)
  local found = {}
  for skipped = 0, 2 do
    local encoded = base64(("\0"):rep(skipped) .. text)
    found[#found + 1] = encoded:sub(skipped > 0 and skipped + 2 or 1,
      math.floor((skipped + #text) * 8 / 6))
  end
  return found
end

local function check_form(secret, text, form, before, after)
  local coded = form(text)
  local masked = secret.mask(before .. coded .. after)
  kit.check(not masked:find(coded, 1, true), "%s in %s", kit.show(text), kit.show(masked))
  local cut = #before + math.floor(#coded / 2)
  masked = secret.mask_start(before .. coded .. after, cut)
  kit.check(not masked:find(coded:sub(1, cut - #before), #before + 1, true)
    or cut - #before < 4, "%s cut in %s", kit.show(text), kit.show(masked))
end

local function check_whole(secret, text, whole, before, after)
  local masked = secret.mask(whole(before, text, after))
  for _, core in ipairs(cores(text)) do
    kit.check(#core < 8 or not masked:find(core, 1, true), "%s in %s", kit.show(text),
      kit.show(masked))
  end
end

return function(input)
  local secret = kit.fresh("orchestrator.mask", "orchestrator.secret")
  base64 = secret.base64
  local reader = kit.reader(input)
  local form, whole = reader:pick(FORMS), reader:pick(WHOLES)
  local text, before, after = reader:field "\n", reader:field "\n", reader:rest()
  text = text:gsub("[*\r]", "x")
  if #text < 4 or #text < 16 and text:find "[%%\\&]" then
    return -- short, or perhaps so once it is unescaped
  end
  if text:find("\\\\", 1, true) or text:find "%%25" or text:find "&#?%w+;" then
    return -- escapes of escapes: as a secret, deeper than mask.lua looks
  end
  kit.check(secret.mask(before .. after) == before .. after, "nothing was known")
  secret.value(text)
  local coded = form(text)
  -- What would be another form together with the secret, or the secret with what follows.
  local unlike = before:find "[%%\\&][%w#\r\n]*$" or text:find "[%%\\&][%w#]*$"
  if not unlike and count(before .. text .. after, text) == 1
    and count(before .. coded .. after, coded) == 1
  then
    check_form(secret, text, form, before, after)
  end
  if count(before .. text .. after, text:sub(2, -2)) == 1 then
    check_whole(secret, text, whole, before, after)
  end
end
