/*
 * The Lua module `orchestrator.core.rows`: records to the packed rows of tables (rows.h).
 *
 *   pack(records, ids, keys, flags) -> packed, mask | nil, index, name, problem
 *     ids    column's name -> its number, from 1; 0: values of that name are left out
 *     keys   every record must have a value of the columns 1 to keys
 *     flags  "0": no text may have a NUL byte
 *     mask   a byte for each column up to the greatest one used: what it was given, as the sum of
 *            1 boolean, 2 integer, 4 real, 8 text, 16 JSON
 *   A failure is that of records[index]. Without a problem `name` has no number yet; else it is the
 *   field that is wrong, the number of a key's column that is missing, or nil when it is the
 * record.
 *
 * Nulls are left out. Objects and lists become JSON; what has no JSON form is a problem, as is a
 * record with nothing but nulls.
 */
#ifndef LUA_ROWS_H
#define LUA_ROWS_H

struct lua_State;

int luaopen_orchestrator_core_rows(struct lua_State *L);

#endif
