/* One line, one write(2): lines of several threads never mix. */
#include "engine/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/utf8.h"

#define MAX_MESSAGE 2048                  /* bytes before escaping; longer ones are cut */
#define MAX_LINE (MAX_MESSAGE * 6 + 2048) /* every byte may become \u00xx */
#define MAX_ID 256

static em_log_level min_level = EM_LOG_INFO;
static bool as_json;

static const char *const level_name[] = {"debug", "info", "warning", "error"};

void em_log_init(em_log_level level, bool json)
{
    min_level = level;
    as_json = json;
}

typedef struct line {
    char text[MAX_LINE];
    size_t len;
} line;

static void put(line *l, const char *s, size_t n)
{
    size_t room = sizeof(l->text) - l->len - 1; /* the newline always fits */
    if (n > room)
        n = room;
    memcpy(l->text + l->len, s, n);
    l->len += n;
}

/* Escaped so that the line stays one line and, as JSON, a valid string: control characters as \u00xx, ill-formed
 * UTF-8 as the replacement character. */
static void put_escaped(line *l, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        int len = em_utf8_decode((const uint8_t *)s + i, n - i, &cp);
        char esc[8];
        if (len <= 0)
            put(l, EM_UTF8_REPLACEMENT, 3);
        else if (cp < 0x20 || cp == 0x7f)
            put(l, esc, (size_t)snprintf(esc, sizeof(esc), "\\u%04x", (unsigned)cp));
        else if (as_json && (cp == '"' || cp == '\\'))
            put(l, esc, (size_t)snprintf(esc, sizeof(esc), "\\%c", (char)cp));
        else
            put(l, s + i, (size_t)len);
        i += len > 0 ? (size_t)len : len < 0 ? (size_t)-len : n - i;
    }
}

static size_t timestamp(char *out, size_t cap)
{
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(out, cap, "%Y-%m-%dT%H:%M:%S", &tm);
    int m = snprintf(out + n, cap - n, ".%03dZ", (int)(ts.tv_nsec / 1000000));
    return n + (size_t)m;
}

static void compose(line *l, em_log_level level, const char *request_id, const char *message, size_t len)
{
    char time[48];
    size_t time_len = timestamp(time, sizeof(time));
    size_t id_len = request_id ? strnlen(request_id, MAX_ID) : 0;
    if (as_json) {
        put(l, "{\"time\":\"", 9);
        put(l, time, time_len);
        put(l, "\",\"level\":\"", 11);
        put(l, level_name[level], strlen(level_name[level]));
        if (request_id) {
            put(l, "\",\"request_id\":\"", 16);
            put_escaped(l, request_id, id_len);
        }
        put(l, "\",\"message\":\"", 13);
        put_escaped(l, message, len);
        put(l, "\"}", 2);
    } else {
        put(l, time, time_len);
        put(l, " ", 1);
        put(l, level_name[level], strlen(level_name[level]));
        if (request_id) {
            put(l, " [", 2);
            put_escaped(l, request_id, id_len);
            put(l, "]", 1);
        }
        put(l, " ", 1);
        put_escaped(l, message, len);
    }
    l->text[l->len++] = '\n';
}

void em_log(em_log_level level, const char *request_id, const char *fmt, ...)
{
    if (level < min_level || level > EM_LOG_ERROR)
        return;
    int saved = errno;
    char message[MAX_MESSAGE];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    size_t len = (size_t)n < sizeof(message) ? (size_t)n : sizeof(message) - 1;
    line l;
    l.len = 0;
    compose(&l, level, request_id, message, len);
    /* A full or closed stderr loses the line: a log is no reason to stop serving. */
    for (size_t at = 0; at < l.len;) {
        ssize_t w = write(STDERR_FILENO, l.text + at, l.len - at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            break;
        at += (size_t)w;
    }
    errno = saved;
}
