/*
 * The compressions of output files: whole frames go out, and a file of frames comes back. A frame
 * is a gzip member (RFC 1952) or a zstd frame (RFC 8878); files are frames one after another, so
 * one that is cut between two of them is a file like any other.
 */
#ifndef CODEC_H
#define CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum codec { CODEC_NONE, CODEC_GZIP, CODEC_ZSTD };

/* Gets bytes in pieces, never zero of them. Returns 0 or a negative errno, which is passed on. */
typedef int codec_sink(void *ctx, const char *p, size_t n);

struct codec_encoder;

/* Returns 0 or -ENOMEM. The encoder is the caller's. */
int codec_encoder_create(struct codec_encoder **out, enum codec codec);

/* Compresses the next bytes of a frame, which begins with the first of them and is over with
 * `end`. Bytes go to `sink` as they are ready. Returns 0, -ENOMEM or the sink's error, and then the
 * encoder can only be destroyed. */
int codec_encode(struct codec_encoder *e, const char *p, size_t n, bool end, codec_sink *sink,
                 void *ctx);

/* NULL is fine. */
void codec_encoder_destroy(struct codec_encoder *e);

struct codec_decoder;

/* Returns 0 or -ENOMEM. The decoder is the caller's. */
int codec_decoder_create(struct codec_decoder **out, enum codec codec);

/*
 * Decodes the next bytes of a file, at most to the end of a frame. `*taken` is set to how many
 * bytes that were, `*ended` to whether the frame is over; without a codec there are no frames.
 * Returns 0, -EILSEQ for what is no frame, -ENOMEM, or the sink's error.
 */
int codec_decode(struct codec_decoder *d, const char *p, size_t n, size_t *taken, bool *ended,
                 codec_sink *sink, void *ctx);

/* NULL is fine. */
void codec_decoder_destroy(struct codec_decoder *d);

#endif
