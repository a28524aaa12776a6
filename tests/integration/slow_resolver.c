/*
 * A name server's moods, to be preloaded: names under .test are answered here, all others by the
 * real getaddrinfo. The first label says how:
 *
 *   NAME-MS.test     127.0.0.1, after MS milliseconds; without -MS at once
 *   none-MS.test     there is no such name        again-MS.test    no answer; try again later
 *   both-MS.test     ::1 and then 127.0.0.1
 *   at-HEX-HEX.test  these addresses, 8 digits for IPv4, 32 for IPv6
 *   turn-HEX-HEX.test  the first address at the first lookup, then the next, then the last for ever
 *
 * With RESOLVER_LOG every lookup appends the lines "+NAME" and "-NAME" to that file, when it begins
 * and when it ends. With SOCKET_FAILS=N there is no descriptor for the N-th connection.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static void note(char sign, const char *name)
{
    const char *path = getenv("RESOLVER_LOG");
    char line[256];
    int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666) : -1;
    if (fd < 0)
        return;
    int n = snprintf(line, sizeof line, "%c%.200s\n", sign, name);
    if (write(fd, line, (size_t)n) != n)
        abort();
    close(fd);
}

static void wait_ms(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left))
        ;
}

/* One address from hexadecimal digits, up to whatever is none. */
static int from_hex(lookup *real, const char *hex, const char *service,
                    const struct addrinfo *numeric, struct addrinfo **out)
{
    unsigned char bytes[16];
    char text[INET6_ADDRSTRLEN];
    int n = 0;
    while (n < 16 && isxdigit((unsigned char)hex[2 * n]) &&
           sscanf(hex + 2 * n, "%2hhx", &bytes[n]) == 1)
        n++;
    inet_ntop(n == 4 ? AF_INET : AF_INET6, bytes, text, sizeof text);
    return real(text, service, numeric, out);
}

/* The addresses in the name: all of them, or the one whose turn it is. */
static int addresses(lookup *real, const char *name, const char *service,
                     const struct addrinfo *numeric, struct addrinfo **out)
{
    static atomic_int turns;
    int turn = name[0] == 't' ? atomic_fetch_add(&turns, 1) : -1;
    for (const char *at = strchr(name, '-'); at; at = strchr(at + 1, '-')) {
        if (turn > 0 && strchr(at + 1, '-')) {
            turn--;
            continue;
        }
        int rc = from_hex(real, at + 1, service, numeric, out);
        if (rc || turn >= 0)
            return rc;
        out = &(*out)->ai_next;
    }
    return 0;
}

/* What the name says, once it has been waited for. */
static int answer(lookup *real, const char *name, const char *service, const struct addrinfo *hints,
                  struct addrinfo **out)
{
    struct addrinfo numeric = {.ai_flags = AI_NUMERICHOST, .ai_socktype = hints->ai_socktype};
    if (strncmp(name, "at-", 3) == 0 || strncmp(name, "turn-", 5) == 0)
        return addresses(real, name, service, &numeric, out);
    const char *dash = strchr(name, '-');
    if (dash)
        wait_ms(strtol(dash + 1, NULL, 10));
    if (strncmp(name, "none", 4) == 0)
        return EAI_NONAME;
    if (strncmp(name, "again", 5) == 0)
        return EAI_AGAIN;
    if (strncmp(name, "both", 4) != 0)
        return real("127.0.0.1", service, &numeric, out);
    int rc = real("::1", service, &numeric, out);
    return rc ? rc : real("127.0.0.1", service, &numeric, &(*out)->ai_next);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *end = name ? strrchr(name, '.') : NULL;
    if (!end || strcmp(end, ".test") != 0 || !hints)
        return real(name, service, hints, out);
    note('+', name);
    int rc = answer(real, name, service, hints, out);
    note('-', name);
    return rc;
}

int socket(int domain, int type, int protocol)
{
    static atomic_int opened;
    int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    const char *which = getenv("SOCKET_FAILS");
    if (which && (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
        atomic_fetch_add(&opened, 1) + 1 == atoi(which)) {
        errno = EMFILE;
        return -1;
    }
    return real(domain, type, protocol);
}
