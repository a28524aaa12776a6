/*
 * What our SQL may call, on connections that ask for it (database.h):
 *
 *   sha256(x)        the digest, 32 bytes
 *   zstd(x)          the bytes of x compressed, or as they are when that is not smaller
 *   unzstd(x, size)  what zstd() was given, of that size; NULL when x cannot come from it
 *
 * Each connection has contexts of its own, made when they are first needed.
 */
#ifndef SQL_FUNCTIONS_H
#define SQL_FUNCTIONS_H

#include "database.h"

/* Returns 0 or SQLite's code. The connection owns what this allocates. */
int sql_functions_add(sqlite3 *db);

#endif
