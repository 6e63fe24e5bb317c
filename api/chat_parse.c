#include "api/chat_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "api/text_pattern.h"
#include "engine/base/buf.h"

/* --- what is sought ----------------------------------------------------------------------------------------- */

#define BAR "\xef\xbd\x9c" /* U+FF5C */
#define DSML BAR "DSML" BAR

typedef enum mark {
    MARK_THINK_END,
    MARK_OPEN,  /* of any markup: calls have begun */
    MARK_CLOSE, /* of any markup */
    MARK_CALLS_END,
    MARK_CALLS_END_V4,
    MARK_CALL,
    MARK_PARAMETER,
    MARK_NAME_END, /* of a parameter, which may hold quotes */
    MARK_FENCE_JSON,
    MARK_FENCE,
    MARK_FENCE_END,
    N_MARKS,
    NO_MARK = -1,
} mark;

static const char *const mark_text[N_MARKS] = {
    [MARK_THINK_END] = "</think>",
    [MARK_OPEN] = "<" DSML,
    [MARK_CLOSE] = "</" DSML,
    [MARK_CALLS_END] = "</" DSML " calls>",
    [MARK_CALLS_END_V4] = "</" DSML "tool_calls>",
    [MARK_CALL] = "invoke name=\"",
    [MARK_PARAMETER] = "parameter name=\"",
    [MARK_NAME_END] = "\" string=\"",
    [MARK_FENCE_JSON] = "```json\n",
    [MARK_FENCE] = "```\n",
    [MARK_FENCE_END] = "\n```",
};

typedef enum state {
    REASONING,
    CONTENT,
    JSON_BEFORE, /* json_output: nothing of the JSON has come yet */
    JSON_BODY,
    JSON_AFTER,
    CALLS,      /* in the block, between calls */
    CALL_NAME,  /* up to the quote */
    CALL_BODY,  /* between parameters */
    PARAM_NAME, /* up to MARK_NAME_END */
    PARAM_KIND, /* true or false, up to the quote */
    PARAM_OPEN, /* up to > */
    PARAM_VALUE,
    DONE, /* what comes is dropped */
} state;

#define BIT(m) (1u << (m))

static const uint32_t marks_in[] = {
    [REASONING] = BIT(MARK_THINK_END) | BIT(MARK_OPEN),
    [CONTENT] = BIT(MARK_THINK_END) | BIT(MARK_OPEN),
    [JSON_BEFORE] = BIT(MARK_THINK_END) | BIT(MARK_OPEN) | BIT(MARK_FENCE_JSON) | BIT(MARK_FENCE),
    [JSON_BODY] = BIT(MARK_FENCE_END),
    [CALLS] = BIT(MARK_CALLS_END) | BIT(MARK_CALLS_END_V4) | BIT(MARK_CALL),
    [CALL_BODY] = BIT(MARK_CLOSE) | BIT(MARK_PARAMETER),
    [PARAM_NAME] = BIT(MARK_NAME_END),
    [PARAM_VALUE] = BIT(MARK_CLOSE),
    [DONE] = 0,
};

struct em_chat_rules {
    em_chat_mode mode;
    em_pattern marks[N_MARKS];
    em_pattern *stops; /* [n_stops] */
    int32_t n_stops;
};

struct em_chat_parser {
    const em_chat_rules *rules;
    em_chat_sink sink;
    state state;
    bool leading;              /* newlines are dropped until something else comes */
    uint32_t matched[N_MARKS]; /* states of the marks that count here */
    uint32_t *stop_matched;    /* [n_stops] */
    em_buf text;               /* of the part that is being read, not given out yet */
    bool blank_given;          /* json_output: dropped text has left its blank */
    int32_t call;              /* number of the current call; -1 before the first */
    int32_t n_parameters;      /* begun in this call */
    bool quoted, escaped;      /* inside a string of a JSON value, behind a backslash there */
    bool is_string;            /* the current parameter's value is text */
    em_buf arguments;          /* of this call, not given out yet */
    int64_t chars, cut, reasoning_end;
};

int em_chat_rules_new(const em_chat_mode *mode, const em_stop *stops, int32_t n_stops, em_chat_rules **ret_rules)
{
    em_chat_rules *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    int e = 0;
    r->mode = *mode;
    for (int m = 0; m < N_MARKS && !e; m++)
        e = em_pattern_init(&r->marks[m], mark_text[m], strlen(mark_text[m]));
    if (!e && n_stops && !(r->stops = calloc((size_t)n_stops, sizeof *r->stops)))
        e = -ENOMEM;
    for (; !e && r->n_stops < n_stops; r->n_stops += !e)
        e = em_pattern_init(&r->stops[r->n_stops], stops[r->n_stops].text, stops[r->n_stops].len);
    if (e)
        em_chat_rules_free(r);
    else
        *ret_rules = r;
    return e;
}

em_chat_rules *em_chat_rules_free(em_chat_rules *r)
{
    if (!r)
        return NULL;
    for (int m = 0; m < N_MARKS; m++)
        em_pattern_done(&r->marks[m]);
    for (int32_t i = 0; i < r->n_stops; i++)
        em_pattern_done(&r->stops[i]);
    free(r->stops);
    free(r);
    return NULL;
}

/* --- giving out --------------------------------------------------------------------------------------------- */

static void put(em_chat_parser *p, em_chat_part part, const char *text, size_t len)
{
    if (len || part == EM_PART_CALL_NAME)
        p->sink.put(p->sink.ctx, part, p->call, text, len);
}

static void give_arguments(em_chat_parser *p)
{
    put(p, EM_PART_CALL_ARGUMENTS, p->arguments.data, p->arguments.len);
    em_buf_consume(&p->arguments, p->arguments.len);
}

/* Text inside a JSON string: without the quotes around it. */
static void add_escaped(em_chat_parser *p, size_t len)
{
    em_buf quoted = {0};
    em_buf_json_string(&quoted, p->text.data, len);
    if (quoted.failed)
        p->arguments.failed = true;
    else
        em_buf_append(&p->arguments, quoted.data + 1, quoted.len - 2);
    em_buf_done(&quoted);
}

static void give_blank(em_chat_parser *p)
{
    if (!p->blank_given)
        put(p, EM_PART_CONTENT, " ", 1);
    p->blank_given = true;
}

/* The first len bytes of the text that was read go where the state says. */
static void give(em_chat_parser *p, size_t len)
{
    if (!len)
        return;
    switch (p->state) {
    case REASONING: put(p, EM_PART_REASONING, p->text.data, len); break;
    case CONTENT:
    case JSON_BODY: put(p, EM_PART_CONTENT, p->text.data, len); break;
    case JSON_BEFORE: give_blank(p); break;
    case PARAM_NAME: add_escaped(p, len); break;
    case PARAM_VALUE:
        if (p->is_string)
            add_escaped(p, len);
        else
            em_buf_append(&p->arguments, p->text.data, len);
        break;
    default: break;
    }
    em_buf_consume(&p->text, len);
}

/* Newlines at the end belong to the template when the end of reasoning or a block of calls comes next. */
static bool holds_newlines(const em_chat_parser *p)
{
    return p->state == REASONING || (p->state == CONTENT && p->rules->mode.tool_calls);
}

static size_t without_newlines(const em_chat_parser *p, size_t len)
{
    while (len && p->text.data[len - 1] == '\n')
        len--;
    return len;
}

/* Bytes at the end of the text that may begin a stop string. */
static uint32_t held_for_stops(const em_chat_parser *p)
{
    uint32_t most = 0;
    for (int32_t i = 0; i < p->rules->n_stops; i++)
        most = p->stop_matched[i] > most ? p->stop_matched[i] : most;
    return most;
}

static size_t held(const em_chat_parser *p)
{
    uint32_t most = held_for_stops(p);
    for (int m = 0; m < N_MARKS; m++)
        most = p->matched[m] > most ? p->matched[m] : most;
    return most;
}

static void give_settled(em_chat_parser *p)
{
    size_t kept = held(p), n = p->text.len > kept ? p->text.len - kept : 0;
    if (p->state != CALL_NAME && p->state != PARAM_KIND) /* those are needed whole */
        give(p, holds_newlines(p) ? without_newlines(p, n) : n);
    if (p->arguments.len)
        give_arguments(p);
}

/* --- states ------------------------------------------------------------------------------------------------- */

static void forget_matches(em_chat_parser *p)
{
    memset(p->matched, 0, sizeof p->matched);
    for (int32_t i = 0; i < p->rules->n_stops; i++)
        p->stop_matched[i] = 0;
}

/* Whatever was read and not given out is dropped. */
static void enter(em_chat_parser *p, state next)
{
    p->state = next;
    em_buf_consume(&p->text, p->text.len); /* not clear: that would forget a failure */
    forget_matches(p);
}

static void end_reasoning(em_chat_parser *p)
{
    if (p->reasoning_end == INT64_MAX)
        p->reasoning_end = p->chars;
}

/* Content that the decoder keeps to a form: marks in it mean nothing. */
static bool is_plain(const em_chat_mode *mode)
{
    return mode->bound && !mode->tool_calls;
}

static state content_state(const em_chat_mode *mode)
{
    return mode->json_output && !mode->bound ? JSON_BEFORE : CONTENT;
}

static void enter_content(em_chat_parser *p)
{
    end_reasoning(p);
    enter(p, content_state(&p->rules->mode));
}

static void enter_calls(em_chat_parser *p)
{
    end_reasoning(p);
    enter(p, CALLS);
}

static void begin_call(em_chat_parser *p)
{
    p->call++;
    p->n_parameters = 0;
    put(p, EM_PART_CALL_NAME, p->text.data ? p->text.data : "", p->text.len);
    enter(p, CALL_BODY);
}

static void end_call(em_chat_parser *p)
{
    em_buf_puts(&p->arguments, p->n_parameters ? "}" : "{}");
    give_arguments(p);
    enter(p, p->rules->mode.single_call ? DONE : CALLS);
}

static void begin_parameter(em_chat_parser *p)
{
    em_buf_puts(&p->arguments, p->n_parameters++ ? ", \"" : "{\"");
    enter(p, PARAM_NAME);
}

static void end_value(em_chat_parser *p)
{
    if (p->is_string)
        em_buf_puts(&p->arguments, "\"");
    enter(p, CALL_BODY);
}

/* A mark is complete; len bytes of text stand before it. */
static void take_mark(em_chat_parser *p, mark m, size_t len)
{
    switch (p->state) {
    case REASONING:
        give(p, without_newlines(p, len));
        if (m == MARK_OPEN) {
            enter_calls(p);
        } else {
            enter_content(p);
            p->leading = !is_plain(&p->rules->mode);
        }
        break;
    case CONTENT:
    case JSON_BEFORE:
        if (m == MARK_THINK_END) { /* a stray one is dropped, what stands before it stays */
            p->text.len = len;
            forget_matches(p);
            break;
        }
        give(p, m == MARK_OPEN && p->state == CONTENT ? without_newlines(p, len) : len);
        if (m == MARK_OPEN)
            enter_calls(p);
        else
            enter(p, JSON_BODY);
        break;
    case JSON_BODY:
        give(p, len);
        p->blank_given = false;
        enter(p, JSON_AFTER);
        break;
    case CALLS: enter(p, m == MARK_CALL ? CALL_NAME : DONE); break;
    case CALL_BODY:
        if (m == MARK_PARAMETER)
            begin_parameter(p);
        else
            end_call(p);
        break;
    case PARAM_NAME:
        give(p, len);
        em_buf_puts(&p->arguments, "\": ");
        enter(p, PARAM_KIND);
        break;
    case PARAM_VALUE:
        give(p, len);
        end_value(p);
        break;
    default: break;
    }
}

/* --- bytes -------------------------------------------------------------------------------------------------- */

/* The longest stop string that is complete with this byte; 0: none. */
static uint32_t step_stops(em_chat_parser *p, uint8_t byte)
{
    uint32_t longest = 0;
    if (p->state != CONTENT && p->state != JSON_BODY)
        return 0;
    for (int32_t i = 0; i < p->rules->n_stops; i++) {
        const em_pattern *stop = &p->rules->stops[i];
        p->stop_matched[i] = em_pattern_step(stop, p->stop_matched[i], byte);
        if (p->stop_matched[i] == stop->len && stop->len > longest)
            longest = stop->len;
    }
    return longest;
}

/* A JSON value that is well formed for sure: its strings are told from what stands around them. */
static void follow_quotes(em_chat_parser *p, char byte)
{
    if (!p->quoted)
        p->quoted = byte == '"';
    else if (p->escaped)
        p->escaped = false;
    else if (byte == '\\')
        p->escaped = true;
    else
        p->quoted = byte != '"';
    if (p->quoted)
        memset(p->matched, 0, sizeof p->matched);
}

static mark step_marks(em_chat_parser *p, uint8_t byte)
{
    uint32_t in = marks_in[p->state];
    mark complete = NO_MARK;
    if (!p->rules->mode.tool_calls)
        in &= ~BIT(MARK_OPEN);
    if (p->state == CONTENT && is_plain(&p->rules->mode))
        in = 0;
    for (int m = 0; m < N_MARKS; m++) {
        if (!(in & BIT(m)))
            continue;
        p->matched[m] = em_pattern_step(&p->rules->marks[m], p->matched[m], byte);
        if (p->matched[m] == p->rules->marks[m].len)
            complete = m;
    }
    return complete;
}

/* In the last len bytes of the text. */
static int64_t count_chars(const em_chat_parser *p, size_t len)
{
    int64_t n = 0;
    for (size_t i = p->text.len - len; i < p->text.len; i++)
        n += ((uint8_t)p->text.data[i] & 0xc0) != 0x80;
    return n;
}

/* The text that stands before the stop string, newlines included, is the end of the answer. */
static void stop(em_chat_parser *p, uint32_t len)
{
    p->cut = p->chars - count_chars(p, len);
    give(p, p->text.len - len);
    enter(p, DONE);
}

/* States that look for marks and stop strings in running text. */
static void take_text(em_chat_parser *p, char byte)
{
    em_buf_append(&p->text, &byte, 1);
    uint32_t stop_len = step_stops(p, (uint8_t)byte);
    bool json_value = p->state == PARAM_VALUE && !p->is_string && p->rules->mode.bound;
    if (json_value)
        follow_quotes(p, byte);
    mark m = json_value && p->quoted ? NO_MARK : step_marks(p, (uint8_t)byte);
    if (stop_len) {
        stop(p, stop_len);
    } else if (m != NO_MARK) {
        take_mark(p, m, p->text.len - p->rules->marks[m].len);
    } else if (p->state == JSON_BEFORE && (byte == '{' || byte == '[')) {
        give(p, p->text.len - 1);
        forget_matches(p);
        p->state = JSON_BODY;
    }
}

/* States in which only marks count: what stands between them is dropped. */
static void skip(em_chat_parser *p, char byte)
{
    mark m = step_marks(p, (uint8_t)byte);
    if (m != NO_MARK)
        take_mark(p, m, 0);
}

/* Anything but false is text: then the arguments stay valid JSON. */
static void take_kind(em_chat_parser *p, char byte)
{
    const size_t most = 8;
    if (byte == '"') {
        p->is_string = p->text.len != 5 || memcmp(p->text.data, "false", 5) != 0;
        enter(p, PARAM_OPEN);
    } else if (p->text.len < most) {
        em_buf_append(&p->text, &byte, 1);
    }
}

static void take_byte(em_chat_parser *p, char byte)
{
    p->chars += ((uint8_t)byte & 0xc0) != 0x80;
    if (p->leading && byte == '\n')
        return;
    p->leading = false;
    switch (p->state) {
    case CALLS:
    case CALL_BODY: skip(p, byte); break;
    case CALL_NAME:
        if (byte == '"')
            begin_call(p);
        else
            em_buf_append(&p->text, &byte, 1);
        break;
    case PARAM_KIND: take_kind(p, byte); break;
    case PARAM_OPEN:
        if (byte != '>')
            break;
        if (p->is_string)
            em_buf_puts(&p->arguments, "\"");
        p->quoted = p->escaped = false;
        enter(p, PARAM_VALUE);
        break;
    case JSON_AFTER: give_blank(p); break;
    case DONE: break;
    default: take_text(p, byte); break;
    }
}

/* --- the door ----------------------------------------------------------------------------------------------- */

static void begin(em_chat_parser *p)
{
    const em_chat_mode *mode = &p->rules->mode;
    bool reasoning = mode->stage == EM_STAGE_REASONING || mode->stage == EM_STAGE_REASONING_CONTINUATION;
    p->call = -1;
    p->cut = INT64_MAX;
    p->leading = mode->stage == EM_STAGE_REASONING || (mode->stage == EM_STAGE_CONTENT && !is_plain(mode));
    p->reasoning_end = reasoning && !mode->in_calls ? INT64_MAX : 0;
    if (mode->in_calls)
        p->state = CALLS;
    else if (reasoning)
        p->state = REASONING;
    else
        p->state = content_state(mode);
}

int em_chat_parser_new(const em_chat_rules *rules, em_chat_sink sink, em_chat_parser **ret_parser)
{
    em_chat_parser *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->rules = rules;
    p->sink = sink;
    p->stop_matched = calloc((size_t)rules->n_stops + 1, sizeof *p->stop_matched);
    if (!p->stop_matched) {
        em_chat_parser_free(p);
        return -ENOMEM;
    }
    begin(p);
    *ret_parser = p;
    return 0;
}

em_chat_parser *em_chat_parser_free(em_chat_parser *p)
{
    if (!p)
        return NULL;
    free(p->stop_matched);
    em_buf_done(&p->text);
    em_buf_done(&p->arguments);
    free(p);
    return NULL;
}

static int result_of(const em_chat_parser *p)
{
    if (p->text.failed || p->arguments.failed)
        return -ENOMEM;
    return p->cut != INT64_MAX;
}

int em_chat_parser_push(em_chat_parser *p, const char *text, size_t len)
{
    for (size_t i = 0; i < len && p->cut == INT64_MAX; i++)
        take_byte(p, text[i]);
    give_settled(p);
    return result_of(p);
}

int em_chat_parser_finish(em_chat_parser *p)
{
    if (p->state == PARAM_NAME && held(p)) { /* the name had ended; what followed it is not known */
        give(p, p->text.len - held(p));
        em_buf_puts(&p->arguments, "\": ");
    } else {
        give(p, p->text.len);
    }
    if (p->arguments.len)
        give_arguments(p);
    enter(p, DONE);
    return result_of(p) < 0 ? -ENOMEM : 0;
}

void em_chat_parser_where(const em_chat_parser *p, em_chat_position *ret_position)
{
    size_t open = held_for_stops(p);
    *ret_position = (em_chat_position){.chars = p->chars,
                                       .settled = p->chars - count_chars(p, open < p->text.len ? open : p->text.len),
                                       .cut = p->cut,
                                       .reasoning_end = p->reasoning_end,
                                       .n_calls = p->call + 1};
}
