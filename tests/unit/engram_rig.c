#include "tests/unit/engram_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint64_t below(em_pcg64 *rng, uint64_t bound)
{
    return em_pcg64_below(rng, bound);
}

static uint8_t *random_bytes(em_pcg64 *rng, size_t bytes, size_t shift)
{
    uint8_t *p = malloc(bytes + shift + 8);
    for (size_t i = 0; i < bytes + shift; i += 8) {
        uint64_t v = em_pcg64_next(rng);
        memcpy(p + i, &v, 8);
    }
    return p;
}

model make_model(em_pcg64 *rng, em_engram_dtype dtype, int32_t n_tables, int32_t head_dim, int64_t prime_start)
{
    static const size_t element_bytes[] = {1, 2, 4, 1};
    model m = {.spec = {.n_tables = n_tables, .dtype = dtype, .head_dim = head_dim, .prime_start = prime_start}};
    m.spec.max_order = 2 + (int32_t)below(rng, 4);
    m.spec.n_heads = 1 + (int32_t)below(rng, 8);
    m.spec.n_classes = 1 + (int32_t)below(rng, 100000);
    m.spec.pad_class = (int32_t)below(rng, (uint64_t)m.spec.n_classes);
    m.row_bytes = (size_t)head_dim * element_bytes[dtype];
    m.scale_bytes = dtype == EM_ENGRAM_FP8 ? (size_t)head_dim / 32 : dtype == EM_ENGRAM_INT8 ? 4 : 0;

    em_engram_hash hash[EM_ENGRAM_MAX_TABLES];
    for (int32_t t = 0; t < n_tables; t++)
        m.spec.table[t] = (em_engram_source){.layer = 3 * t + 1, .n_rows = INT64_MAX};
    ck_assert_int_eq(em_engram_hash_init(&m.spec, hash, NULL, 0), 0);
    for (int32_t t = 0; t < n_tables; t++) {
        em_engram_source *source = &m.spec.table[t];
        size_t shift = below(rng, 70);
        source->n_rows = hash[t].n_rows + (int64_t)below(rng, 3);
        m.codes[t] = random_bytes(rng, (size_t)source->n_rows * m.row_bytes, shift);
        source->codes = m.codes[t] + shift;
        if (m.scale_bytes) {
            m.scales[t] = random_bytes(rng, (size_t)source->n_rows * m.scale_bytes, shift);
            source->scales = m.scales[t] + shift;
        }
    }
    return m;
}

void free_model(model *m)
{
    if (m->fd > 0)
        close(m->fd);
    for (int32_t t = 0; t < m->spec.n_tables; t++) {
        free(m->codes[t]);
        free(m->scales[t]);
    }
}

em_engram *open_model(const model *m, const em_engram_opts *opts)
{
    em_engram *g = NULL;
    char err[256] = "";
    ck_assert_msg(em_engram_open(&m->spec, opts, &g, err, sizeof err) == 0, "%s", err);
    ck_assert_ptr_nonnull(g);
    return g;
}

void random_suffix(const model *m, em_pcg64 *rng, int32_t n_tokens, int32_t *suffix)
{
    for (int32_t i = 0; i < n_tokens * m->spec.max_order; i++)
        suffix[i] = (int32_t)below(rng, (uint64_t)m->spec.n_classes);
}

bool rows_are_right(const model *m, const em_engram *g, int32_t table_idx, const int32_t *suffix, int32_t n_tokens,
                    const em_engram_rows *rows)
{
    const em_engram_hash *hash = em_engram_table_hash(g, table_idx);
    const em_engram_source *source = &m->spec.table[table_idx];
    int64_t row_id[(EM_ENGRAM_MAX_ORDER - 1) * EM_ENGRAM_MAX_HEADS];
    bool right = rows->n_tokens == n_tokens && rows->n_cols == hash->n_cols &&
                 __atomic_load_n(rows->ready, __ATOMIC_ACQUIRE) == 1 && !rows->scales == !m->scale_bytes;

    for (int32_t i = 0; right && i < n_tokens; i++) {
        em_engram_row_ids(hash, suffix + i * hash->max_order, row_id);
        right = !memcmp(row_id, rows->row_id + i * hash->n_cols, (size_t)hash->n_cols * 8);
        for (int32_t col = 0; right && col < hash->n_cols; col++) {
            size_t at = (size_t)(i * hash->n_cols + col), from = (size_t)row_id[col];
            right = row_id[col] < source->n_rows &&
                    !memcmp(rows->codes + at * m->row_bytes, source->codes + from * m->row_bytes, m->row_bytes) &&
                    (!m->scale_bytes || !memcmp(rows->scales + at * m->scale_bytes,
                                                source->scales + from * m->scale_bytes, m->scale_bytes));
        }
    }
    return right;
}

void await_ready(const uint32_t *ready)
{
    int n_left = 20000; /* a second and more */
    while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE) && n_left-- > 0)
        usleep(50);
    ck_assert_msg(__atomic_load_n(ready, __ATOMIC_ACQUIRE) == 1, "rows never became ready");
}

static void append(int fd, const uint8_t *p, size_t bytes, uint64_t *at)
{
    *at += 13; /* aligned to nothing */
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(fd, p + done, bytes - done, (off_t)(*at + done));
        ck_assert_int_gt(n, 0);
        done += (size_t)n;
    }
    *at += bytes;
}

void put_in_file(model *m, const char *dir)
{
    char path[200];
    uint64_t at = 0;
    snprintf(path, sizeof path, "%s/engram-rows-XXXXXX", dir);
    m->fd = mkstemp(path);
    ck_assert_int_gt(m->fd, 0);
    unlink(path);
    for (int32_t t = 0; t < m->spec.n_tables; t++) {
        em_engram_source *source = &m->spec.table[t];
        append(m->fd, source->codes, (size_t)source->n_rows * m->row_bytes, &at);
        source->codes_fd = m->fd;
        source->codes_offset = at - (size_t)source->n_rows * m->row_bytes;
        if (!m->scale_bytes)
            continue;
        append(m->fd, source->scales, (size_t)source->n_rows * m->scale_bytes, &at);
        source->scales_fd = m->fd;
        source->scales_offset = at - (size_t)source->n_rows * m->scale_bytes;
    }
}

void check_asks(const model *m, em_engram *g, em_pcg64 *rng, int n_asks, int32_t max_tokens)
{
    int32_t *suffix = malloc((size_t)max_tokens * EM_ENGRAM_MAX_ORDER * sizeof *suffix);
    for (int i = 0; i < n_asks; i++) {
        int32_t n = 1 + (int32_t)below(rng, below(rng, 2) ? 3 : (uint64_t)max_tokens);
        em_engram_ticket *ticket = NULL;
        em_engram_rows rows;
        n = n < max_tokens ? n : max_tokens;
        random_suffix(m, rng, n, suffix);
        ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
        for (int32_t t = 0; t < m->spec.n_tables; t++) {
            ck_assert_int_eq(em_engram_take(ticket, t, &rows), 0);
            check_rows(m, g, t, suffix, n, &rows);
        }
        em_engram_release(ticket);
    }
    free(suffix);
}
