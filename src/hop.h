/*
 * One hop on its way: the lookup of its name, the lane, perhaps waiting for another's connection or
 * for a descriptor, and the end. It owns the transfer, which is used again.
 */
#ifndef HOP_H
#define HOP_H

#include "profile.h"
#include "resolve.h"
#include "transfer.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

TAILQ_HEAD(hop_list, hop);

/* What all hops share; embedded in the client. */
struct hops {
    uv_loop_t *loop;         /* borrowed, outlives the hops */
    struct resolve *resolve; /* borrowed, outlives the hops */
    unsigned flying;         /* hops that libcurl has */
    struct hop_list starved; /* wait for a descriptor */
    unsigned freed;          /* hops that have ended while others starved */
    bool tight;              /* connections that others left were of no use to one that starved */
    struct hop_list told;    /* of which there is news */
    struct hop_list ended;
    unsigned ended_count;
    struct hop_list connected; /* probes that have connected; see on_prereq in hop.c */
};

enum { HOP_LOOKS = 4 /* at a hop within its idle timeout */ };

struct hop {
    struct hops *hops;         /* borrowed, outlives the hop */
    struct transfer *transfer; /* owned */
    uint64_t id;
    uint32_t index; /* in its owner's table */
    enum {
        HOP_FREE,
        HOP_STARTING,
        HOP_RESOLVING,
        HOP_HELD,   /* until the first to its host has connected */
        HOP_FLYING, /* libcurl has it */
        HOP_STARVED,
        HOP_ENDED,
    } state;
    struct profile *profile; /* borrowed; its handle is set up for it */
    struct lane_user user;
    struct origin *origin;     /* borrowed; NULL when free or ended */
    struct route *route;       /* borrowed; NULL before it has one */
    unsigned long names;       /* the generation of the addresses it carries, 0 for none */
    bool told;                 /* in hops->told */
    unsigned starved;          /* how often no descriptor was free for it */
    bool alone;                /* no other was on its route when it got its connection */
    bool spoiled;              /* the connection it found must not be used */
    bool worn;                 /* libcurl may have tried by itself to send it again */
    bool late;                 /* it was sent again because the server had left */
    bool last_try;             /* it was let go when nothing else could free one */
    uint64_t began;            /* uv_hrtime when the lookup started */
    double timeout;            /* seconds left for the hop, lookup included; 0 = none */
    double lookup_timeout;     /* seconds, 0 = none */
    double idle;               /* seconds without a byte before it is given up; 0 = never */
    double min_speed;          /* bytes a second over `idle`, under which it is given up; 0 = any */
    uint64_t moved[HOP_LOOKS]; /* bytes that had gone to and fro at the last looks */
    unsigned looks;
    bool repeatable; /* sending it twice does no more than sending it once */
    unsigned sent;   /* how often a connection was found for it */
    struct resolve_waiter waiter;
    uv_timer_t *timer;     /* for the lookup only; freed in close_cb */
    TAILQ_ENTRY(hop) link; /* held, starved, ended or free, by state; or connected */
    TAILQ_ENTRY(hop) of_told;
};

void hops_init(struct hops *hs, uv_loop_t *loop, struct resolve *resolve);

/* Lets those go who were held for probes that have connected. Not from inside libcurl. */
void hops_release_connected(struct hops *hs);

/* A free hop with a handle set up for the profile, both borrowed. Returns 0 or -ENOMEM. */
int hop_create(struct hop **out, struct hops *hs, struct profile *p);

/* Sets out with the request, from the name on. Its `origin`, times and `repeatable` are set; it may
 * have ended at once. */
void hop_begin(struct hop *h, const struct transfer_request *request);

/* Lets a hop that starved try again; `last` when nothing else can free a descriptor. */
void hop_retry(struct hop *h, bool last);

/* Ends one that is not libcurl's (any more). */
void hop_end(struct hop *h);

/* libcurl has ended it with `code`; it is still on its lane. */
void hop_finish(struct hop *h, CURLcode code);

/* Ends one that libcurl has and will not end by itself. */
void hop_break(struct hop *h, CURLcode code);

/* Aborts one that has not ended. */
void hop_cancel(struct hop *h);

/* Its news were taken. */
void hop_untell(struct hop *h);

/* Drops what it received and frees it for the next. Returns false when it must not be used again,
 * for want of memory. */
bool hop_reset(struct hop *h);

void hop_destroy(struct hop *h);

#endif
