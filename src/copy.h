/*
 * Packed rows (rows.h) to what PostgreSQL's COPY takes: its text format, which any type can be read
 * from, or its binary one, for the types that we make columns of.
 */
#ifndef COPY_H
#define COPY_H

#include "bytes.h"
#include "rows.h"

struct copy {
    struct bytes line; /* what is to be sent; emptied by who sends it */
    struct bytes text; /* working memory */
    /* Of the row, by column from 0. */
    struct rows_value *values; /* owned array of ROWS_COLUMNS */
    unsigned *present;         /* owned array of as many: the number of the row that has it */
    const char *kinds;         /* borrowed from copy_begin on */
    unsigned columns, number;
    bool binary;
};

/* Returns 0 or -ENOMEM; either way it is to be deinitialised. */
int copy_init(struct copy *c);
void copy_deinit(struct copy *c);

/* Begins anew. The columns of no kind are left out; `binary` wants the kinds of columns that are
 * ours. Returns 0, -EINVAL for too many columns, -ENOMEM. */
int copy_begin(struct copy *c, const char *kinds, bool binary);

/* Appends the row that the reader is at. Returns 0; -EINVAL when it is damaged, or a value is not
 * of its column's kind; -ENOMEM. */
int copy_row(struct copy *c, struct rows_reader *r);

/* Appends what comes behind the last row. Returns 0 or -ENOMEM. */
int copy_end(struct copy *c);

#endif
