/*
 * What is in an output file that is opened to append: its first line, what follows the last line
 * end, and where its whole frames (codec.h) end. Waits for the disk.
 */
#ifndef SCAN_H
#define SCAN_H

#include "bytes.h"
#include "codec.h"

#include <stdint.h>

struct scan {
    struct bytes head;   /* its first line, without the line end, or the first megabyte */
    struct bytes tail;   /* decoded: what follows the last line end */
    struct bytes ending; /* decoded: its last bytes, or those of the last frame; few */
    int64_t whole;       /* the size of its whole frames; all of it without a codec */
    int64_t last;        /* where the last whole frame begins; 0 without a codec */
    int64_t row; /* where what follows the last row of CSV begins; -1 if that is not known */
};

/* Reads `size` bytes of a file: decompresses all of them, or reads both ends. Returns 0 or a
 * negative errno; FILE_CORRUPT when not even the first bytes are of a frame; -EFBIG when there is
 * no line end in the last 64 MB. The caller deinits the scan, also of a failure. With a `delimiter`
 * that is not 0 it is CSV, in which a line end may be quoted: without a codec all is read for that.
 */
int scan_file(struct scan *scan, int fd, int64_t size, enum codec codec, char delimiter);
void scan_deinit(struct scan *scan);

#endif
