#include "api/insight.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "api/json_out.h"

static void push_back(em_insight_lists *l, int32_t id)
{
    if (l->n_back == EM_INSIGHT_MAX_ORDERS) {
        l->n_back--;
        memmove(l->back, l->back + 1, (size_t)l->n_back * sizeof l->back[0]);
    }
    l->back[l->n_back++] = id;
}

void em_insight_lists_begin(em_insight_lists *l, const int32_t *ids, int32_t n_ids)
{
    l->n_back = 0;
    for (int32_t i = n_ids > EM_INSIGHT_MAX_ORDERS ? n_ids - EM_INSIGHT_MAX_ORDERS : 0; i < n_ids; i++)
        push_back(l, ids[i]);
}

static void comma(em_buf *out, int64_t i)
{
    if (i)
        em_buf_append(out, ",", 1);
}

/* The token was computed at that layer. */
static bool is_known(const em_insight_shape *s, const em_insight *in, int32_t layer)
{
    return !isnan(in->gate[(int64_t)layer * s->n_streams]);
}

/* [layer][n] of one token, from v: gates or shares. */
static void add_floats(em_buf *out, const em_insight_shape *s, const em_insight *in, const float *v, int32_t n)
{
    em_buf_append(out, "[", 1);
    for (int32_t l = 0; l < s->n_layers; l++) {
        em_buf_puts(out, l ? ",[" : "[");
        for (int32_t i = 0; i < n; i++) {
            comma(out, i);
            em_json_float(out, is_known(s, in, l) ? v[(int64_t)l * n + i] : NAN);
        }
        em_buf_append(out, "]", 1);
    }
    em_buf_append(out, "]", 1);
}

static void add_tiers(em_buf *out, const em_insight_shape *s, const em_insight *in, const char *tier)
{
    em_buf_append(out, "[", 1);
    for (int32_t l = 0; l < s->n_layers; l++) {
        comma(out, l);
        em_json_text_or_null(out, !is_known(s, in, l) ? NULL : in->cached[l] ? "cache" : tier);
    }
    em_buf_append(out, "]", 1);
}

/* The longest n-gram that ends with the newest token, as JSON items; ret_at[i]: where item i begins, the oldest first. */
static void spell(const em_insight_lists *l, const em_engine *engine, int32_t n, em_buf *items, size_t *ret_at)
{
    const char *text[EM_INSIGHT_MAX_ORDERS];
    em_buf key[EM_INSIGHT_MAX_ORDERS] = {{0}};
    bool left = false; /* the look-back has left the text: all deeper ones have, too */
    for (int32_t i = n - 1, at = l->n_back - 1; i >= 0; i--, at--) {
        if (!left && at >= 0)
            items->failed |= em_engine_engram_text(engine, l->back[at], &key[i]) < 0;
        left |= !key[i].len;
        text[i] = left ? NULL : key[i].data;
    }
    for (int32_t i = 0; i < n; i++) {
        comma(items, i);
        ret_at[i] = items->len;
        if (text[i])
            em_json_text(items, text[i], key[i].len);
        else
            em_buf_puts(items, "null");
        em_buf_done(&key[i]);
    }
}

/* [order][its tokens]: each is the end of the longest. */
static void add_ngrams(em_insight_lists *l, const em_engine *engine, int32_t n_orders)
{
    em_buf items = {0};
    size_t at[EM_INSIGHT_MAX_ORDERS];
    int32_t longest = n_orders + 1;
    spell(l, engine, longest, &items, at);
    em_buf_append(&l->ngrams, "[", 1);
    for (int32_t order = 2; order <= longest && !items.failed; order++) {
        size_t from = at[longest - order];
        em_buf_puts(&l->ngrams, order > 2 ? ",[" : "[");
        em_buf_append(&l->ngrams, items.data + from, items.len - from);
        em_buf_append(&l->ngrams, "]", 1);
    }
    em_buf_append(&l->ngrams, "]", 1);
    l->ngrams.failed |= items.failed;
    em_buf_done(&items);
}

static void add_token(em_insight_lists *l, const em_engine *engine, const em_insight_shape *s, const em_insight *in,
                      const char *tier)
{
    comma(&l->gate, l->n);
    add_floats(&l->gate, s, in, in->gate, s->n_streams);
    comma(&l->share, l->n);
    add_floats(&l->share, s, in, in->share, s->n_orders);
    comma(&l->tier, l->n);
    add_tiers(&l->tier, s, in, tier);
    comma(&l->ngrams, l->n);
    add_ngrams(l, engine, s->n_orders);
    l->n++;
}

void em_insight_lists_add(em_insight_lists *l, const em_engine *engine, const em_event *ev)
{
    em_engine_info info;
    if (!ev->insight.gate || ev->shape.n_orders >= EM_INSIGHT_MAX_ORDERS)
        return;
    em_engine_get_info(engine, &info);
    for (int32_t i = 0; i < ev->n_tokens; i++) {
        em_insight in = em_insight_from(&ev->insight, &ev->shape, (size_t)i);
        push_back(l, ev->tokens[i].id);
        add_token(l, engine, &ev->shape, &in, info.engram_tier);
    }
}

static void write_list(em_buf *out, const char *before, const em_buf *items)
{
    em_buf_puts(out, before);
    em_buf_append(out, items->data, items->len);
    out->failed |= items->failed;
}

void em_insight_lists_json(const em_insight_lists *l, const em_engine *engine, em_buf *out)
{
    em_engine_info info;
    em_engine_get_info(engine, &info);
    em_buf_puts(out, "{\"layers\":");
    em_json_ids(out, info.engram_layer, (size_t)info.insight.n_layers);
    em_buf_puts(out, ",\"orders\":[");
    for (int32_t i = 0; i < info.insight.n_orders; i++)
        em_buf_printf(out, "%s%" PRId32, i ? "," : "", i + 2);
    write_list(out, "],\"gate\":[", &l->gate);
    write_list(out, "],\"share\":[", &l->share);
    write_list(out, "],\"tier\":[", &l->tier);
    write_list(out, "],\"ngrams\":[", &l->ngrams);
    em_buf_puts(out, "]}");
}

void em_insight_lists_clear(em_insight_lists *l)
{
    em_buf_clear(&l->gate);
    em_buf_clear(&l->share);
    em_buf_clear(&l->tier);
    em_buf_clear(&l->ngrams);
    l->n = 0;
}

void em_insight_lists_done(em_insight_lists *l)
{
    em_buf_done(&l->gate);
    em_buf_done(&l->share);
    em_buf_done(&l->tier);
    em_buf_done(&l->ngrams);
    l->n = 0;
}
