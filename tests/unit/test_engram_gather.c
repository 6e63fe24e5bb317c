/* The Engram service: rows that come out are the rows of the table, in every tier, type, size and interleaving. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engram/engram.h"
#include "engram/pcg64.h"
#include "tests/support/fixtures.h"
#include "tests/unit/engram_rig.h"

#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

/* --- equality ---------------------------------------------------------------------------------------------------- */

static const struct {
    em_engram_dtype dtype;
    int32_t head_dim;
} shape[] = {{EM_ENGRAM_FP8, 256}, {EM_ENGRAM_FP8, 32},  {EM_ENGRAM_FP8, 96},  {EM_ENGRAM_BF16, 64},
             {EM_ENGRAM_BF16, 1},  {EM_ENGRAM_BF16, 77}, {EM_ENGRAM_INT8, 65}, {EM_ENGRAM_F32, 20},
             {EM_ENGRAM_F32, 1},   {EM_ENGRAM_F32, 300}};

START_TEST(gather_equals_lookup)
{
    unsigned long long seed = test_seed(1) + (unsigned)_i;
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    for (int round = 0; round < 6; round++) {
        model m = make_model(&rng, shape[_i].dtype, 1 + (int32_t)below(&rng, 3), shape[_i].head_dim,
                             1 + (int64_t)below(&rng, 60));
        em_engram_opts opts = {.tier = round & 1 ? EM_ENGRAM_TIER_RAM : EM_ENGRAM_TIER_MMAP,
                               .max_tokens = 100,
                               .max_tickets = 3,
                               .n_threads = round % 4};
        em_engram *g = open_model(&m, &opts);
        ck_assert_int_eq(em_engram_tier_of(g), opts.tier);
        int32_t suffix[100 * EM_ENGRAM_MAX_ORDER];
        for (int32_t n = 1; n <= 100; n += n < 20 ? 1 : 40) {
            em_engram_ticket *ticket = NULL;
            em_engram_rows rows;
            random_suffix(&m, &rng, n, suffix);
            ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
            for (int32_t i = 0; i < m.spec.n_tables; i++) {
                int32_t table_idx = n & 1 ? m.spec.n_tables - 1 - i : i;
                if (below(&rng, 3) == 0) {
                    em_engram_peek(ticket, table_idx, &rows);
                    await_ready(rows.ready);
                } else {
                    ck_assert_int_eq(em_engram_take(ticket, table_idx, &rows), 0);
                }
                check_rows(&m, g, table_idx, suffix, n, &rows);
            }
            ck_assert_ptr_null(em_engram_release(ticket));
        }
        g = em_engram_close(g);
        ck_assert_ptr_null(g);
        free_model(&m);
    }
}
END_TEST

START_TEST(table_view_is_the_table)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(2));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 64, 100);
    for (int tier = EM_ENGRAM_TIER_RAM; tier <= EM_ENGRAM_TIER_MMAP; tier++) {
        em_engram_opts opts = {.tier = (em_engram_tier)tier, .max_tokens = 1, .max_tickets = 1};
        em_engram *g = open_model(&m, &opts);
        for (int32_t t = 0; t < 2; t++) {
            em_engram_table view;
            em_engram_table_view(g, t, &view);
            ck_assert_int_eq(view.n_rows, m.spec.table[t].n_rows);
            ck_assert_uint_eq(view.row_bytes, 64);
            ck_assert_uint_eq(view.scale_bytes, 2);
            ck_assert_mem_eq(view.codes, m.spec.table[t].codes, (size_t)view.n_rows * 64);
            ck_assert_mem_eq(view.scales, m.spec.table[t].scales, (size_t)view.n_rows * 2);
            ck_assert((view.codes == m.spec.table[t].codes) == (tier == EM_ENGRAM_TIER_MMAP));
        }
        em_engram_table none;
        em_engram_table_view(g, 2, &none);
        ck_assert_ptr_null(none.codes);
        ck_assert_ptr_null(em_engram_table_hash(g, 2));
        ck_assert_ptr_null(em_engram_table_hash(g, -1));
        em_engram_close(g);
    }
    free_model(&m);
}
END_TEST

/* --- tiers ------------------------------------------------------------------------------------------------------- */

typedef struct progress {
    uint64_t last, total, n_calls;
    pthread_t thread;
} progress;

static void on_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    progress *p = ctx;
    ck_assert_uint_ge(done_bytes, p->last);
    ck_assert_uint_le(done_bytes, total_bytes);
    ck_assert(pthread_equal(pthread_self(), p->thread));
    p->last = done_bytes;
    p->total = total_bytes;
    p->n_calls++;
}

/* Many fill chunks, and a source that changes afterwards. */
START_TEST(ram_tier_is_a_copy)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(3));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 256, 20000), changed = m;
    progress p = {.thread = pthread_self()};
    em_engram_opts opts = {
        .tier = EM_ENGRAM_TIER_RAM, .max_tokens = 64, .max_tickets = 1, .on_progress = on_progress, .progress_ctx = &p};
    uint64_t bytes = 0;
    for (int32_t t = 0; t < 2; t++) {
        changed.spec.table[t].codes = malloc((size_t)m.spec.table[t].n_rows * 256);
        changed.spec.table[t].scales = malloc((size_t)m.spec.table[t].n_rows * 8);
        memcpy((void *)changed.spec.table[t].codes, m.spec.table[t].codes, (size_t)m.spec.table[t].n_rows * 256);
        memcpy((void *)changed.spec.table[t].scales, m.spec.table[t].scales, (size_t)m.spec.table[t].n_rows * 8);
        bytes += (uint64_t)m.spec.table[t].n_rows * 264;
    }
    em_engram *g = open_model(&changed, &opts);
    ck_assert_uint_eq(p.last, bytes);
    ck_assert_uint_eq(p.total, bytes);
    ck_assert_uint_ge(p.n_calls, 1);
    for (int32_t t = 0; t < 2; t++) { /* gone: whoever reads them now is caught by a sanitizer */
        free((void *)changed.spec.table[t].codes);
        free((void *)changed.spec.table[t].scales);
        em_engram_table view;
        em_engram_table_view(g, t, &view);
        ck_assert_mem_eq(view.codes, m.spec.table[t].codes, (size_t)view.n_rows * 256);
        ck_assert_mem_eq(view.scales, m.spec.table[t].scales, (size_t)view.n_rows * 8);
    }
    int32_t suffix[64 * EM_ENGRAM_MAX_ORDER];
    em_engram_ticket *ticket;
    em_engram_rows rows;
    random_suffix(&m, &rng, 64, suffix);
    ck_assert_int_eq(em_engram_ask(g, suffix, 64, &ticket), 0);
    ck_assert_int_eq(em_engram_take(ticket, 1, &rows), 0);
    check_rows(&m, g, 1, suffix, 64, &rows);
    em_engram_release(ticket);
    em_engram_stats stats;
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.table_bytes, bytes);
    ck_assert_uint_eq(stats.resident_bytes, bytes);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* A table of n_rows rows of 256 bytes and their scales in a file; the spec wants the first few rows only. */
static uint8_t *map_file_table(em_engram_spec *spec, int64_t n_rows, size_t *ret_bytes)
{
    char path[] = "/tmp/engram-test-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    unlink(path);
    *ret_bytes = (size_t)n_rows * 264;
    ck_assert_int_eq(ftruncate(fd, (off_t)*ret_bytes), 0);
    uint8_t *map = mmap(NULL, *ret_bytes, PROT_READ, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(map, MAP_FAILED);
    close(fd);
    *spec = (em_engram_spec){.n_tables = 1,
                             .dtype = EM_ENGRAM_FP8,
                             .max_order = 2,
                             .n_heads = 1,
                             .head_dim = 256,
                             .prime_start = 7,
                             .n_classes = 10};
    spec->table[0] =
        (em_engram_source){.layer = 1, .n_rows = n_rows, .codes = map, .scales = map + (size_t)n_rows * 256};
    return map;
}

START_TEST(auto_tier_goes_by_size)
{
    em_engram_spec spec;
    size_t bytes;
    int64_t n_rows = ((int64_t)64 << 20) / 264 + (_i ? 1 : 0); /* just within, just above 64 MiB */
    uint8_t *map = map_file_table(&spec, n_rows, &bytes);
    em_engram_opts opts = {.max_tokens = 1, .max_tickets = 1};
    em_engram *g;
    ck_assert_int_eq(em_engram_open(&spec, &opts, &g, NULL, 0), 0);
    ck_assert_int_eq(em_engram_tier_of(g), _i ? EM_ENGRAM_TIER_MMAP : EM_ENGRAM_TIER_RAM);
    em_engram_close(g);
    munmap(map, bytes);
}
END_TEST

START_TEST(residency_of_a_mapping_is_sampled)
{
    em_engram_spec spec;
    size_t bytes;
    uint8_t *map = map_file_table(&spec, 1 << 16, &bytes);
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_MMAP, .max_tokens = 1, .max_tickets = 1};
    em_engram_stats stats;
    em_engram *g;
    unsigned sum = 0;
    ck_assert_int_eq(em_engram_open(&spec, &opts, &g, NULL, 0), 0);
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.table_bytes, bytes);
    ck_assert_uint_lt(stats.resident_bytes, bytes / 2); /* a hole of a file that nobody has read */
    for (size_t i = 0; i < bytes; i += 4096)
        sum += map[i];
    em_engram_get_stats(g, &stats);
    ck_assert_uint_ge(stats.resident_bytes, bytes - bytes / 10);
    ck_assert_uint_le(stats.resident_bytes, bytes);
    ck_assert_uint_eq(sum, 0);
    em_engram_close(g);
    munmap(map, bytes);
}
END_TEST

/* --- tickets ----------------------------------------------------------------------------------------------------- */

START_TEST(asks_beyond_the_tickets_fail_until_one_returns)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(4));
    model m = make_model(&rng, EM_ENGRAM_BF16, 2, 32, 50);
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_MMAP, .max_tokens = 8, .max_tickets = 5, .n_threads = 2};
    em_engram *g = open_model(&m, &opts);
    em_engram_ticket *ticket[5], *extra = (em_engram_ticket *)&rng;
    int32_t suffix[8 * EM_ENGRAM_MAX_ORDER];
    random_suffix(&m, &rng, 8, suffix);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(em_engram_ask(g, suffix, 1 + i, &ticket[i]), 0);
    for (int round = 0; round < 2000; round++) {
        int victim = (int)below(&rng, 5);
        ck_assert_int_eq(em_engram_ask(g, suffix, 8, &extra), -EAGAIN);
        ck_assert_ptr_eq(extra, (em_engram_ticket *)&rng);
        em_engram_release(ticket[victim]);
        ck_assert_int_eq(em_engram_ask(g, suffix, 1 + victim, &ticket[victim]), 0); /* also when a copy still ran */
    }
    for (int i = 0; i < 5; i++) {
        em_engram_rows rows;
        ck_assert_int_eq(em_engram_take(ticket[i], 1, &rows), 0);
        check_rows(&m, g, 1, suffix, 1 + i, &rows);
        em_engram_release(ticket[i]);
    }
    ck_assert_ptr_null(em_engram_release(NULL));
    ck_assert_ptr_null(em_engram_close(NULL));
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* One ticket, so that each ask lands in the staging that a cancelled copy may still write to. */
START_TEST(a_cancelled_copy_spares_the_next_ask)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(12));
    model m = make_model(&rng, EM_ENGRAM_F32, 2, 1024, 100);
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_MMAP, .max_tokens = 300, .max_tickets = 1, .n_threads = 2};
    em_engram *g = open_model(&m, &opts);
    int32_t *suffix = malloc(300 * EM_ENGRAM_MAX_ORDER * sizeof *suffix);
    for (int round = 0; round < 500; round++) {
        em_engram_ticket *ticket;
        em_engram_rows rows;
        random_suffix(&m, &rng, 300, suffix);
        ck_assert_int_eq(em_engram_ask(g, suffix, 300, &ticket), 0);
        usleep((useconds_t)below(&rng, 200)); /* time for the threads to begin, seldom to end */
        em_engram_release(ticket);
        int32_t n = round & 1 ? 300 : 1 + (int32_t)below(&rng, 40), table_idx = (int32_t)below(&rng, 2);
        random_suffix(&m, &rng, n, suffix);
        ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
        ck_assert_int_eq(em_engram_take(ticket, table_idx, &rows), 0);
        check_rows(&m, g, table_idx, suffix, n, &rows);
        em_engram_release(ticket);
    }
    free(suffix);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

START_TEST(bad_asks_are_refused)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(5));
    model m = make_model(&rng, EM_ENGRAM_F32, 1, 4, 50);
    em_engram_opts opts = {.max_tokens = 4, .max_tickets = 1};
    em_engram *g = open_model(&m, &opts);
    em_engram_ticket *ticket = NULL;
    em_engram_rows rows = {.n_tokens = 77}, peeked = rows;
    int32_t suffix[4 * EM_ENGRAM_MAX_ORDER] = {0};
    const int32_t bad[] = {EM_ENGRAM_DEAD, INT32_MIN, m.spec.n_classes, INT32_MAX};
    ck_assert_int_eq(em_engram_ask(g, suffix, 0, &ticket), -EINVAL);
    ck_assert_int_eq(em_engram_ask(g, suffix, -1, &ticket), -EINVAL);
    ck_assert_int_eq(em_engram_ask(g, suffix, 5, &ticket), -EINVAL);
    for (int i = 0; i < COUNT(bad); i++) {
        suffix[4 * m.spec.max_order - 1] = bad[i];
        ck_assert_int_eq(em_engram_ask(g, suffix, 4, &ticket), -EINVAL);
        ck_assert_ptr_null(ticket);
    }
    ck_assert_int_eq(em_engram_ask(g, suffix, 3, &ticket), 0); /* the bad class lies behind */
    ck_assert_int_eq(em_engram_take(ticket, 1, &rows), -EINVAL);
    ck_assert_int_eq(em_engram_take(ticket, -1, &rows), -EINVAL);
    ck_assert_int_eq(rows.n_tokens, 77);
    em_engram_peek(ticket, 1, &peeked);
    ck_assert_ptr_null(peeked.codes);
    em_engram_release(ticket);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* One thread, nobody takes: when the last rows are ready, so are all that were asked before. */
START_TEST(tickets_and_tables_are_served_in_order)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(6));
    model m = make_model(&rng, EM_ENGRAM_FP8, 3, 256, 300);
    em_engram_opts opts = {.max_tokens = 500, .max_tickets = 8, .n_threads = 1};
    em_engram *g = open_model(&m, &opts);
    int32_t *suffix = malloc(500 * EM_ENGRAM_MAX_ORDER * sizeof *suffix);
    random_suffix(&m, &rng, 500, suffix);
    for (int round = 0; round < 20; round++) {
        em_engram_ticket *ticket[8];
        em_engram_rows rows;
        int dropped = (int)below(&rng, 8); /* a cancelled one in the middle does not hold up the others */
        for (int i = 0; i < 8; i++)
            ck_assert_int_eq(em_engram_ask(g, suffix, 1 + (int32_t)below(&rng, 500), &ticket[i]), 0);
        ticket[dropped] = em_engram_release(ticket[dropped]);
        int last_ticket = dropped == 7 ? 6 : 7, last_table = (int)below(&rng, 3);
        em_engram_peek(ticket[last_ticket], last_table, &rows);
        await_ready(rows.ready);
        for (int i = 0; i <= last_ticket; i++)
            for (int t = 0; t < (i < last_ticket ? 3 : last_table); t++)
                if (ticket[i]) {
                    em_engram_peek(ticket[i], t, &rows);
                    ck_assert_uint_eq(__atomic_load_n(rows.ready, __ATOMIC_ACQUIRE), 1);
                }
        for (int i = 0; i < 8; i++)
            em_engram_release(ticket[i]);
    }
    free(suffix);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* What is told table by table adds up to what is told of all; each of n_takes is in one bucket of its own. */
static void check_table_stats(const em_engram_stats *stats, uint64_t n_takes)
{
    em_engram_table_stats sum = {.rows = 0};
    ck_assert_int_eq(stats->n_tables, 2);
    for (int t = 0; t < 2; t++) {
        const em_engram_table_stats *table = &stats->table[t];
        uint64_t n_waits = 0, n_leads = 0, least_ns = 0;
        for (int i = 0; i < EM_ENGRAM_N_BUCKETS; i++) {
            n_waits += table->wait_bucket[i];
            n_leads += table->lead_bucket[i];
            least_ns += i ? table->lead_bucket[i] * EM_ENGRAM_BUCKET_NS(i - 1) : 0;
        }
        ck_assert_int_eq(table->layer, 3 * t + 1);
        ck_assert_uint_eq(n_waits, n_takes);
        ck_assert_uint_eq(n_leads + table->waits, n_takes);
        ck_assert_uint_ge(table->lead_ns, least_ns);
        ck_assert_uint_eq(table->resident_bytes, table->table_bytes);
        sum.rows += table->rows;
        sum.waits += table->waits;
        sum.wait_ns += table->wait_ns;
        sum.lead_ns += table->lead_ns;
        sum.table_bytes += table->table_bytes;
    }
    ck_assert_uint_eq(sum.rows, stats->rows);
    ck_assert_uint_eq(sum.waits, stats->waits);
    ck_assert_uint_eq(sum.wait_ns, stats->wait_ns);
    ck_assert_uint_eq(sum.lead_ns, stats->lead_ns);
    ck_assert_uint_eq(sum.table_bytes, stats->table_bytes);
    ck_assert_uint_gt(stats->staging_bytes, 0);
}

START_TEST(stats_count_what_was_asked)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(7));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 64, 100);
    em_engram_opts opts = {.max_tokens = 300, .max_tickets = 2};
    em_engram *g = open_model(&m, &opts);
    uint64_t tokens = 0, n_cols = (uint64_t)em_engram_table_hash(g, 0)->n_cols;
    int32_t *suffix = malloc(300 * EM_ENGRAM_MAX_ORDER * sizeof *suffix);
    em_engram_stats stats;
    random_suffix(&m, &rng, 300, suffix);
    for (int round = 0; round < 50; round++) {
        int32_t n = 1 + (int32_t)below(&rng, 300);
        em_engram_ticket *ticket;
        em_engram_rows rows;
        ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
        tokens += (uint64_t)n;
        for (int32_t t = 0; t < 2; t++) {
            if (round & 1) { /* late: no wait is counted, lead time is */
                em_engram_peek(ticket, t, &rows);
                await_ready(rows.ready);
                usleep(200);
            }
            em_engram_take(ticket, t, &rows);
            em_engram_take(ticket, t, &rows); /* a second look counts nothing */
        }
        em_engram_release(ticket);
    }
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.tokens, tokens);
    ck_assert_uint_eq(stats.rows, tokens * n_cols * 2);
    ck_assert_uint_eq(stats.bytes, tokens * n_cols * 2 * 66);
    ck_assert_uint_le(stats.waits, 50);
    ck_assert_uint_ge(stats.lead_ns, 50 * 200000);
    ck_assert((stats.waits > 0) == (stats.wait_ns > 0));
    ck_assert_uint_eq(stats.failed, 0);
    check_table_stats(&stats, 50);
    free(suffix);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- many threads ------------------------------------------------------------------------------------------------ */

typedef struct stress {
    const model *m;
    em_engram *g;
    uint64_t seed;
    int n_rounds;
    int n_again; /* out: asks that met -EAGAIN */
    int n_wrong; /* out: answers that were not as they must be */
} stress;

static void *stress_main(void *arg)
{
    enum { HELD = 3, MAX = 120 };
    stress *s = arg;
    em_pcg64 rng;
    em_pcg64_seed(&rng, s->seed);
    em_engram_ticket *ticket[HELD] = {NULL};
    int32_t n[HELD], *suffix[HELD];
    for (int i = 0; i < HELD; i++)
        suffix[i] = malloc(MAX * EM_ENGRAM_MAX_ORDER * sizeof(int32_t));
    for (int round = 0; round < s->n_rounds; round++) {
        int i = (int)below(&rng, HELD);
        em_engram_rows rows;
        if (!ticket[i]) {
            n[i] = 1 + (int32_t)below(&rng, below(&rng, 4) ? 4 : MAX);
            random_suffix(s->m, &rng, n[i], suffix[i]);
            int rc = em_engram_ask(s->g, suffix[i], n[i], &ticket[i]);
            s->n_wrong += rc != 0 && rc != -EAGAIN;
            s->n_again += rc == -EAGAIN;
        } else if (below(&rng, 3)) {
            int32_t table_idx = (int32_t)below(&rng, (uint64_t)s->m->spec.n_tables);
            em_engram_peek(ticket[i], table_idx, &rows);
            if (below(&rng, 2) || !__atomic_load_n(rows.ready, __ATOMIC_ACQUIRE))
                s->n_wrong += em_engram_take(ticket[i], table_idx, &rows) != 0;
            s->n_wrong += !rows_are_right(s->m, s->g, table_idx, suffix[i], n[i], &rows);
        } else {
            ticket[i] = em_engram_release(ticket[i]); /* taken, half taken or cancelled */
        }
    }
    for (int i = 0; i < HELD; i++) {
        em_engram_release(ticket[i]);
        free(suffix[i]);
    }
    return NULL;
}

START_TEST(many_threads_get_their_own_rows)
{
    enum { THREADS = 5 };
    unsigned long long seed = test_seed(8) + (unsigned)_i;
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    model m = make_model(&rng, shape[_i % COUNT(shape)].dtype, 3, shape[_i % COUNT(shape)].head_dim, 200);
    em_engram_opts opts = {.tier = _i & 1 ? EM_ENGRAM_TIER_RAM : EM_ENGRAM_TIER_MMAP,
                           .max_tokens = 120,
                           .max_tickets = 10,
                           .n_threads = 1 + _i % 3};
    em_engram *g = open_model(&m, &opts);
    pthread_t thread[THREADS];
    stress s[THREADS];
    int n_again = 0;
    for (int i = 0; i < THREADS; i++) {
        s[i] = (stress){.m = &m, .g = g, .seed = seed * 100 + (unsigned)i, .n_rounds = 800};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, stress_main, &s[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        em_engram_stats stats;
        em_engram_get_stats(g, &stats);
        usleep(200);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        n_again += s[i].n_again;
        ck_assert_int_eq(s[i].n_wrong, 0);
    }
    printf("%d asks met no free ticket\n", n_again);

    em_engram_ticket *ticket[10]; /* none has been lost */
    int32_t suffix[EM_ENGRAM_MAX_ORDER] = {0};
    for (int i = 0; i < 10; i++)
        ck_assert_int_eq(em_engram_ask(g, suffix, 1, &ticket[i]), 0);
    for (int i = 0; i < 10; i++)
        em_engram_release(ticket[i]);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- memory from the caller, failures ---------------------------------------------------------------------------- */

typedef struct test_pool {
    size_t live_bytes;
    int n_live, n_allocs, fail_at;
    struct {
        uint8_t *p;
        size_t bytes;
    } block[64];
} test_pool;

static void *pool_alloc(void *ctx, size_t bytes)
{
    test_pool *pool = ctx;
    if (pool->n_allocs++ == pool->fail_at)
        return NULL;
    void *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    memset(p, 0xa5, bytes);
    pool->live_bytes += bytes;
    pool->block[pool->n_live].p = p;
    pool->block[pool->n_live++].bytes = bytes;
    return p;
}

static void pool_free(void *ctx, void *p, size_t bytes)
{
    test_pool *pool = ctx;
    for (int i = 0; i < pool->n_live; i++)
        if (pool->block[i].p == p) {
            ck_assert_uint_eq(pool->block[i].bytes, bytes);
            pool->live_bytes -= bytes;
            pool->block[i] = pool->block[--pool->n_live];
            free(p);
            return;
        }
    ck_abort_msg("freed what was not allocated");
}

static bool in_pool(const test_pool *pool, const void *p, size_t bytes)
{
    const uint8_t *at = p;
    for (int i = 0; i < pool->n_live; i++)
        if (at >= pool->block[i].p && at + bytes <= pool->block[i].p + pool->block[i].bytes)
            return true;
    return false;
}

START_TEST(memory_comes_from_the_pair)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(10));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 64, 100);
    test_pool pool = {.fail_at = -1};
    em_engram_opts opts = {
        .tier = EM_ENGRAM_TIER_RAM, .max_tokens = 9, .max_tickets = 2, .mem = {pool_alloc, pool_free, &pool}};
    em_engram *g = open_model(&m, &opts);
    int n_allocs = pool.n_allocs;
    int32_t suffix[9 * EM_ENGRAM_MAX_ORDER];
    em_engram_ticket *ticket;
    em_engram_rows rows;
    random_suffix(&m, &rng, 9, suffix);
    for (int round = 0; round < 3; round++) {
        ck_assert_int_eq(em_engram_ask(g, suffix, 9, &ticket), 0);
        for (int32_t t = 0; t < 2; t++) {
            em_engram_table view;
            em_engram_take(ticket, t, &rows);
            check_rows(&m, g, t, suffix, 9, &rows);
            size_t n = 9 * (size_t)rows.n_cols;
            ck_assert(in_pool(&pool, rows.codes, n * 64) && in_pool(&pool, rows.scales, n * 2));
            ck_assert(in_pool(&pool, rows.row_id, n * 8) && in_pool(&pool, rows.ready, 4));
            ck_assert_uint_eq((uintptr_t)rows.codes % 64, 0);
            ck_assert_uint_eq((uintptr_t)rows.scales % 64, 0);
            em_engram_table_view(g, t, &view);
            ck_assert(in_pool(&pool, view.codes, (size_t)view.n_rows * 64));
            ck_assert(in_pool(&pool, view.scales, (size_t)view.n_rows * 2));
        }
        em_engram_release(ticket);
    }
    ck_assert_int_eq(pool.n_allocs, n_allocs); /* nothing is allocated after open */
    em_engram_close(g);
    ck_assert_int_eq(pool.n_live, 0);

    for (int fail_at = 0; fail_at < n_allocs; fail_at++) { /* each allocation fails once: a sentence, nothing left */
        char err[256] = "";
        em_engram *none = NULL;
        pool = (test_pool){.fail_at = fail_at};
        ck_assert_int_eq(em_engram_open(&m.spec, &opts, &none, err, sizeof err), -ENOMEM);
        ck_assert_ptr_null(none);
        ck_assert_msg(strstr(err, "no memory") != NULL, "%s", err);
        ck_assert_int_eq(pool.n_live, 0);
        ck_assert_uint_eq(pool.live_bytes, 0);
    }
    free_model(&m);
}
END_TEST

typedef void (*spoil_fn)(em_engram_spec *s, em_engram_opts *o);
#define SPOIL(name, statement)                                                                                         \
    static void name(em_engram_spec *s, em_engram_opts *o)                                                             \
    {                                                                                                                  \
        statement;                                                                                                     \
    }
SPOIL(bad_hash, s->n_heads = 0)
SPOIL(no_codes, s->table[1].codes = NULL)
SPOIL(no_scales, s->table[0].scales = NULL)
SPOIL(odd_scales, s->dtype = EM_ENGRAM_BF16)
SPOIL(too_many_bytes, s->table[0].n_rows = INT64_MAX / 64 + 1)
SPOIL(wrapping_bytes, s->table[0].n_rows = INT64_MAX)
SPOIL(too_many_in_all, s->table[0].n_rows = s->table[1].n_rows = INT64_MAX / 100)
SPOIL(odd_tier, o->tier = (em_engram_tier)17)
SPOIL(no_tokens, o->max_tokens = 0)
SPOIL(huge_tokens, o->max_tokens = INT32_MAX)
SPOIL(no_tickets, o->max_tickets = 0)
SPOIL(huge_tickets, o->max_tickets = INT32_MAX)
SPOIL(negative_threads, o->n_threads = -1)
SPOIL(huge_threads, o->n_threads = 1000000)
SPOIL(half_a_pair, o->mem.alloc = pool_alloc)

static const struct {
    spoil_fn spoil;
    const char *word;
} bad_open[] = {
    {bad_hash, "hash heads"},
    {no_codes, "layer 4 has no rows"},
    {no_scales, "layer 1 has no scales"},
    {odd_scales, "layer 1 has scales"},
    {too_many_bytes, "layer 1 has more bytes"},
    {wrapping_bytes, "layer 1 has more bytes"},
    {too_many_in_all, "layer 4 has more bytes"},
    {odd_tier, "tier 17"},
    {no_tokens, "0 tokens"},
    {huge_tokens, "2147483647 tokens"},
    {no_tickets, "0 tickets"},
    {huge_tickets, "2147483647 tickets"},
    {negative_threads, "-1 gather threads"},
    {huge_threads, "1000000 gather threads"},
    {half_a_pair, "pair"},
};

START_TEST(bad_opens_are_refused_in_a_sentence)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(11));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 64, 100);
    em_engram_spec spec = m.spec;
    em_engram_opts opts = {.tier = EM_ENGRAM_TIER_RAM, .max_tokens = 4, .max_tickets = 2};
    em_engram *g = (em_engram *)&rng;
    char err[256] = "";
    bad_open[_i].spoil(&spec, &opts);
    ck_assert_int_eq(em_engram_open(&spec, &opts, &g, err, sizeof err), -EINVAL);
    ck_assert_ptr_eq(g, (em_engram *)&rng);
    ck_assert_msg(strstr(err, bad_open[_i].word) != NULL, "\"%s\" lacks \"%s\"", err, bad_open[_i].word);
    ck_assert_ptr_null(strchr(err, '\n'));
    ck_assert_int_eq(em_engram_open(&spec, &opts, &g, NULL, 0), -EINVAL);
    free_model(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-gather");
    TCase *t = tcase_create("gather");
    tcase_add_loop_test(t, gather_equals_lookup, 0, COUNT(shape));
    tcase_add_test(t, table_view_is_the_table);
    tcase_add_test(t, ram_tier_is_a_copy);
    tcase_add_loop_test(t, auto_tier_goes_by_size, 0, 2);
    tcase_add_test(t, residency_of_a_mapping_is_sampled);
    tcase_add_test(t, asks_beyond_the_tickets_fail_until_one_returns);
    tcase_add_test(t, a_cancelled_copy_spares_the_next_ask);
    tcase_add_test(t, bad_asks_are_refused);
    tcase_add_test(t, tickets_and_tables_are_served_in_order);
    tcase_add_test(t, stats_count_what_was_asked);
    tcase_add_loop_test(t, many_threads_get_their_own_rows, 0, COUNT(shape));
    tcase_add_test(t, memory_comes_from_the_pair);
    tcase_add_loop_test(t, bad_opens_are_refused_in_a_sentence, 0, COUNT(bad_open));
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
