#include "lua_rows.h"

#include "bytes.h"
#include "json_encode.h"
#include "json_scan.h"
#include "rows.h"

#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { KEPT_BYTES = 1024 * 1024, PROBLEM = 256, KNOWN = 64 };

enum { BOOLEAN = 1, INTEGER = 2, REAL = 4, TEXT = 8, JSON = 16 };

/* The column of a name, by the address of its text, which in Lua is one for equal texts. Good for
 * as long as the table of ids, which holds the name. */
struct known {
    const char *name; /* borrowed for the time of a call */
    unsigned column;
};

/* The working memory of one call at a time. */
struct packer {
    struct bytes packed, text, members;
    const void *array;                /* the metatable of marked arrays (json.h) */
    unsigned columns;                 /* the greatest one used; what follows is clean beyond it */
    bool no_nul;                      /* the database takes no NUL byte */
    unsigned char mask[ROWS_COLUMNS]; /* by column, from 0 */
    unsigned seen[ROWS_COLUMNS];      /* in which record last */
    struct known known[KNOWN];
    char problem[PROBLEM];
};

static const char PACKER[] = "orchestrator.rows.packer";

static int packer_gc(lua_State *L)
{
    struct packer *p = lua_touserdata(L, 1);
    bytes_deinit(&p->packed);
    bytes_deinit(&p->text);
    bytes_deinit(&p->members);
    return 0;
}

/* What the stack of pack holds. */
enum { RECORDS = 1, IDS, KEYS, FLAGS, RECORD, NAME, VALUE };

static bool is_utf8(const char *text, size_t len)
{
    const char *end = text + len;
    while ((text = json_scan_plain(text, end)) < end)
        if ((signed char)*text++ < 0) /* where it stops at ASCII, that is special in JSON only */
            return false;
    return true;
}

static int complain(struct packer *p, const char *problem)
{
    snprintf(p->problem, sizeof p->problem, "%s", problem);
    return -EINVAL;
}

/* Whether a JSON text has a \u0000 in it, and not one whose backslash is escaped. */
static bool has_escaped_nul(const char *text, size_t len)
{
    const char *end = text + len;
    if (!memmem(text, len, "\\u0000", 6))
        return false;
    for (; text < end; text++) {
        if (*text != '\\')
            continue;
        if (end - text >= 6 && memcmp(text, "\\u0000", 6) == 0)
            return true;
        text++;
    }
    return false;
}

static int nested(lua_State *L, struct packer *p, struct rows_value *value)
{
    bytes_clear(&p->text);
    bytes_clear(&p->members);
    int rc = json_encode_value(L, p->array, &p->text, &p->members);
    if (rc == -EINVAL) {
        size_t len = p->text.len < PROBLEM - 1 ? p->text.len : PROBLEM - 1;
        memcpy(p->problem, p->text.data, len);
        p->problem[len] = '\0';
    }
    if (rc)
        return rc;
    *value = (struct rows_value){.tag = ROWS_JSON, .data = p->text.data, .len = p->text.len};
    if (value->data[0] == '"') { /* a secret's mask */
        *value = (struct rows_value){ROWS_TEXT, 0, value->data + 1, value->len - 2};
        return 0;
    }
    if (p->no_nul && has_escaped_nul(value->data, value->len))
        return complain(p, "a text in it has a NUL byte, which PostgreSQL cannot hold");
    return 0;
}

/* The value on top of the stack, which stays there; `*bit` is 0 for null. */
static int read_value(lua_State *L, struct packer *p, struct rows_value *value, unsigned *bit)
{
    int type = lua_type(L, -1);
    *bit = 0;
    switch (type) {
    case LUA_TSTRING:
        *value = (struct rows_value){.tag = ROWS_TEXT};
        value->data = lua_tolstring(L, -1, &value->len);
        *bit = TEXT;
        if (!is_utf8(value->data, value->len))
            return complain(p, "the string is not valid UTF-8");
        if (p->no_nul && memchr(value->data, '\0', value->len))
            return complain(p, "the string has a NUL byte, which PostgreSQL cannot hold");
        return 0;
    case LUA_TNUMBER:
        *value = (struct rows_value){.tag = ROWS_NUMBER, .number = lua_tonumber(L, -1)};
        if (!isfinite(value->number))
            return complain(p, isnan(value->number) ? "it is not a number" : "it is infinite");
        *bit =
            fabs(value->number) <= 0x1p53 && value->number == floor(value->number) ? INTEGER : REAL;
        return 0;
    case LUA_TBOOLEAN:
        *value = (struct rows_value){.tag = lua_toboolean(L, -1) ? ROWS_TRUE : ROWS_FALSE};
        *bit = BOOLEAN;
        return 0;
    case LUA_TTABLE: {
        int rc = nested(L, p, value);
        *bit = rc == 0 && value->tag == ROWS_TEXT ? TEXT : JSON;
        return rc;
    }
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1))
            return 0; /* json.null */
    }
    snprintf(p->problem, sizeof p->problem, "a value of type %s has no place in a table",
             lua_typename(L, type));
    return -EINVAL;
}

/* The number of the column of the name on the stack; -1 when it has none. */
static int find_column(lua_State *L, struct packer *p)
{
    const char *name = lua_tostring(L, NAME);
    struct known *known = &p->known[((uintptr_t)name >> 4) % KNOWN];
    if (known->name == name)
        return (int)known->column;
    lua_pushvalue(L, NAME);
    lua_rawget(L, IDS);
    int column = lua_isnil(L, -1) ? -1 : (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    if (column >= 0)
        *known = (struct known){name, (unsigned)column};
    return column;
}

/* The field whose name and value are on the stack. */
static int pack_field(lua_State *L, struct packer *p, size_t row, unsigned number)
{
    struct rows_value value;
    unsigned bit;
    if (lua_type(L, NAME) != LUA_TSTRING) {
        lua_pushnil(L); /* it is about the record */
        lua_replace(L, NAME);
        return complain(p, "the record is a list, and a table takes objects: make one in map");
    }
    int column = find_column(L, p);
    if (column == 0)
        return 0;
    int rc = read_value(L, p, &value, &bit);
    if (rc || bit == 0)
        return rc;
    if (column < 0 || column > ROWS_COLUMNS)
        return -ENOENT;
    if (p->seen[column - 1] == number)
        return complain(p, "another name in the record is that of the same column");
    p->seen[column - 1] = number;
    p->mask[column - 1] |= (unsigned char)bit;
    if ((unsigned)column > p->columns)
        p->columns = (unsigned)column;
    return rows_add_field(&p->packed, row, (unsigned)column, &value);
}

/* The record on the stack. After a failure there is above it the name of the field it is about, the
 * number of a key's column, or nil. */
static int pack_record(lua_State *L, struct packer *p, unsigned number, unsigned keys)
{
    size_t row = p->packed.len;
    uint16_t fields;
    int rc = rows_add(&p->packed);
    if (!lua_istable(L, RECORD)) {
        snprintf(p->problem, sizeof p->problem,
                 "the record is a %s, and a table takes objects: make one in map",
                 lua_typename(L, lua_type(L, RECORD)));
        lua_pushnil(L);
        return -EINVAL;
    }
    lua_pushnil(L);
    while (rc == 0 && lua_next(L, RECORD)) {
        rc = pack_field(L, p, row, number);
        lua_settop(L, NAME);
    }
    if (rc)
        return rc;
    for (unsigned i = 0; i < keys; i++) {
        if (p->seen[i] == number)
            continue;
        lua_settop(L, RECORD);
        lua_pushnumber(L, i + 1);
        return complain(p, "is missing");
    }
    memcpy(&fields, p->packed.data + row, sizeof fields);
    if (fields == 0) {
        lua_settop(L, RECORD);
        lua_pushnil(L);
        return complain(p, "the record has no value but null");
    }
    return 0;
}

static int l_pack(lua_State *L)
{
    struct packer *p = lua_touserdata(L, lua_upvalueindex(1));
    luaL_checktype(L, RECORDS, LUA_TTABLE);
    luaL_checktype(L, IDS, LUA_TTABLE);
    unsigned keys = (unsigned)luaL_checkint(L, KEYS);
    p->no_nul = strchr(luaL_optstring(L, FLAGS, ""), '0') != NULL;
    luaL_argcheck(L, keys <= ROWS_COLUMNS, KEYS, "too many");
    lua_settop(L, FLAGS);
    luaL_checkstack(L, 16, NULL);
    size_t count = lua_objlen(L, RECORDS);

    bytes_trim(&p->packed, KEPT_BYTES);
    bytes_trim(&p->text, KEPT_BYTES);
    memset(p->mask, 0, p->columns * sizeof p->mask[0]);
    memset(p->seen, 0, p->columns * sizeof p->seen[0]);
    memset(p->known, 0, sizeof p->known);
    p->columns = 0;
    for (size_t i = 1; i <= count; i++) {
        lua_settop(L, FLAGS);
        lua_rawgeti(L, RECORDS, (int)i);
        int rc = pack_record(L, p, (unsigned)i, keys);
        if (rc == 0)
            continue;
        if (rc == -ENOMEM || rc == -E2BIG)
            return luaL_error(L, "not enough memory");
        lua_settop(L, NAME);
        lua_pushnil(L);
        lua_pushnumber(L, (double)i);
        lua_pushvalue(L, NAME);
        if (rc == -ENOENT)
            return 3;
        lua_pushstring(L, p->problem);
        return 4;
    }
    lua_pushlstring(L, p->packed.data ? p->packed.data : "", p->packed.len);
    lua_pushlstring(L, (const char *)p->mask, p->columns);
    return 2;
}

int luaopen_orchestrator_core_rows(lua_State *L)
{
    lua_createtable(L, 0, 1);
    struct packer *p = lua_newuserdata(L, sizeof *p);
    memset(p, 0, sizeof *p);
    if (luaL_newmetatable(L, PACKER)) {
        lua_pushcfunction(L, packer_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);

    lua_getglobal(L, "require");
    lua_pushliteral(L, "orchestrator.core.json");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "array");
    lua_call(L, 0, 1);
    if (lua_getmetatable(L, -1)) {
        p->array = lua_topointer(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);

    lua_pushcclosure(L, l_pack, 1);
    lua_setfield(L, -2, "pack");
    return 1;
}
