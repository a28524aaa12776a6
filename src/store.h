/*
 * A SQLite database with a thread of its own that does all the writing: SQL never runs on the loop,
 * but for the short look-ups of store_read.
 *
 * What is submitted while a transaction runs goes into the next one together (group commit). Each
 * job is atomic in it: done as a whole or, when one of its statements fails, not at all, and the
 * others are not touched by that. A job is told about after the commit, in the order of submission.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

struct database_options;
struct store;

enum store_type { STORE_NULL, STORE_INTEGER, STORE_REAL, STORE_TEXT, STORE_BLOB };

struct store_value {
    enum store_type type;
    int64_t integer;
    double real;
    char *data; /* owned by the job, or part of its statement's bytes; text is UTF-8 and not
                   NUL-terminated */
    size_t len;
};

/* One SQL statement, run once for each row of parameters: ?1, ?2, … are the columns. Or two: each
 * row is given to both, the first of which may take fewer columns. */
struct store_statement {
    char *sql;                  /* owned */
    char *also;                 /* owned; the second one, or NULL */
    struct store_value *params; /* owned array of width * times; NULL without parameters */
    size_t width, times;
    char *packed; /* owned; rows (rows.h) to run it for instead, or NULL */
    size_t packed_len;
    char *kinds; /* owned; of their columns, which are the parameters by number */
    char *bytes; /* owned; what the parameters' data is part of. NULL: each is owned by itself */
};

/* A unit of work. The caller fills in statements and id; the rest is the outcome. */
struct store_job {
    struct store_statement *statements; /* owned array */
    size_t count;
    int64_t id; /* the caller's */

    int rc;            /* SQLite's code; 0 when all is done and committed */
    char message[256]; /* what is wrong, when rc is not 0 */
    /* The rows of the last statement that gave any. */
    struct store_value *cells; /* owned array of rows * width */
    size_t rows, width, cap;
    int64_t changes; /* rows that they inserted, updated or deleted themselves; not packed ones */
    TAILQ_ENTRY(store_job) link;
};

/*
 * Opens a database (database.h). `on_done(ctx)` is called from the loop when jobs are done. `loop`
 * is borrowed until store_close, and must run once more after that. Returns 0; or what
 * database_open refuses it with (DATABASE_FAILED when it is something else), and the details in
 * `why`.
 */
int store_open(struct store **out, uv_loop_t *loop, const char *path,
               const struct database_options *options, void (*on_done)(void *ctx), void *ctx,
               char *why, size_t size);

/* Hands a job over. The store owns it until it is taken back. */
void store_submit(struct store *s, struct store_job *job);

/* The first of the jobs that are done, still the store's; NULL when there is none. */
struct store_job *store_peek(struct store *s);

/* Takes that job back: it is the caller's. */
struct store_job *store_take(struct store *s);

/* Runs reading statements at once, on a connection of its own, seeing all that is committed. The
 * outcome is in the job, which stays the caller's. For look-ups by key only: it runs on the loop.
 */
void store_read(struct store *s, struct store_job *job);

/* To begin a read takes more time than to find a row. So with database_options' `snapshots` many
 * reads see the same, which is at most what was committed when this was called the last time; it is
 * done by itself after some reads, and for the jobs that are taken. */
void store_rest(struct store *s);

/* Returns when all that was submitted is done and the database closed. What was not taken back is
 * dropped. */
void store_close(struct store *s);

/* A job with so many empty statements; NULL when out of memory. */
struct store_job *store_job_create(size_t statements);
void store_job_destroy(struct store_job *job);

/* Sets the SQL of a statement, with room for its parameters, which are NULL. Returns 0 or -ENOMEM.
 */
int store_statement_init(struct store_statement *s, const char *sql, size_t width, size_t times);

/* Sets the SQL of a statement, with room for so many bytes of packed rows, and the kinds of their
 * columns. Returns 0 or -ENOMEM. */
int store_statement_pack(struct store_statement *s, const char *sql, const char *kinds, size_t len);

/* Gives it a second one. Returns 0 or -ENOMEM. */
int store_statement_pair(struct store_statement *s, const char *also);

/* Gets memory for the texts and bytes of all parameters, which are then to be put there. Returns 0
 * or -ENOMEM. */
int store_statement_reserve(struct store_statement *s, size_t bytes);

/* Makes a value a copy of some text (STORE_TEXT) or bytes (STORE_BLOB). Returns 0 or -ENOMEM. */
int store_value_copy(struct store_value *v, enum store_type type, const char *data, size_t len);

#endif
