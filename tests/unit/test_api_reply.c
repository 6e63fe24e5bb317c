/* Events -> the JSON of /v1/completions, whole and streamed: exact bytes, and that both always agree. */
#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/completion_reply.h"
#include "api/json_out.h"
#include "engine/base/utf8.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fixtures.h"

static em_engine *engine;
static em_completion *c;
static em_completion_reply *reply;
static em_buf out;

static void teardown(void)
{
    reply = em_completion_reply_free(reply);
    c = em_completion_free(c);
    fake_engine_free(engine);
    engine = NULL;
    em_buf_done(&out);
}

static void new_reply(void)
{
    em_completion_reply_free(reply);
    ck_assert_int_eq(em_completion_reply_new(c, "cmpl-1", 1764000000, &reply), 0);
    strcpy(c->fingerprint, "e-1"); /* the tests of requests look at the real one */
    em_completion_reply_free(reply);
    ck_assert_int_eq(em_completion_reply_new(c, "cmpl-1", 1764000000, &reply), 0);
}

static void start(const char *body)
{
    engine = fake_engine_new(NULL);
    em_api_context ctx = api_context(engine);
    ctx.timeout_ns = 2500000000;
    em_api_error err = {0};
    int r = em_completion_parse(body, strlen(body), &ctx, &c, &err);
    ck_assert_msg(r == 0, "%s", err.message);
    new_reply();
}

/* The numbers an event carries besides text and tokens. */
typedef struct numbers {
    bool last;
    int32_t completion_tokens, cached_tokens;
    const char *error;
} numbers;

static void send_event(bool stream, em_event *ev, numbers n)
{
    ev->last = n.last;
    ev->completion_tokens = n.completion_tokens;
    ev->cached_tokens = n.cached_tokens;
    ev->error = n.error;
    ck_assert_int_eq(stream ? em_completion_reply_stream(reply, ev, &out) : em_completion_reply_add(reply, ev), 0);
    em_event_free(ev);
}

static em_event *text_event(int32_t choice, const char *text, em_finish finish)
{
    return fake_event(EM_EVENT_TEXT, choice, text, NULL, 0, finish);
}

static void whole_is(const char *expected)
{
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_reply_json(reply, &out, &err), 0);
    check_json(out.data, out.len);
    ck_assert_str_eq(out.data, expected);
}

#define HEAD                                                                                                           \
    "{\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":1764000000,\"model\":\"pocket\","                   \
    "\"system_fingerprint\":\"e-1\",\"choices\":["
#define USAGE(p, a, t, h)                                                                                              \
    "\"usage\":{\"prompt_tokens\":" #p ",\"completion_tokens\":" #a ",\"total_tokens\":" #t                            \
    ",\"prompt_tokens_details\":{\"cached_tokens\":" #h "}}"

/* --- exact bytes -------------------------------------------------------------------------------------------- */

START_TEST(whole_with_logprobs)
{
    start("{\"prompt\":[97,98,99,100],\"logprobs\":1}");
    em_event_token word = {.id = FAKE_WORD,
                           .visible = true,
                           .has_logprob = true,
                           .logprob = -0.21f,
                           .n_top = 1,
                           .top = &(em_top_logprob){FAKE_WORD, -0.21f}};
    em_event_token bang = {.id = '!',
                           .visible = true,
                           .has_logprob = true,
                           .logprob = -1.5f,
                           .text_offset = 5,
                           .n_top = 1,
                           .top = &(em_top_logprob){'"', -0.75f}};
    send_event(false, fake_event(EM_EVENT_TEXT, 0, " caf\xc3\xa9", &word, 1, EM_FINISH_NONE),
               (numbers){.completion_tokens = 1});
    send_event(false, fake_event(EM_EVENT_TEXT, 0, "!", &bang, 1, EM_FINISH_LENGTH),
               (numbers){.last = true, .completion_tokens = 2, .cached_tokens = 3});
    whole_is(HEAD "{\"index\":0,\"text\":\" caf\xc3\xa9!\",\"logprobs\":{\"tokens\":[\" caf\xc3\xa9\",\"!\"],"
                  "\"token_logprobs\":[-0.21,-1.5],\"top_logprobs\":[{\" caf\xc3\xa9\":-0.21},"
                  "{\"\\\"\":-0.75,\"!\":-1.5}],\"text_offset\":[0,5]},\"finish_reason\":\"length\"}]," USAGE(4, 2, 6,
                                                                                                              3) "}");
}
END_TEST

START_TEST(stream_with_usage)
{
    start("{\"prompt\":[97,98,99,100],\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    send_event(true, text_event(0, " a\n", EM_FINISH_NONE), (numbers){.completion_tokens = 1});
    send_event(true, text_event(0, "", EM_FINISH_NONE), (numbers){.completion_tokens = 2}); /* says nothing */
    send_event(true, text_event(0, "b", EM_FINISH_STOP), (numbers){.last = true, .completion_tokens = 3});
    ck_assert_str_eq(
        out.data,
        "data: " HEAD "{\"index\":0,\"text\":\" a\\n\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n"
        "data: " HEAD "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"
        "data: " HEAD "]," USAGE(4, 3, 7, 0) "}\n\n"
                                             "data: [DONE]\n\n");
}
END_TEST

START_TEST(stream_without_usage)
{
    start("{\"prompt\":[97],\"stream\":true}");
    send_event(true, text_event(0, "b", EM_FINISH_NONE), (numbers){.completion_tokens = 1});
    send_event(true, text_event(0, "", EM_FINISH_LENGTH), (numbers){.last = true, .completion_tokens = 1});
    ck_assert_str_eq(out.data,
                     "data: " HEAD "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":null}]}\n\n"
                     "data: " HEAD "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n"
                     "data: [DONE]\n\n");
}
END_TEST

/* Prompt tokens with their logprobs, the first without. */
static em_event *prompt_event(int32_t choice, const int32_t *ids, int32_t n)
{
    static em_top_logprob top[16];
    em_event_token tok[16] = {0};
    for (int32_t i = 0; i < n; i++) {
        top[i] = (em_top_logprob){ids[i], -0.5f * (float)i};
        tok[i] = (em_event_token){.id = ids[i],
                                  .visible = true,
                                  .has_logprob = i > 0,
                                  .logprob = top[i].logprob,
                                  .n_top = i > 0,
                                  .top = &top[i]};
    }
    return fake_event(EM_EVENT_PROMPT, choice, NULL, tok, n, EM_FINISH_NONE);
}

/* What evaluation harnesses send: ids, echo, one more token. */
START_TEST(echo_of_ids_scores_them)
{
    start("{\"prompt\":[[104,105,33]],\"max_tokens\":1,\"echo\":true,\"logprobs\":1}");
    ck_assert(c->req->prompt_logprobs);
    send_event(false, prompt_event(0, (int32_t[]){'h', 'i', '!'}, 3), (numbers){0});
    em_event_token x = {
        .id = 'x', .visible = true, .has_logprob = true, .logprob = -2, .n_top = 1, .top = &(em_top_logprob){'y', -1}};
    send_event(false, fake_event(EM_EVENT_TEXT, 0, "x", &x, 1, EM_FINISH_LENGTH),
               (numbers){.last = true, .completion_tokens = 1});
    whole_is(HEAD
             "{\"index\":0,\"text\":\"hi!x\",\"logprobs\":{\"tokens\":[\"h\",\"i\",\"!\",\"x\"],"
             "\"token_logprobs\":[null,-0.5,-1,-2],\"top_logprobs\":[null,{\"i\":-0.5},{\"!\":-1},"
             "{\"y\":-1,\"x\":-2}],\"text_offset\":[0,1,2,3]},\"finish_reason\":\"length\"}]," USAGE(3, 1, 4, 0) "}");
}
END_TEST

/* An added BOS is in the lists, not in the text; a character cut by a token border is counted once. */
START_TEST(echo_of_text_with_bos)
{
    start("{\"prompt\":\"\\u00e9z<eos>\",\"max_tokens\":0,\"echo\":true,\"logprobs\":0,\"stream\":true}");
    em_event *ev = prompt_event(0, (int32_t[]){FAKE_BOS, 0xc3, 0xa9, 'z', FAKE_EOS}, 5);
    for (int i = 0; i < 5; i++)
        ((em_event_token *)ev->tokens)[i].n_top = 0;
    send_event(true, ev, (numbers){0});
    send_event(true, text_event(0, "", EM_FINISH_LENGTH), (numbers){.last = true});
    ck_assert_str_eq(
        out.data,
        "data: " HEAD "{\"index\":0,\"text\":\"\xc3\xa9z<eos>\",\"logprobs\":{\"tokens\":[\"<bos>\",\"\xef\xbf\xbd\","
        "\"\xef\xbf\xbd\",\"z\",\"<eos>\"],\"token_logprobs\":[null,-0.5,-1,-1.5,-2],\"top_logprobs\":[null,"
        "{\"\xef\xbf\xbd\":-0.5},{\"\xef\xbf\xbd\":-1},{\"z\":-1.5},{\"<eos>\":-2}],\"text_offset\":[0,0,0,1,2]},"
        "\"finish_reason\":null}]}\n\n"
        "data: " HEAD "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"length\"}]}\n\n"
        "data: [DONE]\n\n");
}
END_TEST

START_TEST(echo_without_logprobs_comes_first)
{
    start("{\"prompt\":\"Alpha\",\"echo\":true,\"stream\":true}");
    send_event(true, text_event(0, "", EM_FINISH_NONE), (numbers){0});
    ck_assert_str_eq(out.data,
                     "data: " HEAD "{\"index\":0,\"text\":\"Alpha\",\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    send_event(true, text_event(0, "", EM_FINISH_NONE), (numbers){0});
    size_t once = out.len;
    send_event(true, text_event(0, "!", EM_FINISH_STOP), (numbers){.last = true});
    ck_assert_ptr_nonnull(strstr(out.data + once - 1, "\"text\":\"!\""));
    ck_assert_ptr_null(strstr(out.data + once - 1, "Alpha"));
}
END_TEST

/* Broken bytes in an echoed id prompt become U+FFFD; the answer's offsets go on behind it. */
START_TEST(echo_of_broken_ids)
{
    start("{\"prompt\":[97,195,98,240,159],\"max_tokens\":1,\"echo\":true,\"logprobs\":0}");
    em_event_token x = {.id = 'x', .visible = true, .has_logprob = true, .logprob = 0};
    send_event(false, fake_event(EM_EVENT_TEXT, 0, "x", &x, 1, EM_FINISH_LENGTH),
               (numbers){.last = true, .completion_tokens = 1});
    whole_is(HEAD "{\"index\":0,\"text\":\"a\xef\xbf\xbd"
                  "b\xef\xbf\xbdx\",\"logprobs\":{\"tokens\":[\"x\"],"
                  "\"token_logprobs\":[0],\"top_logprobs\":[{\"x\":0}],\"text_offset\":[4]},"
                  "\"finish_reason\":\"length\"}]," USAGE(5, 1, 6, 0) "}");
}
END_TEST

START_TEST(token_ids)
{
    start("{\"prompt\":\"a\",\"return_token_ids\":true,\"stream\":true}");
    em_event_token tok[2] = {{.id = 'x', .visible = true}, {.id = FAKE_EOS}};
    send_event(true, fake_event(EM_EVENT_TEXT, 0, "x", tok, 1, EM_FINISH_NONE), (numbers){.completion_tokens = 1});
    send_event(true, fake_event(EM_EVENT_TEXT, 0, "", tok + 1, 1, EM_FINISH_STOP),
               (numbers){.last = true, .completion_tokens = 2});
    ck_assert_str_eq(
        out.data,
        "data: " HEAD "{\"index\":0,\"text\":\"x\",\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[120],"
        "\"prompt_token_ids\":[256,97]}]}\n\n"
        "data: " HEAD
        "{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\",\"token_ids\":[257]}]}\n\n"
        "data: [DONE]\n\n");
    new_reply();
    em_buf_clear(&out);
    send_event(false, fake_event(EM_EVENT_TEXT, 0, "x", tok, 2, EM_FINISH_STOP),
               (numbers){.last = true, .completion_tokens = 2});
    whole_is(HEAD "{\"index\":0,\"text\":\"x\",\"logprobs\":null,\"finish_reason\":\"stop\",\"token_ids\":[120,257],"
                  "\"prompt_token_ids\":[256,97]}]," USAGE(2, 2, 4, 0) "}");
}
END_TEST

/* Choices in order, whatever order they end in; a prompt counts once, its hits too. */
START_TEST(several_choices)
{
    start("{\"prompt\":[[97],[98,99]],\"n\":2}");
    static const char *const text[] = {"zero", "one", "two", "three"};
    for (int i = 3; i >= 0; i--)
        send_event(false, text_event(i, text[i], i % 2 ? EM_FINISH_STOP : EM_FINISH_LENGTH),
                   (numbers){.last = i == 0, .completion_tokens = 10 + i, .cached_tokens = 1 + i});
    whole_is(HEAD
             "{\"index\":0,\"text\":\"zero\",\"logprobs\":null,\"finish_reason\":\"length\"},"
             "{\"index\":1,\"text\":\"one\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
             "{\"index\":2,\"text\":\"two\",\"logprobs\":null,\"finish_reason\":\"length\"},"
             "{\"index\":3,\"text\":\"three\",\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE(3, 46, 49, 4) "}");
}
END_TEST

/* The mean log-probability of what was drawn decides, not the sum: the longest sample is the best here. What a stop
 * hides counts, too. All samples are in the usage. */
START_TEST(best_of_several)
{
    start("{\"prompt\":[[97],[98]],\"n\":2,\"best_of\":3}");
    static const float logprob[6][2] = {{-3, -3}, {-1, -1}, {-4, 0}, {-1, -1}, {-1, -1}, {-2, -2}};
    static const int n_tokens[6] = {1, 2, 1, 1, 1, 1};
    static const char *const text[6] = {"low", "high", "lowest", "first", "equal", "less"};
    for (int i = 5; i >= 0; i--) {
        em_event_token tok[2];
        for (int t = 0; t < 2; t++)
            tok[t] = (em_event_token){.id = 'a', .visible = !t, .has_logprob = true, .logprob = logprob[i][t]};
        send_event(false, fake_event(EM_EVENT_TEXT, i, text[i], tok, n_tokens[i], EM_FINISH_STOP),
                   (numbers){.last = i == 0, .completion_tokens = n_tokens[i], .cached_tokens = 1});
    }
    whole_is(HEAD
             "{\"index\":0,\"text\":\"high\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
             "{\"index\":1,\"text\":\"low\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
             "{\"index\":2,\"text\":\"first\",\"logprobs\":null,\"finish_reason\":\"stop\"},"
             "{\"index\":3,\"text\":\"equal\",\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE(2, 7, 9, 2) "}");
}
END_TEST

/* Every event tells the usage of its own choice so far, the last one that of the whole answer. */
START_TEST(stream_with_continuous_usage)
{
    start("{\"prompt\":[97,98],\"n\":2,\"stream\":true,"
          "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    send_event(true, text_event(1, "a", EM_FINISH_NONE), (numbers){.completion_tokens = 1, .cached_tokens = 1});
    send_event(true, text_event(0, "b", EM_FINISH_STOP), (numbers){.completion_tokens = 2});
    send_event(true, text_event(1, "c", EM_FINISH_STOP), (numbers){.last = true, .completion_tokens = 5});
    ck_assert_str_eq(
        out.data,
        "data: " HEAD "{\"index\":1,\"text\":\"a\",\"logprobs\":null,\"finish_reason\":null}]," USAGE(
            2, 1, 3,
            1) "}\n\n"
               "data: " HEAD "{\"index\":0,\"text\":\"b\",\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE(
                   2, 2, 4, 0) "}\n\n"
                               "data: " HEAD
                               "{\"index\":1,\"text\":\"c\",\"logprobs\":null,\"finish_reason\":\"stop\"}]," USAGE(
                                   2, 5, 7, 0) "}\n\n"
                                               "data: " HEAD "]," USAGE(2, 7, 9, 0) "}\n\ndata: [DONE]\n\n");
}
END_TEST

/* Names that no two tokens share: nothing falls out of a map. */
START_TEST(tokens_as_ids)
{
    start("{\"prompt\":[97],\"logprobs\":2,\"return_tokens_as_token_ids\":true}");
    em_top_logprob top[] = {{0x81, -0.25f}, {0x80, -0.5f}};
    em_event_token tok = {.id = 0x82, .visible = true, .has_logprob = true, .logprob = -0.75f, .n_top = 2, .top = top};
    send_event(false, fake_event(EM_EVENT_TEXT, 0, "\xef\xbf\xbd", &tok, 1, EM_FINISH_LENGTH),
               (numbers){.last = true, .completion_tokens = 1});
    whole_is(HEAD
             "{\"index\":0,\"text\":\"\xef\xbf\xbd\",\"logprobs\":{\"tokens\":[\"token_id:130\"],"
             "\"token_logprobs\":[-0.75],\"top_logprobs\":[{\"token_id:129\":-0.25,\"token_id:128\":-0.5,"
             "\"token_id:130\":-0.75}],\"text_offset\":[0]},\"finish_reason\":\"length\"}]," USAGE(1, 1, 2, 0) "}");
}
END_TEST

START_TEST(nothing_generated)
{
    start("{\"prompt\":[97],\"max_tokens\":0,\"logprobs\":2}");
    send_event(false, text_event(0, "", EM_FINISH_LENGTH), (numbers){.last = true});
    whole_is(HEAD "{\"index\":0,\"text\":\"\",\"logprobs\":{\"tokens\":[],\"token_logprobs\":[],\"top_logprobs\":[],"
                  "\"text_offset\":[]},\"finish_reason\":\"length\"}]," USAGE(1, 0, 1, 0) "}");
}
END_TEST

START_TEST(logprobs_of_odd_tokens)
{
    start("{\"prompt\":[97],\"logprobs\":3}");
    em_top_logprob top[] = {{0x81, -0.25f}, {0x80, -0.5f}, {'a', -INFINITY}};
    em_event_token tok[] = {
        {.id = 0x80, .visible = true, .has_logprob = true, .logprob = -0.5f, .n_top = 3, .top = top},
        {.id = 'q', .visible = false, .has_logprob = true, .logprob = -1, .n_top = 3, .top = top},
        {.id = 'b', .visible = true, .has_logprob = true, .logprob = -INFINITY, .text_offset = 1, .n_top = 0}};
    send_event(false,
               fake_event(EM_EVENT_TEXT, 0,
                          "\xef\xbf\xbd"
                          "b",
                          tok, 3, EM_FINISH_LENGTH),
               (numbers){.last = true, .completion_tokens = 3});
    whole_is(HEAD "{\"index\":0,\"text\":\"\xef\xbf\xbd"
                  "b\",\"logprobs\":{\"tokens\":[\"\xef\xbf\xbd\",\"b\"],"
                  "\"token_logprobs\":[-0.5,-9999.0],\"top_logprobs\":[{\"\xef\xbf\xbd\":-0.25,\"a\":-9999.0},"
                  "{\"b\":-9999.0}],\"text_offset\":[0,1]},\"finish_reason\":\"length\"}]," USAGE(1, 3, 4, 0) "}");
}
END_TEST

/* --- failures ----------------------------------------------------------------------------------------------- */

static const struct {
    em_finish finish;
    int status;
    const char *code, *why, *stream; /* what a stream says after its text */
} failures[] = {
    {EM_FINISH_ERROR, 500, "engine_failure", "logits of layer 3 are not finite",
     "data: {\"error\":{\"message\":\"logits of layer 3 are not finite\",\"type\":\"server_error\",\"param\":null,"
     "\"code\":\"engine_failure\"}}\n\ndata: [DONE]\n\n"},
    {EM_FINISH_TIMEOUT, 504, "timeout", NULL,
     "data: {\"error\":{\"message\":\"The request took longer than the 2.5 seconds that this server allows\","
     "\"type\":\"server_error\",\"param\":null,\"code\":\"timeout\"}}\n\ndata: [DONE]\n\n"},
    {EM_FINISH_CANCEL, 499, "cancelled", NULL, ""},
};

START_TEST(whole_fails)
{
    start("{\"prompt\":[97],\"n\":2}");
    send_event(false, text_event(0, "abc", EM_FINISH_STOP), (numbers){0});
    send_event(false, text_event(1, "", failures[_i].finish), (numbers){.last = true, .error = failures[_i].why});
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_reply_json(reply, &out, &err), -22);
    ck_assert_uint_eq(out.len, 0);
    check_error(&err, failures[_i].status, "", failures[_i].code, "failure");
}
END_TEST

START_TEST(stream_fails)
{
    start("{\"prompt\":[97],\"echo\":true,\"n\":2,\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    send_event(true, text_event(0, "abc", EM_FINISH_NONE), (numbers){0});
    size_t before = out.len;
    ck_assert_ptr_nonnull(strstr(out.data, "aabc"));
    send_event(true, text_event(1, "", failures[_i].finish), (numbers){.error = failures[_i].why});
    send_event(true, text_event(0, "", failures[_i].finish), (numbers){.last = true, .error = failures[_i].why});
    ck_assert_str_eq(out.data + before, failures[_i].stream);
}
END_TEST

/* Whose limit was passed is what the client must know. */
START_TEST(own_timeout)
{
    start("{\"prompt\":[97],\"timeout\":0.25}");
    send_event(false, text_event(0, "", EM_FINISH_TIMEOUT), (numbers){.last = true});
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_reply_json(reply, &out, &err), -22);
    check_error(&err, 504, "timeout", "timeout", "its own limit");
    ck_assert_str_eq(err.message, "The request took longer than its own timeout of 0.25 seconds");
}
END_TEST

START_TEST(misuse_is_refused)
{
    start("{\"prompt\":[97]}");
    em_api_error err = {0};
    ck_assert_int_eq(em_completion_reply_json(reply, &out, &err), -22);
    check_error(&err, 500, "", "engine_failure", "too early");
    em_event *ev = text_event(1, "x", EM_FINISH_NONE);
    ck_assert_int_eq(em_completion_reply_add(reply, ev), -22);
    ev->choice = -1;
    ck_assert_int_eq(em_completion_reply_stream(reply, ev, &out), -22);
    ev->choice = 0;
    ev->last = true;
    ck_assert_int_eq(em_completion_reply_add(reply, ev), 0);
    ck_assert_int_eq(em_completion_reply_add(reply, ev), -22); /* nothing comes after the last */
    em_event_free(ev);
    ck_assert_ptr_null(em_completion_reply_free(NULL));
}
END_TEST

/* --- whole = stream, however the events are cut ------------------------------------------------------------- */

static uint64_t rng_state;

static uint32_t rnd(uint32_t n)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(rng_state >> 33) % n;
}

#define MAX_TOKENS 24

/* One random answer: tokens, and the text each of them releases. */
typedef struct answer {
    em_event_token tok[MAX_TOKENS];
    em_top_logprob top[MAX_TOKENS][4];
    const char *text[MAX_TOKENS];
    int n;
} answer;

static void random_answer(answer *a)
{
    static const char *const pieces[] = {"", "a", "\"", "\\", "\n", "\xc3\xa9", "\xf0\x9f\x98\x80 ", "</s>", "\x01"};
    a->n = (int)rnd(MAX_TOKENS);
    int32_t offset = 0;
    for (int i = 0; i < a->n; i++) {
        for (int k = 0; k < 4; k++)
            a->top[i][k] = (em_top_logprob){(int32_t)rnd(FAKE_VOCAB), -(float)(k + 1) * (float)rnd(100000) / 7777.0f};
        a->text[i] = pieces[rnd(9)];
        a->tok[i] = (em_event_token){.id = (int32_t)rnd(FAKE_VOCAB),
                                     .visible = rnd(10) > 0,
                                     .has_logprob = true,
                                     .logprob = -(float)rnd(1000000) / 999.0f,
                                     .text_offset = offset,
                                     .n_top = (int32_t)rnd(5),
                                     .top = a->top[i]};
        offset += (int32_t)em_utf8_count(a->text[i], strlen(a->text[i]));
    }
}

/* Sends some of the tokens from `from` on as one event; returns how many. */
static int send_some(bool stream, const answer *a, int32_t choice, int from, bool last_choice)
{
    int n = (int)rnd(4);
    n = n > a->n - from ? a->n - from : n;
    char text[256] = "";
    for (int i = from; i < from + n; i++)
        strcat(text, a->text[i]);
    bool ends = from + n == a->n && rnd(2);
    em_event *ev = fake_event(EM_EVENT_TEXT, choice, text, a->tok + from, n, ends ? EM_FINISH_STOP : EM_FINISH_NONE);
    send_event(stream, ev, (numbers){.completion_tokens = from + n, .last = ends && last_choice});
    return ends ? -1 : n;
}

/* All answers, cut at random places, the choices interleaved at random. */
static void send_all(bool stream, const answer *answers, int32_t n_choices, bool with_prompt)
{
    int at[8] = {0};
    bool ended[8] = {false};
    if (with_prompt)
        for (int32_t i = 0; i < n_choices; i++)
            send_event(stream, prompt_event(i, c->prompt_ids[i / c->n].ids, c->prompt_ids[i / c->n].n_ids),
                       (numbers){0});
    for (int32_t left = n_choices; left > 0;) {
        int32_t i = (int32_t)rnd((uint32_t)n_choices);
        if (ended[i])
            continue;
        int n = send_some(stream, &answers[i], i, at[i], left == 1);
        ended[i] = n < 0;
        left -= ended[i];
        at[i] += n > 0 ? n : 0;
    }
}

static void append_items(cJSON *to, const cJSON *from)
{
    const cJSON *item;
    cJSON_ArrayForEach(item, from) cJSON_AddItemToArray(to, cJSON_Duplicate(item, true));
}

/* Adds one event's choice to what the stream said so far. */
static void merge_choice(cJSON *merged, const cJSON *piece)
{
    cJSON *into = cJSON_GetArrayItem(merged, cJSON_GetObjectItem(piece, "index")->valueint);
    cJSON *text = cJSON_GetObjectItem(into, "text");
    em_buf joined = {0};
    em_buf_printf(&joined, "%s%s", text->valuestring, cJSON_GetObjectItem(piece, "text")->valuestring);
    cJSON_SetValuestring(text, joined.data);
    em_buf_done(&joined);
    const cJSON *finish = cJSON_GetObjectItem(piece, "finish_reason");
    ck_assert_msg(cJSON_IsNull(cJSON_GetObjectItem(into, "finish_reason")), "an event after the finish");
    if (cJSON_IsString(finish))
        cJSON_ReplaceItemInObject(into, "finish_reason", cJSON_Duplicate(finish, true));
    static const char *const lists[] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};
    for (int i = 0; i < 4; i++)
        append_items(cJSON_GetObjectItem(cJSON_GetObjectItem(into, "logprobs"), lists[i]),
                     cJSON_GetObjectItem(cJSON_GetObjectItem(piece, "logprobs"), lists[i]));
    append_items(cJSON_GetObjectItem(into, "token_ids"), cJSON_GetObjectItem(piece, "token_ids"));
    const cJSON *ids = cJSON_GetObjectItem(piece, "prompt_token_ids");
    if (ids) /* AddItem would keep two: the comparison finds that */
        cJSON_AddItemToObject(into, "prompt_token_ids", cJSON_Duplicate(ids, true));
}

static cJSON *empty_choices(int32_t n)
{
    cJSON *all = cJSON_CreateArray();
    for (int32_t i = 0; i < n; i++) {
        char text[300];
        snprintf(text, sizeof text,
                 "{\"index\":%d,\"text\":\"\",\"logprobs\":%s,\"finish_reason\":null,\"token_ids\":[]}", i,
                 c->logprobs >= 0 ? "{\"tokens\":[],\"token_logprobs\":[],\"top_logprobs\":[],\"text_offset\":[]}"
                                  : "null");
        cJSON_AddItemToArray(all, cJSON_Parse(text));
    }
    return all;
}

/* The choices of a stream joined, in the shape of a whole answer; checks the framing on the way. */
static cJSON *join_stream(int32_t n_choices, cJSON **ret_usage)
{
    cJSON *merged = empty_choices(n_choices);
    const char *p = out.data, *done = NULL;
    for (const char *end; (end = strstr(p, "\n\n")); p = end + 2) {
        ck_assert_int_eq(strncmp(p, "data: ", 6), 0);
        p += 6;
        ck_assert_ptr_null(memchr(p, '\n', (size_t)(end - p)));
        ck_assert_ptr_null(done);
        if (!strncmp(p, "[DONE]", 6)) {
            done = p;
            continue;
        }
        check_json(p, (size_t)(end - p));
        cJSON *ev = cJSON_ParseWithLength(p, (size_t)(end - p));
        const cJSON *choices = cJSON_GetObjectItem(ev, "choices");
        if (cJSON_GetArraySize(choices))
            merge_choice(merged, cJSON_GetArrayItem(choices, 0));
        else
            *ret_usage = cJSON_DetachItemFromObject(ev, "usage");
        cJSON_Delete(ev);
    }
    ck_assert_ptr_nonnull(done);
    ck_assert_str_eq(p, "");
    return merged;
}

static void same_tree(cJSON *a, cJSON *b, const char *what)
{
    char *x = cJSON_PrintUnformatted(a), *y = cJSON_PrintUnformatted(b);
    ck_assert_msg(!strcmp(x, y), "%s\n%s\n%s", what, x, y);
    free(x);
    free(y);
}

static void check_one_round(void)
{
    int32_t n_choices = c->n_prompts * c->n;
    bool prompt = c->req->prompt_logprobs;
    static answer answers[8];
    for (int32_t i = 0; i < n_choices; i++)
        random_answer(&answers[i]);
    em_api_error err;
    em_buf first = {0};
    new_reply();
    send_all(false, answers, n_choices, prompt);
    ck_assert_int_eq(em_completion_reply_json(reply, &first, &err), 0);
    check_json(first.data, first.len);
    new_reply();
    send_all(false, answers, n_choices, prompt); /* cut elsewhere */
    em_buf_clear(&out);
    whole_is(first.data);
    new_reply();
    em_buf_clear(&out);
    send_all(true, answers, n_choices, prompt);
    cJSON *usage = NULL, *joined = join_stream(n_choices, &usage), *whole = cJSON_Parse(first.data);
    same_tree(joined, cJSON_GetObjectItem(whole, "choices"), "choices");
    same_tree(usage, cJSON_GetObjectItem(whole, "usage"), "usage");
    cJSON_Delete(usage);
    cJSON_Delete(joined);
    cJSON_Delete(whole);
    em_buf_done(&first);
}

static const char *const shapes[] = {
    "{\"prompt\":[[97,98],[240,159,98]],\"n\":3,\"logprobs\":4,\"echo\":true,\"return_token_ids\":true,"
    "\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
    "{\"prompt\":\"h\\u00e9\",\"logprobs\":4,\"echo\":true,\"return_token_ids\":true,\"stream\":true,"
    "\"stream_options\":{\"include_usage\":true}}",
    "{\"prompt\":[\"a\",\"\"],\"n\":4,\"logprobs\":0,\"return_token_ids\":true,\"stream\":true,"
    "\"stream_options\":{\"include_usage\":true}}",
    "{\"prompt\":\"a\",\"echo\":true,\"n\":2,\"return_token_ids\":true,\"stream\":true,"
    "\"stream_options\":{\"include_usage\":true}}",
};

START_TEST(stream_adds_up_to_whole)
{
    rng_state = test_seed(1) + (uint64_t)_i;
    start(shapes[_i]);
    for (int round = 0; round < 60; round++)
        check_one_round();
}
END_TEST

/* --- pieces ------------------------------------------------------------------------------------------------- */

START_TEST(floats_read_back)
{
    rng_state = test_seed(2);
    em_buf b = {0};
    for (int i = 0; i < 60000; i++) {
        uint32_t bits = rnd(1u << 16) << 16 ^ rnd(1u << 16);
        float v, back;
        memcpy(&v, &bits, sizeof v);
        if (i < 30000)
            v = -(float)rnd(1000000) / (float)(1 + rnd(100000));
        em_buf_clear(&b);
        em_json_logprob(&b, v);
        check_json(b.data, b.len);
        back = strtof(b.data, NULL);
        if (isfinite(v) && v >= -9999)
            ck_assert_msg(memcmp(&v, &back, sizeof v) == 0, "%.9g as %s", (double)v, b.data);
        else
            ck_assert_str_eq(b.data, "-9999.0");
    }
    em_buf_done(&b);
}
END_TEST

/* Bytes in any pieces give what they give at once, and that is UTF-8. */
START_TEST(broken_text_in_pieces)
{
    rng_state = test_seed(3);
    static const uint8_t likely[] = {'a', 0xc3, 0xa9, 0xf0, 0x9f, 0x98, 0x80, 0xed, 0xa0, 0xe2, 0x82, 0xac, 0xff, 0xc0};
    for (int round = 0; round < 20000; round++) {
        uint8_t s[24];
        size_t n = rnd(sizeof s + 1);
        for (size_t i = 0; i < n; i++)
            s[i] = rnd(8) ? likely[rnd(sizeof likely)] : (uint8_t)rnd(256);
        em_buf once = {0}, cut = {0};
        em_lossy a = {0}, b = {0}, count = {0};
        em_lossy_add(&a, s, n, &once);
        em_lossy_end(&a, &once);
        for (size_t i = 0, k; i < n; i += k) {
            k = 1 + rnd(3);
            k = k > n - i ? n - i : k;
            em_lossy_add(&b, s + i, k, &cut);
            em_lossy_add(&count, s + i, k, NULL);
        }
        em_lossy_end(&b, &cut);
        em_lossy_end(&count, NULL);
        ck_assert_uint_eq(once.len, cut.len);
        ck_assert(once.len == 0 || !memcmp(once.data, cut.data, once.len));
        ck_assert(em_utf8_valid(once.len ? once.data : "", once.len));
        ck_assert_int_eq(a.n_chars, (int64_t)em_utf8_count(once.len ? once.data : "", once.len));
        ck_assert_int_eq(count.n_chars, a.n_chars);
        if (em_utf8_valid((const char *)s, n))
            ck_assert(once.len == n && !memcmp(once.len ? once.data : "", s, n));
        em_buf_done(&once);
        em_buf_done(&cut);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("completion_reply");
    tcase_add_checked_fixture(t, NULL, teardown);
    tcase_add_test(t, whole_with_logprobs);
    tcase_add_test(t, stream_with_usage);
    tcase_add_test(t, stream_without_usage);
    tcase_add_test(t, echo_of_ids_scores_them);
    tcase_add_test(t, echo_of_text_with_bos);
    tcase_add_test(t, echo_without_logprobs_comes_first);
    tcase_add_test(t, echo_of_broken_ids);
    tcase_add_test(t, token_ids);
    tcase_add_test(t, several_choices);
    tcase_add_test(t, best_of_several);
    tcase_add_test(t, stream_with_continuous_usage);
    tcase_add_test(t, tokens_as_ids);
    tcase_add_test(t, nothing_generated);
    tcase_add_test(t, logprobs_of_odd_tokens);
    tcase_add_loop_test(t, whole_fails, 0, sizeof failures / sizeof *failures);
    tcase_add_loop_test(t, stream_fails, 0, sizeof failures / sizeof *failures);
    tcase_add_test(t, own_timeout);
    tcase_add_test(t, misuse_is_refused);
    tcase_add_loop_test(t, stream_adds_up_to_whole, 0, sizeof shapes / sizeof *shapes);
    tcase_add_test(t, floats_read_back);
    tcase_add_test(t, broken_text_in_pieces);
    Suite *s = suite_create("api-reply");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
