-- CSV out of pieces (lua/orchestrator/csv.lua). Input: bytes for the longest line allowed, for the
-- header and separator, and for the pieces; then the text.
-- Properties: what is read does not depend on the pieces; records that are all good are the same
-- after being written (RFC 4180) and read again; a piece that fails ends it; a record made of the
-- input's lines reads back.

local csv = require "orchestrator.csv"
local kit = require "kit"

local MOST = { 1e6, 10, 200 }
local KINDS = { { true, "," }, { false, "," }, { false, ";" }, { true, "\t" }, { false, " " } }

local function all(reader)
  local out, good = {}, true
  for i = 1, 1e5 do
    local number, record, problem, kind = reader:next()
    out[i] = { number or "end", record == nil and "nil" or record, problem, kind }
    good = good and problem == nil
    if number == nil then return out, good end
  end
  error "it does not end"
end

local function written(records, separator)
  local out = {}
  for _, record in ipairs(records) do
    local fields = {}
    for i, field in ipairs(record) do fields[i] = '"' .. field:gsub('"', '""') .. '"' end
    out[#out + 1] = table.concat(fields, separator) .. "\r\n"
  end
  return table.concat(out)
end

local function check_same(records, separator, seed)
  local opts = { max_line = 1e6, header = false, separator = separator }
  local again, good = all(csv.new(kit.pieces(written(records, separator), seed), opts))
  kit.check(good and #again == #records + 1, "%d of %d records", #again - 1, #records)
  for i, record in ipairs(records) do
    kit.check(kit.equal(again[i][2], record), "record %d became %s", i, kit.show(again[i][2][1]))
  end
end

local function lines_of(text)
  local fields = {}
  for line in (text .. "\n"):gmatch "([^\n]*)\n" do fields[#fields + 1] = line end
  return fields
end

return function(input)
  local reader = kit.reader(input)
  local most, kind, seed = reader:pick(MOST), reader:pick(KINDS), reader:byte()
  local opts = { max_line = most, header = kind[1], separator = kind[2] }
  local text = reader:rest()
  local whole, good = all(csv.new(kit.pieces(text, 0), opts))
  kit.check(kit.equal(whole, (all(csv.new(kit.pieces(text, seed), opts)))), "pieces matter")
  local failing = all(csv.new(kit.pieces(text, seed, "broken"), opts))
  kit.check(failing[#failing][3] == "broken", "the failure is lost")
  if good and not opts.header and #whole > 1 then
    local records = {}
    for i = 1, #whole - 1 do records[i] = whole[i][2] end
    check_same(records, opts.separator, seed)
  end
  check_same({ lines_of(text), { text } }, opts.separator, seed)
end
