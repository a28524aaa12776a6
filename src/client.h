/*
 * Transfers in flight. Each runs on a "lane", a libcurl multi handle with at most 64 of them,
 * because libcurl searches a multi handle's connections one by one. A host stays on its lane
 * until that is full, so that connections are used again and HTTP/2 is multiplexed.
 *
 * Nothing is ever queued inside libcurl. What has ended waits in a list for client_next.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "transfer.h"

#include <stdint.h>
#include <uv.h>

struct client;

struct client_target {
    const char *origin; /* "https://example.com:443", the key by which connections are shared */
    size_t origin_len;
    const char *host; /* a name, an IPv4 or a bare IPv6 address; ASCII */
    int port;
    bool tls;
};

/*
 * `loop` is borrowed until client_destroy and must then run once more, for the handles to close.
 * `on_ended(ctx)` is called from the loop when a batch of hops has ended there; it may call
 * everything here but client_destroy. With thousands in flight one turn of the loop ends more hops
 * than the processor's caches hold, so the next ones are started before it is over; starting each
 * at once, however, would wake the server for every single request. Returns 0 or a negative errno.
 */
int client_create(struct client **out, uv_loop_t *loop, void (*on_ended)(void *ctx), void *ctx);

/*
 * Starts a hop, whose strings are copied. Returns 0 with `*id`, a whole number < 2^53 that names it
 * until client_release; a hop that cannot even be sent ends at once with its outcome. -ENOMEM.
 */
int client_start(struct client *c, const struct client_target *target,
                 const struct transfer_request *request, uint64_t *id);

/* Aborts a hop and forgets it; it will not come out of client_next. An unknown id is ignored. */
void client_cancel(struct client *c, uint64_t id);

/* Has libcurl do what it wants to do at once, such as beginning the hops just started. To be called
 * before the loop waits. Returns whether it wants more, that is, whether the loop must not sleep.
 */
bool client_work(struct client *c);

/* The next hop that has ended, or NULL. It stays valid until client_release. */
struct transfer *client_next(struct client *c, uint64_t *id);

/* Takes a hop that client_next gave back. */
void client_release(struct client *c, uint64_t id);

/* The ASCII form of an international host name (RFC 5891). Returns 0, -EINVAL or -ENOMEM. */
int client_idn(const char *name, char *ascii, size_t size);

/* Aborts all, closes all connections. */
void client_destroy(struct client *c);

#endif
