/* The life of requests in the step loop: queueing, cancelling, deadlines, failures, draining, closing, and that the
 * company a request keeps never changes its answer. */
#include <check.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/clock.h"
#include "engine/base/rng.h"
#include "tests/support/fixtures.h"
#include "tests/support/loop_rig.h"

enum { VOCAB = 50, MAX_LEN = 200, BLOCK_TOKENS = 8, N_BLOCKS = 60 };

static stub_model stub = {.vocab_size = VOCAB,
                          .max_len = MAX_LEN,
                          .eos_id = 7,
                          .n_blocks = N_BLOCKS,
                          .block_tokens = BLOCK_TOKENS,
                          .logits = rig_hash_logits,
                          .ctx = &stub};
static rig_gate gate;

/* A stub whose steps wait at the gate; its logits still need the stub itself. */
static void gated_logits(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    rig_hash_logits(&stub, tokens, n, row);
}

static em_engine *open_gated(int32_t max_seqs, int32_t max_batch_tokens, int32_t max_queue)
{
    rig_gate_init(&gate);
    stub_model gated = stub;
    gated.logits = gated_logits;
    gated.on_forward = rig_gate_pass;
    gated.ctx = &gate;
    return rig_open(&gated, max_seqs, max_batch_tokens, max_queue);
}

static void close_gated(em_engine *e)
{
    rig_gate_allow(&gate, 1000000);
    ck_assert_ptr_null(em_engine_close(e));
    rig_gate_done(&gate);
}

static em_request *ask(int32_t first, int32_t n_prompt, int32_t max_tokens)
{
    int32_t ids[MAX_LEN + 1];
    for (int32_t i = 0; i < n_prompt; i++)
        ids[i] = (first * 7 + i * 3) % VOCAB;
    em_request *r = rig_request(ids, n_prompt, max_tokens);
    r->ignore_eos = true;
    return r;
}

/* --- refusals ----------------------------------------------------------------------------------------------- */

static void spoil(em_request *r, int how)
{
    switch (how) {
    case 0: r->n_prompts = 0; break;
    case 1: r->n = 0; break;
    case 2: r->n = 1 << 30; break;
    case 3: r->prompts[0].n_ids = 0; break;
    case 4: r->prompts[0].ids[1] = -1; break;
    case 5: r->prompts[0].ids[1] = VOCAB; break;
    case 6: r->max_tokens = -1; break;
    case 7: r->sampling.temperature = -0.1f; break;
    case 8: r->sampling.temperature = NAN; break;
    case 9: r->sampling.temperature = INFINITY; break;
    case 10: r->sampling.top_p = 1.1f; break;
    case 11: r->sampling.top_p = NAN; break;
    case 12: r->sampling.top_k = -2; break;
    case 13: r->logprobs = EM_MAX_LOGPROBS + 1; break;
    case 14: r->logprobs = -2; break;
    case 15: r->prompt_logprobs = true; break; /* without logprobs */
    case 16: rig_add_stop(r, "x"); break;      /* without a tokenizer */
    default: r->n_stops = -1; break;
    }
}

START_TEST(broken_requests_are_refused)
{
    em_engine *e = rig_open(&stub, 2, 8, 4);
    collector *c = collector_new(1);
    em_request *r = ask(0, 3, 2);
    em_error err = {.text = ""};
    uint64_t id = 99;
    spoil(r, _i);
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(c), &id, &err), -EINVAL);
    ck_assert_uint_eq(id, 99);
    ck_assert_uint_gt(strlen(err.text), 10);
    r->n_stops = r->stops ? 1 : 0;
    r->n_prompts = 1;
    em_request_free(r); /* still ours */

    r = ask(0, MAX_LEN, 2);
    r->prompts[0].ids = realloc(r->prompts[0].ids, (MAX_LEN + 1) * sizeof(int32_t));
    r->prompts[0].ids[MAX_LEN] = 0;
    r->prompts[0].n_ids = MAX_LEN + 1;
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(c), &id, &err), -EINVAL);
    em_request_free(r);
    rig_submit(e, ask(0, 3, 1), c); /* the engine is well */
    collector_wait(c);
    collector_free(c);
    em_engine_close(e);
}
END_TEST

START_TEST(what_can_never_fit_is_refused)
{
    stub_model small = stub;
    small.n_blocks = 4; /* 32 positions */
    em_engine *e = rig_open(&small, 2, 8, 4);
    em_error err = {.text = ""};
    uint64_t id;
    em_request *r = ask(0, 20, 14);
    collector *c = collector_new(1);
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(c), &id, &err), -E2BIG);
    ck_assert_ptr_nonnull(strstr(err.text, "33"));
    r->max_tokens = 13; /* the last token needs no state */
    rig_submit(e, r, c);
    collector_wait(c);
    ck_assert_int_eq(collector_choice(c, 0)->completion_tokens, 13);
    collector_free(c);
    em_engine_close(e);
}
END_TEST

START_TEST(the_queue_has_an_end)
{
    em_engine *e = open_gated(2, 8, 3);
    collector *c[7];
    for (int i = 0; i < 7; i++)
        c[i] = collector_new(1);
    for (int i = 0; i < 5; i++)
        rig_submit(e, ask(i, 3, 2), c[i]); /* two seats and three places to wait */
    em_request *r = ask(5, 3, 2);
    em_error err = {.text = ""};
    uint64_t id;
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(c[5]), &id, &err), -EBUSY);
    ck_assert_uint_gt(strlen(err.text), 10);
    em_engine_stats stats;
    rig_gate_wait(&gate, 1);
    em_engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.running + stats.waiting, 5);
    rig_gate_allow(&gate, 1000);
    for (int i = 0; i < 5; i++)
        collector_wait(c[i]);
    rig_submit(e, r, c[5]); /* room again */
    collector_wait(c[5]);
    rig_submit(e, ask(6, 3, 2), c[6]);
    collector_wait(c[6]);
    rig_wait_idle(e);
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.requests_ok, 7);
    ck_assert_uint_eq(stats.prompt_tokens, 21);
    ck_assert_uint_eq(stats.generation_tokens, 14);
    for (int i = 0; i < 7; i++)
        collector_free(c[i]);
    close_gated(e);
}
END_TEST

/* --- endings from outside ----------------------------------------------------------------------------------- */

/* Phases: 0 before any step, 1 amid prefill, 2 amid decode, 3 while waiting behind others. */
START_TEST(cancel_at_every_phase)
{
    em_engine *e = open_gated(1, 4, 10);
    collector *a = collector_new(1), *b = collector_new(3);
    uint64_t a_id = rig_submit(e, ask(1, 10, 20), a); /* prefill takes three steps */
    em_request *waits = ask(2, 3, 2);
    waits->n = 3;
    uint64_t b_id = rig_submit(e, waits, b);
    static const int steps_before[] = {0, 1, 5, 2};
    rig_gate_allow(&gate, steps_before[_i]);
    rig_gate_wait(&gate, steps_before[_i] + 1);
    em_engine_cancel(e, _i == 3 ? b_id : a_id);
    em_engine_cancel(e, _i == 3 ? b_id : a_id); /* twice is the same */
    rig_gate_allow(&gate, 1);                   /* the step it is in, and no further one */
    collector *ended = _i == 3 ? b : a;
    collector_wait(ended);
    ck_assert_int_eq(collector_choice(ended, 0)->finish, EM_FINISH_CANCEL);
    ck_assert_int_eq(collector_choice(ended, 0)->completion_tokens, _i == 2 ? 4 : 0);
    rig_gate_allow(&gate, 1000);
    collector_wait(a);
    collector_wait(b);
    ck_assert_int_eq(collector_choice(_i == 3 ? a : b, 0)->finish, EM_FINISH_LENGTH);
    em_engine_cancel(e, a_id); /* after the end */
    em_engine_cancel(e, b_id);
    em_engine_cancel(e, 123456);
    rig_wait_idle(e);
    em_engine_stats stats;
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.requests_cancelled, 1);
    ck_assert_uint_eq(stats.requests_ok, 1);
    collector_free(a);
    collector_free(b);
    close_gated(e);
}
END_TEST

/* One choice ends, as a stop would end it; its siblings go on, and so do other requests. */
START_TEST(stop_one_choice)
{
    em_engine *e = open_gated(4, 16, 10);
    em_engine_stats stats;
    collector *c = collector_new(3);
    em_request *r = ask(1, 3, 12);
    r->n = 3;
    uint64_t id = rig_submit(e, r, c);
    rig_gate_allow(&gate, 3); /* the prompt, two more tokens */
    rig_gate_wait(&gate, 4);
    em_engine_stop_choice(e, id, 1);
    em_engine_stop_choice(e, id, 1);
    em_engine_stop_choice(e, id, 3);
    em_engine_stop_choice(e, id, -1);
    em_engine_stop_choice(e, id + 1, 0);
    rig_gate_allow(&gate, 1);
    rig_gate_wait(&gate, 5);
    em_engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.running, 2);
    rig_gate_allow(&gate, 1000);
    collector_wait(c);
    static const int32_t n_tokens[] = {12, 4, 12};
    for (int32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(collector_choice(c, i)->completion_tokens, n_tokens[i]);
        ck_assert_int_eq(collector_choice(c, i)->finish, i == 1 ? EM_FINISH_STOP : EM_FINISH_LENGTH);
    }
    em_engine_stop_choice(e, id, 0); /* after the end */
    rig_wait_idle(e);
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.requests_ok, 1);
    ck_assert_uint_eq(stats.finished[EM_FINISH_STOP], 1);
    ck_assert_int_eq(stats.kv_blocks_free, stats.kv_blocks);
    collector_free(c);
    close_gated(e);
}
END_TEST

/* A choice that waits in the queue is taken out of it, and the first one leaves its prompt to a sibling. */
START_TEST(stop_choices_that_wait)
{
    em_engine *e = open_gated(1, 4, 10);
    collector *a = collector_new(1), *b = collector_new(3);
    rig_submit(e, ask(1, 3, 4), a);
    em_request *waits = ask(2, 3, 2);
    waits->n = 3;
    uint64_t id = rig_submit(e, waits, b);
    rig_gate_allow(&gate, 1);
    rig_gate_wait(&gate, 2);
    em_engine_stop_choice(e, id, 0);
    em_engine_stop_choice(e, id, 2);
    rig_gate_allow(&gate, 1000);
    collector_wait(a);
    collector_wait(b);
    for (int32_t i = 0; i < 3; i++) {
        ck_assert_int_eq(collector_choice(b, i)->completion_tokens, i == 1 ? 2 : 0);
        ck_assert_int_eq(collector_choice(b, i)->finish, i == 1 ? EM_FINISH_LENGTH : EM_FINISH_STOP);
    }
    rig_wait_idle(e);
    collector_free(a);
    collector_free(b);
    close_gated(e);
}
END_TEST

typedef struct self_cancel {
    em_engine *e;
    uint64_t id;
    pthread_mutex_t lock; /* id is written by submit, read by the sink */
} self_cancel;

static void cancel_at_third_token(void *ctx, const em_event *ev)
{
    self_cancel *s = ctx;
    if (ev->completion_tokens == 3) {
        pthread_mutex_lock(&s->lock);
        em_engine_cancel(s->e, s->id);
        pthread_mutex_unlock(&s->lock);
    }
}

START_TEST(a_sink_may_cancel)
{
    self_cancel s = {.lock = PTHREAD_MUTEX_INITIALIZER};
    s.e = rig_open(&stub, 2, 8, 4);
    collector *c = collector_new(1);
    collector_on_event(c, cancel_at_third_token, &s);
    pthread_mutex_lock(&s.lock);
    s.id = rig_submit(s.e, ask(0, 5, 100), c);
    pthread_mutex_unlock(&s.lock);
    collector_wait(c);
    ck_assert_int_eq(collector_choice(c, 0)->finish, EM_FINISH_CANCEL);
    ck_assert_int_eq(collector_choice(c, 0)->completion_tokens, 3);
    ck_assert_int_eq(collector_step_ends(c), 3); /* not after the last event */
    collector_free(c);
    em_engine_close(s.e);
}
END_TEST

START_TEST(deadlines)
{
    em_engine *e = open_gated(1, 4, 10);
    collector *running = collector_new(1), *waiting = collector_new(1), *patient = collector_new(1);
    em_request *r = ask(1, 3, 150);
    r->deadline_ns = em_now_ns() + 50000000;
    rig_submit(e, r, running);
    r = ask(2, 3, 5);
    r->deadline_ns = em_now_ns() + 20000000;
    rig_submit(e, r, waiting);
    r = ask(3, 3, 5);
    r->deadline_ns = em_now_ns() + UINT64_C(3600000000000);
    rig_submit(e, r, patient);
    rig_gate_allow(&gate, 3);
    rig_gate_wait(&gate, 4);
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    rig_gate_allow(&gate, 1);
    collector_wait(running);
    collector_wait(waiting);
    ck_assert_int_eq(collector_choice(running, 0)->finish, EM_FINISH_TIMEOUT);
    ck_assert_int_eq(collector_choice(running, 0)->completion_tokens, 4);
    ck_assert_int_eq(collector_choice(waiting, 0)->finish, EM_FINISH_TIMEOUT);
    ck_assert_int_eq(collector_choice(waiting, 0)->completion_tokens, 0);
    rig_gate_allow(&gate, 1000);
    collector_wait(patient);
    ck_assert_int_eq(collector_choice(patient, 0)->finish, EM_FINISH_LENGTH);
    collector_free(running);
    collector_free(waiting);
    collector_free(patient);
    close_gated(e);
}
END_TEST

START_TEST(drain_lets_finish_what_runs)
{
    em_engine *e = open_gated(1, 4, 10);
    collector *a = collector_new(1), *b = collector_new(1);
    rig_submit(e, ask(1, 5, 6), a);
    rig_submit(e, ask(2, 5, 6), b);
    em_engine_drain(e);
    em_request *r = ask(3, 5, 6);
    em_error err = {.text = ""};
    uint64_t id;
    collector *none = collector_new(1);
    ck_assert_int_eq(em_engine_submit(e, r, collector_sink(none), &id, &err), -ESHUTDOWN);
    ck_assert_uint_gt(strlen(err.text), 10);
    em_request_free(r);
    collector_free(none);
    rig_gate_allow(&gate, 1000);
    collector_wait(a);
    collector_wait(b);
    ck_assert_int_eq(collector_choice(a, 0)->completion_tokens, 6);
    ck_assert_int_eq(collector_choice(b, 0)->completion_tokens, 6);
    collector_free(a);
    collector_free(b);
    close_gated(e);
}
END_TEST

START_TEST(close_ends_everything)
{
    em_engine *e = rig_open(&stub, 2, 8, 10);
    collector *c[6];
    for (int i = 0; i < 6; i++) {
        c[i] = collector_new(2);
        em_request *r = ask(i, 5, 190);
        r->n = 2;
        rig_submit(e, r, c[i]);
    }
    if (_i)
        collector_wait_tokens(c[0], 0, _i);
    em_engine_close(e); /* checks that slots and blocks came back */
    for (int i = 0; i < 6; i++) {
        collector_wait(c[i]);
        for (int k = 0; k < 2; k++) {
            em_finish finish = collector_choice(c[i], k)->finish;
            ck_assert(finish == EM_FINISH_CANCEL || finish == EM_FINISH_LENGTH);
        }
        collector_free(c[i]);
    }
}
END_TEST

/* --- failures ----------------------------------------------------------------------------------------------- */

START_TEST(a_failed_step_ends_its_requests_only)
{
    em_engine *e = open_gated(2, 8, 10);
    collector *a = collector_new(1), *b = collector_new(1), *later = collector_new(1);
    rig_submit(e, ask(1, 3, 20), a);
    rig_submit(e, ask(2, 3, 20), b);
    rig_submit(e, ask(3, 3, 20), later); /* waits for a seat */
    rig_gate_wait(&gate, 1);
    rig_gate_allow(&gate, 4);
    rig_gate_wait(&gate, 5);
    pthread_mutex_lock(&gate.lock);
    gate.fail = -EIO;
    pthread_mutex_unlock(&gate.lock);
    rig_gate_allow(&gate, 1000);
    collector_wait(a);
    collector_wait(b);
    collector_wait(later);
    ck_assert_int_eq(collector_choice(a, 0)->finish, EM_FINISH_ERROR);
    ck_assert_str_eq(collector_choice(a, 0)->error, "the stub was told to fail.");
    ck_assert_int_gt(collector_choice(a, 0)->completion_tokens, 0);
    ck_assert_int_eq(collector_choice(b, 0)->finish, EM_FINISH_ERROR);
    ck_assert_int_eq(collector_choice(later, 0)->finish, EM_FINISH_LENGTH);
    em_engine_stats stats;
    rig_wait_idle(e);
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.requests_failed, 2);
    ck_assert_uint_eq(stats.requests_ok, 1);
    collector_free(a);
    collector_free(b);
    collector_free(later);
    close_gated(e);
}
END_TEST

/* Sequences that begin with token 13 turn into NaN at length 9. */
static void nan_logits(void *ctx, const int32_t *tokens, int32_t n, float *row)
{
    rig_hash_logits(&stub, tokens, n, row);
    if (tokens[0] == 13 && n >= 9)
        row[VOCAB / 2] = NAN;
}

START_TEST(nan_ends_its_request_only)
{
    stub_model bad = stub;
    bad.logits = nan_logits;
    em_engine *e = rig_open(&bad, 4, 16, 10);
    const int32_t sick[] = {13, 1, 2, 3}, sick_long[] = {13, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, well[] = {12, 1, 2, 3};
    collector *c[3] = {collector_new(1), collector_new(1), collector_new(1)};
    rig_submit(e, rig_request(sick, 4, 20), c[0]);
    em_request *r = rig_request(sick_long, 12, 20);
    r->logprobs = 1;
    r->prompt_logprobs = true;
    rig_submit(e, r, c[1]);
    r = rig_request(well, 4, 20);
    r->ignore_eos = true;
    rig_submit(e, r, c[2]);
    for (int i = 0; i < 3; i++)
        collector_wait(c[i]);
    ck_assert_int_eq(collector_choice(c[0], 0)->finish, EM_FINISH_ERROR);
    ck_assert_int_le(collector_choice(c[0], 0)->completion_tokens, 5);
    ck_assert_int_eq(collector_choice(c[1], 0)->finish, EM_FINISH_ERROR);
    ck_assert_int_eq(collector_choice(c[1], 0)->n_prompt, 0);
    ck_assert_ptr_nonnull(strstr(collector_choice(c[1], 0)->error, "not a number"));
    ck_assert_int_eq(collector_choice(c[2], 0)->finish, EM_FINISH_LENGTH);
    for (int i = 0; i < 3; i++)
        collector_free(c[i]);
    em_engine_close(e);
}
END_TEST

/* --- company never matters ---------------------------------------------------------------------------------- */

static em_request *random_request(unsigned long long seed, uint32_t i)
{
    uint64_t r = em_rng_u64(seed, i, 0, 0);
    em_request *q = ask((int32_t)i, 1 + (int32_t)(r % 60), (int32_t)(r >> 8 & 31));
    q->n = 1 + (int32_t)(r >> 16 & 1);
    q->ignore_eos = r >> 17 & 1;
    if (r >> 18 & 1)
        q->sampling = (em_sampling){
            .temperature = 0.8f, .top_p = r >> 19 & 1 ? 0.9f : 1.0f, .top_k = r >> 20 & 1 ? 20 : 0, .seed = r};
    if (r >> 21 & 1) {
        q->logprobs = (int32_t)(r >> 22 & 3);
        q->prompt_logprobs = r >> 24 & 1;
    }
    return q;
}

enum { N_MIXED = 64 };

/* All requests, one after the other or all at once. */
static void run_mixed(unsigned long long seed, int32_t max_seqs, int32_t max_batch_tokens, bool together, collector **c)
{
    em_engine *e = rig_open(&stub, max_seqs, max_batch_tokens, N_MIXED);
    for (uint32_t k = 0; k < N_MIXED; k++) {
        uint32_t i = together ? (k * 37 + 5) % N_MIXED : k; /* in another order, too */
        em_request *r = random_request(seed, i);
        c[i] = collector_new(r->n);
        rig_submit(e, r, c[i]);
        if (!together)
            collector_wait(c[i]);
    }
    for (int i = 0; i < N_MIXED; i++)
        collector_wait(c[i]);
    rig_wait_idle(e);
    em_engine_close(e);
}

START_TEST(together_as_alone)
{
    static const int32_t shape[][2] = {{1, 1}, {3, 3}, {16, 16}, {16, 64}, {64, 512}};
    unsigned long long seed = test_seed(11);
    collector *alone[N_MIXED], *mixed[N_MIXED];
    run_mixed(seed, 4, 512, false, alone);
    for (size_t s = 0; s < sizeof(shape) / sizeof(shape[0]); s++) {
        run_mixed(seed, shape[s][0], shape[s][1], true, mixed);
        stub_counts counts = stub_model_counts();
        ck_assert_int_le(counts.max_tokens, shape[s][1]);
        ck_assert_int_le(counts.max_seqs, shape[s][0]);
        ck_assert_int_ge(counts.max_seqs, shape[s][0] < 8 ? shape[s][0] : 8); /* they did share steps */
        ck_assert_int_ge(counts.n_asks, counts.n_steps);                      /* every batch was asked for ahead */
        for (int i = 0; i < N_MIXED; i++) {
            em_request *r = random_request(seed, (uint32_t)i);
            for (int k = 0; k < r->n; k++)
                ck_assert_msg(choice_results_equal(collector_choice(alone[i], k), collector_choice(mixed[i], k)),
                              "request %d choice %d, %d sequences, %d tokens", i, k, shape[s][0], shape[s][1]);
            em_request_free(r);
            collector_free(mixed[i]);
        }
    }
    for (int i = 0; i < N_MIXED; i++)
        collector_free(alone[i]);
}
END_TEST

static bool same_ids(const choice_result *a, const choice_result *b)
{
    if (a->n_tokens != b->n_tokens)
        return false;
    for (int32_t i = 0; i < a->n_tokens; i++) {
        if (a->tokens[i].id != b->tokens[i].id)
            return false;
    }
    return true;
}

START_TEST(seeds_and_samples)
{
    em_engine *e = rig_open(&stub, 4, 16, 10);
    collector *c[4];
    for (int i = 0; i < 4; i++) {
        em_request *r = ask(1, 6, 30);
        r->n = 3;
        r->sampling = (em_sampling){.temperature = i == 3 ? 0.0f : 1.0f, .top_p = 1, .seed = i == 2 ? 6 : 5};
        c[i] = rig_run(e, r);
    }
    for (int k = 0; k < 3; k++) {
        ck_assert(same_ids(collector_choice(c[0], k), collector_choice(c[1], k)));  /* same seed */
        ck_assert(!same_ids(collector_choice(c[0], k), collector_choice(c[2], k))); /* another one */
        ck_assert(same_ids(collector_choice(c[3], 0), collector_choice(c[3], k)));  /* greedy */
    }
    ck_assert(!same_ids(collector_choice(c[0], 0), collector_choice(c[0], 1)));
    ck_assert(!same_ids(collector_choice(c[0], 1), collector_choice(c[0], 2)));
    for (int i = 0; i < 4; i++)
        collector_free(c[i]);
    em_engine_close(e);
}
END_TEST

START_TEST(the_heart_beats_when_idle)
{
    em_engine *e = rig_open(&stub, 2, 8, 4);
    em_engine_stats before, after;
    em_engine_get_stats(e, &before);
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL);
    em_engine_get_stats(e, &after);
    ck_assert_uint_gt(after.heartbeat_ns, before.heartbeat_ns);
    ck_assert_uint_lt(em_now_ns() - after.heartbeat_ns, 1000000000);
    ck_assert_uint_eq(after.steps, 0);
    em_engine_info info;
    em_engine_get_info(e, &info);
    ck_assert_int_eq(info.vocab_size, VOCAB);
    ck_assert_int_eq(info.max_seqs, 2);
    ck_assert_str_eq(info.engram_tier, "none");
    ck_assert(!info.has_tokenizer);
    em_engine_close(e);
}
END_TEST

/* --- many threads ------------------------------------------------------------------------------------------- */

typedef struct crowd {
    em_engine *e;
    unsigned long long seed;
    uint32_t number;
} crowd;

static void *submit_and_cancel(void *arg)
{
    const crowd *w = arg;
    for (uint32_t i = 0; i < 60; i++) {
        uint64_t r = em_rng_u64(w->seed, 1000 + w->number, i, 0);
        em_request *q = random_request(w->seed, w->number * 100 + i);
        if (r & 1)
            q->deadline_ns = em_now_ns() + (r >> 8) % 3000000;
        collector *c = collector_new(q->n);
        uint64_t id;
        if (em_engine_submit(w->e, q, collector_sink(c), &id, NULL)) {
            em_request_free(q);
            collector_free(c); /* no event will come */
            continue;
        }
        if (r >> 1 & 1) {
            if (r >> 2 & 1)
                nanosleep(&(struct timespec){.tv_nsec = (long)((r >> 32) % 1000000)}, NULL);
            em_engine_cancel(w->e, id);
        }
        em_engine_stats stats;
        em_engine_get_stats(w->e, &stats);
        collector_wait(c);
        collector_free(c);
    }
    return NULL;
}

START_TEST(a_crowd_of_threads)
{
    enum { N_THREADS = 8 };
    crowd w[N_THREADS];
    pthread_t thread[N_THREADS];
    unsigned long long seed = test_seed(21);
    em_engine *e = rig_open(&stub, 4, 12, 1000);
    for (uint32_t i = 0; i < N_THREADS; i++) {
        w[i] = (crowd){.e = e, .seed = seed, .number = i};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, submit_and_cancel, &w[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    rig_wait_idle(e);
    em_engine_stats stats;
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.requests_ok + stats.requests_cancelled + stats.requests_failed, N_THREADS * 60);
    ck_assert_uint_gt(stats.requests_ok, 0);
    ck_assert_uint_gt(stats.requests_cancelled, 0);
    em_engine_close(e);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("loop");
    TCase *t = tcase_create("life");
    tcase_add_loop_test(t, broken_requests_are_refused, 0, 18);
    tcase_add_test(t, what_can_never_fit_is_refused);
    tcase_add_test(t, the_queue_has_an_end);
    tcase_add_loop_test(t, cancel_at_every_phase, 0, 4);
    tcase_add_test(t, stop_one_choice);
    tcase_add_test(t, stop_choices_that_wait);
    tcase_add_test(t, a_sink_may_cancel);
    tcase_add_test(t, deadlines);
    tcase_add_test(t, drain_lets_finish_what_runs);
    tcase_add_loop_test(t, close_ends_everything, 0, 4);
    tcase_add_test(t, a_failed_step_ends_its_requests_only);
    tcase_add_test(t, nan_ends_its_request_only);
    tcase_add_test(t, together_as_alone);
    tcase_add_test(t, seeds_and_samples);
    tcase_add_test(t, the_heart_beats_when_idle);
    tcase_add_test(t, a_crowd_of_threads);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
