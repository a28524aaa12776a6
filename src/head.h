/*
 * The head of a response: status line and fields as they came, and what they say about the body
 * (RFC 9112 §6). Framing that two parsers may read in two ways is refused: libcurl lets it pass.
 */
#ifndef HEAD_H
#define HEAD_H

#include "bytes.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How the end of the body is told (RFC 9112 §6.3). HEAD_CLOSE cannot be verified. */
enum head_framing { HEAD_NONE, HEAD_LENGTH, HEAD_CHUNKED, HEAD_CLOSE, HEAD_H2 };

struct head {
    bool plain;        /* set by its owner: the connection does not speak HTTP/2 */
    struct bytes text; /* the last response's, an interim one's until the next begins */
    long status;       /* 0 before there is one */
    bool begun;        /* the status line was taken; the fields have not ended */
    bool framed;       /* the line before is a field that says how the body is framed or coded */
    bool done;         /* the final response's fields are all there */
    enum head_framing framing;
    bool closes; /* the connection ends with this response */
    bool chunked;
    bool has_length;
    int64_t length;      /* Content-Length */
    size_t trailer;      /* bytes of trailer fields so far */
    struct bytes coding; /* Content-Encoding, its fields joined; NUL-terminated; empty for none */
};

void head_init(struct head *h);

/* Makes it ready for a response to HEAD (`bodiless`) or to another method, of at most `limit` bytes
 * (0 = no cap). */
void head_reset(struct head *h, size_t limit);

/*
 * Takes a whole line with its line end. Lines after the empty one are trailer fields, in which
 * nothing may change what was judged. `bodiless`: the request was HEAD.
 * Returns 0, or 1 when this line ends the final response's head; -EPROTO for framing that is
 * refused and -E2BIG for too many bytes, with `*why` in words; -ENOMEM.
 */
int head_take(struct head *h, const char *line, size_t len, bool bodiless, const char **why);

const char *head_framing_name(enum head_framing framing);

void head_deinit(struct head *h);

#endif
