/*
 * The head of a response (src/head.c), line by line as libcurl hands them over.
 *
 * Input: a byte of options (1: to HEAD; 6: which limit; 8: not HTTP/2), then what a server sends.
 * Properties: the framing is what a second reading of RFC 9112 §6 makes of the whole text; what
 * that refuses is refused; the text kept is the last response's and within the limit; nothing that
 * comes after the head changes what was judged.
 */
#include "check.h"
#include "head.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <strings.h>

/* Whether numbers between this and the largest are taken is left open. */
#define MOST (INT64_MAX - 10)

/* What the second reading makes of one response's lines. */
struct reading {
    bool refused;
    bool has_length, chunked;
    int64_t length;
    long status;
};

struct line {
    const char *p; /* borrowed from the input */
    size_t len;    /* with its "\n" */
};

static bool next_line(const char **at, const char *end, struct line *line)
{
    const char *newline = memchr(*at, '\n', (size_t)(end - *at));
    if (!newline)
        return false;
    *line = (struct line){*at, (size_t)(newline + 1 - *at)};
    *at = newline + 1;
    return true;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t';
}

static bool begins(struct line line, const char *text)
{
    return line.len >= strlen(text) && memcmp(line.p, text, strlen(text)) == 0;
}

static bool bare_cr(struct line line)
{
    const char *cr = memchr(line.p, '\r', line.len);
    return cr && cr != line.p + line.len - 2;
}

/* The field's value when its name, in whatever case and with whatever white space around it, is
 * `name`; without the white space. */
static bool field(struct line line, const char *name, const char **value, size_t *len)
{
    size_t n = strlen(name), i = n;
    if (line.len < n || strncasecmp(line.p, name, n) != 0)
        return false;
    while (i < line.len && is_space(line.p[i]))
        i++;
    if (i == line.len || line.p[i] != ':')
        return false;
    const char *from = line.p + i + 1, *to = line.p + line.len;
    while (from < to && isspace((unsigned char)to[-1]))
        to--;
    while (from < to && isspace((unsigned char)*from))
        from++;
    *value = from;
    *len = (size_t)(to - from);
    return true;
}

/* Elements divided by commas, each of them the same number. */
static bool read_length(struct reading *r, const char *value, size_t len)
{
    const char *end = value + len;
    for (;;) {
        const char *comma = memchr(value, ',', (size_t)(end - value));
        const char *from = value, *to = comma ? comma : end;
        while (from < to && is_space(*from))
            from++;
        while (to > from && is_space(to[-1]))
            to--;
        while (to - from > 1 && *from == '0')
            from++;
        if (from == to || to - from > 19)
            return false;
        char digits[20] = {0};
        memcpy(digits, from, (size_t)(to - from));
        if (strspn(digits, "0123456789") != (size_t)(to - from))
            return false;
        errno = 0;
        int64_t length = strtoll(digits, NULL, 10);
        if (errno == ERANGE || (r->has_length && r->length != length))
            return false;
        r->has_length = true;
        r->length = length;
        if (!comma)
            return true;
        value = comma + 1;
    }
}

static void read_field(struct reading *r, struct line line, bool folded)
{
    const char *value;
    size_t len;
    bool gap = line.len > 0 && memchr(line.p, ':', line.len) &&
               is_space(((const char *)memchr(line.p, ':', line.len))[-1]);
    if (field(line, "Content-Length", &value, &len)) {
        r->refused = r->refused || gap || folded || !read_length(r, value, len);
    } else if (field(line, "Transfer-Encoding", &value, &len)) {
        bool plain = len == 7 && strncasecmp(value, "chunked", 7) == 0;
        r->refused = r->refused || gap || folded || r->chunked || !plain;
        r->chunked = true;
    } else if (field(line, "Content-Encoding", &value, &len)) {
        r->refused = r->refused || gap || folded;
    }
}

/* Reads one response's head, up to and with its empty line. Returns false when it is not all there
 * or does not begin as one. */
static bool read_head(const char **at, const char *end, bool plain, struct reading *r)
{
    struct line line, after;
    *r = (struct reading){0};
    if (!next_line(at, end, &line) || line.len < 6 || memcmp(line.p, "HTTP/", 5) != 0)
        return false;
    bool versioned = line.len > 9 && isdigit((unsigned char)line.p[5]) && line.p[6] == '.' &&
                     isdigit((unsigned char)line.p[7]) && line.p[8] == ' ';
    const char *space = versioned || line.p[5] == '2' ? memchr(line.p, ' ', line.len) : NULL;
    const char *p = space;
    while (p && *p == ' ')
        p++;
    r->refused = !p || !isdigit((unsigned char)p[0]) || p[0] == '0' ||
                 !isdigit((unsigned char)p[1]) || !isdigit((unsigned char)p[2]) ||
                 isalnum((unsigned char)p[3]);
    r->status = r->refused ? 0 : (p[0] - '0') * 100 + (p[1] - '0') * 10 + (p[2] - '0');
    bool old = begins(line, "HTTP/1.0"), is_h2 = line.p[5] == '2';
    r->refused = r->refused || r->status == 101 || bare_cr(line) ||
                 (is_h2 && (plain || !begins(line, "HTTP/2 ") || p != line.p + 7 ||
                            line.len != 13 || p[3] != ' '));
    while (next_line(at, end, &line)) {
        r->refused = r->refused || bare_cr(line);
        if (line.p[0] == '\r' || line.p[0] == '\n') {
            bool both = r->has_length && r->chunked;
            r->refused = r->refused || (r->status >= 200 && (both || (old && r->chunked)));
            return true;
        }
        const char *ahead = *at;
        bool folded = next_line(&ahead, end, &after) && is_space(after.p[0]);
        read_field(r, line, folded);
    }
    return false;
}

static enum head_framing framing_of(const struct reading *r, const char *text, bool bodiless)
{
    if (bodiless || r->status == 204 || r->status == 304)
        return HEAD_NONE;
    if (memcmp(text, "HTTP/2", 6) == 0)
        return HEAD_H2;
    return r->chunked ? HEAD_CHUNKED : r->has_length ? HEAD_LENGTH : HEAD_CLOSE;
}

/* Feeds what follows the head, which is trailer fields or nothing; it must change nothing. */
static void feed_trailers(struct head *h, const char *at, const char *end, bool bodiless)
{
    struct head before = *h;
    char *text = copy_of(h->text.data, h->text.len, 0);
    struct line line;
    size_t taken = 0;
    while (next_line(&at, end, &line)) {
        const char *why = "";
        char *copy = copy_of(line.p, line.len, 0);
        int rc = head_take(h, copy, line.len, bodiless, &why);
        taken += line.len;
        CHECK(rc == (h->text.limit && taken > h->text.limit ? -E2BIG : 0), "a trailer is %d: %s",
              rc, why);
        free(copy);
    }
    CHECK(h->status == before.status && h->framing == before.framing && h->done &&
              h->closes == before.closes && h->length == before.length &&
              h->has_length == before.has_length && h->chunked == before.chunked &&
              h->coding.len == before.coding.len,
          "trailers changed the head");
    CHECK(h->text.len == before.text.len && memcmp(h->text.data, text, h->text.len) == 0,
          "trailers changed the text");
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t limits[] = {0, 40, 200, 1000};
    uint8_t options = take_byte(&data, &size);
    bool bodiless = options & 1;
    size_t limit = limits[options >> 1 & 3];
    const char *at = (const char *)data, *end = at + size;
    const char *fed = at, *start = at; /* of the last response's text */
    struct reading r = {0};
    struct head h;
    int rc = 0;

    head_init(&h);
    head_reset(&h, limit);
    h.plain = options & 8;
    while (rc == 0) {
        start = at;
        if (end - at < 6 || memcmp(at, "HTTP/", 5) != 0)
            break; /* libcurl would call it HTTP/0.9 and not come to us */
        bool whole = read_head(&at, end, h.plain, &r);
        struct line line;
        while (rc == 0 && fed < at && next_line(&fed, at, &line)) {
            const char *why = "";
            char *copy = copy_of(line.p, line.len, 0);
            rc = head_take(&h, copy, line.len, bodiless, &why);
            free(copy);
            CHECK(rc <= 1 && (rc >= 0) == (*why == '\0'), "%d with the reason \"%s\"", rc, why);
            CHECK(limit == 0 || h.text.len <= limit, "%zu bytes kept", h.text.len);
        }
        if (!whole || rc < 0 || r.refused)
            break;
        CHECK((rc == 1) == (r.status >= 200), "%d after status %ld", rc, r.status);
    }
    CHECK(rc != -E2BIG || limit != 0, "too big without a limit");
    CHECK(rc != -EPROTO || r.refused || (r.has_length && r.length > MOST), "refused for no reason");
    CHECK(rc != 1 || !r.refused, "accepted: %s", head_framing_name(h.framing));
    if (rc == 1) {
        CHECK(h.status == r.status, "status %ld, not %ld", h.status, r.status);
        CHECK(h.framing == framing_of(&r, start, bodiless), "framing %s",
              head_framing_name(h.framing));
        CHECK(h.has_length == r.has_length && h.length == r.length, "length %lld",
              (long long)h.length);
        CHECK(h.text.len == (size_t)(fed - start) && memcmp(h.text.data, start, h.text.len) == 0,
              "another text was kept");
        CHECK(h.coding.len == 0 || h.coding.data[h.coding.len - 1] == '\0', "no NUL");
        feed_trailers(&h, fed, end, bodiless);
    }
    head_deinit(&h);
    return 0;
}
