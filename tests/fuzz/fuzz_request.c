/* A body of POST /v1/completions, /tokenize or /detokenize: refused with a well-formed error, or answered, whole and
 * streamed, from events made up out of the body. What is written must be JSON to our own strict reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/completion_reply.h"
#include "api/tokenize.h"
#include "engine/base/json.h"
#include "tests/support/fake_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(rng_state >> 33) % n;
}

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void must_be_json(const char *text, size_t len)
{
    em_json j;
    em_json_init(&j, text, len, 0);
    em_json_type t;
    while ((t = em_json_next(&j)) != EM_JSON_END)
        must(t != EM_JSON_ERROR, "the output is not JSON");
}

static void must_be_stream(const em_buf *out, bool done)
{
    const char *p = out->data, *end;
    for (bool more = out->len > 0; more; p = end + 2) {
        must(!strncmp(p, "data: ", 6) && (end = strstr(p, "\n\n")), "an event is not framed");
        more = end[2] != '\0';
        if (strncmp(p + 6, "[DONE]", 6) != 0)
            must_be_json(p + 6, (size_t)(end - p - 6));
        else
            must(!more && done, "[DONE] is not last");
    }
}

static void must_be_error(const em_api_error *err)
{
    em_buf out = {0};
    must(err->status >= 400 && err->status < 600 && err->code && err->message[0], "the error says nothing");
    must(!em_api_error_json(err, &out), "out of memory");
    must_be_json(out.data, out.len);
    em_buf_done(&out);
}

/* Events of one choice: perhaps its prompt, a few texts with tokens, a finish. */
static em_event *next_event(const em_completion *c, int32_t choice, int step, bool ends)
{
    static const char *const texts[] = {"", "a", "\"\n", "\xc3\xa9", NULL};
    static const em_finish finishes[] = {EM_FINISH_STOP,   EM_FINISH_LENGTH,  EM_FINISH_STOP,
                                         EM_FINISH_CANCEL, EM_FINISH_TIMEOUT, EM_FINISH_ERROR};
    em_top_logprob top[3] = {{(int32_t)rnd(FAKE_VOCAB), -0.5f}, {(int32_t)rnd(FAKE_VOCAB), -1e9f}, {0, -1}};
    em_event_token tok[3] = {0};
    int32_t n = c->logprobs >= 0 || c->return_token_ids ? (int32_t)rnd(4) : 0;
    for (int32_t i = 0; i < n; i++)
        tok[i] = (em_event_token){.id = (int32_t)rnd(FAKE_VOCAB),
                                  .visible = rnd(4) > 0,
                                  .has_logprob = rnd(4) > 0,
                                  .logprob = -(float)rnd(1000) / 7,
                                  .n_top = (int32_t)rnd(4),
                                  .top = top};
    bool prompt = step == 0 && c->req->prompt_logprobs;
    return fake_event(prompt ? EM_EVENT_PROMPT : EM_EVENT_TEXT, choice, prompt ? NULL : texts[rnd(5)], tok, n,
                      ends ? finishes[rnd(6)] : EM_FINISH_NONE);
}

/* Plays the same events through a whole answer (out NULL) or a stream. */
static void play(const em_completion *c, em_completion_reply *r, em_buf *out)
{
    int32_t n = c->n_prompts * c->n;
    for (int32_t choice = 0; choice < n; choice++) {
        int steps = 1 + (int)rnd(3);
        for (int step = 0; step <= steps; step++) {
            em_event *ev = next_event(c, choice, step, step == steps);
            ev->completion_tokens = step;
            ev->last = choice == n - 1 && step == steps;
            must(!(out ? em_completion_reply_stream(r, ev, out) : em_completion_reply_add(r, ev)), "event refused");
            em_event_free(ev);
        }
    }
}

static void answer(const em_completion *c, uint64_t seed)
{
    em_completion_reply *r = NULL;
    em_buf out = {0};
    em_api_error err = {0};
    rng_state = seed;
    must(!em_completion_reply_new(c, "cmpl-fuzz", 1, &r), "out of memory");
    play(c, r, NULL);
    bool well = em_completion_reply_json(r, &out, &err) == 0;
    if (well)
        must_be_json(out.data, out.len);
    else
        must_be_error(&err);
    r = em_completion_reply_free(r);
    em_buf_clear(&out);
    rng_state = seed;
    must(!em_completion_reply_new(c, "cmpl-fuzz", 1, &r), "out of memory");
    play(c, r, &out);
    must_be_stream(&out, well || err.status != 499);
    em_completion_reply_free(r);
    em_buf_done(&out);
}

static void complete(const char *body, size_t len, const em_api_context *ctx, uint64_t seed)
{
    em_completion *c = NULL;
    em_api_error err = {0};
    if (em_completion_parse(body, len, ctx, &c, &err)) {
        must(!c, "a result in spite of an error");
        must_be_error(&err);
        return;
    }
    for (int32_t i = 0; i < c->req->n_prompts; i++)
        must(c->req->prompts[i].n_ids >= 1 && c->req->prompts[i].n_ids < 64, "a prompt that does not fit");
    must(c->req->max_tokens >= 0 && c->req->max_tokens <= 64 && c->n_prompts * c->n <= ctx->max_choices, "a limit");
    answer(c, seed);
    em_completion_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static em_engine *engine;
    static const char *const names[] = {"pocket"};
    if (!engine)
        engine = fake_engine_new(NULL);
    em_api_context ctx = {.engine = engine,
                          .model_names = names,
                          .n_model_names = 1,
                          .ignore_unknown_fields = size & 1,
                          .max_prompts = 8,
                          .max_choices = 16,
                          .max_n = 128,
                          .max_stops = 16,
                          .max_stop_bytes = 32,
                          .max_logit_bias = EM_MAX_LOGIT_BIAS,
                          .max_logprobs = 20,
                          .max_cache_salt_bytes = 256,
                          .max_depth = 64};
    uint64_t seed = 14695981039346656037u;
    for (size_t i = 0; i < size; i++)
        seed = (seed ^ data[i]) * 1099511628211u;
    char *body = malloc(size + !size); /* of its exact size, so that a read behind it is seen */
    must(body != NULL, "out of memory");
    if (size)
        memcpy(body, data, size);
    complete(body, size, &ctx, seed);
    em_buf out = {0};
    em_api_error err = {0};
    if (em_api_tokenize(body, size, &ctx, &out, &err))
        must_be_error(&err);
    else
        must_be_json(out.data, out.len);
    em_buf_clear(&out);
    if (em_api_detokenize(body, size, &ctx, &out, &err))
        must_be_error(&err);
    else
        must_be_json(out.data, out.len);
    em_buf_done(&out);
    free(body);
    return 0;
}
