/*
 * Watches: the sockets libcurl has open, on the loop. A socket stays in epoll while its connection
 * idles: arming it anew for every request would cost two system calls each time.
 *
 * libcurl tells us when it closes a connection, but not when it closes a socket that never became
 * one, so a socket is only trusted to be there once an answer came on it. The watch of one that may
 * be gone is stopped, and waits for another socket with the same number.
 */
#ifndef WATCH_H
#define WATCH_H

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct lane;
struct lanes;

TAILQ_HEAD(lanes_list, lanes);

/* All of a loop, by descriptor; and what is to be done, shared by all lanes. */
struct watches {
    struct watch **list; /* owned array; each is freed in its close_cb */
    size_t cap;
    struct lanes_list busy; /* those with dirty or spent lanes; for their owner to take */
};

/* Those of a lane. */
struct watch_group {
    struct lane *lane; /* borrowed, outlives the group */
    TAILQ_HEAD(, watch) list;
    unsigned count;
};

struct watch {
    uv_poll_t poll;
    uv_poll_cb on_poll;
    struct lanes *lanes;       /* borrowed; the socket was opened for */
    struct watch_group *group; /* borrowed; of the lane that uses the socket; or NULL */
    TAILQ_ENTRY(watch) of_group;
    curl_socket_t fd;
    int port;   /* its connection's, on our side; 0: it has none, -1: it is none yet */
    int events; /* that uv_poll was started with, 0: stopped */
    bool idle;  /* no transfer uses it */
    /* borrowed; the transfer that uses it, or used it last while `left` is lanes->steps */
    CURL *last;
    uint64_t left;
    bool taken;   /* `last` has it for its connection */
    bool wanted;  /* libcurl waits for it */
    bool pooled;  /* its connection has carried an answer */
    bool spoilt;  /* it must not be used again */
    bool alone;   /* what comes while it is idle would be taken for the next one's answer */
    bool foreign; /* not opened by us, so libcurl may close it any time after CURL_POLL_REMOVE */
};

void watches_init(struct watches *ws);

/* Frees the array, when all are closed. */
void watches_deinit(struct watches *ws);

/* The watch of a descriptor, or NULL. */
struct watch *watch_of(const struct watches *ws, curl_socket_t fd);

/* A new one, stopped; NULL when out of memory. */
struct watch *watch_add(struct watches *ws, uv_loop_t *loop, curl_socket_t fd, uv_poll_cb on_poll);

void watch_close(struct watches *ws, struct watch *w);

void watch_group_init(struct watch_group *group, struct lane *lane);

/* Leaves the group it is in for another; or for none, NULL. */
void watch_join(struct watch *w, struct watch_group *group);

/* Has `on_poll` called for these events of uv_poll. */
void watch_start(struct watch *w, int events);
void watch_stop(struct watch *w);

/* Whether bytes wait to be read. */
bool watch_has_more(const struct watch *w);

/* Whether the other end has closed. */
bool watch_at_end(const struct watch *w);

/* Ends a connection on which a server has sent what nobody asked for. It would be taken for the
 * answer to the next request, as libcurl 7.88 only looks whether the connection is still there; now
 * it is not. */
void watch_spoil(struct watch *w);

/* The port on our side; 0 for a socket that has none, -1 when it is not known. */
int watch_local_port(const struct watch *w);

/* Bytes that have come in on it so far; 0 when that is not known. */
uint64_t watch_received(const struct watch *w);

#endif
