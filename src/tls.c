#include "tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/sslerr.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

enum {
    ALERT = SSL_AD_REASON_OFFSET, /* OpenSSL's reason for a fatal alert is this plus its number */
    NAME_MAX_LEN = 120,           /* of a certificate's name in a message */
};

/* Text ---------------------------------------------------------------------------------------- */

/* Appends to a string in an array of `size` bytes, as far as there is room. */
__attribute__((format(printf, 3, 4))) static void add(char *text, size_t size, const char *format,
                                                      ...)
{
    size_t len = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + len, size - len, format, args);
    va_end(args);
}

/* What is in a certificate may be anything: only printable ASCII is shown. */
static void add_plain(char *text, size_t size, const unsigned char *p, size_t n)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < n && len + 1 < size; i++)
        text[len++] = p[i] >= ' ' && p[i] <= '~' ? (char)p[i] : '?';
    text[len] = '\0';
}

static void name_text(const X509_NAME *name, char *text, size_t size)
{
    char *start = NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    text[0] = '\0';
    if (bio && X509_NAME_print_ex(bio, name, 0, XN_FLAG_RFC2253) > 0) {
        long len = BIO_get_mem_data(bio, &start);
        add_plain(text, size, (unsigned char *)start, len > 0 ? (size_t)len : 0);
    }
    BIO_free(bio);
    if (!text[0])
        add(text, size, "no name");
}

static void time_text(const ASN1_TIME *time, char *text, size_t size)
{
    struct tm tm;
    if (!time || ASN1_TIME_to_tm(time, &tm) != 1 ||
        strftime(text, size, "%Y-%m-%d %H:%M:%S UTC", &tm) == 0)
        snprintf(text, size, "an unknown date");
}

/* The names a server's certificate is for (RFC 6125 §6.4): the alternative ones, and only where
 * there are none the common name. */
static void names_text(X509 *cert, char *text, size_t size)
{
    char part[NAME_MAX_LEN];
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    text[0] = '\0';
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        int type;
        const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names, i), &type);
        part[0] = '\0';
        if (type == GEN_DNS) {
            add_plain(part, sizeof part, ASN1_STRING_get0_data(value),
                      (size_t)ASN1_STRING_length(value));
        } else if (type == GEN_IPADD) {
            int len = ASN1_STRING_length(value);
            if (len == 4 || len == 16)
                inet_ntop(len == 4 ? AF_INET : AF_INET6, ASN1_STRING_get0_data(value), part,
                          sizeof part);
        }
        if (!part[0])
            continue;
        if (strlen(text) + strlen(part) + sizeof ", , …" > size) {
            add(text, size, ", …");
            break;
        }
        add(text, size, "%s%s", text[0] ? ", " : "", part);
    }
    GENERAL_NAMES_free(names);
    if (!text[0])
        name_text(X509_get_subject_name(cert), text, size);
}

/* What is wrong with a certificate ------------------------------------------------------------ */

static void revoked_text(X509_STORE_CTX *store, X509 *cert, char *text, size_t size)
{
    X509_REVOKED *entry = NULL;
    X509_CRL *crl = X509_STORE_CTX_get0_current_crl(store);
    if (crl && X509_CRL_get0_by_cert(crl, &entry, cert) && entry)
        time_text(X509_REVOKED_get0_revocationDate(entry), text, size);
    else
        snprintf(text, size, "an unknown date");
}

static void problem_text(X509_STORE_CTX *store, char *text, size_t size)
{
    char subject[NAME_MAX_LEN], issuer[NAME_MAX_LEN], date[64];
    int error = X509_STORE_CTX_get_error(store);
    X509 *cert = X509_STORE_CTX_get_current_cert(store);

    text[0] = '\0';
    if (!cert) {
        add(text, size, "%s", X509_verify_cert_error_string(error));
        return;
    }
    name_text(X509_get_subject_name(cert), subject, sizeof subject);
    name_text(X509_get_issuer_name(cert), issuer, sizeof issuer);
    add(text, size, "the %scertificate \"%s\" ",
        X509_STORE_CTX_get_error_depth(store) > 0 ? "issuer's " : "", subject);
    switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
        time_text(X509_get0_notAfter(cert), date, sizeof date);
        add(text, size, "expired on %s", date);
        break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
        time_text(X509_get0_notBefore(cert), date, sizeof date);
        add(text, size, "is not valid before %s (is this machine's clock right?)", date);
        break;
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
        add(text, size, "is self-signed, and not among the trusted ones");
        break;
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
        add(text, size, "is where the server's chain ends, and not among the trusted ones");
        break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: {
        int sent = sk_X509_num(X509_STORE_CTX_get0_untrusted(store));
        add(text, size,
            "is issued by \"%s\", which is neither trusted nor sent along by the server: an "
            "unknown authority, or an intermediate certificate is missing (%d sent)",
            issuer, sent);
        break;
    }
    case X509_V_ERR_CERT_REVOKED:
        revoked_text(store, cert, date, sizeof date);
        add(text, size, "was revoked by \"%s\" on %s", issuer, date);
        break;
    case X509_V_ERR_UNABLE_TO_GET_CRL:
        add(text, size, "cannot be checked for revocation: no list of \"%s\" is in tls.crl",
            issuer);
        break;
    case X509_V_ERR_CRL_HAS_EXPIRED:
        time_text(X509_CRL_get0_nextUpdate(X509_STORE_CTX_get0_current_crl(store)), date,
                  sizeof date);
        add(text, size, "cannot be checked for revocation: the list of \"%s\" expired on %s",
            issuer, date);
        break;
    case X509_V_ERR_INVALID_PURPOSE:
        add(text, size, "is not for a server");
        break;
    default:
        add(text, size, "does not pass: %s", X509_verify_cert_error_string(error));
    }
}

/* The handshake ------------------------------------------------------------------------------- */

static struct tls_report *report_of(const SSL *ssl)
{
    return ssl ? SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)) : NULL;
}

/* Only looks on: what OpenSSL has decided stands. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_report *report = report_of(ssl);

    if (!report)
        return ok;
    if (!ok)
        problem_text(store, report->problem, sizeof report->problem);
    else if (X509_STORE_CTX_get_error_depth(store) == 0)
        names_text(X509_STORE_CTX_get_current_cert(store), report->names, sizeof report->names);
    return ok;
}

/* OpenSSL asks for a client certificate only if it has none that fits. */
static int on_asked(SSL *ssl, X509 **cert, EVP_PKEY **key)
{
    struct tls_report *report = report_of(ssl);
    (void)cert;
    (void)key;
    if (report)
        report->asked = true;
    return 0;
}

static void on_info(const SSL *ssl, int where, int value)
{
    struct tls_report *report = report_of(ssl);
    int alert = value & 0xff;
    if (report && (where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT &&
        alert != SSL_AD_CLOSE_NOTIFY && alert != SSL_AD_USER_CANCELLED &&
        alert != SSL_AD_NO_RENEGOTIATION)
        report->alert = alert;
}

CURLcode tls_watch(CURL *easy, void *ssl_ctx, void *report)
{
    SSL_CTX *ctx = ssl_ctx;
    struct tls_report *r = report;
    int mode = SSL_CTX_get_verify_mode(ctx);
    (void)easy;

    tls_report_reset(r);
    r->minimum = (int)SSL_CTX_get_min_proto_version(ctx);
    /* TLS 1.0 and 1.1 sign with MD5 and SHA-1, which OpenSSL 3 allows at no other level. */
    if (r->minimum && r->minimum < TLS1_2_VERSION)
        SSL_CTX_set_security_level(ctx, 0);
    if (!SSL_CTX_set_app_data(ctx, r) || !SSL_CTX_up_ref(ctx))
        return CURLE_OUT_OF_MEMORY;
    r->ssl_ctx = ctx;
    SSL_CTX_set_info_callback(ctx, on_info);
    SSL_CTX_set_client_cert_cb(ctx, on_asked);
    if (mode != SSL_VERIFY_NONE)
        SSL_CTX_set_verify(ctx, mode, on_verify);
    return CURLE_OK;
}

void tls_report_reset(struct tls_report *report)
{
    if (report->ssl_ctx) {
        SSL_CTX_set_app_data((SSL_CTX *)report->ssl_ctx, NULL);
        SSL_CTX_free(report->ssl_ctx);
    }
    report->ssl_ctx = NULL;
    report->text[0] = report->problem[0] = report->names[0] = '\0';
    report->minimum = report->alert = 0;
    report->asked = false;
}

/* What libcurl says --------------------------------------------------------------------------- */

/* The reason in "… error:0A00042E:SSL routines::…", 0 when it is not of OpenSSL's SSL library. */
static int ssl_reason(const char *message)
{
    const char *at = strstr(message, "error:");
    unsigned long code = at ? strtoul(at + 6, NULL, 16) : 0;
    return ERR_GET_LIB(code) == ERR_LIB_SSL ? ERR_GET_REASON(code) : 0;
}

/* The fatal alert from the server (RFC 8446 §6.2), of which a reason of OpenSSL's tells, too. */
static int alert_of(const struct tls_report *r, int reason)
{
    if (reason > ALERT && reason <= ALERT + 255)
        return reason - ALERT;
    return r ? r->alert : 0;
}

/* Those by which a server turns down the certificate we sent or did not send. */
static bool about_our_certificate(int alert)
{
    switch (alert) {
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_DECRYPT_ERROR:
    case SSL_AD_CERTIFICATE_REQUIRED:
        return true;
    default:
        return false;
    }
}

enum tls_verdict tls_judge(const struct tls_report *report, CURLcode code, const char *message)
{
    int reason = ssl_reason(message);

    switch (code) {
    case CURLE_SSL_CONNECT_ERROR:
        /* Without an error of OpenSSL's it was the socket's. */
        return reason == SSL_R_UNEXPECTED_EOF_WHILE_READING || !strstr(message, "error:")
                   ? TLS_CUT
                   : TLS_REFUSED;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_CLIENTCERT:
    case CURLE_USE_SSL_FAILED:
        return TLS_REFUSED;
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
        if (about_our_certificate(alert_of(report, reason)))
            return TLS_REFUSED;
        return report && report->asked ? TLS_CUT : TLS_BLAMELESS;
    default:
        return TLS_BLAMELESS;
    }
}

static const char *version_name(int version)
{
    switch (version) {
    case TLS1_VERSION:
        return "TLS 1.0";
    case TLS1_1_VERSION:
        return "TLS 1.1";
    case TLS1_3_VERSION:
        return "TLS 1.3";
    default:
        return "TLS 1.2";
    }
}

/* OpenSSL's words in libcurl's message, without the numbers before them. */
static const char *openssl_words(const char *message)
{
    const char *at = strstr(message, "error:");
    const char *words = at ? strstr(at, "::") : NULL;
    return words && words[2] ? words + 2 : message;
}

/* What comes after `before` in the message, up to `after`; "" when it is not there. */
static void part_of(const char *message, const char *before, const char *after, char *out,
                    size_t size)
{
    const char *at = strstr(message, before);
    at = at ? at + strlen(before) : "";
    const char *end = strstr(at, after);
    snprintf(out, size, "%.*s", (int)(end ? end - at : (ptrdiff_t)strlen(at)), at);
}

/* Files of ours that cannot be used: libcurl reads them anew for every connection. */
static bool explain_file(char *text, size_t size, const char *message)
{
    static const struct {
        const char *before, *after, *format;
    } rows[] = {
        {"error setting certificate file: ", "\n", "%s holds no certificate that can be read"},
        {"error loading CRL file: ", "\n", "%s holds no revocation list that can be read"},
        {"could not load PEM client certificate from ", ", OpenSSL error",
         "%s holds no certificate that can be read, or none that is strong enough"},
        {"unable to set private key file: '", "' type",
         "the key in %s cannot be used: it is not the certificate's, or needs another password"},
    };
    char path[256];

    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        part_of(message, rows[i].before, rows[i].after, path, sizeof path);
        if (path[0]) {
            const char *rest = strstr(rows[i].format, "%s");
            add(text, size, "%.*s%s%s", (int)(rest - rows[i].format), rows[i].format, path,
                rest + 2);
            return true;
        }
    }
    return false;
}

static void explain_alert(const struct tls_report *r, int alert, char *text, size_t size)
{
    const char *name = SSL_alert_desc_string_long(alert);

    if (alert == SSL_AD_CERTIFICATE_REQUIRED ||
        (r->asked && (about_our_certificate(alert) || alert == SSL_AD_HANDSHAKE_FAILURE)))
        add(text, size, "the server wants a client certificate (tls.cert), and got none");
    else if (about_our_certificate(alert))
        add(text, size, "the server turned down our certificate (%s)", name);
    else if (alert == SSL_AD_UNRECOGNIZED_NAME)
        add(text, size, "the server has no certificate for this name (%s)", name);
    else if (alert == SSL_AD_HANDSHAKE_FAILURE || alert == SSL_AD_INSUFFICIENT_SECURITY)
        add(text, size, "the server found no cipher or signature to agree on (%s)", name);
    else
        add(text, size, "the server refused the handshake (%s)", name);
}

const char *tls_explain(struct tls_report *r, const char *message)
{
    char *text = r->text, host[256];
    size_t size = sizeof r->text;
    int reason = ssl_reason(message);
    int alert = alert_of(r, reason);

    text[0] = '\0';
    part_of(message, "target host name '", "'", host, sizeof host);
    if (r->problem[0]) {
        add(text, size, "%s", r->problem);
    } else if (r->names[0] && host[0]) {
        add(text, size, "the certificate is for %s, not for %s", r->names, host);
    } else if (alert == SSL_AD_PROTOCOL_VERSION || reason == SSL_R_UNSUPPORTED_PROTOCOL ||
               reason == SSL_R_VERSION_TOO_LOW || reason == SSL_R_WRONG_SSL_VERSION) {
        add(text, size, "the server does not speak %s%s, the least that is allowed here (tls.min)",
            version_name(r->minimum), r->minimum == TLS1_3_VERSION ? "" : " or newer");
    } else if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST ||
               reason == SSL_R_PACKET_LENGTH_TOO_LONG || reason == SSL_R_BAD_RECORD_TYPE) {
        add(text, size, "the server does not speak TLS on this port (%s)", openssl_words(message));
    } else if (alert) {
        explain_alert(r, alert, text, size);
    } else if (r->asked) {
        /* Its alert may be lost when the server closes the connection at once. */
        add(text, size, "%s, after the server had asked for a client certificate (tls.cert)",
            openssl_words(message));
    } else if (strstr(message, "SSL_connect: SSL_ERROR") ||
               reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
        add(text, size, "the server closed the connection within the TLS handshake");
    } else if (!explain_file(text, size, message)) {
        add(text, size, "%s", openssl_words(message));
    }
    return text;
}

bool tls_has_pending(CURL *easy)
{
    struct curl_tlssessioninfo *info = NULL;
    return curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) == CURLE_OK && info &&
           info->backend == CURLSSLBACKEND_OPENSSL && info->internals &&
           SSL_pending(info->internals) > 0;
}

bool tls_is_http2(CURL *easy)
{
    struct curl_tlssessioninfo *info = NULL;
    const unsigned char *name = NULL;
    unsigned len = 0;
    if (curl_easy_getinfo(easy, CURLINFO_TLS_SSL_PTR, &info) == CURLE_OK && info &&
        info->backend == CURLSSLBACKEND_OPENSSL && info->internals)
        SSL_get0_alpn_selected(info->internals, &name, &len);
    return len == 2 && memcmp(name, "h2", 2) == 0;
}
