#include "codec.h"

#include <errno.h>
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

enum {
    STEP = 64 * 1024,     /* bytes handed on at once */
    GZIP_WINDOW = 15 + 16 /* zlib's way to ask for gzip */
};

/* Compressing -------------------------------------------------------------------------------- */

struct codec_encoder {
    enum codec codec;
    z_stream gzip;
    ZSTD_CCtx *zstd; /* owned */
    char out[STEP];
};

int codec_encoder_create(struct codec_encoder **out, enum codec codec)
{
    struct codec_encoder *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->codec = codec;
    bool failed = false;
    if (codec == CODEC_GZIP) {
        failed = deflateInit2(&e->gzip, Z_DEFAULT_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, 8,
                              Z_DEFAULT_STRATEGY) != Z_OK;
    } else if (codec == CODEC_ZSTD) {
        e->zstd = ZSTD_createCCtx();
        failed = !e->zstd || ZSTD_isError(ZSTD_CCtx_setParameter(e->zstd, ZSTD_c_checksumFlag, 1));
    }
    if (failed) {
        ZSTD_freeCCtx(e->zstd);
        free(e);
        return -ENOMEM;
    }
    *out = e;
    return 0;
}

static int encode_gzip(struct codec_encoder *e, const char *p, size_t n, bool end, codec_sink *sink,
                       void *ctx)
{
    z_stream *z = &e->gzip;
    do {
        uInt step = n < STEP ? (uInt)n : STEP; /* zlib counts in unsigned int */
        int flush = end && step == n ? Z_FINISH : Z_NO_FLUSH;
        z->next_in = (Bytef *)p;
        z->avail_in = step;
        p += step;
        n -= step;
        do {
            z->next_out = (Bytef *)e->out;
            z->avail_out = STEP;
            int code = deflate(z, flush);
            if (code == Z_STREAM_ERROR)
                return -ENOMEM;
            size_t made = STEP - z->avail_out;
            int rc = made > 0 ? sink(ctx, e->out, made) : 0;
            if (rc != 0)
                return rc;
        } while (z->avail_out == 0);
    } while (n > 0);
    return end && deflateReset(z) != Z_OK ? -ENOMEM : 0;
}

static int encode_zstd(struct codec_encoder *e, const char *p, size_t n, bool end, codec_sink *sink,
                       void *ctx)
{
    ZSTD_inBuffer in = {.src = p, .size = n};
    size_t left;
    do {
        ZSTD_outBuffer out = {.dst = e->out, .size = STEP};
        left = ZSTD_compressStream2(e->zstd, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
        if (ZSTD_isError(left))
            return -ENOMEM;
        int rc = out.pos > 0 ? sink(ctx, e->out, out.pos) : 0;
        if (rc != 0)
            return rc;
    } while (end ? left > 0 : in.pos < in.size);
    return 0;
}

int codec_encode(struct codec_encoder *e, const char *p, size_t n, bool end, codec_sink *sink,
                 void *ctx)
{
    switch (e->codec) {
    case CODEC_GZIP:
        return encode_gzip(e, p, n, end, sink, ctx);
    case CODEC_ZSTD:
        return encode_zstd(e, p, n, end, sink, ctx);
    default:
        return n > 0 ? sink(ctx, p, n) : 0;
    }
}

void codec_encoder_destroy(struct codec_encoder *e)
{
    if (!e)
        return;
    if (e->codec == CODEC_GZIP)
        (void)deflateEnd(&e->gzip); /* it complains of a frame that is not over */
    ZSTD_freeCCtx(e->zstd);
    free(e);
}

/* Decompressing ------------------------------------------------------------------------------ */

struct codec_decoder {
    enum codec codec;
    z_stream gzip;
    ZSTD_DCtx *zstd; /* owned */
    char out[STEP];
};

int codec_decoder_create(struct codec_decoder **out, enum codec codec)
{
    struct codec_decoder *d = calloc(1, sizeof *d);
    if (!d)
        return -ENOMEM;
    d->codec = codec;
    if (codec == CODEC_ZSTD)
        d->zstd = ZSTD_createDCtx();
    if ((codec == CODEC_GZIP && inflateInit2(&d->gzip, GZIP_WINDOW) != Z_OK) ||
        (codec == CODEC_ZSTD && !d->zstd)) {
        free(d);
        return -ENOMEM;
    }
    *out = d;
    return 0;
}

static int decode_gzip(struct codec_decoder *d, const char *p, size_t n, size_t *taken, bool *ended,
                       codec_sink *sink, void *ctx)
{
    z_stream *z = &d->gzip;
    uInt step = n < STEP ? (uInt)n : STEP;
    int code = Z_OK;
    z->next_in = (Bytef *)p;
    z->avail_in = step;
    do {
        z->next_out = (Bytef *)d->out;
        z->avail_out = STEP;
        code = inflate(z, Z_NO_FLUSH);
        if (code == Z_MEM_ERROR)
            return -ENOMEM;
        if (code != Z_OK && code != Z_STREAM_END && code != Z_BUF_ERROR)
            return -EILSEQ;
        size_t made = STEP - z->avail_out;
        int rc = made > 0 ? sink(ctx, d->out, made) : 0;
        if (rc != 0)
            return rc;
    } while (code == Z_OK && (z->avail_in > 0 || z->avail_out == 0));
    *taken = step - z->avail_in;
    *ended = code == Z_STREAM_END;
    return *ended && inflateReset(z) != Z_OK ? -ENOMEM : 0;
}

static int decode_zstd(struct codec_decoder *d, const char *p, size_t n, size_t *taken, bool *ended,
                       codec_sink *sink, void *ctx)
{
    ZSTD_inBuffer in = {.src = p, .size = n};
    size_t left = 1;
    bool full = true; /* there may be more to come out */
    while (left > 0 && (in.pos < in.size || full)) {
        ZSTD_outBuffer out = {.dst = d->out, .size = STEP};
        left = ZSTD_decompressStream(d->zstd, &out, &in);
        if (ZSTD_isError(left))
            return ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation ? -ENOMEM : -EILSEQ;
        full = out.pos == out.size;
        int rc = out.pos > 0 ? sink(ctx, d->out, out.pos) : 0;
        if (rc != 0)
            return rc;
    }
    *taken = in.pos;
    *ended = left == 0;
    return 0;
}

int codec_decode(struct codec_decoder *d, const char *p, size_t n, size_t *taken, bool *ended,
                 codec_sink *sink, void *ctx)
{
    switch (d->codec) {
    case CODEC_GZIP:
        return decode_gzip(d, p, n, taken, ended, sink, ctx);
    case CODEC_ZSTD:
        return decode_zstd(d, p, n, taken, ended, sink, ctx);
    default:
        *taken = n;
        *ended = false;
        return n > 0 ? sink(ctx, p, n) : 0;
    }
}

void codec_decoder_destroy(struct codec_decoder *d)
{
    if (!d)
        return;
    if (d->codec == CODEC_GZIP)
        (void)inflateEnd(&d->gzip);
    ZSTD_freeDCtx(d->zstd);
    free(d);
}
