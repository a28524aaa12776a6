/*
 * The check of JSON text (RFC 8259) that goes before cjson: strict where cjson is lax, and
 * rewriting what cjson would damage. Nothing here knows Lua.
 *
 * Every text must be followed by a NUL, which Lua's strings and C's are. Sizes are in bytes.
 */
#ifndef JSON_SCAN_H
#define JSON_SCAN_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct bytes;

enum { JSON_MAX_DEPTH = 1000 }; /* of nesting, for decoding and encoding */

/*
 * Checks the `len` bytes of `text`. `out`, borrowed and empty, stays so when cjson can have the
 * text as it is; otherwise it becomes a copy for cjson, without a NUL at its end, in which
 *   - numbers that a double cannot hold (integers beyond 2^53, 1e999) are strings;
 *   - empty arrays are `nan`, which no checked text can contain; `*nans` is set to how many;
 *   - there is no byte order mark.
 * Returns 0; -EILSEQ when it is not JSON, with a message such as "line 1, byte 17: expected a
 * value" in `out` (bytes count from the start of the line, both from 1); -ENOMEM when `out` cannot
 * grow. After -ENOMEM `out` holds anything.
 */
int json_scan_text(const char *text, size_t len, struct bytes *out, size_t *nans);

/* A step of json_scan_plain: the first byte from `p` on that is a control character, a quote, a
 * backslash, not ASCII; or `end`. */
static inline const char *json_scan_ascii(const char *p, const char *end)
{
    const uint64_t ones = UINT64_MAX / 255, high_bits = ones * 0x80;
    for (; end - p >= 8; p += 8) {
        uint64_t word;
        memcpy(&word, p, sizeof word);
        word = le64toh(word);
        /* A borrow spoils only bytes above one that is found already. */
        uint64_t found = (word | (word - ones * 0x20) | ((word ^ ones * '"') - ones) |
                          ((word ^ ones * '\\') - ones)) &
                         high_bits;
        if (found)
            return p + __builtin_ctzll(found) / 8;
    }
    while (p < end && (signed char)*p >= 0x20 && *p != '"' && *p != '\\')
        p++;
    return p;
}

/* A step of json_scan_plain: the same as that, for text that begins with what is not ASCII. */
const char *json_scan_mixed(const char *p, const char *end);

/* The first byte from `p` on that cannot stand in a JSON string as it is: a control character, a
 * quote, a backslash, what is not UTF-8 (RFC 3629 §4); or `end`. Inline: most strings are short. */
static inline const char *json_scan_plain(const char *p, const char *end)
{
    p = json_scan_ascii(p, end);
    return (signed char)*p < 0 ? json_scan_mixed(p, end) : p;
}

#endif
