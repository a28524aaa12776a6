-- Everything that can go wrong with a request: one row each, with the kind a script sees and
-- whether it is tried again (where the method may be repeated, see retry.lua). What C reports is a
-- row's id (src/fault.h); the documentation prints this table.

local faults = {}

---@class orc.Fault
---@field id string `err.fault`
---@field kind string `err.kind`
---@field retried boolean|string what decides when it is no plain yes or no
---@field text string

faults.list = {
  -- before anything is sent
  { id = "bad_url", kind = "invalid", retried = false,
    text = "the URL is malformed, or neither http nor https" },
  { id = "bad_header", kind = "invalid", retried = false,
    text = "a header or the method holds a line break, NUL or other control character" },
  { id = "bad_request", kind = "invalid", retried = false,
    text = "the request cannot be sent as it is" },
  { id = "cannot_read", kind = "invalid", retried = false,
    text = "a file to be sent cannot be read, or became shorter meanwhile" },
  { id = "cannot_save", kind = "invalid", retried = false,
    text = "the file of `save` cannot be written" },
  { id = "state", kind = "invalid", retried = false,
    text = "the state directory cannot be read or written; the run ends" },
  { id = "body_not_repeatable", kind = "blocked", retried = false,
    text = "a body from a function would have to be sent again" },
  { id = "host_not_allowed", kind = "blocked", retried = false,
    text = "the host is not in `allow_hosts`" },
  { id = "blocked_address", kind = "blocked", retried = false,
    text = "`deny_private`, and the address to connect to is private, or a proxy's to choose" },
  { id = "not_cached", kind = "http", retried = false,
    text = "status 504: it is not stored, and only the cache may answer (`only-if-cached`)" },
  { id = "circuit_open", kind = "circuit_open", retried = false,
    text = "too many attempts at the host failed, and the breaker says `on_open = \"fail\"`" },
  -- reaching the server
  { id = "dns_no_such_host", kind = "dns", retried = false, text = "the name does not exist" },
  { id = "dns_no_answer", kind = "dns", retried = true, text = "the name server gave no answer" },
  { id = "connect_failed", kind = "connect", retried = true,
    text = "nobody listens there, or the network says no" },
  { id = "no_descriptors", kind = "connect", retried = true,
    text = "the system has no descriptor for another connection, and none becomes free" },
  { id = "proxy_refused", kind = "connect", retried = false,
    text = "the proxy refuses: wrong credentials, or not allowed" },
  { id = "connect_timeout", kind = "timeout", retried = true,
    text = "no connection within `timeout.connect`, or no address within `timeout.dns`" },
  { id = "tls", kind = "tls", retried = false,
    text = "the certificate is not valid for the host, or the handshake failed" },
  -- while it goes on
  { id = "timeout", kind = "timeout", retried = true,
    text = "no complete answer within `timeout.attempt`" },
  { id = "idle", kind = "timeout", retried = true, text = "no byte within `timeout.idle`" },
  { id = "too_slow", kind = "timeout", retried = true,
    text = "slower than `min_speed` over `timeout.idle`" },
  { id = "reset", kind = "network", retried = true, text = "the connection was reset" },
  { id = "closed_early", kind = "network", retried = true,
    text = "the connection was closed before an answer" },
  { id = "closed_in_head", kind = "network", retried = true,
    text = "the connection was closed within the response's header fields" },
  { id = "truncated_body", kind = "network", retried = true,
    text = "the connection was closed within the body, by its length or its chunks" },
  { id = "stream_reset", kind = "protocol", retried = true,
    text = "HTTP/2: the stream or its connection was ended by the server" },
  { id = "network", kind = "network", retried = true, text = "another error of the connection" },
  { id = "out_of_memory", kind = "network", retried = true, text = "no memory left" },
  -- the answer
  { id = "not_http", kind = "protocol", retried = true, text = "the answer is no HTTP" },
  { id = "bad_framing", kind = "protocol", retried = true,
    text = "conflicting or malformed Content-Length or Transfer-Encoding, or a malformed chunk" },
  { id = "extra_bytes", kind = "protocol", retried = true,
    text = "bytes beyond the Content-Length" },
  { id = "unasked_range", kind = "protocol", retried = true,
    text = "a part (206), though the request has no Range" },
  { id = "head_too_large", kind = "too_large", retried = false,
    text = "more header bytes than `max_headers`" },
  { id = "body_too_large", kind = "too_large", retried = false,
    text = "the decoded body is larger than `max_body`" },
  { id = "too_many_codings", kind = "too_large", retried = false,
    text = "more than 5 content codings in a chain" },
  { id = "expands_too_fast", kind = "too_large", retried = false,
    text = "a streamed body whose few bytes decode to more than 32 MB" },
  { id = "unknown_coding", kind = "decode", retried = false,
    text = "a Content-Encoding nobody asked for" },
  { id = "corrupt_coding", kind = "decode", retried = false,
    text = "the coded body is corrupt, or ends before its end" },
  { id = "bad_json", kind = "decode", retried = false,
    text = "not JSON by RFC 8259, not UTF-8, or nested too deep" },
  { id = "bad_record", kind = "decode", retried = false,
    text = "a record of `res:jsonl()` or `res:csv()` is malformed" },
  { id = "record_too_long", kind = "too_large", retried = false,
    text = "a line of the body is longer than `max_line`" },
  { id = "http_status", kind = "http", retried = "retry.statuses",
    text = "the status is not accepted" },
  { id = "retry_after_too_long", kind = "rate_limited", retried = false,
    text = "Retry-After asks for more than `max_retry_after`, or `retry.deadline`" },
  -- redirects
  { id = "too_many_redirects", kind = "too_many_redirects", retried = false,
    text = "more redirects than `follow`, or a loop" },
  { id = "redirect_bad_location", kind = "blocked", retried = false,
    text = "it leads to a malformed URL, or to several" },
  { id = "redirect_scheme", kind = "blocked", retried = false,
    text = "it leads to another scheme than http and https" },
  { id = "redirect_downgrade", kind = "blocked", retried = false,
    text = "it leads from https to http" },
  { id = "redirect_secret_body", kind = "blocked", retried = false,
    text = "it would carry a secret in the body to another origin" },
  { id = "cancelled", kind = "cancelled", retried = false, text = "the task was cancelled" },
}

local by_id = {}
for _, fault in ipairs(faults.list) do by_id[fault.id] = fault end

---@param id string
---@return orc.Fault
function faults.get(id)
  return by_id[id] or error("faults.get: no fault " .. tostring(id), 2)
end

return faults
