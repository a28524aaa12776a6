#include "resolve.h"

#include "bytes.h"
#include "map.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_RUNNING = 3, /* libuv lets lookups have two of its four threads; one is ready to follow */
    MAX_NAMES = 4096,
    FRESH_MS = 60 * 1000,
};

TAILQ_HEAD(waiter_list, resolve_waiter);

/* One host name. It stands in the map, and in one of the resolver's lists by its state. */
struct resolve_name {
    struct map_node node; /* keyed by `host` */
    TAILQ_ENTRY(resolve_name) link;
    enum { QUEUED, RUNNING, KNOWN } state;
    struct resolve *resolver; /* borrowed; NULL once the resolver is gone */
    struct waiter_list waiters;
    uv_getaddrinfo_t request;
    struct bytes addresses; /* NUL-terminated text */
    unsigned long generation;
    uint64_t until; /* loop time in ms */
    char host[];
};

TAILQ_HEAD(name_list, resolve_name);

struct resolve {
    uv_loop_t *loop; /* borrowed until resolve_destroy */
    struct map names;
    struct name_list queued;
    struct name_list running;
    struct name_list known; /* the stalest first */
    unsigned running_count;
    unsigned long generation;
};

int resolve_create(struct resolve **out, uv_loop_t *loop)
{
    struct resolve *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->loop = loop;
    map_init(&r->names);
    TAILQ_INIT(&r->queued);
    TAILQ_INIT(&r->running);
    TAILQ_INIT(&r->known);
    *out = r;
    return 0;
}

static void name_free(struct resolve_name *name)
{
    bytes_deinit(&name->addresses);
    free(name);
}

static struct name_list *list_of(struct resolve_name *name)
{
    switch (name->state) {
    case QUEUED:
        return &name->resolver->queued;
    case RUNNING:
        return &name->resolver->running;
    default:
        return &name->resolver->known;
    }
}

static void name_move(struct resolve_name *name, int state)
{
    TAILQ_REMOVE(list_of(name), name, link);
    name->state = state;
    TAILQ_INSERT_TAIL(list_of(name), name, link);
}

static void name_drop(struct resolve_name *name)
{
    TAILQ_REMOVE(list_of(name), name, link);
    map_remove(&name->resolver->names, &name->node);
    name_free(name);
}

/* Tells all who wait, who may at once look up again. */
static void name_answer(struct resolve_name *name, int error)
{
    struct resolve_answer answer = {
        .addresses = error ? NULL : name->addresses.data,
        .generation = name->generation,
        .error = error,
    };
    struct waiter_list waiters;
    TAILQ_INIT(&waiters);
    TAILQ_CONCAT(&waiters, &name->waiters, link);
    struct resolve_waiter *w;
    TAILQ_FOREACH (w, &waiters, link) {
        w->name = NULL;
    }
    while ((w = TAILQ_FIRST(&waiters))) {
        TAILQ_REMOVE(&waiters, w, link);
        w->done(w, &answer);
    }
}

static int append_address(struct bytes *text, const struct sockaddr *address)
{
    char ip[INET6_ADDRSTRLEN];
    const char *before = text->len ? "," : "", *open = "", *close = "";
    int rc;

    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)address;
        if (!inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof ip))
            return -errno;
        open = "[";
        close = "]";
    } else {
        const struct sockaddr_in *in = (const void *)address;
        if (!inet_ntop(AF_INET, &in->sin_addr, ip, sizeof ip))
            return -errno;
    }
    const char *parts[] = {before, open, ip, close};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if ((rc = bytes_append(text, parts[i], strlen(parts[i]))))
            return rc;
    return 0;
}

static int take_addresses(struct resolve_name *name, const struct addrinfo *list)
{
    bytes_clear(&name->addresses);
    for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        if (ai->ai_family != AF_INET && ai->ai_family != AF_INET6)
            continue;
        if (append_address(&name->addresses, ai->ai_addr))
            return UV_EAI_MEMORY;
    }
    if (name->addresses.len == 0)
        return UV_EAI_NODATA;
    return bytes_append(&name->addresses, "", 1) ? UV_EAI_MEMORY : 0;
}

static void start_queued(struct resolve *r);

static void on_looked_up(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct resolve_name *name = request->data;
    struct resolve *r = name->resolver;

    if (!r) {
        uv_freeaddrinfo(list);
        name_free(name);
        return;
    }
    r->running_count--;
    int error = status ? status : take_addresses(name, list);
    uv_freeaddrinfo(list);
    name->generation = ++r->generation;
    name->until = error ? 0 : uv_now(r->loop) + FRESH_MS;
    name_move(name, KNOWN);
    name_answer(name, error);
    if (error && TAILQ_EMPTY(&name->waiters) && name->state == KNOWN)
        name_drop(name);
    start_queued(r);
}

static void start_queued(struct resolve *r)
{
    static const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct resolve_name *name;

    while (r->running_count < MAX_RUNNING && (name = TAILQ_FIRST(&r->queued))) {
        name->request.data = name;
        int rc = uv_getaddrinfo(r->loop, &name->request, on_looked_up, name->host, NULL, &hints);
        if (rc) {
            name_move(name, KNOWN);
            name_answer(name, rc);
            if (TAILQ_EMPTY(&name->waiters) && name->state == KNOWN)
                name_drop(name);
            continue;
        }
        name_move(name, RUNNING);
        r->running_count++;
    }
}

static struct resolve_name *name_add(struct resolve *r, const char *host)
{
    size_t len = strlen(host);
    struct resolve_name *name = calloc(1, sizeof *name + len + 1);
    if (!name)
        return NULL;
    memcpy(name->host, host, len + 1);
    TAILQ_INIT(&name->waiters);
    bytes_init(&name->addresses, 0);
    name->resolver = r;
    if (map_add(&r->names, &name->node, name->host, len)) {
        name_free(name);
        return NULL;
    }
    name->state = KNOWN;
    TAILQ_INSERT_TAIL(&r->known, name, link);
    struct resolve_name *stalest = TAILQ_FIRST(&r->known);
    if (r->names.count > MAX_NAMES && stalest != name)
        name_drop(stalest);
    return name;
}

int resolve_lookup(struct resolve *r, const char *host, struct resolve_waiter *w,
                   struct resolve_answer *answer)
{
    struct map_node *node = map_find(&r->names, host, strlen(host));
    struct resolve_name *name = node ? (struct resolve_name *)node : name_add(r, host);

    w->name = NULL;
    if (!name)
        return -ENOMEM;
    if (name->state == KNOWN && uv_now(r->loop) < name->until) {
        *answer = (struct resolve_answer){.addresses = name->addresses.data,
                                          .generation = name->generation};
        return 0;
    }
    TAILQ_INSERT_TAIL(&name->waiters, w, link);
    w->name = name;
    if (name->state == KNOWN) {
        name_move(name, QUEUED);
        start_queued(r);
        if (!w->name) /* answered already: getaddrinfo could not even be asked */
            return 1;
    }
    return 1;
}

void resolve_forget(struct resolve_waiter *w)
{
    if (!w->name)
        return;
    TAILQ_REMOVE(&w->name->waiters, w, link);
    w->name = NULL;
}

void resolve_destroy(struct resolve *r)
{
    struct resolve_name *name;

    while ((name = TAILQ_FIRST(&r->queued)))
        name_drop(name);
    while ((name = TAILQ_FIRST(&r->known)))
        name_drop(name);
    while ((name = TAILQ_FIRST(&r->running))) {
        TAILQ_REMOVE(&r->running, name, link);
        map_remove(&r->names, &name->node);
        name->resolver = NULL;
        uv_cancel((uv_req_t *)&name->request); /* works for those no thread has taken yet */
    }
    map_deinit(&r->names);
    free(r);
}
