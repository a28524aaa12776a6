#include "output.h"

#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIPE_STEP = 4096 }; /* what a pipe that is ready takes without waiting */

struct output {
    enum output_mode mode;
    enum codec codec;
    int fd;                        /* owned, but for stdout; -1 when it is finished */
    char *path;                    /* owned; NULL for stdout */
    char *temp;                    /* owned; PATH.part in replace mode, else NULL */
    struct codec_encoder *encoder; /* owned; NULL without a codec */
    int64_t size;                  /* of what is kept */
    int64_t end;                   /* of the file: beyond `size` is a closer, or what is cut off */
    int failed;                    /* the first error, returned ever after */
    bool durable, finished, closed;
    bool direct;     /* stdout is a file: writing to it does not wait for a reader */
    int stop;        /* borrowed, see output_options */
    bool *cancelled; /* borrowed */
};

/* Opening ------------------------------------------------------------------------------------- */

/* Makes the file a resumed run goes on with the size that was committed. */
static int go_back(struct output *o, int64_t size)
{
    if (o->end < size)
        return FILE_SHORTER;
    o->size = size;
    return 0;
}

static int open_replace(struct output *o, const struct output_options *options)
{
    if (asprintf(&o->temp, "%s.part", o->path) < 0) {
        o->temp = NULL;
        return -ENOMEM;
    }
    /* What stands in the way of the rename is better known now than after the run. */
    struct stat old;
    bool exists = lstat(o->path, &old) == 0;
    if (!exists && errno != ENOENT && errno != ENOTDIR)
        return -errno;
    int rc = exists ? file_regular(&old) : 0;
    if (rc != 0)
        return rc;
    bool anew = options->resume < 0;
    if (anew && o->durable) {
        rc = file_make_parents(o->path, true);
        if (rc != 0)
            return rc;
    }
    o->fd = file_open_locked(o->temp, anew ? O_CREAT : 0);
    if (o->fd == -ENOENT && !anew) {
        o->finished = options->finishing && exists;
        return o->finished ? 0 : FILE_GONE;
    }
    if (o->fd < 0)
        return o->fd;
    if (!anew)
        return 0;
    if (ftruncate(o->fd, 0) != 0 || (exists && fchmod(o->fd, old.st_mode & 0777) != 0))
        return -errno;
    return o->durable ? file_sync_directory(o->temp) : 0;
}

static int open_append(struct output *o, const struct output_options *options)
{
    bool anew = options->resume < 0;
    int rc = anew && o->durable ? file_make_parents(o->path, true) : 0;
    if (rc != 0)
        return rc;
    o->fd = file_open_locked(o->path, anew ? O_CREAT : 0);
    if (o->fd < 0)
        return o->fd == -ENOENT && !anew ? FILE_GONE : o->fd;
    return anew && o->durable ? file_sync_directory(o->path) : 0;
}

static int open_file(struct output *o, const struct output_options *options)
{
    o->path = strdup(options->path);
    if (!o->path)
        return -ENOMEM;
    int rc = o->mode == OUTPUT_REPLACE ? open_replace(o, options) : open_append(o, options);
    struct stat st;
    if (rc != 0 || o->finished)
        return rc;
    if (fstat(o->fd, &st) != 0)
        return -errno;
    o->size = o->end = st.st_size;
    return options->resume >= 0 ? go_back(o, options->resume) : 0;
}

int output_open(struct output **out, const struct output_options *options)
{
    struct output *o = malloc(sizeof *o);
    if (!o)
        return -ENOMEM;
    *o = (struct output){
        .mode = options->mode,
        .codec = options->codec,
        .fd = -1,
        .durable = options->durable,
        .stop = options->stop,
        .cancelled = options->cancelled,
    };
    int rc = o->codec != CODEC_NONE ? codec_encoder_create(&o->encoder, o->codec) : 0;
    if (rc == 0 && o->mode == OUTPUT_STDOUT) {
        struct stat st;
        o->fd = STDOUT_FILENO;
        o->direct = fstat(o->fd, &st) == 0 && S_ISREG(st.st_mode);
    } else if (rc == 0) {
        rc = open_file(o, options);
    }
    if (rc != 0) {
        output_close(o, false);
        return rc;
    }
    *out = o;
    return 0;
}

int64_t output_size(const struct output *o)
{
    return o->size;
}

bool output_is_finished(const struct output *o)
{
    return o->finished;
}

bool output_is_terminal(const struct output *o)
{
    return o->mode == OUTPUT_STDOUT && isatty(o->fd) == 1;
}

int output_scan(struct output *o, struct scan *scan, char delimiter)
{
    return scan_file(scan, o->fd, o->end, o->codec, delimiter);
}

void output_keep(struct output *o, int64_t size)
{
    o->size = size;
}

/* Writing ------------------------------------------------------------------------------------- */

/* Waits until stdout takes something. Returns whether somebody waits for us meanwhile. */
static int wait_for_reader(struct output *o)
{
    struct pollfd ready[] = {{.fd = o->fd, .events = POLLOUT}, {.fd = o->stop, .events = POLLIN}};
    while (poll(ready, 2, -1) < 0)
        if (errno != EINTR)
            return -errno;
    if (ready[1].revents == 0)
        return 0;
    *o->cancelled = true;
    return -ECANCELED;
}

static int put_stdout(struct output *o, const char *p, size_t n)
{
    while (n > 0) {
        size_t step = o->direct || n < PIPE_STEP ? n : PIPE_STEP;
        int rc = o->direct ? 0 : wait_for_reader(o);
        if (rc != 0)
            return rc;
        ssize_t w = write(o->fd, p, step);
        if (w > 0) {
            p += w;
            n -= (size_t)w;
        } else if (w == 0) {
            return -EIO;
        } else if (errno != EINTR && errno != EAGAIN) {
            return -errno;
        }
    }
    return 0;
}

/* Where a window goes: at the end of what is there. */
struct put {
    struct output *o;
    int64_t at;
};

static int put(void *ctx, const char *p, size_t n)
{
    struct put *to = ctx;
    if (to->o->mode == OUTPUT_STDOUT)
        return put_stdout(to->o, p, n);
    return file_write_at(to->o->fd, p, n, &to->at);
}

/* One frame of its own, or just the bytes. */
static int put_frame(struct output *o, struct put *to, const struct bytes *text)
{
    if (text->len == 0)
        return 0;
    if (o->encoder)
        return codec_encode(o->encoder, text->data, text->len, true, put, to);
    return put(to, text->data, text->len);
}

static int cut(struct output *o)
{
    if (o->mode == OUTPUT_STDOUT || o->end == o->size)
        return 0;
    if (ftruncate(o->fd, o->size) != 0)
        return -errno;
    o->end = o->size;
    return 0;
}

static int add(struct output *o, const struct bytes *text, const struct bytes *closer)
{
    int rc = cut(o);
    struct put to = {.o = o, .at = o->size};
    if (rc == 0)
        rc = put_frame(o, &to, text);
    int64_t size = to.at;
    if (rc == 0)
        rc = put_frame(o, &to, closer);
    if (rc == 0) {
        o->size = size;
        o->end = to.at;
        o->closed = closer->len > 0;
    } else if (o->mode != OUTPUT_STDOUT && to.at > o->size) {
        /* Takes what there is of the window out again. If that fails too, whoever goes on with
         * the file finds it beyond what was committed. */
        if (ftruncate(o->fd, o->size) == 0)
            o->end = o->size;
    }
    return rc;
}

/* A file whose sync has failed may have lost what was written, and a later sync would not tell:
 * it is for good. */
static int failed(struct output *o, int rc)
{
    if (rc != 0)
        o->failed = rc;
    return rc;
}

int output_write(struct output *o, const struct bytes *text, const struct bytes *closer, bool sync)
{
    if (o->failed != 0)
        return o->failed;
    int rc = add(o, text, closer);
    if (rc == 0 && sync && o->mode != OUTPUT_STDOUT && fdatasync(o->fd) != 0)
        rc = -errno;
    return failed(o, rc);
}

/* Widening ------------------------------------------------------------------------------------ */

/* Writes the widened file beside. Returns its descriptor or a negative errno. */
static int widen_beside(struct output *o, const char *beside, const struct widen *to)
{
    struct stat st;
    if (fstat(o->fd, &st) != 0)
        return -errno;
    /* Whatever has that name is of a run that was killed here, for the lock is ours. */
    if (unlink(beside) != 0 && errno != ENOENT)
        return -errno;
    int fd = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return -errno;
    int rc = fchmod(fd, st.st_mode & 0777) != 0 ? -errno : 0;
    if (rc == 0)
        rc = widen_file(o->fd, o->size, fd, o->codec, to);
    if (rc == 0 && fsync(fd) != 0)
        rc = -errno;
    close(fd);
    if (rc != 0)
        (void)unlink(beside); /* it is in the way of nothing */
    return rc;
}

/* The file that was committed stays until the widened one is in its place, so that a crash
 * anywhere finds the one or the other. */
static int widen(struct output *o, const struct widen *to)
{
    char *beside;
    if (asprintf(&beside, "%s.wide", o->temp) < 0)
        return -ENOMEM;
    int rc = widen_beside(o, beside, to);
    if (rc == 0 && rename(beside, o->path) != 0)
        rc = -errno;
    free(beside);
    if (rc == 0)
        rc = file_sync_directory(o->path);
    if (rc == 0 && unlink(o->temp) != 0 && errno != ENOENT)
        rc = -errno;
    return rc;
}

/* Ending -------------------------------------------------------------------------------------- */

static int finish(struct output *o, const struct bytes *closer, const struct widen *widening)
{
    static const struct bytes nothing;
    int rc = o->end == o->size || !o->closed ? add(o, &nothing, closer) : 0;
    if (rc == 0 && fsync(o->fd) != 0)
        rc = -errno;
    if (rc != 0 || o->mode == OUTPUT_APPEND)
        return rc;
    if (widening->header.len > 0)
        return widen(o, widening);
    return rename(o->temp, o->path) == 0 ? file_sync_directory(o->path) : -errno;
}

int output_finish(struct output *o, const struct bytes *closer, const struct widen *widening)
{
    if (o->failed != 0 || o->finished || o->mode == OUTPUT_STDOUT)
        return o->failed;
    int rc = failed(o, finish(o, closer, widening));
    o->finished = rc == 0;
    return rc;
}

void output_close(struct output *o, bool discard)
{
    if (!o)
        return;
    if (o->mode != OUTPUT_STDOUT && o->fd >= 0) {
        if (discard && o->temp && !o->finished)
            (void)unlink(o->temp); /* it is nobody's, and the next run takes it over */
        close(o->fd);
    }
    codec_encoder_destroy(o->encoder);
    free(o->path);
    free(o->temp);
    free(o);
}
