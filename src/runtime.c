#include "runtime.h"

#include "embedded.h"
#include "host.h"
#include "json.h"
#include "loop.h"
#include "lua_crypto.h"
#include "lua_file.h"
#include "lua_postgres.h"
#include "lua_rows.h"

#include <errno.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct runtime {
    lua_State *L; /* owned; the main state */
    struct loop loop;
    struct host *host; /* owned */
};

/* A package.loaders function: finds a module that is part of the binary. */
static int search_embedded(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    for (size_t i = 0; i < embedded_modules_count; i++) {
        const struct embedded_module *m = &embedded_modules[i];
        if (strcmp(m->name, name) != 0)
            continue;
        if (luaL_loadbuffer(L, (const char *)m->code, m->size, name))
            return lua_error(L);
        return 1;
    }
    lua_pushfstring(L, "\n\tno module '%s' in the binary", name);
    return 1;
}

static void preload(lua_State *L, const char *name, lua_CFunction open)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, name);
    lua_pop(L, 2);
}

/* Puts search_embedded right after package.preload, or, with a source directory, last and the
 * directory first on the path. */
static void set_search(lua_State *L, const char *lua_dir)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    int last = (int)lua_objlen(L, -1);
    int at = lua_dir ? last + 1 : 2;
    for (int i = last; i >= at; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, search_embedded);
    lua_rawseti(L, -2, at);
    lua_pop(L, 1);
    if (lua_dir) {
        lua_getfield(L, -1, "path");
        lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s", lua_dir, lua_dir, lua_tostring(L, -1));
        lua_setfield(L, -3, "path");
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* os.exit; the original leaves files half written, those of transfers too. And exit() would wait
 * for the lookups that run. */
static int close_and_exit(lua_State *L)
{
    struct host *host = lua_touserdata(L, lua_upvalueindex(1));
    int status = lua_isboolean(L, 1) ? !lua_toboolean(L, 1) : luaL_optint(L, 1, EXIT_SUCCESS);
    lua_close(L);
    host_destroy(host);
    fflush(NULL);
    _exit(status);
}

static int open_all(lua_State *L)
{
    const char *lua_dir = lua_touserdata(L, 1);
    luaL_openlibs(L);
    preload(L, "orchestrator.core.json", luaopen_orchestrator_core_json);
    preload(L, "orchestrator.core.file", luaopen_orchestrator_core_file);
    preload(L, "orchestrator.core.crypto", luaopen_orchestrator_core_crypto);
    preload(L, "orchestrator.core.postgres", luaopen_orchestrator_core_postgres);
    preload(L, "orchestrator.core.rows", luaopen_orchestrator_core_rows);
    set_search(L, lua_dir);
    return 0;
}

int runtime_create(struct runtime **out, const char *lua_dir)
{
    struct runtime *rt = calloc(1, sizeof *rt);
    if (!rt)
        return -ENOMEM;
    int rc = loop_init(&rt->loop);
    if (rc) {
        free(rt);
        return rc;
    }
    rc = host_create(&rt->host, &rt->loop);
    if (rc == 0) {
        rt->L = luaL_newstate();
        if (!rt->L || lua_cpcall(rt->L, open_all, (void *)lua_dir))
            rc = -ENOMEM;
    }
    if (rc) {
        (void)runtime_destroy(rt);
        return rc;
    }
    *out = rt;
    return 0;
}

/* Without memory there is none for a traceback, and LuaJIT itself adds none. */
static int with_traceback(lua_State *L)
{
    if (!lua_isstring(L, 1) && luaL_callmeta(L, 1, "__tostring")) {
        lua_replace(L, 1);
        lua_settop(L, 1);
    }
    const char *message = lua_tostring(L, 1);
    if (message && strcmp(message, "not enough memory") == 0)
        return 1;
    luaL_traceback(L, L, message ? message : "(an error that is not a string)", 1);
    return 1;
}

/* One call of the program. */
struct program {
    struct host *host; /* borrowed */
    int argc;
    char **argv; /* borrowed */
    int code;    /* the exit status, when it has returned one */
};

static void call(lua_State *L, int arguments, int handler)
{
    if (lua_pcall(L, arguments, 1, handler))
        (void)lua_error(L); /* with the traceback that is in it now */
}

static int run_program(lua_State *L)
{
    struct program *p = lua_touserdata(L, 1);
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe);

    lua_getglobal(L, "os");
    lua_pushlightuserdata(L, p->host);
    lua_pushcclosure(L, close_and_exit, 1);
    lua_setfield(L, -2, "exit");

    lua_settop(L, 0);
    lua_pushcfunction(L, with_traceback);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "orchestrator.app");
    call(L, 1, 1);
    lua_getfield(L, -1, "main");
    host_push(L, p->host);
    lua_createtable(L, p->argc, 0);
    for (int i = 1; i < p->argc; i++) {
        lua_pushstring(L, p->argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_pushlstring(L, exe, n > 0 ? (size_t)n : 0);
    lua_setfield(L, -2, "exe");
    call(L, 2, 1);
    p->code = (int)lua_tointeger(L, -1);
    return 0;
}

int runtime_main(struct runtime *rt, int argc, char **argv)
{
    lua_State *L = rt->L;
    struct program program = {.host = rt->host, .argc = argc, .argv = argv, .code = 1};

    lua_settop(L, 0);
    if (lua_cpcall(L, run_program, &program)) {
        const char *message = lua_tostring(L, -1);
        fprintf(stderr, "orchestrator: %s\n", message ? message : "unknown error");
        program.code = 1;
    }
    lua_settop(L, 0);
    return program.code;
}

lua_State *runtime_lua(struct runtime *rt)
{
    return rt->L;
}

struct host *runtime_host(struct runtime *rt)
{
    return rt->host;
}

void runtime_signal(struct runtime *rt, int signum)
{
    loop_signal(&rt->loop, signum);
}

int runtime_destroy(struct runtime *rt)
{
    if (rt->L)
        lua_close(rt->L);
    if (rt->host)
        host_destroy(rt->host);
    int rc = loop_close(&rt->loop);
    if (rc != -EAGAIN)
        free(rt);
    return rc;
}
