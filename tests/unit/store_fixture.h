/*
 * A store in a directory of its own, on a loop, for test_store.c and test_database.c.
 */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include "database.h"
#include "loop.h"
#include "store.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const char *const schema[] = {
    "CREATE TABLE t(k INTEGER PRIMARY KEY, v)",
    "ALTER TABLE t ADD COLUMN more DEFAULT 7; CREATE TABLE u(v)",
};

static const struct database_options plain = {
    .mine = true, .busy_ms = 2000, .application_id = 77, .migrations = schema, .version = 1};

struct fixture {
    char dir[64], path[96];
    struct loop loop;
    struct store *store; /* NULL when it is closed */
    int told;            /* calls of on_done */
    char why[256];
};

/* The fixture ---------------------------------------------------------------------------------- */

static inline void on_done(void *ctx)
{
    struct fixture *f = ctx;
    f->told++;
}

static inline int try_open(struct fixture *f, const struct database_options *options)
{
    return store_open(&f->store, &f->loop.uv, f->path, options, on_done, f, f->why, sizeof f->why);
}

static inline void reopen(struct fixture *f, const struct database_options *options)
{
    int rc = try_open(f, options);
    if (rc)
        fail_msg("%d: %s", rc, f->why);
}

static inline void shut(struct fixture *f)
{
    store_close(f->store);
    f->store = NULL;
}

static inline int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    umask(0);
    strcpy(f->dir, "/tmp/test_store.XXXXXX");
    if (!mkdtemp(f->dir) || loop_init(&f->loop))
        return -1;
    snprintf(f->path, sizeof f->path, "%s/state.db", f->dir);
    *state = f;
    return 0;
}

static inline int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];
    if (f->store)
        store_close(f->store);
    int rc = loop_close(&f->loop);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    if (system(command) != 0)
        rc = -1;
    free(f);
    return rc;
}

/* Jobs ----------------------------------------------------------------------------------------- */

static inline struct store_job *job_of(int64_t id, size_t count, ...)
{
    struct store_job *job = store_job_create(count);
    assert_non_null(job);
    job->id = id;
    va_list sql;
    va_start(sql, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(store_statement_init(&job->statements[i], va_arg(sql, char *), 0, 1), 0);
    va_end(sql);
    return job;
}

/* Waits for the next job that is done. */
static inline struct store_job *next(struct fixture *f)
{
    struct store_job *job;
    while (!(job = store_peek(f->store)))
        loop_wait(&f->loop, 10);
    assert_ptr_equal(store_take(f->store), job);
    return job;
}

static inline struct store_job *do_job(struct fixture *f, struct store_job *job)
{
    store_submit(f->store, job);
    assert_ptr_equal(next(f), job);
    return job;
}

static inline void done(struct fixture *f, const char *sql)
{
    struct store_job *job = do_job(f, job_of(1, 1, sql));
    if (job->rc)
        fail_msg("%s: %s", sql, job->message);
    store_job_destroy(job);
}

/* The one integer a statement gives, read at once. */
static inline int64_t read_integer(struct fixture *f, const char *sql)
{
    struct store_job *job = job_of(1, 1, sql);
    store_read(f->store, job);
    if (job->rc)
        fail_msg("%s: %s", sql, job->message);
    assert_int_equal(job->rows * job->width, 1);
    assert_int_equal(job->cells[0].type, STORE_INTEGER);
    int64_t value = job->cells[0].integer;
    store_job_destroy(job);
    return value;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
