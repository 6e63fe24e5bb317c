/* engramd score FILE: how well a model predicts a text.
 *
 * The text's ids, a BOS in front where a text prompt would get one, are cut into windows of the longest prompt there can
 * be. Each is scored on its own, as /v1/completions does with echo, logprobs and max_tokens 0: all its ids but the first
 * have a log-probability. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "server/commands.h"
#include "server/event_list.h"
#include "server/model_dir.h"
#include "server/progress.h"
#include "server/text_file.h"

static const char usage[] =
    "Usage: engramd score [OPTIONS] FILE\n"
    "Scores the text of FILE (-: standard input) in windows of the model's length less one: prints how many tokens "
    "have a\n"
    "log-probability, the sum of the natural logarithms, and the perplexity exp(-sum / tokens).\n"
    "\n";

typedef struct scorer {
    em_engine *engine;
    em_engine_info info;
    em_event_list events;
    em_progress progress;

    em_text_file file;
    em_ids ids; /* tokenised, not scored yet */

    uint64_t windows, tokens;
    double sum, low; /* of log-probabilities, and what rounding left over */
} scorer;

/* --- one window -------------------------------------------------------------------------------------------------- */

/* Compensated: the sum of a million values keeps all its digits. */
static void add_logprob(scorer *s, double v)
{
    double sum = s->sum + v;
    s->low += fabs(s->sum) >= fabs(v) ? s->sum - sum + v : v - sum + s->sum;
    s->sum = sum;
    s->tokens++;
}

static em_request *make_request(const int32_t *ids, int32_t n)
{
    em_request *r = calloc(1, sizeof(*r));
    if (!r)
        return NULL;
    r->prompts = calloc(1, sizeof(*r->prompts));
    r->n_prompts = 1;
    if (r->prompts)
        r->prompts[0].ids = malloc((size_t)n * sizeof(*ids));
    if (!r->prompts || !r->prompts[0].ids)
        return em_request_free(r);
    memcpy(r->prompts[0].ids, ids, (size_t)n * sizeof(*ids));
    r->prompts[0].n_ids = n;
    snprintf(r->id, sizeof(r->id), "score");
    r->n = 1;
    r->sampling.top_p = 1;
    r->prompt_logprobs = true; /* with no alternatives besides */
    return r;
}

static int score_window(scorer *s, const int32_t *ids, int32_t n, em_error *err)
{
    uint64_t id;
    em_request *request = make_request(ids, n);
    if (!request)
        return em_error_set(err, -ENOMEM, "out of memory");
    int r = em_engine_submit(s->engine, request, em_event_list_sink(&s->events), &id, err);
    if (r < 0) {
        em_request_free(request);
        return r;
    }
    for (bool last = false; !last;) {
        em_event *ev = em_event_list_next(&s->events);
        for (int32_t i = 0; ev->kind == EM_EVENT_PROMPT && i < ev->n_tokens; i++)
            if (ev->tokens[i].has_logprob)
                add_logprob(s, ev->tokens[i].logprob);
        if (ev->finish == EM_FINISH_ERROR)
            r = em_error_set(err, -EIO, "%s", ev->error ? ev->error : "the engine failed");
        last = ev->last;
        em_event_free(ev);
    }
    s->windows++;
    return r;
}

/* Scores whole windows; at the end of the text also the rest. */
static int score_ids(scorer *s, bool at_end, em_error *err)
{
    size_t window = s->info.max_len > 1 ? (size_t)s->info.max_len - 1 : 1, at = 0;
    int r = 0;
    while (r == 0 && (s->ids.n - at >= window || (at_end && at < s->ids.n))) {
        size_t n = s->ids.n - at < window ? s->ids.n - at : window;
        r = score_window(s, s->ids.id + at, (int32_t)n, err);
        at += n;
        em_progress_show(&s->progress, s->file.name, em_text_file_done(&s->file));
    }
    memmove(s->ids.id, s->ids.id + at, (s->ids.n - at) * sizeof(*s->ids.id));
    s->ids.n -= at;
    return r;
}

/* --- the text ---------------------------------------------------------------------------------------------------- */

static size_t cut(const void *engine, const char *text, size_t len)
{
    return em_engine_text_cut(engine, text, len);
}

static int tokenize_some(scorer *s, em_error *err)
{
    const char *text;
    size_t len;
    int r = em_text_file_next(&s->file, cut, s->engine, &text, &len, err);
    if (r < 0)
        return r;
    r = em_engine_tokenize(s->engine, text, len, true, 0, &s->ids);
    if (r == -ENOTSUP)
        return em_error_set(err, r, "the model has no tokenizer.json: its text cannot be scored");
    return r < 0 ? em_error_set(err, r, "cannot tokenize %s: %s", s->file.name, strerror(-r)) : 0;
}

static int score_all(scorer *s, em_error *err)
{
    int r = s->info.add_bos ? em_ids_push(&s->ids, s->info.bos_id) : 0;
    if (r < 0)
        em_error_set(err, r, "out of memory");
    while (r == 0 && !s->file.at_end)
        if ((r = tokenize_some(s, err)) == 0)
            r = score_ids(s, s->file.at_end, err);
    if (r == 0 && s->tokens == 0)
        r = em_error_set(err, -EINVAL, "%s has no token that follows another: there is nothing to score", s->file.name);
    return r;
}

/* --- the command ------------------------------------------------------------------------------------------------- */

static int print_result(const scorer *s, bool json, em_error *err)
{
    double sum = s->sum + s->low, perplexity = exp(-sum / (double)s->tokens);
    if (json && isfinite(perplexity))
        printf("{\"tokens\":%" PRIu64 ",\"windows\":%" PRIu64 ",\"sum_logprob\":%.9g,\"perplexity\":%.9g}\n", s->tokens,
               s->windows, sum, perplexity);
    else if (json)
        printf("{\"tokens\":%" PRIu64 ",\"windows\":%" PRIu64 ",\"sum_logprob\":%.9g,\"perplexity\":null}\n", s->tokens,
               s->windows, sum);
    else
        printf("tokens      %" PRIu64 " in %" PRIu64 " windows\nsum_logprob %.6f\nperplexity  %.6f\n", s->tokens,
               s->windows, sum, perplexity);
    if (fflush(stdout) != 0)
        return em_error_set(err, -EIO, "cannot write the result: %s", strerror(errno));
    return 0;
}

static int score(const em_config *c, em_error *err)
{
    char *model_dir = NULL;
    em_engine_opts opts;
    scorer s = {0};
    em_event_list_init(&s.events);
    em_progress_begin(&s.progress);
    int r = em_text_file_open(&s.file, c->argument, err);
    if (r == 0 && (r = em_model_dir_find(c->model, &model_dir, err)) == 0) {
        em_config_engine_opts(c, model_dir, &opts);
        opts.max_seqs = 1;
        opts.max_queue = 1;
        opts.on_progress = em_progress_show;
        opts.progress_ctx = &s.progress;
        r = em_engine_open(&opts, &s.engine, err);
    }
    if (r == 0) {
        em_engine_get_info(s.engine, &s.info);
        r = score_all(&s, err);
    }
    em_progress_end(&s.progress);
    if (r == 0)
        r = print_result(&s, c->json, err);
    em_engine_close(s.engine);
    em_event_list_done(&s.events);
    em_text_file_close(&s.file);
    em_ids_done(&s.ids);
    free(model_dir);
    return r;
}

int em_cmd_score(int argc, char **argv, char **env)
{
    em_config *c;
    em_error err = {0};
    int code = em_command_begin(EM_COMMAND_SCORE, usage, argc, argv, env, &c);
    if (code >= 0)
        return code;
    if (!c->argument) {
        em_error_set(&err, -EINVAL, "a FILE is missing; - reads standard input");
        code = em_command_fail("score", 2, &err);
    } else {
        code = score(c, &err) < 0 ? em_command_fail("score", 1, &err) : 0;
    }
    em_config_free(c);
    return code;
}
