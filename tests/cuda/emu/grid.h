/* The CUDA emulator as the programs that use it see it (C and C++); the kernels see emu.h. A launch goes to the
 * stand-in for the runtime where the program has it (tests/cuda/runtime/launch.h), else it runs at once. */
#ifndef EM_TESTS_CUDA_EMU_GRID_H
#define EM_TESTS_CUDA_EMU_GRID_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In which order threads and blocks run. Results must not depend on it. */
typedef enum emu_order {
    EMU_ASC,  /* threads in turn, blocks upward */
    EMU_DESC, /* the thread that became ready last goes first, blocks downward */
    EMU_RAND, /* both at random */
} emu_order;
void emu_set_order(emu_order order, uint64_t seed);

/* Grids run so far. */
uint64_t emu_grids_run(void);

#ifdef __cplusplus
}
#endif
#endif
