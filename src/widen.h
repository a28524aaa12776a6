/*
 * A CSV file (RFC 4180) whose later rows have more columns than the earlier ones, made one in which
 * all have the same. Waits for the disk.
 */
#ifndef WIDEN_H
#define WIDEN_H

#include "bytes.h"
#include "codec.h"

#include <stddef.h>
#include <stdint.h>

struct widen {
    struct bytes header; /* the line that takes the place of the first one; empty: none of this */
    size_t columns;      /* how many fields every row is to have */
    char delimiter;
};

/* Writes the first `size` bytes of the file `from`, so changed, to the empty file `to`; both are
 * compressed. Returns 0, a negative errno, or FILE_CORRUPT. */
int widen_file(int from, int64_t size, int to, enum codec codec, const struct widen *widen);

#endif
