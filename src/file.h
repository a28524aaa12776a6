/*
 * Output files of line-oriented sinks. What is written is whole lines, buffered, and reaches
 * the file as whole lines whatever goes wrong:
 *
 *   replace  written to PATH.part beside, renamed over PATH by file_commit
 *   append   added at the end; a write that fails half-way is undone back to the last whole line
 *   stdout   descriptor 1, flushed at once when it is a terminal
 *
 * Replace and append hold an exclusive flock while open, so that a second run on the same output
 * is refused. Links are never followed. Missing parent directories are created. The process must
 * ignore SIGPIPE.
 */
#ifndef FILE_H
#define FILE_H

#include <stdbool.h>
#include <stddef.h>

struct file;

enum file_mode { FILE_REPLACE, FILE_APPEND, FILE_STDOUT };

/* Opens `path` (ignored for FILE_STDOUT) and hands the file to the caller, who ends it by
 * file_commit or file_abort. Returns 0 or a negative errno; among them -EWOULDBLOCK when another
 * run writes there, -ELOOP for a symbolic link, -ENOTSUP for what is no regular file. */
int file_open(struct file **out, const char *path, enum file_mode mode);

/* Its path, or "stdout". Borrowed until the file is freed. */
const char *file_name(const struct file *f);

/* Whether it is stdout and that is a terminal. */
bool file_is_terminal(const struct file *f);

/* How many bytes follow the last line end of a file opened to append: a line torn by a crash, or
 * one that merely lacks its line end. Returns the length or a negative errno, -EFBIG when there is
 * no line end in the last 64 MB. */
long file_tail(struct file *f);

/* Copies the first `n` bytes of that tail. Returns 0 or a negative errno. */
int file_read_tail(struct file *f, char *to, size_t n);

/* Cuts the tail off. Returns 0 or a negative errno. */
int file_cut(struct file *f);

/* Writes `n` bytes that end in a line end. Returns 0 or a negative errno. After an error every
 * later call returns the same error. */
int file_write(struct file *f, const char *text, size_t n);

/* Hands the buffer to the kernel; file_sync waits for the disk too. */
int file_flush(struct file *f);
int file_sync(struct file *f);

/* Makes what was written last, and frees the file, also when it fails (a replaced file is then
 * as it was). Returns 0 or a negative errno. */
int file_commit(struct file *f);

/* Frees the file. Replace: the old file stays. Append and stdout: whole lines accepted so far
 * are kept. Returns 0 or the negative errno with which some of them were lost. */
int file_abort(struct file *f);

/* Moves a file that is complete to where a file, or nothing, is; one that is there gives it its
 * permissions. Returns 0 or a negative errno, and then nothing has moved, unless the directory
 * alone could not be made to last. */
int file_move(const char *from, const char *to);

/* Static text for an error of these functions. */
const char *file_strerror(int rc);

#endif
