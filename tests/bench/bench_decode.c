/* Decode at batch 1 beside the machine's read rate, interleaved in one run:
 *   bench_decode MODEL_DIR [--threads N] [--tokens N] [--prompt N] [--read-mib N]
 * Prints one JSON object. fraction = (weight bytes a token reads) x (tokens/s) / read rate, medians of five rounds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"
#include "tests/support/read_rate.h"

#define ROUNDS 5

typedef struct args {
    const char *dir;
    int threads, tokens, prompt, read_mib;
} args;

static int fail(const em_error *err)
{
    fprintf(stderr, "bench_decode: %s\n", err->text);
    return 1;
}

static void parse(int argc, char **argv, args *a)
{
    *a = (args){.tokens = 16, .prompt = 64, .read_mib = 2048};
    for (int i = 1; i < argc; i++) {
        int *to = !strcmp(argv[i], "--threads")    ? &a->threads
                  : !strcmp(argv[i], "--tokens")   ? &a->tokens
                  : !strcmp(argv[i], "--prompt")   ? &a->prompt
                  : !strcmp(argv[i], "--read-mib") ? &a->read_mib
                                                   : NULL;
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
    if (!a.dir || a.tokens < 1 || a.prompt < 1) {
        fprintf(stderr, "usage: bench_decode MODEL_DIR [--threads N] [--tokens N] [--prompt N] [--read-mib N]\n");
        return 2;
    }
    em_model_opts opts = {
        .dir = a.dir, .n_threads = a.threads, .max_seqs = 1, .max_batch_tokens = a.prompt, .cpu_flags_mask = ~0u};
    em_model *m = NULL;
    if (em_model_open(&opts, &m, &err) < 0)
        return fail(&err);
    int64_t fixed, expert, bytes;
    em_model_step_bytes(m, &fixed, &expert);
    const em_model_config *cfg = em_model_get_config(m);
    bytes = fixed + (int64_t)cfg->n_layers * cfg->n_experts_per_tok * expert;
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
    printf("{\"backend\":\"%s\",\"threads\":%d,\"bytes_per_token\":%lld,\"tok_s\":%.3f,\"read_gbps\":%.2f,\"fraction_"
           "of_read\":%.3f}\n",
           em_model_backend_name(m), em_model_n_threads(m), (long long)bytes, tok_s, gbps,
           tok_s * (double)bytes / 1e9 / gbps);
    em_seq_kv_close(em_model_kv_cache(m), &kv);
    em_pool_free(pool);
    em_model_close(m);
    free(data);
    free(ids);
    free(logits);
    return 0;
}
