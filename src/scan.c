#include "scan.h"

#include "file.h"

#include <errno.h>
#include <string.h>

enum { STEP = 64 * 1024, HEAD_MAX = 1024 * 1024, TAIL_MAX = 64 * 1024 * 1024, ENDING_MAX = 4096 };

/* The file that is read. */
struct source {
    int fd; /* borrowed */
    int64_t size;
    enum codec codec;
};

/* Appends to the head, up to the first line end. `done` is set when that was found. */
static int feed_head(struct bytes *head, bool *done, const char *p, size_t n)
{
    const char *newline = memchr(p, '\n', n);
    size_t take = newline ? (size_t)(newline - p) : n;
    if (take > HEAD_MAX - head->len)
        take = HEAD_MAX - head->len;
    *done = newline || head->len + take == HEAD_MAX;
    return bytes_append(head, p, take);
}

/* The last few bytes of all that was fed. */
static int feed_ending(struct bytes *ending, const char *p, size_t n)
{
    if (n > ENDING_MAX) {
        p += n - ENDING_MAX;
        n = ENDING_MAX;
    }
    if (ending->len + n > ENDING_MAX) {
        size_t drop = ending->len + n - ENDING_MAX;
        memmove(ending->data, ending->data + drop, ending->len - drop);
        ending->len -= drop;
    }
    return bytes_append(ending, p, n);
}

static int read_part(int fd, struct bytes *to, off_t from, size_t n)
{
    int rc = bytes_reserve(to, n);
    if (rc == 0)
        rc = file_read_exactly(fd, to->data + to->len, n, from);
    if (rc == 0)
        to->len += n;
    return rc;
}

/* Finds the last line end and reads what follows it. */
static int scan_tail(struct source *o, struct bytes *tail)
{
    char chunk[STEP];
    off_t from = 0;
    for (off_t end = o->size; end > 0 && from == 0;) {
        size_t n = end < STEP ? (size_t)end : STEP;
        int rc = file_read_exactly(o->fd, chunk, n, end - (off_t)n);
        if (rc != 0)
            return rc;
        const char *newline = memrchr(chunk, '\n', n);
        end -= (off_t)n;
        if (newline)
            from = end + (newline + 1 - chunk);
        else if (o->size - end > TAIL_MAX)
            return -EFBIG;
    }
    return read_part(o->fd, tail, from, (size_t)(o->size - from));
}

/* Finds the end of the last row of CSV. A quote that is not at the beginning of a field is none. */
static int scan_rows(struct source *o, char delimiter, int64_t *row)
{
    char chunk[STEP];
    bool quoted = false, closed = false, first = true; /* a quote ended just now; a field begins */
    *row = 0;
    for (int64_t at = 0; at < o->size;) {
        size_t n = o->size - at < STEP ? (size_t)(o->size - at) : STEP;
        int rc = file_read_exactly(o->fd, chunk, n, at);
        if (rc != 0)
            return rc;
        for (size_t i = 0; i < n; i++) {
            if (chunk[i] == '"') {
                bool opens = !quoted && (first || closed);
                closed = quoted;
                quoted = opens;
                first = false;
            } else if (!quoted) {
                closed = false;
                first = chunk[i] == delimiter || chunk[i] == '\n';
                if (chunk[i] == '\n')
                    *row = at + (int64_t)i + 1;
            }
        }
        at += (int64_t)n;
    }
    return 0;
}

static int scan_plain(struct source *o, struct scan *scan)
{
    char chunk[STEP];
    bool done = o->size == 0;
    int rc = 0;
    for (off_t at = 0; !done && rc == 0; at += STEP) {
        ssize_t n = file_read_at(o->fd, chunk, sizeof chunk, at);
        rc = n < 0 ? (int)n : 0;
        if (rc == 0)
            rc = feed_head(&scan->head, &done, chunk, (size_t)n);
        done = done || n < STEP;
    }
    if (rc == 0)
        rc = scan_tail(o, &scan->tail);
    if (rc == 0) {
        size_t n = o->size < ENDING_MAX ? (size_t)o->size : ENDING_MAX;
        rc = read_part(o->fd, &scan->ending, o->size - (off_t)n, n);
    }
    scan->whole = o->size;
    return rc;
}

/* A compressed file on its way through the decoder. */
struct passage {
    struct scan *scan;
    struct bytes tail; /* since the last line end, of whole frames and this one */
    struct bytes head;
    bool have_head;
};

static int pass(void *ctx, const char *p, size_t n)
{
    struct passage *w = ctx;
    int rc = 0;
    if (!w->have_head)
        rc = feed_head(&w->head, &w->have_head, p, n);
    if (rc == 0)
        rc = feed_ending(&w->scan->ending, p, n);
    const char *newline = memrchr(p, '\n', n);
    if (newline) {
        bytes_clear(&w->tail);
        n -= (size_t)(newline + 1 - p);
        p = newline + 1;
    }
    if (rc == 0 && w->tail.len + n > TAIL_MAX)
        rc = -EFBIG;
    return rc == 0 ? bytes_append(&w->tail, p, n) : rc;
}

static int keep_copy(struct bytes *to, const struct bytes *from)
{
    bytes_clear(to);
    return from->len > 0 ? bytes_append(to, from->data, from->len) : 0;
}

/* Takes down what is true at the end of a whole frame, and begins the ending anew. */
static int frame_ended(struct passage *w, struct bytes *ending, int64_t start, int64_t end)
{
    struct scan *scan = w->scan;
    int rc = keep_copy(ending, &scan->ending);
    bytes_clear(&scan->ending);
    if (rc == 0)
        rc = keep_copy(&scan->tail, &w->tail);
    if (rc == 0)
        rc = keep_copy(&scan->head, &w->head);
    scan->last = start;
    scan->whole = end;
    return rc;
}

static int scan_frames(struct source *o, struct codec_decoder *decoder, struct passage *w,
                       struct bytes *ending)
{
    char chunk[STEP];
    int64_t start = 0;
    int rc = 0;
    for (int64_t at = 0; rc == 0;) {
        ssize_t n = file_read_at(o->fd, chunk, sizeof chunk, at);
        if (n <= 0)
            return (int)n;
        for (size_t used = 0; rc == 0 && used < (size_t)n;) {
            size_t taken = 0;
            bool ended = false;
            rc = codec_decode(decoder, chunk + used, (size_t)n - used, &taken, &ended, pass, w);
            used += taken;
            if (rc == 0 && ended) {
                rc = frame_ended(w, ending, start, at + (int64_t)used);
                start = at + (int64_t)used;
            } else if (rc == 0 && taken == 0) {
                rc = -EILSEQ;
            }
        }
        at += n;
    }
    return rc;
}

static int scan_compressed(struct source *o, struct scan *scan)
{
    struct codec_decoder *decoder;
    struct passage w = {.scan = scan};
    struct bytes ending = {0};
    int rc = codec_decoder_create(&decoder, o->codec);
    if (rc != 0)
        return rc;
    rc = scan_frames(o, decoder, &w, &ending);
    codec_decoder_destroy(decoder);
    bytes_deinit(&w.tail);
    bytes_deinit(&w.head);
    bytes_deinit(&scan->ending);
    scan->ending = ending;
    if (rc == -EILSEQ) /* behind whole frames it is what a crash has left of one */
        rc = scan->whole > 0 ? 0 : FILE_CORRUPT;
    return rc;
}

int scan_file(struct scan *scan, int fd, int64_t size, enum codec codec, char delimiter)
{
    struct source o = {.fd = fd, .size = size, .codec = codec};
    *scan = (struct scan){.row = -1};
    if (codec != CODEC_NONE)
        return scan_compressed(&o, scan);
    int rc = scan_plain(&o, scan);
    return rc == 0 && delimiter ? scan_rows(&o, delimiter, &scan->row) : rc;
}

void scan_deinit(struct scan *scan)
{
    bytes_deinit(&scan->head);
    bytes_deinit(&scan->tail);
    bytes_deinit(&scan->ending);
}
