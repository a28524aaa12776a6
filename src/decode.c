#include "decode.h"

#define ZLIB_CONST /* next_in is const */

#include <brotli/decode.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum {
    MAX_CODINGS = 5,
    STEP_BYTES = 32 * 1024,
    ZSTD_WINDOW_LOG = 23, /* 8 MB (RFC 9659 §3); the library's default of 128 MB is a bomb */
};

/* What one step of a coding did; a negative errno is the fourth outcome. */
enum progress {
    HUNGRY, /* all input is used, and all its output written */
    FULL,   /* there may be more output than there was room for */
    ENDED,  /* the end of the coded data, or of one of its members, was reached */
};

struct span {
    const uint8_t *p; /* borrowed from the caller of decode_feed, or from the stage before */
    size_t n;
};

struct stage {
    const struct coding *coding; /* static */
    bool open;                   /* the library's state exists: from the first byte on */
    bool ended;
    union {
        z_stream zlib;
        BrotliDecoderState *brotli; /* owned */
        ZSTD_DStream *zstd;         /* owned */
    } as;
};

struct coding {
    const char *name;
    const char *corrupt; /* the words for data that makes no sense */
    bool concatenates;   /* complete streams may follow one another */
    int (*open)(struct stage *s, uint8_t first);
    int (*step)(struct stage *s, struct span *in, struct span *out, uint8_t *room);
    void (*close)(struct stage *s);
};

struct decode {
    int (*sink)(void *ctx, const char *p, size_t n);
    void *ctx; /* borrowed until decode_destroy */
    int status;
    const char *error; /* static */
    bool fed;
    size_t count;
    struct stage stages[]; /* `count`, in the order of decoding */
};

static int zlib_open(struct stage *s, int window_bits)
{
    s->as.zlib = (z_stream){0};
    return inflateInit2(&s->as.zlib, window_bits) == Z_OK ? 0 : -ENOMEM;
}

static int gzip_open(struct stage *s, uint8_t first)
{
    (void)first;
    return zlib_open(s, 16 + MAX_WBITS);
}

/* The first byte tells RFC 1950 from RFC 1951: the compression method 8 in its low bits would, in a
 * bare stream, be a stored block with non-zero padding, which no encoder writes. */
static int deflate_open(struct stage *s, uint8_t first)
{
    bool wrapped = (first & 0x0f) == Z_DEFLATED;
    return zlib_open(s, wrapped ? MAX_WBITS : -MAX_WBITS);
}

static int zlib_step(struct stage *s, struct span *in, struct span *out, uint8_t *room)
{
    z_stream *z = &s->as.zlib;
    if (s->ended && inflateReset(z) != Z_OK)
        return -EILSEQ;
    uInt offered = in->n < UINT32_MAX ? (uInt)in->n : UINT32_MAX;
    z->next_in = in->p;
    z->avail_in = offered;
    z->next_out = room;
    z->avail_out = STEP_BYTES;

    /* Z_FINISH only tells zlib that it needs no window when all is done in this one call. */
    int rc = inflate(z, Z_FINISH);
    *in = (struct span){z->next_in, in->n - (offered - z->avail_in)};
    *out = (struct span){room, STEP_BYTES - z->avail_out};
    if (rc == Z_STREAM_END)
        return ENDED;
    if (rc == Z_MEM_ERROR)
        return -ENOMEM;
    if (rc != Z_OK && rc != Z_BUF_ERROR)
        return -EILSEQ;
    return z->avail_out == 0 || in->n > 0 ? FULL : HUNGRY;
}

static void zlib_close(struct stage *s)
{
    inflateEnd(&s->as.zlib);
}

static int brotli_open(struct stage *s, uint8_t first)
{
    (void)first;
    s->as.brotli = BrotliDecoderCreateInstance(NULL, NULL, NULL);
    return s->as.brotli ? 0 : -ENOMEM;
}

static bool brotli_out_of_memory(const BrotliDecoderState *state)
{
    BrotliDecoderErrorCode code = BrotliDecoderGetErrorCode(state);
    return code <= BROTLI_DECODER_ERROR_ALLOC_CONTEXT_MODES &&
           code >= BROTLI_DECODER_ERROR_ALLOC_BLOCK_TYPE_TREES;
}

static int brotli_step(struct stage *s, struct span *in, struct span *out, uint8_t *room)
{
    size_t space = STEP_BYTES;
    uint8_t *next = room;
    BrotliDecoderResult rc =
        BrotliDecoderDecompressStream(s->as.brotli, &in->n, &in->p, &space, &next, NULL);
    *out = (struct span){room, STEP_BYTES - space};
    switch (rc) {
    case BROTLI_DECODER_RESULT_SUCCESS:
        return ENDED;
    case BROTLI_DECODER_RESULT_NEEDS_MORE_INPUT:
        return HUNGRY;
    case BROTLI_DECODER_RESULT_NEEDS_MORE_OUTPUT:
        return FULL;
    default:
        return brotli_out_of_memory(s->as.brotli) ? -ENOMEM : -EILSEQ;
    }
}

static void brotli_close(struct stage *s)
{
    BrotliDecoderDestroyInstance(s->as.brotli);
}

static int zstd_open(struct stage *s, uint8_t first)
{
    (void)first;
    s->as.zstd = ZSTD_createDStream();
    if (!s->as.zstd)
        return -ENOMEM;
    size_t rc = ZSTD_DCtx_setParameter(s->as.zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG);
    if (!ZSTD_isError(rc))
        return 0;
    ZSTD_freeDStream(s->as.zstd);
    return -EINVAL;
}

static int zstd_step(struct stage *s, struct span *in, struct span *out, uint8_t *room)
{
    ZSTD_inBuffer from = {in->p, in->n, 0};
    ZSTD_outBuffer to = {room, STEP_BYTES, 0};
    size_t rc = ZSTD_decompressStream(s->as.zstd, &to, &from);
    *in = (struct span){in->p + from.pos, in->n - from.pos};
    *out = (struct span){room, to.pos};
    if (ZSTD_isError(rc))
        return ZSTD_getErrorCode(rc) == ZSTD_error_memory_allocation ? -ENOMEM : -EILSEQ;
    if (rc == 0)
        return ENDED;
    return to.pos == to.size || in->n > 0 ? FULL : HUNGRY;
}

static void zstd_close(struct stage *s)
{
    ZSTD_freeDStream(s->as.zstd);
}

static const struct coding codings[] = {
    {"gzip", "corrupt gzip data", true, gzip_open, zlib_step, zlib_close},
    {"x-gzip", "corrupt gzip data", true, gzip_open, zlib_step, zlib_close},
    {"deflate", "corrupt deflate data", false, deflate_open, zlib_step, zlib_close},
    {"br", "corrupt br data", false, brotli_open, brotli_step, brotli_close},
    {"zstd", "corrupt zstd data", true, zstd_open, zstd_step, zstd_close},
};

static const struct coding *coding_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof codings / sizeof *codings; i++)
        if (strlen(codings[i].name) == len && strncasecmp(codings[i].name, name, len) == 0)
            return &codings[i];
    return NULL;
}

int decode_create(struct decode **out, const char *content_encoding,
                  int (*sink)(void *ctx, const char *p, size_t n), void *ctx)
{
    const struct coding *applied[MAX_CODINGS];
    size_t count = 0;

    *out = NULL;
    for (const char *at = content_encoding ? content_encoding : ""; *at;) {
        at += strspn(at, ", \t");
        const char *name = at;
        size_t len = strcspn(name, ",");
        at += len;
        while (len > 0 && (name[len - 1] == ' ' || name[len - 1] == '\t'))
            len--;
        if (len == 0 || (len == strlen("identity") && strncasecmp(name, "identity", len) == 0))
            continue;
        if (count == MAX_CODINGS)
            return -E2BIG;
        applied[count] = coding_find(name, len);
        if (!applied[count++])
            return -ENOTSUP;
    }
    if (count == 0)
        return 0;

    struct decode *d = calloc(1, sizeof *d + count * sizeof *d->stages);
    if (!d)
        return -ENOMEM;
    d->sink = sink;
    d->ctx = ctx;
    d->error = "";
    d->count = count;
    for (size_t i = 0; i < count; i++)
        d->stages[i].coding = applied[count - 1 - i];
    *out = d;
    return 0;
}

static int fail(struct decode *d, int status, const char *error)
{
    d->status = status;
    d->error = status == -ENOMEM ? "out of memory" : error;
    return status;
}

/* Sends `in` through stage `i` and all that follow it. Recursion is at most MAX_CODINGS deep. */
static int chain_feed(struct decode *d, size_t i, struct span in)
{
    if (i == d->count) {
        int rc = d->sink(d->ctx, (const char *)in.p, in.n);
        return rc == 0 ? 0 : fail(d, rc, "the decoded data was refused");
    }

    struct stage *s = &d->stages[i];
    uint8_t room[STEP_BYTES];
    int did;
    if (!s->open) {
        int rc = s->coding->open(s, in.p[0]);
        if (rc != 0)
            return fail(d, rc, s->coding->corrupt);
        s->open = true;
    }
    do {
        struct span out;
        if (s->ended && !s->coding->concatenates)
            return fail(d, -EILSEQ, "bytes after the end of the compressed data");
        did = s->coding->step(s, &in, &out, room);
        if (did < 0)
            return fail(d, did, s->coding->corrupt);
        s->ended = did == ENDED;
        int rc = out.n > 0 ? chain_feed(d, i + 1, out) : 0;
        if (rc != 0)
            return rc;
    } while (did == FULL || in.n > 0);
    return 0;
}

int decode_feed(struct decode *d, const char *p, size_t n)
{
    if (d->status != 0 || n == 0)
        return d->status;
    d->fed = true;
    return chain_feed(d, 0, (struct span){(const uint8_t *)p, n});
}

int decode_finish(struct decode *d)
{
    if (d->status != 0 || !d->fed)
        return d->status;
    for (size_t i = 0; i < d->count; i++)
        if (!d->stages[i].ended)
            return fail(d, -EILSEQ, "the compressed data ends too early");
    return 0;
}

const char *decode_error(const struct decode *d)
{
    return d->error;
}

void decode_destroy(struct decode *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->count; i++)
        if (d->stages[i].open)
            d->stages[i].coding->close(&d->stages[i]);
    free(d);
}
