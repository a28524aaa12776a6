/*
 * The Lua module `orchestrator.core.file`: files that are written whole (file.h) as numeric ids,
 * and what else Lua needs of files at once.
 *
 *   open(path) -> id | nil, message
 *   write(id, text), commit(id) -> true | nil, message
 *   abort(id)
 *   mode(path) -> the permission bits of any file | nil
 *   move(from, to) -> true | nil, message                    file_move
 *   lock(path, text) -> id | nil, what its holder wrote | nil, nil, message        file_lock
 *   unlock(id, path|nil)           as the end of the process does, however it comes; with its path
 *                                  the file is removed
 *
 * Files left open are aborted, locks given up when the Lua state closes.
 */
#ifndef LUA_FILE_H
#define LUA_FILE_H

struct lua_State;

int luaopen_orchestrator_core_file(struct lua_State *L);

#endif
