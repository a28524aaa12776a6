/*
 * The Lua module `orchestrator.core.file`: output files (file.h) as numeric ids.
 *
 *   open(path, "replace"|"append"|"stdout") -> id, tail | nil, message
 *   cut(id), write(id, text), flush(id), sync(id), commit(id), abort(id) -> true | nil, message
 *   terminal(id) -> whether it is stdout and that is a terminal
 *   mode(path) -> the permission bits of any file | nil
 *
 * `tail` is the unterminated last line of a file opened to append, nil when there is none. Files
 * left open are aborted when the Lua state closes.
 */
#ifndef LUA_FILE_H
#define LUA_FILE_H

struct lua_State;

int luaopen_orchestrator_core_file(struct lua_State *L);

#endif
