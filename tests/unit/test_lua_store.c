/* What the host's stores are to Lua; the tests themselves are in test_lua_store.lua. */
#include "host.h"
#include "loop.h"

#include <lauxlib.h>
#include <lualib.h>
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

struct fixture {
    char dir[64];
    struct loop loop;
    struct host *host;
    lua_State *L;
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    if (!f)
        return -1;
    umask(0);
    strcpy(f->dir, "/tmp/test_lua_store.XXXXXX");
    if (!mkdtemp(f->dir) || loop_init(&f->loop) || host_create(&f->host, &f->loop))
        return -1;
    f->L = luaL_newstate();
    luaL_openlibs(f->L);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    char command[128];
    lua_close(f->L);
    host_destroy(f->host); /* with stores that a test has left open */
    int rc = loop_close(&f->loop);
    snprintf(command, sizeof command, "rm -rf %s", f->dir);
    if (system(command) != 0)
        rc = -1;
    free(f);
    return rc;
}

static void run(struct fixture *f, const char *name)
{
    lua_State *L = f->L;
    if (luaL_dofile(L, "tests/unit/test_lua_store.lua"))
        fail_msg("%s", lua_tostring(L, -1));
    lua_pushstring(L, name);
    host_push(L, f->host);
    lua_pushstring(L, f->dir);
    if (lua_pcall(L, 3, 0, 0))
        fail_msg("%s", lua_tostring(L, -1));
    lua_gc(L, LUA_GCCOLLECT, 0);
}

#define LUA_TEST(name)                                                                             \
    static void name(void **state)                                                                 \
    {                                                                                              \
        run(*state, #name);                                                                        \
    }

LUA_TEST(values_go_there_and_back)
LUA_TEST(rows_without_columns_are_none)
LUA_TEST(a_statement_has_many_rows)
LUA_TEST(rows_may_be_one_list)
LUA_TEST(a_row_may_go_to_two_statements)
LUA_TEST(a_cache_has_options_of_its_own)
LUA_TEST(a_poll_ends_a_snapshot)
LUA_TEST(jobs_have_numbers_below_zero)
LUA_TEST(what_fails_is_told)
LUA_TEST(misuse_raises)
LUA_TEST(refusals_have_names)
LUA_TEST(directories_are_made)
LUA_TEST(closing_does_what_was_submitted)
LUA_TEST(an_error_in_deliver_is_raised_by_poll)

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(values_go_there_and_back),
        TEST(rows_without_columns_are_none),
        TEST(a_statement_has_many_rows),
        TEST(rows_may_be_one_list),
        TEST(a_row_may_go_to_two_statements),
        TEST(a_cache_has_options_of_its_own),
        TEST(a_poll_ends_a_snapshot),
        TEST(jobs_have_numbers_below_zero),
        TEST(what_fails_is_told),
        TEST(misuse_raises),
        TEST(refusals_have_names),
        TEST(directories_are_made),
        TEST(closing_does_what_was_submitted),
        TEST(an_error_in_deliver_is_raised_by_poll),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
