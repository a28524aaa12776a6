/*
 * The yardstick: libcurl's multi interface on libuv, without Lua and without policy.
 *
 *     bare [--lanes N] [--keep] [--join] [--gzip libcurl|decode.c] URL COUNT CONCURRENCY
 *
 * Fetches URL COUNT times and prints how many body bytes came. Its requests have the header fields
 * that the program sends, its transfers the options of src/transfer.c and src/profile.c, set at the
 * same moments; the event loop is the one of libcurl's own example for libuv. --lanes spreads the
 * transfers over multi handles of at most N. --keep leaves a connection's poll handle armed between
 * transfers, as src/lane.c does. --join lets the first transfer end before the others begin, so
 * that HTTP/2 has all of them on one connection. --gzip asks for a gzip body and says who decodes
 * it.
 */
#include "decode.h"

#include <curl/curl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <uv.h>

struct bytes {
    char *data; /* owned */
    size_t len;
    size_t cap;
};

struct bench {
    uv_loop_t loop;
    const char *url; /* borrowed from argv */
    long count;
    long concurrency;
    long started;
    long done;
    long long body_bytes;
    int keep;
    int join;
    enum { PLAIN, GZIP_LIBCURL, GZIP_DECODE_C } gzip;
    struct watch **kept; /* owned; with --keep: by descriptor, each freed in its close_cb */
    int kept_len;
};

struct lane {
    struct bench *bench; /* borrowed for good */
    CURLM *multi;        /* owned */
    uv_timer_t timer;
};

struct watch {
    uv_poll_t poll;
    struct lane *lane; /* borrowed; NULL while the kept connection is idle */
    curl_socket_t fd;
    int events;
};

struct slot {
    struct lane *lane;          /* borrowed for good */
    CURL *easy;                 /* owned */
    struct curl_slist *headers; /* owned */
    struct bytes head;
    struct bytes body;
    struct decode *decode; /* owned, NULL when there is nothing to decode */
    char message[CURL_ERROR_SIZE];
};

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bare: %s: %s\n", what, why);
    exit(1);
}

static void need(int rc, const char *what)
{
    if (rc != 0)
        die(what, "failed");
}

static void *allocate(size_t count, size_t size)
{
    void *p = calloc(count, size);
    if (!p)
        die("memory", "none left");
    return p;
}

static size_t append(struct bytes *b, const char *p, size_t n)
{
    if (b->len + n > b->cap) {
        b->cap = (b->len + n) * 2;
        b->data = realloc(b->data, b->cap);
        if (!b->data)
            die("memory", "none left");
    }
    memcpy(b->data + b->len, p, n);
    b->len += n;
    return n;
}

static int on_decoded(void *ctx, const char *p, size_t n)
{
    append(&((struct slot *)ctx)->body, p, n);
    return 0;
}

static size_t on_header(char *p, size_t size, size_t n, void *ctx)
{
    static const char name[] = "content-encoding: ", value[] = "gzip";
    struct slot *s = ctx;
    size_t len = size * n;
    if (s->lane->bench->gzip == GZIP_DECODE_C && len == strlen(name) + strlen(value) + 2 &&
        strncasecmp(p, name, strlen(name)) == 0)
        need(decode_create(&s->decode, value, on_decoded, s), "decode");
    return append(&s->head, p, len);
}

static size_t on_body(char *p, size_t size, size_t n, void *ctx)
{
    struct slot *s = ctx;
    size_t len = size * n;
    if (!s->decode)
        return append(&s->body, p, len);
    need(decode_feed(s->decode, p, len), "decode");
    return len;
}

static int on_prereq(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    (void)ctx;
    (void)remote_ip;
    (void)local_ip;
    (void)remote_port;
    (void)local_port;
    return CURL_PREREQFUNC_OK;
}

/* Transfers ----------------------------------------------------------------------------------- */

static void start(struct slot *s)
{
    struct bench *b = s->lane->bench;
    if (b->started == b->count)
        return;
    b->started++;
    s->head.len = s->body.len = 0;
    need(curl_easy_setopt(s->easy, CURLOPT_URL, b->url), "url");
    need(curl_easy_setopt(s->easy, CURLOPT_TIMEOUT_MS, 30000L), "timeout");
    need(curl_easy_setopt(s->easy, CURLOPT_CONNECTTIMEOUT_MS, 10000L), "connect timeout");
    need(curl_multi_add_handle(s->lane->multi, s->easy), "add");
}

/* The first transfer has ended, and its connection is there for all. */
static void start_rest(struct slot *first)
{
    for (long i = 1; i < first->lane->bench->concurrency; i++)
        start(&first[i]);
}

static void end_gzip(struct slot *s)
{
    curl_off_t wire = 0;
    need(curl_easy_getinfo(s->easy, CURLINFO_SIZE_DOWNLOAD_T, &wire), "size");
    if ((size_t)wire >= s->body.len)
        die(s->lane->bench->url, "was not coded");
    if (s->decode)
        need(decode_finish(s->decode), "decode");
    decode_destroy(s->decode);
    s->decode = NULL;
}

static void finish(struct slot *s, CURLcode code)
{
    struct bench *b = s->lane->bench;
    long status = 0;
    if (code != CURLE_OK)
        die(b->url, s->message[0] ? s->message : curl_easy_strerror(code));
    need(curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status), "status");
    if (status != 200)
        die(b->url, "not answered with 200");
    if (b->gzip)
        end_gzip(s);
    need(curl_multi_remove_handle(s->lane->multi, s->easy), "remove");
    b->body_bytes += (long long)s->body.len;
    if (b->done++ == 0 && b->join)
        start_rest(s);
    start(s);
}

static void act(struct lane *lane, curl_socket_t fd, int flags)
{
    int running, left;
    CURLMsg *message;
    need(curl_multi_socket_action(lane->multi, fd, flags, &running), "action");
    while ((message = curl_multi_info_read(lane->multi, &left))) {
        struct slot *s = NULL;
        CURLcode code = message->data.result;
        need(curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &s), "private");
        finish(s, code);
    }
}

/* Events -------------------------------------------------------------------------------------- */

static void on_timer(uv_timer_t *timer)
{
    act(timer->data, CURL_SOCKET_TIMEOUT, 0);
}

static int on_timeout(CURLM *multi, long ms, void *ctx)
{
    struct lane *lane = ctx;
    (void)multi;
    return ms < 0 ? uv_timer_stop(&lane->timer)
                  : uv_timer_start(&lane->timer, on_timer, (uint64_t)ms, 0);
}

static void free_watch(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    if (w->lane) {
        act(w->lane, w->fd, flags);
    } else { /* the server closed an idle connection; libcurl looks when it wants it again */
        w->events = 0;
        need(uv_poll_stop(poll), "poll");
    }
}

static struct watch **kept_of(struct bench *b, curl_socket_t fd)
{
    if (!b->keep || fd >= b->kept_len)
        die("descriptor", "out of range");
    return &b->kept[fd];
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *ctx, void *assigned)
{
    struct lane *lane = ctx;
    struct bench *b = lane->bench;
    struct watch *w = b->keep ? *kept_of(b, fd) : assigned;
    int events = 0;

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w && b->keep)
            w->lane = NULL;
        else if (w)
            uv_close((uv_handle_t *)&w->poll, free_watch);
        return 0;
    }
    if (!w) {
        w = allocate(1, sizeof *w);
        w->fd = fd;
        w->poll.data = w;
        need(uv_poll_init_socket(&b->loop, &w->poll, fd), "poll");
        if (b->keep)
            *kept_of(b, fd) = w;
        else
            need(curl_multi_assign(lane->multi, fd, w), "assign");
    }
    w->lane = lane;
    if (what & CURL_POLL_IN)
        events |= UV_READABLE;
    if (what & CURL_POLL_OUT)
        events |= UV_WRITABLE;
    if (events != w->events)
        need(uv_poll_start(&w->poll, events, on_poll), "poll");
    w->events = events;
    return 0;
}

static int on_close_socket(void *ctx, curl_socket_t fd)
{
    struct watch **kept = kept_of(ctx, fd);
    if (*kept)
        uv_close((uv_handle_t *)&(*kept)->poll, free_watch);
    *kept = NULL;
    return close(fd);
}

/* Set-up -------------------------------------------------------------------------------------- */

static void lane_init(struct lane *lane, struct bench *b, long size)
{
    lane->bench = b;
    lane->multi = curl_multi_init();
    lane->timer.data = lane;
    need(!lane->multi, "multi");
    need(uv_timer_init(&b->loop, &lane->timer), "timer");
    need(curl_multi_setopt(lane->multi, CURLMOPT_SOCKETFUNCTION, on_socket), "multi");
    need(curl_multi_setopt(lane->multi, CURLMOPT_SOCKETDATA, lane), "multi");
    need(curl_multi_setopt(lane->multi, CURLMOPT_TIMERFUNCTION, on_timeout), "multi");
    need(curl_multi_setopt(lane->multi, CURLMOPT_TIMERDATA, lane), "multi");
    need(curl_multi_setopt(lane->multi, CURLMOPT_MAXCONNECTS, size), "multi");
    need(curl_multi_setopt(lane->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX), "multi");
}

static void add_header(struct slot *s, const char *line)
{
    s->headers = curl_slist_append(s->headers, line);
    need(!s->headers, "headers");
}

static void slot_init(struct slot *s, struct lane *lane)
{
    CURL *easy = curl_easy_init();
    const char *ca = getenv("SSL_CERT_FILE");
    int gzip = lane->bench->gzip;
    need(!easy, "easy");
    s->lane = lane;
    s->easy = easy;
    add_header(s, "Accept: */*");
    if (gzip != GZIP_LIBCURL)
        add_header(s, "Accept-Encoding: gzip, deflate, br, zstd");
    add_header(s, "User-Agent: orchestrator/0.1.0");
    need(curl_easy_setopt(easy, CURLOPT_PRIVATE, s), "easy");
    need(curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L), "easy");
    need(curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L), "easy");
    need(curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https"), "easy");
    need(curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L), "easy");
    need(curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS), "easy");
    need(curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2), "easy");
    need(curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED), "easy");
    need(curl_easy_setopt(easy, CURLOPT_PROXY, ""), "easy");
    need(curl_easy_setopt(easy, CURLOPT_NOPROXY, ""), "easy");
    need(curl_easy_setopt(easy, CURLOPT_HTTP_CONTENT_DECODING, (long)(gzip == GZIP_LIBCURL)),
         "easy");
    if (gzip == GZIP_LIBCURL)
        need(curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "gzip, deflate, br, zstd"), "easy");
    if (ca) {
        need(curl_easy_setopt(easy, CURLOPT_CAINFO, ca), "easy");
        need(curl_easy_setopt(easy, CURLOPT_CAPATH, NULL), "easy");
    }
    need(curl_easy_setopt(easy, CURLOPT_DNS_CACHE_TIMEOUT, -1L), "easy");
    need(curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, s->message), "easy");
    need(curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header), "easy");
    need(curl_easy_setopt(easy, CURLOPT_HEADERDATA, s), "easy");
    need(curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body), "easy");
    need(curl_easy_setopt(easy, CURLOPT_WRITEDATA, s), "easy");
    need(curl_easy_setopt(easy, CURLOPT_HTTPHEADER, s->headers), "easy");
    need(curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_prereq), "easy");
    if (lane->bench->keep) {
        need(curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close_socket), "easy");
        need(curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, lane->bench), "easy");
    }
}

static void fetch_all(struct bench *b, long lane_size)
{
    long concurrency = b->concurrency;
    long lane_count = (concurrency + lane_size - 1) / lane_size;
    struct lane *lanes = allocate((size_t)lane_count, sizeof *lanes);
    struct slot *slots = allocate((size_t)concurrency, sizeof *slots);

    for (long i = 0; i < lane_count; i++)
        lane_init(&lanes[i], b, lane_size);
    for (long i = 0; i < concurrency; i++) {
        slot_init(&slots[i], &lanes[i / lane_size]);
        if (i == 0 || !b->join)
            start(&slots[i]);
    }
    while (b->done < b->count)
        uv_run(&b->loop, UV_RUN_ONCE);

    for (long i = 0; i < concurrency; i++) {
        curl_easy_cleanup(slots[i].easy);
        curl_slist_free_all(slots[i].headers);
        free(slots[i].head.data);
        free(slots[i].body.data);
    }
    for (long i = 0; i < lane_count; i++) {
        need(curl_multi_cleanup(lanes[i].multi), "clean-up");
        uv_close((uv_handle_t *)&lanes[i].timer, NULL);
    }
    uv_run(&b->loop, UV_RUN_DEFAULT);
    free(slots);
    free(lanes);
}

static int gzip_by(const char *who)
{
    return strcmp(who, "libcurl") == 0    ? GZIP_LIBCURL
           : strcmp(who, "decode.c") == 0 ? GZIP_DECODE_C
                                          : PLAIN;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    long lane_size = 0;
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        if (strcmp(argv[i], "--keep") == 0)
            b.keep = 1;
        else if (strcmp(argv[i], "--join") == 0)
            b.join = 1;
        else if (strcmp(argv[i], "--lanes") == 0 && i + 1 < argc)
            lane_size = atol(argv[++i]);
        else if (strcmp(argv[i], "--gzip") == 0 && i + 1 < argc && gzip_by(argv[i + 1]) != PLAIN)
            b.gzip = gzip_by(argv[++i]);
        else
            die(argv[i], "unknown option");
    }
    if (argc - i != 3)
        die("usage", "bare [OPTION...] URL COUNT CONCURRENCY");
    b.url = argv[i];
    b.count = atol(argv[i + 1]);
    b.concurrency = atol(argv[i + 2]);
    if (b.count < 1 || b.concurrency < 1 || lane_size < 0)
        die("usage", "numbers are at least 1");
    if (lane_size == 0)
        lane_size = b.concurrency;

    need(curl_global_init(CURL_GLOBAL_DEFAULT), "curl");
    need(uv_loop_init(&b.loop), "loop");
    if (b.keep) {
        b.kept_len = (int)sysconf(_SC_OPEN_MAX);
        b.kept = allocate((size_t)b.kept_len, sizeof *b.kept);
    }
    fetch_all(&b, lane_size);
    need(uv_loop_close(&b.loop), "an open handle");
    free(b.kept);
    curl_global_cleanup();
    return printf("%lld\n", b.body_bytes) < 0;
}
