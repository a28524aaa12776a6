#include "lua_file.h"

#include "file.h"

#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Owned by Lua as the upvalue of every function below; its __gc aborts what is still open. */
struct files {
    struct file **list; /* owned, and the files in it; NULL where one has ended */
    int count;          /* an id is a place in the list, from 1, never used twice */
    int *locks;         /* owned, and the descriptors in it; -1 where one was given up */
    int lock_count;     /* ids are places, from 1, as above */
};

static struct files *files_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static struct file **check_file(lua_State *L)
{
    struct files *files = files_of(L);
    int id = luaL_checkint(L, 1);
    luaL_argcheck(L, id >= 1 && id <= files->count && files->list[id - 1], 1, "not an open file");
    return &files->list[id - 1];
}

static int answer(lua_State *L, const char *name, int rc)
{
    if (rc == 0) {
        lua_pushboolean(L, 1);
        return 1;
    }
    lua_pushnil(L);
    lua_pushfstring(L, "cannot write %s: %s", name, file_strerror(rc));
    return 2;
}

static int l_open(lua_State *L)
{
    size_t n;
    const char *path = luaL_checklstring(L, 1, &n);
    struct files *files = files_of(L);
    if (n == 0 || strlen(path) != n) {
        lua_pushnil(L);
        lua_pushliteral(L, "cannot write a file whose name is empty or has a NUL byte in it");
        return 2;
    }
    struct file **list = realloc(files->list, sizeof *list * ((size_t)files->count + 1));
    if (!list)
        return answer(L, path, -ENOMEM);
    files->list = list;

    struct file *f;
    int rc = file_open(&f, path);
    if (rc != 0)
        return answer(L, path, rc);
    files->list[files->count++] = f;
    lua_pushinteger(L, files->count);
    return 1;
}

static int l_mode(lua_State *L)
{
    struct stat st;
    if (stat(luaL_checkstring(L, 1), &st))
        lua_pushnil(L);
    else
        lua_pushinteger(L, (lua_Integer)(st.st_mode & 07777));
    return 1;
}

static int l_write(lua_State *L)
{
    struct file *f = *check_file(L);
    size_t n;
    const char *text = luaL_checklstring(L, 2, &n);
    return answer(L, file_name(f), file_write(f, text, n));
}

static int l_commit(lua_State *L)
{
    struct file **slot = check_file(L);
    struct file *f = *slot;
    lua_pushstring(L, file_name(f)); /* which is freed with it */
    *slot = NULL;
    return answer(L, lua_tostring(L, -1), file_commit(f));
}

static int l_abort(lua_State *L)
{
    struct file **slot = check_file(L);
    file_abort(*slot);
    *slot = NULL;
    return 0;
}

static int l_move(lua_State *L)
{
    const char *to = luaL_checkstring(L, 2);
    return answer(L, to, file_move(luaL_checkstring(L, 1), to));
}

static int l_lock(lua_State *L)
{
    char holder[256];
    struct files *files = files_of(L);
    const char *path = luaL_checkstring(L, 1);
    const char *text = luaL_checkstring(L, 2);
    int *locks = realloc(files->locks, sizeof *locks * ((size_t)files->lock_count + 1));
    if (!locks)
        return answer(L, path, -ENOMEM);
    files->locks = locks;
    int fd = file_lock(path, text, holder, sizeof holder);
    if (fd >= 0) {
        locks[files->lock_count++] = fd;
        lua_pushinteger(L, files->lock_count);
        return 1;
    }
    if (fd == -EWOULDBLOCK) {
        lua_pushnil(L);
        lua_pushstring(L, holder);
        return 2;
    }
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushfstring(L, "cannot lock %s: %s", path, file_strerror(fd));
    return 3;
}

static int l_unlock(lua_State *L)
{
    struct files *files = files_of(L);
    int id = luaL_checkint(L, 1);
    luaL_argcheck(L, id >= 1 && id <= files->lock_count && files->locks[id - 1] >= 0, 1,
                  "not a lock");
    if (!lua_isnoneornil(L, 2))
        (void)unlink(luaL_checkstring(L, 2)); /* while it is ours; it does no harm there */
    close(files->locks[id - 1]);
    files->locks[id - 1] = -1;
    return 0;
}

static int l_gc(lua_State *L)
{
    struct files *files = lua_touserdata(L, 1);
    for (int i = 0; i < files->lock_count; i++)
        if (files->locks[i] >= 0)
            close(files->locks[i]);
    free(files->locks);
    for (int i = 0; i < files->count; i++)
        if (files->list[i])
            file_abort(files->list[i]);
    free(files->list);
    *files = (struct files){0};
    return 0;
}

int luaopen_orchestrator_core_file(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"open", l_open}, {"write", l_write}, {"commit", l_commit}, {"abort", l_abort},
        {"mode", l_mode}, {"move", l_move},   {"lock", l_lock},     {"unlock", l_unlock},
    };
    struct files *files = lua_newuserdata(L, sizeof *files);
    *files = (struct files){0};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, l_gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);

    const size_t n = sizeof functions / sizeof functions[0];
    lua_createtable(L, 0, (int)n);
    for (size_t i = 0; i < n; i++) {
        lua_pushvalue(L, -2);
        lua_pushcclosure(L, functions[i].func, 1);
        lua_setfield(L, -2, functions[i].name);
    }
    return 1;
}
