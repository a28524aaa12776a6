/*
 * Transfers in flight. Each runs on a "lane", a libcurl multi handle with at most 64 of them,
 * because libcurl searches a multi handle's connections one by one. A host stays on its lane
 * until that is full, so that connections are used again and HTTP/2 is multiplexed.
 *
 * Nothing is ever queued inside libcurl. What has ended waits in a list for client_next.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "profile.h"
#include "transfer.h"

#include <stdint.h>
#include <uv.h>

struct client;

struct client_target {
    const char *origin; /* "https://example.com:443", the key by which connections are shared */
    size_t origin_len;
    /* Where to connect to, the proxy's if there is one: a name, an IPv4 or a bare IPv6 address,
     * ASCII; empty when the profile says it (a Unix socket). */
    const char *host;
    int port;
    const char *addresses; /* "192.0.2.1,2001:db8::1" of the name, or NULL to look it up */
    bool tls;
    int profile;        /* from client_profile; 0 is the default one */
    double dns_timeout; /* seconds for the lookup, 0 = as for connecting */
};

/*
 * `loop` is borrowed until client_destroy and must then run once more, for the handles to close.
 * `on_ended(ctx)` is called from the loop when a batch of hops has ended there; it may call
 * everything here but client_destroy. With thousands in flight one turn of the loop ends more hops
 * than the processor's caches hold, so the next ones are started before it is over; starting each
 * at once, however, would wake the server for every single request. Returns 0 or a negative errno.
 */
int client_create(struct client **out, uv_loop_t *loop, void (*on_ended)(void *ctx), void *ctx);

/* Adds a profile; see profile.h. Returns its number > 0, -EINVAL when libcurl cannot do what the
 * options say, or -ENOMEM. */
int client_profile(struct client *c, const struct profile_options *options);

/* Closes a profile and its connections, at once or when its last hop is over; no other is started
 * on it. May be called at any time. The default one and unknown ones are left alone. */
void client_profile_close(struct client *c, int id);

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

/* The next hop that has ended, with `*news` 0, or one of which there is news (TRANSFER_HEAD, _DATA
 * or _WANT, one at a time); or NULL. One that has ended stays valid until client_release. */
struct transfer *client_next(struct client *c, uint64_t *id, unsigned *news);

/* Whether client_next has one. */
bool client_has_next(const struct client *c);

/* A streamed hop under way, whose `body` is what has come in; NULL when there is none by that id.
 * Then client_taken empties the body. */
struct transfer *client_peek(struct client *c, uint64_t id);
void client_taken(struct client *c, uint64_t id);

/* The next bytes of a pulled request body; none end it. Returns 0, or -ENOENT when there is no such
 * hop under way. */
int client_send(struct client *c, uint64_t id, const char *p, size_t n);

/* Takes a hop that client_next gave back. */
void client_release(struct client *c, uint64_t id);

/* The ASCII form of an international host name (RFC 5891). Returns 0, -EINVAL or -ENOMEM. */
int client_idn(const char *name, char *ascii, size_t size);

/* Aborts all, closes all connections. */
void client_destroy(struct client *c);

#endif
