/*
 * A whole response, through libcurl (src/transfer.c and what it stands on).
 *
 * Input: a byte of options (1: HEAD; 2: streamed; 4: a cap on the body), one that chooses the
 * pieces it arrives in, then all that the server sends before it closes the connection.
 * Properties: a hop without a fault has the status, the framing and the body that a second reading
 * of the bytes finds (RFC 9112), and the body is all there; what that reading finds in order and
 * plainly written is taken.
 */
#include "check.h"
#include "decode.h"
#include "transfer.h"

#include <ctype.h>
#include <stdbool.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_BODY = 30, MOST_PIECES = 100 };

struct reading {
    long status;
    bool plain; /* written as the RFC has it, in every byte */
    bool whole;
    bool lost; /* libcurl 7.88 passes over some of it: from a NUL at the start of a line on */
    enum head_framing framing;
    struct bytes body;   /* without chunks, still coded */
    struct bytes coding; /* Content-Encoding, NUL-terminated */
};

struct text {
    const char *p, *end; /* borrowed from the input */
};

/* The second reading -------------------------------------------------------------------------- */

/* Takes a line, without its end. */
static bool take_line(struct text *t, struct text *line, bool *plain)
{
    const char *newline = memchr(t->p, '\n', (size_t)(t->end - t->p));
    if (!newline)
        return false;
    *line = (struct text){t->p, newline};
    t->p = newline + 1;
    if (line->end > line->p && line->end[-1] == '\r')
        line->end--;
    else
        *plain = false;
    for (const char *p = line->p; p < line->end; p++)
        *plain = *plain && *p >= ' ' && *p <= '~';
    return true;
}

static bool is(struct text t, const char *word)
{
    return (size_t)(t.end - t.p) == strlen(word) && strncasecmp(t.p, word, strlen(word)) == 0;
}

/* Divides "Name: value". */
static bool divide(struct text line, struct text *name, struct text *value)
{
    const char *colon = memchr(line.p, ':', (size_t)(line.end - line.p));
    if (!colon)
        return false;
    *name = (struct text){line.p, colon};
    *value = (struct text){colon + 1, line.end};
    while (value->p < value->end && isspace((unsigned char)*value->p))
        value->p++;
    while (value->p < value->end && isspace((unsigned char)value->end[-1]))
        value->end--;
    return true;
}

static bool is_token(struct text t)
{
    for (const char *p = t.p; p < t.end; p++)
        if (!isalnum((unsigned char)*p) && *p != '-')
            return false;
    return t.p < t.end;
}

/* Reads a final response's head, those of interim ones before it. Sets `length`, or -1. */
static bool read_heads(struct text *t, struct reading *r, long long *length, bool *chunked)
{
    struct text line, name, value;
    do {
        bytes_clear(&r->coding);
        *length = -1;
        *chunked = false;
        if (!take_line(t, &line, &r->plain) || line.end - line.p < 12)
            return false;
        const char *code = line.p + 8;
        while (code < line.end && *code == ' ')
            code++;
        r->status = code < line.end ? strtol(code, NULL, 10) : 0;
        r->plain = r->plain && memcmp(line.p, "HTTP/1.1 ", 9) == 0 && code == line.p + 9 &&
                   (line.end - line.p == 12 || line.p[12] == ' ') && r->status >= 100 &&
                   r->status <= 599 && r->status != 101 && r->status != 206;
        for (;;) {
            r->lost = r->lost || (t->p < t->end && *t->p == '\0');
            if (!take_line(t, &line, &r->plain))
                return false;
            if (line.p == line.end)
                break;
            if (!divide(line, &name, &value) || !is_token(name)) {
                r->plain = false;
                continue;
            }
            if (is(name, "Content-Length")) {
                r->plain = r->plain && *length < 0 && value.end - value.p <= 9 &&
                           value.p < value.end && isdigit((unsigned char)*value.p) &&
                           strspn(value.p, "0123456789") == (size_t)(value.end - value.p);
                *length = strtoll(value.p, NULL, 10);
            } else if (is(name, "Transfer-Encoding")) {
                r->plain = r->plain && !*chunked && is(value, "chunked");
                *chunked = true;
            } else if (is(name, "Content-Encoding")) {
                r->plain = false; /* it may be one we do not know, or be wrong */
                if ((r->coding.len && bytes_append(&r->coding, ",", 1)) ||
                    bytes_append(&r->coding, value.p, (size_t)(value.end - value.p)))
                    abort();
            }
        }
    } while (r->status < 200);
    r->plain = r->plain && !(*chunked && *length >= 0);
    if (r->coding.len && bytes_append(&r->coding, "", 1))
        abort();
    return true;
}

/* Takes chunks up to the end of the trailer fields. */
static bool read_chunks(struct text *t, struct reading *r)
{
    struct text line, name, value;
    for (;;) {
        char *after;
        if (!take_line(t, &line, &r->plain))
            return false;
        unsigned long size = strtoul(line.p, &after, 16);
        r->plain = r->plain && after == line.end && isxdigit((unsigned char)*line.p) &&
                   line.end - line.p <= 8 && (line.end - line.p < 2 || line.p[1] != 'x') &&
                   (line.end - line.p < 2 || line.p[1] != 'X');
        if (!isxdigit((unsigned char)*line.p))
            return false;
        if (size == 0)
            break;
        if (size > (size_t)(t->end - t->p))
            return false;
        if (bytes_append(&r->body, t->p, size))
            abort();
        t->p += size;
        if (!take_line(t, &line, &r->plain))
            return false;
        for (; line.p < line.end && *line.p == '\r'; line.p++)
            r->plain = false; /* libcurl takes any number of them */
        if (line.p < line.end)
            return false;
    }
    do {
        if (t->end - t->p == 1 && *t->p == '\r')
            return true; /* nothing but the last byte of all is missing */
        if (!take_line(t, &line, &r->plain))
            return false;
        if (line.p < line.end && (!divide(line, &name, &value) || !is_token(name)))
            r->plain = false;
    } while (line.p < line.end);
    return true;
}

static void read_response(struct reading *r, const char *p, size_t size, bool bodiless)
{
    struct text t = {p, p + size};
    long long length;
    bool chunked;
    r->plain = true;
    if (!read_heads(&t, r, &length, &chunked))
        return;
    if (bodiless || r->status == 204 || r->status == 304) {
        r->framing = HEAD_NONE;
        r->whole = true;
    } else if (chunked) {
        r->framing = HEAD_CHUNKED;
        r->whole = read_chunks(&t, r);
    } else {
        r->framing = length >= 0 ? HEAD_LENGTH : HEAD_CLOSE;
        size_t left = (size_t)(t.end - t.p);
        r->whole = length <= (long long)left;
        if (length >= 0 && r->whole)
            left = (size_t)length;
        if (bytes_append(&r->body, t.p, left))
            abort();
    }
}

static int collect(void *ctx, const char *p, size_t n)
{
    return bytes_append(ctx, p, n);
}

/* Puts the body with its codings undone in its place. */
static bool undo_codings(struct reading *r)
{
    struct decode *d;
    struct bytes out = {0};
    int rc = decode_create(&d, r->coding.len ? r->coding.data : NULL, collect, &out);
    if (rc != 0 || !d)
        return rc == 0;
    rc = decode_feed(d, r->body.data ? r->body.data : "", r->body.len);
    if (rc == 0)
        rc = decode_finish(d);
    decode_destroy(d);
    bytes_deinit(&r->body);
    r->body = out;
    return rc == 0;
}

/* The hop ------------------------------------------------------------------------------------- */

/* What the server does in this run. */
static struct {
    const char *p; /* borrowed */
    size_t size;
    uint32_t seed;
    int fd; /* owned; -1 until it was connected to */
} server;

static curl_socket_t give_socket(void *ctx, curlsocktype purpose, struct curl_sockaddr *address)
{
    int ends[2];
    (void)ctx;
    (void)purpose;
    (void)address;
    /* Each of its packets is one read at the other end. */
    if (server.fd >= 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        abort();
    server.fd = ends[1];
    return ends[0];
}

/* For libcurl, in place of the C library's: what it was given is connected. */
int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    (void)fd;
    (void)address;
    (void)size;
    return 0;
}

/* Sends everything in pieces and then closes. */
static int serve(void *ctx, char *to, char *from, int to_port, int from_port)
{
    const char *p = server.p;
    uint32_t state = server.seed * 2 + 1;
    (void)ctx, (void)to, (void)from, (void)to_port, (void)from_port;
    for (size_t left = server.size, piece = 1; left > 0; piece++) {
        size_t n = server.seed == 0 || piece == MOST_PIECES ? left : 1 + next_random(&state) % 40;
        if (n > left)
            n = left;
        if (send(server.fd, p, n, MSG_DONTWAIT) != (ssize_t)n)
            abort();
        p += n;
        left -= n;
    }
    shutdown(server.fd, SHUT_WR);
    return CURL_PREREQFUNC_OK;
}

static void on_news(struct transfer *t)
{
    (void)t;
}

static struct transfer *the_transfer(void)
{
    static struct transfer *t;
    if (t)
        return t;
    if (transfer_create(&t, NULL, on_news) != 0)
        abort();
    curl_easy_setopt(t->easy, CURLOPT_OPENSOCKETFUNCTION, give_socket);
    curl_easy_setopt(t->easy, CURLOPT_PREREQFUNCTION, serve);
    curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(t->easy, CURLOPT_PROXY, "");
    return t;
}

static void check(const struct transfer *t, struct reading *r, size_t max_body)
{
    const char *why = t->reason ? t->reason : "";
    if (t->fault == FAULT_NONE && !r->lost) {
        CHECK(t->head.status == r->status, "status %ld, not %ld", t->head.status, r->status);
        CHECK(t->head.framing == r->framing, "framing %s, not %s",
              head_framing_name(t->head.framing), head_framing_name(r->framing));
        CHECK(r->whole, "a body that is not all there: %zu bytes", t->body.len);
        CHECK(r->framing == HEAD_CHUNKED || t->wire == (curl_off_t)r->body.len, "%ld bytes",
              (long)t->wire);
        CHECK(r->framing == HEAD_NONE || undo_codings(r), "a coding that cannot be undone");
        CHECK(t->body.len == r->body.len && t->size == r->body.len &&
                  (r->body.len == 0 || memcmp(t->body.data, r->body.data, r->body.len) == 0),
              "another body: %zu bytes, not %zu", t->body.len, r->body.len);
        CHECK(max_body == 0 || t->size <= max_body, "%zu bytes", t->size);
    } else if (t->fault != FAULT_NONE) {
        CHECK(*why, "no reason");
        bool too_large = t->fault == FAULT_BODY_TOO_LARGE && max_body;
        CHECK(!r->plain || !r->whole || too_large, "it refuses what is plain: %s: %s",
              fault_name(t->fault), why);
        CHECK(t->fault != FAULT_TIMEOUT, "%s: %s", fault_name(t->fault), why);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t options = take_byte(&data, &size);
    uint32_t seed = take_byte(&data, &size);
    struct transfer *t = the_transfer();
    bool bodiless = options & 1;
    size_t max_body = options & 4 ? MAX_BODY : 0;
    char *text = copy_of(data, size, 1);

    server.p = text;
    server.size = size;
    server.seed = seed;
    server.fd = -1;
    const struct transfer_request request = {
        .url = "http://127.0.0.1/",
        .method = bodiless ? "HEAD" : "GET",
        .stream = options & 2,
        .max_body = max_body,
        .timeout = 5,
    };
    CHECK(transfer_prepare(t, &request) == 0, "%s", t->reason);
    t->head.plain = true;
    transfer_finish(t, curl_easy_perform(t->easy));
    close(server.fd);

    struct reading r = {0};
    read_response(&r, text, size, bodiless);
    check(t, &r, max_body);
    free(text);
    bytes_deinit(&r.body);
    bytes_deinit(&r.coding);
    transfer_reset(t);
    return 0;
}
