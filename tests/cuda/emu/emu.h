/* The CUDA execution model on the CPU: this header stands in for the language when a .cu file is compiled as C++. It
 * comes first, before any other header.
 *
 * What there is: grids of one- to three-dimensional blocks of one-dimensional thread blocks (whole warps, at most 1024
 * threads), __shared__ memory of exact size that begins as NaN, __syncthreads, warp shuffles and votes, integer atomics,
 * the vector types and intrinsics below. Kernels take one argument, a struct.
 *
 * What is reported, with the place, before the program aborts: barriers that not all threads reach or reach at
 * different places, warp operations of lanes that disagree, deadlocks, too much shared memory, and what the sanitizers
 * see. Not modelled: the memory model of the device (threads switch only at barriers, warp operations and, in random
 * order, atomics), its rounding of expf and its kin, one block waiting for another, wgmma, TMA, clusters. */
#ifndef EM_TESTS_CUDA_EMU_EMU_H
#define EM_TESTS_CUDA_EMU_EMU_H

#define EM_CUDA_EMU 1

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "tests/cuda/emu/grid.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __restrict__ __restrict
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

/* ---- what the runtime part (emu.cpp) gives ---- */

/* One CUDA thread, as far as kernels may look. */
struct emu_thread {
    dim3 thread, block;
    unsigned lane, warp;
};
extern emu_thread *emu_cur; /* NULL outside of kernels */
extern dim3 emu_grid_dim, emu_block_dim;

#define threadIdx (emu_cur->thread)
#define blockIdx (emu_cur->block)
#define gridDim emu_grid_dim
#define blockDim emu_block_dim
#define warpSize 32

struct emu_place {
    const char *file;
    int line;
};
#define EMU_HERE (emu_place{__FILE__, __LINE__})

enum { EMU_SLOT = 16 }; /* bytes that a lane may give to the others at a time */

void emu_barrier(emu_place at);
/* Waits for all lanes of the mask; returns their values, [32][EMU_SLOT]. */
const unsigned char (*emu_exchange(unsigned mask, const void *value, unsigned size, emu_place at))[EMU_SLOT];
void *emu_shared(const void *token, unsigned long size, emu_place at);
void *emu_dynamic_shared(void);
void emu_maybe_switch(void); /* in random order: somebody else may go first */
[[noreturn]] void emu_fail(emu_place at, const char *what);
/* Copies args. */
int emu_launch(void (*call)(void (*kernel)(), const void *args), void (*kernel)(), const char *name, dim3 grid,
               unsigned block, unsigned long shared, void *stream, const void *args, unsigned long args_size);

/* ---- the five macros of engine/cuda/compat.cuh ---- */

template <class A> static void emu_call(void (*kernel)(), const void *args)
{
    A copy = *(const A *)args; /* each thread has its own parameters */
    ((void (*)(A))kernel)(copy);
}

template <class A>
static int emu_launch_typed(void (*kernel)(A), const char *name, dim3 grid, unsigned block, unsigned long shared,
                            void *stream, const A &args)
{
    return emu_launch(emu_call<A>, (void (*)())kernel, name, grid, block, shared, stream, &args, sizeof args);
}

#define LAUNCH(kernel, grid, block, smem, stream, args)                                                                \
    emu_launch_typed(kernel, #kernel, grid, block, smem, stream, args)
#define SHARED(type, name, dims)                                                                                       \
    static char name##_token;                                                                                          \
    using name##_type = type dims;                                                                                     \
    name##_type &name = *(name##_type *)emu_shared(&name##_token, sizeof(name##_type), EMU_HERE)
#define DYN_SHARED(type, name) type *name = (type *)emu_dynamic_shared()
#define __syncthreads() emu_barrier(EMU_HERE)

/* ---- warp operations ---- */

template <class T> static inline T emu_read_lane(const unsigned char (*slots)[EMU_SLOT], unsigned lane)
{
    T v;
    memcpy(&v, slots[lane], sizeof v);
    return v;
}

template <class T> static inline T emu_shfl(unsigned mask, T v, unsigned from, emu_place at)
{
    static_assert(sizeof(T) <= EMU_SLOT, "too wide for a shuffle");
    const unsigned char(*slots)[EMU_SLOT] = emu_exchange(mask, &v, sizeof v, at);
    if (!(mask >> (from & 31) & 1))
        emu_fail(at, "a shuffle reads a lane that its mask leaves out");
    return emu_read_lane<T>(slots, from & 31);
}

static inline unsigned emu_ballot(unsigned mask, bool yes, emu_place at)
{
    unsigned char v = yes;
    unsigned votes = 0;
    const unsigned char(*slots)[EMU_SLOT] = emu_exchange(mask, &v, 1, at);
    for (unsigned i = 0; i < 32; i++)
        if (mask >> i & 1)
            votes |= (unsigned)slots[i][0] << i;
    return votes;
}

#define __shfl_sync(mask, v, from) emu_shfl(mask, v, (unsigned)(from), EMU_HERE)
#define __shfl_xor_sync(mask, v, bits) emu_shfl(mask, v, emu_cur->lane ^ (unsigned)(bits), EMU_HERE)
/* As on the device, a lane without a neighbour so far away reads its own value. */
#define __shfl_up_sync(mask, v, by)                                                                                    \
    emu_shfl(mask, v, emu_cur->lane >= (unsigned)(by) ? emu_cur->lane - (unsigned)(by) : emu_cur->lane, EMU_HERE)
#define __ballot_sync(mask, yes) emu_ballot(mask, yes, EMU_HERE)
#define __any_sync(mask, yes) (emu_ballot(mask, yes, EMU_HERE) != 0)
#define __syncwarp(...) ((void)emu_ballot(0xffffffffu, false, EMU_HERE))

/* ---- intrinsics ---- */

static inline unsigned __float_as_uint(float v)
{
    unsigned u;
    memcpy(&u, &v, sizeof u);
    return u;
}

static inline float __uint_as_float(unsigned u)
{
    float v;
    memcpy(&v, &u, sizeof v);
    return v;
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

static inline int __popc(unsigned v)
{
    return __builtin_popcount(v);
}

template <class T> static inline T emu_atomic_add(T *p, T v)
{
    emu_maybe_switch();
    T old = *p;
    *p = (T)(old + v);
    return old;
}

static inline unsigned atomicAdd(unsigned *p, unsigned v)
{
    return emu_atomic_add(p, v);
}

static inline int atomicAdd(int *p, int v)
{
    return emu_atomic_add(p, v);
}

static inline unsigned long long atomicOr(unsigned long long *p, unsigned long long v)
{
    emu_maybe_switch();
    unsigned long long old = *p;
    *p = old | v;
    return old;
}

template <class T> static inline T min(T a, T b)
{
    return b < a ? b : a;
}

template <class T> static inline T max(T a, T b)
{
    return a < b ? b : a;
}

#endif
