/* Unicode 16 classes as the pre-tokenizer's patterns use them (spec 13.8). The C library, PCRE2 and utf8proc of the
 * platform know older tables and would cut thousands of code points differently. Pure functions. */
#ifndef EM_ENGINE_UNICODE_CLASSES_H
#define EM_ENGINE_UNICODE_CLASSES_H

#include <stdint.h>

/* Every code point has exactly one: no white space is a letter, mark, number, punctuation or symbol. */
typedef enum em_unicode_class {
    EM_UNICODE_OTHER, /* controls, format, unassigned, private use */
    EM_UNICODE_L,     /* \p{L}: letters */
    EM_UNICODE_M,     /* \p{M}: marks */
    EM_UNICODE_N,     /* \p{N}: numbers */
    EM_UNICODE_P,     /* \p{P}: punctuation */
    EM_UNICODE_S,     /* \p{S}: symbols */
    EM_UNICODE_SPACE, /* \s: the property White_Space, CR and LF included */
} em_unicode_class;

em_unicode_class em_unicode_classify(uint32_t cp);

#endif
