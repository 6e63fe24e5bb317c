/* One sound checkpoint in memory, one fault put into it, the result written out. */
#include "tests/tools/break_model.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/safetensors.h"

#define WEIGHTS "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* A tensor of the copy; its texts go into the header as they are. */
typedef struct broken_tensor {
    char name[128], dtype[32], shape[128];
    char offsets[96]; /* empty: where it really lies */
    char entry[128];  /* not empty: instead of the whole entry */
    const uint8_t *data;
    uint64_t bytes;
    int file; /* 0, or 1 for a second file */
} broken_tensor;

typedef struct broken_model {
    em_buf config, tokenizer, index;
    broken_tensor *t;
    size_t n;
    em_buf header;       /* not empty: instead of the header's JSON */
    uint64_t header_len; /* not 0: what the first eight bytes say */
    int64_t cut;         /* bytes that the end of the weights loses; negative: gains */
    int64_t keep;        /* not 0: only so many bytes are left */
    bool no_config, no_weights, weights_is_folder, no_tokenizer;
    int n_files; /* 1; 2: second.safetensors, without model.safetensors */
} broken_model;

static int cannot(em_error *err, const char *what)
{
    return em_error_set(err, -EINVAL, "this kind needs another model: %s", what);
}

/* --- config.json ----------------------------------------------------------------------------------------------- */

/* The span of the value of a key, at whatever depth it stands first. */
static bool find_value(const em_buf *json, const char *key, size_t *ret_begin, size_t *ret_end)
{
    em_json j;
    em_json_init(&j, json->data, json->len, 0);
    for (em_json_type t; (t = em_json_next(&j)) > EM_JSON_END;) {
        if (t != EM_JSON_KEY || !em_json_is(&j, key))
            continue;
        const char *p = j.p;
        while (*p == ':' || *p == ' ' || *p == '\n')
            p++;
        *ret_begin = (size_t)(p - json->data);
        if (em_json_skip(&j) < 0)
            return false;
        *ret_end = em_json_offset(&j);
        return true;
    }
    return false;
}

static int splice(em_buf *text, size_t begin, size_t end, const char *with)
{
    em_buf out = {0};
    em_buf_append(&out, text->data, begin);
    em_buf_puts(&out, with);
    em_buf_append(&out, text->data + end, text->len - end);
    em_buf_done(text);
    *text = out;
    return out.failed ? -ENOMEM : 0;
}

static int set_config(broken_model *b, const char *key, const char *value)
{
    size_t begin, end;
    return find_value(&b->config, key, &begin, &end) ? splice(&b->config, begin, end, value) : -ENOENT;
}

/* An unknown name in place of the key: as good as leaving it out. */
static int drop_config(broken_model *b, const char *key, const char *unused)
{
    char quoted[128];
    snprintf(quoted, sizeof(quoted), "\"%s\"", key);
    char *at = strstr(b->config.data, quoted);
    if (!at)
        return -ENOENT;
    at[1] = '~';
    return 0;
}

static int repeat_config(broken_model *b, const char *key, const char *value)
{
    char more[256];
    size_t begin, end;
    if (!find_value(&b->config, key, &begin, &end))
        return -ENOENT;
    snprintf(more, sizeof(more), ", \"%s\": %s", key, value);
    return splice(&b->config, end, end, more);
}

static int replace_config(broken_model *b, const char *text, const char *unused)
{
    em_buf_clear(&b->config);
    return em_buf_puts(&b->config, text);
}

static int cut_config(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->config.len /= 2;
    return 0;
}

/* --- tensors --------------------------------------------------------------------------------------------------- */

static broken_tensor *find_tensor(broken_model *b, const char *name)
{
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->t[i].name, name) == 0)
            return &b->t[i];
    return NULL;
}

/* clang-format off */
#define TENSOR_OR_RETURN(b, name)                                                                                      \
    broken_tensor *t = find_tensor(b, name);                                                                           \
    if (!t)                                                                                                            \
        return -ENOENT
/* clang-format on */

static int drop_tensor(broken_model *b, const char *name, const char *unused)
{
    TENSOR_OR_RETURN(b, name);
    memmove(t, t + 1, (size_t)(b->t + --b->n - t) * sizeof(*t));
    return 0;
}

/* A copy under another name (the list has room for one more). */
static int copy_tensor(broken_model *b, const char *name, const char *copy_name)
{
    TENSOR_OR_RETURN(b, name);
    b->t[b->n] = *t;
    snprintf(b->t[b->n++].name, sizeof(t->name), "%s", copy_name);
    return 0;
}

static int rename_tensor(broken_model *b, const char *name, const char *new_name)
{
    TENSOR_OR_RETURN(b, name);
    snprintf(t->name, sizeof(t->name), "%s", new_name);
    return 0;
}

static int set_dtype(broken_model *b, const char *name, const char *dtype)
{
    TENSOR_OR_RETURN(b, name);
    snprintf(t->dtype, sizeof(t->dtype), "%s", dtype);
    return 0;
}

static int set_shape(broken_model *b, const char *name, const char *shape)
{
    TENSOR_OR_RETURN(b, name);
    snprintf(t->shape, sizeof(t->shape), "%s", shape);
    return 0;
}

static int set_offsets(broken_model *b, const char *name, const char *offsets)
{
    TENSOR_OR_RETURN(b, name);
    snprintf(t->offsets, sizeof(t->offsets), "%s", offsets);
    return 0;
}

static int set_entry(broken_model *b, const char *name, const char *entry)
{
    TENSOR_OR_RETURN(b, name);
    snprintf(t->entry, sizeof(t->entry), "%s", entry);
    return 0;
}

/* New dtype and shape with zeros of the right size behind them: sound by itself, but not what the model asks for. */
static int retype(broken_model *b, const char *name, const char *dtype_and_shape)
{
    static const uint8_t zeros[1 << 20];
    TENSOR_OR_RETURN(b, name);
    unsigned long long bytes;
    if (sscanf(dtype_and_shape, "%31s %llu %127[^\n]", t->dtype, &bytes, t->shape) != 3 || bytes > sizeof(zeros))
        return -EINVAL;
    t->data = zeros;
    t->bytes = bytes;
    return 0;
}

/* --- files ----------------------------------------------------------------------------------------------------- */

static int set_header(broken_model *b, const char *text, const char *unused)
{
    return em_buf_puts(&b->header, text);
}

static int set_header_len(broken_model *b, const char *number, const char *unused)
{
    b->header_len = strtoull(number, NULL, 0);
    return 0;
}

static int cut_weights(broken_model *b, const char *number, const char *unused)
{
    b->cut = strtoll(number, NULL, 0);
    return 0;
}

static int keep_weights(broken_model *b, const char *number, const char *unused)
{
    b->keep = strtoll(number, NULL, 0);
    return 0;
}

static int no_config(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->no_config = true;
    return 0;
}

static int no_weights(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->no_weights = true;
    return 0;
}

static int folder_for_weights(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->no_weights = b->weights_is_folder = true;
    return 0;
}

static int no_tokenizer(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->no_tokenizer = true;
    return 0;
}

static int cut_tokenizer(broken_model *b, const char *unused_a, const char *unused_v)
{
    b->tokenizer.len /= 2;
    return 0;
}

/* Two files, first.safetensors and second.safetensors, with an index; then the index is changed. a: what to do to the
 * line of norm.weight: its new value, or "drop" or "add". */
static int with_index(broken_model *b, const char *a, const char *v)
{
    b->n_files = 2;
    for (size_t i = 0; i < b->n; i++)
        b->t[i].file = i >= b->n / 2;
    em_buf_puts(&b->index, "{\"weight_map\": {");
    for (size_t i = 0; i < b->n; i++) {
        bool norm = strcmp(b->t[i].name, "norm.weight") == 0;
        if (norm && strcmp(a, "drop") == 0)
            continue;
        const char *file = b->t[i].file ? "second.safetensors" : "first.safetensors";
        if (norm && strcmp(a, "swap") == 0)
            file = b->t[i].file ? "first.safetensors" : "second.safetensors";
        else if (norm && strcmp(a, "file") == 0)
            file = v;
        em_buf_printf(&b->index, "\"%s\": \"%s\", ", b->t[i].name, file);
    }
    em_buf_printf(&b->index, "\"%s\": \"%s\"}}", strcmp(a, "add") == 0 ? v : b->t[0].name,
                  "first.safetensors");                     /* the first one again, or one that is nowhere */
    if (strcmp(a, "twice") != 0 && strcmp(a, "add") != 0) { /* undo the repetition */
        char *last = strrchr(b->index.data, ',');
        strcpy(last, "}}");
        b->index.len = strlen(b->index.data);
    }
    if (strcmp(a, "cut") == 0)
        b->index.len /= 2;
    return 0;
}

/* The same tensor in two files that no index tells apart. */
static int in_two_files(broken_model *b, const char *name, const char *unused)
{
    TENSOR_OR_RETURN(b, name);
    b->n_files = 2;
    b->t[b->n] = *t;
    b->t[b->n++].file = 1;
    return 0;
}

/* --- the kinds ------------------------------------------------------------------------------------------------- */

/* One row, one line. */
/* clang-format off */
#define CONFIG(name, key, value, says) {name, says, true, set_config, key, value}
#define TENSOR(name, fn, tensor, value, says) {name, says, true, fn, tensor, value}
#define FILE_(name, fn, a, says) {name, says, true, fn, a, NULL}
#define INDEX_(name, a, v, says) {name, says, true, with_index, a, v}
/* clang-format on */

static const break_kind kinds[] = {
    /* config.json */
    FILE_("config-missing", no_config, NULL, "config.json"),
    FILE_("config-empty", replace_config, "", "not valid JSON"),
    FILE_("config-cut", cut_config, NULL, "not valid JSON"),
    FILE_("config-list", replace_config, "[1, 2]", "must hold one JSON object"),
    FILE_("config-other-object", replace_config, "{\"hello\": \"world\"}", "lacks vocab_size"),
    {"config-twice", "twice", true, repeat_config, "hidden_size", "64"},
    {"config-lacks-hidden-size", "hidden_size", true, drop_config, "hidden_size", NULL},
    {"config-lacks-engram-heads", "engram_n_heads", true, drop_config, "engram_n_heads", NULL},
    CONFIG("config-nan", "hidden_size", "NaN", "not valid JSON"),
    CONFIG("config-zero", "hidden_size", "0", "hidden_size"),
    CONFIG("config-negative", "hidden_size", "-64", "hidden_size"),
    CONFIG("config-huge", "hidden_size", "1e12", "hidden_size"),
    CONFIG("config-fraction", "hidden_size", "64.5", "hidden_size"),
    CONFIG("config-string", "hidden_size", "\"64\"", "hidden_size"),
    CONFIG("config-other-size", "hidden_size", "96", "embed.weight"),
    CONFIG("config-too-many-layers", "num_hidden_layers", "1000", "num_hidden_layers"),
    CONFIG("config-ratios-short", "compress_ratios", "[0, 0]", "compress_ratios"),
    CONFIG("config-ratio-negative", "compress_ratios", "[0, 0, 2, 2, 1, -1]", "compress_ratios"),
    CONFIG("config-source-without-ratio", "kv_source_layer_ids", "[0, 2, 4]", "kv_source_layer_ids"),
    CONFIG("config-source-not-index", "index_source_layer_ids", "[2, 5]", "index_source_layer_ids"),
    CONFIG("config-source-beyond", "kv_source_layer_ids", "[2, 4, 9]", "kv_source_layer_ids"),
    CONFIG("config-no-source", "kv_source_layer_ids", "[4]", "kv_source_layer_ids"),
    CONFIG("config-candidate", "candidate_source_layer_id", "3", "candidate_source_layer_id"),
    CONFIG("config-candidate-ratio", "candidate_source_layer_id", "2", "candidates"),
    CONFIG("config-odd-rope", "qk_rope_head_dim", "7", "qk_rope_head_dim"),
    CONFIG("config-groups", "o_groups", "3", "o_groups"),
    CONFIG("config-topk", "num_experts_per_tok", "5", "num_experts_per_tok"),
    CONFIG("config-model-type", "model_type", "\"llama\"", "llama"),
    CONFIG("config-scoring", "scoring_func", "\"tanh\"", "scoring_func"),
    CONFIG("config-kv-heads", "num_key_value_heads", "4", "num_key_value_heads"),
    CONFIG("config-streams", "hc_mult", "9", "hc_mult"),
    CONFIG("config-rope-type", "rope_type", "\"linear\"", "rope_type"),
    CONFIG("config-engram-rows", "engram_num_embeddings", "[10, 10]", "engram_num_embeddings"),
    CONFIG("config-engram-layer", "engram_layer_ids", "[1, 6]", "engram_layer_ids"),
    CONFIG("config-engram-pad", "engram_pad_token_id", "100000", "engram_pad_token_id"),
    CONFIG("config-quant-method", "quant_method", "\"gptq\"", "quant_method"),
    CONFIG("config-block-size", "weight_block_size", "[128, 128]", "scale"),
    CONFIG("config-expert-dtype", "expert_dtype", "\"fp8\"", "expert_dtype"),
    /* the file */
    FILE_("weights-missing", no_weights, NULL, "no *.safetensors file"),
    FILE_("weights-folder", folder_for_weights, NULL, "is a folder"),
    FILE_("weights-empty", keep_weights, "-1", "truncated"),
    FILE_("weights-five-bytes", keep_weights, "5", "truncated"),
    FILE_("weights-cut-in-header", keep_weights, "1000", "truncated"),
    FILE_("weights-cut", cut_weights, "100", "truncated"),
    FILE_("weights-longer", cut_weights, "-100", "belong to no tensor"),
    FILE_("header-length-huge", set_header_len, "0xffffffffffffffff", "header"),
    FILE_("header-length-beyond", set_header_len, "0x7ffffff", "truncated"),
    FILE_("header-length-short", set_header_len, "100", "not valid JSON"),
    FILE_("header-not-json", set_header, "hello", "not valid JSON"),
    FILE_("header-list", set_header, "[]", "JSON object"),
    FILE_("header-bad-utf8", set_header, "{\"\xff\": 1}", "not valid JSON"),
    FILE_("header-deep", set_header, "{\"a\":[[[[[[[[[[[[[[[[[[[[[[[[[[", "tensor a"),
    FILE_("header-empty", set_header, "{}", "belong to no tensor"),
    /* entries */
    TENSOR("entry-number", set_entry, "norm.weight", "7", "norm.weight"),
    TENSOR("entry-without-dtype", set_entry, "norm.weight", "{\"shape\":[64],\"data_offsets\":[0,128]}",
           "dtype is missing"),
    TENSOR("entry-without-offsets", set_entry, "norm.weight", "{\"shape\":[64],\"dtype\":\"BF16\"}",
           "data_offsets is missing"),
    TENSOR("entry-unknown-dtype", set_dtype, "norm.weight", "F99", "F99"),
    TENSOR("entry-nine-dims", set_shape, "norm.weight", "[64,1,1,1,1,1,1,1,1]", "8 dimensions"),
    TENSOR("entry-negative-dim", set_shape, "norm.weight", "[-64]", "norm.weight"),
    TENSOR("entry-overflow", set_shape, "norm.weight", "[4294967296,4294967296,4294967296]", "impossible shape"),
    TENSOR("entry-size", set_shape, "norm.weight", "[65]", "norm.weight"),
    TENSOR("offsets-reversed", set_offsets, "norm.weight", "[128,0]", "before it begins"),
    TENSOR("offsets-beyond", set_offsets, "norm.weight", "[999999872,1000000000]", "truncated"),
    TENSOR("offsets-overlap", set_offsets, "norm.weight", "[0,128]", "overlap"),
    TENSOR("offsets-negative", set_offsets, "norm.weight", "[-128,0]", "data_offsets"),
    TENSOR("offsets-fraction", set_offsets, "norm.weight", "[0.5,128]", "data_offsets"),
    TENSOR("offsets-three", set_offsets, "norm.weight", "[0,128,256]", "data_offsets"),
    TENSOR("name-twice", copy_tensor, "norm.weight", "norm.weight", "norm.weight appears twice"),
    TENSOR("name-empty", rename_tensor, "norm.weight", "", "name is empty"),
    TENSOR("name-two-spellings", copy_tensor, "norm.weight", "model.norm.weight", "same tensor"),
    TENSOR("name-two-heads", copy_tensor, "head.weight", "lm_head.weight", "same tensor"),
    /* the model's tensors */
    TENSOR("missing-embed", drop_tensor, "embed.weight", NULL, "embed.weight"),
    TENSOR("missing-norm", drop_tensor, "layers.2.attn.q_norm.weight", NULL, "layers.2.attn.q_norm.weight"),
    TENSOR("missing-sink", drop_tensor, "layers.5.attn.attn_sink", NULL, "layers.5.attn.attn_sink"),
    TENSOR("missing-hc", drop_tensor, "layers.3.hc_ffn_scale", NULL, "layers.3.hc_ffn_scale"),
    TENSOR("missing-expert", drop_tensor, "layers.4.ffn.experts.3.w2.weight", NULL, "layers.4.ffn.experts.3.w2"),
    TENSOR("missing-bias-vl", drop_tensor, "layers.0.ffn.gate.bias_vl", NULL, "bias_vl"),
    TENSOR("missing-compressor-gate", drop_tensor, "layers.2.attn.compressor.wgate.weight", NULL, "compressor.wgate"),
    TENSOR("missing-index-query", drop_tensor, "layers.5.attn.indexer.wq_b.weight", NULL, "layers.5.attn.indexer.wq_b"),
    TENSOR("missing-table", drop_tensor, "layers.1.engram.embed.weight", NULL, "layers.1.engram.embed.weight"),
    TENSOR("missing-fp8-scale", drop_tensor, "layers.0.attn.wq_a.scale", NULL, "layers.0.attn.wq_a.scale is missing"),
    TENSOR("missing-fp4-scale", drop_tensor, "layers.1.ffn.experts.0.w1.scale", NULL, "experts.0.w1.scale is missing"),
    TENSOR("missing-table-scale", drop_tensor, "layers.3.engram.embed.scale", NULL, "engram.embed.scale is missing"),
    TENSOR("left-over", copy_tensor, "norm.weight", "extra.weight", "extra.weight is left over"),
    TENSOR("left-over-in-layer", copy_tensor, "layers.0.attn.q_norm.weight", "layers.0.attn.q_head_norm.weight",
           "q_head_norm"),
    TENSOR("left-over-layer", copy_tensor, "norm.weight", "layers.6.attn_norm.weight", "layers.6.attn_norm.weight"),
    TENSOR("left-over-gate", copy_tensor, "layers.2.attn.compressor.wgate.weight",
           "layers.4.attn.compressor.wgate.weight", "layers.4.attn.compressor.wgate.weight"),
    TENSOR("left-over-scale", copy_tensor, "layers.0.attn.wq_a.scale", "head.scale", "head.scale"),
    TENSOR("left-over-expert", copy_tensor, "layers.0.ffn.experts.0.w1.weight", "layers.0.ffn.experts.4.w1.weight",
           "experts.4"),
    TENSOR("shape-transposed", set_shape, "embed.weight", "[64,320]", "embed.weight has shape [64, 320]"),
    TENSOR("shape-flat", set_shape, "embed.weight", "[20480]", "embed.weight has shape [20480]"),
    TENSOR("shape-vector", set_shape, "norm.weight", "[64,1]", "norm.weight has shape [64, 1]"),
    TENSOR("shape-fp8", set_shape, "layers.0.attn.wq_a.weight", "[64,32]", "wq_a.weight has shape [64, 32]"),
    TENSOR("shape-fp4", set_shape, "layers.0.ffn.experts.1.w1.weight", "[16,64]", "experts.1.w1.weight has shape"),
    TENSOR("shape-fp8-scale", retype, "layers.0.attn.wq_b.scale", "F8_E8M0 3 [3,1]", "wq_b.scale has shape [3, 1]"),
    TENSOR("shape-fp4-scale", retype, "layers.0.ffn.experts.1.w1.scale", "F8_E8M0 128 [32,4]",
           "w1.scale has shape [32, 4]"),
    TENSOR("shape-table", retype, "layers.1.engram.embed.weight", "F8_E4M3 32000 [1000,32]",
           "engram.embed.weight has shape"),
    TENSOR("shape-table-scale", retype, "layers.1.engram.embed.scale", "F8_E8M0 1000 [1000,1]",
           "engram.embed.scale has shape"),
    TENSOR("dtype-f16", set_dtype, "norm.weight", "F16", "norm.weight has dtype F16"),
    TENSOR("dtype-embed-fp8", retype, "embed.weight", "F8_E4M3 20480 [320,64]", "embed.weight has dtype F8_E4M3"),
    TENSOR("dtype-attention-packed", set_dtype, "layers.0.attn.wkv.weight", "I8", "wkv.weight has dtype I8"),
    TENSOR("dtype-expert-float", retype, "layers.0.ffn.experts.0.w2.weight", "BF16 4096 [64,32]",
           "experts.0.w2.weight has dtype BF16"),
    TENSOR("dtype-e5m2", set_dtype, "layers.0.attn.wo_b.weight", "F8_E5M2", "wo_b.weight has dtype F8_E5M2"),
    TENSOR("dtype-scale", retype, "layers.0.attn.wq_a.scale", "F32 8 [1,2]", "wq_a.scale has dtype F32"),
    TENSOR("dtype-table", set_dtype, "layers.1.engram.embed.weight", "I8", "engram.embed.weight has dtype I8"),
    /* several files */
    INDEX_("index-cut", "cut", NULL, "not valid JSON"),
    INDEX_("index-file-missing", "file", "third.safetensors", "third.safetensors"),
    INDEX_("index-leaves-folder", "file", "../first.safetensors", "same folder"),
    INDEX_("index-lacks-tensor", "drop", NULL, "does not list"),
    INDEX_("index-extra-tensor", "add", "layers.0.nowhere", "layers.0.nowhere"),
    INDEX_("index-wrong-file", "swap", NULL, "but it is in"),
    INDEX_("index-twice", "twice", NULL, "twice"),
    FILE_("two-files-one-tensor", in_two_files, "norm.weight", "norm.weight appears twice"),
    /* found when the tokenizer is there */
    {"tokenizer-missing", "tokenizer.json", false, no_tokenizer, NULL, NULL},
    {"tokenizer-cut", "tokenizer.json", false, cut_tokenizer, NULL, NULL},
    {"engram-class-count", "engram_compressed_vocab_size", false, set_config, "engram_compressed_vocab_size", "200"},
};

size_t break_model_count(void)
{
    return sizeof(kinds) / sizeof(*kinds);
}

const break_kind *break_model_kind(size_t i)
{
    return &kinds[i];
}

const break_kind *break_model_find(const char *name)
{
    for (size_t i = 0; i < break_model_count(); i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}

/* --- in and out ------------------------------------------------------------------------------------------------ */

static int read_text(const char *dir, const char *name, em_buf *ret, em_error *err)
{
    char path[4096], *data;
    size_t size;
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int r = em_file_read(path, 64u << 20, &data, &size, err);
    if (r == 0) {
        r = em_buf_append(ret, data, size);
        free(data);
    }
    return r;
}

static int take_tensors(broken_model *b, const em_st_set *set)
{
    b->n = em_st_count(set);
    b->t = calloc(b->n + 1, sizeof(*b->t)); /* one more: what a kind may add */
    if (!b->t)
        return -ENOMEM;
    for (size_t i = 0; i < b->n; i++) {
        const em_st_tensor *from = em_st_get(set, i);
        broken_tensor *t = &b->t[i];
        snprintf(t->name, sizeof(t->name), "%s", from->name);
        snprintf(t->dtype, sizeof(t->dtype), "%s", em_st_dtype_name(from->dtype));
        int at = snprintf(t->shape, sizeof(t->shape), "[");
        for (int32_t d = 0; d < from->n_dims; d++)
            at += snprintf(t->shape + at, sizeof(t->shape) - (size_t)at, "%s%lld", d ? "," : "",
                           (long long)from->shape[d]);
        snprintf(t->shape + at, sizeof(t->shape) - (size_t)at, "]");
        t->data = from->data;
        t->bytes = from->bytes;
    }
    return 0;
}

/* The bytes of one file as the fault wants them. */
static void compose(const broken_model *b, int file, em_buf *out)
{
    em_buf header = {0};
    uint64_t at = 0;
    em_buf_puts(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < b->n; i++) {
        const broken_tensor *t = &b->t[i];
        if (t->file != file)
            continue;
        char offsets[96];
        snprintf(offsets, sizeof(offsets), "[%llu,%llu]", (unsigned long long)at, (unsigned long long)(at + t->bytes));
        em_buf_printf(&header, ",\"%s\":", t->name);
        if (t->entry[0])
            em_buf_puts(&header, t->entry);
        else
            em_buf_printf(&header, "{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":%s}", t->dtype, t->shape,
                          t->offsets[0] ? t->offsets : offsets);
        at += t->bytes;
    }
    em_buf_puts(&header, "}");
    const em_buf *h = b->header.len ? &b->header : &header;
    uint64_t len = b->header_len ? b->header_len : h->len;
    for (int i = 0; i < 8; i++)
        em_buf_append(out, &(char){(char)(len >> (8 * i))}, 1);
    em_buf_append(out, h->data, h->len);
    for (size_t i = 0; i < b->n; i++)
        if (b->t[i].file == file && b->t[i].bytes)
            em_buf_append(out, b->t[i].data, b->t[i].bytes);
    em_buf_done(&header);
    for (int64_t i = b->cut; i < 0; i++)
        em_buf_append(out, "x", 1);
    if (b->cut > 0)
        out->len -= (size_t)b->cut;
    if (b->keep)
        out->len = b->keep > 0 ? (size_t)b->keep : 0;
}

static int write_file(const char *dir, const char *name, const em_buf *text, em_error *err)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    FILE *f = text->failed ? NULL : fopen(path, "wb");
    bool good = f && (text->len == 0 || fwrite(text->data, 1, text->len, f) == text->len);
    if (f && fclose(f) != 0)
        good = false;
    return good ? 0 : em_error_set(err, -EIO, "cannot write %s: %m", path);
}

static int write_weights(const char *dir, const broken_model *b, em_error *err)
{
    static const char *const two[] = {"first.safetensors", "second.safetensors"};
    int r = 0;
    for (int file = 0; file < b->n_files && r == 0; file++) {
        em_buf out = {0};
        compose(b, file, &out);
        r = write_file(dir, b->n_files == 1 ? WEIGHTS : two[file], &out, err);
        em_buf_done(&out);
    }
    return r;
}

static int write_all(const char *dir, const broken_model *b, em_error *err)
{
    char path[4096];
    int r = b->no_config ? 0 : write_file(dir, "config.json", &b->config, err);
    if (r == 0 && !b->no_tokenizer)
        r = write_file(dir, "tokenizer.json", &b->tokenizer, err);
    if (r == 0 && !b->no_weights)
        r = write_weights(dir, b, err);
    if (r == 0 && b->index.len)
        r = write_file(dir, INDEX, &b->index, err);
    if (r == 0 && b->weights_is_folder) {
        snprintf(path, sizeof(path), "%s/" WEIGHTS, dir);
        r = mkdir(path, 0755) == 0 ? 0 : em_error_set(err, -errno, "cannot make %s: %m", path);
    }
    return r;
}

int break_model(const break_kind *kind, const char *src, const char *dst, em_error *err)
{
    broken_model b = {.n_files = 1};
    em_st_set *set = NULL;
    int r = read_text(src, "config.json", &b.config, err);
    if (r == 0)
        r = read_text(src, "tokenizer.json", &b.tokenizer, err);
    if (r == 0)
        r = em_st_open(src, &set, err);
    if (r == 0) {
        r = take_tensors(&b, set);
        if (r == 0)
            r = kind->apply(&b, kind->a, kind->v);
        if (r < 0)
            r = cannot(err, kind->name);
    }
    if (r == 0)
        r = write_all(dst, &b, err);
    em_st_close(set);
    free(b.t);
    em_buf_done(&b.config);
    em_buf_done(&b.tokenizer);
    em_buf_done(&b.index);
    em_buf_done(&b.header);
    return r;
}
