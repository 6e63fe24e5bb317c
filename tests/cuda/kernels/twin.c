/* Memory, comparisons and the step that both sides compute. */
#include "tests/cuda/kernels/twin.h"

#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cpu/pack.h"

/* ---- memory ---- */

#ifdef __SANITIZE_ADDRESS__
#define EXACT true /* the sanitizer watches the end */
#else
#define EXACT false
#endif

enum { HEAD = 16, STRIP = 64, MARK = 0xA5 };

void *dev_alloc(size_t bytes)
{
    uint8_t *p = malloc(HEAD + bytes + (EXACT ? 0 : STRIP));
    ck_assert_ptr_nonnull(p);
    memcpy(p, &bytes, sizeof bytes);
    memset(p + HEAD, 0xff, bytes);
    if (!EXACT)
        memset(p + HEAD + bytes, MARK, STRIP);
    return p + HEAD;
}

void *dev_copy(const void *p, size_t bytes)
{
    void *copy = dev_alloc(bytes);
    if (bytes)
        memcpy(copy, p, bytes);
    return copy;
}

void *dev_free(void *p)
{
    size_t bytes;
    if (!p)
        return NULL;
    memcpy(&bytes, (uint8_t *)p - HEAD, sizeof bytes);
    for (size_t i = 0; i < STRIP && !EXACT; i++)
        ck_assert_msg(((uint8_t *)p)[bytes + i] == MARK, "something behind a buffer of %zu bytes was written", bytes);
    free((uint8_t *)p - HEAD);
    return NULL;
}

/* ---- comparing ---- */

static char context[700];
static uint64_t codes_seen, codes_off;

void set_context(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(context, sizeof context, fmt, ap);
    va_end(ap);
}

void expect_floats(const float *got, const float *want, int64_t n, double rel, const char *what)
{
    double top = 0;
    for (int64_t i = 0; i < n; i++)
        top = isfinite(want[i]) && fabs((double)want[i]) > top ? fabs((double)want[i]) : top;
    for (int64_t i = 0; i < n; i++) {
        if (got[i] == want[i] || (isnan(got[i]) && isnan(want[i])))
            continue;
        ck_assert_msg(fabs((double)got[i] - (double)want[i]) <= rel * top + 1e-7,
                      "%s: %s[%lld] is %a (%g), not %a (%g)", context, what, (long long)i, (double)got[i],
                      (double)got[i], (double)want[i], (double)want[i]);
    }
}

void expect_bits(const void *got, const void *want, size_t bytes, const char *what)
{
    const uint8_t *g = got, *w = want;
    if (bytes == 0 || memcmp(g, w, bytes) == 0)
        return;
    size_t i = 0;
    while (g[i] == w[i])
        i++;
    ck_abort_msg("%s: %s: byte %zu is %02x, not %02x", context, what, i, g[i], w[i]);
}

void count_codes(const uint8_t *got, const uint8_t *want, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        codes_seen += want[i] != 0; /* rows that nobody has written yet are zeros */
        codes_off += got[i] != want[i];
    }
}

void check_codes_counted(void)
{
    printf("%llu of %llu stored codes differ from the CPU's\n", (unsigned long long)codes_off,
           (unsigned long long)codes_seen);
    ck_assert_msg(codes_off * 1000 <= codes_seen + 1000, "%llu of %llu stored codes differ from the CPU's",
                  (unsigned long long)codes_off, (unsigned long long)codes_seen);
}

void next_order(void)
{
    static uint64_t n;
    n++;
    emu_set_order(n % 3 == 0 ? EMU_ASC : n % 3 == 1 ? EMU_DESC : EMU_RAND, n);
}

/* ---- the step ---- */

static int32_t *dev_ints(int64_t n)
{
    return dev_alloc((size_t)n * sizeof(int32_t));
}

static void copy_runs(twin *t, const em_batch *batch)
{
    em_cpu *c = t->r.cpu;
    int32_t n = batch->n_seqs, width = 1;
    for (int32_t s = 0; s < n; s++)
        width = batch->seqs[s].kv->n_blocks > width ? batch->seqs[s].kv->n_blocks : width;
    t->run_pos = dev_ints(n);
    t->run_len = dev_ints(n);
    t->slot = dev_ints(n);
    t->table = dev_ints((int64_t)n * width);
    t->token = dev_ints(batch->n_tokens);
    for (int32_t s = 0, i = 0; s < n; s++) {
        const em_batch_seq *run = &batch->seqs[s];
        t->run_pos[s] = run->pos;
        t->run_len[s] = run->n_tokens;
        t->slot[s] = run->kv->slot;
        memcpy(t->table + (int64_t)s * width, run->kv->block_table, (size_t)run->kv->n_blocks * sizeof(int32_t));
        for (int32_t p = run->pos; p < run->pos + run->n_tokens; p++)
            t->token[i++] = run->tokens[p];
    }
    t->step = (em_cuda_step){.n_tokens = batch->n_tokens,
                             .n_seqs = n,
                             .token = t->token,
                             .pos = dev_copy(c->pos, (size_t)batch->n_tokens * sizeof(int32_t)),
                             .seq_of = dev_copy(c->seq_of, (size_t)batch->n_tokens * sizeof(int32_t)),
                             .run_start = dev_copy(c->run_start, (size_t)n * sizeof(int32_t)),
                             .run_pos = t->run_pos,
                             .run_len = t->run_len,
                             .slot = t->slot,
                             .block_table = t->table,
                             .block_stride = width};
}

static void compare_rope(twin *t)
{
    em_cpu *c = t->r.cpu;
    int32_t pairs = c->cfg->rope_dim / 2;
    int64_t n = (int64_t)c->n_tokens * pairs;
    em_cuda_rope_table_args a = {.step = t->step,
                                 .freq_main = dev_copy_floats(c->freq_main, pairs),
                                 .freq_comp = dev_copy_floats(c->freq_comp, pairs),
                                 .cos_main = dev_floats(n),
                                 .sin_main = dev_floats(n),
                                 .cos_comp = dev_floats(n),
                                 .sin_comp = dev_floats(n),
                                 .n_pairs = pairs};
    ck_assert_int_eq(em_cuda_rope_table(NULL, &a), 0);
    expect_floats(a.cos_main, c->cos_main, n, 1e-6, "cos_main");
    expect_floats(a.sin_main, c->sin_main, n, 1e-6, "sin_main");
    expect_floats(a.cos_comp, c->cos_comp, n, 1e-6, "cos_comp");
    expect_floats(a.sin_comp, c->sin_comp, n, 1e-6, "sin_comp");
    t->rope_main = (em_cuda_rope){a.cos_main, a.sin_main, pairs};
    t->rope_comp = (em_cuda_rope){a.cos_comp, a.sin_comp, pairs};
    dev_free((void *)a.freq_main);
    dev_free((void *)a.freq_comp);
}

void twin_begin(twin *t, const em_batch *batch)
{
    copy_runs(t, batch);
    compare_rope(t);
}

void twin_end(twin *t)
{
    const void *all[] = {t->step.token,    t->step.pos,      t->step.seq_of,   t->step.run_start,
                         t->step.run_pos,  t->step.run_len,  t->step.slot,     t->step.block_table,
                         t->rope_main.cos, t->rope_main.sin, t->rope_comp.cos, t->rope_comp.sin,
                         t->slots,         t->blocks};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        dev_free((void *)all[i]);
    t->slots = t->blocks = NULL;
}

/* ---- state ---- */

void twin_take_state(twin *t)
{
    const em_cpu_state *st = &t->r.cpu->state;
    const em_state_layout *l = &st->at;
    dev_free(t->slots);
    dev_free(t->blocks);
    t->slots = dev_copy(st->slots, st->slots_size);
    t->blocks = dev_copy(st->blocks, st->blocks_size);
    t->state = (em_cuda_state){.slots = t->slots,
                               .blocks = t->blocks,
                               .slot_bytes = (int64_t)l->slot_bytes,
                               .block_bytes = (int64_t)l->block_bytes,
                               .window = l->window,
                               .block_tokens = l->block_tokens,
                               .head_dim = t->r.cfg.head_dim,
                               .index_head_dim = t->r.cfg.index_head_dim,
                               .window_row = (int32_t)l->window_row,
                               .comp_row = (int32_t)l->comp_row,
                               .key_row = (int32_t)l->key_row,
                               .pack_window = l->pack_window,
                               .pack_comp = l->pack_comp,
                               .pack_key = l->pack_key};
}

/* Rows that both wrote: floats nearly equal, codes counted. */
static void compare_rows(const uint8_t *got, const uint8_t *want, int64_t n, size_t row, bool packed, const char *what)
{
    if (packed)
        count_codes(got, want, (size_t)n * row);
    else
        expect_floats((const float *)(const void *)got, (const float *)(const void *)want, n * (int64_t)row / 4, 1e-5,
                      what);
}

void twin_compare_state(twin *t)
{
    const em_cpu_state *st = &t->r.cpu->state;
    const em_state_layout *l = &st->at;
    const em_model_config *cfg = &t->r.cfg;
    for (size_t at = 0; at + l->slot_bytes <= st->slots_size; at += l->slot_bytes) {
        compare_rows(t->slots + at, st->slots + at, (int64_t)cfg->n_layers * cfg->window, l->window_row, l->pack_window,
                     "window rings");
        for (int32_t s = 0; s < cfg->n_kv_sources; s++) {
            int64_t n = (int64_t)(cfg->role[cfg->kv_source_layer[s]].ratio - 1) * 2 * cfg->head_dim;
            compare_rows(t->slots + at + l->open_off[s], st->slots + at + l->open_off[s], n, 4, false, "open groups");
        }
    }
    for (size_t at = 0; at + l->block_bytes <= st->blocks_size; at += l->block_bytes) {
        for (int32_t s = 0; s < cfg->n_kv_sources; s++) {
            int64_t rows = l->block_tokens / cfg->role[cfg->kv_source_layer[s]].ratio;
            compare_rows(t->blocks + at + l->comp_off[s], st->blocks + at + l->comp_off[s], rows, l->comp_row,
                         l->pack_comp, "compressed rows");
            compare_rows(t->blocks + at + l->key_off[s], st->blocks + at + l->key_off[s], rows, l->key_row, l->pack_key,
                         "index keys");
        }
    }
}

em_cuda_source twin_source(const twin *t, int32_t source)
{
    if (source < 0)
        return (em_cuda_source){0};
    const em_state_layout *l = &t->r.cpu->state.at;
    return (em_cuda_source){.comp_off = (int64_t)l->comp_off[source],
                            .key_off = (int64_t)l->key_off[source],
                            .open_off = (int64_t)l->open_off[source],
                            .ratio = t->r.cfg.role[t->r.cfg.kv_source_layer[source]].ratio};
}

/* ---- products ---- */

em_matrix pack_matrix(const em_matrix *w)
{
    void *data = NULL;
    ck_assert_int_eq(posix_memalign(&data, 64, em_packed_bytes(w->dtype, w->rows, w->cols, w->scale_rows)), 0);
    em_pack_strips(w, 0, (w->rows + EM_STRIP_ROWS - 1) / EM_STRIP_ROWS, data);
    return em_packed_view(w, data);
}

em_cuda_linear_job twin_job(const twin *t, const em_matrix *w, const float *x, int64_t x_stride, float *y)
{
    return (em_cuda_linear_job){.w = *w,
                                .row_end = w->rows,
                                .rows_per_group = w->rows,
                                .x = x,
                                .x_stride = x_stride,
                                .y = y,
                                .y_stride = w->rows,
                                .n_rows = t->step.n_tokens};
}

void twin_linear(twin *t, const em_matrix *w, const float *x, int64_t x_stride, float *dst, int64_t n_rows,
                 const char *what)
{
    em_matrix packed = pack_matrix(w);
    em_linear_job cpu = em_cpu_job(t->r.cpu, &packed, x, x_stride, dst);
    cpu.n_rows = n_rows;
    em_cpu_linear(t->r.cpu, &cpu, 1);
    free((void *)packed.data);
    float *in = dev_copy_floats(x, n_rows * x_stride), *out = dev_floats(n_rows * w->rows);
    em_cuda_linear_job job = twin_job(t, w, in, x_stride, out);
    job.n_rows = (int32_t)n_rows;
    ck_assert_int_eq(em_cuda_linear(NULL, &job, 1, EM_CUDA_MATH_F32), 0);
    expect_floats(out, dst, n_rows * w->rows, 1e-5, what);
    dev_free(in);
    dev_free(out);
}
