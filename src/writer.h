/*
 * An output file (output.h) with a thread of its own, which does all that waits for the disk, and
 * the compression. Jobs are done in the order they were submitted in.
 */
#ifndef WRITER_H
#define WRITER_H

#include "bytes.h"
#include "output.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct writer;

enum writer_op { WRITER_OPEN, WRITER_SCAN, WRITER_KEEP, WRITER_WRITE, WRITER_FINISH };

/* The caller fills in what its operation needs; the rest is the outcome. */
struct writer_job {
    enum writer_op op;
    int64_t id; /* the caller's */

    struct output_options open; /* WRITER_OPEN; its path is `text` */
    struct bytes text;          /* what is written; owned */
    struct bytes closer;        /* WRITER_WRITE, WRITER_FINISH; owned */
    struct widen widening;      /* WRITER_FINISH; owned. WRITER_SCAN: the delimiter of CSV */
    int64_t keep;               /* WRITER_KEEP */
    bool sync;                  /* WRITER_WRITE */

    int rc;                  /* 0, or what the function of output.h returned */
    int64_t size;            /* output_size */
    bool finished, terminal; /* WRITER_OPEN */
    struct scan scan;        /* WRITER_SCAN; owned */
    TAILQ_ENTRY(writer_job) link;
};

/* Starts a thread that has no file yet: that is the first job. `on_done(ctx)` is called from the
 * loop when jobs are done. `loop` is borrowed until writer_close, and must run once more after
 * that. Returns 0 or a negative errno. */
int writer_create(struct writer **out, uv_loop_t *loop, void (*on_done)(void *ctx), void *ctx);

/* Hands a job over. The writer owns it until it is taken back. */
void writer_submit(struct writer *w, struct writer_job *job);

/* The first of the jobs that are done, still the writer's; NULL when there is none. */
struct writer_job *writer_peek(struct writer *w);

/* Takes that job back: it is the caller's. */
struct writer_job *writer_take(struct writer *w);

/* Does what was submitted, but for what a reader of stdout does not take now; gives up the file
 * (output_close) and frees the writer. What was not taken back is dropped. */
void writer_close(struct writer *w, bool discard);

/* An empty job; NULL when out of memory. */
struct writer_job *writer_job_create(enum writer_op op);
void writer_job_destroy(struct writer_job *job);

#endif
