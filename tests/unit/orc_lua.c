/*
 * orc-lua FILE [ARG…]: runs a Lua file in the program's own Lua state, as the specs are. The
 * modules come from lua/ of the working directory, so that they are tested without a build. The
 * runtime's host is the module "real_host".
 */
#include "host.h"
#include "runtime.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

static int traceback(lua_State *L)
{
    if (lua_isstring(L, 1)) /* busted has told all when it raises nil */
        luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

static void preload_host(lua_State *L, struct host *host)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaded");
    host_push(L, host);
    lua_setfield(L, -2, "real_host");
    lua_pop(L, 2);
}

static int run(lua_State *L, int argc, char **argv)
{
    lua_pushcfunction(L, traceback);
    lua_createtable(L, argc, 1);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i - 1);
    }
    lua_setglobal(L, "arg");
    if (luaL_loadfile(L, argv[1]) == 0 && lua_pcall(L, 0, 0, 1) == 0)
        return 0;
    if (lua_isstring(L, -1))
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
    return 1;
}

int main(int argc, char **argv)
{
    struct runtime *rt;

    if (argc < 2) {
        fprintf(stderr, "usage: orc-lua FILE [ARG...]\n");
        return 2;
    }
    int rc = runtime_create(&rt, "lua");
    if (rc != 0) {
        fprintf(stderr, "orc-lua: %s\n", strerror(-rc));
        return 2;
    }
    preload_host(runtime_lua(rt), runtime_host(rt));
    int status = run(runtime_lua(rt), argc, argv);
    rc = runtime_destroy(rt);
    if (rc != 0) {
        fprintf(stderr, "orc-lua: a handle was left open: %s\n", strerror(-rc));
        return 1;
    }
    return status;
}
