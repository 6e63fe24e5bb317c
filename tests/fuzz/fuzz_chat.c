/* A body of POST /v1/chat/completions: refused with a well-formed error, or answered, whole and streamed, by a text made
 * out of the body. What is written must be JSON to our own strict reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/chat_reply.h"
#include "api/tokenize.h"
#include "engine/base/json.h"
#include "engine/base/utf8.h"
#include "tests/support/fake_engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

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

static void must_be_error(const em_api_error *err)
{
    em_buf out = {0};
    must(err->status >= 400 && err->status < 600 && err->code && err->message[0], "the error says nothing");
    must(!em_api_error_json(err, &out), "out of memory");
    must_be_json(out.data, out.len);
    em_buf_done(&out);
}

static void must_be_stream(const em_buf *out)
{
    const char *p = out->data, *end;
    for (; p && *p; p = end + 2) {
        must(!strncmp(p, "data: ", 6) && (end = strstr(p, "\n\n")), "an event is not framed");
        if (strncmp(p + 6, "[DONE]", 6) != 0)
            must_be_json(p + 6, (size_t)(end - p - 6));
    }
}

/* The answer is the body itself, where it is text: it may well spell markup. */
static void play(const em_chat *c, em_chat_reply *r, const char *text, size_t len, em_buf *out)
{
    size_t half = len / 2;
    while (half < len && ((unsigned char)text[half] & 0xc0) == 0x80)
        half++;
    for (int32_t choice = 0; choice < c->n; choice++)
        for (int part = 0; part < 2; part++) {
            char *piece = strndup(part ? text + half : text, part ? len - half : half);
            em_event_token tok = {.id = 'a', .visible = true, .has_logprob = true, .logprob = -1, .text_offset = part};
            must(piece != NULL, "out of memory");
            em_event *ev = fake_event(EM_EVENT_TEXT, choice, piece, &tok, 1, part ? EM_FINISH_STOP : EM_FINISH_NONE);
            ev->last = part && choice == c->n - 1;
            int e = out ? em_chat_reply_stream(r, ev, out) : em_chat_reply_add(r, ev);
            em_event_free(ev);
            free(piece);
            must(e >= 0, "event refused"); /* 1: the choice has its end; the engine still tells the rest of it */
        }
}

static void answer(const em_chat *c, const char *text, size_t len)
{
    em_chat_reply *r = NULL;
    em_buf out = {0};
    em_api_error err = {0};
    len = em_utf8_valid(text, len) ? strnlen(text, len) : 0;
    must(!em_chat_reply_new(c, "chatcmpl-fuzz", 1, &r), "out of memory");
    play(c, r, text, len, NULL);
    must(!em_chat_reply_json(r, &out, &err), "no answer");
    must_be_json(out.data, out.len);
    em_chat_reply_free(r);
    em_buf_clear(&out);
    must(!em_chat_reply_new(c, "chatcmpl-fuzz", 1, &r), "out of memory");
    play(c, r, text, len, &out);
    must_be_stream(&out);
    em_chat_reply_free(r);
    em_buf_done(&out);
}

static void chat(const char *body, size_t len, const em_api_context *ctx)
{
    em_chat *c = NULL;
    em_api_error err = {0};
    if (em_chat_parse(body, len, ctx, &c, &err)) {
        must(!c, "a result in spite of an error");
        must_be_error(&err);
        return;
    }
    must(c->prompt.n_ids >= 1 && c->prompt.n_ids < 4096, "a prompt that does not fit");
    must(c->req->max_tokens >= 0 && c->req->max_tokens <= 4096 && c->n <= 16, "a limit");
    if (em_chat_bind(c, &err))
        must_be_error(&err);
    answer(c, body, len);
    em_chat_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static em_engine *engine;
    static const char *const names[] = {"pocket"};
    if (!engine)
        engine = fake_engine_new(&(em_engine_info){.vocab_size = FAKE_CHAT_VOCAB,
                                                   .max_len = 4096,
                                                   .bos_id = FAKE_CHAT_BOS,
                                                   .eos_id = FAKE_CHAT_EOS,
                                                   .has_tokenizer = true,
                                                   .backend = "fake"});
    em_api_context ctx = {.engine = engine,
                          .model_names = names,
                          .n_model_names = 1,
                          .ignore_unknown_fields = size & 1,
                          .default_thinking = size & 2,
                          .max_prompts = 1,
                          .max_choices = 16,
                          .max_n = 128,
                          .max_stops = 16,
                          .max_stop_bytes = 32,
                          .max_logit_bias = EM_MAX_LOGIT_BIAS,
                          .max_logprobs = 20,
                          .max_depth = 64};
    char *body = malloc(size + !size); /* of its exact size, so that a read behind it is seen */
    must(body != NULL, "out of memory");
    if (size)
        memcpy(body, data, size);
    chat(body, size, &ctx);
    em_buf out = {0};
    em_api_error err = {0};
    if (em_api_tokenize(body, size, &ctx, &out, &err))
        must_be_error(&err);
    else
        must_be_json(out.data, out.len);
    em_buf_done(&out);
    free(body);
    return 0;
}
