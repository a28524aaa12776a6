#include "guard.h"

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct range4 {
    uint32_t base; /* in host order */
    unsigned bits;
    const char *what;
};

/* All that IANA's registry for IPv4 does not call globally reachable, and multicast. */
static const struct range4 ranges4[] = {
    {0x00000000, 8, "unspecified"},         /* 0.0.0.0/8: RFC 1122 §3.2.1.3; Linux connects home */
    {0x0a000000, 8, "private"},             /* 10.0.0.0/8: RFC 1918 */
    {0x64400000, 10, "shared (CGNAT)"},     /* 100.64.0.0/10: RFC 6598 */
    {0x7f000000, 8, "loopback"},            /* 127.0.0.0/8: RFC 1122 §3.2.1.3 */
    {0xa9fe0000, 16, "link-local"},         /* 169.254.0.0/16: RFC 3927; cloud metadata */
    {0xa83f8110, 32, "a metadata service"}, /* 168.63.129.16: public, but Azure's host within it */
    {0xac100000, 12, "private"},            /* 172.16.0.0/12: RFC 1918 */
    {0xc0000000, 24, "for protocols"},      /* 192.0.0.0/24: RFC 6890; Oracle's metadata */
    {0xc0000200, 24, "for documentation"},  /* 192.0.2.0/24: RFC 5737 */
    {0xc0586300, 24, "a 6to4 relay"},       /* 192.88.99.0/24: RFC 7526 */
    {0xc0a80000, 16, "private"},            /* 192.168.0.0/16: RFC 1918 */
    {0xc6120000, 15, "for benchmarking"},   /* 198.18.0.0/15: RFC 2544 */
    {0xc6336400, 24, "for documentation"},  /* 198.51.100.0/24: RFC 5737 */
    {0xcb007100, 24, "for documentation"},  /* 203.0.113.0/24: RFC 5737 */
    {0xe0000000, 4, "multicast"},           /* 224.0.0.0/4: RFC 5771 */
    {0xffffffff, 32, "broadcast"},          /* RFC 919 §7 */
    {0xf0000000, 4, "reserved"},            /* 240.0.0.0/4: RFC 1112 §4 */
};

struct range6 {
    uint8_t base[16];
    unsigned bits;
    const char *what; /* NULL: judged by the IPv4 address in it */
    unsigned embeds;  /* where that begins, in bytes */
};

/* The first that matches counts. */
static const struct range6 ranges6[] = {
    {{0}, 128, "unspecified", 0},                           /* ::/128: RFC 4291 §2.5.2 */
    {{[15] = 1}, 128, "loopback", 0},                       /* ::1/128: RFC 4291 §2.5.3 */
    {{[10] = 0xff, 0xff}, 96, NULL, 12},                    /* ::ffff:0:0/96: RFC 4291 §2.5.5.2 */
    {{0}, 96, "IPv4-compatible", 0},                        /* ::/96: RFC 4291 §2.5.5.1 */
    {{0x00, 0x64, 0xff, 0x9b}, 96, NULL, 12},               /* 64:ff9b::/96: RFC 6052, NAT64 */
    {{0x00, 0x64, 0xff, 0x9b, 0, 1}, 48, "translated", 0},  /* 64:ff9b:1::/48: RFC 8215 */
    {{0x01}, 64, "discard-only", 0},                        /* 100::/64: RFC 6666 */
    {{0x20, 0x01}, 32, "Teredo", 0},                        /* 2001::/32: RFC 4380 */
    {{0x20, 0x01, 0, 2}, 48, "for benchmarking", 0},        /* 2001:2::/48: RFC 5180 */
    {{0x20, 0x01}, 23, "for protocols", 0},                 /* 2001::/23: RFC 2928 */
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "for documentation", 0}, /* 2001:db8::/32: RFC 3849 */
    {{0x20, 0x02}, 16, NULL, 2},                            /* 2002::/16: RFC 3056, 6to4 */
    {{0x3f, 0xff}, 20, "for documentation", 0},             /* 3fff::/20: RFC 9637 */
    {{0xfc}, 7, "unique local", 0},                         /* fc00::/7: RFC 4193 */
    {{0xfe, 0x80}, 10, "link-local", 0},                    /* fe80::/10: RFC 4291 §2.5.6 */
    {{0xfe, 0xc0}, 10, "site-local", 0},                    /* fec0::/10: RFC 3879 */
    {{0xff}, 8, "multicast", 0},                            /* ff00::/8: RFC 4291 §2.7 */
};

static const char *reason4(uint32_t address)
{
    for (size_t i = 0; i < sizeof ranges4 / sizeof ranges4[0]; i++) {
        const struct range4 *r = &ranges4[i];
        if ((address ^ r->base) >> (32 - r->bits) == 0)
            return r->what;
    }
    return NULL;
}

static const char *embedded(const uint8_t *p)
{
    return reason4((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
}

static bool begins(const uint8_t *address, const struct range6 *r)
{
    unsigned whole = r->bits / 8, rest = r->bits % 8;
    return memcmp(address, r->base, whole) == 0 &&
           (rest == 0 || (address[whole] ^ r->base[whole]) >> (8 - rest) == 0);
}

static const char *reason6(const uint8_t *address)
{
    static const uint8_t isatap[] = {0, 0x5e, 0xfe};

    for (size_t i = 0; i < sizeof ranges6 / sizeof ranges6[0]; i++)
        if (begins(address, &ranges6[i]))
            return ranges6[i].what ? ranges6[i].what : embedded(address + ranges6[i].embeds);
    /* What is not in 2000::/3 has not been given out for global use (RFC 4291 §2.4). */
    if (address[0] >> 5 != 1)
        return "reserved";
    /* In any network, an interface that tunnels to an IPv4 address (RFC 5214 §6.1); the first byte
     * says whether that is a public one, and anybody can write what he likes. */
    if ((address[8] & ~3) == 0 && memcmp(address + 9, isatap, 3) == 0)
        return embedded(address + 12);
    return NULL;
}

const char *guard_reason(const struct sockaddr *address)
{
    /* By copies, as a sockaddr need not be aligned for what it holds. */
    switch (address->sa_family) {
    case AF_INET: {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        return reason4(ntohl(in.sin_addr.s_addr));
    }
    case AF_INET6: {
        struct sockaddr_in6 in6;
        memcpy(&in6, address, sizeof in6);
        return reason6(in6.sin6_addr.s6_addr);
    }
    case AF_UNIX:
        return NULL;
    default:
        return "unknown";
    }
}

bool guard_denies(const struct sockaddr *address)
{
    return guard_reason(address) != NULL;
}
