#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, TAIL_STEP = 64 * 1024, TAIL_MAX = 64 * 1024 * 1024, LOCK_TRIES = 16 };

struct file {
    enum file_mode mode;
    int fd;       /* owned, but for stdout */
    char *path;   /* owned; NULL for stdout */
    char *temp;   /* owned; PATH.part in replace mode, else NULL */
    char *buffer; /* owned, BUFFER bytes */
    size_t len;   /* bytes in it, always whole lines */
    int failed;   /* the first write error, returned ever after */
    bool eager;   /* a terminal: flush after every write */
};

/* Opening ------------------------------------------------------------------------------------ */

static int make_parents(const char *path)
{
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    int rc = 0;
    for (char *slash = strchr(copy + 1, '/'); slash && rc == 0; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST)
            rc = -errno;
        *slash = '/';
    }
    free(copy);
    return rc;
}

static int regular(const struct stat *st)
{
    if (S_ISREG(st->st_mode))
        return 0;
    if (S_ISLNK(st->st_mode))
        return -ELOOP;
    return S_ISDIR(st->st_mode) ? -EISDIR : -ENOTSUP;
}

/* Takes the lock. -ESTALE: the file was renamed or removed before the lock was ours. */
static int lock(int fd, const char *path)
{
    struct stat ours, there;
    if (fstat(fd, &ours) != 0)
        return -errno;
    int rc = regular(&ours);
    if (rc != 0)
        return rc;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return -errno;
    if (lstat(path, &there) != 0)
        return errno == ENOENT ? -ESTALE : -errno;
    return ours.st_dev == there.st_dev && ours.st_ino == there.st_ino ? 0 : -ESTALE;
}

/* Opens and locks `path`. Returns a descriptor or a negative errno. */
static int open_locked(const char *path, int flags)
{
    bool parents_made = false;
    for (int tries = 0; tries < LOCK_TRIES; tries++) {
        /* O_NONBLOCK: a FIFO in the way must not hold us up. */
        int fd = open(path, flags | O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
        if (fd < 0 && errno == ENOENT && !parents_made) {
            int rc = make_parents(path);
            if (rc != 0)
                return rc;
            parents_made = true;
            continue;
        }
        if (fd < 0)
            return -errno;
        int rc = lock(fd, path);
        if (rc == 0)
            return fd;
        close(fd);
        if (rc != -ESTALE)
            return rc;
    }
    return -EWOULDBLOCK;
}

static int open_replace(struct file *f)
{
    if (asprintf(&f->temp, "%s.part", f->path) < 0) {
        f->temp = NULL;
        return -ENOMEM;
    }
    /* What stands in the way of the rename is better known now than after the run. */
    struct stat old;
    bool exists = lstat(f->path, &old) == 0;
    if (!exists && errno != ENOENT && errno != ENOTDIR)
        return -errno;
    int rc = exists ? regular(&old) : 0;
    if (rc != 0)
        return rc;
    f->fd = open_locked(f->temp, 0);
    if (f->fd < 0)
        return f->fd;
    if (ftruncate(f->fd, 0) != 0 || (exists && fchmod(f->fd, old.st_mode & 0777) != 0))
        return -errno;
    return 0;
}

static void destroy(struct file *f)
{
    if (f->mode != FILE_STDOUT && f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f->temp);
    free(f->buffer);
    free(f);
}

int file_open(struct file **out, const char *path, enum file_mode mode)
{
    struct file *f = malloc(sizeof *f);
    if (!f)
        return -ENOMEM;
    *f = (struct file){.mode = mode, .fd = -1, .buffer = malloc(BUFFER)};
    int rc = f->buffer ? 0 : -ENOMEM;
    if (rc == 0 && mode == FILE_STDOUT) {
        f->fd = STDOUT_FILENO;
        f->eager = isatty(STDOUT_FILENO) == 1;
    } else if (rc == 0) {
        f->path = strdup(path);
        if (!f->path)
            rc = -ENOMEM;
        else if (mode == FILE_REPLACE)
            rc = open_replace(f);
        else if ((f->fd = open_locked(path, O_APPEND)) < 0)
            rc = f->fd;
    }
    if (rc != 0) {
        destroy(f);
        return rc;
    }
    *out = f;
    return 0;
}

/* The tail of a file opened to append -------------------------------------------------------- */

static off_t size_of(struct file *f)
{
    struct stat st;
    return fstat(f->fd, &st) == 0 ? st.st_size : -errno;
}

static int read_at(struct file *f, char *to, size_t n, off_t offset)
{
    while (n > 0) {
        ssize_t got = pread(f->fd, to, n, offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO;
        to += got;
        n -= (size_t)got;
        offset += got;
    }
    return 0;
}

long file_tail(struct file *f)
{
    if (f->mode != FILE_APPEND)
        return 0;
    off_t size = size_of(f);
    if (size < 0)
        return size;
    char chunk[TAIL_STEP];
    for (off_t end = size; end > 0;) {
        size_t n = end < TAIL_STEP ? (size_t)end : TAIL_STEP;
        int rc = read_at(f, chunk, n, end - (off_t)n);
        if (rc != 0)
            return rc;
        const char *newline = memrchr(chunk, '\n', n);
        if (newline)
            return size - (end - (off_t)n + (newline + 1 - chunk));
        end -= (off_t)n;
        if (size - end > TAIL_MAX)
            return -EFBIG;
    }
    return size;
}

int file_read_tail(struct file *f, char *to, size_t n)
{
    off_t size = size_of(f);
    long tail = file_tail(f);
    if (size < 0 || tail < 0)
        return size < 0 ? (int)size : (int)tail;
    return read_at(f, to, n, size - tail);
}

int file_cut(struct file *f)
{
    off_t size = size_of(f);
    long tail = file_tail(f);
    if (size < 0 || tail < 0)
        return size < 0 ? (int)size : (int)tail;
    return tail > 0 && ftruncate(f->fd, size - tail) != 0 ? -errno : 0;
}

const char *file_name(const struct file *f)
{
    return f->path ? f->path : "stdout";
}

bool file_is_terminal(const struct file *f)
{
    return f->eager;
}

/* Writing ------------------------------------------------------------------------------------ */

/* Takes the part of a line that a failed write left behind out of the file again. If that fails
 * too, the next run finds it as the file's tail. */
static void undo_torn_line(struct file *f, const char *text, size_t written)
{
    const char *newline = memrchr(text, '\n', written);
    size_t torn = newline ? written - (size_t)(newline + 1 - text) : written;
    off_t size = size_of(f);
    if (torn > 0 && size >= (off_t)torn && ftruncate(f->fd, size - (off_t)torn) != 0)
        return;
}

static int put(struct file *f, const char *text, size_t n)
{
    size_t written = 0;
    while (written < n) {
        ssize_t w = write(f->fd, text + written, n - written);
        if (w > 0) {
            written += (size_t)w;
        } else if (w < 0 && errno == EAGAIN) {
            /* Whoever shares our stdout made it non-blocking. */
            struct pollfd ready = {.fd = f->fd, .events = POLLOUT};
            poll(&ready, 1, -1);
        } else if (w == 0 || errno != EINTR) {
            f->failed = w == 0 ? -EIO : -errno;
            if (f->mode == FILE_APPEND)
                undo_torn_line(f, text, written);
            return f->failed;
        }
    }
    return 0;
}

int file_flush(struct file *f)
{
    if (f->failed)
        return f->failed;
    size_t n = f->len;
    f->len = 0;
    return put(f, f->buffer, n);
}

int file_write(struct file *f, const char *text, size_t n)
{
    int rc = f->failed;
    if (rc == 0 && n > BUFFER - f->len)
        rc = file_flush(f);
    if (rc != 0)
        return rc;
    if (n > BUFFER)
        return put(f, text, n);
    memcpy(f->buffer + f->len, text, n);
    f->len += n;
    return f->eager ? file_flush(f) : 0;
}

int file_sync(struct file *f)
{
    int rc = file_flush(f);
    if (rc == 0 && f->mode != FILE_STDOUT && fsync(f->fd) != 0)
        rc = f->failed = -errno;
    return rc;
}

/* Ending ------------------------------------------------------------------------------------- */

/* Makes a rename in the directory of `path` last. */
static int sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *directory = n > 0 ? strndup(path, n) : strdup(".");
    if (!directory)
        return -ENOMEM;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(directory);
    if (fd < 0)
        return -errno;
    /* EINVAL: a file system that has nothing to sync for directories. */
    int rc = fsync(fd) != 0 && errno != EINVAL ? -errno : 0;
    close(fd);
    return rc;
}

int file_commit(struct file *f)
{
    int rc = file_sync(f);
    if (rc == 0 && f->mode == FILE_REPLACE) {
        if (rename(f->temp, f->path) == 0) {
            rc = sync_directory(f->path);
            destroy(f);
            return rc;
        }
        rc = f->failed = -errno;
    }
    if (f->mode == FILE_REPLACE)
        unlink(f->temp);
    destroy(f);
    return rc;
}

int file_abort(struct file *f)
{
    int rc = 0;
    if (f->mode == FILE_REPLACE)
        unlink(f->temp);
    else
        rc = file_flush(f);
    destroy(f);
    return rc;
}

int file_move(const char *from, const char *to)
{
    struct stat old;
    bool exists = lstat(to, &old) == 0;
    if (!exists && errno != ENOENT)
        return -errno;
    int rc = exists ? regular(&old) : 0;
    if (rc != 0)
        return rc;
    if ((exists && chmod(from, old.st_mode & 0777) != 0) || rename(from, to) != 0)
        return -errno;
    return sync_directory(to);
}

const char *file_strerror(int rc)
{
    switch (-rc) {
    case EWOULDBLOCK:
        return "another run is writing it";
    case ELOOP:
        return "it is a symbolic link, and links are not followed";
    case ENOTSUP:
        return "it is not a regular file";
    case EPIPE:
        return "its reader has gone";
    case EFBIG:
        return "it is too large, or not made of lines";
    default:
        break;
    }
    const char *text = strerrordesc_np(-rc);
    return text ? text : "unknown error";
}
