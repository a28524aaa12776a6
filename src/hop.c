#include "hop.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libcurl tries again by itself when a connection that it uses again breaks, even if the server has
 * had the request. Ends a hop that must not be sent twice. */
static bool hop_is_spent(struct hop *h)
{
    if (h->sent == 0 || h->repeatable)
        return false;
    transfer_fail(h->transfer, FAULT_CLOSED_EARLY,
                  "the connection was closed before an answer came");
    return true;
}

static int take_prereq(struct hop *h, int local_port)
{
    struct route *r = h->route;
    if (h->names)
        r->generation = h->names; /* libcurl has taken them in */
    h->transfer->head.plain = !h->transfer->secure || !tls_is_http2(h->transfer->easy);
    h->transfer->overrun = false; /* what came of a first try on a dead connection */
    if (r->probe == h) {
        r->probe = NULL;
        TAILQ_INSERT_TAIL(&h->hops->connected, h, link);
    }
    if (hop_is_spent(h))
        return CURL_PREREQFUNC_ABORT;
    if (h->transfer->head.plain && !lane_take(r->lane, &h->user, local_port)) {
        h->spoiled = true; /* libcurl closes the connection, and the hop looks for another */
        return CURL_PREREQFUNC_ABORT;
    }
    if (h->sent++ == 0) {
        h->alone = r->active == 1;
        lane_connected(r->lane);
    }
    return CURL_PREREQFUNC_OK;
}

/* The connection stands, and libcurl will let others join it if it speaks HTTP/2. Nothing may be
 * started from inside libcurl, so those who are held go when it has returned. */
static int on_prereq(void *ctx, char *remote_ip, char *local_ip, int remote_port, int local_port)
{
    struct transfer *t = ctx;
    (void)remote_ip; /* lane.c has judged it when it opened the socket */
    (void)local_ip;
    (void)remote_port;
    return take_prereq(t->context, local_port);
}

static int set_callbacks(struct hop *h)
{
    CURL *easy = h->transfer->easy;
    if (curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_prereq) ||
        curl_easy_setopt(easy, CURLOPT_PREREQDATA, h->transfer))
        return -ENOMEM;
    h->transfer->http1 = h->profile->options.http1;
    int rc = profile_apply(h->profile, easy);
    return rc ? rc : lanes_adopt(&h->profile->lanes, easy, &h->user);
}

/* Called from inside libcurl: only takes it down. */
static void on_news(struct transfer *t)
{
    struct hop *h = t->context;
    if (h->told)
        return;
    h->told = true;
    TAILQ_INSERT_TAIL(&h->hops->told, h, of_told);
}

void hop_untell(struct hop *h)
{
    if (h->told)
        TAILQ_REMOVE(&h->hops->told, h, of_told);
    h->told = false;
    h->transfer->news = 0;
}

int hop_create(struct hop **out, struct hops *hs, struct profile *p)
{
    struct hop *h = calloc(1, sizeof *h);
    if (!h)
        return -ENOMEM;
    if (transfer_create(&h->transfer, h, on_news)) {
        free(h);
        return -ENOMEM;
    }
    h->hops = hs;
    h->profile = p;
    h->transfer->jar = p->jar != NULL;
    if (set_callbacks(h)) {
        hop_destroy(h);
        return -ENOMEM;
    }
    *out = h;
    return 0;
}

static void hop_fail(struct hop *h, enum fault fault, const char *reason)
{
    transfer_fail(h->transfer, fault, reason);
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
    if (!h->timer || uv_timer_init(h->hops->loop, h->timer)) {
        free(h->timer);
        h->timer = NULL;
        return -ENOMEM;
    }
    h->timer->data = h;
    return uv_timer_start(h->timer, fire, (uint64_t)ms + 1, (uint64_t)repeat);
}

/* Bytes that have gone to and fro. libcurl tells of a header field when it is whole, the kernel of
 * every byte. */
static uint64_t moved(const struct hop *h)
{
    curl_off_t sent = 0;
    uint64_t received = lane_received(&h->user);
    if (curl_easy_getinfo(h->transfer->easy, CURLINFO_SIZE_UPLOAD_T, &sent) != CURLE_OK)
        sent = 0;
    return (received ? received : h->transfer->received) + (uint64_t)sent;
}

static void on_idle_look(uv_timer_t *timer)
{
    struct hop *h = timer->data;
    struct lane *lane = h->route->lane;

    if (transfer_is_paused(h->transfer)) {
        h->looks = 0; /* it is we who are slow */
        return;
    }
    uint64_t now = moved(h);
    uint64_t *then = &h->moved[h->looks % HOP_LOOKS]; /* `idle` ago */
    uint64_t gained = h->looks < HOP_LOOKS ? UINT64_MAX : now - *then;
    *then = now;
    h->looks++;
    if (gained > 0 && (double)gained >= h->min_speed * h->idle)
        return;
    lane_stop(lane, &h->user);
    if (gained == 0)
        hop_fail(h, FAULT_IDLE, "no byte came within the idle timeout");
    else
        hop_fail(h, FAULT_TOO_SLOW, "slower than min_speed for as long as the idle timeout");
    lane_drain(lane);
    uv_stop(timer->loop); /* as in lane.c: timers run before the loop waits */
}

/* Hands the hop to libcurl. */
static void hop_fly(struct hop *h)
{
    h->user.refused = 0;
    if (lane_start(h->route->lane, &h->user)) {
        h->state = HOP_STARTING; /* libcurl does not have it */
        hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
        return;
    }
    h->state = HOP_FLYING;
    h->hops->flying++;
    double look = h->idle * 1e3 / HOP_LOOKS;
    h->looks = 0;
    if (h->idle > 0 && hop_start_timer(h, on_idle_look, 0, look + 1)) {
        lane_stop(h->route->lane, &h->user);
        hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
    }
}

/* Tells libcurl the addresses of the name. */
static int hop_set_names(struct hop *h, const char *addresses)
{
    char port[16];
    struct bytes entry;
    bytes_init(&entry, 0);
    snprintf(port, sizeof port, ":%d:", h->origin->port);
    int rc = bytes_append(&entry, "+", 1);
    if (!rc)
        rc = bytes_append(&entry, h->origin->host, strlen(h->origin->host));
    if (!rc)
        rc = bytes_append(&entry, port, strlen(port));
    if (!rc)
        rc = bytes_append(&entry, addresses, strlen(addresses) + 1);
    if (!rc)
        rc = transfer_set_resolve(h->transfer, entry.data);
    bytes_deinit(&entry);
    return rc;
}

static void on_held_timeout(uv_timer_t *timer)
{
    hop_fail(timer->data, FAULT_CONNECT_TIMEOUT, "the first connection to the host took too long");
    uv_stop(timer->loop); /* as in lane.c: timers run before the loop waits */
}

/* Takes what has passed since `began` off the time for the hop. Returns false when none is left. */
static bool hop_age(struct hop *h)
{
    if (h->timeout <= 0)
        return true;
    h->timeout -= (double)(uv_hrtime() - h->began) * 1e-9;
    return h->timeout > 0 && transfer_set_timeout(h->transfer, h->timeout) == 0;
}

/* Goes on a lane, alone or held if need be. */
static void hop_board(struct hop *h)
{
    struct origin *o = h->origin;
    struct route *r = h->route;

    if (r->probe) {
        h->state = HOP_HELD;
        TAILQ_INSERT_TAIL(&r->held, h, link);
        h->began = uv_hrtime();
        if (h->timeout > 0 && hop_start_timer(h, on_held_timeout, h->timeout * 1e3, 0))
            hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
        return;
    }
    if (o->protocol == ORIGIN_UNKNOWN || (o->protocol == ORIGIN_HTTP2 && r->active == 1))
        r->probe = h;
    hop_fly(h);
}

/* The name is known; finds a lane. */
static void hop_route(struct hop *h, const struct resolve_answer *answer)
{
    struct route *r = route_pick(h->origin, &h->profile->lanes);

    h->state = HOP_STARTING;
    if (!r) {
        hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
        return;
    }
    h->route = r;
    route_enter(r);
    if (answer && answer->generation != r->generation) {
        if (hop_set_names(h, answer->addresses)) {
            hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
            return;
        }
        h->names = answer->generation;
    }
    hop_board(h);
}

/* The probe has connected, or failed: those who waited for it go. */
static void route_release(struct route *r)
{
    struct hop *h;
    while ((h = TAILQ_FIRST(&r->held))) {
        TAILQ_REMOVE(&r->held, h, link);
        h->state = HOP_STARTING;
        hop_stop_timer(h);
        if (hop_age(h))
            hop_fly(h);
        else
            hop_fail(h, FAULT_CONNECT_TIMEOUT, "the first connection to the host took too long");
    }
}

static void on_lookup_timeout(uv_timer_t *timer)
{
    struct hop *h = timer->data;
    resolve_forget(&h->waiter);
    hop_fail(h, FAULT_CONNECT_TIMEOUT, "the name lookup took too long");
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
        bool temporary = answer->error == UV_EAI_AGAIN || answer->error == UV_EAI_MEMORY;
        snprintf(t->message, sizeof t->message, "%.150s: %s", h->origin->host,
                 lookup_problem(answer->error));
        hop_fail(h, temporary ? FAULT_DNS_NO_ANSWER : FAULT_DNS_NO_SUCH_HOST, t->message);
    } else if (hop_age(h)) {
        hop_route(h, answer);
    } else {
        hop_fail(h, FAULT_CONNECT_TIMEOUT, "the name lookup took too long");
    }
}

static double shorter(double a, double b)
{
    return a > 0 && (b <= 0 || a < b) ? a : b;
}

static void hop_resolve(struct hop *h)
{
    struct hops *hs = h->hops;
    struct resolve_answer answer;

    h->began = uv_hrtime();
    h->state = HOP_RESOLVING;
    h->waiter.done = on_looked_up;
    int rc = resolve_lookup(hs->resolve, h->origin->host, &h->waiter, &answer);
    if (rc == 0) {
        hop_route(h, &answer);
        return;
    }
    if (rc < 0) {
        hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
        return;
    }
    double limit = shorter(h->lookup_timeout, h->timeout);
    if (h->state != HOP_RESOLVING || limit <= 0)
        return;
    if (hop_start_timer(h, on_lookup_timeout, limit * 1e3, 0)) {
        resolve_forget(&h->waiter);
        hop_fail(h, FAULT_OUT_OF_MEMORY, "out of memory");
    }
}

/* Sets out, from the name on. */
static void hop_set_out(struct hop *h)
{
    struct origin *o = h->origin;
    if (o->literal) {
        hop_route(h, NULL);
    } else if (o->addresses) {
        struct resolve_answer fixed = {.addresses = o->addresses, .generation = ULONG_MAX};
        hop_route(h, &fixed);
    } else {
        hop_resolve(h);
    }
}

/* Takes the hop off its route, and what waits there for it on. */
static void hop_leave_route(struct hop *h)
{
    struct route *r = h->route;
    if (!r)
        return;
    bool probed = r->probe == h;
    if (probed)
        r->probe = NULL;
    if (h->state == HOP_HELD)
        TAILQ_REMOVE(&r->held, h, link);
    if (h->state == HOP_FLYING) {
        h->hops->flying--;
        if (h->sent == 0)
            lane_connected(r->lane);
    }
    route_leave(r);
    h->route = NULL;
    if (probed)
        route_release(r); /* it never connected; that must not hold up the others again */
}

/* Takes the hop out of wherever it is, except off its multi handle. */
static void hop_detach(struct hop *h)
{
    struct hops *hs = h->hops;

    if (h->state == HOP_RESOLVING)
        resolve_forget(&h->waiter);
    if (h->state == HOP_STARVED)
        TAILQ_REMOVE(&hs->starved, h, link);
    else if (!TAILQ_EMPTY(&hs->starved))
        hs->freed++;
    hop_stop_timer(h);
    hop_untell(h);
    hop_leave_route(h);
    if (h->origin) {
        origin_leave(&h->profile->origins, h->origin);
        h->origin = NULL;
    }
}

void hop_end(struct hop *h)
{
    hop_detach(h);
    h->state = HOP_ENDED;
    TAILQ_INSERT_TAIL(&h->hops->ended, h, link);
    h->hops->ended_count++;
}

/* Takes back a hop that libcurl has given up, to be sent again. */
static void hop_take_back(struct hop *h)
{
    lane_stop(h->route->lane, &h->user);
    hop_stop_timer(h);
    hop_leave_route(h);
    h->state = HOP_STARTING;
    h->names = 0;
    h->worn = h->worn || h->sent > 0;
    h->sent = 0;
    h->spoiled = false;
    transfer_rewind(h->transfer);
}

/* Whether the server closed the connection that the hop found idle, just as it was used again. In
 * HTTP/1 libcurl tries again by itself; in HTTP/2 it does not. */
static bool hop_came_late(const struct hop *h, CURLcode code)
{
    long fresh = 1;
    return code == CURLE_HTTP2 && h->alone && h->repeatable && !h->late &&
           !h->transfer->head.status &&
           curl_easy_getinfo(h->transfer->easy, CURLINFO_NUM_CONNECTS, &fresh) == CURLE_OK &&
           fresh == 0;
}

/* There is no descriptor for its connection: it waits for one. */
static void hop_starve(struct hop *h)
{
    struct hops *hs = h->hops;

    hop_take_back(h);
    if (h->last_try && hs->flying == 0) {
        hop_fail(h, FAULT_NO_DESCRIPTORS,
                 "the system has no descriptor for another connection (see ulimit -n)");
        return;
    }
    /* What others have left in the pools was of no use to it. */
    if (h->starved++ > 0)
        hs->tight = true;
    h->state = HOP_STARVED;
    TAILQ_INSERT_TAIL(&hs->starved, h, link);
}

void hop_finish(struct hop *h, CURLcode code)
{
    struct transfer *t = h->transfer;
    struct lane *lane = h->route->lane;

    if (code == CURLE_COULDNT_CONNECT && (h->user.refused == EMFILE || h->user.refused == ENFILE) &&
        !hop_is_spent(h)) {
        hop_starve(h);
        return;
    }
    if (h->spoiled || hop_came_late(h, code)) {
        h->late = h->late || !h->spoiled;
        hop_take_back(h);
        hop_set_out(h);
        return;
    }
    if (code == CURLE_COULDNT_CONNECT && h->user.refused == EACCES && h->user.denied[0]) {
        snprintf(t->refusal, sizeof t->refusal, "deny_private: %s", h->user.denied);
        transfer_fail(t, FAULT_BLOCKED_ADDRESS, t->refusal);
    }
    lane_leave_socket(&h->user);
    transfer_finish(t, code);
    lane_stop(lane, &h->user);
    if (t->version == CURL_HTTP_VERSION_2_0)
        h->origin->protocol = ORIGIN_HTTP2;
    else if (t->head.status && h->origin->protocol != ORIGIN_HTTP2)
        h->origin->protocol = ORIGIN_HTTP1;
    hop_end(h);
}

void hop_break(struct hop *h, CURLcode code)
{
    struct lane *lane = h->route->lane;
    hop_finish(h, code);
    lane_drain(lane);
}

void hop_begin(struct hop *h, const struct transfer_request *request)
{
    h->route = NULL;
    h->names = 0;
    h->starved = 0;
    h->last_try = false;
    h->late = false;
    h->spoiled = false;
    h->worn = false;
    h->sent = 0;
    h->state = HOP_STARTING;
    if (transfer_prepare(h->transfer, request))
        hop_end(h);
    else
        hop_set_out(h);
}

void hop_retry(struct hop *h, bool last)
{
    TAILQ_REMOVE(&h->hops->starved, h, link);
    h->state = HOP_STARTING;
    h->last_try = last;
    hop_set_out(h);
}

void hop_cancel(struct hop *h)
{
    struct lane *lane = h->route ? h->route->lane : NULL;
    if (h->state == HOP_FLYING)
        lane_stop(lane, &h->user);
    hop_detach(h);
    transfer_fail(h->transfer, FAULT_NETWORK, "cancelled");
    if (lane)
        lane_drain(lane);
}

bool hop_reset(struct hop *h)
{
    /* libcurl counts its own tries as long as the handle lives, and gives up after five. */
    bool unanswered = h->sent == 1 && !h->transfer->head.status;
    bool worn = h->worn || h->sent > 1 || unanswered;
    h->state = HOP_FREE;
    transfer_reset(h->transfer);
    return !worn || (transfer_renew(h->transfer) == 0 && set_callbacks(h) == 0);
}

void hop_destroy(struct hop *h)
{
    transfer_destroy(h->transfer);
    free(h);
}

void hops_release_connected(struct hops *hs)
{
    struct hop *h;
    while ((h = TAILQ_FIRST(&hs->connected))) {
        TAILQ_REMOVE(&hs->connected, h, link);
        route_release(h->route);
    }
}

void hops_init(struct hops *hs, uv_loop_t *loop, struct resolve *resolve)
{
    memset(hs, 0, sizeof *hs);
    hs->loop = loop;
    hs->resolve = resolve;
    TAILQ_INIT(&hs->starved);
    TAILQ_INIT(&hs->told);
    TAILQ_INIT(&hs->ended);
    TAILQ_INIT(&hs->connected);
}
