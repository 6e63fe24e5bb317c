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

/* What a slot has computed: the positions and a digest of their tokens. */
typedef struct slot_state {
    int32_t pos;
    uint64_t digest;
} slot_state;

struct em_model {
    stub_model stub;
    em_model_config cfg;
    em_tokenizer *tok;
    em_kv_cache *kv;
    int32_t max_seqs, max_batch_tokens;
    slot_state *slot;     /* [max_seqs] */
    int32_t *block_owner; /* [n_blocks] slot that uses the block in this step */
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
    m->slot = calloc((size_t)m->max_seqs, sizeof(*m->slot));
    m->slot_used = calloc((size_t)m->max_seqs, sizeof(*m->slot_used));
    m->block_owner = calloc((size_t)m->stub.n_blocks, sizeof(*m->block_owner));
    MUST(m->slot && m->slot_used && m->block_owner, "out of memory");
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

em_engram *em_model_engram(em_model *m)
{
    return NULL;
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

static uint64_t digest_of(const int32_t *tokens, int32_t n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int32_t i = 0; i < n; i++)
        h = (h ^ (uint64_t)tokens[i]) * UINT64_C(0x100000001b3);
    return h;
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
    for (int32_t b = 0; b < q->kv->n_blocks; b++) {
        int32_t id = q->kv->block_table[b];
        MUST(id >= 0 && id < m->stub.n_blocks && m->block_owner[id] < 0, "block %d has two owners", id);
        m->block_owner[id] = slot;
    }
    for (int32_t i = 0; i < q->pos + q->n_tokens; i++)
        MUST(q->tokens[i] >= 0 && q->tokens[i] < m->cfg.vocab_size, "token %d", q->tokens[i]);
    slot_state *st = &m->slot[slot];
    MUST(q->pos == 0 || (st->pos == q->pos && st->digest == digest_of(q->tokens, q->pos)),
         "slot %d holds %d positions, the run begins at %d", slot, st->pos, q->pos);
    *st = (slot_state){.pos = q->pos + q->n_tokens, .digest = digest_of(q->tokens, q->pos + q->n_tokens)};
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

int em_model_forward(em_model *m, const em_batch *batch, em_engram_ticket *ticket, float *logits, em_error *err)
{
    check_batch(m, batch);
    int rc = m->stub.on_forward ? m->stub.on_forward(m->stub.ctx, batch) : 0;
    if (rc)
        return em_error_set(err, rc, "the stub was told to fail.");
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        const em_batch_seq *q = &batch->seqs[i];
        for (int32_t n = q->pos + q->n_tokens - q->n_logits; n < q->pos + q->n_tokens; n++) {
            m->stub.logits(m->stub.ctx, q->tokens, n + 1, logits);
            logits += m->cfg.vocab_size;
        }
    }
    return 0;
}
