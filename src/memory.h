/*
 * The memory libcurl and OpenSSL use: malloc's, counting how often there was none. They do not
 * always tell: without memory for the query of a URL libcurl sends the request without it, and
 * without memory for its name OpenSSL has no SHA-256.
 */
#ifndef MEMORY_H
#define MEMORY_H

/* Initialises libcurl; curl_global_cleanup is the counterpart. Returns 0 or -ENOMEM. */
int memory_init(void);

/* How often libcurl got no memory so far, in the whole process. */
unsigned long memory_failures(void);

/* Initialises OpenSSL, whose memory is counted from then on; memory_init does it, too. Must come
 * before any other use of it. May be done again. Returns 0 or -ENOMEM. */
int memory_init_openssl(void);

/* How often OpenSSL got no memory so far, in the whole process. */
unsigned long memory_openssl_failures(void);

#endif
