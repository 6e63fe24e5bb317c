#include "api/json_out.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/utf8.h"

static void put_char(em_lossy *l, const void *bytes, size_t len, em_buf *out)
{
    if (out)
        em_buf_append(out, bytes, len);
    l->n_chars++;
}

/* Writes what the held bytes settle: characters, and U+FFFD for what can no longer become one. */
static void settle(em_lossy *l, em_buf *out)
{
    while (l->n_held) {
        uint32_t cp;
        int n = em_utf8_decode(l->held, l->n_held, &cp);
        if (n == 0)
            return;
        if (n > 0)
            put_char(l, l->held, (size_t)n, out);
        else
            put_char(l, EM_UTF8_REPLACEMENT, 3, out);
        size_t used = (size_t)abs(n);
        l->n_held -= used;
        memmove(l->held, l->held + used, l->n_held);
    }
}

void em_lossy_add(em_lossy *l, const uint8_t *bytes, size_t len, em_buf *out)
{
    for (size_t i = 0; i < len;) {
        size_t run = i;
        while (l->n_held == 0 && run < len && bytes[run] < 0x80)
            run++;
        if (run > i) {
            if (out)
                em_buf_append(out, bytes + i, run - i);
            l->n_chars += (int64_t)(run - i);
            i = run;
            continue;
        }
        l->held[l->n_held++] = bytes[i++];
        settle(l, out);
    }
}

void em_lossy_end(em_lossy *l, em_buf *out)
{
    if (l->n_held)
        put_char(l, EM_UTF8_REPLACEMENT, 3, out);
    l->n_held = 0;
}

void em_json_text(em_buf *out, const void *bytes, size_t len)
{
    if (len == 0) {
        em_buf_puts(out, "\"\"");
        return;
    }
    if (em_utf8_valid(bytes, len)) {
        em_buf_json_string(out, bytes, len);
        return;
    }
    em_buf text = {0};
    em_lossy l = {0};
    em_lossy_add(&l, bytes, len, &text);
    em_lossy_end(&l, &text);
    if (text.failed)
        out->failed = true;
    else
        em_buf_json_string(out, text.data, text.len);
    em_buf_done(&text);
}

void em_json_text_or_null(em_buf *out, const char *s)
{
    if (s)
        em_json_text(out, s, strlen(s));
    else
        em_buf_puts(out, "null");
}

static void write_float(em_buf *out, float value)
{
    char s[32];
    for (int digits = 6; digits <= 9; digits++) { /* 9 always suffice for a float */
        snprintf(s, sizeof s, "%.*g", digits, (double)value);
        if (strtof(s, NULL) == value)
            break;
    }
    char *comma = strchr(s, ','); /* some locales */
    if (comma)
        *comma = '.';
    em_buf_puts(out, s);
}

void em_json_logprob(em_buf *out, float value)
{
    if (!isfinite(value) || value < -9999.0f)
        em_buf_puts(out, "-9999.0");
    else
        write_float(out, value);
}

void em_json_float(em_buf *out, float value)
{
    if (isfinite(value))
        write_float(out, value);
    else
        em_buf_puts(out, "null");
}

/* Bytes before the NUL-terminated decimal of v; s is a scratch of at least 12 bytes. */
static const char *decimal(int32_t v, char s[12], size_t *ret_len)
{
    uint32_t u = v < 0 ? 0u - (uint32_t)v : (uint32_t)v;
    char *p = s + 11;
    *p = '\0';
    do
        *--p = (char)('0' + u % 10);
    while (u /= 10);
    if (v < 0)
        *--p = '-';
    *ret_len = (size_t)(s + 11 - p);
    return p;
}

void em_json_ids(em_buf *out, const int32_t *ids, size_t n)
{
    em_buf_append(out, "[", 1);
    for (size_t i = 0; i < n; i++) {
        char s[12];
        size_t len;
        const char *p = decimal(ids[i], s, &len);
        if (i)
            em_buf_append(out, ",", 1);
        em_buf_append(out, p, len);
    }
    em_buf_append(out, "]", 1);
}
