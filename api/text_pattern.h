/* One fixed text sought in a stream of bytes, byte by byte (Knuth, Morris, Pratt). The state is the length of the
 * longest beginning of the text that the stream ends with: what must be held back, or the whole text. */
#ifndef EM_API_TEXT_PATTERN_H
#define EM_API_TEXT_PATTERN_H

#include <stddef.h>
#include <stdint.h>

typedef struct em_pattern {
    uint8_t *text;  /* [len] */
    uint32_t *back; /* [len] where to go on after a mismatch behind i + 1 matched bytes */
    uint32_t len;
} em_pattern;

/* text is copied; len >= 1. -ENOMEM. */
int em_pattern_init(em_pattern *p, const void *text, size_t len);
void em_pattern_done(em_pattern *p);

/* The state after one more byte; p->len when the text is complete. */
static inline uint32_t em_pattern_step(const em_pattern *p, uint32_t state, uint8_t byte)
{
    while (state && (state == p->len || p->text[state] != byte))
        state = p->back[state - 1];
    return p->text[state] == byte ? state + 1 : state;
}

#endif
