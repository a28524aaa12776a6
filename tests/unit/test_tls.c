#include "tls.h"

#include <openssl/ssl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define ALERT_CERTIFICATE_REQUIRED                                                                 \
    "OpenSSL SSL_read: OpenSSL/3.0.19: error:0A00045C:SSL routines::tlsv13 alert certificate "     \
    "required, errno 0"
#define ALERT_PROTOCOL_VERSION                                                                     \
    "OpenSSL/3.0.19: error:0A00042E:SSL routines::tlsv1 alert protocol version"
#define UNEXPECTED_EOF "OpenSSL/3.0.19: error:0A000126:SSL routines::unexpected eof while reading"

static void tells_whose_doing_it_was(void **state)
{
    static const struct {
        CURLcode code;
        const char *message;
        enum tls_verdict verdict;
    } rows[] = {
        {CURLE_SSL_CONNECT_ERROR, ALERT_PROTOCOL_VERSION, TLS_REFUSED},
        {CURLE_SSL_CONNECT_ERROR, "error:0308010C:digital envelope routines::unsupported",
         TLS_REFUSED},
        {CURLE_SSL_CONNECT_ERROR, UNEXPECTED_EOF, TLS_CUT},
        {CURLE_SSL_CONNECT_ERROR, "Recv failure: Connection reset by peer", TLS_CUT},
        {CURLE_SSL_CONNECT_ERROR, "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to a:1 ",
         TLS_CUT},
        {CURLE_PEER_FAILED_VERIFICATION, "SSL certificate problem: certificate has expired",
         TLS_REFUSED},
        {CURLE_SSL_CERTPROBLEM, "unable to set private key file: 'a' type PEM", TLS_REFUSED},
        {CURLE_SSL_CACERT_BADFILE, "error setting certificate file: a", TLS_REFUSED},
        {CURLE_SSL_CRL_BADFILE, "error loading CRL file: a", TLS_REFUSED},
        {CURLE_RECV_ERROR, ALERT_CERTIFICATE_REQUIRED, TLS_REFUSED},
        {CURLE_RECV_ERROR, "OpenSSL SSL_read: error:0A000119:SSL routines::decryption failed",
         TLS_BLAMELESS},
        {CURLE_RECV_ERROR, "Recv failure: Connection reset by peer", TLS_BLAMELESS},
        {CURLE_SEND_ERROR, "Send failure: Broken pipe", TLS_BLAMELESS},
        {CURLE_GOT_NOTHING, "Empty reply from server", TLS_BLAMELESS},
        {CURLE_COULDNT_CONNECT, "Failed to connect", TLS_BLAMELESS},
        {CURLE_OPERATION_TIMEDOUT, "SSL connection timeout", TLS_BLAMELESS},
        {CURLE_SSL_CONNECT_ERROR, "", TLS_CUT},
        {CURLE_RECV_ERROR, "error:", TLS_BLAMELESS},
    };
    struct tls_report none = {0};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_int_equal(tls_judge(NULL, rows[i].code, rows[i].message), rows[i].verdict);
        assert_int_equal(tls_judge(&none, rows[i].code, rows[i].message), rows[i].verdict);
    }
}

static void an_alert_that_came_late_counts(void **state)
{
    struct tls_report report = {.alert = SSL_AD_CERTIFICATE_REQUIRED, .asked = true};
    (void)state;
    assert_int_equal(tls_judge(&report, CURLE_SEND_ERROR, "Broken pipe"), TLS_REFUSED);
    assert_string_equal(tls_explain(&report, "Broken pipe"),
                        "the server wants a client certificate (tls.cert), and got none");
    report.alert = SSL_AD_INTERNAL_ERROR;
    assert_int_equal(tls_judge(&report, CURLE_GOT_NOTHING, "Empty reply"), TLS_CUT);
    report.alert = 0;
    assert_int_equal(tls_judge(&report, CURLE_RECV_ERROR, "Broken pipe"), TLS_CUT);
    assert_string_equal(
        tls_explain(&report, "Broken pipe"),
        "Broken pipe, after the server had asked for a client certificate (tls.cert)");
}

static void explains(void **state)
{
    static const struct {
        const char *message, *text;
    } rows[] = {
        {ALERT_PROTOCOL_VERSION,
         "the server does not speak TLS 1.2 or newer, the least that is allowed here (tls.min)"},
        {UNEXPECTED_EOF, "the server closed the connection within the TLS handshake"},
        {"OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to a:1 ",
         "the server closed the connection within the TLS handshake"},
        {"OpenSSL/3.0.19: error:0A00010B:SSL routines::wrong version number",
         "the server does not speak TLS on this port (wrong version number)"},
        {"OpenSSL/3.0.19: error:0A000458:SSL routines::tlsv1 unrecognized name",
         "the server has no certificate for this name (unrecognized name)"},
        {"error:0A000438:SSL routines::tlsv1 alert internal error",
         "the server refused the handshake (internal error)"},
        {ALERT_CERTIFICATE_REQUIRED,
         "the server wants a client certificate (tls.cert), and got none"},
        {"error:0A000418:SSL routines::tlsv1 alert unknown ca",
         "the server turned down our certificate (unknown CA)"},
        {"OpenSSL/3.0.19: error:0A00018A:SSL routines::dh key too small", "dh key too small"},
        {"error setting certificate file: /a b", "/a b holds no certificate that can be read"},
        {"unable to set private key file: '/k' type PEM",
         "the key in /k cannot be used: it is not the certificate's, or needs another password"},
        {"something new", "something new"},
        {"error:", "error:"},
        {"", ""},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tls_report report = {0};
        assert_string_equal(tls_explain(&report, rows[i].message), rows[i].text);
    }
}

static void names_what_the_certificate_is_for(void **state)
{
    struct tls_report report = {.names = "a.test, *.a.test"};
    (void)state;
    assert_string_equal(
        tls_explain(&report, "SSL: no alternative certificate subject name matches target host "
                             "name 'b.test'"),
        "the certificate is for a.test, *.a.test, not for b.test");
    snprintf(report.problem, sizeof report.problem, "the certificate is odd");
    assert_string_equal(tls_explain(&report, "SSL certificate problem: odd"),
                        "the certificate is odd");
}

/* Whatever libcurl says: no text is longer than the room for it. */
static void cuts_what_is_too_long(void **state)
{
    struct tls_report report = {0};
    char message[4000] = "target host name '";
    (void)state;
    memset(report.names, 'n', sizeof report.names - 1);
    memset(message + strlen(message), 'h', sizeof message - 1 - strlen(message));
    assert_int_equal(strlen(tls_explain(&report, message)), sizeof report.text - 1);
}

/* The connection goes on after its transfer; its report may be gone. */
static void lets_go_of_the_connection(void **state)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    struct tls_report report = {0};
    (void)state;
    assert_int_equal(tls_watch(NULL, ctx, &report), CURLE_OK);
    assert_ptr_equal(SSL_CTX_get_app_data(ctx), &report);
    report.asked = true;
    SSL_CTX *second = SSL_CTX_new(TLS_client_method());
    assert_int_equal(tls_watch(NULL, second, &report), CURLE_OK);
    assert_null(SSL_CTX_get_app_data(ctx));
    assert_false(report.asked);
    SSL_CTX_free(second); /* the report still has it */
    tls_report_reset(&report);
    assert_null(report.ssl_ctx);
    tls_report_reset(&report);
    SSL_CTX_free(ctx);
}

static void old_versions_need_their_signatures(void **state)
{
    static const int versions[] = {TLS1_VERSION, TLS1_1_VERSION, TLS1_2_VERSION, TLS1_3_VERSION};
    (void)state;
    for (int i = 0; i < 4; i++) {
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        struct tls_report report = {0};
        int level = SSL_CTX_get_security_level(ctx);
        SSL_CTX_set_min_proto_version(ctx, versions[i]);
        assert_int_equal(tls_watch(NULL, ctx, &report), CURLE_OK);
        assert_int_equal(report.minimum, versions[i]);
        assert_int_equal(SSL_CTX_get_security_level(ctx), i < 2 ? 0 : level);
        tls_report_reset(&report);
        SSL_CTX_free(ctx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_whose_doing_it_was),
        cmocka_unit_test(an_alert_that_came_late_counts),
        cmocka_unit_test(explains),
        cmocka_unit_test(names_what_the_certificate_is_for),
        cmocka_unit_test(cuts_what_is_too_long),
        cmocka_unit_test(lets_go_of_the_connection),
        cmocka_unit_test(old_versions_need_their_signatures),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
