#include "json_scan.h"

#include "bytes.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Scans a copy of the text that ends with its NUL, so that ASan sees a read beyond it. */
static int scan(const char *text, size_t len, struct bytes *out, size_t *nans)
{
    char *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy, text, len);
    copy[len] = '\0';
    int rc = json_scan_text(copy, len, out, nans);
    free(copy);
    return rc;
}

/* Checks what cjson would get for `text`: NULL = the text as it is. */
static void check_copy(const char *text, const char *expected, size_t nans)
{
    struct bytes out;
    size_t got = SIZE_MAX;
    bytes_init(&out, 0);
    assert_int_equal(scan(text, strlen(text), &out, &got), 0);
    assert_int_equal(got, nans);
    assert_int_equal(out.len, expected ? strlen(expected) : 0);
    if (expected)
        assert_memory_equal(out.data, expected, out.len);
    bytes_deinit(&out);
}

/* NULL = any message. */
static void check_refused(const char *text, size_t len, const char *message)
{
    struct bytes out;
    size_t nans;
    bytes_init(&out, 0);
    assert_int_equal(scan(text, len, &out, &nans), -EILSEQ);
    assert_true(out.len > 0);
    if (message) {
        assert_int_equal(out.len, strlen(message));
        assert_memory_equal(out.data, message, out.len);
    }
    bytes_deinit(&out);
}

static void what_cjson_can_have_is_not_copied(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "null",
        " \t\r\n{ \"a\" : [ 1 , -2.5e-3 , true , false , { } ] } ",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\ud83d\\ude00 \xf0\x9f\x98\x80 [] nan\"",
        "[9007199254740992,-9007199254740992]",
        "[1.7976931348623157e308,12345678901234567890.0,1e-999]",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        check_copy(texts[i], NULL, 0);
}

static void what_cjson_would_damage_is_rewritten(void **state)
{
    (void)state;
    check_copy("[]", "nan", 1);
    check_copy(" {\"a\" : [ \n ], \"b\" : [[],\"[]\"]} ", " {\"a\" : nan, \"b\" : [nan,\"[]\"]} ",
               2);
    check_copy("9007199254740993", "\"9007199254740993\"", 0);
    check_copy("[-12345678901234567890 ,1]", "[\"-12345678901234567890\" ,1]", 0);
    check_copy("[1e400,0,-1E+309]", "[\"1e400\",0,\"-1E+309\"]", 0);
    check_copy("\xef\xbb\xbf 1", " 1", 0);
    check_copy("\xef\xbb\xbf[[],1e999]", "[nan,\"1e999\"]", 1);
}

static void bad_text_is_refused_with_its_position(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "line 1, byte 1: expected a value, but the text ends"},
        {" \n ", "line 2, byte 2: expected a value, but the text ends"},
        {"NaN", "line 1, byte 1: expected a value"},
        {"nan", "line 1, byte 1: expected a value"},
        {"[Infinity]", "line 1, byte 2: expected a value"},
        {"nul", "line 1, byte 1: expected a value"},
        {"TRUE", "line 1, byte 1: expected a value"},
        {"truer", "line 1, byte 5: text after the end of the value"},
        {"0x10", "line 1, byte 2: text after the end of the value"},
        {"01", "line 1, byte 1: a number may not begin with 0"},
        {"[-00]", "line 1, byte 3: a number may not begin with 0"},
        {"1.", "line 1, byte 3: expected a digit, but the text ends"},
        {"[1.e5]", "line 1, byte 4: expected a digit"},
        {"[.5]", "line 1, byte 2: expected a value"},
        {"+1", "line 1, byte 1: expected a value"},
        {"[-]", "line 1, byte 3: expected a digit"},
        {"1e", "line 1, byte 3: expected a digit, but the text ends"},
        {"1e+", "line 1, byte 4: expected a digit, but the text ends"},
        {"[1 2]", "line 1, byte 4: expected ',' or ']'"},
        {"[1,]", "line 1, byte 4: expected a value"},
        {"[,1]", "line 1, byte 2: expected a value"},
        {"[", "line 1, byte 2: expected a value, but the text ends"},
        {"[1", "line 1, byte 3: expected ',' or ']', but the text ends"},
        {"[1}", "line 1, byte 3: expected ',' or ']'"},
        {"]", "line 1, byte 1: expected a value"},
        {"{", "line 1, byte 2: expected a string as the key, but the text ends"},
        {"{1:2}", "line 1, byte 2: expected a string as the key"},
        {"{\"a\"}", "line 1, byte 5: expected ':'"},
        {"{\"a\":}", "line 1, byte 6: expected a value"},
        {"{\"a\":1,}", "line 1, byte 8: expected a string as the key"},
        {"{\"a\":1\n\n  \"b\":2}", "line 3, byte 3: expected ',' or '}'"},
        {"1 2", "line 1, byte 3: text after the end of the value"},
        {"\"abc", "line 1, byte 5: expected '\"', but the text ends"},
        {"\"\\", "line 1, byte 2: unknown escape"},
        {"\"a\\x\"", "line 1, byte 3: unknown escape"},
        {"'a'", "line 1, byte 1: expected a value"},
        {"\"\\u12g4\"", "line 1, byte 2: \\u needs four hexadecimal digits"},
        {"\"\\u12", "line 1, byte 2: \\u needs four hexadecimal digits"},
        {"\"\\ud800\"", "line 1, byte 2: half of a surrogate pair"},
        {"\"\\ud800\\u0041\"", "line 1, byte 2: half of a surrogate pair"},
        {"\"\\udc00\\ud800\"", "line 1, byte 2: half of a surrogate pair"},
        {"\"\\ud800\\ud800\"", "line 1, byte 2: half of a surrogate pair"},
        {"\"a\tb\"", "line 1, byte 3: control character in a string"},
        {"[1]\f", "line 1, byte 4: text after the end of the value"},
        {"// no\n1", "line 1, byte 1: expected a value"},
        {"[\"\xc3\"]", "line 1, byte 3: invalid UTF-8"},
        {"\xff", "line 1, byte 1: expected a value"},
        {"\xef\xbb\xbf", "line 1, byte 4: expected a value, but the text ends"},
        {" \xef\xbb\xbf"
         "1",
         "line 1, byte 2: expected a value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i].text, strlen(cases[i].text), cases[i].message);
}

static void a_nul_is_refused_everywhere(void **state)
{
    (void)state;
    static const char text[] = "{\"key\" : [ true , 1.5e3, \"\\u0041\xc3\xa9\" , {} , [ ] ] } ";
    char broken[sizeof text];
    for (size_t i = 0; i < sizeof text; i++) {
        memcpy(broken, text, i);
        broken[i] = '\0';
        memcpy(broken + i + 1, text + i, sizeof text - i - 1);
        check_refused(broken, sizeof text, NULL);
    }
    check_refused("[1]\0", 4, "line 1, byte 4: text after the end of the value");
    check_refused("\"a\0b\"", 5, "line 1, byte 3: control character in a string");
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const char text[] =
        "{\"key\":[true,false,null,-1.5e+3,\"\\ud83d\\ude00\xe2\x82\xac\",{},[]]}";
    for (size_t len = 0; len < sizeof text - 1; len++)
        check_refused(text, len, NULL);
    check_copy(text, "{\"key\":[true,false,null,-1.5e+3,\"\\ud83d\\ude00\xe2\x82\xac\",{},nan]}",
               1);
}

static void what_is_rewritten_may_run_out_of_memory(void **state)
{
    (void)state;
    static const char text[] = "\xef\xbb\xbf[1e999,[],2]";
    static const char copy[] = "[\"1e999\",nan,2]";
    size_t nans;
    for (size_t limit = 1; limit < sizeof copy; limit++) {
        struct bytes out;
        bytes_init(&out, limit);
        bool fits = limit == sizeof copy - 1;
        assert_int_equal(scan(text, sizeof text - 1, &out, &nans), fits ? 0 : -ENOMEM);
        bytes_clear(&out);
        assert_int_equal(scan("?", 1, &out, &nans), -ENOMEM); /* no room for the message */
        bytes_deinit(&out);
    }
}

/* At every distance from the end, since 8 bytes are read at a time. */
static void plain_text_ends_where_a_string_cannot_go_on(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        bool plain;
    } cases[] = {
        {"x", true},
        {"\x7f", true},
        {"\xc3\xa9", true},
        {"\xe2\x82\xac", true},
        {"\xf0\x9f\x98\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\"", false},
        {"\\", false},
        {"\x1f", false},
        {"\x80", false},
        {"\xc3", false},
        {"\xc1\xbf", false},
        {"\xe2\x82", false},
        {"\xed\xa0\x80", false},
        {"\xf0\x9f\x98", false},
        {"\xf4\x90\x80\x80", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].bytes);
        for (size_t before = 0; before < 20; before++) {
            for (size_t after = 0; after < 20; after++) {
                size_t len = before + n + after;
                char *text = malloc(len + 1);
                assert_non_null(text);
                memset(text, 'x', len);
                memcpy(text + before, cases[i].bytes, n);
                text[len] = '\0';
                assert_int_equal(json_scan_plain(text, text + len) - text,
                                 cases[i].plain ? len : before);
                free(text);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cjson_can_have_is_not_copied),
        cmocka_unit_test(what_cjson_would_damage_is_rewritten),
        cmocka_unit_test(bad_text_is_refused_with_its_position),
        cmocka_unit_test(a_nul_is_refused_everywhere),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(what_is_rewritten_may_run_out_of_memory),
        cmocka_unit_test(plain_text_ends_where_a_string_cannot_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
