/*
 * Output files with threads of their own (writer.h) for Lua, as numeric ids. What the host's table
 * has of them:
 *
 *   output_create() -> id | nil, message
 *   output_run(id, job) -> number of the job, which is negative; host.poll delivers its result
 *     {op = "open", path, mode = "replace" | "append" | "stdout", codec = nil | "gzip" | "zstd",
 *      durable, resume = size to go back to, finishing}            the first one
 *                                          {size, finished, terminal}
 *     {op = "scan"}                        {size, head, tail, ending, whole, last}   to append
 *     {op = "keep", keep = size}           {size}
 *     {op = "write", texts = {…}, closer, sync}
 *                                          {size}
 *     {op = "finish", closer, header, columns, delimiter}
 *                                          {size}
 *     each of them, when it fails:         {fault = "output", code, message}
 *       code = "full" "too_large" "denied" "io" "busy" "gone" "shorter" "corrupt" "no_reader"
 *       "failed"
 *   output_close(id, discard)              waits for its jobs, whose results are dropped
 *
 * What the fields mean is told in output.h.
 */
#ifndef LUA_WRITER_H
#define LUA_WRITER_H

#include <lua.h>
#include <stdbool.h>
#include <uv.h>

struct writers;

/* `on_done(ctx)` is called from the loop when results are there to be pushed. `loop` and `ctx` are
 * borrowed until writers_destroy. NULL when out of memory. */
struct writers *writers_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx);

/* Adds the functions to the table on top of the stack. */
void writers_register(lua_State *L, struct writers *writers);

/* Whether there is a result. */
bool writers_ready(struct writers *writers);

/* Pushes the number of a job that is done, and its result. May raise for want of memory; then the
 * result is still there. */
void writers_push(lua_State *L, struct writers *writers);

/* Closes all of them; what is not finished stays as it is if it is durable, and else is discarded.
 * The loop must run once more before it is closed. */
void writers_destroy(struct writers *writers);

#endif
