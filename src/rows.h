/*
 * Rows of a table on their way from Lua to a database's thread: packed into one text, without an
 * allocation a value.
 *
 * A row is its number of fields (16 bits) and the fields; a field the number of its column, from 1
 * (16 bits), a tag (8 bits) and the value. Columns that a row has no field of are NULL. The bytes
 * may come from a file, so the reader trusts none of them.
 */
#ifndef ROWS_H
#define ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes;

enum rows_tag { ROWS_FALSE, ROWS_TRUE, ROWS_NUMBER, ROWS_TEXT, ROWS_JSON };

enum { ROWS_COLUMNS = 2000 }; /* at most; PostgreSQL takes 1600 */

/* What a column holds, a letter in a text that has one for each of them. */
enum rows_kind {
    ROWS_NONE = '-', /* there is no such column */
    ROWS_BOOLEAN = 'b',
    ROWS_INTEGER = 'i',
    ROWS_REAL = 'r',
    ROWS_STRING = 't',
    ROWS_DOCUMENT = 'j', /* whatever it is, as JSON */
    ROWS_OTHER = 'o',    /* whatever it is, as the database likes it */
};

struct rows_value {
    enum rows_tag tag;
    double number;    /* ROWS_NUMBER */
    const char *data; /* ROWS_TEXT, ROWS_JSON; borrowed from the packed text */
    size_t len;
};

/* Appends a row without fields; returns 0, or what bytes_reserve returns. */
int rows_add(struct bytes *packed);

/* Appends a field to the last row, which began at `row` bytes. Returns the same; -E2BIG for a value
 * of 4 GB. */
int rows_add_field(struct bytes *packed, size_t row, unsigned column,
                   const struct rows_value *value);

struct rows_reader {
    const char *p, *end; /* borrowed */
    unsigned fields;     /* of the row, that were not read yet */
};

/* The next row; false at the end, and when the text is damaged: then `p` is not `end`. */
bool rows_next(struct rows_reader *r);

/* The next field of the row, in a column up to `columns`; false when there is none, and when the
 * text is damaged: then `fields` is not 0. */
bool rows_field(struct rows_reader *r, unsigned columns, unsigned *column,
                struct rows_value *value);

/* Appends the JSON text of a value. */
int rows_put_json(struct bytes *text, const struct rows_value *value);

/* Appends a number: as an integer when it is a whole one up to 2^53; else the shortest text that
 * gives it again. `plain`: as PostgreSQL turns it to text; otherwise as JSON. */
int rows_put_number(struct bytes *text, double x, bool plain);

/* Whether a text is a decimal integer of 64 bits. */
bool rows_integer(const char *data, size_t len, int64_t *out);

#endif
