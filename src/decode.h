/*
 * HTTP content codings (RFC 9110 §8.4): a streaming decoder that demands the end of the stream.
 *
 * Understood: gzip and x-gzip (RFC 1952), deflate (RFC 1950, or the bare RFC 1951 some servers
 * send), br (RFC 7932), zstd (RFC 8878 with the 8 MB window of RFC 9659), and lists of them.
 * Decoded bytes reach the sink in steps of at most 32 KB, so a sink that counts them stops a
 * decompression bomb at its cap.
 */
#ifndef DECODE_H
#define DECODE_H

#include <stddef.h>

struct decode;

/*
 * Creates the decoder for a Content-Encoding value, matched without regard to case.
 *
 * `sink` gets the decoded bytes, never zero of them, valid during the call only; it returns 0, or a
 * negative errno which decode_feed passes back. It must not destroy the decoder. `ctx` is borrowed
 * until decode_destroy.
 *
 * Returns 0 with `*out` owned by the caller, or NULL when there is nothing to decode (`identity`,
 * an empty value, NULL); -ENOTSUP for an unknown coding, -E2BIG for more than 5 codings, -ENOMEM.
 */
int decode_create(struct decode **out, const char *content_encoding,
                  int (*sink)(void *ctx, const char *p, size_t n), void *ctx);

/* Decodes the next `n` bytes of the body. Returns 0, -EILSEQ for corrupt data or bytes after the
 * end, -ENOMEM, or the sink's error. A decoder that has failed gives the same error again. */
int decode_feed(struct decode *d, const char *p, size_t n);

/* Ends the body. Returns 0, -EILSEQ when the coded data is not complete, or the earlier failure.
 * A body of no bytes at all is complete: an answer to HEAD or a 304 names its coding, too. */
int decode_finish(struct decode *d);

/* Why the last call failed, in words; static text, empty when none did. */
const char *decode_error(const struct decode *d);

/* Frees the decoder; NULL is fine. */
void decode_destroy(struct decode *d);

#endif
