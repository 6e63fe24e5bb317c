/* Decode at batch 1 beside the machine's read rate, interleaved in one run:
 *   bench_decode MODEL_DIR [--threads N] [--tokens N] [--prompt N] [--read-mib N]
 * Prints one JSON object. fraction = (weight bytes a token reads) x (tokens/s) / read rate, medians of five rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "engine/safetensors.h"
#include "engine/weights.h"
#include "tests/support/read_rate.h"

#define ROUNDS 5

typedef struct args {
    const char *dir;
    int threads, tokens, prompt, read_mib;
} args;

static int64_t matrix_bytes(const em_matrix *w)
{
    int64_t scales = w->scale ? (w->rows + w->scale_rows - 1) / w->scale_rows * w->scale_stride : 0;
    return w->rows * (int64_t)em_matrix_row_bytes(w) + scales;
}

static int64_t expert_bytes(const em_expert_weights *e)
{
    return matrix_bytes(&e->w1) + matrix_bytes(&e->w2) + matrix_bytes(&e->w3);
}

/* Weight bytes that one decode token at batch 1 must read. */
static int64_t bytes_per_token(const em_model_config *cfg, const em_weights *w)
{
    int64_t n = matrix_bytes(&w->head);
    for (int l = 0; l < cfg->n_layers; l++) {
        const em_layer_weights *lw = &w->layers[l];
        const em_matrix *dense[] = {&lw->hc_attn.fn, &lw->hc_ffn.fn, &lw->wq_a, &lw->wq_b, &lw->wkv, &lw->wo_a, &lw->wo_b,
                                    &lw->router, &lw->comp_wkv, &lw->comp_wgate, &lw->index_wk, &lw->index_wq_b,
                                    &lw->index_weights_proj};
        for (size_t i = 0; i < sizeof dense / sizeof *dense; i++)
            n += matrix_bytes(dense[i]);
        n += cfg->n_experts_per_tok * expert_bytes(&lw->experts[0]) + expert_bytes(&lw->shared);
        n += lw->engram ? matrix_bytes(&lw->engram->wkv) : 0;
    }
    return n;
}

static int fail(const em_error *err)
{
    fprintf(stderr, "bench_decode: %s\n", err->text);
    return 1;
}

static int count_bytes(const char *dir, int64_t *ret_bytes, em_error *err)
{
    em_model_config cfg;
    em_st_set *set = NULL;
    em_weights *w = NULL;
    int r = em_model_config_load(dir, &cfg, err);
    if (r == 0)
        r = em_st_open(dir, &set, err);
    if (r == 0)
        r = em_weights_load(&cfg, set, &w, err);
    if (r == 0)
        *ret_bytes = bytes_per_token(&cfg, w);
    em_weights_free(w);
    em_st_close(set);
    return r;
}

static void parse(int argc, char **argv, args *a)
{
    *a = (args){.tokens = 16, .prompt = 64, .read_mib = 2048};
    for (int i = 1; i < argc; i++) {
        int *to = !strcmp(argv[i], "--threads") ? &a->threads : !strcmp(argv[i], "--tokens") ? &a->tokens
                : !strcmp(argv[i], "--prompt") ? &a->prompt : !strcmp(argv[i], "--read-mib") ? &a->read_mib : NULL;
        if (to && i + 1 < argc)
            *to = atoi(argv[++i]);
        else
            a->dir = argv[i];
    }
}

/* Computes ids [pos, pos + n) and picks the next greedily (the route through the experts follows the text). */
static int step(em_model *m, em_seq_kv *kv, int32_t *ids, int pos, int n, float *logits, em_error *err)
{
    em_batch_seq run = {.kv = kv, .tokens = ids, .pos = pos, .n_tokens = n, .n_logits = 1};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = n, .n_logits = 1};
    int r = em_model_forward(m, &batch, NULL, logits, err), vocab = em_model_get_config(m)->vocab_size, best = 0;
    for (int i = 1; r == 0 && i < vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    ids[pos + n] = best;
    return r;
}

int main(int argc, char **argv)
{
    args a;
    parse(argc, argv, &a);
    em_error err = {""};
    int64_t bytes = 0;
    if (!a.dir || a.tokens < 1 || a.prompt < 1) {
        fprintf(stderr, "usage: bench_decode MODEL_DIR [--threads N] [--tokens N] [--prompt N] [--read-mib N]\n");
        return 2;
    }
    em_model_opts opts = {.dir = a.dir, .n_threads = a.threads, .max_seqs = 1, .max_batch_tokens = a.prompt, .cpu_flags_mask = ~0u};
    em_model *m = NULL;
    if (count_bytes(a.dir, &bytes, &err) < 0 || em_model_open(&opts, &m, &err) < 0)
        return fail(&err);
    int total = a.prompt + (ROUNDS + 1) * a.tokens + 1, vocab = em_model_get_config(m)->vocab_size;
    int32_t *ids = malloc((size_t)total * sizeof *ids);
    float *logits = malloc((size_t)vocab * sizeof *logits);
    for (int i = 0; i < a.prompt; i++)
        ids[i] = (int32_t)((i * 7919 + 11) % vocab);
    em_seq_kv kv = {.slot = -1};
    em_seq_kv_open(em_model_kv_cache(m), &kv);
    if (em_seq_kv_reserve(em_model_kv_cache(m), &kv, total) < 0 || step(m, &kv, ids, 0, a.prompt, logits, &err) < 0)
        return fail(&err);

    em_pool *pool;
    size_t read_bytes = (size_t)a.read_mib << 20;
    void *data = huge_alloc(read_bytes);
    if (!data || em_pool_new(em_model_n_threads(m), &pool) < 0)
        return fail(&(em_error){"no memory for the read rate"});
    double read[ROUNDS], rate[ROUNDS];
    int pos = a.prompt;
    for (int round = -1; round < ROUNDS; round++) { /* round -1 warms up */
        double bps = read_rate_once(pool, data, read_bytes);
        uint64_t t = em_now_ns();
        for (int i = 0; i < a.tokens; i++)
            if (step(m, &kv, ids, pos++, 1, logits, &err) < 0)
                return fail(&err);
        double tps = a.tokens * 1e9 / (double)(em_now_ns() - t);
        if (round >= 0) {
            read[round] = bps;
            rate[round] = tps;
        }
    }
    double gbps = median_of(read, ROUNDS) / 1e9, tok_s = median_of(rate, ROUNDS);
    printf("{\"backend\":\"%s\",\"threads\":%d,\"bytes_per_token\":%lld,\"tok_s\":%.3f,\"read_gbps\":%.2f,\"fraction_of_read\":%.3f}\n",
           em_model_backend_name(m), em_model_n_threads(m), (long long)bytes, tok_s, gbps, tok_s * (double)bytes / 1e9 / gbps);
    em_seq_kv_close(em_model_kv_cache(m), &kv);
    em_pool_free(pool);
    em_model_close(m);
    free(data);
    free(ids);
    free(logits);
    return 0;
}
