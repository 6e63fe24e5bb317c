/* The AVX-512 tier. */
#include "engine/cpu/tiers.h"

void em_kernels_init_avx512(em_kernels *k)
{
    k->name = "avx512";
}
