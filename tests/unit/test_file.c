#include "file.h"
#include "lua_file.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Takes the place of the C library's: counts, and fails when asked to. */
static int syncs;
static int failing_sync; /* which one fails, counted from now; 0 = none */

int fsync(int fd)
{
    (void)fd;
    syncs++;
    if (failing_sync > 0 && --failing_sync == 0) {
        errno = EIO;
        return -1;
    }
    return 0;
}

static char directory[] = "/tmp/test_file.XXXXXX";

static int enter(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/test_file.XXXXXX");
    umask(022);
    syncs = failing_sync = 0;
    return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static int leave(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* The text of a file; owned by the caller. NULL when there is none. */
static char *get(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    char *text = NULL;
    size_t size = 0;
    if (getdelim(&text, &size, '\0', f) < 0) {
        free(text);
        text = strdup("");
    }
    fclose(f);
    return text;
}

static void assert_text(const char *path, const char *want)
{
    char *text = get(path);
    assert_non_null(text);
    assert_string_equal(text, want);
    free(text);
}

static void assert_missing(const char *path)
{
    assert_int_equal(access(path, F_OK), -1);
}

static struct file *opened(const char *path, enum file_mode mode)
{
    struct file *f = NULL;
    assert_int_equal(file_open(&f, path, mode), 0);
    assert_non_null(f);
    return f;
}

static void add(struct file *f, const char *text)
{
    assert_int_equal(file_write(f, text, strlen(text)), 0);
}

static mode_t mode_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void replace_shows_the_new_file_when_it_is_complete(void **state)
{
    (void)state;
    put("x", "old\n");
    struct file *f = opened("x", FILE_REPLACE);
    add(f, "new\n");
    assert_text("x", "old\n");
    assert_text("x.part", "");
    assert_int_equal(file_flush(f), 0);
    assert_text("x.part", "new\n");
    assert_int_equal(syncs, 0);
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "new\n");
    assert_missing("x.part");
    assert_int_equal(syncs, 2); /* the file before the rename, the directory after it */
}

static void replace_aborted_leaves_the_old_file(void **state)
{
    (void)state;
    put("x", "old\n");
    struct file *f = opened("x", FILE_REPLACE);
    add(f, "new\n");
    assert_int_equal(file_flush(f), 0);
    assert_int_equal(file_abort(f), 0);
    assert_text("x", "old\n");
    assert_missing("x.part");
}

static void replace_starts_over_what_a_crash_left(void **state)
{
    (void)state;
    put("x.part", "half a li");
    struct file *f = opened("x", FILE_REPLACE);
    add(f, "new\n");
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "new\n");
}

static void replace_keeps_the_permissions(void **state)
{
    (void)state;
    assert_int_equal(file_commit(opened("x", FILE_REPLACE)), 0);
    assert_int_equal(mode_of("x"), 0644);
    assert_int_equal(chmod("x", 0600), 0);
    assert_int_equal(file_commit(opened("x", FILE_REPLACE)), 0);
    assert_int_equal(mode_of("x"), 0600);
}

static void parents_are_created(void **state)
{
    (void)state;
    assert_int_equal(file_commit(opened("a/b/c", FILE_REPLACE)), 0);
    assert_int_equal(file_commit(opened("./a//d/./e", FILE_APPEND)), 0);
    char path[64];
    snprintf(path, sizeof path, "%s/f/g", directory);
    assert_int_equal(file_commit(opened(path, FILE_REPLACE)), 0);
    assert_text("a/b/c", "");
    assert_text("a/d/e", "");
    assert_text("f/g", "");
}

static void what_is_no_regular_file_is_refused(void **state)
{
    (void)state;
    struct file *f;
    put("file", "text\n");
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(symlink("file", "a.part"), 0);
    assert_int_equal(mkdir("dir", 0755), 0);
    assert_int_equal(mkfifo("fifo", 0644), 0);
    for (enum file_mode mode = FILE_REPLACE; mode <= FILE_APPEND; mode++) {
        assert_int_equal(file_open(&f, "link", mode), -ELOOP);
        assert_int_equal(file_open(&f, "dir", mode), -EISDIR);
        assert_int_equal(file_open(&f, "fifo", mode), -ENOTSUP);
        assert_int_equal(file_open(&f, "file/x", mode), -ENOTDIR);
        assert_int_equal(file_open(&f, "/proc/self/x/y", mode), -ENOENT);
    }
    assert_int_equal(file_open(&f, "a", FILE_REPLACE), -ELOOP);
    assert_text("file", "text\n");
}

static void a_second_writer_is_refused(void **state)
{
    (void)state;
    for (enum file_mode mode = FILE_REPLACE; mode <= FILE_APPEND; mode++) {
        struct file *f = opened("x", mode), *other;
        assert_int_equal(file_open(&other, "x", mode), -EWOULDBLOCK);
        add(f, "line\n");
        assert_int_equal(file_commit(f), 0);
        f = opened("x", mode);
        assert_int_equal(file_abort(f), 0);
    }
    assert_text("x", "line\nline\n");
}

/* Replaces "x" so many times, whenever the other process lets us. */
static int replace_often(int times, const char *line)
{
    int failures = 0;
    while (times > 0) {
        struct file *f;
        int rc = file_open(&f, "x", FILE_REPLACE);
        if (rc == -EWOULDBLOCK)
            continue;
        failures += rc != 0 || file_write(f, line, strlen(line)) != 0 || file_commit(f) != 0;
        times--;
    }
    return failures;
}

static void two_that_replace_in_turn_never_mix(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(replace_often(2000, "child\n") ? 1 : 0);
    assert_int_equal(replace_often(2000, "parent\n"), 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    char *text = get("x");
    assert_true(strcmp(text, "child\n") == 0 || strcmp(text, "parent\n") == 0);
    free(text);
    assert_missing("x.part");
}

static void append_adds_lines(void **state)
{
    (void)state;
    put("x", "1\n");
    struct file *f = opened("x", FILE_APPEND);
    assert_int_equal(file_tail(f), 0);
    add(f, "2\n");
    assert_int_equal(file_commit(f), 0);
    assert_int_equal(syncs, 1);
    f = opened("x", FILE_APPEND);
    add(f, "3\n");
    assert_int_equal(file_abort(f), 0);
    assert_text("x", "1\n2\n3\n");
}

static void append_finds_a_torn_line(void **state)
{
    (void)state;
    char to[8] = "";
    put("x", "1\n2\n345");
    struct file *f = opened("x", FILE_APPEND);
    assert_int_equal(file_tail(f), 3);
    assert_int_equal(file_read_tail(f, to, 3), 0);
    assert_string_equal(to, "345");
    assert_int_equal(file_cut(f), 0);
    assert_int_equal(file_tail(f), 0);
    assert_int_equal(file_cut(f), 0);
    add(f, "6\n");
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "1\n2\n6\n");

    put("x", "all");
    f = opened("x", FILE_APPEND);
    assert_int_equal(file_tail(f), 3);
    assert_int_equal(file_cut(f), 0);
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "");
}

static void append_finds_a_long_torn_line(void **state)
{
    (void)state;
    enum { LENGTH = 200 * 1024 + 7 };
    char *text = malloc(LENGTH + 1), *tail = malloc(LENGTH);
    assert_non_null(text);
    assert_non_null(tail);
    memset(text, 'x', LENGTH);
    memcpy(text, "1\n", 2);
    text[LENGTH] = '\0';
    put("x", text);
    struct file *f = opened("x", FILE_APPEND);
    assert_int_equal(file_tail(f), LENGTH - 2);
    assert_int_equal(file_read_tail(f, tail, LENGTH - 2), 0);
    assert_memory_equal(tail, text + 2, LENGTH - 2);
    assert_int_equal(file_cut(f), 0);
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "1\n");
    free(text);
    free(tail);

    assert_int_equal(truncate("x", 70 * 1024 * 1024), 0);
    f = opened("x", FILE_APPEND);
    assert_int_equal(file_tail(f), -EFBIG);
    assert_int_equal(file_abort(f), 0);
}

static void texts_of_any_size_keep_their_order(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 65535, 65536, 65537, 1, 300000, 2, 65534, 3};
    struct file *f = opened("x", FILE_REPLACE);
    char *want = NULL;
    size_t total = 0;
    FILE *all = open_memstream(&want, &total);
    assert_non_null(all);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *text = malloc(sizes[i]);
        assert_non_null(text);
        memset(text, 'a' + (int)i, sizes[i]);
        text[sizes[i] - 1] = '\n';
        assert_int_equal(file_write(f, text, sizes[i]), 0);
        assert_int_equal(fwrite(text, 1, sizes[i], all), sizes[i]);
        free(text);
    }
    assert_int_equal(fclose(all), 0);
    assert_int_equal(file_write(f, "", 0), 0);
    assert_string_equal(file_name(f), "x");
    assert_false(file_is_terminal(f));
    assert_int_equal(file_commit(f), 0);
    assert_text("x", want);
    free(want);
}

/* A limit on the size of files is a disk that is full. */
static void limit_files(rlim_t size)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = size == 0 ? limit.rlim_max : size;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void a_full_disk_leaves_whole_lines(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    put("x", "0123456\n");
    struct file *f = opened("x", FILE_APPEND);
    add(f, "89\n");
    add(f, "bcdef\n");
    add(f, "g\n");
    limit_files(13); /* inside the second of them */
    assert_int_equal(file_flush(f), -EFBIG);
    assert_text("x", "0123456\n89\n");
    assert_int_equal(file_write(f, "h\n", 2), -EFBIG);
    assert_int_equal(file_flush(f), -EFBIG);
    limit_files(0);
    assert_int_equal(file_write(f, "h\n", 2), -EFBIG);
    assert_int_equal(file_commit(f), -EFBIG);
    assert_text("x", "0123456\n89\n");

    put("y", "old\n");
    f = opened("y", FILE_REPLACE);
    add(f, "0123456789abcdef\n");
    limit_files(13);
    assert_int_equal(file_commit(f), -EFBIG);
    limit_files(0);
    assert_text("y", "old\n");
    assert_missing("y.part");

    f = opened("z", FILE_APPEND);
    add(f, "0123456789abcdef\n");
    limit_files(13);
    assert_int_equal(file_abort(f), -EFBIG);
    limit_files(0);
    assert_text("z", "");
}

static void a_failed_sync_is_a_failure(void **state)
{
    (void)state;
    put("x", "old\n");
    struct file *f = opened("x", FILE_REPLACE);
    add(f, "new\n");
    failing_sync = 1;
    assert_int_equal(file_sync(f), -EIO);
    assert_int_equal(file_sync(f), -EIO); /* what was lost does not come back */
    assert_int_equal(file_commit(f), -EIO);
    assert_text("x", "old\n");
    assert_missing("x.part");

    f = opened("x", FILE_REPLACE);
    add(f, "new\n");
    failing_sync = 2;
    assert_int_equal(file_commit(f),
                     -EIO); /* of the directory: renamed, but perhaps not for good */
    assert_text("x", "new\n");
}

/* Puts `fd` in the place of stdout. Returns what was there. */
static int take_stdout(int fd)
{
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0);
    assert_int_equal(dup2(fd, STDOUT_FILENO), STDOUT_FILENO);
    return saved;
}

static void give_stdout(int saved)
{
    dup2(saved, STDOUT_FILENO);
    close(saved);
}

static void stdout_waits_for_its_reader(void **state)
{
    (void)state;
    enum { LINES = 100000 };
    int ends[2];
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
        _exit(total == LINES * 6 ? 0 : 1);
    }
    close(ends[0]);
    int saved = take_stdout(ends[1]);
    close(ends[1]);
    struct file *f;
    int rc = file_open(&f, NULL, FILE_STDOUT);
    for (int i = 0; i < LINES && rc == 0; i++)
        rc = file_write(f, "12345\n", 6);
    int committed = file_commit(f);
    give_stdout(saved);
    assert_int_equal(rc, 0);
    assert_int_equal(committed, 0);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(syncs, 0);
}

static void stdout_without_a_reader_is_an_error(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    close(ends[0]);
    int saved = take_stdout(ends[1]);
    close(ends[1]);
    struct file *f;
    int rc = file_open(&f, NULL, FILE_STDOUT);
    int written = file_write(f, "1\n", 2);
    int flushed = file_flush(f);
    int ended = file_abort(f);
    give_stdout(saved);
    assert_int_equal(rc, 0);
    assert_int_equal(written, 0);
    assert_int_equal(flushed, -EPIPE);
    assert_int_equal(ended, -EPIPE);
    assert_string_equal(file_strerror(-EPIPE), "its reader has gone");
}

static void errors_have_texts(void **state)
{
    (void)state;
    assert_string_equal(file_strerror(-ENOSPC), "No space left on device");
    assert_string_equal(file_strerror(-EWOULDBLOCK), "another run is writing it");
    assert_string_equal(file_strerror(-99999), "unknown error");
}

/* Lua ---------------------------------------------------------------------------------------- */

static lua_State *lua(void)
{
    lua_State *L = luaL_newstate();
    assert_non_null(L);
    luaL_openlibs(L);
    lua_pushcfunction(L, luaopen_orchestrator_core_file);
    lua_call(L, 0, 1);
    lua_setglobal(L, "file");
    return L;
}

static void run(lua_State *L, const char *script)
{
    if (luaL_dostring(L, script) != 0)
        fail_msg("%s", lua_tostring(L, -1));
}

static void lua_files_are_numbers(void **state)
{
    (void)state;
    lua_State *L = lua();
    run(L, "local a, b = file.open('a', 'replace'), file.open('b', 'append')\n"
           "assert(a == 1 and b == 2)\n"
           "assert(file.write(a, '1\\n') == true and file.write(b, '2\\n') == true)\n"
           "assert(file.flush(a) == true and file.sync(b) == true)\n"
           "assert(file.commit(a) == true and file.abort(b) == true)\n"
           "assert(file.open('c', 'append') == 3)\n"
           "for _, name in ipairs { 'cut', 'write', 'flush', 'sync', 'commit', 'abort' } do\n"
           "  for _, id in ipairs { 1, 2, 0, -1, 4 } do\n"
           "    local ok, message = pcall(file[name], id, 'x\\n')\n"
           "    assert(not ok and message:find('not an open file', 1, true), message)\n"
           "  end\n"
           "end\n");
    lua_close(L);
    assert_text("a", "1\n");
    assert_text("b", "2\n");
}

static void lua_mistakes_raise_and_failures_are_told(void **state)
{
    (void)state;
    lua_State *L = lua();
    run(L,
        "local id = file.open('a', 'replace')\n"
        "local ok, message = pcall(file.write, id, 'no end')\n"
        "assert(not ok and message:find 'does not end in a line end')\n"
        "assert(file.write(id, '') == true)\n"
        "assert(not pcall(file.open, 'b', 'both'))\n"
        "local none, why = file.open('a', 'replace')\n"
        "assert(none == nil and why == 'cannot write a: another run is writing it', why)\n"
        "none, why = file.open('a\\0b', 'append')\n"
        "assert(none == nil and why:find 'NUL byte', why)\n"
        "none, why = file.open('', 'append')\n"
        "assert(none == nil and why:find 'empty', why)\n"
        "none, why = file.open('/proc/x', 'append')\n"
        "assert(none == nil and why == 'cannot write /proc/x: No such file or directory', why)\n");
    lua_close(L);
}

static void lua_hands_over_a_tail(void **state)
{
    (void)state;
    put("x", "1\n2\n345");
    lua_State *L = lua();
    run(L, "local id, tail = file.open('x', 'append')\n"
           "assert(id == 1 and tail == '345')\n"
           "assert(file.cut(id) == true and file.commit(id) == true)\n"
           "id, tail = file.open('x', 'append')\n"
           "assert(id == 2 and tail == nil and file.commit(id) == true)\n");
    lua_close(L);
    assert_text("x", "1\n2\n");

    assert_int_equal(truncate("x", 70 * 1024 * 1024), 0);
    L = lua();
    run(L, "local id, why = file.open('x', 'append')\n"
           "assert(id == nil and why == 'cannot write x: it is too large, or not made of lines')\n"
           "assert(not pcall(file.commit, 1))\n");
    lua_close(L);
}

static void lua_aborts_what_is_open_when_it_closes(void **state)
{
    (void)state;
    put("a", "old\n");
    lua_State *L = lua();
    run(L, "file.write(file.open('a', 'replace'), 'new\\n')\n"
           "file.write(file.open('b', 'append'), 'kept\\n')\n");
    lua_close(L);
    assert_text("a", "old\n");
    assert_missing("a.part");
    assert_text("b", "kept\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(replace_shows_the_new_file_when_it_is_complete),
        TEST(replace_aborted_leaves_the_old_file),
        TEST(replace_starts_over_what_a_crash_left),
        TEST(replace_keeps_the_permissions),
        TEST(parents_are_created),
        TEST(what_is_no_regular_file_is_refused),
        TEST(a_second_writer_is_refused),
        TEST(two_that_replace_in_turn_never_mix),
        TEST(append_adds_lines),
        TEST(append_finds_a_torn_line),
        TEST(append_finds_a_long_torn_line),
        TEST(texts_of_any_size_keep_their_order),
        TEST(a_full_disk_leaves_whole_lines),
        TEST(a_failed_sync_is_a_failure),
        TEST(stdout_waits_for_its_reader),
        TEST(stdout_without_a_reader_is_an_error),
        TEST(errors_have_texts),
        TEST(lua_files_are_numbers),
        TEST(lua_mistakes_raise_and_failures_are_told),
        TEST(lua_hands_over_a_tail),
        TEST(lua_aborts_what_is_open_when_it_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
