/* What is told about Engram: gates against the golden models, shares against the products they are made of, the same bits
 * in any chunks; and a disk that fails, which costs only those whose rows were on it. The linker puts the __wrap
 * functions in the way of the library's reads. */
#include "tests/model/rig.h"

#include <check.h>
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include "engine/base/rng.h"
#include "engine/engine.h"
#include "engram/uring.h"
#include "tests/support/collector.h"
#include "tests/support/fixtures.h"

#define TOL 1e-3f

/* --- a disk that fails ------------------------------------------------------------------------------------------ */

static atomic_int n_failing; /* of the next reads */

static long spoil(long result)
{
    int left = atomic_load(&n_failing);
    while (left > 0)
        if (atomic_compare_exchange_weak(&n_failing, &left, left - 1))
            return -EIO;
    return result;
}

bool __real_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result);
bool __wrap_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result);
ssize_t __real_pread64(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread64(int fd, void *to, size_t bytes, off_t offset);

bool __wrap_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result)
{
    if (!__real_em_uring_reap(ring, ret_tag, ret_result))
        return false;
    *ret_result = (int)spoil(*ret_result);
    return true;
}

ssize_t __wrap_pread64(int fd, void *to, size_t bytes, off_t offset)
{
    long n = spoil(__real_pread64(fd, to, bytes, offset));
    if (n >= 0)
        return n;
    errno = (int)-n;
    return -1;
}

/* --- gates ------------------------------------------------------------------------------------------------------ */

/* What Engram did for each token of ids, computed in chunks of the given size; of the last `told` tokens of each chunk
 * only. The rest stays NaN. Caller frees in->gate. */
static void look(em_model *m, const int32_t *ids, int n, int chunk, int told, em_insight *ret)
{
    em_insight_shape shape = em_model_insight_shape(m);
    void *memory = malloc((size_t)n * em_insight_token_bytes(&shape));
    *ret = em_insight_place(memory, &shape, (size_t)n);
    memset(memory, 0xff, (size_t)n * em_insight_token_bytes(&shape));
    em_seq_kv kv = {.slot = -1};
    em_error err = {""};
    ck_assert_int_eq(em_seq_kv_open(em_model_kv_cache(m), &kv), 0);
    ck_assert_int_eq(em_seq_kv_reserve(em_model_kv_cache(m), &kv, n), 0);
    for (int pos = 0; pos < n; pos += chunk) {
        int take = chunk < n - pos ? chunk : n - pos, tell = told < take ? told : take;
        em_batch_seq run = {.kv = &kv, .tokens = ids, .pos = pos, .n_tokens = take, .n_insight = tell};
        run.insight = em_insight_from(ret, &shape, (size_t)(pos + take - tell));
        em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = take};
        ck_assert_msg(em_model_forward(m, &batch, NULL, NULL, &err) == 0, "%s", err.text);
    }
    em_seq_kv_close(em_model_kv_cache(m), &kv);
}

static const char *const golden[] = {"3-engram", "4-released", "5-odd"};

/* Tokens with a gate off by more than TOL; a quantiser's rounding boundary may move a few. */
static int count_off(const em_st_set *set, int c, const em_model *m, const em_insight *in, int n)
{
    em_insight_shape s = em_model_insight_shape(m);
    int n_off = 0;
    for (int t = 0; t < n; t++) {
        float worst = 0;
        for (int l = 0; l < s.n_layers; l++) {
            const em_st_tensor *want = expected(set, c, "engram_gate", em_model_engram_layers(m)[l]);
            ck_assert_ptr_nonnull(want);
            for (int k = 0; k < s.n_streams; k++) {
                float w;
                memcpy(&w, want->data + (size_t)(t * s.n_streams + k) * 4, 4);
                worst = fmaxf(worst, fabsf(w - in->gate[(t * s.n_layers + l) * s.n_streams + k]));
            }
        }
        n_off += !(worst <= TOL);
    }
    return n_off;
}

START_TEST(gates_are_the_golden_ones_in_any_chunks)
{
    char path[1024], name[64];
    em_st_set *set;
    em_error err = {""};
    snprintf(name, sizeof name, "models/%s", golden[_i]);
    ck_assert_msg(em_st_open(fixture_path(path, sizeof path, name), &set, &err) == 0, "%s", err.text);
    strcat(path, "/checkpoint");
    em_model *m = open_model(path, 1024, 2, em_cpu_flags());
    em_insight_shape shape = em_model_insight_shape(m);
    int n_seen = 0, n_off = 0;
    for (int c = 0; expected(set, c, "ids", -1); c++) {
        const em_st_tensor *t = expected(set, c, "ids", -1);
        int n = (int)t->shape[0];
        int32_t *ids = malloc(t->bytes);
        memcpy(ids, t->data, t->bytes);
        em_insight all, some;
        look(m, ids, n, 1024, 1024, &all);
        n_off += count_off(set, c, m, &all, n);
        n_seen += n;
        look(m, ids, n, 1 + c % 7, 1024, &some);
        ck_assert_mem_eq(all.gate, some.gate, (size_t)n * em_insight_token_bytes(&shape));
        free(some.gate);
        look(m, ids, n, 5, 2, &some); /* of two tokens in five, with nothing written elsewhere */
        size_t gates = (size_t)(shape.n_layers * shape.n_streams);
        for (int i = 0; i < n; i++) {
            int chunk = i / 5 * 5, end = chunk + 5 < n ? chunk + 5 : n;
            bool told = i >= end - 2;
            ck_assert_int_eq(isnan(some.gate[(size_t)i * gates]), !told);
            if (told)
                ck_assert_mem_eq(some.gate + (size_t)i * gates, all.gate + (size_t)i * gates, gates * sizeof(float));
        }
        free(some.gate);
        free(all.gate);
        free(ids);
    }
    ck_assert_int_gt(n_seen, 0);
    ck_assert_msg(n_off * 20 <= n_seen, "%d of %d tokens have other gates", n_off, n_seen);
    em_model_close(m);
    em_st_close(set);
}
END_TEST

/* --- shares ----------------------------------------------------------------------------------------------------- */

/* Norm of one order's part of the value, in double. in: the token's widened rows. */
static double part_norm(const rig *r, const em_matrix *wkv, const float *in, int order, float *row)
{
    int64_t H = r->cfg.hidden_size, width = (int64_t)r->cfg.engram_n_heads * r->cfg.engram_head_dim;
    double sum = 0;
    for (int64_t i = 0; i < H; i++) {
        double v = 0;
        r->cpu->k.row_f32(wkv, r->cfg.hc_mult * H + i, row);
        for (int64_t d = order * width; d < (order + 1) * width; d++)
            v += (double)row[d] * (double)in[d];
        sum += v * v;
    }
    return sqrt(sum);
}

START_TEST(shares_are_parts_of_the_value)
{
    enum { T = 9 };
    char path[1024], name[64];
    rig r;
    snprintf(name, sizeof name, "models/%s/checkpoint", golden[_i % 3]);
    rig_open(&r, _i == 3 ? bundled_model_dir() : fixture_path(path, sizeof path, name), 64, 2, em_cpu_flags());
    em_insight_shape shape = {r.cfg.n_engram_layers, r.cfg.hc_mult, r.cfg.engram_max_order - 1};
    em_insight in = em_insight_place(malloc(T * em_insight_token_bytes(&shape)), &shape, T);
    int32_t ids[T] = {3, 17, 4, 30, 17, 4, 30, 2, 5};
    em_seq_kv kv = {.slot = -1};
    ck_assert_int_eq(em_seq_kv_open(r.kv, &kv), 0);
    ck_assert_int_eq(em_seq_kv_reserve(r.kv, &kv, T), 0);
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = T, .n_insight = T, .insight = in};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = T};
    em_backend *be = &r.cpu->base;
    em_engram_ticket *ticket = rig_ask(&r, &batch);
    ck_assert_int_eq(be->begin(be, &batch, NULL), 0);
    be->embed(be);
    for (int e = 0; e < shape.n_layers; e++) { /* no layer between them: streams do not matter to shares */
        int l = r.cfg.engram_layer[e];
        const em_matrix *wkv = &r.weights->layers[l].engram->wkv;
        em_engram_rows rows;
        ck_assert_int_eq(em_engram_take(ticket, e, &rows), 0);
        be->engram(be, l, &rows);
        float *widened = malloc((size_t)T * (size_t)wkv->cols * sizeof(float));
        float *row = malloc((size_t)wkv->cols * sizeof(float));
        memcpy(widened, r.cpu->engram_in, (size_t)T * (size_t)wkv->cols * sizeof(float));
        be->insight(be, l, &rows);
        for (int t = 0; t < T; t++) {
            double norm[EM_ENGRAM_MAX_ORDER], sum = 0;
            for (int o = 0; o < shape.n_orders; o++)
                sum += norm[o] = part_norm(&r, wkv, widened + t * wkv->cols, o, row);
            for (int o = 0; o < shape.n_orders; o++) {
                float got = in.share[(t * shape.n_layers + e) * shape.n_orders + o];
                ck_assert_double_eq_tol((double)got, norm[o] / sum, 1e-4);
            }
        }
        free(row);
        free(widened);
    }
    em_engram_release(ticket);
    em_seq_kv_close(r.kv, &kv);
    free(in.gate);
    rig_close(&r);
}
END_TEST

/* --- rows that are lost ----------------------------------------------------------------------------------------- */

enum { N = 6, PROMPT = 40 };

static em_request *request(unsigned long long seed, int i)
{
    em_request *q = calloc(1, sizeof *q);
    q->prompts = calloc(1, sizeof *q->prompts);
    q->n_prompts = q->n = 1;
    q->prompts[0].ids = malloc(PROMPT * sizeof(int32_t));
    q->prompts[0].n_ids = PROMPT;
    for (int k = 0; k < PROMPT; k++)
        q->prompts[0].ids[k] = (int32_t)(em_rng_u64(seed, (uint32_t)i, (uint64_t)k, 0) % 4000);
    q->max_tokens = 8;
    q->ignore_eos = true;
    q->logprobs = 2;
    q->engram = q->prompt_engram = i % 2;
    return q;
}

static void run_all(em_engine *e, unsigned long long seed, int failing, collector **c)
{
    uint64_t id;
    em_error err = {""};
    atomic_store(&n_failing, failing);
    for (int i = 0; i < N; i++) {
        c[i] = collector_new(1);
        ck_assert_msg(em_engine_submit(e, request(seed, i), collector_sink(c[i]), &id, &err) == 0, "%s", err.text);
    }
    for (int i = 0; i < N; i++)
        collector_wait(c[i]);
    atomic_store(&n_failing, 0);
}

START_TEST(a_lost_row_fails_those_who_need_it)
{
    unsigned long long seed = test_seed(31);
    em_engine_opts opts = {.model_dir = bundled_model_dir(),
                           .n_threads = 2,
                           .max_seqs = N,
                           .max_batch_tokens = 64,
                           .max_queue = N,
                           .engram_tier = "nvme"};
    em_engine *e = NULL;
    em_error err = {""};
    ck_assert_msg(em_engine_open(&opts, &e, &err) == 0, "%s", err.text);
    int n_lost = 0, n_rounds = 12;
    for (int round = 0; round < n_rounds; round++) {
        collector *fine[N], *faulty[N];
        run_all(e, seed + (unsigned)round, 0, fine);
        run_all(e, seed + (unsigned)round, 1, faulty);
        for (int i = 0; i < N; i++) {
            const choice_result *got = collector_choice(faulty[i], 0);
            if (got->finish == EM_FINISH_ERROR) {
                n_lost++;
                ck_assert_msg(strstr(got->error, "a row of the Engram table of layer ") && strstr(got->error, "read"),
                              "%s", got->error);
            } else {
                ck_assert(choice_results_equal(got, collector_choice(fine[i], 0)));
            }
            collector_free(fine[i]);
            collector_free(faulty[i]);
        }
    }
    ck_assert_msg(n_lost >= n_rounds && n_lost < 2 * n_rounds, "%d requests ended by %d lost rows", n_lost, n_rounds);
    em_engine_close(e);
}
END_TEST

/* --- rows asked for ahead ----------------------------------------------------------------------------------------- */

static em_request *long_request(int32_t n)
{
    em_request *q = request(5, 0);
    free(q->prompts[0].ids);
    q->prompts[0].ids = malloc((size_t)n * sizeof(int32_t));
    q->prompts[0].n_ids = n;
    for (int32_t k = 0; k < n; k++)
        q->prompts[0].ids[k] = (int32_t)(em_rng_u64(5, 99, (uint64_t)k, 0) % 4000);
    return q;
}

/* Each chunk's rows are asked for once, a step before; requests that go meanwhile give theirs back: else asks would soon
 * find no ticket free. */
START_TEST(rows_of_prompts_are_asked_for_once_and_given_back)
{
    enum { LONG = 400 };
    em_engine_opts opts = {.model_dir = bundled_model_dir(),
                           .n_threads = 2,
                           .max_seqs = 4,
                           .max_batch_tokens = 16,
                           .max_queue = 8,
                           .engram_tier = _i ? "nvme" : "ram",
                           .no_prefix_cache = true};
    em_engine *e = NULL;
    em_error err = {""};
    em_engram_stats before, after;
    uint64_t id;
    ck_assert_msg(em_engine_open(&opts, &e, &err) == 0, "%s", err.text);
    em_engine_get_engram_stats(e, &before);
    collector *alone = collector_new(1);
    ck_assert_int_eq(em_engine_submit(e, long_request(LONG), collector_sink(alone), &id, &err), 0);
    collector_wait(alone);
    em_engine_get_engram_stats(e, &after);
    ck_assert_uint_eq(after.tokens - before.tokens, LONG + 7); /* the last one drawn is not computed */
    for (int round = 0; round < 30; round++) {
        collector *c[2];
        for (int i = 0; i < 2; i++) {
            c[i] = collector_new(1);
            ck_assert_int_eq(em_engine_submit(e, long_request(LONG), collector_sink(c[i]), &id, &err), 0);
        }
        em_engine_cancel(e, id); /* the second, at some step */
        collector_wait(c[1]);
        collector_wait(c[0]);
        ck_assert(choice_results_equal(collector_choice(c[0], 0), collector_choice(alone, 0)));
        collector_free(c[0]);
        collector_free(c[1]);
    }
    collector_free(alone);
    em_engine_close(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("insight");
    TCase *t = tcase_create("engram");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, gates_are_the_golden_ones_in_any_chunks, 0, 3);
    tcase_add_loop_test(t, shares_are_parts_of_the_value, 0, 4);
    tcase_add_test(t, a_lost_row_fails_those_who_need_it);
    tcase_add_loop_test(t, rows_of_prompts_are_asked_for_once_and_given_back, 0, 2);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
