/* Where the kernel emulator meets the stand-in for the CUDA runtime: a launch is work on a stream.
 *
 * The emulator hands over what a launch is: run(ctx) executes the whole grid, now or later and, inside a graph, as
 * often as the graph is launched; drop(ctx) frees ctx, exactly once, after the last run, also when nothing ever ran.
 * Programs that test kernels alone do without the runtime: there the symbol is missing (it is declared weak for that
 * reason) and the emulator runs the grid at once, then drops it. */
#ifndef EM_TESTS_CUDA_LAUNCH_H
#define EM_TESTS_CUDA_LAUNCH_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* 0, or the error that was planted for this call: then ctx has been dropped and cudaGetLastError tells it again. */
__attribute__((weak)) cudaError_t em_fake_launch(cudaStream_t stream, void (*run)(void *ctx), void (*drop)(void *ctx),
                                                 void *ctx);

#ifdef __cplusplus
}
#endif
#endif
