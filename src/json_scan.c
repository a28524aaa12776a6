#include "json_scan.h"

#include "bytes.h"

#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 100 }; /* more than any message takes */

static const char MAX_INTEGER[] = "9007199254740992"; /* 2^53: a double holds all up to it */

/* A NUL follows the last byte: looking at one byte past what has been checked is always allowed. */
struct scan {
    const char *text;   /* borrowed, like all pointers below */
    const char *end;    /* of the text */
    const char *copied; /* what comes before it is in `out`; `text` when there is no copy */
    struct bytes *out;
    size_t nans;       /* for empty arrays */
    int depth;         /* of nesting */
    const char *error; /* static; NULL when memory ran out */
    const char *error_at;
};

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static inline bool continues(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The length in bytes of the character at `p`, which is not ASCII; 0 if it is not valid UTF-8
 * (RFC 3629 §4). */
static size_t utf8_length(const char *p)
{
    unsigned char first = (unsigned char)p[0], second = (unsigned char)p[1];
    if (!continues(p[1]) || first < 0xc2)
        return 0;
    if (first < 0xe0)
        return 2;
    if (first < 0xf0) {
        bool overlong = first == 0xe0 && second < 0xa0;
        bool surrogate = first == 0xed && second >= 0xa0;
        return !overlong && !surrogate && continues(p[2]) ? 3 : 0;
    }
    bool overlong = first == 0xf0 && second < 0x90;
    bool beyond = first > 0xf4 || (first == 0xf4 && second >= 0x90);
    return !overlong && !beyond && continues(p[2]) && continues(p[3]) ? 4 : 0;
}

const char *json_scan_mixed(const char *p, const char *end)
{
    while ((signed char)*p < 0) {
        do {
            size_t n = utf8_length(p);
            if (n == 0)
                return p;
            p += n;
        } while ((signed char)*p < 0);
        p = json_scan_ascii(p, end);
    }
    return p;
}

static const char *scan_value(struct scan *s, const char *p);

/* The scan_ functions take the position of what they check and return the position after it, or
 * NULL when there is an error. */
static const char *scan_error(struct scan *s, const char *at, const char *error)
{
    s->error = error;
    s->error_at = at;
    return NULL;
}

/* Writes `with` in place of the text from `from` to `to`, and returns `to`. */
static const char *splice(struct scan *s, const char *from, const char *to, const char *with)
{
    if (bytes_append(s->out, s->copied, (size_t)(from - s->copied)) != 0 ||
        bytes_append(s->out, with, strlen(with)) != 0)
        return NULL;
    return s->copied = to;
}

static inline const char *skip_space(const char *p)
{
    while (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t')
        p++;
    return p;
}

static const char *hex4(const char *p, unsigned *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++, p++) {
        int digit = is_digit(*p)             ? *p - '0'
                    : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10
                    : *p >= 'A' && *p <= 'F' ? *p - 'A' + 10
                                             : -1;
        if (digit < 0)
            return NULL;
        *code = *code * 16 + (unsigned)digit;
    }
    return p;
}

static const char *scan_escape(struct scan *s, const char *p)
{
    if (p[1] != 'u')
        return p[1] && strchr("\"\\/bfnrt", p[1]) ? p + 2 : scan_error(s, p, "unknown escape");

    unsigned high, low;
    const char *next = hex4(p + 2, &high);
    if (!next)
        return scan_error(s, p, "\\u needs four hexadecimal digits");
    if ((high & 0xf800) != 0xd800)
        return next;
    bool paired = (high & 0x0400) == 0 && next[0] == '\\' && next[1] == 'u' &&
                  (next = hex4(next + 2, &low)) && (low & 0xfc00) == 0xdc00;
    return paired ? next : scan_error(s, p, "half of a surrogate pair");
}

static const char *scan_string(struct scan *s, const char *p)
{
    for (p = json_scan_plain(p + 1, s->end); *p != '"'; p = json_scan_plain(p, s->end)) {
        if (*p != '\\') {
            const char *error = (signed char)*p < 0 ? "invalid UTF-8"
                                : p == s->end       ? "expected '\"'"
                                                    : "control character in a string";
            return scan_error(s, p, error);
        }
        p = scan_escape(s, p);
        if (!p)
            return NULL;
    }
    return p + 1;
}

static const char *scan_digits(struct scan *s, const char *p)
{
    if (!is_digit(*p))
        return scan_error(s, p, "expected a digit");
    do
        p++;
    while (is_digit(*p));
    return p;
}

/* Whether the number is infinite as a double, in any locale. */
static bool overflows(const char *number)
{
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c)
        return true; /* as a string it is safe */
    bool infinite = isinf(strtod_l(number, NULL, c));
    freelocale(c);
    return infinite;
}

/* Numbers that a double cannot hold become strings in the copy. */
static const char *scan_number(struct scan *s, const char *number)
{
    const char *digits = number + (*number == '-');
    const char *p = scan_digits(s, digits);
    if (!p)
        return NULL;
    if (*digits == '0' && p > digits + 1)
        return scan_error(s, digits, "a number may not begin with 0");
    long whole = p - digits, exponent = 0;
    bool unfit;

    if (*p == '.' || *p == 'e' || *p == 'E') {
        if (*p == '.' && !(p = scan_digits(s, p + 1)))
            return NULL;
        if (*p == 'e' || *p == 'E') {
            const char *power = ++p;
            if (*p == '+' || *p == '-')
                p++;
            p = scan_digits(s, p);
            if (!p)
                return NULL;
            exponent = strtol(power, NULL, 10);
        }
        unfit = (whole > DBL_MAX_10_EXP || exponent > DBL_MAX_10_EXP - whole) && overflows(number);
    } else {
        long most = (long)strlen(MAX_INTEGER);
        unfit = whole > most || (whole == most && memcmp(digits, MAX_INTEGER, (size_t)whole) > 0);
    }
    if (unfit && !(splice(s, number, number, "\"") && splice(s, p, p, "\"")))
        return NULL;
    return p;
}

static const char *scan_array(struct scan *s, const char *p)
{
    const char *open = p;
    p = skip_space(p + 1);
    if (*p == ']') {
        s->nans++;
        return splice(s, open, p + 1, "nan");
    }
    for (;;) {
        p = scan_value(s, p);
        if (!p)
            return NULL;
        p = skip_space(p);
        if (*p == ']')
            return p + 1;
        if (*p != ',')
            return scan_error(s, p, "expected ',' or ']'");
        p = skip_space(p + 1);
    }
}

static const char *scan_object(struct scan *s, const char *p)
{
    p = skip_space(p + 1);
    if (*p == '}')
        return p + 1;
    for (;;) {
        if (*p != '"')
            return scan_error(s, p, "expected a string as the key");
        p = scan_string(s, p);
        if (!p)
            return NULL;
        p = skip_space(p);
        if (*p != ':')
            return scan_error(s, p, "expected ':'");
        p = scan_value(s, skip_space(p + 1));
        if (!p)
            return NULL;
        p = skip_space(p);
        if (*p == '}')
            return p + 1;
        if (*p != ',')
            return scan_error(s, p, "expected ',' or '}'");
        p = skip_space(p + 1);
    }
}

static const char *scan_word(struct scan *s, const char *p, const char *word)
{
    size_t len = strlen(word);
    return strncmp(p, word, len) == 0 ? p + len : scan_error(s, p, "expected a value");
}

static const char *scan_value(struct scan *s, const char *p)
{
    switch (*p) {
    case '"':
        return scan_string(s, p);
    case '{':
    case '[':
        if (++s->depth > JSON_MAX_DEPTH)
            return scan_error(s, p, "nested deeper than 1000");
        p = *p == '{' ? scan_object(s, p) : scan_array(s, p);
        s->depth--;
        return p;
    case 't':
        return scan_word(s, p, "true");
    case 'f':
        return scan_word(s, p, "false");
    case 'n':
        return scan_word(s, p, "null");
    default:
        return is_digit(*p) || *p == '-' ? scan_number(s, p) : scan_error(s, p, "expected a value");
    }
}

/* Checks the whole text and completes the copy if there is one. */
static bool scan_all(struct scan *s)
{
    const char *p = s->text;
    /* A byte order mark may be ignored (RFC 8259 §8.1), but cjson does not. */
    if (strncmp(p, "\xef\xbb\xbf", 3) == 0)
        p = splice(s, p, p + 3, "");
    p = p ? scan_value(s, skip_space(p)) : NULL;
    if (!p)
        return false;
    p = skip_space(p);
    if (p < s->end)
        return scan_error(s, p, "text after the end of the value");
    return s->copied == s->text || splice(s, s->end, s->end, "");
}

/* Puts the message in `out`. */
static int scan_failed(const struct scan *s)
{
    char message[MESSAGE_BYTES];
    int line = 1;
    const char *start = s->text;
    for (const char *p = start; (p = memchr(p, '\n', (size_t)(s->error_at - p))); start = ++p)
        line++;
    int n = snprintf(message, sizeof message, "line %d, byte %d: %s%s", line,
                     (int)(s->error_at - start) + 1, s->error,
                     s->error_at == s->end ? ", but the text ends" : "");
    bytes_clear(s->out);
    return bytes_append(s->out, message, (size_t)n) == 0 ? -EILSEQ : -ENOMEM;
}

int json_scan_text(const char *text, size_t len, struct bytes *out, size_t *nans)
{
    struct scan s = {.text = text, .end = text + len, .copied = text, .out = out};
    if (!scan_all(&s))
        return s.error ? scan_failed(&s) : -ENOMEM;
    *nans = s.nans;
    return 0;
}
