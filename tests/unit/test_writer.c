#include "output_fixture.h"
#include "writer.h"

#include <errno.h>

static void on_done(void *ctx)
{
    (void)ctx;
}

static struct writer_job *job_of(enum writer_op op, const char *text)
{
    struct writer_job *job = writer_job_create(op);
    assert_non_null(job);
    assert_int_equal(bytes_append(&job->text, text, strlen(text)), 0);
    job->open.resume = -1;
    return job;
}

static struct writer_job *next_done(uv_loop_t *loop, struct writer *w)
{
    struct writer_job *job;
    while (!(job = writer_take(w)))
        uv_run(loop, UV_RUN_ONCE);
    return job;
}

static void jobs_are_done_in_their_order(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct writer *w;
    assert_int_equal(uv_loop_init(&loop), 0);
    assert_int_equal(writer_create(&w, &loop, on_done, NULL), 0);
    writer_submit(w, job_of(WRITER_WRITE, "not open"));
    writer_submit(w, job_of(WRITER_OPEN, "x"));
    writer_submit(w, job_of(WRITER_OPEN, "y"));
    for (int i = 0; i < 3; i++)
        writer_submit(w, job_of(WRITER_WRITE, "abc\n"));
    static const int want[] = {-EBADF, 0, -EBUSY, 0, 0};
    for (size_t i = 0; i < 5; i++) {
        struct writer_job *job = next_done(&loop, w);
        assert_int_equal(job->rc, want[i]);
        assert_int_equal(job->size, i < 3 ? 0 : 4 * (i - 2));
        writer_job_destroy(job);
    }
    writer_submit(w, job_of(WRITER_WRITE, "last\n"));
    writer_close(w, false); /* does it, and drops the two results */
    uv_run(&loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&loop), 0);
    assert_text("x.part", "abc\nabc\nabc\nlast\n");
}

static void a_reader_that_does_not_read_keeps_nobody(void **state)
{
    (void)state;
    uv_loop_t loop;
    struct writer *w;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int saved = take_stdout(ends[1]);
    int rc = uv_loop_init(&loop);
    rc = rc ? rc : writer_create(&w, &loop, on_done, NULL);
    struct writer_job *job = job_of(WRITER_OPEN, "");
    job->open.mode = OUTPUT_STDOUT;
    writer_submit(w, job);
    writer_submit(w, job_of(WRITER_WRITE, directory));
    for (int i = 0; i < 2; i++)
        writer_job_destroy(next_done(&loop, w));
    job = job_of(WRITER_WRITE, "");
    rc = rc ? rc : bytes_reserve(&job->text, 1 << 20);
    memset(job->text.data, 'x', 1 << 20);
    job->text.len = 1 << 20;
    writer_submit(w, job);
    writer_close(w, false);
    uv_run(&loop, UV_RUN_DEFAULT);
    int closed = uv_loop_close(&loop);
    give_stdout(saved);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(rc, 0);
    assert_int_equal(closed, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(jobs_are_done_in_their_order),
        TEST(a_reader_that_does_not_read_keeps_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
