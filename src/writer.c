#include "writer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

TAILQ_HEAD(job_list, writer_job);

struct writer {
    uv_async_t async; /* first: free_writer, its close_cb, frees all of this */
    void (*on_done)(void *ctx);
    void *ctx;             /* borrowed until writer_close */
    struct output *output; /* owned; the thread's while that runs; NULL until it is opened */
    bool cancelled;        /* the thread's */
    int stop;              /* owned; an eventfd, readable when nobody waits for stdout any more */
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t more;
    struct job_list queued, done;
    bool closing;
};

/* The thread ---------------------------------------------------------------------------------- */

static int open_output(struct writer *w, struct writer_job *job)
{
    static const char nul;
    int rc = bytes_append(&job->text, &nul, 1);
    if (rc != 0)
        return rc;
    job->open.path = job->text.data;
    job->open.stop = w->stop;
    job->open.cancelled = &w->cancelled;
    rc = output_open(&w->output, &job->open);
    if (rc == 0) {
        job->finished = output_is_finished(w->output);
        job->terminal = output_is_terminal(w->output);
    }
    return rc;
}

static int run(struct writer *w, struct writer_job *job)
{
    if (job->op == WRITER_OPEN)
        return w->output ? -EBUSY : open_output(w, job);
    if (!w->output)
        return -EBADF;
    switch (job->op) {
    case WRITER_SCAN:
        return output_scan(w->output, &job->scan, job->widening.delimiter);
    case WRITER_KEEP:
        output_keep(w->output, job->keep);
        return 0;
    case WRITER_WRITE:
        return output_write(w->output, &job->text, &job->closer, job->sync);
    case WRITER_FINISH:
        return output_finish(w->output, &job->closer, &job->widening);
    default:
        return -EINVAL;
    }
}

static void *work(void *ctx)
{
    struct writer *w = ctx;
    struct writer_job *job;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (TAILQ_EMPTY(&w->queued) && !w->closing)
            pthread_cond_wait(&w->more, &w->lock);
        job = TAILQ_FIRST(&w->queued);
        if (!job)
            break;
        TAILQ_REMOVE(&w->queued, job, link);
        pthread_mutex_unlock(&w->lock);
        job->rc = run(w, job);
        job->size = w->output ? output_size(w->output) : 0;
        pthread_mutex_lock(&w->lock);
        TAILQ_INSERT_TAIL(&w->done, job, link);
        uv_async_send(&w->async);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* The process's signals are for the other threads. */
static int start_thread(struct writer *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -rc;
}

/* Jobs ---------------------------------------------------------------------------------------- */

void writer_submit(struct writer *w, struct writer_job *job)
{
    pthread_mutex_lock(&w->lock);
    TAILQ_INSERT_TAIL(&w->queued, job, link);
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
}

struct writer_job *writer_peek(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    struct writer_job *job = TAILQ_FIRST(&w->done);
    pthread_mutex_unlock(&w->lock);
    return job;
}

struct writer_job *writer_take(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    struct writer_job *job = TAILQ_FIRST(&w->done);
    if (job)
        TAILQ_REMOVE(&w->done, job, link);
    pthread_mutex_unlock(&w->lock);
    return job;
}

struct writer_job *writer_job_create(enum writer_op op)
{
    struct writer_job *job = calloc(1, sizeof *job);
    if (job)
        job->op = op;
    return job;
}

void writer_job_destroy(struct writer_job *job)
{
    if (!job)
        return;
    bytes_deinit(&job->text);
    bytes_deinit(&job->closer);
    bytes_deinit(&job->widening.header);
    scan_deinit(&job->scan);
    free(job);
}

/* Opening and closing ------------------------------------------------------------------------- */

static void on_async(uv_async_t *async)
{
    struct writer *w = (struct writer *)async;
    w->on_done(w->ctx);
}

static void free_writer(uv_handle_t *handle)
{
    struct writer *w = (struct writer *)handle;
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->more);
    close(w->stop);
    free(w);
}

int writer_create(struct writer **out, uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx)
{
    struct writer *w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->on_done = on_done;
    w->ctx = ctx;
    TAILQ_INIT(&w->queued);
    TAILQ_INIT(&w->done);
    w->stop = eventfd(0, EFD_CLOEXEC);
    int rc = w->stop < 0 ? -errno : uv_async_init(loop, &w->async, on_async);
    if (rc != 0) {
        if (w->stop >= 0)
            close(w->stop);
        free(w);
        return rc;
    }
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->more, NULL);
    rc = start_thread(w);
    if (rc != 0) {
        uv_close((uv_handle_t *)&w->async, free_writer);
        return rc;
    }
    *out = w;
    return 0;
}

void writer_close(struct writer *w, bool discard)
{
    struct writer_job *job;
    (void)eventfd_write(w->stop, 1); /* it has room for more than one */
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    output_close(w->output, discard);
    while ((job = writer_take(w)))
        writer_job_destroy(job);
    uv_close((uv_handle_t *)&w->async, free_writer);
}
