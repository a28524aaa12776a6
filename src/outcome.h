/*
 * What libcurl means when it says that a transfer has ended: its codes, and the messages that tell
 * apart what has no code of its own (7.88).
 */
#ifndef OUTCOME_H
#define OUTCOME_H

#include "fault.h"

#include <curl/curl.h>
#include <stdbool.h>

/* `message` is what was written to CURLOPT_ERRORBUFFER, perhaps empty; `headed`: the response's
 * head was complete; `status` is 0 when not even its first line came. */
enum fault outcome_fault(CURL *easy, CURLcode code, const char *message, long status, bool headed);

/* The same in words: `message` or static text. */
const char *outcome_reason(CURLcode code, const char *message, bool headed);

#endif
