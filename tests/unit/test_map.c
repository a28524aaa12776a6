#include "map.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MANY = 5000 };

struct element {
    struct map_node node;
    char key[16];
};

static void finds_nothing_when_empty(void **state)
{
    (void)state;
    struct map m;
    map_init(&m);
    assert_null(map_find(&m, "", 0));
    assert_null(map_find(&m, "a", 1));
    assert_int_equal(m.count, 0);
    map_deinit(&m);
}

static void keys_are_any_bytes(void **state)
{
    (void)state;
    struct map m;
    struct map_node nodes[4];
    map_init(&m);
    assert_int_equal(map_add(&m, &nodes[0], "a\0b", 3), 0);
    assert_int_equal(map_add(&m, &nodes[1], "a\0c", 3), 0);
    assert_int_equal(map_add(&m, &nodes[2], "a", 1), 0);
    assert_int_equal(map_add(&m, &nodes[3], "", 0), 0);
    assert_ptr_equal(map_find(&m, "a\0b", 3), &nodes[0]);
    assert_ptr_equal(map_find(&m, "a\0c", 3), &nodes[1]);
    assert_ptr_equal(map_find(&m, "a\0d", 1), &nodes[2]);
    assert_ptr_equal(map_find(&m, "x", 0), &nodes[3]);
    assert_null(map_find(&m, "a\0d", 3));
    map_deinit(&m);
}

static void grows_and_shrinks(void **state)
{
    (void)state;
    static struct element elements[MANY];
    struct map m;
    map_init(&m);
    for (int i = 0; i < MANY; i++) {
        size_t len = (size_t)snprintf(elements[i].key, sizeof elements[i].key, "key-%d", i);
        assert_int_equal(map_add(&m, &elements[i].node, elements[i].key, len), 0);
    }
    assert_int_equal(m.count, MANY);
    assert_int_equal(m.size & (m.size - 1), 0);
    for (int i = 0; i < MANY; i += 2)
        map_remove(&m, &elements[i].node);
    assert_int_equal(m.count, MANY / 2);
    for (int i = 0; i < MANY; i++) {
        struct map_node *found = map_find(&m, elements[i].key, strlen(elements[i].key));
        assert_ptr_equal(found, i % 2 ? &elements[i].node : NULL);
    }
    for (int i = 1; i < MANY; i += 2)
        map_remove(&m, &elements[i].node);
    assert_int_equal(m.count, 0);
    assert_null(map_find(&m, "key-1", 5));
    map_deinit(&m);
}

static void an_element_may_come_back(void **state)
{
    (void)state;
    struct map m;
    struct map_node first, second;
    map_init(&m);
    for (int i = 0; i < 100; i++) {
        struct map_node *node = i % 2 ? &first : &second;
        assert_int_equal(map_add(&m, node, "same", 4), 0);
        assert_ptr_equal(map_find(&m, "same", 4), node);
        map_remove(&m, node);
        assert_null(map_find(&m, "same", 4));
    }
    map_deinit(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_nothing_when_empty),
        cmocka_unit_test(keys_are_any_bytes),
        cmocka_unit_test(grows_and_shrinks),
        cmocka_unit_test(an_element_may_come_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
