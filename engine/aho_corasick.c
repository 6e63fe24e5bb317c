/* The automaton is built breadth first from the sorted patterns: the patterns that share a node's bytes are then a
 * range, and every failure link points to a node that is complete already. */
#include "engine/aho_corasick.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The patterns below a node while building: sorted[lo .. hi). */
typedef struct range {
    uint32_t lo, hi;
} range;

/* Byte order; of equal patterns the smaller id first, so that the result does not depend on the sort. */
static int compare_patterns(const void *a, const void *b)
{
    const em_ac_pattern *x = a, *y = b;
    int c = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    if (c != 0)
        return c;
    if (x->len != y->len)
        return x->len < y->len ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Nodes of the trie: the bytes of each sorted pattern that the one before does not share, and the root. */
static int count_nodes(const em_ac_pattern *p, size_t n, uint32_t *ret_n)
{
    uint64_t total = 1;
    for (size_t i = 0; i < n; i++) {
        if (p[i].len == 0)
            return -EINVAL;
        uint32_t shared = 0;
        while (i > 0 && shared < p[i].len && shared < p[i - 1].len && p[i].bytes[shared] == p[i - 1].bytes[shared])
            shared++;
        total += p[i].len - shared;
        if (total > EM_AC_MAX_BYTES)
            return -E2BIG;
    }
    *ret_n = (uint32_t)total;
    return 0;
}

/* The child of node that byte leads to; EM_AC_ROOT: none (the root is nobody's child). */
static uint32_t find_child(const em_ac *ac, uint32_t node, uint8_t byte)
{
    if (node == EM_AC_ROOT)
        return ac->root_child[byte];
    uint32_t lo = ac->nodes[node].first_child, hi = lo + ac->nodes[node].n_children;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (ac->nodes[mid].byte < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    uint32_t end = ac->nodes[node].first_child + ac->nodes[node].n_children;
    return lo < end && ac->nodes[lo].byte == byte ? lo : EM_AC_ROOT;
}

uint32_t em_ac_step(const em_ac *ac, uint32_t state, uint8_t byte)
{
    for (;;) {
        uint32_t child = find_child(ac, state, byte);
        if (child != EM_AC_ROOT || state == EM_AC_ROOT)
            return child;
        state = ac->nodes[state].fail;
    }
}

/* A new node under parent; its own pattern, if one ends here, is the longest that does. */
static void add_child(em_ac *ac, uint32_t parent, const em_ac_pattern *first)
{
    uint32_t child = ac->n_nodes++, depth = ac->nodes[parent].depth + 1;
    uint8_t byte = first->bytes[depth - 1];
    uint32_t fail = parent == EM_AC_ROOT ? EM_AC_ROOT : em_ac_step(ac, ac->nodes[parent].fail, byte);
    em_ac_node *node = &ac->nodes[child];
    *node = (em_ac_node){.fail = fail, .depth = depth, .byte = byte, .match_id = -1};
    if (first->len == depth) {
        node->match_len = depth;
        node->match_id = first->id;
    } else {
        node->match_len = ac->nodes[fail].match_len;
        node->match_id = ac->nodes[fail].match_id;
    }
    if (parent == EM_AC_ROOT)
        ac->root_child[byte] = child;
    else
        ac->nodes[parent].n_children++;
}

static void add_children(em_ac *ac, uint32_t parent, const em_ac_pattern *sorted, range *ranges)
{
    uint32_t depth = ac->nodes[parent].depth;
    range r = ranges[parent];
    while (r.lo < r.hi && sorted[r.lo].len == depth)
        r.lo++;
    ac->nodes[parent].first_child = ac->n_nodes;
    while (r.lo < r.hi) {
        uint32_t end = r.lo + 1;
        while (end < r.hi && sorted[end].bytes[depth] == sorted[r.lo].bytes[depth])
            end++;
        ranges[ac->n_nodes] = (range){r.lo, end};
        add_child(ac, parent, &sorted[r.lo]);
        r.lo = end;
    }
}

int em_ac_init(em_ac *ret_ac, em_ac_pattern *patterns, size_t n)
{
    em_ac ac = {0};
    if (n == 0) {
        *ret_ac = ac;
        return 0;
    }
    if (n > EM_AC_MAX_BYTES)
        return -E2BIG;
    qsort(patterns, n, sizeof *patterns, compare_patterns);
    uint32_t n_nodes = 0;
    int r = count_nodes(patterns, n, &n_nodes);
    if (r < 0)
        return r;
    ac.nodes = calloc(n_nodes, sizeof *ac.nodes);
    range *ranges = calloc(n_nodes, sizeof *ranges);
    if (!ac.nodes || !ranges) {
        free(ranges);
        free(ac.nodes);
        return -ENOMEM;
    }
    ac.nodes[0].match_id = -1;
    ac.n_nodes = 1;
    ranges[0] = (range){0, (uint32_t)n};
    for (uint32_t node = 0; node < ac.n_nodes; node++)
        add_children(&ac, node, patterns, ranges);
    free(ranges);
    *ret_ac = ac;
    return 0;
}

void em_ac_done(em_ac *ac)
{
    free(ac->nodes);
    *ac = (em_ac){0};
}
