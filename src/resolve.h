/*
 * Names to addresses, off the loop: getaddrinfo in uv's thread pool, a few at a time, with a
 * cache. libcurl's own resolver starts a thread per lookup and blocks when one is cancelled.
 */
#ifndef RESOLVE_H
#define RESOLVE_H

#include <sys/queue.h>
#include <uv.h>

struct resolve;

struct resolve_answer {
    /* "192.0.2.1,[2001:db8::1]", as CURLOPT_RESOLVE takes it; NULL when the lookup failed. Owned
     * by the resolver, valid until the next call into it or the next turn of the loop. */
    const char *addresses;
    unsigned long generation; /* differs from every earlier answer's when the lookup is a new one */
    int error;                /* UV_EAI_…, 0 for success */
};

/* One who waits for a name; embedded in the caller's object. */
struct resolve_waiter {
    void (*done)(struct resolve_waiter *w, const struct resolve_answer *answer);
    struct resolve_name *name; /* borrowed; NULL when it does not wait */
    TAILQ_ENTRY(resolve_waiter) link;
};

/* `loop` is borrowed until resolve_destroy. Returns 0 or -ENOMEM. */
int resolve_create(struct resolve **out, uv_loop_t *loop);

/*
 * Looks `host` up. Returns 0 with `*answer` filled when it is in the cache (for 60 s); 1 when
 * `w->done` will be called from the loop, unless resolve_forget is called first; -ENOMEM.
 * A failed lookup is never answered from the cache.
 */
int resolve_lookup(struct resolve *r, const char *host, struct resolve_waiter *w,
                   struct resolve_answer *answer);

/* Takes a waiter off; a no-op when it does not wait. */
void resolve_forget(struct resolve_waiter *w);

/* Lets go of everything. Nobody may wait any more. Lookups that run go on and free themselves. */
void resolve_destroy(struct resolve *r);

#endif
