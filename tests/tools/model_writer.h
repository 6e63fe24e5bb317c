/* Random checkpoints of the V4.1 structure, written straight to disk: for tests (tiny ones, in-process) and for
 * benchmarks (gigabytes, through make-model).
 *
 *     model_spec spec;
 *     model_spec_random(&spec, seed);           // or model_spec_preset(&spec, "tiny", seed); then change what matters
 *     model_write(dir, &spec, &info, &err);     // config.json, tokenizer.json, *.safetensors into an existing folder
 *
 * Link model_writer_dep. The same spec gives the same weights on every machine, however they are sharded, named or
 * spelled: a tensor's values depend on the seed and its name alone. Weights are scaled so that activations stay O(1);
 * nothing is trivial (norms, sinks, biases and mHC parameters are all perturbed). One writer per folder; any thread. */
#ifndef EM_TESTS_MODEL_WRITER_H
#define EM_TESTS_MODEL_WRITER_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/buf.h"
#include "engine/config.h"

typedef enum model_storage {
    MODEL_F32,
    MODEL_BF16,     /* hc_*, sinks and gate biases stay F32 */
    MODEL_RELEASED, /* FP8 32x32 linears, packed FP4 experts (FP8 when a dimension is odd), FP8 table rows where
                     * head_dim is a multiple of 32, BF16 else */
} model_storage;

typedef struct model_spec {
    /* What the model is. Of role[] only ratio and is_index_source count, of the rest all but engram_rows,
     * engram_n_classes and the quantisation fields, which the writer works out. */
    em_model_config c;
    int32_t tokenizer_size; /* ids of tokenizer.json, at least MODEL_MIN_TOKENIZER; 0: none (not with Engram) */
    int32_t spare_rows;     /* rows of every Engram table beyond its primes */

    /* how it is stored */
    model_storage storage;
    int32_t n_shards;     /* above 1: with model.safetensors.index.json */
    bool nested;          /* text_config inside, as released; else flat */
    bool vendor_spelling; /* dim, n_layers, ...: flat only */
    bool model_prefix;    /* model.layers..., lm_head.weight */
    bool foreign;         /* a few tensors of families that a text engine leaves aside */
    bool float_scales;    /* all-ones engram.embed.scale beside float tables, as transformers writes */
    bool packed_layout;   /* tensors in name order without regard to alignment; else wide types first */
    bool add_bos;         /* tokenizer_config.json */
    uint64_t seed;
} model_spec;

#define MODEL_MIN_TOKENIZER 265 /* 3 special tokens, 256 bytes, 6 added tokens */

typedef struct model_info {
    em_model_config config; /* as the program will read it */
    uint64_t bytes;         /* of all tensors */
    uint64_t table_bytes;   /* of them, Engram tables */
    int32_t n_tensors;
} model_info;

/* "tiny": 6 layers, every feature, 0.9 MB; "s": 0.1 GB; "m": 2 GB of weights, which no cache holds, and 4 GB of tables;
 * "l": 8 GB and 8 GB. -EINVAL: unknown. */
int model_spec_preset(model_spec *spec, const char *name, uint64_t seed);

/* A random tiny valid configuration over the whole space the loader accepts. */
void model_spec_random(model_spec *spec, uint64_t seed);

/* n_layers and a schedule for it: two window layers, ratio 2, ratio 1 with candidates and a re-indexing layer. */
void model_spec_schedule(model_spec *spec, int32_t n_layers);

/* One line for logs: what a failing test must print. */
const char *model_spec_describe(const model_spec *spec, char *buf, size_t cap);

/* What writing would come to; nothing is written. */
int model_measure(const model_spec *spec, model_info *ret_info, em_error *err);

/* Writes the folder's files, a megabyte at a time: what is in memory does not grow with the model. ret_info may be NULL. */
int model_write(const char *dir, const model_spec *spec, model_info *ret_info, em_error *err);

/* --- parts ---------------------------------------------------------------------------------------------------- */

/* config.json of a spec whose engram_rows and engram_n_classes are known. */
void model_config_json(const model_spec *spec, em_buf *out);

/* A byte-level BPE of the DeepSeek structure with n ids, its merges drawn from seed. */
void model_tokenizer_json(int32_t n, uint64_t seed, em_buf *out);
void model_tokenizer_config_json(bool add_bos, em_buf *out);

/* Random numbers: a stream per (seed, name). */
typedef struct model_rng {
    uint64_t s;
} model_rng;

static inline uint64_t model_rng_next(model_rng *r)
{
    uint64_t z = r->s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

model_rng model_rng_init(uint64_t seed, const char *name);

/* lo..hi, both included. */
static inline int32_t model_rng_range(model_rng *r, int32_t lo, int32_t hi)
{
    return lo + (int32_t)(model_rng_next(r) % (uint64_t)(hi - lo + 1));
}

#endif
