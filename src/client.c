#include "client.h"

#include "hop.h"
#include "memory.h"

#include <errno.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
    INDEX_BITS = 24, /* of an id; the rest is the slot's generation */
    BATCH = 32,      /* ended hops that are handed on during the loop's turn */
};

struct client {
    uv_loop_t *loop; /* borrowed until client_destroy */
    void (*on_ended)(void *ctx);
    void *ctx;               /* on_ended's */
    struct resolve *resolve; /* owned */
    struct watches watches;
    struct profile **profiles; /* owned array of owned profiles; the default one first */
    int profile_count;
    CURLSH **jars; /* owned array of owned jars, by number - 1 */
    int jar_count;
    struct hop **table; /* owned array of owned hops, by index */
    size_t hop_count, hop_cap;
    struct hops hops;
};

/* Hops ---------------------------------------------------------------------------------------- */

static struct hop *hop_of(struct client *c, uint64_t id)
{
    size_t index = id & ((1u << INDEX_BITS) - 1);
    struct hop *h = index < c->hop_count ? c->table[index] : NULL;
    return h && h->state != HOP_FREE && h->id == id ? h : NULL;
}

/* A hop whose handle is set up for the profile, its index being its place in the table. */
static struct hop *hop_get(struct client *c, struct profile *p)
{
    struct hop *h = TAILQ_FIRST(&p->free_hops);
    if (h) {
        TAILQ_REMOVE(&p->free_hops, h, link);
        return h;
    }
    if (c->hop_count == c->hop_cap) {
        size_t cap = c->hop_cap ? c->hop_cap * 2 : 64;
        struct hop **table = realloc(c->table, cap * sizeof(struct hop *));
        if (!table)
            return NULL;
        c->table = table;
        c->hop_cap = cap;
    }
    if (hop_create(&h, &c->hops, p))
        return NULL;
    h->index = (uint32_t)c->hop_count;
    c->table[c->hop_count++] = h;
    return h;
}

/* Work ---------------------------------------------------------------------------------------- */

static void on_done(void *ctx, CURL *easy, CURLcode code)
{
    struct transfer *t = NULL;
    hops_release_connected(&((struct client *)ctx)->hops);
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
    hops_release_connected(&c->hops);
    if (c->hops.ended_count >= BATCH)
        c->on_ended(c->ctx);
}

static struct hop *flying_on(struct client *c, const struct lane *lane)
{
    for (size_t i = 0; i < c->hop_count; i++)
        if (c->table[i]->state == HOP_FLYING && c->table[i]->route->lane == lane)
            return c->table[i];
    return NULL;
}

static void on_broken(void *ctx, struct lane *lane)
{
    struct client *c = ctx;
    struct hop *h;
    hops_release_connected(&c->hops);
    while ((h = flying_on(c, lane))) {
        transfer_fail(h->transfer, FAULT_OUT_OF_MEMORY, "out of memory");
        hop_break(h, CURLE_OUT_OF_MEMORY);
    }
}

static enum lane_use on_left(CURL *easy)
{
    struct transfer *t = NULL;
    if (curl_easy_getinfo(easy, CURLINFO_PRIVATE, &t) != CURLE_OK || !t || !t->head.status ||
        transfer_is_paused(t)) /* then it only stops reading */
        return LANE_UNUSED;
    return t->head.plain ? LANE_ALONE : LANE_SHARED;
}

static const struct lanes_callbacks callbacks = {
    .use = on_left,
    .on_done = on_done,
    .on_broken = on_broken,
    .on_overrun = on_overrun,
    .on_turn = on_turn,
};

/* Closes the lanes that only keep connections. */
static void close_idle_lanes(struct client *c)
{
    for (int i = 0; i < c->profile_count; i++) {
        struct lane *lane, *next;
        for (lane = TAILQ_FIRST(&c->profiles[i]->lanes.all); lane; lane = next) {
            next = TAILQ_NEXT(lane, link);
            if (lane->active == 0)
                routes_close(lane);
        }
    }
}

/* Lets those go who wait for a descriptor: one for each that has become free, perhaps; and when all
 * wait, one once every idle connection is closed. */
static void starved_work(struct client *c)
{
    struct hop *h;
    if (c->hops.flying == 0) {
        close_idle_lanes(c);
        c->hops.freed = 1;
    }
    for (; c->hops.freed && (h = TAILQ_FIRST(&c->hops.starved)); c->hops.freed--) {
        hop_retry(h, c->hops.flying == 0);
    }
    c->hops.freed = 0;
    if (TAILQ_EMPTY(&c->hops.starved))
        c->hops.tight = false;
    for (int i = 0; i < c->profile_count; i++)
        lanes_set_tight(&c->profiles[i]->lanes, c->hops.tight);
}

bool client_work(struct client *c)
{
    bool more = false;
    if (!TAILQ_EMPTY(&c->hops.starved))
        starved_work(c);
    for (int i = 0; i < c->profile_count; i++) {
        struct lanes *ls = &c->profiles[i]->lanes;
        struct lane *spent;
        while ((spent = TAILQ_FIRST(&ls->spent)))
            routes_close(spent);
        lanes_work(ls);
        more = more || !TAILQ_EMPTY(&ls->dirty);
    }
    hops_release_connected(&c->hops);
    return more || (!TAILQ_EMPTY(&c->hops.starved) && (c->hops.flying == 0 || c->hops.freed));
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
    if (target->profile < 0 || target->profile >= c->profile_count)
        return -EINVAL;
    struct profile *p = c->profiles[target->profile];
    struct origin *o =
        origins_get(&p->origins, target->origin, target->origin_len, target->host,
                    target->addresses, target->port, target->tls && !p->options.http1);
    struct hop *h = o ? hop_get(c, p) : NULL;

    if (!h)
        return -ENOMEM;
    h->generation++;
    h->id = ((uint64_t)(h->generation & 0x0fffffff) << INDEX_BITS) | h->index;
    *id = h->id;
    h->origin = o;
    h->timeout = request->timeout;
    h->lookup_timeout = target->dns_timeout > 0 ? target->dns_timeout : request->connect_timeout;
    h->idle = request->idle_timeout;
    h->min_speed = request->min_speed;
    h->repeatable = is_idempotent(request->method) && !request->body.pull;
    origin_enter(&p->origins, o);
    hop_begin(h, request);
    return 0;
}

struct transfer *client_next(struct client *c, uint64_t *id, unsigned *news)
{
    struct hop *h = TAILQ_FIRST(&c->hops.told);
    if (h) {
        unsigned all = h->transfer->news;
        *news = all & (~all + 1u); /* the lowest bit, which comes first */
        *id = h->id;
        h->transfer->news = all & ~*news;
        if (!h->transfer->news)
            hop_untell(h);
        return h->transfer;
    }
    h = TAILQ_FIRST(&c->hops.ended);
    if (!h)
        return NULL;
    *news = 0;
    *id = h->id;
    return h->transfer;
}

bool client_has_next(const struct client *c)
{
    return !TAILQ_EMPTY(&c->hops.told) || !TAILQ_EMPTY(&c->hops.ended);
}

static struct hop *flying_hop(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    return h && h->state == HOP_FLYING ? h : NULL;
}

struct transfer *client_peek(struct client *c, uint64_t id)
{
    struct hop *h = flying_hop(c, id);
    return h && h->transfer->stream ? h->transfer : NULL;
}

void client_taken(struct client *c, uint64_t id)
{
    struct hop *h = flying_hop(c, id);
    CURLcode code = h ? transfer_taken(h->transfer) : CURLE_OK;
    if (code != CURLE_OK)
        hop_break(h, code);
}

int client_send(struct client *c, uint64_t id, const char *p, size_t n)
{
    struct hop *h = flying_hop(c, id);
    if (!h)
        return -ENOENT;
    CURLcode code = transfer_send(h->transfer, p, n);
    if (code != CURLE_OK)
        hop_break(h, code);
    return 0;
}

static void hop_free(struct hop *h)
{
    if (hop_reset(h))
        TAILQ_INSERT_HEAD(&h->profile->free_hops, h, link);
}

void client_release(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    if (!h || h->state != HOP_ENDED)
        return;
    TAILQ_REMOVE(&c->hops.ended, h, link);
    c->hops.ended_count--;
    hop_free(h);
}

void client_cancel(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    if (!h)
        return;
    if (h->state == HOP_ENDED) {
        client_release(c, id);
        return;
    }
    hop_cancel(h);
    hop_free(h);
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

/* The cookie jar of that number; NULL when out of memory. */
static CURLSH *jar_of(struct client *c, int number)
{
    if (number > c->jar_count) {
        CURLSH **jars = realloc(c->jars, (size_t)number * sizeof(CURLSH *));
        if (!jars)
            return NULL;
        memset(jars + c->jar_count, 0, (size_t)(number - c->jar_count) * sizeof(CURLSH *));
        c->jars = jars;
        c->jar_count = number;
    }
    CURLSH **jar = &c->jars[number - 1];
    if (!*jar) {
        *jar = curl_share_init();
        if (*jar && curl_share_setopt(*jar, CURLSHOPT_SHARE, CURL_LOCK_DATA_COOKIE)) {
            curl_share_cleanup(*jar);
            *jar = NULL;
        }
    }
    return *jar;
}

/* Whether libcurl can do what the profile says, tried on a handle of its own. */
static int try_profile(const struct profile *p)
{
    CURL *easy = curl_easy_init();
    int rc = easy ? profile_apply(p, easy) : -ENOMEM;
    curl_easy_cleanup(easy);
    return rc;
}

int client_profile(struct client *c, const struct profile_options *options)
{
    CURLSH *jar = NULL;
    if (options->jar > 0 && !(jar = jar_of(c, options->jar)))
        return -ENOMEM;
    struct profile **profiles =
        realloc(c->profiles, (size_t)(c->profile_count + 1) * sizeof(struct profile *));
    if (!profiles)
        return -ENOMEM;
    c->profiles = profiles;
    struct profile *p;
    int rc = profile_create(&p, options, jar, c->loop, &c->watches, &callbacks, c);
    if (rc)
        return rc;
    rc = try_profile(p);
    if (rc) {
        profile_destroy(p);
        return rc;
    }
    profiles[c->profile_count] = p;
    return c->profile_count++;
}

int client_create(struct client **out, uv_loop_t *loop, void (*on_ended)(void *ctx), void *ctx)
{
    static const struct profile_options plain;
    int rc = memory_init();
    if (rc)
        return rc;
    struct client *c = calloc(1, sizeof *c);
    rc = c ? resolve_create(&c->resolve, loop) : -ENOMEM;
    if (rc) {
        free(c);
        curl_global_cleanup();
        return rc;
    }
    c->loop = loop;
    c->on_ended = on_ended;
    c->ctx = ctx;
    hops_init(&c->hops, loop, c->resolve);
    rc = client_profile(c, &plain);
    if (rc < 0) {
        client_destroy(c);
        return rc;
    }
    *out = c;
    return 0;
}

void client_destroy(struct client *c)
{
    for (size_t i = 0; i < c->hop_count; i++)
        if (c->table[i]->state != HOP_FREE)
            client_cancel(c, c->table[i]->id);
    for (size_t i = 0; i < c->hop_count; i++) {
        hop_destroy(c->table[i]);
    }
    free(c->table);

    for (int i = 0; i < c->profile_count; i++)
        profile_destroy(c->profiles[i]);
    free(c->profiles);
    for (int i = 0; i < c->jar_count; i++)
        curl_share_cleanup(c->jars[i]);
    free(c->jars);
    watches_deinit(&c->watches);
    resolve_destroy(c->resolve);
    free(c);
    curl_global_cleanup();
}
