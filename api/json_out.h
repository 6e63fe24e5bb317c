/* Pieces of JSON that em_buf alone does not write: text that may be broken UTF-8, and numbers that read back as the
 * same float. Failures stay in em_buf.failed: a writer checks once at the end. */
#ifndef EM_API_JSON_OUT_H
#define EM_API_JSON_OUT_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

/* Bytes of tokens -> UTF-8, piece by piece: every ill-formed part becomes one U+FFFD, exactly as if all pieces were
 * decoded at once. Zero-initialise. */
typedef struct em_lossy {
    uint8_t held[4]; /* beginning of a character that is not complete yet */
    size_t n_held;
    int64_t n_chars; /* written so far */
} em_lossy;

void em_lossy_add(em_lossy *l, const uint8_t *bytes, size_t len, em_buf *out); /* out may be NULL: count only */
void em_lossy_end(em_lossy *l, em_buf *out);                                   /* what is held becomes U+FFFD */

/* Quoted and escaped; ill-formed parts become U+FFFD. */
void em_json_text(em_buf *out, const void *bytes, size_t len);
void em_json_text_or_null(em_buf *out, const char *s);

/* The shortest decimal number that reads back as the same float. JSON has no infinity: what is not finite, or below,
 * is written as -9999.0, the value OpenAI documents for "far down the list". */
void em_json_logprob(em_buf *out, float value);

/* The same digits; null when it is not finite. */
void em_json_float(em_buf *out, float value);

void em_json_ids(em_buf *out, const int32_t *ids, size_t n); /* [1,2,3] */

#endif
