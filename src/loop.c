#include "loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* Timers run before the loop waits, too: without the stop it would then wait for something else. */
static void on_wake(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

static void on_signal(uv_async_t *async)
{
    (void)async; /* likewise: the number is taken by loop_take_signal */
}

/* libuv uses it for the table of its descriptors alone, and would call abort. */
static void *reallocate(void *p, size_t n)
{
    void *q = realloc(p, n);
    if (q || n == 0)
        return q;
    fputs("orchestrator: not enough memory\n", stderr);
    _exit(EXIT_FAILURE);
}

int loop_init(struct loop *loop)
{
    int rc = uv_replace_allocator(malloc, reallocate, calloc, free);
    if (!rc)
        rc = uv_loop_init(&loop->uv);
    if (rc)
        return rc;
    loop->signum = 0;
    rc = uv_timer_init(&loop->uv, &loop->wake);
    if (!rc)
        rc = uv_async_init(&loop->uv, &loop->signal, on_signal);
    if (rc) {
        uv_run(&loop->uv, UV_RUN_NOWAIT);
        (void)uv_loop_close(&loop->uv);
    }
    return rc;
}

double loop_now(void)
{
    return (double)uv_hrtime() * 1e-9;
}

void loop_wait(struct loop *loop, double timeout)
{
    if (timeout < 0) {
        uv_run(&loop->uv, UV_RUN_ONCE);
        return;
    }
    if (timeout == 0) {
        uv_run(&loop->uv, UV_RUN_NOWAIT);
        return;
    }
    /* The loop's clock is in milliseconds and may be stale after a long Lua step. Round up: a
     * wait that ends early would spin. */
    uv_update_time(&loop->uv);
    double ms = timeout * 1e3 + 1;
    uv_timer_start(&loop->wake, on_wake, ms < 1e15 ? (uint64_t)ms : (uint64_t)1e15, 0);
    uv_run(&loop->uv, UV_RUN_ONCE);
    uv_timer_stop(&loop->wake);
}

void loop_signal(struct loop *loop, int signum)
{
    __atomic_store_n(&loop->signum, signum, __ATOMIC_SEQ_CST);
    uv_async_send(&loop->signal);
}

int loop_take_signal(struct loop *loop)
{
    return __atomic_exchange_n(&loop->signum, 0, __ATOMIC_SEQ_CST);
}

static void find_open(uv_handle_t *handle, void *found)
{
    if (uv_is_closing(handle))
        return;
    *(int *)found = 1;
    fprintf(stderr, "orchestrator: a %s handle was left open\n",
            uv_handle_type_name(uv_handle_get_type(handle)));
}

int loop_close(struct loop *loop)
{
    int found = 0;

    uv_close((uv_handle_t *)&loop->wake, NULL);
    uv_close((uv_handle_t *)&loop->signal, NULL);
    uv_walk(&loop->uv, find_open, &found);
    uv_run(&loop->uv, UV_RUN_NOWAIT); /* runs every close callback */
    if (found)
        return -EBUSY;
    return uv_loop_close(&loop->uv) == 0 ? 0 : -EAGAIN;
}
