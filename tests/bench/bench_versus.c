/* Decode steps of two models, or of one model with its tables in two tiers, taken in turn so that what else the machine does
 * hits both:
 *
 *     bench_versus --a DIR[,TIER[,CACHE_MIB]] --b DIR[,TIER[,CACHE_MIB]] [--steps N] [--batch N] [--prompt N] [--threads N]
 *
 * Both compute the same tokens, drawn at random. A first pass over other tokens brings the weights' pages in and counts for
 * nothing. The second meets its rows for the first time (cold), the third asks for the same ones again (warm). Prints one
 * JSON object: medians of the steps, and of the ratio of each pair. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/model.h"
#include "tests/support/read_rate.h"

#define MAX_BATCH 256
#define MAX_STEPS 4096

typedef struct side {
    char dir[4096];
    em_engram_tier tier;
    int64_t cache_mib;
    em_model *model;
    em_seq_kv kv[MAX_BATCH];
    int32_t *ids; /* [2, batch, prompt + steps]: of the first pass, and of the others */
    float *logits;
    double ms[MAX_STEPS], lookup_us[MAX_STEPS]; /* of a step; lookup: hash, ask, wait */
} side;

typedef struct bench {
    side a, b;
    int steps, batch, prompt, threads;
    int text; /* which tokens this pass computes */
} bench;

static void die(const char *what)
{
    fprintf(stderr, "bench_versus: %s\n", what);
    exit(1);
}

static void parse_side(side *s, const char *text)
{
    static const struct {
        const char *name;
        em_engram_tier tier;
    } tiers[] = {{"auto", EM_ENGRAM_TIER_AUTO}, {"ram", EM_ENGRAM_TIER_RAM},       {"pinned", EM_ENGRAM_TIER_PINNED},
                 {"mmap", EM_ENGRAM_TIER_MMAP}, {"shared", EM_ENGRAM_TIER_SHARED}, {"nvme", EM_ENGRAM_TIER_NVME}};
    char tier[16] = "auto";
    long long cache = 0;
    if (sscanf(text, "%4095[^,],%15[^,],%lld", s->dir, tier, &cache) < 1)
        die("--a and --b want DIR[,TIER[,CACHE_MIB]]");
    s->cache_mib = cache;
    for (size_t i = 0; i < sizeof(tiers) / sizeof(*tiers); i++)
        if (strcmp(tiers[i].name, tier) == 0) {
            s->tier = tiers[i].tier;
            return;
        }
    die("a tier is auto, ram, pinned, mmap, shared or nvme");
}

static void parse(int argc, char **argv, bench *b)
{
    const struct {
        const char *name;
        int *to;
    } numbers[] = {
        {"--steps", &b->steps}, {"--batch", &b->batch}, {"--prompt", &b->prompt}, {"--threads", &b->threads}};
    for (int i = 1; i < argc; i += 2) {
        bool known = false;
        if (i + 1 == argc)
            die("an option is without its value");
        if (strcmp(argv[i], "--a") == 0 || strcmp(argv[i], "--b") == 0) {
            parse_side(argv[i][2] == 'a' ? &b->a : &b->b, argv[i + 1]);
            known = true;
        }
        for (size_t k = 0; k < sizeof(numbers) / sizeof(*numbers); k++)
            if (strcmp(argv[i], numbers[k].name) == 0) {
                *numbers[k].to = atoi(argv[i + 1]);
                known = true;
            }
        if (!known)
            die("there is no such option");
    }
    if (!*b->a.dir || !*b->b.dir || b->steps < 1 || b->steps > MAX_STEPS || b->batch < 1 || b->batch > MAX_BATCH ||
        b->prompt < 1)
        die("--a and --b are needed, 1 to 4096 steps, a batch of 1 to 256");
}

/* --- one side ---------------------------------------------------------------------------------------------------- */

static void open_side(const bench *b, side *s)
{
    em_error err = {""};
    int per_seq = b->prompt + b->steps;
    em_model_opts opts = {.dir = s->dir,
                          .n_threads = b->threads,
                          .max_len = per_seq,
                          .max_seqs = b->batch,
                          .max_batch_tokens = b->prompt > b->batch ? b->prompt : b->batch,
                          .engram_tier = s->tier,
                          .engram_cache_bytes = s->cache_mib << 20,
                          .cpu_flags_mask = ~0u};
    if (em_model_open(&opts, &s->model, &err) < 0)
        die(err.text);
    int32_t vocab = em_model_get_config(s->model)->vocab_size, n_text = vocab;
    if (em_model_tokenizer(s->model))
        n_text = em_tokenizer_size(em_model_tokenizer(s->model)); /* tokens that tables know */
    s->ids = malloc(2 * (size_t)b->batch * (size_t)per_seq * sizeof(*s->ids));
    s->logits = malloc((size_t)b->batch * (size_t)vocab * sizeof(*s->logits));
    if (!s->ids || !s->logits)
        die("out of memory");
    for (int i = 0; i < 2 * b->batch * per_seq; i++)
        s->ids[i] = (int32_t)(em_rng_u64(1, 0, (uint64_t)i, 0) % (uint64_t)n_text);
}

/* Computes positions [pos, pos + n) of the sequences from first to last. */
static void forward(const bench *b, side *s, int first, int last, int pos, int n)
{
    em_batch_seq run[MAX_BATCH] = {{0}};
    em_batch batch = {.seqs = run};
    em_engram_ticket *ticket;
    em_error err = {""};
    for (int i = first; i < last; i++) {
        run[batch.n_seqs++] =
            (em_batch_seq){.kv = &s->kv[i],
                           .tokens = s->ids + (size_t)(b->text * b->batch + i) * (size_t)(b->prompt + b->steps),
                           .pos = pos,
                           .n_tokens = n,
                           .n_logits = 1};
        batch.n_tokens += n;
        batch.n_logits++;
    }
    if (em_model_ask(s->model, &batch, &ticket) < 0 || em_model_forward(s->model, &batch, ticket, s->logits, &err) < 0)
        die(err.text);
}

static void begin_pass(const bench *b, side *s)
{
    em_kv_cache *kv = em_model_kv_cache(s->model);
    for (int i = 0; i < b->batch; i++) {
        s->kv[i] = (em_seq_kv){.slot = -1};
        if (em_seq_kv_open(kv, &s->kv[i]) < 0 || em_seq_kv_reserve(kv, &s->kv[i], b->prompt + b->steps) < 0)
            die("no room for the sequences");
        forward(b, s, i, i + 1, 0, b->prompt);
    }
}

static void end_pass(const bench *b, side *s)
{
    for (int i = 0; i < b->batch; i++)
        em_seq_kv_close(em_model_kv_cache(s->model), &s->kv[i]);
}

static void step(const bench *b, side *s, int i)
{
    em_step_times before, after;
    em_model_get_times(s->model, &before);
    uint64_t start_ns = em_now_ns();
    forward(b, s, 0, b->batch, b->prompt + i, 1);
    s->ms[i] = (double)(em_now_ns() - start_ns) * 1e-6;
    em_model_get_times(s->model, &after);
    s->lookup_us[i] = (double)(after.ask + after.wait - before.ask - before.wait) * 1e-3;
}

/* --- both -------------------------------------------------------------------------------------------------------- */

static void pass(bench *b, int text, const char *name)
{
    static double ratio[MAX_STEPS];
    b->text = text;
    begin_pass(b, &b->a);
    begin_pass(b, &b->b);
    for (int i = 0; i < b->steps; i++) {
        bool a_first = i & 1;
        step(b, a_first ? &b->a : &b->b, i);
        step(b, a_first ? &b->b : &b->a, i);
        ratio[i] = b->b.ms[i] / b->a.ms[i];
    }
    end_pass(b, &b->a);
    end_pass(b, &b->b);
    if (!name)
        return;
    double a_us = median_of(b->a.lookup_us, b->steps), b_us = median_of(b->b.lookup_us, b->steps);
    printf(",\"%s\":{\"a_ms\":%.4f,\"b_ms\":%.4f,\"b_of_a\":%.4f,\"a_lookup_us\":%.1f,\"b_lookup_us\":%.1f}", name,
           median_of(b->a.ms, b->steps), median_of(b->b.ms, b->steps), median_of(ratio, b->steps), a_us, b_us);
}

int main(int argc, char **argv)
{
    static bench b = {.steps = 60, .batch = 1, .prompt = 16};
    parse(argc, argv, &b);
    open_side(&b, &b.a);
    open_side(&b, &b.b);
    pass(&b, 0, NULL);
    printf("{\"batch\":%d,\"steps\":%d", b.batch, b.steps);
    pass(&b, 1, "cold");
    pass(&b, 1, "warm");
    printf("}\n");
    side *sides[] = {&b.a, &b.b};
    for (int i = 0; i < 2; i++) {
        em_model_close(sides[i]->model);
        free(sides[i]->ids);
        free(sides[i]->logits);
    }
    return 0;
}
