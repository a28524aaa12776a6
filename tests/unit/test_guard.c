#include "guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

struct row {
    const char *address;
    const char *reason; /* NULL: anybody may reach it */
};

/* Both ends of each range, and the addresses right before and after it. */
static const struct row rows[] = {
    {"0.0.0.0", "unspecified"},
    {"0.255.255.255", "unspecified"},
    {"1.0.0.0", NULL},
    {"1.1.1.1", NULL},
    {"9.255.255.255", NULL},
    {"10.0.0.0", "private"},
    {"10.255.255.255", "private"},
    {"11.0.0.0", NULL},
    {"100.63.255.255", NULL},
    {"100.64.0.0", "shared (CGNAT)"},
    {"100.100.100.200", "shared (CGNAT)"}, /* a cloud's metadata */
    {"100.127.255.255", "shared (CGNAT)"},
    {"100.128.0.0", NULL},
    {"126.255.255.255", NULL},
    {"127.0.0.0", "loopback"},
    {"127.0.0.1", "loopback"},
    {"127.255.255.255", "loopback"},
    {"128.0.0.0", NULL},
    {"168.63.129.15", NULL},
    {"168.63.129.16", "a metadata service"},
    {"168.63.129.17", NULL},
    {"169.253.255.255", NULL},
    {"169.254.0.0", "link-local"},
    {"169.254.169.254", "link-local"},
    {"169.254.255.255", "link-local"},
    {"169.255.0.0", NULL},
    {"172.15.255.255", NULL},
    {"172.16.0.0", "private"},
    {"172.31.255.255", "private"},
    {"172.32.0.0", NULL},
    {"191.255.255.255", NULL},
    {"192.0.0.0", "for protocols"},
    {"192.0.0.192", "for protocols"},
    {"192.0.0.255", "for protocols"},
    {"192.0.1.0", NULL},
    {"192.0.1.255", NULL},
    {"192.0.2.0", "for documentation"},
    {"192.0.2.255", "for documentation"},
    {"192.0.3.0", NULL},
    {"192.88.98.255", NULL},
    {"192.88.99.1", "a 6to4 relay"},
    {"192.88.100.0", NULL},
    {"192.167.255.255", NULL},
    {"192.168.0.0", "private"},
    {"192.168.255.255", "private"},
    {"192.169.0.0", NULL},
    {"198.17.255.255", NULL},
    {"198.18.0.0", "for benchmarking"},
    {"198.19.255.255", "for benchmarking"},
    {"198.20.0.0", NULL},
    {"198.51.99.255", NULL},
    {"198.51.100.0", "for documentation"},
    {"198.51.101.0", NULL},
    {"203.0.112.255", NULL},
    {"203.0.113.255", "for documentation"},
    {"203.0.114.0", NULL},
    {"223.255.255.255", NULL},
    {"224.0.0.0", "multicast"},
    {"239.255.255.255", "multicast"},
    {"240.0.0.0", "reserved"},
    {"255.255.255.254", "reserved"},
    {"255.255.255.255", "broadcast"},

    {"::", "unspecified"},
    {"::1", "loopback"},
    {"::2", "IPv4-compatible"},
    {"::127.0.0.1", "IPv4-compatible"},
    {"::8.8.8.8", "IPv4-compatible"},
    {"::ffff:127.0.0.1", "loopback"},
    {"::ffff:7f00:1", "loopback"},
    {"::ffff:169.254.169.254", "link-local"},
    {"::ffff:8.8.8.8", NULL},
    {"::ffff:0:127.0.0.1", "reserved"}, /* IPv4-translated, RFC 2765 */
    {"::ffff:0:8.8.8.8", "reserved"},
    {"64:ff9b::127.0.0.1", "loopback"},
    {"64:ff9b::a9fe:a9fe", "link-local"},
    {"64:ff9b::8.8.8.8", NULL},
    {"64:ff9b::1:8.8.8.8", "reserved"},
    {"64:ff9b:1::8.8.8.8", "translated"},
    {"100::", "discard-only"},
    {"100::ffff:ffff:ffff:ffff", "discard-only"},
    {"100:0:0:1::", "reserved"},
    {"1fff:ffff::", "reserved"},
    {"2000::", NULL},
    {"2001::7f00:1", "Teredo"},
    {"2001:0:ffff::", "Teredo"},
    {"2001:1::1", "for protocols"},
    {"2001:2::", "for benchmarking"},
    {"2001:2:0:ffff::", "for benchmarking"},
    {"2001:10::", "for protocols"},
    {"2001:1ff:ffff::", "for protocols"},
    {"2001:200::", NULL},
    {"2001:4860:4860::8888", NULL},
    {"2001:db7:ffff::", NULL},
    {"2001:db8::", "for documentation"},
    {"2001:db8:ffff::", "for documentation"},
    {"2001:db9::", NULL},
    {"2002:7f00:1::", "loopback"},
    {"2002:a9fe:a9fe::1", "link-local"},
    {"2002:a00:1::1", "private"},
    {"2002:808:808::1", NULL},
    {"2003::", NULL},
    {"2606:4700:4700::1111", NULL},
    {"2606:4700::5efe:127.0.0.1", "loopback"}, /* ISATAP */
    {"2606:4700::200:5efe:10.0.0.1", "private"},
    {"2606:4700::200:5efe:8.8.8.8", NULL},
    {"3ffe:ffff::", NULL},
    {"3fff::", "for documentation"},
    {"3fff:fff:ffff::", "for documentation"},
    {"3fff:1000::", NULL},
    {"4000::", "reserved"},
    {"5f00::", "reserved"}, /* SRv6, RFC 9602 */
    {"fbff::", "reserved"},
    {"fc00::", "unique local"},
    {"fd00:ec2::254", "unique local"}, /* a cloud's metadata */
    {"fdff::", "unique local"},
    {"fe00::", "reserved"},
    {"fe80::1", "link-local"},
    {"febf::", "link-local"},
    {"fec0::1", "site-local"},
    {"feff::", "site-local"},
    {"ff00::", "multicast"},
    {"ff02::1", "multicast"},
};

static const struct sockaddr *address_of(const char *text, struct sockaddr_storage *storage)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(443)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(443)};

    memset(storage, 0, sizeof *storage);
    if (inet_pton(AF_INET, text, &in.sin_addr) == 1) {
        memcpy(storage, &in, sizeof in);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &in6.sin6_addr), 1);
        memcpy(storage, &in6, sizeof in6);
    }
    return (struct sockaddr *)storage;
}

static void knows_the_special_addresses(void **state)
{
    struct sockaddr_storage storage;
    int wrong = 0;
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct sockaddr *address = address_of(rows[i].address, &storage);
        const char *expected = rows[i].reason ? rows[i].reason : "allowed";
        const char *reason = guard_reason(address) ? guard_reason(address) : "allowed";
        if (strcmp(reason, expected) != 0 || guard_denies(address) != (rows[i].reason != NULL)) {
            print_error("%s: expected %s, got %s\n", rows[i].address, expected, reason);
            wrong++;
        }
    }
    assert_int_equal(wrong, 0);
}

/* All /16 networks of IPv4, in each form that carries an IPv4 address: the form never says more
 * than the address does. */
static void judges_an_embedded_address_as_itself(void **state)
{
    struct sockaddr_storage storage;
    char plain[32], text[64];
    (void)state;
    for (int i = 0; i < 65536; i++) {
        int a = i >> 8, b = i & 255;
        snprintf(plain, sizeof plain, "%d.%d.2.9", a, b);
        bool denied = guard_denies(address_of(plain, &storage));
        const char *const forms[] = {"::ffff:%d.%d.2.9", "64:ff9b::%d.%d.2.9",
                                     "2606:4700::5efe:%d.%d.2.9"};
        for (size_t k = 0; k < sizeof forms / sizeof forms[0]; k++) {
            snprintf(text, sizeof text, forms[k], a, b);
            assert_int_equal(guard_denies(address_of(text, &storage)), denied);
        }
        snprintf(text, sizeof text, "2002:%02x%02x:209::", a, b);
        assert_int_equal(guard_denies(address_of(text, &storage)), denied);
    }
}

static void lets_unix_sockets_be(void **state)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    (void)state;
    assert_false(guard_denies((struct sockaddr *)&un));
}

static void denies_what_it_does_not_know(void **state)
{
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    (void)state;
    assert_string_equal(guard_reason(&none), "unknown");
    none.sa_family = AF_PACKET;
    assert_true(guard_denies(&none));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(knows_the_special_addresses),
        cmocka_unit_test(judges_an_embedded_address_as_itself),
        cmocka_unit_test(lets_unix_sockets_be),
        cmocka_unit_test(denies_what_it_does_not_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
