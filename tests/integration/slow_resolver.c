/*
 * A name server's moods, to be preloaded: names under .test are answered here, all others by the
 * real getaddrinfo. The first label says how:
 *
 *   NAME-MS.test     127.0.0.1, after MS milliseconds; without -MS at once
 *   none-MS.test     there is no such name        again-MS.test    no answer; try again later
 *   both-MS.test     ::1 and then 127.0.0.1
 *
 * With RESOLVER_LOG every lookup appends the lines "+NAME" and "-NAME" to that file, when it begins
 * and when it ends.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* What the name says, once it has been waited for. */
static int answer(lookup *real, const char *name, const char *service, const struct addrinfo *hints,
                  struct addrinfo **out)
{
    struct addrinfo numeric = {.ai_flags = AI_NUMERICHOST, .ai_socktype = hints->ai_socktype};
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
