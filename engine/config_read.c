/* The JSON of a config.json into em_config_raw: one table of fields with their spellings and ranges. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/json.h"
#include "engine/config_raw.h"
#include "engram/engram.h"

#define MAX_MEMBERS 1024 /* of one object */
#define MAX_KEY 256      /* bytes of a member's name */
#define MAX_FIELDS 64    /* of one table below */

typedef struct reader {
    em_json j;
    const char *name;   /* of the file, for sentences */
    const char *prefix; /* of fields in an inner object, e.g. "rope_scaling." */
    em_error *err;
    em_config_raw *raw;
    bool given[MAX_FIELDS]; /* of text_fields */
} reader;

typedef enum field_type { FIELD_I32, FIELD_I64, FIELD_F32, FIELD_BOOL, FIELD_CUSTOM } field_type;

/* When a field may be left out. */
typedef enum field_need { NEED_NOT, NEED_ALWAYS, NEED_COMPRESSED, NEED_ENGRAM } field_need;

typedef struct field {
    const char *name, *alias; /* Hugging Face's and the vendor's spelling */
    field_type type;
    field_need need;
    size_t offset;                                  /* in em_config_raw */
    double min, max;                                /* of a number, both allowed */
    int (*read)(reader *rd, const struct field *f); /* FIELD_CUSTOM: the value token is current */
} field;

/* The current token, for a sentence: a number's text, else its kind. */
static const char *describe(const em_json *j, char buf[48])
{
    switch (j->type) {
    case EM_JSON_NUMBER: {
        size_t n = j->raw_len < 40 ? j->raw_len : 40;
        memcpy(buf, j->raw, n);
        buf[n] = '\0';
        return buf;
    }
    case EM_JSON_STRING: return "a string";
    case EM_JSON_TRUE:
    case EM_JSON_FALSE: return "true or false";
    case EM_JSON_NULL: return "null";
    case EM_JSON_OBJECT: return "an object";
    default: return "a list";
    }
}

static int malformed(reader *rd)
{
    return em_error_set(rd->err, -EINVAL, "%s is not valid JSON: %s at byte %zu", rd->name, em_json_error(&rd->j),
                        em_json_offset(&rd->j));
}

static int refuse(reader *rd, const char *field_name, const char *must_be)
{
    char buf[48];
    return em_error_set(rd->err, -EINVAL, "%s: %s%s must be %s, not %s", rd->name, rd->prefix, field_name, must_be,
                        describe(&rd->j, buf));
}

static int read_integer(reader *rd, const char *name, int64_t min, int64_t max, int64_t *ret)
{
    int64_t v = 0;
    int r = em_json_i64(&rd->j, &v);
    if (r < 0 || v < min || v > max) {
        char buf[48];
        return em_error_set(rd->err, -EINVAL, "%s: %s%s must be an integer from %lld to %lld, not %s", rd->name,
                            rd->prefix, name, (long long)min, (long long)max, describe(&rd->j, buf));
    }
    *ret = v;
    return 0;
}

static int read_float(reader *rd, const char *name, double min, double max, float *ret)
{
    double v;
    int r = em_json_f64(&rd->j, &v);
    if (r < 0 || !(v >= min && v <= max) || !isfinite((float)v)) {
        char buf[48];
        return em_error_set(rd->err, -EINVAL, "%s: %s%s must be a number from %g to %g, not %s", rd->name, rd->prefix,
                            name, min, max, describe(&rd->j, buf));
    }
    *ret = (float)v;
    return 0;
}

static int read_list(reader *rd, const field *f)
{
    em_config_list *list = (em_config_list *)((char *)rd->raw + f->offset);
    if (rd->j.type != EM_JSON_ARRAY)
        return refuse(rd, f->name, "a list of integers");
    int32_t n = 0;
    while (em_json_next(&rd->j) != EM_JSON_ARRAY_END) {
        if (rd->j.type == EM_JSON_ERROR)
            return malformed(rd);
        if (n == EM_MAX_LAYERS)
            return em_error_set(rd->err, -EINVAL, "%s: %s has more than %d entries", rd->name, f->name, EM_MAX_LAYERS);
        int r = read_integer(rd, f->name, (int64_t)f->min, (int64_t)f->max, &list->v[n]);
        if (r < 0)
            return r;
        n++;
    }
    list->n = n;
    return 0;
}

/* A string field of which we implement some values. */
static int read_choice(reader *rd, const char *name, const char *const *choices, int *ret)
{
    char got[64], list[128];
    size_t at = 0;
    for (int i = 0; choices[i]; i++) {
        if (rd->j.type == EM_JSON_STRING && em_json_is(&rd->j, choices[i])) {
            *ret = i;
            return 0;
        }
        at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i ? " or " : "", choices[i]);
    }
    if (rd->j.type != EM_JSON_STRING || em_json_string(&rd->j, got, sizeof(got), NULL) < 0)
        return refuse(rd, name, list);
    return em_error_set(rd->err, -EINVAL, "%s: %s%s \"%s\" is not supported, only %s", rd->name, rd->prefix, name, got,
                        list);
}

static int read_scoring(reader *rd, const field *f)
{
    static const char *const names[] = {"sqrtsoftplus", "softmax", "sigmoid", NULL};
    int i;
    int r = read_choice(rd, f->name, names, &i);
    if (r == 0)
        rd->raw->c.scoring = (em_scoring)i; /* same order as the enum */
    return r;
}

static int read_topk_method(reader *rd, const field *f)
{
    static const char *const names[] = {"noaux_tc", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_hidden_act(reader *rd, const field *f)
{
    static const char *const names[] = {"silu", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_model_type(reader *rd, const field *f)
{
    static const char *const names[] = {"deepseek_v41", "deepseek_v41_text", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

/* Fields that the model fixes: present, they must say so. */
static int read_must_be_one(reader *rd, const field *f)
{
    int64_t v = 0;
    if (em_json_i64(&rd->j, &v) < 0 || v != 1)
        return refuse(rd, f->name, "1 (nothing else is supported)");
    return 0;
}

static int read_must_be_false(reader *rd, const field *f)
{
    return rd->j.type == EM_JSON_FALSE ? 0 : refuse(rd, f->name, "false (nothing else is supported)");
}

static int read_candidate(reader *rd, const field *f)
{
    int64_t v = 0;
    int r = read_integer(rd, f->name, -1000000, EM_MAX_LAYERS - 1, &v);
    if (r < 0)
        return r;
    rd->raw->c.candidate_source_layer = v < 0 ? -1 : (int32_t)v;
    rd->raw->has_candidate = true;
    return 0;
}

/* A token id, or (as generation configs write it) a list of exactly one. */
static int read_token_id(reader *rd, const field *f)
{
    int64_t v = -1;
    bool list = rd->j.type == EM_JSON_ARRAY;
    if (list && em_json_next(&rd->j) == EM_JSON_ERROR)
        return malformed(rd);
    int r = read_integer(rd, f->name, -1, INT32_MAX, &v);
    if (r < 0)
        return r;
    if (list && em_json_next(&rd->j) != EM_JSON_ARRAY_END)
        return rd->j.type == EM_JSON_ERROR
                   ? malformed(rd)
                   : em_error_set(rd->err, -EINVAL, "%s: %s must be one token id", rd->name, f->name);
    *(int32_t *)((char *)rd->raw + f->offset) = (int32_t)v;
    return 0;
}

static int read_object(reader *rd, const char *name, const field *fields, size_t n);

/* The YaRN fields of one rope object; offsets are of the em_model_config in question. */
static int read_rope_type(reader *rd, const field *f)
{
    static const char *const names[] = {"yarn", "default", NULL};
    int i;
    int r = read_choice(rd, f->name, names, &i);
    if (r == 0)
        ((em_model_config *)((char *)rd->raw + f->offset))->yarn = i == 0;
    return r;
}

static int read_attention_factor(reader *rd, const field *f)
{
    double v;
    if (em_json_f64(&rd->j, &v) < 0 || v != 1.0)
        return refuse(rd, f->name, "1.0 (nothing else is supported)");
    return 0;
}

static int read_must_be_true(reader *rd, const field *f)
{
    return rd->j.type == EM_JSON_TRUE ? 0 : refuse(rd, f->name, "true (nothing else is supported)");
}

#define RAW(member) offsetof(em_config_raw, member)
/* One row, one line. */
/* clang-format off */
#define YARN(at, member) ((at) + offsetof(em_model_config, member))
#define YARN_FIELDS(at)                                                                                                \
    {"rope_type", "type", FIELD_CUSTOM, NEED_ALWAYS, (at), 0, 0, read_rope_type},                                      \
    {"factor", NULL, FIELD_F32, NEED_NOT, YARN(at, yarn_factor), 1, 1e6, NULL},                                        \
    {"original_max_position_embeddings", NULL, FIELD_I32, NEED_NOT, YARN(at, yarn_original_len), 1, 1 << 30, NULL},    \
    {"beta_fast", NULL, FIELD_F32, NEED_NOT, YARN(at, yarn_beta_fast), 1e-3, 1e6, NULL},                               \
    {"beta_slow", NULL, FIELD_F32, NEED_NOT, YARN(at, yarn_beta_slow), 1e-3, 1e6, NULL},                               \
    {"attention_factor", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_attention_factor},                                \
    {"truncate", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_must_be_true}
/* clang-format on */

static const field rope_scaling_fields[] = {YARN_FIELDS(RAW(yarn_flat))};

static const field compress_fields[] = {
    YARN_FIELDS(RAW(yarn_parameters)),
    {"rope_theta", NULL, FIELD_F32, NEED_NOT, RAW(compress_theta), 1, 1e12, NULL},
};

static int read_main_rope_type(reader *rd, const field *f)
{
    static const char *const names[] = {"default", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_partial_rotary(reader *rd, const field *f)
{
    float v;
    int r = read_float(rd, f->name, 0, 1, &v);
    if (r == 0)
        r = em_json_f64(&rd->j, &rd->raw->partial_rotary);
    return r;
}

static const field main_fields[] = {
    {"rope_type", "type", FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_main_rope_type},
    {"rope_theta", NULL, FIELD_F32, NEED_NOT, RAW(main_theta), 1, 1e12, NULL},
    {"partial_rotary_factor", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_partial_rotary},
};

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static int read_rope_scaling(reader *rd, const field *f)
{
    if (rd->j.type != EM_JSON_OBJECT)
        return refuse(rd, f->name, "an object or null");
    rd->raw->has_rope_scaling = true;
    return read_object(rd, "rope_scaling", rope_scaling_fields, COUNT(rope_scaling_fields));
}

/* Only when main and compress are both objects do they count (spec 1.3): look first, then read. */
static int read_rope_parameters(reader *rd, const field *f)
{
    if (rd->j.type != EM_JSON_OBJECT)
        return refuse(rd, f->name, "an object or null");
    reader main_rd = *rd, compress_rd = *rd;
    bool has_main = false, has_compress = false;
    while (em_json_next(&rd->j) == EM_JSON_KEY) {
        bool is_main = em_json_is(&rd->j, "main"), is_compress = em_json_is(&rd->j, "compress");
        if ((is_main && has_main) || (is_compress && has_compress))
            return em_error_set(rd->err, -EINVAL, "%s: rope_parameters has a member twice", rd->name);
        em_json_next(&rd->j);
        if (is_main && rd->j.type == EM_JSON_OBJECT) {
            main_rd.j = rd->j;
            has_main = true;
        } else if (is_compress && rd->j.type == EM_JSON_OBJECT) {
            compress_rd.j = rd->j;
            has_compress = true;
        }
        if (em_json_skip(&rd->j) < 0)
            return malformed(rd);
    }
    if (rd->j.type == EM_JSON_ERROR)
        return malformed(rd);
    if (!has_main || !has_compress)
        return 0;
    rd->raw->has_rope_parameters = true;
    int r = read_object(&main_rd, "rope_parameters.main", main_fields, COUNT(main_fields));
    return r < 0 ? r : read_object(&compress_rd, "rope_parameters.compress", compress_fields, COUNT(compress_fields));
}

static int read_block_size(reader *rd, const field *f)
{
    int64_t v[2];
    if (rd->j.type != EM_JSON_ARRAY)
        return refuse(rd, f->name, "a list of two integers");
    for (int i = 0; i < 2; i++) {
        if (em_json_next(&rd->j) == EM_JSON_ERROR)
            return malformed(rd);
        if (rd->j.type == EM_JSON_ARRAY_END)
            return em_error_set(rd->err, -EINVAL, "%s: %s%s must have two entries", rd->name, rd->prefix, f->name);
        int r = read_integer(rd, f->name, 1, 65536, &v[i]);
        if (r < 0)
            return r;
    }
    if (em_json_next(&rd->j) != EM_JSON_ARRAY_END)
        return rd->j.type == EM_JSON_ERROR
                   ? malformed(rd)
                   : em_error_set(rd->err, -EINVAL, "%s: %s%s must have two entries", rd->name, rd->prefix, f->name);
    if (v[1] % 32)
        return em_error_set(rd->err, -EINVAL, "%s: %s%s has %lld columns; only multiples of 32 are supported", rd->name,
                            rd->prefix, f->name, (long long)v[1]);
    rd->raw->c.fp8_block_rows = (int32_t)v[0];
    rd->raw->c.fp8_block_cols = (int32_t)v[1];
    return 0;
}

static int read_quant_method(reader *rd, const field *f)
{
    static const char *const names[] = {"fp8", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_activation_scheme(reader *rd, const field *f)
{
    static const char *const names[] = {"dynamic", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_scale_fmt(reader *rd, const field *f)
{
    static const char *const names[] = {"ue8m0", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_fmt(reader *rd, const field *f)
{
    static const char *const names[] = {"e4m3", NULL};
    int i;
    return read_choice(rd, f->name, names, &i);
}

static int read_expert_dtype(reader *rd, const field *f)
{
    static const char *const names[] = {"fp4", "fp8", NULL};
    int i;
    int r = read_choice(rd, f->name, names, &i);
    if (r == 0)
        rd->raw->c.fp4_experts = i == 0;
    return r;
}

static const field quantization_fields[] = {
    {"quant_method", NULL, FIELD_CUSTOM, NEED_ALWAYS, 0, 0, 0, read_quant_method},
    {"weight_block_size", NULL, FIELD_CUSTOM, NEED_ALWAYS, 0, 0, 0, read_block_size},
    {"activation_scheme", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_activation_scheme},
    {"scale_fmt", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_scale_fmt},
    {"fmt", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_fmt},
    {"expert_dtype", NULL, FIELD_CUSTOM, NEED_NOT, 0, 0, 0, read_expert_dtype},
};

static int read_quantization(reader *rd, const field *f)
{
    if (rd->j.type != EM_JSON_OBJECT)
        return refuse(rd, f->name, "an object or null");
    return read_object(rd, "quantization_config", quantization_fields, COUNT(quantization_fields));
}

/* One row, one line. */
/* clang-format off */
#define I32(name, alias, need, member, min, max) {name, alias, FIELD_I32, need, RAW(member), min, max, NULL}
#define F32(name, alias, need, member, min, max) {name, alias, FIELD_F32, need, RAW(member), min, max, NULL}
#define CUSTOM(name, alias, need, fn) {name, alias, FIELD_CUSTOM, need, 0, 0, 0, fn}
#define LIST(name, alias, need, member, min, max) {name, alias, FIELD_CUSTOM, need, RAW(member), min, max, read_list}
#define TOKEN(name, member) {name, NULL, FIELD_CUSTOM, NEED_NOT, RAW(member), 0, 0, read_token_id}
/* clang-format on */

/* The limits are far above any real model and low enough that no product of the forward pass leaves 63 bits. */
static const field text_fields[] = {
    CUSTOM("model_type", NULL, NEED_NOT, read_model_type),
    I32("vocab_size", NULL, NEED_ALWAYS, c.vocab_size, 1, 1 << 24),
    I32("hidden_size", "dim", NEED_ALWAYS, c.hidden_size, 1, 1 << 17),
    I32("num_hidden_layers", "n_layers", NEED_ALWAYS, c.n_layers, 1, EM_MAX_LAYERS),
    I32("max_position_embeddings", NULL, NEED_NOT, c.max_len, 1, 1 << 24),
    I32("max_seq_len", NULL, NEED_NOT, vendor_seq_len, 1, 1 << 24),
    I32("num_attention_heads", "n_heads", NEED_ALWAYS, c.n_heads, 1, 1024),
    CUSTOM("num_key_value_heads", NULL, NEED_NOT, read_must_be_one),
    I32("head_dim", NULL, NEED_ALWAYS, c.head_dim, 2, 4096),
    I32("qk_rope_head_dim", "rope_head_dim", NEED_ALWAYS, c.rope_dim, 2, 4096),
    I32("q_lora_rank", NULL, NEED_ALWAYS, c.q_lora_rank, 1, 1 << 16),
    I32("o_groups", NULL, NEED_ALWAYS, c.o_groups, 1, 1024),
    I32("o_lora_rank", NULL, NEED_ALWAYS, c.o_lora_rank, 1, 1 << 16),
    F32("rope_theta", NULL, NEED_NOT, c.rope_theta, 1, 1e12),
    F32("compress_rope_theta", NULL, NEED_NOT, c.compress_rope_theta, 1, 1e12),
    CUSTOM("rope_scaling", NULL, NEED_NOT, read_rope_scaling),
    CUSTOM("rope_parameters", NULL, NEED_NOT, read_rope_parameters),
    F32("rope_factor", NULL, NEED_NOT, c.yarn_factor, 1, 1e6),
    I32("original_seq_len", NULL, NEED_NOT, c.yarn_original_len, 0, 1 << 30),
    F32("beta_fast", NULL, NEED_NOT, c.yarn_beta_fast, 1e-3, 1e6),
    F32("beta_slow", NULL, NEED_NOT, c.yarn_beta_slow, 1e-3, 1e6),
    F32("rms_norm_eps", "norm_eps", NEED_NOT, c.norm_eps, 0, 1),
    I32("sliding_window", "window_size", NEED_ALWAYS, c.window, 1, 1 << 17),
    LIST("compress_ratios", NULL, NEED_NOT, ratios, 0, EM_MAX_RATIO),
    LIST("kv_source_layer_ids", "kv_source_layers", NEED_NOT, kv_sources, 0, EM_MAX_LAYERS - 1),
    LIST("index_source_layer_ids", "index_source_layers", NEED_NOT, index_sources, 0, EM_MAX_LAYERS - 1),
    CUSTOM("candidate_source_layer_id", "candidate_source_layer", NEED_NOT, read_candidate),
    I32("candidate_topk_blocks", NULL, NEED_NOT, c.candidate_topk_blocks, 1, 1 << 18),
    I32("candidate_block_size", NULL, NEED_NOT, c.candidate_block_size, 1, 4096),
    I32("index_n_heads", NULL, NEED_COMPRESSED, c.index_n_heads, 1, 1024),
    I32("index_head_dim", NULL, NEED_COMPRESSED, c.index_head_dim, 2, 4096),
    I32("index_topk", NULL, NEED_COMPRESSED, c.index_topk, 1, 1 << 17),
    I32("n_routed_experts", NULL, NEED_ALWAYS, c.n_experts, 1, 4096),
    I32("num_experts_per_tok", "n_activated_experts", NEED_ALWAYS, c.n_experts_per_tok, 1, 4096),
    CUSTOM("n_shared_experts", NULL, NEED_NOT, read_must_be_one),
    I32("moe_intermediate_size", "moe_inter_dim", NEED_ALWAYS, c.moe_inter, 1, 1 << 17),
    CUSTOM("scoring_func", "score_func", NEED_NOT, read_scoring),
    F32("gate_temp", NULL, NEED_NOT, c.gate_temp, 1e-6, 1e6),
    {"norm_topk_prob", NULL, FIELD_BOOL, NEED_NOT, RAW(c.norm_topk_prob), 0, 0, NULL},
    F32("routed_scaling_factor", "route_scale", NEED_NOT, c.routed_scaling_factor, 0, 1e6),
    CUSTOM("topk_method", NULL, NEED_NOT, read_topk_method),
    F32("swiglu_limit", NULL, NEED_NOT, c.swiglu_limit, -1e30, 1e30),
    CUSTOM("hidden_act", NULL, NEED_NOT, read_hidden_act),
    I32("hc_mult", NULL, NEED_NOT, c.hc_mult, 1, EM_MAX_HC),
    I32("hc_sinkhorn_iters", NULL, NEED_NOT, c.hc_sinkhorn_iters, 1, 1000),
    F32("hc_eps", NULL, NEED_NOT, c.hc_eps, 0, 1),
    LIST("engram_layer_ids", NULL, NEED_NOT, engram_layers, 0, EM_MAX_LAYERS - 1),
    LIST("engram_num_embeddings", NULL, NEED_ENGRAM, engram_rows, 1, 0x1p40),
    {"engram_vocab_size", NULL, FIELD_I64, NEED_ENGRAM, RAW(c.engram_vocab_size), 1, 0x1p31, NULL},
    I32("engram_max_ngram_size", NULL, NEED_ENGRAM, c.engram_max_order, 2, EM_ENGRAM_MAX_ORDER),
    I32("engram_n_heads", NULL, NEED_ENGRAM, c.engram_n_heads, 1, EM_ENGRAM_MAX_HEADS),
    I32("engram_head_dim", NULL, NEED_ENGRAM, c.engram_head_dim, 1, 4096),
    I32("engram_pad_token_id", "engram_pad_id", NEED_ENGRAM, c.engram_pad_id, 0, 1 << 24),
    I32("engram_compressed_vocab_size", NULL, NEED_ENGRAM, c.engram_n_classes, 1, 1 << 24),
    I32("num_nextn_predict_layers", "n_mtp_layers", NEED_NOT, n_draft_layers, 0, EM_MAX_LAYERS),
    CUSTOM("attention_bias", NULL, NEED_NOT, read_must_be_false),
    CUSTOM("tie_word_embeddings", NULL, NEED_NOT, read_must_be_false),
    TOKEN("bos_token_id", c.bos_id),
    TOKEN("eos_token_id", c.eos_id),
    TOKEN("pad_token_id", c.pad_id),
    CUSTOM("quantization_config", NULL, NEED_NOT, read_quantization),
    CUSTOM("expert_dtype", NULL, NEED_NOT, read_expert_dtype),
};

/* What counts at the root beside a text_config. */
static const field root_fields[] = {
    CUSTOM("model_type", NULL, NEED_NOT, read_model_type),
    TOKEN("bos_token_id", c.bos_id),
    TOKEN("eos_token_id", c.eos_id),
    TOKEN("pad_token_id", c.pad_id),
    CUSTOM("quantization_config", NULL, NEED_NOT, read_quantization),
    CUSTOM("tie_word_embeddings", NULL, NEED_NOT, read_must_be_false),
};

_Static_assert(COUNT(text_fields) <= MAX_FIELDS, "read_object keeps what it saw in a fixed list");

static int read_value(reader *rd, const field *f)
{
    char *at = (char *)rd->raw + f->offset;
    int64_t v = 0;
    int r = 0;
    switch (f->type) {
    case FIELD_I32:
        r = read_integer(rd, f->name, (int64_t)f->min, (int64_t)f->max, &v);
        if (r == 0)
            *(int32_t *)at = (int32_t)v;
        return r;
    case FIELD_I64:
        r = read_integer(rd, f->name, (int64_t)f->min, (int64_t)f->max, &v);
        if (r == 0)
            *(int64_t *)at = v;
        return r;
    case FIELD_F32: return read_float(rd, f->name, f->min, f->max, (float *)at);
    case FIELD_BOOL:
        if (rd->j.type != EM_JSON_TRUE && rd->j.type != EM_JSON_FALSE)
            return refuse(rd, f->name, "true or false");
        *(bool *)at = rd->j.type == EM_JSON_TRUE;
        return 0;
    case FIELD_CUSTOM: return f->read(rd, f);
    }
    return -EINVAL;
}

/* Hash of the current key after unescaping, for the search for duplicates. 0: the name is too long. */
static uint64_t key_hash(const em_json *j)
{
    char key[MAX_KEY];
    size_t len;
    if (em_json_string(j, key, sizeof(key), &len) < 0)
        return 0;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)key[i]) * 0x100000001b3u;
    return h | 1;
}

static int check_unique(reader *rd, const char *object, uint64_t *seen, size_t *n_seen)
{
    uint64_t h = key_hash(&rd->j);
    if (h == 0)
        return em_error_set(rd->err, -EINVAL, "%s: a member of %s has a name longer than %d bytes", rd->name,
                            *object ? object : "the root", MAX_KEY - 1);
    if (*n_seen == MAX_MEMBERS)
        return em_error_set(rd->err, -EINVAL, "%s: %s has more than %d members", rd->name,
                            *object ? object : "the root", MAX_MEMBERS);
    for (size_t i = 0; i < *n_seen; i++)
        if (seen[i] == h)
            return em_error_set(rd->err, -EINVAL, "%s: %s has the member %.*s twice", rd->name,
                                *object ? object : "the root", (int)(rd->j.raw_len < 64 ? rd->j.raw_len : 64),
                                rd->j.raw);
    seen[(*n_seen)++] = h;
    return 0;
}

static const field *find_field(const em_json *j, const field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (em_json_is(j, fields[i].name) || (fields[i].alias && em_json_is(j, fields[i].alias)))
            return &fields[i];
    return NULL;
}

/* The same field under both spellings: fine when they say the same (files converted by a tool have both). */
static int check_agreement(reader *rd, const field *f, const em_json *first)
{
    const em_json *j = &rd->j;
    bool scalar = j->type != EM_JSON_OBJECT && j->type != EM_JSON_ARRAY;
    bool text = j->type == EM_JSON_NUMBER || j->type == EM_JSON_STRING;
    if (scalar && j->type == first->type &&
        (!text || (j->raw_len == first->raw_len && memcmp(j->raw, first->raw, j->raw_len) == 0)))
        return 0;
    return em_error_set(rd->err, -EINVAL, "%s: %s%s and %s are both given and may differ; keep one", rd->name,
                        rd->prefix, f->name, f->alias);
}

/* The value token of one field is current. seen: what its first spelling held. */
static int read_member(reader *rd, const field *f, em_json *seen)
{
    if (seen->type != EM_JSON_END)
        return check_agreement(rd, f, seen);
    *seen = rd->j;
    return read_value(rd, f);
}

/* One object, its opening bracket being the current token. null is as good as absent. seen: one reader per field,
 * left at the field's value; its type stays EM_JSON_END for a field that is absent. */
static int read_members(reader *rd, const char *object, const field *fields, size_t n, em_json *seen)
{
    uint64_t keys[MAX_MEMBERS];
    size_t n_keys = 0;
    while (em_json_next(&rd->j) == EM_JSON_KEY) {
        int r = check_unique(rd, object, keys, &n_keys);
        if (r < 0)
            return r;
        const field *f = find_field(&rd->j, fields, n);
        if (em_json_next(&rd->j) == EM_JSON_ERROR)
            return malformed(rd);
        if (f && rd->j.type != EM_JSON_NULL)
            r = read_member(rd, f, &seen[f - fields]);
        else
            r = em_json_skip(&rd->j);
        if (rd->j.type == EM_JSON_ERROR)
            return malformed(rd);
        if (r < 0)
            return r;
    }
    return rd->j.type == EM_JSON_ERROR ? malformed(rd) : 0;
}

static int read_object(reader *rd, const char *object, const field *fields, size_t n)
{
    em_json seen[MAX_FIELDS];
    for (size_t i = 0; i < n; i++)
        seen[i].type = EM_JSON_END;
    const char *outer = rd->prefix;
    char prefix[64];
    snprintf(prefix, sizeof(prefix), "%s%s", object, *object ? "." : "");
    rd->prefix = prefix;
    int r = read_members(rd, object, fields, n, seen);
    rd->prefix = outer;
    if (r < 0)
        return r;
    for (size_t i = 0; i < n; i++) {
        bool given = seen[i].type != EM_JSON_END;
        if (fields[i].need == NEED_ALWAYS && !given)
            return em_error_set(rd->err, -EINVAL, "%s lacks %s%s", rd->name, prefix, fields[i].name);
        if (fields == text_fields)
            rd->given[i] = given;
    }
    return 0;
}

/* Fields that only some models need, once it is known which model this is. */
static int check_needed(reader *rd)
{
    const em_config_raw *raw = rd->raw;
    bool compressed = raw->ratios.n < 0 && raw->c.n_layers > 2; /* left out: from layer 2 on (spec 1.5) */
    for (int32_t i = 0; i < raw->ratios.n && i < raw->c.n_layers; i++)
        compressed |= raw->ratios.v[i] > 0;
    for (size_t i = 0; i < COUNT(text_fields); i++) {
        field_need need = text_fields[i].need;
        if (!rd->given[i] &&
            ((need == NEED_COMPRESSED && compressed) || (need == NEED_ENGRAM && raw->engram_layers.n > 0)))
            return em_error_set(rd->err, -EINVAL, "%s lacks %s", rd->name, text_fields[i].name);
    }
    return 0;
}

/* What a file may leave out: the released values, or neutral ones. */
static void set_defaults(em_config_raw *raw)
{
    *raw = (em_config_raw){0};
    em_model_config *c = &raw->c;
    c->max_len = 0; /* derived */
    c->rope_theta = 10000.0f;
    c->compress_rope_theta = 160000.0f;
    c->norm_eps = 1e-20f;
    c->scoring = EM_SCORE_SQRTSOFTPLUS;
    c->gate_temp = 1.0f;
    c->norm_topk_prob = true;
    c->routed_scaling_factor = 1.5f;
    c->swiglu_limit = 10.0f;
    c->hc_mult = 4;
    c->hc_sinkhorn_iters = 20;
    c->hc_eps = 1e-6f;
    c->candidate_source_layer = -1;
    c->candidate_topk_blocks = 2048;
    c->candidate_block_size = 8;
    c->engram_pad_id = c->bos_id = c->eos_id = c->pad_id = -1;
    c->yarn_beta_fast = raw->yarn_flat.yarn_beta_fast = raw->yarn_parameters.yarn_beta_fast = 32.0f;
    c->yarn_beta_slow = raw->yarn_flat.yarn_beta_slow = raw->yarn_parameters.yarn_beta_slow = 1.0f;
    raw->ratios.n = raw->kv_sources.n = raw->index_sources.n = raw->engram_layers.n = raw->engram_rows.n = -1;
}

/* Walks the root once: is it one object, and where is text_config? */
static int find_text_config(reader *rd, em_json *ret_text, bool *ret_nested)
{
    reader look = *rd;
    if (em_json_next(&look.j) == EM_JSON_ERROR)
        return malformed(&look);
    if (look.j.type != EM_JSON_OBJECT)
        return em_error_set(rd->err, -EINVAL, "%s must hold one JSON object", rd->name);
    *ret_nested = false;
    while (look.j.depth > 0 && em_json_next(&look.j) == EM_JSON_KEY) {
        bool is_text = em_json_is(&look.j, "text_config");
        em_json_next(&look.j);
        if (is_text && look.j.type != EM_JSON_NULL) {
            if (look.j.type != EM_JSON_OBJECT)
                return look.j.type == EM_JSON_ERROR ? malformed(&look) : refuse(&look, "text_config", "an object");
            *ret_text = look.j;
            *ret_nested = true;
        }
        if (em_json_skip(&look.j) < 0)
            return malformed(&look);
    }
    if (em_json_next(&look.j) != EM_JSON_END)
        return malformed(&look);
    return 0;
}

int em_config_read(const char *json, size_t len, const char *name, em_config_raw *ret_raw, em_error *err)
{
    set_defaults(ret_raw);
    reader rd = {.name = name, .prefix = "", .err = err, .raw = ret_raw};
    em_json_init(&rd.j, json, len, 32);
    reader text = rd;
    bool nested = false;
    int r = find_text_config(&rd, &text.j, &nested);
    if (r < 0)
        return r;
    em_json_next(&rd.j);
    if (nested) {
        r = read_object(&text, "text_config", text_fields, COUNT(text_fields));
        memcpy(rd.given, text.given, sizeof(rd.given));
        if (r == 0) /* the root's token ids and quantization win over those inside */
            r = read_object(&rd, "", root_fields, COUNT(root_fields));
    } else {
        r = read_object(&rd, "", text_fields, COUNT(text_fields));
    }
    return r < 0 ? r : check_needed(&rd);
}
