/*
 * The event loop: one uv_loop_t, the timer that bounds a wait, and the way a signal handler
 * gets in. Everything else on the loop belongs to whoever put it there.
 */
#ifndef LOOP_H
#define LOOP_H

#include <uv.h>

struct loop {
    uv_loop_t uv;
    uv_timer_t wake;   /* ends a wait that has a timeout */
    uv_async_t signal; /* sent by loop_signal */
    int signum;        /* the signal not yet taken, 0 for none */
};

/* Returns 0 or a negative errno; on failure nothing needs closing. */
int loop_init(struct loop *loop);

/* Seconds on a clock that only goes forward, to the nanosecond. */
double loop_now(void);

/* Runs the callbacks that are due; waits for the first one at most `timeout` seconds, for ever
 * when it is negative. Returns early when a signal arrives. Timers that are due run before the
 * wait: one that leaves something to do has to call uv_stop, or the wait goes on. */
void loop_wait(struct loop *loop, double timeout);

/* Records a signal and ends the wait. Async-signal-safe. */
void loop_signal(struct loop *loop, int signum);

/* The signal recorded since the last call, 0 for none. */
int loop_take_signal(struct loop *loop);

/* Closes the loop after its users have closed their handles. Returns 0; -EBUSY when a handle was
 * left open, which is a bug (its type is named on stderr); -EAGAIN when a lookup still runs in the
 * thread pool, where nothing can stop it: then the loop's memory must outlive it. */
int loop_close(struct loop *loop);

#endif
