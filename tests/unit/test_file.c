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

static struct file *opened(const char *path)
{
    struct file *f = NULL;
    assert_int_equal(file_open(&f, path), 0);
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
    struct file *f = opened("x");
    add(f, "new\n");
    assert_text("x", "old\n");
    assert_text("x.part", "");
    assert_string_equal(file_name(f), "x");
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
    struct file *f = opened("x");
    add(f, "new\n");
    file_abort(f);
    assert_text("x", "old\n");
    assert_missing("x.part");
}

static void replace_starts_over_what_a_crash_left(void **state)
{
    (void)state;
    put("x.part", "half a li");
    struct file *f = opened("x");
    add(f, "new\n");
    assert_int_equal(file_commit(f), 0);
    assert_text("x", "new\n");
}

static void replace_keeps_the_permissions(void **state)
{
    (void)state;
    assert_int_equal(file_commit(opened("x")), 0);
    assert_int_equal(mode_of("x"), 0644);
    assert_int_equal(chmod("x", 0600), 0);
    assert_int_equal(file_commit(opened("x")), 0);
    assert_int_equal(mode_of("x"), 0600);
}

static void parents_are_created(void **state)
{
    (void)state;
    assert_int_equal(file_commit(opened("a/b/c")), 0);
    assert_int_equal(file_commit(opened("./a//d/./e")), 0);
    char path[64];
    snprintf(path, sizeof path, "%s/f/g", directory);
    assert_int_equal(file_commit(opened(path)), 0);
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
    assert_int_equal(file_open(&f, "link"), -ELOOP);
    assert_int_equal(file_open(&f, "dir"), -EISDIR);
    assert_int_equal(file_open(&f, "fifo"), -ENOTSUP);
    assert_int_equal(file_open(&f, "file/x"), -ENOTDIR);
    assert_int_equal(file_open(&f, "/proc/self/x/y"), -ENOENT);
    assert_int_equal(file_open(&f, "a"), -ELOOP);
    assert_text("file", "text\n");
}

static void a_second_writer_is_refused(void **state)
{
    (void)state;
    struct file *f = opened("x"), *other;
    assert_int_equal(file_open(&other, "x"), -EWOULDBLOCK);
    add(f, "line\n");
    assert_int_equal(file_commit(f), 0);
    file_abort(opened("x"));
    assert_text("x", "line\n");
}

/* Replaces "x" so many times, whenever the other process lets us. */
static int replace_often(int times, const char *line)
{
    int failures = 0;
    while (times > 0) {
        struct file *f;
        int rc = file_open(&f, "x");
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

static void texts_of_any_size_keep_their_order(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 65535, 65536, 65537, 1, 300000, 2, 65534, 3};
    struct file *f = opened("x");
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

static void a_full_disk_leaves_the_old_file(void **state)
{
    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    put("y", "old\n");
    struct file *f = opened("y");
    add(f, "0123456789abcdef\n");
    limit_files(13);
    assert_int_equal(file_commit(f), -EFBIG);
    limit_files(0);
    assert_text("y", "old\n");
    assert_missing("y.part");
}

static void a_failed_sync_is_a_failure(void **state)
{
    (void)state;
    put("x", "old\n");
    struct file *f = opened("x");
    add(f, "new\n");
    failing_sync = 1;
    assert_int_equal(file_commit(f), -EIO);
    assert_text("x", "old\n");
    assert_missing("x.part");

    f = opened("x");
    add(f, "new\n");
    failing_sync = 2;
    assert_int_equal(file_commit(f),
                     -EIO); /* of the directory: renamed, but perhaps not for good */
    assert_text("x", "new\n");
}

static void a_lock_is_one_holders(void **state)
{
    (void)state;
    char holder[16];
    int first = file_lock("lock", "a long line", holder, sizeof holder);
    assert_true(first >= 0);
    assert_string_equal(holder, "");
    assert_int_equal(mode_of("lock"), 0600);
    assert_int_equal(file_lock("lock", "second", holder, sizeof holder), -EWOULDBLOCK);
    assert_string_equal(holder, "a long line");
    assert_int_equal(file_lock("lock", "second", holder, 5), -EWOULDBLOCK);
    assert_string_equal(holder, "a lo");
    close(first);
    int second = file_lock("lock", "second", holder, sizeof holder);
    assert_true(second >= 0);
    assert_text("lock", "second");
    close(second);

    /* A holder that was killed is none. */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (file_lock("lock", "child", holder, sizeof holder) >= 0)
            raise(SIGKILL);
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_text("lock", "child");
    int third = file_lock("lock", "third", holder, sizeof holder);
    assert_true(third >= 0);
    assert_int_equal(fcntl(third, F_GETFD), FD_CLOEXEC);

    /* One whose file was removed keeps nobody from another. */
    assert_int_equal(unlink("lock"), 0);
    int fourth = file_lock("lock", "fourth", holder, sizeof holder);
    assert_true(fourth >= 0);
    close(third);
    assert_int_equal(file_lock("lock", "fifth", holder, sizeof holder), -EWOULDBLOCK);
    close(fourth);

    assert_int_equal(symlink("lock", "link"), 0);
    assert_int_equal(file_lock("link", "x", holder, sizeof holder), -ELOOP);
    assert_int_equal(mkdir("dir", 0755), 0);
    assert_int_equal(file_lock("dir", "x", holder, sizeof holder), -EISDIR);
    assert_int_equal(file_lock("none/lock", "x", holder, sizeof holder), -ENOENT);
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
    run(L, "local a, b = file.open 'a', file.open 'b'\n"
           "assert(a == 1 and b == 2)\n"
           "assert(file.write(a, '1') == true and file.write(b, '2\\n') == true)\n"
           "assert(file.commit(a) == true and file.abort(b) == nil)\n"
           "assert(file.open 'c' == 3)\n"
           "for _, name in ipairs { 'write', 'commit', 'abort' } do\n"
           "  for _, id in ipairs { 1, 2, 0, -1, 4 } do\n"
           "    local ok, message = pcall(file[name], id, 'x\\n')\n"
           "    assert(not ok and message:find('not an open file', 1, true), message)\n"
           "  end\n"
           "end\n");
    lua_close(L);
    assert_text("a", "1");
    assert_missing("b");
    assert_missing("c.part");
}

static void lua_failures_are_told(void **state)
{
    (void)state;
    lua_State *L = lua();
    run(L,
        "local id = file.open 'a'\n"
        "assert(file.write(id, '') == true)\n"
        "local none, why = file.open 'a'\n"
        "assert(none == nil and why == 'cannot write a: another run is writing it', why)\n"
        "none, why = file.open 'a\\0b'\n"
        "assert(none == nil and why:find 'NUL byte', why)\n"
        "none, why = file.open ''\n"
        "assert(none == nil and why:find 'empty', why)\n"
        "none, why = file.open '/proc/x'\n"
        "assert(none == nil and why == 'cannot write /proc/x: No such file or directory', why)\n");
    lua_close(L);
}

static void lua_locks_are_numbers(void **state)
{
    (void)state;
    lua_State *L = lua();
    run(L, "local id = file.lock('l', '17 now')\n"
           "assert(id == 1)\n"
           "local none, holder, problem = file.lock('l', '18')\n"
           "assert(none == nil and holder == '17 now' and problem == nil)\n"
           "file.unlock(id)\n"
           "assert(not pcall(file.unlock, id) and not pcall(file.unlock, 2))\n"
           "assert(file.lock('l', '18') == 2)\n"
           "none, holder, problem = file.lock('none/l', '18')\n"
           "assert(none == nil and holder == nil)\n"
           "assert(problem == 'cannot lock none/l: No such file or directory', problem)\n");
    lua_close(L);
    char holder[8];
    int fd = file_lock("l", "19", holder, sizeof holder);
    assert_true(fd >= 0); /* it was given up with the state */
    close(fd);
}

static void lua_aborts_what_is_open_when_it_closes(void **state)
{
    (void)state;
    put("a", "old\n");
    lua_State *L = lua();
    run(L, "file.write(file.open 'a', 'new\\n')\n");
    lua_close(L);
    assert_text("a", "old\n");
    assert_missing("a.part");
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
        TEST(texts_of_any_size_keep_their_order),
        TEST(a_full_disk_leaves_the_old_file),
        TEST(a_failed_sync_is_a_failure),
        TEST(a_lock_is_one_holders),
        TEST(errors_have_texts),
        TEST(lua_files_are_numbers),
        TEST(lua_failures_are_told),
        TEST(lua_locks_are_numbers),
        TEST(lua_aborts_what_is_open_when_it_closes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
