/*
 * Databases (store.h) for Lua, as numeric ids. What the host's table has of them:
 *
 *   store_directory(path) -> true | nil, message       makes a directory, with mode 0700
 *   store_open(path, options) -> id | nil, reason, message
 *       options = {durable, shared = not only ours (mode 0666, empty ones are fine),
 *       output = shared, and more in database.h,
 *       functions, snapshots, shrinks, application_id, migrations = {sql, …}}   see database.h
 *       reason = "failed" "read_only" "not_a_database" "corrupt" "foreign" "newer" "busy"
 *   store_run(id, statements) -> number of the job, which is negative
 *       statements = {{sql, value, …} | {sql, rows = {{value, …}, …}, width = values in a row} |
 *       {sql, packed = {text, …}, kinds = text}, …}     rows of lua_rows.h, kinds of rows.h
 *       or rows = {value, …}, all of them, with blobs = "b-…", a letter a column, b for blobs
 *       with `also` = a second SQL each row is given to, whole; the first may take fewer values
 *       host.poll delivers {rows = {{…}, …}, changes} | {fault = "state", code, message}
 *   store_read(id, sql, value, …) -> rows | nil, code, message       at once, on the loop
 *   store_close(id)                                    waits for its jobs, whose results are
 * dropped
 *
 * Values: nil, booleans (as 0 and 1), numbers (INTEGER when they are whole and exact), texts (TEXT
 * when they are UTF-8, otherwise BLOB), {blob = text}. From the database NULL comes as nil, an
 * integer that a number cannot hold as a decimal text.
 */
#ifndef LUA_STORE_H
#define LUA_STORE_H

#include <lua.h>
#include <stdbool.h>
#include <uv.h>

struct stores;

/* `on_done(ctx)` is called from the loop when results are there to be pushed. `loop` and `ctx` are
 * borrowed until stores_destroy. NULL when out of memory. */
struct stores *stores_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx);

/* Adds the functions to the table on top of the stack. */
void stores_register(lua_State *L, struct stores *stores);

/* Whether there is a result. */
bool stores_ready(struct stores *stores);

/* To be called before the loop waits: what is read from now on is what is there (store_rest). */
void stores_rest(struct stores *stores);

/* Pushes the number of a job that is done, and its result. May raise for want of memory; then the
 * result is still there. */
void stores_push(lua_State *L, struct stores *stores);

/* Closes all of them. The loop must run once more before it is closed. */
void stores_destroy(struct stores *stores);

#endif
