/* What a kernel source needs besides the language, so that it also compiles as C++ for the emulator of tests/cuda/emu,
 * which brings its own versions of these macros and comes first.
 *
 * LAUNCH(kernel, grid, block, smem, stream, args): a kernel takes one struct; a template's name stands in parentheses.
 * Its value is the error code of the launch.
 * SHARED(float, red, [32]): static shared memory. DYN_SHARED(float, tile): the dynamic one, as a pointer. */
#ifndef EM_CUDA_COMPAT_CUH
#define EM_CUDA_COMPAT_CUH

#ifndef EM_CUDA_EMU

#include <cuda_runtime.h>

#define LAUNCH(kernel, grid, block, smem, stream, args)                                                                \
    (kernel<<<grid, block, smem, stream>>>(args), (int)cudaGetLastError())
#define SHARED(type, name, dims) __shared__ __align__(16) type name dims
#define DYN_SHARED(type, name)                                                                                         \
    extern __shared__ __align__(16) unsigned char em_dyn_shared[];                                                     \
    type *name = reinterpret_cast<type *>(em_dyn_shared)

#endif

/* Threads of a warp, all of which take part in every warp operation here. */
#define WARP 32
#define ALL_LANES 0xffffffffu

static inline __device__ unsigned lane_id()
{
    return threadIdx.x % WARP;
}

static inline __device__ unsigned warp_id()
{
    return threadIdx.x / WARP;
}

/* The thread's number in the whole grid, for kernels with one thread per element. */
static inline __device__ long long global_thread()
{
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

static inline unsigned blocks_for(long long n, long long per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

#endif
