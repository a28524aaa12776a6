/*
 * Lanes: libcurl multi handles on the event loop. A lane carries at most 64 transfers, because
 * libcurl searches a multi handle's connections one by one; its connections are used again by the
 * transfers that come after.
 *
 * `on_done` and `on_turn` are called after libcurl has returned, and may start and stop transfers.
 */
#ifndef LANE_H
#define LANE_H

#include "watch.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

enum {
    LANE_SIZE = 64, /* transfers on a lane, and connections in its pool */
    /* Hosts in a lane's life. Of each libcurl keeps the addresses and, if its connection was closed
     * to make room, an empty list, and it goes through all of them for every transfer. */
    LANE_HOSTS = 512,
};

struct lanes;

struct lane {
    struct lanes *lanes; /* borrowed, outlives the lane */
    CURLM *multi;        /* owned */
    uv_timer_t timer;    /* freed with the lane in close_cb */
    uint64_t due;       /* loop time in ms at which libcurl wants to be called; UINT64_MAX: never */
    uint64_t armed;     /* what the timer is set to; UINT64_MAX: not set */
    unsigned active;    /* places taken */
    unsigned beginning; /* transfers on it that have no connection yet */
    bool dirty;         /* in lanes->dirty: libcurl wants to be called now */
    bool room;          /* in lanes->room */
    unsigned hosts;     /* that it has had */
    struct watch_group sockets; /* that are watched for it */
    TAILQ_HEAD(, route) routes; /* the origins'; borrowed */
    TAILQ_ENTRY(lane) link;
    TAILQ_ENTRY(lane) of_dirty;
    TAILQ_ENTRY(lane) of_room; /* or of lanes->spent */
};

TAILQ_HEAD(lane_list, lane);

enum lane_use {
    LANE_UNUSED, /* perhaps it never was one */
    LANE_PLAIN,  /* it carries one answer after another */
    LANE_ALONE,  /* the same within TLS, whose own messages come in between */
    LANE_SHARED, /* it has frames that say whose they are */
};

struct lanes_callbacks {
    /* A transfer has ended; its handle is still on the lane, from which on_done takes it. */
    void (*on_done)(void *ctx, CURL *easy, CURLcode code);
    /* libcurl ran out of memory: none of the transfers on the lane may end any more. It is closed
     * when they have been taken off. */
    void (*on_broken)(void *ctx, struct lane *lane);
    /* Called from inside libcurl, where nothing may be started or stopped: it closes the connection
     * of a transfer that has just ended well, for the server sent more than the answer. */
    void (*on_overrun)(void *ctx, CURL *easy);
    /* Called from inside libcurl, too: what is known of the connection that a transfer leaves. */
    enum lane_use (*use)(CURL *easy);
    /* The loop had libcurl do something; whatever that ended has been told. */
    void (*on_turn)(void *ctx);
};

enum { LANE_OPENED = 8 };

/* What belongs to one easy handle; embedded by its owner. */
struct lane_user {
    struct lanes *lanes;     /* borrowed */
    CURL *easy;              /* borrowed */
    int opened[LANE_OPENED]; /* the last sockets that were opened for the transfer, in turn */
    unsigned opened_count;
    int taken; /* the socket of its connection, -1 when that is not known */
    /* Why no socket was opened, 0 if none was refused: what socket() said, such as EMFILE; or
     * EACCES and words in `denied`, as the lanes are guarded. */
    int refused;
    char denied[96]; /* "127.0.0.1 is loopback" */
};

struct lanes {
    uv_loop_t *loop;                         /* borrowed until lanes_deinit */
    struct watches *watches;                 /* borrowed until lanes_deinit */
    bool guard;                              /* sockets to private addresses are not opened */
    bool tight;                              /* descriptors are short: connections are not kept */
    const struct lanes_callbacks *callbacks; /* borrowed, static */
    void *ctx;
    struct lane_list all;
    struct lane_list room; /* lanes with room, the most recently freed first */
    struct lane_list dirty;
    struct lane_list spent; /* lanes that have had their hosts, and no transfer is left on */
    uint64_t steps;         /* socket events and calls into libcurl so far */
    bool busy;              /* in watches->busy */
    TAILQ_ENTRY(lanes) of_busy;
};

void lanes_init(struct lanes *ls, uv_loop_t *loop, struct watches *watches, bool guard,
                const struct lanes_callbacks *callbacks, void *ctx);

/* Has the handle open and close its sockets here. `user` is borrowed as long as the handle lives.
 * Returns 0 or -ENOMEM. */
int lanes_adopt(struct lanes *ls, CURL *easy, struct lane_user *user);

/* Keeps no idle connections while descriptors are short, or does so again. */
void lanes_set_tight(struct lanes *ls, bool tight);

/* A lane with room, perhaps a new one; NULL when out of memory. */
struct lane *lanes_with_room(struct lanes *ls);

/* Has libcurl do what it wants to do at once, such as beginning the transfers just started. It may
 * want more afterwards: then `dirty` is not empty. */
void lanes_work(struct lanes *ls);

/* Closes all lanes, on which no transfer may be left, and their connections. The loop must run once
 * more. */
void lanes_deinit(struct lanes *ls);

/* Takes a place on the lane and gives it back: for a transfer that is on it or will be. */
void lane_enter(struct lane *lane);
void lane_leave(struct lane *lane);

/* Counts a host that is new on the lane. After LANE_HOSTS of them it has no room any more. */
void lane_add_host(struct lane *lane);

/* Closes a lane without transfers, and its connections. Not from within one of lane's callbacks. */
void lane_close(struct lane *lane);

/* Begins a transfer at the next lanes_work; lane_connected is to be called when it has a
 * connection, or has ended without one. Returns 0 or -ENOMEM. */
int lane_start(struct lane *lane, struct lane_user *user);

void lane_connected(struct lane *lane);

/* From inside libcurl: the transfer is about to be sent over a connection of its own, which has
 * that local port (0: it has none). False when it must not be, as something nobody asked for came
 * on it, which would be taken for the answer. */
bool lane_take(struct lane *lane, struct lane_user *user, int port);

/* Bytes that have come in on the connection that the transfer has for itself; 0 when that is not
 * known. */
uint64_t lane_received(const struct lane_user *user);

/* The transfer has ended and is still on the lane. Tells of an overrun that libcurl did not. */
void lane_leave_socket(struct lane_user *user);

/* Takes a transfer off, aborting it if it has not ended. */
void lane_stop(struct lane *lane, struct lane_user *user);

/* Tells of what has ended on the lane; needed after lane_stop, which may end others. */
void lane_drain(struct lane *lane);

#endif
