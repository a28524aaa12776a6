/*
 * What is said of a server's certificate (src/tls.c).
 *
 * Input: a byte for what is wrong with it, one for its place in the chain, then the certificate
 * (DER).
 * Properties: whatever is in it, the text is one printable line within its array, and is about it.
 */
#include "check.h"

/* Whole, for the functions that OpenSSL's callback stands on. */
#include "tls.c"

static void check_text(const char *text, size_t size)
{
    size_t len = strnlen(text, size);
    CHECK(len > 0 && len < size, "%zu bytes of %zu", len, size);
    for (size_t i = 0; i < len; i++) {
        if (strncmp(text + i, "…", strlen("…")) == 0)
            i += strlen("…") - 1;
        else
            CHECK(text[i] >= ' ' && text[i] <= '~', "byte %zu of \"%s\"", i, text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tls_report report = {0};
    int error = take_byte(&data, &size) % (X509_V_ERR_SIGNATURE_ALGORITHM_INCONSISTENCY + 1);
    int depth = take_byte(&data, &size) & 3;
    const unsigned char *at = data;
    X509 *cert = d2i_X509(NULL, &at, (long)size);
    X509_STORE_CTX *store = cert ? X509_STORE_CTX_new() : NULL;

    ERR_clear_error();
    if (error == X509_V_ERR_CRL_HAS_EXPIRED)
        error = X509_V_OK; /* never comes without a list, which there is none of here */
    if (store && X509_STORE_CTX_init(store, NULL, cert, NULL)) {
        X509_STORE_CTX_set_current_cert(store, cert);
        X509_STORE_CTX_set_error(store, error);
        X509_STORE_CTX_set_error_depth(store, depth);
        problem_text(store, report.problem, sizeof report.problem);
        check_text(report.problem, sizeof report.problem);
        CHECK(strstr(report.problem, "certificate \""), "%s", report.problem);
        names_text(cert, report.names, sizeof report.names);
        check_text(report.names, sizeof report.names);
        const char *text = tls_explain(&report, "SSL: no alternative certificate subject name "
                                                "matches target host name 'a.example'");
        check_text(text, sizeof report.text);
    }
    X509_STORE_CTX_free(store);
    X509_free(cert);
    return 0;
}
