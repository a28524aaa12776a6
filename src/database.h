/*
 * A connection to a SQLite database: what has to be right before it is used, and the prepared
 * statements it keeps. Nothing here knows of threads; a connection belongs to one at a time.
 */
#ifndef DATABASE_H
#define DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DATABASE_CACHED = 64,    /* prepared statements that are kept */
    DATABASE_BUSY_MS = 10000 /* how long one waits for other processes */
};

struct database {
    sqlite3 *db; /* owned; NULL when it is not open */
    char *path;  /* owned; absolute */
    struct database_statement {
        char *sql;             /* owned */
        sqlite3_stmt *stmt;    /* owned */
    } cached[DATABASE_CACHED]; /* the most recently used first */
    size_t count;
    bool leave_wal; /* when it is closed */
};

struct database_options {
    bool durable;   /* a commit has reached the disk; else power loss may undo the last, in order */
    bool mine;      /* the program's own: mode 0600, and there are no empty ones */
    bool output;    /* somebody else's: see database_open */
    int busy_ms;    /* how long a transaction waits for other processes; 0: DATABASE_BUSY_MS */
    bool functions; /* SQL may call those of sql_functions.h */
    bool snapshots; /* of store_read: see store_rest */
    bool shrinks;   /* a new one can give pages back to the system (PRAGMA incremental_vacuum) */
    int32_t application_id;        /* PRAGMA application_id; 0 is any */
    const char *const *migrations; /* borrowed during the open: SQL, the i-th from version i on */
    size_t version;                /* how many they are: PRAGMA user_version */
};

/* Why a database was not opened. */
enum database_refusal {
    DATABASE_OPENED,
    DATABASE_FAILED, /* the system or SQLite says no */
    DATABASE_READ_ONLY,
    DATABASE_NOT_ONE, /* it is something else */
    DATABASE_CORRUPT, /* or cut off */
    DATABASE_FOREIGN, /* another program's */
    DATABASE_NEWER,   /* a later version's */
    DATABASE_BUSY,    /* another process keeps it */
};

/*
 * Opens the database at `path`, in WAL mode, or makes it: whole or not at all, so a file without a
 * page is one that was cut off. An older one is brought to `version` in one transaction. A symbolic
 * link is refused (in its directory's path they are followed), as is all that the options rule out.
 *
 * An `output` has its journal mode back when it is closed (that of a new one is DELETE: a single
 * file), foreign keys are not enforced, as SQLite itself does not unless it is told to, a table is
 * renamed without regard to views, and there are two functions: orchestrator_text(v), a number as a
 * text that gives it again; orchestrator_check(v, message), which fails unless v.
 *
 * Returns DATABASE_OPENED, or why not with the details in `why`.
 */
enum database_refusal database_open(struct database *d, const char *path,
                                    const struct database_options *options, char *why, size_t size);

/* A read-only connection to a database that is open, by its absolute path. Returns 0 or SQLite's
 * code; either way it is to be closed. */
int database_open_reader(struct database *d, const char *path, bool functions);

void database_close(struct database *d);

/* The prepared statement of one SQL text, from those that are kept or added to them. Borrowed until
 * the next call. Returns 0 or SQLite's code. */
int database_prepare(struct database *d, const char *sql, sqlite3_stmt **out);

/* Runs a statement that takes nothing and gives nothing. Returns 0 or SQLite's code. */
int database_run(struct database *d, const char *sql);

/* What is known about an error, valid until the next call. */
const char *database_message(const struct database *d, int rc);

/* One word for it: "full", "busy", "constraint" … */
const char *database_code(int rc);

/* "read_only", "newer" … */
const char *database_refusal_name(enum database_refusal refusal);

#endif
