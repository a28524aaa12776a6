#include "lua_store.h"

#include "database.h"
#include "file.h"
#include "json_scan.h"
#include "store.h"

#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct stores {
    uv_loop_t *loop; /* borrowed until stores_destroy */
    void (*on_done)(void *ctx);
    void *ctx;           /* borrowed until stores_destroy */
    struct store **list; /* owned, and the stores in it; NULL where one was closed */
    int count;           /* an id is a place in the list, from 1, never used twice */
    int64_t jobs;        /* how many there have been */
    int turn;            /* where stores_ready found one that has a result */
};

enum {
    MIGRATIONS = 64,
    WIDTH = 999, /* values of a statement; SQLite takes more */
    WHY = 256,
};

static const int64_t EXACT = INT64_C(1) << 53; /* up to here a number holds every integer */

static struct stores *stores_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static struct store *check_store(lua_State *L, int id_at)
{
    struct stores *stores = stores_of(L);
    int id = luaL_checkint(L, id_at);
    luaL_argcheck(L, id >= 1 && id <= stores->count && stores->list[id - 1], id_at,
                  "not an open store");
    return stores->list[id - 1];
}

static int refused(lua_State *L, const char *reason, const char *message)
{
    lua_pushnil(L);
    lua_pushstring(L, reason);
    lua_pushstring(L, message);
    return 3;
}

/* From Lua ------------------------------------------------------------------------------------ */

static bool is_utf8(const char *text, size_t len)
{
    const char *end = text + len;
    while ((text = json_scan_plain(text, end)) < end)
        if ((signed char)*text++ < 0) /* where it stops at ASCII, that is special in JSON only */
            return false;
    return true;
}

/* What is wrong with the value on top of the stack as a parameter, or NULL. Needs two slots. */
static const char *complaint(lua_State *L, int blob_key)
{
    switch (lua_type(L, -1)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TSTRING:
        return NULL;
    case LUA_TNUMBER:
        return isnan(lua_tonumber(L, -1)) ? "is not a number" : NULL;
    case LUA_TTABLE:
        lua_pushvalue(L, blob_key);
        lua_rawget(L, -2);
        bool blob = lua_type(L, -1) == LUA_TSTRING;
        lua_pop(L, 1);
        if (blob)
            return NULL;
    }
    return "must be nil, a boolean, a number, a text or {blob = text}";
}

/* How many bytes the value on top of the stack has that are to be copied; it has no complaint. */
static size_t size_of(lua_State *L, int blob_key)
{
    size_t size = 0;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        return lua_objlen(L, -1);
    case LUA_TTABLE:
        lua_pushvalue(L, blob_key);
        lua_rawget(L, -2);
        size = lua_objlen(L, -1);
        lua_pop(L, 1);
    }
    return size;
}

/* Copies the text on top of the stack to where there is room for it; gives what follows. */
static char *copy_text(lua_State *L, struct store_value *v, bool blob, char *to)
{
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    blob = blob || !is_utf8(text, len);
    memcpy(to, text, len);
    *v = (struct store_value){.type = blob ? STORE_BLOB : STORE_TEXT, .data = to, .len = len};
    return to + len;
}

/* Copies the value on top of the stack, which has no complaint. Does not raise. */
static char *copy_value(lua_State *L, int blob_key, bool blob, struct store_value *v, char *to)
{
    switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN:
        v->type = STORE_INTEGER;
        v->integer = lua_toboolean(L, -1);
        break;
    case LUA_TNUMBER:
        v->real = lua_tonumber(L, -1);
        v->type = STORE_REAL;
        if (fabs(v->real) <= (double)EXACT && v->real == floor(v->real)) {
            v->type = STORE_INTEGER;
            v->integer = (int64_t)v->real;
        }
        break;
    case LUA_TSTRING:
        to = copy_text(L, v, blob, to);
        break;
    case LUA_TTABLE:
        lua_pushvalue(L, blob_key);
        lua_rawget(L, -2);
        to = copy_text(L, v, true, to);
        lua_pop(L, 1);
        break;
    default:
        v->type = STORE_NULL;
    }
    return to;
}

/* Where the values of a statement are: in its own table, or in a list of lists, or one after the
 * other in a list. */
struct shape {
    int rows; /* stack index of the list; 0 without one */
    bool flat;
    size_t width, times;
    size_t packed; /* bytes of packed rows */
    bool is_packed;
    size_t bytes;      /* of all texts */
    const char *blobs; /* borrowed from the statement; NULL: which are none is found out */
};

/* Pushes a value. */
static void push_value(lua_State *L, int statement, const struct shape *shape, size_t i)
{
    if (!shape->rows) {
        lua_rawgeti(L, statement, (int)i + 2);
        return;
    }
    if (shape->flat) {
        lua_rawgeti(L, shape->rows, (int)i + 1);
        return;
    }
    lua_rawgeti(L, shape->rows, (int)(i / shape->width) + 1);
    lua_rawgeti(L, -1, (int)(i % shape->width) + 1);
    lua_remove(L, -2);
}

/* The greatest index of a list that may have holes: its values may be nil. */
static size_t list_end(lua_State *L, int at)
{
    size_t end = 0;
    lua_pushnil(L);
    while (lua_next(L, at)) {
        lua_pop(L, 1);
        double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (key > (double)end)
            end = key < WIDTH + 2 ? (size_t)key : WIDTH + 2;
    }
    return end;
}

/* Whether the table at `at` has packed rows. Raises when they are none. */
static bool check_packed(lua_State *L, int at, int number, struct shape *shape)
{
    lua_getfield(L, at, "packed");
    lua_getfield(L, at, "kinds");
    shape->is_packed = lua_istable(L, -2);
    shape->times = 0;
    if (shape->is_packed && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "store_run: statement %d has packed rows, and no kinds", number);
    for (size_t i = 1; shape->is_packed && i <= lua_objlen(L, -2); i++) {
        lua_rawgeti(L, -2, (int)i);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "store_run: statement %d has packed rows that are no text", number);
        shape->packed += lua_objlen(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
    return shape->is_packed;
}

/* Fills in the statement of the table at `at`, which was looked over. Does not raise: the names of
 * the fields are there already. */
static int pack_statement(lua_State *L, int at, struct store_statement *s, size_t size)
{
    lua_getfield(L, at, "packed");
    lua_getfield(L, at, "kinds");
    lua_rawgeti(L, at, 1);
    int rc = store_statement_pack(s, lua_tostring(L, -1), lua_tostring(L, -2), size);
    char *to = s->packed;
    for (size_t i = 1; rc == 0 && i <= lua_objlen(L, -3); i++) {
        size_t len;
        lua_rawgeti(L, -3, (int)i);
        const char *text = lua_tolstring(L, -1, &len);
        memcpy(to, text, len);
        to += len;
        lua_pop(L, 1);
    }
    lua_pop(L, 3);
    return rc;
}

/* Looks the list on top of the stack over, which has a statement's rows. */
static void check_rows(lua_State *L, int at, int number, struct shape *shape)
{
    shape->rows = lua_gettop(L);
    lua_getfield(L, at, "blobs");
    lua_getfield(L, at, "width");
    double width = lua_tonumber(L, -1);
    shape->width = width > 0 && width < WIDTH ? (size_t)width : 0;
    shape->flat = lua_type(L, -2) == LUA_TSTRING;
    shape->times = lua_objlen(L, shape->rows);
    if (shape->times > 0 && shape->width == 0)
        luaL_error(L, "store_run: statement %d has rows, and no proper width", number);
    if (shape->flat) {
        shape->blobs = lua_tostring(L, -2); /* the statement holds it */
        if (lua_objlen(L, -2) != shape->width || (shape->times && shape->times % shape->width))
            luaL_error(L, "store_run: statement %d has not the values of whole rows", number);
        shape->times = shape->times ? shape->times / shape->width : 0;
    }
    lua_pop(L, 2);
    for (size_t i = 0; i < shape->times && !shape->flat; i++) {
        lua_rawgeti(L, shape->rows, (int)i + 1);
        if (!lua_istable(L, -1))
            luaL_error(L, "store_run: row %d of statement %d is no table", (int)i + 1, number);
        lua_pop(L, 1);
    }
}

/* Looks the statement on top of the stack over, and pushes the list of its rows if it has one.
 * Raises when it is none. */
static struct shape check_statement(lua_State *L, int number, int blob_key)
{
    struct shape shape = {.times = 1};
    int at = lua_gettop(L);
    if (!lua_istable(L, at))
        luaL_error(L, "store_run: statement %d is no table", number);
    lua_rawgeti(L, at, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "store_run: statement %d does not begin with SQL", number);
    lua_getfield(L, at, "also");
    if (!lua_isnil(L, -1) && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "store_run: what statement %d also runs is no SQL", number);
    lua_pop(L, 2);
    if (check_packed(L, at, number, &shape))
        return shape;
    shape.times = 1;
    lua_getfield(L, at, "rows");
    if (lua_istable(L, -1))
        check_rows(L, at, number, &shape);
    else
        shape.width = list_end(L, at) > 1 ? list_end(L, at) - 1 : 0;
    if (shape.width > WIDTH)
        luaL_error(L, "store_run: statement %d has more than %d values", number, WIDTH);
    for (size_t i = 0; i < shape.width * shape.times; i++) {
        push_value(L, at, &shape, i);
        const char *problem = complaint(L, blob_key);
        if (problem)
            luaL_error(L, "store_run: value %d of statement %d %s", (int)i + 1, number, problem);
        shape.bytes += size_of(L, blob_key);
        lua_pop(L, 1);
    }
    return shape;
}

/* The job of a list of statements; raises when it is none. NULL when out of memory. */
static struct store_job *make_job(lua_State *L, int list)
{
    luaL_checktype(L, list, LUA_TTABLE);
    luaL_checkstack(L, 12, NULL);
    size_t count = lua_objlen(L, list);
    lua_pushliteral(L, "blob");
    int blob_key = lua_gettop(L);
    struct shape *shapes = lua_newuserdata(L, (count + 1) * sizeof *shapes);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, list, (int)i + 1);
        shapes[i] = check_statement(L, (int)i + 1, blob_key);
        lua_settop(L, blob_key + 1);
    }
    lua_pushliteral(L, "also");
    lua_pushliteral(L, "rows");
    int rows_key = lua_gettop(L);

    struct store_job *job = store_job_create(count); /* from here on nothing raises */
    bool failed = !job;
    for (size_t i = 0; i < count && !failed; i++) {
        struct store_statement *s = &job->statements[i];
        lua_rawgeti(L, list, (int)i + 1);
        int at = lua_gettop(L);
        if (shapes[i].is_packed) {
            failed = pack_statement(L, at, s, shapes[i].packed) != 0;
            lua_settop(L, rows_key);
            continue;
        }
        lua_rawgeti(L, at, 1);
        failed = store_statement_init(s, lua_tostring(L, -1), shapes[i].width, shapes[i].times);
        lua_pushvalue(L, rows_key - 1);
        lua_rawget(L, at);
        if (!failed && lua_isstring(L, -1))
            failed = store_statement_pair(s, lua_tostring(L, -1));
        lua_pop(L, 2);
        failed = failed || (s->params && store_statement_reserve(s, shapes[i].bytes));
        char *to = s->bytes;
        if (shapes[i].rows) {
            lua_pushvalue(L, rows_key);
            lua_rawget(L, at);
            shapes[i].rows = lua_gettop(L);
        }
        for (size_t k = 0; k < shapes[i].width * shapes[i].times && !failed; k++) {
            push_value(L, at, &shapes[i], k);
            const char *blobs = shapes[i].blobs;
            bool blob = blobs && blobs[k % shapes[i].width] == 'b';
            to = copy_value(L, blob_key, blob, &s->params[k], to);
            lua_pop(L, 1);
        }
        lua_settop(L, rows_key);
    }
    if (failed) {
        store_job_destroy(job);
        job = NULL;
    }
    lua_settop(L, blob_key - 1);
    return job;
}

/* To Lua -------------------------------------------------------------------------------------- */

static void push_cell(lua_State *L, const struct store_value *v)
{
    char digits[24];
    switch (v->type) {
    case STORE_INTEGER:
        if (v->integer < -EXACT || v->integer > EXACT) {
            snprintf(digits, sizeof digits, "%lld", (long long)v->integer);
            lua_pushstring(L, digits);
        } else {
            lua_pushnumber(L, (double)v->integer);
        }
        break;
    case STORE_REAL:
        lua_pushnumber(L, v->real);
        break;
    case STORE_TEXT:
    case STORE_BLOB:
        lua_pushlstring(L, v->data, v->len);
        break;
    default:
        lua_pushnil(L);
    }
}

static void push_rows(lua_State *L, const struct store_job *job)
{
    lua_createtable(L, (int)job->rows, 0);
    for (size_t i = 0; i < job->rows; i++) {
        lua_createtable(L, (int)job->width, 0);
        for (size_t k = 0; k < job->width; k++) {
            push_cell(L, &job->cells[i * job->width + k]);
            lua_rawseti(L, -2, (int)k + 1);
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
}

static void push_outcome(lua_State *L, const struct store_job *job)
{
    lua_createtable(L, 0, 3);
    if (job->rc) {
        lua_pushliteral(L, "state");
        lua_setfield(L, -2, "fault");
        lua_pushstring(L, database_code(job->rc));
        lua_setfield(L, -2, "code");
        lua_pushstring(L, job->message);
        lua_setfield(L, -2, "message");
        return;
    }
    push_rows(L, job);
    lua_setfield(L, -2, "rows");
    lua_pushnumber(L, (double)job->changes);
    lua_setfield(L, -2, "changes");
}

bool stores_ready(struct stores *stores)
{
    for (int i = 0; i < stores->count; i++) {
        int at = (stores->turn + i) % stores->count;
        if (stores->list[at] && store_peek(stores->list[at])) {
            stores->turn = at;
            return true;
        }
    }
    return false;
}

void stores_rest(struct stores *stores)
{
    for (int i = 0; i < stores->count; i++)
        if (stores->list[i])
            store_rest(stores->list[i]);
}

void stores_push(lua_State *L, struct stores *stores)
{
    struct store *s = stores->list[stores->turn];
    struct store_job *job = store_peek(s);
    lua_pushnumber(L, (double)job->id);
    push_outcome(L, job);
    store_job_destroy(store_take(s));
    stores->turn = (stores->turn + 1) % stores->count;
}

/* The functions ------------------------------------------------------------------------------- */

/* Makes a directory that power loss does not take away again, with the state in it. Returns 0 or an
 * errno. */
static int make_directory(const char *path, mode_t mode)
{
    if (mkdir(path, mode) == 0)
        return -file_sync_directory(path);
    if (errno != EEXIST)
        return errno;
    /* A process that was killed may have made it. Somebody else's parent may not be ours to read.
     */
    (void)file_sync_directory(path);
    return 0;
}

static int l_directory(lua_State *L)
{
    struct stat st;
    size_t len;
    char *path = strdup(luaL_checklstring(L, 1, &len));
    int error = path ? 0 : ENOMEM;
    while (path && len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    for (char *slash = path; len > 0 && !error && (slash = strchr(slash + 1, '/'));) {
        *slash = '\0';
        error = make_directory(path, 0777);
        *slash = '/';
    }
    if (!error)
        error = make_directory(path, 0700);
    if (!error && (stat(path, &st) || !S_ISDIR(st.st_mode)))
        error = ENOTDIR;
    free(path);
    if (error) {
        lua_pushnil(L);
        lua_pushstring(L, strerror(error));
        return 2;
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* The options' migrations, in memory of Lua's that stays on the stack, as do the texts. */
static void read_migrations(lua_State *L, struct database_options *options)
{
    lua_getfield(L, 2, "migrations");
    if (!lua_istable(L, -1))
        return;
    int at = lua_gettop(L);
    size_t count = lua_objlen(L, at);
    luaL_argcheck(L, count <= MIGRATIONS, 2, "has too many migrations");
    const char **list = lua_newuserdata(L, (count + 1) * sizeof *list);
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, at, (int)i + 1);
        list[i] = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
        luaL_argcheck(L, list[i], 2, "has a migration that is no text");
        lua_pop(L, 1); /* the table holds it */
    }
    options->migrations = list;
    options->version = count;
}

static bool option(lua_State *L, const char *name)
{
    lua_getfield(L, 2, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static int l_open(lua_State *L)
{
    struct stores *stores = stores_of(L);
    const char *path = luaL_checkstring(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    struct database_options options = {
        .durable = option(L, "durable"),
        .mine = !option(L, "shared") && !option(L, "output"),
        .output = option(L, "output"),
        .functions = option(L, "functions"),
        .snapshots = option(L, "snapshots"),
        .shrinks = option(L, "shrinks"),
    };
    lua_getfield(L, 2, "application_id");
    options.application_id = (int32_t)lua_tonumber(L, -1);
    lua_pop(L, 1);
    read_migrations(L, &options);

    int made = options.output ? file_make_parents(path, true) : 0;
    if (made)
        return refused(L, "failed", strerror(-made));
    struct store **list = realloc(stores->list, sizeof(*list) * ((size_t)stores->count + 1));
    if (!list)
        return refused(L, "failed", strerror(ENOMEM));
    stores->list = list;
    struct store *s;
    char why[WHY];
    int rc =
        store_open(&s, stores->loop, path, &options, stores->on_done, stores->ctx, why, sizeof why);
    if (rc)
        return refused(L, database_refusal_name((enum database_refusal)rc), why);
    stores->list[stores->count++] = s;
    lua_pushnumber(L, stores->count);
    return 1;
}

static int l_run(lua_State *L)
{
    struct stores *stores = stores_of(L);
    struct store *s = check_store(L, 1);
    struct store_job *job = make_job(L, 2);
    if (!job)
        return luaL_error(L, "not enough memory");
    job->id = -++stores->jobs;
    lua_pushnumber(L, (double)job->id);
    store_submit(s, job);
    return 1;
}

/* Returns the rows of a job that was read, or what is wrong. Runs protected, the job is freed by
 * the caller. */
static int push_read(lua_State *L)
{
    const struct store_job *job = *(struct store_job **)lua_touserdata(L, 1);
    if (job->rc)
        return refused(L, database_code(job->rc), job->message);
    push_rows(L, job);
    return 1;
}

static int l_read(lua_State *L)
{
    struct store *s = check_store(L, 1);
    luaL_checkstring(L, 2);
    int top = lua_gettop(L);
    lua_createtable(L, 1, 0);
    lua_createtable(L, top - 1, 0);
    for (int i = 2; i <= top; i++) {
        lua_pushvalue(L, i);
        lua_rawseti(L, -2, i - 1);
    }
    lua_rawseti(L, -2, 1);
    lua_replace(L, 1);
    lua_settop(L, 1);
    lua_pushcfunction(L, push_read);
    struct store_job **job = lua_newuserdata(L, sizeof *job);
    *job = make_job(L, 1);
    if (!*job)
        return luaL_error(L, "not enough memory");
    struct store_job *made = *job;
    store_read(s, made);
    int rc = lua_pcall(L, 1, LUA_MULTRET, 0);
    store_job_destroy(made);
    return rc ? lua_error(L) : lua_gettop(L) - 1;
}

static int l_close(lua_State *L)
{
    struct stores *stores = stores_of(L);
    struct store *s = check_store(L, 1);
    stores->list[lua_tointeger(L, 1) - 1] = NULL;
    store_close(s);
    return 0;
}

/* Life ---------------------------------------------------------------------------------------- */

struct stores *stores_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx)
{
    struct stores *stores = calloc(1, sizeof *stores);
    if (stores)
        *stores = (struct stores){.loop = loop, .on_done = on_done, .ctx = ctx};
    return stores;
}

void stores_register(lua_State *L, struct stores *stores)
{
    static const luaL_Reg functions[] = {
        {"store_directory", l_directory}, {"store_open", l_open},   {"store_run", l_run},
        {"store_read", l_read},           {"store_close", l_close}, {NULL, NULL},
    };
    for (const luaL_Reg *f = functions; f->name; f++) {
        lua_pushlightuserdata(L, stores);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
}

void stores_destroy(struct stores *stores)
{
    for (int i = 0; i < stores->count; i++)
        if (stores->list[i])
            store_close(stores->list[i]);
    free(stores->list);
    free(stores);
}
