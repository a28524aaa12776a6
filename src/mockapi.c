/*
 * mockapi: an HTTP server whose answers are described by the URL, for trying pipelines and for
 * tests. It listens on 127.0.0.1 only, prints its base URL as its first line, and ends when its
 * parent does or when nobody can read its standard output any more.
 *
 * One thread: libmicrohttpd runs inside the poll loop at the end of this file, and a request that
 * has to wait is suspended and put into a heap of timers, so that 10,000 of them wait at once.
 */
#include <getopt.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <search.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

#include "bytes.h"

static const char manual[] =
    "mockapi [--port N]     0, the default, takes any free port\n"
    "\n"
    "  /json?n=30           {\"api\":0,\"items\":[...]} with n records\n"
    "  /api/K               the same for K = 1 to 50: 20 to 28 records and a latency of its own\n"
    "                       (13.5 s all in all, the slowest 1.5 s); some fail at first, one "
    "always\n"
    "  /echo                {\"method\":...,\"url\":...,\"headers\":{...},\"body\":...} as "
    "received\n"
    "  /status/CODE         an answer with that status\n"
    "  /ledger              what was asked for: totals, most in flight, per key, each request\n"
    "  /ledger/reset        forgets it, and what fail= has counted\n"
    "  /                    this text\n"
    "\n"
    "and as query parameters, on each of them:\n"
    "\n"
    "  delay=MS             answers after MS\n"
    "  fail=N               the first N requests with this key fail; -1: all do, 0: none does\n"
    "  key=TEXT             what fail= and the ledger count by; without it the URL as sent\n"
    "  status=CODE          how they fail, 503 if not given; drop closes the connection instead\n"
    "  retry_after=TEXT     Retry-After: TEXT on each 429 and 503\n"
    "  redirect=URL         Location: URL with status code=CODE, 302 if not given\n"
    "  etag=TEXT            ETag: \"TEXT\", and 304 for an If-None-Match that has it\n"
    "  max_age=S            Cache-Control: max-age=S\n"
    "  bytes=N              a body of N bytes of text\n"
    "  gzip=1               Content-Encoding: gzip\n"
    "  chunked=1            no Content-Length\n"
    "  drip=MS              the body in pieces, MS apart\n"
    "  piece=N              pieces of N bytes, 64 if not given\n";

enum {
    LEDGER_LENGTH = 100000, /* requests the ledger lists; the totals count all of them */
    DROP = 0,               /* as a status: close the connection */
    PARENT_CHECK_MS = 250,
    API_COUNT = 50,
};

static const short api_delays[API_COUNT] = {
    210, 360, 240, 130, 140, 120, 180, 200, 130, 320, 480, 110, 260, 130, 120, 390, 1500,
    290, 170, 370, 210, 220, 180, 760, 130, 320, 60,  380, 230, 160, 120, 490, 540, 440,
    290, 270, 440, 90,  280, 100, 240, 220, 150, 150, 160, 380, 170, 100, 220, 150,
};

static const struct flaw {
    int api;
    int fail; /* as fail= */
    int status;
    const char *retry_after;
} api_flaws[] = {
    {5, 1, 503, NULL},   {9, 1, DROP, NULL}, {12, 2, 503, NULL},
    {27, -1, 500, NULL}, {31, 1, 429, "1"},  {44, 1, DROP, NULL},
};

/* What was asked for under one key. */
struct key {
    char *name; /* owned */
    long requests;
};

struct ledger_entry {
    char *method;    /* owned */
    char *url;       /* owned */
    const char *key; /* borrowed from the struct key, which lives as long */
    double start_ms; /* since the server started */
    long in_flight;  /* when it arrived, itself included */
};

struct server {
    struct MHD_Daemon *daemon; /* owned */
    int64_t started;           /* ns, monotonic */
    struct request **waiting;  /* owned heap of suspended requests, the first due on top */
    size_t waiting_count, waiting_room;
    void *keys;                  /* owned tsearch tree of struct key */
    struct ledger_entry *ledger; /* owned */
    size_t ledger_count, ledger_room;
    long total, in_flight, most_in_flight, connections;
};

/* One request, from its request line until MHD has done with it; MHD keeps it as con_cls. */
struct request {
    struct server *server;             /* borrowed */
    struct MHD_Connection *connection; /* borrowed; may be another's once it has completed */
    char *url;                         /* owned; as sent, with the query */
    struct bytes upload;
    char *body; /* owned; what is sent */
    size_t body_len;
    size_t piece;            /* bytes sent at once */
    int64_t drip;            /* ns between pieces, 0 = none */
    int64_t delay;           /* ns still to wait before answering */
    int64_t due;             /* ns, monotonic; when suspended */
    const char *retry_after; /* static or borrowed from the connection; or NULL */
    int fail_status;         /* DROP or a status; -1 = does not fail */
    bool arrived, in_ledger, rested;
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* A test server has nobody to report to: without memory it ends. */
static void *need(void *allocated)
{
    if (allocated == NULL) {
        perror("mockapi");
        abort();
    }
    return allocated;
}

/* Doubles an array that is full. */
static void *grown(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return array;
    *room = *room == 0 ? 64 : *room * 2;
    return need(realloc(array, *room * size));
}

/* ---- waiting ---- */

static bool sooner(const struct request *a, const struct request *b)
{
    return a->due < b->due;
}

static void wait_for(struct request *r, int64_t ns)
{
    struct server *s = r->server;
    s->waiting = grown(s->waiting, s->waiting_count, &s->waiting_room, sizeof(struct request *));
    r->due = now_ns() + ns;
    size_t i = s->waiting_count++;
    for (; i > 0 && sooner(r, s->waiting[(i - 1) / 2]); i = (i - 1) / 2)
        s->waiting[i] = s->waiting[(i - 1) / 2];
    s->waiting[i] = r;
    MHD_suspend_connection(r->connection);
}

static void resume_first(struct server *s)
{
    struct request *first = s->waiting[0];
    struct request *last = s->waiting[--s->waiting_count];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < s->waiting_count; i = child) {
        if (child + 1 < s->waiting_count && sooner(s->waiting[child + 1], s->waiting[child]))
            child++;
        if (!sooner(s->waiting[child], last))
            break;
        s->waiting[i] = s->waiting[child];
    }
    s->waiting[i] = last;
    MHD_resume_connection(first->connection);
}

/* ---- the ledger ---- */

static int key_compare(const void *a, const void *b)
{
    return strcmp(((const struct key *)a)->name, ((const struct key *)b)->name);
}

static void key_free(void *node)
{
    struct key *key = node;
    free(key->name);
    free(key);
}

static struct key *key_find(struct server *s, const char *name)
{
    struct key wanted = {.name = (char *)name};
    struct key **found = tfind(&wanted, &s->keys, key_compare);
    if (found != NULL)
        return *found;
    struct key *key = need(calloc(1, sizeof *key));
    key->name = need(strdup(name));
    need(tsearch(key, &s->keys, key_compare));
    return key;
}

static void ledger_add(struct request *r, const char *method, const struct key *key)
{
    struct server *s = r->server;
    s->total++;
    s->in_flight++;
    if (s->in_flight > s->most_in_flight)
        s->most_in_flight = s->in_flight;
    r->in_ledger = true;
    if (s->ledger_count == LEDGER_LENGTH)
        return;
    s->ledger = grown(s->ledger, s->ledger_count, &s->ledger_room, sizeof(struct ledger_entry));
    s->ledger[s->ledger_count++] = (struct ledger_entry){
        .method = need(strdup(method)),
        .url = need(strdup(r->url)),
        .key = key->name,
        .start_ms = (now_ns() - s->started) / 1e6,
        .in_flight = s->in_flight,
    };
}

static void ledger_reset(struct server *s)
{
    for (size_t i = 0; i < s->ledger_count; i++) {
        free(s->ledger[i].method);
        free(s->ledger[i].url);
    }
    tdestroy(s->keys, key_free);
    s->keys = NULL;
    s->ledger_count = 0;
    s->total = s->connections = 0;
    s->most_in_flight = s->in_flight;
}

/* ---- bodies ---- */

/* Bytes from 0x80 go out as they are, so what was no UTF-8 when received is none in the answer. */
static void put_string(FILE *out, const char *text, size_t len)
{
    fputc('"', out);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = text[i];
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

static void put_records(FILE *out, int api, long n)
{
    static const char *const categories[] = {"books", "games", "garden", "kitchen", "tools"};
    fprintf(out, "{\"api\":%d,\"items\":[", api);
    for (long i = 1; i <= n; i++) {
        long x = api * 7919L + i * 104729L; /* mixes the two, the same in each run */
        fprintf(out,
                "%s{\"id\":%ld,\"name\":\"item %d-%ld\",\"category\":\"%s\",\"price\":%ld.%02ld,"
                "\"stock\":%ld,\"active\":%s,\"updated_at\":\"2026-%02ld-%02ldT%02ld:%02ld:00Z\"}",
                i > 1 ? "," : "", api * 1000L + i, api, i, categories[x % 5], x % 90 + 1, x % 97,
                x % 41, x % 10 < 7 ? "true" : "false", x % 12 + 1, x % 28 + 1, x % 24, x % 60);
    }
    fputs("]}\n", out);
}

/* A JSON list or object being written by a callback. */
struct listing {
    FILE *out;
    const char *separator; /* what comes before the next element */
};

static enum MHD_Result put_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                  const char *value)
{
    struct listing *list = cls;
    (void)kind;
    fputs(list->separator, list->out);
    list->separator = ",";
    put_string(list->out, name, strlen(name));
    fputc(':', list->out);
    put_string(list->out, value, strlen(value));
    return MHD_YES;
}

static void put_echo(FILE *out, const struct request *r, const char *method)
{
    struct listing headers = {out, ""};
    fputs("{\"method\":", out);
    put_string(out, method, strlen(method));
    fputs(",\"url\":", out);
    put_string(out, r->url, strlen(r->url));
    fputs(",\"headers\":{", out);
    MHD_get_connection_values(r->connection, MHD_HEADER_KIND, put_header, &headers);
    fputs("},\"body\":", out);
    put_string(out, r->upload.data, r->upload.len);
    fputs("}\n", out);
}

static void put_key(const void *node, VISIT visit, void *cls)
{
    const struct key *key = *(struct key *const *)node;
    struct listing *list = cls;
    if (visit != postorder && visit != leaf)
        return;
    fputs(list->separator, list->out);
    list->separator = ",";
    put_string(list->out, key->name, strlen(key->name));
    fprintf(list->out, ":%ld", key->requests);
}

static void put_ledger(FILE *out, const struct server *s)
{
    struct listing keys = {out, ""};
    fprintf(out, "{\"total\":%ld,\"in_flight\":%ld,\"most_in_flight\":%ld,\"connections\":%ld,",
            s->total, s->in_flight, s->most_in_flight, s->connections);
    fputs("\"keys\":{", out);
    twalk_r(s->keys, put_key, &keys);
    fputs("},\"requests\":[", out);
    for (size_t i = 0; i < s->ledger_count; i++) {
        const struct ledger_entry *e = &s->ledger[i];
        fprintf(out, "%s{\"method\":", i > 0 ? "," : "");
        put_string(out, e->method, strlen(e->method));
        fputs(",\"url\":", out);
        put_string(out, e->url, strlen(e->url));
        fputs(",\"key\":", out);
        put_string(out, e->key, strlen(e->key));
        fprintf(out, ",\"start_ms\":%.3f,\"in_flight\":%ld}", e->start_ms, e->in_flight);
    }
    fputs("]}\n", out);
}

static void gzip_body(struct request *r)
{
    z_stream z = {.next_in = (Bytef *)r->body, .avail_in = r->body_len};
    if (deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        abort();
    size_t room = deflateBound(&z, r->body_len);
    char *zipped = need(malloc(room));
    z.next_out = (Bytef *)zipped;
    z.avail_out = room;
    if (deflate(&z, Z_FINISH) != Z_STREAM_END)
        abort();
    deflateEnd(&z);
    free(r->body);
    r->body = zipped;
    r->body_len = z.total_out;
}

/* ---- answering ---- */

static const char *parameter(const struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

static long number(const struct request *r, const char *name, long otherwise)
{
    const char *text = parameter(r, name);
    return text == NULL ? otherwise : strtol(text, NULL, 10);
}

/* The N of "/api/N", 0 when the path is another. */
static int numbered(const char *path, const char *prefix)
{
    size_t len = strlen(prefix);
    return strncmp(path, prefix, len) == 0 ? atoi(path + len) : 0;
}

/* Called once a request, when its headers are there: counts it and decides what it will get. */
static void arrive(struct request *r, const char *method, const char *path)
{
    int api = numbered(path, "/api/");
    long delay = api >= 1 && api <= API_COUNT ? api_delays[api - 1] : 0;
    struct flaw flaw = {.status = 503};
    for (size_t i = 0; i < sizeof api_flaws / sizeof api_flaws[0]; i++)
        if (api_flaws[i].api == api)
            flaw = api_flaws[i];

    const char *name = parameter(r, "key");
    struct key *key = key_find(r->server, name != NULL ? name : r->url);
    key->requests++;
    ledger_add(r, method, key);

    long fail = number(r, "fail", flaw.fail);
    const char *status = parameter(r, "status");
    if (fail < 0 || key->requests <= fail)
        r->fail_status = status == NULL ? flaw.status : atoi(status); /* "drop" is no number: 0 */
    const char *retry_after = parameter(r, "retry_after");
    r->retry_after = retry_after != NULL ? retry_after : flaw.retry_after;
    r->delay = number(r, "delay", delay) * INT64_C(1000000);
    r->drip = number(r, "drip", 0) * INT64_C(1000000);
    long piece = number(r, "piece", 64);
    if (r->drip > 0)
        r->piece = piece > 0 ? (size_t)piece : 1;
}

/* Writes the body of a request that does not fail. Returns the status. */
static int put_body(FILE *out, struct request *r, const char *method, const char *path)
{
    int api = numbered(path, "/api/");
    int status = numbered(path, "/status/");
    if (status >= 200 && status <= 599) {
        fprintf(out, "{\"status\":%d}\n", status);
        return status;
    }
    if (strcmp(path, "/") == 0)
        fputs(manual, out);
    else if (strcmp(path, "/json") == 0)
        put_records(out, 0, number(r, "n", 30));
    else if (api >= 1 && api <= API_COUNT)
        put_records(out, api, 20 + api % 9);
    else if (strcmp(path, "/echo") == 0)
        put_echo(out, r, method);
    else if (strcmp(path, "/ledger") == 0)
        put_ledger(out, r->server);
    else if (strcmp(path, "/ledger/reset") == 0)
        ledger_reset(r->server);
    else
        return fputs("{\"error\":\"no such path, see /\"}\n", out), 404;
    return 200;
}

/* Makes the body. Returns the status of the answer. */
static int make_body(struct request *r, const char *method, const char *path)
{
    FILE *out = need(open_memstream(&r->body, &r->body_len));
    const char *etag = parameter(r, "etag");
    const char *seen = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "If-None-Match");
    long bytes = number(r, "bytes", -1);
    int status = r->fail_status;
    if (status >= 0)
        fprintf(out, "{\"error\":\"failing with %d, as asked\"}\n", status);
    else if (parameter(r, "redirect") != NULL)
        status = number(r, "code", 302);
    else if (etag != NULL && seen != NULL && strstr(seen, etag) != NULL)
        status = 304;
    else if (bytes >= 0)
        for (status = 200; bytes > 0; bytes--)
            fputc(bytes % 64 == 1 ? '\n' : "0123456789abcdef"[bytes % 16], out);
    else
        status = put_body(out, r, method, path);
    if (fclose(out) != 0)
        need(NULL);
    if (status == 204 || status == 304)
        r->body_len = 0;
    return status;
}

static ssize_t read_body(void *cls, uint64_t position, char *to, size_t max)
{
    struct request *r = cls;
    if (position == r->body_len)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (r->drip > 0 && position > 0 && !r->rested) {
        r->rested = true;
        wait_for(r, r->drip);
        return 0;
    }
    r->rested = false;
    size_t n = r->body_len - position;
    n = n < max ? n : max;
    n = n < r->piece ? n : r->piece;
    memcpy(to, r->body + position, n);
    return n;
}

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    /* MHD refuses what cannot be in a header; without it the answer is what was asked for. */
    if (value != NULL)
        (void)MHD_add_response_header(response, name, value);
}

static enum MHD_Result answer(struct request *r, const char *method, const char *path)
{
    char text[256];
    int status = make_body(r, method, path);
    bool zipped = number(r, "gzip", 0) != 0 && r->body_len > 0;
    if (zipped)
        gzip_body(r);
    bool chunked = number(r, "chunked", 0) != 0;
    struct MHD_Response *response = need(MHD_create_response_from_callback(
        chunked ? MHD_SIZE_UNKNOWN : r->body_len, 65536, read_body, r, NULL));

    add_header(response, "Content-Type",
               strcmp(path, "/") == 0 ? "text/plain" : "application/json");
    add_header(response, "Content-Encoding", zipped ? "gzip" : NULL);
    add_header(response, "Location", parameter(r, "redirect"));
    add_header(response, "Retry-After", status == 429 || status == 503 ? r->retry_after : NULL);
    if (parameter(r, "etag") != NULL) {
        snprintf(text, sizeof text, "\"%s\"", parameter(r, "etag"));
        add_header(response, "ETag", text);
    }
    if (parameter(r, "max_age") != NULL) {
        snprintf(text, sizeof text, "max-age=%ld", number(r, "max_age", 0));
        add_header(response, "Cache-Control", text);
    }
    enum MHD_Result result = MHD_queue_response(r->connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* ---- what MHD calls ---- */

static void *on_request_line(void *cls, const char *url, struct MHD_Connection *connection)
{
    struct request *r = need(calloc(1, sizeof *r));
    r->server = cls;
    r->connection = connection;
    r->url = need(strdup(url));
    r->fail_status = -1;
    r->piece = SIZE_MAX;
    bytes_init(&r->upload, 0);
    return r;
}

/* Called with the headers, with each part of the body, at its end, and again after a wait. */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_len, void **con_cls)
{
    struct request *r = *con_cls;
    (void)cls;
    (void)connection;
    (void)version;
    if (!r->arrived) {
        r->arrived = true;
        if (strncmp(path, "/ledger", 7) != 0)
            arrive(r, method, path);
        return MHD_YES;
    }
    if (*upload_len > 0) {
        if (bytes_append(&r->upload, upload, *upload_len) != 0)
            need(NULL);
        *upload_len = 0;
        return MHD_YES;
    }
    if (r->delay > 0) {
        wait_for(r, r->delay);
        r->delay = 0;
        return MHD_YES;
    }
    return r->fail_status == DROP ? MHD_NO : answer(r, method, path);
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    struct request *r = *con_cls;
    (void)cls;
    (void)connection;
    (void)code;
    if (r == NULL)
        return;
    if (r->in_ledger)
        r->server->in_flight--;
    bytes_deinit(&r->upload);
    free(r->url);
    free(r->body);
    free(r);
    *con_cls = NULL;
}

static void on_connection(void *cls, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct server *s = cls;
    (void)connection;
    (void)socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        s->connections++;
}

/* ---- the process ---- */

/* How long the poll may last: until something is due, at most until the parent is looked at. */
static struct timespec patience(const struct server *s)
{
    MHD_UNSIGNED_LONG_LONG mhd_ms;
    int64_t ns = PARENT_CHECK_MS * INT64_C(1000000);
    if (MHD_get_timeout(s->daemon, &mhd_ms) == MHD_YES && (int64_t)mhd_ms * 1000000 < ns)
        ns = mhd_ms * 1000000;
    if (s->waiting_count > 0) {
        int64_t left = s->waiting[0]->due - now_ns();
        ns = left < 0 ? 0 : left < ns ? left : ns;
    }
    return (struct timespec){.tv_nsec = ns};
}

/* Serves until the parent is gone. The pipe tells at once, but only when stdout is one. */
static void serve(struct server *s, bool piped)
{
    pid_t parent = getppid();
    struct pollfd fds[] = {
        {.fd = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd,
         .events = POLLIN},
        {.fd = piped ? STDOUT_FILENO : -1},
    };
    while (getppid() == parent && fds[1].revents == 0) {
        struct timespec timeout = patience(s);
        (void)ppoll(fds, 2, &timeout, NULL); /* interrupted or not, MHD is asked next */
        while (s->waiting_count > 0 && s->waiting[0]->due <= now_ns())
            resume_first(s);
        MHD_run(s->daemon);
    }
}

static int listen_port(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'}, {"help", no_argument, NULL, 'h'}, {0}};
    int port = 0;
    for (int option; (option = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (option == 'h') {
            fputs(manual, stdout);
            exit(0);
        }
        if (option != 'p')
            exit(2);
        port = atoi(optarg);
    }
    return port;
}

int main(int argc, char **argv)
{
    struct server s = {.started = now_ns()};
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
        .sin_port = htons(listen_port(argc, argv)),
    };

    /* Started by a program, it lives as long as that: a Ctrl-C meant for both of them must leave
     * the server up while the program winds down. */
    struct stat out;
    bool piped = fstat(STDOUT_FILENO, &out) == 0 && S_ISFIFO(out.st_mode);
    signal(SIGPIPE, SIG_IGN);
    if (piped)
        signal(SIGINT, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    s.daemon = MHD_start_daemon(MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request,
                                NULL, MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_CONNECTION_LIMIT,
                                (unsigned)files.rlim_cur - 16, MHD_OPTION_LISTEN_BACKLOG_SIZE,
                                (unsigned)SOMAXCONN, MHD_OPTION_URI_LOG_CALLBACK, on_request_line,
                                &s, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                                MHD_OPTION_NOTIFY_CONNECTION, on_connection, &s, MHD_OPTION_END);
    if (s.daemon == NULL) {
        perror("mockapi: cannot listen");
        return 1;
    }
    printf("http://127.0.0.1:%d\n", MHD_get_daemon_info(s.daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
    fflush(stdout);

    serve(&s, piped);

    while (s.waiting_count > 0)
        resume_first(&s);
    MHD_stop_daemon(s.daemon);
    ledger_reset(&s);
    free(s.ledger);
    free(s.waiting);
    return 0;
}
