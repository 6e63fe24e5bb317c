#include "engine/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_open.h"
#include "engine/engram_spec.h"
#include "engine/plan_count.h"

/* --- the tables -------------------------------------------------------------------------------------------------- */

static void describe_rows(em_inspect *in, const em_engram_spec *spec)
{
    size_t dim = (size_t)spec->head_dim;
    switch (spec->dtype) {
    case EM_ENGRAM_FP8:
        in->dtype = "F8_E4M3";
        in->scale_dtype = "F8_E8M0";
        in->row_bytes = dim;
        in->scale_bytes = dim / 32;
        break;
    case EM_ENGRAM_BF16:
        in->dtype = "BF16";
        in->row_bytes = 2 * dim;
        break;
    case EM_ENGRAM_F32:
        in->dtype = "F32";
        in->row_bytes = 4 * dim;
        break;
    case EM_ENGRAM_INT8:
        in->dtype = "I8";
        in->scale_dtype = "F32";
        in->row_bytes = dim;
        in->scale_bytes = sizeof(float);
        break;
    }
}

static int describe_tables(em_inspect *in, const em_engram_spec *spec, const char *dir, em_error *err)
{
    char text[sizeof err->text];
    em_engram_hash *hash = calloc(EM_ENGRAM_MAX_TABLES, sizeof(*hash));
    int r = hash ? em_engram_hash_init(spec, hash, text, sizeof(text)) : -ENOMEM;
    if (r < 0)
        em_error_set(err, r, "%s: %s", dir, hash ? text : "out of memory");
    for (int32_t i = 0; r == 0 && i < spec->n_tables; i++) {
        uint64_t bytes = (uint64_t)spec->table[i].n_rows * (in->row_bytes + in->scale_bytes);
        in->table[i] = (em_inspect_table){spec->table[i].layer, spec->table[i].n_rows, bytes, hash[i]};
        in->table_bytes += bytes;
    }
    free(hash);
    return r;
}

static int describe(em_inspect *in, const em_plan_input *plan, const char *dir, em_error *err)
{
    const em_model_config *cfg = plan->cfg;
    em_tokenizer *tok = NULL;
    em_token_map map = {0};
    em_engram_spec spec;
    int r = em_tokenizer_load(dir, &tok, err);
    if (r == 0 && (r = em_engram_token_map(tok, cfg, dir, &map, err)) == 0) {
        em_engram_spec_fill(cfg, plan->weights.table_dtype, &map, &spec);
        in->n_tables = spec.n_tables;
        in->max_order = spec.max_order;
        in->n_heads = spec.n_heads;
        in->head_dim = spec.head_dim;
        in->prime_start = spec.prime_start;
        in->n_ids = map.n_ids;
        in->n_classes = map.n_classes;
        in->pad_id = cfg->engram_pad_id;
        in->pad_class = spec.pad_class;
        describe_rows(in, &spec);
        r = describe_tables(in, &spec, dir, err);
    }
    em_token_map_done(&map);
    em_tokenizer_free(tok);
    return r;
}

/* --- the tiers --------------------------------------------------------------------------------------------------- */

static const char *why(em_engram_tier tier)
{
    switch (tier) {
    case EM_ENGRAM_TIER_RAM:
        return "the tables are small: a copy in memory costs little, and rows never wait for a disk";
    case EM_ENGRAM_TIER_MMAP:
        return "the tables are large: rows are read from the files, of which the page cache keeps what is used";
    default: return "it is what the tables' size asks for";
    }
}

static int add_tiers(em_inspect *in, em_plan_input *plan, const em_machine_roots *roots, em_error *err)
{
    em_machine machine;
    em_memory_plan p;
    em_engram_tier best = em_engram_resolve_tier(EM_ENGRAM_TIER_AUTO, in->table_bytes);
    em_machine_read(roots, &machine);
    in->auto_tier = em_engine_tier_name(best);
    in->why = why(best);
    for (int i = EM_ENGRAM_TIER_AUTO + 1; in->n_tiers < EM_INSPECT_MAX_TIERS; i++) {
        em_inspect_tier *t = &in->tier[in->n_tiers];
        const char *name = em_engine_tier_name((em_engram_tier)i);
        if (strcmp(name, "none") == 0)
            return 0;
        plan->opts.engram_tier = (em_engram_tier)i;
        int r = em_plan_count(plan, &p, err);
        if (r < 0)
            return r;
        em_plan_judge(plan, &machine, &p);
        *t = (em_inspect_tier){name, p.own, p.locked, p.cached, p.fits};
        in->n_tiers++;
    }
    return 0;
}

int em_engine_inspect(const em_engine_opts *opts, const em_machine_roots *roots, em_inspect *ret_inspect, em_error *err)
{
    em_model_config cfg;
    em_plan_input plan;
    em_inspect *in = calloc(1, sizeof(*in));
    int r = in ? em_plan_read(opts, &cfg, &plan, err) : em_error_set(err, -ENOMEM, "out of memory");
    if (r == 0 && cfg.n_engram_layers > 0 && (r = describe(in, &plan, opts->model_dir, err)) == 0)
        r = add_tiers(in, &plan, roots, err);
    if (r == 0)
        *ret_inspect = *in;
    free(in);
    return r;
}
