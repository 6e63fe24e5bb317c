/* Byte-pair merging: the pair of neighbours with the lowest rank is merged first, of equal ranks the leftmost, until no
 * pair has one. The table is read-only once filled; any thread may then use it, each with a scratch of its own. */
#ifndef EM_ENGINE_BPE_H
#define EM_ENGINE_BPE_H

#include <stddef.h>
#include <stdint.h>

typedef struct em_bpe_slot {
    int32_t left, right; /* ids; left -1: empty slot */
    uint32_t rank;
} em_bpe_slot;

typedef struct em_bpe {
    int32_t byte_id[256]; /* the id every byte starts as */
    int32_t *merged;      /* [n_merges] by rank: what the pair becomes */
    uint32_t n_merges;
    em_bpe_slot *slots; /* [n_slots] pair -> rank, a power of two; open addressing */
    size_t n_slots;
    uint64_t seed;
} em_bpe;

/* An empty table with room for n_merges; byte_id is the caller's to fill. -ENOMEM. */
int em_bpe_init(em_bpe *ret_bpe, size_t n_merges);
void em_bpe_done(em_bpe *bpe); /* a zeroed one is fine */

/* Adds the next merge: ranks count from 0 in the order of the calls, n_merges calls at most. -EEXIST: the pair has a
 * rank already. */
int em_bpe_add(em_bpe *bpe, int32_t left, int32_t right, int32_t merged);

/* Memory of the merging, kept from piece to piece: 24 bytes for each byte of the longest. */
typedef struct em_bpe_symbol {
    int32_t id;
    uint32_t prev, next; /* neighbours; EM_BPE_NONE: none */
    uint32_t rank;       /* of the pair with next; EM_BPE_NONE: no merge */
    uint32_t heap_idx;   /* where the heap holds this symbol, if rank is one */
} em_bpe_symbol;

#define EM_BPE_NONE UINT32_MAX
#define EM_BPE_MAX_PIECE ((size_t)1 << 30) /* bytes */

typedef struct em_bpe_scratch {
    em_bpe_symbol *symbols; /* [cap] by first byte */
    uint32_t *heap;         /* [cap] symbols whose pair can be merged, the next merge first */
    size_t cap;
    size_t n_heap;
} em_bpe_scratch;
void em_bpe_scratch_done(em_bpe_scratch *s); /* a zeroed one is fine */

/* Merges len >= 1 bytes: time O(len log len). Afterwards the ids are s->symbols[0], then along next. -ENOMEM; -E2BIG
 * above EM_BPE_MAX_PIECE. */
int em_bpe_merge(const em_bpe *bpe, em_bpe_scratch *s, const uint8_t *bytes, size_t len);

#endif
