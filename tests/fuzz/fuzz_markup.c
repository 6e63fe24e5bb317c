/* What a chat model writes: the first bytes choose how it is parsed, the rest is the text. Whatever the cuts, the same
 * parts come out, in complete UTF-8. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/chat_parse.h"
#include "engine/base/buf.h"
#include "engine/base/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "broken: %s\n", what);
    abort();
}

/* All that was given out, with a byte for the part in front of each change. */
typedef struct heard {
    em_buf text;
    int part;
    int32_t call;
} heard;

static void hear(void *ctx, em_chat_part part, int32_t call, const char *text, size_t len)
{
    heard *h = ctx;
    must(em_utf8_valid(text, len), "a piece is cut inside a character");
    if ((int)part != h->part || call != h->call)
        em_buf_printf(&h->text, "\x01%d,%d:", (int)part, (int)call);
    h->part = (int)part;
    h->call = call;
    em_buf_append(&h->text, text, len);
}

static em_chat_position parse(const em_chat_rules *rules, const char *text, size_t len, size_t step, heard *h)
{
    em_chat_parser *p = NULL;
    em_chat_position at;
    *h = (heard){.part = -1};
    must(!em_chat_parser_new(rules, (em_chat_sink){hear, h}, &p), "out of memory");
    for (size_t from = 0, to; from < len; from = to) {
        to = from + step < len ? from + step : len;
        while (to < len && ((unsigned char)text[to] & 0xc0) == 0x80)
            to++;
        must(em_chat_parser_push(p, text + from, to - from) >= 0, "out of memory");
        em_chat_parser_where(p, &at);
        must(at.settled <= at.chars && at.n_calls >= 0, "a position");
    }
    must(!em_chat_parser_finish(p), "out of memory");
    em_chat_parser_where(p, &at);
    em_chat_parser_free(p);
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char stop_a[] = "STOP", stop_b[] = "\n\n", stop_c[] = "<";
    em_stop stops[] = {{stop_a, 4}, {stop_b, 2}, {stop_c, 1}};
    if (size < 2 || !em_utf8_valid((const char *)data + 2, size - 2))
        return 0;
    em_chat_mode mode = {.stage = (em_chat_stage)(data[0] & 3),
                         .tool_calls = data[0] & 4,
                         .in_calls = (data[0] & 12) == 12,
                         .single_call = data[0] & 16,
                         .json_output = data[0] & 32,
                         .bound = data[0] & 64};
    em_chat_rules *rules = NULL;
    heard whole, cut;
    must(!em_chat_rules_new(&mode, stops, data[1] & 3, &rules), "out of memory");
    em_chat_position a = parse(rules, (const char *)data + 2, size - 2, size, &whole);
    em_chat_position b = parse(rules, (const char *)data + 2, size - 2, 1 + (data[1] >> 2) % 8, &cut);
    must(whole.text.len == cut.text.len, "cuts matter");
    must(!whole.text.len || !memcmp(whole.text.data, cut.text.data, whole.text.len), "cuts matter");
    must(a.cut == b.cut && a.reasoning_end == b.reasoning_end && a.n_calls == b.n_calls, "cuts move a position");
    em_buf_done(&whole.text);
    em_buf_done(&cut.text);
    em_chat_rules_free(rules);
    return 0;
}
