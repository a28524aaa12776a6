/*
 * Which addresses are nobody's business: what `deny_private` refuses to connect to. Judged is the
 * address itself, as the socket gets it, so no way of writing or resolving one gets around it.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stdbool.h>
#include <sys/socket.h>

/* What kind of address it is that is denied ("loopback", "link-local", …; static text), or NULL
 * for one that anybody may reach. */
const char *guard_reason(const struct sockaddr *address);

/* Whether it is denied: not globally reachable by IANA's registries of special-purpose addresses
 * (RFC 6890 and what was added since), multicast, or an IPv6 form of such an IPv4 address. A Unix
 * socket is never denied, as no name or redirect leads to one; what is no address at all always
 * is. Not to be told are addresses that a network translates by a prefix of its own (NAT64, RFC
 * 6052 §2.2). */
bool guard_denies(const struct sockaddr *address);

#endif
