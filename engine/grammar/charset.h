/* Sets of Unicode characters, and the expressions that match one character of a set. One thread. */
#ifndef EM_ENGINE_GRAMMAR_CHARSET_H
#define EM_ENGINE_GRAMMAR_CHARSET_H

#include "engine/grammar/build.h"

#define EM_CHAR_LAST 0x10ffffu

/* Zero-initialise; em_charset_done frees. */
typedef struct em_charset {
    em_char_range *r;
    uint32_t n, cap;
} em_charset;

void em_charset_add(em_gr_build *b, em_charset *set, uint32_t lo, uint32_t hi); /* in any order, they may overlap */
void em_charset_add_set(em_gr_build *b, em_charset *set, const em_charset *more);
void em_charset_negate(em_gr_build *b, em_charset *set);
void em_charset_done(em_charset *set);

/* One character of the set as UTF-8, or as it stands inside a JSON string: itself where that is allowed, else its
 * shortest escape. Surrogates are no characters. */
em_expr em_charset_expr(em_gr_build *b, em_charset *set, bool in_json);
em_expr em_char_expr(em_gr_build *b, uint32_t c, bool in_json);

#endif
