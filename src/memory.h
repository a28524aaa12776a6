/*
 * The memory libcurl uses: malloc's, counting how often there was none. libcurl does not always
 * tell: without memory for the query of a URL it sends the request without it.
 */
#ifndef MEMORY_H
#define MEMORY_H

/* Initialises libcurl; curl_global_cleanup is the counterpart. Returns 0 or -ENOMEM. */
int memory_init(void);

/* How often libcurl got no memory so far, in the whole process. */
unsigned long memory_failures(void);

#endif
