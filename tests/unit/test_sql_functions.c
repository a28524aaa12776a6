#include "store_fixture.h"

#include <limits.h>
#include <zstd.h>

/* What a statement gives for two parameters, in memory of malloc's; NULL for NULL, and the length
 * -1 for an error. */
static char *ask(struct database *d, const char *sql, const void *data, size_t len, int64_t size,
                 long *out)
{
    sqlite3_stmt *stmt;
    char *copy = NULL;
    assert_int_equal(database_prepare(d, sql, &stmt), SQLITE_OK);
    assert_int_equal(sqlite3_bind_blob64(stmt, 1, data ? data : "", len, SQLITE_STATIC), SQLITE_OK);
    if (sqlite3_bind_parameter_count(stmt) > 1)
        assert_int_equal(sqlite3_bind_int64(stmt, 2, size), SQLITE_OK);
    *out = -1;
    if (sqlite3_step(stmt) == SQLITE_ROW) {
        *out = sqlite3_column_bytes(stmt, 0);
        if (sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
            copy = malloc((size_t)*out + 1);
            assert_non_null(copy);
            if (*out)
                memcpy(copy, sqlite3_column_blob(stmt, 0), (size_t)*out);
        }
    }
    sqlite3_reset(stmt);
    return copy;
}

static void open_with(struct database *d, struct fixture *f)
{
    struct database_options options = plain;
    options.functions = true;
    if (database_open(d, f->path, &options, f->why, sizeof f->why) != DATABASE_OPENED)
        fail_msg("%s", f->why);
}

static void hashes_are_those_of_the_standard(void **state)
{
    struct database d;
    long len;
    open_with(&d, *state);
    for (int i = 0; i < 2; i++) { /* the context is used again */
        char *hex = ask(&d, "SELECT hex(sha256(?1))", "abc", 3, 0, &len);
        assert_memory_equal(hex, "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
                            64);
        free(hex);
        hex = ask(&d, "SELECT hex(sha256(?1))", "", 0, 0, &len);
        assert_memory_equal(hex, "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
                            64);
        free(hex);
    }
    database_close(&d);
}

static void what_is_packed_comes_back(void **state)
{
    struct database d;
    open_with(&d, *state);
    unsigned seed = 7;
    for (size_t size = 0; size < 300000; size = size * 3 + 1) {
        for (int kind = 0; kind < 3; kind++) { /* of one letter, of few, of all bytes */
            char *body = malloc(size + 1);
            assert_non_null(body);
            for (size_t i = 0; i < size; i++) {
                seed = seed * 1664525 + 1013904223;
                body[i] = kind == 0 ? 'a' : (char)(kind == 1 ? 'a' + (seed >> 29) : seed >> 24);
            }
            long packed, len;
            char *frame = ask(&d, "SELECT zstd(?1)", body, size, 0, &packed);
            assert_non_null(frame);
            assert_true(packed <= (long)size);
            if (kind == 0 && size > 100)
                assert_true(packed < (long)size / 2);
            if (kind == 2)
                assert_int_equal(packed, size); /* as it is */
            char *back =
                ask(&d, "SELECT unzstd(?1, ?2)", frame, (size_t)packed, (int64_t)size, &len);
            assert_int_equal(len, size);
            assert_memory_equal(back, body, size);
            free(back);
            free(frame);
            free(body);
        }
    }
    database_close(&d);
}

/* Neither crashes, nor gives anything but NULL or something of the size that was asked for. */
static void nothing_comes_of_what_is_spoilt(void **state)
{
    struct database d;
    char body[4096];
    long packed, len;
    open_with(&d, *state);
    for (size_t i = 0; i < sizeof body; i++)
        body[i] = (char)('a' + i % 17 + i % 5);
    char *frame = ask(&d, "SELECT zstd(?1)", body, sizeof body, 0, &packed);
    assert_true(packed < 1000);

    static const int64_t sizes[] = {0, 1, 4095, 4097, -1, INT64_MIN, INT64_MAX, INT64_C(1) << 32};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_null(ask(&d, "SELECT unzstd(?1, ?2)", frame, (size_t)packed, sizes[i], &len));
    for (long cut = 0; cut < packed; cut++)
        assert_null(ask(&d, "SELECT unzstd(?1, ?2)", frame, (size_t)cut, 4096, &len));
    for (long at = 0; at < packed; at++) {
        frame[at] ^= 0x20;
        char *back = ask(&d, "SELECT unzstd(?1, ?2)", frame, (size_t)packed, 4096, &len);
        if (back)
            assert_int_equal(len, 4096);
        free(back);
        frame[at] ^= 0x20;
    }
    /* The header tells a size, and the rest is of another. */
    memset(body, 'b', sizeof body);
    char lie[256];
    size_t size = ZSTD_compress(lie, sizeof lie, body, 300, 1);
    assert_false(ZSTD_isError(size));
    assert_int_equal(ZSTD_getFrameContentSize(lie, size), 300);
    assert_null(ask(&d, "SELECT unzstd(?1, ?2)", lie, size, 301, &len));
    lie[5]++; /* the second byte of that size */
    assert_int_equal(ZSTD_getFrameContentSize(lie, size), 301);
    assert_null(ask(&d, "SELECT unzstd(?1, ?2)", lie, size, 301, &len));
    assert_null(ask(&d, "SELECT unzstd(NULL, ?2)", "", 0, 0, &len));
    free(frame);
    database_close(&d);
}

/* Without the option there are none, also none left of another connection. */
static void they_are_for_those_who_ask(void **state)
{
    struct fixture *f = *state;
    struct database d, reader, other;
    sqlite3_stmt *stmt;
    open_with(&d, f);
    assert_int_equal(database_open(&other, f->path, &plain, f->why, sizeof f->why),
                     DATABASE_OPENED);
    assert_int_equal(database_prepare(&other, "SELECT sha256('')", &stmt), SQLITE_ERROR);
    assert_int_equal(database_open_reader(&reader, d.path, true), SQLITE_OK);
    assert_int_equal(database_prepare(&reader, "SELECT sha256('')", &stmt), SQLITE_OK);
    database_close(&reader);
    database_close(&other);
    database_close(&d);
}

static void a_trigger_may_call_them(void **state)
{
    struct database d;
    long len;
    open_with(&d, *state);
    assert_int_equal(database_run(&d, "CREATE TRIGGER hashed AFTER INSERT ON t BEGIN "
                                      "UPDATE t SET v = sha256(new.v) WHERE k = new.k; END"),
                     SQLITE_OK);
    assert_int_equal(database_run(&d, "INSERT INTO t(v) VALUES('abc')"), SQLITE_OK);
    char *hash = ask(&d, "SELECT v FROM t WHERE v = sha256(?1)", "abc", 3, 0, &len);
    assert_int_equal(len, 32);
    free(hash);
    database_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(hashes_are_those_of_the_standard), TEST(what_is_packed_comes_back),
        TEST(nothing_comes_of_what_is_spoilt),  TEST(they_are_for_those_who_ask),
        TEST(a_trigger_may_call_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
