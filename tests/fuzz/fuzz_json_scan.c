/*
 * The check of JSON text that goes before cjson (src/json_scan.c).
 *
 * Input: the text.
 * Properties: it accepts what a second checker accepts, which is a table of states and a stack and
 * shares nothing with it; what it rewrites for cjson has `nan` where an empty array was and quotes
 * around numbers, nothing else; a message has a line and a byte that exist.
 */
#include "bytes.h"
#include "check.h"
#include "json_scan.h"

#include <errno.h>
#include <stdbool.h>

/* What the second checker expects next. */
enum state {
    VALUE,      /* a value */
    FIRST_ITEM, /* a value or "]" */
    FIRST_KEY,  /* a string or "}" */
    KEY,        /* a string */
    COLON,
    AFTER, /* "," or what closes the innermost; the end outside of all */
};

struct checker {
    const uint8_t *p; /* borrowed, like `end` */
    const uint8_t *end;
    char stack[JSON_MAX_DEPTH + 1]; /* '[' or '{' */
    size_t depth;
    size_t empty_arrays;
};

static int peek(const struct checker *c)
{
    return c->p < c->end ? *c->p : -1;
}

static bool between(int c, int low, int high)
{
    return c >= low && c <= high;
}

static bool word(struct checker *c, const char *text)
{
    size_t n = strlen(text);
    if ((size_t)(c->end - c->p) < n || memcmp(c->p, text, n) != 0)
        return false;
    c->p += n;
    return true;
}

/* The code of "XXXX"; -1 when it is none. */
static long hexadecimal(struct checker *c)
{
    char digits[5] = {0};
    if (c->end - c->p < 4)
        return -1;
    memcpy(digits, c->p, 4);
    if (strspn(digits, "0123456789abcdefABCDEF") != 4)
        return -1;
    c->p += 4;
    return strtol(digits, NULL, 16);
}

/* UTF-8 by decoding it: shortest form, no surrogates, up to U+10FFFF. */
static bool character(struct checker *c)
{
    int first = *c->p++;
    int more = first < 0xc0 ? -1 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : first < 0xf8 ? 3 : -1;
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    if (first < 0x80)
        return true;
    if (more < 0 || c->end - c->p < more)
        return false;
    uint32_t code = (uint32_t)first & (0x3fu >> more);
    for (int i = 0; i < more; i++, c->p++) {
        if ((*c->p & 0xc0) != 0x80)
            return false;
        code = code << 6 | (*c->p & 0x3f);
    }
    return code >= least[more] && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
}

static bool string(struct checker *c)
{
    bool high = false; /* the first half of a pair came just before */
    for (c->p++;;) {
        int at = peek(c);
        if (at < 0x20)
            return false;
        if (at == '\\' && c->end - c->p > 1 && c->p[1] == 'u') {
            c->p += 2;
            long code = hexadecimal(c);
            bool low = code >= 0xdc00 && code <= 0xdfff;
            if (code < 0 || low != high)
                return false;
            high = code >= 0xd800 && code <= 0xdbff;
            continue;
        }
        if (high)
            return false;
        if (at == '"') {
            c->p++;
            return true;
        }
        if (at == '\\') {
            c->p++;
            int escaped = peek(c);
            if (escaped <= 0 || !strchr("\"\\/bfnrt", escaped))
                return false;
            c->p++;
        } else if (!character(c)) {
            return false;
        }
    }
}

static bool digits(struct checker *c)
{
    const uint8_t *from = c->p;
    while (between(peek(c), '0', '9'))
        c->p++;
    return c->p > from;
}

static bool number(struct checker *c)
{
    if (peek(c) == '-')
        c->p++;
    const uint8_t *whole = c->p;
    if (!digits(c) || (*whole == '0' && c->p - whole > 1))
        return false;
    if (peek(c) == '.') {
        c->p++;
        if (!digits(c))
            return false;
    }
    if (peek(c) == 'e' || peek(c) == 'E') {
        c->p++;
        if (peek(c) == '+' || peek(c) == '-')
            c->p++;
        return digits(c);
    }
    return true;
}

/* Takes one token. Returns whether it may stand there. */
static bool token(struct checker *c, enum state *state)
{
    int at = peek(c);
    char inside = c->depth > 0 ? c->stack[c->depth - 1] : '\0';
    bool closes = (at == ']' && inside == '[' && (*state == AFTER || *state == FIRST_ITEM)) ||
                  (at == '}' && inside == '{' && (*state == AFTER || *state == FIRST_KEY));
    if (closes) {
        c->empty_arrays += *state == FIRST_ITEM;
        c->depth--;
        c->p++;
        *state = AFTER;
        return true;
    }
    switch (*state) {
    case AFTER:
        c->p++;
        *state = inside == '{' ? KEY : VALUE;
        return at == ',' && inside;
    case COLON:
        c->p++;
        *state = VALUE;
        return at == ':';
    case KEY:
    case FIRST_KEY:
        *state = COLON;
        return at == '"' && string(c);
    default:
        break;
    }
    *state = AFTER;
    if (at == '{' || at == '[') {
        if (c->depth == JSON_MAX_DEPTH)
            return false;
        c->stack[c->depth++] = (char)at;
        c->p++;
        *state = at == '{' ? FIRST_KEY : FIRST_ITEM;
        return true;
    }
    return at == '"'   ? string(c)
           : at == 't' ? word(c, "true")
           : at == 'f' ? word(c, "false")
           : at == 'n' ? word(c, "null")
                       : number(c);
}

static bool is_json(const uint8_t *data, size_t size, size_t *empty_arrays)
{
    struct checker c = {.p = data, .end = data + size};
    enum state state = VALUE;
    bool accepted;
    (void)word(&c, "\xef\xbb\xbf");
    for (;;) {
        while (c.p < c.end && strchr(" \t\r\n", *c.p) && *c.p)
            c.p++;
        if (c.p == c.end) {
            accepted = state == AFTER && c.depth == 0;
            break;
        }
        if (!token(&c, &state)) {
            accepted = false;
            break;
        }
    }
    *empty_arrays = c.empty_arrays;
    return accepted;
}

/* Both texts but for what is rewritten. */
static void compare_copy(const char *text, size_t len, const struct bytes *out)
{
    const char *a = text, *a_end = text + len, *b = out->data, *b_end = out->data + out->len;
    bool inside = false;
    if (len >= 3 && memcmp(a, "\xef\xbb\xbf", 3) == 0)
        a += 3;
    while (a < a_end) {
        if (inside) {
            CHECK(b < b_end && *a == *b, "a string was changed at byte %zu", (size_t)(a - text));
            inside = *a != '"';
            if (*a == '\\') {
                CHECK(b_end - b > 1 && a[1] == b[1], "an escape was changed");
                a++, b++;
            }
            a++, b++;
        } else if (*a == '[' && b_end - b >= 3 && memcmp(b, "nan", 3) == 0) {
            a = (const char *)memchr(a, ']', (size_t)(a_end - a)) + 1;
            b += 3;
        } else if (b < b_end && *b == '"' && (*a == '-' || between(*a, '0', '9'))) {
            for (b++; a < a_end && strchr("+-.0123456789eE", *a) && *a; a++, b++)
                CHECK(b < b_end && *a == *b, "a number was changed");
            CHECK(b < b_end && *b == '"', "no quote after a number");
            b++;
        } else {
            CHECK(b < b_end && *a == *b, "byte %zu was changed", (size_t)(a - text));
            inside = *a == '"';
            a++, b++;
        }
    }
    CHECK(b == b_end, "%zu bytes more", (size_t)(b_end - b));
}

static void check_message(const char *text, size_t len, const struct bytes *out)
{
    int line = 0, byte = 0, used = 0;
    char *message = copy_of(out->data, out->len, 1);
    CHECK(sscanf(message, "line %d, byte %d: %n", &line, &byte, &used) == 2 && used > 0, "%s",
          message);
    const char *at = text;
    for (int i = 1; i < line; i++) {
        at = memchr(at, '\n', (size_t)(text + len - at));
        CHECK(at, "%s", message);
        at++;
    }
    CHECK(byte >= 1 && byte - 1 <= text + len - at, "%s", message);
    for (const char *p = message; *p; p++)
        CHECK(between(*p, ' ', '~'), "%s", message);
    free(message);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes out = {0};
    size_t nans = 0, empty_arrays;
    char *text = copy_of(data, size, 1);
    int rc = json_scan_text(text, size, &out, &nans);
    bool expected = is_json(data, size, &empty_arrays);
    CHECK(rc == 0 || rc == -EILSEQ, "%d", rc);
    CHECK((rc == 0) == expected, "it says %d: %.*s", rc, (int)out.len, out.len ? out.data : "");
    if (rc == 0) {
        CHECK(nans == empty_arrays, "%zu empty arrays, not %zu", nans, empty_arrays);
        if (out.len > 0)
            compare_copy(text, size, &out);
    } else {
        check_message(text, size, &out);
    }
    free(text);
    bytes_deinit(&out);
    return 0;
}
