/*
 * The output file of a sink. It is written window by window: what output_write has returned for is
 * in it whole, and its size then is a place to go back to, whatever happens later.
 *
 *   replace  written to PATH.part beside, renamed over PATH by output_finish
 *   append   written at the end of PATH itself
 *   stdout   descriptor 1
 *
 * A window may be compressed, as a frame of its own (codec.h). It may be followed by a closer: what
 * makes the file complete as it is, and the next window takes the place of.
 *
 * Replace and append hold an exclusive flock while open, so that a second run on the same output is
 * refused. Links are never followed. Missing parent directories are created. The process must
 * ignore SIGPIPE and SIGXFSZ. Everything here waits for the disk, so it belongs on a thread.
 */
#ifndef OUTPUT_H
#define OUTPUT_H

#include "bytes.h"
#include "codec.h"
#include "scan.h"
#include "widen.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct output;

enum output_mode { OUTPUT_REPLACE, OUTPUT_APPEND, OUTPUT_STDOUT };

struct output_options {
    const char *path; /* borrowed for the call; ignored for stdout */
    enum output_mode mode;
    enum codec codec;
    bool durable;    /* directories are synced, so that the file outlives a loss of power */
    int64_t resume;  /* the size to go back to; -1 begins anew */
    bool finishing;  /* it may be that it was finished before: output_is_finished tells */
    int stop;        /* stdout: a descriptor that becomes readable when nobody waits any more */
    bool *cancelled; /* stdout: borrowed; set when that is so */
};

/* Opens a file and hands it to the caller. Returns 0; a negative errno, among them -EWOULDBLOCK
 * when another run writes there, -ELOOP for a symbolic link, -ENOTSUP for what is no regular file;
 * FILE_GONE or FILE_SHORTER (file.h) when it cannot be resumed. */
int output_open(struct output **out, const struct output_options *options);

/* The size of what is kept of it: what was found in a file to append to, where a resumed one goes
 * on, and all windows since. */
int64_t output_size(const struct output *o);

bool output_is_finished(const struct output *o);
bool output_is_terminal(const struct output *o);

/* What is in a file that is opened to append (scan.h). */
int output_scan(struct output *o, struct scan *scan, char delimiter);

/* Keeps only so many bytes of what was found. The file is cut when it is next written to. */
void output_keep(struct output *o, int64_t size);

/* Adds a window, and waits for the disk with `sync`. Returns 0; a negative errno, which is for
 * good: every later call returns it; -ECANCELED when nobody waits for stdout any more. */
int output_write(struct output *o, const struct bytes *text, const struct bytes *closer, bool sync);

/* Makes what was written last: closes it, waits for the disk, renames it. May be done again after a
 * crash. Returns 0 or a negative errno; a replaced file is then as it was. */
int output_finish(struct output *o, const struct bytes *closer, const struct widen *widening);

/* Gives it up, or ends it after output_finish; with `discard` an unfinished PATH.part is removed.
 * NULL is fine. */
void output_close(struct output *o, bool discard);

#endif
