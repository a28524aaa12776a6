/* argv, signals, wiring, exit status. Everything the program does is in lua/orchestrator/app.lua.
 */

#include "runtime.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* A signal handler has no argument to find these by: the only two globals there are. */
static struct runtime *volatile signalled;
static volatile sig_atomic_t signals;

/* The first signal asks the program to stop. It may be in a compiled loop that never looks, so the
 * second one ends the process. */
static void on_signal(int signum)
{
    if (signals++ || !signalled)
        _exit(128 + signum);
    runtime_signal(signalled, signum);
}

static int handle_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigemptyset(&stop.sa_mask);
    sigemptyset(&ignore.sa_mask);
    return sigaction(SIGINT, &stop, NULL) || sigaction(SIGTERM, &stop, NULL) ||
           sigaction(SIGPIPE, &ignore, NULL) || sigaction(SIGXFSZ, &ignore, NULL);
}

/* A connection is a descriptor. The usual soft limit of 1,024 is there for programs that use
 * select(2); the hard limit is the one that is meant. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* what there is has to do, then */
    }
}

/* Bodies and decoders come and go with every response. By default the allocator gives such memory
 * back to the system and gets it anew, page by page: a third of what a body of 60 KB costs. */
static void keep_memory(void)
{
    enum { SINGLE = 4 << 20, SPARE = 32 << 20 };
    (void)mallopt(M_MMAP_THRESHOLD, SINGLE); /* without them it is only slower */
    (void)mallopt(M_TRIM_THRESHOLD, SPARE);
}

int main(int argc, char **argv)
{
    struct runtime *rt;
    const char *lua_dir = getenv("ORCHESTRATOR_LUA");

    keep_memory();
    raise_descriptor_limit();
    int rc = runtime_create(&rt, lua_dir && *lua_dir ? lua_dir : NULL);
    if (rc) {
        fprintf(stderr, "orchestrator: cannot start: %s\n", strerror(-rc));
        return 2;
    }
    signalled = rt;
    if (handle_signals()) {
        perror("orchestrator: cannot handle signals");
        return 2;
    }
    int code = runtime_main(rt, argc, argv);
    signalled = NULL; /* from here on one signal ends the process */
    rc = runtime_destroy(rt);
    if (rc == -EAGAIN) {
        fflush(NULL);
        _exit(code); /* libuv's exit handler would wait for its threads */
    }
    return rc && code == 0 ? 1 : code;
}
