/* Escapes and bracketed sets of regular expressions; EBNF texts share them. */
#ifndef EM_ENGINE_GRAMMAR_REGEX_CLASS_H
#define EM_ENGINE_GRAMMAR_REGEX_CLASS_H

#include "engine/grammar/charset.h"

/* A place in the text of an expression, for sentences. */
typedef struct em_regex_text {
    em_gr_build *b;
    const char *what;
    const char *p, *end;
} em_regex_text;

/* "The WHAT ...": fault says what is wrong with it. */
void em_regex_fault(em_regex_text *t, const char *fault);

typedef enum em_regex_item {
    EM_REGEX_FAULT,
    EM_REGEX_CHAR,
    EM_REGEX_SET,
} em_regex_item;

/* At a backslash. A set is added to *set, as small as Python's and ECMA's readings of it allow, and to *widest (may be
 * NULL) as large as either has it, which is what a negation must leave out. */
em_regex_item em_regex_escape(em_regex_text *t, bool in_class, uint32_t *ret_c, em_charset *set, em_charset *widest);

/* Behind the opening bracket, to behind the closing one. 0 or the build's fault. */
int em_regex_class(em_regex_text *t, em_charset *set);

#endif
