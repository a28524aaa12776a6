/*
 * One hop: a request out, and its headers, body, timings and typed outcome back. A transfer owns
 * a libcurl easy handle and is used again for one hop after another; the client (client.h) puts
 * it on a multi handle. Nothing here follows redirects, retries or waits for names.
 */
#ifndef TRANSFER_H
#define TRANSFER_H

#include "bytes.h"
#include "fault.h"
#include "head.h"
#include "tls.h"
#include "upload.h"

#include <curl/curl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* News of a transfer under way. */
enum {
    TRANSFER_HEAD = 1, /* a streamed response's head is there */
    TRANSFER_DATA = 2, /* transfer_take has something to give */
    TRANSFER_WANT = 4, /* transfer_send is waited for */
};

/* All pointers are borrowed for the call only. */
struct transfer_request {
    const char *url;     /* absolute, http or https, without fragment and user info */
    const char *method;  /* a token, upper case */
    const char *headers; /* "Name: value\n…\n", checked for CR and NUL; may be NULL */
    size_t headers_len;
    struct upload_source body;
    bool stream;            /* the response's body goes by transfer_take while it comes in */
    const char *save;       /* where to write a 2xx body, or NULL for memory */
    double timeout;         /* seconds for the whole hop, 0 = none */
    double connect_timeout; /* seconds, 0 = none */
    double idle_timeout;    /* seconds without a byte before the hop is given up, 0 = never */
    double min_speed;       /* bytes a second over idle_timeout, 0 = any */
    size_t max_body;        /* decoded bytes, 0 = no cap */
    size_t max_headers;     /* bytes, 0 = libcurl's own cap of 300 KB */
};

struct decode;
struct file;

struct transfer {
    CURL *easy;    /* owned */
    void *context; /* the client's */

    /* the request */
    struct bytes headers;       /* as given, to see that nothing changed */
    bool headers_set;           /* libcurl has them */
    enum upload_kind for_body;  /* what the nodes of our own are for */
    struct bytes header_text;   /* the same, cut into strings for the nodes */
    struct curl_slist *nodes;   /* owned array, pointing into header_text */
    bool ranged;                /* they ask for a part */
    struct curl_slist *resolve; /* owned, the addresses for this hop, or NULL */
    struct upload upload;
    unsigned long memory; /* memory_failures at its start */
    bool jar;             /* the easy handle has a cookie jar; set by its owner */
    bool http1;           /* HTTP/2 is not wanted; set by its owner */
    bool secure;          /* the URL is https */
    bool plain_get;       /* the easy handle is set for GET without body */
    bool head_only;       /* HEAD was asked for */
    size_t max_body;
    char *save; /* owned */
    bool saved; /* the response's body goes there */

    /* the response */
    enum fault fault; /* FAULT_NONE: a complete, well-framed answer, whatever its status */
    long version;     /* CURL_HTTP_VERSION_… */
    struct head head;
    struct bytes body;                        /* decoded; empty when saved to a file */
    size_t size;                              /* decoded bytes */
    curl_off_t wire;                          /* body bytes received */
    double dns;                               /* seconds, set by whoever looked the name up */
    double connect, tls, first_byte, elapsed; /* seconds since the hop's start */
    const char *reason; /* why it failed: static text or one of the two below; NULL */

    /* while it comes in */
    uint64_t received; /* bytes so far, of headers and body as they came */
    int64_t of_body;   /* of these the body's */
    bool field_due;    /* the last line was a status line */
    bool watches_lines;
    bool stream, stream_paused;
    size_t slice_end; /* of a streamed body: how far it may grow by the bytes being decoded */
    unsigned news;    /* TRANSFER_…, for its owner to take down */
    void (*on_news)(struct transfer *t); /* called from inside libcurl: only take it down */
    struct tls_report *report;           /* owned; NULL until the first handshake */
    bool overrun; /* set by the client: its connection was closed as by bytes beyond the body */
    struct decode *decode;         /* owned, NULL when there is nothing to decode */
    struct file *file;             /* owned */
    char message[CURL_ERROR_SIZE]; /* libcurl's */
    char refusal[CURL_ERROR_SIZE]; /* ours, lest libcurl write over it */
};

/* Returns 0 or -ENOMEM. The transfer is owned by the caller. */
int transfer_create(struct transfer **out, void *context, void (*on_news)(struct transfer *t));

/* Sets the easy handle up for a hop. Returns 0, or a negative errno with `fault` and `reason`
 * saying what is wrong. */
int transfer_prepare(struct transfer *t, const struct transfer_request *request);

/* Shortens the time for the whole hop to what is left of it. Returns 0 or -EINVAL. */
int transfer_set_timeout(struct transfer *t, double seconds);

/* Names the addresses the next connection may use, "host:port:addresses" with a leading '+'.
 * Returns 0 or -ENOMEM. */
int transfer_set_resolve(struct transfer *t, const char *entry);

/* Takes the outcome after libcurl has ended the hop with `code`, while the easy handle is still on
 * its multi handle. */
void transfer_finish(struct transfer *t, CURLcode code);

/* Takes the timings and the protocol of a transfer under way. */
void transfer_peek_infos(struct transfer *t);

/* Whether it waits for its owner: for room in the body's buffer, or for more of the request. */
bool transfer_is_paused(const struct transfer *t);

/* Empties the buffer of a streamed body, which goes on coming in. Its bytes are the transfer's
 * `body` before. After an error libcurl will not end the transfer by itself. */
CURLcode transfer_taken(struct transfer *t);

/* The next bytes of a pulled request body, copied; none at all end it. Errors as above. */
CURLcode transfer_send(struct transfer *t, const char *p, size_t n);

/* Ends a hop that never reached libcurl, or was taken off it. `reason` is static text or the
 * transfer's own `message`. */
void transfer_fail(struct transfer *t, enum fault fault, const char *reason);

/* Drops what the hop received and makes the transfer ready for the next. */
void transfer_reset(struct transfer *t);

/* Makes a transfer that has not received anything ready to be tried again. */
void transfer_rewind(struct transfer *t);

/* Sets the easy handle up from scratch; what its owner has set on it is gone. 0 or -ENOMEM. */
int transfer_renew(struct transfer *t);

void transfer_destroy(struct transfer *t);

#endif
