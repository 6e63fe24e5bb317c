/* The AVX2 tier. */
#include "engine/cpu/tiers.h"

void em_kernels_init_avx2(em_kernels *k)
{
    k->name = "avx2";
}
