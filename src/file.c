#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 64 * 1024, LOCK_TRIES = 16 };

struct file {
    int fd;       /* owned */
    char *path;   /* owned */
    char *temp;   /* owned; PATH.part */
    char *buffer; /* owned, BUFFER bytes */
    size_t len;   /* bytes in it */
    int failed;   /* the first write error, returned ever after */
};

/* Opening ------------------------------------------------------------------------------------ */

int file_make_parents(const char *path, bool durable)
{
    char *copy = strdup(path);
    if (!copy)
        return -ENOMEM;
    int rc = 0;
    for (char *slash = strchr(copy + 1, '/'); slash && rc == 0; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(copy, 0777) == 0)
            rc = durable ? file_sync_directory(copy) : 0;
        else if (errno != EEXIST)
            rc = -errno;
        *slash = '/';
    }
    free(copy);
    return rc;
}

int file_regular(const struct stat *st)
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
    int rc = file_regular(&ours);
    if (rc != 0)
        return rc;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return -errno;
    if (lstat(path, &there) != 0)
        return errno == ENOENT ? -ESTALE : -errno;
    return ours.st_dev == there.st_dev && ours.st_ino == there.st_ino ? 0 : -ESTALE;
}

int file_open_locked(const char *path, int flags)
{
    bool parents_made = !(flags & O_CREAT);
    for (int tries = 0; tries < LOCK_TRIES; tries++) {
        /* O_NONBLOCK: a FIFO in the way must not hold us up. */
        int fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
        if (fd < 0 && errno == ENOENT && !parents_made) {
            int rc = file_make_parents(path, false);
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

static int open_temp(struct file *f)
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
    int rc = exists ? file_regular(&old) : 0;
    if (rc != 0)
        return rc;
    f->fd = file_open_locked(f->temp, O_CREAT);
    if (f->fd < 0)
        return f->fd;
    if (ftruncate(f->fd, 0) != 0 || (exists && fchmod(f->fd, old.st_mode & 0777) != 0))
        return -errno;
    return 0;
}

static void destroy(struct file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f->temp);
    free(f->buffer);
    free(f);
}

int file_open(struct file **out, const char *path)
{
    struct file *f = malloc(sizeof *f);
    if (!f)
        return -ENOMEM;
    *f = (struct file){.fd = -1, .path = strdup(path), .buffer = malloc(BUFFER)};
    int rc = f->path && f->buffer ? open_temp(f) : -ENOMEM;
    if (rc != 0) {
        destroy(f);
        return rc;
    }
    *out = f;
    return 0;
}

const char *file_name(const struct file *f)
{
    return f->path;
}

/* Writing ------------------------------------------------------------------------------------ */

static int put(struct file *f, const char *text, size_t n)
{
    while (n > 0) {
        ssize_t w = write(f->fd, text, n);
        if (w > 0) {
            text += w;
            n -= (size_t)w;
        } else if (w == 0 || errno != EINTR) {
            f->failed = w == 0 ? -EIO : -errno;
            return f->failed;
        }
    }
    return 0;
}

static int flush(struct file *f)
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
        rc = flush(f);
    if (rc != 0)
        return rc;
    if (n > BUFFER)
        return put(f, text, n);
    memcpy(f->buffer + f->len, text, n);
    f->len += n;
    return 0;
}

/* Ending ------------------------------------------------------------------------------------- */

int file_sync_directory(const char *path)
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
    int rc = flush(f);
    if (rc == 0 && fsync(f->fd) != 0)
        rc = -errno;
    if (rc == 0 && rename(f->temp, f->path) != 0)
        rc = -errno;
    if (rc == 0)
        rc = file_sync_directory(f->path);
    else
        unlink(f->temp);
    destroy(f);
    return rc;
}

void file_abort(struct file *f)
{
    unlink(f->temp);
    destroy(f);
}

/* Bytes at a place ---------------------------------------------------------------------------- */

ssize_t file_read_at(int fd, char *to, size_t n, off_t offset)
{
    size_t got = 0;
    while (got < n) {
        ssize_t r = pread(fd, to + got, n - got, offset + (off_t)got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -errno;
        if (r == 0)
            break;
        got += (size_t)r;
    }
    return (ssize_t)got;
}

int file_read_exactly(int fd, char *to, size_t n, off_t offset)
{
    ssize_t got = file_read_at(fd, to, n, offset);
    return got < 0 ? (int)got : (size_t)got == n ? 0 : -EIO;
}

int file_write_at(int fd, const char *p, size_t n, int64_t *offset)
{
    while (n > 0) {
        ssize_t w = pwrite(fd, p, n, *offset);
        if (w > 0) {
            p += w;
            n -= (size_t)w;
            *offset += w;
        } else if (w == 0) {
            return -EIO;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* A lock ------------------------------------------------------------------------------------- */

static int note_holder(int fd, const char *text)
{
    size_t n = strlen(text);
    ssize_t written = pwrite(fd, text, n, 0);
    if (written < 0 || ftruncate(fd, (off_t)n) != 0)
        return -errno;
    return (size_t)written == n ? 0 : -ENOSPC;
}

int file_lock(const char *path, const char *text, char *holder, size_t size)
{
    int fd = -1, rc = -ESTALE;
    holder[0] = '\0';
    for (int tries = 0; tries < LOCK_TRIES && rc == -ESTALE; tries++) {
        if (fd >= 0)
            close(fd);
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
        if (fd < 0)
            return -errno;
        rc = lock(fd, path);
    }
    if (rc == -ESTALE)
        rc = -EWOULDBLOCK;
    if (rc == -EWOULDBLOCK) {
        ssize_t n = pread(fd, holder, size - 1, 0);
        holder[n > 0 ? n : 0] = '\0';
    } else if (rc == 0) {
        rc = note_holder(fd, text);
    }
    if (rc == 0)
        return fd;
    close(fd);
    return rc;
}

/* Ending by a rename ------------------------------------------------------------------------- */

int file_move(const char *from, const char *to)
{
    struct stat old;
    bool exists = lstat(to, &old) == 0;
    if (!exists && errno != ENOENT)
        return -errno;
    int rc = exists ? file_regular(&old) : 0;
    if (rc != 0)
        return rc;
    if ((exists && chmod(from, old.st_mode & 0777) != 0) || rename(from, to) != 0)
        return -errno;
    return file_sync_directory(to);
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
    case -FILE_GONE:
        return "what was committed to it is gone";
    case -FILE_SHORTER:
        return "it is shorter than what was committed to it";
    case -FILE_CORRUPT:
        return "it is not what its extension says, or damaged";
    default:
        break;
    }
    const char *text = strerrordesc_np(-rc);
    return text ? text : "unknown error";
}
