#include "profile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int copy(const char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? -ENOMEM : 0;
}

static void free_options(struct profile_options *o)
{
    free((char *)o->ca);
    free((char *)o->crl);
    free((char *)o->cert);
    free((char *)o->key);
    free((char *)o->key_password);
    free((char *)o->tls_min);
    free((char *)o->proxy);
    free((char *)o->proxy_user);
    free((char *)o->proxy_password);
    free((char *)o->unix_path);
}

static int copy_options(struct profile_options *to, const struct profile_options *from)
{
    *to = (struct profile_options){
        .insecure = from->insecure,
        .guard = from->guard,
        .http1 = from->http1,
        .jar = from->jar,
    };
    if (copy(&to->ca, from->ca) || copy(&to->crl, from->crl) || copy(&to->cert, from->cert) ||
        copy(&to->key, from->key) || copy(&to->key_password, from->key_password) ||
        copy(&to->tls_min, from->tls_min) || copy(&to->proxy, from->proxy) ||
        copy(&to->proxy_user, from->proxy_user) ||
        copy(&to->proxy_password, from->proxy_password) || copy(&to->unix_path, from->unix_path)) {
        free_options(to);
        return -ENOMEM;
    }
    return 0;
}

int profile_create(struct profile **out, const struct profile_options *options, CURLSH *jar,
                   uv_loop_t *loop, struct watches *watches,
                   const struct lanes_callbacks *callbacks, void *ctx)
{
    struct profile *p = calloc(1, sizeof *p);
    if (!p || copy_options(&p->options, options)) {
        free(p);
        return -ENOMEM;
    }
    p->jar = jar;
    lanes_init(&p->lanes, loop, watches, options->guard, callbacks, ctx);
    origins_init(&p->origins);
    TAILQ_INIT(&p->free_hops);
    *out = p;
    return 0;
}

static long tls_version(const char *min)
{
    if (!min || strcmp(min, "1.2") == 0)
        return CURL_SSLVERSION_TLSv1_2;
    if (strcmp(min, "1.3") == 0)
        return CURL_SSLVERSION_TLSv1_3;
    return strcmp(min, "1.1") == 0 ? CURL_SSLVERSION_TLSv1_1 : CURL_SSLVERSION_TLSv1_0;
}

#define SET(option, value)                                                                         \
    do {                                                                                           \
        CURLcode set_code = curl_easy_setopt(easy, option, value);                                 \
        if (set_code != CURLE_OK)                                                                  \
            return set_code;                                                                       \
    } while (0)

static CURLcode set_tls(const struct profile_options *o, CURL *easy)
{
    const char *ca = o->ca ? o->ca : getenv("SSL_CERT_FILE");
    if (ca && *ca) {
        SET(CURLOPT_CAINFO, ca);
        SET(CURLOPT_PROXY_CAINFO, ca);
    }
    /* A directory of authorities would be trusted beside the file; and with one libcurl (7.88)
     * reads all of them anew for every connection, which takes 20 ms. */
    if ((ca && *ca) || curl_version_info(CURLVERSION_NOW)->cainfo) {
        SET(CURLOPT_CAPATH, NULL);
        SET(CURLOPT_PROXY_CAPATH, NULL);
    }
    SET(CURLOPT_SSLVERSION, tls_version(o->tls_min));
    SET(CURLOPT_PROXY_SSLVERSION, tls_version(o->tls_min));
    if (o->crl)
        SET(CURLOPT_CRLFILE, o->crl);
    if (o->cert)
        SET(CURLOPT_SSLCERT, o->cert);
    if (o->key)
        SET(CURLOPT_SSLKEY, o->key);
    /* Without any, OpenSSL would ask for it on the terminal. */
    SET(CURLOPT_KEYPASSWD, o->key_password ? o->key_password : "");
    if (o->insecure) {
        SET(CURLOPT_SSL_VERIFYPEER, 0L);
        SET(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    return CURLE_OK;
}

static CURLcode set_all(const struct profile *p, CURL *easy)
{
    const struct profile_options *o = &p->options;
    CURLcode code = set_tls(o, easy);
    if (code != CURLE_OK)
        return code;
    SET(CURLOPT_HTTP_VERSION, (long)(o->http1 ? CURL_HTTP_VERSION_1_1 : CURL_HTTP_VERSION_2TLS));
    /* Else libcurl reads the environment for them each time. */
    SET(CURLOPT_PROXY, o->proxy ? o->proxy : "");
    SET(CURLOPT_NOPROXY, "");
    if (o->proxy) {
        /* What the proxy says to CONNECT is no response of the server's. */
        SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
        SET(CURLOPT_HEADEROPT, (long)CURLHEADER_SEPARATE);
    }
    if (o->proxy && o->proxy_user) {
        SET(CURLOPT_PROXYUSERNAME, o->proxy_user);
        SET(CURLOPT_PROXYPASSWORD, o->proxy_password ? o->proxy_password : "");
    }
    if (o->unix_path)
        SET(CURLOPT_UNIX_SOCKET_PATH, o->unix_path);
    if (p->jar) {
        SET(CURLOPT_SHARE, p->jar);
        SET(CURLOPT_COOKIEFILE, ""); /* from no file; without it none would be sent */
    }
    return CURLE_OK;
}

int profile_apply(const struct profile *p, CURL *easy)
{
    CURLcode code = set_all(p, easy);
    return code == CURLE_OK ? 0 : code == CURLE_OUT_OF_MEMORY ? -ENOMEM : -EINVAL;
}

void profile_destroy(struct profile *p)
{
    origins_deinit(&p->origins);
    lanes_deinit(&p->lanes);
    free_options(&p->options);
    free(p);
}
