/* Formatting the one sentence. Names in it come from files and clients, so the result is made clean here, once. */
#include "engine/base/error.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/utf8.h"

/* Copies src into dst (cap bytes with the NUL): no control characters, well-formed UTF-8, cut between characters. */
static void copy_clean(char *dst, size_t cap, const char *src, size_t len)
{
    size_t at = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        int n = em_utf8_decode((const uint8_t *)src + i, len - i, &cp);
        if (n == 0) /* a character that the first cut split */
            break;
        bool good = n > 0 && cp >= 0x20 && cp != 0x7f;
        size_t out = good ? (size_t)n : 1;
        if (at + out + 1 > cap)
            break;
        if (good)
            memcpy(dst + at, src + i, out);
        else
            dst[at] = '?';
        at += out;
        i += (size_t)(n > 0 ? n : -n);
    }
    dst[at] = '\0';
}

int em_error_set(em_error *err, int code, const char *fmt, ...)
{
    if (!err)
        return code;
    char text[sizeof(err->text)]; /* apart from err, whose old text may be an argument */
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    copy_clean(err->text, sizeof(err->text), text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    return code;
}
