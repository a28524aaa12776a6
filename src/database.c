#include "database.h"

#include "number.h"
#include "sql_functions.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    SMALLEST = 512,            /* bytes: the least that a page has */
    CHECKED = 4 * 1024 * 1024, /* a file up to this size is looked through when it is opened */
    LOCK_STEP_MS = 10,
};

/* What an open is about. */
struct opening {
    const struct database_options *options;
    char *directory; /* owned; without symbolic links, which SQLite refuses anywhere in a path */
    char *path;      /* owned */
    int lock;        /* descriptor of the directory, whose lock lets one process open at a time */
    char *why;
    size_t size;
};

/* Statements ---------------------------------------------------------------------------------- */

int database_prepare(struct database *d, const char *sql, sqlite3_stmt **out)
{
    for (size_t i = 0; i < d->count; i++) {
        if (strcmp(d->cached[i].sql, sql) != 0)
            continue;
        struct database_statement hit = d->cached[i];
        memmove(&d->cached[1], &d->cached[0], i * sizeof d->cached[0]);
        d->cached[0] = hit;
        *out = hit.stmt;
        return SQLITE_OK;
    }
    struct database_statement made = {.sql = strdup(sql)};
    if (!made.sql)
        return SQLITE_NOMEM;
    const char *tail = "";
    int rc = sqlite3_prepare_v3(d->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &made.stmt, &tail);
    if (rc == SQLITE_OK && (!made.stmt || tail[strspn(tail, " \t\r\n;")]))
        rc = SQLITE_MISUSE; /* nothing, or more than one */
    if (rc != SQLITE_OK) {
        sqlite3_finalize(made.stmt);
        free(made.sql);
        return rc;
    }
    if (d->count == DATABASE_CACHED) {
        d->count--;
        sqlite3_finalize(d->cached[d->count].stmt);
        free(d->cached[d->count].sql);
    }
    memmove(&d->cached[1], &d->cached[0], d->count * sizeof d->cached[0]);
    d->cached[0] = made;
    d->count++;
    *out = made.stmt;
    return SQLITE_OK;
}

int database_run(struct database *d, const char *sql)
{
    sqlite3_stmt *stmt;
    int rc = database_prepare(d, sql, &stmt);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
        ;
    sqlite3_reset(stmt);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

const char *database_message(const struct database *d, int rc)
{
    /* The connection tells more, if its last error is the one that is asked for. */
    return d->db && sqlite3_extended_errcode(d->db) == rc ? sqlite3_errmsg(d->db)
                                                          : sqlite3_errstr(rc);
}

const char *database_code(int rc)
{
    if (rc == SQLITE_READONLY_DBMOVED)
        return "moved";
    switch (rc & 0xff) {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return "busy";
    case SQLITE_FULL:
        return "full";
    case SQLITE_CONSTRAINT:
        return "constraint";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return "corrupt";
    case SQLITE_READONLY:
        return "read_only";
    case SQLITE_NOMEM:
        return "out_of_memory";
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
        return "io";
    default:
        return "error";
    }
}

const char *database_refusal_name(enum database_refusal refusal)
{
    switch (refusal) {
    case DATABASE_READ_ONLY:
        return "read_only";
    case DATABASE_NOT_ONE:
        return "not_a_database";
    case DATABASE_CORRUPT:
        return "corrupt";
    case DATABASE_FOREIGN:
        return "foreign";
    case DATABASE_NEWER:
        return "newer";
    case DATABASE_BUSY:
        return "busy";
    default:
        return "failed";
    }
}

/* Refusals ------------------------------------------------------------------------------------ */

__attribute__((format(printf, 3, 4))) static enum database_refusal
refuse(struct opening *o, enum database_refusal refusal, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(o->why, o->size, format, args);
    va_end(args);
    return refusal;
}

static enum database_refusal refuse_errno(struct opening *o, int error)
{
    bool denied = error == EACCES || error == EPERM || error == EROFS;
    return refuse(o, denied ? DATABASE_READ_ONLY : DATABASE_FAILED, "%s", strerror(error));
}

static enum database_refusal refuse_sqlite(struct opening *o, const struct database *d, int rc)
{
    int error = d->db ? sqlite3_system_errno(d->db) : 0;
    switch (rc & 0xff) {
    case SQLITE_NOTADB:
        return refuse(o, DATABASE_NOT_ONE, "%s", database_message(d, rc));
    case SQLITE_CORRUPT:
        return refuse(o, DATABASE_CORRUPT, "%s", database_message(d, rc));
    case SQLITE_READONLY:
        return refuse(o, DATABASE_READ_ONLY, "%s", database_message(d, rc));
    case SQLITE_BUSY:
        return refuse(o, DATABASE_BUSY, "%s", database_message(d, rc));
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
    case SQLITE_PERM:
        if (error)
            return refuse_errno(o, error);
    }
    return refuse(o, DATABASE_FAILED, "%s", database_message(d, rc));
}

/* Connecting ---------------------------------------------------------------------------------- */

static int exec(struct database *d, const char *sql)
{
    return sqlite3_exec(d->db, sql, NULL, NULL, NULL);
}

static int integer(struct database *d, const char *sql, int *out)
{
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(d->db, sql, -1, &stmt, NULL);
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(stmt);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int(stmt, 0);
    sqlite3_finalize(stmt);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int connect_to(struct database *d, const char *path, int flags, int busy_ms, bool functions)
{
    *d = (struct database){.path = strdup(path)};
    if (!d->path)
        return SQLITE_NOMEM;
    flags |= SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE;
    int rc = sqlite3_open_v2(path, &d->db, flags, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_busy_timeout(d->db, busy_ms);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(d->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(d->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(d->db, SQLITE_DBCONFIG_ENABLE_FKEY, 1, NULL);
    if (rc == SQLITE_OK)
        rc = exec(d, "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY");
    if (rc == SQLITE_OK && functions)
        rc = sql_functions_add(d->db);
    return rc;
}

/* Unless others have it open. */
static void leave_wal(struct database *d)
{
    if (d->leave_wal && sqlite3_busy_timeout(d->db, 0) == SQLITE_OK)
        (void)exec(d, "PRAGMA journal_mode=DELETE");
}

void database_close(struct database *d)
{
    for (size_t i = 0; i < d->count; i++) {
        sqlite3_finalize(d->cached[i].stmt);
        free(d->cached[i].sql);
    }
    leave_wal(d);
    (void)sqlite3_close(d->db); /* which fails for statements only that were not finalized */
    free(d->path);
    *d = (struct database){0};
}

int database_open_reader(struct database *d, const char *path, bool functions)
{
    enum { PATIENCE_MS = 200 }; /* it is used where nobody may wait */
    return connect_to(d, path, SQLITE_OPEN_READONLY, PATIENCE_MS, functions);
}

/* Outputs ------------------------------------------------------------------------------------- */

static void sql_text(sqlite3_context *context, int count, sqlite3_value **values)
{
    char text[NUMBER_BYTES];
    if (count != 1 || sqlite3_value_type(values[0]) != SQLITE_FLOAT) {
        sqlite3_result_value(context, values[0]);
        return;
    }
    size_t len = number_plain(text, sqlite3_value_double(values[0]));
    sqlite3_result_text(context, text, (int)len, SQLITE_TRANSIENT);
}

static void sql_check(sqlite3_context *context, int count, sqlite3_value **values)
{
    if (count == 2 && sqlite3_value_int(values[0]))
        sqlite3_result_int(context, 1);
    else
        sqlite3_result_error(context, (const char *)sqlite3_value_text(values[count - 1]), -1);
}

static int text_of(struct database *d, const char *sql, char *text, size_t size)
{
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(d->db, sql, -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *found = (const char *)sqlite3_column_text(stmt, 0);
        snprintf(text, size, "%s", found ? found : "");
        rc = SQLITE_OK;
    }
    sqlite3_finalize(stmt);
    return rc;
}

static int set_up_output(struct database *d)
{
    char mode[16] = "";
    int rc = text_of(d, "PRAGMA journal_mode", mode, sizeof mode);
    if (rc == SQLITE_OK)
        d->leave_wal = strcmp(mode, "wal") != 0;
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(d->db, SQLITE_DBCONFIG_ENABLE_FKEY, 0, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_db_config(d->db, SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, 1, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function_v2(d->db, "orchestrator_text", 1, SQLITE_UTF8, NULL, sql_text,
                                        NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_function_v2(d->db, "orchestrator_check", 2, SQLITE_UTF8, NULL,
                                        sql_check, NULL, NULL, NULL);
    return rc;
}

/* Making and migrating ------------------------------------------------------------------------ */

/* Brings the schema from version `from` to the newest. */
static int migrate(struct database *d, const struct database_options *options, int from)
{
    char sql[64];
    int rc = SQLITE_OK;
    for (size_t i = (size_t)from; i < options->version && rc == SQLITE_OK; i++)
        rc = exec(d, options->migrations[i]);
    if (rc == SQLITE_OK && (size_t)from < options->version) {
        snprintf(sql, sizeof sql, "PRAGMA user_version=%zu", options->version);
        rc = exec(d, sql);
    }
    return rc;
}

static enum database_refusal upgrade(struct opening *o, struct database *d)
{
    int version = 0;
    int rc = exec(d, "BEGIN IMMEDIATE");
    if (rc == SQLITE_OK)
        rc = integer(d, "PRAGMA user_version", &version);
    if (rc == SQLITE_OK)
        rc = migrate(d, o->options, version);
    if (rc == SQLITE_OK)
        rc = exec(d, "COMMIT");
    return rc == SQLITE_OK ? DATABASE_OPENED : refuse_sqlite(o, d, rc);
}

/* SQLite makes the files beside the database with its mode, whatever the umask says. */
static int make_empty(const char *path, mode_t mode)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return -errno;
    close(fd);
    return 0;
}

static void remove_file(const char *path, const char *suffix)
{
    char *name;
    if (asprintf(&name, "%s%s", path, suffix) < 0)
        return;
    unlink(name);
    free(name);
}

/* Makes the database under another name, then gives it its own. */
static enum database_refusal create(struct opening *o)
{
    struct database d = {0};
    char sql[64];
    char *temp;
    if (asprintf(&temp, "%s.new", o->path) < 0)
        return refuse(o, DATABASE_FAILED, "%s", strerror(ENOMEM));
    /* What others left behind when they were killed; a log would be taken for the new one's. */
    remove_file(temp, "");
    remove_file(temp, "-journal");
    remove_file(temp, "-wal");
    remove_file(temp, "-shm");
    remove_file(o->path, "-wal");
    remove_file(o->path, "-shm");
    remove_file(o->path, "-journal");

    enum database_refusal refusal = DATABASE_OPENED;
    int error = make_empty(temp, o->options->mine ? 0600 : 0666);
    if (error) {
        refusal = refuse_errno(o, -error);
        goto done;
    }
    int rc = connect_to(&d, temp, SQLITE_OPEN_READWRITE, DATABASE_BUSY_MS, o->options->functions);
    snprintf(sql, sizeof sql, "PRAGMA application_id=%d", (int)o->options->application_id);
    if (rc == SQLITE_OK && o->options->shrinks) /* which has to be known for the first page */
        rc = exec(&d, "PRAGMA auto_vacuum=INCREMENTAL");
    if (rc == SQLITE_OK)
        rc = exec(&d, "PRAGMA synchronous=FULL; BEGIN IMMEDIATE");
    if (rc == SQLITE_OK)
        rc = exec(&d, sql);
    if (rc == SQLITE_OK)
        rc = migrate(&d, o->options, 0);
    if (rc == SQLITE_OK)
        rc = exec(&d, o->options->output ? "COMMIT" : "COMMIT; PRAGMA journal_mode=WAL");
    if (rc != SQLITE_OK)
        refusal = refuse_sqlite(o, &d, rc);
    database_close(&d);
    if (refusal == DATABASE_OPENED && (rename(temp, o->path) || fsync(o->lock)))
        refusal = refuse_errno(o, errno);
    if (refusal != DATABASE_OPENED)
        remove_file(temp, "");
done:
    free(temp);
    return refusal;
}

/* Opening ------------------------------------------------------------------------------------- */

/* No other process opens or makes a database in this directory meanwhile. */
static enum database_refusal lock_directory(struct opening *o)
{
    o->lock = open(o->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (o->lock < 0)
        return refuse_errno(o, errno);
    for (int waited = 0; flock(o->lock, LOCK_EX | LOCK_NB); waited += LOCK_STEP_MS) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return refuse_errno(o, errno);
        if (waited >= DATABASE_BUSY_MS)
            return refuse(o, DATABASE_BUSY, "another process is opening it");
        usleep(LOCK_STEP_MS * 1000);
    }
    return DATABASE_OPENED;
}

/* Only what is a file can be narrowed; a failure is found out about when it is opened. By name, as
 * closing a descriptor would give up the locks of another connection of this process. */
static void make_private(const struct opening *o)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        struct stat st;
        char *name;
        if (asprintf(&name, "%s%s", o->path, suffixes[i]) < 0)
            return;
        if (lstat(name, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 077))
            (void)chmod(name, st.st_mode & 0700);
        free(name);
    }
}

/* The file as it is found, or made. */
static enum database_refusal examine(struct opening *o)
{
    struct stat st;
    if (lstat(o->path, &st))
        return errno == ENOENT ? create(o) : refuse_errno(o, errno);
    if (S_ISLNK(st.st_mode))
        return refuse(o, DATABASE_FAILED, "it is a symbolic link");
    if (!S_ISREG(st.st_mode))
        return refuse(o, DATABASE_NOT_ONE, "it is no file");
    if (o->options->mine && st.st_size < SMALLEST)
        return refuse(o, DATABASE_CORRUPT, "it was cut off: there are %d bytes", (int)st.st_size);
    if (o->options->mine)
        make_private(o);
    return DATABASE_OPENED;
}

/* Whether the database is one that we know, and whole. Nothing is written to it before that. */
static enum database_refusal judge(struct opening *o, struct database *d, int *version)
{
    int id = 0, pages = 0, page_size = 0;
    int rc = integer(d, "PRAGMA application_id", &id);
    if (rc == SQLITE_OK)
        rc = integer(d, "PRAGMA user_version", version);
    if (rc == SQLITE_OK)
        rc = integer(d, "PRAGMA page_count", &pages);
    if (rc == SQLITE_OK)
        rc = integer(d, "PRAGMA page_size", &page_size);
    if (rc == SQLITE_OK) /* reads the schema */
        rc = integer(d, "SELECT count(*) FROM sqlite_schema", &(int){0});
    if (rc != SQLITE_OK)
        return refuse_sqlite(o, d, rc);
    if (o->options->application_id && id != o->options->application_id)
        return refuse(o, DATABASE_FOREIGN, "its application id is %d", id);
    if (o->options->application_id && (*version < 0 || (size_t)*version > o->options->version))
        return refuse(o, DATABASE_NEWER, "its version is %d, known are those up to %zu", *version,
                      o->options->version);
    if (!o->options->mine || (int64_t)pages * page_size > CHECKED)
        return DATABASE_OPENED;

    sqlite3_stmt *stmt;
    enum database_refusal refusal = DATABASE_OPENED;
    rc = sqlite3_prepare_v2(d->db, "PRAGMA quick_check(1)", -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        const char *line = text ? strrchr(text, '\n') : NULL; /* a title comes before it */
        if (!text)
            text = "out of memory";
        if (strcmp(text, "ok") != 0)
            refusal = refuse(o, DATABASE_CORRUPT, "%s", line ? line + 1 : text);
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_OK)
        refusal = refuse_sqlite(o, d, rc);
    sqlite3_finalize(stmt);
    return refusal;
}

static enum database_refusal set_up(struct opening *o, struct database *d)
{
    sqlite3_stmt *stmt = NULL;
    int version = 0;
    enum database_refusal refusal = judge(o, d, &version);
    if (refusal != DATABASE_OPENED)
        return refusal;
    if (sqlite3_db_readonly(d->db, "main"))
        return refuse(o, DATABASE_READ_ONLY, "%s", strerror(EACCES));
    int rc = o->options->output ? set_up_output(d) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(d->db, "PRAGMA journal_mode=WAL", -1, &stmt, NULL);
    if (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
        const char *mode = (const char *)sqlite3_column_text(stmt, 0);
        if (!mode || strcmp(mode, "wal") != 0)
            refusal = refuse(o, DATABASE_FAILED, "this file system has no shared memory for it");
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_OK)
        refusal = refuse_sqlite(o, d, rc);
    sqlite3_finalize(stmt);
    if (refusal != DATABASE_OPENED)
        return refusal;
    rc = exec(d, o->options->durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL");
    if (rc != SQLITE_OK)
        return refuse_sqlite(o, d, rc);
    return (size_t)version < o->options->version ? upgrade(o, d) : DATABASE_OPENED;
}

/* The directory's real path, and the file's in it. */
static int find_paths(struct opening *o, const char *path)
{
    char *first = strdup(path), *second = strdup(path);
    int rc = -ENOMEM;
    if (first && second) {
        o->directory = realpath(dirname(first), NULL);
        if (!o->directory)
            rc = -errno;
        else if (asprintf(&o->path, "%s/%s", o->directory, basename(second)) < 0)
            o->path = NULL;
        else
            rc = 0;
    }
    free(first);
    free(second);
    return rc;
}

enum database_refusal database_open(struct database *d, const char *path,
                                    const struct database_options *options, char *why, size_t size)
{
    enum { PATIENCE_MS = 50 }; /* nobody may wait where it is called; an output is tried again */
    struct opening o = {.options = options, .lock = -1, .why = why, .size = size};
    enum database_refusal refusal;
    int busy_ms = options->busy_ms ? options->busy_ms : DATABASE_BUSY_MS;
    *d = (struct database){0};
    int rc = find_paths(&o, path);
    if (rc)
        refusal = refuse_errno(&o, -rc);
    else
        refusal = lock_directory(&o);
    if (refusal == DATABASE_OPENED)
        refusal = examine(&o);
    if (refusal == DATABASE_OPENED) {
        rc = connect_to(d, o.path, SQLITE_OPEN_READWRITE, options->output ? PATIENCE_MS : busy_ms,
                        options->functions);
        refusal = rc == SQLITE_OK ? set_up(&o, d) : refuse_sqlite(&o, d, rc);
        if (refusal == DATABASE_OPENED)
            (void)sqlite3_busy_timeout(d->db, busy_ms); /* which cannot fail */
        if (refusal != DATABASE_OPENED)
            database_close(d);
    }
    if (o.lock >= 0)
        close(o.lock); /* and so unlocks it */
    free(o.directory);
    free(o.path);
    return refusal;
}
