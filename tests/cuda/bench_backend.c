/* Figures of the CUDA backend on one model: decode steps by number of sequences, with Engram rows read from the host's
 * tables by the device and with rows gathered by the host; prefill; and the device's own copy rate, measured in between.
 *
 *     bench-backend MODEL_DIR ROUNDS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/clock.h"
#include "tests/cuda/device_rig.h"

#define MAX_SEQS 64
#define PREFIX 8

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double median_ms(uint64_t *ns, int n)
{
    qsort(ns, (size_t)n, sizeof(*ns), by_value);
    return (double)ns[n / 2] / 1e6;
}

/* Bytes per second, read and written, of copies inside the arena: logits to logits' second half. */
static double copy_rate(device_rig *r, int rounds)
{
    em_cuda *c = r->cuda;
    size_t half = (size_t)c->logit_rows * (size_t)r->cfg.vocab_size / 2 * sizeof(float);
    uint64_t ns[64];
    rounds = rounds < 64 ? rounds : 64;
    for (int i = 0; i < rounds; i++) {
        uint64_t start = em_now_ns();
        NEED(cudaMemcpyAsync((uint8_t *)c->logits + half, c->logits, half, cudaMemcpyDeviceToDevice, c->stream) ==
                     cudaSuccess &&
                 cudaStreamSynchronize(c->stream) == cudaSuccess,
             "a copy failed");
        ns[i] = em_now_ns() - start;
    }
    return 2.0 * (double)half / (median_ms(ns, rounds) / 1e3);
}

/* Median of decode steps of so many sequences, each PREFIX tokens long at first. */
static double decode_ms(device_rig *r, int n_seqs, int rounds)
{
    static int32_t ids[1 << 16];
    em_seq_kv kv[MAX_SEQS];
    em_batch_seq run[MAX_SEQS];
    uint64_t *ns = malloc((size_t)rounds * sizeof(*ns));
    float *logits = malloc((size_t)MAX_SEQS * (size_t)r->cfg.vocab_size * sizeof(*logits));
    em_error err = {""};
    NEED(ns && logits, "out of memory");
    for (int i = 0; i < PREFIX + rounds + 1; i++)
        ids[i] = (i * 37 + 11) % 200;
    for (int s = 0; s < n_seqs; s++) {
        kv[s] = (em_seq_kv){.slot = -1};
        NEED(em_seq_kv_open(r->kv, &kv[s]) == 0 && em_seq_kv_reserve(r->kv, &kv[s], PREFIX + rounds + 1) == 0,
             "no room for %d sequences", n_seqs);
        run[s] = (em_batch_seq){.kv = &kv[s], .tokens = ids, .n_tokens = PREFIX};
        em_batch one = {.seqs = &run[s], .n_seqs = 1, .n_tokens = PREFIX};
        NEED(rig_forward(r, &one, logits, &err) == 0, "%s", err.text);
    }
    for (int i = -1; i < rounds; i++) { /* the first one records */
        for (int s = 0; s < n_seqs; s++)
            run[s] = (em_batch_seq){.kv = &kv[s], .tokens = ids, .pos = PREFIX + i + 1, .n_tokens = 1, .n_logits = 1};
        em_batch batch = {.seqs = run, .n_seqs = n_seqs, .n_tokens = n_seqs, .n_logits = n_seqs};
        uint64_t start = em_now_ns();
        NEED(rig_forward(r, &batch, logits, &err) == 0, "%s", err.text);
        if (i >= 0)
            ns[i] = em_now_ns() - start;
    }
    double ms = median_ms(ns, rounds);
    for (int s = 0; s < n_seqs; s++)
        em_seq_kv_close(r->kv, &kv[s]);
    free(ns);
    free(logits);
    return ms;
}

static void prefill(device_rig *r, int n)
{
    static int32_t ids[1024];
    em_seq_kv kv = {.slot = -1};
    em_error err = {""};
    float *logits = malloc((size_t)r->cfg.vocab_size * sizeof(*logits));
    NEED(logits && em_seq_kv_open(r->kv, &kv) == 0 && em_seq_kv_reserve(r->kv, &kv, n) == 0, "no room");
    for (int i = 0; i < n; i++)
        ids[i] = (i * 37 + 11) % 200;
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = n, .n_logits = 1};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = n, .n_logits = 1};
    uint64_t start = em_now_ns();
    NEED(rig_forward(r, &batch, logits, &err) == 0, "%s", err.text);
    printf("prefill of %d tokens: %.3f ms\n", n, (double)(em_now_ns() - start) / 1e6);
    em_seq_kv_close(r->kv, &kv);
    free(logits);
}

int main(int argc, char **argv)
{
    NEED(argc == 3, "usage: %s MODEL_DIR ROUNDS", argv[0]);
    int rounds = atoi(argv[2]), most = rounds > 1 ? MAX_SEQS : 4;
    NEED(rounds >= 1 && rounds <= 1000, "ROUNDS is 1 to 1000");
    device_rig r, staged;
    em_error err = {""};
    rig_opts o = {
        .dir = argv[1], .max_batch_tokens = 256, .n_slots = MAX_SEQS, .n_blocks = 1100, .tier = EM_ENGRAM_TIER_RAM};
    NEED(rig_open(&r, &o, &err) == 0, "%s", err.text);
    o.tier = EM_ENGRAM_TIER_MMAP;
    NEED(rig_open(&staged, &o, &err) == 0, "%s", err.text);
    int64_t fixed, expert;
    em_weights_step_bytes(&r.cfg, r.weights, &fixed, &expert);
    double bytes = (double)(fixed + expert * r.cfg.n_experts_per_tok * r.cfg.n_layers);
    for (int n = 1; n <= most; n *= 4) {
        double rate = copy_rate(&r, rounds), ms = decode_ms(&r, n, rounds), gathered = decode_ms(&staged, n, rounds);
        printf("decode of %d: %.3f ms, rows gathered by the host %.3f ms, copy rate %.1f GB/s", n, ms, gathered,
               rate / 1e9);
        if (n == 1)
            printf(", weights read at %.1f %% of it", 100.0 * bytes / (ms / 1e3) / rate);
        printf("\n");
    }
    prefill(&r, most > 4 ? 256 : 16);
    rig_close(&staged);
    rig_close(&r);
    return 0;
}
