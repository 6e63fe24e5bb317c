/* Running tokens through the automaton: which of a trie are read to their end from some place. What sets of readings a
 * byte leads to is remembered, so most nodes of a trie cost one look into a table. One thread at a time. */
#ifndef EM_ENGINE_GRAMMAR_WALKER_H
#define EM_ENGINE_GRAMMAR_WALKER_H

#include "engine/grammar/readings.h"
#include "engine/grammar/vocab.h"

/* A set of readings met on the way; 0 is the empty one. */
typedef struct em_reading_set {
    uint32_t at, n;   /* pool[at .. at + n) */
    uint32_t reach;   /* deepest stack that any of them needs */
    bool ends;        /* one of them has left what the walk began in */
    bool goes_on;     /* one of them can take a byte */
    bool takes_plain; /* one of them takes any plain token */
    uint32_t walk;    /* number of the last walk that met it */
} em_reading_set;

typedef struct em_walker {
    const em_automaton *a;
    const em_grammar_vocab *vocab;
    em_stacks stacks; /* their bottom: where the walk began */
    em_reading *pool;
    uint32_t n_pool, cap_pool;
    em_reading_set *sets;
    uint32_t n_sets, cap_sets;
    uint32_t *rows; /* [n_sets][256] set after a byte; UINT32_MAX: not known yet */
    uint32_t cap_rows;
    em_gr_index index;
    em_readings scratch; /* the set being made */
    uint32_t max_depth;
    uint32_t n_walks; /* begun so far */
} em_walker;

int em_walker_init(em_walker *w, const em_automaton *a, const em_grammar_vocab *vocab);
void em_walker_done(em_walker *w);

/* Before the walks of one mask: forgets what was met if it has become much, or if the limit of stacks changes. Sets made
 * before are void. */
int em_walker_begin(em_walker *w, uint32_t max_depth);

/* Gives the memory of what was met back. */
int em_walker_trim(em_walker *w);

/* The set of one reading, as it is (closed: with what it becomes without reading). */
int em_walker_set(em_walker *w, em_reading r, bool closed, uint32_t *ret_set);

/* What a walk finds. */
typedef struct em_walk {
    em_gr_u32s ids;   /* allowed tokens; one may come twice */
    em_gr_u32s exits; /* nodes with more below at which the walk's own rule has ended: go on behind it from there */
    uint32_t reach;   /* deepest stack needed */
    uint64_t steps;   /* done: nodes, and for every set that is met a number per reading, whether it is known or not */
    uint64_t max_steps;
} em_walk;

/* Nodes from..to - 1, the first `depth` bytes of which lie behind: from set `start` on. -E2BIG: steps, or readings. */
int em_walker_walk(em_walker *w, uint32_t from, uint32_t to, uint32_t depth, uint32_t start, em_walk *out);

#endif
