#include "outcome.h"

#include <string.h>

/* A proxy that answered CONNECT with something else than 2xx (RFC 9110 §9.3.6). What it says of the
 * server behind it may pass; what it says of us will not. */
static enum fault connect_fault(CURL *easy)
{
    long status = 0;
    if (curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &status) == CURLE_OK && status >= 300 &&
        status <= 499)
        return FAULT_PROXY_REFUSED;
    return FAULT_CONNECT_FAILED;
}

/* What a SOCKS proxy said (RFC 1928 §6), which is likewise of us or of the server behind it. */
static enum fault socks_fault(CURL *easy)
{
    long error = CURLPX_OK;
    if (curl_easy_getinfo(easy, CURLINFO_PROXY_ERROR, &error) != CURLE_OK)
        return FAULT_PROXY_REFUSED;
    switch (error) {
    case CURLPX_CLOSED:
    case CURLPX_RECV_ADDRESS:
    case CURLPX_RECV_AUTH:
    case CURLPX_RECV_CONNECT:
    case CURLPX_RECV_REQACK:
    case CURLPX_REPLY_CONNECTION_REFUSED:
    case CURLPX_REPLY_GENERAL_SERVER_FAILURE:
    case CURLPX_REPLY_HOST_UNREACHABLE:
    case CURLPX_REPLY_NETWORK_UNREACHABLE:
    case CURLPX_REPLY_TTL_EXPIRED:
    case CURLPX_SEND_AUTH:
    case CURLPX_SEND_CONNECT:
    case CURLPX_SEND_REQUEST:
        return FAULT_CONNECT_FAILED;
    default:
        return FAULT_PROXY_REFUSED;
    }
}

enum fault outcome_fault(CURL *easy, CURLcode code, const char *message, long status, bool headed)
{
    switch (code) {
    case CURLE_OK:
        return FAULT_NONE;
    case CURLE_URL_MALFORMAT:
        return FAULT_BAD_REQUEST;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
        return FAULT_DNS_NO_SUCH_HOST;
    case CURLE_COULDNT_CONNECT:
    case CURLE_INTERFACE_FAILED:
        return FAULT_CONNECT_FAILED;
    case CURLE_PROXY:
        return socks_fault(easy);
    case CURLE_OPERATION_TIMEDOUT:
        return strstr(message, "Operation timed out") ? FAULT_TIMEOUT : FAULT_CONNECT_TIMEOUT;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_FAIL_REWIND:
        return FAULT_CLOSED_EARLY;
    case CURLE_PARTIAL_FILE:
        return headed ? FAULT_TRUNCATED_BODY : status ? FAULT_CLOSED_IN_HEAD : FAULT_CLOSED_EARLY;
    case CURLE_WEIRD_SERVER_REPLY:
        return strstr(message, "Content-Length") ? FAULT_BAD_FRAMING : FAULT_NOT_HTTP;
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9: whatever that was, it was no HTTP */
        return FAULT_NOT_HTTP;
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
        return FAULT_STREAM_RESET;
    case CURLE_SEND_ERROR:
        return FAULT_RESET;
    case CURLE_RECV_ERROR:
        /* Some of what it stands for has no code of its own. */
        if (strstr(message, "Too large response headers") ||
            strstr(message, "Too many CONTINUATION"))
            return FAULT_HEAD_TOO_LARGE;
        if (strstr(message, "chunked-encoding"))
            return FAULT_BAD_FRAMING;
        return strstr(message, "CONNECT") ? connect_fault(easy) : FAULT_RESET;
    case CURLE_OUT_OF_MEMORY:
        /* also a line of over 100 KB */
        return headed ? FAULT_OUT_OF_MEMORY : FAULT_HEAD_TOO_LARGE;
    default: /* a trailer field that is none has the code of whoever looked at it */
        return strstr(message, "chunked-encoded") ? FAULT_BAD_FRAMING : FAULT_NETWORK;
    }
}

const char *outcome_reason(CURLcode code, const char *message, bool headed)
{
    if (code == CURLE_OUT_OF_MEMORY && !headed)
        return "a line of the response headers is too long";
    return message[0] ? message : curl_easy_strerror(code);
}
