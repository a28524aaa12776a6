#include "session.h"

#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_SECONDS = 10, /* unless the URL says something else */
    COPY_BYTES = 64 * 1024,
};

/* Outcomes ------------------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static int fail(struct session_job *job, const char *code,
                                                      const char *format, ...)
{
    va_list args;
    job->failed = true;
    snprintf(job->code, sizeof job->code, "%s", code);
    va_start(args, format);
    vsnprintf(job->message, sizeof job->message, format, args);
    va_end(args);
    char *end = job->message; /* one space for all that libpq has between words */
    for (const char *p = job->message; *p; p++)
        if (!strchr(" \t\r\n", *p))
            *end++ = *p;
        else if (end > job->message && end[-1] != ' ')
            *end++ = ' ';
    if (end > job->message && end[-1] == ' ')
        end--;
    *end = '\0';
    return -1;
}

static int fail_connection(struct session *s, struct session_job *job)
{
    const char *message = s->conn ? PQerrorMessage(s->conn) : "";
    return fail(job, "connection", "%s", *message ? message : "the connection was lost");
}

static int fail_closed(struct session_job *job)
{
    return fail(job, "closed", "it was closed");
}

/* What the server says about a statement. */
static int fail_result(struct session *s, struct session_job *job, const PGresult *result)
{
    const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;
    if (!state || PQstatus(s->conn) == CONNECTION_BAD)
        return fail_connection(s, job);
    const char *text = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);
    if (!detail)
        detail = context;
    return fail(job, state, "%s%s%s%s", text ? text : state, detail ? " (" : "",
                detail ? detail : "", detail ? ")" : "");
}

static void drop_cells(struct session_job *job)
{
    for (size_t i = 0; i < job->rows * job->width; i++)
        free(job->cells[i]);
    free(job->cells);
    job->cells = NULL;
    job->rows = job->width = 0;
}

static int take_rows(struct session_job *job, const PGresult *result)
{
    int rows = PQntuples(result), width = PQnfields(result);
    drop_cells(job);
    job->cells = calloc((size_t)rows * (size_t)width + 1, sizeof *job->cells);
    if (!job->cells)
        return fail(job, "out_of_memory", "%s", strerror(ENOMEM));
    job->rows = (size_t)rows;
    job->width = (size_t)width;
    for (int i = 0; i < rows * width; i++) {
        if (PQgetisnull(result, i / width, i % width))
            continue;
        job->cells[i] = strdup(PQgetvalue(result, i / width, i % width));
        if (!job->cells[i])
            return fail(job, "out_of_memory", "%s", strerror(ENOMEM));
    }
    return 0;
}

/* Waiting ------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Waits for the server, until `deadline` unless that is 0. Returns 0; -ECANCELED when it is to end;
 * -ETIMEDOUT. */
static int wait_for(struct session *s, short events, double deadline)
{
    struct pollfd fds[] = {{.fd = PQsocket(s->conn), .events = events},
                           {.fd = s->stop, .events = POLLIN}};
    int ms = -1;
    if (deadline > 0) {
        double left = deadline - now();
        ms = left > 0 ? (int)(left * 1000) + 1 : 0;
    }
    int n = poll(fds, 2, ms);
    if (fds[1].revents)
        return -ECANCELED;
    return n == 0 ? -ETIMEDOUT : 0;
}

/* Sends what libpq has buffered. */
static int flush(struct session *s, struct session_job *job)
{
    int rc;
    while ((rc = PQflush(s->conn)) == 1) {
        if (wait_for(s, POLLIN | POLLOUT, 0))
            return fail_closed(job);
        if (!PQconsumeInput(s->conn))
            return fail_connection(s, job);
    }
    return rc ? fail_connection(s, job) : 0;
}

/* The next result; NULL when the statement has no more, or the job has failed. */
static PGresult *next_result(struct session *s, struct session_job *job)
{
    while (PQisBusy(s->conn)) {
        if (wait_for(s, POLLIN, 0)) {
            fail_closed(job);
            return NULL;
        }
        if (!PQconsumeInput(s->conn)) {
            fail_connection(s, job);
            return NULL;
        }
    }
    return PQgetResult(s->conn);
}

/* Takes the results of a statement up to the last. Returns how many rows it changed, or -1. */
static int64_t finish_step(struct session *s, struct session_job *job)
{
    int64_t changed = 0;
    PGresult *result;
    bool failed = false;
    while ((result = next_result(s, job))) {
        ExecStatusType status = PQresultStatus(result);
        if (failed || job->failed) {
            ; /* the rest of it */
        } else if (status == PGRES_TUPLES_OK) {
            failed = take_rows(job, result) != 0;
        } else if (status != PGRES_COMMAND_OK && status != PGRES_EMPTY_QUERY) {
            failed = fail_result(s, job, result) != 0;
        }
        if (*PQcmdTuples(result))
            changed = strtoll(PQcmdTuples(result), NULL, 10);
        PQclear(result);
        if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
            return failed ? -1 : fail(job, "error", "the statement copies, and has no rows");
        if (PQstatus(s->conn) == CONNECTION_BAD)
            return failed || job->failed ? -1 : fail_connection(s, job);
    }
    return failed || job->failed ? -1 : changed;
}

static int run_text(struct session *s, struct session_job *job, const char *sql)
{
    if (!PQsendQuery(s->conn, sql))
        return fail_connection(s, job);
    return flush(s, job) || finish_step(s, job) < 0 ? -1 : 0;
}

/* Connecting ---------------------------------------------------------------------------------- */

static void ignore_notice(void *ctx, const PGresult *result)
{
    (void)ctx;
    (void)result;
}

static void disconnect(struct session *s)
{
    if (s->conn)
        PQfinish(s->conn);
    s->conn = NULL;
}

/* How long connecting may take, in seconds. */
static double patience(const char *url)
{
    double seconds = CONNECT_SECONDS;
    PQconninfoOption *options = PQconninfoParse(url, NULL);
    for (PQconninfoOption *o = options; o && o->keyword; o++)
        if (o->val && strcmp(o->keyword, "connect_timeout") == 0)
            seconds = strtod(o->val, NULL);
    PQconninfoFree(options);
    return seconds > 0 ? seconds : 1e9;
}

static int handshake(struct session *s, struct session_job *job)
{
    double deadline = now() + patience(s->url);
    short events = POLLOUT;
    for (;;) {
        int rc = wait_for(s, events, deadline);
        if (rc == -ECANCELED)
            return fail_closed(job);
        if (rc)
            return fail(job, "connection", "it does not answer");
        switch (PQconnectPoll(s->conn)) {
        case PGRES_POLLING_OK:
            return 0;
        case PGRES_POLLING_READING:
            events = POLLIN;
            break;
        case PGRES_POLLING_WRITING:
            events = POLLOUT;
            break;
        default:
            return fail_connection(s, job);
        }
    }
}

/* What a refused connection is about, for those that a later try would not help: libpq gives no
 * SQLSTATE. */
static void classify(struct session_job *job)
{
    static const char *const final[][2] = {{"password authentication failed", "28P01"},
                                           {"no password supplied", "28P01"},
                                           {"no pg_hba.conf entry", "28000"},
                                           {"authentication failed", "28000"},
                                           {"does not support SSL", "08P01"}};
    for (size_t i = 0; i < sizeof final / sizeof final[0]; i++)
        if (strstr(job->message, final[i][0])) {
            snprintf(job->code, sizeof job->code, "%s", final[i][1]);
            return;
        }
    if (strstr(job->message, "FATAL: database \"") && strstr(job->message, "does not exist"))
        snprintf(job->code, sizeof job->code, "3D000");
    else if (strstr(job->message, "FATAL: role \""))
        snprintf(job->code, sizeof job->code, "28000");
}

static int set_session(struct session *s, struct session_job *job)
{
    /* Nobody waits for ever for a lock; what the user has set stays. */
    int rc = run_text(s, job,
                      "SET client_encoding = 'UTF8'; SET standard_conforming_strings = on;"
                      "SELECT set_config('lock_timeout', '10s', false)"
                      " WHERE current_setting('lock_timeout') = '0'");
    if (rc == 0)
        rc = run_text(s, job,
                      s->durable ? "SELECT set_config('synchronous_commit', 'on', false)"
                                   " WHERE current_setting('synchronous_commit') = 'off'"
                                 : "SET synchronous_commit = off");
    drop_cells(job);
    return rc;
}

static int connect_to(struct session *s, struct session_job *job)
{
    /* Before the URL, which has the last word. A server that is gone is noticed. */
    static const char *const names[] = {"application_name",
                                        "keepalives_idle",
                                        "keepalives_interval",
                                        "keepalives_count",
                                        "tcp_user_timeout",
                                        "gssencmode",
                                        "dbname",
                                        NULL};
    const char *values[] = {"orchestrator", "10", "5", "4", "30000", "disable", s->url, NULL};

    if (s->conn && PQstatus(s->conn) == CONNECTION_OK &&
        PQtransactionStatus(s->conn) == PQTRANS_IDLE)
        return 0;
    disconnect(s);
    s->conn = PQconnectStartParams(names, values, 1);
    if (!s->conn)
        return fail(job, "out_of_memory", "%s", strerror(ENOMEM));
    PQsetNoticeReceiver(s->conn, ignore_notice, NULL);
    int rc = PQstatus(s->conn) == CONNECTION_BAD ? fail_connection(s, job) : handshake(s, job);
    if (rc == 0 && PQsetnonblocking(s->conn, 1))
        rc = fail_connection(s, job);
    if (rc == 0)
        rc = set_session(s, job);
    else
        classify(job);
    if (rc)
        disconnect(s);
    return rc;
}

/* COPY ---------------------------------------------------------------------------------------- */

static int send_line(struct session *s, struct session_job *job)
{
    int rc;
    while ((rc = PQputCopyData(s->conn, s->copy.line.data, (int)s->copy.line.len)) == 0)
        if (flush(s, job))
            return -1;
    bytes_clear(&s->copy.line);
    if (rc < 0)
        return fail_connection(s, job);
    return flush(s, job);
}

static int fail_copy(struct session_job *job, int rc)
{
    return rc == -EINVAL ? fail(job, "damaged", "packed rows are damaged")
                         : fail(job, "out_of_memory", "%s", strerror(ENOMEM));
}

static int send_rows(struct session *s, struct session_job *job, const struct session_step *step)
{
    struct rows_reader r = {.p = step->packed, .end = step->packed + step->packed_len};
    int rc = copy_begin(&s->copy, step->kinds, step->binary);
    while (rc == 0 && rows_next(&r)) {
        rc = copy_row(&s->copy, &r);
        if (rc == 0 && s->copy.line.len >= COPY_BYTES && send_line(s, job))
            return -1;
    }
    if (rc == 0 && r.p != r.end)
        rc = -EINVAL;
    if (rc == 0)
        rc = copy_end(&s->copy);
    if (rc)
        return fail_copy(job, rc);
    return s->copy.line.len > 0 ? send_line(s, job) : 0;
}

static int run_copy(struct session *s, struct session_job *job, const struct session_step *step)
{
    if (!PQsendQuery(s->conn, step->sql))
        return fail_connection(s, job);
    if (flush(s, job))
        return -1;
    PGresult *result = next_result(s, job);
    if (!result)
        return job->failed ? -1 : fail_connection(s, job);
    ExecStatusType status = PQresultStatus(result);
    if (status != PGRES_COPY_IN)
        (void)fail_result(s, job, result);
    PQclear(result);
    if (status != PGRES_COPY_IN) {
        (void)finish_step(s, job);
        return -1;
    }
    if (send_rows(s, job, step))
        return -1; /* the connection is given up, so the server ends it */
    int rc;
    while ((rc = PQputCopyEnd(s->conn, NULL)) == 0)
        if (flush(s, job))
            return -1;
    if (rc < 0)
        return fail_connection(s, job);
    return flush(s, job) || finish_step(s, job) < 0 ? -1 : 0;
}

/* Jobs ---------------------------------------------------------------------------------------- */

static int run_step(struct session *s, struct session_job *job, const struct session_step *step)
{
    if (step->packed)
        return run_copy(s, job, step);
    if (!PQsendQueryParams(s->conn, step->sql, (int)step->count, NULL,
                           (const char *const *)step->params, NULL, NULL, 0))
        return fail_connection(s, job);
    if (flush(s, job))
        return -1;
    int64_t changed = finish_step(s, job);
    if (changed < 0)
        return -1;
    if (step->expected >= 0 && changed != step->expected)
        return fail(job, "rows", "%s", step->otherwise ? step->otherwise : "nothing was changed");
    return 0;
}

void session_run(struct session *s, struct session_job *job)
{
    int rc = connect_to(s, job);
    if (rc)
        return;
    rc = run_text(s, job, "BEGIN");
    for (size_t i = 0; i < job->count && rc == 0; i++)
        rc = run_step(s, job, &job->steps[i]);
    if (rc == 0)
        rc = run_text(s, job, "COMMIT");
    if (rc == 0)
        return;
    drop_cells(job);
    struct session_job end = {0};
    if (PQstatus(s->conn) != CONNECTION_OK || PQtransactionStatus(s->conn) == PQTRANS_ACTIVE ||
        run_text(s, &end, "ROLLBACK"))
        disconnect(s);
}

struct session_job *session_job_create(size_t steps)
{
    struct session_job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    job->steps = calloc(steps ? steps : 1, sizeof *job->steps);
    if (!job->steps) {
        free(job);
        return NULL;
    }
    for (size_t i = 0; i < steps; i++)
        job->steps[i].expected = -1;
    job->count = steps;
    return job;
}

void session_job_destroy(struct session_job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->count; i++) {
        struct session_step *s = &job->steps[i];
        for (size_t k = 0; s->params && k < s->count; k++)
            free(s->params[k]);
        free(s->params);
        free(s->packed);
        free(s->kinds);
        free(s->otherwise);
        free(s->sql);
    }
    free(job->steps);
    drop_cells(job);
    free(job);
}

/* Making and ending -------------------------------------------------------------------------- */

int session_check(const char *url, char **password, char *why, size_t size)
{
    char *problem = NULL;
    PQconninfoOption *options = PQconninfoParse(url, &problem);
    *password = NULL;
    if (!options) {
        snprintf(why, size, "%s", problem ? problem : strerror(ENOMEM));
        size_t len = strlen(why);
        while (len > 0 && why[len - 1] == '\n')
            why[--len] = '\0';
        int rc = problem ? -EINVAL : -ENOMEM;
        PQfreemem(problem);
        return rc;
    }
    int rc = 0;
    for (PQconninfoOption *o = options; o->keyword; o++)
        if (o->val && strcmp(o->keyword, "password") == 0) {
            *password = strdup(o->val);
            rc = *password ? 0 : -ENOMEM;
        }
    PQconninfoFree(options);
    return rc;
}

int session_init(struct session *s, const char *url, bool durable)
{
    *s = (struct session){.durable = durable, .url = strdup(url)};
    int rc = copy_init(&s->copy);
    s->stop = eventfd(0, EFD_CLOEXEC);
    if (s->stop < 0)
        rc = -errno;
    return s->url ? rc : -ENOMEM;
}

void session_stop(struct session *s)
{
    uint64_t one = 1;
    if (write(s->stop, &one, sizeof one) < 0)
        abort(); /* of an eventfd that was never written to */
}

void session_deinit(struct session *s)
{
    disconnect(s);
    if (s->stop >= 0)
        close(s->stop);
    copy_deinit(&s->copy);
    free(s->url);
}
