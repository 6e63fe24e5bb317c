/* Token bytes -> complete UTF-8 text, with stop strings, for one choice.
 *
 * Bytes that can no longer become a character give U+FFFD at once, one per maximal ill-formed part; a beginning that
 * can still become a character is held back (Unicode chapter 3; so are the first two bytes of an encoded surrogate,
 * until the third). Text that may be the beginning of a stop string is held back until it is settled, and no longer.
 * The released text does not depend on how bytes were cut into tokens.
 *
 * Of several stop strings the one that begins earliest in the text wins; a complete one therefore waits while another
 * that began before it may still complete. Of those that begin at the same place the first to complete ends the text;
 * which one it was makes no difference to it. Linear time. One thread at a time. */
#ifndef EM_ENGINE_DETOK_H
#define EM_ENGINE_DETOK_H

#include "engine/engine.h"

typedef struct em_detok em_detok;

/* stops: [n_stops], copied. -ENOMEM; -EINVAL: an empty or ill-formed stop string; -E2BIG: more than 4 MiB of them. */
int em_detok_new(const em_stop *stops, int32_t n_stops, em_detok **ret_detok);
em_detok *em_detok_free(em_detok *d); /* NULL is fine; returns NULL */

/* Feeds one token's bytes (len 0 is fine). Returns 1 when a stop string is complete: the text ends before the earliest
 * match and everything pushed later is ignored; 0 otherwise; -ENOMEM. */
int em_detok_push(em_detok *d, const uint8_t *bytes, size_t len);

/* No more tokens: an incomplete character becomes one U+FFFD, held text is released (a stop string that completes only
 * here counts too: returns 1). */
int em_detok_finish(em_detok *d);

/* Text released since the last take: *ret_len bytes, valid until the next call on d. */
const char *em_detok_take(em_detok *d, size_t *ret_len);

/* Characters of text so far, released or held; an incomplete character does not count. Asked before a push, this is
 * where the token's text begins. After a stop matched: characters before the cut. */
int64_t em_detok_chars(const em_detok *d);
/* Characters released so far (taken or not). */
int64_t em_detok_released(const em_detok *d);

#endif
