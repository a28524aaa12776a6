/*
 * The body of a request on its way out: bytes in memory, a file, parts of both (multipart), or
 * whatever its owner sends piece by piece. Embedded in a transfer, whose easy handle it sets up.
 */
#ifndef UPLOAD_H
#define UPLOAD_H

#include "bytes.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A part of a multipart body (RFC 7578): a value or a file. Pointers are borrowed for the call. */
struct upload_part {
    const char *name;
    const char *value; /* or NULL */
    size_t value_len;
    const char *file;     /* path, or NULL */
    const char *filename; /* NULL: the last element of the path */
    const char *type;     /* media type, or NULL */
};

/* What to send; at most one of the four. Without any there is no body, which is not the same as an
 * empty one. Pointers are borrowed for the call. */
struct upload_source {
    const char *text;
    size_t len;
    const char *file; /* path of a regular file */
    const struct upload_part *parts;
    size_t part_count;
    bool pull;         /* it comes by upload_send */
    int64_t pull_size; /* bytes that will come, -1 = unknown */
};

enum upload_kind { UPLOAD_NONE, UPLOAD_TEXT, UPLOAD_FILE, UPLOAD_PARTS, UPLOAD_PULL };

struct upload {
    enum upload_kind kind;
    struct bytes text; /* UPLOAD_TEXT: the body. UPLOAD_PULL: what libcurl has not taken yet */
    size_t taken;      /* bytes of it that libcurl has */
    int fd;            /* owned; -1 for none */
    int64_t size, at;  /* of the file */
    curl_mime *mime;   /* owned, or NULL */
    bool ended;        /* UPLOAD_PULL: nothing more will come */
    bool paused;       /* UPLOAD_PULL: libcurl waits for more */
    bool asks;         /* the easy handle is set to ask us for the body */
    char problem[256]; /* why it cannot be read; empty when it can */
    void (*on_want)(void *ctx); /* called from inside libcurl: more is wanted */
    void *ctx;                  /* on_want's */
};

void upload_init(struct upload *u, void (*on_want)(void *ctx), void *ctx);

/* Sets the easy handle to send the body with `method` (neither GET nor HEAD without a body).
 * Returns CURLE_READ_ERROR with `problem` when the file cannot be read, or libcurl's error. */
CURLcode upload_begin(struct upload *u, CURL *easy, const struct upload_source *source,
                      const char *method);

/* The next bytes of a pulled body, copied; none at all end it. Returns 0 or -ENOMEM. The caller has
 * libcurl go on if it was `paused`. */
int upload_send(struct upload *u, const char *p, size_t n);

/* Lets go of the body and sets the handle back. */
void upload_end(struct upload *u, CURL *easy, size_t keep);

void upload_deinit(struct upload *u);

#endif
