/*
 * Numbers as decimal texts. Independent of the locale.
 */
#ifndef NUMBER_H
#define NUMBER_H

#include <stddef.h>
#include <stdint.h>

enum { NUMBER_BYTES = 40 }; /* more than any number takes */

/* The functions that write in front of `end`, which has NUMBER_BYTES before it, return where the
 * text begins; it is not NUL-terminated. */
char *number_digits_before(char *end, uint64_t n);

/* An integer with its sign. */
char *number_integer_before(char *end, int64_t n);

/* Writes a number that is m / 10^k, both exact as doubles, such as 12.5 and -0.0, so that dividing
 * rounds as a parser of the text must. Finds the shortest such text, for all of up to 15 digits
 * from 1e-6 up. Returns NULL when there is none. */
char *number_decimal_before(char *end, double x);

/* The shortest of the printf forms %.15g, %.16g and %.17g that gives the same number again, with a
 * point in every locale: "1e-07", "123456789012345.6". `x` is finite. Returns its length in
 * `text`, which has NUMBER_BYTES. */
size_t number_general(char *text, double x);

/* What PostgreSQL makes of a finite double precision value as text: "5", "0.0001", "1e+15". Returns
 * its length in `text`, which has NUMBER_BYTES. */
size_t number_plain(char *text, double x);

#endif
