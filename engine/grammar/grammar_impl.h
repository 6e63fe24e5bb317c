/* What is inside a grammar and a state. */
#ifndef EM_ENGINE_GRAMMAR_GRAMMAR_IMPL_H
#define EM_ENGINE_GRAMMAR_GRAMMAR_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/grammar/masks.h"

struct em_grammar {
    atomic_uint refs;
    em_automaton a;
    const em_grammar_vocab *vocab; /* NULL: none */
    pthread_mutex_t lock;          /* of masks; held while nothing else is */
    em_masks masks;                /* only with a vocabulary */
};

/* Readings as they were before an accept. */
typedef struct em_snapshot {
    em_readings readings;
    bool ended;
} em_snapshot;

struct em_grammar_state {
    em_grammar *g;
    em_stacks stacks;
    em_readings readings; /* never empty */
    em_readings scratch[2];
    bool ended;           /* an end token was accepted */
    em_snapshot *history; /* [max_rollback] a ring */
    uint32_t max_rollback, n_history, newest;
    uint32_t n_live; /* frames after the last clean-up */
};

#endif
