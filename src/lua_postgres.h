/*
 * PostgreSQL (postgres.h) for Lua, as numeric ids. What the host's table has of it:
 *
 *   postgres_open(url, durable) -> id | nil, message     nothing is connected yet
 *   postgres_run(id, steps) -> number of the job, which is negative
 *       steps = {{sql, param, …, n, expect, message} | {sql, packed, kinds, binary}, …}
 *         param    a text, a number, a boolean or nil; goes as text
 *         n        how many there are, where the last one is nil
 *         expect   rows that it must change, or the job fails with `message`
 *         packed   texts: the rows (lua_rows.h) of a COPY … FROM STDIN; `kinds` as in rows.h
 *         binary   the COPY is of that format
 *       host.poll delivers {rows = {{text or nil, …}, …}} | {fault = "postgres", code, message}
 *   postgres_close(id)     what has not been done is dropped
 *
 * And the module `orchestrator.core.postgres`:
 *
 *   check(url) -> true, password or nil | nil, message
 */
#ifndef LUA_POSTGRES_H
#define LUA_POSTGRES_H

#include <lua.h>
#include <stdbool.h>
#include <uv.h>

struct postgreses;

int luaopen_orchestrator_core_postgres(lua_State *L);

/* `on_done(ctx)` is called from the loop when results are there to be pushed. `loop` and `ctx` are
 * borrowed until postgreses_destroy. NULL when out of memory. */
struct postgreses *postgreses_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx);

/* Adds the functions to the table on top of the stack. */
void postgreses_register(lua_State *L, struct postgreses *all);

/* Whether there is a result. */
bool postgreses_ready(struct postgreses *all);

/* Pushes the number of a job that is done, and its result. May raise for want of memory; then the
 * result is still there. */
void postgreses_push(lua_State *L, struct postgreses *all);

/* Closes all of them. The loop must run once more before it is closed. */
void postgreses_destroy(struct postgreses *all);

#endif
