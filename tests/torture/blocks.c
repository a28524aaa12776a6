#include "blocks.h"

#include <execinfo.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BITS = 16, SLOTS = 1 << BITS, FRESH = 0xa5 };

struct block {
    char *p;
    size_t size;
    void *caller;
    bool reached;
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct block *blocks; /* SLOTS, hashed by address, open addressing */
static struct trace *traces; /* each at the place its block has; NULL without */
static struct block **sorted;
static size_t sorted_count;

__thread bool blocks_inside __attribute__((tls_model("initial-exec")));

/* The table ----------------------------------------------------------------------------------- */

void blocks_init(void *(*memory)(size_t), bool traced)
{
    traces = traced ? memory(SLOTS * sizeof *traces) : NULL;
    sorted = memory(SLOTS * sizeof *sorted);
    blocks = memory(SLOTS * sizeof *blocks);
}

static size_t slot_of(const void *p)
{
    return ((uintptr_t)p >> 4) * 0x9e3779b97f4a7c15u >> (64 - BITS);
}

void blocks_add(void *p, size_t size, void *caller)
{
    if (!blocks || !p)
        return;
    struct trace trace = {0};
    if (traces && !blocks_inside) {
        blocks_inside = true;
        trace.depth = backtrace(trace.frames, MAX_FRAMES);
        blocks_inside = false;
    }
    pthread_mutex_lock(&mutex);
    size_t i = slot_of(p);
    while (blocks[i].p)
        i = (i + 1) % SLOTS;
    blocks[i] = (struct block){.p = p, .size = size, .caller = caller};
    if (traces)
        traces[i] = trace;
    pthread_mutex_unlock(&mutex);
}

void blocks_add_fresh(void *p, size_t size, void *caller)
{
    if (blocks && p)
        memset(p, FRESH, size);
    blocks_add(p, size, caller);
}

/* Empties slot `i` and moves up what a search from its home would now not find. */
static void slot_clear(size_t i)
{
    blocks[i].p = NULL;
    for (size_t j = (i + 1) % SLOTS; blocks[j].p; j = (j + 1) % SLOTS) {
        if ((j - slot_of(blocks[j].p)) % SLOTS < (j - i) % SLOTS)
            continue;
        blocks[i] = blocks[j];
        if (traces)
            traces[i] = traces[j];
        blocks[j].p = NULL;
        i = j;
    }
}

size_t blocks_take(const void *p)
{
    size_t size = 0;
    if (!blocks || !p)
        return 0;
    pthread_mutex_lock(&mutex);
    size_t i = slot_of(p);
    while (blocks[i].p && blocks[i].p != p)
        i = (i + 1) % SLOTS;
    if (blocks[i].p) {
        size = blocks[i].size;
        slot_clear(i);
    }
    pthread_mutex_unlock(&mutex);
    return size;
}

/* What is lost -------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
    const struct block *x = *(struct block *const *)a, *y = *(struct block *const *)b;
    return x->p < y->p ? -1 : x->p > y->p;
}

/* The block that `p` points into, or just behind. */
static struct block *block_at(const char *p)
{
    size_t low = 0, high = sorted_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sorted[middle]->p <= p)
            low = middle + 1;
        else
            high = middle;
    }
    return low > 0 && p <= sorted[low - 1]->p + sorted[low - 1]->size ? sorted[low - 1] : NULL;
}

/* Marks what the words of a range point to, and what that points to. */
static void mark(const char *begin, const char *end)
{
    const char *word = (const char *)(((uintptr_t)begin + 7) & ~(uintptr_t)7);
    for (; word + sizeof(char *) <= end; word += sizeof(char *)) {
        struct block *b = block_at(*(char *const *)word);
        if (!b || b->reached)
            continue;
        b->reached = true;
        mark(b->p, b->p + b->size);
    }
}

/* Marks what any variable leads to: all that can be written but the heap and what is shared, which
 * is this file's; of the main thread's stack what belongs to calls that have not returned. */
static void mark_variables(const char *stack)
{
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char access[5];
        if (sscanf(line, "%lx-%lx %4s", &from, &to, access) != 3 || strcmp(access, "rw-p") != 0 ||
            strstr(line, "[heap]"))
            continue;
        const char *begin = (const char *)from, *end = (const char *)to;
        mark(begin <= stack && stack < end ? stack : begin, end);
    }
    if (maps)
        fclose(maps);
}

void blocks_lost(void (*tell)(size_t size, const struct trace *trace))
{
    char here = 0;
    if (!blocks)
        return;
    struct block *all = blocks;
    blocks = NULL; /* what is allocated from here on is not looked at */
    for (size_t i = 0; i < SLOTS; i++)
        if (all[i].p)
            sorted[sorted_count++] = &all[i];
    qsort(sorted, sorted_count, sizeof *sorted, by_address);
    mark_variables(&here);
    for (size_t i = 0; i < sorted_count; i++) {
        struct trace trace = {.depth = 1, .frames = {sorted[i]->caller}};
        if (!sorted[i]->reached)
            tell(sorted[i]->size, traces ? &traces[sorted[i] - all] : &trace);
    }
}
