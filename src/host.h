/*
 * The `host` the Lua scheduler is handed: the clock, transfers by numeric id, and the wait for
 * what happens next. The Lua side is:
 *
 *   now() -> seconds, monotonic          wall() -> seconds since 1970      random() -> [0, 1)
 *   start(spec) -> id | nil, kind, message
 *   cancel(id)                           no completion follows
 *   poll(timeout | nil, deliver) -> number of a signal | nil
 *       waits for something to happen, at most `timeout` seconds; calls deliver(id, result) for
 *       every transfer that ends, at once, and deliver may start and cancel others
 *   terminal() -> columns of stderr, or nil when it is no terminal
 *   idn(name) -> the ASCII form of a host name (RFC 5891) | nil
 *
 * spec   = {url, origin, host, port, tls, method, headers = "Name: value\n…", body, save,
 *           timeout, connect_timeout, idle_timeout, max_body, max_headers}   seconds and bytes
 * result = {status, head, body, version = "1.1", framing, size, wire, elapsed, dns, connect, tls,
 *           first_byte, error = kind, message, temporary}   nil for what there was not
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
