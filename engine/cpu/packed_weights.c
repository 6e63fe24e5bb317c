#include "engine/cpu/packed_weights.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "engine/cpu/pack.h"

#define ITEM_BYTES (1 << 20) /* packed by one thread at a time */
#define SLICES 50            /* steps of progress */

/* One matrix: from the checkpoint's order to its place. */
typedef struct pack_job {
    em_matrix *m; /* in the copy: not packed until all is done */
    uint8_t *to;
    int64_t first_item, item_strips;
} pack_job;

typedef struct pack_run {
    const em_weights *src;
    pack_job *job;
    size_t n_jobs;
    int64_t n_items, first; /* of the slice */
    size_t bytes;
} pack_run;

/* --- the list of matrices ----------------------------------------------------------------------------------------- */

static void count_matrix(void *ctx, em_matrix *m)
{
    (void)m;
    ((pack_run *)ctx)->n_jobs++;
}

static int64_t strips_of(const em_matrix *m)
{
    return (m->rows + EM_STRIP_ROWS - 1) / EM_STRIP_ROWS;
}

static void list_matrix(void *ctx, em_matrix *m)
{
    pack_run *run = ctx;
    int64_t strips = ITEM_BYTES / (int64_t)em_strip_bytes(m->dtype, m->cols, m->scale_rows);
    pack_job *job = &run->job[run->n_jobs++];
    *job = (pack_job){.m = m, .first_item = run->n_items, .item_strips = strips < 1 ? 1 : strips};
    run->n_items += (strips_of(m) + job->item_strips - 1) / job->item_strips;
    run->bytes += em_packed_bytes(m->dtype, m->rows, m->cols, m->scale_rows);
}

static void set_places(const pack_run *run, uint8_t *at)
{
    for (size_t i = 0; i < run->n_jobs; i++) {
        const em_matrix *m = run->job[i].m;
        run->job[i].to = at;
        at += em_packed_bytes(m->dtype, m->rows, m->cols, m->scale_rows);
    }
}

/* --- packing ------------------------------------------------------------------------------------------------------ */

static const pack_job *job_of(const pack_run *run, int64_t item)
{
    size_t begin = 0, end = run->n_jobs;
    while (end - begin > 1) {
        size_t middle = begin + (end - begin) / 2;
        if (run->job[middle].first_item <= item)
            begin = middle;
        else
            end = middle;
    }
    return &run->job[begin];
}

static void forget_rows(const em_weights *src, const em_matrix *m, int64_t row, int64_t end)
{
    size_t row_bytes = em_matrix_row_bytes(m);
    em_weights_forget(src, (const uint8_t *)m->data + (size_t)row * row_bytes, (size_t)(end - row) * row_bytes);
    if (m->scale && end == m->rows)
        em_weights_forget(src, m->scale, (size_t)((m->rows + m->scale_rows - 1) / m->scale_rows * m->scale_stride));
}

static void pack_item(void *ctx, int64_t i, int worker)
{
    (void)worker;
    const pack_run *run = ctx;
    const pack_job *job = job_of(run, run->first + i);
    int64_t begin = (run->first + i - job->first_item) * job->item_strips, all = strips_of(job->m);
    int64_t end = begin + job->item_strips < all ? begin + job->item_strips : all;
    em_pack_strips(job->m, begin, end, job->to);
    forget_rows(run->src, job->m, begin * EM_STRIP_ROWS, end < all ? end * EM_STRIP_ROWS : job->m->rows);
}

static void pack_all(pack_run *run, em_pool *pool, void (*on_progress)(void *ctx, double fraction), void *ctx)
{
    for (int64_t slice = 0; slice < SLICES; slice++) {
        run->first = run->n_items * slice / SLICES;
        em_pool_run(pool, pack_item, run, run->n_items * (slice + 1) / SLICES - run->first);
        if (on_progress)
            on_progress(ctx, (double)(slice + 1) / SLICES);
    }
    for (size_t i = 0; i < run->n_jobs; i++)
        *run->job[i].m = em_packed_view(run->job[i].m, run->job[i].to);
}

/* --- the copy ----------------------------------------------------------------------------------------------------- */

/* Lists of layers and experts of its own; matrices are still those of the source. */
static int copy_lists(const em_model_config *cfg, const em_weights *src, em_packed_weights *p)
{
    size_t layers = (size_t)cfg->n_layers, experts = (size_t)cfg->n_experts;
    p->w = *src;
    p->w.owned = NULL;
    p->w.layers = malloc(layers * sizeof(*p->w.layers));
    p->experts = malloc(layers * experts * sizeof(*p->experts));
    if (!p->w.layers || !p->experts)
        return -ENOMEM;
    for (size_t l = 0; l < layers; l++) {
        em_layer_weights *lw = &p->w.layers[l];
        *lw = src->layers[l];
        lw->experts = p->experts + l * experts;
        memcpy(lw->experts, src->layers[l].experts, experts * sizeof(*lw->experts));
        if (lw->engram)
            lw->engram = &p->w.engram[cfg->role[l].engram_idx];
    }
    return 0;
}

static int map_places(pack_run *run, em_packed_weights *p)
{
    p->bytes = run->bytes;
    p->map = mmap(NULL, run->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p->map == MAP_FAILED) {
        p->map = NULL;
        return -ENOMEM;
    }
    madvise(p->map, run->bytes, MADV_HUGEPAGE);
    set_places(run, p->map);
    return 0;
}

int em_packed_weights_new(const em_model_config *cfg, const em_weights *src, em_pool *pool,
                          void (*on_progress)(void *ctx, double fraction), void *ctx, em_packed_weights **ret_packed)
{
    em_packed_weights *p = calloc(1, sizeof(*p));
    pack_run run = {.src = src};
    int r = p ? copy_lists(cfg, src, p) : -ENOMEM;
    if (r == 0) {
        em_weights_each_matrix(cfg, &p->w, count_matrix, &run);
        run.job = malloc(run.n_jobs * sizeof(*run.job));
        r = run.job ? 0 : -ENOMEM;
    }
    if (r == 0) {
        run.n_jobs = 0;
        em_weights_each_matrix(cfg, &p->w, list_matrix, &run);
        r = map_places(&run, p);
    }
    if (r == 0)
        pack_all(&run, pool, on_progress, ctx);
    free(run.job);
    if (r < 0) {
        em_packed_weights_free(p);
        return r;
    }
    *ret_packed = p;
    return 0;
}

em_packed_weights *em_packed_weights_free(em_packed_weights *p)
{
    if (!p)
        return NULL;
    if (p->map)
        munmap(p->map, p->bytes);
    free(p->experts);
    free(p->w.layers);
    free(p);
    return NULL;
}
