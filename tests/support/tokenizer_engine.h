/* The answers of an engine that has nothing but a real tokenizer, for tests of api/ that need true ids. Link it with
 * the engine library: it takes the place of engine/engine.c. */
#ifndef EM_TESTS_TOKENIZER_ENGINE_H
#define EM_TESTS_TOKENIZER_ENGINE_H

#include "engine/engine.h"

/* Loads DIR/tokenizer.json; aborts with a sentence when it cannot. max_len as em_engine_get_info tells it. */
em_engine *tokenizer_engine_new(const char *dir, int32_t max_len);
void tokenizer_engine_free(em_engine *e);

#endif
