#include "json.h"

#include "bytes.h"
#include "json_encode.h"
#include "json_scan.h"

#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <stdbool.h>

/* From lua-cjson, whose header lies outside the include path of LuaJIT. */
int luaopen_cjson(lua_State *L);

enum { KEPT_BYTES = 1024 * 1024 }; /* of a buffer, from one call to the next */

/* The working memory of one call at a time. */
struct codec {
    bool busy;
    struct bytes text;    /* decode: the text for cjson; encode: the result; either's error */
    struct bytes members; /* encode */
};

/* The upvalues of decode and encode. */
enum { UP_CODEC = 1, UP_ARRAY, UP_CJSON };

static const char CODEC[] = "orchestrator.json.codec";

static int codec_gc(lua_State *L)
{
    struct codec *c = lua_touserdata(L, 1);
    bytes_deinit(&c->text);
    bytes_deinit(&c->members);
    return 0;
}

/* Pushes a codec, owned by Lua. */
static struct codec *codec_push(lua_State *L)
{
    struct codec *c = lua_newuserdata(L, sizeof *c);
    *c = (struct codec){0};
    if (luaL_newmetatable(L, CODEC)) {
        lua_pushcfunction(L, codec_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return c;
}

/* The shared codec, or one for this call alone when the shared one is in use: by a call around this
 * one, which is in a finalizer, or by a call that ended in Lua's out-of-memory error. */
static struct codec *codec_take(lua_State *L)
{
    struct codec *c = lua_touserdata(L, lua_upvalueindex(UP_CODEC));
    if (c->busy)
        c = codec_push(L);
    c->busy = true;
    return c;
}

static void codec_give(struct codec *c)
{
    bytes_trim(&c->text, KEPT_BYTES);
    bytes_trim(&c->members, KEPT_BYTES);
    c->busy = false;
}

/* Gives the codec back after a failure: pushes nil and the message, or raises without memory. */
static int codec_fail(lua_State *L, struct codec *c, int status)
{
    if (status == -ENOMEM) {
        codec_give(c);
        return luaL_error(L, "not enough memory");
    }
    lua_pushnil(L);
    lua_pushlstring(L, c->text.data, c->text.len);
    codec_give(c);
    return 2;
}

/* cjson's memory ------------------------------------------------------------------------------- */

/* A call of cjson. Its buffer (strbuf) ends the process when there is no memory, and is lost when
 * Lua raises meanwhile. So cjson is linked with --wrap: what it calls is here. */
struct cjson_call {
    lua_State *L;           /* borrowed */
    void *buffer;           /* the buffer it has made and not yet freed; NULL */
    struct cjson_call *out; /* the call around this one, which is in a finalizer; NULL */
};

static _Thread_local struct cjson_call *innermost;

/* Their names in cjson, and what they call. */
void *__wrap_strbuf_new(int size);
void *__real_strbuf_new(int size);
void __wrap_strbuf_free(void *buffer);
void __real_strbuf_free(void *buffer);
_Noreturn void __wrap_exit(int status);
_Noreturn void __real_exit(int status);

void *__wrap_strbuf_new(int size)
{
    void *buffer = __real_strbuf_new(size);
    if (innermost)
        innermost->buffer = buffer;
    return buffer;
}

void __wrap_strbuf_free(void *buffer)
{
    if (innermost && innermost->buffer == buffer)
        innermost->buffer = NULL;
    __real_strbuf_free(buffer);
}

_Noreturn void __wrap_exit(int status)
{
    if (innermost)
        (void)luaL_error(innermost->L, "not enough memory");
    __real_exit(status);
}

/* lua_call for a function of cjson's. */
static void cjson_call(lua_State *L, int arguments, int results)
{
    struct cjson_call call = {.L = L, .out = innermost};
    innermost = &call;
    int status = lua_pcall(L, arguments, results, 0);
    innermost = call.out;
    if (call.buffer)
        __real_strbuf_free(call.buffer);
    if (status)
        (void)lua_error(L);
}

/* Decoding and encoding ------------------------------------------------------------------------ */

/* Pushes an empty table that is marked as an array. */
static void array_push(lua_State *L)
{
    lua_newtable(L);
    lua_pushvalue(L, lua_upvalueindex(UP_ARRAY));
    lua_setmetatable(L, -2);
}

/* Puts empty marked arrays in place of the NaNs below the table on top of the stack, until none of
 * the `left` is left. There may be fewer: of duplicate keys only the last has its value kept. */
static void restore_arrays(lua_State *L, size_t *left)
{
    int table = lua_gettop(L);
    luaL_checkstack(L, 4, "json");
    lua_pushnil(L);
    while (*left > 0 && lua_next(L, table)) {
        if (lua_istable(L, -1)) {
            restore_arrays(L, left);
        } else if (lua_type(L, -1) == LUA_TNUMBER && isnan(lua_tonumber(L, -1))) {
            lua_pushvalue(L, -2);
            array_push(L);
            lua_rawset(L, table);
            --*left;
        }
        lua_pop(L, 1);
    }
    lua_settop(L, table);
}

static int json_decode(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TSTRING);
    lua_settop(L, 1);
    size_t len, nans;
    const char *text = lua_tolstring(L, 1, &len);
    struct codec *c = codec_take(L);
    int rc = json_scan_text(text, len, &c->text, &nans);
    if (rc != 0)
        return codec_fail(L, c, rc);

    lua_pushvalue(L, lua_upvalueindex(UP_CJSON));
    if (c->text.len == 0)
        lua_pushvalue(L, 1);
    else
        lua_pushlstring(L, c->text.data, c->text.len);
    codec_give(c);
    cjson_call(L, 1, 1);
    if (nans == 0)
        return 1;
    if (lua_istable(L, -1))
        restore_arrays(L, &nans);
    else
        array_push(L);
    return 1;
}

static int json_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    struct codec *c = codec_take(L);
    const void *array = lua_topointer(L, lua_upvalueindex(UP_ARRAY));
    lua_pushvalue(L, 1);
    int rc = json_encode_value(L, array, &c->text, &c->members);
    if (rc != 0)
        return codec_fail(L, c, rc);
    lua_pushlstring(L, c->text.data, c->text.len);
    codec_give(c);
    return 1;
}

static int json_array(lua_State *L)
{
    lua_settop(L, 1);
    if (lua_isnil(L, 1)) {
        array_push(L);
        return 1;
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    bool other = lua_getmetatable(L, 1) && !lua_rawequal(L, -1, lua_upvalueindex(UP_ARRAY));
    luaL_argcheck(L, !other, 1, "it has another metatable");
    lua_pushvalue(L, lua_upvalueindex(UP_ARRAY));
    lua_setmetatable(L, 1);
    lua_settop(L, 1);
    return 1;
}

/* Pushes the decode function of a cjson of our own: settings are per instance. */
static void cjson_push(lua_State *L)
{
    int top = lua_gettop(L);
    lua_pushcfunction(L, luaopen_cjson);
    cjson_call(L, 0, 1);
    lua_getfield(L, top + 1, "decode_max_depth");
    lua_pushinteger(L, JSON_MAX_DEPTH);
    lua_call(L, 1, 0);
    lua_getfield(L, top + 1, "decode_invalid_numbers"); /* for the nan of empty arrays */
    lua_pushboolean(L, true);
    lua_call(L, 1, 0);
    lua_getfield(L, top + 1, "decode");
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
}

int luaopen_orchestrator_core_json(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"decode", json_decode},
        {"encode", json_encode},
        {"array", json_array},
        {NULL, NULL},
    };
    lua_newtable(L);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");

    int base = lua_gettop(L);
    codec_push(L);
    lua_newtable(L);
    cjson_push(L);
    for (const luaL_Reg *f = functions; f->name; f++) {
        for (int up = UP_CODEC; up <= UP_CJSON; up++)
            lua_pushvalue(L, base + up);
        lua_pushcclosure(L, f->func, UP_CJSON);
        lua_setfield(L, base, f->name);
    }
    lua_settop(L, base);
    return 1;
}
