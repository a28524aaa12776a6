#include "postgres.h"

#include "session.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

TAILQ_HEAD(job_list, session_job);

struct postgres {
    uv_async_t async; /* first: free_postgres, its close_cb, frees all of this */
    void (*on_done)(void *ctx);
    void *ctx;              /* borrowed until postgres_close */
    struct session session; /* the thread's, but for session_stop */
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t more;
    struct job_list queued, done;
    bool closing;
};

static void *work(void *ctx)
{
    struct postgres *p = ctx;
    struct session_job *job;

    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (TAILQ_EMPTY(&p->queued) && !p->closing)
            pthread_cond_wait(&p->more, &p->lock);
        if (p->closing)
            break;
        job = TAILQ_FIRST(&p->queued);
        TAILQ_REMOVE(&p->queued, job, link);
        pthread_mutex_unlock(&p->lock);
        session_run(&p->session, job);
        pthread_mutex_lock(&p->lock);
        TAILQ_INSERT_TAIL(&p->done, job, link);
        uv_async_send(&p->async);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void postgres_submit(struct postgres *p, struct session_job *job)
{
    pthread_mutex_lock(&p->lock);
    TAILQ_INSERT_TAIL(&p->queued, job, link);
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

struct session_job *postgres_peek(struct postgres *p)
{
    pthread_mutex_lock(&p->lock);
    struct session_job *job = TAILQ_FIRST(&p->done);
    pthread_mutex_unlock(&p->lock);
    return job;
}

struct session_job *postgres_take(struct postgres *p)
{
    pthread_mutex_lock(&p->lock);
    struct session_job *job = TAILQ_FIRST(&p->done);
    if (job)
        TAILQ_REMOVE(&p->done, job, link);
    pthread_mutex_unlock(&p->lock);
    return job;
}

/* Opening and closing ------------------------------------------------------------------------- */

static void on_async(uv_async_t *async)
{
    struct postgres *p = (struct postgres *)async;
    p->on_done(p->ctx);
}

static void free_memory(struct postgres *p)
{
    session_deinit(&p->session);
    free(p);
}

static void free_postgres(uv_handle_t *handle)
{
    struct postgres *p = (struct postgres *)handle;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    free_memory(p);
}

/* The process's signals are for the other threads. */
static int start_thread(struct postgres *p)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&p->thread, NULL, work, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int postgres_open(struct postgres **out, uv_loop_t *loop, const char *url, bool durable,
                  void (*on_done)(void *ctx), void *ctx)
{
    struct postgres *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->on_done = on_done;
    p->ctx = ctx;
    TAILQ_INIT(&p->queued);
    TAILQ_INIT(&p->done);
    int rc = session_init(&p->session, url, durable);
    if (rc == 0)
        rc = uv_async_init(loop, &p->async, on_async);
    if (rc) {
        free_memory(p);
        return rc;
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, NULL);
    rc = start_thread(p);
    if (rc) {
        uv_close((uv_handle_t *)&p->async, free_postgres);
        return -rc;
    }
    *out = p;
    return 0;
}

void postgres_close(struct postgres *p)
{
    struct session_job *job;
    pthread_mutex_lock(&p->lock);
    p->closing = true;
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
    session_stop(&p->session);
    pthread_join(p->thread, NULL);
    while ((job = postgres_take(p)))
        session_job_destroy(job);
    while ((job = TAILQ_FIRST(&p->queued))) {
        TAILQ_REMOVE(&p->queued, job, link);
        session_job_destroy(job);
    }
    uv_close((uv_handle_t *)&p->async, free_postgres);
}
