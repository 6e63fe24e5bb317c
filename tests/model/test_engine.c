/* The whole engine over real checkpoints: the bundled model against its expected answers, the golden models' greedy
 * continuations, and that company, chunking and threads never change a bit. */
#include <check.h>
#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/base/rng.h"
#include "engine/engine.h"
#include "engine/safetensors.h"
#include "tests/support/collector.h"
#include "tests/support/fixtures.h"
#include "tests/support/golden_json.h"

#define CLEAR_MARGIN 0.02 /* nearer winners may differ between implementations */
#define LOGPROB_TOL 2e-3
enum { MAX_CASES = 200, MAX_FOLDERS = 64 };

/* --- what is expected --------------------------------------------------------------------------------------- */

typedef struct pocket_case {
    bool chat; /* the prompt is the user's message; ids are of the whole chat */
    char *prompt, *text;
    size_t prompt_len, text_len;
    int32_t *ids, *greedy;
    size_t n_ids, n_greedy;
    double *logprobs; /* [n_ids]; the first is NaN */
    double min_margin;
} pocket_case;

static pocket_case cases[MAX_CASES];
static int n_cases;

static double find_number(const char *line, size_t len, const char *name)
{
    em_json j;
    double v = 0;
    ck_assert(golden_find(line, len, name, &j));
    ck_assert_int_eq(em_json_f64(&j, &v), 0);
    return v;
}

static void read_case(const char *line, size_t len, pocket_case *c)
{
    em_json j;
    ck_assert(golden_find(line, len, "kind", &j));
    c->chat = em_json_is(&j, "chat");
    c->prompt = golden_member_text(line, len, "prompt", &c->prompt_len);
    c->text = golden_member_text(line, len, "text", &c->text_len);
    ck_assert(golden_find(line, len, "ids", &j));
    c->ids = golden_ids(j, &c->n_ids);
    ck_assert(golden_find(line, len, "greedy", &j));
    c->greedy = golden_ids(j, &c->n_greedy);
    c->min_margin = find_number(line, len, "min_margin");
    ck_assert(golden_find(line, len, "token_logprobs", &j));
    c->logprobs = calloc(c->n_ids, sizeof(*c->logprobs));
    for (size_t i = 0; i < c->n_ids; i++) {
        c->logprobs[i] = NAN;
        if (em_json_next(&j) == EM_JSON_NUMBER)
            ck_assert_int_eq(em_json_f64(&j, &c->logprobs[i]), 0);
    }
}

static void read_cases(void)
{
    char path[1024];
    golden_file f;
    ck_assert(golden_open(fixture_path(path, sizeof(path), "pocket/expected.jsonl"), &f));
    const char *line;
    size_t len;
    while (n_cases < MAX_CASES && golden_line(&f, &line, &len))
        read_case(line, len, &cases[n_cases++]);
    free(f.data);
    ck_assert_int_ge(n_cases, 40);
}

static void free_cases(void)
{
    for (int i = 0; i < n_cases; i++) {
        free(cases[i].prompt);
        free(cases[i].text);
        free(cases[i].ids);
        free(cases[i].greedy);
        free(cases[i].logprobs);
    }
    n_cases = 0;
}

/* --- requests ----------------------------------------------------------------------------------------------- */

static em_engine *open_engine(const char *dir, int32_t n_threads, int32_t max_seqs, int32_t max_batch_tokens)
{
    em_engine_opts opts = {.model_dir = dir,
                           .n_threads = n_threads,
                           .max_seqs = max_seqs,
                           .max_batch_tokens = max_batch_tokens,
                           .max_queue = 1000};
    em_engine *e = NULL;
    em_error err = {.text = ""};
    int rc = em_engine_open(&opts, &e, &err);
    ck_assert_msg(rc == 0, "%s: %s", dir, err.text);
    return e;
}

static em_request *ask(const int32_t *ids, size_t n, int32_t max_tokens)
{
    em_request *r = calloc(1, sizeof(*r));
    r->prompts = calloc(1, sizeof(*r->prompts));
    r->n_prompts = 1;
    r->prompts[0].ids = malloc(n * sizeof(*ids));
    memcpy(r->prompts[0].ids, ids, n * sizeof(*ids));
    r->prompts[0].n_ids = (int32_t)n;
    r->n = 1;
    r->max_tokens = max_tokens;
    r->sampling = (em_sampling){.temperature = 0, .top_p = 1};
    r->logprobs = -1;
    return r;
}

static collector *submit(em_engine *e, em_request *r, uint64_t *ret_id)
{
    collector *c = collector_new(r->n * r->n_prompts);
    uint64_t id;
    em_error err = {.text = ""};
    int rc = em_engine_submit(e, r, collector_sink(c), &id, &err);
    ck_assert_msg(rc == 0, "%s", err.text);
    if (ret_id)
        *ret_id = id;
    return c;
}

/* --- the bundled model -------------------------------------------------------------------------------------- */

static void encode_prompt(const em_engine *e, const char *text, size_t len, em_ids *ids)
{
    em_engine_info info;
    em_engine_get_info(e, &info);
    if (info.add_bos)
        ck_assert_int_eq(em_ids_push(ids, info.bos_id), 0);
    ck_assert_int_eq(em_engine_tokenize(e, text, len, true, 0, ids), 0);
}

START_TEST(the_capital_of_france)
{
    static const char prompt[] = "The capital of France is";
    em_engine *e = open_engine(bundled_model_dir(), 0, 8, 256);
    em_engine_info info;
    em_engine_get_info(e, &info);
    ck_assert(info.has_tokenizer && info.add_bos);
    ck_assert_int_eq(info.bos_id, 0);
    ck_assert_int_eq(info.eos_id, 1);
    ck_assert_int_eq(info.n_engram_tables, 2);
    ck_assert_uint_gt(info.table_bytes, 1000000);
    ck_assert_uint_gt(info.weight_bytes, 1000000);
    ck_assert_uint_gt(info.kv_bytes, 1000);
    ck_assert_int_ge(info.n_threads, 1);
    ck_assert_str_ne(info.engram_tier, "none");
    em_ids ids = {0};
    encode_prompt(e, prompt, sizeof(prompt) - 1, &ids);
    collector *c = submit(e, ask(ids.id, ids.n, 8), NULL);
    collector_wait(c);
    const choice_result *r = collector_choice(c, 0);
    ck_assert_str_eq(r->text, " Paris.");
    ck_assert_int_eq(r->finish, EM_FINISH_STOP);
    ck_assert_int_eq(r->completion_tokens, 4); /* EOS counts */
    ck_assert_int_eq(r->prompt_tokens, 6);
    ck_assert_int_eq(r->n_events, 4); /* token by token */
    collector_free(c);

    em_engine_stats stats;
    em_engine_get_stats(e, &stats);
    ck_assert_uint_eq(stats.prompt_tokens, 6);
    ck_assert_uint_eq(stats.generation_tokens, 4);
    ck_assert_uint_eq(stats.steps, 4);
    em_engram_stats engram;
    em_engine_get_engram_stats(e, &engram);
    ck_assert_uint_eq(engram.tokens, 6 + 3); /* each computed token once: no row is asked for in vain */
    em_ids_done(&ids);
    em_engine_close(e);
}
END_TEST

static void check_ids(const em_engine *e, const pocket_case *c)
{
    em_ids ids = {0};
    encode_prompt(e, c->prompt, c->prompt_len, &ids);
    ck_assert_uint_eq(ids.n, c->n_ids);
    ck_assert_mem_eq(ids.id, c->ids, ids.n * sizeof(*ids.id));
    em_ids_done(&ids);
}

/* The greedy answer without the spelling of a closing EOS, which an answer leaves out. */
static void check_text(const pocket_case *c, const choice_result *r)
{
    ck_assert_uint_le(r->text_len, c->text_len);
    ck_assert_mem_eq(r->text, c->text, r->text_len);
    const char *rest = c->text + r->text_len;
    ck_assert_msg(!*rest || strncmp(rest, "<\xef\xbd\x9c", 4) == 0, "'%s' instead of '%s'", r->text, c->text);
}

static void check_scores(int i, const choice_result *r)
{
    const pocket_case *c = &cases[i];
    ck_assert_int_eq(r->n_prompt, (int)c->n_ids);
    for (int k = 1; k < r->n_prompt; k++) {
        double diff = fabs((double)r->prompt[k].logprob - c->logprobs[k]);
        ck_assert_msg(diff <= LOGPROB_TOL, "case %d: prompt token %d has logprob %g, expected %g", i, k,
                      (double)r->prompt[k].logprob, c->logprobs[k]);
    }
}

static void check_greedy(int i, const choice_result *r)
{
    const pocket_case *c = &cases[i];
    if (c->min_margin <= CLEAR_MARGIN)
        return;
    ck_assert_int_eq(r->n_tokens, (int)c->n_greedy);
    for (int k = 0; k < r->n_tokens; k++)
        ck_assert_msg(r->tokens[k].id == c->greedy[k], "case %d: token %d is %d, expected %d", i, k, r->tokens[k].id,
                      c->greedy[k]);
    check_text(c, r);
}

/* All prompts at once: scored and continued. */
START_TEST(the_expected_answers)
{
    read_cases();
    em_engine *e = open_engine(bundled_model_dir(), 0, 16, 64);
    collector *c[MAX_CASES];
    for (int i = 0; i < n_cases; i++) {
        if (!cases[i].chat)
            check_ids(e, &cases[i]);
        em_request *r = ask(cases[i].ids, cases[i].n_ids, (int32_t)cases[i].n_greedy);
        r->logprobs = 1;
        r->prompt_logprobs = true;
        c[i] = submit(e, r, NULL);
    }
    int n_clear = 0;
    for (int i = 0; i < n_cases; i++) {
        collector_wait(c[i]);
        check_scores(i, collector_choice(c[i], 0));
        check_greedy(i, collector_choice(c[i], 0));
        n_clear += cases[i].min_margin > CLEAR_MARGIN;
        collector_free(c[i]);
    }
    ck_assert_int_ge(n_clear, 30);
    em_engine_close(e);
    free_cases();
}
END_TEST

static em_request *mixed_request(unsigned long long seed, int i)
{
    const pocket_case *c = &cases[i % n_cases];
    uint64_t r = em_rng_u64(seed, (uint32_t)i, 0, 0);
    em_request *q;
    if (r % 4 == 0) { /* a longer prompt: all of a few cases in a row */
        int32_t ids[400];
        size_t n = 0;
        for (int k = 0; k < 12; k++) {
            const pocket_case *part = &cases[(i * 7 + k) % n_cases];
            memcpy(ids + n, part->ids, part->n_ids * sizeof(*ids));
            n += part->n_ids;
        }
        q = ask(ids, n, 12);
    } else {
        q = ask(c->ids, c->n_ids, (int32_t)(r >> 8 & 15));
    }
    q->ignore_eos = r >> 12 & 1;
    q->n = 1 + (int32_t)(r >> 13 & 1);
    if (r >> 14 & 1)
        q->sampling = (em_sampling){.temperature = 1.2f, .top_p = 0.95f, .top_k = r >> 15 & 1 ? 50 : 0, .seed = r};
    q->logprobs = (int32_t)(r >> 16 & 3) - 1;
    q->prompt_logprobs = q->logprobs >= 0 && (r >> 18 & 1);
    return q;
}

enum { N_MIXED = 40 };

static void run_mixed(unsigned long long seed, int32_t n_threads, int32_t max_seqs, int32_t max_batch_tokens,
                      bool together, collector **c)
{
    em_engine *e = open_engine(bundled_model_dir(), n_threads, max_seqs, max_batch_tokens);
    for (int k = 0; k < N_MIXED; k++) {
        int i = together ? (k * 13 + 5) % N_MIXED : k;
        c[i] = submit(e, mixed_request(seed, i), NULL);
        if (!together)
            collector_wait(c[i]);
    }
    for (int i = 0; i < N_MIXED; i++)
        collector_wait(c[i]);
    em_engine_close(e);
}

START_TEST(together_as_alone)
{
    static const int32_t shape[][3] = {{1, 3, 7}, {2, 16, 64}, {3, 32, 512}}; /* threads, sequences, tokens */
    unsigned long long seed = test_seed(31);
    read_cases();
    collector *alone[N_MIXED], *mixed[N_MIXED];
    run_mixed(seed, 2, 4, 512, false, alone);
    for (size_t s = 0; s < sizeof(shape) / sizeof(shape[0]); s++) {
        run_mixed(seed, shape[s][0], shape[s][1], shape[s][2], true, mixed);
        for (int i = 0; i < N_MIXED; i++) {
            em_request *r = mixed_request(seed, i);
            for (int k = 0; k < r->n; k++)
                ck_assert_msg(choice_results_equal(collector_choice(alone[i], k), collector_choice(mixed[i], k)),
                              "request %d choice %d changes with %d threads, %d sequences, %d tokens", i, k,
                              shape[s][0], shape[s][1], shape[s][2]);
            em_request_free(r);
            collector_free(mixed[i]);
        }
    }
    for (int i = 0; i < N_MIXED; i++)
        collector_free(alone[i]);
    free_cases();
}
END_TEST

/* An answer that would take long is given up within one step, and the seat is free at once. */
/* What a request changes about the draw: the greedy answer to a known prompt is " Paris." and EOS. */
START_TEST(rules_of_the_draw)
{
    static const char prompt[] = "The capital of France is";
    em_engine *e = open_engine(bundled_model_dir(), 0, 8, 256);
    em_ids ids = {0};
    encode_prompt(e, prompt, sizeof(prompt) - 1, &ids);
    collector *plain = submit(e, ask(ids.id, ids.n, 8), NULL);
    collector_wait(plain);
    const choice_result *usual = collector_choice(plain, 0);

    em_request *r = ask(ids.id, ids.n, 8); /* a bias forbids the usual first token */
    r->logits.bias = malloc(sizeof(*r->logits.bias));
    r->logits.bias[0] = (em_logit_bias){usual->tokens[0].id, -100.0f};
    r->logits.n_bias = 1;
    collector *biased = submit(e, r, NULL);
    r = ask(ids.id, ids.n, 8); /* the second token ends the answer and stays in it */
    r->stop_ids = malloc(sizeof(*r->stop_ids));
    r->stop_ids[0] = usual->tokens[1].id;
    r->n_stop_ids = 1;
    collector *stopped = submit(e, r, NULL);
    r = ask(ids.id, ids.n, 8); /* EOS would be the fourth */
    r->min_tokens = 7;
    collector *longer = submit(e, r, NULL);
    r = ask(ids.id, ids.n, 40); /* nothing may come twice */
    r->ignore_eos = true;
    r->logits.presence_penalty = 2.0f;
    r->logits.frequency_penalty = 2.0f;
    r->logits.repetition_penalty = 2.0f;
    collector *varied = submit(e, r, NULL);

    collector_wait(biased);
    ck_assert_int_ne(collector_choice(biased, 0)->tokens[0].id, usual->tokens[0].id);
    collector_wait(stopped);
    ck_assert_int_eq(collector_choice(stopped, 0)->n_tokens, 2);
    ck_assert_int_eq(collector_choice(stopped, 0)->finish, EM_FINISH_STOP);
    ck_assert_str_eq(collector_choice(stopped, 0)->text, " Paris");
    collector_wait(longer);
    ck_assert_int_ge(collector_choice(longer, 0)->completion_tokens, 7);
    for (int k = 0; k < 6; k++)
        ck_assert_int_ne(collector_choice(longer, 0)->tokens[k].id, 1);
    collector_wait(varied);
    int twice = 0;
    const choice_result *v = collector_choice(varied, 0);
    for (int a = 0; a < v->n_tokens; a++)
        for (int b = 0; b < a; b++)
            twice += v->tokens[a].id == v->tokens[b].id;
    printf("%d pairs of equal tokens among %d with all penalties\n", twice, v->n_tokens);
    ck_assert_int_le(twice, 10);
    collector_free(plain);
    collector_free(biased);
    collector_free(stopped);
    collector_free(longer);
    collector_free(varied);
    em_ids_done(&ids);
    em_engine_close(e);
}
END_TEST

START_TEST(cancel_stops_the_work)
{
    read_cases();
    em_engine *e = open_engine(bundled_model_dir(), 0, 1, 64);
    em_engine_info info;
    em_engine_get_info(e, &info);
    em_request *r = ask(cases[0].ids, cases[0].n_ids, info.max_len - 100);
    r->ignore_eos = true;
    uint64_t id;
    collector *endless = submit(e, r, &id);
    collector *next = submit(e, ask(cases[0].ids, cases[0].n_ids, 8), NULL);
    collector_wait_tokens(endless, 0, 5);
    em_engine_cancel(e, id);
    collector_wait(endless);
    ck_assert_int_eq(collector_choice(endless, 0)->finish, EM_FINISH_CANCEL);
    ck_assert_int_lt(collector_choice(endless, 0)->completion_tokens, 200);
    collector_wait(next);
    ck_assert_str_eq(collector_choice(next, 0)->text, " Paris.");
    em_engine_stats stats;
    em_engine_get_stats(e, &stats);
    ck_assert_int_eq(stats.running, 0);
    ck_assert_int_eq(stats.kv_blocks_free, stats.kv_blocks);
    collector_free(endless);
    collector_free(next);
    em_engine_close(e);
    free_cases();
}
END_TEST

/* --- golden models ------------------------------------------------------------------------------------------ */

static char *folder[MAX_FOLDERS];
static int n_folders;

static void find_folders(void)
{
    char path[1024], probe[1400];
    fixture_path(path, sizeof(path), "models");
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        snprintf(probe, sizeof(probe), "%s/%s/expected.safetensors", path, entry->d_name);
        if (entry->d_name[0] == '.' || n_folders == MAX_FOLDERS || access(probe, R_OK) != 0)
            continue;
        snprintf(probe, sizeof(probe), "%s/%s", path, entry->d_name);
        folder[n_folders++] = strdup(probe);
    }
    if (d)
        closedir(d);
}

static const em_st_tensor *expected(const em_st_set *set, int c, const char *what)
{
    char name[64];
    snprintf(name, sizeof(name), "%d.%s", c, what);
    return em_st_find(set, name);
}

static void check_golden(const em_st_set *set, int c, const choice_result *r, const char *dir)
{
    const em_st_tensor *greedy = expected(set, c, "greedy"), *margin = expected(set, c, "greedy_margin");
    ck_assert_int_eq(r->finish, EM_FINISH_LENGTH);
    ck_assert_int_eq(r->n_tokens, (int)greedy->shape[0]);
    for (int k = 0; k < r->n_tokens; k++) {
        int32_t want;
        float gap;
        memcpy(&want, greedy->data + (size_t)k * sizeof(want), sizeof(want));
        memcpy(&gap, margin->data + (size_t)k * sizeof(gap), sizeof(gap));
        ck_assert_msg(r->tokens[k].id == want || gap <= (float)CLEAR_MARGIN, "%s case %d: token %d is %d, expected %d",
                      dir, c, k, r->tokens[k].id, want);
        if (r->tokens[k].id != want)
            break;
    }
}

/* All cases of a golden model at once, in chunks. */
START_TEST(golden_greedy)
{
    char dir[1400];
    snprintf(dir, sizeof(dir), "%s/checkpoint", folder[_i]);
    em_st_set *set;
    em_error err;
    ck_assert_msg(em_st_open(folder[_i], &set, &err) == 0, "%s", err.text);
    em_engine *e = open_engine(dir, 2, 8, 50);
    collector *c[MAX_CASES];
    int n = 0;
    for (; n < MAX_CASES && expected(set, n, "greedy"); n++) {
        const em_st_tensor *t = expected(set, n, "ids");
        int32_t *ids = malloc((size_t)t->bytes);
        memcpy(ids, t->data, (size_t)t->bytes);
        em_request *r = ask(ids, (size_t)t->shape[0], (int32_t)expected(set, n, "greedy")->shape[0]);
        r->ignore_eos = true;
        c[n] = submit(e, r, NULL);
        free(ids);
    }
    ck_assert_int_gt(n, 0);
    for (int i = 0; i < n; i++) {
        collector_wait(c[i]);
        check_golden(set, i, collector_choice(c[i], 0), folder[_i]);
        collector_free(c[i]);
    }
    em_engine_close(e);
    em_st_close(set);
}
END_TEST

int main(void)
{
    find_folders();
    Suite *s = suite_create("engine");
    TCase *t = tcase_create("pocket");
    tcase_add_test(t, the_capital_of_france);
    tcase_add_test(t, the_expected_answers);
    tcase_add_test(t, together_as_alone);
    tcase_add_test(t, rules_of_the_draw);
    tcase_add_test(t, cancel_stops_the_work);
    suite_add_tcase(s, t);
    t = tcase_create("golden");
    tcase_add_loop_test(t, golden_greedy, 0, n_folders);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    for (int i = 0; i < n_folders; i++)
        free(folder[i]);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
