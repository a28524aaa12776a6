#include "bytes.h"
#include "decode.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

static const char text[] = "hello, hello, hello: the quick brown fox jumps over the lazy dog";
enum {
    TEXT = sizeof text - 1,
    STEP = 32 * 1024,
    MEGABYTE = 1000 * 1000,
    BOMB = 100 * MEGABYTE,
};

/* `text` and BOMB zeros, coded by brotli 1.0.9: the decoder library brings no encoder. */
static const uint8_t text_br[] = {
    0x1b, 0x3f, 0x00, 0x78, 0x1c, 0xa9, 0x53, 0x9f, 0xbb, 0x70, 0xf9, 0x66, 0x46,
    0x96, 0x3a, 0x67, 0x78, 0x05, 0x32, 0x07, 0x0e, 0x39, 0x70, 0xf8, 0x96, 0x34,
    0xcf, 0x4f, 0x16, 0x6c, 0xc0, 0x71, 0x2c, 0xf3, 0x6c, 0x1b, 0x0e, 0x3c, 0x4d,
    0xb5, 0x1e, 0x75, 0x48, 0x92, 0x92, 0x9b, 0xb9, 0x74, 0x96, 0x55, 0x25,
};
static const uint8_t bomb_br[] = {
    0xcb, 0xff, 0xff, 0x3f, 0xf8, 0x27, 0x00, 0xe2, 0xb1, 0x40, 0x20, 0xf7, 0xfe, 0x8f, 0xff, 0xff,
    0x7f, 0xf0, 0x4f, 0x00, 0xc4, 0x61, 0x11, 0x80, 0xee, 0xfd, 0x1f, 0xff, 0xff, 0xff, 0xe0, 0x9f,
    0x00, 0x88, 0xc3, 0x02, 0x00, 0xdd, 0xfb, 0x3f, 0xfe, 0xff, 0xff, 0xc1, 0x3f, 0x01, 0x10, 0x87,
    0x05, 0x00, 0xba, 0xf7, 0x7f, 0xfc, 0xff, 0xff, 0x83, 0x7f, 0x02, 0x20, 0x0e, 0x0b, 0x00, 0x74,
    0xef, 0xff, 0xf8, 0xff, 0xff, 0x07, 0xff, 0x04, 0x40, 0x1c, 0x16, 0x00, 0xe8, 0xde, 0xff, 0xf1,
    0xff, 0xff, 0x0f, 0xfe, 0x09, 0x80, 0x38, 0x2c, 0x00, 0xd0, 0xbd, 0xff, 0xe3, 0xff, 0xff, 0x1f,
    0xfc, 0x13, 0x00, 0x71, 0x58, 0x00, 0xa0, 0x7b, 0xff, 0xc7, 0xff, 0xff, 0x3f, 0xf8, 0x27, 0x00,
    0xe2, 0xb0, 0x00, 0x40, 0xf7, 0xfe, 0x8f, 0xff, 0xff, 0x7f, 0xf0, 0x4f, 0x00, 0xc4, 0x61, 0x01,
    0x80, 0xee, 0xfd, 0x1f, 0xff, 0xff, 0xff, 0xe0, 0x9f, 0x00, 0x88, 0xc3, 0x02, 0x00, 0xdd, 0xfb,
    0xbf, 0xfc, 0x07, 0xaf, 0xc3, 0x3f, 0x01, 0x10, 0x87, 0x05, 0x00, 0xba, 0xd8, 0x75,
};

enum { GZIP = 16 + MAX_WBITS, ZLIB = MAX_WBITS, RAW = -MAX_WBITS };

/* Appends `len` bytes coded by zlib; `window_bits` says in which of its formats. */
static void add_deflated(struct bytes *to, int window_bits, const void *p, size_t len)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    size_t bound = deflateBound(&z, len);
    assert_int_equal(bytes_reserve(to, bound), 0);
    z.next_in = (Bytef *)(uintptr_t)p;
    z.avail_in = (uInt)len;
    z.next_out = (Bytef *)to->data + to->len;
    z.avail_out = (uInt)bound;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    to->len += z.total_out;
    assert_int_equal(deflateEnd(&z), Z_OK);
}

static void add_zstd(struct bytes *to, const void *p, size_t len)
{
    size_t bound = ZSTD_compressBound(len);
    assert_int_equal(bytes_reserve(to, bound), 0);
    size_t n = ZSTD_compress(to->data + to->len, bound, p, len, 3);
    assert_false(ZSTD_isError(n));
    to->len += n;
}

static struct bytes coded(const char *coding, const void *p, size_t len)
{
    struct bytes b;
    bytes_init(&b, 0);
    if (strcmp(coding, "gzip") == 0)
        add_deflated(&b, GZIP, p, len);
    else if (strcmp(coding, "deflate") == 0)
        add_deflated(&b, ZLIB, p, len);
    else if (strcmp(coding, "raw deflate") == 0)
        add_deflated(&b, RAW, p, len);
    else if (strcmp(coding, "zstd") == 0)
        add_zstd(&b, p, len);
    else if (len == TEXT)
        assert_int_equal(bytes_append(&b, text_br, sizeof text_br), 0);
    else
        assert_int_equal(bytes_append(&b, bomb_br, sizeof bomb_br), 0);
    return b;
}

/* A sink that remembers what it got, and may refuse more than `cap` bytes. */
struct sink {
    struct bytes got;
    size_t total, calls, biggest;
    size_t cap; /* 0 = takes everything */
    bool forgets;
};

static int take(void *ctx, const char *p, size_t n)
{
    struct sink *s = ctx;
    s->calls++;
    s->total += n;
    s->biggest = n > s->biggest ? n : s->biggest;
    if (s->cap > 0 && s->total > s->cap)
        return -EMSGSIZE;
    return s->forgets ? 0 : bytes_append(&s->got, p, n);
}

/* Decodes `in`, fed in pieces of `piece` bytes, into `s`; the status of the first call that fails,
 * whose words are checked against `why` when that is given. */
static int run(struct sink *s, const char *coding, const struct bytes *in, size_t piece,
               const char *why)
{
    struct decode *d;
    assert_int_equal(decode_create(&d, coding, take, s), 0);
    assert_non_null(d);
    int rc = 0;
    for (size_t at = 0; rc == 0 && at < in->len; at += piece)
        rc = decode_feed(d, in->data + at, in->len - at < piece ? in->len - at : piece);
    if (rc == 0)
        rc = decode_finish(d);
    if (why)
        assert_string_equal(decode_error(d), why);
    if (rc != 0) {
        assert_int_equal(decode_feed(d, "x", 1), rc);
        assert_int_equal(decode_finish(d), rc);
    }
    decode_destroy(d);
    return rc;
}

/* The status of decoding `in` whole, with the output thrown away. */
static int status(const char *coding, const struct bytes *in, const char *why)
{
    struct sink s = {.forgets = true};
    return run(&s, coding, in, SIZE_MAX, why);
}

static void check_decodes(const char *coding, const struct bytes *in, size_t piece,
                          const void *expected, size_t len)
{
    struct sink s = {0};
    assert_int_equal(run(&s, coding, in, piece, ""), 0);
    assert_int_equal(s.got.len, len);
    assert_memory_equal(s.got.data, expected, len);
    assert_true(s.biggest <= STEP);
    bytes_deinit(&s.got);
}

static const struct {
    const char *made, *named;
} codings[] = {
    {"gzip", "gzip"},           {"gzip", "X-GZip"}, {"deflate", "deflate"},
    {"raw deflate", "Deflate"}, {"br", "br"},       {"zstd", "zstd"},
};
enum { CODINGS = sizeof codings / sizeof *codings };

static void no_coding_needs_no_decoder(void **state)
{
    (void)state;
    static const char *const names[] = {NULL, "", " ", "identity", "Identity", " , identity,\t"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct decode *d = (struct decode *)(uintptr_t)1;
        assert_int_equal(decode_create(&d, names[i], take, NULL), 0);
        assert_null(d);
    }
    decode_destroy(NULL);
}

static void unknown_and_too_many_codings_are_refused(void **state)
{
    (void)state;
    struct decode *d;
    assert_int_equal(decode_create(&d, "compress", take, NULL), -ENOTSUP);
    assert_int_equal(decode_create(&d, "gzip, rot13", take, NULL), -ENOTSUP);
    assert_int_equal(decode_create(&d, "gzi", take, NULL), -ENOTSUP);
    assert_int_equal(decode_create(&d, "gzip br", take, NULL), -ENOTSUP);
    assert_int_equal(decode_create(&d, "gzip,gzip,gzip,gzip,gzip,gzip", take, NULL), -E2BIG);
    assert_null(d);
    assert_int_equal(decode_create(&d, "gzip,gzip,identity,gzip,gzip,gzip", take, NULL), 0);
    decode_destroy(d);
}

static void decodes_whole_and_byte_by_byte(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODINGS; i++) {
        struct bytes in = coded(codings[i].made, text, TEXT);
        check_decodes(codings[i].named, &in, SIZE_MAX, text, TEXT);
        check_decodes(codings[i].named, &in, 1, text, TEXT);
        bytes_deinit(&in);
    }
}

static void decodes_much_data_in_pieces_of_any_size(void **state)
{
    (void)state;
    static const char *const names[] = {"gzip", "deflate", "zstd"};
    static const size_t pieces[] = {1, 7, 1000, STEP, SIZE_MAX};
    size_t len = 9 * STEP; /* a multiple: the output ends where the room does */
    char *data = malloc(len);
    assert_non_null(data);
    uint32_t seed = 1;
    for (size_t i = 0; i < len; i++)
        data[i] = (char)((seed = seed * 1103515245 + 12345) >> 29);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes in = coded(names[i], data, len);
        for (size_t j = 0; j < sizeof pieces / sizeof *pieces; j++)
            check_decodes(names[i], &in, pieces[j], data, len);
        bytes_deinit(&in);
    }
    free(data);
}

static void an_empty_body_is_complete(void **state)
{
    (void)state;
    struct bytes nothing = {0};
    for (size_t i = 0; i < CODINGS; i++)
        assert_int_equal(status(codings[i].named, &nothing, ""), 0);
    assert_int_equal(status("gzip, br", &nothing, ""), 0);
}

static void coded_emptiness_gives_nothing(void **state)
{
    (void)state;
    static const char *const names[] = {"gzip", "deflate", "zstd"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes in = coded(names[i], "", 0);
        struct sink s = {0};
        assert_int_equal(run(&s, names[i], &in, 1, ""), 0);
        assert_int_equal(s.calls, 0);
        bytes_deinit(&in);
    }
}

static void every_truncation_is_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODINGS; i++) {
        struct bytes in = coded(codings[i].made, text, TEXT);
        size_t whole = in.len;
        for (in.len = 1; in.len < whole; in.len++)
            assert_int_equal(status(codings[i].named, &in, "the compressed data ends too early"),
                             -EILSEQ);
        bytes_deinit(&in);
    }
}

static void gzip_without_its_trailer_is_an_error(void **state)
{
    (void)state;
    struct bytes in = coded("gzip", text, TEXT);
    in.len -= 8;
    struct sink s = {0};
    assert_int_equal(run(&s, "gzip", &in, SIZE_MAX, "the compressed data ends too early"), -EILSEQ);
    assert_int_equal(s.got.len, TEXT);
    bytes_deinit(&s.got);
    bytes_deinit(&in);
}

static void bytes_after_the_end_are_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < CODINGS; i++) {
        struct bytes in = coded(codings[i].made, text, TEXT);
        assert_int_equal(bytes_append(&in, "?!?!?", 5), 0);
        assert_int_equal(status(codings[i].named, &in, NULL), -EILSEQ);
        struct sink s = {.forgets = true};
        assert_int_equal(run(&s, codings[i].named, &in, 1, NULL), -EILSEQ);
        in.len -= 4;
        assert_int_equal(status(codings[i].named, &in, NULL), -EILSEQ);
        in.data[in.len - 1] = '\0';
        assert_int_equal(status(codings[i].named, &in, NULL), -EILSEQ);
        bytes_deinit(&in);
    }
}

static void a_second_deflate_or_br_stream_is_an_error(void **state)
{
    (void)state;
    static const char *const names[] = {"deflate", "br"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes in = coded(names[i], text, TEXT);
        struct bytes again = coded(names[i], text, TEXT);
        assert_int_equal(bytes_append(&in, again.data, again.len), 0);
        assert_int_equal(status(names[i], &in, "bytes after the end of the compressed data"),
                         -EILSEQ);
        bytes_deinit(&again);
        bytes_deinit(&in);
    }
}

static void corrupt_check_sums_are_errors(void **state)
{
    (void)state;
    struct bytes in = coded("gzip", text, TEXT);
    in.data[in.len - 8] ^= 1; /* CRC-32 */
    assert_int_equal(status("gzip", &in, "corrupt gzip data"), -EILSEQ);
    in.data[in.len - 8] ^= 1;
    in.data[in.len - 1] ^= 1; /* the size */
    assert_int_equal(status("gzip", &in, "corrupt gzip data"), -EILSEQ);
    bytes_deinit(&in);

    in = coded("deflate", text, TEXT);
    in.data[in.len - 1] ^= 1; /* Adler-32 */
    assert_int_equal(status("deflate", &in, "corrupt deflate data"), -EILSEQ);
    bytes_deinit(&in);
}

static void data_in_no_such_coding_is_an_error(void **state)
{
    (void)state;
    struct bytes in;
    bytes_init(&in, 0);
    assert_int_equal(bytes_append(&in, "{\"plain\": \"JSON\"}", 17), 0);
    assert_int_equal(status("gzip", &in, "corrupt gzip data"), -EILSEQ);
    assert_int_equal(status("zstd", &in, "corrupt zstd data"), -EILSEQ);
    assert_int_equal(status("deflate", &in, "corrupt deflate data"), -EILSEQ);
    assert_int_equal(status("br", &in, "corrupt br data"), -EILSEQ);
    bytes_deinit(&in);
}

static void members_and_frames_are_joined(void **state)
{
    (void)state;
    static const char *const names[] = {"gzip", "zstd"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes in = coded(names[i], "one, ", 5);
        struct bytes more = coded(names[i], "", 0);
        assert_int_equal(bytes_append(&in, more.data, more.len), 0);
        bytes_deinit(&more);
        more = coded(names[i], "two", 3);
        assert_int_equal(bytes_append(&in, more.data, more.len), 0);
        check_decodes(names[i], &in, SIZE_MAX, "one, two", 8);
        check_decodes(names[i], &in, 1, "one, two", 8);
        in.len--;
        assert_int_equal(status(names[i], &in, "the compressed data ends too early"), -EILSEQ);
        bytes_deinit(&more);
        bytes_deinit(&in);
    }
}

static void lists_are_undone_in_reverse(void **state)
{
    (void)state;
    struct bytes inner = coded("br", text, TEXT);
    struct bytes middle = coded("gzip", inner.data, inner.len);
    struct bytes outer = coded("zstd", middle.data, middle.len);
    check_decodes("br,gzip ,identity, ZSTD", &outer, SIZE_MAX, text, TEXT);
    check_decodes("br, gzip, zstd", &outer, 1, text, TEXT);
    assert_int_equal(status("zstd, gzip, br", &outer, NULL), -EILSEQ);
    bytes_deinit(&outer);
    bytes_deinit(&middle);

    inner.len--; /* complete outside, truncated inside */
    outer = coded("gzip", inner.data, inner.len);
    assert_int_equal(status("br, gzip", &outer, "the compressed data ends too early"), -EILSEQ);
    bytes_deinit(&outer);
    outer = coded("gzip", "", 0);
    assert_int_equal(status("br, gzip", &outer, "the compressed data ends too early"), -EILSEQ);
    bytes_deinit(&outer);
    bytes_deinit(&inner);
}

static void a_zstd_window_above_8_mb_is_refused(void **state)
{
    (void)state;
    for (int log = 23; log <= 24; log++) {
        ZSTD_CStream *z = ZSTD_createCStream();
        assert_non_null(z);
        assert_false(ZSTD_isError(ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, log)));
        char room[256];
        ZSTD_inBuffer from = {"abc", 3, 0};
        ZSTD_outBuffer to = {room, sizeof room, 0};
        assert_false(ZSTD_isError(ZSTD_compressStream2(z, &to, &from, ZSTD_e_flush)));
        assert_int_equal(ZSTD_compressStream2(z, &to, &from, ZSTD_e_end), 0);
        struct bytes in = {.data = room, .len = to.pos};
        assert_int_equal(status("zstd", &in, NULL), log == 23 ? 0 : -EILSEQ);
        ZSTD_freeCStream(z);
    }
}

static void a_bomb_stops_where_the_sink_says(void **state)
{
    (void)state;
    static const char *const names[] = {"gzip", "br", "zstd"};
    char *zeros = calloc(1, BOMB);
    assert_non_null(zeros);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct bytes in = coded(names[i], zeros, BOMB);
        struct sink s = {.cap = MEGABYTE, .forgets = true};
        assert_int_equal(run(&s, names[i], &in, SIZE_MAX, "the decoded data was refused"),
                         -EMSGSIZE);
        assert_true(s.biggest <= STEP);
        assert_true(s.total <= MEGABYTE + STEP);
        bytes_deinit(&in);
    }
    free(zeros);

    struct bytes in = coded("br", NULL, BOMB);
    struct bytes twice = coded("zstd", in.data, in.len);
    struct sink s = {.forgets = true};
    assert_int_equal(run(&s, "br, zstd", &twice, SIZE_MAX, ""), 0);
    assert_int_equal(s.total, BOMB);
    assert_true(s.biggest <= STEP);
    bytes_deinit(&twice);
    bytes_deinit(&in);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_coding_needs_no_decoder),
        cmocka_unit_test(unknown_and_too_many_codings_are_refused),
        cmocka_unit_test(decodes_whole_and_byte_by_byte),
        cmocka_unit_test(decodes_much_data_in_pieces_of_any_size),
        cmocka_unit_test(an_empty_body_is_complete),
        cmocka_unit_test(coded_emptiness_gives_nothing),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(gzip_without_its_trailer_is_an_error),
        cmocka_unit_test(bytes_after_the_end_are_an_error),
        cmocka_unit_test(a_second_deflate_or_br_stream_is_an_error),
        cmocka_unit_test(corrupt_check_sums_are_errors),
        cmocka_unit_test(data_in_no_such_coding_is_an_error),
        cmocka_unit_test(members_and_frames_are_joined),
        cmocka_unit_test(lists_are_undone_in_reverse),
        cmocka_unit_test(a_zstd_window_above_8_mb_is_refused),
        cmocka_unit_test(a_bomb_stops_where_the_sink_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
