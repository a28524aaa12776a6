/*
 * Packed rows (rows.h) into a table of a SQLite database.
 */
#ifndef INSERT_H
#define INSERT_H

#include <stddef.h>

struct database;

/* Runs a statement for each row: its parameters ?1, ?2, … are the columns, whose kinds those of
 * `kinds` are. Returns 0 or SQLite's code; SQLITE_FORMAT for rows that are damaged. */
int insert_packed(struct database *d, const char *sql, const char *kinds, const char *packed,
                  size_t len);

#endif
