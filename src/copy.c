#include "copy.h"

#include <endian.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Escapes a text for COPY's text format. */
static int put_escaped(struct bytes *line, const char *p, size_t len)
{
    const char *end = p + len;
    int rc = bytes_reserve(line, 2 * len);
    if (rc)
        return rc;
    char *to = line->data + line->len;
    for (; p < end; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '\\' || c == '\t' || c == '\n' || c == '\r') {
            *to++ = '\\';
            c = c == '\t' ? 't' : c == '\n' ? 'n' : c == '\r' ? 'r' : c;
        }
        *to++ = (char)c;
    }
    line->len = (size_t)(to - line->data);
    return 0;
}

static int put_value(struct copy *c, char kind, const struct rows_value *v)
{
    if (kind == ROWS_DOCUMENT && v->tag == ROWS_TEXT) {
        bytes_clear(&c->text);
        int rc = rows_put_json(&c->text, v);
        return rc ? rc : put_escaped(&c->line, c->text.data, c->text.len);
    }
    switch (v->tag) {
    case ROWS_TEXT:
    case ROWS_JSON:
        return put_escaped(&c->line, v->data, v->len);
    case ROWS_NUMBER:
        return rows_put_number(&c->line, v->number, kind == ROWS_STRING);
    default:
        return rows_put_json(&c->line, v);
    }
}

static int put_field(struct copy *c, char kind, const struct rows_value *v, bool first)
{
    int rc = first ? 0 : bytes_append(&c->line, "\t", 1);
    if (rc)
        return rc;
    return v ? put_value(c, kind, v) : bytes_append(&c->line, "\\N", 2);
}

static bool to_integer(const struct rows_value *v, int64_t *out)
{
    if (v->tag == ROWS_TEXT)
        return rows_integer(v->data, v->len, out);
    if (v->tag != ROWS_NUMBER || fabs(v->number) > 0x1p53 || v->number != floor(v->number))
        return false;
    *out = (int64_t)v->number;
    return true;
}

/* COPY's binary format. A field is its size and its value, in network order (PostgreSQL's manual,
 * "COPY", Binary Format; the values as the types' receive functions want them). */
static int put_binary(struct copy *c, char kind, const struct rows_value *v)
{
    uint64_t word;
    uint32_t size;
    int64_t integer;
    size_t at = c->line.len;
    int rc = bytes_reserve(&c->line, 16);
    if (rc)
        return rc;
    c->line.len += sizeof size;
    if (kind == ROWS_BOOLEAN && v->tag <= ROWS_TRUE) {
        c->line.data[c->line.len++] = v->tag == ROWS_TRUE;
    } else if (kind == ROWS_INTEGER && to_integer(v, &integer)) {
        word = htobe64((uint64_t)integer);
        memcpy(c->line.data + c->line.len, &word, sizeof word);
        c->line.len += sizeof word;
    } else if (kind == ROWS_REAL && v->tag == ROWS_NUMBER) {
        memcpy(&word, &v->number, sizeof word);
        word = htobe64(word);
        memcpy(c->line.data + c->line.len, &word, sizeof word);
        c->line.len += sizeof word;
    } else if (kind == ROWS_DOCUMENT) {
        c->line.data[c->line.len++] = 1; /* the version of jsonb's format */
        rc = rows_put_json(&c->line, v);
    } else if (kind == ROWS_STRING && (v->tag == ROWS_TEXT || v->tag == ROWS_JSON)) {
        rc = bytes_append(&c->line, v->data, v->len);
    } else if (kind == ROWS_STRING) {
        rc = v->tag == ROWS_NUMBER ? rows_put_number(&c->line, v->number, true)
                                   : rows_put_json(&c->line, v);
    } else {
        rc = -EINVAL;
    }
    size = htobe32((uint32_t)(c->line.len - at - sizeof size));
    memcpy(c->line.data + at, &size, sizeof size);
    return rc;
}

static int put_binary_field(struct copy *c, char kind, const struct rows_value *v)
{
    return v ? put_binary(c, kind, v) : bytes_append(&c->line, "\xff\xff\xff\xff", 4);
}

int copy_row(struct copy *c, struct rows_reader *r)
{
    struct rows_value value;
    unsigned column, copied = 0;
    c->number++;
    while (rows_field(r, c->columns, &column, &value)) {
        c->values[column - 1] = value;
        c->present[column - 1] = c->number;
    }
    int rc = r->fields > 0 ? -EINVAL : 0;
    size_t at = c->line.len;
    if (rc == 0 && c->binary)
        rc = bytes_append(&c->line, "\0\0", 2); /* the number of fields, filled in below */
    for (unsigned i = 0; i < c->columns && rc == 0; i++) {
        char kind = c->kinds[i];
        if (kind == ROWS_NONE)
            continue;
        const struct rows_value *v = c->present[i] == c->number ? &c->values[i] : NULL;
        rc = c->binary ? put_binary_field(c, kind, v) : put_field(c, kind, v, copied == 0);
        copied++;
    }
    if (rc || !c->binary)
        return rc ? rc : bytes_append(&c->line, "\n", 1);
    uint16_t fields = htobe16((uint16_t)copied);
    memcpy(c->line.data + at, &fields, sizeof fields);
    return 0;
}

int copy_begin(struct copy *c, const char *kinds, bool binary)
{
    static const char head[] = "PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    memset(c->present, 0, ROWS_COLUMNS * sizeof *c->present);
    bytes_clear(&c->line);
    c->kinds = kinds;
    c->columns = (unsigned)strlen(kinds);
    c->binary = binary;
    c->number = 0;
    if (c->columns > ROWS_COLUMNS)
        return -EINVAL;
    return binary ? bytes_append(&c->line, head, sizeof head - 1) : 0;
}

int copy_end(struct copy *c)
{
    return c->binary ? bytes_append(&c->line, "\xff\xff", 2) : 0;
}

int copy_init(struct copy *c)
{
    *c = (struct copy){0};
    bytes_init(&c->line, 0);
    bytes_init(&c->text, 0);
    c->values = calloc(ROWS_COLUMNS, sizeof *c->values);
    c->present = calloc(ROWS_COLUMNS, sizeof *c->present);
    return c->values && c->present ? 0 : -ENOMEM;
}

void copy_deinit(struct copy *c)
{
    bytes_deinit(&c->line);
    bytes_deinit(&c->text);
    free(c->values);
    free(c->present);
}
