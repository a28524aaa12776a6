#include "widen.h"

#include "file.h"

#include <errno.h>
#include <stdbool.h>

enum { STEP = 64 * 1024 };

/* A CSV file on its way to one whose rows have all columns. */
struct widener {
    const struct widen *to;
    struct codec_encoder *encoder; /* owned; NULL without a codec */
    int fd;                        /* borrowed; where it goes */
    int64_t at;
    struct bytes out;
    size_t fields; /* of this row so far */
    bool quoted, in_header;
};

static int put(void *ctx, const char *p, size_t n)
{
    struct widener *w = ctx;
    return file_write_at(w->fd, p, n, &w->at);
}

static int flush_row(struct widener *w, bool end)
{
    if (w->out.len < STEP && !end)
        return 0;
    int rc = w->encoder ? codec_encode(w->encoder, w->out.data, w->out.len, end, put, w)
                        : put(w, w->out.data, w->out.len);
    bytes_clear(&w->out);
    return rc;
}

static int keep(struct widener *w, const char *p, size_t n)
{
    return w->in_header || n == 0 ? 0 : bytes_append(&w->out, p, n);
}

/* The end of a row: adds the fields it lacks. */
static int end_row(struct widener *w)
{
    int rc = 0;
    if (!w->in_header) {
        for (; rc == 0 && w->fields < w->to->columns; w->fields++)
            rc = bytes_append(&w->out, &w->to->delimiter, 1);
        if (rc == 0)
            rc = bytes_append(&w->out, "\r\n", 2);
    }
    w->in_header = false;
    w->fields = 1;
    return rc == 0 ? flush_row(w, false) : rc;
}

static int widen_piece(void *ctx, const char *p, size_t n)
{
    struct widener *w = ctx;
    const char *from = p, *end = p + n;
    int rc = 0;
    for (; rc == 0 && p < end; p++) {
        if (*p == '"') {
            w->quoted = !w->quoted;
        } else if (w->quoted) {
            continue;
        } else if (*p == w->to->delimiter) {
            w->fields++;
        } else if (*p == '\r' || *p == '\n') { /* the line end, which is made anew */
            rc = keep(w, from, (size_t)(p - from));
            from = p + 1;
            if (rc == 0 && *p == '\n')
                rc = end_row(w);
        }
    }
    return rc == 0 ? keep(w, from, (size_t)(end - from)) : rc;
}

static int widen_all(struct widener *w, int from, int64_t size, struct codec_decoder *decoder)
{
    char chunk[STEP];
    int rc = bytes_append(&w->out, w->to->header.data, w->to->header.len);
    for (int64_t at = 0; rc == 0 && at < size;) {
        size_t n = size - at < STEP ? (size_t)(size - at) : STEP;
        rc = file_read_exactly(from, chunk, n, at);
        for (size_t used = 0; rc == 0 && used < n;) {
            size_t taken = 0;
            bool ended = false;
            rc = codec_decode(decoder, chunk + used, n - used, &taken, &ended, widen_piece, w);
            used += taken;
            if (rc == 0 && taken == 0 && !ended)
                rc = -EILSEQ;
        }
        at += (int64_t)n;
    }
    if (rc == 0)
        rc = flush_row(w, true);
    return rc == -EILSEQ ? FILE_CORRUPT : rc;
}

int widen_file(int from, int64_t size, int to, enum codec codec, const struct widen *widen)
{
    struct widener w = {.to = widen, .fd = to, .fields = 1, .in_header = true};
    struct codec_decoder *decoder;
    int rc = codec_decoder_create(&decoder, codec);
    if (rc != 0)
        return rc;
    if (codec != CODEC_NONE)
        rc = codec_encoder_create(&w.encoder, codec);
    if (rc == 0)
        rc = widen_all(&w, from, size, decoder);
    codec_decoder_destroy(decoder);
    codec_encoder_destroy(w.encoder);
    bytes_deinit(&w.out);
    return rc;
}
