#include "rows.h"

#include "bytes.h"
#include "json_scan.h"
#include "number.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static const double EXACT = 9007199254740992.0; /* 2^53 */

int rows_add(struct bytes *packed)
{
    uint16_t none = 0;
    return bytes_append(packed, &none, sizeof none);
}

int rows_add_field(struct bytes *packed, size_t row, unsigned column,
                   const struct rows_value *value)
{
    uint16_t fields, place = (uint16_t)column;
    uint32_t len = (uint32_t)value->len;
    bool text = value->tag == ROWS_TEXT || value->tag == ROWS_JSON;
    if (text && value->len > UINT32_MAX)
        return -E2BIG;
    int rc = bytes_reserve(packed, 16 + (text ? value->len : 0));
    if (rc)
        return rc;
    char *p = packed->data + packed->len;
    memcpy(p, &place, sizeof place);
    p += sizeof place;
    *p++ = (char)value->tag;
    if (value->tag == ROWS_NUMBER) {
        memcpy(p, &value->number, sizeof value->number);
        p += sizeof value->number;
    } else if (text) {
        memcpy(p, &len, sizeof len);
        p += sizeof len;
        if (len)
            memcpy(p, value->data, len);
        p += len;
    }
    packed->len = (size_t)(p - packed->data);
    memcpy(&fields, packed->data + row, sizeof fields);
    fields++;
    memcpy(packed->data + row, &fields, sizeof fields);
    return 0;
}

static bool take(struct rows_reader *r, void *to, size_t n)
{
    if ((size_t)(r->end - r->p) < n)
        return false;
    memcpy(to, r->p, n);
    r->p += n;
    return true;
}

bool rows_next(struct rows_reader *r)
{
    uint16_t fields;
    if (r->fields > 0 || !take(r, &fields, sizeof fields))
        return false;
    r->fields = fields;
    return true;
}

bool rows_field(struct rows_reader *r, unsigned columns, unsigned *column, struct rows_value *value)
{
    uint16_t place;
    uint32_t len;
    unsigned char tag;
    if (r->fields == 0 || !take(r, &place, sizeof place) || !take(r, &tag, sizeof tag))
        return false;
    if (place < 1 || place > columns || tag > ROWS_JSON)
        return false;
    *column = place;
    *value = (struct rows_value){.tag = (enum rows_tag)tag};
    if (tag == ROWS_NUMBER && !take(r, &value->number, sizeof value->number))
        return false;
    if (tag == ROWS_TEXT || tag == ROWS_JSON) {
        if (!take(r, &len, sizeof len) || len > (size_t)(r->end - r->p))
            return false;
        value->data = r->p;
        value->len = len;
        r->p += len;
    }
    r->fields--;
    return true;
}

static int put_quoted(struct bytes *text, const char *p, size_t len)
{
    static const char hex[] = "0123456789abcdef";
    const char *end = p + len;
    int rc = bytes_append(text, "\"", 1);
    while (rc == 0 && p < end) {
        const char *run = p;
        while (p < end && (unsigned char)*p >= 0x20 && *p != '"' && *p != '\\')
            p++;
        rc = bytes_append(text, run, (size_t)(p - run));
        if (rc || p == end)
            break;
        char c = *p++;
        if (c == '"' || c == '\\')
            rc = bytes_append(text, (char[]){'\\', c}, 2);
        else
            rc = bytes_append(text, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    }
    return rc ? rc : bytes_append(text, "\"", 1);
}

int rows_put_number(struct bytes *text, double x, bool plain)
{
    char digits[NUMBER_BYTES];
    char *end = digits + sizeof digits, *start = NULL;
    double size = fabs(x);
    if (size <= EXACT && x == floor(x) && (x != 0 || !signbit(x)))
        start = number_integer_before(end, (int64_t)x);
    else if (!plain || (size >= 1e-4 && size < 1e15))
        start = number_decimal_before(end, x);
    if (start)
        return bytes_append(text, start, (size_t)(end - start));
    size_t len = plain ? number_plain(digits, x) : number_general(digits, x);
    int rc = bytes_append(text, digits, len);
    if (rc == 0 && !plain && !memchr(digits, '.', len) && !memchr(digits, 'e', len))
        rc = bytes_append(text, ".0", 2); /* no integer, which would be taken for an exact one */
    return rc;
}

int rows_put_json(struct bytes *text, const struct rows_value *value)
{
    switch (value->tag) {
    case ROWS_FALSE:
        return bytes_append(text, "false", 5);
    case ROWS_TRUE:
        return bytes_append(text, "true", 4);
    case ROWS_NUMBER:
        return rows_put_number(text, value->number, false);
    case ROWS_TEXT:
        return put_quoted(text, value->data, value->len);
    default:
        return bytes_append(text, value->data, value->len);
    }
}

bool rows_integer(const char *data, size_t len, int64_t *out)
{
    bool minus = len > 0 && data[0] == '-';
    uint64_t most = (uint64_t)INT64_MAX + minus, n = 0;
    if (len == minus || len > 19 + (size_t)minus)
        return false;
    for (size_t i = minus; i < len; i++) {
        if (data[i] < '0' || data[i] > '9')
            return false;
        n = n * 10 + (uint64_t)(data[i] - '0');
    }
    if (n > most)
        return false;
    *out = minus ? (int64_t)(0 - n) : (int64_t)n;
    return true;
}
