/*
 * The blocks that are in use, where they were allocated, and which of them are lost: blocks to
 * which nothing leads any more from variables or the main thread's stack.
 */
#ifndef BLOCKS_H
#define BLOCKS_H

#include <stdbool.h>
#include <stddef.h>

enum { MAX_FRAMES = 40 };

/* The calls that lead to a place, innermost first. */
struct trace {
    int depth;
    void *frames[MAX_FRAMES];
};

/* `memory` maps shared pages and never fails. With `traces` the place of every block is kept. Until
 * it is called the functions below do nothing. */
void blocks_init(void *(*memory)(size_t), bool traces);

/* Remembers a block, NULL not being one, and who asked for it; the second one fills it. */
void blocks_add(void *p, size_t size, void *caller);
void blocks_add_fresh(void *p, size_t size, void *caller);

/* Forgets a block. Returns its size, 0 when it was not known. */
size_t blocks_take(const void *p);

/* Calls `tell` for each lost block; without traces that has the caller alone. No other thread may
 * allocate meanwhile. */
void blocks_lost(void (*tell)(size_t size, const struct trace *trace));

/* Set while the caller's own allocations are not to be traced or counted. */
extern __thread bool blocks_inside;

#endif
