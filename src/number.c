#include "number.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double MAX_INTEGER = 9007199254740992.0; /* 2^53: all integers up to it are exact */

char *number_digits_before(char *end, uint64_t n)
{
    do
        *--end = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    return end;
}

char *number_integer_before(char *end, int64_t n)
{
    char *start = number_digits_before(end, n < 0 ? 0 - (uint64_t)n : (uint64_t)n);
    if (n < 0)
        *--start = '-';
    return start;
}

char *number_decimal_before(char *end, double x)
{
    static const double powers[] = {1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,
                                    1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
                                    1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    double size = fabs(x);
    for (size_t k = 0; k < sizeof powers / sizeof *powers; k++) {
        double scaled = size * powers[k];
        if (scaled >= MAX_INTEGER)
            break;
        int64_t m = (int64_t)(scaled + 0.5);
        if (fabs(scaled - (double)m) > scaled * 2 * DBL_EPSILON || (double)m / powers[k] != size)
            continue;
        for (size_t i = 0; i <= k; i++, m /= 10)
            *--end = (char)('0' + m % 10);
        *--end = '.';
        end = number_digits_before(end, (uint64_t)m);
        if (signbit(x))
            *--end = '-';
        return end;
    }
    return NULL;
}

size_t number_general(char *text, double x)
{
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(text, NUMBER_BYTES, "%.*g", precision, x);
        if (precision == 17 || strtod(text, NULL) == x)
            break;
    }
    size_t len = 0;
    for (const char *p = text; *p;) {
        if (isdigit((unsigned char)*p) || *p == '-' || *p == '+' || *p == 'e') {
            text[len++] = *p++;
        } else { /* the locale's point, which may be several bytes */
            text[len++] = '.';
            while (*p && !isdigit((unsigned char)*p))
                p++;
        }
    }
    return len;
}

/* PostgreSQL writes an exponent from 1e15 on, where %.17g does not yet. */
static size_t with_exponent(char *text, size_t len)
{
    char digits[NUMBER_BYTES];
    size_t sign = text[0] == '-', count = 0, whole = 0;
    for (size_t i = sign; i < len; i++) {
        if (text[i] == '.')
            whole = count;
        else
            digits[count++] = text[i];
    }
    if (whole == 0)
        whole = count;
    while (count > 1 && digits[count - 1] == '0')
        count--;
    size_t at = sign;
    text[at++] = digits[0];
    if (count > 1) {
        text[at++] = '.';
        memcpy(text + at, digits + 1, count - 1);
        at += count - 1;
    }
    return at + (size_t)snprintf(text + at, NUMBER_BYTES - at, "e+%02zu", whole - 1);
}

size_t number_plain(char *text, double x)
{
    size_t len = number_general(text, x);
    if (fabs(x) >= 1e15 && !memchr(text, 'e', len))
        return with_exponent(text, len);
    return len;
}
