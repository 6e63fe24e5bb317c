/* A growing byte buffer. Zero-initialise; em_buf_done frees. Not thread-safe. After a failed append the buffer keeps
 * what it had and `failed` stays set, so that a writer may check once at the end. */
#ifndef EM_BASE_BUF_H
#define EM_BASE_BUF_H

#include <stdbool.h>
#include <stddef.h>

typedef struct em_buf {
    char *data;      /* NUL-terminated once anything was appended */
    size_t len, cap; /* bytes */
    bool failed;     /* out of memory at some append */
} em_buf;

int em_buf_append(em_buf *b, const void *data, size_t len); /* -ENOMEM */
int em_buf_puts(em_buf *b, const char *s);
__attribute__((format(printf, 2, 3))) int em_buf_printf(em_buf *b, const char *fmt, ...);
int em_buf_json_string(em_buf *b, const char *s, size_t len);       /* quoted and escaped; s must be valid UTF-8 */
int em_buf_json_member(em_buf *b, const char *name, const char *s); /* "name":"s"; name needs no escapes */
void em_buf_consume(em_buf *b, size_t len);                         /* drops the first len bytes */
void em_buf_clear(em_buf *b);                                       /* empty, memory kept */
void em_buf_done(em_buf *b);

#endif
