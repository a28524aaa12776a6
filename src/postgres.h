/*
 * A session with a PostgreSQL server (session.h) on a thread of its own, which does all that waits.
 * A job is told about when it has ended, in the order of submission.
 */
#ifndef POSTGRES_H
#define POSTGRES_H

#include <stdbool.h>
#include <uv.h>

struct postgres;
struct session_job;

/*
 * Makes the thread. `on_done(ctx)` is called from the loop when jobs are done. `loop`
 * is borrowed until postgres_close, and must run once more after that. Returns 0 or
 * -errno.
 */
int postgres_open(struct postgres **out, uv_loop_t *loop, const char *url, bool durable,
                  void (*on_done)(void *ctx), void *ctx);

/* Hands a job over. It is the thread's until it is taken back. */
void postgres_submit(struct postgres *p, struct session_job *job);

/* The first of the jobs that are done, not yet the caller's; NULL when there is none. */
struct session_job *postgres_peek(struct postgres *p);

/* Takes that job back: it is the caller's. */
struct session_job *postgres_take(struct postgres *p);

/* Drops what has not been done: a transaction that runs ends as the server sees it. Only the lookup
 * of a name is waited for. */
void postgres_close(struct postgres *p);

#endif
