/* The CUDA backend's host code against the stand-in for the runtime: any order that streams allow gives the same bits,
 * the host never touches the device's memory, every call that fails gives a sentence and leaves nothing behind, and
 * memory is planned before it is taken. Values are the business of check_backend.c. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/plan_count.h"
#include "tests/cuda/device_rig.h"
#include "tests/cuda/runtime/fake.h"
#include "tests/support/fixtures.h"

#define MIB(n) ((uint64_t)(n) << 20)
#define PROMPT 5
#define STEPS 4

static const int32_t ids[] = {1, 17, 5, 9, 30, 2, 11, 40, 7, 23};

static rig_opts opts_of(const char *model, char path[1024])
{
    char rel[96];
    snprintf(rel, sizeof(rel), "models/%s/checkpoint", model);
    return (rig_opts){.dir = fixture_path(path, 1024, rel),
                      .max_batch_tokens = 16,
                      .n_slots = 3,
                      .n_snapshots = 1,
                      .n_blocks = 8,
                      .tier = EM_ENGRAM_TIER_RAM};
}

static void open_or_fail(device_rig *r, const rig_opts *o)
{
    em_error err = {""};
    ck_assert_msg(rig_open(r, o, &err) == 0, "%s", err.text);
}

/* A prompt of two sequences, then decode steps of both, then of one: prefill, recorded, replayed, padded. Appends the
 * logits of each step to `out`; the first failure ends it. */
static int run_steps(device_rig *r, float *out, em_error *err)
{
    em_seq_kv kv[2] = {{.slot = -1}, {.slot = -1}};
    int rc = 0;
    for (int s = 0; s < 2; s++) {
        ck_assert_int_eq(em_seq_kv_open(r->kv, &kv[s]), 0);
        ck_assert_int_eq(em_seq_kv_reserve(r->kv, &kv[s], PROMPT + STEPS), 0);
    }
    for (int step = 0; step <= STEPS && rc == 0; step++) {
        int n_seqs = step < 3 ? 2 : 1, n = step ? 1 : PROMPT, pos = step ? PROMPT + step - 1 : 0;
        em_batch_seq run[2];
        for (int s = 0; s < n_seqs; s++)
            run[s] = (em_batch_seq){.kv = &kv[s], .tokens = ids + s, .pos = pos, .n_tokens = n, .n_logits = 1};
        em_batch batch = {.seqs = run, .n_seqs = n_seqs, .n_tokens = n_seqs * n, .n_logits = n_seqs};
        rc = rig_forward(r, &batch, out + (size_t)(2 * step) * (size_t)r->cfg.vocab_size, err);
    }
    for (int s = 0; s < 2; s++)
        em_seq_kv_close(r->kv, &kv[s]);
    return rc;
}

static float *new_logits(const device_rig *r)
{
    float *v = calloc((size_t)(2 * STEPS + 2) * (size_t)r->cfg.vocab_size, sizeof(*v));
    ck_assert_ptr_nonnull(v);
    return v;
}

static size_t logits_bytes(const device_rig *r)
{
    return (size_t)(2 * STEPS + 2) * (size_t)r->cfg.vocab_size * sizeof(float);
}

static float *run_whole(const rig_opts *o, size_t *ret_bytes)
{
    device_rig r;
    em_error err = {""};
    open_or_fail(&r, o);
    float *v = new_logits(&r);
    ck_assert_msg(run_steps(&r, v, &err) == 0, "%s", err.text);
    *ret_bytes = logits_bytes(&r);
    rig_close(&r);
    return v;
}

static void nothing_left(const char *when)
{
    fake_live l = fake_get_live();
    ck_assert_msg(!l.device && !l.pinned && !l.streams && !l.events && !l.graphs,
                  "%s: %d device and %d page-locked blocks, %d streams, %d events, %d graphs are left", when, l.device,
                  l.pinned, l.streams, l.events, l.graphs);
}

static const char *const models[] = {"2-compressed", "3-engram"};

/* --- order ------------------------------------------------------------------------------------------------------ */

START_TEST(any_order_same_bits)
{
    char path[1024];
    size_t bytes;
    rig_opts o = opts_of(models[_i], path);
    fake_reset();
    float *eager = run_whole(&o, &bytes);
    unsigned long long seed = test_seed(1);
    for (int i = 0; i < 5; i++) {
        fake_reset();
        fake_set_order(i ? FAKE_RANDOM : FAKE_LAZY, seed + (unsigned)i);
        float *v = run_whole(&o, &bytes);
        ck_assert_msg(!memcmp(eager, v, bytes), "order %d, seed %llu: other bits", i, seed + (unsigned)i);
        free(v);
    }
    free(eager);
    nothing_left("orders");
}
END_TEST

/* Recorded steps are launched again, and a step waits for the device once. */
START_TEST(graphs_are_used)
{
    char path[1024];
    device_rig r;
    em_error err = {""};
    rig_opts o = opts_of("3-engram", path);
    fake_reset();
    open_or_fail(&r, &o);
    float *v = new_logits(&r);
    fake_counts before = fake_get_counts();
    ck_assert_msg(run_steps(&r, v, &err) == 0, "%s", err.text);
    fake_counts after = fake_get_counts();
    ck_assert_int_eq(after.captures - before.captures, 2);
    ck_assert_int_eq(after.graph_launches - before.graph_launches, STEPS);
    ck_assert_int_eq(after.host_waits - before.host_waits, STEPS + 1);
    ck_assert_msg(run_steps(&r, v, &err) == 0, "%s", err.text);
    ck_assert_int_eq(fake_get_counts().captures, after.captures);
    free(v);
    rig_close(&r);
}
END_TEST

#ifndef __SANITIZE_ADDRESS__ /* its own access would be caught */
START_TEST(host_stays_out)
{
    char path[1024];
    size_t bytes;
    rig_opts o = opts_of("3-engram", path);
    fake_reset();
    float *open = run_whole(&o, &bytes);
    fake_reset();
    fake_set_protect(true);
    float *closed = run_whole(&o, &bytes);
    ck_assert_mem_eq(open, closed, bytes);
    free(open);
    free(closed);
}
END_TEST
#endif

/* --- faults ----------------------------------------------------------------------------------------------------- */

/* Every call of opening fails once. */
START_TEST(opening_fails)
{
    char path[1024];
    rig_opts o = opts_of("3-engram", path);
    int64_t n = 1;
    for (bool failed = true; failed; n++) {
        device_rig r;
        em_error err = {""};
        fake_reset();
        fake_fail_at(n);
        int rc = rig_open(&r, &o, &err);
        failed = fake_failed_call() != NULL;
        ck_assert_msg(failed == (rc < 0), "call %lld, %s: opening gave %d", (long long)n, fake_failed_call(), rc);
        ck_assert_msg(!failed || strlen(err.text) > 10, "call %lld, %s: no sentence", (long long)n, fake_failed_call());
        fake_fail_at(0);
        if (rc == 0)
            rig_close(&r);
        nothing_left(failed ? fake_failed_call() : "opening");
    }
    ck_assert_int_gt(n, 50);
}
END_TEST

/* Every call of steps fails once: the step says so. Kernels do not run meanwhile, since only the host is judged; in the
 * end the same steps give the same bits as before. */
START_TEST(steps_fail)
{
    char path[1024];
    rig_opts o = opts_of("3-engram", path);
    device_rig r;
    em_error err = {""};
    fake_reset();
    open_or_fail(&r, &o);
    float *want = new_logits(&r), *got = new_logits(&r);
    ck_assert_msg(run_steps(&r, want, &err) == 0, "%s", err.text);
    fake_set_kernels(false);
    int64_t n = 1;
    for (bool failed = true; failed; n++) {
        em_cuda_graphs_done(r.cuda); /* so that recording is among what fails */
        fake_fail_at(n);
        err.text[0] = '\0';
        int rc = run_steps(&r, got, &err);
        failed = fake_failed_call() != NULL;
        ck_assert_msg(failed == (rc < 0), "call %lld, %s: a step gave %d", (long long)n, fake_failed_call(), rc);
        ck_assert_msg(!failed || strstr(err.text, "the GPU failed at "), "call %lld, %s: '%s'", (long long)n,
                      fake_failed_call(), err.text);
    }
    ck_assert_int_gt(n, 200);
    fake_fail_at(0);
    em_cuda_graphs_done(r.cuda);
    fake_set_kernels(true);
    ck_assert_msg(run_steps(&r, got, &err) == 0, "%s", err.text);
    ck_assert_mem_eq(want, got, logits_bytes(&r));
    free(want);
    free(got);
    rig_close(&r);
    nothing_left("steps");
}
END_TEST

/* A copy of state that fails is told by the next step, which could not have the right state. */
START_TEST(copies_fail)
{
    char path[1024];
    rig_opts o = opts_of("2-compressed", path);
    device_rig r;
    em_error err = {""};
    fake_reset();
    open_or_fail(&r, &o);
    float *v = new_logits(&r);
    fake_fail_at(1);
    if (_i)
        r.cuda->base.copy_block(&r.cuda->base, 0, 1);
    else
        r.cuda->base.copy_slot(&r.cuda->base, 0, 1);
    ck_assert_str_eq(fake_failed_call(), "cudaMemcpyAsync");
    ck_assert_int_eq(run_steps(&r, v, &err), -EIO);
    ck_assert_ptr_nonnull(strstr(err.text, _i ? "KV block" : "state of a sequence"));
    ck_assert_msg(run_steps(&r, v, &err) == 0, "%s", err.text);
    free(v);
    rig_close(&r);
}
END_TEST

/* A step that nobody finishes, as when rows cannot be read: the next one begins as if it had not been. */
START_TEST(abandoned_step)
{
    char path[1024];
    rig_opts o = opts_of("3-engram", path);
    device_rig r;
    em_error err = {""};
    fake_reset();
    fake_set_order(FAKE_LAZY, 0);
    open_or_fail(&r, &o);
    float *want = new_logits(&r), *got = new_logits(&r);
    ck_assert_msg(run_steps(&r, want, &err) == 0, "%s", err.text);
    em_cuda_graphs_done(r.cuda);
    em_seq_kv kv = {.slot = -1};
    ck_assert_int_eq(em_seq_kv_open(r.kv, &kv), 0);
    ck_assert_int_eq(em_seq_kv_reserve(r.kv, &kv, 2), 0);
    em_batch_seq run = {.kv = &kv, .tokens = ids, .n_tokens = _i + 1, .n_logits = 1};
    em_batch batch = {.seqs = &run, .n_seqs = 1, .n_tokens = _i + 1, .n_logits = 1};
    ck_assert_int_eq(r.cuda->base.begin(&r.cuda->base, &batch, &err), 0);
    r.cuda->base.embed(&r.cuda->base);
    em_seq_kv_close(r.kv, &kv);
    ck_assert_msg(run_steps(&r, got, &err) == 0, "%s", err.text);
    ck_assert_mem_eq(want, got, logits_bytes(&r));
    free(want);
    free(got);
    rig_close(&r);
    nothing_left("an abandoned step");
}
END_TEST

/* --- memory ----------------------------------------------------------------------------------------------------- */

/* Experts beyond the device's memory are read where they are, with the same bits. */
START_TEST(experts_on_the_host)
{
    char path[1024];
    size_t bytes;
    rig_opts o = opts_of("3-engram", path);
    device_rig r;
    fake_reset();
    float *want = run_whole(&o, &bytes);
    open_or_fail(&r, &o);
    em_device_plan all = r.plan;
    rig_close(&r);
    ck_assert_uint_gt(all.experts, 0);
    ck_assert_uint_eq(all.host_experts, 0);
    uint64_t fixed = all.weights + all.activations + all.slots + all.kv_blocks;
    o.device_bytes = (fixed + all.experts / 3) * 32 / 31 + 64;
    open_or_fail(&r, &o);
    ck_assert_uint_gt(r.plan.host_experts, all.experts / 2);
    ck_assert_ptr_nonnull(r.cuda->host_experts);
    rig_close(&r);
    float *got = run_whole(&o, &bytes);
    ck_assert_mem_eq(want, got, bytes);
    free(want);
    free(got);
}
END_TEST

START_TEST(plans)
{
    char path[1024], dir[1024];
    em_model_config cfg;
    em_error err = {""};
    rig_opts o = opts_of("4-released", path);
    snprintf(dir, sizeof(dir), "%s", o.dir);
    ck_assert_msg(em_model_config_load(dir, &cfg, &err) == 0, "%s", err.text);
    em_backend_shape shape = {
        .max_len = 128, .max_batch_tokens = 64, .n_slots = 4, .n_snapshots = 2, .n_blocks = 8, .block_tokens = 64};
    em_device_need need = {.weights = MIB(8), .experts = MIB(64), .device_bytes = MIB(1024), .max_blocks = 8};
    em_device_plan p, q;
    ck_assert_int_eq(em_cuda_plan(&cfg, &shape, &need, &p, &err), 0);
    ck_assert_uint_eq(p.experts, MIB(64));
    ck_assert_uint_eq(p.host_experts, 0);
    ck_assert_int_eq(p.n_blocks, 8);
    uint64_t fixed = p.weights + p.activations + p.slots + p.kv_blocks;

    need.max_blocks = 1 << 20; /* blocks fill the rest, and no more */
    ck_assert_int_eq(em_cuda_plan(&cfg, &shape, &need, &q, &err), 0);
    ck_assert_int_gt(q.n_blocks, 1000);
    uint64_t taken = q.weights + q.experts + q.activations + q.slots + q.kv_blocks;
    ck_assert_uint_le(taken, MIB(1024) - MIB(1024) / 32);
    ck_assert_uint_gt(taken, MIB(1024) - MIB(1024) / 32 - MIB(1));

    need.device_bytes = (fixed + MIB(16)) * 32 / 31;
    ck_assert_int_eq(em_cuda_plan(&cfg, &shape, &need, &q, &err), 0);
    ck_assert_int_eq(q.n_blocks, 8);
    ck_assert_uint_le(q.experts, MIB(16) + 64);
    ck_assert_uint_eq(q.experts + q.host_experts, MIB(64));

    need.device_bytes = fixed;
    ck_assert_int_eq(em_cuda_plan(&cfg, &shape, &need, &q, &err), -ENOMEM);
    ck_assert_ptr_nonnull(strstr(err.text, "--max-num-batched-tokens"));
}
END_TEST

/* Memory that may not be page-locked: the sentence names the limit that can be raised, or another tier; and nothing of a
 * table's pieces stays. */
START_TEST(pinning_refused)
{
    char path[1024];
    rig_opts o = opts_of("3-engram", path);
    fake_device d = {.driver_version = 13000, .n_devices = 1, .arch = 90, .total = MIB(256), .free_at_start = MIB(250)};
    device_rig r;
    em_error err = {""};
    fake_reset();
    d.pinned_limit = MIB(1); /* not even the ring of the upload */
    fake_set_device(&d);
    ck_assert_int_eq(rig_open(&r, &o, &err), -ENOMEM);
    ck_assert_ptr_nonnull(strstr(err.text, "cannot be page-locked"));
    nothing_left("pinning");
    d.pinned_limit = 0;
    fake_set_device(&d);
    open_or_fail(&r, &o);
    fake_live before = fake_get_live();
    d.pinned_limit = before.pinned_bytes + MIB(1) * 1024 + 4096; /* the first of its pieces fits, the second does not */
    fake_set_device(&d);
    em_backend *be = &r.cuda->base;
    ck_assert_ptr_null(be->mem.alloc(be->mem.ctx, MIB(1) * 1024 + 8192));
    ck_assert_ptr_nonnull(strstr(be->mem_error.text, "--engram-tier mmap"));
    ck_assert_uint_eq(fake_get_live().pinned_bytes, before.pinned_bytes);
    void *p = be->mem.alloc(be->mem.ctx, MIB(1));
    ck_assert_ptr_nonnull(p);
    ck_assert_uint_eq((uintptr_t)p % 64, 0);
    be->mem.free(be->mem.ctx, p, MIB(1));
    rig_close(&r);
    nothing_left("pinning");
}
END_TEST

/* --- devices ---------------------------------------------------------------------------------------------------- */

static const struct {
    fake_device device;
    const char *says;
} useless[] = {
    {{.driver_version = 0, .n_devices = 0}, "no NVIDIA driver"},
    {{.driver_version = 12040, .n_devices = 1, .arch = 90}, "too old: it knows CUDA 12.4"},
    {{.driver_version = 13000, .n_devices = 0}, "no NVIDIA GPU"},
    {{.driver_version = 13000, .n_devices = 1, .arch = 75}, "compute capability 7.5; 8.0 or newer"},
};

START_TEST(useless_devices)
{
    em_device_info info = {.arch = -1};
    em_error err = {""};
    fake_reset();
    fake_set_device(&useless[_i].device);
    ck_assert_int_eq(em_backend_module_1()->probe(&info, &err), -ENODEV);
    ck_assert_msg(strstr(err.text, useless[_i].says) != NULL, "%s", err.text);
    ck_assert_int_eq(info.arch, -1);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cuda-backend");
    TCase *tc = tcase_create("host code");
    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, any_order_same_bits, 0, 2);
    tcase_add_test(tc, graphs_are_used);
#ifndef __SANITIZE_ADDRESS__
    tcase_add_test(tc, host_stays_out);
#endif
    tcase_add_test(tc, opening_fails);
    tcase_add_test(tc, steps_fail);
    tcase_add_loop_test(tc, copies_fail, 0, 2);
    tcase_add_loop_test(tc, abandoned_step, 0, 2);
    tcase_add_test(tc, experts_on_the_host);
    tcase_add_test(tc, plans);
    tcase_add_test(tc, pinning_refused);
    tcase_add_loop_test(tc, useless_devices, 0, (int)(sizeof(useless) / sizeof(*useless)));
    suite_add_tcase(s, tc);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
