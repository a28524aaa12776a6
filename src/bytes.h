/*
 * A growable byte buffer with an optional hard limit.
 *
 * The buffer may hold any bytes and is not NUL-terminated. Sizes are in bytes.
 */
#ifndef BYTES_H
#define BYTES_H

#include <stddef.h>

struct bytes {
    char *data; /* owned; NULL until the first append */
    size_t len;
    size_t cap;
    size_t limit; /* the most `len` may become; 0 = no limit */
};

void bytes_init(struct bytes *b, size_t limit);

/* Makes room for `n` more bytes after `len`.
 * Returns 0, -E2BIG when they would pass the limit, -ENOMEM. On error nothing has changed. */
int bytes_reserve(struct bytes *b, size_t n);

/* Copies `n` bytes from `p` to the end. Returns what bytes_reserve returns. */
int bytes_append(struct bytes *b, const void *p, size_t n);

/* Empties the buffer and keeps its memory. */
void bytes_clear(struct bytes *b);

/* Empties the buffer and gives its memory back when that is more than `keep` bytes. */
void bytes_trim(struct bytes *b, size_t keep);

/* Frees the memory; the buffer is empty and may be used again. */
void bytes_deinit(struct bytes *b);

#endif
