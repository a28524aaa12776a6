/*
 * Files that are written whole: beside, as PATH.part, and renamed over PATH when they are complete,
 * so that nobody ever sees half of one. And what output.c needs of paths besides.
 *
 * An exclusive flock is held while a file is open, so that a second run on the same output is
 * refused. Links are never followed. Missing parent directories are created. The process must
 * ignore SIGXFSZ.
 */
#ifndef FILE_H
#define FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

struct file;

/* Opens PATH.part and hands the file to the caller, who ends it by file_commit or file_abort.
 * Returns 0 or a negative errno; among them -EWOULDBLOCK when another run writes there, -ELOOP for
 * a symbolic link, -ENOTSUP for what is no regular file. */
int file_open(struct file **out, const char *path);

/* Its path. Borrowed until the file is freed. */
const char *file_name(const struct file *f);

/* Adds `n` bytes. Returns 0 or a negative errno. After an error every later call returns the same
 * error. */
int file_write(struct file *f, const char *text, size_t n);

/* Makes it PATH, for good, and frees it, also when that fails (PATH is then as it was, unless the
 * directory alone could not be synced). Returns 0 or a negative errno. */
int file_commit(struct file *f);

/* Removes what was written, and frees the file. */
void file_abort(struct file *f);

/* Moves a file that is complete to where a file, or nothing, is; one that is there gives it its
 * permissions. Returns 0 or a negative errno, and then nothing has moved, unless the directory
 * alone could not be made to last. */
int file_move(const char *from, const char *to);

/* What the functions above are made of, for output.c. ---------------------------------------- */

/* More errors, beside the negative errnos. */
enum {
    FILE_GONE = -10001,    /* what is to be resumed is not there */
    FILE_SHORTER = -10002, /* it has fewer bytes than were committed */
    FILE_CORRUPT = -10003, /* it cannot be decompressed */
};

/* Makes the directories above `path`; `durable`: so that a loss of power does not undo it. Returns
 * 0 or a negative errno. */
int file_make_parents(const char *path, bool durable);

/* Opens `path` for reading and writing and takes an exclusive flock on it. `flags` are those of
 * open(2); with O_CREAT parents are made, too. Returns a descriptor or a negative errno. */
int file_open_locked(const char *path, int flags);

/* Whether that is a regular file: 0, -ELOOP, -EISDIR or -ENOTSUP. */
int file_regular(const struct stat *st);

/* Makes the entry of `path` in its directory last. Returns 0 or a negative errno. */
int file_sync_directory(const char *path);

/* Reads at most `n` bytes. Returns how many, fewer than that at the end only, or a negative errno.
 */
ssize_t file_read_at(int fd, char *to, size_t n, off_t offset);

/* Reads bytes that were there a moment ago. Returns 0 or a negative errno. */
int file_read_exactly(int fd, char *to, size_t n, off_t offset);

/* Writes `n` bytes and adds what was written to `*offset`. Returns 0 or a negative errno. */
int file_write_at(int fd, const char *p, size_t n, int64_t *offset);

/* A lock file: who holds its flock, until the descriptor is closed or the process ends, is the only
 * one. It is made with mode 0600, says `text` then, and stays, unless its holder removes it before
 * it closes it. Returns the descriptor or a negative errno; for -EWOULDBLOCK `holder`, of `size`
 * bytes, gets what the holder wrote. */
int file_lock(const char *path, const char *text, char *holder, size_t size);

/* Static text for an error of these functions. */
const char *file_strerror(int rc);

#endif
