/*
 * Origins (scheme, host and port) and the lanes they are at home on. A host stays on its lane
 * until that is full, so that connections are used again and HTTP/2 is multiplexed.
 */
#ifndef ORIGIN_H
#define ORIGIN_H

#include "lane.h"
#include "map.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/queue.h>

struct hop;

struct origins {
    struct map map;
    TAILQ_HEAD(, origin) idle; /* the longest idle first */
};

struct origin {
    struct map_node node;     /* keyed by `name` */
    TAILQ_ENTRY(origin) link; /* in origins->idle, while nothing is active */
    TAILQ_HEAD(, route) routes;
    TAILQ_HEAD(, route) open; /* the most recently freed first: its connections are warm */
    unsigned active;
    bool literal; /* the host is an address, or there is none */
    enum { ORIGIN_UNKNOWN, ORIGIN_HTTP1, ORIGIN_HTTP2 } protocol;
    int port;
    char *host;      /* owned */
    char *addresses; /* owned; where it is, or NULL to look it up */
    char name[];
};

/* Where an origin meets a lane. */
struct route {
    struct origin *origin; /* borrowed, outlives the route */
    struct lane *lane;     /* borrowed, outlives the route */
    TAILQ_ENTRY(route) of_origin;
    TAILQ_ENTRY(route) of_lane;
    TAILQ_ENTRY(route) of_open;
    bool open;                /* in origin->open: the lane had room when last looked at */
    unsigned active;          /* hops given to the lane or held for it */
    unsigned long generation; /* of the addresses the lane's libcurl knows, 0 for none */
    struct hop *probe;        /* goes alone; borrowed */
    TAILQ_HEAD(, hop) held;   /* wait until the probe has connected; the client's */
};

void origins_init(struct origins *os);

/* The origin of that name, made when it is not known; NULL when out of memory. The strings are
 * copied. It stays valid while something is active on it: of those idle only so many are kept. */
struct origin *origins_get(struct origins *os, const char *name, size_t name_len, const char *host,
                           const char *addresses, int port, bool tls);

/* Frees all, none of which may be active. The lanes must still be there. */
void origins_deinit(struct origins *os);

void origin_enter(struct origins *os, struct origin *o);
void origin_leave(struct origins *os, struct origin *o);

/* Where the next hop to `o` goes: where it has been before, if there is room. NULL when out of
 * memory. */
struct route *route_pick(struct origin *o, struct lanes *ls);

/* Takes a place on the route and its lane, and gives it back. */
void route_enter(struct route *r);
void route_leave(struct route *r);

/* Closes a spent lane, and the routes to it first. */
void routes_close(struct lane *lane);

#endif
