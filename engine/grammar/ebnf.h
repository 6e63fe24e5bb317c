/* EBNF texts -> rules. docs/structured_output.md has the language. */
#ifndef EM_ENGINE_GRAMMAR_EBNF_H
#define EM_ENGINE_GRAMMAR_EBNF_H

#include "engine/grammar/build.h"

/* Rule 0 of the build calls the rule named root. 0 or the build's fault. */
int em_ebnf_compile(em_gr_build *b, const char *text, size_t len);

/* Any text that ends with `stop` and has it nowhere before. */
em_expr em_ebnf_until(em_gr_build *b, em_expr stop);
/* Any text that has `stop` nowhere. */
em_expr em_ebnf_without(em_gr_build *b, em_expr stop);

#endif
