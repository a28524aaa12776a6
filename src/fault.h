/*
 * What can go wrong with a hop. What a fault means to a script — its kind, whether it is worth
 * another try — is policy: lua/orchestrator/faults.lua has a row for each name.
 */
#ifndef FAULT_H
#define FAULT_H

enum fault {
    FAULT_NONE,
    FAULT_BAD_REQUEST,
    FAULT_OUT_OF_MEMORY,
    FAULT_CANNOT_SAVE,
    FAULT_CANNOT_READ,
    FAULT_DNS_NO_SUCH_HOST,
    FAULT_DNS_NO_ANSWER,
    FAULT_CONNECT_FAILED,
    FAULT_NO_DESCRIPTORS,
    FAULT_BLOCKED_ADDRESS,
    FAULT_PROXY_REFUSED,
    FAULT_TLS,
    FAULT_CONNECT_TIMEOUT,
    FAULT_TIMEOUT,
    FAULT_IDLE,
    FAULT_TOO_SLOW,
    FAULT_RESET,
    FAULT_CLOSED_EARLY,
    FAULT_CLOSED_IN_HEAD,
    FAULT_TRUNCATED_BODY,
    FAULT_STREAM_RESET,
    FAULT_NOT_HTTP,
    FAULT_BAD_FRAMING,
    FAULT_EXTRA_BYTES,
    FAULT_UNASKED_RANGE,
    FAULT_HEAD_TOO_LARGE,
    FAULT_BODY_TOO_LARGE,
    FAULT_TOO_MANY_CODINGS,
    FAULT_EXPANDS_TOO_FAST,
    FAULT_UNKNOWN_CODING,
    FAULT_CORRUPT_CODING,
    FAULT_NETWORK,
};

/* Its name, such as "truncated_body"; NULL for FAULT_NONE. Static text. */
const char *fault_name(enum fault fault);

#endif
