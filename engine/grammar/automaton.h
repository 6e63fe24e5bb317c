/* The finished automaton: states of all rules in one numbering, over bytes, with a stack of states to return to.
 * Immutable. Every state that can be reached can be completed. */
#ifndef EM_ENGINE_GRAMMAR_AUTOMATON_H
#define EM_ENGINE_GRAMMAR_AUTOMATON_H

#include "engine/grammar/dfa.h"

typedef enum em_au_flag {
    EM_AU_ACCEPT = 1,    /* its rule may end here */
    EM_AU_TAIL = 2,      /* its rule must end here, so a call that returns here needs no place on the stack */
    EM_AU_OPEN = 4,      /* of the rule of strings: in front of the opening quote */
    EM_AU_CHARACTER = 8, /* of the rule of strings: between characters. Here need and rem count. */
} em_au_flag;

#define EM_AU_NONE UINT32_MAX
#define EM_AU_ENDLESS (1u << 30) /* costs saturate here */
#define EM_AU_BEST_CALL 256u     /* best: 256 + index of a call; below: a byte */
#define EM_AU_BEST_END UINT32_MAX

typedef struct em_au_callee {
    uint32_t start, need, rem; /* rem: EM_GR_NO_END when strings may be of any length */
} em_au_callee;

typedef struct em_automaton {
    uint32_t n; /* states */
    uint32_t root;
    uint32_t *range_at, *call_at; /* [n + 1] */
    em_dfa_range *ranges;         /* of a state ascending, none twice */
    em_dfa_call *calls;
    uint8_t *flags;        /* [n] */
    uint32_t *rule_of;     /* [n] */
    uint32_t *cost;        /* [n] fewest bytes to the end of the rule */
    uint32_t *best;        /* [n] what to do for that */
    uint16_t *height;      /* [n] calls open at a time while doing that */
    uint32_t *plain;       /* [n] the one state to which every plain character leads (vocab.h); EM_AU_NONE: not one */
    em_au_callee *callees; /* [n_callees] */
    uint32_t n_callees, n_rules;
    uint32_t max_stack;
    uint32_t max_readings;
} em_automaton;

/* All rules of a build; rule 0 is the whole text. */
int em_automaton_init(em_gr_build *b, em_automaton *ret_automaton);
void em_automaton_done(em_automaton *a);
uint64_t em_automaton_bytes(const em_automaton *a); /* of memory */

/* Finishing steps of em_automaton_init: cost, best and height; then what cannot be completed is cut away. */
int em_automaton_cost(em_gr_build *b, em_automaton *a);
int em_automaton_plain(em_automaton *a); /* fills plain */

static inline uint32_t em_automaton_next(const em_automaton *a, uint32_t state, uint8_t c)
{
    for (uint32_t i = a->range_at[state]; i < a->range_at[state + 1]; i++)
        if (c <= a->ranges[i].hi)
            return c >= a->ranges[i].lo ? a->ranges[i].to : EM_AU_NONE;
    return EM_AU_NONE;
}

#endif
