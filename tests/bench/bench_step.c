/* Decode steps by batch size in processor time, so that a busy machine tells the truth too: milliseconds that one thread
 * works for a step, and how many times the tokens of batch 1 a larger batch makes of the same work. Sizes take turns, the
 * median of the rounds counts. One JSON object per size.
 *
 *     bench_step MODEL_DIR [c|avx2|avx512] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/cpu/kernels.h"
#include "engine/model.h"
#include "tests/support/read_rate.h"

enum { MAX_BATCH = 64, PROMPT = 64, STEPS = 8, ROUNDS = 5, N_SIZES = 5 };
static const int sizes[N_SIZES] = {1, 4, 8, 16, MAX_BATCH};

typedef struct crowd {
    em_model *m;
    em_seq_kv kv[MAX_BATCH];
    int32_t *ids[MAX_BATCH]; /* as many as the model's longest sequence */
    int pos[MAX_BATCH];
    float *logits;
} crowd;

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int step(crowd *c, int first, int n, int n_tokens, em_error *err)
{
    em_batch_seq runs[MAX_BATCH] = {0};
    for (int i = 0; i < n; i++) {
        int s = first + i;
        runs[i] =
            (em_batch_seq){.kv = &c->kv[s], .tokens = c->ids[s], .pos = c->pos[s], .n_tokens = n_tokens, .n_logits = 1};
        c->pos[s] += n_tokens;
    }
    em_batch batch = {.seqs = runs, .n_seqs = n, .n_tokens = n * n_tokens, .n_logits = n};
    return em_model_forward(c->m, &batch, NULL, c->logits, err);
}

static int open_crowd(crowd *c, em_error *err)
{
    int vocab = em_model_get_config(c->m)->vocab_size, total = PROMPT + (ROUNDS + 1) * STEPS * N_SIZES;
    c->logits = malloc((size_t)MAX_BATCH * (size_t)vocab * sizeof(*c->logits));
    for (int s = 0; s < MAX_BATCH; s++) {
        c->ids[s] = malloc((size_t)total * sizeof(*c->ids[s]));
        for (int i = 0; i < total; i++)
            c->ids[s][i] = (int32_t)((unsigned)(i * 7919 + s * 104729 + 11) % (unsigned)vocab);
        c->kv[s].slot = -1;
        if (em_seq_kv_open(em_model_kv_cache(c->m), &c->kv[s]) < 0 ||
            em_seq_kv_reserve(em_model_kv_cache(c->m), &c->kv[s], total) < 0)
            return em_error_set(err, -1, "no room for sequence %d", s);
        int r = step(c, s, 1, PROMPT, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int measure(crowd *c, em_error *err)
{
    double ms[N_SIZES][ROUNDS], median[N_SIZES];
    for (int round = -1; round < ROUNDS; round++) /* the first warms up */
        for (int z = 0; z < N_SIZES; z++) {
            double start = cpu_seconds();
            for (int i = 0; i < STEPS; i++) {
                int r = step(c, 0, sizes[z], 1, err);
                if (r < 0)
                    return r;
            }
            if (round >= 0)
                ms[z][round] = (cpu_seconds() - start) * 1e3 / STEPS;
        }
    for (int z = 0; z < N_SIZES; z++) {
        median[z] = median_of(ms[z], ROUNDS);
        printf("{\"bench\": \"step\", \"backend\": \"%s\", \"batch\": %d, \"cpu_ms\": %.3f, \"times_batch_1\": %.2f}\n",
               em_model_backend_name(c->m), sizes[z], median[z], median[0] * sizes[z] / median[z]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_step MODEL_DIR [c|avx2|avx512]\n");
        return 2;
    }
    unsigned mask = argc < 3 ? ~0u : strcmp(argv[2], "c") == 0 ? 0 : strcmp(argv[2], "avx2") == 0 ? EM_CPU_AVX2 : ~0u;
    em_model_opts opts = {.dir = argv[1],
                          .n_threads = 1,
                          .max_seqs = MAX_BATCH,
                          .max_batch_tokens = 512,
                          .kv_cache_bytes = INT64_C(1) << 30,
                          .cpu_flags_mask = mask};
    static crowd c;
    em_error err = {.text = ""};
    int r = em_model_open(&opts, &c.m, &err);
    if (r == 0)
        r = open_crowd(&c, &err);
    if (r == 0)
        r = measure(&c, &err);
    if (r < 0)
        fprintf(stderr, "bench_step: %s\n", err.text);
    for (int s = 0; s < MAX_BATCH && c.ids[s]; s++) {
        em_seq_kv_close(em_model_kv_cache(c.m), &c.kv[s]);
        free(c.ids[s]);
    }
    free(c.logits);
    em_model_close(c.m);
    return r < 0;
}
