#include "origin.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ORIGINS = 1024 }; /* idle ones beyond this are forgotten */

static void route_set_open(struct route *r, bool open)
{
    if (r->open == open)
        return;
    r->open = open;
    if (open)
        TAILQ_INSERT_HEAD(&r->origin->open, r, of_open);
    else
        TAILQ_REMOVE(&r->origin->open, r, of_open);
}

static void route_free(struct route *r)
{
    route_set_open(r, false);
    TAILQ_REMOVE(&r->origin->routes, r, of_origin);
    TAILQ_REMOVE(&r->lane->routes, r, of_lane);
    free(r);
}

static void origin_free(struct origins *os, struct origin *o)
{
    struct route *r;
    while ((r = TAILQ_FIRST(&o->routes)))
        route_free(r);
    map_remove(&os->map, &o->node);
    free(o->addresses);
    free(o->host);
    free(o);
}

static struct origin *origin_add(struct origins *os, const char *name, size_t name_len,
                                 const char *host, const char *addresses, int port, bool tls)
{
    unsigned char address[sizeof(struct in6_addr)];
    struct origin *o = calloc(1, sizeof *o + name_len + 1);
    if (!o)
        return NULL;
    memcpy(o->name, name, name_len);
    o->host = strdup(host);
    o->addresses = addresses ? strdup(addresses) : NULL;
    if (!o->host || (addresses && !o->addresses) ||
        map_add(&os->map, &o->node, o->name, name_len)) {
        free(o->addresses);
        free(o->host);
        free(o);
        return NULL;
    }
    o->port = port;
    o->literal =
        !*host || inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
    o->protocol = tls ? ORIGIN_UNKNOWN : ORIGIN_HTTP1;
    TAILQ_INIT(&o->routes);
    TAILQ_INIT(&o->open);
    TAILQ_INSERT_TAIL(&os->idle, o, link);
    struct origin *oldest = TAILQ_FIRST(&os->idle);
    if (os->map.count > MAX_ORIGINS && oldest != o) {
        TAILQ_REMOVE(&os->idle, oldest, link);
        origin_free(os, oldest);
    }
    return o;
}

void origin_enter(struct origins *os, struct origin *o)
{
    if (o->active++ == 0)
        TAILQ_REMOVE(&os->idle, o, link);
}

void origin_leave(struct origins *os, struct origin *o)
{
    if (--o->active == 0)
        TAILQ_INSERT_TAIL(&os->idle, o, link);
}

static struct route *route_add(struct origin *o, struct lane *lane)
{
    struct route *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->origin = o;
    r->lane = lane;
    TAILQ_INIT(&r->held);
    TAILQ_INSERT_TAIL(&o->routes, r, of_origin);
    TAILQ_INSERT_TAIL(&lane->routes, r, of_lane);
    lane_add_host(lane);
    return r;
}

struct route *route_pick(struct origin *o, struct lanes *ls)
{
    struct route *r;
    while ((r = TAILQ_FIRST(&o->open))) {
        if (r->lane->room)
            return r;
        route_set_open(r, false);
    }
    struct lane *lane = lanes_with_room(ls);
    if (!lane)
        return NULL;
    TAILQ_FOREACH (r, &o->routes, of_origin) {
        if (r->lane == lane)
            break;
    }
    if (!r && !(r = route_add(o, lane)))
        return NULL;
    route_set_open(r, true);
    return r;
}

void route_enter(struct route *r)
{
    r->active++;
    lane_enter(r->lane);
}

void route_leave(struct route *r)
{
    r->active--;
    lane_leave(r->lane);
    route_set_open(r, true);
}

void routes_close(struct lane *lane)
{
    struct route *r;
    while ((r = TAILQ_FIRST(&lane->routes)))
        route_free(r);
    lane_close(lane);
}

void origins_init(struct origins *os)
{
    map_init(&os->map);
    TAILQ_INIT(&os->idle);
}

struct origin *origins_get(struct origins *os, const char *name, size_t name_len, const char *host,
                           const char *addresses, int port, bool tls)
{
    struct map_node *node = map_find(&os->map, name, name_len);
    return node ? (struct origin *)node
                : origin_add(os, name, name_len, host, addresses, port, tls);
}

void origins_deinit(struct origins *os)
{
    struct origin *o;
    while ((o = TAILQ_FIRST(&os->idle))) {
        TAILQ_REMOVE(&os->idle, o, link);
        origin_free(os, o);
    }
    map_deinit(&os->map);
}
