#include "client.h"

#include "hop.h"
#include "memory.h"

#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

enum {
    INDEX_BITS = 24,   /* of a hop's id; the rest counts the hops */
    PROFILE_BITS = 16, /* of a profile's; the rest counts the profiles */
    BATCH = 32,        /* ended hops that are handed on during the loop's turn */
};

/* A cookie jar, for as long as a profile uses it. */
struct jar {
    LIST_ENTRY(jar) link;
    int number;
    unsigned users;
    CURLSH *share; /* owned */
};

struct client {
    uv_loop_t *loop; /* borrowed until client_destroy */
    void (*on_ended)(void *ctx);
    void *ctx;               /* on_ended's */
    struct resolve *resolve; /* owned */
    struct watches watches;
    struct profile **profiles; /* owned array of owned ones, by index; the default one first */
    int profile_count, profile_cap;
    int profiles_made;
    TAILQ_HEAD(, profile) closing; /* until the last hop of each is over */
    LIST_HEAD(, jar) jars;         /* owned */
    struct hop **table;            /* owned array of owned hops, by index; NULL: none */
    size_t hop_count, hop_cap;
    uint32_t *holes; /* owned; indexes without a hop */
    size_t hole_count;
    uint64_t started; /* hops so far */
    struct hops hops;
};

/* Hops ---------------------------------------------------------------------------------------- */

static struct hop *hop_of(struct client *c, uint64_t id)
{
    size_t index = id & ((1u << INDEX_BITS) - 1);
    struct hop *h = index < c->hop_count ? c->table[index] : NULL;
    return h && h->state != HOP_FREE && h->id == id ? h : NULL;
}

/* Makes room for one more in the table. */
static int table_grow(struct client *c)
{
    if (c->hop_count < c->hop_cap)
        return 0;
    size_t cap = c->hop_cap ? c->hop_cap * 2 : 64;
    struct hop **table = realloc(c->table, cap * sizeof(struct hop *));
    if (!table)
        return -ENOMEM;
    c->table = table;
    uint32_t *holes = realloc(c->holes, cap * sizeof *holes);
    if (!holes)
        return -ENOMEM;
    c->holes = holes;
    c->hop_cap = cap;
    return 0;
}

/* A hop whose handle is set up for the profile, its index being its place in the table. */
static struct hop *hop_get(struct client *c, struct profile *p)
{
    struct hop *h = TAILQ_FIRST(&p->free_hops);
    if (h) {
        TAILQ_REMOVE(&p->free_hops, h, link);
        return h;
    }
    if (c->hole_count == 0 && table_grow(c))
        return NULL;
    if (hop_create(&h, &c->hops, p))
        return NULL;
    h->index = c->hole_count ? c->holes[--c->hole_count] : (uint32_t)c->hop_count++;
    c->table[h->index] = h;
    return h;
}

/* Frees a hop that is in no list. */
static void hop_drop(struct client *c, struct hop *h)
{
    c->table[h->index] = NULL;
    c->holes[c->hole_count++] = h->index;
    hop_destroy(h);
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
        if (c->table[i] && c->table[i]->state == HOP_FLYING && c->table[i]->route->lane == lane)
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
    return !t->secure ? LANE_PLAIN : t->head.plain ? LANE_ALONE : LANE_SHARED;
}

static const struct lanes_callbacks callbacks = {
    .use = on_left,
    .on_done = on_done,
    .on_broken = on_broken,
    .on_overrun = on_overrun,
    .on_turn = on_turn,
};

/* Profiles ------------------------------------------------------------------------------------ */

static struct profile *profile_of(const struct client *c, int id)
{
    int index = id & ((1 << PROFILE_BITS) - 1);
    struct profile *p = id >= 0 && index < c->profile_count ? c->profiles[index] : NULL;
    return p && p->id == id ? p : NULL;
}

/* The jar of that number; NULL when out of memory. */
static struct jar *jar_get(struct client *c, int number)
{
    struct jar *jar;
    LIST_FOREACH(jar, &c->jars, link)
    {
        if (jar->number == number)
            return jar;
    }
    jar = calloc(1, sizeof *jar);
    if (!jar)
        return NULL;
    jar->number = number;
    jar->share = curl_share_init();
    if (!jar->share || curl_share_setopt(jar->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_COOKIE)) {
        curl_share_cleanup(jar->share);
        free(jar);
        return NULL;
    }
    LIST_INSERT_HEAD(&c->jars, jar, link);
    return jar;
}

static void jar_leave(struct jar *jar)
{
    if (jar->users)
        return;
    LIST_REMOVE(jar, link);
    curl_share_cleanup(jar->share);
    free(jar);
}

/* A place for one more, -1 when out of memory or when there are too many. */
static int profile_place(struct client *c)
{
    for (int i = 0; i < c->profile_count; i++)
        if (!c->profiles[i])
            return i;
    if (c->profile_count == 1 << PROFILE_BITS)
        return -1;
    if (c->profile_count == c->profile_cap) {
        int cap = c->profile_cap ? c->profile_cap * 2 : 8;
        struct profile **list = realloc(c->profiles, (size_t)cap * sizeof(struct profile *));
        if (!list)
            return -1;
        c->profiles = list;
        c->profile_cap = cap;
    }
    c->profiles[c->profile_count] = NULL;
    return c->profile_count++;
}

/* Whether libcurl can do what the profile says, tried on a handle of its own. */
static int try_profile(const struct profile *p)
{
    CURL *easy = curl_easy_init();
    int rc = easy ? profile_apply(p, easy) : -ENOMEM;
    curl_easy_cleanup(easy);
    return rc;
}

static int profile_add(struct client *c, const struct profile_options *options, struct jar *jar)
{
    int index = profile_place(c);
    if (index < 0)
        return -ENOMEM;
    struct profile *p;
    int rc =
        profile_create(&p, options, jar ? jar->share : NULL, c->loop, &c->watches, &callbacks, c);
    if (rc)
        return rc;
    rc = try_profile(p);
    if (rc) {
        profile_destroy(p);
        return rc;
    }
    c->profiles[index] = p;
    p->id = (c->profiles_made++ & (INT_MAX >> PROFILE_BITS)) << PROFILE_BITS | index;
    return p->id;
}

int client_profile(struct client *c, const struct profile_options *options)
{
    struct jar *jar = NULL;
    if (options->jar > 0 && !(jar = jar_get(c, options->jar)))
        return -ENOMEM;
    int id = profile_add(c, options, jar);
    if (jar && id >= 0)
        jar->users++;
    else if (jar)
        jar_leave(jar);
    return id;
}

void client_profile_close(struct client *c, int id)
{
    struct profile *p = profile_of(c, id);
    if (!p || p == c->profiles[0] || p->closing)
        return;
    p->closing = true;
    TAILQ_INSERT_TAIL(&c->closing, p, link);
}

static void profile_end(struct client *c, struct profile *p)
{
    struct hop *h;
    struct jar *jar = p->options.jar > 0 ? jar_get(c, p->options.jar) : NULL;
    while ((h = TAILQ_FIRST(&p->free_hops))) {
        TAILQ_REMOVE(&p->free_hops, h, link);
        hop_drop(c, h);
    }
    c->profiles[p->id & ((1 << PROFILE_BITS) - 1)] = NULL;
    profile_destroy(p);
    if (jar) {
        jar->users--;
        jar_leave(jar);
    }
}

/* Ends those that are to be closed and of which no hop is left. */
static void close_profiles(struct client *c)
{
    struct profile *p, *next;
    for (p = TAILQ_FIRST(&c->closing); p; p = next) {
        next = TAILQ_NEXT(p, link);
        if (p->active == 0) {
            TAILQ_REMOVE(&c->closing, p, link);
            profile_end(c, p);
        }
    }
}

/* Turns ---------------------------------------------------------------------------------------- */

/* Closes the lanes that only keep connections. */
static void close_idle_lanes(struct client *c)
{
    for (int i = 0; i < c->profile_count; i++) {
        struct lane *lane, *next;
        if (!c->profiles[i])
            continue;
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
        if (c->profiles[i])
            lanes_set_tight(&c->profiles[i]->lanes, c->hops.tight);
}

bool client_work(struct client *c)
{
    if (!TAILQ_EMPTY(&c->closing))
        close_profiles(c);
    if (!TAILQ_EMPTY(&c->hops.starved))
        starved_work(c);
    struct lanes_list busy;
    struct lanes *ls;
    TAILQ_INIT(&busy);
    TAILQ_CONCAT(&busy, &c->watches.busy, of_busy);
    while ((ls = TAILQ_FIRST(&busy))) {
        TAILQ_REMOVE(&busy, ls, of_busy);
        ls->busy = false;
        struct lane *spent;
        while ((spent = TAILQ_FIRST(&ls->spent)))
            routes_close(spent);
        lanes_work(ls);
    }
    hops_release_connected(&c->hops);
    return !TAILQ_EMPTY(&c->watches.busy) ||
           (!TAILQ_EMPTY(&c->hops.starved) && (c->hops.flying == 0 || c->hops.freed));
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
    struct profile *p = profile_of(c, target->profile);
    if (!p)
        return -EINVAL;
    struct origin *o =
        origins_get(&p->origins, target->origin, target->origin_len, target->host,
                    target->addresses, target->port, target->tls && !p->options.http1);
    struct hop *h = o ? hop_get(c, p) : NULL;

    if (!h)
        return -ENOMEM;
    p->active++;
    h->id = ((++c->started & 0x0fffffff) << INDEX_BITS) | h->index;
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

static void hop_free(struct client *c, struct hop *h)
{
    h->profile->active--;
    if (hop_reset(h))
        TAILQ_INSERT_HEAD(&h->profile->free_hops, h, link);
    else
        hop_drop(c, h);
}

void client_release(struct client *c, uint64_t id)
{
    struct hop *h = hop_of(c, id);
    if (!h || h->state != HOP_ENDED)
        return;
    TAILQ_REMOVE(&c->hops.ended, h, link);
    c->hops.ended_count--;
    hop_free(c, h);
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
    hop_free(c, h);
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
    TAILQ_INIT(&c->closing);
    LIST_INIT(&c->jars);
    watches_init(&c->watches);
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
        if (c->table[i] && c->table[i]->state != HOP_FREE)
            client_cancel(c, c->table[i]->id);
    for (int i = 0; i < c->profile_count; i++)
        if (c->profiles[i])
            profile_end(c, c->profiles[i]);
    free(c->table);
    free(c->holes);
    free(c->profiles);
    watches_deinit(&c->watches);
    resolve_destroy(c->resolve);
    free(c);
    curl_global_cleanup();
}
