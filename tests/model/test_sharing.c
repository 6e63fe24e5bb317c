/* What the engine shares and puts back, over real checkpoints: a hit equals a miss, a sequence put back equals one that
 * went through, samples computed together equal samples apart, in chunks of any size, bit for bit. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/engine.h"
#include "tests/support/collector.h"
#include "tests/support/fixtures.h"

enum { MAX_FOLDERS = 64, N_REQUESTS = 14, MAX_PROMPT = 600 };

static char *folder[MAX_FOLDERS];
static int n_folders;

/* The bundled model, then the golden ones. */
static void find_folders(void)
{
    char path[1024], probe[1400];
    folder[n_folders++] = strdup(bundled_model_dir());
    fixture_path(path, sizeof(path), "models");
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        snprintf(probe, sizeof(probe), "%s/%s/checkpoint/config.json", path, entry->d_name);
        if (entry->d_name[0] == '.' || n_folders == MAX_FOLDERS || access(probe, R_OK) != 0)
            continue;
        snprintf(probe, sizeof(probe), "%s/%s/checkpoint", path, entry->d_name);
        folder[n_folders++] = strdup(probe);
    }
    if (d)
        closedir(d);
}

static em_engine *open_engine(const char *dir, em_engine_opts opts)
{
    opts.model_dir = dir;
    opts.max_queue = 1000;
    em_engine *e = NULL;
    em_error err = {.text = ""};
    int rc = em_engine_open(&opts, &e, &err);
    ck_assert_msg(rc == 0, "%s: %s", dir, err.text);
    return e;
}

/* Prompts of two stems, so that many begin alike; the last two are whole and equal. */
static em_request *request(unsigned long long seed, const em_engine_info *info, int i)
{
    uint64_t r = em_rng_u64(seed, (uint32_t)i, 0, 0);
    int32_t max_prompt = info->max_len / 2 < MAX_PROMPT ? info->max_len / 2 : MAX_PROMPT;
    int32_t n = i >= N_REQUESTS - 2 ? max_prompt : 1 + (int32_t)((r >> 8) % (uint32_t)max_prompt), ids[MAX_PROMPT];
    for (int32_t k = 0; k < n; k++)
        ids[k] = (int32_t)(em_rng_u64(seed, 1000 + (i & 1 && i < N_REQUESTS - 2), (uint64_t)k, 1) %
                           (uint32_t)info->vocab_size);
    if (i % 3 == 0 && i < N_REQUESTS - 2)
        ids[n - 1 - n / 8] = i; /* and part later */
    em_request *q = calloc(1, sizeof(*q));
    q->prompts = calloc(1, sizeof(*q->prompts));
    q->n_prompts = 1;
    q->prompts[0].ids = malloc((size_t)n * sizeof(*ids));
    memcpy(q->prompts[0].ids, ids, (size_t)n * sizeof(*ids));
    q->prompts[0].n_ids = n;
    q->n = 1 + (i % 4 == 2) * 2;
    q->max_tokens = 6 + (int32_t)(r & 31) * (i % 5 == 0);
    q->ignore_eos = true;
    q->sampling = (em_sampling){.temperature = i % 2 ? 1.0f : 0.0f, .top_p = 0.95f, .seed = r};
    q->logprobs = i % 3 - 1;
    q->prompt_logprobs = i % 6 == 5;
    q->engram = info->insight.n_layers && i % 3 != 1;
    q->prompt_engram = q->engram && i % 4 == 1;
    return q;
}

static collector *submit(em_engine *e, em_request *r)
{
    collector *c = collector_new(r->n * r->n_prompts);
    uint64_t id;
    em_error err = {.text = ""};
    int rc = em_engine_submit(e, r, collector_sink(c), &id, &err);
    ck_assert_msg(rc == 0, "%s", err.text);
    return c;
}

/* One after the other, or all at once in another order. */
static void run_all(em_engine *e, unsigned long long seed, bool together, collector **c)
{
    em_engine_info info;
    em_engine_get_info(e, &info);
    for (int k = 0; k < N_REQUESTS; k++) {
        int i = together ? (k * 5 + 3) % N_REQUESTS : k;
        c[i] = submit(e, request(seed, &info, i));
        if (!together)
            collector_wait(c[i]);
    }
    for (int i = 0; i < N_REQUESTS; i++)
        collector_wait(c[i]);
}

static void check_equal(collector *const *a, collector *const *b, const char *what)
{
    for (int i = 0; i < N_REQUESTS; i++) {
        for (int k = 0; k < 1 + (i % 4 == 2) * 2; k++)
            ck_assert_msg(choice_results_equal(collector_choice(a[i], k), collector_choice(b[i], k)),
                          "%s: request %d choice %d", what, i, k);
    }
}

static void free_all(collector **c)
{
    for (int i = 0; i < N_REQUESTS; i++)
        collector_free(c[i]);
}

/* The size of one block, from what a cache of a known size holds. */
static int64_t block_bytes(const char *dir)
{
    em_engine *e = open_engine(dir, (em_engine_opts){.max_seqs = 2, .max_batch_tokens = 8, .kv_cache_bytes = 4 << 20});
    em_engine_stats stats;
    do
        em_engine_get_stats(e, &stats);
    while (!stats.kv_blocks); /* until the step thread has started */
    em_engine_close(e);
    return (4 << 20) / stats.kv_blocks;
}

static const struct {
    int32_t n_threads, max_seqs, max_batch_tokens;
    bool tiny_cache;
    int64_t snapshot_bytes;
} shapes[] = {{1, 1, 1, false, 0},
              {2, 4, 7, false, 0},
              {1, 5, 64, false, 1 << 20},
              {2, 16, 512, true, 0},
              {2, 16, 512, false, 0}};

START_TEST(shared_as_apart)
{
    unsigned long long seed = test_seed(77);
    const char *dir = folder[_i];
    collector *apart[N_REQUESTS], *shared[N_REQUESTS];
    em_engine *e = open_engine(
        dir, (em_engine_opts){.n_threads = 2, .max_seqs = 1, .max_batch_tokens = 512, .no_prefix_cache = true});
    em_engine_info info;
    em_engine_get_info(e, &info);
    run_all(e, seed, false, apart);
    em_engine_close(e);
    int64_t block = block_bytes(dir);
    int32_t longest = info.max_len / 2 < MAX_PROMPT ? info.max_len / 2 : MAX_PROMPT;
    for (size_t s = _i ? 1 : 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        em_engine_opts opts = {.n_threads = shapes[s].n_threads,
                               .max_seqs = shapes[s].max_seqs,
                               .max_batch_tokens = shapes[s].max_batch_tokens,
                               .kv_block_tokens = _i % 2 && !shapes[s].tiny_cache ? 8 : 0,
                               .snapshot_bytes = shapes[s].snapshot_bytes};
        if (shapes[s].tiny_cache)
            opts.kv_cache_bytes = block * ((longest + 50) / 64 + 4);
        e = open_engine(dir, opts);
        for (int round = 0; round < 2; round++) { /* the second finds what the first computed */
            run_all(e, seed, true, shared);
            char what[64];
            snprintf(what, sizeof(what), "shape %zu, round %d", s, round);
            check_equal(apart, shared, what);
            free_all(shared);
        }
        em_engine_stats stats;
        em_engine_get_stats(e, &stats);
        ck_assert(longest < 130 || stats.prefix_hits > 0);
        ck_assert_int_eq(stats.kv_blocks_free, stats.kv_blocks);
        em_engine_close(e);
    }
    free_all(apart);
}
END_TEST

/* Long answers in a cache that holds but one of them to its end. */
START_TEST(put_back_as_through)
{
    enum { N = 5 };
    const char *dir = bundled_model_dir();
    int32_t ids[40];
    for (int32_t i = 0; i < 40; i++)
        ids[i] = 100 + i * 3;
    collector *c[2][N];
    for (int crowded = 0; crowded < 2; crowded++) {
        em_engine_opts opts = {.n_threads = 2, .max_seqs = crowded ? N : 1, .max_batch_tokens = 64};
        if (crowded)
            opts.kv_cache_bytes = block_bytes(dir) * 8;
        em_engine *e = open_engine(dir, opts);
        for (int i = 0; i < N; i++) {
            em_request *r = calloc(1, sizeof(*r));
            r->prompts = calloc(1, sizeof(*r->prompts));
            r->n_prompts = r->n = 1;
            r->prompts[0].ids = malloc(sizeof(ids));
            memcpy(r->prompts[0].ids, ids, sizeof(ids));
            r->prompts[0].ids[i] = 7;
            r->prompts[0].n_ids = 40;
            r->max_tokens = 300;
            r->ignore_eos = true;
            r->logprobs = i % 3 - 1;
            r->prompt_logprobs = i == 2;
            r->engram = i > 1;
            r->prompt_engram = i == 4;
            r->sampling = (em_sampling){.temperature = i % 2 ? 1.0f : 0.0f, .top_p = 1, .seed = (uint64_t)i};
            c[crowded][i] = submit(e, r);
        }
        for (int i = 0; i < N; i++)
            collector_wait(c[crowded][i]);
        em_engine_stats stats;
        em_engine_get_stats(e, &stats);
        ck_assert_int_eq(stats.preemptions > 0, crowded);
        em_engine_close(e);
    }
    for (int i = 0; i < N; i++) {
        ck_assert_msg(choice_results_equal(collector_choice(c[0][i], 0), collector_choice(c[1][i], 0)), "request %d",
                      i);
        collector_free(c[0][i]);
        collector_free(c[1][i]);
    }
}
END_TEST

int main(void)
{
    find_folders();
    Suite *s = suite_create("sharing");
    TCase *t = tcase_create("bits");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, shared_as_apart, 0, n_folders);
    tcase_add_test(t, put_back_as_through);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    for (int i = 0; i < n_folders; i++)
        free(folder[i]);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
