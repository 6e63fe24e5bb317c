/* Broken checkpoints: a sound one (make-model --preset tiny) with exactly one thing wrong.
 *
 *     for (size_t i = 0; i < break_model_count(); i++)
 *         break_model(break_model_kind(i), src, dst, &err);   // dst: an existing, empty folder
 *
 * Link model_writer_dep; or run break-model KIND SRC DST, break-model --list. */
#ifndef EM_TESTS_BREAK_MODEL_H
#define EM_TESTS_BREAK_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"

struct broken_model;

typedef struct break_kind {
    const char *name; /* "missing-scale" */
    const char *says; /* a piece of the sentence that the program must answer with */
    bool by_loader;   /* found by config, safetensors and weights; else only once the tokenizer is there */
    /* how it is made */
    int (*apply)(struct broken_model *b, const char *a, const char *v);
    const char *a, *v;
} break_kind;

size_t break_model_count(void);
const break_kind *break_model_kind(size_t i);
const break_kind *break_model_find(const char *name); /* NULL: no such kind */

int break_model(const break_kind *kind, const char *src, const char *dst, em_error *err);

#endif
