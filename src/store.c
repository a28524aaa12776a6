#include "store.h"

#include "database.h"
#include "insert.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    GROUP = 512, /* jobs at most that are committed together, so that the first need not wait */
    READS = 64,  /* that see the same snapshot, so that the log need not grow for it */
};

TAILQ_HEAD(job_list, store_job);

struct store {
    uv_async_t async; /* first: free_store, its close_cb, frees all of this */
    void (*on_done)(void *ctx);
    void *ctx;              /* borrowed until store_close */
    struct database writer; /* the thread's, once that runs */
    struct database reader; /* the loop's; opened when it is first needed */
    char *path;             /* owned */
    bool functions;         /* as in the options it was opened with */
    bool snapshots;         /* likewise */
    int reads;              /* left of the reader's transaction; 0 when it has none */
    pthread_t thread;
    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t more;
    struct job_list queued, done;
    bool closing;
};

/* Statements ---------------------------------------------------------------------------------- */

/* Parameters beyond the row are NULL. */
static int bind_row(sqlite3_stmt *stmt, const struct store_value *row, size_t width)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; i < width && rc == SQLITE_OK; i++) {
        const struct store_value *v = &row[i];
        const char *data = v->data ? v->data : "";
        int at = (int)i + 1;
        switch (v->type) {
        case STORE_NULL:
            rc = sqlite3_bind_null(stmt, at);
            break;
        case STORE_INTEGER:
            rc = sqlite3_bind_int64(stmt, at, v->integer);
            break;
        case STORE_REAL:
            rc = sqlite3_bind_double(stmt, at, v->real);
            break;
        case STORE_TEXT:
            rc = sqlite3_bind_text64(stmt, at, data, v->len, SQLITE_STATIC, SQLITE_UTF8);
            break;
        case STORE_BLOB:
            rc = sqlite3_bind_blob64(stmt, at, data, v->len, SQLITE_STATIC);
            break;
        }
    }
    return rc;
}

static int take_cell(struct store_value *v, sqlite3_stmt *stmt, int column)
{
    const void *data = NULL;
    switch (sqlite3_column_type(stmt, column)) {
    case SQLITE_INTEGER:
        v->type = STORE_INTEGER;
        v->integer = sqlite3_column_int64(stmt, column);
        return SQLITE_OK;
    case SQLITE_FLOAT:
        v->type = STORE_REAL;
        v->real = sqlite3_column_double(stmt, column);
        return SQLITE_OK;
    case SQLITE_TEXT:
        v->type = STORE_TEXT;
        data = sqlite3_column_text(stmt, column);
        if (!data) /* an empty one is not NULL */
            return SQLITE_NOMEM;
        break;
    case SQLITE_BLOB:
        v->type = STORE_BLOB;
        data = sqlite3_column_blob(stmt, column);
        if (!data && sqlite3_errcode(sqlite3_db_handle(stmt)) == SQLITE_NOMEM)
            return SQLITE_NOMEM;
        break;
    default:
        v->type = STORE_NULL;
        return SQLITE_OK;
    }
    v->len = data ? (size_t)sqlite3_column_bytes(stmt, column) : 0;
    v->data = malloc(v->len + 1);
    if (!v->data)
        return SQLITE_NOMEM;
    if (v->len)
        memcpy(v->data, data, v->len);
    return SQLITE_OK;
}

static void drop_cells(struct store_job *job)
{
    for (size_t i = 0; i < job->rows * job->width; i++)
        free(job->cells[i].data);
    free(job->cells);
    job->cells = NULL;
    job->rows = job->width = job->cap = 0;
}

static int take_row(struct store_job *job, sqlite3_stmt *stmt)
{
    size_t width = job->width;
    if ((job->rows + 1) * width > job->cap) {
        size_t cap = job->cap ? job->cap * 2 : width * 4;
        struct store_value *cells = realloc(job->cells, cap * sizeof *cells);
        if (!cells)
            return SQLITE_NOMEM;
        job->cells = cells;
        job->cap = cap;
    }
    struct store_value *row = &job->cells[job->rows * width];
    memset(row, 0, width * sizeof *row);
    job->rows++;
    int rc = SQLITE_OK;
    for (size_t i = 0; i < width && rc == SQLITE_OK; i++)
        rc = take_cell(&row[i], stmt, (int)i);
    return rc;
}

/* Runs one for one row. `first` says whether the next row it gives is the first of its statement.
 */
static int run_row(sqlite3_stmt *stmt, const struct store_value *row, size_t width,
                   struct store_job *job, bool *first)
{
    sqlite3 *db = sqlite3_db_handle(stmt);
    int64_t before = sqlite3_total_changes64(db);
    int rc = bind_row(stmt, row, width);
    while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        if (sqlite3_column_count(stmt) == 0) /* PRAGMA incremental_vacuum, a page a step */
            continue;
        if (*first) {
            drop_cells(job);
            job->width = (size_t)sqlite3_column_count(stmt);
            *first = false;
        }
        rc = take_row(job, stmt);
    }
    if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    /* Statements that change no rows leave the count of the last one that did. */
    if (rc == SQLITE_OK && sqlite3_total_changes64(db) != before)
        job->changes += sqlite3_changes64(db);
    (void)sqlite3_reset(stmt); /* it repeats the error of the step */
    return rc;
}

static int run_statement(struct database *d, const struct store_statement *s, struct store_job *job)
{
    sqlite3_stmt *stmt, *also = NULL;
    size_t width = s->width;
    bool first = true, also_first = true;
    if (s->kinds)
        return insert_packed(d, s->sql, s->kinds, s->packed, s->packed_len);
    int rc = database_prepare(d, s->sql, &stmt);
    if (rc == SQLITE_OK && s->also) { /* which leaves the last one that was prepared as it is */
        rc = database_prepare(d, s->also, &also);
        size_t takes = rc == SQLITE_OK ? (size_t)sqlite3_bind_parameter_count(stmt) : 0;
        if (takes < width)
            width = takes;
    }
    if (rc != SQLITE_OK)
        return rc;
    for (size_t i = 0; i < s->times && rc == SQLITE_OK; i++) {
        const struct store_value *row = s->params + i * s->width;
        rc = run_row(stmt, row, width, job, &first);
        if (also && rc == SQLITE_OK)
            rc = run_row(also, row, s->width, job, &also_first);
    }
    (void)sqlite3_clear_bindings(stmt);
    if (also)
        (void)sqlite3_clear_bindings(also);
    return rc;
}

static void forget_outcome(struct store_job *job)
{
    drop_cells(job);
    job->changes = 0;
    job->rc = 0;
}

static void fail(struct store_job *job, int rc, const char *message)
{
    forget_outcome(job);
    job->rc = rc;
    snprintf(job->message, sizeof job->message, "%s", message);
}

static int run_statements(struct database *d, struct store_job *job)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; i < job->count && rc == SQLITE_OK; i++)
        rc = run_statement(d, &job->statements[i], job);
    if (rc != SQLITE_OK)
        fail(job, rc, rc == SQLITE_MISUSE ? "not one SQL statement" : database_message(d, rc));
    return rc;
}

/* The thread ---------------------------------------------------------------------------------- */

static void roll_back(struct database *d)
{
    if (!sqlite3_get_autocommit(d->db)) /* some errors have done it already */
        (void)database_run(d, "ROLLBACK");
}

/* Runs a job in a transaction of its own. */
static void run_alone(struct database *d, struct store_job *job)
{
    int rc = database_run(d, "BEGIN IMMEDIATE");
    if (rc == SQLITE_OK && run_statements(d, job) != SQLITE_OK) {
        roll_back(d);
        return;
    }
    if (rc == SQLITE_OK) /* a statement may have ended the transaction behind our back */
        rc = sqlite3_get_autocommit(d->db) ? SQLITE_ABORT : database_run(d, "COMMIT");
    if (rc != SQLITE_OK) {
        fail(job, rc, database_message(d, rc));
        roll_back(d);
    }
}

/* Runs a job as a part of the transaction. Returns 0 when it is done or undone as a whole; a code
 * when that cannot be told, or the transaction is lost. */
static int run_part(struct database *d, struct store_job *job)
{
    int rc = database_run(d, "SAVEPOINT job");
    if (rc != SQLITE_OK)
        return rc;
    int failed = run_statements(d, job);
    if (sqlite3_get_autocommit(d->db)) /* by itself, as it does when the disk is full */
        return failed ? failed : SQLITE_ABORT;
    if (failed)
        rc = database_run(d, "ROLLBACK TO job");
    if (rc == SQLITE_OK)
        rc = database_run(d, "RELEASE job");
    return rc;
}

/* Another process has kept the database for so long that nobody waits once more. */
static bool is_busy(int rc)
{
    return (rc & 0xff) == SQLITE_BUSY;
}

static void run_each(struct database *d, struct job_list *jobs)
{
    struct store_job *job;
    int rc = SQLITE_OK;
    TAILQ_FOREACH (job, jobs, link) {
        forget_outcome(job);
        if (is_busy(rc)) {
            fail(job, rc, database_message(d, rc));
            continue;
        }
        run_alone(d, job);
        rc = job->rc;
    }
}

static const char MOVED[] = "it was deleted or replaced while it was in use";

/* Whether what others see by its name is another file, or none. */
static bool is_moved(struct database *d)
{
    int moved = 0;
    (void)sqlite3_file_control(d->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    return moved;
}

/* All of them in one transaction. When that fails they are run one by one, so that none suffers
 * from another's fault. */
static void run_group(struct database *d, struct job_list *jobs)
{
    struct store_job *job = TAILQ_FIRST(jobs);
    if (is_moved(d)) { /* SQLite would go on in the file that nobody sees */
        TAILQ_FOREACH (job, jobs, link)
            fail(job, SQLITE_READONLY_DBMOVED, MOVED);
        return;
    }
    if (!TAILQ_NEXT(job, link)) {
        run_alone(d, job);
        return;
    }
    int rc = database_run(d, "BEGIN IMMEDIATE");
    if (is_busy(rc)) {
        TAILQ_FOREACH (job, jobs, link)
            fail(job, rc, database_message(d, rc));
        return;
    }
    for (; job && rc == SQLITE_OK; job = TAILQ_NEXT(job, link))
        rc = run_part(d, job);
    if (rc == SQLITE_OK)
        rc = database_run(d, "COMMIT");
    if (rc != SQLITE_OK) {
        roll_back(d);
        run_each(d, jobs);
    }
}

static void move(struct job_list *to, struct job_list *from, int most)
{
    struct store_job *job;
    while (most-- > 0 && (job = TAILQ_FIRST(from))) {
        TAILQ_REMOVE(from, job, link);
        TAILQ_INSERT_TAIL(to, job, link);
    }
}

static void *work(void *ctx)
{
    struct store *s = ctx;
    struct job_list jobs = TAILQ_HEAD_INITIALIZER(jobs);

    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (TAILQ_EMPTY(&s->queued) && !s->closing)
            pthread_cond_wait(&s->more, &s->lock);
        if (TAILQ_EMPTY(&s->queued))
            break;
        move(&jobs, &s->queued, GROUP);
        pthread_mutex_unlock(&s->lock);
        run_group(&s->writer, &jobs);
        pthread_mutex_lock(&s->lock);
        TAILQ_CONCAT(&s->done, &jobs, link);
        uv_async_send(&s->async);
    }
    pthread_mutex_unlock(&s->lock);
    database_close(&s->writer); /* the last of all processes puts the log into the database */
    return NULL;
}

/* The process's signals are for the other threads. */
static int start_thread(struct store *s)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&s->thread, NULL, work, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

/* Jobs ---------------------------------------------------------------------------------------- */

void store_submit(struct store *s, struct store_job *job)
{
    pthread_mutex_lock(&s->lock);
    TAILQ_INSERT_TAIL(&s->queued, job, link);
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
}

struct store_job *store_peek(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct store_job *job = TAILQ_FIRST(&s->done);
    pthread_mutex_unlock(&s->lock);
    return job;
}

struct store_job *store_take(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    struct store_job *job = TAILQ_FIRST(&s->done);
    if (job)
        TAILQ_REMOVE(&s->done, job, link);
    pthread_mutex_unlock(&s->lock);
    if (job)
        store_rest(s); /* what it wrote is to be seen */
    return job;
}

/* Opens the reader, or begins its transaction. */
static int begin_reading(struct store *s, struct store_job *job)
{
    int rc = s->reader.db ? SQLITE_OK : database_open_reader(&s->reader, s->path, s->functions);
    if (rc != SQLITE_OK) {
        fail(job, rc, database_message(&s->reader, rc));
        database_close(&s->reader);
        return rc;
    }
    if (is_moved(&s->reader)) {
        fail(job, SQLITE_READONLY_DBMOVED, MOVED);
        return SQLITE_READONLY_DBMOVED;
    }
    if (s->snapshots && database_run(&s->reader, "BEGIN") == SQLITE_OK)
        s->reads = READS;
    return SQLITE_OK;
}

void store_read(struct store *s, struct store_job *job)
{
    if (s->reads == 0 && begin_reading(s, job) != SQLITE_OK)
        return;
    int rc = run_statements(&s->reader, job);
    if (s->reads > 0 && (--s->reads == 0 || rc != SQLITE_OK))
        store_rest(s);
}

void store_rest(struct store *s)
{
    if (s->reader.db && !sqlite3_get_autocommit(s->reader.db))
        (void)database_run(&s->reader, "COMMIT"); /* nothing was written that could be lost */
    s->reads = 0;
}

struct store_job *store_job_create(size_t statements)
{
    struct store_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->statements = calloc(statements ? statements : 1, sizeof *job->statements);
    if (!job->statements) {
        free(job);
        return NULL;
    }
    job->count = statements;
    return job;
}

void store_job_destroy(struct store_job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->count; i++) {
        struct store_statement *s = &job->statements[i];
        for (size_t k = 0; s->params && !s->bytes && k < s->width * s->times; k++)
            free(s->params[k].data);
        free(s->bytes);
        free(s->params);
        free(s->packed);
        free(s->kinds);
        free(s->sql);
        free(s->also);
    }
    free(job->statements);
    drop_cells(job);
    free(job);
}

int store_statement_init(struct store_statement *s, const char *sql, size_t width, size_t times)
{
    size_t count = width * times;
    *s = (struct store_statement){.sql = strdup(sql), .width = width, .times = times};
    if (count > 0)
        s->params = calloc(count, sizeof *s->params);
    return s->sql && (s->params || count == 0) ? 0 : -ENOMEM;
}

int store_statement_pack(struct store_statement *s, const char *sql, const char *kinds, size_t len)
{
    *s = (struct store_statement){.sql = strdup(sql), .packed_len = len};
    s->kinds = strdup(kinds);
    s->packed = malloc(len + 1);
    return s->sql && s->kinds && s->packed ? 0 : -ENOMEM;
}

int store_statement_pair(struct store_statement *s, const char *also)
{
    s->also = strdup(also);
    return s->also ? 0 : -ENOMEM;
}

int store_statement_reserve(struct store_statement *s, size_t bytes)
{
    s->bytes = malloc(bytes + 1);
    return s->bytes ? 0 : -ENOMEM;
}

int store_value_copy(struct store_value *v, enum store_type type, const char *data, size_t len)
{
    *v = (struct store_value){.type = type, .len = len, .data = malloc(len + 1)};
    if (!v->data)
        return -ENOMEM;
    memcpy(v->data, data, len);
    return 0;
}

/* Opening and closing ------------------------------------------------------------------------- */

static void on_async(uv_async_t *async)
{
    struct store *s = (struct store *)async;
    s->on_done(s->ctx);
}

static void free_store(uv_handle_t *handle)
{
    struct store *s = (struct store *)handle;
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->more);
    free(s->path);
    free(s);
}

int store_open(struct store **out, uv_loop_t *loop, const char *path,
               const struct database_options *options, void (*on_done)(void *ctx), void *ctx,
               char *why, size_t size)
{
    struct store *s = calloc(1, sizeof *s);
    if (!s) {
        snprintf(why, size, "%s", strerror(ENOMEM));
        return DATABASE_FAILED;
    }
    s->on_done = on_done;
    s->ctx = ctx;
    s->functions = options->functions;
    s->snapshots = options->snapshots;
    TAILQ_INIT(&s->queued);
    TAILQ_INIT(&s->done);
    int rc = database_open(&s->writer, path, options, why, size);
    if (rc != DATABASE_OPENED) {
        free(s);
        return rc;
    }
    s->path = strdup(s->writer.path);
    rc = s->path ? uv_async_init(loop, &s->async, on_async) : UV_ENOMEM;
    if (rc) {
        snprintf(why, size, "%s", strerror(-rc));
        database_close(&s->writer);
        free(s->path);
        free(s);
        return DATABASE_FAILED;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    rc = start_thread(s);
    if (rc) {
        snprintf(why, size, "%s", strerror(rc));
        database_close(&s->writer);
        uv_close((uv_handle_t *)&s->async, free_store);
        return DATABASE_FAILED;
    }
    *out = s;
    return 0;
}

void store_close(struct store *s)
{
    struct store_job *job;
    database_close(&s->reader); /* first: the last connection puts the log into the database */
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    while ((job = store_take(s)))
        store_job_destroy(job);
    uv_close((uv_handle_t *)&s->async, free_store);
}
