/* The nvme tier: the rows of the file, whatever the disk does, and each read once. Reads can be made to fail, to be cut
 * short and to stall: the linker puts the __wrap functions of the first section in the way of the library's. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "engram/uring.h"
#include "tests/support/fixtures.h"
#include "tests/unit/engram_rig.h"

/* --- a disk that misbehaves -------------------------------------------------------------------------------------- */

typedef enum fault {
    NO_FAULT,
    SHORT_READS, /* some reads bring less than was asked */
    INTERRUPTED, /* some bring nothing and want to be repeated */
    FAILING,     /* the next n_failing reads end with EIO */
    STALLED,     /* none ends before the time is over */
} fault;

static struct {
    pthread_mutex_t lock;
    fault fault;
    em_pcg64 rng;
    int n_failing;
    struct timespec until;
} disk = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void set_fault(fault f, int n_failing, int stall_ms)
{
    pthread_mutex_lock(&disk.lock);
    disk.fault = f;
    disk.n_failing = n_failing;
    clock_gettime(CLOCK_MONOTONIC, &disk.until);
    disk.until.tv_nsec += stall_ms % 1000 * 1000000L;
    disk.until.tv_sec += stall_ms / 1000 + disk.until.tv_nsec / 1000000000;
    disk.until.tv_nsec %= 1000000000;
    pthread_mutex_unlock(&disk.lock);
}

/* What becomes of a read that has brought so many bytes. */
static long spoil(long result)
{
    struct timespec until;
    pthread_mutex_lock(&disk.lock);
    bool stalled = disk.fault == STALLED;
    until = disk.until;
    if (disk.fault == SHORT_READS && result > 1 && below(&disk.rng, 2))
        result = 1 + (long)below(&disk.rng, (uint64_t)result);
    if (disk.fault == INTERRUPTED && below(&disk.rng, 2))
        result = below(&disk.rng, 2) ? -EINTR : -EAGAIN;
    if (disk.fault == FAILING && disk.n_failing > 0) {
        disk.n_failing--;
        result = -EIO;
    }
    pthread_mutex_unlock(&disk.lock);
    if (stalled)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    return result;
}

bool __real_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result);
bool __wrap_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result);
ssize_t __real_pread64(int fd, void *to, size_t bytes, off_t offset);
ssize_t __wrap_pread64(int fd, void *to, size_t bytes, off_t offset);

bool __wrap_em_uring_reap(em_uring *ring, uint64_t *ret_tag, int *ret_result)
{
    if (!__real_em_uring_reap(ring, ret_tag, ret_result))
        return false;
    *ret_result = (int)spoil(*ret_result);
    return true;
}

ssize_t __wrap_pread64(int fd, void *to, size_t bytes, off_t offset)
{
    long n = spoil(__real_pread64(fd, to, bytes, offset));
    if (n >= 0)
        return n;
    errno = (int)-n;
    return -1;
}

/* From here on this process has no io_uring, as under a container's default seccomp profile. */
static void forbid_io_uring(int code)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)code),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* Each test runs with the ring and without; a system without io_uring runs it twice without. */
static void use_ring(bool ring)
{
    if (!ring)
        forbid_io_uring(EPERM);
}

static const char *folder(int i)
{
    return i & 1 && !access("/dev/shm", W_OK) ? "/dev/shm" : "/tmp";
}

static em_engram_opts nvme_opts(void)
{
    return (em_engram_opts){.tier = EM_ENGRAM_TIER_NVME, .max_tokens = 70, .max_tickets = 3, .cache_bytes = 100000};
}

/* A model whose codes can only come from its file. */
static model file_model(em_pcg64 *rng, em_engram_dtype dtype, int32_t n_tables, int32_t head_dim, int64_t start,
                        const char *dir)
{
    model m = make_model(rng, dtype, n_tables, head_dim, start);
    put_in_file(&m, dir);
    return m;
}

static em_engram *open_nvme(const model *m, const em_engram_opts *opts)
{
    model without = *m;
    for (int32_t t = 0; t < m->spec.n_tables; t++)
        without.spec.table[t].codes = NULL;
    return open_model(&without, opts);
}

/* --- the rows ---------------------------------------------------------------------------------------------------- */

static const struct {
    em_engram_dtype dtype;
    int32_t head_dim;
} shape[] = {{EM_ENGRAM_FP8, 256}, {EM_ENGRAM_FP8, 32},   {EM_ENGRAM_BF16, 1},
             {EM_ENGRAM_INT8, 77}, {EM_ENGRAM_F32, 1200}, {EM_ENGRAM_F32, 4000}};

enum { N_SHAPES = sizeof shape / sizeof *shape };

START_TEST(rows_are_the_files)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(1) + (unsigned)_i);
    use_ring(_i & 1);
    int s = _i / 4;
    static const uint64_t cache_bytes[] = {0, 1000, 300000, 100000000};
    for (int round = 0; round < 4; round++) {
        bool wide = shape[s].head_dim > 1000; /* a few MB are enough */
        model m = file_model(&rng, shape[s].dtype, wide ? 1 : 1 + (int32_t)below(&rng, 3), shape[s].head_dim,
                             1 + (int64_t)below(&rng, wide ? 5 : 200), folder(_i / 2));
        em_engram_opts opts = nvme_opts();
        opts.n_threads = round % 3;
        opts.cache_bytes = cache_bytes[round];
        em_engram *g = open_nvme(&m, &opts);
        ck_assert_int_eq(em_engram_tier_of(g), EM_ENGRAM_TIER_NVME);
        check_asks(&m, g, &rng, 12, 70);
        em_engram_close(g);
        free_model(&m);
    }
}
END_TEST

START_TEST(rows_without_a_ticket)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(2));
    model m = file_model(&rng, EM_ENGRAM_FP8, 1, 64, 100, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram *g = open_nvme(&m, &opts);
    for (int i = 0; i < 200; i++) {
        int64_t row[3];
        uint8_t codes[3 * 64], scales[3 * 2];
        for (int k = 0; k < 3; k++)
            row[k] = (int64_t)below(&rng, (uint64_t)m.spec.table[0].n_rows);
        ck_assert_int_eq(em_engram_copy_rows(g, 0, row, 3, codes, scales), 0);
        for (int k = 0; k < 3; k++) {
            ck_assert_mem_eq(codes + k * 64, m.spec.table[0].codes + row[k] * 64, 64);
            ck_assert_mem_eq(scales + k * 2, m.spec.table[0].scales + row[k] * 2, 2);
        }
    }
    set_fault(FAILING, 1, 0);
    ck_assert_int_eq(em_engram_copy_rows(g, 0, &(int64_t){0}, 1, (uint8_t[64]){0}, (uint8_t[2]){0}), -EIO);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* The caller's descriptors and the file's name may go. */
START_TEST(the_file_is_held)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(3));
    use_ring(_i);
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 256, 100, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram *g = open_nvme(&m, &opts);
    close(m.fd);
    m.fd = 0;
    check_asks(&m, g, &rng, 20, 70);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

START_TEST(a_low_limit_of_locked_memory_does_not_matter)
{
    struct rlimit limit = {4096, 4096};
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(4));
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 256, 100, "/tmp");
    em_engram_opts opts = nvme_opts();
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    ck_assert(geteuid() || !setuid(65534)); /* who may lock anyway would not notice */
    em_engram *g = open_nvme(&m, &opts);
    check_asks(&m, g, &rng, 20, 70);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- each row once, all at once ---------------------------------------------------------------------------------- */

/* The row ids of n tokens, each counted once per bucket: by comparing all with all. */
static uint64_t count_unique(const em_engram_rows *rows)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < rows->n_tokens * rows->n_cols; i++) {
        bool seen = false;
        for (int32_t k = i - rows->n_cols; k >= 0; k -= rows->n_cols)
            seen |= rows->row_id[k] == rows->row_id[i];
        n += !seen;
    }
    return n;
}

START_TEST(a_row_wanted_twice_is_read_once)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(5));
    use_ring(_i & 1);
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 256, _i & 2 ? 3 : 1000, "/tmp");
    em_engram_opts opts = nvme_opts();
    opts.cache_bytes = 0;
    em_engram *g = open_nvme(&m, &opts);
    int32_t suffix[70 * EM_ENGRAM_MAX_ORDER];
    uint64_t n_unique = 0;
    em_engram_stats stats;
    for (int round = 0; round < 20; round++) {
        int32_t n = 1 + (int32_t)below(&rng, 70);
        em_engram_ticket *ticket;
        em_engram_rows rows;
        random_suffix(&m, &rng, n, suffix);
        for (int32_t i = 1; i < n; i++) /* half of the text says what it has said before */
            if (below(&rng, 2))
                memcpy(suffix + i * m.spec.max_order, suffix + below(&rng, (uint64_t)i) * (uint64_t)m.spec.max_order,
                       (size_t)m.spec.max_order * sizeof *suffix);
        ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
        for (int32_t t = 0; t < 2; t++) {
            ck_assert_int_eq(em_engram_take(ticket, t, &rows), 0);
            check_rows(&m, g, t, suffix, n, &rows);
            n_unique += count_unique(&rows);
        }
        em_engram_release(ticket);
    }
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.rows_unique, n_unique);
    ck_assert_uint_eq(stats.rows_read, n_unique);
    ck_assert_uint_eq(stats.rows_cached, 0);
    ck_assert_uint_ge(stats.read_bytes, n_unique * 256);
    ck_assert_uint_lt(stats.rows_unique, stats.rows);
    ck_assert_uint_eq(stats.read_errors, 0);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* All rows of a token, of all tables, are in flight together; without a ring as many as there are threads. */
START_TEST(the_rows_of_a_token_are_in_flight_together)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(6));
    use_ring(_i);
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 256, 1000);
    while (m.spec.max_order != 4 || m.spec.n_heads != 8) { /* the released model's shape: 24 rows of each table */
        free_model(&m);
        m = make_model(&rng, EM_ENGRAM_FP8, 2, 256, 1000);
    }
    put_in_file(&m, "/tmp");
    em_engram_opts opts = nvme_opts();
    opts.n_threads = 1;
    opts.cache_bytes = 0;
    em_engram *g = open_nvme(&m, &opts);
    em_engram_stats stats;
    em_engram_ticket *ticket;
    em_engram_rows rows;
    int32_t suffix[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++)
        suffix[i] %= m.spec.n_classes;
    set_fault(STALLED, 0, 100); /* no read ends while others have yet to begin */
    ck_assert_int_eq(em_engram_ask(g, suffix, 1, &ticket), 0);
    for (int32_t t = 0; t < 2; t++) {
        ck_assert_int_eq(em_engram_take(ticket, t, &rows), 0);
        check_rows(&m, g, t, suffix, 1, &rows);
    }
    em_engram_release(ticket);
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.most_in_flight, 48);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

START_TEST(rows_asked_again_come_from_the_cache)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(7));
    use_ring(_i & 1);
    model m = file_model(&rng, EM_ENGRAM_BF16, 2, 40, 500, "/tmp");
    em_engram_opts opts = nvme_opts();
    bool large = _i & 2;
    opts.cache_bytes = large ? 10000000 : 40 * 2 * 5;
    em_engram *g = open_nvme(&m, &opts);
    int32_t suffix[70 * EM_ENGRAM_MAX_ORDER];
    em_engram_stats first, second;
    for (int round = 0; round < 2; round++) {
        em_engram_ticket *ticket;
        em_engram_rows rows;
        em_pcg64 same;
        em_pcg64_seed(&same, 99);
        for (int i = 0; i < 10; i++) {
            random_suffix(&m, &same, 70, suffix);
            ck_assert_int_eq(em_engram_ask(g, suffix, 70, &ticket), 0);
            for (int32_t t = 0; t < 2; t++) {
                ck_assert_int_eq(em_engram_take(ticket, t, &rows), 0);
                check_rows(&m, g, t, suffix, 70, &rows);
            }
            em_engram_release(ticket);
        }
        em_engram_get_stats(g, round ? &second : &first);
    }
    ck_assert_uint_eq(second.rows_unique, 2 * first.rows_unique);
    if (large)
        ck_assert_uint_eq(second.rows_read, first.rows_read); /* nothing had to be read again */
    else
        ck_assert_uint_gt(second.rows_read, first.rows_read * 3 / 2);
    ck_assert_uint_eq(second.rows_read + second.rows_cached, second.rows_unique);
    ck_assert_uint_le(second.resident_bytes, opts.cache_bytes);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- faults ------------------------------------------------------------------------------------------------------ */

START_TEST(short_and_interrupted_reads_are_read_on)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(8));
    em_pcg64_seed(&disk.rng, test_seed(8) + 1);
    use_ring(_i & 1);
    for (int round = 0; round < 3; round++) {
        model m = file_model(&rng, EM_ENGRAM_F32, 2, 1 + (int32_t)below(&rng, 3000), 20, folder(round));
        em_engram_opts opts = nvme_opts();
        em_engram *g = open_nvme(&m, &opts);
        set_fault(_i & 2 ? SHORT_READS : INTERRUPTED, 0, 0);
        check_asks(&m, g, &rng, 15, 70);
        set_fault(NO_FAULT, 0, 0);
        em_engram_close(g);
        free_model(&m);
    }
}
END_TEST

/* A token whose rows are lost has zeros among them, any other just its rows. */
static bool all_but_lost_are_right(const model *m, em_engram *g, int32_t t, const int32_t *suffix, em_engram_rows rows)
{
    int32_t n_lost = 0, n = rows.n_tokens;
    size_t n_cols = (size_t)rows.n_cols, scale_bytes = m->scale_bytes;
    uint32_t ready = EM_ENGRAM_READY; /* what rows_are_right wants of rows without fault */
    rows.n_tokens = 1;
    rows.ready = &ready;
    for (int32_t i = 0; i < n; i++) {
        if (rows.token_flags[i] & EM_ENGRAM_ROW_LOST)
            n_lost++;
        else if (!rows_are_right(m, g, t, suffix + i * m->spec.max_order, 1, &rows))
            return false;
        rows.codes += n_cols * m->row_bytes;
        rows.scales += n_cols * scale_bytes;
        rows.row_id += n_cols;
    }
    return n_lost > 0;
}

/* How an ask of n tokens ends in each table; all rows are looked at but the lost ones. */
static int outcome(const model *m, em_engram *g, em_pcg64 *rng, int32_t n)
{
    int32_t suffix[70 * EM_ENGRAM_MAX_ORDER];
    em_engram_ticket *ticket;
    int n_failed = 0;
    random_suffix(m, rng, n, suffix);
    ck_assert_int_eq(em_engram_ask(g, suffix, n, &ticket), 0);
    for (int32_t t = 0; t < m->spec.n_tables; t++) {
        em_engram_rows rows = {.n_tokens = -7}, peeked;
        int rc = em_engram_take(ticket, t, &rows);
        ck_assert(rc == 0 || rc == -EIO);
        em_engram_peek(ticket, t, &peeked);
        ck_assert_uint_eq(__atomic_load_n(peeked.ready, __ATOMIC_ACQUIRE), rc ? EM_ENGRAM_FAILED : EM_ENGRAM_READY);
        if (rc)
            ck_assert_msg(all_but_lost_are_right(m, g, t, suffix, rows), "wrong rows beside lost ones");
        else
            check_rows(m, g, t, suffix, n, &rows);
        n_failed += rc != 0;
    }
    em_engram_release(ticket);
    return n_failed;
}

START_TEST(a_read_error_fails_its_ticket_and_no_other)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(9));
    use_ring(_i);
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 256, 2000, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram_stats stats;
    opts.cache_bytes = 0;
    em_engram *g = open_nvme(&m, &opts);
    for (int round = 0; round < 30; round++) {
        set_fault(FAILING, 1, 0);
        ck_assert_int_eq(outcome(&m, g, &rng, 1 + (int32_t)below(&rng, 70)), 1);
        ck_assert_int_eq(outcome(&m, g, &rng, 1 + (int32_t)below(&rng, 70)), 0); /* the fault is used up */
    }
    em_engram_get_stats(g, &stats);
    ck_assert_uint_eq(stats.read_errors, 30);
    set_fault(FAILING, 1 << 30, 0);
    ck_assert_int_eq(outcome(&m, g, &rng, 70), 2);
    set_fault(NO_FAULT, 0, 0);
    ck_assert_int_eq(outcome(&m, g, &rng, 70), 0);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

START_TEST(a_file_cut_short_fails_and_heals)
{
    em_pcg64 rng;
    struct stat st;
    em_pcg64_seed(&rng, test_seed(10));
    use_ring(_i);
    model m = file_model(&rng, EM_ENGRAM_BF16, 1, 128, 3000, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram *g = open_nvme(&m, &opts);
    ck_assert_int_eq(fstat(m.fd, &st), 0);
    ck_assert_int_eq(ftruncate(m.fd, st.st_size / 2), 0);
    int n_failed = 0;
    for (int round = 0; round < 20; round++)
        n_failed += outcome(&m, g, &rng, 40);
    ck_assert_int_ge(n_failed, 15); /* 40 tokens hardly ever find all their rows in one half */
    const em_engram_source *source = &m.spec.table[0];
    size_t bytes = (size_t)source->n_rows * m.row_bytes;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(m.fd, source->codes + done, bytes - done, (off_t)(source->codes_offset + done));
        ck_assert_int_gt(n, 0);
        done += (size_t)n;
    }
    for (int round = 0; round < 20; round++)
        ck_assert_int_eq(outcome(&m, g, &rng, 40), 0);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* A disk that stalls makes takes wait, which is counted; asks and releases go on at once, and nothing is wrong after. */
START_TEST(a_stall_is_waited_for_and_counted)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(11));
    use_ring(_i);
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 256, 2000, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram_ticket *cancelled, *ticket;
    em_engram_rows rows;
    em_engram_stats stats;
    int32_t suffix[70 * EM_ENGRAM_MAX_ORDER];
    em_engram *g = open_nvme(&m, &opts);
    uint64_t begin = now_ms();
    set_fault(STALLED, 0, 800);
    random_suffix(&m, &rng, 70, suffix);
    ck_assert_int_eq(em_engram_ask(g, suffix, 3, &cancelled), 0);
    ck_assert_int_eq(em_engram_ask(g, suffix, 70, &ticket), 0);
    usleep(20000);
    em_engram_release(cancelled);
    ck_assert_uint_lt(now_ms() - begin, 700); /* none of these has waited */
    ck_assert_int_eq(em_engram_take(ticket, 0, &rows), 0);
    ck_assert_uint_ge(now_ms() - begin, 700);
    check_rows(&m, g, 0, suffix, 70, &rows);
    em_engram_get_stats(g, &stats);
    ck_assert_uint_ge(stats.waits, 1);
    ck_assert_uint_ge(stats.wait_ns, 500000000);
    ck_assert_uint_eq(stats.table[0].wait_bucket[10] + stats.table[0].wait_bucket[11], 1); /* above 262 ms */
    em_engram_release(ticket);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- threads ----------------------------------------------------------------------------------------------------- */

typedef struct user {
    const model *m;
    em_engram *g;
    uint64_t seed;
    int n_wrong;
} user;

static void *user_main(void *arg)
{
    user *u = arg;
    em_pcg64 rng;
    em_pcg64_seed(&rng, u->seed);
    for (int round = 0; round < 150; round++) {
        int32_t suffix[70 * EM_ENGRAM_MAX_ORDER], n = 1 + (int32_t)below(&rng, below(&rng, 3) ? 3 : 70);
        em_engram_ticket *ticket;
        em_engram_rows rows;
        random_suffix(u->m, &rng, n, suffix);
        int rc = em_engram_ask(u->g, suffix, n, &ticket);
        if (rc) {
            u->n_wrong += rc != -EAGAIN;
            continue;
        }
        for (int32_t t = 0; t < u->m->spec.n_tables && below(&rng, 5); t++) { /* or it is cancelled */
            u->n_wrong += em_engram_take(ticket, t, &rows) != 0;
            u->n_wrong += !rows_are_right(u->m, u->g, t, suffix, n, &rows);
        }
        em_engram_release(ticket);
    }
    return NULL;
}

START_TEST(many_threads_share_the_disk)
{
    enum { USERS = 4 };
    em_pcg64 rng;
    unsigned long long seed = test_seed(12);
    em_pcg64_seed(&rng, seed);
    use_ring(_i);
    model m = file_model(&rng, EM_ENGRAM_FP8, 3, 64, 300, "/tmp");
    em_engram_opts opts = nvme_opts();
    opts.max_tickets = 5;
    opts.n_threads = 3;
    em_engram *g = open_nvme(&m, &opts);
    pthread_t thread[USERS];
    user u[USERS];
    for (int i = 0; i < USERS; i++) {
        u[i] = (user){&m, g, seed * 10 + (unsigned)i, 0};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, user_main, &u[i]), 0);
    }
    for (int i = 0; i < USERS; i++) {
        pthread_join(thread[i], NULL);
        ck_assert_int_eq(u[i].n_wrong, 0);
    }
    em_engram_close(g);
    free_model(&m);
}
END_TEST

/* --- what is refused --------------------------------------------------------------------------------------------- */

static void check_refused(const model *m, const em_engram_opts *opts, int code, const char *word)
{
    em_engram *g = NULL;
    char err[300] = "";
    ck_assert_int_eq(em_engram_open(&m->spec, opts, &g, err, sizeof err), code);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(err, word) != NULL, "\"%s\" lacks \"%s\"", err, word);
}

START_TEST(bad_files_are_refused_in_a_sentence)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(13));
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 64, 100, "/tmp"), bad = m;
    em_engram_opts opts = nvme_opts();
    int fds[2];
    bad.spec.table[1].codes_fd = 0;
    check_refused(&bad, &opts, -EINVAL, "needs the file of the table of layer 4");
    bad.spec.table[1].codes_fd = 999;
    check_refused(&bad, &opts, -EBADF, "layer 4");
    ck_assert_int_eq(pipe(fds), 0);
    bad.spec.table[1].codes_fd = fds[0];
    check_refused(&bad, &opts, -EINVAL, "layer 4");
    bad = m;
    bad.spec.table[0].codes_offset = m.spec.table[1].scales_offset;
    check_refused(&bad, &opts, -EINVAL, "too few");
    bad.spec.table[0].codes_offset = UINT64_MAX - 5;
    check_refused(&bad, &opts, -EINVAL, "too few");
    bad = m;
    bad.spec.table[1].scales = NULL;
    check_refused(&bad, &opts, -EINVAL, "layer 4 has no scales");
    opts.cache_bytes = (uint64_t)1 << 62;
    check_refused(&m, &opts, -ENOMEM, "row cache");
    opts = nvme_opts();
    set_fault(FAILING, 1 << 30, 0);
    check_refused(&m, &opts, -EIO, "cannot read the table of layer 1");
    set_fault(NO_FAULT, 0, 0);
    int left = open("/dev/null", O_RDONLY); /* no descriptor has been left open */
    ck_assert_int_eq(left, fds[1] + 1);
    free_model(&m);
}
END_TEST

START_TEST(without_io_uring_threads_read)
{
    em_pcg64 rng;
    em_engram_stats stats;
    em_pcg64_seed(&rng, test_seed(14));
    forbid_io_uring(_i ? ENOSYS : EPERM);
    model m = file_model(&rng, EM_ENGRAM_FP8, 2, 64, 100, "/tmp");
    em_engram_opts opts = nvme_opts();
    em_engram *g = open_nvme(&m, &opts);
    em_engram_get_stats(g, &stats);
    ck_assert(!stats.io_uring);
    check_asks(&m, g, &rng, 20, 70);
    em_engram_close(g);
    free_model(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-nvme");
    TCase *t = tcase_create("nvme");
    tcase_add_loop_test(t, rows_are_the_files, 0, 4 * N_SHAPES);
    tcase_add_test(t, rows_without_a_ticket);
    tcase_add_loop_test(t, the_file_is_held, 0, 2);
    tcase_add_test(t, a_low_limit_of_locked_memory_does_not_matter);
    tcase_add_loop_test(t, a_row_wanted_twice_is_read_once, 0, 4);
    tcase_add_loop_test(t, the_rows_of_a_token_are_in_flight_together, 0, 2);
    tcase_add_loop_test(t, rows_asked_again_come_from_the_cache, 0, 4);
    tcase_add_loop_test(t, short_and_interrupted_reads_are_read_on, 0, 4);
    tcase_add_loop_test(t, a_read_error_fails_its_ticket_and_no_other, 0, 2);
    tcase_add_loop_test(t, a_file_cut_short_fails_and_heals, 0, 2);
    tcase_add_loop_test(t, a_stall_is_waited_for_and_counted, 0, 2);
    tcase_add_loop_test(t, many_threads_share_the_disk, 0, 2);
    tcase_add_test(t, bad_files_are_refused_in_a_sentence);
    tcase_add_loop_test(t, without_io_uring_threads_read, 0, 2);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
