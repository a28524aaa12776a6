/* What is found in a file that is appended to, and what becomes of CSV rows in one that is widened.
 */
#include "file.h"
#include "output_fixture.h"

#include <errno.h>

static struct scan scanned(const char *path, enum codec codec, int want)
{
    struct output_options options = {
        .path = path, .mode = OUTPUT_APPEND, .codec = codec, .resume = -1};
    struct output *o;
    struct scan scan;
    assert_int_equal(output_open(&o, &options), 0);
    assert_int_equal(output_scan(o, &scan, ','), want);
    output_close(o, false);
    return scan;
}

static void assert_bytes(const struct bytes *b, const char *want)
{
    assert_int_equal(b->len, strlen(want));
    if (b->len > 0)
        assert_memory_equal(b->data, want, b->len);
}

static void a_scan_finds_the_last_row_of_csv(void **state)
{
    static const struct {
        const char *text;
        int64_t row;
    } cases[] = {
        {"", 0},
        {"a,b\r\n1,2", 5},
        {"a\n\"x\ny\"\n", 8},
        {"a\n\"x\ny\",", 2},
        {"a\n1,\"x\n", 2},
        {"a\n\"x\"\"\ny\"\n2", 10},
        {"a\n5\" disk\n6", 10},
        {"a\n\"\"\n\"\"\"\n\"\n", 11},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("x", cases[i].text);
        struct scan scan = scanned("x", CODEC_NONE, 0);
        assert_int_equal(scan.row, cases[i].row);
        scan_deinit(&scan);
    }
}

static void a_scan_finds_both_ends(void **state)
{
    (void)state;
    put("x", "1\n2\n345");
    struct scan scan = scanned("x", CODEC_NONE, 0);
    assert_bytes(&scan.head, "1");
    assert_bytes(&scan.tail, "345");
    assert_bytes(&scan.ending, "1\n2\n345");
    assert_int_equal(scan.whole, 7);
    scan_deinit(&scan);

    put("x", "");
    scan = scanned("x", CODEC_NONE, 0);
    assert_bytes(&scan.head, "");
    assert_bytes(&scan.tail, "");
    scan_deinit(&scan);

    enum { LENGTH = 200 * 1024 + 7 };
    char *text = malloc(LENGTH + 1);
    assert_non_null(text);
    memset(text, 'x', LENGTH);
    text[LENGTH] = '\0';
    put("x", text);
    scan = scanned("x", CODEC_NONE, 0);
    assert_bytes(&scan.head, text);
    assert_bytes(&scan.tail, text);
    assert_bytes(&scan.ending, text + LENGTH - 4096);
    scan_deinit(&scan);
    memcpy(text, "1\n", 2);
    put("x", text);
    scan = scanned("x", CODEC_NONE, 0);
    assert_bytes(&scan.head, "1");
    assert_bytes(&scan.tail, text + 2);
    scan_deinit(&scan);
    free(text);

    assert_int_equal(truncate("x", 70 * 1024 * 1024), 0);
    scan = scanned("x", CODEC_NONE, -EFBIG);
    scan_deinit(&scan);
}

static void write_frames(const char *path, enum codec codec, const char *const *texts, size_t n)
{
    struct output_options options = {.path = path, .codec = codec, .resume = -1};
    struct output *o;
    assert_int_equal(output_open(&o, &options), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(add(o, texts[i], ""), 0);
    assert_int_equal(finish(o, ""), 0);
    output_close(o, false);
}

static void a_scan_finds_whole_frames(void **state)
{
    (void)state;
    static const char *const texts[] = {"head\nab", "c", "\nrest", "torn\n"};
    for (enum codec codec = CODEC_GZIP; codec <= CODEC_ZSTD; codec++) {
        struct stat three, four;
        write_frames("x", codec, texts, 2);
        struct scan scan = scanned("x", codec, 0);
        int64_t two = scan.whole;
        assert_bytes(&scan.head, "head");
        assert_bytes(&scan.tail, "abc");
        assert_bytes(&scan.ending, "c");
        scan_deinit(&scan);
        write_frames("x", codec, texts, 3);
        assert_int_equal(stat("x", &three), 0);
        write_frames("x", codec, texts, 4);
        assert_int_equal(stat("x", &four), 0);
        for (off_t size = four.st_size; size >= three.st_size; size--) {
            assert_int_equal(truncate("x", size), 0);
            scan = scanned("x", codec, 0);
            bool whole = size == four.st_size;
            assert_int_equal(scan.whole, whole ? four.st_size : three.st_size);
            assert_int_equal(scan.last, whole ? three.st_size : two);
            assert_bytes(&scan.tail, whole ? "" : "rest");
            assert_bytes(&scan.ending, whole ? "torn\n" : "\nrest");
            scan_deinit(&scan);
        }
        assert_int_equal(truncate("x", 7), 0);
        scan = scanned("x", codec, 0);
        assert_int_equal(scan.whole, 0);
        assert_bytes(&scan.head, "");
        scan_deinit(&scan);
        put("x", "no frame at all");
        scan = scanned("x", codec, FILE_CORRUPT);
        scan_deinit(&scan);
    }
}

/* Widens `before` in pieces that begin and end everywhere. */
static void assert_widened(const char *before, size_t columns, char delimiter, const char *after)
{
    struct widen widen = {.header = bytes_of("H\r\n"), .columns = columns, .delimiter = delimiter};
    for (enum codec codec = CODEC_NONE; codec <= CODEC_ZSTD; codec++) {
        struct output_options options = {.path = "w", .codec = codec, .resume = -1};
        struct output *o;
        struct bytes none = {0};
        assert_int_equal(output_open(&o, &options), 0);
        for (const char *p = before; *p; p++) {
            char one[] = {*p, '\0'};
            assert_int_equal(add(o, one, ""), 0);
        }
        assert_int_equal(output_finish(o, &none, &widen), 0);
        output_close(o, false);
        assert_missing("w.part");
        assert_missing("w.part.wide");
        struct scan scan = scanned("w", codec, 0);
        struct bytes want = bytes_of(after);
        assert_memory_equal(scan.ending.data, want.data, want.len);
        assert_int_equal(scan.ending.len, want.len);
        scan_deinit(&scan);
        assert_int_equal(unlink("w"), 0);
    }
}

static void rows_are_widened(void **state)
{
    (void)state;
    assert_widened("a\r\n1\r\n\r\n\"\"\r\n", 3, ',', "H\r\n1,,\r\n,,\r\n\"\",,\r\n");
    assert_widened("a,\"b\r\n\"\"\"\r\n\",\r\n\",\"x\"\"\"\r\n1,2,3\r\n", 3, ',',
                   "H\r\n\",\r\n\",\"x\"\"\",\r\n1,2,3\r\n");
    assert_widened("a;b\r\n1,2\r\n", 2, ';', "H\r\n1,2;\r\n");
    assert_widened("a\r\n", 2, ',', "H\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_scan_finds_the_last_row_of_csv),
        TEST(a_scan_finds_both_ends),
        TEST(a_scan_finds_whole_frames),
        TEST(rows_are_widened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
