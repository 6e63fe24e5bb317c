/* The stand-in itself: streams and events keep their order in every mode, graphs their edges; faults come where they were
 * planted; what real programs must not do ends them. */
#include <check.h>
#include <cuda_runtime_api.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cuda/runtime/fake.h"
#include "tests/cuda/runtime/launch.h"

#define OK(call) ck_assert_int_eq(call, cudaSuccess)

static const struct {
    fake_order order;
    uint64_t seed;
} orders[] = {{FAKE_EAGER, 0}, {FAKE_LAZY, 0}, {FAKE_RANDOM, 1}, {FAKE_RANDOM, 2}, {FAKE_RANDOM, 3}, {FAKE_RANDOM, 4}};
#define N_ORDERS ((int)(sizeof(orders) / sizeof(*orders)))

static void set(int i)
{
    fake_reset();
    fake_set_order(orders[i].order, orders[i].seed);
}

static cudaStream_t new_stream(void)
{
    cudaStream_t s;
    OK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    return s;
}

static cudaEvent_t new_event(void)
{
    cudaEvent_t e;
    OK(cudaEventCreateWithFlags(&e, cudaEventDisableTiming));
    return e;
}

/* A launch that appends a letter to a text on the device. */
typedef struct append {
    char *text;
    char letter;
} append;

static void run_append(void *ctx)
{
    append *a = ctx;
    size_t n = strlen(a->text);
    a->text[n] = a->letter;
    a->text[n + 1] = '\0';
}

static cudaError_t launch(cudaStream_t s, char *text, char letter)
{
    append *a = malloc(sizeof(*a));
    *a = (append){text, letter};
    return em_fake_launch(s, run_append, free, a);
}

/* Two streams that take turns: only events say who comes next. */
START_TEST(turns)
{
    set(_i);
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t ea = new_event(), eb = new_event();
    char *text, *host;
    OK(cudaMalloc((void **)&text, 64));
    OK(cudaHostAlloc((void **)&host, 64, cudaHostAllocDefault));
    OK(cudaMemsetAsync(text, 0, 64, a));
    for (int i = 0; i < 8; i++) {
        OK(launch(a, text, (char)('a' + 2 * i)));
        OK(cudaEventRecord(ea, a));
        OK(cudaStreamWaitEvent(b, ea, 0));
        OK(launch(b, text, (char)('b' + 2 * i)));
        OK(cudaEventRecord(eb, b));
        OK(cudaStreamWaitEvent(a, eb, 0));
    }
    OK(cudaMemcpyAsync(host, text, 64, cudaMemcpyDeviceToHost, a));
    OK(cudaStreamSynchronize(a));
    ck_assert_str_eq(host, "abcdefghijklmnop");
    ck_assert_int_eq(fake_get_counts().launches, 16);
    OK(cudaFree(text));
    OK(cudaFreeHost(host));
    cudaEventDestroy(ea);
    cudaEventDestroy(eb);
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    fake_reset();
}
END_TEST

/* Records "ab" on the stream and "x" on another between fork and join; then "c". */
static cudaGraphExec_t record(cudaStream_t a, cudaStream_t b, char *text, char *other, bool join, cudaError_t *ret)
{
    cudaEvent_t fork = new_event(), joined = new_event();
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    OK(cudaStreamBeginCapture(a, cudaStreamCaptureModeThreadLocal));
    OK(launch(a, text, 'a'));
    OK(cudaEventRecord(fork, a));
    OK(cudaStreamWaitEvent(b, fork, 0));
    OK(launch(b, other, 'x'));
    OK(launch(a, text, 'b'));
    OK(cudaEventRecord(joined, b));
    if (join)
        OK(cudaStreamWaitEvent(a, joined, 0));
    OK(launch(a, text, 'c'));
    *ret = cudaStreamEndCapture(a, &graph);
    if (*ret == cudaSuccess) {
        OK(cudaGraphInstantiate(&exec, graph, 0));
        OK(cudaGraphDestroy(graph));
    }
    cudaEventDestroy(fork);
    cudaEventDestroy(joined);
    return exec;
}

START_TEST(graphs)
{
    set(_i);
    cudaStream_t a = new_stream(), b = new_stream();
    cudaError_t r;
    char *text, *host;
    OK(cudaMalloc((void **)&text, 128));
    OK(cudaHostAlloc((void **)&host, 128, cudaHostAllocDefault));
    OK(cudaMemsetAsync(text, 0, 128, a));
    cudaGraphExec_t exec = record(a, b, text, text + 64, true, &r);
    OK(r);
    for (int i = 0; i < 3; i++)
        OK(cudaGraphLaunch(exec, a));
    OK(cudaMemcpyAsync(host, text, 128, cudaMemcpyDeviceToHost, a));
    OK(cudaStreamSynchronize(a));
    ck_assert_str_eq(host, "abcabcabc");
    ck_assert_str_eq(host + 64, "xxx");
    OK(cudaGraphExecDestroy(exec));
    record(a, b, text, text + 64, false, &r);
    ck_assert_int_eq(r, cudaErrorStreamCaptureUnjoined);
    OK(cudaFree(text));
    OK(cudaFreeHost(host));
    cudaStreamDestroy(a);
    cudaStreamDestroy(b);
    fake_reset();
}
END_TEST

/* The host reads too early: lazy streams show it. */
START_TEST(lazy_shows_a_missing_wait)
{
    set(1);
    cudaStream_t s = new_stream();
    char *text, *host;
    OK(cudaMalloc((void **)&text, 16));
    OK(cudaHostAlloc((void **)&host, 16, cudaHostAllocDefault));
    memset(host, 'h', 16);
    OK(cudaMemsetAsync(text, 'd', 16, s));
    OK(cudaMemcpyAsync(host, text, 16, cudaMemcpyDeviceToHost, s));
    ck_assert_int_eq(host[0], 'h');
    OK(cudaStreamSynchronize(s));
    ck_assert_int_eq(host[0], 'd');
    OK(cudaFree(text));
    OK(cudaFreeHost(host));
    cudaStreamDestroy(s);
    fake_reset();
}
END_TEST

START_TEST(faults)
{
    set(0);
    cudaStream_t s = new_stream();
    void *p = NULL;
    int64_t before = fake_calls();
    fake_fail_at(2);
    OK(cudaMalloc(&p, 16));
    ck_assert_int_eq(cudaMemsetAsync(p, 0, 16, s), cudaErrorInvalidValue);
    ck_assert_str_eq(fake_failed_call(), "cudaMemsetAsync");
    ck_assert_int_eq(cudaGetLastError(), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    OK(cudaMemsetAsync(p, 0, 16, s));
    ck_assert_int_eq(fake_calls() - before, 3);
    fake_fail_at(1);
    ck_assert_int_eq(cudaMalloc(&p, 16), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMalloc(&p, (size_t)1 << 40), cudaErrorMemoryAllocation);
    ck_assert_int_eq(fake_get_live().device, 1);
    OK(cudaFree(p));
    cudaStreamDestroy(s);
    fake_reset();
}
END_TEST

/* Each of these ends the program. */
START_TEST(misuse)
{
    set(0);
    cudaStream_t s = new_stream();
    char plain[16], *p, *host;
    OK(cudaMalloc((void **)&p, 16));
    OK(cudaHostAlloc((void **)&host, 16, cudaHostAllocDefault));
    switch (_i) {
    case 0: cudaMemcpyAsync(p, plain, 16, cudaMemcpyHostToDevice, s); break;
    case 1: cudaMemcpyAsync(p + 1, host, 16, cudaMemcpyHostToDevice, s); break;
    case 2: cudaMemsetAsync(p, 0, 16, NULL); break;
    case 3: cudaFree(p + 1); break;
    case 4: cudaFreeHost(plain); break;
    case 5:
        cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal);
        cudaStreamSynchronize(s);
        break;
    case 6: fake_reset(); break;
    }
}
END_TEST

/* Device memory while no work runs. */
START_TEST(protected)
{
    fake_reset();
    fake_set_protect(true);
    char *p;
    OK(cudaMalloc((void **)&p, 16));
    p[0] = 1;
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuda-runtime");
    TCase *tc = tcase_create("stand-in");
    tcase_add_loop_test(tc, turns, 0, N_ORDERS);
    tcase_add_loop_test(tc, graphs, 0, N_ORDERS);
    tcase_add_test(tc, lazy_shows_a_missing_wait);
    tcase_add_test(tc, faults);
    tcase_add_loop_test_raise_signal(tc, misuse, SIGABRT, 0, 7);
#ifndef __SANITIZE_ADDRESS__
    tcase_add_test_raise_signal(tc, protected, SIGSEGV);
#endif
    suite_add_tcase(suite, tc);
    SRunner *sr = srunner_create(suite);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed ? 1 : 0;
}
