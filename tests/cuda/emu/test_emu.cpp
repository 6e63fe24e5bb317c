/* The emulator itself: right kernels give right results in every order, wrong ones are reported. */
#include "tests/cuda/emu/emu.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/cuda/compat.cuh"
#include "engine/cuda/reduce.cuh"

enum { N = 96 };

struct args {
    float *out;
    unsigned *count;
    int fault;
};

enum fault {
    NONE,
    NO_BARRIER,
    BARRIER_IN_BRANCH,
    TWO_BARRIERS,
    EARLY_RETURN,
    WRONG_MASK,
    LANE_GONE,
    TOO_MUCH,
    UNWRITTEN
};

/* Reverses a block's numbers through shared memory, and adds them up. */
static __global__ void reverse(const args a)
{
    SHARED(float, turn, [N]);
    unsigned t = threadIdx.x, i = blockIdx.x * N + t;
    if (a.fault == EARLY_RETURN && t == 5)
        return;
    turn[t] = (float)i;
    if (a.fault == BARRIER_IN_BRANCH) {
        if (t < WARP)
            __syncthreads();
    } else if (a.fault == TWO_BARRIERS && t % 2) {
        __syncthreads();
    } else if (a.fault != NO_BARRIER) {
        __syncthreads();
    }
    a.out[i] = turn[N - 1 - t];
    float sum = block_sum((float)t);
    if (t == 0)
        atomicAdd(a.count, (unsigned)sum);
}

/* Every lane's number from the next one. */
static __global__ void rotate(const args a)
{
    unsigned t = threadIdx.x;
    if (a.fault == LANE_GONE && t == 3)
        return;
    float got = __shfl_sync(a.fault == WRONG_MASK ? 0xffffu : ALL_LANES, (float)t, (lane_id() + 1) % WARP);
    float many[4] = {1, (float)lane_id(), 3, 4};
    float sum = warp_sums<4>(many);
    a.out[blockIdx.x * N + t] = got + sum;
}

static __global__ void greedy(const args a)
{
    SHARED(float, huge, [64 * 1024]);
    huge[threadIdx.x] = 1.0f;
    a.out[threadIdx.x] = huge[threadIdx.x];
}

static __global__ void unwritten(const args a)
{
    SHARED(float, never, [N]);
    a.out[blockIdx.x * N + threadIdx.x] = never[threadIdx.x];
}

static int n_failed;

static void expect(bool ok, const char *what)
{
    if (ok)
        return;
    printf("FAILED: %s\n", what);
    n_failed++;
}

enum { BLOCKS = 7 };

static bool reversed(const float *out)
{
    for (int i = 0; i < BLOCKS * N; i++)
        if (out[i] != (float)(i / N * N + N - 1 - i % N))
            return false;
    return true;
}

static bool rotated(const float *out)
{
    static const float sums[4] = {32, 496, 96, 128};
    for (int i = 0; i < BLOCKS * N; i++) {
        int t = i % N, next = t / WARP * WARP + (t + 1) % WARP;
        if (out[i] != (float)next + sums[t % WARP / 8])
            return false;
    }
    return true;
}

static void check_orders()
{
    static float out[BLOCKS * N];
    unsigned count;
    args a = {out, &count, NONE};
    for (int seed = 0; seed < 12; seed++) {
        emu_set_order(seed == 0 ? EMU_ASC : seed == 1 ? EMU_DESC : EMU_RAND, (uint64_t)seed);
        count = 0;
        expect(LAUNCH(reverse, BLOCKS, N, 0, NULL, a) == 0, "launch");
        expect(reversed(out), "reversing in shared memory");
        expect(count == BLOCKS * N * (N - 1) / 2, "sums over blocks, added atomically");
        expect(LAUNCH(rotate, BLOCKS, N, 0, NULL, a) == 0, "launch");
        expect(rotated(out), "shuffles");
    }
    expect(LAUNCH(unwritten, 1, N, 0, NULL, a) == 0 && out[5] != out[5], "shared memory begins as NaN");
    expect(LAUNCH(reverse, dim3(1, 70000), N, 0, NULL, a) != 0, "a grid that no device takes");
    expect(LAUNCH(reverse, 1, 2048, 0, NULL, a) != 0, "a block that no device takes");
}

/* Whether the fault ends the program with a report, in a process of its own. */
static bool aborts(void (*kernel)(args), int fault)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        static float out[BLOCKS * N];
        unsigned count = 0;
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        args a = {out, &count, fault};
        int r = LAUNCH(kernel, BLOCKS, N, 0, NULL, a);
        _exit(r != 0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* A missing barrier is a wrong result in some order. */
static bool wrong_somewhere()
{
    static float out[BLOCKS * N];
    unsigned count = 0;
    args a = {out, &count, NO_BARRIER};
    for (int o = EMU_ASC; o <= EMU_RAND; o++) {
        emu_set_order((emu_order)o, 3);
        if (LAUNCH(reverse, BLOCKS, N, 0, NULL, a) != 0 || !reversed(out))
            return true;
    }
    return false;
}

int main()
{
    check_orders();
    expect(!aborts(reverse, NONE), "a right kernel ends well");
    expect(aborts(reverse, BARRIER_IN_BRANCH), "a barrier that some threads do not reach");
    expect(aborts(reverse, TWO_BARRIERS), "threads at two different barriers");
    expect(aborts(reverse, EARLY_RETURN), "a thread returns before a barrier");
    expect(aborts(rotate, WRONG_MASK), "a mask without the caller");
    expect(aborts(rotate, LANE_GONE), "a shuffle with a lane that has returned");
    expect(aborts(greedy, TOO_MUCH), "too much shared memory");
    expect(wrong_somewhere(), "a missing barrier");
    printf("%d failed\n", n_failed);
    return n_failed != 0;
}
