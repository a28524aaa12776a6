/*
 * The targets written in Lua: lua/NAME.lua, chosen by FUZZ_LUA=NAME, returns a function that gets
 * the input as a string and raises when a property does not hold. Runs from the top of the
 * checkout.
 *
 * libFuzzer learns which lines were run, and which after which, from counters that a hook fills;
 * the JIT compiler is off, since compiled code calls no hooks.
 */
#include "check.h"
#include "json.h"
#include "lua_crypto.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <netinet/in.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);

enum {
    COUNTERS = 1 << 14,
    CHUNKS = 64,    /* source files whose hash is remembered */
    GC_PAUSE = 400, /* collect seldom: a run leaves little */
};

__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t counters[COUNTERS];

static lua_State *state;
static uint32_t line_before;

static uint32_t hash(const char *text)
{
    uint32_t h = 2166136261u;
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 16777619u;
    return h;
}

/* The hash of a chunk's name, which is the same in every process. */
static uint32_t chunk_of(const lua_Debug *ar)
{
    static struct {
        const char *source; /* borrowed from the chunk, which lives as long as the process */
        uint32_t hash;
    } known[CHUNKS];
    size_t at = ((uintptr_t)ar->source >> 4) % CHUNKS;
    if (known[at].source != ar->source) {
        known[at].source = ar->source;
        known[at].hash = hash(ar->short_src);
    }
    return known[at].hash;
}

static void on_line(lua_State *L, lua_Debug *ar)
{
    if (!lua_getinfo(L, "S", ar))
        return;
    uint32_t line = (chunk_of(ar) + (uint32_t)ar->currentline) * 2654435761u;
    uint8_t *counter = &counters[(line ^ line_before >> 3) >> 18 & (COUNTERS - 1)];
    *counter += *counter < UINT8_MAX;
    line_before = line;
}

/* fuzz.curl(url [, reference]) → {scheme=, user=, host=, port=, path=, query=}: what libcurl makes
 * of a URL, or of a reference seen from it; or nil, message. */
static int l_curl(lua_State *L)
{
    static const struct {
        const char *name;
        CURLUPart part;
        unsigned flags;
    } parts[] = {
        {"scheme", CURLUPART_SCHEME, 0}, {"user", CURLUPART_USER, 0},
        {"host", CURLUPART_HOST, 0},     {"port", CURLUPART_PORT, CURLU_DEFAULT_PORT},
        {"path", CURLUPART_PATH, 0},     {"query", CURLUPART_QUERY, 0},
    };
    const char *text = luaL_checkstring(L, 1), *reference = luaL_optstring(L, 2, NULL);
    CURLU *u = curl_url();
    CURLUcode rc = curl_url_set(u, CURLUPART_URL, text, 0);
    if (rc == CURLUE_OK && reference)
        rc = curl_url_set(u, CURLUPART_URL, reference, 0);
    if (rc != CURLUE_OK) {
        lua_pushnil(L);
        lua_pushstring(L, curl_url_strerror(rc));
    } else {
        lua_newtable(L);
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            char *part = NULL;
            if (curl_url_get(u, parts[i].part, &part, parts[i].flags) == CURLUE_OK) {
                lua_pushstring(L, part);
                lua_setfield(L, -2, parts[i].name);
                curl_free(part);
            }
        }
    }
    curl_url_cleanup(u);
    return rc == CURLUE_OK ? 1 : 2;
}

/* fuzz.address(host) → the address a host name stands for by itself, in one spelling; or nil. */
static int l_address(lua_State *L)
{
    const char *host = luaL_checkstring(L, 1);
    struct in_addr v4;
    struct in6_addr v6;
    char text[INET6_ADDRSTRLEN];
    if (inet_aton(host, &v4))
        lua_pushstring(L, inet_ntop(AF_INET, &v4, text, sizeof text));
    else if (inet_pton(AF_INET6, host, &v6) == 1)
        lua_pushstring(L, inet_ntop(AF_INET6, &v6, text, sizeof text));
    else
        lua_pushnil(L);
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

static int open_fuzz(lua_State *L)
{
    static const luaL_Reg functions[] = {{"curl", l_curl}, {"address", l_address}, {NULL, NULL}};
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}

static int traceback(lua_State *L)
{
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

static void must(lua_State *L, int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
}

/* From the heap, where ASan and its search for leaks see it. */
static void *allocate(void *ctx, void *p, size_t old, size_t size)
{
    (void)ctx;
    (void)old;
    if (size > 0)
        return realloc(p, size);
    free(p);
    return NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    const char *name = getenv("FUZZ_LUA");
    if (!name) {
        fprintf(stderr, "FUZZ_LUA must name a target\n");
        exit(2);
    }
    lua_State *L = state = lua_newstate(allocate, NULL);
    if (!L)
        abort();
    luaL_openlibs(L);
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    lua_gc(L, LUA_GCSETPAUSE, GC_PAUSE);
    preload(L, "orchestrator.core.json", luaopen_orchestrator_core_json);
    preload(L, "orchestrator.core.crypto", luaopen_orchestrator_core_crypto);
    preload(L, "fuzz", open_fuzz);
    must(L, luaL_dostring(L, "package.path = 'tests/fuzz/lua/?.lua;lua/?.lua'"));
    lua_pushcfunction(L, traceback);
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    must(L, lua_pcall(L, 1, 1, 1));
    lua_sethook(L, on_line, LUA_MASKLINE, 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    line_before = 0;
    lua_pushvalue(state, 2);
    lua_pushlstring(state, (const char *)data, size);
    must(state, lua_pcall(state, 1, 0, 1));
    return 0;
}
