#include "insert.h"

#include "bytes.h"
#include "database.h"
#include "rows.h"

#include <math.h>
#include <string.h>

/* Binds a value as its column has it. What SQLite has no type for is a number or a text: booleans 0
 * and 1, objects and lists JSON. `text` is working memory. */
static int bind_value(sqlite3_stmt *stmt, int at, char kind, const struct rows_value *v,
                      struct bytes *text)
{
    int64_t integer;
    bool is_text = v->tag == ROWS_TEXT || v->tag == ROWS_JSON;
    bytes_clear(text);
    if (kind == ROWS_DOCUMENT && v->tag != ROWS_JSON) {
        if (rows_put_json(text, v))
            return SQLITE_NOMEM;
    } else if (kind == ROWS_STRING && !is_text) {
        double number = v->tag == ROWS_NUMBER ? v->number : v->tag == ROWS_TRUE;
        if (rows_put_number(text, number, true))
            return SQLITE_NOMEM;
    } else if (is_text) {
        if (kind == ROWS_INTEGER && rows_integer(v->data, v->len, &integer))
            return sqlite3_bind_int64(stmt, at, integer);
        return sqlite3_bind_text64(stmt, at, v->len ? v->data : "", v->len, SQLITE_STATIC,
                                   SQLITE_UTF8);
    } else if (v->tag != ROWS_NUMBER) {
        return sqlite3_bind_int(stmt, at, v->tag == ROWS_TRUE);
    } else if (kind != ROWS_REAL && fabs(v->number) <= 0x1p53 && v->number == floor(v->number)) {
        return sqlite3_bind_int64(stmt, at, (int64_t)v->number);
    } else {
        return sqlite3_bind_double(stmt, at, v->number);
    }
    return sqlite3_bind_text64(stmt, at, text->data, text->len, SQLITE_TRANSIENT, SQLITE_UTF8);
}

static int bind_packed(sqlite3_stmt *stmt, struct rows_reader *r, const char *kinds,
                       unsigned columns, struct bytes *text)
{
    struct rows_value value;
    unsigned column;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && rows_field(r, columns, &column, &value))
        rc = bind_value(stmt, (int)column, kinds[column - 1], &value, text);
    return rc == SQLITE_OK && r->fields > 0 ? SQLITE_FORMAT : rc;
}

int insert_packed(struct database *d, const char *sql, const char *kinds, const char *packed,
                  size_t len)
{
    sqlite3_stmt *stmt;
    int rc = database_prepare(d, sql, &stmt);
    if (rc != SQLITE_OK)
        return rc;
    struct bytes text;
    struct rows_reader r = {.p = packed, .end = packed + len};
    unsigned columns = (unsigned)strlen(kinds);
    bytes_init(&text, 0);
    while (rc == SQLITE_OK && rows_next(&r)) {
        rc = bind_packed(stmt, &r, kinds, columns, &text);
        if (rc == SQLITE_OK)
            while ((rc = sqlite3_step(stmt)) == SQLITE_ROW)
                ;
        if (rc == SQLITE_DONE)
            rc = SQLITE_OK;
        (void)sqlite3_reset(stmt); /* it repeats the error of the step */
        (void)sqlite3_clear_bindings(stmt);
    }
    if (rc == SQLITE_OK && r.p != r.end)
        rc = SQLITE_FORMAT;
    bytes_deinit(&text);
    return rc;
}
