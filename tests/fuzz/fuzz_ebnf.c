/* An EBNF text: refused with a sentence, or a grammar whose masks, walks and completions agree. */
#include "tests/support/grammar_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return fuzz_grammar(em_grammar_compile_ebnf, data, size);
}
