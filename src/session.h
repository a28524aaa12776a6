/*
 * A connection to a PostgreSQL server, made when it is needed, and anew when it was lost. It
 * belongs to one thread, which waits for the server.
 *
 * A job is one transaction. When the connection is lost meanwhile nobody knows whether it was
 * committed, until the server is asked.
 */
#ifndef SESSION_H
#define SESSION_H

#include "copy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct pg_conn;

/* One SQL statement: with parameters $1, $2, …, or COPY … FROM STDIN of packed rows (rows.h). */
struct session_step {
    char *sql;     /* owned */
    char **params; /* owned array of owned texts; NULL is NULL */
    size_t count;  /* of them */
    char *packed;  /* owned; NULL without rows */
    size_t packed_len;
    char *kinds;      /* owned; of the columns of the rows. Those of no kind are not copied */
    bool binary;      /* COPY's format; all kinds are those of columns that we make */
    int64_t expected; /* rows that it must change, or the job fails; -1: any number */
    char *otherwise;  /* owned; the message then */
};

/* A unit of work. The caller fills in steps and id; the rest is the outcome. */
struct session_job {
    struct session_step *steps; /* owned array */
    size_t count;
    int64_t id; /* the caller's */

    bool failed;
    /* When it has: an SQLSTATE; "connection" when there is none or it was lost; "rows" when a step
     * changed others than expected; "closed"; "out_of_memory"; "damaged" for packed rows. */
    char code[16];
    char message[512];
    char **cells; /* owned array of rows * width owned texts, of the last step that gave rows */
    size_t rows, width;
    TAILQ_ENTRY(session_job) link;
};

struct session {
    char *url; /* owned */
    bool durable;
    int stop;             /* eventfd, readable when all waiting is to end */
    struct pg_conn *conn; /* owned; libpq's; NULL when there is none */
    struct copy copy;
};

/* Looks a URL (postgres://…) over. Returns 0, and the password in it, owned by the caller, or NULL;
 * -EINVAL with what is wrong in `why`; -ENOMEM. */
int session_check(const char *url, char **password, char *why, size_t size);

/* Nothing is connected yet. Not `durable`: power loss at the server may undo the last commits.
 * Returns 0 or -errno; either way it is to be deinitialised. */
int session_init(struct session *s, const char *url, bool durable);

/* Runs a job. The outcome is in it. */
void session_run(struct session *s, struct session_job *job);

/* Ends all waiting, now and later, for another thread: a transaction that runs ends as the server
 * sees it. Only the lookup of a name goes on. */
void session_stop(struct session *s);

void session_deinit(struct session *s);

/* A job with so many empty steps; NULL when out of memory. */
struct session_job *session_job_create(size_t steps);
void session_job_destroy(struct session_job *job);

#endif
