/* The golden part of the test named `tokenizer`. */
#ifndef EM_TESTS_TOKENIZER_GOLDEN_H
#define EM_TESTS_TOKENIZER_GOLDEN_H

#include <check.h>

TCase *tokenizer_golden_cases(void);

#endif
