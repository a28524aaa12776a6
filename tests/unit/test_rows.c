#include "bytes.h"
#include "number.h"
#include "rows.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct rows_value all[] = {
    {.tag = ROWS_FALSE},
    {.tag = ROWS_TRUE},
    {.tag = ROWS_NUMBER, .number = -0.5},
    {.tag = ROWS_TEXT, .data = "", .len = 0},
    {.tag = ROWS_TEXT, .data = "a\0\xc3\xa4", .len = 4},
    {.tag = ROWS_JSON, .data = "{}", .len = 2},
};

enum { COUNT = sizeof all / sizeof all[0] };

static void fill(struct bytes *packed)
{
    bytes_init(packed, 0);
    for (unsigned row = 0; row < 3; row++) {
        size_t at = packed->len;
        assert_int_equal(rows_add(packed), 0);
        for (unsigned i = 0; i < COUNT; i++)
            if (row != 1)
                assert_int_equal(
                    rows_add_field(packed, at, row == 0 ? i + 1 : ROWS_COLUMNS - i, &all[i]), 0);
    }
}

/* How many fields there are; -1 when it is damaged. */
static int count_fields(const char *data, size_t len, unsigned columns)
{
    struct rows_reader r = {.p = data, .end = data + len};
    struct rows_value value;
    unsigned column;
    int count = 0;
    while (rows_next(&r))
        while (rows_field(&r, columns, &column, &value)) {
            assert_in_range(column, 1, columns);
            if (value.len)
                assert_true(value.data >= data && value.data + value.len <= data + len);
            count++;
        }
    return r.fields > 0 || r.p != r.end ? -1 : count;
}

static void rows_come_back_as_they_were(void **state)
{
    (void)state;
    struct bytes packed;
    fill(&packed);
    struct rows_reader r = {.p = packed.data, .end = packed.data + packed.len};
    for (unsigned row = 0; row < 3; row++) {
        struct rows_value value;
        unsigned column;
        assert_true(rows_next(&r));
        for (unsigned i = 0; i < COUNT && row != 1; i++) {
            assert_true(rows_field(&r, ROWS_COLUMNS, &column, &value));
            assert_int_equal(column, row == 0 ? i + 1 : ROWS_COLUMNS - i);
            assert_int_equal(value.tag, all[i].tag);
            assert_true(value.number == all[i].number);
            assert_int_equal(value.len, all[i].len);
            if (value.len)
                assert_memory_equal(value.data, all[i].data, value.len);
        }
        assert_false(rows_field(&r, ROWS_COLUMNS, &column, &value));
        assert_int_equal(r.fields, 0);
    }
    assert_false(rows_next(&r));
    assert_ptr_equal(r.p, r.end);
    bytes_deinit(&packed);
}

static void damage_is_found_wherever_it_is_cut(void **state)
{
    (void)state;
    struct bytes packed;
    fill(&packed);
    assert_int_equal(count_fields(packed.data, packed.len, ROWS_COLUMNS), 2 * COUNT);
    assert_int_equal(count_fields(packed.data, packed.len, COUNT), -1);
    for (size_t len = 0; len < packed.len; len++) {
        char *cut = malloc(len + 1); /* so that a sanitizer sees reads beyond it */
        assert_non_null(cut);
        memcpy(cut, packed.data, len);
        int count = count_fields(cut, len, ROWS_COLUMNS);
        assert_true(count < 2 * COUNT);
        free(cut);
    }
    for (size_t at = 0; at < packed.len; at++) /* nothing but that it ends, and in bounds */
        for (int bit = 0; bit < 8; bit++) {
            packed.data[at] ^= (char)(1 << bit);
            (void)count_fields(packed.data, packed.len, ROWS_COLUMNS);
            packed.data[at] ^= (char)(1 << bit);
        }
    bytes_deinit(&packed);
}

static void is_json(const struct rows_value *value, const char *expected)
{
    struct bytes text;
    bytes_init(&text, 0);
    assert_int_equal(rows_put_json(&text, value), 0);
    assert_int_equal(text.len, strlen(expected));
    assert_memory_equal(text.data, expected, text.len);
    bytes_deinit(&text);
}

static void values_have_json_forms(void **state)
{
    (void)state;
    is_json(&all[0], "false");
    is_json(&all[1], "true");
    is_json(&all[2], "-0.5");
    is_json(&all[3], "\"\"");
    is_json(&all[4], "\"a\\u0000\xc3\xa4\"");
    is_json(&all[5], "{}");
    is_json(&(struct rows_value){ROWS_TEXT, 0, "\"\\\n\x1f", 4}, "\"\\\"\\\\\\u000a\\u001f\"");
}

static void is_number(double x, const char *json, const char *plain)
{
    struct bytes text;
    bytes_init(&text, 0);
    for (int i = 0; i < 2; i++) {
        const char *expected = i ? plain : json;
        bytes_clear(&text);
        assert_int_equal(rows_put_number(&text, x, i == 1), 0);
        assert_int_equal(bytes_append(&text, "", 1), 0);
        assert_string_equal(text.data, expected);
        assert_true(strtod(text.data, NULL) == x);
    }
    bytes_deinit(&text);
}

static void numbers_are_the_shortest_text(void **state)
{
    (void)state;
    is_number(0, "0", "0");
    is_number(-0.0, "-0.0", "-0");
    is_number(5, "5", "5");
    is_number(-9007199254740992.0, "-9007199254740992", "-9007199254740992");
    is_number(9007199254740994.0, "9007199254740994.0", "9.007199254740994e+15");
    is_number(0.1, "0.1", "0.1");
    is_number(0.0001, "0.0001", "0.0001");
    is_number(0.00001, "0.00001", "1e-05");
    is_number(123456.789, "123456.789", "123456.789");
    is_number(999999999999999.9, "999999999999999.9", "999999999999999.9");
    is_number(1234567890123456.5, "1234567890123456.5", "1.2345678901234565e+15");
    is_number(1e20, "1e+20", "1e+20");
    is_number(1e22, "1e+22", "1e+22");
    is_number(-1e300, "-1e+300", "-1e+300");
    is_number(5e-324, "4.94065645841247e-324", "4.94065645841247e-324");
    is_number(1.7976931348623157e308, "1.7976931348623157e+308", "1.7976931348623157e+308");
    is_number(0.30000000000000004, "0.30000000000000004", "0.30000000000000004");
}

static void integers_of_64_bits_are_told(void **state)
{
    (void)state;
    static const char *const none[] = {"",
                                       "-",
                                       "+1",
                                       "1 ",
                                       "0x1",
                                       "1.0",
                                       "1e3",
                                       "9223372036854775808",
                                       "x",
                                       "--1",
                                       "-9223372036854775809",
                                       "99999999999999999999"};
    int64_t n;
    assert_true(rows_integer("0", 1, &n) && n == 0);
    assert_true(rows_integer("-12", 3, &n) && n == -12);
    assert_true(rows_integer("9223372036854775807", 19, &n) && n == INT64_MAX);
    assert_true(rows_integer("-9223372036854775808", 20, &n) && n == INT64_MIN);
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++)
        assert_false(rows_integer(none[i], strlen(none[i]), &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_back_as_they_were),
        cmocka_unit_test(damage_is_found_wherever_it_is_cut),
        cmocka_unit_test(values_have_json_forms),
        cmocka_unit_test(numbers_are_the_shortest_text),
        cmocka_unit_test(integers_of_64_bits_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
