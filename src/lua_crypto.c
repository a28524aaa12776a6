#include "lua_crypto.h"

#include "memory.h"

#include <lauxlib.h>
#include <limits.h>
#include <lua.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

enum { MD5, SHA256, SHA512_256, DIGESTS };
enum { RANDOM_MAX = 1024 };

static const char *const names[] = {"md5", "sha256", "sha512-256", NULL};

/* Owned by Lua as the upvalue of `hash` and `hmac`. */
struct digests {
    EVP_MD *list[DIGESTS]; /* owned; fetched when first asked for, which costs more than a hash */
};

/* Pushes nil and why there is no result. When OpenSSL ever had no memory, that is why: it may have
 * begun by half. */
static int failed(lua_State *L, const char *why)
{
    ERR_clear_error(); /* the queue is libcurl's, too */
    if (memory_openssl_failures() > 0)
        return luaL_error(L, "not enough memory");
    lua_pushnil(L);
    lua_pushfstring(L, "OpenSSL %s", why);
    return 2;
}

/* The digest named by the first argument; NULL, with nil and the reason pushed, without it. */
static const EVP_MD *check_digest(lua_State *L)
{
    static const char *const openssl_names[] = {"MD5", "SHA2-256", "SHA2-512/256"};
    struct digests *digests = lua_touserdata(L, lua_upvalueindex(1));
    int which = luaL_checkoption(L, 1, NULL, names);

    if (!digests->list[which] && memory_init_openssl() == 0)
        digests->list[which] = EVP_MD_fetch(NULL, openssl_names[which], NULL);
    if (!digests->list[which])
        (void)failed(L, lua_pushfstring(L, "does not provide %s here", names[which]));
    return digests->list[which];
}

static int l_hash(lua_State *L)
{
    size_t len;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size;
    const char *text = luaL_checklstring(L, 2, &len);
    const EVP_MD *md = check_digest(L);

    if (!md)
        return 2;
    if (!EVP_Digest(text, len, digest, &size, md, NULL))
        return failed(L, "cannot make a hash");
    lua_pushlstring(L, (const char *)digest, size);
    return 1;
}

static int l_hmac(lua_State *L)
{
    size_t key_len, len;
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size;
    const char *key = luaL_checklstring(L, 2, &key_len);
    const char *text = luaL_checklstring(L, 3, &len);
    luaL_argcheck(L, key_len <= INT_MAX, 2, "too long");
    const EVP_MD *md = check_digest(L);

    if (!md)
        return 2;
    if (!HMAC(md, key, (int)key_len, (const unsigned char *)text, len, digest, &size))
        return failed(L, "cannot make an HMAC");
    lua_pushlstring(L, (const char *)digest, size);
    return 1;
}

static int l_random(lua_State *L)
{
    unsigned char bytes[RANDOM_MAX];
    int n = luaL_checkint(L, 1);

    luaL_argcheck(L, n >= 0 && n <= RANDOM_MAX, 1, "out of range");
    if (memory_init_openssl() != 0 || RAND_bytes(bytes, n) != 1)
        return failed(L, "cannot make random bytes");
    lua_pushlstring(L, (const char *)bytes, (size_t)n);
    return 1;
}

static int l_hex(lua_State *L)
{
    static const char digits[] = "0123456789abcdef";
    size_t len;
    const unsigned char *text = (const unsigned char *)luaL_checklstring(L, 1, &len);
    luaL_Buffer out;

    luaL_buffinit(L, &out);
    for (size_t i = 0; i < len; i++) {
        luaL_addchar(&out, digits[text[i] >> 4]);
        luaL_addchar(&out, digits[text[i] & 15]);
    }
    luaL_pushresult(&out);
    return 1;
}

static int l_gc(lua_State *L)
{
    struct digests *digests = lua_touserdata(L, 1);
    for (int i = 0; i < DIGESTS; i++) {
        EVP_MD_free(digests->list[i]);
        digests->list[i] = NULL;
    }
    return 0;
}

int luaopen_orchestrator_core_crypto(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"hash", l_hash},
        {"hmac", l_hmac},
        {"random", l_random},
        {"hex", l_hex},
    };
    struct digests *digests = lua_newuserdata(L, sizeof *digests);
    *digests = (struct digests){0};
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
