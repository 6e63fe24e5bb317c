/* Shared prefixes, forked samples, sequences put back, priorities and clients: whatever happens inside, each answer is
 * the one the request gets alone, and every block comes back. The stub checks each step that the blocks and the slot of
 * a sequence hold just its tokens. */
#include <check.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "tests/support/fixtures.h"
#include "tests/support/loop_rig.h"

enum { VOCAB = 50, MAX_LEN = 200, BLOCK_TOKENS = 8, LONG_LEN = 700 };

static stub_model stub = {.vocab_size = VOCAB,
                          .max_len = MAX_LEN,
                          .eos_id = 7,
                          .n_blocks = 200,
                          .block_tokens = BLOCK_TOKENS,
                          .logits = rig_hash_logits,
                          .ctx = &stub};
static rig_gate gate;

static void gated_logits(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    rig_hash_logits(&stub, tokens, n, row);
}

static em_engine *open_gated(em_engine_opts opts)
{
    rig_gate_init(&gate);
    stub_model gated = stub;
    gated.logits = gated_logits;
    gated.on_forward = rig_gate_pass;
    gated.ctx = &gate;
    return rig_open_with(&gated, opts);
}

static void close_gated(em_engine *e)
{
    rig_gate_allow(&gate, 1000000);
    em_engine_close(e);
    rig_gate_done(&gate);
}

static em_request *ask(int32_t first, int32_t n_prompt, int32_t max_tokens)
{
    int32_t ids[LONG_LEN];
    for (int32_t i = 0; i < n_prompt; i++)
        ids[i] = (first * 7 + i * 3) % VOCAB;
    em_request *r = rig_request(ids, n_prompt, max_tokens);
    r->ignore_eos = true;
    return r;
}

static void set_salt(em_request *r, const char *salt)
{
    r->cache_salt = strdup(salt);
    r->cache_salt_len = strlen(salt);
}

static em_engine_stats stats_of(em_engine *e)
{
    em_engine_stats stats;
    em_engine_get_stats(e, &stats);
    return stats;
}

/* Runs to its end; the result must be expected's, if there is one. */
static int32_t cached_of(em_engine *e, em_request *r, const collector *expected)
{
    collector *c = rig_run(e, r);
    int32_t cached = collector_choice(c, 0)->cached_tokens;
    if (expected)
        ck_assert(choice_results_equal(collector_choice(c, 0), collector_choice(expected, 0)));
    collector_free(c);
    return cached;
}

/* --- prefixes ----------------------------------------------------------------------------------------------- */

START_TEST(a_second_prompt_resumes)
{
    em_engine *e = rig_open(&stub, 2, 32, 4);
    collector *first = rig_run(e, ask(1, 100, 10));
    ck_assert_int_eq(collector_choice(first, 0)->cached_tokens, 0);
    ck_assert_int_eq(stub_model_counts().n_tokens, 109);
    ck_assert_int_eq(cached_of(e, ask(1, 100, 10), first), 96);
    ck_assert_int_eq(stub_model_counts().n_tokens, 109 + 13);

    /* a second turn: the prompt, the answer, and more */
    em_request *turn = ask(1, 115, 5);
    for (int32_t i = 0; i < 10; i++)
        turn->prompts[0].ids[100 + i] = collector_choice(first, 0)->tokens[i].id;
    ck_assert_int_eq(cached_of(e, turn, NULL), 104);

    ck_assert_int_eq(cached_of(e, ask(1, 96, 1), NULL), 0); /* its last token must be computed, and 88 is no place */
    em_request *other = ask(1, 100, 10);
    other->prompts[0].ids[0]++;
    ck_assert_int_eq(cached_of(e, other, NULL), 0);
    em_engine_stats stats = stats_of(e);
    ck_assert_uint_eq(stats.prefix_queries, 100 + 100 + 115 + 96 + 100);
    ck_assert_uint_eq(stats.prefix_hits, 96 + 104);
    ck_assert_int_gt(stats.kv_blocks_cached, 12);
    ck_assert_int_eq(stats.kv_blocks_free, stats.kv_blocks);
    collector_free(first);
    em_engine_close(e);
}
END_TEST

/* Where runs save inside of them, a prompt resumes at the last boundary before it differs, and runs are as long as ever. */
START_TEST(a_prompt_that_differs_resumes)
{
    stub_model inside = stub;
    inside.saves_inside = true;
    inside.n_snapshots = 500;
    inside.max_len = LONG_LEN;
    em_engine *e = rig_open(&inside, 2, 32, 4);
    collector *first = rig_run(e, ask(1, 100, 10));
    ck_assert_int_eq(stub_model_counts().n_steps, 4 + 9);
    ck_assert_int_eq(stub_model_counts().n_saves, 12 + 1); /* 8 .. 96, and 104 in the answer */
    ck_assert_int_eq(cached_of(e, ask(1, 100, 10), first), 96);
    ck_assert_int_eq(cached_of(e, ask(1, 96, 1), NULL), 88);
    for (int32_t at = 1; at < 100; at += 7) {
        em_request *r = ask(1, 100, 2);
        r->prompts[0].ids[at] ^= 1;
        ck_assert_int_eq(cached_of(e, r, NULL), at / 8 * 8);
    }
    /* a long prompt has places further apart: 64 parts, doubled blocks */
    collector_free(rig_run(e, ask(2, 600, 1)));
    em_request *r = ask(2, 600, 1);
    r->prompts[0].ids[315] ^= 1;
    ck_assert_int_eq(cached_of(e, r, NULL), 304);
    collector_free(first);
    em_engine_close(e);
}
END_TEST

START_TEST(salts_and_scores)
{
    em_engine *e = rig_open(&stub, 2, 32, 4);
    collector *plain = rig_run(e, ask(1, 50, 4));
    em_request *r = ask(1, 50, 4);
    set_salt(r, "tenant");
    ck_assert_int_eq(cached_of(e, r, plain), 0);
    r = ask(1, 50, 4);
    set_salt(r, "tenant");
    ck_assert_int_eq(cached_of(e, r, plain), 48);
    r = ask(1, 50, 4);
    set_salt(r, "tenants");
    ck_assert_int_eq(cached_of(e, r, plain), 0);
    r = ask(1, 50, 4);
    set_salt(r, "");
    ck_assert_int_eq(cached_of(e, r, plain), 48); /* an empty salt is none */
    collector_free(plain);

    for (int i = 0; i < 2; i++) { /* a scored prompt is computed each time, and serves others */
        r = ask(2, 50, 4);
        r->logprobs = 1;
        r->prompt_logprobs = true;
        ck_assert_int_eq(cached_of(e, r, NULL), 0);
    }
    ck_assert_int_eq(cached_of(e, ask(2, 50, 4), NULL), 48);
    r = ask(3, 5, 1);
    r->cache_salt = calloc(1, EM_REQUEST_MAX_SALT_BYTES + 1);
    r->cache_salt_len = EM_REQUEST_MAX_SALT_BYTES + 1;
    em_error err = {.text = ""};
    uint64_t id;
    ck_assert_int_eq(em_engine_submit(e, r, (em_sink){0}, &id, &err), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "cache_salt"));
    em_request_free(r);
    em_engine_close(e);
}
END_TEST

START_TEST(nothing_is_shared_when_off)
{
    em_engine *e =
        rig_open_with(&stub, (em_engine_opts){.max_seqs = 4, .max_batch_tokens = 32, .no_prefix_cache = true});
    for (int i = 0; i < 2; i++) {
        em_request *r = ask(1, 50, 4);
        r->n = 2;
        ck_assert_int_eq(cached_of(e, r, NULL), 0);
    }
    ck_assert_int_eq(stub_model_counts().n_tokens, 4 * 53);
    ck_assert_int_eq(stub_model_counts().n_slot_copies, 0);
    ck_assert_uint_eq(stats_of(e).prefix_queries, 0);
    ck_assert_int_eq(stats_of(e).kv_blocks_cached, 0);
    em_engine_close(e);
}
END_TEST

/* --- samples ------------------------------------------------------------------------------------------------ */

static em_request *ask_samples(int32_t n)
{
    em_request *r = ask(1, 50, 5);
    r->n = n;
    r->sampling = (em_sampling){.temperature = 1, .top_p = 1, .seed = 3};
    r->logprobs = 2;
    return r;
}

START_TEST(samples_compute_their_prompt_once)
{
    em_engine *e =
        rig_open_with(&stub, (em_engine_opts){.max_seqs = 8, .max_batch_tokens = 32, .no_prefix_cache = true});
    collector *apart = rig_run(e, ask_samples(6));
    em_engine_close(e);
    static const int32_t seats[] = {8, 3, 1};
    e = rig_open(&stub, seats[_i], 32, 4);
    collector *c = rig_run(e, ask_samples(6));
    for (int32_t k = 0; k < 6; k++)
        ck_assert(choice_results_equal(collector_choice(c, k), collector_choice(apart, k)));
    int32_t n_forked = seats[_i] > 6 ? 5 : seats[_i] - 1, n_hit = 5 - n_forked; /* these compute two tokens again */
    stub_counts counts = stub_model_counts();
    ck_assert_int_eq(counts.n_tokens, 50 + 6 * 4 + n_hit * 2);
    ck_assert_int_eq(counts.n_block_copies, n_forked);
    ck_assert_uint_eq(stats_of(e).prompt_tokens, 6 * 50);
    collector_free(apart);
    collector_free(c);
    em_engine_close(e);
}
END_TEST

/* --- too few blocks ----------------------------------------------------------------------------------------- */

static em_request *long_answer(int32_t i)
{
    em_request *r = ask(i, 20 + i, 80);
    r->sampling = (em_sampling){.temperature = 0.9f, .top_p = 0.95f, .seed = (uint64_t)i};
    r->priority = i % 3;
    if (i % 2) {
        r->logprobs = 2;
        r->prompt_logprobs = i % 4 == 1;
    }
    if (i == 4)
        r->n = 2;
    return r;
}

START_TEST(put_back_changes_nothing)
{
    enum { N = 6 };
    collector *alone[N], *c[N];
    em_engine *e = rig_open(&stub, 1, 32, N);
    for (int32_t i = 0; i < N; i++)
        alone[i] = rig_run(e, long_answer(i));
    em_engine_close(e);
    stub_model small = stub;
    small.n_blocks = 22; /* one needs up to 13 */
    small.n_snapshots = _i ? -1 : 0;
    e = rig_open(&small, 6, 32, N);
    for (int32_t i = 0; i < N; i++) {
        em_request *r = long_answer(i);
        c[i] = collector_new(r->n);
        rig_submit(e, r, c[i]);
    }
    for (int32_t i = 0; i < N; i++) {
        collector_wait(c[i]);
        for (int32_t k = 0; k < (i == 4 ? 2 : 1); k++)
            ck_assert_msg(choice_results_equal(collector_choice(c[i], k), collector_choice(alone[i], k)), "request %d",
                          i);
        collector_free(c[i]);
        collector_free(alone[i]);
    }
    rig_wait_idle(e);
    ck_assert_uint_gt(stats_of(e).preemptions, 2);
    ck_assert_uint_eq(stats_of(e).generation_tokens, 7 * 80); /* none is counted twice */
    em_engine_close(e);
}
END_TEST

/* --- who is first ------------------------------------------------------------------------------------------- */

static atomic_int n_finished;

static void note_turn(void *ctx, const em_event *ev)
{
    if (ev->last)
        *(int *)ctx = atomic_fetch_add(&n_finished, 1);
}

START_TEST(clients_take_turns_and_priorities_come_first)
{
    enum { N = 12 };
    em_engine *e = open_gated((em_engine_opts){.max_seqs = 1, .max_batch_tokens = 32, .max_queue = N});
    collector *c[N];
    int turn[N];
    atomic_store(&n_finished, 0);
    for (int i = 0; i < N; i++) { /* ten of one client; then one of another; then an urgent one of the first */
        em_request *r = ask(i, 10, 4);
        strcpy(r->client, i == 10 ? "modest" : "greedy");
        r->priority = i == 11 ? -5 : 0;
        c[i] = collector_new(1);
        collector_on_event(c[i], note_turn, &turn[i]);
        rig_submit(e, r, c[i]);
        if (i == 0)
            rig_gate_wait(&gate, 1);
    }
    rig_gate_allow(&gate, 1000);
    for (int i = 0; i < N; i++) {
        collector_wait(c[i]);
        collector_free(c[i]);
    }
    ck_assert_int_eq(turn[0], 0);
    ck_assert_int_eq(turn[11], 1);
    ck_assert_int_le(turn[10], 3);
    for (int i = 2; i < 10; i++)
        ck_assert_int_gt(turn[i], turn[i - 1]);
    close_gated(e);
}
END_TEST

/* --- endings ------------------------------------------------------------------------------------------------ */

/* Samples that wait for their prompt, run as forks, wait for a seat: cancelled at each step. */
START_TEST(cancel_samples_at_every_step)
{
    em_engine *e = open_gated((em_engine_opts){.max_seqs = 3, .max_batch_tokens = 8, .max_queue = 4});
    em_request *r = ask(1, 20, 8);
    r->n = 5;
    collector *c = collector_new(5), *next = collector_new(2);
    uint64_t id = rig_submit(e, r, c);
    r = ask(1, 20, 8);
    r->n = 2;
    rig_submit(e, r, next);
    rig_gate_allow(&gate, _i);
    rig_gate_wait(&gate, _i + 1);
    em_engine_cancel(e, id);
    rig_gate_allow(&gate, 1);
    collector_wait(c);
    rig_gate_allow(&gate, 1000);
    collector_wait(next);
    ck_assert_int_eq(collector_choice(c, 4)->finish, EM_FINISH_CANCEL);
    ck_assert_int_eq(collector_choice(next, 1)->finish, EM_FINISH_LENGTH);
    rig_wait_idle(e);
    ck_assert_uint_eq(stats_of(e).finished[EM_FINISH_LENGTH] + stats_of(e).finished[EM_FINISH_CANCEL], 7);
    collector_free(c);
    collector_free(next);
    close_gated(e);
}
END_TEST

/* A prompt whose first sample dies is computed by the others themselves. */
START_TEST(a_failed_step_leaves_no_sample_behind)
{
    em_engine *e = open_gated((em_engine_opts){.max_seqs = 3, .max_batch_tokens = 8, .max_queue = 4});
    em_request *r = ask(1, 20, 3);
    r->n = 4;
    collector *c = collector_new(4);
    rig_submit(e, r, c);
    rig_gate_wait(&gate, 1);
    pthread_mutex_lock(&gate.lock);
    gate.fail = -EIO;
    pthread_mutex_unlock(&gate.lock);
    rig_gate_allow(&gate, 1000);
    collector_wait(c);
    ck_assert_int_eq(collector_choice(c, 0)->finish, EM_FINISH_ERROR);
    for (int k = 1; k < 4; k++)
        ck_assert_int_eq(collector_choice(c, k)->finish, EM_FINISH_LENGTH);
    rig_wait_idle(e);
    collector_free(c);
    close_gated(e);
}
END_TEST

START_TEST(latencies_and_waits)
{
    em_engine *e = open_gated((em_engine_opts){.max_seqs = 2, .max_batch_tokens = 64, .max_queue = 1});
    collector *c[4];
    for (int i = 0; i < 3; i++) {
        c[i] = collector_new(1);
        rig_submit(e, ask(i, 10, 5), c[i]);
    }
    c[3] = collector_new(1);
    em_request *r = ask(3, 10, 1);
    uint64_t id;
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(c[3]), &id, NULL), -EBUSY);
    ck_assert_int_ge(em_engine_retry_after_s(e), 1);
    rig_gate_allow(&gate, 1000);
    for (int i = 0; i < 3; i++)
        collector_wait(c[i]);
    rig_submit(e, r, c[3]);
    collector_wait(c[3]);
    rig_wait_idle(e);
    em_engine_stats stats = stats_of(e);
    const em_latencies *l = &stats.latencies;
    ck_assert_uint_eq(stats.finished[EM_FINISH_LENGTH], 4);
    ck_assert_uint_eq(em_histogram_total(&l->first_token), 4);
    ck_assert_uint_eq(em_histogram_total(&l->inter_token), 12);
    ck_assert_uint_eq(em_histogram_total(&l->e2e), 4);
    ck_assert_uint_eq(em_histogram_total(&l->queue), 4);
    ck_assert_uint_eq(em_histogram_total(&l->step_tokens), stats.steps);
    ck_assert(l->step_tokens.sum == 40 + 12);
    ck_assert(l->prompt_len.sum == 40 && l->generation_len.sum == 16);
    ck_assert_uint_eq(l->prompt_len.count[3], 4); /* above 5, up to 10 */
    ck_assert(l->e2e.sum >= l->queue.sum && l->e2e.sum >= l->inference.sum);
    ck_assert(stats.tokens_per_s > 0);
    ck_assert_int_le((int)l->prompt_len.bounds[l->prompt_len.n_bounds - 1], MAX_LEN);
    for (int i = 0; i < 4; i++)
        collector_free(c[i]);
    close_gated(e);
}
END_TEST

/* --- all together ------------------------------------------------------------------------------------------- */

enum { N_MIXED = 80 };

/* Prompts that begin alike, in few salts; clients, priorities, samples, scores. */
static em_request *random_request(unsigned long long seed, uint32_t i)
{
    uint64_t r = em_rng_u64(seed, i, 0, 0);
    em_request *q = ask((int32_t)(r & 1), 1 + (int32_t)((r >> 1) % 120), (int32_t)(r >> 8 & 31));
    int32_t n = q->prompts[0].n_ids;
    if (r >> 40 & 1)
        q->prompts[0].ids[n - 1 - (int32_t)((r >> 41) % (uint32_t)n / 2)] = (int32_t)((r >> 50) % VOCAB);
    q->n = 1 + (int32_t)((r >> 16 & 3) % 3);
    q->ignore_eos = r >> 18 & 1;
    if (r >> 19 & 1)
        q->sampling = (em_sampling){.temperature = 0.8f, .top_p = r >> 20 & 1 ? 0.9f : 1.0f, .seed = r};
    if (r >> 21 & 1) {
        q->logprobs = (int32_t)(r >> 22 & 3);
        q->prompt_logprobs = (r >> 24 & 3) == 0;
    }
    if (r >> 26 & 1)
        set_salt(q, r >> 27 & 1 ? "one" : "two");
    q->priority = (int32_t)(r >> 28 & 3) - 1;
    q->client[0] = (char)('a' + (r >> 30 & 3));
    return q;
}

static void check_mixed(unsigned long long seed, collector *const *alone, collector *const *mixed)
{
    for (uint32_t i = 0; i < N_MIXED; i++) {
        em_request *r = random_request(seed, i);
        for (int k = 0; k < r->n; k++)
            ck_assert_msg(choice_results_equal(collector_choice(alone[i], k), collector_choice(mixed[i], k)),
                          "request %u choice %d", i, k);
        em_request_free(r);
    }
}

static const struct {
    int32_t max_seqs, max_batch_tokens, n_blocks, n_snapshots;
    bool saves_inside;
} shapes[] = {{4, 4, 200, 8, false},  {8, 64, 200, 50, false}, {32, 512, 200, 8, false}, {16, 64, 30, 2, false},
              {32, 33, 25, 3, false}, {5, 7, 25, -1, false},   {8, 64, 200, 50, true},   {32, 512, 200, 8, true},
              {16, 64, 30, 2, true},  {32, 33, 25, 3, true}};

START_TEST(together_as_alone)
{
    unsigned long long seed = test_seed(51);
    collector *alone[N_MIXED], *mixed[N_MIXED];
    em_engine *e = rig_open_with(
        &stub, (em_engine_opts){.max_seqs = 1, .max_batch_tokens = 512, .max_queue = 4, .no_prefix_cache = true});
    for (uint32_t i = 0; i < N_MIXED; i++)
        alone[i] = rig_run(e, random_request(seed, i));
    em_engine_close(e);
    stub_model shaped = stub;
    shaped.n_blocks = shapes[_i].n_blocks;
    shaped.n_snapshots = shapes[_i].n_snapshots;
    shaped.saves_inside = shapes[_i].saves_inside;
    e = rig_open(&shaped, shapes[_i].max_seqs, shapes[_i].max_batch_tokens, N_MIXED);
    for (int round = 0; round < 2; round++) { /* the second finds the first one's prefixes */
        for (uint32_t k = 0; k < N_MIXED; k++) {
            uint32_t i = (k * 37 + 11 * (uint32_t)round) % N_MIXED;
            em_request *r = random_request(seed, i);
            mixed[i] = collector_new(r->n);
            rig_submit(e, r, mixed[i]);
        }
        for (uint32_t i = 0; i < N_MIXED; i++)
            collector_wait(mixed[i]);
        check_mixed(seed, alone, mixed);
        for (uint32_t i = 0; i < N_MIXED; i++)
            collector_free(mixed[i]);
    }
    rig_wait_idle(e);
    ck_assert_int_eq(stats_of(e).prefix_hits > 0, shapes[_i].n_snapshots > 0 || stub_model_counts().n_slot_copies > 0);
    ck_assert(shapes[_i].n_blocks > 30 || shapes[_i].max_seqs < 6 || stats_of(e).preemptions > 0);
    em_engine_close(e);
    for (uint32_t i = 0; i < N_MIXED; i++)
        collector_free(alone[i]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop-sharing");
    TCase *t = tcase_create("sharing");
    tcase_add_test(t, a_second_prompt_resumes);
    tcase_add_test(t, a_prompt_that_differs_resumes);
    tcase_add_test(t, salts_and_scores);
    tcase_add_test(t, nothing_is_shared_when_off);
    tcase_add_loop_test(t, samples_compute_their_prompt_once, 0, 3);
    tcase_add_loop_test(t, put_back_changes_nothing, 0, 2);
    tcase_add_test(t, clients_take_turns_and_priorities_come_first);
    tcase_add_loop_test(t, cancel_samples_at_every_step, 0, 12);
    tcase_add_test(t, a_failed_step_leaves_no_sample_behind);
    tcase_add_test(t, latencies_and_waits);
    tcase_add_loop_test(t, together_as_alone, 0, (int)(sizeof(shapes) / sizeof(shapes[0])));
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
