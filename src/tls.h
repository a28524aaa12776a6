/*
 * What went wrong with TLS, in words that name the certificate. libcurl only hands on what OpenSSL
 * says ("certificate has expired"), not of whom or since when.
 */
#ifndef TLS_H
#define TLS_H

#include <curl/curl.h>
#include <stdbool.h>

/* What the handshakes of one transfer left behind. Zeroed it is empty. */
struct tls_report {
    void *ssl_ctx;     /* owned reference: the connection's, which fills the report in; or NULL */
    char text[512];    /* what tls_explain returns */
    char problem[384]; /* what is wrong with which certificate, "" if none was found wrong */
    char names[256];   /* that the server's certificate is for, "a.example, *.b.example" */
    int minimum;       /* the lowest protocol version we offered, as OpenSSL counts them */
    int alert;         /* the fatal alert that came from the server, 0 for none */
    bool asked;        /* the server wanted a certificate of ours, and we had none */
};

/* For CURLOPT_SSL_CTX_FUNCTION, with the report as CURLOPT_SSL_CTX_DATA: called by libcurl before
 * each handshake, it empties the report and has it filled in, until it is emptied again. Changes
 * nothing about what is accepted, except that a minimum below TLS 1.2 also allows the signatures
 * which those versions need. */
CURLcode tls_watch(CURL *easy, void *ssl_ctx, void *report);

/* Empties it. To be called when the transfer has ended, as its connection may go on. */
void tls_report_reset(struct tls_report *report);

enum tls_verdict {
    TLS_BLAMELESS, /* not TLS's doing */
    TLS_REFUSED,   /* one side refused the other, and would again */
    TLS_CUT,       /* the connection broke within the handshake or, maybe, because of it */
};

/* Whose doing it was that a transfer failed before any answer, by its report (or NULL) and
 * libcurl's code and message. In TLS 1.3 a server refuses our certificate after the handshake, when
 * the request is on its way (RFC 8446 §4.4.2.4), so it may look like a connection that broke. */
enum tls_verdict tls_judge(const struct tls_report *report, CURLcode code, const char *message);

/* One line that says what was wrong with whom. `message` is libcurl's. Lives in the report. */
const char *tls_explain(struct tls_report *report, const char *message);

/* Whether the connection that a transfer is about to use speaks HTTP/2; of that, libcurl takes a
 * server's word. False without TLS. */
bool tls_is_http2(CURL *easy);

/* Whether bytes wait that were received, but not yet taken. The transfer must have its connection.
 */
bool tls_has_pending(CURL *easy);

#endif
