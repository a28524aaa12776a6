#include "lua_writer.h"

#include "file.h"
#include "writer.h"

#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

struct place {
    struct writer *writer; /* owned; NULL when it was closed */
    bool keep;             /* a later run may go on with the file as it is */
};

struct writers {
    uv_loop_t *loop; /* borrowed until writers_destroy */
    void (*on_done)(void *ctx);
    void *ctx;          /* borrowed until writers_destroy */
    struct place *list; /* owned */
    int count;          /* an id is a place in the list, from 1, never used twice */
    int64_t jobs;       /* how many there have been */
    int turn;           /* where writers_ready found one that has a result */
};

/* Numbers of jobs go down from here, so that they are no others' (lua_store.h). */
static const int64_t FIRST_JOB = -(INT64_C(1) << 50);

static struct writers *writers_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static struct place *check_place(lua_State *L)
{
    struct writers *writers = writers_of(L);
    int id = luaL_checkint(L, 1);
    luaL_argcheck(L, id >= 1 && id <= writers->count && writers->list[id - 1].writer, 1,
                  "not an open output");
    return &writers->list[id - 1];
}

/* From Lua ------------------------------------------------------------------------------------ */

/* The functions that read a job's fields do not raise. */
static bool flag_at(lua_State *L, const char *name)
{
    lua_getfield(L, 2, name);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static int64_t size_at(lua_State *L, const char *name, int64_t absent)
{
    lua_getfield(L, 2, name);
    int64_t value = lua_isnumber(L, -1) ? (int64_t)lua_tonumber(L, -1) : absent;
    lua_pop(L, 1);
    return value;
}

static int append_text(lua_State *L, struct bytes *to)
{
    size_t len;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    return text && len > 0 ? bytes_append(to, text, len) : 0;
}

static int copy_text(lua_State *L, const char *name, struct bytes *to)
{
    lua_getfield(L, 2, name);
    int rc = append_text(L, to);
    lua_pop(L, 1);
    return rc;
}

/* Room is made once, as a window may be large. */
static int copy_texts(lua_State *L, struct bytes *to)
{
    size_t total = 0;
    int rc = 0;
    lua_getfield(L, 2, "texts");
    int count = lua_istable(L, -1) ? (int)lua_objlen(L, -1) : 0;
    for (int i = 1; i <= count; i++) {
        lua_rawgeti(L, -1, i);
        total += lua_type(L, -1) == LUA_TSTRING ? lua_objlen(L, -1) : 0;
        lua_pop(L, 1);
    }
    if (total > 0)
        rc = bytes_reserve(to, total);
    for (int i = 1; i <= count && rc == 0; i++) {
        lua_rawgeti(L, -1, i);
        rc = append_text(L, to);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return rc;
}

static int option_at(lua_State *L, const char *name, const char *absent, const char *const *names)
{
    lua_getfield(L, 2, name);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : absent;
    lua_pop(L, 1); /* the table holds it */
    for (int i = 0; text && names[i]; i++)
        if (strcmp(text, names[i]) == 0)
            return i;
    return luaL_error(L, "output_run: bad field '%s'", name);
}

static const char *const ops[] = {"open", "scan", "keep", "write", "finish", NULL};
static const char *const modes[] = {"replace", "append", "stdout", NULL};
static const char *const codecs[] = {"none", "gzip", "zstd", NULL};

/* Sets what is open for OPEN but the path. May raise. */
static struct output_options check_open(lua_State *L)
{
    lua_getfield(L, 2, "path");
    size_t len = 0;
    const char *path = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    if (!path || len == 0 || strlen(path) != len)
        luaL_error(L, "output_run: a path that is no text, empty, or has a NUL byte in it");
    lua_pop(L, 1);
    return (struct output_options){
        .mode = (enum output_mode)option_at(L, "mode", NULL, modes),
        .codec = (enum codec)option_at(L, "codec", "none", codecs),
        .durable = flag_at(L, "durable"),
        .resume = size_at(L, "resume", -1),
        .finishing = flag_at(L, "finishing"),
    };
}

static int fill(lua_State *L, struct writer_job *job)
{
    int rc = 0;
    job->keep = size_at(L, "keep", 0);
    job->sync = flag_at(L, "sync");
    job->widening.columns = (size_t)size_at(L, "columns", 0);
    if (job->op == WRITER_OPEN)
        return copy_text(L, "path", &job->text);
    rc = copy_texts(L, &job->text);
    if (rc == 0)
        rc = copy_text(L, "closer", &job->closer);
    if (rc == 0)
        rc = copy_text(L, "header", &job->widening.header);
    lua_getfield(L, 2, "delimiter");
    const char *delimiter = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    job->widening.delimiter = *delimiter;
    lua_pop(L, 1);
    return rc;
}

static int l_run(lua_State *L)
{
    struct writers *writers = writers_of(L);
    struct place *place = check_place(L);
    struct output_options open = {.resume = -1};
    luaL_checktype(L, 2, LUA_TTABLE);
    enum writer_op op = (enum writer_op)option_at(L, "op", NULL, ops);
    if (op == WRITER_OPEN) {
        open = check_open(L);
        place->keep = open.durable;
    }
    luaL_checkstack(L, 4, NULL);
    struct writer_job *job = writer_job_create(op); /* from here on nothing raises */
    if (job)
        job->open = open;
    if (!job || fill(L, job) != 0) {
        writer_job_destroy(job);
        return luaL_error(L, "not enough memory");
    }
    job->id = FIRST_JOB - ++writers->jobs;
    lua_pushnumber(L, (double)job->id);
    writer_submit(place->writer, job);
    return 1;
}

/* To Lua -------------------------------------------------------------------------------------- */

static const char *code_of(int rc)
{
    switch (rc) {
    case -ENOSPC:
    case -EDQUOT:
        return "full";
    case -EFBIG:
        return "too_large";
    case -EACCES:
    case -EPERM:
    case -EROFS:
        return "denied";
    case -EIO:
        return "io";
    case -EWOULDBLOCK:
        return "busy";
    case -EPIPE:
        return "no_reader";
    case FILE_GONE:
        return "gone";
    case FILE_SHORTER:
        return "shorter";
    case FILE_CORRUPT:
        return "corrupt";
    default:
        return "failed";
    }
}

static void set_number(lua_State *L, const char *name, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void set_flag(lua_State *L, const char *name, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, name);
}

static void set_text(lua_State *L, const char *name, const struct bytes *text)
{
    lua_pushlstring(L, text->len > 0 ? text->data : "", text->len);
    lua_setfield(L, -2, name);
}

static void push_outcome(lua_State *L, const struct writer_job *job)
{
    lua_createtable(L, 0, 6);
    if (job->rc != 0) {
        lua_pushliteral(L, "output");
        lua_setfield(L, -2, "fault");
        lua_pushstring(L, code_of(job->rc));
        lua_setfield(L, -2, "code");
        /* The size of a file is the other meaning that this has. */
        lua_pushstring(L, job->rc == -EFBIG && job->op != WRITER_SCAN ? strerror(EFBIG)
                                                                      : file_strerror(job->rc));
        lua_setfield(L, -2, "message");
        return;
    }
    set_number(L, "size", (double)job->size);
    if (job->op == WRITER_OPEN) {
        set_flag(L, "finished", job->finished);
        set_flag(L, "terminal", job->terminal);
    } else if (job->op == WRITER_SCAN) {
        set_text(L, "head", &job->scan.head);
        set_text(L, "tail", &job->scan.tail);
        set_text(L, "ending", &job->scan.ending);
        set_number(L, "whole", (double)job->scan.whole);
        set_number(L, "last", (double)job->scan.last);
        set_number(L, "row", (double)job->scan.row);
    }
}

bool writers_ready(struct writers *writers)
{
    for (int i = 0; i < writers->count; i++) {
        int at = (writers->turn + i) % writers->count;
        struct writer *w = writers->list[at].writer;
        if (w && writer_peek(w)) {
            writers->turn = at;
            return true;
        }
    }
    return false;
}

void writers_push(lua_State *L, struct writers *writers)
{
    struct writer *w = writers->list[writers->turn].writer;
    struct writer_job *job = writer_peek(w);
    lua_pushnumber(L, (double)job->id);
    push_outcome(L, job);
    writer_job_destroy(writer_take(w));
    writers->turn = (writers->turn + 1) % writers->count;
}

/* Life ---------------------------------------------------------------------------------------- */

static int refused(lua_State *L, int rc)
{
    lua_pushnil(L);
    lua_pushstring(L, file_strerror(rc));
    return 2;
}

static int l_create(lua_State *L)
{
    struct writers *writers = writers_of(L);
    struct place *list = realloc(writers->list, sizeof(*list) * ((size_t)writers->count + 1));
    if (!list)
        return refused(L, -ENOMEM);
    writers->list = list;
    struct writer *w;
    int rc = writer_create(&w, writers->loop, writers->on_done, writers->ctx);
    if (rc != 0)
        return refused(L, rc);
    writers->list[writers->count++] = (struct place){.writer = w};
    lua_pushinteger(L, writers->count);
    return 1;
}

static int l_close(lua_State *L)
{
    struct place *place = check_place(L);
    struct writer *w = place->writer;
    place->writer = NULL;
    writer_close(w, lua_toboolean(L, 2));
    return 0;
}

struct writers *writers_create(uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx)
{
    struct writers *writers = calloc(1, sizeof *writers);
    if (writers)
        *writers = (struct writers){.loop = loop, .on_done = on_done, .ctx = ctx};
    return writers;
}

void writers_register(lua_State *L, struct writers *writers)
{
    static const luaL_Reg functions[] = {
        {"output_create", l_create},
        {"output_run", l_run},
        {"output_close", l_close},
        {NULL, NULL},
    };
    for (const luaL_Reg *f = functions; f->name; f++) {
        lua_pushlightuserdata(L, writers);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
}

void writers_destroy(struct writers *writers)
{
    for (int i = 0; i < writers->count; i++)
        if (writers->list[i].writer)
            writer_close(writers->list[i].writer, !writers->list[i].keep);
    free(writers->list);
    free(writers);
}
