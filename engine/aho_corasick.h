/* Many byte patterns searched for in one linear pass (Aho and Corasick, 1975): added tokens in a prompt, stop strings
 * in an answer. A state stands for the longest end of what was read that begins some pattern.
 * Read-only after the build; any thread. */
#ifndef EM_ENGINE_AHO_CORASICK_H
#define EM_ENGINE_AHO_CORASICK_H

#include <stddef.h>
#include <stdint.h>

#define EM_AC_ROOT 0u
#define EM_AC_MAX_BYTES (4u << 20) /* of all patterns together */

typedef struct em_ac_pattern {
    const uint8_t *bytes; /* needed during the build only */
    uint32_t len;         /* >= 1 */
    int32_t id;           /* >= 0; what a match is called */
} em_ac_pattern;

typedef struct em_ac_node {
    uint32_t first_child; /* children are neighbours, ascending by byte */
    uint32_t n_children;
    uint32_t fail;      /* the longest proper end of this state that is a state */
    uint32_t depth;     /* bytes of the beginning of a pattern that this state stands for */
    uint32_t match_len; /* the longest pattern that ends here: bytes, 0: none */
    int32_t match_id;
    uint8_t byte; /* on the way from the parent */
} em_ac_node;

typedef struct em_ac {
    em_ac_node *nodes; /* [n_nodes], breadth first, the root first; NULL without patterns */
    uint32_t n_nodes;
    uint32_t root_child[256]; /* EM_AC_ROOT: none */
} em_ac;

/* Sorts patterns in place; of equal ones the first stays. -ENOMEM; -E2BIG above EM_AC_MAX_BYTES; -EINVAL: an empty one. */
int em_ac_init(em_ac *ret_ac, em_ac_pattern *patterns, size_t n);
void em_ac_done(em_ac *ac); /* a zeroed one is fine */

/* The state after one more byte; amortised constant time. ac must have patterns. */
uint32_t em_ac_step(const em_ac *ac, uint32_t state, uint8_t byte);

static inline const em_ac_node *em_ac_state(const em_ac *ac, uint32_t state)
{
    return &ac->nodes[state];
}

#endif
