/* Ways to read a text: a state of the automaton each, with the states to return to on a stack. Stacks are shared: equal
 * ones are the same number, so readings compare by value. One thread per em_stacks. */
#ifndef EM_ENGINE_GRAMMAR_READINGS_H
#define EM_ENGINE_GRAMMAR_READINGS_H

#include "engine/grammar/automaton.h"

typedef struct em_frame {
    uint32_t ret;   /* state to go on with */
    uint32_t below; /* frame */
    uint32_t depth; /* frames below */
    uint32_t cost;  /* fewest bytes to complete this frame and all below */
} em_frame;

/* Frame 0 is the bottom: nothing to return to. */
typedef struct em_stacks {
    const em_automaton *a;
    em_frame *frames;
    uint32_t n, cap;
    em_gr_index index;
    uint64_t *seen; /* of the set being made, once it is large: generation and index; NULL: not needed yet */
    uint32_t generation, n_seen;
} em_stacks;

int em_stacks_init(em_stacks *s, const em_automaton *a); /* -ENOMEM */
void em_stacks_done(em_stacks *s);
void em_stacks_clear(em_stacks *s); /* leaves the bottom */
int em_stacks_push(em_stacks *s, uint32_t below, uint32_t ret, uint32_t *ret_frame);
/* The stack `frame` of another, made in this one. */
int em_stacks_import(em_stacks *s, const em_stacks *from, uint32_t frame, uint32_t *ret_frame);

typedef struct em_reading {
    uint32_t state;
    uint32_t stack;     /* frame */
    uint32_t need, rem; /* characters that a string still must, and may, have; 0 and EM_GR_NO_END elsewhere */
} em_reading;

/* Zero-initialise; free(v) at the end. */
typedef struct em_readings {
    em_reading *v;
    uint32_t n, cap;
} em_readings;

#define EM_READINGS_NO_LIMIT (1u << 20) /* of depth */

/* Adds a reading and what it becomes without reading: calls entered, ends left. max_depth: what would need a higher stack
 * is left out. -E2BIG: more than the automaton's limit; -ENOMEM. */
int em_readings_add(em_readings *set, em_stacks *s, em_reading r, uint32_t max_depth);

/* All of v[0 .. n) after one byte, into *out, which is emptied first. */
int em_readings_step(em_stacks *s, const em_reading *v, uint32_t n, uint8_t byte, uint32_t max_depth, em_readings *out);

/* Fewest bytes to complete the text from a reading. */
uint32_t em_reading_cost(const em_stacks *s, em_reading r);

/* Can the reading take a byte? Otherwise it only ends. */
static inline bool em_reading_goes_on(const em_automaton *a, em_reading r)
{
    return a->range_at[r.state] < a->range_at[r.state + 1];
}

/* May the rule that the reading is in end here? */
static inline bool em_reading_ends(const em_automaton *a, em_reading r)
{
    return a->flags[r.state] & EM_AU_ACCEPT;
}

#endif
