#include "resolve.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The name server: our own getaddrinfo, which libuv calls in its threads. Names that begin with
 * "held" are answered when `open` says so. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int lookups; /* begun */
    int running, most;
    int open;
} names = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct addrinfo *address(int family, const char *bytes, struct addrinfo *next)
{
    struct addrinfo *ai = calloc(1, sizeof *ai + sizeof(struct sockaddr_storage));
    assert_non_null(ai);
    ai->ai_family = family;
    ai->ai_addr = (struct sockaddr *)(ai + 1);
    ai->ai_addr->sa_family = (sa_family_t)family;
    ai->ai_next = next;
    if (family == AF_INET)
        memcpy(&((struct sockaddr_in *)ai->ai_addr)->sin_addr, bytes, 4);
    else
        memcpy(&((struct sockaddr_in6 *)ai->ai_addr)->sin6_addr, bytes, 16);
    return ai;
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    (void)service;
    assert_int_equal(hints->ai_socktype, SOCK_STREAM); /* or every address comes three times */
    pthread_mutex_lock(&names.lock);
    names.lookups++;
    if (++names.running > names.most)
        names.most = names.running;
    pthread_cond_broadcast(&names.changed);
    while (strncmp(name, "held", 4) == 0 && !names.open)
        pthread_cond_wait(&names.changed, &names.lock);
    names.running--;
    pthread_mutex_unlock(&names.lock);
    if (strcmp(name, "none") == 0)
        return EAI_NONAME;
    if (strcmp(name, "again") == 0)
        return EAI_AGAIN;
    *out = address(AF_INET, "\x7f\0\0\1", NULL);
    if (strcmp(name, "both") == 0)
        *out = address(AF_INET6, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1", *out);
    return 0;
}

static void set_open(int open)
{
    pthread_mutex_lock(&names.lock);
    names.open = open;
    pthread_cond_broadcast(&names.changed);
    pthread_mutex_unlock(&names.lock);
}

static void until_running(int count)
{
    pthread_mutex_lock(&names.lock);
    while (names.running < count)
        pthread_cond_wait(&names.changed, &names.lock);
    pthread_mutex_unlock(&names.lock);
}

/* One who asks. */
struct asker {
    struct resolve_waiter waiter;
    struct resolve *resolve;
    const char *again; /* looked up from within the answer */
    int answers, error, rc;
    unsigned long generation;
    char addresses[100];
};

static void take(struct asker *a, const struct resolve_answer *answer)
{
    a->answers++;
    a->error = answer->error;
    a->generation = answer->generation;
    snprintf(a->addresses, sizeof a->addresses, "%s", answer->addresses ? answer->addresses : "");
}

static void ask(struct asker *a, struct resolve *r, const char *name);

static void on_answer(struct resolve_waiter *w, const struct resolve_answer *answer)
{
    struct asker *a = (struct asker *)w;
    take(a, answer);
    const char *again = a->again;
    a->again = NULL;
    if (again)
        ask(a, a->resolve, again);
}

static void ask(struct asker *a, struct resolve *r, const char *name)
{
    struct resolve_answer answer;
    a->resolve = r;
    a->waiter.done = on_answer;
    a->rc = resolve_lookup(r, name, &a->waiter, &answer);
    if (a->rc == 0)
        take(a, &answer);
}

struct fixture {
    uv_loop_t loop;
    struct resolve *resolve;
};

static int setup(void **state)
{
    static struct fixture f;
    *state = &f;
    names.lookups = names.most = names.open = 0;
    return uv_loop_init(&f.loop) || resolve_create(&f.resolve, &f.loop);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->resolve)
        resolve_destroy(f->resolve);
    set_open(1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    return uv_loop_close(&f->loop);
}

static void gives_every_address(void **state)
{
    struct fixture *f = *state;
    struct asker one = {0}, two = {0};
    ask(&one, f->resolve, "one");
    ask(&two, f->resolve, "both");
    assert_int_equal(one.rc, 1);
    assert_int_equal(one.answers, 0);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(one.error, 0);
    assert_string_equal(one.addresses, "127.0.0.1");
    assert_string_equal(two.addresses, "[::1],127.0.0.1");
    assert_int_not_equal(one.generation, two.generation);
}

static void asks_once_for_all(void **state)
{
    struct fixture *f = *state;
    struct asker askers[10] = {0}, later = {0};
    for (int i = 0; i < 10; i++)
        ask(&askers[i], f->resolve, "one");
    uv_run(&f->loop, UV_RUN_DEFAULT);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(askers[i].answers, 1);
        assert_string_equal(askers[i].addresses, "127.0.0.1");
    }
    ask(&later, f->resolve, "one");
    assert_int_equal(later.rc, 0);
    assert_int_equal(later.generation, askers[0].generation);
    assert_string_equal(later.addresses, "127.0.0.1");
    assert_int_equal(names.lookups, 1);
}

static void a_failure_is_not_kept(void **state)
{
    struct fixture *f = *state;
    struct asker none = {0}, again = {0};
    for (int i = 1; i <= 2; i++) {
        ask(&none, f->resolve, "none");
        ask(&again, f->resolve, "again");
        assert_int_equal(none.rc, 1);
        uv_run(&f->loop, UV_RUN_DEFAULT);
        assert_int_equal(none.answers, i);
        assert_int_equal(none.error, UV_EAI_NONAME);
        assert_int_equal(again.error, UV_EAI_AGAIN);
        assert_int_equal(names.lookups, 2 * i);
    }
}

static void who_asks_may_ask_again_from_the_answer(void **state)
{
    struct fixture *f = *state;
    struct asker same = {.again = "none"}, cached = {.again = "one"}, other = {.again = "two"};
    ask(&same, f->resolve, "none");
    ask(&cached, f->resolve, "one");
    ask(&other, f->resolve, "one");
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(same.answers, 2);
    assert_int_equal(cached.answers, 2);
    assert_int_equal(cached.rc, 0);
    assert_int_equal(other.answers, 2);
    assert_int_equal(names.lookups, 4);
}

static void who_is_forgotten_hears_nothing(void **state)
{
    struct fixture *f = *state;
    struct asker gone = {0}, there = {0}, alone = {0};
    ask(&gone, f->resolve, "held-1");
    ask(&there, f->resolve, "held-1");
    ask(&alone, f->resolve, "held-2");
    resolve_forget(&gone.waiter);
    resolve_forget(&gone.waiter);
    resolve_forget(&alone.waiter);
    set_open(1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(gone.answers, 0);
    assert_int_equal(there.answers, 1);
    assert_int_equal(alone.answers, 0);
    resolve_forget(&there.waiter);
}

static void asks_for_few_at_a_time(void **state)
{
    struct fixture *f = *state;
    struct asker askers[9] = {0};
    char host[16];
    for (int i = 0; i < 9; i++) {
        snprintf(host, sizeof host, "held-%d", i);
        ask(&askers[i], f->resolve, host);
    }
    until_running(2);
    set_open(1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    for (int i = 0; i < 9; i++)
        assert_int_equal(askers[i].answers, 1);
    assert_int_equal(names.lookups, 9);
    assert_int_equal(names.most, 2);
}

static void may_go_while_lookups_run(void **state)
{
    struct fixture *f = *state;
    struct asker askers[6] = {0};
    char host[16];
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d", i);
        ask(&askers[i], f->resolve, host);
    }
    until_running(2);
    for (int i = 0; i < 6; i++)
        resolve_forget(&askers[i].waiter);
    resolve_destroy(f->resolve);
    f->resolve = NULL;
    set_open(1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(names.lookups, 2); /* those in the queue were never begun */
}

static void forgets_the_stalest_of_very_many(void **state)
{
    struct fixture *f = *state;
    struct asker asker = {0};
    char host[16];
    for (int i = 0; i < 5000; i++) {
        snprintf(host, sizeof host, "name-%d", i);
        ask(&asker, f->resolve, host);
        uv_run(&f->loop, UV_RUN_DEFAULT);
    }
    assert_int_equal(asker.answers, 5000);
    ask(&asker, f->resolve, "name-4999");
    assert_int_equal(asker.rc, 0);
    ask(&asker, f->resolve, "name-0");
    assert_int_equal(asker.rc, 1);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(names.lookups, 5001);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gives_every_address, setup, teardown),
        cmocka_unit_test_setup_teardown(asks_once_for_all, setup, teardown),
        cmocka_unit_test_setup_teardown(a_failure_is_not_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(who_asks_may_ask_again_from_the_answer, setup, teardown),
        cmocka_unit_test_setup_teardown(who_is_forgotten_hears_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(asks_for_few_at_a_time, setup, teardown),
        cmocka_unit_test_setup_teardown(may_go_while_lookups_run, setup, teardown),
        cmocka_unit_test_setup_teardown(forgets_the_stalest_of_very_many, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
