/* Events -> the JSON of a chat, byte for byte; a stream says what the whole answer says. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/chat_reply.h"
#include "tests/support/api_check.h"
#include "tests/support/fake_engine.h"
#include "tests/support/fixtures.h"

#define BAR "\xef\xbd\x9c"
#define DSML BAR "DSML" BAR
#define HEAD(object)                                                                                                   \
    "{\"id\":\"chatcmpl-1\",\"object\":\"" object "\",\"created\":1700000000,\"model\":\"pocket\","                    \
    "\"system_fingerprint\":\"FP\",\"choices\":["
#define CHUNK "data: " HEAD("chat.completion.chunk")

static em_engine *engine;

static void setup(void)
{
    engine = fake_engine_new(&(em_engine_info){.vocab_size = FAKE_CHAT_VOCAB,
                                               .max_len = 4096,
                                               .bos_id = FAKE_CHAT_BOS,
                                               .eos_id = FAKE_CHAT_EOS,
                                               .has_tokenizer = true,
                                               .backend = "fake"});
}

static void teardown(void)
{
    fake_engine_free(engine);
}

/* --- playing ------------------------------------------------------------------------------------------------ */

typedef struct step {
    int32_t choice;
    const char *text; /* its bytes are the tokens, marks excepted */
    em_finish finish;
    bool last;
    bool with_eos;
} step;

/* A chat with the tokens of its answers so far. */
typedef struct player {
    em_chat *c;
    em_chat_reply *reply;
    int32_t tokens[8], chars[8];
} player;

static void play_open(player *p, const char *body)
{
    em_api_context ctx = api_context(engine);
    em_api_error err = {0};
    *p = (player){0};
    int r = em_chat_parse(body, strlen(body), &ctx, &p->c, &err);
    ck_assert_msg(r == 0, "%s: %s", body, err.message);
    strcpy(p->c->fingerprint, "FP");
    ck_assert_int_eq(em_chat_reply_new(p->c, "chatcmpl-1", 1700000000, &p->reply), 0);
}

static void play_close(player *p)
{
    em_chat_reply_free(p->reply);
    em_chat_free(p->c);
}

/* One token for each character, with one alternative. */
static em_event *event_of(player *p, const step *s)
{
    static const em_top_logprob top[] = {{'z', -3.5f}};
    em_event_token tok[256];
    int32_t n = 0;
    for (const char *t = s->text ? s->text : ""; *t; t++) {
        if (((unsigned char)*t & 0xc0) == 0x80)
            continue;
        tok[n++] = (em_event_token){.id = (unsigned char)*t,
                                    .visible = true,
                                    .has_logprob = true,
                                    .logprob = -0.5f,
                                    .text_offset = p->chars[s->choice]++,
                                    .n_top = p->c->logprobs > 0,
                                    .top = top};
    }
    if (s->with_eos)
        tok[n++] = (em_event_token){.id = FAKE_CHAT_EOS,
                                    .visible = true,
                                    .has_logprob = true,
                                    .logprob = -1,
                                    .text_offset = p->chars[s->choice]};
    em_event *ev = fake_event(EM_EVENT_TEXT, s->choice, s->text, tok, n, s->finish);
    ev->last = s->last;
    ev->prompt_tokens = p->c->prompt.n_ids;
    ev->completion_tokens = p->tokens[s->choice] += n;
    return ev;
}

/* out NULL: a whole answer. Returns how many choices the reply has ended by itself. */
static int play(player *p, const step *steps, size_t n, em_buf *out)
{
    int n_ended = 0;
    for (size_t i = 0; i < n; i++) {
        em_event *ev = event_of(p, &steps[i]);
        int r = out ? em_chat_reply_stream(p->reply, ev, out) : em_chat_reply_add(p->reply, ev);
        ck_assert(r == 0 || r == 1);
        n_ended += r;
        em_event_free(ev);
    }
    return n_ended;
}

static void check_whole(const char *body, const step *steps, size_t n, const char *want)
{
    player p;
    em_buf out = {0};
    em_api_error err = {0};
    play_open(&p, body);
    play(&p, steps, n, NULL);
    ck_assert_int_eq(em_chat_reply_json(p.reply, &out, &err), 0);
    check_json(out.data, out.len);
    ck_assert_str_eq(out.data, want);
    em_buf_done(&out);
    play_close(&p);
}

static void check_stream(const char *body, const step *steps, size_t n, const char *want)
{
    player p;
    em_buf out = {0};
    play_open(&p, body);
    play(&p, steps, n, &out);
    ck_assert_str_eq(out.data ? out.data : "", want);
    em_buf_done(&out);
    play_close(&p);
}

#define N(steps) (sizeof(steps) / sizeof *(steps))
#define M "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]"
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"

/* --- whole -------------------------------------------------------------------------------------------------- */

static const step hello[] = {{0, "Hel"}, {0, "lo", EM_FINISH_STOP, true, true}};
static const step reasoned[] = {{0, "Hm"}, {0, "m\n</thi"}, {0, "nk>\n\nYes", EM_FINISH_LENGTH, true}};
static const step called[] = {{0, "ok\n\n<" DSML " calls>\n<" DSML " invoke name=\"f\">\n"},
                              {0, "<" DSML " parameter name=\"x\" string=\"false\">1</" DSML " parameter>\n"},
                              {0, "</" DSML " invoke>\n</" DSML " calls>", EM_FINISH_STOP, true, true}};

START_TEST(whole_answers)
{
    check_whole("{" M "}", hello, N(hello),
                HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello\","
                                        "\"refusal\":null},"
                                        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":5,"
                                        "\"completion_tokens\":6,"
                                        "\"total_tokens\":11,\"prompt_tokens_details\":{\"cached_tokens\":0},"
                                        "\"completion_tokens_details\":"
                                        "{\"reasoning_tokens\":0}}}");
    check_whole(
        "{" M ",\"thinking\":{\"type\":\"enabled\"}}", reasoned, N(reasoned),
        HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Yes\",\"refusal\":null,"
                                "\"reasoning_content\":\"Hmm\"},\"logprobs\":null,\"finish_reason\":\"length\"}],"
                                "\"usage\":{"
                                "\"prompt_tokens\":97,\"completion_tokens\":17,\"total_tokens\":114,\"prompt_tokens_"
                                "details\":"
                                "{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":12}}}");
}
END_TEST

START_TEST(whole_with_calls)
{
    player p;
    em_buf out = {0};
    em_api_error err = {0};
    play_open(&p, "{" M "," TOOLS "}");
    play(&p, called, N(called), NULL);
    ck_assert_int_eq(em_chat_reply_json(p.reply, &out, &err), 0);
    cJSON *tree = cJSON_Parse(out.data);
    const cJSON *choice = cJSON_GetObjectItem(tree, "choices")->child,
                *message = cJSON_GetObjectItem(choice, "message");
    const cJSON *calls = cJSON_GetObjectItem(message, "tool_calls"), *call = calls->child;
    ck_assert_str_eq(cJSON_GetObjectItem(choice, "finish_reason")->valuestring, "tool_calls");
    ck_assert_str_eq(cJSON_GetObjectItem(message, "content")->valuestring, "ok");
    ck_assert_int_eq(cJSON_GetArraySize(calls), 1);
    ck_assert_int_eq(strncmp(cJSON_GetObjectItem(call, "id")->valuestring, "call_", 5), 0);
    ck_assert_str_eq(cJSON_GetObjectItem(call, "type")->valuestring, "function");
    const cJSON *function = cJSON_GetObjectItem(call, "function");
    ck_assert_str_eq(cJSON_GetObjectItem(function, "name")->valuestring, "f");
    ck_assert_str_eq(cJSON_GetObjectItem(function, "arguments")->valuestring, "{\"x\": 1}");
    cJSON_Delete(tree);
    em_buf_done(&out);
    play_close(&p);
}
END_TEST

START_TEST(logprobs_and_ids)
{
    static const step ab[] = {{0, "\xc3\xa9"}, {0, "b", EM_FINISH_LENGTH, true}};
    check_whole("{" M ",\"logprobs\":true,\"top_logprobs\":1,\"return_token_ids\":true}", ab, N(ab),
                HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"\xc3\xa9"
                                        "b\",\"refusal\":null},"
                                        "\"logprobs\":{\"content\":[{\"token\":\"\xef\xbf\xbd\",\"logprob\":-0.5,"
                                        "\"bytes\":[195],\"top_logprobs\":["
                                        "{\"token\":\"z\",\"logprob\":-3.5,\"bytes\":[122]}]},{\"token\":\"b\","
                                        "\"logprob\":-0.5,\"bytes\":[98],"
                                        "\"top_logprobs\":[{\"token\":\"z\",\"logprob\":-3.5,\"bytes\":[122]}]}],"
                                        "\"refusal\":null},"
                                        "\"finish_reason\":\"length\",\"token_ids\":[195,98]}],\"usage\":{\"prompt_"
                                        "tokens\":5,\"completion_tokens\":2,"
                                        "\"total_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":0},"
                                        "\"completion_tokens_details\":"
                                        "{\"reasoning_tokens\":0}},\"prompt_token_ids\":[266,261,97,262,264]}");
}
END_TEST

/* --- streamed ----------------------------------------------------------------------------------------------- */

#define DELTA(index, delta, finish, more)                                                                              \
    CHUNK "{\"index\":" index ",\"delta\":{" delta "},\"logprobs\":null,\"finish_reason\":" finish "}]" more "}\n\n"
#define ROLE(index) DELTA(index, "\"role\":\"assistant\",\"content\":\"\"", "null", "")
#define DONE "data: [DONE]\n\n"

START_TEST(streams)
{
    check_stream("{" M ",\"stream\":true}", hello, N(hello),
                 ROLE("0") DELTA("0", "\"content\":\"Hel\"", "null", "") DELTA("0", "\"content\":\"lo\"", "null", "")
                     DELTA("0", "", "\"stop\"", "") DONE);
    check_stream("{" M ",\"stream\":true,\"thinking\":{\"type\":\"enabled\"}}", reasoned, N(reasoned),
                 DELTA("0", "\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"\"", "null", "")
                     DELTA("0", "\"reasoning_content\":\"Hm\"", "null", "")
                         DELTA("0", "\"reasoning_content\":\"m\"", "null", "")
                             DELTA("0", "\"content\":\"Yes\"", "null", "") DELTA("0", "", "\"length\"", "") DONE);
    check_stream(
        "{" M ",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":0}",
        (const step[]){{0, "", EM_FINISH_LENGTH, true}}, 1,
        DELTA("0", "\"role\":\"assistant\",\"content\":\"\"", "null", ",\"usage\":null")
            DELTA("0", "", "\"length\"", ",\"usage\":null") CHUNK
        "],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":0,\"total_tokens\":5,\"prompt_tokens_details\":"
        "{\"cached_tokens\":0},\"completion_tokens_details\":{\"reasoning_tokens\":0}}}\n\n" DONE);
}
END_TEST

START_TEST(streamed_calls)
{
    player p;
    em_buf out = {0};
    play_open(&p, "{" M "," TOOLS ",\"stream\":true}");
    play(&p, called, N(called), &out);
    const char *first = strstr(out.data, "\"tool_calls\":[{\"index\":0,\"id\":\"call_");
    ck_assert_ptr_nonnull(first);
    ck_assert_ptr_nonnull(
        strstr(first, "\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}"));
    ck_assert_ptr_nonnull(
        strstr(out.data, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\": 1\"}}]}"));
    ck_assert_ptr_nonnull(strstr(out.data, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"}\"}}]}"));
    ck_assert_ptr_nonnull(strstr(out.data, "\"delta\":{},\"logprobs\":null,\"finish_reason\":\"tool_calls\""));
    em_buf_done(&out);
    play_close(&p);
}
END_TEST

/* A stop string ends the answer before the engine does; tokens behind it are told nowhere. */
START_TEST(stop_strings)
{
    static const step steps[] = {{0, "ab S"}, {0, "TO"}, {0, "P never"}, {0, "more"}};
    const char *body =
        "{" M ",\"stop\":\"STOP\",\"logprobs\":true,\"stream\":true,\"stream_options\":{\"include_usage\":true}}";
    player p;
    em_buf out = {0};
    play_open(&p, body);
    ck_assert_int_eq(play(&p, steps, N(steps), &out), 1);
    ck_assert_ptr_null(strstr(out.data, "\"token\":\"S\""));
    ck_assert_ptr_nonnull(strstr(out.data, "\"delta\":{\"content\":\"ab \"}"));
    ck_assert_ptr_nonnull(strstr(out.data, "\"finish_reason\":\"stop\""));
    ck_assert_ptr_nonnull(strstr(out.data, "\"completion_tokens\":13,"));
    ck_assert_str_eq(out.data + out.len - strlen(DONE), DONE);
    em_buf_done(&out);
    play_close(&p);
}
END_TEST

START_TEST(stop_of_one_choice)
{
    static const step steps[] = {
        {0, "aSTOP"}, {1, "b"}, {0, "x"}, {0, "", EM_FINISH_TIMEOUT}, {1, "c", EM_FINISH_STOP, true}};
    player p;
    em_buf out = {0};
    em_api_error err = {0};
    play_open(&p, "{" M ",\"stop\":\"STOP\",\"n\":2}");
    ck_assert_int_eq(play(&p, steps, N(steps), NULL), 1);
    ck_assert_int_eq(em_chat_reply_json(p.reply, &out, &err), 0);
    ck_assert_ptr_nonnull(strstr(out.data, "\"content\":\"a\""));
    ck_assert_ptr_nonnull(strstr(out.data, "\"content\":\"bc\""));
    em_buf_done(&out);
    play_close(&p);
}
END_TEST

/* When all choices have ended by themselves the answer is complete: nothing that comes later changes it. */
START_TEST(stop_of_all_choices)
{
    static const step steps[] = {
        {0, "aSTOP"}, {1, "bSTOP"}, {0, "x", EM_FINISH_STOP}, {1, "y", EM_FINISH_TIMEOUT, true}};
    player p;
    em_buf out = {0};
    em_api_error err = {0};
    play_open(&p, "{" M ",\"stop\":\"STOP\",\"n\":2}");
    ck_assert_int_eq(play(&p, steps, N(steps), NULL), 2);
    ck_assert_int_eq(em_chat_reply_json(p.reply, &out, &err), 0);
    play_close(&p);
    em_buf_clear(&out);
    play_open(&p, "{" M ",\"stop\":\"STOP\",\"n\":2,\"stream\":true}");
    ck_assert_int_eq(play(&p, steps, 2, &out), 2);
    size_t len = out.len;
    ck_assert_str_eq(out.data + len - strlen(DONE), DONE);
    ck_assert_int_eq(play(&p, steps + 2, 2, &out), 0);
    ck_assert_uint_eq(out.len, len);
    em_buf_done(&out);
    play_close(&p);
}
END_TEST

/* --- failures ----------------------------------------------------------------------------------------------- */

START_TEST(failures)
{
    static const struct {
        em_finish finish;
        int status;
    } ends[] = {{EM_FINISH_CANCEL, 499}, {EM_FINISH_TIMEOUT, 504}, {EM_FINISH_ERROR, 500}};
    for (size_t i = 0; i < N(ends); i++) {
        const step steps[] = {{0, "a"}, {0, "", ends[i].finish, true}};
        player p;
        em_buf out = {0};
        em_api_error err = {0};
        play_open(&p, "{" M "}");
        play(&p, steps, N(steps), NULL);
        ck_assert_int_eq(em_chat_reply_json(p.reply, &out, &err), -22);
        ck_assert_int_eq(err.status, ends[i].status);
        play_close(&p);
        play_open(&p, "{" M ",\"stream\":true}");
        play(&p, steps, N(steps), &out);
        bool told = strstr(out.data, "data: {\"error\":") && strstr(out.data, DONE);
        ck_assert_int_eq(told, ends[i].finish != EM_FINISH_CANCEL);
        em_buf_done(&out);
        play_close(&p);
    }
}
END_TEST

START_TEST(events_out_of_order)
{
    player p;
    play_open(&p, "{" M "}");
    em_event *ev = fake_event(EM_EVENT_TEXT, 1, "x", NULL, 0, EM_FINISH_NONE);
    ck_assert_int_eq(em_chat_reply_add(p.reply, ev), -22);
    ev->choice = 0;
    ev->finish = EM_FINISH_STOP;
    ev->last = true;
    ck_assert_int_eq(em_chat_reply_add(p.reply, ev), 0);
    ck_assert_int_eq(em_chat_reply_add(p.reply, ev), -22);
    em_event_free(ev);
    play_close(&p);
}
END_TEST

/* --- the pieces of a stream add up to the whole ------------------------------------------------------------- */

static void add_text(cJSON *into, const char *key, const cJSON *piece)
{
    cJSON *old = cJSON_GetObjectItemCaseSensitive(into, key);
    char *sum = NULL;
    if (!cJSON_IsString(piece))
        return;
    ck_assert_int_ge(asprintf(&sum, "%s%s", cJSON_IsString(old) ? old->valuestring : "", piece->valuestring), 0);
    cJSON_DeleteItemFromObjectCaseSensitive(into, key);
    cJSON_AddStringToObject(into, key, sum);
    free(sum);
}

static void add_items(cJSON *into, const char *key, const cJSON *items)
{
    const cJSON *item;
    cJSON *list = cJSON_GetObjectItemCaseSensitive(into, key);
    if (!items)
        return;
    if (!list)
        list = cJSON_AddArrayToObject(into, key);
    cJSON_ArrayForEach(item, items) cJSON_AddItemToArray(list, cJSON_Duplicate(item, 1));
}

static void add_calls(cJSON *into, const cJSON *pieces)
{
    const cJSON *piece;
    cJSON *calls = cJSON_GetObjectItemCaseSensitive(into, "tool_calls");
    if (!pieces)
        return;
    if (!calls)
        calls = cJSON_AddArrayToObject(into, "tool_calls");
    cJSON_ArrayForEach(piece, pieces)
    {
        int idx = cJSON_GetObjectItem(piece, "index")->valueint;
        const cJSON *function = cJSON_GetObjectItem(piece, "function");
        if (idx == cJSON_GetArraySize(calls)) { /* the first piece brings what identifies it */
            cJSON *call = cJSON_Duplicate(piece, 1);
            cJSON_DeleteItemFromObject(call, "index");
            cJSON_AddItemToArray(calls, call);
        } else {
            ck_assert_ptr_null(cJSON_GetObjectItem(piece, "id"));
            cJSON *call = cJSON_GetArrayItem(calls, idx);
            add_text(cJSON_GetObjectItem(call, "function"), "arguments", cJSON_GetObjectItem(function, "arguments"));
        }
    }
}

static void add_chunk(cJSON *choices, const cJSON *piece)
{
    cJSON *choice = cJSON_GetArrayItem(choices, cJSON_GetObjectItem(piece, "index")->valueint);
    cJSON *message = cJSON_GetObjectItem(choice, "message");
    const cJSON *delta = cJSON_GetObjectItem(piece, "delta"), *finish = cJSON_GetObjectItem(piece, "finish_reason");
    const cJSON *logprobs = cJSON_GetObjectItem(piece, "logprobs");
    add_text(message, "content", cJSON_GetObjectItem(delta, "content"));
    add_text(message, "reasoning_content", cJSON_GetObjectItem(delta, "reasoning_content"));
    add_calls(message, cJSON_GetObjectItem(delta, "tool_calls"));
    if (cJSON_IsObject(logprobs)) {
        cJSON *sum = cJSON_GetObjectItem(choice, "logprobs");
        add_items(sum, "content", cJSON_GetObjectItem(logprobs, "content"));
        add_items(sum, "reasoning_content", cJSON_GetObjectItem(logprobs, "reasoning_content"));
    }
    add_items(choice, "token_ids", cJSON_GetObjectItem(piece, "token_ids"));
    if (cJSON_IsString(finish))
        add_text(choice, "finish_reason", finish);
}

/* Choices of the stream as the whole answer would have them. */
static cJSON *sum_of(const em_buf *stream, int32_t n)
{
    cJSON *choices = cJSON_CreateArray();
    for (int32_t i = 0; i < n; i++) {
        cJSON *choice = cJSON_CreateObject();
        cJSON_AddObjectToObject(choice, "message");
        cJSON_AddObjectToObject(choice, "logprobs");
        cJSON_AddItemToArray(choices, choice);
    }
    for (const char *at = stream->data; (at = strstr(at, "data: {")); at++) {
        const char *end = strstr(at, "\n\n");
        check_json(at + 6, (size_t)(end - at - 6));
        cJSON *chunk = cJSON_ParseWithLength(at + 6, (size_t)(end - at - 6));
        const cJSON *piece = cJSON_GetObjectItem(chunk, "choices")->child;
        if (piece)
            add_chunk(choices, piece);
        cJSON_Delete(chunk);
    }
    return choices;
}

static const char *text_in(const cJSON *o, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(o, key);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static void check_same_lists(const cJSON *a, const cJSON *b, const char *key)
{
    const cJSON *x = cJSON_GetObjectItem(a, key), *y = cJSON_GetObjectItem(b, key);
    ck_assert_int_eq(cJSON_GetArraySize(x), cJSON_GetArraySize(y));
    ck_assert(cJSON_GetArraySize(x) == 0 || cJSON_Compare(x, y, 1));
}

static void check_same_choice(const cJSON *whole, const cJSON *sum)
{
    const cJSON *a = cJSON_GetObjectItem(whole, "message"), *b = cJSON_GetObjectItem(sum, "message");
    ck_assert_str_eq(text_in(a, "content"), text_in(b, "content"));
    ck_assert_str_eq(text_in(a, "reasoning_content"), text_in(b, "reasoning_content"));
    ck_assert_str_eq(text_in(whole, "finish_reason"), text_in(sum, "finish_reason"));
    check_same_lists(a, b, "tool_calls");
    check_same_lists(whole, sum, "token_ids");
    check_same_lists(cJSON_GetObjectItem(whole, "logprobs"), cJSON_GetObjectItem(sum, "logprobs"), "content");
    check_same_lists(cJSON_GetObjectItem(whole, "logprobs"), cJSON_GetObjectItem(sum, "logprobs"), "reasoning_content");
}

#define MAX_STEPS 64

/* Random answers of two choices, in turns. */
static size_t random_steps(step steps[MAX_STEPS])
{
    static const char *const bits[] = {"a",
                                       "\n",
                                       "\n\n",
                                       "ST",
                                       "OP",
                                       "</think>",
                                       "<",
                                       "\xc3\xa9",
                                       "<" DSML " calls>\n",
                                       "<" DSML " invoke name=\"f\">\n",
                                       "<" DSML " parameter name=\"k\" string=\"true\">",
                                       "</" DSML " parameter>\n",
                                       "</" DSML " invoke>\n",
                                       "v",
                                       ""};
    size_t n = 2 + (size_t)random() % (MAX_STEPS - 4);
    for (size_t i = 0; i < n; i++)
        steps[i] = (step){.choice = (int32_t)(random() % 2), .text = bits[(size_t)random() % N(bits)]};
    steps[n++] = (step){0, "end", EM_FINISH_STOP, false, true};
    steps[n++] = (step){1, "end", random() % 2 ? EM_FINISH_LENGTH : EM_FINISH_STOP, true, true};
    return n;
}

START_TEST(stream_is_whole)
{
    static const char *const bodies[] = {
        "{" M "," TOOLS
        ",\"n\":2,\"stop\":[\"STOP\",\"\\n\\n\"],\"logprobs\":true,\"top_logprobs\":2,\"return_token_ids\":true}",
        "{" M "," TOOLS ",\"n\":2,\"stop\":\"STOP\",\"logprobs\":true,\"thinking\":{\"type\":\"enabled\"}}",
        "{" M ",\"n\":2,\"return_token_ids\":true,\"reasoning_effort\":\"low\"}",
        "{" M "," TOOLS ",\"n\":2,\"parallel_tool_calls\":false}",
    };
    srandom((unsigned)test_seed(5));
    for (int round = 0; round < 300; round++) {
        step steps[MAX_STEPS];
        size_t n = random_steps(steps);
        player a, b;
        em_buf json = {0}, stream = {0};
        em_api_error err = {0};
        play_open(&a, bodies[round % 4]);
        play_open(&b, bodies[round % 4]);
        play(&a, steps, n, NULL);
        play(&b, steps, n, &stream);
        ck_assert_int_eq(em_chat_reply_json(a.reply, &json, &err), 0);
        check_json(json.data, json.len);
        cJSON *whole = cJSON_Parse(json.data), *sum = sum_of(&stream, 2);
        const cJSON *choices = cJSON_GetObjectItem(whole, "choices");
        for (int i = 0; i < 2; i++)
            check_same_choice(cJSON_GetArrayItem(choices, i), cJSON_GetArrayItem(sum, i));
        cJSON_Delete(whole);
        cJSON_Delete(sum);
        em_buf_done(&json);
        em_buf_done(&stream);
        play_close(&a);
        play_close(&b);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("reply");
    tcase_set_timeout(t, 100);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, whole_answers);
    tcase_add_test(t, whole_with_calls);
    tcase_add_test(t, logprobs_and_ids);
    tcase_add_test(t, streams);
    tcase_add_test(t, streamed_calls);
    tcase_add_test(t, stop_strings);
    tcase_add_test(t, stop_of_one_choice);
    tcase_add_test(t, stop_of_all_choices);
    tcase_add_test(t, failures);
    tcase_add_test(t, events_out_of_order);
    tcase_add_test(t, stream_is_whole);
    Suite *s = suite_create("chat-reply");
    suite_add_tcase(s, t);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
