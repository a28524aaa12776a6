#include "fault.h"

#include <stddef.h>

const char *fault_name(enum fault fault)
{
    static const char *const names[] = {
        [FAULT_NONE] = NULL,
        [FAULT_BAD_REQUEST] = "bad_request",
        [FAULT_OUT_OF_MEMORY] = "out_of_memory",
        [FAULT_CANNOT_SAVE] = "cannot_save",
        [FAULT_CANNOT_READ] = "cannot_read",
        [FAULT_DNS_NO_SUCH_HOST] = "dns_no_such_host",
        [FAULT_DNS_NO_ANSWER] = "dns_no_answer",
        [FAULT_CONNECT_FAILED] = "connect_failed",
        [FAULT_NO_DESCRIPTORS] = "no_descriptors",
        [FAULT_BLOCKED_ADDRESS] = "blocked_address",
        [FAULT_PROXY_REFUSED] = "proxy_refused",
        [FAULT_TLS] = "tls",
        [FAULT_CONNECT_TIMEOUT] = "connect_timeout",
        [FAULT_TIMEOUT] = "timeout",
        [FAULT_IDLE] = "idle",
        [FAULT_TOO_SLOW] = "too_slow",
        [FAULT_RESET] = "reset",
        [FAULT_CLOSED_EARLY] = "closed_early",
        [FAULT_CLOSED_IN_HEAD] = "closed_in_head",
        [FAULT_TRUNCATED_BODY] = "truncated_body",
        [FAULT_STREAM_RESET] = "stream_reset",
        [FAULT_NOT_HTTP] = "not_http",
        [FAULT_BAD_FRAMING] = "bad_framing",
        [FAULT_EXTRA_BYTES] = "extra_bytes",
        [FAULT_UNASKED_RANGE] = "unasked_range",
        [FAULT_HEAD_TOO_LARGE] = "head_too_large",
        [FAULT_BODY_TOO_LARGE] = "body_too_large",
        [FAULT_TOO_MANY_CODINGS] = "too_many_codings",
        [FAULT_EXPANDS_TOO_FAST] = "expands_too_fast",
        [FAULT_UNKNOWN_CODING] = "unknown_coding",
        [FAULT_CORRUPT_CODING] = "corrupt_coding",
        [FAULT_NETWORK] = "network",
    };
    return names[fault];
}
