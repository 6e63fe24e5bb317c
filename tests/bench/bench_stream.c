/* Events into SSE bytes: events per second of one core, plain and with logprobs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/completion_reply.h"
#include "engine/base/clock.h"
#include "tests/support/fake_engine.h"

static void die(const char *why)
{
    fprintf(stderr, "bench_stream: %s\n", why);
    exit(1);
}

static em_event *one_token(int32_t n_top)
{
    em_top_logprob top[5];
    for (int i = 0; i < 5; i++)
        top[i] = (em_top_logprob){'a' + i, -0.123456f * (float)(i + 1)};
    em_event_token tok = {.id = 'a',
                          .visible = true,
                          .has_logprob = n_top >= 0,
                          .logprob = top[0].logprob,
                          .n_top = n_top < 0 ? 0 : n_top,
                          .top = top};
    return fake_event(EM_EVENT_TEXT, 0, " caf\xc3\xa9", &tok, 1, EM_FINISH_NONE);
}

static void measure(const em_engine *engine, const char *body, int32_t n_top)
{
    static const char *const names[] = {"pocket"};
    em_api_context ctx = {.engine = engine,
                          .model_names = names,
                          .n_model_names = 1,
                          .max_prompts = 1,
                          .max_choices = 1,
                          .max_n = 1,
                          .max_stops = 1,
                          .max_stop_bytes = 1,
                          .max_logprobs = 20};
    em_completion *c = NULL;
    em_completion_reply *r = NULL;
    em_api_error err;
    if (em_completion_parse(body, strlen(body), &ctx, &c, &err))
        die(err.message);
    if (em_completion_reply_new(c, "cmpl-0123456789abcdef", 1764000000, &r))
        die("out of memory");
    em_event *ev = one_token(n_top);
    em_buf out = {0};
    const int n = 500000;
    size_t bytes = 0;
    uint64_t start = em_now_ns();
    for (int i = 0; i < n; i++) {
        if (em_completion_reply_stream(r, ev, &out))
            die("an event was refused");
        bytes += out.len;
        em_buf_clear(&out);
    }
    double s = (double)(em_now_ns() - start) * 1e-9;
    printf("logprobs %2d: %9.0f events/s, %5.2f us and %4zu bytes each\n", n_top, n / s, s / n * 1e6,
           bytes / (size_t)n);
    em_event_free(ev);
    em_buf_done(&out);
    em_completion_reply_free(r);
    em_completion_free(c);
}

int main(void)
{
    em_engine *engine = fake_engine_new(NULL);
    measure(engine, "{\"prompt\":[97],\"stream\":true}", -1);
    measure(engine, "{\"prompt\":[97],\"stream\":true,\"logprobs\":1}", 1);
    measure(engine, "{\"prompt\":[97],\"stream\":true,\"logprobs\":5}", 5);
    fake_engine_free(engine);
    return 0;
}
