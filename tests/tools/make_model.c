/* make-model: writes a random checkpoint of the V4.1 structure. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/clock.h"
#include "tests/tools/model_writer.h"

static const char usage[] =
    "usage: make-model [options] FOLDER\n"
    "  --preset tiny|s|m|l   start from this size (default tiny: 0.9 MB; s: 0.1 GB; m: 2 GB of weights and 4 GB of\n"
    "                        tables; l: 8 and 8 GB). Memory does not grow with it\n"
    "  --random SEED         instead of a preset: a random tiny valid configuration\n"
    "  --seed N              of the weights and the tokenizer (default 1)\n"
    "  --dtype f32|bf16|released\n"
    "  --shards N            several files and an index\n"
    "  --flat  --vendor  --model-prefix  --foreign  --float-scales  --packed-layout    how it is stored\n"
    "  --layers N  --hidden N  --vocab N  --tokenizer N  --heads N  --head-dim N  --rope-dim N  --q-lora N  --o-groups "
    "N\n"
    "  --o-lora N  --window N  --index-topk N  --experts N  --experts-per-tok N  --moe-inter N  --hc N  --max-len N\n"
    "  --engram-vocab N  --engram-heads N  --engram-dim N  --engram-orders N  --no-engram    override one size\n";

/* Options that set one integer of the spec. */
static const struct {
    const char *name;
    size_t offset; /* of an int32_t in model_spec */
} sizes[] = {
    {"hidden", offsetof(model_spec, c.hidden_size)},
    {"vocab", offsetof(model_spec, c.vocab_size)},
    {"tokenizer", offsetof(model_spec, tokenizer_size)},
    {"heads", offsetof(model_spec, c.n_heads)},
    {"head-dim", offsetof(model_spec, c.head_dim)},
    {"rope-dim", offsetof(model_spec, c.rope_dim)},
    {"q-lora", offsetof(model_spec, c.q_lora_rank)},
    {"o-groups", offsetof(model_spec, c.o_groups)},
    {"o-lora", offsetof(model_spec, c.o_lora_rank)},
    {"window", offsetof(model_spec, c.window)},
    {"index-topk", offsetof(model_spec, c.index_topk)},
    {"experts", offsetof(model_spec, c.n_experts)},
    {"experts-per-tok", offsetof(model_spec, c.n_experts_per_tok)},
    {"moe-inter", offsetof(model_spec, c.moe_inter)},
    {"hc", offsetof(model_spec, c.hc_mult)},
    {"max-len", offsetof(model_spec, c.max_len)},
    {"engram-heads", offsetof(model_spec, c.engram_n_heads)},
    {"engram-dim", offsetof(model_spec, c.engram_head_dim)},
    {"engram-orders", offsetof(model_spec, c.engram_max_order)},
    {"shards", offsetof(model_spec, n_shards)},
};
#define N_SIZES (sizeof(sizes) / sizeof(*sizes))

enum {
    OPT_PRESET = 256,
    OPT_RANDOM,
    OPT_SEED,
    OPT_DTYPE,
    OPT_LAYERS,
    OPT_ENGRAM_VOCAB,
    OPT_NO_ENGRAM,
    OPT_FLAT,
    OPT_VENDOR,
    OPT_PREFIX,
    OPT_FOREIGN,
    OPT_FLOAT_SCALES,
    OPT_PACKED,
    OPT_SIZE
};

static const struct option fixed[] = {
    {"preset", required_argument, NULL, OPT_PRESET},  {"random", required_argument, NULL, OPT_RANDOM},
    {"seed", required_argument, NULL, OPT_SEED},      {"dtype", required_argument, NULL, OPT_DTYPE},
    {"layers", required_argument, NULL, OPT_LAYERS},  {"engram-vocab", required_argument, NULL, OPT_ENGRAM_VOCAB},
    {"no-engram", no_argument, NULL, OPT_NO_ENGRAM},  {"flat", no_argument, NULL, OPT_FLAT},
    {"vendor", no_argument, NULL, OPT_VENDOR},        {"model-prefix", no_argument, NULL, OPT_PREFIX},
    {"foreign", no_argument, NULL, OPT_FOREIGN},      {"float-scales", no_argument, NULL, OPT_FLOAT_SCALES},
    {"packed-layout", no_argument, NULL, OPT_PACKED},
};
#define N_FIXED (sizeof(fixed) / sizeof(*fixed))

static int64_t number(const char *option, const char *text)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 0);
    if (errno || end == text || *end || v < 0 || v > INT64_C(1) << 40) {
        fprintf(stderr, "make-model: %s needs a number, not \"%s\"\n", option, text);
        exit(2);
    }
    return v;
}

static void set_dtype(model_spec *s, const char *text)
{
    static const char *const names[] = {"f32", "bf16", "released"};
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            s->storage = (model_storage)i;
            return;
        }
    fprintf(stderr, "make-model: --dtype must be f32, bf16 or released\n");
    exit(2);
}

static void apply(model_spec *s, int opt, int size_idx, const char *arg)
{
    switch (opt) {
    case OPT_SEED: s->seed = (uint64_t)number("--seed", arg); break;
    case OPT_DTYPE: set_dtype(s, arg); break;
    case OPT_LAYERS:
        if (number("--layers", arg) < 1 || number("--layers", arg) > EM_MAX_LAYERS) {
            fprintf(stderr, "make-model: --layers must be 1 to %d\n", EM_MAX_LAYERS);
            exit(2);
        }
        model_spec_schedule(s, (int32_t)number("--layers", arg));
        break;
    case OPT_ENGRAM_VOCAB: s->c.engram_vocab_size = number("--engram-vocab", arg); break;
    case OPT_NO_ENGRAM: s->c.n_engram_layers = 0; break;
    case OPT_FLAT: s->nested = false; break;
    case OPT_VENDOR:
        s->nested = false;
        s->vendor_spelling = true;
        break;
    case OPT_PREFIX: s->model_prefix = true; break;
    case OPT_FOREIGN: s->foreign = true; break;
    case OPT_FLOAT_SCALES: s->float_scales = true; break;
    case OPT_PACKED: s->packed_layout = true; break;
    case OPT_SIZE: *(int32_t *)((char *)s + sizes[size_idx].offset) = (int32_t)number(sizes[size_idx].name, arg); break;
    default: break;
    }
}

/* What the options start from, wherever they stand on the line. */
static void start(model_spec *s, const char *preset, const char *random)
{
    if (random) {
        model_spec_random(s, (uint64_t)number("--random", random));
    } else if (model_spec_preset(s, preset, 1) < 0) {
        fprintf(stderr, "make-model: --preset must be tiny, s, m or l\n");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct option options[N_FIXED + N_SIZES + 2] = {{0}};
    memcpy(options, fixed, sizeof(fixed));
    for (size_t i = 0; i < N_SIZES; i++)
        options[N_FIXED + i] = (struct option){sizes[i].name, required_argument, NULL, OPT_SIZE};
    options[N_FIXED + N_SIZES] = (struct option){"help", no_argument, NULL, 'h'};
    const char *preset = "tiny", *random = NULL;
    model_spec spec;
    int opt, idx;
    while ((opt = getopt_long(argc, argv, "h", options, &idx)) != -1) {
        if (opt == 'h' || opt == '?') {
            fputs(usage, opt == 'h' ? stdout : stderr);
            return opt == 'h' ? 0 : 2;
        }
        preset = opt == OPT_PRESET ? optarg : preset;
        random = opt == OPT_RANDOM ? optarg : random;
    }
    if (optind != argc - 1) {
        fputs(usage, stderr);
        return 2;
    }
    start(&spec, preset, random);
    const char *dir = argv[optind];
    optind = 1;
    while ((opt = getopt_long(argc, argv, "h", options, &idx)) != -1)
        apply(&spec, opt, idx - (int)N_FIXED, optarg);
    if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
        fprintf(stderr, "make-model: cannot make the folder %s: %m\n", dir);
        return 1;
    }
    model_info info;
    em_error err = {0};
    uint64_t t0 = em_now_ns();
    if (model_write(dir, &spec, &info, &err) < 0) {
        fprintf(stderr, "make-model: %s\n", err.text);
        return 1;
    }
    double seconds = (double)(em_now_ns() - t0) * 1e-9;
    char text[512];
    printf("%s\n%d tensors, %.1f MB in %.2f s; %.1f MB of them Engram tables\n",
           model_spec_describe(&spec, text, sizeof(text)), info.n_tensors, (double)info.bytes * 1e-6, seconds,
           (double)info.table_bytes * 1e-6);
    return 0;
}
