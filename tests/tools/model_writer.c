/* The tensors of a random model: planned by name, filled from streams of their own, written straight to disk. */
#include "tests/tools/model_writer.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/formats.h"
#include "engine/safetensors.h"
#include "engine/token_map.h"
#include "engram/engram.h"

#define BUFFER_BYTES (size_t)(1 << 20)

typedef enum fill_kind {
    FILL_UNIFORM, /* floats in center +- spread */
    FILL_FP8,     /* E4M3 codes of a bell shape */
    FILL_FP4,     /* any nibbles: the sixteen codes equally often */
    FILL_SCALE,   /* UE8M0 so that codes of deviation `center` come to deviation `spread` */
} fill_kind;

typedef struct plan_tensor {
    char name[96];
    em_st_dtype dtype;
    int64_t rows, cols; /* cols -1: one dimension */
    fill_kind fill;
    double center, spread;
    uint64_t bytes, offset; /* in its shard's data section */
    int32_t shard;
} plan_tensor;

typedef struct plan {
    const model_spec *s;
    plan_tensor *t;
    int32_t n, cap;
    bool failed;          /* out of memory */
    double fp8_deviation; /* of the codes that FILL_FP8 draws */
    uint8_t fp8_code[256];
} plan;

static const double fp4_deviation = 2.9261749776799064; /* sqrt(68.5 / 8): of the sixteen codes */

model_rng model_rng_init(uint64_t seed, const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 0x100000001b3u;
    model_rng r = {.s = seed * 0x9e3779b97f4a7c15u ^ h};
    model_rng_next(&r);
    return r;
}

/* 256 codes at the quantiles of a logistic curve: every byte value drawn gives one. */
static void make_fp8_codes(plan *p)
{
    double sum = 0;
    for (int i = 0; i < 256; i++) {
        double q = (i + 0.5) / 256;
        p->fp8_code[i] = em_f32_to_e4m3((float)(9 * log(q / (1 - q))));
        double v = (double)em_e4m3_to_f32(p->fp8_code[i]);
        sum += v * v;
    }
    p->fp8_deviation = sqrt(sum / 256);
}

/* --- what there is --------------------------------------------------------------------------------------------- */

static uint32_t dtype_bytes(em_st_dtype d)
{
    return d == EM_ST_F32 ? 4 : d == EM_ST_BF16 ? 2 : 1;
}

static void add(plan *p, em_st_dtype dtype, int64_t rows, int64_t cols, fill_kind fill, double center, double spread,
                const char *name)
{
    if (p->n == p->cap) {
        int32_t cap = p->cap ? 2 * p->cap : 256;
        plan_tensor *t = realloc(p->t, (size_t)cap * sizeof(*t));
        if (!t) {
            p->failed = true;
            return;
        }
        p->t = t;
        p->cap = cap;
    }
    plan_tensor *t = &p->t[p->n++];
    *t = (plan_tensor){.dtype = dtype, .rows = rows, .cols = cols, .fill = fill, .center = center, .spread = spread};
    t->bytes = (uint64_t)(rows * (cols < 0 ? 1 : cols)) * dtype_bytes(dtype);
    snprintf(t->name, sizeof(t->name), "%s", name);
}

/* Name of a layer's tensor, in a buffer that the next call overwrites. */
__attribute__((format(printf, 2, 3))) static const char *in_layer(int32_t layer, const char *fmt, ...)
{
    static _Thread_local char name[96];
    va_list ap;
    int at = snprintf(name, sizeof(name), "layers.%d.", layer);
    va_start(ap, fmt);
    vsnprintf(name + at, sizeof(name) - (size_t)at, fmt, ap);
    va_end(ap);
    return name;
}

static em_st_dtype float_dtype(const plan *p)
{
    return p->s->storage == MODEL_F32 ? EM_ST_F32 : EM_ST_BF16;
}

/* Values that must never be stored in less than F32 (spec 3.4). */
static void add_f32(plan *p, const char *name, int64_t rows, int64_t cols, double center, double spread)
{
    add(p, EM_ST_F32, rows, cols, FILL_UNIFORM, center, spread, name);
}

static void add_float(plan *p, const char *name, int64_t rows, int64_t cols, double center, double spread)
{
    add(p, float_dtype(p), rows, cols, FILL_UNIFORM, center, spread, name);
}

static void add_norm(plan *p, const char *name, int64_t n)
{
    add_float(p, name, n, -1, 1.0, 0.1);
}

/* A matrix whose output has about the deviation `gain` for inputs of deviation 1. prefix lives until the call ends. */
static void add_matrix(plan *p, const char *prefix, int64_t rows, int64_t cols, double gain, bool quantised,
                       bool expert)
{
    char weight[96], scale[96];
    double deviation = gain / sqrt((double)cols);
    snprintf(weight, sizeof(weight), "%.88s.weight", prefix);
    snprintf(scale, sizeof(scale), "%.88s.scale", prefix);
    if (!quantised || p->s->storage != MODEL_RELEASED) {
        add_float(p, weight, rows, cols, 0, deviation * sqrt(3.0));
    } else if (expert) {
        add(p, EM_ST_I8, rows, cols / 2, FILL_FP4, 0, 0, weight);
        add(p, EM_ST_F8_E8M0, rows, (cols + 31) / 32, FILL_SCALE, fp4_deviation, deviation, scale);
    } else {
        add(p, EM_ST_F8_E4M3, rows, cols, FILL_FP8, 0, 0, weight);
        add(p, EM_ST_F8_E8M0, (rows + 31) / 32, (cols + 31) / 32, FILL_SCALE, p->fp8_deviation, deviation, scale);
    }
}

static void add_float_matrix(plan *p, const char *prefix, int64_t rows, int64_t cols, double gain)
{
    add_matrix(p, prefix, rows, cols, gain, false, false);
}

static void add_linear(plan *p, const char *prefix, int64_t rows, int64_t cols)
{
    add_matrix(p, prefix, rows, cols, 1.0, true, false);
}

static void plan_hc(plan *p, int32_t l, const char *site)
{
    const em_model_config *c = &p->s->c;
    int64_t n_mix = (int64_t)(2 + c->hc_mult) * c->hc_mult, in = (int64_t)c->hc_mult * c->hidden_size;
    add_f32(p, in_layer(l, "hc_%s_fn", site), n_mix, in, 0, sqrt(3.0 / (double)in));
    add_f32(p, in_layer(l, "hc_%s_base", site), n_mix, -1, 0, 0.3);
    add_f32(p, in_layer(l, "hc_%s_scale", site), 3, -1, 1.0, 0.5);
}

static void plan_attention(plan *p, int32_t l, const em_layer_role *role)
{
    const em_model_config *c = &p->s->c;
    int64_t heads = (int64_t)c->n_heads * c->head_dim, out = (int64_t)c->o_groups * c->o_lora_rank;
    add_f32(p, in_layer(l, "attn.attn_sink"), c->n_heads, -1, 0, 0.3);
    add_linear(p, in_layer(l, "attn.wq_a"), c->q_lora_rank, c->hidden_size);
    add_norm(p, in_layer(l, "attn.q_norm.weight"), c->q_lora_rank);
    add_linear(p, in_layer(l, "attn.wq_b"), heads, c->q_lora_rank);
    add_linear(p, in_layer(l, "attn.wkv"), c->head_dim, c->hidden_size);
    add_norm(p, in_layer(l, "attn.kv_norm.weight"), c->head_dim);
    add_linear(p, in_layer(l, "attn.wo_a"), out, heads / c->o_groups);
    add_linear(p, in_layer(l, "attn.wo_b"), c->hidden_size, out);
    if (role->kv_source_idx >= 0) {
        add_float_matrix(p, in_layer(l, "attn.compressor.wkv"), c->head_dim, c->hidden_size, 1);
        if (role->ratio > 1)
            add_float_matrix(p, in_layer(l, "attn.compressor.wgate"), c->head_dim, c->hidden_size, 1);
        add_norm(p, in_layer(l, "attn.compressor.norm.weight"), c->head_dim);
        add_float_matrix(p, in_layer(l, "attn.indexer.wk"), c->index_head_dim, c->head_dim, 1);
        add_norm(p, in_layer(l, "attn.indexer.k_norm.weight"), c->index_head_dim);
    }
    if (role->is_index_source) {
        add_linear(p, in_layer(l, "attn.indexer.wq_b"), (int64_t)c->index_n_heads * c->index_head_dim, c->q_lora_rank);
        add_float_matrix(p, in_layer(l, "attn.indexer.weights_proj"), c->index_n_heads, c->hidden_size, 1);
    }
}

static void plan_expert(plan *p, int32_t l, const char *which, bool expert)
{
    const em_model_config *c = &p->s->c;
    bool packed = expert && c->hidden_size % 2 == 0 && c->moe_inter % 2 == 0; /* else FP8, see model_storage */
    add_matrix(p, in_layer(l, "%s.w1", which), c->moe_inter, c->hidden_size, 1.0, true, packed);
    add_matrix(p, in_layer(l, "%s.w3", which), c->moe_inter, c->hidden_size, 1.0, true, packed);
    add_matrix(p, in_layer(l, "%s.w2", which), c->hidden_size, c->moe_inter, 1.0, true, packed);
}

static void plan_moe(plan *p, int32_t l)
{
    const em_model_config *c = &p->s->c;
    add_float_matrix(p, in_layer(l, "ffn.gate"), c->n_experts, c->hidden_size, 1);
    add_f32(p, in_layer(l, "ffn.gate.bias"), c->n_experts, -1, 0, 0.2);
    add_f32(p, in_layer(l, "ffn.gate.bias_vl"), c->n_experts, -1, 0, 0.2);
    for (int32_t e = 0; e < c->n_experts; e++) {
        char which[48];
        snprintf(which, sizeof(which), "ffn.experts.%d", e);
        plan_expert(p, l, which, true);
    }
    plan_expert(p, l, "ffn.shared_experts", false);
}

static void plan_engram(plan *p, int32_t l, int64_t n_rows)
{
    const em_model_config *c = &p->s->c;
    int64_t dim = c->engram_head_dim, width = (int64_t)(c->engram_max_order - 1) * c->engram_n_heads * dim;
    if (p->s->storage == MODEL_RELEASED && dim % 32 == 0) {
        add(p, EM_ST_F8_E4M3, n_rows, dim, FILL_FP8, 0, 0, in_layer(l, "engram.embed.weight"));
        add(p, EM_ST_F8_E8M0, n_rows, dim / 32, FILL_SCALE, p->fp8_deviation, 1.0, in_layer(l, "engram.embed.scale"));
    } else {
        add_float(p, in_layer(l, "engram.embed.weight"), n_rows, dim, 0, sqrt(3.0));
        if (p->s->float_scales)
            add_float(p, in_layer(l, "engram.embed.scale"), n_rows, dim / 32, 1, 0);
    }
    add_linear(p, in_layer(l, "engram.wkv"), (int64_t)(c->hc_mult + 1) * c->hidden_size, width);
    add_float(p, in_layer(l, "engram.q_weight"), c->hc_mult, c->hidden_size, 1, 0.4);
    add_float(p, in_layer(l, "engram.k_weight"), c->hc_mult, c->hidden_size, 1, 0.4);
}

static void plan_foreign(plan *p)
{
    int64_t h = p->s->c.hidden_size;
    add_float_matrix(p, "mtp.0.main_proj", h, 3 * h, 1);
    add_norm(p, "mtp.2.norm.weight", h);
    add_norm(p, "vision.norm.weight", 16);
    add_float(p, "aligner.w1.bias", h, -1, 0, 1);
    add_float(p, "image_start", h, -1, 0, 1);
}

static void plan_model(plan *p, const em_model_config *c)
{
    add_float(p, "embed.weight", c->vocab_size, c->hidden_size, 0, sqrt(3.0));
    add_float_matrix(p, "head", c->vocab_size, c->hidden_size, 3); /* clear winners: greedy text has margins */
    add_norm(p, "norm.weight", c->hidden_size);
    for (int32_t l = 0; l < c->n_layers; l++) {
        add_norm(p, in_layer(l, "attn_norm.weight"), c->hidden_size);
        add_norm(p, in_layer(l, "ffn_norm.weight"), c->hidden_size);
        plan_hc(p, l, "attn");
        plan_hc(p, l, "ffn");
        if (c->role[l].engram_idx >= 0)
            plan_engram(p, l, c->engram_rows[c->role[l].engram_idx]);
        plan_attention(p, l, &c->role[l]);
        plan_moe(p, l);
    }
    if (p->s->foreign)
        plan_foreign(p);
}

/* --- where it lies --------------------------------------------------------------------------------------------- */

static int by_shard_and_width(const void *a, const void *b)
{
    const plan_tensor *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    int wx = (int)dtype_bytes(x->dtype), wy = (int)dtype_bytes(y->dtype);
    return wx != wy ? wy - wx : strcmp(x->name, y->name);
}

static int by_shard_and_name(const void *a, const void *b)
{
    const plan_tensor *x = a, *y = b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    return strcmp(x->name, y->name);
}

static uint64_t place(plan *p)
{
    uint64_t total = 0, at = 0;
    for (int32_t i = 0; i < p->n; i++)
        total += p->t[i].bytes;
    uint64_t per_shard = total / (uint64_t)p->s->n_shards + 1;
    for (int32_t i = 0; i < p->n; i++) {
        p->t[i].shard = (int32_t)(at / per_shard);
        at += p->t[i].bytes;
    }
    qsort(p->t, (size_t)p->n, sizeof(*p->t), p->s->packed_layout ? by_shard_and_name : by_shard_and_width);
    for (int32_t i = 0; i < p->n; i++)
        p->t[i].offset = i && p->t[i - 1].shard == p->t[i].shard ? p->t[i - 1].offset + p->t[i - 1].bytes : 0;
    return total;
}

/* --- bytes ----------------------------------------------------------------------------------------------------- */

typedef struct filler {
    const plan *p;
    const plan_tensor *t;
    model_rng r;
    int e8m0;        /* lower of two neighbouring exponents */
    uint64_t higher; /* a draw below this takes the higher one: the mean square comes out right */
} filler;

static filler filler_init(const plan *p, const plan_tensor *t)
{
    filler f = {.p = p, .t = t, .r = model_rng_init(p->s->seed, t->name)};
    if (t->fill == FILL_SCALE) {
        double ratio = t->spread / t->center;
        int e = (int)floor(log2(ratio));
        double square = ratio / ldexp(1, e) * (ratio / ldexp(1, e)); /* 1..4 */
        f.e8m0 = 127 + e;
        f.higher = (uint64_t)((square - 1) / 3 * 65536);
    }
    return f;
}

static void fill_floats(filler *f, uint8_t *out, size_t n)
{
    size_t width = dtype_bytes(f->t->dtype);
    for (size_t i = 0; i < n; i += width) {
        double u = (double)(model_rng_next(&f->r) >> 11) * 0x1p-52 - 1; /* -1..1 */
        float v = (float)(f->t->center + f->t->spread * u);
        uint16_t b = em_f32_to_bf16(v);
        memcpy(out + i, width == 4 ? (void *)&v : (void *)&b, width);
    }
}

static void fill_bytes(filler *f, uint8_t *out, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t r = model_rng_next(&f->r);
        memcpy(out + i, &r, 8);
    }
    for (; i < n; i++)
        out[i] = (uint8_t)model_rng_next(&f->r);
    if (f->t->fill == FILL_FP8)
        for (i = 0; i < n; i++)
            out[i] = f->p->fp8_code[out[i]];
}

static void fill_scales(filler *f, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (uint8_t)(f->e8m0 + ((model_rng_next(&f->r) & 0xffff) < f->higher));
}

/* The next n bytes of a tensor; n is a multiple of 8 but for the last call. */
static void fill(filler *f, uint8_t *out, size_t n)
{
    switch (f->t->fill) {
    case FILL_UNIFORM: fill_floats(f, out, n); break;
    case FILL_FP8:
    case FILL_FP4: fill_bytes(f, out, n); break;
    case FILL_SCALE: fill_scales(f, out, n); break;
    }
}

static const char *stored_name(const model_spec *s, const char *name, char buf[128])
{
    if (!s->model_prefix)
        return name;
    bool head = strcmp(name, "head.weight") == 0;
    bool foreign = strncmp(name, "mtp.", 4) == 0 || strncmp(name, "vision.", 7) == 0 ||
                   strncmp(name, "aligner.", 8) == 0 || strncmp(name, "image_", 6) == 0;
    snprintf(buf, 128, "%s%s", head ? "lm_" : foreign ? "" : "model.", name);
    return buf;
}

static void shard_name(const model_spec *s, int32_t shard, char buf[64])
{
    if (s->n_shards == 1)
        snprintf(buf, 64, "model.safetensors");
    else
        snprintf(buf, 64, "model-%05d-of-%05d.safetensors", shard + 1, s->n_shards);
}

static void header_json(const plan *p, int32_t first, int32_t last, em_buf *out)
{
    em_buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int32_t i = first; i < last; i++) {
        const plan_tensor *t = &p->t[i];
        char buf[128];
        em_buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", stored_name(p->s, t->name, buf),
                      em_st_dtype_name(t->dtype), (long long)t->rows);
        if (t->cols >= 0)
            em_buf_printf(out, ",%lld", (long long)t->cols);
        em_buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)t->offset,
                      (unsigned long long)(t->offset + t->bytes));
    }
    em_buf_puts(out, "}");
    while (out->len % 8)
        em_buf_puts(out, " ");
}

static int write_tensors(const plan *p, int32_t first, int32_t last, FILE *file)
{
    uint8_t *buf = malloc(BUFFER_BYTES);
    if (!buf)
        return -ENOMEM;
    int r = 0;
    for (int32_t i = first; i < last && r == 0; i++) {
        filler f = filler_init(p, &p->t[i]);
        for (uint64_t at = 0; at < p->t[i].bytes && r == 0;) {
            size_t n = p->t[i].bytes - at < BUFFER_BYTES ? (size_t)(p->t[i].bytes - at) : BUFFER_BYTES;
            fill(&f, buf, n);
            if (fwrite(buf, 1, n, file) != n)
                r = -EIO;
            at += n;
        }
    }
    free(buf);
    return r;
}

static int write_file(const char *dir, const char *name, const em_buf *text, em_error *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = text->failed ? NULL : fopen(path, "wb");
    if (!f)
        return em_error_set(err, text->failed ? -ENOMEM : -errno, "cannot write %s: %m", path);
    bool good = fwrite(text->data, 1, text->len, f) == text->len;
    good = fclose(f) == 0 && good;
    return good ? 0 : em_error_set(err, -EIO, "cannot write %s: %m", path);
}

static int write_shard(const char *dir, const plan *p, int32_t shard, int32_t first, int32_t last, em_error *err)
{
    char name[64], path[4096];
    shard_name(p->s, shard, name);
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    em_buf header = {0};
    header_json(p, first, last, &header);
    FILE *f = header.failed ? NULL : fopen(path, "wb");
    int r = f ? 0 : -ENOMEM;
    if (r == 0) {
        uint8_t len[8];
        for (int i = 0; i < 8; i++)
            len[i] = (uint8_t)(header.len >> (8 * i));
        r = fwrite(len, 1, 8, f) == 8 && fwrite(header.data, 1, header.len, f) == header.len ? 0 : -EIO;
        if (r == 0)
            r = write_tensors(p, first, last, f);
        if (fclose(f) != 0)
            r = -EIO;
    }
    em_buf_done(&header);
    return r == 0 ? 0 : em_error_set(err, r, "cannot write %s: %m", path);
}

static int write_index(const char *dir, const plan *p, uint64_t total, em_error *err)
{
    em_buf out = {0};
    em_buf_printf(&out, "{\"metadata\": {\"total_size\": %llu}, \"weight_map\": {", (unsigned long long)total);
    for (int32_t i = 0; i < p->n; i++) {
        char file[64], buf[128];
        shard_name(p->s, p->t[i].shard, file);
        em_buf_printf(&out, "%s\n\"%s\": \"%s\"", i ? "," : "", stored_name(p->s, p->t[i].name, buf), file);
    }
    em_buf_puts(&out, "}}\n");
    int r = write_file(dir, "model.safetensors.index.json", &out, err);
    em_buf_done(&out);
    return r;
}

static int write_weights(const char *dir, plan *p, uint64_t total, em_error *err)
{
    int r = 0;
    int32_t first = 0;
    for (int32_t shard = 0; shard < p->s->n_shards && r == 0; shard++) {
        int32_t last = first;
        while (last < p->n && p->t[last].shard == shard)
            last++;
        r = write_shard(dir, p, shard, first, last, err);
        first = last;
    }
    return r == 0 && p->s->n_shards > 1 ? write_index(dir, p, total, err) : r;
}

/* --- all ------------------------------------------------------------------------------------------------------- */

static int count_classes(const em_buf *tokenizer, int32_t *ret, em_error *err)
{
    em_tokenizer *tok;
    em_token_map map;
    int r = em_tokenizer_parse(tokenizer->data, tokenizer->len, NULL, 0, "the generated tokenizer.json", &tok, err);
    if (r < 0)
        return r;
    r = em_token_map_build(tok, &map, err);
    if (r == 0) {
        *ret = map.n_classes;
        em_token_map_done(&map);
    }
    em_tokenizer_free(tok);
    return r;
}

/* Rows of every table: the sum of its primes, and the spare ones. */
static int count_rows(model_spec *s, em_error *err)
{
    em_model_config *c = &s->c;
    em_engram_hash *hash = calloc(EM_ENGRAM_MAX_TABLES, sizeof(*hash));
    em_engram_spec e = {.n_tables = c->n_engram_layers,
                        .dtype = EM_ENGRAM_F32,
                        .max_order = c->engram_max_order,
                        .n_heads = c->engram_n_heads,
                        .head_dim = c->engram_head_dim,
                        .prime_start = c->engram_vocab_size,
                        .n_classes = c->engram_n_classes};
    char text[256] = "";
    for (int32_t i = 0; i < e.n_tables; i++)
        e.table[i] = (em_engram_source){.layer = c->engram_layer[i], .n_rows = INT64_C(1) << 40};
    int r = hash ? em_engram_hash_init(&e, hash, text, sizeof(text)) : -ENOMEM;
    for (int32_t i = 0; i < e.n_tables && r == 0; i++)
        c->engram_rows[i] = hash[i].n_rows + s->spare_rows;
    free(hash);
    return r < 0 ? em_error_set(err, r, "Engram: %s", text) : 0;
}

/* The folder's texts, which say what the spec leaves to be worked out. */
typedef struct texts {
    em_buf tokenizer, tokenizer_config, config;
} texts;

static void texts_done(texts *t)
{
    em_buf_done(&t->tokenizer);
    em_buf_done(&t->tokenizer_config);
    em_buf_done(&t->config);
}

static int make_texts(model_spec *s, texts *t, em_model_config *ret_config, em_error *err)
{
    int r = 0;
    if (s->tokenizer_size > 0 && (s->tokenizer_size < MODEL_MIN_TOKENIZER || s->tokenizer_size > s->c.vocab_size))
        return em_error_set(err, -EINVAL, "the tokenizer must have %d to %d (the vocabulary) ids, not %d",
                            MODEL_MIN_TOKENIZER, s->c.vocab_size, s->tokenizer_size);
    if (s->tokenizer_size == 0 && s->c.n_engram_layers > 0)
        return em_error_set(err, -EINVAL, "a model with Engram needs a tokenizer");
    if (s->tokenizer_size > 0) {
        model_tokenizer_json(s->tokenizer_size, s->seed, &t->tokenizer);
        model_tokenizer_config_json(s->add_bos, &t->tokenizer_config);
    }
    if (s->c.n_engram_layers > 0 && (r = count_classes(&t->tokenizer, &s->c.engram_n_classes, err)) == 0)
        r = count_rows(s, err);
    if (r < 0)
        return r;
    model_config_json(s, &t->config);
    if (t->config.failed)
        return em_error_set(err, -ENOMEM, "out of memory for config.json");
    /* a spec that the loader would refuse ends here, with the loader's sentence */
    return em_model_config_parse(t->config.data, t->config.len, "the generated config.json", ret_config, err);
}

static int write_texts(const char *dir, const texts *t, em_error *err)
{
    int r = 0;
    if (t->tokenizer.len > 0 && (r = write_file(dir, "tokenizer.json", &t->tokenizer, err)) == 0)
        r = write_file(dir, "tokenizer_config.json", &t->tokenizer_config, err);
    return r == 0 ? write_file(dir, "config.json", &t->config, err) : r;
}

static int make_plan(plan *p, model_info *info, em_error *err)
{
    make_fp8_codes(p);
    plan_model(p, &info->config);
    if (p->failed)
        return em_error_set(err, -ENOMEM, "out of memory for the list of tensors");
    info->bytes = place(p);
    info->n_tensors = p->n;
    for (int32_t i = 0; i < p->n; i++)
        info->table_bytes += strstr(p->t[i].name, ".engram.embed.") ? p->t[i].bytes : 0;
    return 0;
}

/* dir NULL: nothing is written. */
static int make_model(const char *dir, const model_spec *spec, model_info *ret_info, em_error *err)
{
    model_spec s = *spec;
    model_info info = {0};
    texts t = {0};
    plan p = {.s = &s};
    int r = make_texts(&s, &t, &info.config, err);
    if (r == 0)
        r = make_plan(&p, &info, err);
    if (r == 0 && dir && (r = write_texts(dir, &t, err)) == 0)
        r = write_weights(dir, &p, info.bytes, err);
    texts_done(&t);
    free(p.t);
    if (r == 0 && ret_info)
        *ret_info = info;
    return r;
}

int model_measure(const model_spec *spec, model_info *ret_info, em_error *err)
{
    return make_model(NULL, spec, ret_info, err);
}

int model_write(const char *dir, const model_spec *spec, model_info *ret_info, em_error *err)
{
    return make_model(dir, spec, ret_info, err);
}
