#include "tests/support/stub_model.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(cond, ...)                                                                                                \
    do {                                                                                                               \
        if (!(cond)) {                                                                                                 \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond);                                                 \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fputc('\n', stderr);                                                                                       \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* What a slot has computed, or a block holds: how far it reaches and a digest of all tokens up to there. */
typedef struct state {
    int32_t pos;
    uint64_t digest;
} state;

struct em_model {
    stub_model stub;
    em_model_config cfg;
    em_tokenizer *tok;
    em_kv_cache *kv;
    int32_t max_seqs, max_batch_tokens, n_snapshots;
    state *slot;          /* [max_seqs + n_snapshots] */
    state *block;         /* [n_blocks] */
    int32_t *block_owner; /* [n_blocks] slot that writes to the block in this step */
    bool *slot_used;      /* [max_seqs] in this step */
};

static stub_model next_stub;
static pthread_mutex_t counts_lock = PTHREAD_MUTEX_INITIALIZER;
static stub_counts counts;

void stub_model_set(const stub_model *stub)
{
    next_stub = *stub;
    pthread_mutex_lock(&counts_lock);
    counts = (stub_counts){0};
    pthread_mutex_unlock(&counts_lock);
}

stub_counts stub_model_counts(void)
{
    pthread_mutex_lock(&counts_lock);
    stub_counts c = counts;
    pthread_mutex_unlock(&counts_lock);
    return c;
}

int em_model_open(const em_model_opts *opts, em_model **ret_model, em_error *err)
{
    em_model *m = calloc(1, sizeof(*m));
    MUST(m, "out of memory");
    m->stub = next_stub;
    m->cfg = (em_model_config){.vocab_size = m->stub.vocab_size,
                               .max_len = m->stub.max_len,
                               .bos_id = -1,
                               .eos_id = m->stub.eos_id,
                               .pad_id = -1};
    m->max_seqs = opts->max_seqs;
    m->max_batch_tokens = opts->max_batch_tokens;
    m->n_snapshots = m->stub.n_snapshots < 0 ? 0 : m->stub.n_snapshots ? m->stub.n_snapshots : 8;
    m->n_snapshots = m->n_snapshots < opts->max_snapshots ? m->n_snapshots : opts->max_snapshots;
    m->slot = calloc((size_t)(m->max_seqs + m->n_snapshots), sizeof(*m->slot));
    m->block = calloc((size_t)m->stub.n_blocks, sizeof(*m->block));
    m->slot_used = calloc((size_t)m->max_seqs, sizeof(*m->slot_used));
    m->block_owner = calloc((size_t)m->stub.n_blocks, sizeof(*m->block_owner));
    MUST(m->slot && m->block && m->slot_used && m->block_owner, "out of memory");
    MUST(em_kv_cache_new(m->max_seqs, m->stub.n_blocks, m->stub.block_tokens, &m->kv) == 0, "no KV cache");
    if (m->stub.tokenizer_dir) {
        int rc = em_tokenizer_load(m->stub.tokenizer_dir, &m->tok, err);
        if (rc) {
            em_model_close(m);
            return rc;
        }
    }
    *ret_model = m;
    return 0;
}

em_model *em_model_close(em_model *m)
{
    if (!m)
        return NULL;
    MUST(em_kv_cache_free_slots(m->kv) == m->max_seqs, "a slot was not given back");
    MUST(em_kv_cache_free_blocks(m->kv) == m->stub.n_blocks, "a block was not given back");
    em_kv_cache_free(m->kv);
    em_tokenizer_free(m->tok);
    free(m->slot);
    free(m->block);
    free(m->slot_used);
    free(m->block_owner);
    free(m);
    return NULL;
}

const em_model_config *em_model_get_config(const em_model *m)
{
    return &m->cfg;
}

const em_tokenizer *em_model_tokenizer(const em_model *m)
{
    return m->tok;
}

int32_t em_model_max_len(const em_model *m)
{
    return m->cfg.max_len;
}

int32_t em_model_max_batch_tokens(const em_model *m)
{
    return m->max_batch_tokens;
}

em_kv_cache *em_model_kv_cache(em_model *m)
{
    return m->kv;
}

int32_t em_model_snapshots(const em_model *m)
{
    return m->n_snapshots;
}

em_engram *em_model_engram(em_model *m)
{
    return NULL;
}

const char *em_model_backend_why(const em_model *m)
{
    return "";
}

em_insight_shape em_model_insight_shape(const em_model *m)
{
    return m->stub.insight;
}

const int32_t *em_model_engram_layers(const em_model *m)
{
    return m->cfg.engram_layer;
}

const char *em_model_backend_name(const em_model *m)
{
    return "stub";
}

int32_t em_model_n_threads(const em_model *m)
{
    return 1;
}

uint64_t em_model_weight_bytes(const em_model *m)
{
    return 1000;
}

uint64_t em_model_kv_bytes(const em_model *m)
{
    return 2000;
}

int em_model_ask(em_model *m, const em_batch *batch, em_engram_ticket **ret_ticket)
{
    MUST(batch->n_seqs > 0, "an empty batch is asked for");
    pthread_mutex_lock(&counts_lock);
    counts.n_asks++;
    pthread_mutex_unlock(&counts_lock);
    *ret_ticket = NULL;
    return 0;
}

bool em_model_saves_inside(const em_model *m)
{
    return m->stub.saves_inside;
}

void em_model_copy_slot(em_model *m, int32_t from, int32_t to)
{
    int32_t n = m->max_seqs + m->n_snapshots;
    MUST(from >= 0 && from < n && to >= 0 && to < n && from != to, "slot %d to %d", from, to);
    m->slot[to] = m->slot[from];
    pthread_mutex_lock(&counts_lock);
    counts.n_slot_copies++;
    pthread_mutex_unlock(&counts_lock);
}

void em_model_copy_block(em_model *m, int32_t from, int32_t to)
{
    int32_t n = m->stub.n_blocks;
    MUST(from >= 0 && from < n && to >= 0 && to < n && from != to, "block %d to %d", from, to);
    m->block[to] = m->block[from];
    pthread_mutex_lock(&counts_lock);
    counts.n_block_copies++;
    pthread_mutex_unlock(&counts_lock);
}

#define NO_TOKENS ((state){.digest = UINT64_C(0xcbf29ce484222325)})

static state extend(state st, int32_t token)
{
    return (state){st.pos + 1, (st.digest ^ (uint64_t)token) * UINT64_C(0x100000001b3)};
}

static bool same(state a, state b)
{
    return a.pos == b.pos && a.digest == b.digest;
}

/* Every block of the positions before the run must hold just these tokens: its own, or a shared one's, unspoilt. */
static state check_past(const em_model *m, const em_batch_seq *q)
{
    state st = NO_TOKENS;
    for (int32_t p = 0; p < q->pos; p++) {
        st = extend(st, q->tokens[p]);
        if (st.pos % m->stub.block_tokens == 0 || st.pos == q->pos)
            MUST(same(m->block[q->kv->block_table[p / m->stub.block_tokens]], st), "block %d does not hold position %d",
                 q->kv->block_table[p / m->stub.block_tokens], p);
    }
    return st;
}

/* What a save at this position is to hold. */
static void save_slot(em_model *m, const em_batch_seq *q, state st)
{
    for (int32_t i = 0; m->stub.saves_inside && i < q->n_saves; i++) {
        const em_batch_save *save = &q->saves[i];
        if (save->pos != st.pos)
            continue;
        m->slot[save->slot] = st;
        pthread_mutex_lock(&counts_lock);
        counts.n_saves++;
        pthread_mutex_unlock(&counts_lock);
    }
}

/* At boundaries of the run, in order, each into a snapshot of its own. */
static void check_saves(const em_model *m, const em_batch_seq *q)
{
    for (int32_t i = 0; i < q->n_saves; i++) {
        const em_batch_save *save = &q->saves[i];
        MUST(save->pos > (i ? save[-1].pos : q->pos) && save->pos <= q->pos + q->n_tokens, "save at %d", save->pos);
        MUST(save->pos % m->stub.block_tokens == 0, "save at %d, inside a block", save->pos);
        MUST(save->slot >= m->max_seqs && save->slot < m->max_seqs + m->n_snapshots, "save in slot %d", save->slot);
    }
}

/* Writes the run's positions into blocks that nobody else writes to. */
static state write_run(em_model *m, const em_batch_seq *q, state st)
{
    for (int32_t p = q->pos; p < q->pos + q->n_tokens; p++) {
        int32_t id = q->kv->block_table[p / m->stub.block_tokens];
        MUST(m->block_owner[id] < 0 || m->block_owner[id] == q->kv->slot, "block %d has two writers", id);
        m->block_owner[id] = q->kv->slot;
        st = extend(st, q->tokens[p]);
        m->block[id] = st;
        save_slot(m, q, st);
    }
    return st;
}

/* Each sequence once, with room for its positions, going on exactly where its slot stopped. */
static void check_seq(em_model *m, const em_batch_seq *q)
{
    MUST(q->n_tokens >= 1 && q->n_logits >= 0 && q->n_logits <= q->n_tokens, "run of %d tokens, %d logits", q->n_tokens,
         q->n_logits);
    int32_t slot = q->kv->slot;
    MUST(slot >= 0 && slot < m->max_seqs && !m->slot_used[slot], "slot %d", slot);
    m->slot_used[slot] = true;
    MUST(q->pos + q->n_tokens <= (int64_t)q->kv->n_blocks * m->stub.block_tokens, "%d blocks do not cover position %d",
         q->kv->n_blocks, q->pos + q->n_tokens - 1);
    MUST(q->pos + q->n_tokens <= m->cfg.max_len, "position %d", q->pos + q->n_tokens - 1);
    for (int32_t b = 0; b < q->kv->n_blocks; b++)
        MUST(q->kv->block_table[b] >= 0 && q->kv->block_table[b] < m->stub.n_blocks, "block %d", q->kv->block_table[b]);
    for (int32_t i = 0; i < q->pos + q->n_tokens; i++)
        MUST(q->tokens[i] >= 0 && q->tokens[i] < m->cfg.vocab_size, "token %d", q->tokens[i]);
    check_saves(m, q);
    state st = check_past(m, q);
    MUST(q->pos == 0 || same(m->slot[slot], st), "slot %d holds %d positions, the run begins at %d", slot,
         m->slot[slot].pos, q->pos);
    m->slot[slot] = write_run(m, q, st);
}

static void check_batch(em_model *m, const em_batch *batch)
{
    MUST(batch->n_seqs > 0 && batch->n_seqs <= m->max_seqs, "%d sequences", batch->n_seqs);
    memset(m->slot_used, 0, (size_t)m->max_seqs * sizeof(*m->slot_used));
    memset(m->block_owner, -1, (size_t)m->stub.n_blocks * sizeof(*m->block_owner));
    int32_t n_tokens = 0, n_logits = 0;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        check_seq(m, &batch->seqs[i]);
        n_tokens += batch->seqs[i].n_tokens;
        n_logits += batch->seqs[i].n_logits;
    }
    MUST(n_tokens == batch->n_tokens && n_logits == batch->n_logits, "sums are wrong");
    MUST(n_tokens <= m->max_batch_tokens, "%d tokens in a step", n_tokens);
    pthread_mutex_lock(&counts_lock);
    counts.n_steps++;
    counts.n_tokens += n_tokens;
    counts.max_seqs = counts.max_seqs > batch->n_seqs ? counts.max_seqs : batch->n_seqs;
    counts.max_tokens = counts.max_tokens > n_tokens ? counts.max_tokens : n_tokens;
    counts.max_logits = counts.max_logits > n_logits ? counts.max_logits : n_logits;
    pthread_mutex_unlock(&counts_lock);
}

/* A gate says which token of which position it belongs to. */
static void tell(const em_model *m, const em_batch_seq *q)
{
    const em_insight_shape *s = &m->stub.insight;
    MUST(q->n_insight >= 0 && q->n_insight <= q->n_tokens, "%d tokens of %d are to be told of", q->n_insight,
         q->n_tokens);
    for (int32_t i = 0; i < q->n_insight; i++) {
        int32_t p = q->pos + q->n_tokens - q->n_insight + i;
        em_insight in = em_insight_from(&q->insight, s, (size_t)i);
        for (int32_t l = 0; l < s->n_layers; l++) {
            for (int32_t k = 0; k < s->n_streams; k++)
                in.gate[l * s->n_streams + k] = stub_model_gate(q->tokens[p], p, l, k);
            for (int32_t k = 0; k < s->n_orders; k++)
                in.share[l * s->n_orders + k] = 1.0f / (float)s->n_orders;
            in.cached[l] = p % 2 == 0;
        }
    }
}

float stub_model_gate(int32_t token, int32_t pos, int32_t layer, int32_t stream)
{
    return (float)((token * 31 + pos * 7 + layer * 3 + stream) % 1000) / 1000.0f;
}

int em_model_forward(em_model *m, const em_batch *batch, em_engram_ticket *ticket, float *logits, em_error *err)
{
    check_batch(m, batch);
    int rc = m->stub.on_forward ? m->stub.on_forward(m->stub.ctx, batch) : 0;
    if (rc)
        return em_error_set(err, rc, "the stub was told to fail.");
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        const em_batch_seq *q = &batch->seqs[i];
        tell(m, q);
        for (int32_t n = q->pos + q->n_tokens - q->n_logits; n < q->pos + q->n_tokens; n++) {
            m->stub.logits(m->stub.ctx, q->tokens, n + 1, logits);
            logits += m->cfg.vocab_size;
        }
    }
    return 0;
}
