/* What the files of all vector tiers need. Only files compiled with a tier's flags include this. */
#ifndef EM_CPU_SIMD_H
#define EM_CPU_SIMD_H

#include <immintrin.h>

#define EM_INLINE static inline __attribute__((always_inline))

#endif
