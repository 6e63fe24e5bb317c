/* The pairs that can be merged stand in a heap that knows where each of them is, so a pair that changes is moved
 * instead of left behind: the heap never holds more than one entry for a symbol. */
#include "engine/bpe.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "engine/string_map.h"

int em_bpe_init(em_bpe *ret_bpe, size_t n_merges)
{
    em_bpe bpe = {.n_slots = 16, .seed = em_hash_seed()};
    if (n_merges > INT32_MAX)
        return -ENOMEM;
    while (bpe.n_slots / 2 < n_merges)
        bpe.n_slots *= 2;
    bpe.merged = calloc(n_merges ? n_merges : 1, sizeof *bpe.merged);
    bpe.slots = calloc(bpe.n_slots, sizeof *bpe.slots);
    if (!bpe.merged || !bpe.slots) {
        em_bpe_done(&bpe);
        return -ENOMEM;
    }
    for (size_t i = 0; i < bpe.n_slots; i++)
        bpe.slots[i].left = -1;
    *ret_bpe = bpe;
    return 0;
}

void em_bpe_done(em_bpe *bpe)
{
    free(bpe->merged);
    free(bpe->slots);
    *bpe = (em_bpe){0};
}

/* The slot that holds the pair, or the empty one where it belongs. */
static em_bpe_slot *find_pair(const em_bpe *bpe, int32_t left, int32_t right)
{
    size_t mask = bpe->n_slots - 1;
    for (size_t i = em_hash_u64(bpe->seed, (uint64_t)(uint32_t)left << 32 | (uint32_t)right) & mask;;
         i = (i + 1) & mask) {
        em_bpe_slot *slot = &bpe->slots[i];
        if (slot->left < 0 || (slot->left == left && slot->right == right))
            return slot;
    }
}

int em_bpe_add(em_bpe *bpe, int32_t left, int32_t right, int32_t merged)
{
    em_bpe_slot *slot = find_pair(bpe, left, right);
    if (slot->left >= 0)
        return -EEXIST;
    *slot = (em_bpe_slot){.left = left, .right = right, .rank = bpe->n_merges};
    bpe->merged[bpe->n_merges++] = merged;
    return 0;
}

void em_bpe_scratch_done(em_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (em_bpe_scratch){0};
}

static int reserve(em_bpe_scratch *s, size_t len)
{
    if (len <= s->cap)
        return 0;
    if (len > EM_BPE_MAX_PIECE)
        return -E2BIG;
    size_t cap = len < 64 ? 64 : len + len / 4;
    em_bpe_scratch_done(s); /* nothing in it is needed any more */
    s->symbols = malloc(cap * sizeof *s->symbols);
    s->heap = malloc(cap * sizeof *s->heap);
    if (!s->symbols || !s->heap) {
        em_bpe_scratch_done(s);
        return -ENOMEM;
    }
    s->cap = cap;
    return 0;
}

/* Is the pair at symbol a merged before the one at b? */
static bool before(const em_bpe_symbol *symbols, uint32_t a, uint32_t b)
{
    return symbols[a].rank != symbols[b].rank ? symbols[a].rank < symbols[b].rank : a < b;
}

static void heap_put(em_bpe_scratch *s, size_t idx, uint32_t symbol)
{
    s->heap[idx] = symbol;
    s->symbols[symbol].heap_idx = (uint32_t)idx;
}

/* Moves symbol, which may stand at idx, up or down to where it belongs. */
static void heap_settle(em_bpe_scratch *s, size_t idx, uint32_t symbol)
{
    while (idx > 0) {
        size_t parent = (idx - 1) / 2;
        if (!before(s->symbols, symbol, s->heap[parent]))
            break;
        heap_put(s, idx, s->heap[parent]);
        idx = parent;
    }
    for (;;) {
        size_t child = 2 * idx + 1;
        if (child >= s->n_heap)
            break;
        if (child + 1 < s->n_heap && before(s->symbols, s->heap[child + 1], s->heap[child]))
            child++;
        if (!before(s->symbols, s->heap[child], symbol))
            break;
        heap_put(s, idx, s->heap[child]);
        idx = child;
    }
    heap_put(s, idx, symbol);
}

static void heap_remove(em_bpe_scratch *s, size_t idx)
{
    uint32_t last = s->heap[--s->n_heap];
    if (idx < s->n_heap)
        heap_settle(s, idx, last);
}

/* Gives symbol the rank of the pair it now forms with its right neighbour. */
static void update_pair(const em_bpe *bpe, em_bpe_scratch *s, uint32_t symbol)
{
    em_bpe_symbol *sym = &s->symbols[symbol];
    uint32_t rank = EM_BPE_NONE;
    if (sym->next != EM_BPE_NONE) {
        const em_bpe_slot *slot = find_pair(bpe, sym->id, s->symbols[sym->next].id);
        rank = slot->left < 0 ? EM_BPE_NONE : slot->rank;
    }
    bool was = sym->rank != EM_BPE_NONE, is = rank != EM_BPE_NONE;
    sym->rank = rank;
    if (was && is)
        heap_settle(s, sym->heap_idx, symbol);
    else if (was)
        heap_remove(s, sym->heap_idx);
    else if (is)
        heap_settle(s, s->n_heap++, symbol);
}

/* The symbol takes in its right neighbour. */
static void merge_pair(const em_bpe *bpe, em_bpe_scratch *s, uint32_t symbol)
{
    em_bpe_symbol *left = &s->symbols[symbol], *right = &s->symbols[left->next];
    left->id = bpe->merged[left->rank];
    if (right->rank != EM_BPE_NONE)
        heap_remove(s, right->heap_idx);
    left->next = right->next;
    if (left->next != EM_BPE_NONE)
        s->symbols[left->next].prev = symbol;
    update_pair(bpe, s, symbol);
    if (left->prev != EM_BPE_NONE)
        update_pair(bpe, s, left->prev);
}

int em_bpe_merge(const em_bpe *bpe, em_bpe_scratch *s, const uint8_t *bytes, size_t len)
{
    int r = reserve(s, len);
    if (r < 0)
        return r;
    s->n_heap = 0;
    for (size_t i = 0; i < len; i++) {
        em_bpe_symbol *sym = &s->symbols[i];
        sym->id = bpe->byte_id[bytes[i]];
        sym->prev = i > 0 ? (uint32_t)i - 1 : EM_BPE_NONE;
        sym->next = i + 1 < len ? (uint32_t)i + 1 : EM_BPE_NONE;
        sym->rank = EM_BPE_NONE;
    }
    for (size_t i = 0; i + 1 < len; i++)
        update_pair(bpe, s, (uint32_t)i);
    while (s->n_heap > 0)
        merge_pair(bpe, s, s->heap[0]);
    return 0;
}
