#include "transfer.h"

#include "decode.h"
#include "file.h"
#include "memory.h"
#include "outcome.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    KEEP_BODY = 16 * 1024,    /* a buffer of up to this size is kept for the next hop */
    LONGEST_MS = 2000000000,  /* what libcurl takes on every platform, 23 days */
    RESERVE_MAX = 1 << 20,    /* the most that a Content-Length makes us allocate ahead */
    STREAM_FULL = 256 * 1024, /* a streamed body is not read on while so much of it waits */
    STREAM_SLICE = 512,       /* coded bytes decoded at a time, lest they become too many at once */
    STREAM_MAX = 32000000,    /* what a slice may become */
    ERROR_MAX = 64000000,     /* of a body that is not saved, as it is no 2xx */
};

/* The first reason stands: what follows is libcurl's word for our own refusal. */
static void refuse(struct transfer *t, enum fault fault, const char *reason)
{
    if (t->fault != FAULT_NONE)
        return;
    t->fault = fault;
    t->reason = reason;
}

static void tell(struct transfer *t, unsigned news)
{
    t->news |= news;
    t->on_news(t);
}

static void on_want(void *ctx)
{
    tell(ctx, TRANSFER_WANT);
}

/* The head ------------------------------------------------------------------------------------ */

static int on_decoded(void *ctx, const char *p, size_t n)
{
    struct transfer *t = ctx;
    int rc;

    if (t->max_body && n > t->max_body - t->size) {
        refuse(t, FAULT_BODY_TOO_LARGE, "the decoded body is larger than max_body");
        return -E2BIG;
    }
    if (t->stream && n > t->slice_end - t->body.len) {
        refuse(t, FAULT_EXPANDS_TOO_FAST, "a few bytes of the body decode to more than 32 MB");
        return -E2BIG;
    }
    if (t->file) {
        rc = file_write(t->file, p, n);
        if (rc) {
            snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                     file_strerror(rc));
            refuse(t, FAULT_CANNOT_SAVE, t->refusal);
            return rc;
        }
    } else {
        rc = bytes_append(&t->body, p, n);
        if (rc) {
            refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
            return rc;
        }
    }
    t->size += n;
    return 0;
}

static int open_save(struct transfer *t)
{
    int rc = file_open(&t->file, t->save);
    t->saved = rc == 0;
    if (rc) {
        snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                 file_strerror(rc));
        refuse(t, FAULT_CANNOT_SAVE, t->refusal);
    }
    return rc;
}

/* The head is there: makes ready for the body. */
static int begin_body(struct transfer *t)
{
    struct head *head = &t->head;

    if (head->status == 206 && !t->ranged) { /* else half of it would pass for the whole */
        refuse(t, FAULT_UNASKED_RANGE, "a part of the answer (206), and no range was asked for");
        return -EPROTO;
    }
    if (head->framing == HEAD_NONE)
        return 0;
    if (t->save && (head->status < 200 || head->status > 299) && !t->max_body)
        t->max_body = ERROR_MAX;
    if (head->coding.len) {
        int rc = decode_create(&t->decode, head->coding.data, on_decoded, t);
        if (rc == -ENOTSUP) {
            snprintf(t->refusal, sizeof t->refusal, "unknown Content-Encoding \"%.100s\"",
                     head->coding.data);
            refuse(t, FAULT_UNKNOWN_CODING, t->refusal);
        } else if (rc == -E2BIG) {
            refuse(t, FAULT_TOO_MANY_CODINGS, "more than 5 content codings in a chain");
        } else if (rc) {
            refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
        }
        if (rc)
            return rc;
    } else if (head->has_length && t->max_body && (size_t)head->length > t->max_body) {
        refuse(t, FAULT_BODY_TOO_LARGE, "Content-Length is larger than max_body");
        return -E2BIG;
    }
    if (t->stream) {
        tell(t, TRANSFER_HEAD);
        return 0;
    }
    if (t->save && head->status >= 200 && head->status <= 299)
        return open_save(t);
    if (!t->decode && head->has_length && head->length <= RESERVE_MAX &&
        bytes_reserve(&t->body, (size_t)head->length)) {
        refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
        return -ENOMEM;
    }
    return 0;
}

/* libcurl reads no further than the Content-Length goes. What a server has sent beyond it within
 * the same TLS record waits in OpenSSL, where no poll sees it, and would be taken for the answer to
 * the next request. Outside of TLS lane.c looks at the socket. */
static bool is_overrun(struct transfer *t)
{
    bool all = t->head.framing == HEAD_NONE ||
               (t->head.framing == HEAD_LENGTH && t->of_body == t->head.length);
    if (!all || !t->secure || !t->head.plain || t->head.closes || !tls_has_pending(t->easy))
        return false;
    refuse(t, FAULT_EXTRA_BYTES, "bytes beyond the Content-Length");
    return true;
}

/* libcurl before 8.1 joins a field line that begins with white space to the field it took before,
 * which for the first line of a head is one of an earlier response, long freed (curl#11103). It
 * shows a line to the debug function before it takes it; a line break alone it passes over. */
static int on_debug(CURL *easy, curl_infotype type, char *line, size_t len, void *ctx)
{
    struct transfer *t = ctx;
    (void)easy;
    if (type == CURLINFO_HEADER_IN && len && t->field_due && (*line == ' ' || *line == '\t')) {
        refuse(t, FAULT_BAD_FRAMING, "the response's first header field begins with white space");
        *line = '\n';
    }
    return 0;
}

/* Has libcurl call on_debug during a head in text; it costs too much to be on all the time. */
static void watch_lines(struct transfer *t, const char *line, size_t len, bool ends)
{
    t->field_due = len > 5 && memcmp(line, "HTTP/", 5) == 0;
    if (t->head.plain && t->watches_lines != (t->field_due || !ends)) {
        t->watches_lines = t->field_due || !ends;
        (void)curl_easy_setopt(t->easy, CURLOPT_VERBOSE, t->watches_lines ? 1L : 0L);
    }
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * n;
    const char *why = "out of memory";

    t->received += len;
    if (t->fault != FAULT_NONE)
        return 0;
    int rc = head_take(&t->head, line, len, t->head_only, &why);
    watch_lines(t, line, len, rc != 0 || t->head.done);
    if (rc < 0) {
        refuse(t,
               rc == -EPROTO  ? FAULT_BAD_FRAMING
               : rc == -E2BIG ? FAULT_HEAD_TOO_LARGE
                              : FAULT_OUT_OF_MEMORY,
               why);
        return 0;
    }
    return rc == 1 && (begin_body(t) || is_overrun(t)) ? 0 : len;
}

static int decode_some(struct transfer *t, const char *p, size_t len)
{
    int rc = decode_feed(t->decode, p, len);
    if (rc == -EILSEQ)
        refuse(t, FAULT_CORRUPT_CODING, decode_error(t->decode));
    else if (rc)
        refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
    return rc;
}

static int decode_slices(struct transfer *t, const char *p, size_t len)
{
    for (size_t n; len; p += n, len -= n) {
        t->slice_end = t->body.len < STREAM_FULL ? STREAM_MAX : t->body.len + STREAM_FULL;
        n = len < STREAM_SLICE ? len : STREAM_SLICE;
        int rc = decode_some(t, p, n);
        if (rc)
            return rc;
    }
    return 0;
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * n;

    if (t->stream && t->body.len >= STREAM_FULL) {
        t->stream_paused = true;
        return CURL_WRITEFUNC_PAUSE; /* it comes again */
    }
    t->received += len;
    t->of_body += (int64_t)len;
    size_t before = t->body.len;
    t->slice_end = SIZE_MAX; /* plain bytes are few */
    int rc = !t->decode  ? on_decoded(t, p, len)
             : t->stream ? decode_slices(t, p, len)
                         : decode_some(t, p, len);
    if (t->stream && before == 0 && t->body.len)
        tell(t, TRANSFER_DATA);
    return rc || is_overrun(t) ? 0 : len;
}

/* The handle ---------------------------------------------------------------------------------- */

#define SET(easy, option, value)                                                                   \
    do {                                                                                           \
        CURLcode set_code = curl_easy_setopt(easy, option, value);                                 \
        if (set_code != CURLE_OK)                                                                  \
            return set_code;                                                                       \
    } while (0)

static CURLcode on_handshake(CURL *easy, void *ssl_ctx, void *ctx)
{
    struct transfer *t = ctx;
    if (!t->report && !(t->report = calloc(1, sizeof *t->report)))
        return CURLE_OUT_OF_MEMORY;
    return tls_watch(easy, ssl_ctx, t->report);
}

/* What is the same for every hop. Its owner adds what depends on how connections are made. */
static CURLcode set_constants(struct transfer *t)
{
    CURL *easy = t->easy;
    SET(easy, CURLOPT_PRIVATE, t);
    SET(easy, CURLOPT_NOSIGNAL, 1L);
    SET(easy, CURLOPT_QUICK_EXIT, 1L);
    SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
    SET(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L);
    /* Otherwise libcurl goes through all the addresses it knows at the end of every transfer. How
     * many those are, and how old, we see to ourselves. */
    SET(easy, CURLOPT_DNS_CACHE_TIMEOUT, -1L);
    SET(easy, CURLOPT_ERRORBUFFER, t->message);
    SET(easy, CURLOPT_DEBUGFUNCTION, on_debug);
    SET(easy, CURLOPT_DEBUGDATA, t);
    SET(easy, CURLOPT_HEADERFUNCTION, on_header);
    SET(easy, CURLOPT_HEADERDATA, t);
    SET(easy, CURLOPT_WRITEFUNCTION, on_body);
    SET(easy, CURLOPT_WRITEDATA, t);
    SET(easy, CURLOPT_SSL_CTX_FUNCTION, on_handshake);
    SET(easy, CURLOPT_SSL_CTX_DATA, t);
    return CURLE_OK;
}

int transfer_create(struct transfer **out, void *context, void (*on_news)(struct transfer *t))
{
    struct transfer *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->context = context;
    t->on_news = on_news;
    bytes_init(&t->headers, 0);
    bytes_init(&t->header_text, 0);
    upload_init(&t->upload, on_want, t);
    head_init(&t->head);
    bytes_init(&t->body, 0);
    t->easy = curl_easy_init();
    if (!t->easy || set_constants(t) != CURLE_OK) {
        transfer_destroy(t);
        return -ENOMEM;
    }
    *out = t;
    return 0;
}

static bool has_field(const char *text, size_t len, const char *name)
{
    size_t name_len = strlen(name);
    for (const char *p = text, *end; len; p = end + 1) {
        end = memchr(p, '\n', len);
        if ((size_t)(end - p) > name_len && p[name_len] == ':' &&
            strncasecmp(p, name, name_len) == 0)
            return true;
        len -= (size_t)(end + 1 - p);
    }
    return false;
}

/* libcurl wants a list of strings; most requests of a client carry the same ones. `text` is lines,
 * each with its line end. */
static CURLcode set_headers(struct transfer *t, const char *text, size_t len)
{
    enum upload_kind bodied = t->upload.kind;
    if (t->headers_set && t->for_body == bodied && t->headers.len == len &&
        (len == 0 || memcmp(t->headers.data, text, len) == 0))
        return CURLE_OK;
    t->headers_set = false; /* until all of it has been done */
    bytes_clear(&t->headers);
    bytes_clear(&t->header_text);
    if (bytes_append(&t->headers, text, len) || bytes_append(&t->header_text, text, len))
        return CURLE_OUT_OF_MEMORY;
    t->for_body = bodied;
    t->ranged = has_field(text, len, "range");

    /* Without these libcurl would add fields of its own. Expect costs a round trip and, at servers
     * that never say 100, a second. */
    static char accept[] = "Accept:", expect[] = "Expect:", type[] = "Content-Type:";
    size_t count = 3;
    for (size_t i = 0; i < len; i++)
        count += text[i] == '\n';
    struct curl_slist *nodes = realloc(t->nodes, count * sizeof *nodes);
    if (!nodes)
        return CURLE_OUT_OF_MEMORY;
    t->nodes = nodes;
    size_t n = 0;
    if (!has_field(text, len, "accept"))
        nodes[n++].data = accept;
    if (bodied)
        nodes[n++].data = expect;
    if (bodied && bodied != UPLOAD_PARTS && !has_field(text, len, "content-type"))
        nodes[n++].data = type;
    char *p = t->header_text.data;
    const char *cookie = NULL;
    for (char *end; len && (end = memchr(p, '\n', len)); p = end + 1) {
        len -= (size_t)(end + 1 - p);
        *end = '\0';
        if (t->jar && strncasecmp(p, "Cookie:", 7) == 0) { /* goes into one field with the jar's */
            cookie = p + 7 + strspn(p + 7, " ");
            continue;
        }
        if (end - p > 2 && end[-1] == ' ' && end[-2] == ':') {
            end[-2] = ';'; /* how libcurl is told to send a field without a value */
            end[-1] = '\0';
        }
        nodes[n++].data = p;
    }
    for (size_t i = 0; i < n; i++)
        nodes[i].next = i + 1 < n ? &nodes[i + 1] : NULL;
    if (t->jar)
        SET(t->easy, CURLOPT_COOKIE, cookie && *cookie ? cookie : NULL);
    SET(t->easy, CURLOPT_HTTPHEADER, n ? nodes : NULL);
    t->headers_set = true;
    return CURLE_OK;
}

static CURLcode set_method(struct transfer *t, const struct transfer_request *request)
{
    CURL *easy = t->easy;
    const char *method = request->method;
    const struct upload_source *body = &request->body;
    bool bodied = body->text || body->file || body->parts || body->pull;
    bool get = strcmp(method, "GET") == 0 && !bodied;

    t->head_only = strcmp(method, "HEAD") == 0;
    if (get && t->plain_get)
        return CURLE_OK;
    t->plain_get = false;
    if (t->head_only && !bodied) {
        SET(easy, CURLOPT_CUSTOMREQUEST, NULL);
        SET(easy, CURLOPT_NOBODY, 1L);
        return CURLE_OK;
    }
    SET(easy, CURLOPT_NOBODY, 0L);
    /* These have a body, be it an empty one, which is told by its Content-Length. */
    if (bodied || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
        strcmp(method, "PATCH") == 0)
        return upload_begin(&t->upload, easy, body, method);
    SET(easy, CURLOPT_POSTFIELDS, NULL);
    SET(easy, CURLOPT_HTTPGET, 1L);
    SET(easy, CURLOPT_CUSTOMREQUEST, get ? NULL : method);
    t->plain_get = get;
    return CURLE_OK;
}

/* Milliseconds for libcurl, which takes 0 for "no limit". */
static long milliseconds(double seconds)
{
    if (seconds <= 0)
        return 0;
    double ms = seconds * 1e3 + 0.999;
    return ms < 1 ? 1 : ms > LONGEST_MS ? LONGEST_MS : (long)ms;
}

static CURLcode set_request(struct transfer *t, const struct transfer_request *request)
{
    CURL *easy = t->easy;
    CURLcode code = set_method(t, request);
    if (code == CURLE_OK)
        code = set_headers(t, request->headers ? request->headers : "", request->headers_len);
    if (code != CURLE_OK)
        return code;
    SET(easy, CURLOPT_URL, request->url);
    /* Without TLS we speak no HTTP/2, but libcurl would believe a server that says so, and put
     * others on its connection. */
    t->secure = strncmp(request->url, "https:", 6) == 0;
    SET(easy, CURLOPT_HTTP_VERSION,
        (long)(t->secure && !t->http1 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    SET(easy, CURLOPT_TIMEOUT_MS, milliseconds(request->timeout));
    /* For connecting, libcurl takes 0 for its own default. */
    SET(easy, CURLOPT_CONNECTTIMEOUT_MS,
        request->connect_timeout > 0 ? milliseconds(request->connect_timeout) : LONGEST_MS);
    return CURLE_OK;
}

static void fail_upload(struct transfer *t)
{
    snprintf(t->refusal, sizeof t->refusal, "%s", t->upload.problem);
    refuse(t, FAULT_CANNOT_READ, t->refusal);
}

int transfer_prepare(struct transfer *t, const struct transfer_request *request)
{
    t->memory = memory_failures();
    t->max_body = request->max_body;
    t->stream = request->stream;
    head_reset(&t->head, request->max_headers);
    if (request->save && !(t->save = strdup(request->save))) {
        transfer_fail(t, FAULT_OUT_OF_MEMORY, "out of memory");
        return -ENOMEM;
    }
    CURLcode code = set_request(t, request);
    if (code == CURLE_OK)
        return 0;
    if (code == CURLE_OUT_OF_MEMORY)
        transfer_fail(t, FAULT_OUT_OF_MEMORY, "out of memory");
    else if (t->upload.problem[0])
        fail_upload(t);
    else
        transfer_fail(t, FAULT_BAD_REQUEST, curl_easy_strerror(code));
    return code == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EINVAL;
}

int transfer_set_timeout(struct transfer *t, double seconds)
{
    return curl_easy_setopt(t->easy, CURLOPT_TIMEOUT_MS, milliseconds(seconds)) == CURLE_OK
               ? 0
               : -EINVAL;
}

int transfer_set_resolve(struct transfer *t, const char *entry)
{
    struct curl_slist *list = curl_slist_append(NULL, entry);
    if (!list)
        return -ENOMEM;
    curl_slist_free_all(t->resolve);
    t->resolve = list;
    return curl_easy_setopt(t->easy, CURLOPT_RESOLVE, list) == CURLE_OK ? 0 : -ENOMEM;
}

/* The outcome --------------------------------------------------------------------------------- */

static const char *reason_of(const struct transfer *t, CURLcode code)
{
    return outcome_reason(code, t->message, t->head.done);
}

/* Seconds from the hop's start, which was before libcurl's when a name was looked up; 0 for what
 * has not happened. */
static double since_start(const struct transfer *t, CURLINFO info)
{
    curl_off_t us = 0;
    if (curl_easy_getinfo(t->easy, info, &us) != CURLE_OK || us == 0)
        return 0;
    return t->dns + (double)us * 1e-6;
}

void transfer_peek_infos(struct transfer *t)
{
    t->connect = since_start(t, CURLINFO_CONNECT_TIME_T);
    t->tls = since_start(t, CURLINFO_APPCONNECT_TIME_T);
    t->first_byte = since_start(t, CURLINFO_STARTTRANSFER_TIME_T);
    t->elapsed = since_start(t, CURLINFO_TOTAL_TIME_T);
    if (curl_easy_getinfo(t->easy, CURLINFO_SIZE_DOWNLOAD_T, &t->wire) != CURLE_OK)
        t->wire = 0;
    if (curl_easy_getinfo(t->easy, CURLINFO_HTTP_VERSION, &t->version) != CURLE_OK)
        t->version = 0;
}

/* Commits a saved body, or drops it. */
static void end_file(struct transfer *t)
{
    if (!t->file)
        return;
    int rc = 0;
    if (t->fault == FAULT_NONE)
        rc = file_commit(t->file);
    else
        file_abort(t->file); /* the hop's own error is the one to tell */
    t->file = NULL;
    if (rc) {
        snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                 file_strerror(rc));
        refuse(t, FAULT_CANNOT_SAVE, t->refusal);
    }
}

/* What a handshake, or the alert after it, had to do with it. */
static void refuse_tls(struct transfer *t, CURLcode code)
{
    const char *reason = reason_of(t, code);
    enum tls_verdict verdict = tls_judge(t->report, code, reason);

    if (verdict == TLS_BLAMELESS)
        return;
    /* There is no report when it failed before it began, for want of a certificate of ours. */
    if (!t->report)
        t->report = calloc(1, sizeof *t->report);
    refuse(t, verdict == TLS_CUT ? FAULT_RESET : FAULT_TLS,
           t->report ? tls_explain(t->report, reason) : reason);
}

void transfer_finish(struct transfer *t, CURLcode code)
{
    transfer_peek_infos(t);
    if (t->memory != memory_failures()) /* what was sent may be another request */
        refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
    /* A server that has answered may refuse the rest of the request's body (RFC 9113 §8.1). */
    if (code == CURLE_HTTP2_STREAM && t->head.done && t->head.has_length &&
        t->wire == t->head.length)
        code = CURLE_OK;
    if (t->upload.problem[0])
        fail_upload(t);
    if (code != CURLE_OK && !t->head.status)
        refuse_tls(t, code);
    if (code != CURLE_OK)
        refuse(t, outcome_fault(t->easy, code, t->message, t->head.status, t->head.done),
               reason_of(t, code));
    if (!t->head.done) /* libcurl takes what there was of it for all */
        refuse(t, FAULT_CLOSED_IN_HEAD, "the connection was closed within the response headers");
    if (t->fault == FAULT_NONE && t->decode && decode_finish(t->decode))
        refuse(t, FAULT_CORRUPT_CODING, decode_error(t->decode));
    /* An answer that comes before the request's body has gone out ends its connection, too. */
    if (t->overrun && t->head.framing == HEAD_LENGTH && t->wire == t->head.length &&
        !t->head.closes && t->upload.kind == UPLOAD_NONE)
        refuse(t, FAULT_EXTRA_BYTES, "bytes beyond the Content-Length");
    end_file(t);
}

void transfer_fail(struct transfer *t, enum fault fault, const char *reason)
{
    refuse(t, fault, reason);
    end_file(t);
}

bool transfer_is_paused(const struct transfer *t)
{
    return t->stream_paused || t->upload.paused;
}

/* Has libcurl go on with whatever is no longer held up. It may hand over a body's bytes at once;
 * when those are refused, nothing more would come of the transfer, not even its end. */
static CURLcode resume(struct transfer *t)
{
    CURLcode code = curl_easy_pause(t->easy, (t->stream_paused ? CURLPAUSE_RECV : 0) |
                                                 (t->upload.paused ? CURLPAUSE_SEND : 0));
    return code == CURLE_BAD_FUNCTION_ARGUMENT ? CURLE_OK : code; /* it has ended already */
}

CURLcode transfer_taken(struct transfer *t)
{
    bytes_trim(&t->body, STREAM_FULL + KEEP_BODY);
    if (!t->stream_paused)
        return CURLE_OK;
    t->stream_paused = false;
    return resume(t);
}

CURLcode transfer_send(struct transfer *t, const char *p, size_t n)
{
    bool paused = t->upload.paused;
    if (upload_send(&t->upload, p, n)) {
        refuse(t, FAULT_OUT_OF_MEMORY, "out of memory");
        return CURLE_OUT_OF_MEMORY;
    }
    return paused ? resume(t) : CURLE_OK;
}

void transfer_rewind(struct transfer *t)
{
    t->upload.at = 0;
    t->fault = FAULT_NONE;
    t->reason = NULL;
    t->message[0] = '\0';
}

void transfer_reset(struct transfer *t)
{
    end_file(t);
    decode_destroy(t->decode);
    t->decode = NULL;
    free(t->save);
    t->save = NULL;
    t->saved = false;
    if (t->resolve) {
        curl_easy_setopt(t->easy, CURLOPT_RESOLVE, NULL);
        curl_slist_free_all(t->resolve);
        t->resolve = NULL;
    }
    upload_end(&t->upload, t->easy, KEEP_BODY);
    bytes_trim(&t->head.text, KEEP_BODY);
    head_reset(&t->head, 0);
    bytes_trim(&t->body, KEEP_BODY);
    t->fault = FAULT_NONE;
    t->version = 0;
    t->size = 0;
    t->received = 0;
    t->of_body = 0;
    t->field_due = false;
    if (t->watches_lines)
        (void)curl_easy_setopt(t->easy, CURLOPT_VERBOSE, 0L);
    t->watches_lines = false;
    t->wire = 0;
    t->dns = t->connect = t->tls = t->first_byte = t->elapsed = 0;
    t->reason = NULL;
    t->news = 0;
    if (t->report)
        tls_report_reset(t->report);
    t->stream = t->stream_paused = false;
    t->overrun = false;
    t->message[0] = '\0';
}

int transfer_renew(struct transfer *t)
{
    curl_easy_reset(t->easy);
    t->upload.asks = false;
    free(t->nodes);
    t->nodes = NULL;
    t->headers_set = false;
    t->plain_get = false;
    return set_constants(t) == CURLE_OK ? 0 : -ENOMEM;
}

void transfer_destroy(struct transfer *t)
{
    if (t->fault == FAULT_NONE && t->file)
        t->fault = FAULT_NETWORK; /* what was not finished is not kept */
    end_file(t);
    curl_easy_cleanup(t->easy);
    upload_deinit(&t->upload);
    free(t->report);
    decode_destroy(t->decode);
    curl_slist_free_all(t->resolve);
    free(t->nodes);
    free(t->save);
    bytes_deinit(&t->headers);
    bytes_deinit(&t->header_text);
    head_deinit(&t->head);
    bytes_deinit(&t->body);
    free(t);
}
