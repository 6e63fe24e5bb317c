/* The shared tier: one copy for all processes, never a part of one, and none that is not what it says. */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/fixtures.h"
#include "tests/unit/engram_rig.h"

static char dir[64];

static void make_dir(void)
{
    strcpy(dir, access("/dev/shm", W_OK) ? "/tmp/engram-shared-XXXXXX" : "/dev/shm/engram-shared-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

/* Calls back for each file of the folder; returns how many there were. */
static int each_file(void (*what)(const char *path))
{
    char path[400];
    int n = 0;
    DIR *d = opendir(dir);
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
            n++;
            if (what)
                what(path);
        }
    closedir(d);
    return n;
}

static void remove_file(const char *path)
{
    unlink(path);
}

static void remove_dir(void)
{
    each_file(remove_file);
    ck_assert_int_eq(rmdir(dir), 0);
}

static em_engram_opts shared_opts(void)
{
    return (em_engram_opts){.tier = EM_ENGRAM_TIER_SHARED, .max_tokens = 50, .max_tickets = 2, .shared_dir = dir};
}

static void count_call(void *ctx, uint64_t done, uint64_t total)
{
    *(int *)ctx += done <= total;
}

/* Opens, checks rows and the whole view; says whether the copy had to be filled. */
static bool check_copy(const model *m, em_pcg64 *rng, em_engram_opts opts)
{
    int n_calls = 0;
    opts.on_progress = count_call;
    opts.progress_ctx = &n_calls;
    em_engram *g = open_model(m, &opts);
    ck_assert_int_eq(em_engram_tier_of(g), EM_ENGRAM_TIER_SHARED);
    check_asks(m, g, rng, 20, opts.max_tokens);
    for (int32_t t = 0; t < m->spec.n_tables; t++) {
        em_engram_table view;
        em_engram_table_view(g, t, &view);
        ck_assert_ptr_ne(view.codes, m->spec.table[t].codes);
        ck_assert_mem_eq(view.codes, m->spec.table[t].codes, (size_t)view.n_rows * view.row_bytes);
        if (view.scale_bytes)
            ck_assert_mem_eq(view.scales, m->spec.table[t].scales, (size_t)view.n_rows * view.scale_bytes);
    }
    em_engram_close(g);
    return n_calls > 0;
}

static const struct {
    em_engram_dtype dtype;
    int32_t head_dim;
} shape[] = {{EM_ENGRAM_FP8, 256}, {EM_ENGRAM_BF16, 7}, {EM_ENGRAM_INT8, 33}, {EM_ENGRAM_F32, 3}};

START_TEST(the_second_finds_what_the_first_made)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(1) + (unsigned)_i);
    model m = make_model(&rng, shape[_i / 2].dtype, 1 + _i % 3, shape[_i / 2].head_dim, 3000);
    make_dir();
    if (_i & 1)
        put_in_file(&m, dir);
    ck_assert(check_copy(&m, &rng, shared_opts()));
    ck_assert_int_eq(each_file(NULL), 1);
    ck_assert(!check_copy(&m, &rng, shared_opts()));
    em_engram_opts opts = shared_opts();
    opts.verify = _i & 1; /* needs the file */
    ck_assert(!check_copy(&m, &rng, opts));
    ck_assert_int_eq(each_file(NULL), 1);
    remove_dir();
    free_model(&m);
}
END_TEST

START_TEST(resident_once_for_all)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(2));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 256, 3000);
    em_engram_opts opts = shared_opts();
    em_engram_table a, b;
    em_engram_stats stats;
    make_dir();
    em_engram *first = open_model(&m, &opts), *second = open_model(&m, &opts);
    em_engram_table_view(first, 1, &a);
    em_engram_table_view(second, 1, &b);
    ck_assert_ptr_ne(a.codes, b.codes);
    each_file(remove_file); /* a copy that has lost its name serves those who have it */
    check_asks(&m, first, &rng, 20, 50);
    check_asks(&m, second, &rng, 20, 50);
    em_engram_get_stats(second, &stats);
    ck_assert_uint_ge(stats.resident_bytes, stats.table_bytes - stats.table_bytes / 10);
    ck_assert_uint_le(stats.resident_bytes, stats.table_bytes);
    em_engram_close(first);
    check_asks(&m, second, &rng, 20, 50);
    em_engram_close(second);
    remove_dir();
    free_model(&m);
}
END_TEST

/* Another source, however alike, never meets the copy of the first. */
START_TEST(other_rows_get_a_copy_of_their_own)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(3));
    model m = make_model(&rng, EM_ENGRAM_FP8, 1, 64, 500);
    make_dir();
    bool with_file = _i & 1;
    if (with_file)
        put_in_file(&m, dir);
    ck_assert(check_copy(&m, &rng, shared_opts()));
    size_t last = (size_t)m.spec.table[0].n_rows * 64 - 1;
    uint8_t *codes = (uint8_t *)m.spec.table[0].codes;
    codes[last / 2] ^= 1;
    if (with_file) { /* written in place: another date */
        struct timespec times[2] = {{0, 0}, {77, _i}};
        ck_assert_int_eq(pwrite(m.fd, codes + last / 2, 1, (off_t)(m.spec.table[0].codes_offset + last / 2)), 1);
        ck_assert_int_eq(futimens(m.fd, times), 0);
    }
    ck_assert(check_copy(&m, &rng, shared_opts()));
    ck_assert_int_eq(each_file(NULL), 2);
    remove_dir();
    free_model(&m);
}
END_TEST

/* The same date and size, other rows throughout: the copy found is compared with its source and made anew. */
START_TEST(a_source_that_hides_its_change_is_found_out)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(4));
    model m = make_model(&rng, EM_ENGRAM_FP8, 1, 64, 500);
    make_dir();
    put_in_file(&m, dir);
    ck_assert(check_copy(&m, &rng, shared_opts()));
    for (int64_t i = 0; i < m.spec.table[0].n_rows * 64; i++)
        ((uint8_t *)m.spec.table[0].codes)[i] ^= 0x55;
    ck_assert(check_copy(&m, &rng, shared_opts()));
    ck_assert_int_eq(each_file(NULL), 1);
    remove_dir();
    free_model(&m);
}
END_TEST

/* --- damage ------------------------------------------------------------------------------------------------------ */

static void open_and(const char *path, void (*spoil)(int fd, off_t bytes))
{
    struct stat st;
    int fd = open(path, O_RDWR);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fstat(fd, &st), 0);
    spoil(fd, st.st_size);
    close(fd);
}

static void cut(int fd, off_t bytes)
{
    ck_assert_int_eq(ftruncate(fd, bytes / 2), 0);
}

static void empty(int fd, off_t bytes)
{
    ck_assert_int_eq(ftruncate(fd, 0), 0);
}

static void flip_at(int fd, off_t at)
{
    uint8_t v;
    ck_assert_int_eq(pread(fd, &v, 1, at), 1);
    v ^= 4;
    ck_assert_int_eq(pwrite(fd, &v, 1, at), 1);
}

static void flip_magic(int fd, off_t bytes)
{
    flip_at(fd, 7);
}

static void flip_identity(int fd, off_t bytes)
{
    flip_at(fd, 40);
}

static void zero_header(int fd, off_t bytes)
{
    static const char zeros[16384];
    ck_assert_int_eq(pwrite(fd, zeros, sizeof zeros, 0), sizeof zeros);
}

static void (*spoil_now)(int fd, off_t bytes);

static void spoil_file(const char *path)
{
    open_and(path, spoil_now);
}

START_TEST(a_damaged_copy_is_made_anew)
{
    static void (*const spoil[])(int, off_t) = {cut, empty, flip_magic, flip_identity, zero_header};
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(5));
    model m = make_model(&rng, EM_ENGRAM_FP8, 2, 96, 500);
    make_dir();
    for (size_t i = 0; i < sizeof spoil / sizeof *spoil; i++) {
        check_copy(&m, &rng, shared_opts());
        spoil_now = spoil[i];
        ck_assert_int_eq(each_file(spoil_file), 1);
        ck_assert(check_copy(&m, &rng, shared_opts()));
        ck_assert_int_eq(each_file(NULL), 1);
    }
    remove_dir();
    free_model(&m);
}
END_TEST

static off_t damage_at;

static void flip_one_bit(int fd, off_t bytes)
{
    flip_at(fd, damage_at);
}

/* One bit of one row that no sample meets: the checksum mode sees it. */
START_TEST(verify_finds_one_bit)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(6));
    model m = make_model(&rng, EM_ENGRAM_BF16, 1, 64, 4000);
    em_engram_opts opts = shared_opts();
    opts.verify = true;
    make_dir();
    put_in_file(&m, dir);
    check_copy(&m, &rng, opts);
    spoil_now = flip_one_bit;
    for (int round = 0; round < 5; round++) {
        damage_at = 16384 + (off_t)below(&rng, (uint64_t)m.spec.table[0].n_rows * 128);
        ck_assert_int_eq(each_file(spoil_file), 1);
        ck_assert(check_copy(&m, &rng, opts));
        ck_assert(!check_copy(&m, &rng, opts));
    }
    remove_dir();
    free_model(&m);
}
END_TEST

/* --- refusals ---------------------------------------------------------------------------------------------------- */

static void open_up(const char *path)
{
    ck_assert_int_eq(chmod(path, 0666), 0);
}

static void make_link(const char *path)
{
    char elsewhere[300];
    snprintf(elsewhere, sizeof elsewhere, "%s.elsewhere", dir);
    ck_assert_int_eq(rename(path, elsewhere), 0);
    ck_assert_int_eq(symlink(elsewhere, path), 0);
}

static void check_refused(const model *m, const em_engram_opts *opts, int code, const char *word)
{
    em_engram *g = NULL;
    char err[512] = "";
    ck_assert_int_eq(em_engram_open(&m->spec, opts, &g, err, sizeof err), code);
    ck_assert_ptr_null(g);
    ck_assert_msg(strstr(err, word) != NULL, "\"%s\" lacks \"%s\"", err, word);
    ck_assert_ptr_null(strchr(err, '\n'));
}

START_TEST(what_others_could_have_written_is_refused)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(7));
    model m = make_model(&rng, EM_ENGRAM_FP8, 1, 32, 50);
    em_engram_opts opts = shared_opts();
    char elsewhere[300];
    make_dir();
    check_copy(&m, &rng, opts);
    each_file(open_up);
    check_refused(&m, &opts, -EPERM, "does not belong to this user alone");
    each_file(remove_file);
    check_copy(&m, &rng, opts);
    each_file(make_link);
    check_refused(&m, &opts, -ELOOP, "cannot open the shared copy");
    snprintf(elsewhere, sizeof elsewhere, "%s.elsewhere", dir);
    unlink(elsewhere);
    remove_dir();
    check_refused(&m, &opts, -ENOENT, "cannot create the shared copy");
    char long_dir[5000];
    memset(long_dir, 'x', sizeof long_dir);
    long_dir[sizeof long_dir - 1] = '\0';
    opts.shared_dir = long_dir;
    check_refused(&m, &opts, -ENAMETOOLONG, "too long");
    free_model(&m);
}
END_TEST

START_TEST(no_room_is_a_sentence)
{
    em_pcg64 rng;
    em_pcg64_seed(&rng, test_seed(8));
    model m = make_model(&rng, EM_ENGRAM_FP8, 1, 32, 50);
    em_engram_opts opts = shared_opts();
    size_t bytes = (size_t)1 << 40; /* 1 TiB of address space of nothing: no folder has room for it */
    uint8_t *nothing = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_ptr_ne(nothing, MAP_FAILED);
    make_dir();
    put_in_file(&m, dir);
    m.spec.table[0].n_rows = (int64_t)(bytes / 32);
    m.spec.table[0].codes = m.spec.table[0].scales = nothing;
    check_refused(&m, &opts, -ENOSPC, "no room for a shared copy");
    ck_assert_int_eq(each_file(NULL), 0);
    munmap(nothing, bytes);
    remove_dir();
    free_model(&m);
}
END_TEST

/* --- processes that die ------------------------------------------------------------------------------------------ */

/* Opens and checks until it is killed; leaves with 1 when a row is wrong. */
static pid_t start_user(const model *m, uint64_t seed)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid)
        return pid;
    em_engram_opts opts = shared_opts();
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    for (;;) {
        em_engram *g = NULL;
        int32_t suffix[50 * EM_ENGRAM_MAX_ORDER];
        em_engram_ticket *ticket;
        em_engram_rows rows;
        if (em_engram_open(&m->spec, &opts, &g, NULL, 0))
            _exit(2);
        random_suffix(m, &rng, 50, suffix);
        if (em_engram_ask(g, suffix, 50, &ticket) || em_engram_take(ticket, 0, &rows))
            _exit(3);
        if (!rows_are_right(m, g, 0, suffix, 50, &rows))
            _exit(1);
        em_engram_release(ticket);
        em_engram_close(g);
        if (below(&rng, 4) == 0)
            each_file(remove_file);
    }
}

START_TEST(killed_makers_leave_no_half_copy)
{
    enum { USERS = 2 };
    unsigned long long seed = test_seed(9);
    em_pcg64 rng;
    em_pcg64_seed(&rng, seed);
    model m = make_model(&rng, EM_ENGRAM_FP8, 1, 256, 3000);
    em_engram_opts opts = shared_opts();
    int n_filled = 0;
    make_dir();
    for (int round = 0; round < 60; round++) {
        pid_t pid[USERS];
        for (int i = 0; i < USERS; i++)
            pid[i] = start_user(&m, seed * 1000 + (unsigned)(round * USERS + i));
        for (int i = 0; i < USERS; i++) {
            int status;
            usleep((useconds_t)below(&rng, 12000));
            kill(pid[i], SIGKILL);
            ck_assert_int_eq(waitpid(pid[i], &status, 0), pid[i]);
            ck_assert_msg(WIFSIGNALED(status), "a user met a fault: exit %d", WEXITSTATUS(status));
        }
        n_filled += check_copy(&m, &rng, opts);
        ck_assert_int_eq(each_file(NULL), 1); /* what the killed ones left is gone */
    }
    printf("%d of 60 rounds had to fill\n", n_filled);
    remove_dir();
    free_model(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("engram-shared");
    TCase *t = tcase_create("shared");
    tcase_add_loop_test(t, the_second_finds_what_the_first_made, 0, 2 * (int)(sizeof shape / sizeof *shape));
    tcase_add_test(t, resident_once_for_all);
    tcase_add_loop_test(t, other_rows_get_a_copy_of_their_own, 0, 2);
    tcase_add_test(t, a_source_that_hides_its_change_is_found_out);
    tcase_add_test(t, a_damaged_copy_is_made_anew);
    tcase_add_test(t, verify_finds_one_bit);
    tcase_add_test(t, what_others_could_have_written_is_refused);
    tcase_add_test(t, no_room_is_a_sentence);
    tcase_add_test(t, killed_makers_leave_no_half_copy);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int n_failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
