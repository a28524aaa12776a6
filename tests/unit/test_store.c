#include "store_fixture.h"

#include <sys/resource.h>

static void values_come_back_as_they_were(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    struct store_job *job = store_job_create(2);
    assert_non_null(job);
    struct store_statement *s = &job->statements[0];
    assert_int_equal(store_statement_init(s, "INSERT INTO t(v) VALUES(?1)", 1, 9), 0);
    s->params[1] = (struct store_value){.type = STORE_INTEGER, .integer = INT64_MIN};
    s->params[2] = (struct store_value){.type = STORE_INTEGER, .integer = INT64_MAX};
    s->params[3] = (struct store_value){.type = STORE_REAL, .real = 0.1};
    assert_int_equal(store_value_copy(&s->params[4], STORE_TEXT, "", 0), 0);
    assert_int_equal(store_value_copy(&s->params[5], STORE_TEXT, "a\0\xc3\xa4", 4), 0);
    assert_int_equal(store_value_copy(&s->params[6], STORE_BLOB, "", 0), 0);
    assert_int_equal(store_value_copy(&s->params[7], STORE_BLOB, "\xff\0\xfe", 3), 0);
    s->params[8].type = STORE_TEXT; /* without data */
    assert_int_equal(
        store_statement_init(&job->statements[1], "SELECT v, k FROM t ORDER BY k", 0, 1), 0);
    do_job(f, job);
    assert_int_equal(job->rc, 0);
    assert_int_equal(job->changes, 9);
    assert_int_equal(job->rows, 9);
    assert_int_equal(job->width, 2);
    for (size_t i = 0; i < 9; i++) {
        const struct store_value *put = &s->params[i], *got = &job->cells[2 * i];
        assert_int_equal(got->type, put->type);
        assert_true(got->integer == put->integer);
        assert_true(got->real == put->real);
        assert_int_equal(got->len, put->len);
        if (put->len)
            assert_memory_equal(got->data, put->data, put->len);
        assert_int_equal(got[1].integer, i + 1);
    }
    store_job_destroy(job);
}

static void a_job_has_the_rows_of_its_last_statement_with_any(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    struct store_job *job =
        do_job(f, job_of(1, 4, "VALUES(1), (2)", "INSERT INTO t(v) VALUES(1), (2), (3)",
                         "UPDATE t SET v = v + 1 WHERE v > 1 RETURNING v", "CREATE TABLE w(v)"));
    assert_int_equal(job->rc, 0);
    assert_int_equal(job->rows, 2);
    assert_int_equal(job->cells[0].integer, 3);
    assert_int_equal(job->cells[1].integer, 4);
    assert_int_equal(job->changes, 5);
    store_job_destroy(job);
    job = do_job(f, job_of(1, 0));
    assert_int_equal(job->rc, 0);
    store_job_destroy(job);
}

static void jobs_are_told_in_order_after_they_are_committed(void **state)
{
    enum { MANY = 2000 };
    struct fixture *f = *state;
    reopen(f, &plain);
    for (int i = 1; i <= MANY; i++)
        store_submit(f->store, job_of(-i, 1, "INSERT INTO t(v) VALUES(1)"));
    for (int i = 1; i <= MANY; i++) {
        struct store_job *job = next(f);
        assert_int_equal(job->id, -i);
        assert_int_equal(job->rc, 0);
        store_job_destroy(job);
        if (i % 100 == 0)
            assert_true(read_integer(f, "SELECT count(*) FROM t") >= i);
    }
    assert_true(f->told > 0);
    assert_true(f->told < MANY); /* they went in groups */
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), MANY);
}

/* Submits them all before the thread can begin, so that they are one group. */
static void submit_together(struct fixture *f, struct store_job *const *jobs, size_t count)
{
    sqlite3 *other;
    assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    store_submit(f->store, job_of(0, 1, "SELECT 1"));
    usleep(20000); /* it waits for the other connection, alone */
    for (size_t i = 0; i < count; i++)
        store_submit(f->store, jobs[i]);
    assert_null(store_peek(f->store));
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
    struct store_job *first = next(f);
    assert_int_equal(first->id, 0);
    assert_int_equal(first->rc, 0);
    store_job_destroy(first);
}

/* A job that fails in some way is undone as a whole, and the others are not touched. */
static void one_fails(struct fixture *f, struct store_job *bad, int rc)
{
    struct store_job *jobs[] = {
        job_of(1, 2, "INSERT INTO t(k, v) VALUES(1, 'a')", "SELECT k FROM t WHERE k = 1"),
        bad,
        job_of(3, 1, "INSERT INTO t(k, v) VALUES(3, 'c')"),
    };
    submit_together(f, jobs, 3);
    for (int i = 0; i < 3; i++) {
        struct store_job *job = next(f);
        assert_ptr_equal(job, jobs[i]);
        assert_int_equal(job->rc & 0xff, i == 1 ? rc : 0);
        assert_int_equal(job->changes, i != 1);
        assert_int_equal(job->rows, i == 0);
        assert_true(strlen(job->message) > 0 || i != 1);
        store_job_destroy(job);
    }
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 2);
    assert_int_equal(read_integer(f, "SELECT sum(k) FROM t"), 4);
    done(f, "DELETE FROM t");
}

static void a_job_that_fails_is_undone_alone(void **state)
{
    struct fixture *f = *state;
    const char *insert = "INSERT INTO t(k, v) VALUES(9, 'z') RETURNING k";
    reopen(f, &plain);
    one_fails(f, job_of(2, 2, insert, "SELECT * FROM nowhere"), SQLITE_ERROR);
    one_fails(f, job_of(2, 2, insert, "SELECT 1; SELECT 2"), SQLITE_MISUSE);
    one_fails(f, job_of(2, 2, insert, " "), SQLITE_MISUSE);
    one_fails(f, job_of(2, 2, insert, insert), SQLITE_CONSTRAINT);
    /* These end the transaction of all of them. */
    one_fails(f, job_of(2, 2, insert, "INSERT OR ROLLBACK INTO t(k) VALUES(9)"), SQLITE_CONSTRAINT);
    one_fails(f, job_of(2, 2, insert, "ROLLBACK"), SQLITE_ABORT);
    /* A parameter too many. */
    struct store_job *job = job_of(2, 2, insert, insert);
    free(job->statements[1].sql);
    assert_int_equal(store_statement_init(&job->statements[1], "SELECT ?1", 2, 1), 0);
    one_fails(f, job, SQLITE_RANGE);
}

static void a_full_disk_fails_what_does_not_fit(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    done(f, "PRAGMA max_page_count=20");
    one_fails(f, job_of(2, 1, "INSERT INTO t(k, v) VALUES(9, zeroblob(1000000))"), SQLITE_FULL);
    assert_string_equal(database_code(SQLITE_FULL), "full");
}

static void want_of_memory_fails_what_needs_it(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    done(f, "INSERT INTO t(k, v) VALUES(9, zeroblob(30000000))");
    sqlite3_hard_heap_limit64(sqlite3_memory_used() + 10000000);
    struct store_job *job = do_job(f, job_of(1, 1, "SELECT hex(v) FROM t"));
    assert_int_equal(job->rc, SQLITE_NOMEM);
    assert_int_equal(job->rows, 0);
    store_job_destroy(job);
    done(f, "DELETE FROM t");
    one_fails(f, job_of(2, 1, "INSERT INTO t(k, v) VALUES(9, hex(zeroblob(30000000)))"),
              SQLITE_NOMEM);
    sqlite3_hard_heap_limit64(0);
}

static void an_error_of_the_disk_fails_what_meets_it(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, small = {300000, RLIM_INFINITY};
    reopen(f, &plain);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    one_fails(f, job_of(2, 1, "INSERT INTO t(k, v) VALUES(9, zeroblob(1000000))"), SQLITE_IOERR);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_string_equal(database_code(SQLITE_IOERR_WRITE), "io");
}

static void another_process_is_waited_for(void **state)
{
    struct fixture *f = *state;
    struct database_options impatient = plain;
    impatient.busy_ms = 50;
    reopen(f, &impatient);
    sqlite3 *other;
    assert_int_equal(sqlite3_open(f->path, &other), SQLITE_OK);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    struct store_job *jobs[] = {job_of(1, 1, "INSERT INTO t(v) VALUES(1)"),
                                job_of(2, 1, "INSERT INTO t(v) VALUES(2)"),
                                job_of(3, 1, "INSERT INTO t(v) VALUES(3)")};
    for (int i = 0; i < 3; i++)
        store_submit(f->store, jobs[i]);
    for (int i = 0; i < 3; i++) {
        struct store_job *job = next(f);
        assert_int_equal(job->rc, SQLITE_BUSY);
        assert_string_equal(database_code(job->rc), "busy");
        store_job_destroy(job);
    }
    assert_int_equal(sqlite3_close(other), SQLITE_OK);
    done(f, "INSERT INTO t(v) VALUES(1)");
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 1);
}

static void many_statements_are_prepared(void **state)
{
    struct fixture *f = *state;
    char sql[64];
    reopen(f, &plain);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 2 * DATABASE_CACHED; i++) {
            snprintf(sql, sizeof sql, "SELECT %d", i);
            assert_int_equal(read_integer(f, sql), i);
            done(f, sql);
        }
    }
    /* One that was prepared before the schema changed. */
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
    done(f, "DROP TABLE t");
    done(f, "CREATE TABLE t(a, b, c)");
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
}

static void a_read_is_no_way_to_write(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    struct store_job *job = job_of(1, 1, "INSERT INTO t(v) VALUES(1)");
    store_read(f->store, job);
    assert_int_equal(job->rc & 0xff, SQLITE_READONLY);
    store_job_destroy(job);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
}

static void a_statement_may_be_followed_by_another(void **state)
{
    struct fixture *f = *state;
    struct database_options two = plain;
    two.version = 2;
    reopen(f, &two);
    struct store_job *job = store_job_create(1);
    struct store_statement *s = &job->statements[0];
    assert_int_equal(
        store_statement_init(s, "INSERT INTO t(k) SELECT ?1 WHERE ?1 % 2 RETURNING k", 2, 3), 0);
    assert_int_equal(
        store_statement_pair(
            s, "INSERT INTO u(v) SELECT ?1 * 100 + ?2 + changes() * last_insert_rowid() * 1000"),
        0);
    for (int i = 0; i < 6; i++)
        s->params[i] = (struct store_value){.type = STORE_INTEGER, .integer = i + 1};
    job = do_job(f, job); /* rows 1 2, 3 4, 5 6 */
    assert_int_equal(job->rc, 0);
    assert_int_equal(job->changes, 6);
    assert_int_equal(job->rows, 3);
    store_job_destroy(job);
    assert_int_equal(read_integer(f, "SELECT sum(v) FROM u"), 102 + 304 + 506 + 9000);

    static const char *const bad[] = {"INSERT INTO u(v) VALUES(?3)", "INSERT INTO none VALUES(?1)"};
    for (int i = 0; i < 2; i++) {
        job = store_job_create(1);
        s = &job->statements[0];
        assert_int_equal(store_statement_init(s, "INSERT INTO t(v) VALUES(?1)", 2, 1), 0);
        assert_int_equal(store_statement_pair(s, bad[i]), 0);
        job = do_job(f, job);
        assert_int_equal(job->rc == 0, i == 0); /* what is not given is NULL */
        store_job_destroy(job);
        assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 4);
    }
}

/* Another connection's write is seen when the reader rests, has read often enough, or a job was
 * taken; without snapshots at once. */
static void reads_share_a_snapshot(void **state)
{
    struct fixture *f = *state;
    struct database_options options = plain;
    struct database other;
    reopen(f, &plain);
    assert_int_equal(database_open(&other, f->path, &plain, f->why, sizeof f->why),
                     DATABASE_OPENED);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
    assert_int_equal(database_run(&other, "INSERT INTO t(v) VALUES(1)"), SQLITE_OK);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 1);
    shut(f);

    options.snapshots = true;
    reopen(f, &options);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 1);
    assert_int_equal(database_run(&other, "INSERT INTO t(v) VALUES(1)"), SQLITE_OK);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 1);
    store_rest(f->store);
    store_rest(f->store);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 2);
    done(f, "INSERT INTO t(v) VALUES(1)");
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 3);
    assert_int_equal(database_run(&other, "INSERT INTO t(v) VALUES(1)"), SQLITE_OK);
    int reads = 0;
    while (read_integer(f, "SELECT count(*) FROM t") == 3)
        assert_true(++reads < 100);

    struct store_job *job = job_of(1, 1, "SELECT * FROM none"); /* ends it as well */
    store_read(f->store, job);
    assert_int_equal(job->rc, SQLITE_ERROR);
    store_job_destroy(job);
    assert_int_equal(database_run(&other, "INSERT INTO t(v) VALUES(1)"), SQLITE_OK);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 5);
    shut(f); /* in the middle of one */
    database_close(&other);
}

static void a_database_that_shrinks_gives_pages_back(void **state)
{
    struct fixture *f = *state;
    struct database_options options = plain;
    options.shrinks = true;
    reopen(f, &options);
    done(f, "INSERT INTO t(v) VALUES(zeroblob(1000000))");
    int64_t before = read_integer(f, "PRAGMA page_count");
    done(f, "DELETE FROM t");
    assert_true(read_integer(f, "PRAGMA freelist_count") > 200);
    done(f, "PRAGMA incremental_vacuum(200)");
    assert_true(read_integer(f, "PRAGMA page_count") <= before - 200);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
}

static void closing_does_what_is_left_to_do(void **state)
{
    struct fixture *f = *state;
    char log[128];
    reopen(f, &plain);
    for (int i = 0; i < 100; i++)
        store_submit(f->store, job_of(i, 1, "INSERT INTO t(v) VALUES(1)"));
    assert_int_equal(read_integer(f, "SELECT 1"), 1); /* so that there are two connections */
    shut(f);
    snprintf(log, sizeof log, "%s-wal", f->path);
    assert_int_equal(access(log, F_OK), -1); /* all is in the database */
    reopen(f, &plain);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 100);
}

static void two_stores_of_a_process_share_a_database(void **state)
{
    struct fixture *f = *state;
    struct database_options durable = plain;
    durable.durable = true;
    reopen(f, &plain);
    struct store *first = f->store;
    reopen(f, &durable);
    done(f, "INSERT INTO t(v) VALUES(1)");
    shut(f);
    f->store = first;
    done(f, "INSERT INTO t(v) VALUES(2)");
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(values_come_back_as_they_were),
        TEST(a_job_has_the_rows_of_its_last_statement_with_any),
        TEST(jobs_are_told_in_order_after_they_are_committed),
        TEST(a_job_that_fails_is_undone_alone),
        TEST(a_full_disk_fails_what_does_not_fit),
        TEST(want_of_memory_fails_what_needs_it),
        TEST(an_error_of_the_disk_fails_what_meets_it),
        TEST(another_process_is_waited_for),
        TEST(many_statements_are_prepared),
        TEST(a_read_is_no_way_to_write),
        TEST(a_statement_may_be_followed_by_another),
        TEST(reads_share_a_snapshot),
        TEST(a_database_that_shrinks_gives_pages_back),
        TEST(closing_does_what_is_left_to_do),
        TEST(two_stores_of_a_process_share_a_database),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
