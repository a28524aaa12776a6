-- The SQL that all dialects of tables share.

local table_sql = {}

--- A name as an identifier, whatever is in it.
---@param name string
---@return string
function table_sql.quote(name)
  return '"' .. name:gsub('"', '""') .. '"'
end

local quote = table_sql.quote

--- Names as a list of identifiers.
---@param names string[]
---@return string
function table_sql.quoted(names)
  local list = {}
  for i, name in ipairs(names) do list[i] = quote(name) end
  return table.concat(list, ", ")
end

local quoted = table_sql.quoted

--- Statements that give a table its new rows, out of another one, which goes. A table that is there
--- keeps all but its rows. Whoever reads it sees the old ones or the new ones, and is not waited
--- for.
---@param from string
---@param list table[]|nil the columns of that, nil when it was never made
---@param to string
---@param exists boolean
function table_sql.swap(from, list, to, exists)
  local statements = {}
  if not exists then
    if list then
      statements[1] = { string.format("ALTER TABLE %s RENAME TO %s", quote(from), quote(to)) }
    end
    return statements
  end
  statements[1] = { "DELETE FROM " .. quote(to) }
  if list then
    local names = {}
    for i, column in ipairs(list) do names[i] = column.name end
    statements[2] = { string.format("INSERT INTO %s (%s) SELECT %s FROM %s", quote(to),
      quoted(names), quoted(names), quote(from)) }
    statements[3] = { "DROP TABLE " .. quote(from) }
  end
  return statements
end

return table_sql
