/* What the tests of output files share: a directory of their own, and short ways to write there. */
#ifndef OUTPUT_FIXTURE_H
#define OUTPUT_FIXTURE_H

#include "output.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char directory[] = "/tmp/test_output.XXXXXX";

static inline int enter(void **state)
{
    (void)state;
    strcpy(directory, "/tmp/test_output.XXXXXX");
    umask(022);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    return mkdtemp(directory) && chdir(directory) == 0 ? 0 : -1;
}

static inline int leave(void **state)
{
    (void)state;
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static inline void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static inline void assert_text(const char *path, const char *want)
{
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    char *text = NULL;
    size_t size = 0;
    if (getdelim(&text, &size, '\0', f) < 0)
        assert_string_equal("", want);
    else
        assert_string_equal(text, want);
    free(text);
    fclose(f);
}

static inline void assert_missing(const char *path)
{
    assert_int_equal(access(path, F_OK), -1);
}

static inline struct output *opened(const char *path, enum output_mode mode, int64_t resume)
{
    struct output_options options = {.path = path, .mode = mode, .durable = true, .resume = resume};
    struct output *o = NULL;
    assert_int_equal(output_open(&o, &options), 0);
    assert_non_null(o);
    return o;
}

static inline struct bytes bytes_of(const char *text)
{
    return (struct bytes){.data = (char *)text, .len = strlen(text)};
}

static inline int add(struct output *o, const char *text, const char *closer)
{
    struct bytes t = bytes_of(text), c = bytes_of(closer);
    return output_write(o, &t, &c, true);
}

static inline int finish(struct output *o, const char *closer)
{
    static const struct widen none;
    struct bytes c = bytes_of(closer);
    return output_finish(o, &c, &none);
}

/* Puts `fd` in the place of stdout. Returns what was there. */
static inline int take_stdout(int fd)
{
    fflush(stdout);
    int saved = dup(STDOUT_FILENO);
    assert_true(saved >= 0);
    assert_int_equal(dup2(fd, STDOUT_FILENO), STDOUT_FILENO);
    return saved;
}

static inline void give_stdout(int saved)
{
    dup2(saved, STDOUT_FILENO);
    close(saved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)

#endif
