#include "engine/trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engram_spec.h"
#include "engine/reuse.h"
#include "engine/safetensors.h"
#include "engine/tokenizer.h"
#include "engine/weights.h"

#define LEAST_CACHE_BYTES (UINT64_C(16) << 10)
#define N_SIZES (EM_TRACE_MAX_POINTS - 2) /* powers of two; the configured size and that for all rows are others */

struct em_trace {
    em_trace_opts opts;
    em_model_config cfg;
    em_tokenizer *tok;
    em_token_map map;
    size_t row_bytes;
    em_engram_hash *hash; /* [EM_ENGRAM_MAX_TABLES] */
    em_reuse reuse;
    em_ids ids;                          /* of the piece being added */
    int32_t recent[EM_ENGRAM_MAX_ORDER]; /* classes of the last tokens, newest last */
    int32_t n_recent;
    uint64_t n_tokens;
    bool begun;
};

/* --- opening ----------------------------------------------------------------------------------------------------- */

static int measure_table(em_trace *t, em_dtype *ret_rows, em_error *err)
{
    em_st_set *set;
    em_weights_sizes sizes;
    int r = em_st_open(t->opts.model_dir, &set, err);
    if (r < 0)
        return r;
    r = em_weights_measure(&t->cfg, set, &sizes, err);
    em_st_close(set);
    if (r == 0)
        *ret_rows = sizes.table_dtype;
    return r;
}

static int open_hash(em_trace *t, em_error *err)
{
    static const size_t element_bytes[] = {
        [EM_ENGRAM_FP8] = 1, [EM_ENGRAM_BF16] = 2, [EM_ENGRAM_F32] = 4, [EM_ENGRAM_INT8] = 1};
    em_dtype rows = EM_DTYPE_F32;
    em_engram_spec spec;
    char text[sizeof err->text];
    int r = measure_table(t, &rows, err);
    if (r < 0)
        return r;
    em_engram_spec_fill(&t->cfg, rows, &t->map, &spec);
    t->row_bytes = (size_t)spec.head_dim * element_bytes[spec.dtype];
    t->hash = calloc(EM_ENGRAM_MAX_TABLES, sizeof(*t->hash));
    if (!t->hash)
        return em_error_set(err, -ENOMEM, "out of memory");
    r = em_engram_hash_init(&spec, t->hash, text, sizeof(text));
    return r < 0 ? em_error_set(err, r, "%s: %s", t->opts.model_dir, text) : 0;
}

static int open_parts(em_trace *t, em_error *err)
{
    const char *dir = t->opts.model_dir;
    int r = em_model_config_load(dir, &t->cfg, err);
    if (r < 0)
        return r;
    if (t->cfg.n_engram_layers == 0)
        return em_error_set(err, -EINVAL, "%s has no Engram layers: a text touches no rows", dir);
    if ((r = em_tokenizer_load(dir, &t->tok, err)) < 0 ||
        (r = em_engram_token_map(t->tok, &t->cfg, dir, &t->map, err)) < 0)
        return r;
    return open_hash(t, err);
}

int em_trace_open(const em_trace_opts *opts, em_trace **ret_trace, em_error *err)
{
    em_trace *t = calloc(1, sizeof(*t));
    if (!t)
        return em_error_set(err, -ENOMEM, "out of memory");
    t->opts = *opts;
    t->reuse.max = opts->max_samples ? opts->max_samples : EM_TRACE_MAX_SAMPLES;
    int r = open_parts(t, err);
    if (r < 0) {
        em_trace_close(t);
        return r;
    }
    *ret_trace = t;
    return 0;
}

em_trace *em_trace_close(em_trace *t)
{
    if (!t)
        return NULL;
    em_reuse_done(&t->reuse);
    em_ids_done(&t->ids);
    free(t->hash);
    em_token_map_done(&t->map);
    em_tokenizer_free(t->tok);
    free(t);
    return NULL;
}

/* --- the text ---------------------------------------------------------------------------------------------------- */

/* Order and table go with the row, which says its order no more once its bucket is forgotten. */
static uint64_t key_of(int64_t row_id, int32_t table_idx, int32_t order)
{
    return ((uint64_t)row_id * EM_ENGRAM_MAX_TABLES + (uint64_t)table_idx) * EM_ENGRAM_MAX_ORDER + (uint64_t)order - 1;
}

static int32_t order_of(uint64_t key)
{
    return (int32_t)(key % EM_ENGRAM_MAX_ORDER) + 1;
}

static int ask_rows(em_trace *t)
{
    int32_t suffix[EM_ENGRAM_MAX_ORDER];
    int64_t row_id[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
    for (int32_t i = 0; i < t->cfg.n_engram_layers; i++) {
        const em_engram_hash *hash = &t->hash[i];
        em_engram_suffix(hash, t->recent, (size_t)t->n_recent, suffix);
        em_engram_row_ids(hash, suffix, row_id);
        for (int32_t col = 0; col < hash->n_cols; col++) {
            int r = em_reuse_add(&t->reuse, key_of(row_id[col], i, 2 + col / hash->n_heads));
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int add_token(em_trace *t, int32_t id)
{
    if (t->n_recent == t->cfg.engram_max_order)
        memmove(t->recent, t->recent + 1, (size_t)--t->n_recent * sizeof(*t->recent));
    t->recent[t->n_recent++] = t->map.class_of[id];
    t->n_tokens++;
    return ask_rows(t);
}

size_t em_trace_cut(const em_trace *t, const char *text, size_t len)
{
    return em_tokenizer_cut(t->tok, text, len);
}

int em_trace_add(em_trace *t, const char *text, size_t len, em_error *err)
{
    int r = 0;
    t->ids.n = 0;
    if (!t->begun && em_tokenizer_add_bos(t->tok) && em_tokenizer_bos(t->tok) >= 0)
        r = em_ids_push(&t->ids, em_tokenizer_bos(t->tok));
    t->begun = true;
    if (r == 0)
        r = em_tokenizer_encode(t->tok, text, len, true, 0, &t->ids);
    for (size_t i = 0; r == 0 && i < t->ids.n; i++)
        r = add_token(t, t->ids.id[i]);
    return r < 0 ? em_error_set(err, r, "cannot trace the text: %s", strerror(-r)) : 0;
}

/* --- the result -------------------------------------------------------------------------------------------------- */

static void count_orders(const em_trace *t, const uint32_t *distance, em_trace_result *res)
{
    const em_reuse *reuse = &t->reuse;
    res->n_orders = t->cfg.engram_max_order - 1;
    for (int32_t i = 0; i < res->n_orders; i++) {
        res->order[i].order = i + 2;
        res->order[i].asked = t->n_tokens * (uint64_t)t->cfg.engram_n_heads * (uint64_t)t->cfg.n_engram_layers;
    }
    for (size_t i = 0; i < reuse->n; i++)
        if (distance[i] == EM_REUSE_FIRST)
            res->order[order_of(reuse->key[i]) - 2].unique += UINT64_C(1) << reuse->shift;
    for (int32_t i = 0; i < res->n_orders; i++)
        res->unique += res->order[i].unique;
}

static int by_bytes(const void *a, const void *b)
{
    const em_trace_point *x = a, *y = b;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* The smallest cache that holds so many rows. */
static uint64_t bytes_for(size_t row_bytes, uint64_t n_rows)
{
    uint64_t low = 0, high = 1;
    while (em_engram_cache_rows(row_bytes, high) < n_rows)
        high *= 2;
    while (low + 1 < high) {
        uint64_t middle = low + (high - low) / 2;
        *(em_engram_cache_rows(row_bytes, middle) < n_rows ? &low : &high) = middle;
    }
    return high;
}

/* Powers of two, what holds every row, and the configured size. */
static void choose_sizes(const em_trace *t, em_trace_result *res)
{
    uint64_t most = bytes_for(t->row_bytes, res->unique), configured = t->opts.cache_bytes, size = LEAST_CACHE_BYTES;
    while (size << N_SIZES <= most || em_engram_cache_rows(t->row_bytes, size) < em_reuse_least_rows(&t->reuse))
        size *= 2;
    for (int32_t i = 0; i < N_SIZES && size < most; i++, size *= 2)
        if (size != configured)
            res->point[res->n_points++].bytes = size;
    if (configured)
        res->point[res->n_points++] = (em_trace_point){.bytes = configured, .configured = true};
    if (most != configured)
        res->point[res->n_points++].bytes = most;
    qsort(res->point, (size_t)res->n_points, sizeof(*res->point), by_bytes);
    for (int32_t i = 0; i < res->n_points; i++) {
        em_trace_point *p = &res->point[i];
        p->rows = em_engram_cache_rows(t->row_bytes, p->bytes);
        p->known = t->reuse.shift == 0 || p->rows >= em_reuse_least_rows(&t->reuse);
    }
}

static int run_caches(const em_trace *t, const uint32_t *distance,
                      void (*on_progress)(void *ctx, const char *what, double fraction), void *ctx,
                      em_trace_result *res)
{
    int r = 0;
    for (int32_t i = 0; r == 0 && i < res->n_points; i++) {
        em_trace_point *p = &res->point[i];
        if (on_progress)
            on_progress(ctx, "caches", (double)i / res->n_points);
        if (!p->known)
            continue;
        p->lru = em_reuse_lru_hits(&t->reuse, distance, p->rows);
        r = em_reuse_cache_hits(&t->reuse, p->rows, &p->cache);
    }
    return r;
}

int em_trace_finish(em_trace *t, void (*on_progress)(void *ctx, const char *what, double fraction), void *ctx,
                    em_trace_result *ret_result, em_error *err)
{
    uint32_t *distance;
    em_trace_result res = {.tokens = t->n_tokens,
                           .n_tables = t->cfg.n_engram_layers,
                           .max_order = t->cfg.engram_max_order,
                           .n_heads = t->cfg.engram_n_heads,
                           .rows_per_token = t->cfg.n_engram_layers * t->hash[0].n_cols,
                           .row_bytes = t->row_bytes,
                           .rows = t->reuse.n_asked,
                           .one_in = UINT32_C(1) << (t->reuse.shift < 31 ? t->reuse.shift : 31)};
    int r = em_reuse_distances(&t->reuse, &distance);
    if (r == 0) {
        count_orders(t, distance, &res);
        choose_sizes(t, &res);
        r = run_caches(t, distance, on_progress, ctx, &res);
        free(distance);
    }
    if (r < 0)
        return em_error_set(err, r, "not enough memory to run caches over %zu rows", t->reuse.n);
    *ret_result = res;
    return 0;
}
