#include "json_encode.h"

#include "bytes.h"
#include "json_scan.h"
#include "number.h"

#include <endian.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATH_BYTES = 200, /* of a message */
    FEW_MEMBERS = 40, /* insertion sort is the faster one up to here */
};

static const double MAX_INTEGER = 9007199254740992.0; /* 2^53: all integers up to it are exact */

/* The encode_ functions append the text of the value on top of the stack and leave the stack as it
 * was. After a failure they append nothing more, and the stack may have grown. */
struct encoder {
    lua_State *L;
    struct bytes *text;
    struct bytes *members; /* struct member of the objects being written, innermost last */
    const void *array;     /* the metatable of marked arrays */
    int status;            /* 0, -ENOMEM, or -EINVAL with a message in place of the text */
};

/* Where a value is: the member `key`, or, without a key, the element `index` of what `up` is. */
struct place {
    const struct place *up; /* on the C stack; NULL for the outermost value */
    int depth;              /* how many are above it */
    int index;
    const char *key; /* borrowed from the table that is being encoded */
    size_t len;
};

/* A key of an object that is being encoded. */
struct member {
    uint64_t prefix; /* its first 8 bytes as a big-endian number, which compares as they do */
    const char *key; /* borrowed from the table */
    size_t len;
};

static void encode_value(struct encoder *e, const struct place *at);

static bool make_room(struct encoder *e, struct bytes *b, size_t n)
{
    if (bytes_reserve(b, n) != 0)
        e->status = -ENOMEM;
    return e->status == 0;
}

static inline void put(struct encoder *e, const char *p, size_t n)
{
    struct bytes *text = e->text;
    if (e->status != 0 || (n > text->cap - text->len && !make_room(e, text, n)))
        return;
    memcpy(text->data + text->len, p, n);
    text->len += n;
}

static void put_place(struct encoder *e, const struct place *at)
{
    char index[NUMBER_BYTES];
    if (!at->up)
        return;
    put_place(e, at->up);
    put(e, ".", at->key ? 1 : 0);
    if (at->key)
        put(e, at->key, at->len);
    else
        put(e, index, (size_t)snprintf(index, sizeof index, "[%d]", at->index));
}

/* Fails, with a message such as "at .items[3].name: nan has no JSON form". */
static void refuse(struct encoder *e, const struct place *at, const char *what)
{
    if (e->status != 0)
        return;
    e->text->len = 0;
    if (at->up) {
        put(e, "at ", 3);
        put_place(e, at);
        if (e->text->len > PATH_BYTES) {
            e->text->len = PATH_BYTES;
            put(e, "...", 3);
        }
        put(e, ": ", 2);
    }
    put(e, what, strlen(what));
    if (e->status == 0)
        e->status = -EINVAL;
}

/* Fails; `what` has a %s for the name of a Lua type. */
static void refuse_type(struct encoder *e, const struct place *at, const char *what, int type)
{
    char text[80];
    snprintf(text, sizeof text, what, lua_typename(e->L, type));
    refuse(e, at, text);
}

static void put_escaped(struct encoder *e, char c)
{
    static const char hex[] = "0123456789abcdef";
    static const char names[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (const char *name = names; *name; name += 2) {
        if (*name == c) {
            put(e, (char[]){'\\', name[1]}, 2);
            return;
        }
    }
    put(e, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
}

static void encode_string(struct encoder *e, const struct place *at, const char *p, size_t len)
{
    const char *end = p + len;
    const char *run = p; /* not written yet, and in no need of escapes */
    put(e, "\"", 1);
    while ((p = json_scan_plain(p, end)) < end) {
        if ((unsigned char)*p >= 0x80) {
            refuse(e, at, "the string is not valid UTF-8");
            return;
        }
        put(e, run, (size_t)(p - run));
        put_escaped(e, *p);
        run = ++p;
    }
    put(e, run, (size_t)(end - run));
    put(e, "\"", 1);
}

/* Writes the shortest of the printf forms that gives the same number again, with a point in every
 * locale. What would look like an integer beyond 2^53, which is decoded to a string, gets a ".0".
 */
static void encode_any_number(struct encoder *e, double x)
{
    char text[NUMBER_BYTES];
    size_t len = number_general(text, x);
    bool integer = !memchr(text, '.', len) && !memchr(text, 'e', len);
    put(e, text, len);
    put(e, ".0", integer ? 2 : 0);
}

static void encode_number(struct encoder *e, const struct place *at, double x)
{
    char text[NUMBER_BYTES];
    char *end = text + sizeof text, *start;
    if (!isfinite(x)) {
        refuse(e, at, isnan(x) ? "nan has no JSON form" : "an infinite number has no JSON form");
        return;
    }
    if (fabs(x) <= MAX_INTEGER && x == (double)(int64_t)x && (x != 0 || !signbit(x))) {
        start = number_digits_before(end, (uint64_t)fabs(x));
        if (x < 0)
            *--start = '-';
    } else {
        start = number_decimal_before(end, x);
    }
    if (start)
        put(e, start, (size_t)(end - start));
    else
        encode_any_number(e, x);
}

static bool member_before(const struct member *a, const struct member *b)
{
    if (a->prefix != b->prefix)
        return a->prefix < b->prefix;
    int order = memcmp(a->key, b->key, a->len < b->len ? a->len : b->len);
    return order != 0 ? order < 0 : a->len < b->len;
}

static int member_compare(const void *a, const void *b)
{
    return member_before(a, b) ? -1 : member_before(b, a);
}

static void members_sort(struct member *m, size_t n)
{
    if (n > FEW_MEMBERS) {
        qsort(m, n, sizeof *m, member_compare);
        return;
    }
    for (size_t i = 1; i < n; i++) {
        struct member moving = m[i];
        size_t to = i;
        for (; to > 0 && member_before(&moving, &m[to - 1]); to--)
            m[to] = m[to - 1];
        m[to] = moving;
    }
}

/* Refuses a table for the key at -2, which does not go with those before it. */
static void refuse_key(struct encoder *e, const struct place *at)
{
    int type = lua_type(e->L, -2);
    if (type == LUA_TNUMBER || type == LUA_TSTRING)
        refuse(e, at, "the table has both string and number keys");
    else
        refuse_type(e, at, "the table has a key of type %s", type);
}

/* Adds the keys of the table on top of the stack to e->members. */
static void collect_members(struct encoder *e, const struct place *at)
{
    lua_State *L = e->L;
    lua_pushnil(L);
    for (; e->status == 0 && lua_next(L, -2); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            refuse_key(e, at);
            continue;
        }
        struct member m = {0};
        m.key = lua_tolstring(L, -2, &m.len);
        memcpy(&m.prefix, m.key, m.len < sizeof m.prefix ? m.len : sizeof m.prefix);
        m.prefix = be64toh(m.prefix);
        if (bytes_append(e->members, &m, sizeof m) != 0)
            e->status = -ENOMEM;
    }
}

static void encode_object(struct encoder *e, const struct place *at)
{
    lua_State *L = e->L;
    int table = lua_gettop(L);
    size_t base = e->members->len;
    collect_members(e, at);
    size_t n = (e->members->len - base) / sizeof(struct member);
    if (e->status == 0)
        members_sort((struct member *)(e->members->data + base), n);

    for (size_t i = 0; e->status == 0 && i < n; i++) {
        /* The array moves when it grows for a nested object. */
        struct member m = ((struct member *)(e->members->data + base))[i];
        struct place place = {.up = at, .depth = at->depth + 1, .key = m.key, .len = m.len};
        put(e, i == 0 ? "{" : ",", 1);
        encode_string(e, &place, m.key, m.len);
        put(e, ":", 1);
        lua_pushlstring(L, m.key, m.len);
        lua_rawget(L, table);
        encode_value(e, &place);
        lua_settop(L, table);
    }
    e->members->len = base;
    put(e, "}", 1);
}

/* The length of the array on top of the stack, 0 after a failure: all keys must be 1, 2, … n. */
static int array_length(struct encoder *e, const struct place *at)
{
    lua_State *L = e->L;
    double count = 0, last = 0;
    lua_pushnil(L);
    for (; e->status == 0 && lua_next(L, -2); lua_pop(L, 1)) {
        double key = lua_tonumber(L, -2);
        if (lua_type(L, -2) != LUA_TNUMBER)
            refuse_key(e, at);
        bool index = key >= 1 && key == floor(key);
        last = fmax(last, index ? key : INFINITY);
        count++;
    }
    if (last != count)
        refuse(e, at, "the number keys are not 1, 2, 3 and so on without a gap");
    return e->status == 0 ? (int)count : 0;
}

static void encode_array(struct encoder *e, const struct place *at)
{
    struct place place = {.up = at, .depth = at->depth + 1};
    int n = array_length(e, at);
    while (e->status == 0 && place.index < n) {
        put(e, place.index == 0 ? "[" : ",", 1);
        lua_rawgeti(e->L, -1, ++place.index);
        encode_value(e, &place);
        lua_pop(e->L, 1);
    }
    put(e, "]", 1);
}

/* Whether the metatable on top of the stack is that of orchestrator.secret. */
static bool is_secret(lua_State *L)
{
    lua_pushliteral(L, "__metatable");
    lua_rawget(L, -2);
    const char *kind = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    bool secret = strcmp(kind, "secret") == 0;
    lua_pop(L, 1);
    return secret;
}

static void encode_table(struct encoder *e, const struct place *at)
{
    lua_State *L = e->L;
    const char *empty = "{}";
    if (at->depth >= JSON_MAX_DEPTH) {
        refuse(e, at, "nested deeper than 1000 (a cycle?)");
        return;
    }
    if (!lua_checkstack(L, 4)) {
        e->status = -ENOMEM;
        return;
    }
    if (lua_getmetatable(L, -1)) {
        bool secret = is_secret(L);
        if (lua_topointer(L, -1) == e->array)
            empty = "[]";
        lua_pop(L, 1);
        if (secret) {
            put(e, "\"***\"", 5);
            return;
        }
    }
    lua_pushnil(L);
    if (!lua_next(L, -2)) {
        put(e, empty, 2);
        return;
    }
    bool array = lua_type(L, -2) == LUA_TNUMBER;
    lua_pop(L, 2);
    if (array)
        encode_array(e, at);
    else
        encode_object(e, at);
}

static void encode_value(struct encoder *e, const struct place *at)
{
    lua_State *L = e->L;
    const char *string;
    size_t len;
    switch (lua_type(L, -1)) {
    case LUA_TSTRING:
        string = lua_tolstring(L, -1, &len);
        encode_string(e, at, string, len);
        return;
    case LUA_TNUMBER:
        encode_number(e, at, lua_tonumber(L, -1));
        return;
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, -1))
            put(e, "true", 4);
        else
            put(e, "false", 5);
        return;
    case LUA_TTABLE:
        encode_table(e, at);
        return;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1)) {
            put(e, "null", 4);
            return;
        }
    }
    refuse_type(e, at, "a value of type %s has no JSON form", lua_type(L, -1));
}

int json_encode_value(lua_State *L, const void *array, struct bytes *text, struct bytes *members)
{
    struct encoder e = {.L = L, .text = text, .members = members, .array = array};
    int top = lua_gettop(L);
    encode_value(&e, &(struct place){0});
    lua_settop(L, top);
    return e.status;
}
