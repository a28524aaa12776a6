#include "memory.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

/* The libraries' functions for this are the process's, too. */
static unsigned long failures, openssl_failures;

static void *counted_in(unsigned long *count, void *p)
{
    if (!p)
        __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    return p;
}

/* libcurl ------------------------------------------------------------------------------------- */

static void *counted(void *p)
{
    return counted_in(&failures, p);
}

static void *on_malloc(size_t n)
{
    return counted(malloc(n));
}

static void *on_calloc(size_t count, size_t size)
{
    return counted(calloc(count, size));
}

static void *on_realloc(void *p, size_t n)
{
    void *q = realloc(p, n);
    return n ? counted(q) : q;
}

static char *on_strdup(const char *text)
{
    return counted(strdup(text));
}

int memory_init(void)
{
    int rc = memory_init_openssl();
    if (rc != 0)
        return rc;
    CURLcode code = curl_global_init_mem(CURL_GLOBAL_DEFAULT, on_malloc, free, on_realloc,
                                         on_strdup, on_calloc);
    return code == CURLE_OK ? 0 : -ENOMEM;
}

unsigned long memory_failures(void)
{
    return __atomic_load_n(&failures, __ATOMIC_RELAXED);
}

/* OpenSSL ------------------------------------------------------------------------------------- */

static void *on_openssl_malloc(size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    return n ? counted_in(&openssl_failures, malloc(n)) : NULL;
}

static void *on_openssl_realloc(void *p, size_t n, const char *file, int line)
{
    (void)file;
    (void)line;
    void *q = realloc(p, n);
    return n ? counted_in(&openssl_failures, q) : q;
}

static void on_openssl_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    free(p);
}

int memory_init_openssl(void)
{
    /* Refused when OpenSSL has memory already. */
    (void)CRYPTO_set_mem_functions(on_openssl_malloc, on_openssl_realloc, on_openssl_free);
    /* OpenSSL tries this once, and everything in it would crash without. */
    return OSSL_LIB_CTX_get0_global_default() ? 0 : -ENOMEM;
}

unsigned long memory_openssl_failures(void)
{
    return __atomic_load_n(&openssl_failures, __ATOMIC_RELAXED);
}
