/* One loaded model, and the forward pass on one page. */
#include "engine/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/backend.h"
#include "engine/base/clock.h"
#include "engine/cpu/kernels.h"
#include "engine/cpu/thread_pool.h"
#include "engine/plan_count.h"
#include "engine/safetensors.h"

struct em_model {
    em_model_config cfg;
    em_st_set *files; /* mapped checkpoint; weights and tables point into it */
    em_weights *weights;
    em_tokenizer *tok; /* NULL: none */
    em_token_map map;  /* empty without Engram */
    em_engram *engram; /* NULL: no Engram layers */
    em_kv_cache *kv;
    em_backend *backend;
    em_backend_choice choice; /* of the backend */
    em_backend_shape shape;
    bool fetched[EM_MAX_ENGRAM_LAYERS]; /* tables whose rows of this step the backend fetches itself */
    int32_t n_threads;                  /* of the backend */
    int32_t *suffix;                    /* [max_batch_tokens, max_order] look-back classes of a step being asked for */
    em_step_times times;
    uint64_t lap_ns; /* when the part of a step that is running now began */
    void (*on_progress)(void *ctx, const char *phase, double fraction);
    void *progress_ctx;
};

/* --- the forward pass --------------------------------------------------------------------------------------- */

/* The time since the last lap belongs to this part. */
static void lap(em_model *m, uint64_t *part)
{
    uint64_t now = em_now_ns();
    *part += now - m->lap_ns;
    m->lap_ns = now;
}

static void attention(em_model *m, int32_t l)
{
    em_backend *be = m->backend;
    uint64_t linear_ns = be->linear_ns, all = 0;
    be->attention(be, l);
    lap(m, &all);
    linear_ns = be->linear_ns - linear_ns;
    m->times.dense += linear_ns;
    m->times.attention += all > linear_ns ? all - linear_ns : 0;
}

/* Runs with lost rows have failed; they are computed along, with zeros for those rows, and disturb nobody. */
static void fail_runs(const em_batch *batch, int32_t l, const em_engram_rows *rows, int error)
{
    const uint8_t *flags = rows->token_flags;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        em_batch_seq *run = &batch->seqs[s];
        for (int32_t i = 0; i < run->n_tokens && !run->error; i++) {
            if (flags[i] & EM_ENGRAM_ROW_LOST) {
                run->error = error;
                run->error_layer = l;
            }
        }
        flags += run->n_tokens;
    }
}

static bool wants_insight(const em_batch *batch)
{
    int32_t n = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++)
        n += batch->seqs[s].n_insight;
    return n > 0;
}

/* Where the rows of a table came from; flags NULL: the backend has read the table itself. */
static void tell_origin(const em_model *m, const em_batch *batch, int32_t table, const uint8_t *flags)
{
    bool nvme = em_engram_tier_of(m->engram) == EM_ENGRAM_TIER_NVME;
    int32_t end = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        end += run->n_tokens;
        for (int32_t i = 0; i < run->n_insight; i++)
            run->insight.cached[i * m->cfg.n_engram_layers + table] =
                nvme && flags && !(flags[end - run->n_insight + i] & EM_ENGRAM_ROW_READ);
    }
}

static int engram(em_model *m, const em_batch *batch, int32_t l, em_engram_ticket *ticket)
{
    em_backend *be = m->backend;
    int32_t table = m->cfg.role[l].engram_idx;
    em_engram_rows rows;
    bool here = !m->fetched[table]; /* else the backend fetches them */
    int r = here ? em_engram_take(ticket, table, &rows) : 0;
    lap(m, &m->times.wait);
    if (r == -EIO || r == -EBADMSG)
        fail_runs(batch, l, &rows, r);
    else if (r < 0)
        return r;
    be->engram(be, l, here ? &rows : NULL);
    if (wants_insight(batch)) {
        be->insight(be, l, here ? &rows : NULL);
        tell_origin(m, batch, table, here ? rows.token_flags : NULL);
    }
    lap(m, &m->times.engram);
    return 0;
}

/* Block l of the specification, section 4.2. */
static int forward_layer(em_model *m, const em_batch *batch, int32_t l, em_engram_ticket *ticket)
{
    em_backend *be = m->backend;
    int r = m->cfg.role[l].engram_idx >= 0 ? engram(m, batch, l, ticket) : 0;
    if (r < 0)
        return r;
    be->hc_pre(be, l, EM_SITE_ATTN);
    lap(m, &m->times.other);
    attention(m, l);
    be->hc_post(be, l, EM_SITE_ATTN);
    be->hc_pre(be, l, EM_SITE_FFN);
    lap(m, &m->times.other);
    be->moe(be, l);
    lap(m, &m->times.moe);
    be->hc_post(be, l, EM_SITE_FFN);
    lap(m, &m->times.other);
    return 0;
}

/* Tells the backend which rows the step will need, in case it fetches them itself. */
static void expect_rows(em_model *m, em_engram_ticket *ticket)
{
    for (int32_t t = 0; t < m->cfg.n_engram_layers; t++) {
        em_engram_rows rows;
        em_engram_peek(ticket, t, &rows);
        m->fetched[t] = m->backend->expect && m->backend->expect(m->backend, t, &rows);
    }
}

int em_model_forward(em_model *m, const em_batch *batch, em_engram_ticket *ticket, float *logits, em_error *err)
{
    em_backend *be = m->backend;
    m->lap_ns = em_now_ns();
    for (int32_t s = 0; s < batch->n_seqs; s++)
        batch->seqs[s].error = 0;
    int r = be->begin(be, batch, err);
    if (r < 0)
        goto out;
    lap(m, &m->times.other);
    if (!ticket && (r = em_model_ask(m, batch, &ticket)) < 0) {
        em_error_set(err, r, "no Engram ticket is free for this step");
        goto out;
    }
    m->lap_ns = em_now_ns(); /* asking has its own clock */
    expect_rows(m, ticket);
    be->embed(be);
    for (int32_t l = 0; l < m->cfg.n_layers; l++) {
        r = forward_layer(m, batch, l, ticket);
        if (r < 0) {
            em_error_set(err, r, "the Engram rows of layer %d could not be read", l);
            goto out;
        }
    }
    r = be->head(be, logits, err);
    lap(m, &m->times.head);
out:
    em_engram_release(ticket);
    return r;
}

/* --- Engram rows -------------------------------------------------------------------------------------------- */

/* Classes c_0 .. c_{order-1} of every token: look-backs read the sequence's own ids, so nothing has to be kept between
 * steps and a resumed or forked sequence needs no bookkeeping. */
static void fill_suffixes(em_model *m, const em_batch *batch)
{
    const em_engram_hash *hash = em_engram_table_hash(m->engram, 0);
    int32_t order = m->cfg.engram_max_order, *out = m->suffix;
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        for (int32_t p = run->pos; p < run->pos + run->n_tokens; p++, out += order) {
            int32_t classes[EM_ENGRAM_MAX_ORDER], n = p + 1 < order ? p + 1 : order;
            for (int32_t i = 0; i < n; i++) {
                int32_t id = run->tokens[p - n + 1 + i];
                classes[i] = id < m->map.n_ids ? m->map.class_of[id] : EM_ENGRAM_DEAD; /* an id no text can make */
            }
            em_engram_suffix(hash, classes, (size_t)n, out);
        }
    }
}

int em_model_ask(em_model *m, const em_batch *batch, em_engram_ticket **ret_ticket)
{
    if (!m->engram) {
        *ret_ticket = NULL;
        return 0;
    }
    if (batch->n_tokens > m->shape.max_batch_tokens)
        return -EINVAL;
    uint64_t start_ns = em_now_ns();
    fill_suffixes(m, batch);
    int r = em_engram_ask(m->engram, m->suffix, batch->n_tokens, ret_ticket);
    m->times.ask += em_now_ns() - start_ns;
    return r;
}

bool em_model_saves_inside(const em_model *m)
{
    return m->backend->saves_inside;
}

void em_model_copy_slot(em_model *m, int32_t from, int32_t to)
{
    m->backend->copy_slot(m->backend, from, to);
}

void em_model_copy_block(em_model *m, int32_t from, int32_t to)
{
    m->backend->copy_block(m->backend, from, to);
}

/* --- opening ------------------------------------------------------------------------------------------------ */

static void progress(const em_model *m, const char *phase, double fraction)
{
    if (m->on_progress)
        m->on_progress(m->progress_ctx, phase, fraction);
}

static void engram_progress(void *ctx, uint64_t done, uint64_t total)
{
    progress(ctx, "engram", total ? (double)done / (double)total : 1.0);
}

static void weights_progress(void *ctx, double fraction)
{
    progress(ctx, "weights", fraction);
}

/* Tokenizer and, for Engram, the class map: derived here, never read from JSON (spec 8.4 item 13). */
static int open_text(em_model *m, const char *dir, em_error *err)
{
    int r = em_tokenizer_load(dir, &m->tok, err);
    if (r == -ENOENT && m->cfg.n_engram_layers == 0) {
        if (err)
            err->text[0] = '\0';
        return 0;
    }
    if (r < 0)
        return r;
    if (em_tokenizer_size(m->tok) > m->cfg.vocab_size)
        return em_error_set(err, -EINVAL, "%s/tokenizer.json: has %d ids, but vocab_size in config.json is %d", dir,
                            em_tokenizer_size(m->tok), m->cfg.vocab_size);
    if (m->cfg.n_engram_layers == 0)
        return 0;
    progress(m, "token map", 0.0);
    return em_engram_token_map(m->tok, &m->cfg, dir, &m->map, err);
}

static void show_tables(em_model *m)
{
    for (int32_t i = 0; i < m->cfg.n_engram_layers && m->backend->table; i++) {
        em_engram_table table;
        em_engram_table_view(m->engram, i, &table);
        m->backend->table(m->backend, i, &table);
    }
}

static int open_engram(em_model *m, const em_model_opts *opts, em_error *err)
{
    const em_model_config *cfg = &m->cfg;
    if (cfg->n_engram_layers == 0)
        return 0;
    em_engram_spec spec;
    em_engram_spec_fill(cfg, m->weights->engram[0].dtype, &m->map, &spec);
    for (int32_t i = 0; i < spec.n_tables; i++) {
        const em_engram_weights *ew = &m->weights->engram[i];
        if (em_engram_row_dtype(ew->dtype) != spec.dtype)
            return em_error_set(err, -EINVAL, "%s: the Engram tables have different dtypes", opts->dir);
        spec.table[i].codes = ew->rows->data;
        spec.table[i].codes_fd = em_st_fd(m->files, ew->rows->file_idx);
        spec.table[i].codes_offset = ew->rows->file_offset;
        if (ew->dtype == EM_DTYPE_FP8) {
            spec.table[i].scales = ew->scales->data;
            spec.table[i].scales_fd = em_st_fd(m->files, ew->scales->file_idx);
            spec.table[i].scales_offset = ew->scales->file_offset;
        }
    }
    em_engram_opts eo = {.tier = opts->engram_tier,
                         .max_tokens = m->shape.max_batch_tokens,
                         .max_tickets = opts->max_tickets ? opts->max_tickets : EM_MODEL_TICKETS,
                         .n_threads = 0,
                         .mem = m->backend->mem,
                         .shared_dir = opts->engram_shared_dir,
                         .cache_bytes = (uint64_t)opts->engram_cache_bytes,
                         .verify = opts->engram_verify,
                         .prefault = opts->engram_prefault,
                         .on_progress = engram_progress,
                         .progress_ctx = m};
    char text[sizeof err->text];
    int r = em_engram_open(&spec, &eo, &m->engram, text, sizeof text);
    if (r < 0)
        return em_error_set(err, r, "%s: %s", opts->dir,
                            m->backend->mem_error.text[0] ? m->backend->mem_error.text : text);
    if (!opts->engram_verify) /* rows that the device reads itself, nobody compares */
        show_tables(m);
    m->suffix = malloc((size_t)m->shape.max_batch_tokens * (size_t)cfg->engram_max_order * sizeof *m->suffix);
    return m->suffix ? 0 : em_error_set(err, -ENOMEM, "not enough memory to open %s", opts->dir);
}

static int open_backend(em_model *m, const em_model_opts *opts, em_error *err)
{
    em_weights_sizes sizes;
    em_device_need need;
    int r = em_weights_measure(&m->cfg, m->files, &sizes, err);
    if (r < 0)
        return r;
    em_model_device_need(&sizes, em_st_count(m->files), opts, &m->shape, &need);
    r = em_backend_choose(opts->backend, opts->cuda_module, &m->cfg, &need, &m->shape, &m->choice, err);
    if (r < 0)
        return r;
    m->n_threads = opts->n_threads ? opts->n_threads : em_cpu_count();
    if (m->choice.module) {
        em_device_opts dev = {
            .plan = m->choice.plan, .on_progress = opts->on_progress, .progress_ctx = opts->progress_ctx};
        return m->choice.module->open(&m->cfg, m->weights, &m->shape, &dev, &m->backend, err);
    }
    em_cpu_opts co = {.n_threads = m->n_threads,
                      .cpu_flags = em_cpu_flags() & opts->cpu_flags_mask,
                      .on_progress = weights_progress,
                      .progress_ctx = m};
    return em_cpu_open(&m->cfg, m->weights, &m->shape, &co, &m->backend, err);
}

static int open_parts(em_model *m, const em_model_opts *opts, em_error *err)
{
    int r;
    progress(m, "config", 0.0);
    if ((r = em_model_config_load(opts->dir, &m->cfg, err)) < 0 ||
        (r = em_model_shape(&m->cfg, opts, &m->shape, err)) < 0)
        return r;
    progress(m, "tokenizer", 0.0);
    if ((r = open_text(m, opts->dir, err)) < 0)
        return r;
    progress(m, "weights", 0.0);
    if ((r = em_st_open(opts->dir, &m->files, err)) < 0 ||
        (r = em_weights_load(&m->cfg, m->files, &m->weights, err)) < 0)
        return r;
    if ((r = open_backend(m, opts, err)) < 0)
        return r;
    if ((r = open_engram(m, opts, err)) < 0)
        return r;
    r = em_kv_cache_new(m->shape.n_slots, m->shape.n_blocks, m->shape.block_tokens, &m->kv);
    return r < 0 ? em_error_set(err, r, "not enough memory for the KV cache's books") : 0;
}

int em_model_open(const em_model_opts *opts, em_model **ret_model, em_error *err)
{
    em_model *m = calloc(1, sizeof *m);
    if (!m)
        return em_error_set(err, -ENOMEM, "not enough memory to open %s", opts->dir);
    m->on_progress = opts->on_progress;
    m->progress_ctx = opts->progress_ctx;
    int r = open_parts(m, opts, err);
    if (r < 0) {
        em_model_close(m);
        return r;
    }
    progress(m, "ready", 1.0);
    *ret_model = m;
    return 0;
}

em_model *em_model_close(em_model *m)
{
    if (!m)
        return NULL;
    em_kv_cache_free(m->kv);
    em_engram_close(m->engram);
    if (m->backend)
        m->backend->close(m->backend);
    em_weights_free(m->weights);
    em_st_close(m->files);
    em_token_map_done(&m->map);
    em_tokenizer_free(m->tok);
    free(m->suffix);
    free(m);
    return NULL;
}

/* --- looking in --------------------------------------------------------------------------------------------- */

const em_model_config *em_model_get_config(const em_model *m)
{
    return &m->cfg;
}

const em_tokenizer *em_model_tokenizer(const em_model *m)
{
    return m->tok;
}

int32_t em_model_max_len(const em_model *m)
{
    return m->shape.max_len;
}

int32_t em_model_max_batch_tokens(const em_model *m)
{
    return m->shape.max_batch_tokens;
}

em_kv_cache *em_model_kv_cache(em_model *m)
{
    return m->kv;
}

int32_t em_model_snapshots(const em_model *m)
{
    return m->shape.n_snapshots;
}

em_engram *em_model_engram(em_model *m)
{
    return m->engram;
}

const char *em_model_backend_name(const em_model *m)
{
    return m->backend->name;
}

const char *em_model_backend_why(const em_model *m)
{
    return m->choice.why;
}

int32_t em_model_n_threads(const em_model *m)
{
    return m->n_threads;
}

uint64_t em_model_weight_bytes(const em_model *m)
{
    return m->backend->weight_bytes ? m->backend->weight_bytes : m->weights->bytes;
}

uint64_t em_model_kv_bytes(const em_model *m)
{
    em_state_bytes b = em_cpu_state_bytes(&m->cfg, m->shape.block_tokens);
    return (uint64_t)b.block * (uint64_t)m->shape.n_blocks +
           (uint64_t)b.slot * ((uint64_t)m->shape.n_slots + (uint64_t)m->shape.n_snapshots);
}

em_insight_shape em_model_insight_shape(const em_model *m)
{
    if (!m->engram || !m->backend->insight)
        return (em_insight_shape){0};
    return (em_insight_shape){m->cfg.n_engram_layers, m->cfg.hc_mult, m->cfg.engram_max_order - 1};
}

const int32_t *em_model_engram_layers(const em_model *m)
{
    return m->cfg.engram_layer;
}

void em_model_get_times(const em_model *m, em_step_times *ret_times)
{
    *ret_times = m->times;
    ret_times->experts_read = m->backend->experts_read;
}

void em_model_step_bytes(const em_model *m, int64_t *ret_fixed, int64_t *ret_expert)
{
    em_weights_step_bytes(&m->cfg, m->weights, ret_fixed, ret_expert);
}
