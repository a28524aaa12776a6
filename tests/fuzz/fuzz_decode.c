/*
 * Content decoding (src/decode.c): every coding and lists of them.
 *
 * Input: a byte that says which codings (see `codings`), whether the rest is coded data or plain
 * text to be coded first (bit 7), two bytes of seed for the slices, a byte for the cap, then the
 * data. With 0 as the first byte, the data begins with the text of the field, up to a line end.
 * Properties: the outcome does not depend on how the input is sliced, nor does the output of what
 * is whole; a sink that refuses ends it and is not called again; what was coded decodes to itself,
 * and cut short or with a byte more it is an error.
 */
#include "bytes.h"
#include "check.h"
#include "decode.h"

#include <brotli/encode.h>
#include <errno.h>
#include <stdbool.h>
#include <zlib.h>
#include <zstd.h>

enum {
    MOST = 1 << 20,   /* bytes of output; more is a bomb, which the sink refuses */
    CODED = 1 << 7,   /* the data is plain text, to be coded here */
    STEP = 32 * 1024, /* the most that decode.h lets the sink see at once */
};

static const char *const codings[] = {
    NULL,
    "gzip",
    "deflate",
    "br",
    "zstd",
    "x-gzip",
    "raw",
    "gzip, br",
    "zstd, gzip",
    "deflate,deflate",
    "br,br",
    "zstd,zstd,zstd",
    "raw, raw",
    "gzip,gzip,gzip,gzip,gzip",
    "br,gzip,zstd,deflate,br",
    " GZip , identity,,",
};

struct sink {
    struct bytes out;
    size_t cap;
    bool refused;
};

static int take(void *ctx, const char *p, size_t n)
{
    struct sink *s = ctx;
    CHECK(!s->refused, "the sink was called after it refused");
    CHECK(n > 0 && n <= STEP, "%zu bytes at once", n);
    if (n > s->cap - s->out.len) {
        s->refused = true;
        return -EFBIG;
    }
    CHECK(bytes_append(&s->out, p, n) == 0, "no memory");
    return 0;
}

/* Decodes `data` in slices of which `seed` chooses the sizes, in one if it is 0. */
static int decode(const char *codings_text, const uint8_t *data, size_t size, uint32_t seed,
                  struct sink *s)
{
    struct decode *d;
    int rc = decode_create(&d, codings_text, take, s);
    if (rc != 0 || !d)
        return rc; /* unknown, too many, or nothing to decode */
    CHECK(*decode_error(d) == '\0', "an error before the start: %s", decode_error(d));
    uint32_t state = seed * 2 + 1;
    while (size > 0 && rc == 0) {
        uint32_t r = next_random(&state);
        size_t n = seed == 0 ? size : (r & 3) == 0 ? 1 : 1 + (r >> 8) % ((r & 4) ? 7 : 500);
        if (n > size)
            n = size;
        char *slice = copy_of(data, n, 0);
        rc = decode_feed(d, slice, n);
        free(slice);
        data += n;
        size -= n;
    }
    int end = decode_finish(d);
    CHECK(rc == 0 || (end == rc && decode_feed(d, "x", 1) == rc), "%d became %d", rc, end);
    CHECK((end == 0) == (*decode_error(d) == '\0'), "%d, \"%s\"", end, decode_error(d));
    decode_destroy(d);
    return end;
}

/* The same data, in one piece and in slices. */
static void slices_do_not_matter(const char *field, const uint8_t *data, size_t size, uint32_t seed,
                                 size_t cap)
{
    struct sink whole = {.cap = cap}, sliced = {.cap = cap};
    int rc = decode(field, data, size, 0, &whole);
    int again = decode(field, data, size, seed + 1, &sliced);
    size_t common = whole.out.len < sliced.out.len ? whole.out.len : sliced.out.len;
    CHECK(rc == again || whole.refused || sliced.refused, "%d in one piece, %d in slices", rc,
          again);
    CHECK(whole.out.len == sliced.out.len || rc != 0 || again != 0, "%zu bytes, %zu in slices",
          whole.out.len, sliced.out.len);
    CHECK(common == 0 || memcmp(whole.out.data, sliced.out.data, common) == 0, "other bytes");
    CHECK(rc == 0 || rc == -EILSEQ || rc == -ENOTSUP || rc == -E2BIG ||
              (rc == -EFBIG && whole.refused),
          "%d", rc);
    bytes_deinit(&whole.out);
    bytes_deinit(&sliced.out);
}

static void deflate_to(struct bytes *to, int window_bits, int level, const void *p, size_t n)
{
    z_stream z = {0};
    CHECK(deflateInit2(&z, level, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) == Z_OK, "zlib");
    size_t room = deflateBound(&z, n) + 32;
    CHECK(bytes_reserve(to, room) == 0, "no memory");
    z.next_in = (Bytef *)(uintptr_t)p;
    z.avail_in = (uInt)n;
    z.next_out = (Bytef *)to->data + to->len;
    z.avail_out = (uInt)room;
    CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END, "zlib");
    to->len += z.total_out;
    deflateEnd(&z);
}

/* Appends `p` coded by one coding. */
static void encode(struct bytes *to, const char *name, size_t len, uint32_t r, const void *p,
                   size_t n)
{
    if (len == 2) {
        size_t room = BrotliEncoderMaxCompressedSize(n) + 32;
        CHECK(bytes_reserve(to, room) == 0, "no memory");
        CHECK(BrotliEncoderCompress((int)(r % 6), 18, BROTLI_MODE_GENERIC, n, p, &room,
                                    (uint8_t *)to->data + to->len),
              "brotli");
        to->len += room;
    } else if (*name == 'z') {
        size_t room = ZSTD_compressBound(n);
        CHECK(bytes_reserve(to, room) == 0, "no memory");
        room = ZSTD_compress(to->data + to->len, room, p, n, (int)(r % 5));
        CHECK(!ZSTD_isError(room), "zstd");
        to->len += room;
    } else {
        int window = *name == 'd' ? 15 : *name == 'r' ? -15 : 31;
        deflate_to(to, window, (int)(r % 10), p, n);
    }
}

/* Codes the text as `list` says, first coding first. */
static void encode_list(struct bytes *to, const char *list, uint32_t seed, const uint8_t *data,
                        size_t size)
{
    struct bytes coded = {0};
    uint32_t state = seed * 2 + 1;
    CHECK(bytes_append(&coded, data, size) == 0, "no memory");
    while (*list) {
        list += strspn(list, ", ");
        size_t len = strcspn(list, ", ");
        if (len > 0 && strncmp(list, "identity", 8) != 0) {
            bytes_clear(to);
            encode(to, list, len, next_random(&state), coded.data ? coded.data : "", coded.len);
            bytes_clear(&coded);
            CHECK(bytes_append(&coded, to->data, to->len) == 0, "no memory");
        }
        list += len;
    }
    bytes_deinit(&coded);
}

/* "raw" is what some servers send as deflate. Its first byte must not look like zlib's. */
static const char *field_of(const char *coding, bool *ambiguous, const struct bytes *coded)
{
    *ambiguous =
        strncmp(coding, "raw", 3) == 0 && coded && coded->len > 0 && (coded->data[0] & 0x0f) == 8;
    if (strcmp(coding, "raw") == 0)
        return "deflate";
    return strcmp(coding, "raw, raw") == 0 ? "deflate, deflate" : coding;
}

static void coded_comes_back(const char *coding, const uint8_t *data, size_t size, uint32_t seed)
{
    struct bytes coded = {0};
    bool ambiguous;
    encode_list(&coded, coding, seed, data, size);
    const char *field = field_of(coding, &ambiguous, &coded);
    const uint8_t *p = (const uint8_t *)coded.data;
    if (ambiguous || strcmp(coding, "raw, raw") == 0) {
        bytes_deinit(&coded);
        return;
    }
    struct sink s = {.cap = MOST};
    int rc = decode(field, p, coded.len, seed, &s);
    CHECK(rc == 0 && s.out.len == size && (size == 0 || memcmp(s.out.data, data, size) == 0),
          "%d after %zu of %zu bytes", rc, s.out.len, size);

    /* Cut anywhere but at its beginning, it is an error. */
    size_t cut = coded.len > 1 ? 1 + seed % (coded.len - 1) : 0;
    s.out.len = 0;
    rc = cut ? decode(field, p, cut, seed, &s) : -EILSEQ;
    CHECK(rc == -EILSEQ, "%d after %zu of %zu coded bytes", rc, cut, coded.len);

    CHECK(bytes_append(&coded, "\0", 1) == 0, "no memory");
    s.out.len = 0;
    rc = decode(field, (const uint8_t *)coded.data, coded.len, seed, &s);
    CHECK(rc == -EILSEQ, "%d with a byte more", rc);
    bytes_deinit(&s.out);
    bytes_deinit(&coded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    enum { COUNT = sizeof codings / sizeof *codings };
    uint8_t options = take_byte(&data, &size);
    uint32_t seed = take_byte(&data, &size);
    seed = seed << 8 | take_byte(&data, &size);
    size_t cap = take_byte(&data, &size);
    cap = cap < 128 ? MOST : (cap - 127) * 8;
    const char *coding = codings[options % COUNT];
    bool ambiguous;

    if ((options & CODED) && coding && size < STEP) {
        coded_comes_back(*coding == ' ' || *coding == 'x' ? "gzip" : coding, data, size, seed);
    } else if (coding) {
        slices_do_not_matter(field_of(coding, &ambiguous, NULL), data, size, seed, cap);
    } else {
        size_t len = size > 0 && memchr(data, '\n', size)
                         ? (size_t)((const uint8_t *)memchr(data, '\n', size) - data)
                         : size;
        char *field = copy_of(data, len, 1);
        if (len < size)
            len++;
        slices_do_not_matter(field, data + len, size - len, seed, cap);
        free(field);
    }
    return 0;
}
