#include "head.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Feeds lines separated by '\n' as "line\r\n". Returns what the last one gave, or the first error.
 */
static int feed(struct head *h, const char *lines, bool bodiless, const char **why)
{
    int rc = 0;
    while (*lines && rc >= 0) {
        char line[512];
        size_t n = strcspn(lines, "\n");
        memcpy(line, lines, n);
        memcpy(line + n, "\r\n", 2);
        rc = head_take(h, line, n + 2, bodiless, why);
        lines += n + (lines[n] == '\n');
    }
    return rc;
}

static int judge(struct head *h, const char *lines)
{
    const char *why = "";
    head_init(h);
    int rc = feed(h, lines, false, &why);
    if (rc < 0)
        assert_string_not_equal(why, "");
    return rc;
}

static void expect(const char *lines, int rc, enum head_framing framing, int64_t length)
{
    struct head h;
    assert_int_equal(judge(&h, lines), rc);
    if (rc == 1) {
        assert_int_equal(h.framing, framing);
        assert_int_equal(h.length, length);
    }
    head_deinit(&h);
}

static void framing_is_told(void **state)
{
    (void)state;
    expect("HTTP/1.1 200 OK\nContent-Length: 12\n\n", 1, HEAD_LENGTH, 12);
    expect("HTTP/1.1 200 OK\nCONTENT-LENGTH:12\n\n", 1, HEAD_LENGTH, 12);
    expect("HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n", 1, HEAD_CHUNKED, 0);
    expect("HTTP/1.1 200 OK\nX: y\n\n", 1, HEAD_CLOSE, 0);
    expect("HTTP/2 200 \ncontent-length: 3\n\n", 1, HEAD_H2, 3);
    expect("HTTP/1.1 204 No Content\n\n", 1, HEAD_NONE, 0);
    expect("HTTP/1.1 304 Not Modified\nContent-Length: 99\n\n", 1, HEAD_NONE, 99);
}

static void ambiguous_framing_is_refused(void **state)
{
    static const char *const bad[] = {
        "Content-Length: 1\nContent-Length: 2",
        "Content-Length: 1, 2",
        "Content-Length: -1",
        "Content-Length: +1",
        "Content-Length: 1x",
        "Content-Length: ",
        "Content-Length: 99999999999999999999",
        "Content-Length: 5\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\nContent-Length: 5",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "Content-Length: 5\n 6",
        "Transfer-Encoding: chunked\n\t, identity",
        "Content-Encoding:\n gzip",
        "X: a\rContent-Length: 5",
        "X: a\r",
        "Content-Length : 5",
        "Transfer-Encoding\t: chunked",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char lines[256] = "HTTP/1.1 200 OK\n";
        strcat(lines, bad[i]);
        strcat(lines, "\n\n");
        expect(lines, -EPROTO, HEAD_NONE, 0);
    }
    expect("HTTP/1.1 200 OK\nContent-Length: 7\nContent-Length: 7\n\n", 1, HEAD_LENGTH, 7);
    expect("HTTP/1.1 200 OK\nContent-Length: 7 , 7\n\n", 1, HEAD_LENGTH, 7);
}

static void other_fields_may_be_folded_or_odd(void **state)
{
    (void)state;
    expect("HTTP/1.1 200 OK\nX: a\n b\n\tContent-Length: 9\nX : y\nContent-Length: 3\n\n", 1,
           HEAD_LENGTH, 3);
}

/* libcurl reads "1000" as 100 and would go on to a second head. */
static void a_status_has_three_digits(void **state)
{
    static const char *const bad[] = {
        "HTTP/1.1 1000 x", "HTTP/1.1 20 x",         "HTTP/1.1 099 x",
        "HTTP/1.1 -20 x",  "HTTP/1.1 20",           "HTTP/1.1 x",
        "HTTP/1.1",        "HTTP/1.1 200OK",        "HTTP 200 OK",
        "ICY 200 OK",      "HTTP/1.1 200000000000", "HTTP/1.1 101 Switching Protocols",
        "HTTP/x.y 204 OK", "HTTP/11 204 OK",        "HTTP/1 204 OK",
        "HTTP/1.10 204 O", "HTTP/1.1x 204 OK",      "HTTP/1,1 204 OK",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char lines[64];
        snprintf(lines, sizeof lines, "%s\n\n", bad[i]);
        expect(lines, -EPROTO, HEAD_NONE, 0);
    }
    expect("HTTP/1.1 200\n\n", 1, HEAD_CLOSE, 0);
    expect("HTTP/1.1  200 OK\n\n", 1, HEAD_CLOSE, 0);
}

/* libcurl takes it for a field like any other. */
static void a_status_line_inside_a_head_starts_none(void **state)
{
    struct head h;
    (void)state;
    assert_int_equal(
        judge(&h, "HTTP/1.1 200 OK\nContent-Length: 5\nHTTP/1.1 201 Created\nX: y\n\n"), 1);
    assert_int_equal(h.status, 200);
    assert_int_equal(h.framing, HEAD_LENGTH);
    assert_int_equal(h.length, 5);
    head_deinit(&h);
}

static void http2_is_told_from_a_text_that_says_so(void **state)
{
    static const char *const bad[] = {
        "HTTP/2 200 OK", "HTTP/2 200",  "HTTP/2  200",
        "HTTP/2.0 200 ", "HTTP/2 2000", "HTTP/20 200 ",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char lines[64];
        snprintf(lines, sizeof lines, "%s\n\n", bad[i]);
        expect(lines, -EPROTO, HEAD_NONE, 0);
    }
    expect("HTTP/2 200 \n\n", 1, HEAD_H2, 0);
    struct head h;
    const char *why = "";
    head_init(&h);
    h.plain = true;
    head_reset(&h, 0);
    assert_int_equal(feed(&h, "HTTP/2 200 \n\n", false, &why), -EPROTO);
    head_deinit(&h);
}

static void http_1_0_has_no_chunks(void **state)
{
    (void)state;
    expect("HTTP/1.0 200 OK\nTransfer-Encoding: chunked\n\n", -EPROTO, HEAD_NONE, 0);
    expect("HTTP/1.0 200 OK\nContent-Length: 2\n\n", 1, HEAD_LENGTH, 2);
}

static void trailers_have_a_cap(void **state)
{
    struct head h;
    const char *why = "";
    int rc = 0;
    (void)state;
    head_init(&h);
    head_reset(&h, 60);
    assert_int_equal(feed(&h, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", false, &why), 1);
    for (int i = 0; i < 10; i++)
        assert_int_equal(feed(&h, "X: y\n", false, &why), 0);
    assert_int_equal(feed(&h, "X: y\n", false, &why), -E2BIG);
    head_reset(&h, 0);
    assert_int_equal(feed(&h, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", false, &why), 1);
    for (int i = 0; rc == 0 && i < 100000; i++)
        rc = feed(&h, "X: y\n", false, &why);
    assert_int_equal(rc, -E2BIG);
    head_deinit(&h);
}

static void an_interim_response_gives_way(void **state)
{
    struct head h;
    (void)state;
    assert_int_equal(judge(&h, "HTTP/1.1 103 Early Hints\nContent-Length: 1\nLink: x\n\n"), 0);
    assert_false(h.done);
    const char *why = "";
    assert_int_equal(feed(&h, "HTTP/1.1 200 OK\nContent-Length: 2\n\n", false, &why), 1);
    assert_int_equal(h.status, 200);
    assert_int_equal(h.length, 2);
    assert_null(memmem(h.text.data, h.text.len, "Link", 4));
    head_deinit(&h);
}

static void trailers_change_nothing(void **state)
{
    struct head h;
    (void)state;
    assert_int_equal(judge(&h, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"), 1);
    size_t len = h.text.len;
    const char *why = "";
    assert_int_equal(feed(&h, "Content-Length: 5\nContent-Encoding: gzip\n", false, &why), 0);
    assert_int_equal(feed(&h, "HTTP/1.1 404 Not Found\nX: y\n\n", false, &why), 0);
    assert_int_equal(h.status, 200);
    assert_int_equal(h.framing, HEAD_CHUNKED);
    assert_int_equal(h.text.len, len);
    assert_false(h.has_length);
    assert_int_equal(h.coding.len, 0);
    head_deinit(&h);
}

static void codings_and_close_are_noted(void **state)
{
    struct head h;
    (void)state;
    assert_int_equal(judge(&h, "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Encoding: br\n"
                               "Connection: keep-alive, Close\n\n"),
                     1);
    assert_string_equal(h.coding.data, "gzip,br");
    assert_true(h.closes);
    head_deinit(&h);
    assert_int_equal(judge(&h, "HTTP/1.1 200 OK\nConnection: closed\n\n"), 1);
    assert_false(h.closes);
    head_deinit(&h);
    assert_int_equal(judge(&h, "HTTP/1.0 200 OK\n\n"), 1);
    assert_true(h.closes);
    head_deinit(&h);
}

static void a_head_has_a_cap_and_can_be_used_again(void **state)
{
    struct head h;
    const char *why = "";
    (void)state;
    head_init(&h);
    head_reset(&h, 40);
    assert_int_equal(feed(&h, "HTTP/1.1 200 OK\nX: 0123456789012345678901234567890\n", false, &why),
                     -E2BIG);
    head_reset(&h, 40);
    assert_int_equal(feed(&h, "HTTP/1.1 200 OK\nA: b\n\n", true, &why), 1);
    assert_int_equal(h.framing, HEAD_NONE);
    head_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(framing_is_told),
        cmocka_unit_test(ambiguous_framing_is_refused),
        cmocka_unit_test(other_fields_may_be_folded_or_odd),
        cmocka_unit_test(a_status_has_three_digits),
        cmocka_unit_test(a_status_line_inside_a_head_starts_none),
        cmocka_unit_test(http2_is_told_from_a_text_that_says_so),
        cmocka_unit_test(http_1_0_has_no_chunks),
        cmocka_unit_test(trailers_have_a_cap),
        cmocka_unit_test(an_interim_response_gives_way),
        cmocka_unit_test(trailers_change_nothing),
        cmocka_unit_test(codings_and_close_are_noted),
        cmocka_unit_test(a_head_has_a_cap_and_can_be_used_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
