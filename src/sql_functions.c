#include "sql_functions.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum {
    LEVEL = 1,        /* the next ones save a few percent, and take their time */
    SMALL = 2048,     /* bytes; below that, entropy coding takes most of the time, both ways, */
    SMALL_LEVEL = -1, /* and this level does without */
    WORTHWHILE = 64,  /* bytes; below that a frame saves nothing */
    DIGEST = 32,
};

/* One connection's. */
struct contexts {
    int functions;  /* that refer to it */
    EVP_MD *sha256; /* owned, as are the others; NULL until needed */
    EVP_MD_CTX *hash;
    ZSTD_CCtx *pack;
    ZSTD_DCtx *unpack;
};

static void release(void *ctx)
{
    struct contexts *c = ctx;
    if (--c->functions > 0)
        return;
    EVP_MD_CTX_free(c->hash);
    EVP_MD_free(c->sha256);
    ZSTD_freeCCtx(c->pack);
    ZSTD_freeDCtx(c->unpack);
    free(c);
}

/* The bytes of an argument, which are "" rather than NULL when there are none. */
static const void *bytes_of(sqlite3_value *value, size_t *len)
{
    const void *data = sqlite3_value_blob(value);
    *len = (size_t)sqlite3_value_bytes(value);
    return data ? data : "";
}

static bool ready_to_hash(struct contexts *c)
{
    if (!c->sha256)
        c->sha256 = EVP_MD_fetch(NULL, "SHA2-256", NULL);
    if (!c->hash)
        c->hash = EVP_MD_CTX_new();
    return c->sha256 && c->hash;
}

static void sha256(sqlite3_context *sql, int argc, sqlite3_value **argv)
{
    struct contexts *c = sqlite3_user_data(sql);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    size_t len;
    (void)argc;
    const void *data = bytes_of(argv[0], &len);
    if (!ready_to_hash(c) || !EVP_DigestInit_ex2(c->hash, c->sha256, NULL) ||
        !EVP_DigestUpdate(c->hash, data, len) || !EVP_DigestFinal_ex(c->hash, digest, &size)) {
        ERR_clear_error();
        sqlite3_result_error(sql, "OpenSSL cannot make a hash", -1);
        return;
    }
    sqlite3_result_blob(sql, digest, DIGEST, SQLITE_TRANSIENT);
}

static void zstd(sqlite3_context *sql, int argc, sqlite3_value **argv)
{
    struct contexts *c = sqlite3_user_data(sql);
    size_t len;
    (void)argc;
    const void *data = bytes_of(argv[0], &len);
    if (len < WORTHWHILE) {
        sqlite3_result_blob64(sql, data, len, SQLITE_TRANSIENT);
        return;
    }
    if (!c->pack)
        c->pack = ZSTD_createCCtx();
    /* Without room for a frame that is not smaller, there will be none. */
    void *frame = c->pack ? malloc(len) : NULL;
    if (!frame) {
        sqlite3_result_error_nomem(sql);
        return;
    }
    size_t size =
        ZSTD_compressCCtx(c->pack, frame, len - 1, data, len, len < SMALL ? SMALL_LEVEL : LEVEL);
    if (ZSTD_isError(size)) {
        free(frame);
        sqlite3_result_blob64(sql, data, len, SQLITE_TRANSIENT);
        return;
    }
    sqlite3_result_blob64(sql, frame, size, free);
}

static void unzstd(sqlite3_context *sql, int argc, sqlite3_value **argv)
{
    struct contexts *c = sqlite3_user_data(sql);
    size_t len;
    (void)argc;
    const void *data = bytes_of(argv[0], &len);
    sqlite3_int64 size = sqlite3_value_int64(argv[1]);
    if (sqlite3_value_type(argv[0]) == SQLITE_NULL || size < 0 ||
        size > sqlite3_limit(sqlite3_context_db_handle(sql), SQLITE_LIMIT_LENGTH, -1)) {
        sqlite3_result_null(sql);
        return;
    }
    if (len == (size_t)size) {
        sqlite3_result_value(sql, argv[0]);
        return;
    }
    /* What the frame says of its size is checked before anything of it is allocated. */
    if (ZSTD_getFrameContentSize(data, len) != (unsigned long long)size) {
        sqlite3_result_null(sql);
        return;
    }
    if (!c->unpack)
        c->unpack = ZSTD_createDCtx();
    void *body = c->unpack ? malloc((size_t)size + 1) : NULL;
    if (!body) {
        sqlite3_result_error_nomem(sql);
        return;
    }
    if (ZSTD_decompressDCtx(c->unpack, body, (size_t)size, data, len) != (size_t)size) {
        free(body);
        sqlite3_result_null(sql);
        return;
    }
    sqlite3_result_blob64(sql, body, (sqlite3_uint64)size, free);
}

int sql_functions_add(sqlite3 *db)
{
    static const struct {
        const char *name;
        int args;
        void (*fn)(sqlite3_context *, int, sqlite3_value **);
    } functions[] = {{"sha256", 1, sha256}, {"zstd", 1, zstd}, {"unzstd", 2, unzstd}};
    /* Triggers call them: innocuous, as nothing is touched but the arguments. */
    const int flags = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS;
    struct contexts *c = calloc(1, sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    c->functions = 1; /* ours, until all are there */
    int rc = SQLITE_OK;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0] && rc == SQLITE_OK; i++) {
        c->functions++; /* which SQLite takes back when it fails, too */
        rc = sqlite3_create_function_v2(db, functions[i].name, functions[i].args, flags, c,
                                        functions[i].fn, NULL, NULL, release);
    }
    release(c);
    return rc;
}
