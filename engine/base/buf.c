#include "engine/base/buf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_CAP 64 /* bytes */

/* Room for len more bytes and a NUL. */
static int reserve(em_buf *b, size_t len)
{
    if (b->failed)
        return -ENOMEM; /* an earlier piece is missing: nothing may follow the hole */
    if (len >= SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return -ENOMEM;
    }
    size_t need = b->len + len + 1;
    if (need <= b->cap)
        return 0;
    size_t cap = b->cap < FIRST_CAP ? FIRST_CAP : b->cap;
    while (cap < need)
        cap *= 2;
    char *data = realloc(b->data, cap);
    if (!data) {
        b->failed = true;
        return -ENOMEM;
    }
    b->data = data;
    b->cap = cap;
    return 0;
}

int em_buf_append(em_buf *b, const void *data, size_t len)
{
    int r = reserve(b, len);
    if (r < 0)
        return r;
    if (len)
        memcpy(b->data + b->len, data, len);
    b->len += len;
    b->data[b->len] = '\0';
    return 0;
}

int em_buf_puts(em_buf *b, const char *s)
{
    return em_buf_append(b, s, strlen(s));
}

int em_buf_printf(em_buf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    size_t room = b->failed ? 0 : b->cap - b->len;
    int n = vsnprintf(room ? b->data + b->len : NULL, room, fmt, ap);
    va_end(ap);
    int r = 0;
    if (n < 0) {
        b->failed = true;
        r = -ENOMEM;
    } else if ((size_t)n >= room) {
        r = reserve(b, (size_t)n);
        if (r == 0)
            vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
    }
    va_end(again);
    if (r < 0) {
        if (room)
            b->data[b->len] = '\0'; /* the first try may have written beyond */
        return r;
    }
    b->len += (size_t)n;
    return 0;
}

int em_buf_json_string(em_buf *b, const char *s, size_t len)
{
    em_buf_append(b, "\"", 1);
    size_t from = 0; /* start of the run that needs no escape */
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        em_buf_append(b, s + from, i - from);
        from = i + 1;
        switch (c) {
        case '"': em_buf_append(b, "\\\"", 2); break;
        case '\\': em_buf_append(b, "\\\\", 2); break;
        case '\n': em_buf_append(b, "\\n", 2); break;
        case '\r': em_buf_append(b, "\\r", 2); break;
        case '\t': em_buf_append(b, "\\t", 2); break;
        case '\b': em_buf_append(b, "\\b", 2); break;
        case '\f': em_buf_append(b, "\\f", 2); break;
        default: em_buf_printf(b, "\\u%04x", c); break;
        }
    }
    em_buf_append(b, s + from, len - from);
    return em_buf_append(b, "\"", 1);
}

void em_buf_consume(em_buf *b, size_t len)
{
    if (len >= b->len) {
        b->len = 0;
    } else {
        memmove(b->data, b->data + len, b->len - len);
        b->len -= len;
    }
    if (b->data)
        b->data[b->len] = '\0';
}

void em_buf_clear(em_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = '\0';
}

void em_buf_done(em_buf *b)
{
    free(b->data);
    *b = (em_buf){0};
}

int em_buf_json_member(em_buf *b, const char *name, const char *s)
{
    em_buf_printf(b, "\"%s\":", name);
    return em_buf_json_string(b, s, strlen(s));
}
