#include "head.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TRAILER_MAX = 300 * 1024 }; /* bytes, where there is no cap on the head */

const char *head_framing_name(enum head_framing framing)
{
    static const char *const names[] = {
        [HEAD_NONE] = "none",   [HEAD_LENGTH] = "length", [HEAD_CHUNKED] = "chunked",
        [HEAD_CLOSE] = "close", [HEAD_H2] = "h2",
    };
    return names[framing];
}

void head_init(struct head *h)
{
    memset(h, 0, sizeof *h);
    bytes_init(&h->text, 0);
    bytes_init(&h->coding, 0);
}

static void clear(struct head *h)
{
    bytes_clear(&h->text);
    bytes_clear(&h->coding);
    h->status = 0;
    h->framing = HEAD_NONE;
    h->length = 0;
    h->trailer = 0;
    h->begun = h->framed = h->done = h->closes = h->chunked = h->has_length = false;
}

void head_reset(struct head *h, size_t limit)
{
    clear(h);
    h->text.limit = limit;
}

static bool field_is(const char *line, size_t name_len, const char *name)
{
    return strlen(name) == name_len && strncasecmp(line, name, name_len) == 0;
}

/* Digits, or a list of the same digits over again (RFC 9112 §6.3 (5)); everything else is a
 * framing that two parsers may read in two ways. */
static bool take_length(struct head *h, const char *value, size_t len)
{
    for (size_t i = 0; i <= len;) {
        int64_t length = 0;
        size_t digits = 0;
        while (i < len && (value[i] == ' ' || value[i] == '\t'))
            i++;
        for (; i < len && isdigit((unsigned char)value[i]); i++, digits++) {
            if (length > (INT64_MAX - 9) / 10)
                return false;
            length = length * 10 + (value[i] - '0');
        }
        while (i < len && (value[i] == ' ' || value[i] == '\t'))
            i++;
        if (digits == 0 || (i < len && value[i] != ','))
            return false;
        if (h->has_length && h->length != length)
            return false;
        h->has_length = true;
        h->length = length;
        i++;
    }
    return true;
}

static bool list_has(const char *value, size_t len, const char *token)
{
    size_t token_len = strlen(token);
    for (size_t i = 0; i + token_len <= len; i++) {
        if (strncasecmp(value + i, token, token_len) != 0)
            continue;
        bool starts = i == 0 || strchr(", \t", value[i - 1]);
        bool ends = i + token_len == len || strchr(", \t;", value[i + token_len]);
        if (starts && ends)
            return true;
    }
    return false;
}

/* "HTTP/1.1", or the "HTTP/2" of the line that libcurl writes itself. After another word libcurl
 * takes the status to be 200, whatever it is. */
static bool has_version(const char *line, size_t len)
{
    if (len < 9 || memcmp(line, "HTTP/", 5) != 0)
        return false;
    return line[5] == '2' || (isdigit((unsigned char)line[5]) && line[6] == '.' &&
                              isdigit((unsigned char)line[7]) && line[8] == ' ');
}

/* The status is three digits after a space (RFC 9112 §4). libcurl reads three of however many there
 * are, and so would take 1000 for an interim response. */
static int take_status(struct head *h, const char *line, size_t len, const char **why)
{
    const char *end = line + len;
    const char *p = has_version(line, len) ? memchr(line, ' ', len) : NULL;
    int digits = 0;
    while (p && p < end && *p == ' ')
        p++;
    for (; p && p < end && isdigit((unsigned char)*p) && digits <= 3; p++, digits++)
        h->status = h->status * 10 + (*p - '0');
    if (digits != 3 || h->status < 100 || (p < end && isalpha((unsigned char)*p))) {
        *why = "a malformed status line";
        return -EPROTO;
    }
    if (h->status == 101) {
        *why = "a change of protocol nobody asked for";
        return -EPROTO;
    }
    /* libcurl also takes a text that a server sends for the line it writes itself for HTTP/2. That
     * would make a body that ends with the connection one whose end is known. */
    if (line[5] == '2' && (h->plain || len != strlen("HTTP/2 200 \r\n") || line[10] != ' ')) {
        *why = "a status line of HTTP/2 in another protocol";
        return -EPROTO;
    }
    return 0;
}

/* Looks at the few fields that say how the body is framed and coded. */
static int take_field(struct head *h, const char *line, size_t len, const char **why)
{
    if (line[0] == ' ' || line[0] == '\t') {
        if (!h->framed)
            return 0;
        /* RFC 9112 §5.2 has it read as one line; libcurl and others do not. */
        *why = "a Content-Length, Transfer-Encoding or Content-Encoding folded over lines";
        return -EPROTO;
    }
    h->framed = false;
    if ((line[0] | 0x20) != 'c' && (line[0] | 0x20) != 't')
        return 0;
    const char *colon = memchr(line, ':', len);
    if (!colon)
        return 0;
    size_t name_len = (size_t)(colon - line);
    while (name_len > 0 && (line[name_len - 1] == ' ' || line[name_len - 1] == '\t'))
        name_len--;
    const char *value = colon + 1;
    const char *end = line + len;
    while (end > value && isspace((unsigned char)end[-1]))
        end--;
    while (value < end && isspace((unsigned char)*value))
        value++;
    size_t value_len = (size_t)(end - value);

    h->framed = field_is(line, name_len, "content-length") ||
                field_is(line, name_len, "transfer-encoding") ||
                field_is(line, name_len, "content-encoding");
    if (h->framed && line + name_len != colon) {
        /* Some parsers skip it, others skip the field (RFC 9112 §5.1). */
        *why = "white space before the colon of a framing field";
        return -EPROTO;
    }
    if (field_is(line, name_len, "content-length")) {
        if (!take_length(h, value, value_len)) {
            *why = "conflicting or malformed Content-Length";
            return -EPROTO;
        }
    } else if (field_is(line, name_len, "transfer-encoding")) {
        if (h->chunked || !(value_len == 7 && strncasecmp(value, "chunked", 7) == 0)) {
            *why = "a Transfer-Encoding other than chunked";
            return -EPROTO;
        }
        h->chunked = true;
    } else if (field_is(line, name_len, "content-encoding")) {
        if ((h->coding.len && bytes_append(&h->coding, ",", 1)) ||
            bytes_append(&h->coding, value, value_len))
            return -ENOMEM;
    } else if (field_is(line, name_len, "connection")) {
        if (list_has(value, value_len, "close"))
            h->closes = true;
    }
    return 0;
}

static bool starts_with(const struct head *h, const char *prefix)
{
    size_t len = strlen(prefix);
    return h->text.len > len && memcmp(h->text.data, prefix, len) == 0;
}

/* All fields of the final response are there. */
static int end(struct head *h, bool bodiless, const char **why)
{
    h->done = true;
    if (h->has_length && h->chunked) {
        *why = "both Content-Length and Transfer-Encoding";
        return -EPROTO;
    }
    if (starts_with(h, "HTTP/1.0")) {
        h->closes = true;
        if (h->chunked) { /* RFC 9112 §6.1 */
            *why = "Transfer-Encoding in an HTTP/1.0 response";
            return -EPROTO;
        }
    }
    if (bodiless || h->status == 204 || h->status == 304)
        h->framing = HEAD_NONE;
    else if (starts_with(h, "HTTP/2"))
        h->framing = HEAD_H2;
    else if (h->chunked)
        h->framing = HEAD_CHUNKED;
    else if (h->has_length)
        h->framing = HEAD_LENGTH;
    else
        h->framing = HEAD_CLOSE;
    if (h->coding.len && bytes_append(&h->coding, "", 1))
        return -ENOMEM;
    return 1;
}

/* libcurl's cap on header bytes does not see trailer fields. */
static int take_trailer(struct head *h, size_t len, const char **why)
{
    h->trailer += len;
    if (h->trailer <= (h->text.limit ? h->text.limit : TRAILER_MAX))
        return 0;
    *why = "the trailer fields are larger than max_headers";
    return -E2BIG;
}

int head_take(struct head *h, const char *line, size_t len, bool bodiless, const char **why)
{
    bool ends = len > 0 && (line[0] == '\r' || line[0] == '\n');
    int rc = 0;

    if (h->done)
        return take_trailer(h, len, why);
    const char *cr = memchr(line, '\r', len);
    if (cr && line + len - cr != 2) {
        *why = "a CR within a line"; /* which some take for its end (RFC 9112 §2.2) */
        return -EPROTO;
    }
    if (!h->begun) {
        /* An interim response (RFC 9110 §15.2) comes before the real one. */
        clear(h);
        h->begun = true;
        rc = take_status(h, line, len, why);
    } else if (len && !ends) {
        rc = take_field(h, line, len, why);
    }
    if (rc == 0)
        rc = bytes_append(&h->text, line, len);
    if (rc == -E2BIG)
        *why = "the response headers are larger than max_headers";
    if (rc || !ends)
        return rc;
    h->begun = false;
    return h->status >= 200 ? end(h, bodiless, why) : 0;
}

void head_deinit(struct head *h)
{
    bytes_deinit(&h->text);
    bytes_deinit(&h->coding);
}
