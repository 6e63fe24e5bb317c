/* Slots, blocks, prefixes and snapshots of sequences. */
#include "engine/seq_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/clock.h"

static int32_t min_i32(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

int em_seq_store_init(em_seq_store *st, em_model *model, int32_t max_seqs, bool share)
{
    *st = (em_seq_store){.model = model, .kv = em_model_kv_cache(model), .max_seqs = max_seqs};
    st->block_tokens = em_kv_cache_block_tokens(st->kv);
    st->saves_inside = em_model_saves_inside(model);
    if (!share)
        return 0;
    em_prefix_opts opts = {.n_snapshots = em_model_snapshots(model), .hash = em_siphash};
    if (getentropy(opts.key, sizeof(opts.key)))
        opts.key[0] = em_now_ns(); /* then timing tells more about collisions; never about tokens, which are compared */
    return em_prefix_cache_new(st->kv, &opts, &st->prefix);
}

void em_seq_store_done(em_seq_store *st)
{
    st->prefix = em_prefix_cache_free(st->prefix);
}

bool em_seq_store_shares(const em_seq_store *st, const em_seq *seq)
{
    return st->prefix && !em_seq_reports_prompt(seq);
}

static em_prefix_text text_of(const em_seq *seq)
{
    const em_request *r = seq->live->request;
    return (em_prefix_text){
        .tokens = seq->ids ? seq->ids : seq->prompt->ids,
        .salt = r->cache_salt,
        .salt_len = r->cache_salt_len,
    };
}

/* The last known token is always computed: its logits are wanted. */
static em_prefix_hit find_prefix(const em_seq_store *st, const em_seq *seq)
{
    if (!em_seq_store_shares(st, seq))
        return (em_prefix_hit){0};
    em_prefix_text text = text_of(seq);
    return em_prefix_cache_find(st->prefix, &text, em_seq_goal(seq) - 1);
}

int32_t em_seq_store_need(const em_seq_store *st, const em_seq *seq, int32_t n_positions)
{
    int32_t goal = em_seq_goal(seq);
    int32_t room = n_positions - goal < st->block_tokens ? n_positions - goal : st->block_tokens;
    return em_kv_cache_blocks_for(st->kv, goal + room) - find_prefix(st, seq).n_used_blocks;
}

static int open_at(em_seq_store *st, em_seq *seq, const em_prefix_hit *hit)
{
    int rc = em_seq_kv_open(st->kv, &seq->kv);
    if (!rc && hit->n_tokens)
        rc = em_prefix_cache_use(st->prefix, hit, &seq->kv);
    if (!rc)
        rc = em_seq_kv_reserve(st->kv, &seq->kv, em_seq_goal(seq));
    return rc;
}

int em_seq_store_open(em_seq_store *st, em_seq *seq)
{
    em_prefix_hit hit = find_prefix(st, seq);
    int rc = open_at(st, seq, &hit);
    if (rc) {
        em_seq_kv_close(st->kv, &seq->kv);
        return rc;
    }
    if (hit.n_tokens)
        em_model_copy_slot(st->model, st->max_seqs + hit.snapshot, seq->kv.slot);
    seq->pos = hit.n_tokens;
    seq->n_known_blocks = hit.n_blocks;
    if (seq->started || !em_seq_store_shares(st, seq))
        return 0;
    seq->cached_tokens = hit.n_tokens;
    st->prefix_queries += (uint64_t)seq->prompt->n_ids;
    st->prefix_hits += (uint64_t)hit.n_tokens;
    return 0;
}

int em_seq_store_fork(em_seq_store *st, const em_seq *from, em_seq *to)
{
    int32_t n_full = from->pos / st->block_tokens;
    bool partial = from->pos % st->block_tokens;
    if (partial && !em_kv_cache_free_blocks(st->kv))
        return -EAGAIN;
    int rc = em_seq_kv_open(st->kv, &to->kv);
    for (int32_t i = 0; i < n_full && !rc; i++)
        rc = em_seq_kv_share(st->kv, &to->kv, from->kv.block_table[i]);
    if (!rc)
        rc = em_seq_kv_reserve(st->kv, &to->kv, from->pos);
    if (rc) {
        em_seq_kv_close(st->kv, &to->kv);
        return rc;
    }
    em_model_copy_slot(st->model, from->kv.slot, to->kv.slot);
    if (partial)
        em_model_copy_block(st->model, from->kv.block_table[n_full], to->kv.block_table[n_full]);
    to->pos = from->pos;
    to->n_known_blocks = from->n_known_blocks;
    to->cached_tokens = from->cached_tokens;
    st->prefix_queries += (uint64_t)to->prompt->n_ids;
    st->prefix_hits += (uint64_t)to->prompt->n_ids;
    return 0;
}

void em_seq_store_close(em_seq_store *st, em_seq *seq)
{
    em_seq_kv_close(st->kv, &seq->kv);
    seq->pos = 0;
    seq->n_known_blocks = 0;
}

/* --- boundaries --------------------------------------------------------------------------------------------- */

/* The last boundary from which a prompt equal to this one can resume: its last token is always computed. */
static int32_t last_boundary(const em_seq_store *st, const em_seq *seq)
{
    return (seq->prompt->n_ids - 1) / st->block_tokens * st->block_tokens;
}

/* Blocks double into each other, so that the boundaries of a longer prompt are some of a shorter one's. */
static int32_t spacing_of(const em_seq_store *st, const em_seq *seq)
{
    int64_t spacing = st->block_tokens;
    while (spacing < EM_SNAPSHOT_TOKENS &&
           (!st->saves_inside || spacing * EM_SNAPSHOT_PARTS < seq->prompt->n_ids)) /* short runs are slow */
        spacing *= 2;
    return (int32_t)spacing;
}

int32_t em_seq_store_stop(const em_seq_store *st, const em_seq *seq)
{
    int32_t goal = em_seq_goal(seq), last = last_boundary(st, seq), spacing = spacing_of(st, seq);
    if (!st->prefix || st->saves_inside)
        return goal;
    int32_t stop = seq->pos / spacing * spacing + spacing;
    if (seq->pos < last)
        stop = min_i32(stop, last);
    return min_i32(stop, goal);
}

/* Prompts at the places above and at their very end; answers at the last boundary, one snapshot that moves along. */
static bool wants_save(const em_seq_store *st, const em_seq *seq, int32_t pos, int32_t end)
{
    if (pos >= seq->prompt->n_ids)
        return pos + st->block_tokens > end;
    return pos % spacing_of(st, seq) == 0 || pos == last_boundary(st, seq);
}

static uint64_t owner_at(const em_seq *seq, int32_t pos)
{
    return pos > seq->prompt->n_ids ? seq->serial + 1 : 0;
}

int32_t em_seq_store_plan_saves(em_seq_store *st, const em_seq *seq, int32_t n_tokens, em_batch_save *saves,
                                int32_t cap)
{
    int32_t n = 0, end = seq->pos + n_tokens;
    if (!st->prefix)
        return 0;
    for (int32_t pos = (seq->pos / st->block_tokens + 1) * st->block_tokens; pos <= end && n < cap;
         pos += st->block_tokens) {
        if (!wants_save(st, seq, pos, end) || (pos != end && !st->saves_inside))
            continue;
        int32_t i = em_prefix_cache_take_snapshot(st->prefix, owner_at(seq, pos));
        if (i < 0)
            break;
        saves[n++] = (em_batch_save){.pos = pos, .slot = st->max_seqs + i};
    }
    return n;
}

void em_seq_store_drop_saves(em_seq_store *st, const em_batch_save *saves, int32_t n_saves)
{
    for (int32_t i = 0; i < n_saves; i++)
        em_prefix_cache_give_back_snapshot(st->prefix, saves[i].slot - st->max_seqs);
}

void em_seq_store_advance(em_seq_store *st, em_seq *seq, const em_batch_save *saves, int32_t n_saves)
{
    int32_t n_full = seq->pos / st->block_tokens;
    if (!st->prefix || n_full == 0)
        return;
    if (seq->n_known_blocks < n_full) {
        em_prefix_text text = text_of(seq);
        seq->n_known_blocks = em_prefix_cache_put(st->prefix, &text, &seq->kv, seq->n_known_blocks, n_full);
    }
    for (int32_t i = 0; i < n_saves; i++) {
        int32_t n_blocks = saves[i].pos / st->block_tokens, snapshot = saves[i].slot - st->max_seqs;
        if (n_blocks > seq->n_known_blocks) {
            em_prefix_cache_give_back_snapshot(st->prefix, snapshot);
            continue;
        }
        if (!st->saves_inside)
            em_model_copy_slot(st->model, seq->kv.slot, saves[i].slot);
        em_prefix_cache_put_snapshot(st->prefix, snapshot, seq->kv.block_table[n_blocks - 1],
                                     owner_at(seq, saves[i].pos));
    }
}
