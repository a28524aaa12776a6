#include "file.h"
#include "output_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* They take the place of the C library's: they count, and fail when asked to. */
static int syncs, directory_syncs;
static int failing_sync; /* which one fails, counted from now; 0 = none */

int fsync(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        directory_syncs++;
    else
        syncs++;
    if (failing_sync > 0 && --failing_sync == 0) {
        errno = EIO;
        return -1;
    }
    return 0;
}

int fdatasync(int fd)
{
    return fsync(fd);
}

static int enter_anew(void **state)
{
    syncs = directory_syncs = failing_sync = 0;
    return enter(state);
}

static void a_window_is_synced_before_it_counts(void **state)
{
    (void)state;
    struct output *o = opened("a/b/x", OUTPUT_REPLACE, -1);
    assert_int_equal(directory_syncs, 3); /* of a and b, which were made, and of x.part */
    assert_int_equal(syncs, 0);
    assert_int_equal(add(o, "1\n", ""), 0);
    assert_int_equal(syncs, 1);
    assert_int_equal(output_size(o), 2);
    struct bytes text = bytes_of("2\n"), none = {0};
    assert_int_equal(output_write(o, &text, &none, false), 0);
    assert_int_equal(syncs, 1);
    assert_text("a/b/x.part", "1\n2\n");
    assert_int_equal(finish(o, ""), 0);
    assert_int_equal(syncs, 2);
    assert_int_equal(directory_syncs, 4);
    assert_true(output_is_finished(o));
    assert_int_equal(finish(o, ""), 0);
    assert_int_equal(syncs, 2);
    output_close(o, true);
    assert_text("a/b/x", "1\n2\n");
}

static void a_closer_gives_way(void **state)
{
    (void)state;
    struct output *o = opened("x", OUTPUT_REPLACE, -1);
    assert_int_equal(add(o, "[1", "]"), 0);
    assert_text("x.part", "[1]");
    assert_int_equal(output_size(o), 2);
    assert_int_equal(add(o, ",2", "]"), 0);
    assert_text("x.part", "[1,2]");
    output_close(o, false);
    o = opened("x", OUTPUT_REPLACE, 2);
    assert_text("x.part", "[1,2]"); /* until it is written to */
    assert_int_equal(finish(o, "]"), 0);
    output_close(o, false);
    assert_text("x", "[1]");
}

/* A limit on the size of files is a disk that is full. */
static void limit_files(rlim_t size)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = size == 0 ? limit.rlim_max : size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void fill_disk(enum output_mode mode, const char *file, const char *want)
{
    struct output *o = opened("x", mode, -1);
    assert_int_equal(add(o, "1\n", ""), 0);
    int64_t size = output_size(o);
    limit_files(13);
    int rc = add(o, "0123456789abcdef\n", "");
    limit_files(0);
    assert_int_equal(rc, -EFBIG);
    assert_text(file, want);
    assert_int_equal(add(o, "2\n", ""), -EFBIG);
    assert_int_equal(finish(o, ""), -EFBIG);
    output_close(o, false);
    assert_text(file, want);
    o = opened("x", mode, size);
    assert_int_equal(add(o, "2\n", ""), 0);
    assert_int_equal(finish(o, ""), 0);
    output_close(o, false);
}

static void a_full_disk_leaves_whole_windows(void **state)
{
    (void)state;
    put("x", "0\n");
    fill_disk(OUTPUT_APPEND, "x", "0\n1\n");
    assert_text("x", "0\n1\n2\n");
    fill_disk(OUTPUT_REPLACE, "x.part", "1\n");
    assert_text("x", "1\n2\n");
}

static void a_failed_sync_is_for_good(void **state)
{
    (void)state;
    struct output *o = opened("x", OUTPUT_REPLACE, -1);
    assert_int_equal(add(o, "1\n", ""), 0);
    failing_sync = 1;
    assert_int_equal(add(o, "2\n", ""), -EIO);
    assert_int_equal(add(o, "3\n", ""), -EIO); /* what was lost does not come back */
    assert_int_equal(finish(o, ""), -EIO);
    output_close(o, false);
    assert_missing("x");

    o = opened("x", OUTPUT_REPLACE, 2);
    failing_sync = 1;
    assert_int_equal(finish(o, ""), -EIO);
    output_close(o, false);
    assert_missing("x");
    o = opened("x", OUTPUT_REPLACE, 2);
    failing_sync = 2; /* the directory's: renamed, but perhaps not for good */
    assert_int_equal(finish(o, ""), -EIO);
    output_close(o, true);
    assert_text("x", "1\n");
    struct output_options options = {.path = "x", .resume = 2};
    assert_int_equal(output_open(&o, &options), FILE_GONE);
    options.finishing = true;
    assert_int_equal(output_open(&o, &options), 0);
    assert_true(output_is_finished(o));
    output_close(o, false);
}

static void a_widening_that_fails_leaves_what_was_committed(void **state)
{
    (void)state;
    put("x", "old\n");
    struct widen widen = {.header = bytes_of("a,b\r\n"), .columns = 2, .delimiter = ','};
    struct bytes none = {0};
    struct output *o = opened("x", OUTPUT_REPLACE, -1);
    assert_int_equal(add(o, "a\r\n1\r\n", ""), 0);
    failing_sync = 2; /* that of the widened file */
    assert_int_equal(output_finish(o, &none, &widen), -EIO);
    output_close(o, false);
    assert_text("x", "old\n");
    assert_text("x.part", "a\r\n1\r\n");
    assert_missing("x.part.wide");
    put("x.part.wide", "left by a crash");
    o = opened("x", OUTPUT_REPLACE, 6);
    failing_sync = 3; /* that of the directory: it has its name */
    assert_int_equal(output_finish(o, &none, &widen), -EIO);
    output_close(o, false);
    assert_text("x", "a,b\r\n1,\r\n");
    o = opened("x", OUTPUT_REPLACE, 6);
    assert_int_equal(output_finish(o, &none, &widen), 0);
    output_close(o, false);
    assert_text("x", "a,b\r\n1,\r\n");
    assert_missing("x.part");
}

/* Stdout -------------------------------------------------------------------------------------- */

static void stdout_waits_for_its_reader(void **state)
{
    (void)state;
    enum { LINES = 5000, LENGTH = 60 };
    int ends[2];
    bool cancelled = false;
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[1], F_SETFL, O_NONBLOCK), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[1]);
        char chunk[4096];
        size_t total = 0;
        for (ssize_t n; (n = read(ends[0], chunk, sizeof chunk)) > 0; total += (size_t)n)
            ;
        _exit(total == LINES * LENGTH ? 0 : 1);
    }
    close(ends[0]);
    char line[LENGTH + 1];
    memset(line, 'x', LENGTH);
    line[LENGTH] = '\0';
    int stop = eventfd(0, EFD_CLOEXEC);
    struct output_options options = {
        .mode = OUTPUT_STDOUT, .resume = -1, .stop = stop, .cancelled = &cancelled};
    struct output *o;
    int saved = take_stdout(ends[1]);
    close(ends[1]);
    int rc = output_open(&o, &options);
    for (int i = 0; i < LINES && rc == 0; i++)
        rc = add(o, line, "");
    int finished = finish(o, "");
    output_close(o, true);
    give_stdout(saved);
    close(stop);
    assert_int_equal(rc, 0);
    assert_int_equal(finished, 0);
    assert_false(cancelled);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(syncs, 0);
}

static void stdout_without_a_reader_is_an_error(void **state)
{
    (void)state;
    int ends[2];
    bool cancelled = false;
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    int stop = eventfd(0, EFD_CLOEXEC);
    struct output_options options = {
        .mode = OUTPUT_STDOUT, .resume = -1, .stop = stop, .cancelled = &cancelled};
    struct output *o;
    int saved = take_stdout(ends[1]);
    close(ends[1]);
    int rc = output_open(&o, &options);
    int written = add(o, "1\n", "");
    int again = add(o, "1\n", "");
    output_close(o, false);
    give_stdout(saved);
    close(stop);
    assert_int_equal(rc, 0);
    assert_int_equal(written, -EPIPE);
    assert_int_equal(again, -EPIPE);
    assert_string_equal(file_strerror(-EPIPE), "its reader has gone");
}

#undef TEST
#define TEST(name) cmocka_unit_test_setup_teardown(name, enter_anew, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_window_is_synced_before_it_counts),
        TEST(a_closer_gives_way),
        TEST(a_full_disk_leaves_whole_windows),
        TEST(a_failed_sync_is_for_good),
        TEST(a_widening_that_fails_leaves_what_was_committed),
        TEST(stdout_waits_for_its_reader),
        TEST(stdout_without_a_reader_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
