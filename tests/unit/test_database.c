#include "store_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

static unsigned mode_of(const char *path, const char *suffix)
{
    char name[128];
    struct stat st;
    snprintf(name, sizeof name, "%s%s", path, suffix);
    if (lstat(name, &st) != 0)
        fail_msg("%s: %s", name, strerror(errno));
    return st.st_mode & 0777;
}

static void files_are_private(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 2; i++) {
        reopen(f, &plain);
        done(f, "INSERT INTO t(v) VALUES(1)");
        assert_int_equal(mode_of(f->path, ""), 0600);
        assert_int_equal(mode_of(f->path, "-wal"), 0600);
        assert_int_equal(mode_of(f->path, "-shm"), 0600);
        shut(f);
        assert_int_equal(chmod(f->path, 0644), 0);
    }
}

static void shared_files_are_left_as_they_are(void **state)
{
    struct fixture *f = *state;
    const struct database_options shared = {.durable = true};
    int fd = open(f->path, O_CREAT | O_RDWR, 0640); /* empty */
    assert_true(fd >= 0);
    close(fd);
    reopen(f, &shared);
    done(f, "CREATE TABLE t(v)");
    assert_int_equal(mode_of(f->path, ""), 0640);
    shut(f);
    assert_int_equal(unlink(f->path), 0);
    reopen(f, &shared);
    done(f, "CREATE TABLE t(v)");
    assert_int_equal(mode_of(f->path, ""), 0666);
}

static void refused_as(struct fixture *f, int refusal)
{
    int rc = try_open(f, &plain);
    if (rc == 0)
        shut(f);
    if (rc != refusal)
        fail_msg("%d instead of %d (%s)", rc, refusal, f->why);
    assert_true(strlen(f->why) > 0);
}

static void links_are_not_followed(void **state)
{
    struct fixture *f = *state;
    char real[128];
    snprintf(real, sizeof real, "%s/real.db", f->dir);
    assert_int_equal(symlink(real, f->path), 0);
    refused_as(f, DATABASE_FAILED);
    assert_int_equal(access(real, F_OK), -1);
    assert_int_equal(unlink(f->path), 0);
    reopen(f, &plain);
    shut(f);
    assert_int_equal(rename(f->path, real), 0);
    assert_int_equal(symlink(real, f->path), 0);
    refused_as(f, DATABASE_FAILED);
    assert_int_equal(unlink(f->path), 0);
    assert_int_equal(mkdir(f->path, 0700), 0);
    refused_as(f, DATABASE_NOT_ONE);
    assert_int_equal(rmdir(f->path), 0);
    assert_int_equal(mkfifo(f->path, 0600), 0);
    refused_as(f, DATABASE_NOT_ONE);
    /* A directory may be one. */
    snprintf(real, sizeof real, "%s/link", f->dir);
    assert_int_equal(symlink(".", real), 0);
    snprintf(f->path, sizeof f->path, "%s/link/other.db", f->dir);
    reopen(f, &plain);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 0);
    shut(f);
    snprintf(f->path, sizeof f->path, "%s/none/state.db", f->dir);
    refused_as(f, DATABASE_FAILED);
}

static long size_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static void damaged_files_are_refused_and_left_alone(void **state)
{
    struct fixture *f = *state;
    static const long cuts[] = {0, 50, 511, 512, 4096, 8192};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        reopen(f, &plain);
        done(f, "INSERT INTO t(v) VALUES(zeroblob(10000))");
        shut(f);
        assert_int_equal(truncate(f->path, cuts[i]), 0);
        refused_as(f, DATABASE_CORRUPT);
        assert_int_equal(size_of(f->path), cuts[i]);
        assert_int_equal(unlink(f->path), 0);
    }
    /* Bytes in the b-tree of the table. */
    reopen(f, &plain);
    done(f, "INSERT INTO t(v) VALUES(1), (2), (3)");
    shut(f);
    int fd = open(f->path, O_RDWR);
    assert_int_equal(pwrite(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 4096), 8);
    close(fd);
    refused_as(f, DATABASE_CORRUPT);
    /* The head. */
    fd = open(f->path, O_RDWR);
    assert_int_equal(pwrite(fd, "something else", 14, 0), 14);
    close(fd);
    refused_as(f, DATABASE_NOT_ONE);
}

static void strangers_are_refused(void **state)
{
    struct fixture *f = *state;
    reopen(f, &plain);
    done(f, "PRAGMA user_version=2");
    shut(f);
    refused_as(f, DATABASE_NEWER);
    assert_non_null(strstr(f->why, "2"));
    struct database_options options = plain;
    options.version = 2;
    reopen(f, &options);
    done(f, "PRAGMA application_id=78");
    shut(f);
    refused_as(f, DATABASE_FOREIGN);
}

static void older_ones_are_migrated(void **state)
{
    struct fixture *f = *state;
    struct database_options newer = plain, broken = plain;
    newer.version = 2;
    reopen(f, &plain);
    done(f, "INSERT INTO t(v) VALUES(1)");
    shut(f);
    const char *const bad[] = {schema[0], "CREATE TABLE u(v); CREATE TABLE u(v)"};
    broken.migrations = bad;
    broken.version = 2;
    assert_int_equal(try_open(f, &broken), DATABASE_FAILED);
    reopen(f, &plain);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM sqlite_schema"), 1); /* as it was */
    shut(f);
    for (int i = 0; i < 2; i++) {
        reopen(f, &newer);
        assert_int_equal(read_integer(f, "SELECT more FROM t"), 7);
        assert_int_equal(read_integer(f, "SELECT count(*) FROM u"), 0);
        shut(f);
    }
    assert_int_equal(unlink(f->path), 0);
    reopen(f, &newer);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM u"), 0);
}

static void what_cannot_be_written_is_refused(void **state)
{
    struct fixture *f = *state;
    bool root = geteuid() == 0; /* who may write to everything */
    reopen(f, &plain);
    shut(f);
    assert_int_equal(chmod(f->path, 0444), 0);
    assert_int_equal(chmod(f->dir, 0555), 0);
    if (root) {
        assert_int_equal(chown(f->path, 65534, 65534), 0);
        assert_int_equal(chown(f->dir, 65534, 65534), 0);
        assert_int_equal(seteuid(65534), 0);
    }
    refused_as(f, DATABASE_READ_ONLY);
    snprintf(f->path, sizeof f->path, "%s/new.db", f->dir);
    refused_as(f, DATABASE_READ_ONLY);
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(f->dir, 0755), 0);
}

static void what_killed_processes_left_is_no_part_of_a_new_one(void **state)
{
    struct fixture *f = *state;
    static const char *const left[] = {"-wal", "-shm", "-journal", ".new", ".new-journal"};
    char name[128];
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        snprintf(name, sizeof name, "%s%s", f->path, left[i]);
        FILE *file = fopen(name, "w");
        assert_non_null(file);
        fputs("rubbish", file);
        fclose(file);
    }
    reopen(f, &plain);
    done(f, "INSERT INTO t(v) VALUES(1)");
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), 1);
    shut(f);
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        snprintf(name, sizeof name, "%s%s", f->path, left[i]);
        assert_int_equal(access(name, F_OK), -1);
    }
}

/* A process of its own: opens, adds rows, and is killed or ends. */
static void child(struct fixture *f, int rows, bool killed)
{
    if (try_open(f, &plain))
        _exit(1);
    for (int i = 0; i < rows; i++) {
        struct store_job *job = job_of(i, 1, "INSERT INTO t(v) VALUES(1)");
        store_submit(f->store, job);
        while (!store_peek(f->store))
            usleep(100);
        if (store_take(f->store)->rc)
            _exit(2);
    }
    if (killed)
        kill(getpid(), SIGKILL);
    store_close(f->store);
    _exit(0);
}

static void processes_open_it_at_once(void **state)
{
    enum { CHILDREN = 6, ROWS = 20 };
    struct fixture *f = *state;
    for (int i = 0; i < CHILDREN; i++)
        if (fork() == 0)
            child(f, ROWS, i % 2);
    for (int i = 0; i < CHILDREN; i++) {
        int status;
        assert_true(wait(&status) > 0);
        if (!WIFSIGNALED(status))
            assert_int_equal(WEXITSTATUS(status), 0);
    }
    reopen(f, &plain);
    assert_int_equal(read_integer(f, "SELECT count(*) FROM t"), CHILDREN * ROWS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(files_are_private),
        TEST(shared_files_are_left_as_they_are),
        TEST(links_are_not_followed),
        TEST(damaged_files_are_refused_and_left_alone),
        TEST(strangers_are_refused),
        TEST(older_ones_are_migrated),
        TEST(what_cannot_be_written_is_refused),
        TEST(what_killed_processes_left_is_no_part_of_a_new_one),
        TEST(processes_open_it_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
