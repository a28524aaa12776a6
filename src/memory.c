#include "memory.h"

#include <curl/curl.h>
#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

/* libcurl's functions for this are the process's, too. */
static unsigned long failures;

static void *counted(void *p)
{
    if (!p)
        __atomic_add_fetch(&failures, 1, __ATOMIC_RELAXED);
    return p;
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
    CURLcode code = curl_global_init_mem(CURL_GLOBAL_DEFAULT, on_malloc, free, on_realloc,
                                         on_strdup, on_calloc);
    if (code != CURLE_OK)
        return -ENOMEM;
    /* OpenSSL tries this once, and without it what libcurl has of it would crash. */
    if (OSSL_LIB_CTX_get0_global_default())
        return 0;
    curl_global_cleanup();
    return -ENOMEM;
}

unsigned long memory_failures(void)
{
    return __atomic_load_n(&failures, __ATOMIC_RELAXED);
}
