/*
 * To be preloaded: counts the program's allocations from main on and makes one of them fail.
 * Lua's own are counted apart; its state is made with an allocator that asks malloc, so that
 * everything is seen. The environment says what to do:
 *
 *   TORTURE_KIND=c|lua|map, TORTURE_FAIL=N: the N-th of those fails; map are anonymous mappings,
 *      which LuaJIT's compiler makes
 *   TORTURE_FROM=1: every one after it fails, too, of any kind
 *   TORTURE_STACKS=1: tells whole stacks, also of where a lost block was allocated; slow, and with
 *      LuaJIT's compiler off, because its code cannot be unwound
 *   TORTURE_NOJIT=1: with LuaJIT's compiler off
 *   TORTURE_REPORT=FILE: the report is written there, a line a fact:
 *
 *   main                    the program has begun
 *   lookup c=N lua=N map=N  the first name is looked up, after so many allocations
 *   injected STACK...       the first failure
 *   crash SIGNAL STACK...   a signal ended it
 *   panic STACK...          Lua raised an error nobody catches
 *   abrupt                  _exit was called
 *   lost SIZE STACK...      a block nothing leads to any more, at the end of an orderly exit
 *   open FD NAME            a descriptor that is open then
 *   counts c=N lua=N map=N  the end was reached
 *
 * Without TORTURE_STACKS a crash has a whole stack, a lost block the innermost frame, else there is
 * none.
 * A frame of a stack is FILE+0xOFFSET:SYMBOL, the symbol being the nearest exported one before it;
 * what LuaJIT has compiled is nowhere+0x0.
 * With AddressSanitizer there are no lost blocks.
 */
#include "blocks.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <netdb.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { KIND_C, KIND_LUA, KIND_MAP, KINDS };

static const char *const kinds[KINDS] = {"c", "lua", "map"};
enum { FREED = 0xdb };

static struct {
    void *(*malloc)(size_t);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void (*free)(void *);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    void *(*mmap)(void *, size_t, int, int, int, off_t);
    lua_State *(*newstate)(lua_Alloc, void *);
    void (*openlibs)(lua_State *);
    int (*getaddrinfo)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    int (*start)(int (*)(int, char **, char **), int, char **, void (*)(void), void (*)(void),
                 void (*)(void), void *);
} next;

/* What dlsym allocates while `next` is being filled; never freed. */
static char early[16 * 1024];
static size_t early_used;
static bool looking;

static bool sanitized;
static bool stacks;

static int report_fd = -1;
static const char *report_path;
static int target_kind;
static unsigned long target;
static bool from;
static bool armed; /* main has begun, and the report is not yet written */
static int injected;
static unsigned long counts[KINDS];
static int (*real_main)(int, char **, char **);

/* The report ---------------------------------------------------------------------------------- */

/* Writes a line, with the frames of `trace`, in one piece: there are several threads. */
static void say(const struct trace *trace, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void say(const struct trace *trace, const char *format, ...)
{
    char line[8 * 1024];
    const size_t room = sizeof line - 1;
    va_list args;
    va_start(args, format);
    size_t n = (size_t)vsnprintf(line, room, format, args);
    va_end(args);
    for (int i = 0; trace && i < trace->depth && n < room; i++) {
        Dl_info info = {0};
        const char *pc = (const char *)trace->frames[i] - 1;
        if (!dladdr(pc, &info) || !info.dli_fname)
            info = (Dl_info){.dli_fname = "nowhere", .dli_fbase = (void *)pc};
        const char *slash = strrchr(info.dli_fname, '/');
        n +=
            (size_t)snprintf(line + n, room - n, " %s+0x%lx:%s", slash ? slash + 1 : info.dli_fname,
                             (unsigned long)(pc - (const char *)info.dli_fbase),
                             info.dli_sname ? info.dli_sname : "");
    }
    n = n < room ? n : room;
    line[n++] = '\n';
    if (report_fd < 0 && report_path)
        report_fd = open(report_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (report_fd >= 0 && write(report_fd, line, n) != (ssize_t)n)
        _exit(99);
}

static void say_here(const char *word, bool unwindable)
{
    struct trace trace = {0};
    if (unwindable)
        trace.depth = backtrace(trace.frames, MAX_FRAMES);
    say(&trace, "%s", word);
}

/* Failing ------------------------------------------------------------------------------------- */

static bool fails(int kind)
{
    if (!armed || blocks_inside)
        return false;
    unsigned long n = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&injected, __ATOMIC_SEQ_CST))
        return from;
    if (kind != target_kind || n != target)
        return false;
    __atomic_store_n(&injected, 1, __ATOMIC_SEQ_CST);
    blocks_inside = true;
    int error = errno;
    say_here("injected", stacks);
    errno = error;
    blocks_inside = false;
    return true;
}

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

static void *pages(size_t n)
{
    void *p = next.mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

static void find_next(void)
{
    looking = true;
#define FIND(member, name) *(void **)&next.member = dlsym(RTLD_NEXT, name)
    FIND(calloc, "calloc");
    FIND(realloc, "realloc");
    FIND(free, "free");
    FIND(posix_memalign, "posix_memalign");
    FIND(aligned_alloc, "aligned_alloc");
    FIND(mmap, "mmap");
    FIND(newstate, "lua_newstate");
    FIND(openlibs, "luaL_openlibs");
    FIND(getaddrinfo, "getaddrinfo");
    FIND(start, "__libc_start_main");
    FIND(malloc, "malloc");
    stacks = getenv("TORTURE_STACKS");
    sanitized = dlsym(RTLD_DEFAULT, "__asan_init");
    if (!sanitized)
        blocks_init(pages, stacks);
    looking = false;
}

static bool ready(void)
{
    if (!next.malloc && !looking)
        find_next();
    return !looking;
}

static void *early_alloc(size_t n)
{
    n = (n + 15) & ~(size_t)15;
    if (n > sizeof early - early_used)
        abort();
    early_used += n;
    return early + early_used - n;
}

static bool is_early(const void *p)
{
    return (const char *)p >= early && (const char *)p < early + sizeof early;
}

static void *fresh(void *p, size_t n, void *caller)
{
    blocks_add_fresh(p, n, caller);
    return p;
}

static void *renew(void *p, size_t n, void *caller)
{
    size_t size = blocks_take(p); /* before another thread can be given the same block */
    void *q = next.realloc(p, n);
    if (q)
        blocks_add(q, n, caller);
    else if (size && n)
        blocks_add(p, size, caller);
    return q;
}

static void release(void *p)
{
    size_t size = blocks_take(p);
    if (size)
        memset(p, FREED, size);
    next.free(p);
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t n)
{
    if (!ready())
        return early_alloc(n);
    return fails(KIND_C) ? no_memory() : fresh(next.malloc(n), n, CALLER);
}

void *calloc(size_t count, size_t size)
{
    if (!ready())
        return early_alloc(count * size);
    if (fails(KIND_C))
        return no_memory();
    void *p = next.calloc(count, size);
    blocks_add(p, count * size, CALLER);
    return p;
}

void *realloc(void *p, size_t n)
{
    if (!ready() || is_early(p))
        abort();
    return fails(KIND_C) ? no_memory() : renew(p, n, CALLER);
}

void *reallocarray(void *p, size_t count, size_t size)
{
    size_t n;
    return __builtin_mul_overflow(count, size, &n) ? no_memory() : realloc(p, n);
}

int posix_memalign(void **p, size_t alignment, size_t n)
{
    if (!ready() || fails(KIND_C))
        return ENOMEM;
    int rc = next.posix_memalign(p, alignment, n);
    if (rc == 0)
        blocks_add(*p, n, CALLER);
    return rc;
}

void *aligned_alloc(size_t alignment, size_t n)
{
    return !ready() || fails(KIND_C) ? no_memory()
                                     : fresh(next.aligned_alloc(alignment, n), n, CALLER);
}

void *memalign(size_t alignment, size_t n)
{
    return aligned_alloc(alignment, n);
}

void free(void *p)
{
    if (p && !is_early(p) && ready())
        release(p);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    if (!ready())
        abort();
    if (!(flags & MAP_ANONYMOUS) || !fails(KIND_MAP))
        return next.mmap(at, n, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

/* What mmap is called where off_t has 64 bits. */
void *mmap64(void *at, size_t n, int protection, int flags, int fd, off64_t offset)
{
    return mmap(at, n, protection, flags, fd, offset);
}

/* Lua ----------------------------------------------------------------------------------------- */

static void *lua_alloc(void *unused, void *p, size_t old, size_t n)
{
    (void)unused;
    if (n == 0) {
        if (p)
            release(p);
        return NULL;
    }
    if (n > old && fails(KIND_LUA)) /* to shrink never fails */
        return NULL;
    return p ? renew(p, n, CALLER) : fresh(next.malloc(n), n, CALLER);
}

static int on_panic(lua_State *L)
{
    const char *message = lua_tostring(L, -1);
    blocks_inside = true;
    say_here("panic", stacks);
    fprintf(stderr, "PANIC: unprotected error in call to Lua API (%s)\n", message ? message : "?");
    return 0;
}

lua_State *luaL_newstate(void)
{
    lua_State *L = next.newstate(lua_alloc, NULL);
    if (L)
        lua_atpanic(L, on_panic);
    return L;
}

void luaL_openlibs(lua_State *L)
{
    next.openlibs(L);
    if (stacks || getenv("TORTURE_NOJIT"))
        luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
}

static void say_counts(const char *word)
{
    say(NULL, "%s c=%lu lua=%lu map=%lu", word, counts[KIND_C], counts[KIND_LUA], counts[KIND_MAP]);
}

/* How far it is ------------------------------------------------------------------------------- */

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    static bool seen;
    if (!__atomic_exchange_n(&seen, true, __ATOMIC_SEQ_CST))
        say_counts("lookup");
    return next.getaddrinfo(name, service, hints, out);
}

/* The end ------------------------------------------------------------------------------------- */

static void say_open(void)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *entry;
    while (d && (entry = readdir(d))) {
        char path[64], name[256];
        int fd = atoi(entry->d_name);
        if (fd <= STDERR_FILENO || fd == dirfd(d) || fd == report_fd)
            continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, name, sizeof name - 1);
        name[n > 0 ? n : 0] = '\0';
        say(NULL, "open %d %s", fd, name);
    }
    if (d)
        closedir(d);
}

static void say_lost(size_t size, const struct trace *trace)
{
    say(trace, "lost %zu", size);
}

/* At the end of the exit handlers, the loader's included; `orderly` unless _exit was called. */
static void end_report(bool orderly)
{
    if (!armed)
        return;
    armed = false;
    blocks_inside = true;
    if (orderly) {
        blocks_lost(say_lost);
        say_open();
    } else {
        say(NULL, "abrupt");
    }
    say_counts("counts");
}

static void on_exit_handlers_done(int status, void *unused)
{
    (void)status;
    (void)unused;
    end_report(true);
}

void _exit(int status)
{
    void (*real)(int) = (void (*)(int))dlsym(RTLD_NEXT, "_exit");
    end_report(false);
    real(status);
    __builtin_unreachable();
}

/* The beginning ------------------------------------------------------------------------------- */

/* Tells where it was before how it came there: not all code can be unwound. */
static void on_crash(int signum, siginfo_t *info, void *context)
{
    static bool again;
    const ucontext_t *at = context;
    struct trace here = {.depth = 1, .frames = {(char *)at->uc_mcontext.gregs[REG_RIP] + 1}};
    char word[32];
    (void)info;
    blocks_inside = true;
    armed = false;
    if (again)
        _Exit(98);
    again = true;
    snprintf(word, sizeof word, "crash %d", signum);
    say(&here, "%s", word);
    say_here(word, true);
    raise(signum); /* SA_RESETHAND */
}

static void catch_crashes(void)
{
    static char stack[64 * 1024];
    static const int signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    stack_t alternative = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {
        .sa_sigaction = on_crash,
        .sa_flags = (int)(SA_SIGINFO | SA_RESETHAND | SA_ONSTACK | SA_NODEFER),
    };
    sigaltstack(&alternative, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, NULL);
}

static int main_with_failures(int argc, char **argv, char **environment)
{
    say(NULL, "main");
    armed = true;
    return real_main(argc, argv, environment);
}

/* Before the constructors of the program's libraries have run, most of which come first. */
static void set_up(void)
{
    const char *n = getenv("TORTURE_FAIL"), *kind = getenv("TORTURE_KIND");
    void *frame;
    blocks_inside = true;
    report_path = getenv("TORTURE_REPORT");
    target = n ? strtoul(n, NULL, 10) : 0;
    for (int i = 0; kind && i < KINDS; i++)
        if (strcmp(kind, kinds[i]) == 0)
            target_kind = i;
    from = getenv("TORTURE_FROM");
    stacks =
        getenv("TORTURE_STACKS"); /* AddressSanitizer allocates before there is an environment */
    backtrace(&frame, 1);         /* loads what it needs */
    on_exit(on_exit_handlers_done, NULL);
    catch_crashes();
    blocks_inside = false;
}

int __libc_start_main(int (*main)(int, char **, char **), int argc, char **argv, void (*init)(void),
                      void (*fini)(void), void (*rtld_fini)(void), void *end)
{
    if (!ready())
        abort();
    real_main = main;
    set_up();
    return next.start(main_with_failures, argc, argv, init, fini, rtld_fini, end);
}
