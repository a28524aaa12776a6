#include "bytes.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SMALLEST = 256 };

void bytes_init(struct bytes *b, size_t limit)
{
    *b = (struct bytes){.limit = limit};
}

int bytes_reserve(struct bytes *b, size_t n)
{
    size_t most = b->limit ? b->limit : SIZE_MAX;
    if (b->len > most || n > most - b->len)
        return -E2BIG;
    size_t need = b->len + n;
    if (need <= b->cap)
        return 0;

    size_t cap = b->cap <= most / 2 ? b->cap * 2 : most;
    if (cap < need)
        cap = need;
    if (cap < SMALLEST && SMALLEST <= most)
        cap = SMALLEST;
    char *data = realloc(b->data, cap);
    if (!data)
        return -ENOMEM;
    b->data = data;
    b->cap = cap;
    return 0;
}

int bytes_append(struct bytes *b, const void *p, size_t n)
{
    if (n == 0)
        return 0;
    int rc = bytes_reserve(b, n);
    if (rc != 0)
        return rc;
    memcpy(b->data + b->len, p, n);
    b->len += n;
    return 0;
}

void bytes_clear(struct bytes *b)
{
    b->len = 0;
}

void bytes_trim(struct bytes *b, size_t keep)
{
    if (b->cap > keep)
        bytes_deinit(b);
    else
        bytes_clear(b);
}

void bytes_deinit(struct bytes *b)
{
    free(b->data);
    bytes_init(b, b->limit);
}
