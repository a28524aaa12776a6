/*
 * The `host` the Lua scheduler is handed: the clock, transfers by numeric id, and the wait for
 * what happens next. The Lua side is:
 *
 *   now() -> seconds, monotonic          wall() -> seconds since 1970      random() -> [0, 1)
 *   profile(options) -> id of a profile (profile.h) | nil, fault, message
 *   profile_close(id)   and its connections, when its last transfer is over; may be a finalizer's
 *   start(spec) -> id | nil, fault, message
 *   cancel(id)                           no completion follows
 *   poll(timeout | nil, deliver) -> number of a signal | nil
 *       waits for something to happen, at most `timeout` seconds; calls deliver(id, result) for
 *       every transfer that ends, and deliver(id, news) for what happens before; deliver may start
 *       and cancel others
 *   read(id) -> what has come in of a streamed body, and takes it | nil when nothing has
 *   send(id, text | nil) -> whether that was wanted; the next bytes of a pulled body, nil ends it
 *   terminal() -> columns of stderr, or nil when it is no terminal
 *   idn(name) -> the ASCII form of a host name (RFC 5891) | nil
 *   store_open(…) and the others of lua_store.h; poll delivers the results of store_run, too
 *   output_create() and the others of lua_writer.h, likewise
 *
 * options = {ca, crl, cert, key, key_password, tls_min, insecure, proxy, proxy_user,
 * proxy_password, guard, unix, http1, jar} spec   = {url, origin, host, port, addresses, tls,
 * profile, method, headers = "Name: value\n…", body | body_file | parts = {{name, value | file,
 * filename, type}, …} | pull [, body_size], save, stream, timeout, connect_timeout, dns_timeout,
 * idle_timeout, min_speed, max_body, max_headers}   seconds and bytes result = {status, head, body,
 * version = "1.1", framing, size, wire, elapsed, dns, connect, tls, first_byte, fault = its name,
 * message}   nil for what there was not news   = {event = "head", status, head, version, framing,
 * elapsed, …} of a streamed response, {event = "data"}: read has something, {event = "want"}: send
 * is waited for
 *
 * All Lua code runs above poll or in deliver, never inside a callback of libcurl.
 */
#ifndef HOST_H
#define HOST_H

#include <lua.h>

struct host;
struct loop;

/* `loop` is borrowed until host_destroy. Returns 0 or a negative errno. */
int host_create(struct host **out, struct loop *loop);

/* Pushes the table of functions; the host must outlive the Lua state's use of them. */
void host_push(lua_State *L, struct host *h);

/* Aborts all transfers. The loop must run once more before it is closed. */
void host_destroy(struct host *h);

#endif
