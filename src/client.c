#include "client.h"

#include "lane.h"
#include "origin.h"
#include "resolve.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
    INDEX_BITS = 24, /* of an id; the rest is the slot's generation */
    LOOKS = 4,       /* at an idle hop before it is given up */
    BATCH = 32,      /* ended hops that are handed on during the loop's turn */
};

/* One hop, in the slot its id names. */
struct hop {
    struct client *client;     /* borrowed, outlives the hop */
    struct transfer *transfer; /* owned */
    uint64_t id;
    uint32_t index;
    uint32_t generation; /* goes up with every use of the slot */
    enum { FREE, STARTING, RESOLVING, HELD, FLYING, ENDED } state;
    struct origin *origin; /* borrowed; NULL when free or ended */
    struct route *route;   /* borrowed; NULL before it has one */
    unsigned long names;   /* the generation of the addresses it carries, 0 for none */
    uint64_t began;        /* uv_hrtime when the lookup started */
    double timeout;        /* seconds for the hop, lookup included; 0 = none */
    double idle;           /* seconds without a byte before it is given up; 0 = never */
    uint64_t received;     /* transfer->received when last looked at */
    unsigned quiet;        /* looks since it changed */
    bool repeatable;       /* sending it twice does no more than sending it once */
    unsigned sent;         /* how often a connection was found for it */
    struct resolve_waiter waiter;
    uv_timer_t *timer;     /* for the lookup only; freed in close_cb */
    TAILQ_ENTRY(hop) link; /* held, ended or free, by state */
};

TAILQ_HEAD(hop_list, hop);

struct client {
    uv_loop_t *loop; /* borrowed until client_destroy */
    void (*on_ended)(void *ctx);
    void *ctx;               /* on_ended's */
    struct resolve *resolve; /* owned */
    struct lanes lanes;
    struct origins origins;
    struct hop **hops; /* owned array of owned hops, by index */
    size_t hop_count, hop_cap;
    struct hop_list free_hops;
    struct hop_list ended;
    unsigned ended_count;
    struct hop_list connected; /* probes that have connected; see on_prereq */
};

/* Hops ---------------------------------------------------------------------------------------- */

static void hop_end(struct hop *h);

static struct hop *hop_of(struct client *c, uint64_t id)
{
    size_t index = id & ((1u << INDEX_BITS) - 1);
    struct hop *h = index < c->hop_count ? c->hops[index] : NULL;
    return h && h->state != FREE && h->id == id ? h : NULL;
}

static int take_prereq(struct hop *h)
{
    struct route *r = h->route;
    if (h->names)
        r->generation = h->names; /* libcurl has taken them in */
    h->transfer->overrun = false; /* what came of a first try on a dead connection */
    if (r->probe == h) {
        r->probe = NULL;
        TAILQ_INSERT_TAIL(&h->client->connected, h, link);
    }
    /* libcurl tries again by itself when a connection that it uses again breaks, even if the server
     * has had the request. */
    if (h->sent++ == 0)
        lane_connected(r->lane);
    else if (!h->repeatable) {
        transfer_fail(h->transfer, TRANSFER_NETWORK,
                      "the connection was closed before an answer came");
        return CURL_PREREQFUNC_ABORT;
    }
    return CURL_PREREQFUNC_OK;
}

/* The connection stands, and libcurl will let others join it if it speaks HTTP/2. Nothing may be
 * started from inside libcurl, so those who are held go when it has returned. */
static int on_prereq(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    struct transfer *t = ctx;
    (void)remote_ip;
    (void)local_ip;
    (void)remote_port;
    (void)local_port;
    return take_prereq(t->context);
}

static int set_callbacks(struct hop *h)
{
    CURL *easy = h->transfer->easy;
    if (curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_prereq) ||
        curl_easy_setopt(easy, CURLOPT_PREREQDATA, h->transfer))
        return -ENOMEM;
    return lanes_adopt(&h->client->lanes, easy);
}

static struct hop *hop_get(struct client *c)
{
    struct hop *h = TAILQ_FIRST(&c->free_hops);
    if (h) {
        TAILQ_REMOVE(&c->free_hops, h, link);
        return h;
    }
    if (c->hop_count == c->hop_cap) {
        size_t cap = c->hop_cap ? c->hop_cap * 2 : 64;
        struct hop **hops = realloc(c->hops, cap * sizeof(struct hop *));
        if (!hops)
            return NULL;
        c->hops = hops;
        c->hop_cap = cap;
    }
    h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    if (transfer_create(&h->transfer, h)) {
        free(h);
        return NULL;
    }
    h->client = c;
    h->index = (uint32_t)c->hop_count;
    if (set_callbacks(h)) {
        transfer_destroy(h->transfer);
        free(h);
        return NULL;
    }
    c->hops[c->hop_count++] = h;
    return h;
}

static void hop_fail(struct hop *h, enum transfer_outcome outcome, const char *reason)
{
    transfer_fail(h->transfer, outcome, reason);
    hop_end(h);
}

static void free_timer(uv_handle_t *handle)
{
    free(handle);
}

static void hop_stop_timer(struct hop *h)
{
    if (!h->timer)
        return;
    uv_close((uv_handle_t *)h->timer, free_timer);
    h->timer = NULL;
}

/* Calls `fire` after `ms`, then every `repeat` ms. Returns 0 or -ENOMEM. */
static int hop_start_timer(struct hop *h, uv_timer_cb fire, double ms, double repeat)
{
    hop_stop_timer(h);
    h->timer = malloc(sizeof *h->timer);
    if (!h->timer || uv_timer_init(h->client->loop, h->timer)) {
        free(h->timer);
        h->timer = NULL;
        return -ENOMEM;
    }
    h->timer->data = h;
    return uv_timer_start(h->timer, fire, (uint64_t)ms + 1, (uint64_t)repeat);
}

static void on_idle_look(uv_timer_t *timer)
{
    struct hop *h = timer->data;
    struct lane *lane = h->route->lane;

    if (h->transfer->received != h->received) {
        h->received = h->transfer->received;
        h->quiet = 0;
    }
    if (++h->quiet < LOOKS)
        return;
    lane_stop(lane, h->transfer->easy);
    hop_fail(h, TRANSFER_TIMEOUT, "no byte came within the idle timeout");
    lane_drain(lane);
    uv_stop(timer->loop); /* as in lane.c: timers run before the loop waits */
}

/* Hands the hop to libcurl. */
static void hop_fly(struct hop *h)
{
    h->state = FLYING;
    if (lane_start(h->route->lane, h->transfer->easy)) {
        h->state = STARTING; /* libcurl does not have it */
        hop_fail(h, TRANSFER_NETWORK, "out of memory");
        return;
    }
    h->received = 0;
    h->quiet = 0;
    double look = h->idle * 1e3 / LOOKS;
    if (h->idle > 0 && hop_start_timer(h, on_idle_look, look, look + 1)) {
        lane_stop(h->route->lane, h->transfer->easy);
        hop_fail(h, TRANSFER_NETWORK, "out of memory");
    }
}

/* The name is known; finds a lane. */
static void hop_route(struct hop *h, const struct resolve_answer *answer)
{
    struct origin *o = h->origin;
    struct route *r = route_pick(o, &h->client->lanes);

    h->state = STARTING;
    if (!r) {
        hop_fail(h, TRANSFER_NETWORK, "out of memory");
        return;
    }
    h->route = r;
    route_enter(r);
    if (answer && answer->generation != r->generation) {
        char port[16];
        struct bytes entry;
        bytes_init(&entry, 0);
        snprintf(port, sizeof port, ":%d:", o->port);
        int rc = bytes_append(&entry, "+", 1);
        if (!rc)
            rc = bytes_append(&entry, o->host, strlen(o->host));
        if (!rc)
            rc = bytes_append(&entry, port, strlen(port));
        if (!rc)
            rc = bytes_append(&entry, answer->addresses, strlen(answer->addresses) + 1);
        if (!rc)
            rc = transfer_set_resolve(h->transfer, entry.data);
        bytes_deinit(&entry);
        if (rc) {
            hop_fail(h, TRANSFER_NETWORK, "out of memory");
            return;
        }
        h->names = answer->generation;
    }
    if (r->probe) {
        h->state = HELD;
        TAILQ_INSERT_TAIL(&r->held, h, link);
        return;
    }
    if (o->protocol == ORIGIN_UNKNOWN || (o->protocol == ORIGIN_HTTP2 && r->active == 1))
        r->probe = h;
    hop_fly(h);
}

/* The probe has connected, or failed: those who waited for it go. */
static void route_release(struct route *r)
{
    struct hop *h;
    while ((h = TAILQ_FIRST(&r->held))) {
        TAILQ_REMOVE(&r->held, h, link);
        hop_fly(h);
    }
}

static void on_lookup_timeout(uv_timer_t *timer)
{
    struct hop *h = timer->data;
    resolve_forget(&h->waiter);
    hop_fail(h, TRANSFER_TIMEOUT, "the name lookup took too long");
    uv_stop(timer->loop); /* as in lane.c: timers run before the loop waits */
}

static const char *lookup_problem(int error)
{
    switch (error) {
    case UV_EAI_NONAME:
    case UV_EAI_NODATA:
        return "no such host";
    case UV_EAI_AGAIN:
        return "the name server gave no answer";
    default:
        return uv_strerror(error);
    }
}

static void on_looked_up(struct resolve_waiter *w, const struct resolve_answer *answer)
{
    struct hop *h = (struct hop *)((char *)w - offsetof(struct hop, waiter));
    struct transfer *t = h->transfer;

    hop_stop_timer(h);
    t->dns = (double)(uv_hrtime() - h->began) * 1e-9;
    if (answer->error) {
        t->temporary = answer->error == UV_EAI_AGAIN || answer->error == UV_EAI_MEMORY;
        snprintf(t->message, sizeof t->message, "%.150s: %s", h->origin->host,
                 lookup_problem(answer->error));
        hop_fail(h, TRANSFER_DNS, t->message);
        return;
    }
    if (h->timeout > 0) {
        double left = h->timeout - t->dns;
        if (left <= 0 || transfer_set_timeout(t, left)) {
            hop_fail(h, TRANSFER_TIMEOUT, "the name lookup took too long");
            return;
        }
    }
    hop_route(h, answer);
}

static void hop_resolve(struct hop *h, double connect_timeout)
{
    struct client *c = h->client;
    struct resolve_answer answer;

    h->began = uv_hrtime();
    h->state = RESOLVING;
    h->waiter.done = on_looked_up;
    int rc = resolve_lookup(c->resolve, h->origin->host, &h->waiter, &answer);
    if (rc == 0) {
        hop_route(h, &answer);
        return;
    }
    if (rc < 0) {
        hop_fail(h, TRANSFER_NETWORK, "out of memory");
        return;
    }
    double limit = connect_timeout > 0 && (h->timeout <= 0 || connect_timeout < h->timeout)
                       ? connect_timeout
                       : h->timeout;
    if (h->state != RESOLVING || limit <= 0)
        return;
    if (hop_start_timer(h, on_lookup_timeout, limit * 1e3, 0)) {
        resolve_forget(&h->waiter);
        hop_fail(h, TRANSFER_NETWORK, "out of memory");
    }
}

/* Takes the hop out of wherever it is, except off its multi handle. */
static void hop_detach(struct hop *h)
{
    struct client *c = h->client;
    struct route *r = h->route;

    if (h->state == RESOLVING)
        resolve_forget(&h->waiter);
    hop_stop_timer(h);
    if (h->state == HELD)
        TAILQ_REMOVE(&r->held, h, link);
    if (h->state == FLYING && h->sent == 0)
        lane_connected(r->lane);
    if (r) {
        bool probed = r->probe == h;
        if (probed)
            r->probe = NULL;
        route_leave(r);
        h->route = NULL;
        if (probed)
            route_release(r); /* it never connected; that must not hold up the others again */
    }
    if (h->origin) {
        origin_leave(&c->origins, h->origin);
        h->origin = NULL;
    }
}

static void hop_end(struct hop *h)
{
    hop_detach(h);
    h->state = ENDED;
    TAILQ_INSERT_TAIL(&h->client->ended, h, link);
    h->client->ended_count++;
}

static void hop_finish(struct hop *h, CURLcode code)
{
    struct transfer *t = h->transfer;
    struct lane *lane = h->route->lane;

    transfer_finish(t, code);
    lane_stop(lane, t->easy);
    if (t->version == CURL_HTTP_VERSION_2_0)
        h->origin->protocol = ORIGIN_HTTP2;
    else if (t->head.status && h->origin->protocol != ORIGIN_HTTP2)
        h->origin->protocol = ORIGIN_HTTP1;
    hop_end(h);
}

/* Work ---------------------------------------------------------------------------------------- */

static void release_connected(struct client *c)
{
    struct hop *h;
    while ((h = TAILQ_FIRST(&c->connected))) {
        TAILQ_REMOVE(&c->connected, h, link);
        route_release(h->route);
    }
}

static void on_done(void *ctx, CURL *easy, CURLcode code)
{
    struct transfer *t = NULL;
    release_connected(ctx);
    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t) == CURLE_OK && t)
        hop_finish(t->context, code);
}

static void on_overrun(void *ctx, CURL *easy)
{
    struct transfer *t = NULL;
    (void)ctx;
    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t) == CURLE_OK && t)
        t->overrun = true;
}

static void on_turn(void *ctx)
{
    struct client *c = ctx;
    release_connected(c);
    if (c->ended_count >= BATCH)
        c->on_ended(c->ctx);
}

bool client_work(struct client *c)
{
    struct lane *spent;
    while ((spent = TAILQ_FIRST(&c->lanes.spent)))
        routes_close(spent);
    lanes_work(&c->lanes);
    release_connected(c);
    return !TAILQ_EMPTY(&c->lanes.dirty);
}

/* The methods that may be repeated (RFC 9110 §9.2.2). */
static bool is_idempotent(const char *method)
{
    static const char *const methods[] = {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"};
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        if (strcmp(method, methods[i]) == 0)
            return true;
    return false;
}

int client_start(struct client *c, const struct client_target *target,
                 const struct transfer_request *request, uint64_t *id)
{
    struct origin *o = origins_get(&c->origins, target->origin, target->origin_len, target->host,
                                   target->port, target->tls);
    struct hop *h = o ? hop_get(c) : NULL;

    if (!h)
        return -ENOMEM;
    h->generation++;
    h->id = ((uint64_t)(h->generation & 0x0fffffff) << INDEX_BITS) | h->index;
    *id = h->id;
    h->origin = o;
    h->route = NULL;
    h->names = 0;
    h->timeout = request->timeout;
    h->idle = request->idle_timeout;
    h->repeatable = is_idempotent(request->method);
    h->sent = 0;
    h->state = STARTING;
    origin_enter(&c->origins, o);
    if (transfer_prepare(h->transfer, request))
        hop_end(h);
    else if (o->literal)
        hop_route(h, NULL);
    else
        hop_resolve(h, request->connect_timeout);
    return 0;
}

struct transfer *client_next(struct client *c, uint64_t *id)
{
    struct hop *h = TAILQ_FIRST(&c->ended);
    if (!h)
        return NULL;
    *id = h->id;
    return h->transfer;
}

static void hop_free(struct hop *h)
{
    h->state = FREE;
    transfer_reset(h->transfer);
    /* libcurl counts its own tries as long as the handle lives, and gives up after five. */
    if (h->sent > 1 && (transfer_renew(h->transfer) || set_callbacks(h)))
        return; /* out of memory: not to be used again */
    TAILQ_INSERT_HEAD(&h->client->free_hops, h, link);
}

void client_release(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    if (!h || h->state != ENDED)
        return;
    TAILQ_REMOVE(&c->ended, h, link);
    c->ended_count--;
    hop_free(h);
}

void client_cancel(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    if (!h)
        return;
    if (h->state == ENDED) {
        client_release(c, id);
        return;
    }
    struct lane *lane = h->route ? h->route->lane : NULL;
    if (h->state == FLYING)
        lane_stop(lane, h->transfer->easy);
    hop_detach(h);
    transfer_fail(h->transfer, TRANSFER_NETWORK, "cancelled");
    hop_free(h);
    if (lane)
        lane_drain(lane);
}

int client_idn(const char *name, char *ascii, size_t size)
{
    int rc = -EINVAL;
    char *found = NULL;
    CURLU *url = curl_url();
    if (!url)
        return -ENOMEM;
    /* libcurl takes the name to be in the locale's encoding. */
    locale_t utf8 = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    locale_t before = utf8 ? uselocale(utf8) : (locale_t)0;
    if (curl_url_set(url, CURLUPART_SCHEME, "http", 0) == CURLUE_OK &&
        curl_url_set(url, CURLUPART_HOST, name, 0) == CURLUE_OK &&
        curl_url_get(url, CURLUPART_HOST, &found, CURLU_PUNYCODE) == CURLUE_OK &&
        strlen(found) < size) {
        memcpy(ascii, found, strlen(found) + 1);
        rc = 0;
    }
    if (utf8) {
        uselocale(before);
        freelocale(utf8);
    }
    curl_free(found);
    curl_url_cleanup(url);
    return rc;
}

int client_create(struct client **out, uv_loop_t *loop, void (*on_ended)(void *ctx), void *ctx)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return -ENOMEM;
    struct client *c = calloc(1, sizeof *c);
    int rc = c ? resolve_create(&c->resolve, loop) : -ENOMEM;
    if (rc) {
        free(c);
        curl_global_cleanup();
        return rc;
    }
    c->loop = loop;
    c->on_ended = on_ended;
    c->ctx = ctx;
    lanes_init(&c->lanes, loop, on_done, on_overrun, on_turn, c);
    origins_init(&c->origins);
    TAILQ_INIT(&c->free_hops);
    TAILQ_INIT(&c->ended);
    TAILQ_INIT(&c->connected);
    *out = c;
    return 0;
}

void client_destroy(struct client *c)
{
    for (size_t i = 0; i < c->hop_count; i++)
        if (c->hops[i]->state != FREE)
            client_cancel(c, c->hops[i]->id);
    for (size_t i = 0; i < c->hop_count; i++) {
        transfer_destroy(c->hops[i]->transfer);
        free(c->hops[i]);
    }
    free(c->hops);

    origins_deinit(&c->origins);
    lanes_deinit(&c->lanes);
    resolve_destroy(c->resolve);
    free(c);
    curl_global_cleanup();
}
