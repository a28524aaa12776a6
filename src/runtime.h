/*
 * A Lua state with our modules in it, its loop and its host. Nothing in it is global: a process
 * may have several.
 */
#ifndef RUNTIME_H
#define RUNTIME_H

#include <lua.h>

struct host;
struct runtime;

/* With `lua_dir` the Lua half comes from DIR/orchestrator/…, otherwise from the binary. Returns 0
 * or a negative errno. */
int runtime_create(struct runtime **out, const char *lua_dir);

/* Runs the program (orchestrator/app.lua) on a command line. Returns the exit status. */
int runtime_main(struct runtime *rt, int argc, char **argv);

/* The main Lua state, for tests. Borrowed. */
lua_State *runtime_lua(struct runtime *rt);

/* Its host, for tests. Borrowed. */
struct host *runtime_host(struct runtime *rt);

/* Tells the running program of a signal. Async-signal-safe. */
void runtime_signal(struct runtime *rt, int signum);

/* Closes everything. Returns 0; -EBUSY when a handle was left open, which is a bug; -EAGAIN when a
 * lookup of a name still runs, which exit() would wait for. */
int runtime_destroy(struct runtime *rt);

#endif
