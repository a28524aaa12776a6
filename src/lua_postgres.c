#include "lua_postgres.h"

#include "postgres.h"
#include "session.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct postgreses {
    uv_loop_t *loop; /* borrowed until postgreses_destroy */
    void (*on_done)(void *ctx);
    void *ctx;              /* borrowed until postgreses_destroy */
    struct postgres **list; /* owned, and what is in it; NULL where one was closed */
    int count;              /* an id is a place in the list, from 1, never used twice */
    int64_t jobs;           /* how many there have been */
    int turn;               /* where postgreses_ready found one that has a result */
};

enum {
    PARAMS = 1000, /* of a step */
    WHY = 512,
};

/* Numbers of jobs go down from here, so that they are no others' (lua_store.h, lua_writer.h). */
static const int64_t FIRST_JOB = -(INT64_C(1) << 51);

static struct postgreses *all_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static struct postgres *check_postgres(lua_State *L)
{
    struct postgreses *all = all_of(L);
    int id = luaL_checkint(L, 1);
    luaL_argcheck(L, id >= 1 && id <= all->count && all->list[id - 1], 1, "not an open database");
    return all->list[id - 1];
}

/* From Lua ------------------------------------------------------------------------------------ */

/* The greatest index of the list on top of the stack, which may have holes. */
static size_t list_end(lua_State *L)
{
    size_t end = 0;
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pop(L, 1);
        double key = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : 0;
        if (key > (double)end)
            end = key <= PARAMS ? (size_t)key : PARAMS + 1;
    }
    return end;
}

/* Looks the step on top of the stack over. Raises when it is none. */
static void check_step(lua_State *L, int number)
{
    if (!lua_istable(L, -1))
        luaL_error(L, "postgres_run: step %d is no table", number);
    size_t end = list_end(L);
    lua_rawgeti(L, -1, 1);
    if (lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "postgres_run: step %d does not begin with SQL", number);
    lua_pop(L, 1);
    if (end > PARAMS)
        luaL_error(L, "postgres_run: step %d has more than %d values", number, PARAMS - 1);
    for (size_t i = 2; i <= end; i++) {
        lua_rawgeti(L, -1, (int)i);
        int type = lua_type(L, -1);
        if (type != LUA_TNIL && type != LUA_TBOOLEAN && type != LUA_TNUMBER && type != LUA_TSTRING)
            luaL_error(L, "postgres_run: value %d of step %d is a %s", (int)i - 1, number,
                       lua_typename(L, type));
        lua_pop(L, 1);
    }
    lua_getfield(L, -1, "packed");
    lua_getfield(L, -2, "kinds");
    if (lua_istable(L, -2) && lua_type(L, -1) != LUA_TSTRING)
        luaL_error(L, "postgres_run: step %d has packed rows, and no kinds", number);
    for (size_t i = 1; lua_istable(L, -2) && i <= lua_objlen(L, -2); i++) {
        lua_rawgeti(L, -2, (int)i);
        if (lua_type(L, -1) != LUA_TSTRING)
            luaL_error(L, "postgres_run: step %d has packed rows that are no text", number);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

/* The functions that follow do not raise: the names they look for are in the tables, or were looked
 * for before. */

static char *copy(lua_State *L, int at)
{
    size_t len;
    const char *text = lua_tolstring(L, at, &len);
    char *made = malloc(len + 1);
    if (made)
        memcpy(made, text, len + 1);
    return made;
}

/* The parameter on top of the stack, as text; NULL when out of memory. */
static char *copy_param(lua_State *L)
{
    char digits[40];
    double number = lua_tonumber(L, -1);
    switch (lua_type(L, -1)) {
    case LUA_TBOOLEAN:
        return strdup(lua_toboolean(L, -1) ? "true" : "false");
    case LUA_TNUMBER:
        if (number == (double)(int64_t)number)
            snprintf(digits, sizeof digits, "%lld", (long long)number);
        else
            snprintf(digits, sizeof digits, "%.17g", number);
        return strdup(digits);
    default:
        return copy(L, -1);
    }
}

static int fill_params(lua_State *L, int at, struct session_step *step)
{
    lua_pushvalue(L, at);
    size_t end = list_end(L);
    lua_getfield(L, at, "n");
    double count = lua_tonumber(L, -1); /* where the last ones are nil */
    if (count >= (double)end && count < PARAMS)
        end = (size_t)count + 1;
    lua_pop(L, 2);
    step->params = calloc(end + 1, sizeof *step->params);
    if (!step->params)
        return -ENOMEM;
    step->count = end - 1;
    int rc = 0;
    for (size_t i = 0; i < step->count && rc == 0; i++) {
        lua_rawgeti(L, at, (int)i + 2);
        if (!lua_isnil(L, -1)) {
            step->params[i] = copy_param(L);
            rc = step->params[i] ? 0 : -ENOMEM;
        }
        lua_pop(L, 1);
    }
    return rc;
}

static int fill_packed(lua_State *L, int at, struct session_step *step)
{
    lua_getfield(L, at, "packed");
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        return 0;
    }
    size_t count = lua_objlen(L, -1);
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, (int)i);
        step->packed_len += lua_objlen(L, -1);
        lua_pop(L, 1);
    }
    step->packed = malloc(step->packed_len + 1);
    char *to = step->packed;
    for (size_t i = 1; to && i <= count; i++) {
        size_t len;
        lua_rawgeti(L, -1, (int)i);
        const char *text = lua_tolstring(L, -1, &len);
        memcpy(to, text, len);
        to += len;
        lua_pop(L, 1);
    }
    lua_getfield(L, at, "kinds");
    step->kinds = copy(L, -1);
    lua_getfield(L, at, "binary");
    step->binary = lua_toboolean(L, -1);
    lua_pop(L, 3);
    return step->packed && step->kinds ? 0 : -ENOMEM;
}

/* Fills a step in from the table on top of the stack. */
static int fill_step(lua_State *L, struct session_step *step)
{
    int at = lua_gettop(L);
    lua_rawgeti(L, at, 1);
    step->sql = copy(L, -1);
    lua_getfield(L, at, "expect");
    if (lua_isnumber(L, -1))
        step->expected = (int64_t)lua_tonumber(L, -1);
    lua_getfield(L, at, "message");
    bool named = lua_type(L, -1) == LUA_TSTRING;
    if (named)
        step->otherwise = copy(L, -1);
    lua_settop(L, at);
    if (!step->sql || (named && !step->otherwise) || fill_params(L, at, step))
        return -ENOMEM;
    return fill_packed(L, at, step);
}

/* The job of a list of steps; raises when it is none. NULL when out of memory. */
static struct session_job *make_job(lua_State *L, int list)
{
    luaL_checktype(L, list, LUA_TTABLE);
    luaL_checkstack(L, 12, NULL);
    /* So that to look for them needs no memory. */
    lua_pushliteral(L, "expect");
    lua_pushliteral(L, "message");
    lua_pushliteral(L, "packed");
    lua_pushliteral(L, "kinds");
    lua_pushliteral(L, "n");
    lua_pushliteral(L, "binary");
    int top = lua_gettop(L);
    size_t count = lua_objlen(L, list);
    for (size_t i = 1; i <= count; i++) {
        lua_rawgeti(L, list, (int)i);
        check_step(L, (int)i);
        lua_settop(L, top);
    }
    struct session_job *job = session_job_create(count); /* from here on nothing raises */
    bool failed = !job;
    for (size_t i = 0; i < count && !failed; i++) {
        lua_rawgeti(L, list, (int)i + 1);
        failed = fill_step(L, &job->steps[i]) != 0;
        lua_settop(L, top);
    }
    if (failed) {
        session_job_destroy(job);
        return NULL;
    }
    return job;
}

/* To Lua -------------------------------------------------------------------------------------- */

static void push_outcome(lua_State *L, const struct session_job *job)
{
    lua_createtable(L, 0, 3);
    if (job->failed) {
        lua_pushliteral(L, "postgres");
        lua_setfield(L, -2, "fault");
        lua_pushstring(L, job->code);
        lua_setfield(L, -2, "code");
        lua_pushstring(L, job->message);
        lua_setfield(L, -2, "message");
        return;
    }
    lua_createtable(L, (int)job->rows, 0);
    for (size_t i = 0; i < job->rows; i++) {
        lua_createtable(L, (int)job->width, 0);
        for (size_t k = 0; k < job->width; k++) {
            const char *text = job->cells[i * job->width + k];
            if (!text)
                continue;
            lua_pushstring(L, text);
            lua_rawseti(L, -2, (int)k + 1);
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setfield(L, -2, "rows");
}

bool postgreses_ready(struct postgreses *all)
{
    for (int i = 0; i < all->count; i++) {
        int at = (all->turn + i) % all->count;
        if (all->list[at] && postgres_peek(all->list[at])) {
            all->turn = at;
            return true;
        }
    }
    return false;
}

void postgreses_push(lua_State *L, struct postgreses *all)
{
    struct postgres *p = all->list[all->turn];
    struct session_job *job = postgres_peek(p);
    lua_pushnumber(L, (double)job->id);
    push_outcome(L, job);
    session_job_destroy(postgres_take(p));
    all->turn = (all->turn + 1) % all->count;
}

/* The functions ------------------------------------------------------------------------------- */

static int refused(lua_State *L, const char *message)
{
    lua_pushnil(L);
    lua_pushstring(L, message);
    return 2;
}

static int l_open(lua_State *L)
{
    struct postgreses *all = all_of(L);
    const char *url = luaL_checkstring(L, 1);
    struct postgres **list = realloc(all->list, sizeof(*list) * ((size_t)all->count + 1));
    if (!list)
        return refused(L, strerror(ENOMEM));
    all->list = list;
    struct postgres *p;
    int rc = postgres_open(&p, all->loop, url, lua_toboolean(L, 2), all->on_done, all->ctx);
    if (rc)
        return refused(L, strerror(-rc));
    all->list[all->count++] = p;
    lua_pushnumber(L, all->count);
    return 1;
}

static int l_run(lua_State *L)
{
    struct postgreses *all = all_of(L);
    struct postgres *p = check_postgres(L);
    struct session_job *job = make_job(L, 2);
    if (!job)
        return luaL_error(L, "not enough memory");
    job->id = FIRST_JOB - ++all->jobs;
    lua_pushnumber(L, (double)job->id);
    postgres_submit(p, job);
    return 1;
}

static int l_close(lua_State *L)
{
    struct postgreses *all = all_of(L);
    struct postgres *p = check_postgres(L);
    all->list[lua_tointeger(L, 1) - 1] = NULL;
    postgres_close(p);
    return 0;
}

/* The password of a URL that is fine is on the stack, as Lua's. */
static int l_check(lua_State *L)
{
    char why[WHY];
    char *password;
    int rc = session_check(luaL_checkstring(L, 1), &password, why, sizeof why);
    if (rc == -ENOMEM)
        return luaL_error(L, "not enough memory");
    if (rc)
        return refused(L, why);
    lua_pushboolean(L, 1);
    if (!password)
        return 1;
    lua_pushstring(L, password);
    free(password);
    return 2;
}

int luaopen_orchestrator_core_postgres(lua_State *L)
{
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, l_check);
    lua_setfield(L, -2, "check");
    return 1;
}

void postgreses_register(lua_State *L, struct postgreses *all)
{
    static const struct luaL_Reg functions[] = {
        {"postgres_open", l_open},
        {"postgres_run", l_run},
        {"postgres_close", l_close},
        {NULL, NULL},
    };
    for (const struct luaL_Reg *f = functions; f->name; f++) {
        lua_pushlightuserdata(L, all);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
}

struct postgreses *postgreses_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx)
{
    struct postgreses *all = calloc(1, sizeof *all);
    if (all)
        *all = (struct postgreses){.loop = loop, .on_done = on_done, .ctx = ctx};
    return all;
}

void postgreses_destroy(struct postgreses *all)
{
    for (int i = 0; i < all->count; i++)
        if (all->list[i])
            postgres_close(all->list[i]);
    free(all->list);
    free(all);
}
