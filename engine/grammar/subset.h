/* Writing the automaton of one rule, state after state; for the files that make one. */
#ifndef EM_ENGINE_GRAMMAR_SUBSET_H
#define EM_ENGINE_GRAMMAR_SUBSET_H

#include "engine/grammar/dfa.h"

int em_dfa_add_state(em_gr_build *b, em_dfa *dfa, uint32_t max_states);
/* first: where the ranges of the state that is being written begin. */
int em_dfa_add_range(em_gr_build *b, em_dfa *dfa, uint32_t *n_ranges, uint32_t first, em_dfa_range r);

#endif
