#include "loop.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static int open_loop(void **state)
{
    static struct loop loop;
    *state = &loop;
    return loop_init(&loop);
}

static int close_loop(void **state)
{
    return loop_close(*state);
}

static void the_clock_goes_forward(void **state)
{
    (void)state;
    double before = loop_now();
    usleep(2000);
    double after = loop_now();
    assert_true(after - before >= 0.002);
    assert_true(after - before < 60);
}

static void waits_as_long_as_it_is_told(void **state)
{
    for (int i = 0; i < 3; i++) {
        double before = loop_now();
        loop_wait(*state, 0.0105);
        assert_true(loop_now() - before >= 0.0105); /* to end early would make the caller spin */
    }
    double before = loop_now();
    loop_wait(*state, 0);
    assert_true(loop_now() - before < 5);
}

static void count(uv_timer_t *timer)
{
    ++*(int *)timer->data;
    uv_stop(timer->loop);
}

static void a_callback_ends_the_wait(void **state)
{
    struct loop *loop = *state;
    int calls = 0;
    uv_timer_t timer = {.data = &calls};
    assert_int_equal(uv_timer_init(&loop->uv, &timer), 0);
    double before = loop_now();
    for (int late = 0; late <= 1; late++) { /* due when the wait begins, or not */
        uv_timer_start(&timer, count, 1, 0);
        usleep(late ? 3000 : 0);
        loop_wait(loop, -1);
        uv_timer_start(&timer, count, 1, 0);
        usleep(late ? 3000 : 0);
        loop_wait(loop, 100);
    }
    assert_true(loop_now() - before < 50);
    assert_int_equal(calls, 4);
    uv_close((uv_handle_t *)&timer, NULL);
    loop_wait(loop, 0);
}

static struct loop *signalled;

static void on_alarm(int signum)
{
    loop_signal(signalled, signum);
}

static void a_signal_ends_the_wait(void **state)
{
    struct loop *loop = *state;
    assert_int_equal(loop_take_signal(loop), 0);
    signalled = loop;
    assert_true(signal(SIGALRM, on_alarm) != SIG_ERR);
    ualarm(5000, 0);
    double before = loop_now();
    loop_wait(loop, 100);
    assert_true(loop_now() - before < 50);
    assert_int_equal(loop_take_signal(loop), SIGALRM);
    assert_int_equal(loop_take_signal(loop), 0);

    /* One that came before the wait is not slept over. */
    loop_signal(loop, SIGUSR1);
    loop_wait(loop, 100);
    assert_int_equal(loop_take_signal(loop), SIGUSR1);
    assert_true(loop_now() - before < 50);
}

static void a_handle_left_open_is_told(void **state)
{
    (void)state;
    struct loop loop;
    uv_timer_t forgotten;
    assert_int_equal(loop_init(&loop), 0);
    assert_int_equal(uv_timer_init(&loop.uv, &forgotten), 0);
    assert_int_equal(loop_close(&loop), -EBUSY);
    uv_close((uv_handle_t *)&forgotten, NULL);
    uv_run(&loop.uv, UV_RUN_NOWAIT);
    assert_int_equal(uv_loop_close(&loop.uv), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_clock_goes_forward),
        cmocka_unit_test_setup_teardown(waits_as_long_as_it_is_told, open_loop, close_loop),
        cmocka_unit_test_setup_teardown(a_callback_ends_the_wait, open_loop, close_loop),
        cmocka_unit_test_setup_teardown(a_signal_ends_the_wait, open_loop, close_loop),
        cmocka_unit_test(a_handle_left_open_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
