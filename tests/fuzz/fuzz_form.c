/* The form of an answer as a chat asks for it: a body, or a part of one in a body that is good otherwise. Refused with
 * a sentence and nothing left behind, or a grammar that agrees with what reads the answer: a text written within the
 * grammar is accepted again as a whole, is UTF-8, and is read as JSON, or as calls with JSON objects, whatever the cuts. */
#include <sanitizer/allocator_interface.h>

#include "api/chat_request.h"
#include "engine/base/utf8.h"
#include "tests/support/fake_engine.h"
#include "tests/support/grammar_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The first byte of an input chooses where the rest stands in a body. */
static const char *const frames[][2] = {
    {"", ""},
    {"\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"a\",\"strict\":true,\"schema\":", "}}"},
    {"\"response_format\":", ""},
    {"\"structured_outputs\":", ""},
    {"\"tool_choice\":\"required\",\"tools\":", ""},
    {"\"tool_choice\":\"required\",\"parallel_tool_calls\":false,\"tools\":[{\"type\":\"function\",\"function\":{"
     "\"name\":\"f\",\"parameters\":",
     "}}]"},
    {"\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},\"tools\":[{\"type\":\"function\","
     "\"function\":{\"name\":\"g\"}},{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":",
     "}}]"},
    {"\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,\"parameters\":", "}}]"},
};
enum { N_FRAMES = sizeof(frames) / sizeof(frames[0]) };

static void append(em_buf *b, const char *text, size_t len)
{
    em_buf_append(b, text, len);
    fuzz_must(!b->failed, "out of memory");
}

static void body_of(const uint8_t *data, size_t size, em_buf *body)
{
    static const char head[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],";
    unsigned frame = size ? data[0] % N_FRAMES : 0;
    if (frame)
        append(body, head, strlen(head));
    append(body, frames[frame][0], strlen(frames[frame][0]));
    if (size)
        append(body, (const char *)data + 1, size - 1);
    append(body, frames[frame][1], strlen(frames[frame][1]));
    if (frame)
        append(body, "}", 1);
}

/* --- a text within the grammar ------------------------------------------------------------------------------ */

/* Appends a token's bytes where it is accepted. False: the text has ended, or can be read in too many ways. */
static bool take(em_grammar_state *s, uint32_t id, em_buf *text)
{
    size_t len;
    int rc = em_grammar_state_accept_token(s, id);
    fuzz_must(!rc || rc == -E2BIG, "an allowed token was refused");
    if (rc || id == FUZZ_END)
        return false;
    const char *bytes = fuzz_token(id, &len);
    append(text, bytes, len);
    return true;
}

/* A random walk and the shortest way to an end from there. False: too long, or too many ways to read it. */
static bool write_text(em_grammar *g, uint64_t seed, em_buf *text)
{
    enum { MAX_IDS = 3000, WORDS = (FUZZ_END + 64) / 64 };
    static uint32_t ids[MAX_IDS];
    uint64_t mask[WORDS];
    em_grammar_state *s;
    uint32_t n = 0;
    if (em_grammar_state_new(g, 0, &s))
        return false;
    for (uint32_t i = 0, steps = (uint32_t)(seed >> 32) % 60; i < steps && !em_grammar_state_fill_mask(s, mask); i++) {
        uint32_t allowed = grammar_mask_count(mask, WORDS);
        fuzz_must(allowed > 0, "a mask is empty");
        if (!take(s, grammar_mask_nth(mask, WORDS, (uint32_t)(em_rng_u64(seed, 3, i, 0) % allowed)), text))
            break;
    }
    bool well = !em_grammar_state_completion(s, ids, MAX_IDS, &n);
    for (uint32_t i = 0; well && i < n; i++)
        well = take(s, ids[i], text);
    fuzz_must(!well || em_grammar_state_is_complete(s), "a completion does not complete");
    em_grammar_state_free(s);
    return well;
}

static void must_be_allowed(em_grammar *g, const em_buf *text)
{
    em_grammar_state *s;
    fuzz_must(!em_grammar_state_new(g, 0, &s), "no second state");
    int rc = em_grammar_state_accept_bytes(s, text->data, text->len);
    fuzz_must(rc == -E2BIG || (!rc && em_grammar_state_is_complete(s)), "the text of a walk is refused as a whole");
    em_grammar_state_free(s);
}

/* --- what the reader makes of it ---------------------------------------------------------------------------- */

typedef struct heard {
    em_buf content, arguments, all; /* arguments: of the last call; all: every part, its changes marked */
    int part;
    int32_t call, n_calls;
} heard;

static void must_be_json(const em_buf *text, bool object)
{
    em_json j;
    em_json_init(&j, text->data, text->len, 0);
    em_json_type t = em_json_next(&j);
    fuzz_must(!object || t == EM_JSON_OBJECT, "arguments that are not an object");
    for (; t != EM_JSON_END; t = em_json_next(&j))
        fuzz_must(t != EM_JSON_ERROR, "what was bound to JSON is not");
}

static void end_call(heard *h)
{
    if (h->call >= 0)
        must_be_json(&h->arguments, true);
    em_buf_clear(&h->arguments);
}

static void hear(void *ctx, em_chat_part part, int32_t call, const char *text, size_t len)
{
    heard *h = ctx;
    if (part == EM_PART_CALL_NAME) {
        end_call(h);
        fuzz_must(call == h->n_calls++ && len > 0, "a call's number or name");
        h->call = call;
    }
    if (part == EM_PART_CONTENT)
        append(&h->content, text, len);
    if (part == EM_PART_CALL_ARGUMENTS)
        append(&h->arguments, text, len);
    if ((int)part != h->part || part == EM_PART_CALL_NAME) {
        char mark = (char)(1 + part);
        append(&h->all, &mark, 1);
    }
    h->part = (int)part;
    append(&h->all, text, len);
}

static void read_answer(const em_chat_rules *rules, const em_buf *text, size_t step, heard *h)
{
    em_chat_parser *p = NULL;
    *h = (heard){.part = -1, .call = -1};
    fuzz_must(!em_chat_parser_new(rules, (em_chat_sink){hear, h}, &p), "out of memory");
    for (size_t from = 0, to; from < text->len; from = to) {
        to = from + step < text->len ? from + step : text->len;
        while (to < text->len && ((unsigned char)text->data[to] & 0xc0) == 0x80)
            to++;
        fuzz_must(em_chat_parser_push(p, text->data + from, to - from) >= 0, "out of memory");
    }
    fuzz_must(!em_chat_parser_finish(p), "out of memory");
    end_call(h);
    em_chat_parser_free(p);
}

static void heard_done(heard *h)
{
    em_buf_done(&h->content);
    em_buf_done(&h->arguments);
    em_buf_done(&h->all);
}

static void check_answer(const em_chat *c, const em_buf *text, uint64_t seed)
{
    em_chat_rules *rules = NULL;
    heard whole, cut;
    fuzz_must(em_utf8_valid(text->data, text->len), "an answer is not UTF-8");
    fuzz_must(!em_chat_rules_new(&c->mode, NULL, 0, &rules), "out of memory");
    read_answer(rules, text, text->len + 1, &whole);
    read_answer(rules, text, 1 + seed % 9, &cut);
    fuzz_must(whole.all.len == cut.all.len && (!cut.all.len || !memcmp(whole.all.data, cut.all.data, cut.all.len)),
              "cuts matter");
    if (c->rule.kind == EM_CONSTRAINT_JSON)
        must_be_json(&whole.content, !c->rule.len);
    if (c->rule.kind == EM_CONSTRAINT_CALL_REQUIRED)
        fuzz_must(whole.n_calls > 0 && !whole.content.len, "required calls are not calls");
    fuzz_must(!c->mode.single_call || whole.n_calls <= 1, "more calls than one");
    heard_done(&whole);
    heard_done(&cut);
    em_chat_rules_free(rules);
}

/* --- one input ---------------------------------------------------------------------------------------------- */

static void must_say_why(const em_api_error *err)
{
    fuzz_must(err->status >= 400 && err->status < 600 && err->code && err->message[0], "the error says nothing");
}

static void check_form(const em_chat *c, const em_grammar_vocab *vocab, uint64_t seed)
{
    em_grammar_limits limits = fuzz_limits();
    em_grammar *g = NULL;
    em_error err = {0};
    em_buf text = {0};
    limits.cache_bytes = 1 << 17; /* few masks are wanted: making many in advance is what takes the time */
    int rc = em_grammar_compile(c->req->grammar, &limits, vocab, &g, &err);
    if (rc)
        fuzz_must((rc == -EINVAL || rc == -E2BIG) && err.text[0] && !g, "a refusal without a sentence");
    else if (write_text(g, seed, &text)) {
        must_be_allowed(g, &text);
        check_answer(c, &text, seed);
    }
    em_buf_done(&text);
    em_grammar_unref(g);
}

static void check_body(const char *body, size_t len, const em_api_context *ctx, const em_grammar_vocab *vocab,
                       uint64_t seed)
{
    em_chat *c = NULL;
    em_api_error err = {0};
    if (em_chat_parse(body, len, ctx, &c, &err)) {
        fuzz_must(!c, "a result in spite of an error");
        must_say_why(&err);
        return;
    }
    if (em_chat_bind(c, &err))
        must_say_why(&err);
    else if (c->req->grammar)
        check_form(c, vocab, seed);
    em_chat_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static em_engine *engine;
    static em_grammar_vocab *vocab;
    static const char *const names[] = {"pocket"};
    if (!engine) {
        engine = fake_engine_new(&(em_engine_info){.vocab_size = FAKE_CHAT_VOCAB,
                                                   .max_len = 4096,
                                                   .bos_id = FAKE_CHAT_BOS,
                                                   .eos_id = FAKE_CHAT_EOS,
                                                   .has_tokenizer = true,
                                                   .backend = "fake"});
        vocab = fuzz_vocab();
    }
    em_api_context ctx = {.engine = engine,
                          .model_names = names,
                          .n_model_names = 1,
                          .default_thinking = size && data[0] & 0x80,
                          .max_prompts = 1,
                          .max_choices = 16,
                          .max_n = 128,
                          .max_stops = 16,
                          .max_stop_bytes = 32,
                          .max_logit_bias = EM_MAX_LOGIT_BIAS,
                          .max_logprobs = 20,
                          .max_depth = 64};
    uint64_t seed;
    em_buf body = {0};
    size_t before = __sanitizer_get_current_allocated_bytes();
    char *copy = fuzz_copy(data, size, &seed);
    body_of((const uint8_t *)copy, size, &body);
    free(copy);
    copy = fuzz_copy((const uint8_t *)body.data, body.len, &seed);
    check_body(copy, body.len, &ctx, vocab, seed);
    free(copy);
    em_buf_done(&body);
    fuzz_must(__sanitizer_get_current_allocated_bytes() <= before, "memory is left behind");
    return 0;
}
