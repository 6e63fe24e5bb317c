#include "api/logprobs.h"

#include <inttypes.h>
#include <string.h>

#include "api/json_out.h"

static void write_token(em_buf *out, const em_engine *engine, int32_t id, bool as_ids)
{
    size_t len = 0;
    if (as_ids) {
        em_buf_printf(out, "\"token_id:%" PRId32 "\"", id);
        return;
    }
    const uint8_t *bytes = em_engine_token_bytes(engine, id, &len);
    em_json_text(out, bytes, len);
}

/* The members of one map so far; keys are compared as written. */
typedef struct top_map {
    em_buf *out;
    const em_engine *engine;
    bool as_ids;
    int n;
    struct {
        size_t at, len; /* the key in out */
    } key[EM_MAX_LOGPROBS + 1];
} top_map;

static void add_member(top_map *m, int32_t id, float logprob)
{
    size_t before = m->out->len;
    if (m->n)
        em_buf_append(m->out, ",", 1);
    size_t at = m->out->len;
    write_token(m->out, m->engine, id, m->as_ids);
    size_t len = m->out->len - at;
    if (m->out->failed)
        return;
    for (int i = 0; i < m->n; i++)
        if (m->key[i].len == len && !memcmp(m->out->data + m->key[i].at, m->out->data + at, len)) {
            m->out->len = before; /* a more probable token of the same string is there */
            return;
        }
    m->key[m->n].at = at;
    m->key[m->n].len = len;
    m->n++;
    em_buf_append(m->out, ":", 1);
    em_json_logprob(m->out, logprob);
}

static void write_top(em_buf *out, const em_engine *engine, const em_event_token *tok, bool as_ids)
{
    top_map m = {.out = out, .engine = engine, .as_ids = as_ids};
    bool has_itself = false;
    em_buf_append(out, "{", 1);
    for (int32_t i = 0; i < tok->n_top && i < EM_MAX_LOGPROBS; i++) {
        has_itself |= tok->top[i].id == tok->id;
        add_member(&m, tok->top[i].id, tok->top[i].logprob);
    }
    if (!has_itself)
        add_member(&m, tok->id, tok->logprob); /* best first: it is not better than those */
    em_buf_append(out, "}", 1);
}

void em_logprob_lists_add(em_logprob_lists *l, const em_engine *engine, const em_event_token *tok, int64_t offset)
{
    if (l->n++) {
        em_buf_append(&l->tokens, ",", 1);
        em_buf_append(&l->values, ",", 1);
        em_buf_append(&l->top, ",", 1);
        em_buf_append(&l->offsets, ",", 1);
    }
    write_token(&l->tokens, engine, tok->id, l->as_ids);
    if (tok->has_logprob) {
        em_json_logprob(&l->values, tok->logprob);
        write_top(&l->top, engine, tok, l->as_ids);
    } else {
        em_buf_puts(&l->values, "null");
        em_buf_puts(&l->top, "null");
    }
    em_buf_printf(&l->offsets, "%" PRId64, offset);
}

static void write_list(em_buf *out, const char *before, const em_buf *items)
{
    em_buf_puts(out, before);
    em_buf_append(out, items->data, items->len);
    out->failed |= items->failed;
}

void em_logprob_lists_json(const em_logprob_lists *l, em_buf *out)
{
    write_list(out, "{\"tokens\":[", &l->tokens);
    write_list(out, "],\"token_logprobs\":[", &l->values);
    write_list(out, "],\"top_logprobs\":[", &l->top);
    write_list(out, "],\"text_offset\":[", &l->offsets);
    em_buf_puts(out, "]}");
}

void em_logprob_lists_clear(em_logprob_lists *l)
{
    em_buf_clear(&l->tokens);
    em_buf_clear(&l->values);
    em_buf_clear(&l->top);
    em_buf_clear(&l->offsets);
    l->n = 0;
}

void em_logprob_lists_done(em_logprob_lists *l)
{
    em_buf_done(&l->tokens);
    em_buf_done(&l->values);
    em_buf_done(&l->top);
    em_buf_done(&l->offsets);
    l->n = 0;
}

static void write_bytes(em_buf *out, const uint8_t *bytes, size_t len)
{
    em_buf_puts(out, "[");
    for (size_t i = 0; i < len; i++)
        em_buf_printf(out, "%s%d", i ? "," : "", bytes[i]);
    em_buf_puts(out, "]");
}

/* Without the closing brace. */
static void open_entry(const em_engine *engine, int32_t id, float logprob, bool as_ids, em_buf *out)
{
    size_t len = 0;
    const uint8_t *bytes = em_engine_token_bytes(engine, id, &len);
    em_buf_puts(out, "{\"token\":");
    write_token(out, engine, id, as_ids);
    em_buf_puts(out, ",\"logprob\":");
    em_json_logprob(out, logprob);
    em_buf_puts(out, ",\"bytes\":");
    write_bytes(out, bytes, len);
}

void em_logprob_entry_json(const em_engine *engine, const em_event_token *tok, bool as_ids, em_buf *out)
{
    open_entry(engine, tok->id, tok->logprob, as_ids, out);
    em_buf_puts(out, ",\"top_logprobs\":[");
    for (int32_t i = 0; i < tok->n_top; i++) {
        if (i)
            em_buf_puts(out, ",");
        open_entry(engine, tok->top[i].id, tok->top[i].logprob, as_ids, out);
        em_buf_puts(out, "}");
    }
    em_buf_puts(out, "]}");
}
