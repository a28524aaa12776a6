#include "host.h"

#include "client.h"
#include "loop.h"
#include "lua_postgres.h"
#include "lua_store.h"
#include "lua_writer.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct host {
    struct loop *loop;       /* borrowed until host_destroy */
    struct client *client;   /* owned; NULL until the first transfer, a script may need none */
    struct stores *stores;   /* owned */
    struct writers *writers; /* owned */
    struct postgreses *postgreses; /* owned */
    uint64_t random;               /* xorshift64* state, never 0 */
    lua_State *L;                  /* borrowed during poll, otherwise NULL */
    bool raised;                   /* deliver raised; its error is on top of L's stack */
};

static struct host *host_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* Time and chance ----------------------------------------------------------------------------- */

static int l_now(lua_State *L)
{
    lua_pushnumber(L, loop_now());
    return 1;
}

static int l_wall(lua_State *L)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    lua_pushnumber(L, (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    return 1;
}

static int l_random(lua_State *L)
{
    struct host *h = host_of(L);
    h->random ^= h->random >> 12;
    h->random ^= h->random << 25;
    h->random ^= h->random >> 27;
    uint64_t bits = (h->random * 0x2545f4914f6cdd1du) >> 11;
    lua_pushnumber(L, (double)bits * 0x1p-53);
    return 1;
}

/* Transfers ----------------------------------------------------------------------------------- */

/* The fields of a spec are read without raising: nothing is allocated yet that an error could
 * leak, and the strings stay anchored in the table. */
static const char *text_at(lua_State *L, int table, const char *name, size_t *len)
{
    lua_getfield(L, table, name);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, len) : NULL;
    lua_pop(L, 1);
    return text;
}

static const char *text_field(lua_State *L, const char *name, size_t *len)
{
    return text_at(L, 1, name, len);
}

static double number_field(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    double value = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value > 0 ? value : 0;
}

/* -1 when it is not given. */
static int64_t size_field(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    double value = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : -1;
    lua_pop(L, 1);
    return value >= 0 ? (int64_t)value : -1;
}

static bool true_field(lua_State *L, const char *name)
{
    lua_getfield(L, 1, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static int refused(lua_State *L, const char *kind, const char *message)
{
    lua_pushnil(L);
    lua_pushstring(L, kind);
    lua_pushstring(L, message);
    return 3;
}

static void on_ended(void *ctx);

/* The client, made when it is first needed. Returns 0 or -ENOMEM. */
static int host_client(struct host *h)
{
    return h->client ? 0 : client_create(&h->client, &h->loop->uv, on_ended, h);
}

static int l_profile(lua_State *L)
{
    struct host *h = host_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    struct profile_options options = {
        .ca = text_field(L, "ca", NULL),
        .crl = text_field(L, "crl", NULL),
        .cert = text_field(L, "cert", NULL),
        .key = text_field(L, "key", NULL),
        .key_password = text_field(L, "key_password", NULL),
        .tls_min = text_field(L, "tls_min", NULL),
        .insecure = true_field(L, "insecure"),
        .proxy = text_field(L, "proxy", NULL),
        .proxy_user = text_field(L, "proxy_user", NULL),
        .proxy_password = text_field(L, "proxy_password", NULL),
        .guard = true_field(L, "guard"),
        .unix_path = text_field(L, "unix", NULL),
        .http1 = true_field(L, "http1"),
        .jar = (int)number_field(L, "jar"),
    };
    int rc = host_client(h);
    if (rc == 0)
        rc = client_profile(h->client, &options);
    if (rc < 0)
        return refused(L, rc == -ENOMEM ? "out_of_memory" : "bad_request", strerror(-rc));
    lua_pushnumber(L, rc);
    return 1;
}

/* A finalizer calls it, so it must not raise. */
static int l_profile_close(lua_State *L)
{
    struct host *h = host_of(L);
    if (h->client)
        client_profile_close(h->client, (int)lua_tonumber(L, 1));
    return 0;
}

/* The parts of a multipart body, in memory of Lua's that stays on the stack. */
static const struct upload_part *parts_field(lua_State *L, size_t *count)
{
    lua_getfield(L, 1, "parts");
    size_t n = lua_istable(L, -1) ? lua_objlen(L, -1) : 0;
    if (n == 0) {
        lua_pop(L, 1);
        return NULL;
    }
    struct upload_part *parts = lua_newuserdata(L, n * sizeof *parts);
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, -2, (int)i + 1);
        int at = lua_gettop(L);
        parts[i].value_len = 0;
        parts[i].name = text_at(L, at, "name", NULL);
        parts[i].value = text_at(L, at, "value", &parts[i].value_len);
        parts[i].file = text_at(L, at, "file", NULL);
        parts[i].filename = text_at(L, at, "filename", NULL);
        parts[i].type = text_at(L, at, "type", NULL);
        lua_pop(L, 1);
    }
    *count = n;
    return parts;
}

static int l_start(lua_State *L)
{
    struct host *h = host_of(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    struct client_target target = {0};
    struct transfer_request request = {0};

    target.origin = text_field(L, "origin", &target.origin_len);
    target.host = text_field(L, "host", NULL);
    target.port = (int)number_field(L, "port");
    target.addresses = text_field(L, "addresses", NULL);
    target.tls = true_field(L, "tls");
    target.profile = (int)number_field(L, "profile");
    target.dns_timeout = number_field(L, "dns_timeout");
    request.url = text_field(L, "url", NULL);
    request.method = text_field(L, "method", NULL);
    request.headers = text_field(L, "headers", &request.headers_len);
    request.body.text = text_field(L, "body", &request.body.len);
    request.body.file = text_field(L, "body_file", NULL);
    request.body.parts = parts_field(L, &request.body.part_count);
    request.body.pull = true_field(L, "pull");
    request.body.pull_size = request.body.pull ? size_field(L, "body_size") : -1;
    request.stream = true_field(L, "stream");
    request.save = text_field(L, "save", NULL);
    request.timeout = number_field(L, "timeout");
    request.connect_timeout = number_field(L, "connect_timeout");
    request.idle_timeout = number_field(L, "idle_timeout");
    request.min_speed = number_field(L, "min_speed");
    request.max_body = (size_t)number_field(L, "max_body");
    request.max_headers = (size_t)number_field(L, "max_headers");
    if (!target.origin || !target.host || !request.url || !request.method)
        return luaL_error(L, "host.start: origin, host, url and method are needed");

    uint64_t id;
    int rc = host_client(h);
    if (rc == 0)
        rc = client_start(h->client, &target, &request, &id);
    if (rc)
        return refused(L, rc == -ENOMEM ? "out_of_memory" : "bad_request", strerror(-rc));
    lua_pushnumber(L, (double)id);
    return 1;
}

static int l_cancel(lua_State *L)
{
    struct host *h = host_of(L);
    double id = luaL_checknumber(L, 1);
    if (h->client && id > 0) /* a store's job, below 0, is done whoever waits for it */
        client_cancel(h->client, (uint64_t)id);
    return 0;
}

/* What has come in of a streamed body; nil when nothing has. */
static int l_read(lua_State *L)
{
    struct host *h = host_of(L);
    uint64_t id = (uint64_t)luaL_checknumber(L, 1);
    struct transfer *t = h->client ? client_peek(h->client, id) : NULL;
    if (!t || t->body.len == 0)
        return 0;
    lua_pushlstring(L, t->body.data, t->body.len);
    client_taken(h->client, id);
    return 1;
}

/* The next bytes of a pulled body; nil ends it. Returns whether it was wanted. */
static int l_send(lua_State *L)
{
    struct host *h = host_of(L);
    size_t len = 0;
    uint64_t id = (uint64_t)luaL_checknumber(L, 1);
    const char *text = luaL_optlstring(L, 2, "", &len);
    lua_pushboolean(L, h->client && client_send(h->client, id, text, len) == 0);
    return 1;
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_time(lua_State *L, const char *name, double seconds)
{
    if (seconds > 0)
        set_number(L, name, seconds);
}

static void set_text(lua_State *L, const char *name, const char *text, size_t len)
{
    lua_pushlstring(L, text, len);
    lua_setfield(L, -2, name);
}

static const char *version_name(long version)
{
    switch (version) {
    case CURL_HTTP_VERSION_1_0:
        return "1.0";
    case CURL_HTTP_VERSION_1_1:
        return "1.1";
    case CURL_HTTP_VERSION_2_0:
        return "2";
    default:
        return "";
    }
}

static void push_head(lua_State *L, const struct transfer *t)
{
    const char *version = version_name(t->version);
    const char *framing = head_framing_name(t->head.framing);
    set_number(L, "status", (double)t->head.status);
    set_text(L, "head", t->head.text.data, t->head.text.len);
    set_text(L, "version", version, strlen(version));
    set_text(L, "framing", framing, strlen(framing));
}

static void push_result(lua_State *L, const struct transfer *t)
{
    const char *fault = fault_name(t->fault);

    lua_createtable(L, 0, 16); /* the response keeps some fields of its own in it */
    set_number(L, "elapsed", t->elapsed);
    set_number(L, "wire", (double)t->wire);
    set_number(L, "size", (double)t->size);
    /* What did not happen, as most of it does not on a connection used again, is left out. */
    set_time(L, "dns", t->dns);
    set_time(L, "connect", t->connect);
    set_time(L, "tls", t->tls);
    set_time(L, "first_byte", t->first_byte);
    if (t->head.status) {
        push_head(L, t);
        /* Half a body is of no use, but to who has read the other half. */
        if ((!fault && !t->saved) || t->stream)
            set_text(L, "body", t->body.data ? t->body.data : "", t->body.len);
    }
    if (fault) {
        const char *reason = t->reason ? t->reason : fault;
        set_text(L, "fault", fault, strlen(fault));
        set_text(L, "message", reason, strlen(reason));
    }
}

static void push_news(lua_State *L, struct transfer *t, unsigned news)
{
    lua_createtable(L, 0, 8);
    if (news == TRANSFER_HEAD) {
        transfer_peek_infos(t);
        push_head(L, t);
        set_number(L, "elapsed", t->elapsed);
        set_time(L, "dns", t->dns);
        set_time(L, "connect", t->connect);
        set_time(L, "tls", t->tls);
        set_time(L, "first_byte", t->first_byte);
        set_text(L, "event", "head", 4);
    } else {
        set_text(L, "event", news == TRANSFER_DATA ? "data" : "want", 4);
    }
}

/* Waiting ------------------------------------------------------------------------------------- */

/* The stack of poll. */
enum { TIMEOUT = 1, DELIVER, DELIVER_ONE };

enum { TURN = 256 }; /* results that are delivered before the loop goes on */

static void push_hop(lua_State *L, struct client *client)
{
    uint64_t id;
    unsigned news;
    struct transfer *t = client_next(client, &id, &news);

    lua_pushnumber(L, (double)id);
    if (news) {
        push_news(L, t, news);
    } else {
        push_result(L, t);
        client_release(client, id); /* not before: pushing may raise for want of memory */
    }
}

/* Hands one ended hop or job to Lua. Runs protected: an error must not unwind the loop's frames. */
static int deliver_one(lua_State *L)
{
    struct host *h = lua_touserdata(L, 2);

    lua_settop(L, 1);
    if (stores_ready(h->stores))
        stores_push(L, h->stores);
    else if (writers_ready(h->writers))
        writers_push(L, h->writers);
    else if (postgreses_ready(h->postgreses))
        postgreses_push(L, h->postgreses);
    else
        push_hop(L, h->client);
    lua_call(L, 2, 0);
#ifdef ORC_STRESS_GC
    lua_gc(L, LUA_GCCOLLECT, 0);
#endif
    return 0;
}

static bool has_next(struct host *h)
{
    return stores_ready(h->stores) || writers_ready(h->writers) ||
           postgreses_ready(h->postgreses) || (h->client && client_has_next(h->client));
}

/* Delivers what has ended and lets what was started begin, until neither is left to do, or for so
 * long: hops that fail as soon as they begin must not keep the loop from timers and signals. */
static void on_ended(void *ctx)
{
    struct host *h = ctx;
    lua_State *L = h->L;

    for (int n = 0; L && !h->raised && n < TURN; n++) {
        if (!has_next(h)) {
            if (h->client)
                (void)client_work(h->client);
            if (!has_next(h))
                return;
        }
        lua_pushvalue(L, DELIVER_ONE);
        lua_pushvalue(L, DELIVER);
        lua_pushlightuserdata(L, h);
        h->raised = lua_pcall(L, 2, 0, 0) != 0;
    }
}

static int l_poll(lua_State *L)
{
    struct host *h = host_of(L);
    double timeout = luaL_optnumber(L, TIMEOUT, -1);
    luaL_checktype(L, DELIVER, LUA_TFUNCTION);
    lua_settop(L, DELIVER);
    lua_pushcfunction(L, deliver_one);
    luaL_checkstack(L, 8, NULL);

    h->L = L;
    h->raised = false;
    bool busy = (h->client && client_work(h->client)) || has_next(h);
    stores_rest(h->stores);
    loop_wait(h->loop, busy ? 0 : timeout);
    on_ended(h);
    h->L = NULL;
    if (h->raised)
        return lua_error(L);
    int signum = loop_take_signal(h->loop);
    if (!signum)
        return 0;
    lua_pushnumber(L, signum);
    return 1;
}

/* The rest ------------------------------------------------------------------------------------ */

static int l_terminal(lua_State *L)
{
    struct winsize size;
    if (!isatty(STDERR_FILENO))
        return 0;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0)
        size.ws_col = 80;
    lua_pushnumber(L, size.ws_col);
    return 1;
}

static int l_idn(lua_State *L)
{
    char ascii[256];
    const char *name = luaL_checkstring(L, 1);
    if (client_idn(name, ascii, sizeof ascii))
        return 0;
    lua_pushstring(L, ascii);
    return 1;
}

void host_push(lua_State *L, struct host *h)
{
    static const struct luaL_Reg functions[] = {
        {"now", l_now},         {"wall", l_wall},
        {"random", l_random},   {"start", l_start},
        {"cancel", l_cancel},   {"poll", l_poll},
        {"profile", l_profile}, {"read", l_read},
        {"send", l_send},       {"terminal", l_terminal},
        {"idn", l_idn},         {"profile_close", l_profile_close},
        {NULL, NULL},
    };
    lua_createtable(L, 0, sizeof functions / sizeof functions[0]);
    for (const struct luaL_Reg *f = functions; f->name; f++) {
        lua_pushlightuserdata(L, h);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
    lua_pushinteger(L, getpid());
    lua_setfield(L, -2, "pid");
    stores_register(L, h->stores);
    writers_register(L, h->writers);
    postgreses_register(L, h->postgreses);
}

int host_create(struct host **out, struct loop *loop)
{
    struct host *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    h->loop = loop;
    h->stores = stores_create(&loop->uv, on_ended, h);
    h->writers = writers_create(&loop->uv, on_ended, h);
    h->postgreses = postgreses_create(&loop->uv, on_ended, h);
    if (!h->stores || !h->writers || !h->postgreses) {
        if (h->stores)
            stores_destroy(h->stores);
        if (h->writers)
            writers_destroy(h->writers);
        if (h->postgreses)
            postgreses_destroy(h->postgreses);
        free(h);
        return -ENOMEM;
    }
    if (getrandom(&h->random, sizeof h->random, 0) != sizeof h->random)
        h->random = (uint64_t)time(NULL) ^ ((uint64_t)getpid() << 32);
    h->random |= 1;
    *out = h;
    return 0;
}

void host_destroy(struct host *h)
{
    if (h->client)
        client_destroy(h->client);
    stores_destroy(h->stores);
    writers_destroy(h->writers);
    postgreses_destroy(h->postgreses);
    free(h);
}
