#include "bytes.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void starts_empty(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 7);
    assert_null(b.data);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.cap, 0);
    assert_int_equal(b.limit, 7);
    bytes_deinit(&b);
}

static void appends_any_bytes(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 0);
    assert_int_equal(bytes_append(&b, "ab\0", 3), 0);
    assert_int_equal(bytes_append(&b, NULL, 0), 0);
    assert_int_equal(bytes_append(&b, "\xff", 1), 0);
    assert_int_equal(b.len, 4);
    assert_memory_equal(b.data, "ab\0\xff", 4);
    bytes_deinit(&b);
}

static void grows_by_doubling(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 0);
    int moves = 0;
    size_t cap = 0;
    for (int i = 0; i < 1000000; i++) {
        char c = (char)i;
        assert_int_equal(bytes_append(&b, &c, 1), 0);
        moves += b.cap != cap;
        cap = b.cap;
    }
    assert_int_equal(b.len, 1000000);
    assert_true(moves < 16);
    for (int i = 0; i < 1000000; i++)
        assert_int_equal(b.data[i], (char)i);
    bytes_deinit(&b);
}

static void stops_at_the_limit(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 5);
    assert_int_equal(bytes_append(&b, "abc", 3), 0);
    assert_int_equal(bytes_append(&b, "def", 3), -E2BIG);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "abc", 3);
    assert_int_equal(bytes_append(&b, "de", 2), 0);
    assert_int_equal(bytes_append(&b, "f", 1), -E2BIG);
    assert_memory_equal(b.data, "abcde", 5);
    assert_true(b.cap <= 5);
    bytes_deinit(&b);
}

static void never_takes_more_memory_than_the_limit(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 1000);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(bytes_append(&b, "x", 1), 0);
    assert_int_equal(b.cap, 1000);
    bytes_deinit(&b);
}

static void refuses_sizes_that_overflow(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 0);
    assert_int_equal(bytes_append(&b, "a", 1), 0);
    assert_int_equal(bytes_reserve(&b, SIZE_MAX), -E2BIG);
    assert_int_equal(b.len, 1);
    bytes_deinit(&b);
}

static void reserve_makes_room_and_adds_nothing(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 0);
    assert_int_equal(bytes_reserve(&b, 5000), 0);
    assert_int_equal(b.len, 0);
    assert_true(b.cap >= 5000);
    char *data = b.data;
    memset(b.data, 'x', 5000);
    b.len = 5000;
    assert_int_equal(bytes_reserve(&b, b.cap - 5000), 0);
    assert_ptr_equal(b.data, data);
    bytes_deinit(&b);
}

static void clear_keeps_memory_and_trim_gives_much_of_it_back(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 9000);
    assert_int_equal(bytes_reserve(&b, 4000), 0);
    b.len = 10;
    bytes_clear(&b);
    assert_int_equal(b.len, 0);
    assert_true(b.cap >= 4000);

    b.len = 10;
    size_t cap = b.cap;
    bytes_trim(&b, cap);
    assert_int_equal(b.len, 0);
    assert_int_equal(b.cap, cap);

    bytes_trim(&b, cap - 1);
    assert_null(b.data);
    assert_int_equal(b.cap, 0);
    assert_int_equal(b.limit, 9000);
}

static void deinit_leaves_a_buffer_that_can_be_used_again(void **state)
{
    (void)state;
    struct bytes b;
    bytes_init(&b, 3);
    assert_int_equal(bytes_append(&b, "abc", 3), 0);
    bytes_deinit(&b);
    assert_null(b.data);
    assert_int_equal(bytes_append(&b, "abcd", 4), -E2BIG);
    assert_int_equal(bytes_append(&b, "xyz", 3), 0);
    assert_memory_equal(b.data, "xyz", 3);
    bytes_deinit(&b);
    bytes_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_empty),
        cmocka_unit_test(appends_any_bytes),
        cmocka_unit_test(grows_by_doubling),
        cmocka_unit_test(stops_at_the_limit),
        cmocka_unit_test(never_takes_more_memory_than_the_limit),
        cmocka_unit_test(refuses_sizes_that_overflow),
        cmocka_unit_test(reserve_makes_room_and_adds_nothing),
        cmocka_unit_test(clear_keeps_memory_and_trim_gives_much_of_it_back),
        cmocka_unit_test(deinit_leaves_a_buffer_that_can_be_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
