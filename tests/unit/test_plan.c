/* The memory plan: machines read from folders of our own, counts against what opening really takes, judgement. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/units.h"
#include "engine/cpu/cpu.h"
#include "engine/engine.h"
#include "engine/engine_open.h"
#include "engine/machine.h"
#include "engine/plan_count.h"
#include "engine/safetensors.h"
#include "tests/support/fixtures.h"
#include "tests/tools/model_writer.h"

#define GIB(n) ((uint64_t)(n) << 30)

static char root[64];

static void make_root(void)
{
    strcpy(root, "/tmp/engramd-plan-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void remove_root(void)
{
    char cmd[96];
    snprintf(cmd, sizeof(cmd), "rm -r %s", root);
    ck_assert_int_eq(system(cmd), 0);
}

static void write_file(const char *rel, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", root, rel);
    for (char *p = path + strlen(root) + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0700);
            *p = '/';
        }
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

/* --- the machine -------------------------------------------------------------------------------------------------- */

static em_machine read_machine(void)
{
    char proc[96], cgroups[96], dev[96];
    em_machine m;
    snprintf(proc, sizeof(proc), "%s/proc", root);
    snprintf(cgroups, sizeof(cgroups), "%s/sys", root);
    snprintf(dev, sizeof(dev), "%s/dev", root);
    em_machine_read(&(em_machine_roots){proc, cgroups, dev}, &m);
    return m;
}

START_TEST(nothing_to_read)
{
    em_machine m = read_machine();
    ck_assert_uint_eq(m.total, 0);
    ck_assert_uint_eq(m.available, 0);
    ck_assert_uint_eq(m.cgroup_limit, EM_UNLIMITED);
    ck_assert_uint_eq(m.cgroup_room, EM_UNLIMITED);
    ck_assert_uint_eq(m.address_space, EM_UNLIMITED);
    ck_assert_int_eq(m.n_gpus, 0);
    ck_assert_str_eq(m.cpu, "");
}
END_TEST

START_TEST(proc_files)
{
    write_file("proc/meminfo", "MemTotal:       16384000 kB\nMemFree:  1 kB\nMemAvailable:    8192000 kB\n");
    write_file("proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units     \n"
                                   "Max locked memory         8388608              9999999              bytes     \n"
                                   "Max address space         unlimited            unlimited            bytes     \n");
    write_file("proc/cpuinfo", "processor\t: 0\nmodel name\t: A Fine CPU @ 3 GHz\nflags\t: x\nmodel name\t: other\n");
    write_file("dev/nvidia0", "");
    write_file("dev/nvidia1", "");
    write_file("dev/nvidiactl", "");
    em_machine m = read_machine();
    ck_assert_uint_eq(m.total, UINT64_C(16384000) * 1024);
    ck_assert_uint_eq(m.available, UINT64_C(8192000) * 1024);
    ck_assert_uint_eq(m.memlock, 8388608);
    ck_assert_uint_eq(m.address_space, EM_UNLIMITED);
    ck_assert_str_eq(m.cpu, "A Fine CPU @ 3 GHz");
    ck_assert_int_eq(m.n_gpus, 2);
}
END_TEST

START_TEST(rubbish)
{
    write_file("proc/meminfo", "MemTotal: lots\nMemAvailable: -5 kB\nMemTotal: 99999999999999999999999 kB\n");
    write_file("proc/self/limits", "Max locked memory\nMax address space         ?\n");
    write_file("proc/self/cgroup", "nonsense\n0::/x\n::\n4:memory\n");
    write_file("sys/x/memory.max", "rubbish\n");
    em_machine m = read_machine();
    ck_assert_uint_eq(m.total, 0);
    ck_assert_uint_eq(m.available, 0);
    ck_assert_uint_eq(m.memlock, 0);
    ck_assert_uint_eq(m.cgroup_limit, EM_UNLIMITED);
}
END_TEST

START_TEST(cgroup_v2)
{
    write_file("proc/self/cgroup", "0::/pod/box\n");
    write_file("sys/pod/memory.max", "4294967296\n");
    write_file("sys/pod/memory.current", "3221225472\n");
    write_file("sys/pod/memory.stat", "anon 7\nfile 2147483648\ninactive_file 1073741824\nactive_file 536870912\n");
    write_file("sys/pod/box/memory.max", "max\n");
    em_machine m = read_machine();
    ck_assert_uint_eq(m.cgroup_limit, GIB(4)); /* the parent's */
    ck_assert_uint_eq(m.cgroup_room, GIB(4) - (GIB(3) - GIB(1) - GIB(1) / 2));
    write_file("sys/pod/box/memory.high", "1073741824\n");
    write_file("sys/pod/box/memory.current", "4096\n");
    m = read_machine();
    ck_assert_uint_eq(m.cgroup_limit, GIB(1));
    ck_assert_uint_eq(m.cgroup_room, GIB(1) - 4096);
    write_file("sys/pod/box/memory.current", "2147483648\n"); /* over its limit */
    m = read_machine();
    ck_assert_uint_eq(m.cgroup_room, 0);
}
END_TEST

START_TEST(cgroup_v1)
{
    write_file("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/x\n0::/\n");
    write_file("sys/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    write_file("sys/memory/docker/x/memory.usage_in_bytes", "5\n");
    em_machine m = read_machine();
    ck_assert_uint_eq(m.cgroup_limit, EM_UNLIMITED);
    write_file("sys/memory/memory.limit_in_bytes", "2147483648\n"); /* as seen from inside a container */
    write_file("sys/memory/memory.usage_in_bytes", "1073741824\n");
    write_file("sys/memory/memory.stat", "active_file 1\ntotal_inactive_file 1048576\ntotal_active_file 1048576\n");
    m = read_machine();
    ck_assert_uint_eq(m.cgroup_limit, GIB(2));
    ck_assert_uint_eq(m.cgroup_room, GIB(1) + (2 << 20));
}
END_TEST

START_TEST(this_machine)
{
    em_machine m;
    em_machine_read(NULL, &m);
    ck_assert_uint_gt(m.total, 0);
    ck_assert_uint_le(m.available, m.total);
}
END_TEST

/* --- counting ------------------------------------------------------------------------------------------------------ */

static uint64_t bytes_of(const em_memory_plan *p, const char *name)
{
    uint64_t n = 0;
    for (int32_t i = 0; i < p->n_items; i++)
        if (strcmp(p->item[i].name, name) == 0)
            n += p->item[i].bytes;
    return n;
}

/* What the backend really places for this shape. */
static uint64_t arena_bytes(const em_engine_opts *opts)
{
    em_model_config *cfg = malloc(sizeof(*cfg));
    em_st_set *files;
    em_weights *weights;
    em_backend_shape shape;
    em_backend *be;
    em_model_opts mo;
    em_error err;
    ck_assert_int_eq(em_engine_model_opts(opts, &mo, &err), 0);
    ck_assert_msg(em_model_config_load(opts->model_dir, cfg, &err) == 0, "%s", err.text);
    ck_assert_int_eq(em_model_shape(cfg, &mo, &shape, &err), 0);
    ck_assert_int_eq(em_st_open(opts->model_dir, &files, &err), 0);
    ck_assert_int_eq(em_weights_load(cfg, files, &weights, &err), 0);
    ck_assert_int_eq(em_cpu_open(cfg, weights, &shape, &(em_cpu_opts){.n_threads = mo.n_threads}, &be, &err), 0);
    uint64_t n = ((em_cpu *)be)->arena_bytes;
    be->close(be);
    em_weights_free(weights);
    em_st_close(files);
    free(cfg);
    return n;
}

/* The plan against the model it is a plan of. */
static void check_model(uint64_t seed)
{
    model_spec spec;
    char line[512];
    em_error err = {.text = ""};
    em_memory_plan *p = malloc(sizeof(*p));
    em_model *m;
    em_model_opts mo;
    model_spec_random(&spec, seed);
    ck_assert_msg(model_write(root, &spec, NULL, &err) == 0, "%s", err.text);
    em_engine_opts opts = {.model_dir = root,
                           .n_threads = 1 + (int32_t)(seed % 3),
                           .max_seqs = 1 + (int32_t)(seed % 5),
                           .max_batch_tokens = 8 + (int32_t)(seed % 50),
                           .engram_tier = seed % 2 ? "mmap" : "ram",
                           .kv_cache_bytes = seed % 4 ? 0 : 1 << 20};
    ck_assert_msg(em_engine_plan(&opts, NULL, p, &err) == 0, "%s: %s", model_spec_describe(&spec, line, sizeof(line)),
                  err.text);
    ck_assert_int_eq(em_engine_model_opts(&opts, &mo, &err), 0);
    ck_assert_msg(em_model_open(&mo, &m, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(bytes_of(p, "weights"), em_model_weight_bytes(m));
    ck_assert_uint_eq(bytes_of(p, "kv_blocks") + bytes_of(p, "sequence_slots") + bytes_of(p, "snapshots"),
                      em_model_kv_bytes(m));
    ck_assert_int_eq(p->n_blocks, em_kv_cache_blocks(em_model_kv_cache(m)));
    ck_assert_int_eq(p->max_len, em_model_max_len(m));
    em_engram *g = em_model_engram(m);
    em_engram_stats stats = {0};
    if (g)
        em_engram_get_stats(g, &stats);
    ck_assert_uint_ge(bytes_of(p, "engram_tables"), stats.table_bytes); /* scales that are all ones stay unread */
    ck_assert_str_eq(p->engram_tier, g ? em_engine_tier_name(em_engram_tier_of(g)) : "none");
    em_model_close(m);
    ck_assert_uint_eq(bytes_of(p, "step_buffers"), arena_bytes(&opts));
    ck_assert_uint_eq(p->own + p->mapped + p->cached, ({
                          uint64_t sum = 0;
                          for (int32_t i = 0; i < p->n_items; i++)
                              sum += p->item[i].bytes;
                          sum;
                      }));
    free(p);
}

START_TEST(random_models)
{
    uint64_t seed = test_seed(1);
    for (int i = 0; i < 12; i++) {
        check_model(seed + (uint64_t)i);
        remove_root();
        make_root();
    }
}
END_TEST

START_TEST(bad_options)
{
    em_memory_plan p;
    em_error err;
    em_engine_opts opts = {.model_dir = "/nonexistent"};
    ck_assert_int_eq(em_engine_plan(&opts, NULL, &p, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "/nonexistent"));
    opts = (em_engine_opts){.model_dir = EM_TESTS_BUNDLED_MODEL, .n_threads = 2000};
    ck_assert_int_eq(em_engine_plan(&opts, NULL, &p, &err), -EINVAL);
    opts = (em_engine_opts){.model_dir = EM_TESTS_BUNDLED_MODEL, .engram_tier = "moon"};
    ck_assert_int_eq(em_engine_plan(&opts, NULL, &p, &err), -EINVAL);
}
END_TEST

/* --- judging ------------------------------------------------------------------------------------------------------- */

static em_model_config big_cfg;

/* A model of some size without any file. */
static em_plan_input big_input(void)
{
    em_error err;
    em_model_config *cfg = &big_cfg;
    ck_assert_int_eq(em_model_config_load(EM_TESTS_BUNDLED_MODEL, cfg, &err), 0);
    return (em_plan_input){.cfg = cfg,
                           .opts = {.dir = "x",
                                    .n_threads = 4,
                                    .max_seqs = 64,
                                    .max_batch_tokens = 2048,
                                    .kv_cache_bytes = (int64_t)GIB(8),
                                    .engram_tier = EM_ENGRAM_TIER_RAM},
                           .weights = {.mapped = GIB(10),
                                       .packed = GIB(9),
                                       .embed = GIB(1),
                                       .tables = GIB(20),
                                       .owned = 1 << 20,
                                       .table_dtype = EM_DTYPE_FP8},
                           .n_tensors = 1000,
                           .tokenizer_bytes = 6 << 20};
}

static em_memory_plan judge(const em_plan_input *in, const em_machine *m)
{
    em_memory_plan p;
    em_error err;
    ck_assert_int_eq(em_plan_count(in, &p, &err), 0);
    em_plan_judge(in, m, &p);
    return p;
}

static em_machine roomy(void)
{
    return (em_machine){.total = GIB(100),
                        .available = GIB(90),
                        .cgroup_limit = EM_UNLIMITED,
                        .cgroup_room = EM_UNLIMITED,
                        .memlock = 8 << 20,
                        .address_space = EM_UNLIMITED};
}

START_TEST(fits_or_not)
{
    em_plan_input in = big_input();
    em_machine m = roomy();
    em_memory_plan p = judge(&in, &m);
    ck_assert(p.fits);
    ck_assert_str_eq(p.advice, "");
    ck_assert_uint_gt(p.own, GIB(37)); /* weights, tables and KV blocks */
    ck_assert_uint_eq(p.mapped, GIB(1));
    /* to the byte */
    m.available = p.own + p.mapped;
    ck_assert(judge(&in, &m).fits);
    m.available--;
    ck_assert(!judge(&in, &m).fits);
    m = roomy();
    m.cgroup_limit = GIB(100);
    m.cgroup_room = p.own + p.mapped - 1;
    ck_assert(!judge(&in, &m).fits);
    m.cgroup_room++;
    ck_assert(judge(&in, &m).fits);
    m.address_space = p.own + p.mapped - 1;
    ck_assert(!judge(&in, &m).fits);
    m = roomy();
    m.available = 0; /* unknown is no reason to refuse */
    ck_assert(judge(&in, &m).fits);
}
END_TEST

/* Applies the flags of an advice. */
static void follow(const char *advice, em_plan_input *in)
{
    const char *at;
    if (strstr(advice, "--engram-tier mmap"))
        in->opts.engram_tier = EM_ENGRAM_TIER_MMAP;
    if ((at = strstr(advice, "--kv-cache-bytes ")))
        in->opts.kv_cache_bytes = strtoll(at + 17, NULL, 10);
    if ((at = strstr(advice, "--max-num-batched-tokens ")))
        in->opts.max_batch_tokens = (int32_t)strtol(at + 25, NULL, 10);
    if ((at = strstr(advice, "--max-num-seqs ")))
        in->opts.max_seqs = (int32_t)strtol(at + 15, NULL, 10);
}

START_TEST(advice_holds)
{
    static const struct {
        uint64_t mib;
        const char *has, *lacks;
    } cases[] = {
        {37 << 10, "--kv-cache-bytes ", "--engram-tier"}, /* fewer blocks are enough */
        {20 << 10, "--engram-tier mmap", "--kv-cache-bytes"},
        {14 << 10, "--engram-tier mmap --kv-cache-bytes ", "--max-num"},
        {(10 << 10) + 120, "--max-num-batched-tokens ", "even"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        em_plan_input in = big_input();
        em_machine m = roomy();
        m.cgroup_limit = GIB(64);
        m.cgroup_room = cases[i].mib << 20;
        em_memory_plan p = judge(&in, &m);
        ck_assert(!p.fits);
        ck_assert_msg(strstr(p.advice, "it would fit with "), "%zu: %s", i, p.advice);
        ck_assert_msg(strstr(p.advice, cases[i].has) && !strstr(p.advice, cases[i].lacks), "%zu: %s", i, p.advice);
        ck_assert_ptr_nonnull(strstr(p.advice, "control group"));
        follow(p.advice, &in);
        p = judge(&in, &m);
        ck_assert_msg(p.fits, "%zu: %s", i, p.advice);
    }
}
END_TEST

START_TEST(no_advice_helps)
{
    em_plan_input in = big_input();
    em_machine m = roomy();
    m.available = GIB(9); /* less than the weights */
    em_memory_plan p = judge(&in, &m);
    ck_assert(!p.fits);
    ck_assert_msg(strstr(p.advice, "even with --engram-tier mmap") && strstr(p.advice, "free on this machine"), "%s",
                  p.advice);
}
END_TEST

START_TEST(units)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.00 KiB"},
                 {1536, "1.50 KiB"},
                 {10 << 10, "10.0 KiB"},
                 {999 << 10, "999 KiB"},
                 {(1 << 20) - 1, "1.00 MiB"},
                 {GIB(1), "1.00 GiB"},
                 {GIB(201), "201 GiB"},
                 {UINT64_MAX, "16.0 EiB"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[EM_UNITS_TEXT];
        ck_assert_str_eq(em_bytes_text(cases[i].bytes, text), cases[i].text);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("plan");
    TCase *machine = tcase_create("machine"), *count = tcase_create("count"), *judging = tcase_create("judge");
    tcase_add_checked_fixture(machine, make_root, remove_root);
    tcase_add_test(machine, nothing_to_read);
    tcase_add_test(machine, proc_files);
    tcase_add_test(machine, rubbish);
    tcase_add_test(machine, cgroup_v2);
    tcase_add_test(machine, cgroup_v1);
    tcase_add_test(machine, this_machine);
    tcase_add_checked_fixture(count, make_root, remove_root);
    tcase_add_test(count, random_models);
    tcase_add_test(count, bad_options);
    tcase_add_test(judging, fits_or_not);
    tcase_add_test(judging, advice_holds);
    tcase_add_test(judging, no_advice_helps);
    tcase_add_test(judging, units);
    suite_add_tcase(s, machine);
    suite_add_tcase(s, count);
    suite_add_tcase(s, judging);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
