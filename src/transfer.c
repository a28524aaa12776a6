#include "transfer.h"

#include "decode.h"
#include "file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    KEEP_BODY = 16 * 1024,   /* a buffer of up to this size is kept for the next hop */
    LONGEST_MS = 2000000000, /* what libcurl takes on every platform, 23 days */
    RESERVE_MAX = 1 << 20,   /* the most that a Content-Length makes us allocate ahead */
};

const char *transfer_outcome_name(enum transfer_outcome outcome)
{
    static const char *const names[] = {
        [TRANSFER_OK] = NULL,
        [TRANSFER_INVALID] = "invalid",
        [TRANSFER_DNS] = "dns",
        [TRANSFER_CONNECT] = "connect",
        [TRANSFER_TLS] = "tls",
        [TRANSFER_TIMEOUT] = "timeout",
        [TRANSFER_NETWORK] = "network",
        [TRANSFER_PROTOCOL] = "protocol",
        [TRANSFER_TOO_LARGE] = "too_large",
        [TRANSFER_DECODE] = "decode",
    };
    return names[outcome];
}

/* The first reason stands: what follows is libcurl's word for our own refusal. */
static void refuse(struct transfer *t, enum transfer_outcome outcome, const char *reason)
{
    if (t->outcome != TRANSFER_OK)
        return;
    t->outcome = outcome;
    t->reason = reason;
}

/* The head ------------------------------------------------------------------------------------ */

static int on_decoded(void *ctx, const char *p, size_t n)
{
    struct transfer *t = ctx;
    int rc;

    if (t->max_body && n > t->max_body - t->size) {
        refuse(t, TRANSFER_TOO_LARGE, "the decoded body is larger than max_body");
        return -E2BIG;
    }
    if (t->file) {
        rc = file_write(t->file, p, n);
        if (rc) {
            snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                     file_strerror(rc));
            refuse(t, TRANSFER_INVALID, t->refusal);
            return rc;
        }
    } else {
        rc = bytes_append(&t->body, p, n);
        if (rc) {
            refuse(t, TRANSFER_NETWORK, "out of memory");
            return rc;
        }
    }
    t->size += n;
    return 0;
}

static int open_save(struct transfer *t)
{
    int rc = file_open(&t->file, t->save, FILE_REPLACE);
    if (rc) {
        snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                 file_strerror(rc));
        refuse(t, TRANSFER_INVALID, t->refusal);
    }
    return rc;
}

/* The head is there: makes ready for the body. */
static int begin_body(struct transfer *t)
{
    struct head *head = &t->head;

    if (head->framing == HEAD_NONE)
        return 0;
    if (head->coding.len) {
        int rc = decode_create(&t->decode, head->coding.data, on_decoded, t);
        if (rc == -ENOTSUP) {
            snprintf(t->refusal, sizeof t->refusal, "unknown Content-Encoding \"%.100s\"",
                     head->coding.data);
            refuse(t, TRANSFER_DECODE, t->refusal);
        } else if (rc == -E2BIG) {
            refuse(t, TRANSFER_TOO_LARGE, "more than 5 content codings in a chain");
        } else if (rc) {
            refuse(t, TRANSFER_NETWORK, "out of memory");
        }
        if (rc)
            return rc;
    } else if (head->has_length && t->max_body && (size_t)head->length > t->max_body) {
        refuse(t, TRANSFER_TOO_LARGE, "Content-Length is larger than max_body");
        return -E2BIG;
    }
    if (t->save && head->status >= 200 && head->status <= 299)
        return open_save(t);
    if (!t->decode && head->has_length && head->length <= RESERVE_MAX &&
        bytes_reserve(&t->body, (size_t)head->length)) {
        refuse(t, TRANSFER_NETWORK, "out of memory");
        return -ENOMEM;
    }
    return 0;
}

static size_t on_header(char *line, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * n;
    const char *why = "out of memory";

    t->received += len;
    int rc = head_take(&t->head, line, len, t->head_only, &why);
    if (rc < 0) {
        refuse(t,
               rc == -EPROTO  ? TRANSFER_PROTOCOL
               : rc == -E2BIG ? TRANSFER_TOO_LARGE
                              : TRANSFER_NETWORK,
               why);
        return 0;
    }
    return rc == 1 && begin_body(t) ? 0 : len;
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct transfer *t = ctx;
    size_t len = size * n;

    t->received += len;
    if (!t->decode)
        return on_decoded(t, p, len) ? 0 : len;
    int rc = decode_feed(t->decode, p, len);
    if (rc == -EILSEQ)
        refuse(t, TRANSFER_DECODE, decode_error(t->decode));
    else if (rc)
        refuse(t, TRANSFER_NETWORK, "out of memory");
    return rc ? 0 : len;
}

/* The handle ---------------------------------------------------------------------------------- */

#define SET(easy, option, value)                                                                   \
    do {                                                                                           \
        CURLcode set_code = curl_easy_setopt(easy, option, value);                                 \
        if (set_code != CURLE_OK)                                                                  \
            return set_code;                                                                       \
    } while (0)

/* What is the same for every hop. */
static CURLcode set_constants(struct transfer *t)
{
    CURL *easy = t->easy;
    SET(easy, CURLOPT_PRIVATE, t);
    SET(easy, CURLOPT_NOSIGNAL, 1L);
    SET(easy, CURLOPT_QUICK_EXIT, 1L);
    SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
    SET(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(easy, CURLOPT_PROXY, ""); /* or libcurl reads the environment at every transfer */
    SET(easy, CURLOPT_HTTP_CONTENT_DECODING, 0L);
    /* Otherwise libcurl goes through all the addresses it knows at the end of every transfer. How
     * many those are, and how old, we see to ourselves. */
    SET(easy, CURLOPT_DNS_CACHE_TIMEOUT, -1L);
    SET(easy, CURLOPT_ERRORBUFFER, t->message);
    SET(easy, CURLOPT_HEADERFUNCTION, on_header);
    SET(easy, CURLOPT_HEADERDATA, t);
    SET(easy, CURLOPT_WRITEFUNCTION, on_body);
    SET(easy, CURLOPT_WRITEDATA, t);
    const char *ca = getenv("SSL_CERT_FILE");
    if (ca && *ca)
        SET(easy, CURLOPT_CAINFO, ca);
    return CURLE_OK;
}

int transfer_create(struct transfer **out, void *context)
{
    struct transfer *t = calloc(1, sizeof *t);
    if (!t)
        return -ENOMEM;
    t->context = context;
    bytes_init(&t->headers, 0);
    bytes_init(&t->header_text, 0);
    bytes_init(&t->request_body, 0);
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
static CURLcode set_headers(struct transfer *t, const char *text, size_t len, bool bodied)
{
    if (t->nodes && t->for_body == bodied && t->headers.len == len &&
        (len == 0 || memcmp(t->headers.data, text, len) == 0))
        return CURLE_OK;
    bytes_clear(&t->headers);
    bytes_clear(&t->header_text);
    if (bytes_append(&t->headers, text, len) || bytes_append(&t->header_text, text, len))
        return CURLE_OUT_OF_MEMORY;
    t->for_body = bodied;

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
    if (bodied && !has_field(text, len, "content-type"))
        nodes[n++].data = type;
    char *p = t->header_text.data;
    for (char *end; len && (end = memchr(p, '\n', len)); p = end + 1) {
        len -= (size_t)(end + 1 - p);
        *end = '\0';
        if (end - p > 2 && end[-1] == ' ' && end[-2] == ':') {
            end[-2] = ';'; /* how libcurl is told to send a field without a value */
            end[-1] = '\0';
        }
        nodes[n++].data = p;
    }
    for (size_t i = 0; i < n; i++)
        nodes[i].next = i + 1 < n ? &nodes[i + 1] : NULL;
    return curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, n ? nodes : NULL);
}

/* Whether the request has a body, be it an empty one, which is told by its Content-Length. */
static bool is_bodied(const struct transfer_request *request)
{
    const char *method = request->method;
    return request->body || strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 ||
           strcmp(method, "PATCH") == 0;
}

static CURLcode set_method(struct transfer *t, const struct transfer_request *request)
{
    CURL *easy = t->easy;
    const char *method = request->method;
    bool get = strcmp(method, "GET") == 0 && !request->body;

    t->head_only = strcmp(method, "HEAD") == 0;
    if (get && t->plain_get)
        return CURLE_OK;
    t->plain_get = false;
    if (t->head_only && !request->body) {
        SET(easy, CURLOPT_CUSTOMREQUEST, NULL);
        SET(easy, CURLOPT_NOBODY, 1L);
        return CURLE_OK;
    }
    SET(easy, CURLOPT_NOBODY, 0L);
    bytes_clear(&t->request_body);
    if (is_bodied(request)) {
        /* POSTFIELDS is not copied by libcurl, and NULL would make it ask a callback. */
        if (bytes_append(&t->request_body, request->body_len ? request->body : "",
                         request->body_len ? request->body_len : 1))
            return CURLE_OUT_OF_MEMORY;
        SET(easy, CURLOPT_POST, 1L);
        SET(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_len);
        SET(easy, CURLOPT_POSTFIELDS, t->request_body.data);
    } else {
        SET(easy, CURLOPT_POSTFIELDS, NULL);
        SET(easy, CURLOPT_HTTPGET, 1L);
    }
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
        code = set_headers(t, request->headers ? request->headers : "", request->headers_len,
                           is_bodied(request));
    if (code != CURLE_OK)
        return code;
    SET(easy, CURLOPT_URL, request->url);
    SET(easy, CURLOPT_TIMEOUT_MS, milliseconds(request->timeout));
    /* For connecting, libcurl takes 0 for its own default. */
    SET(easy, CURLOPT_CONNECTTIMEOUT_MS,
        request->connect_timeout > 0 ? milliseconds(request->connect_timeout) : LONGEST_MS);
    return CURLE_OK;
}

int transfer_prepare(struct transfer *t, const struct transfer_request *request)
{
    t->max_body = request->max_body;
    head_reset(&t->head, request->max_headers);
    if (request->save && !(t->save = strdup(request->save))) {
        transfer_fail(t, TRANSFER_NETWORK, "out of memory");
        return -ENOMEM;
    }
    CURLcode code = set_request(t, request);
    if (code == CURLE_OK)
        return 0;
    transfer_fail(t, code == CURLE_OUT_OF_MEMORY ? TRANSFER_NETWORK : TRANSFER_INVALID,
                  curl_easy_strerror(code));
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

static enum transfer_outcome outcome_of(const struct transfer *t, CURLcode code)
{
    switch (code) {
    case CURLE_OK:
        return TRANSFER_OK;
    case CURLE_URL_MALFORMAT:
        return TRANSFER_INVALID;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return TRANSFER_DNS;
    case CURLE_COULDNT_CONNECT:
    case CURLE_INTERFACE_FAILED:
        return TRANSFER_CONNECT;
    case CURLE_OPERATION_TIMEDOUT:
        return TRANSFER_TIMEOUT;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return TRANSFER_TLS;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9: whatever that was, it was no HTTP */
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_BAD_CONTENT_ENCODING:
        return TRANSFER_PROTOCOL;
    case CURLE_RECV_ERROR:
        /* libcurl's own caps on header bytes have no code of their own */
        return strstr(t->message, "Too large response headers") ? TRANSFER_TOO_LARGE
                                                                : TRANSFER_NETWORK;
    case CURLE_OUT_OF_MEMORY:
        return t->head.done ? TRANSFER_NETWORK : TRANSFER_TOO_LARGE; /* a line of over 100 KB */
    default:
        return TRANSFER_NETWORK;
    }
}

static const char *reason_of(const struct transfer *t, CURLcode code)
{
    if (code == CURLE_OUT_OF_MEMORY && !t->head.done)
        return "a line of the response headers is too long";
    return t->message[0] ? t->message : curl_easy_strerror(code);
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

static void take_infos(struct transfer *t)
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
    if (t->outcome == TRANSFER_OK)
        rc = file_commit(t->file);
    else
        (void)file_abort(t->file); /* the hop's own error is the one to tell */
    t->file = NULL;
    if (rc) {
        snprintf(t->refusal, sizeof t->refusal, "cannot write %.180s: %s", t->save,
                 file_strerror(rc));
        refuse(t, TRANSFER_INVALID, t->refusal);
    }
}

void transfer_finish(struct transfer *t, CURLcode code)
{
    take_infos(t);
    /* A server that has answered may refuse the rest of the request's body (RFC 9113 §8.1). */
    if (code == CURLE_HTTP2_STREAM && t->head.done && t->head.has_length &&
        t->wire == t->head.length)
        code = CURLE_OK;
    if (code != CURLE_OK)
        refuse(t, outcome_of(t, code), reason_of(t, code));
    if (!t->head.done) /* libcurl takes what there was of it for all */
        refuse(t, TRANSFER_NETWORK, "the connection was closed within the response headers");
    if (t->outcome == TRANSFER_OK && t->decode && decode_finish(t->decode))
        refuse(t, TRANSFER_DECODE, decode_error(t->decode));
    /* An answer that comes before the request's body has gone out ends its connection, too. */
    if (t->overrun && t->head.framing == HEAD_LENGTH && t->wire == t->head.length &&
        !t->head.closes && !t->request_body.len)
        refuse(t, TRANSFER_PROTOCOL, "bytes beyond the Content-Length");
    end_file(t);
}

void transfer_fail(struct transfer *t, enum transfer_outcome outcome, const char *reason)
{
    refuse(t, outcome, reason);
    end_file(t);
}

void transfer_reset(struct transfer *t)
{
    end_file(t);
    decode_destroy(t->decode);
    t->decode = NULL;
    free(t->save);
    t->save = NULL;
    if (t->resolve) {
        curl_easy_setopt(t->easy, CURLOPT_RESOLVE, NULL);
        curl_slist_free_all(t->resolve);
        t->resolve = NULL;
    }
    bytes_trim(&t->request_body, KEEP_BODY);
    bytes_trim(&t->head.text, KEEP_BODY);
    head_reset(&t->head, 0);
    bytes_trim(&t->body, KEEP_BODY);
    t->outcome = TRANSFER_OK;
    t->version = 0;
    t->size = 0;
    t->received = 0;
    t->wire = 0;
    t->dns = t->connect = t->tls = t->first_byte = t->elapsed = 0;
    t->reason = NULL;
    t->temporary = false;
    t->overrun = false;
    t->message[0] = '\0';
}

int transfer_renew(struct transfer *t)
{
    curl_easy_reset(t->easy);
    free(t->nodes);
    t->nodes = NULL;
    t->plain_get = false;
    return set_constants(t) == CURLE_OK ? 0 : -ENOMEM;
}

void transfer_destroy(struct transfer *t)
{
    if (t->outcome == TRANSFER_OK && t->file)
        t->outcome = TRANSFER_NETWORK; /* what was not finished is not kept */
    end_file(t);
    curl_easy_cleanup(t->easy);
    decode_destroy(t->decode);
    curl_slist_free_all(t->resolve);
    free(t->nodes);
    free(t->save);
    bytes_deinit(&t->headers);
    bytes_deinit(&t->header_text);
    bytes_deinit(&t->request_body);
    head_deinit(&t->head);
    bytes_deinit(&t->body);
    free(t);
}
