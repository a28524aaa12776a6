/*
 * What the targets share. A target is one file with libFuzzer's entry point in it; a property that
 * does not hold ends the process, which libFuzzer reports with the input that did it.
 */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer's entry point; the bytes are borrowed during the call. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CHECK(property, ...)                                                                       \
    do {                                                                                           \
        if (!(property)) {                                                                         \
            fprintf(stderr, "%s:%d: does not hold: %s\n    ", __FILE__, __LINE__, #property);      \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Takes the first byte off the input; 0 when there is none. */
static inline uint8_t take_byte(const uint8_t **data, size_t *size)
{
    if (*size == 0)
        return 0;
    --*size;
    return *(*data)++;
}

/* A copy with a heap block of its own, so that reading a byte too far is seen. With a NUL at its
 * end if `terminated`. The caller frees it. */
static inline char *copy_of(const void *p, size_t size, int terminated)
{
    char *copy = malloc(size + (terminated ? 1 : size == 0));
    if (!copy)
        abort();
    if (size > 0)
        memcpy(copy, p, size);
    if (terminated)
        copy[size] = '\0';
    return copy;
}

/* The next of a row of numbers that looks random (xorshift); `*state` is not 0. */
static inline uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

#endif
